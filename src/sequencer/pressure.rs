//! Back-pressure: how much is accepted, from which gas bucket on, and why.
//!
//! Each reason has a level: how much of its bound is used, from counters that are exact at every
//! step. Below the threshold nothing is felt. From there on the lowest accepted bucket rises with
//! the highest level; only a full pool, or a disk without room, takes nothing at all. It costs the
//! same whatever is queued, and the same state gives the same answer.
//!
//! Windows between validators raise no price by themselves: while they are spent nothing is sealed,
//! and the pool says so soon enough.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::port::{BusyReason, Room};
use crate::config::PressureConfig;

/// A level at which its bound is reached.
pub const FULL: u16 = 1000;

/// How much of each bound is used, in thousandths; 1000 is all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Levels {
    /// The pool, leases included.
    pub pool: u16,
    /// Own transactions, batches and bytes not ordered yet, proofs not ordered yet, and the time
    /// that a batch waits for its commit: whichever is highest.
    pub commits: u16,
    /// Own batches that wait for votes.
    pub votes: u16,
    /// How long the group on its way to the disk takes.
    pub disk: u16,
}

impl Levels {
    /// What is nearest to its bound.
    pub(super) fn worst(self) -> (u16, BusyReason) {
        let levels = [
            (self.pool, BusyReason::Pool),
            (self.commits, BusyReason::Commits),
            (self.votes, BusyReason::Votes),
            (self.disk, BusyReason::DiskLag),
        ];
        levels.into_iter().fold((0, BusyReason::Pool), |worst, level| {
            if level.0 > worst.0 { level } else { worst }
        })
    }
}

/// What is short, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons(u8);

impl Reasons {
    fn add(&mut self, reason: BusyReason) {
        self.0 |= 1 << Self::bit(reason);
    }

    fn bit(reason: BusyReason) -> usize {
        BusyReason::ALL.iter().position(|known| *known == reason).unwrap_or_default()
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = BusyReason> {
        BusyReason::ALL.into_iter().filter(move |reason| self.contains(*reason))
    }

    /// True if this is short.
    pub fn contains(self, reason: BusyReason) -> bool {
        self.0 & (1 << Self::bit(reason)) != 0
    }

    /// True if nothing is short.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Serialize for Reasons {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|reason| reason.to_string()))
    }
}

/// What is accepted now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pressure {
    /// False between epochs, and for a validator that is not in the committee: nothing is taken.
    pub serving: bool,
    /// Room in the pool that is not leased.
    pub accepted: Room,
    /// Transactions from this gas unit price on are accepted; `None`: none without a lease.
    pub lowest_gas_bucket: Option<u64>,
    /// What is short.
    pub reasons: Reasons,
    /// How near everything is to its bound.
    pub levels: Levels,
    /// Transactions a second that leave the pool at most; `None`: as many as there are.
    pub pull_rate: Option<u64>,
    /// What is in the pool.
    pub pooled: Room,
    /// Room in the pool that is leased and not used yet.
    pub leased: Room,
    /// Leases that are open.
    pub leases: u64,
}

/// What is measured, beside the pool.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    pub outstanding_bytes: u64,
    pub outstanding_batches: u64,
    pub outstanding_transactions: u64,
    pub uncertified_batches: u64,
    pub proofs: u64,
    pub commit_time: Duration,
    pub disk_lag: Duration,
}

/// The bounds of what is measured, and where pressure begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub threshold: u16,
    pub pool: Room,
    pub outstanding_bytes: u64,
    pub outstanding_batches: u64,
    pub outstanding_transactions: u64,
    pub uncertified_batches: u64,
    pub proofs: u64,
    pub commit_time: Duration,
    pub disk_lag: Duration,
}

impl Bounds {
    pub fn new(config: &crate::config::SequencerConfig) -> Self {
        let PressureConfig {
            threshold_percent,
            outstanding_transactions_max,
            uncertified_batches_max,
            proofs_max,
            commit_time_max,
            disk_lag_max,
        } = config.pressure;
        Self {
            threshold: u16::from(threshold_percent) * 10,
            pool: Room {
                bytes: config.pool_bytes_max.as_u64(),
                transactions: config.pool_transactions_max,
            },
            outstanding_bytes: config.outstanding_bytes_max.as_u64(),
            outstanding_batches: config.outstanding_batches_max,
            outstanding_transactions: outstanding_transactions_max,
            uncertified_batches: uncertified_batches_max,
            proofs: proofs_max,
            commit_time: commit_time_max,
            disk_lag: disk_lag_max,
        }
    }

