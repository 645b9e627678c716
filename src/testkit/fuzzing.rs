//! Entry points for fuzz targets, which drive the core through its public API alone.
//!
//! Two doors that production keeps shut: writing a group without the engine's writer (into a store
//! that forgets everything, so no signature can count), and a store that was filled byte by byte
//! by somebody else.

use bytes::Bytes;

use crate::store::memory::MemoryStore;
use crate::store::schema::Table;
use crate::store::{Group, Persisted, StoreError};

/// Writes a group as the engine's writer would, and yields its promises.
pub fn persist(group: Group, store: &mut MemoryStore) -> Result<Persisted, StoreError> {
    group.persist(store)
}

/// Puts an entry into a store as it is, whatever it says: what damage, or an attacker with access
/// to the disk, could leave behind. Takes effect at the next [`crate::store::Store::recover`].
pub fn put_entry(store: &mut MemoryStore, table: Table, key: Vec<u8>, value: Bytes) {
    store.put_entry(table, key, value);
}

/// Every entry of a store, as [`put_entry`] takes it.
pub fn entries(store: &MemoryStore) -> Vec<(Table, Vec<u8>, Bytes)> {
    store.entries()
}
