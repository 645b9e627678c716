//! A store that forgets everything when the process ends: for tests and simulation only.
//!
//! It keeps the same entries as the durable stores, in ordered maps, and recovers through the same
//! code. A crash is modelled by [`MemoryStore::clone_durable`]: a group is either in the copy or
//! not, as its commit had returned or not. It issues no fsync, and says so in its statistics.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::entries::{self, Entries, Visit};
use super::index::{Index, Tally};
use super::recovery;
use super::schema::{self, ContentKind, FORMAT_VERSION, Meta, StoreIdentity, Table, Value, Write};
use super::{CommitStats, Recovered, Space, Store, StoreError, StoreReader, sealed};
use crate::sequencer::port::Record;
use crate::types::{
    Author, Batch, ChainId, CommitIndex, CommitReceipt, Digest, Incarnation, Payload, ProofOfStore,
    Timestamp,
};

/// Loses everything with the process. Never use it for a validator whose signatures count.
#[derive(Debug)]
pub struct MemoryStore {
    meta: Meta,
    shared: Arc<RwLock<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    tables: Tables,
    index: Index,
}

#[derive(Clone, Debug, Default)]
struct Tables {
    content: BTreeMap<Vec<u8>, Bytes>,
    control: BTreeMap<Vec<u8>, Bytes>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(author: Author, chain: ChainId, incarnation: Incarnation) -> Self {
        let identity = StoreIdentity { author, chain };
        let meta = Meta { format: FORMAT_VERSION, incarnation, identity };
        let mut state = State::default();
        state.tables.apply(schema::encode_meta(&meta));
        Self { meta, shared: Arc::new(RwLock::new(state)) }
    }

    /// An empty store in place of one that was lost: nothing is signed before `until`.
    pub fn replacement(
        author: Author,
        chain: ChainId,
        incarnation: Incarnation,
        until: Timestamp,
    ) -> Self {
        let store = Self::new(author, chain, incarnation);
        store.write(|state| state.tables.apply(schema::encode_silence(until)));
        store
    }

    /// What another life would find if this one ended now. The two share no later change.
    #[must_use]
    pub fn clone_durable(&self) -> Self {
        let state = self.read(State::clone);
        Self { meta: self.meta, shared: Arc::new(RwLock::new(state)) }
    }

    /// Sets an entry to anything at all.
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn put_entry(&mut self, table: Table, key: Vec<u8>, value: Bytes) {
        self.write(|state| drop(state.tables.table(table).insert(key, value)));
    }

    /// Every entry.
    #[cfg(feature = "testkit")]
    pub(crate) fn entries(&self) -> Vec<(Table, Vec<u8>, Bytes)> {
        let of = |table, entries: &BTreeMap<Vec<u8>, Bytes>| {
            let entries = entries.iter().map(|(key, value)| (table, key.clone(), value.clone()));
            entries.collect::<Vec<_>>()
        };
        self.read(|state| {
            let content = of(Table::Content, &state.tables.content);
            content.into_iter().chain(of(Table::Control, &state.tables.control)).collect()
        })
    }

    /// The writes of one group, as bytes: what a crash can tear.
    #[cfg(feature = "testkit")]
    pub(crate) fn encode(&self, records: &[Record]) -> Vec<u8> {
        let mut writes: Vec<(u8, Vec<u8>, Option<Vec<u8>>)> = Vec::new();
        self.read(|state| {
            schema::encode(records, state.index.commits(), |write| {
                let (table, key, value) = match write {
                    Write::Put { table, key, value: Value::Encoded(value) } => {
                        (table, key, Some(value))
                    }
                    Write::Put { table, key, value: Value::Body { bytes: value, .. } } => {
                        (table, key, Some(value.to_vec()))
                    }
                    Write::Delete { table, key } => (table, key, None),
                };
                writes.push((u8::from(table == Table::Control), key, value));
            });
        });
        crate::types::codec::encode(&writes)
    }

