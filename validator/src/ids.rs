//! Maps by transaction id.
//!
//! An id is the output of a cryptographic hash already, so hashing it again would only cost time:
//! eight of its bytes are taken as they are. Which eight is random in each process, and so is what
//! they are mixed with: whoever grinds ids that agree in some bytes does not know which ones count.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::transaction::TransactionId;

/// A map by transaction id.
pub type IdMap<T> = HashMap<TransactionId, T, IdHashing>;

/// Makes hashers that look at the same eight bytes.
#[derive(Clone, Copy, Debug)]
pub struct IdHashing {
    offset: usize,
    mix: u64,
}

impl Default for IdHashing {
    fn default() -> Self {
        // Its keys come from the system once per process.
        let random = RandomState::new().hash_one(0_u8);
        Self { offset: (random % 25) as usize, mix: random }
    }
}

impl BuildHasher for IdHashing {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher { hashing: *self, state: self.mix }
    }
}

/// See the module docs.
#[derive(Debug)]
pub struct IdHasher {
    hashing: IdHashing,
    state: u64,
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        // The length that comes before an array is the same for all ids; it may be mixed in.
        let window = bytes.get(self.hashing.offset..self.hashing.offset + 8).unwrap_or(bytes);
        let mut word = [0; 8];
        let length = window.len().min(8);
        word[..length].copy_from_slice(&window[..length]);
        self.state ^= u64::from_le_bytes(word);
    }

    fn write_usize(&mut self, length: usize) {
        self.state ^= length as u64;
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_again_and_their_hashes_differ_where_they_differ() {
        let hashing = IdHashing::default();
        let ids: Vec<TransactionId> =
            (0..1000_u32).map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
        let mut map = IdMap::with_hasher(hashing);
        map.extend(ids.iter().enumerate().map(|(n, id)| (*id, n)));
        assert!(ids.iter().enumerate().all(|(n, id)| map.get(id) == Some(&n)));
        let mut hashes: Vec<u64> = ids.iter().map(|id| hashing.hash_one(id)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 1000);
    }

    #[test]
    fn which_bytes_count_differs_between_maps() {
        let seen: std::collections::BTreeSet<usize> =
            (0..200).map(|_| IdHashing::default().offset).collect();
        assert!(seen.len() > 5 && seen.iter().all(|offset| *offset <= 24), "{seen:?}");
    }
}
