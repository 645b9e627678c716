//! Hashing for tables in memory that hold millions of keys.
//!
//! One multiplication for each eight bytes, keyed with a random number of this process. Whoever
//! chooses keys does not know it, and so cannot make them collide; nothing that is hashed here is
//! ever compared by its hash alone, written, or sent.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Makes hashers of one seed.
#[derive(Clone, Debug)]
pub(crate) struct Seeded {
    start: u64,
    factor: u64,
}

impl Default for Seeded {
    fn default() -> Self {
        let random = RandomState::new();
        // An odd factor loses no bit of what it multiplies.
        Self { start: random.hash_one(0_u8), factor: random.hash_one(1_u8) | 1 }
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding { state: self.start, factor: self.factor }
    }
}

/// See the module docs.
#[derive(Clone, Debug)]
pub(crate) struct Folding {
    state: u64,
    factor: u64,
}

impl Folding {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.factor);
        self.state = (product as u64) ^ (product >> 64) as u64;
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.fold(u64::from_le_bytes(word));
        }
    }

    fn finish(&self) -> u64 {
        // The last word has gone through one multiplication only.
        self.state.wrapping_mul(self.factor) ^ self.state.rotate_right(32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    /// Those of a process are drawn; a test whose seed was would fail once in so many runs.
    fn seeded(number: u64) -> Seeded {
        let hash = blake3::hash(&number.to_le_bytes());
        let word = |from| u64::from_le_bytes(hash.as_bytes()[from..from + 8].try_into().unwrap());
        Seeded { start: word(0), factor: word(8) | 1 }
    }

    #[test]
    fn no_two_changes_cancel_each_other_whatever_the_seed() {
        for number in 0..64 {
            let seed = seeded(number);
            for bit in [0, 31, 62, 63] {
                let changed = [7_u64 ^ (1 << bit), 9 ^ (1 << bit)];
                assert_ne!(seed.hash_one([7_u64, 9]), seed.hash_one(changed), "bit {bit}");
            }
        }
    }

    #[test]
    fn keys_that_differ_little_spread_over_the_table_and_another_process_has_another_order() {
        let (one, other) = (seeded(0), seeded(1));
        let keys: Vec<[u8; 41]> = (0..20_000_u64)
            .map(|number| {
                let mut key = [7; 41];
                key[33..].copy_from_slice(&number.to_be_bytes());
                key
            })
            .collect();
        let mut low: BTreeMap<u64, u32> = BTreeMap::new();
        let mut high: BTreeMap<u64, u32> = BTreeMap::new();
        for key in &keys {
            let hash = one.hash_one(key);
            *low.entry(hash % 256).or_default() += 1;
            *high.entry(hash >> 57).or_default() += 1;
        }
        assert_eq!((low.len(), high.len()), (256, 128));
        // 78 and 156 on average.
        assert!(low.values().all(|count| (30..160).contains(count)), "{low:?}");
        assert!(high.values().all(|count| (90..250).contains(count)), "{high:?}");
        let distinct: HashSet<u64> = keys.iter().map(|key| one.hash_one(key)).collect();
        assert_eq!(distinct.len(), keys.len());
        assert_ne!(one.hash_one(keys[0]), other.hash_one(keys[0]));
        assert_ne!(Seeded::default().hash_one(7), Seeded::default().hash_one(7));
        assert_ne!(one.hash_one([0_u8; 3]), one.hash_one([0_u8; 4]), "its length counts");
    }
}