    /// Carries out what [`Self::encode`] made; takes effect at the next [`Store::recover`].
    #[cfg(feature = "testkit")]
    pub(crate) fn replay(&mut self, writes: &[u8]) {
        let writes = crate::types::codec::decode("group", writes, usize::MAX);
        let writes: Vec<(u8, Vec<u8>, Option<Vec<u8>>)> = match writes {
            Ok(writes) => writes,
            Err(error) => unreachable!("a frame whose checksum holds: {error}"),
        };
        self.write(|state| {
            for (table, key, value) in writes {
                let table = if table == 0 { Table::Content } else { Table::Control };
                state.tables.apply(match value {
                    Some(value) => Write::Put { table, key, value: Value::Encoded(value) },
                    None => schema::delete(table, key),
                });
            }
        });
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.shared.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut State) -> T) -> T {
        write(&mut self.shared.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tables {
    fn table(&mut self, table: Table) -> &mut BTreeMap<Vec<u8>, Bytes> {
        match table {
            Table::Content => &mut self.content,
            Table::Control => &mut self.control,
        }
    }

    fn apply(&mut self, write: Write<'_>) {
        match write {
            Write::Put { table, key, value } => {
                let value = match value {
                    Value::Encoded(bytes) => Bytes::from(bytes),
                    Value::Body { bytes, .. } => bytes.clone(),
                };
                self.table(table).insert(key, value);
            }
            Write::Delete { table, key } => drop(self.table(table).remove(&key)),
        }
    }
}

impl Entries for Tables {
    fn scan_control(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.control.iter().try_for_each(|(key, value)| visit(key, value))
    }

    fn control(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.control.get(key).cloned())
    }

    fn content(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.content.get(key).cloned())
    }
}

impl sealed::Sealed for MemoryStore {}

impl Store for MemoryStore {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        let image = self.read(|state| recovery::recover(&state.tables, &self.meta))?;
        self.write(|state| {
            image.repairs.into_iter().for_each(|repair| state.tables.apply(repair));
            state.tables.apply(schema::encode_life(image.life));
            state.index = image.index;
        });
        Ok(image.recovered)
    }

    fn commit(&mut self, records: &[Record]) -> Result<CommitStats, StoreError> {
        self.write(|state| {
            let State { tables, index } = state;
            let mut tally = Tally::default();
            schema::encode(records, index.commits(), |write| {
                tally.add(&write);
                tables.apply(write);
            });
            index.apply(records, &tally);
            let Tally { bytes, content_bytes, .. } = tally;
            Ok(CommitStats { bytes, content_bytes, ..CommitStats::default() })
        })
    }

    fn reader(&self) -> Arc<dyn StoreReader> {
        Arc::new(MemoryReader { chain: self.meta.identity.chain, shared: Arc::clone(&self.shared) })
    }
}

/// Reads what the store holds now.
#[derive(Debug)]
struct MemoryReader {
    chain: ChainId,
    shared: Arc<RwLock<State>>,
}

impl MemoryReader {
    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.shared.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StoreReader for MemoryReader {
    fn batch(&self, digest: &Digest) -> Result<Option<Batch>, StoreError> {
        self.read(|State { tables, index }| {
            let find = || index.content(digest, ContentKind::Batch);
            let load = |located| entries::batch(tables, &self.chain, digest, located);
            entries::located(find, load)
        })
    }

    fn payload(&self, digest: &Digest) -> Result<Option<Payload>, StoreError> {
        self.read(|State { tables, index }| {
            let find = || index.content(digest, ContentKind::Payload);
            let load = |located| entries::payload(tables, &self.chain, digest, located);
            entries::located(find, load)
        })
    }

    fn proof(&self, digest: &Digest) -> Result<Option<ProofOfStore>, StoreError> {
        self.read(|state| {
            let Some(expiration) = state.index.proof(digest) else { return Ok(None) };
            entries::proof(&state.tables, &self.chain, digest, expiration)
        })
    }

    fn receipt(&self, index: CommitIndex) -> Result<Option<CommitReceipt>, StoreError> {
        self.read(|state| entries::receipt(&state.tables, index))
    }

    fn space(&self) -> Space {
        let (content_bytes, contents) = self.read(|state| state.index.usage());
        Space { content_bytes, contents, free_bytes: u64::MAX }
    }
}
