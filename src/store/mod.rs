//! Where groups become durable.
//!
//! **Contract.** [`Store::commit`] returns `Ok` only after all records of the group are on stable
//! storage in one atomic, checksummed write, and after every earlier group is. A crash keeps all of
//! a group or none of it. `Err` is final: the store is poisoned, the caller must not sign again in
//! this life of the process, and must not retry (a failed fsync may have dropped the data while
//! reporting success the second time).
//!
//! Whoever implements [`Store`] vouches for fsync, so the trait is sealed: the implementations are
//! [`journal::JournalStore`] (feature `storage`), for tests [`memory::MemoryStore`], and to be measured
//! against `rocks::RocksStore` (feature `rocksdb`).
//!
//! `Durable` tokens are made only inside the crate, by the engine's writer:
//!
//! ```
//! use quorum_store::crypto::{Ed25519Signer, Signer};
//! use quorum_store::store::{Durable, StoredBatch};
//! use quorum_store::types::{Scope, SignedBatchInfo};
//!
//! // Whoever holds a token may sign...
//! fn vote(signer: &Ed25519Signer, scope: &Scope, token: &Durable<StoredBatch>) -> SignedBatchInfo {
//!     signer.sign_batch(scope, token)
//! }
//! ```
//!
//! ```compile_fail
//! use quorum_store::crypto::{Ed25519Signer, Signer};
//! use quorum_store::store::{Durable, StoredBatch};
//! use quorum_store::types::{Scope, SignedBatchInfo};
//!
//! // ...but nobody makes a token of their own.
//! fn vote(signer: &Ed25519Signer, scope: &Scope, batch: StoredBatch) -> SignedBatchInfo {
//!     signer.sign_batch(scope, &Durable(batch))
//! }
//! ```
//!
//! ```compile_fail
//! use quorum_store::crypto::{Ed25519Signer, Signer};
//! use quorum_store::store::StoredBatch;
//! use quorum_store::types::{Scope, SignedBatchInfo};
//!
//! // A batch that is merely stored in memory is not enough.
//! fn vote(signer: &Ed25519Signer, scope: &Scope, batch: &StoredBatch) -> SignedBatchInfo {
//!     signer.sign_batch(scope, batch)
//! }
//! ```
//!
//! The store of an embedder cannot vouch for fsync, and a group cannot be persisted past the
//! writer:
//!
//! ```
//! use quorum_store::sequencer::port::Record;
//! fn look(group: &quorum_store::store::Group) -> &[Record] {
//!     group.records()
//! }
//! ```
//!
//! ```compile_fail
//! use quorum_store::store::{Group, memory::MemoryStore};
//! fn shortcut(group: Group, store: &mut MemoryStore) {
//!     let _ = group.persist(store);
//! }
//! ```
//!
//! ```compile_fail
//! use quorum_store::sequencer::port::Record;
//! use quorum_store::store::{CommitStats, Recovered, Store, StoreError, StoreReader};
//! struct Fake;
//! impl Store for Fake {
//!     fn recover(&mut self) -> Result<Recovered, StoreError> { unimplemented!() }
//!     fn commit(&mut self, _: &[Record]) -> Result<CommitStats, StoreError> {
//!         Ok(CommitStats::default())
//!     }
//!     fn reader(&self) -> std::sync::Arc<dyn StoreReader> { unimplemented!() }
//! }
//! ```

#[cfg(feature = "storage")]
pub mod check;
#[cfg(feature = "storage")]
pub mod directory;
mod entries;
mod error;
mod group;
mod hash;
mod index;
#[cfg(feature = "storage")]
pub mod journal;
pub mod memory;
mod recovery;
#[cfg(feature = "rocksdb")]
pub mod rocks;
pub mod schema;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use error::StoreError;
pub use group::{Durable, Group, Persisted, Released};
pub use schema::StoreIdentity;

use crate::sequencer::port::Record;
use crate::types::{Author, Batch, Digest, Epoch, Incarnation, Payload, ProofOfStore};

pub(crate) mod sealed {
    /// Only this crate vouches for fsync.
    pub trait Sealed {}
}

/// What a token of durability is about: one batch, at this validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// The batch.
    pub digest: Digest,
    /// Its author, who is sent the signature.
    pub author: Author,
    /// Its epoch: the scope of the signature.
    pub epoch: Epoch,
}

/// What committing one group took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Fsyncs issued by us for it.
    pub fsyncs: u64,
    /// Bytes handed to the storage for it.
    pub bytes: u64,
    /// Of those, bytes of batch bodies and payloads.
    pub content_bytes: u64,
    /// Time until it was durable.
    pub elapsed: Duration,
}

/// A store of groups. Sealed: see the module docs.
pub trait Store: sealed::Sealed + Send + 'static {
    /// Everything that survived, after the opening barrier: what is returned is durable again,
    /// although the process that wrote it may have died between write and fsync. Called at the
    /// start of each life of the sequencer: it trusts nothing that is in memory.
    fn recover(&mut self) -> Result<Recovered, StoreError>;

    /// Makes all records durable in one atomic write and one fsync.
    fn commit(&mut self, records: &[Record]) -> Result<CommitStats, StoreError>;

    /// What it can take at all.
    fn limits(&self) -> StoreLimits {
        StoreLimits { group_bytes_max: u64::MAX, capacity_bytes: u64::MAX }
    }

    /// A handle for readers on other threads.
    fn reader(&self) -> Arc<dyn StoreReader>;
}

/// Reads durable content by digest, concurrently with the writer.
pub trait StoreReader: Send + Sync + 'static {
    /// A batch; its body is checked against its digest before it is returned.
    fn batch(&self, digest: &Digest) -> Result<Option<Batch>, StoreError>;

    /// False if a batch is certainly not here, as far as memory knows: nobody need look on the disk.
    fn may_hold(&self, _digest: &Digest) -> bool {
        true
    }

    /// A payload; checked against its digest before it is returned.
    fn payload(&self, digest: &Digest) -> Result<Option<Payload>, StoreError>;

    /// The proof of store of a batch.
    fn proof(&self, digest: &Digest) -> Result<Option<ProofOfStore>, StoreError>;

    /// The receipt of a commit, while it is kept.
    fn receipt(
        &self,
        index: crate::types::CommitIndex,
    ) -> Result<Option<crate::types::CommitReceipt>, StoreError>;

    /// Bytes in use and bytes free where the data directory lies.
    fn space(&self) -> Space;
}

/// What a store can take at all, whatever the disk has free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Bytes of the largest group.
    pub group_bytes_max: u64,
    /// Bytes of everything together.
    pub capacity_bytes: u64,
}

/// Room on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes of live content.
    pub content_bytes: u64,
    /// Contents held.
    pub contents: u64,
    /// Bytes free for us on the file system.
    pub free_bytes: u64,
}

/// The incarnation and records that a store held when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// The store's incarnation.
    pub incarnation: Incarnation,
    /// Every record still in force, without bodies except those of our own unordered batches;
    /// batches before proofs, payloads before commits, each kind in a deterministic order.
    pub records: Vec<Record>,
}