    /// The levels of this state; `pool` counts what is leased.
    pub fn levels(&self, pool: Room, measured: &Measured) -> Levels {
        let Measured {
            outstanding_bytes,
            outstanding_batches,
            outstanding_transactions,
            uncertified_batches,
            proofs,
            commit_time,
            disk_lag,
        } = *measured;
        let commits = [
            level(outstanding_bytes, self.outstanding_bytes),
            level(outstanding_batches, self.outstanding_batches),
            level(outstanding_transactions, self.outstanding_transactions),
            level(proofs, self.proofs),
            level(micros(commit_time), micros(self.commit_time)),
        ];
        Levels {
            pool: self.pool_level(pool),
            commits: commits.into_iter().fold(0, u16::max),
            votes: level(uncertified_batches, self.uncertified_batches),
            disk: level(micros(disk_lag), micros(self.disk_lag)),
        }
    }

    /// What the rate of pulling follows: not the pool, which it empties, nor own batches and their
    /// bytes, which stop at their bounds by themselves.
    pub fn pull_level(&self, measured: &Measured) -> u16 {
        [
            level(measured.outstanding_transactions, self.outstanding_transactions),
            level(measured.proofs, self.proofs),
            level(measured.uncertified_batches, self.uncertified_batches),
            level(micros(measured.commit_time), micros(self.commit_time)),
            level(micros(measured.disk_lag), micros(self.disk_lag)),
        ]
        .into_iter()
        .fold(0, u16::max)
    }

    /// How full the pool is.
    pub fn pool_level(&self, used: Room) -> u16 {
        let bytes = level(used.bytes, self.pool.bytes);
        bytes.max(level(used.transactions, self.pool.transactions))
    }

    /// True from the threshold on.
    pub fn is_felt(&self, level: u16) -> bool {
        level >= self.threshold
    }

    /// The lowest of these buckets that is accepted at a level.
    pub fn lowest_bucket(&self, starts: &[u64], level: u16) -> u64 {
        let last = starts.len().saturating_sub(1);
        let index = if !self.is_felt(level) {
            0
        } else if level >= FULL {
            last
        } else {
            // Below the bound, so that the threshold is below it too.
            let above = usize::from(level - self.threshold);
            1 + above * last / usize::from(FULL - self.threshold)
        };
        starts.get(index.min(last)).copied().unwrap_or_default()
    }

    /// What is felt of these levels.
    pub fn reasons(&self, levels: Levels, has_windows: bool, has_disk: bool) -> Reasons {
        let mut reasons = Reasons::default();
        for (level, reason) in [
            (levels.pool, BusyReason::Pool),
            (levels.commits, BusyReason::Commits),
            (levels.votes, BusyReason::Votes),
            (levels.disk, BusyReason::DiskLag),
        ] {
            if self.is_felt(level) {
                reasons.add(reason);
            }
        }
        if !has_windows {
            reasons.add(BusyReason::Windows);
        }
        if !has_disk {
            reasons.add(BusyReason::Disk);
        }
        reasons
    }
}

