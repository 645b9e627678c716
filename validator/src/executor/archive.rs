//! What others may read while blocks are executed.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quorum_store::types::{Epoch, Timestamp};
use rocksdb::DB;

use super::schema::{self, BlockSummary, Boundary, ExecutorError};
use crate::ids::{IdKeys, IdSet, Named, of_one_second, second_of};
use crate::transaction::TransactionId;

/// Ids executed and not expired, with the height of their block.
#[derive(Clone, Debug, Default)]
pub(super) struct Dedup(Arc<RwLock<Seconds>>);

/// By the second of their expiration.
#[derive(Debug, Default)]
pub(super) struct Seconds {
    keys: IdKeys,
    sets: BTreeMap<u64, Executed>,
}

/// What expires in one second.
///
/// Half of an id stands for it, at every validator: whoever makes two transactions whose ids agree
/// in 16 bytes, which takes 2^64 tries, has only one of them executed.
#[derive(Debug, Default)]
struct Executed {
    ids: IdSet<16>,
    /// The first number of each block, and its height, rising.
    blocks: Vec<(u32, u64)>,
}

impl Executed {
    fn height(&self, keys: &IdKeys, id: &TransactionId) -> Option<u64> {
        let number = self.ids.number(keys, id)?;
        let later = self.blocks.partition_point(|(first, _)| *first <= number);
        self.blocks.get(later.checked_sub(1)?).map(|(_, height)| *height)
    }

    /// True if the id is new; from now on it is not.
    fn remember(&mut self, keys: &IdKeys, height: u64, id: &TransactionId) -> bool {
        let (number, is_new) = self.ids.insert(keys, id);
        if is_new && self.blocks.last().is_none_or(|(_, last)| *last != height) {
            self.blocks.push((number, height));
        }
        is_new
    }
}

impl Seconds {
    /// Adds what a block executed.
    pub(super) fn remember(&mut self, height: u64, ids: impl Iterator<Item = Named>) {
        let keys = self.keys;
        let mut ids = ids.peekable();
        while let Some((_, expiration)) = ids.peek() {
            let second = second_of(*expiration);
            let set = self.set(second);
            while let Some((id, _)) = ids.next_if(|(_, at)| second_of(*at) == second) {
                set.remember(&keys, height, &id);
            }
        }
    }

    /// What expires in one second. The second before it says how much to expect.
    fn set(&mut self, second: u64) -> &mut Executed {
        let sets = &mut self.sets;
        let before = sets.range(..second).next_back().map_or(0, |(_, set)| set.ids.len());
        sets.entry(second)
            .or_insert_with(|| Executed { ids: IdSet::with_room(before), blocks: Vec::new() })
    }

    #[cfg(test)]
    pub(super) fn ids(&self) -> Vec<[u8; 16]> {
        let ids = |set: &Executed| (0..set.ids.len() as u32).map(|n| *set.ids.id(n)).collect();
        self.sets.values().flat_map(|set| -> Vec<[u8; 16]> { ids(set) }).collect()
    }
}

impl Dedup {
    /// The ids; whoever holds this holds up the executor.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Seconds> {
        // A panic while it is held cannot leave sets of plain values half changed.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Seconds> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a block at this height.
    pub(super) fn open(&self, height: u64) -> OpenBlock<'_> {
        OpenBlock { height, seconds: self.write() }
    }

    /// Adds what a block executed.
    pub(super) fn remember(&self, height: u64, ids: impl Iterator<Item = Named>) {
        self.write().remember(height, ids);
    }

    /// Instead of everything before.
    pub(super) fn replace(&self, seconds: Seconds) {
        *self.write() = seconds;
    }

    /// What has expired at `now` is refused for that: whether it was executed matters no more.
    pub(super) fn forget_expired(&self, now: Timestamp) {
        let mut seconds = self.write();
        while let Some(first) = seconds.sets.first_entry()
            && *first.key() < second_of(now)
        {
            first.remove();
        }
    }

    /// The newest block is not executed after all.
    pub(super) fn undo(&self, height: u64) {
        let mut seconds = self.write();
        let Seconds { keys, sets } = &mut *seconds;
        for set in sets.values_mut() {
            if let Some((first, _)) = set.blocks.pop_if(|(_, newest)| *newest == height) {
                set.ids.truncate(keys, first);
            }
        }
    }
}

/// A block whose transactions are being remembered. Readers wait until it is dropped.
pub(super) struct OpenBlock<'a> {
    height: u64,
    seconds: RwLockWriteGuard<'a, Seconds>,
}

impl OpenBlock<'_> {
    /// What expires in one second.
    pub(super) fn second(&mut self, second: u64) -> OpenSecond<'_> {
        let keys = self.seconds.keys;
        OpenSecond { height: self.height, keys, set: self.seconds.set(second) }
    }
}

/// The part of an open block that expires in one second.
pub(super) struct OpenSecond<'a> {
    height: u64,
    keys: IdKeys,
    set: &'a mut Executed,
}

impl OpenSecond<'_> {
    /// True if the id is new; from now on it is not.
    pub(super) fn remember(&mut self, id: &TransactionId) -> bool {
        self.set.remember(&self.keys, self.height, id)
    }
}

/// Reads of executed blocks. All but `height_of` and `heights_of` read the disk: call them where
/// that may block.
#[derive(Clone, Debug)]
pub struct Archive {
    pub(super) db: Arc<DB>,
    dedup: Dedup,
}

impl Archive {
    pub(super) fn new(db: Arc<DB>, dedup: Dedup) -> Self {
        Self { db, dedup }
    }

    /// The block that executed a transaction, while the transaction has not expired: looked for in
    /// every second.
    pub fn height_of(&self, id: &TransactionId) -> Option<u64> {
        let seconds = self.dedup.read();
        seconds.sets.values().find_map(|set| set.height(&seconds.keys, id))
    }

    /// Which of these were executed, and where: position and height.
    pub fn heights_of(&self, named: &[Named]) -> Vec<(usize, u64)> {
        let seconds = self.dedup.read();
        let (mut found, mut first) = (Vec::new(), 0);
        for together in of_one_second(named) {
            if let Some(set) = seconds.sets.get(&second_of(together[0].1)) {
                let height = |(at, (id, _)): (usize, &Named)| {
                    Some((first + at, set.height(&seconds.keys, id)?))
                };
                found.extend(together.iter().enumerate().filter_map(height));
            }
            first += together.len();
        }
        found
    }

    /// What is kept of a block.
    pub fn block(&self, height: u64) -> Result<Option<BlockSummary>, ExecutorError> {
        schema::read_summary(&self.db, height)
    }

    /// The ids executed in a block, in order, as one string of 32-byte ids. `None` for a block that
    /// executed nothing, is unknown, or whose transactions have all expired.
    pub fn transactions(&self, height: u64) -> Result<Option<Vec<u8>>, ExecutorError> {
        let ids = schema::read_ids(&self.db, height)?;
        Ok(ids.map(|ids| ids.iter().flat_map(|(id, _)| id).collect()))
    }

    /// How an epoch ended, as far as that is known here.
    pub fn boundary(&self, epoch: Epoch) -> Result<Option<Boundary>, ExecutorError> {
        schema::read_boundary(&self.db, epoch)
    }

    /// Notes how an epoch ended; durable when this returns.
    pub fn note_boundary(&self, boundary: &Boundary) -> Result<(), ExecutorError> {
        schema::write_boundary(&self.db, boundary)
    }
}
