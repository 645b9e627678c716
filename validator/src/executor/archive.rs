//! What others may read while blocks are executed.

use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quorum_store::types::Epoch;
use rocksdb::DB;

use super::schema::{self, BlockSummary, Boundary, ExecutorError};
use crate::id_map::IdMap;
use crate::transaction::TransactionId;

/// Ids executed and not expired, with the height of their block.
#[derive(Clone, Debug, Default)]
pub(super) struct Dedup(Arc<RwLock<IdMap<u64>>>);

impl Dedup {
    /// The ids; whoever holds this holds up the executor.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, IdMap<u64>> {
        // A panic while it is held cannot leave a map of plain values half changed.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a block at this height.
    pub(super) fn open(&self, height: u64) -> OpenBlock<'_> {
        OpenBlock { height, map: self.0.write().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Instead of everything before.
    pub(super) fn replace(&self, map: IdMap<u64>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = map;
    }

    pub(super) fn forget(&self, ids: impl Iterator<Item = TransactionId>) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            map.remove(&id);
        }
        // After a burst the table would keep its largest size for ever.
        if map.capacity() > 1 << 16 && map.len() < map.capacity() / 8 {
            let keep = map.len() * 2;
            map.shrink_to(keep);
        }
    }
}

/// A block whose transactions are being remembered. Readers wait until it is dropped.
pub(super) struct OpenBlock<'a> {
    height: u64,
    map: RwLockWriteGuard<'a, IdMap<u64>>,
}

impl OpenBlock<'_> {
    /// True if the id is new; from now on it is not.
    pub(super) fn remember(&mut self, id: &TransactionId) -> bool {
        match self.map.entry(*id) {
            Entry::Vacant(free) => {
                free.insert(self.height);
                true
            }
            Entry::Occupied(_) => false,
        }
    }
}

/// Reads of executed blocks. All but [`Archive::height_of`] read the disk: call them where that
/// may block.
#[derive(Clone, Debug)]
pub struct Archive {
    pub(super) db: Arc<DB>,
    dedup: Dedup,
}

impl Archive {
    pub(super) fn new(db: Arc<DB>, dedup: Dedup) -> Self {
        Self { db, dedup }
    }

    /// The block that executed a transaction, while the transaction has not expired.
    pub fn height_of(&self, id: &TransactionId) -> Option<u64> {
        self.dedup.read().get(id).copied()
    }

    /// Which of these were executed, and where: position and height.
    pub fn heights_of<'a>(
        &self,
        ids: impl Iterator<Item = &'a TransactionId>,
    ) -> Vec<(usize, u64)> {
        let known = self.dedup.read();
        let found = |(position, id)| Some((position, *known.get(id)?));
        ids.enumerate().filter_map(found).collect()
    }

    /// What is kept of a block.
    pub fn block(&self, height: u64) -> Result<Option<BlockSummary>, ExecutorError> {
        schema::read_summary(&self.db, height)
    }

    /// The ids executed in a block, in order, as one string of 32-byte ids. `None` for a block that
    /// executed nothing, is unknown, or whose transactions have all expired.
    pub fn transactions(&self, height: u64) -> Result<Option<Vec<u8>>, ExecutorError> {
        let ids = schema::read_ids(&self.db, height)?;
        Ok(ids.map(|ids| ids.iter().flatten().collect()))
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