/// Thousandths of a bound, in whole numbers.
fn level(used: u64, bound: u64) -> u16 {
    if used >= bound {
        return FULL;
    }
    // Below 1000, since `used` is below `bound`. The wide type costs more, and is hardly needed.
    match used.checked_mul(u64::from(FULL)) {
        Some(thousandfold) => (thousandfold / bound) as u16,
        None => (u128::from(used) * u128::from(FULL) / u128::from(bound)) as u16,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Groups that were taken and are not durable yet.
#[derive(Debug, Default)]
pub(super) struct DiskLag {
    taken: VecDeque<(u64, Duration)>,
}

impl DiskLag {
    pub fn on_taken(&mut self, group: u64, now: Duration) {
        self.taken.push_back((group, now));
    }

    pub fn on_durable(&mut self, sequence: u64) {
        while self.taken.pop_front_if(|(group, _)| *group <= sequence).is_some() {}
    }

    /// How long the oldest one has been on its way.
    pub fn get(&self, now: Duration) -> Duration {
        self.taken.front().map_or(Duration::ZERO, |(_, taken)| now.saturating_sub(*taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SequencerConfig;

    const STARTS: [u64; 4] = [0, 10, 100, 1000];

    fn bounds(percent: u8) -> Bounds {
        let mut config = SequencerConfig::default();
        config.pressure.threshold_percent = percent;
        Bounds::new(&config)
    }

    #[test]
    fn the_lowest_bucket_rises_from_the_threshold_to_the_bound_and_never_falls() {
        let bounds = bounds(75);
        let lowest = |level| bounds.lowest_bucket(&STARTS, level);
        assert_eq!([0, 749].map(lowest), [0, 0]);
        assert_eq!([750, 833].map(lowest), [10, 10]);
        assert_eq!([834, 916].map(lowest), [100, 100]);
        assert_eq!([917, 999, 1000].map(lowest), [1000, 1000, 1000]);
        // All of them are minutes for an interpreter.
        for percent in (10..=100).step_by(if cfg!(miri) { 45 } else { 1 }) {
            let bounds = self::bounds(percent);
            let all: Vec<_> = (0..=1000).map(|l| bounds.lowest_bucket(&STARTS, l)).collect();
            assert!(all.is_sorted(), "{percent} %");
            assert_eq!((all[0], all[1000]), (0, 1000), "{percent} %");
            assert!(all.iter().all(|bucket| STARTS.contains(bucket)));
        }
        assert_eq!(
            bounds.lowest_bucket(&[0], 1000),
            0,
            "one bucket is never refused for its price"
        );
    }

    #[test]
    fn levels_are_exact_at_both_ends_whatever_the_bound() {
        for bound in [1, 3, 1000, u64::MAX] {
            assert_eq!(level(0, bound), 0);
            assert_eq!(level(bound, bound), 1000);
            assert!(level(bound - 1, bound) < 1000);
            assert_eq!(level(u64::MAX, bound), 1000);
        }
        assert_eq!(level(3, 4), 750);
    }

    #[test]
    fn each_counter_alone_is_felt_under_its_own_reason() {
        let bounds = bounds(75);
        let felt = |change: fn(&mut Measured)| {
            let mut measured = Measured::default();
            change(&mut measured);
            let levels = bounds.levels(Room::default(), &measured);
            bounds.reasons(levels, true, true).iter().collect::<Vec<_>>()
        };
        assert_eq!(felt(|_| {}), []);
        assert_eq!(felt(|m| m.outstanding_bytes = 48 << 20), [BusyReason::Commits]);
        assert_eq!(felt(|m| m.outstanding_bytes = (48 << 20) - 1), []);
        assert_eq!(felt(|m| m.outstanding_batches = 3072), [BusyReason::Commits]);
        assert_eq!(felt(|m| m.outstanding_transactions = 196_608), [BusyReason::Commits]);
        assert_eq!(felt(|m| m.proofs = 49_152), [BusyReason::Commits]);
        assert_eq!(felt(|m| m.commit_time = Duration::from_millis(11_250)), [BusyReason::Commits]);
        assert_eq!(felt(|m| m.uncertified_batches = 1536), [BusyReason::Votes]);
        assert_eq!(felt(|m| m.disk_lag = Duration::from_secs(3)), [BusyReason::DiskLag]);
        let full = Room { bytes: 0, transactions: 98_304 };
        let levels = bounds.levels(full, &Measured::default());
        let all = bounds.reasons(levels, false, false);
        let expected = [BusyReason::Pool, BusyReason::Windows, BusyReason::Disk];
        assert_eq!(all.iter().collect::<Vec<_>>(), expected);
        assert!(!all.is_empty() && Reasons::default().is_empty());
        assert_eq!(levels.worst(), (750, BusyReason::Pool));
    }

    #[test]
    fn the_disk_lags_from_the_oldest_group_that_is_not_durable() {
        let second = Duration::from_secs;
        let mut lag = DiskLag::default();
        assert_eq!(lag.get(second(9)), Duration::ZERO);
        lag.on_taken(1, second(10));
        lag.on_taken(2, second(12));
        assert_eq!(lag.get(second(13)), second(3));
        lag.on_durable(1);
        assert_eq!(lag.get(second(13)), second(1));
        lag.on_durable(2);
        assert_eq!(lag.get(second(13)), Duration::ZERO);
    }
}
