//! Sets of transaction ids, by the second in which they expire.
//!
//! An id covers the transaction's expiration, so equal ids expire together: a set for each second
//! answers for all of them. Ids that arrive together are in few of these sets, which are small
//! enough for the processor's caches, and a second that is over goes as a whole. One large table
//! would miss the caches at every look, and be copied whenever it grows.
//!
//! Ids are hashes already, so hashing them again in full is waste. But clients can choose among
//! ids, so which ones share a bucket must depend on a secret: two words of the id are folded with
//! two random keys.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use quorum_store::types::Timestamp;

use crate::pages::Pages;
use crate::transaction::TransactionId;

/// Most ids that a set has room for before they come: 1.3 MB.
const ROOM_MAX: usize = 224 << 10;

/// Microseconds.
const SECOND: u64 = 1_000_000;

/// The second in which something expires. A second is over once its last microsecond is.
pub const fn second_of(expiration: Timestamp) -> u64 {
    expiration.0 / SECOND
}

/// What names a transaction here: its id, and when it expires.
pub type Named = (TransactionId, Timestamp);

/// Neighbours that expire in the same second.
pub fn of_one_second(list: &[Named]) -> impl Iterator<Item = &[Named]> {
    list.chunk_by(|one, other| second_of(one.1) == second_of(other.1))
}

/// The keys of the sets that belong together.
#[derive(Clone, Copy, Debug)]
pub struct IdKeys([u64; 2]);

impl Default for IdKeys {
    fn default() -> Self {
        let random = RandomState::new();
        Self([random.hash_one(0_u8), random.hash_one(1_u8)])
    }
}

impl IdKeys {
    /// The first half of an id is random enough; more would only cost time.
    fn hash(&self, id: &[u8]) -> u64 {
        let words = id.first_chunk().map_or(0, |words| u128::from_le_bytes(*words));
        let low = u128::from(words as u64 ^ self.0[0]);
        let product = low * u128::from((words >> 64) as u64 ^ self.0[1]);
        product as u64 ^ (product >> 64) as u64
    }
}

/// Ids with a number each, from 0 on in the order of their arrival. The first `KEPT` bytes of an id
/// stand for it, 16 at least: two ids of clients that agree in those are as hard to make as two of
/// 32 bytes that a hash of 16 has.
#[derive(Debug, Default)]
pub struct IdSet<const KEPT: usize> {
    ids: Pages<[u8; KEPT]>,
    numbers: HashTable<u32>,
    /// Whose ids are gone, to be given to others.
    vacant: Vec<u32>,
}

/// What is kept of an id.
fn kept<const KEPT: usize>(id: &TransactionId) -> [u8; KEPT] {
    let mut kept = [0; KEPT];
    kept.copy_from_slice(&id[..KEPT]);
    kept
}

impl<const KEPT: usize> IdSet<KEPT> {
    /// For so many ids, so that they need not be hashed again while they arrive. Bounded: clients
    /// decide how many expire in a second, and in how many seconds others do.
    pub fn with_room(ids: usize) -> Self {
        Self { numbers: HashTable::with_capacity(ids.min(ROOM_MAX)), ..Self::default() }
    }

    /// Its number.
    pub fn number(&self, keys: &IdKeys, id: &TransactionId) -> Option<u32> {
        let sought = kept(id);
        self.numbers.find(keys.hash(id), |number| self.ids[*number as usize] == sought).copied()
    }

    /// Adds an id: its number, and whether it is new.
    pub fn insert(&mut self, keys: &IdKeys, id: &TransactionId) -> (u32, bool) {
        let Self { ids, numbers, vacant } = self;
        let new = kept(id);
        let equal = |number: &u32| ids[*number as usize] == new;
        let rehash = |number: &u32| keys.hash(&ids[*number as usize]);
        match numbers.entry(keys.hash(id), equal, rehash) {
            hashbrown::hash_table::Entry::Occupied(found) => (*found.get(), false),
            hashbrown::hash_table::Entry::Vacant(free) => {
                let number = if let Some(number) = vacant.pop() {
                    ids[number as usize] = new;
                    number
                } else {
                    ids.push(new);
                    // Proof of the cast: a set has the ids of one second, far fewer than 2^32.
                    (ids.len() - 1) as u32
                };
                free.insert(number);
                (number, true)
            }
        }
    }

    /// An id is not found any more. Another one will get its number.
    pub fn remove(&mut self, keys: &IdKeys, number: u32) {
        self.hide(keys, number);
        self.vacant.push(number);
    }

