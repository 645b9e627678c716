//! How fast transactions leave the pool, or a source: additive increase, multiplicative decrease.
//!
//! ```text
//!  free ──pressure──▶ half of what was pulled ──pressure, an interval later──▶ half of that ─▶ … min
//!    ▲                       │
//!    └── at `max` ◀── + increase, each interval without pressure
//! ```
//!
//! Invariants: without pressure, and without pressure lately, nothing is limited; with it, never
//! less than `min` a second may leave, so what was accepted always moves on. Whoever pulls nothing
//! spends nothing and is not woken for it. The same inputs give the same answers: time is an
//! argument, and arithmetic is whole numbers.
//!
//! It does not decide what pressure is ([`super::pressure`]).

use std::time::Duration;

use crate::config::PullRateConfig;

/// Credit is kept in millionths of a transaction: one microsecond at one transaction a second.
const MICRO: u64 = 1_000_000;
/// Credit that is not used is kept for this part of a second.
const BURST_SHARE: u64 = 8;

/// See the module docs.
#[derive(Debug)]
pub(super) struct PullRate {
    config: PullRateConfig,
    /// What should be pulled at once, rather than one by one: the age at which a batch is sealed.
    batch_age: Duration,
    /// Transactions a second; `None`: not limited.
    limit: Option<u64>,
    /// When the rate was last looked at: it changes once per interval.
    changed: Duration,
    /// Millionths of a transaction that may be pulled, and when that was brought up to date.
    credit: u64,
    credited: Duration,
    /// Pulled since the start of the present interval, and in the one before.
    pulled: u64,
    pulled_before: u64,
    interval_began: Duration,
}

impl PullRate {
    pub fn new(config: PullRateConfig, batch_age: Duration) -> Self {
        Self {
            config,
            batch_age,
            limit: None,
            changed: Duration::ZERO,
            credit: 0,
            credited: Duration::ZERO,
            pulled: 0,
            pulled_before: 0,
            interval_began: Duration::ZERO,
        }
    }

    /// Tells whether there is pressure; call it with every step, it looks once per interval.
    pub fn on_pressure(&mut self, now: Duration, pressed: bool) {
        self.roll(now);
        self.credit(now);
        let Some(limit) = self.limit else {
            if pressed {
                // The first decrease starts from what really left: a bound far above it would be
                // felt by nobody for many intervals.
                let measured = self.measured();
                let from = if measured == 0 { self.config.max } else { measured };
                self.limit = Some(self.decreased(from.min(self.config.max)));
                self.changed = now;
                self.credited = now;
                self.credit = 0;
            }
            return;
        };
        if now < self.changed + self.config.interval {
            return;
        }
        self.changed = now;
        self.limit = if pressed {
            Some(self.decreased(limit))
        } else {
            // At the top nothing is limited any more.
            let raised = limit.saturating_add(self.config.increase);
            Some(raised).filter(|raised| *raised < self.config.max)
        };
    }

    fn decreased(&self, rate: u64) -> u64 {
        // At most 10^9 x 99: no overflow.
        (rate * u64::from(self.config.decrease_percent) / 100).max(self.config.min)
    }

    /// How many transactions may leave now.
    pub fn allowance(&mut self, now: Duration) -> u64 {
        if self.limit.is_none() {
            return u64::MAX;
        }
        self.credit(now);
        self.credit / MICRO
    }

    /// True if it is worth pulling now: as many may leave as wait, or as make up one pull.
    pub fn is_due(&mut self, now: Duration, waiting: u64) -> bool {
        self.allowance(now) >= self.worthwhile(waiting)
    }

    /// So many left. Nothing pulled is nothing spent.
    pub fn on_pulled(&mut self, now: Duration, count: u64) {
        self.roll(now);
        self.pulled = self.pulled.saturating_add(count);
        if self.limit.is_some() {
            self.credit = self.credit.saturating_sub(count.saturating_mul(MICRO));
        }
    }

    /// When [`Self::is_due`] will be true; `None` if it is already, as far as the rate is concerned.
    pub fn next_deadline(&self, waiting: u64) -> Option<Duration> {
        let limit = self.limit?;
        let missing = (self.worthwhile(waiting) * MICRO).checked_sub(self.credit)?;
        Some(self.credited + Duration::from_micros(missing.div_ceil(limit)))
    }

