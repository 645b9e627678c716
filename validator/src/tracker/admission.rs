//! How many transactions may be on their way to execution: so many that they take about a second.
//!
//! Under more load than can be executed something must give. With a fixed bound it is latency on a
//! slow machine and throughput on a fast one. So the bound follows the latency that execution
//! reports: less while the oldest transaction of a block took longer than the target, more while it
//! did not and the bound was felt. What is above it is refused at once, before it costs anything.

use std::time::Duration;

/// Age at execution above which less is let in.
const LATENCY_TARGET: Duration = Duration::from_secs(1);
/// Below it a small committee could not fill its blocks.
const OPEN_MIN: usize = 4096;
/// Where it starts, and where it returns to when there is no hurry.
const OPEN_START: usize = 16_384;
/// Above it the bounds in bytes bind long before.
const OPEN_MAX: usize = 131_072;
/// A decrease shows in the latency only after the transactions that are under way already.
const DECREASE_INTERVAL_MICROS: u64 = 500_000;

/// See the module docs.
#[derive(Debug)]
pub(super) struct Bound {
    open_max: usize,
    decreased_micros: Option<u64>,
}

impl Bound {
    pub(super) fn new() -> Self {
        Self { open_max: OPEN_START, decreased_micros: None }
    }

    /// Transactions that may be open.
    pub(super) fn open_max(&self) -> usize {
        self.open_max
    }

    /// A block executed transactions of ours, the oldest of this age; so many are open still.
    pub(super) fn on_executed(&mut self, oldest_micros: u64, open: usize, now_micros: u64) {
        if Duration::from_micros(oldest_micros) > LATENCY_TARGET {
            let patience = |last| now_micros < last + DECREASE_INTERVAL_MICROS;
            if !self.decreased_micros.is_some_and(patience) {
                self.open_max -= self.open_max / 3;
                self.decreased_micros = Some(now_micros);
            }
        } else if open > self.open_max / 2 || self.open_max < OPEN_START {
            self.open_max += self.open_max / 50;
        }
        self.open_max = self.open_max.clamp(OPEN_MIN, OPEN_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: u64 = 1_500_000;
    const FAST: u64 = 100_000;

    #[test]
    fn slow_blocks_lower_the_bound_not_faster_than_their_effect_shows() {
        let mut bound = Bound::new();
        for now in 0..10 {
            bound.on_executed(SLOW, 16_000, now * 10_000);
        }
        assert_eq!(bound.open_max(), OPEN_START - OPEN_START / 3);
        for now in 1..100 {
            bound.on_executed(SLOW, 16_000, now * 1_000_000);
        }
        assert_eq!(bound.open_max(), OPEN_MIN);
    }

    #[test]
    fn fast_blocks_raise_it_only_while_it_is_felt() {
        let mut bound = Bound::new();
        (0..1_000).for_each(|now| bound.on_executed(FAST, 10, now));
        assert_eq!(bound.open_max(), OPEN_START, "nobody needs more");
        (0..1_000).for_each(|now| bound.on_executed(FAST, 1 << 20, now));
        assert_eq!(bound.open_max(), OPEN_MAX);
    }

    #[test]
    fn after_a_slow_time_it_returns_to_its_start() {
        let mut bound = Bound::new();
        (0..100).for_each(|now| bound.on_executed(SLOW, 0, now * 1_000_000));
        (0..1_000).for_each(|now| bound.on_executed(FAST, 0, 100_000_000 + now));
        assert!(bound.open_max() >= OPEN_START);
    }
}
