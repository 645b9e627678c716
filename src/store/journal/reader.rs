//! The readers: whatever is durable, from any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::super::directory::DataDirectory;
use super::super::entries::{self, Decode, Entries, Take, Visit};
use super::super::index::Index;
use super::super::schema::{ContentKind, Entry, Meta};
use super::super::{Space, StoreError, StoreReader};
use super::frame::Secret;
use super::scan::read_bytes;
use super::tables::Tables;
use super::volume::Volume;
use crate::types::{Batch, CommitIndex, CommitReceipt, Digest, Payload, ProofOfStore};

/// Entries that are decoded before they are handed on.
const DECODED_AT_ONCE: usize = 1 << 15;
/// Opening says how far it has come each time that it has decoded so many: whole runs.
const PROGRESS_ENTRIES: usize = DECODED_AT_ONCE * 8;

/// What the writer and its readers hold together.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) volume: Arc<dyn Volume>,
    pub(super) secret: Secret,
    pub(super) meta: Meta,
    pub(super) tables: RwLock<Tables>,
    pub(super) index: RwLock<Index>,
    /// Bases of the uses of segments, stored before a use begins: whoever read from a segment sees
    /// here whether it was written over meanwhile.
    pub(super) bases: Vec<AtomicU64>,
    /// Room for further groups.
    pub(super) free_bytes: AtomicU64,
    /// Unlocked when the last reader is gone.
    pub(super) _directory: Option<DataDirectory>,
}

impl Shared {
    pub(super) fn tables<T>(&self, read: impl FnOnce(&Tables) -> T) -> T {
        read(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn index<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn index_mut<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Decodes runs of entries, the two halves of each at once.
fn decoded(
    entries: &[(&[u8], &[u8])],
    decode: &Decode<'_>,
    take: &mut Take<'_>,
) -> Result<(), StoreError> {
    let decoded = |half: &[(&[u8], &[u8])]| -> Result<Vec<Entry>, StoreError> {
        half.iter().map(|(key, value)| decode(key, value)).collect()
    };
    for (at, run) in entries.chunks(DECODED_AT_ONCE).enumerate() {
        let (first, second) = run.split_at(run.len() / 2);
        let (first, second) = if run.len() < DECODED_AT_ONCE {
            (decoded(first), decoded(second))
        } else {
            std::thread::scope(|scope| {
                let second = scope.spawn(|| decoded(second));
                let first = decoded(first);
                (first, second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        };
        first?.into_iter().chain(second?).for_each(&mut *take);
        let done = at * DECODED_AT_ONCE + run.len();
        if done.is_multiple_of(PROGRESS_ENTRIES) {
            tracing::info!(entries = done, of = entries.len(), "decoding the journal");
        }
    }
    Ok(())
}

impl Entries for Shared {
    fn scan_control(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.tables(|tables| {
            tables.entries().into_iter().try_for_each(|(key, value)| visit(key, value))
        })
    }

    fn decode_control(&self, decode: &Decode<'_>, take: &mut Take<'_>) -> Result<(), StoreError> {
        self.tables(|tables| decoded(&tables.entries(), decode, take))
    }

    fn control(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.tables(|tables| tables.entry(key).map(Bytes::copy_from_slice)))
    }

    /// `None` also if it was moved while it was read: it is found at the next look.
    fn content(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let Some(at) = self.tables(|tables| tables.content(key)) else { return Ok(None) };
        let bytes = read_bytes(&*self.volume, at.spot.segment, at.offset(), at.bytes)
            .map_err(|error| StoreError::io("reading content", &error))?;
        let base = self.bases[at.spot.segment as usize].load(Ordering::SeqCst);
        Ok((base == at.base).then_some(bytes))
    }
}

/// Reads what is durable, from any thread.
#[derive(Debug)]
pub(super) struct JournalReader(pub(super) Arc<Shared>);

impl StoreReader for JournalReader {
    fn batch(&self, digest: &Digest) -> Result<Option<Batch>, StoreError> {
        let chain = &self.0.meta.identity.chain;
        let find = || self.0.index(|index| index.content(digest, ContentKind::Batch));
        entries::located(find, |located| entries::batch(&*self.0, chain, digest, located))
    }

    fn may_hold(&self, digest: &Digest) -> bool {
        self.0.index(|index| index.content(digest, ContentKind::Batch)).is_some()
    }

    fn payload(&self, digest: &Digest) -> Result<Option<Payload>, StoreError> {
        let chain = &self.0.meta.identity.chain;
        let find = || self.0.index(|index| index.content(digest, ContentKind::Payload));
        entries::located(find, |located| entries::payload(&*self.0, chain, digest, located))
    }

    fn proof(&self, digest: &Digest) -> Result<Option<ProofOfStore>, StoreError> {
        let Some(expiration) = self.0.index(|index| index.proof(digest)) else { return Ok(None) };
        entries::proof(&*self.0, &self.0.meta.identity.chain, digest, expiration)
    }

    fn receipt(&self, index: CommitIndex) -> Result<Option<CommitReceipt>, StoreError> {
        entries::receipt(&*self.0, index)
    }

    fn space(&self) -> Space {
        let (content_bytes, contents) = self.0.index(Index::usage);
        let room = self.0.free_bytes.load(Ordering::Relaxed);
        // What can still be added is bounded by the disk too.
        let disk = self.0.volume.free_bytes().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell how much room the disk has");
            0
        });
        let counted = u64::from(self.0.volume.count()) * self.0.volume.segment_bytes();
        let all = self.0.bases.len() as u64 * self.0.volume.segment_bytes();
        let free_bytes = room.saturating_sub((all - counted).saturating_sub(disk));
        Space { content_bytes, contents, free_bytes }
    }
}
