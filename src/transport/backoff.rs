//! The pause before a link is dialled again.
//!
//! Doubles from a minimum to a maximum and is shortened by up to half at random, so that the
//! links of a committee that lost power together do not come back in step. The randomness is a
//! seed: the same seed gives the same pauses.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max, next: min, random: seed }
    }

    /// The pause to make now; the next one is longer.
    pub(super) fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.max);
        let half = full / 2;
        half + half.mul_f64((self.random() >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// After a link that lasted: start from the minimum again.
    pub(super) fn reset(&mut self) {
        self.next = self.min;
    }

    /// splitmix64: statistically good enough to spread dials, and one line of state.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A seed for the dialler of one pair, from the seed of the process.
pub(super) fn pair_seed(seed: u64, peer: &crate::types::Author) -> u64 {
    peer.0.iter().fold(seed, |sum, byte| sum.rotate_left(7) ^ u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_their_bounds_and_repeat_with_the_seed() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut backoff = Backoff::new(min, max, 7);
        let mut same = Backoff::new(min, max, 7);
        let mut full = min;
        for _ in 0..10 {
            let pause = backoff.pause();
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
            assert_eq!(pause, same.pause());
            full = (full * 2).min(max);
        }
        backoff.reset();
        assert!(backoff.pause() <= min);
    }
}
