//! What the tracker follows of one second of expirations.

use crate::ids::{IdKeys, IdSet};
use crate::pages::Pages;
use crate::transaction::TransactionId;

use super::Stage;

/// In no batch.
const NOWHERE: u32 = u32::MAX;

/// A transaction. There are millions: 24 bytes beside its id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The block that ordered or executed it; 0 if none has.
    pub height: u64,
    /// The low bits of the clock: nothing is followed for the hour that they last.
    arrival_micros: u32,
    /// The handle of its batch.
    batch: u32,
    /// Its position there.
    position: u32,
    pub stage: Stage,
    /// It was refused: another one may take its number.
    is_vacant: bool,
}

impl Entry {
    fn arriving(now: u64) -> Self {
        Self {
            height: 0,
            arrival_micros: now as u32,
            batch: NOWHERE,
            position: 0,
            stage: Stage::Pending,
            is_vacant: false,
        }
    }

    /// Microseconds since it arrived.
    pub fn age(&self, now: u64) -> u64 {
        let age = (now as u32).wrapping_sub(self.arrival_micros);
        // A clock that was set back.
        if age > u32::MAX / 2 { 0 } else { u64::from(age) }
    }

    /// Handle of its batch, and its position there.
    pub fn place(&self) -> Option<(u32, u32)> {
        (self.batch != NOWHERE).then_some((self.batch, self.position))
    }

    /// Its batch is that with this handle.
    pub fn is_in(&self, handle: u32) -> bool {
        self.batch == handle
    }

    pub fn put(&mut self, (batch, position): (u32, u32)) {
        (self.batch, self.position) = (batch, position);
    }

    /// Nothing that is final.
    pub fn is_open(&self) -> bool {
        !self.is_vacant && self.stage < Stage::Expired
    }
}

/// See the module docs. An entry has the number of its id.
#[derive(Debug, Default)]
pub(super) struct Second {
    ids: IdSet<32>,
    entries: Pages<Entry>,
    vacant: usize,
    /// Entries that wait for their answer.
    pub pending: usize,
    /// Consensus time has passed it.
    pub is_over: bool,
}

impl Second {
    /// For about so many.
    pub fn with_room(entries: usize) -> Self {
        Self { ids: IdSet::with_room(entries), ..Self::default() }
    }

    pub fn number(&self, keys: &IdKeys, id: &TransactionId) -> Option<u32> {
        self.ids.number(keys, id)
    }

    pub fn get(&self, keys: &IdKeys, id: &TransactionId) -> Option<&Entry> {
        self.entries.get(self.ids.number(keys, id)? as usize)
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut Entry> {
        self.entries.get_mut(number as usize)
    }

    /// An entry that there may be, and its id.
    pub fn named_mut(&mut self, number: u32) -> Option<(&TransactionId, &mut Entry)> {
        let entry = self.entries.get_mut(number as usize)?;
        Some((self.ids.id(number), entry))
    }

    pub fn id(&self, number: u32) -> &TransactionId {
        self.ids.id(number)
    }

    /// A transaction arrives: followed from now on, unless there is an equal one, which stands there.
    pub fn arrive(&mut self, keys: &IdKeys, id: &TransactionId, now: u64) -> Option<Stage> {
        let (number, is_new) = self.ids.insert(keys, id);
        let number = number as usize;
        if !is_new {
            return Some(self.entries[number].stage);
        }
        self.pending += 1;
        if number < self.entries.len() {
            self.vacant -= 1;
            self.entries[number] = Entry::arriving(now);
        } else {
            assert_eq!(number, self.entries.len(), "an id without an entry");
            self.entries.push(Entry::arriving(now));
        }
        None
    }

    /// It was refused.
    pub fn remove(&mut self, keys: &IdKeys, number: u32) {
        self.ids.remove(keys, number);
        self.entries[number as usize].is_vacant = true;
        self.vacant += 1;
    }

    /// Every entry, with its number.
    pub fn entries(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (0..).zip(self.entries.iter()).filter(|(_, entry)| !entry.is_vacant)
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.entries.len() - self.vacant
    }
}
