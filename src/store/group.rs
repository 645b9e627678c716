//! The gate: a promise leaves only through a group whose commit returned.
//!
//! Nothing else lives in this module, because privacy is per module: whoever could add a function
//! here could mint a token. [`Group::persist`] is the only place that makes a [`Durable`].

use super::{CommitStats, Store, StoreError, StoredBatch};
use crate::sequencer::port::{Promise, Record};
use crate::types::{AbsenceStatement, Author};

/// Proof that the group this value travelled in is on disk.
#[derive(Debug)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }
}

/// A promise whose group is durable, opened for sending.
#[derive(Debug)]
pub enum Released {
    /// May be signed for.
    Sign(Durable<StoredBatch>),
    /// May be said to this validator.
    SignAbsence(Durable<AbsenceStatement>, Author),
    /// Everything else.
    Other(Promise),
}

impl Durable<Promise> {
    /// Opens it; the right to sign stays inside a token.
    pub fn release(self) -> Released {
        match self.0 {
            Promise::Sign(batch) => Released::Sign(Durable(batch)),
            Promise::SignAbsence { statement, to } => Released::SignAbsence(Durable(statement), to),
            other => Released::Other(other),
        }
    }
}

/// Records and the promises that must wait for them.
#[cfg_attr(not(feature = "engine"), allow(dead_code, reason = "the engine persists groups"))]
#[derive(Debug)]
pub struct Group {
    sequence: u64,
    records: Vec<Record>,
    promises: Vec<Promise>,
}

impl Group {
    pub(crate) fn new(sequence: u64, records: Vec<Record>, promises: Vec<Promise>) -> Self {
        Self { sequence, records, promises }
    }

    /// Its place in the order of groups.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What will be on disk.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Writes the group with one fsync, or nothing of it. Without records there is no I/O: all
    /// earlier groups of the same writer have returned already.
    #[cfg_attr(not(feature = "engine"), allow(dead_code, reason = "the engine persists groups"))]
    pub(crate) fn persist<S: Store + ?Sized>(self, store: &mut S) -> Result<Persisted, StoreError> {
        let stats = if self.records.is_empty() {
            CommitStats::default()
        } else {
            store.commit(&self.records)?
        };
        let promises = self.promises.into_iter().map(Durable).collect();
        Ok(Persisted { sequence: self.sequence, stats, promises })
    }
}

/// What a durable group lets go.
#[derive(Debug)]
pub struct Persisted {
    /// Its place in the order of groups.
    pub sequence: u64,
    /// What writing it took.
    pub stats: CommitStats,
    /// May leave now.
    pub promises: Vec<Durable<Promise>>,
}

#[cfg(test)]
mod tests;
