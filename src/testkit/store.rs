//! A store that can crash: what a power cut may leave of the group in flight.
//!
//! A group is one frame: a checksum over its writes, then the writes. A crash leaves the frame
//! whole, not at all, cut somewhere, or with a sector that never arrived. The next opening takes a
//! frame only if its checksum holds, as the contract of [`crate::store`] demands: all of a group or
//! none of it.

use std::sync::Arc;

use fastrand::Rng;

use crate::sequencer::port::Record;
use crate::store::memory::MemoryStore;
use crate::store::{CommitStats, Recovered, Store, StoreError, StoreReader, sealed};

const CHECKSUM_BYTES: usize = 32;
/// What a disk writes or loses as one.
const SECTOR_BYTES: usize = 512;

/// What a crash leaves of the group in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tear {
    /// All of it: the disk had it, only the answer was lost.
    Kept,
    /// Nothing.
    Lost,
    /// A part from the start.
    Cut,
    /// All but one sector.
    Hole,
}

impl Tear {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Kept, Self::Lost, Self::Cut, Self::Hole];
}

/// See the module docs.
#[derive(Debug)]
pub struct CrashStore {
    memory: MemoryStore,
    /// What a crash left of the last group.
    tail: Vec<u8>,
    /// True if the next commit fails, and every one after it.
    fails: bool,
}

impl CrashStore {
    /// Around an empty store.
    pub fn new(memory: MemoryStore) -> Self {
        Self { memory, tail: Vec::new(), fails: false }
    }

    /// From now on every commit fails.
    pub fn fail(&mut self) {
        self.fails = true;
    }

    /// These are gone from the disk, as no crash would do it.
    pub(super) fn erase(&mut self, records: &[Record]) {
        let tail = std::mem::take(&mut self.tail);
        if let Some(writes) = intact(&tail) {
            self.memory.replay(writes);
        }
        let erased = self.memory.recover().and_then(|_| self.memory.commit(records));
        assert!(erased.is_ok(), "memory does not fail");
    }

    /// What the next life finds if the power fails while these records are on their way.
    #[must_use]
    pub fn crash(&self, in_flight: Option<&[Record]>, tear: Tear, rng: &mut Rng) -> Self {
        let mut tail = in_flight.map(|records| self.frame(records)).unwrap_or_default();
        match tear {
            Tear::Kept => {}
            Tear::Lost => tail.clear(),
            Tear::Cut => tail.truncate(rng.usize(..tail.len().max(1))),
            Tear::Hole => {
                let from = rng.usize(..tail.len().max(1)) / SECTOR_BYTES * SECTOR_BYTES;
                let to = (from + SECTOR_BYTES).min(tail.len());
                tail.get_mut(from..to).unwrap_or_default().fill(0);
            }
        }
        Self { memory: self.memory.clone_durable(), tail, fails: false }
    }

    /// True if the group in flight is whole on disk.
    pub(super) fn keeps_tail(&self) -> bool {
        intact(&self.tail).is_some()
    }

    fn frame(&self, records: &[Record]) -> Vec<u8> {
        let writes = self.memory.encode(records);
        let mut frame = blake3::hash(&writes).as_bytes().to_vec();
        frame.extend_from_slice(&writes);
        frame
    }
}

impl sealed::Sealed for CrashStore {}

impl Store for CrashStore {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        let tail = std::mem::take(&mut self.tail);
        if let Some(writes) = intact(&tail) {
            self.memory.replay(writes);
        }
        self.memory.recover()
    }

    fn commit(&mut self, records: &[Record]) -> Result<CommitStats, StoreError> {
        if self.fails {
            return Err(StoreError::Io { doing: "committing", reason: "injected".to_owned() });
        }
        self.memory.commit(records)
    }

    fn reader(&self) -> Arc<dyn StoreReader> {
        self.memory.reader()
    }
}

/// The writes of a frame whose checksum holds.
fn intact(frame: &[u8]) -> Option<&[u8]> {
    let (checksum, writes) = frame.split_at_checked(CHECKSUM_BYTES)?;
    (blake3::hash(writes).as_bytes() == checksum).then_some(writes)
}