    fn hide(&mut self, keys: &IdKeys, number: u32) {
        let hash = keys.hash(&self.ids[number as usize]);
        if let Ok(found) = self.numbers.find_entry(hash, |other| *other == number) {
            found.remove();
        }
    }

    /// Forgets every id from a number on. None was removed before.
    pub fn truncate(&mut self, keys: &IdKeys, number: u32) {
        for gone in number..self.ids.len() as u32 {
            self.hide(keys, gone);
        }
        self.ids.truncate(number as usize);
    }

    /// What is kept of the id with this number.
    pub fn id(&self, number: u32) -> &[u8; KEPT] {
        &self.ids[number as usize]
    }

    /// Numbers that were given, vacant ones included.
    pub fn len(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Those of a run are drawn; a test whose keys were would fail once in so many runs.
    const KEYS: IdKeys = IdKeys([0x6a09_e667_f3bc_c908, 0xbb67_ae85_84ca_a73b]);

    fn id(number: u64) -> TransactionId {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    #[test]
    fn ids_are_numbered_found_and_told_apart() {
        let (keys, mut set) = (KEYS, IdSet::<32>::default());
        for number in 0..10_000 {
            assert_eq!(set.insert(&keys, &id(number)), (number as u32, true));
        }
        for number in 0..10_000 {
            assert_eq!(set.insert(&keys, &id(number)), (number as u32, false));
            assert_eq!(*set.id(number as u32), id(number));
        }
        assert_eq!((set.number(&keys, &id(10_000)), set.len()), (None, 10_000));
    }

    #[test]
    fn room_is_bounded_whatever_came_before() {
        let room = |ids| IdSet::<16>::with_room(ids).numbers.capacity();
        assert!(room(50_000) >= 50_000);
        assert!(room(usize::MAX) < 2 * ROOM_MAX);
    }

    #[test]
    fn half_of_an_id_stands_for_it() {
        let (keys, mut set) = (KEYS, IdSet::<16>::default());
        let (one, mut other) = (id(1), id(1));
        assert_eq!(set.insert(&keys, &one), (0, true));
        other[31] ^= 1;
        assert_eq!(set.number(&keys, &other), Some(0));
        other[15] ^= 1;
        assert_eq!(set.insert(&keys, &other), (1, true));
    }

    #[test]
    fn what_is_removed_or_cut_off_is_not_found_and_its_number_is_given_again() {
        let (keys, mut set) = (KEYS, IdSet::<32>::with_room(50));
        (0..100).for_each(|number| _ = set.insert(&keys, &id(number)));
        set.remove(&keys, 3);
        assert_eq!((set.number(&keys, &id(3)), set.len()), (None, 100));
        assert_eq!(set.insert(&keys, &id(200)), (3, true));
        assert_eq!(set.number(&keys, &id(200)), Some(3));
        assert_eq!(*set.id(3), id(200));
        assert_eq!(set.insert(&keys, &id(201)), (100, true));
        let mut set = IdSet::<32>::default();
        (0..100).for_each(|number| _ = set.insert(&keys, &id(number)));
        set.truncate(&keys, 50);
        assert_eq!((set.number(&keys, &id(49)), set.number(&keys, &id(50))), (Some(49), None));
        assert_eq!(set.insert(&keys, &id(50)), (50, true));
    }

    #[test]
    fn hashes_spread_and_depend_on_the_keys() {
        let other = IdKeys([KEYS.0[0], KEYS.0[1] ^ 1]);
        let hashes: HashSet<u64> = (0..20_000).map(|number| KEYS.hash(&id(number))).collect();
        assert_eq!(hashes.len(), 20_000);
        for shift in [0, 54] {
            let mut buckets = [0; 1024];
            for hash in &hashes {
                buckets[(hash >> shift) as usize % 1024] += 1;
            }
            // 19.5 on average, with a deviation of 4.4.
            assert!(buckets.iter().all(|count| (3..50).contains(count)), "bits from {shift}");
        }
        assert!((0..100).all(|number| KEYS.hash(&id(number)) != other.hash(&id(number))));
        assert_ne!(IdKeys::default().0, IdKeys::default().0, "each process has its own");
    }

    #[test]
    fn a_second_is_over_after_its_last_microsecond() {
        assert_eq!(second_of(Timestamp(1_999_999)), 1);
        assert_eq!(second_of(Timestamp(2_000_000)), 2);
    }
}