    /// Transactions a second; `None` while nothing is limited.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// What one pull should bring: of what waits, as much as the rate gives in the age of a batch.
    fn worthwhile(&self, waiting: u64) -> u64 {
        let Some(limit) = self.limit else { return 0 };
        let micros = u64::try_from(self.batch_age.as_micros()).unwrap_or(MICRO).min(MICRO);
        let share = (limit * micros / MICRO).min(limit / BURST_SHARE);
        waiting.min(share).max(1)
    }

    /// Brings the credit up to date, in whole microseconds so that no part of one is lost however
    /// often this is called.
    fn credit(&mut self, now: Duration) {
        let Some(limit) = self.limit else { return };
        let elapsed = now.saturating_sub(self.credited).as_micros();
        // A second is more than the burst holds; and 10^9 x 10^6 is within the type.
        let micros = u64::try_from(elapsed).unwrap_or(MICRO);
        self.credited += Duration::from_micros(micros);
        let burst = (limit / BURST_SHARE).max(1) * MICRO;
        self.credit = self.credit.saturating_add(limit * micros.min(MICRO)).min(burst);
    }

    /// Starts a new interval of measurement when the present one is over.
    fn roll(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.interval_began);
        if elapsed >= self.config.interval {
            let one = elapsed < self.config.interval * 2;
            self.pulled_before = if one { self.pulled } else { 0 };
            self.pulled = 0;
            self.interval_began = now;
        }
    }

    /// Transactions a second that left lately.
    fn measured(&self) -> u64 {
        let millis = self.config.interval.as_millis() as u64;
        self.pulled_before.max(self.pulled).saturating_mul(1000) / millis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn rate() -> PullRate {
        PullRate::new(PullRateConfig::default(), 20 * MS)
    }

    #[test]
    fn without_pressure_nothing_is_limited_however_much_is_pulled() {
        let mut rate = rate();
        for step in 0..10_000 {
            let now = step * MS;
            rate.on_pressure(now, false);
            assert_eq!(rate.allowance(now), u64::MAX);
            assert!(rate.is_due(now, 1 << 40));
            assert_eq!(rate.next_deadline(1 << 40), None);
            rate.on_pulled(now, 1 << 30);
        }
    }

    #[test]
    fn pressure_halves_what_was_pulled_once_per_interval_down_to_the_least() {
        let mut rate = rate();
        for step in 0..2000 {
            rate.on_pressure(step * MS, false);
            rate.on_pulled(step * MS, 40);
        }
        let mut seen = Vec::new();
        for step in 2000..10_000 {
            rate.on_pressure(step * MS, true);
            seen.push(rate.limit().unwrap());
        }
        seen.dedup();
        assert_eq!(seen, [20_000, 10_000, 5000, 2500, 1250, 625, 500]);
    }

    #[test]
    fn it_rises_by_the_same_amount_and_then_nothing_is_limited() {
        let mut rate = rate();
        for step in 0..20_000 {
            rate.on_pressure(step * MS, true);
        }
        assert_eq!(rate.limit(), Some(500));
        let mut seen = Vec::new();
        for step in 20_000..31_000 {
            rate.on_pressure(step * MS, false);
            seen.push(rate.limit());
        }
        seen.dedup();
        let mut expected: Vec<_> = (1..10).map(|n| Some(500 + n * 20_000)).collect();
        expected.push(None);
        assert_eq!(seen, expected);
        assert_eq!(rate.allowance(31_000 * MS), u64::MAX);
    }

    /// Pulls whatever is allowed, as often as it is worth it; returns how many left in ten seconds.
    fn pulled(rate: &mut PullRate, from: Duration, step: Duration) -> u64 {
        let (mut total, mut now) = (0, from);
        while now < from + 10 * SECOND {
            if rate.is_due(now, u64::MAX >> 20) {
                let count = rate.allowance(now);
                rate.on_pulled(now, count);
                total += count;
            }
            now += step;
        }
        total
    }

    #[test]
    fn as_many_leave_as_the_rate_says_however_often_it_is_asked() {
        // The first two are minutes for an interpreter.
        let passed_over = if cfg!(miri) { 2 } else { 0 };
        let steps = [Duration::from_nanos(33_333), MS, 7 * MS, 90 * MS];
        for step in steps.into_iter().skip(passed_over) {
            let mut rate = rate();
            rate.limit = Some(1000);
            let total = pulled(&mut rate, Duration::ZERO, step);
            assert!((9_800..=10_125).contains(&total), "{total} at {step:?}");
        }
    }

    #[test]
    fn an_idle_time_is_saved_up_for_a_moment_only() {
        let mut rate = rate();
        rate.limit = Some(8000);
        assert_eq!(rate.allowance(Duration::from_hours(10)), 1000);
    }

    #[test]
    fn what_waits_leaves_at_the_deadline_and_an_empty_pull_changes_nothing() {
        let mut rate = rate();
        rate.limit = Some(500);
        for waiting in [1, 3, 10, 100_000] {
            let now = rate.credited;
            rate.credit = 0;
            assert!(!rate.is_due(now, waiting));
            let due = rate.next_deadline(waiting).unwrap();
            assert!(due > now, "{waiting}: it would be asked again at once");
            assert!(!rate.is_due(due.saturating_sub(Duration::from_micros(1)), waiting));
            assert!(rate.is_due(due, waiting), "{waiting} at {due:?}");
            let before = (rate.credit, rate.credited);
            rate.on_pulled(due, 0);
            assert_eq!((rate.credit, rate.credited), before);
            assert!(rate.is_due(due, waiting), "still worth it");
        }
    }

    #[test]
    fn the_least_rate_moves_everything_on() {
        let config = PullRateConfig { min: 1, max: 2, increase: 1, ..PullRateConfig::default() };
        let mut rate = PullRate::new(config, MS);
        rate.on_pressure(Duration::ZERO, true);
        assert_eq!(rate.limit(), Some(1));
        let due = rate.next_deadline(1).unwrap();
        assert_eq!(due, SECOND);
        assert_eq!(rate.allowance(due), 1);
    }

    #[test]
    fn one_pull_brings_what_waits_or_what_the_rate_gives_in_the_age_of_a_batch() {
        let due = |limit, batch_age, waiting| {
            let mut rate = PullRate::new(PullRateConfig::default(), batch_age);
            rate.limit = Some(limit);
            rate.next_deadline(waiting).unwrap()
        };
        assert_eq!(due(8000, 20 * MS, 100_000), 20 * MS);
        assert_eq!(due(8000, 20 * MS, 8), MS, "no more than waits");
        assert_eq!(due(8000, 20 * MS, 0), MS / 8, "one at least");
        assert_eq!(due(10, 20 * MS, 100_000), 100 * MS, "one at least");
        assert_eq!(due(8000, SECOND, 100_000), 125 * MS, "no more than is saved up");
        assert_eq!(due(3, 20 * MS, 1), Duration::from_micros(333_334), "not a moment too early");
    }

    #[test]
    fn what_was_pulled_is_spent_and_counts_for_two_intervals() {
        let mut rate = rate();
        rate.limit = Some(8000);
        let now = 100 * MS;
        assert_eq!(rate.allowance(now), 800);
        rate.on_pulled(now, 300);
        assert_eq!(rate.allowance(now), 500);
        rate.on_pulled(now, 501);
        assert_eq!(rate.allowance(now), 0);
        // The first decrease starts from what left in the interval before, or in the present one.
        let interval = PullRateConfig::default().interval;
        let per_second = |count: u64| count * 1000 / interval.as_millis() as u64;
        let limit = |pulls: &[(u32, u64)], pressed: u32| {
            let mut rate = self::rate();
            for (quarter, count) in pulls {
                rate.on_pulled(interval * *quarter / 4, *count);
            }
            rate.on_pressure(interval * pressed / 4, true);
            rate.limit().unwrap()
        };
        assert_eq!(limit(&[(0, 50_000), (3, 10_000)], 4), per_second(30_000));
        assert_eq!(limit(&[(0, 50_000), (4, 60_000)], 5), per_second(30_000));
        assert_eq!(limit(&[(0, 50_000), (4, 10_000)], 7), per_second(25_000));
        let most = PullRateConfig::default().max / 2;
        assert_eq!(limit(&[(0, 50_000)], 8), most, "that was too long ago: nobody knows");
        assert_eq!(limit(&[(0, 50_000)], 7), per_second(25_000));
    }

    #[test]
    fn the_rate_changes_once_an_interval_has_passed_and_credit_starts_with_the_limit() {
        let interval = PullRateConfig::default().interval;
        let mut rate = rate();
        rate.on_pulled(Duration::ZERO, 1 << 20);
        rate.on_pressure(interval, true);
        let first = rate.limit().unwrap();
        assert_eq!(rate.allowance(interval), 0, "nothing is saved up from before");
        rate.on_pressure((interval * 2).saturating_sub(Duration::from_nanos(1)), true);
        assert_eq!(rate.limit(), Some(first));
        rate.on_pressure(interval * 2, true);
        assert_eq!(rate.limit(), Some(first / 2));
    }
}
