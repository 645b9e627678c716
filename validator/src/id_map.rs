//! Tables by transaction id.
//!
//! Ids are hashes already, so hashing them again in full is waste: these tables are looked at
//! several times per transaction. But clients can choose among ids, so which ones share a bucket
//! must depend on a secret: two words of the id are folded with two random keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::transaction::TransactionId;

/// A map by id.
pub type IdMap<V> = HashMap<TransactionId, V, IdState>;

/// The keys of one table.
#[derive(Clone, Copy, Debug)]
pub struct IdState([u64; 2]);

impl Default for IdState {
    fn default() -> Self {
        let random = RandomState::new();
        Self([random.hash_one(0_u8), random.hash_one(1_u8)])
    }
}

impl BuildHasher for IdState {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher { keys: self.0, hash: 0 }
    }
}

/// See the module docs.
#[derive(Debug)]
pub struct IdHasher {
    keys: [u64; 2],
    hash: u64,
}

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(16) {
            let mut words = [0; 16];
            words[..pair.len()].copy_from_slice(pair);
            let words = u128::from_le_bytes(words);
            let low = u128::from(words as u64 ^ self.keys[0] ^ self.hash);
            let product = low * u128::from((words >> 64) as u64 ^ self.keys[1]);
            self.hash = product as u64 ^ (product >> 64) as u64;
            // The first half of an id is random enough; a second round would only cost time.
            if bytes.len() == 32 {
                return;
            }
        }
    }

    /// The length, which is always the same.
    fn write_usize(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn id(number: u64) -> TransactionId {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    #[test]
    fn ids_are_found_and_told_apart() {
        let mut map = IdMap::default();
        (0..10_000).for_each(|number| assert_eq!(map.insert(id(number), number), None));
        assert!((0..10_000).all(|number| map.get(&id(number)) == Some(&number)));
        assert_eq!(map.get(&id(10_000)), None);
    }

    #[test]
    fn hashes_spread_and_depend_on_the_keys() {
        let (one, other) = (IdState::default(), IdState::default());
        let hashes: HashSet<u64> = (0..10_000).map(|number| one.hash_one(id(number))).collect();
        assert_eq!(hashes.len(), 10_000);
        for shift in [0, 54] {
            let buckets: HashSet<u64> = hashes.iter().map(|hash| (hash >> shift) % 1024).collect();
            assert_eq!(buckets.len(), 1024, "bits from {shift}");
        }
        assert!((0..100).all(|number| one.hash_one(id(number)) != other.hash_one(id(number))));
    }
}
