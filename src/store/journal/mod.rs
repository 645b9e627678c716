//! The durable store: groups are frames of an append-only journal, and nothing else is written.
//!
//! ```text
//!  Record ─encode─> frame ──one write, one fsync──> ring of segments
//!                     └──after that──> tables in memory: small entries, where each content lies
//! ```
//!
//! **One commit point.** A group is one frame: one write of whole blocks to a place that was
//! written before, and one fsync. A frame is written only after the one before it is durable.
//! Everything in memory is derived from the frames, at opening by reading them all again: the
//! changes only, because a content is read when somebody asks for it.
//!
//! **Every crash point.**
//!
//! | the power goes | what is found |
//! |---|---|
//! | while a frame is written | its checksum, or the hash of one of its contents, is wrong: it is dropped, as nothing was promised for it |
//! | between the write and the fsync | the frame, or not; if it is there, opening writes it again and syncs it before anything is promised |
//! | while the first frame of a segment is written | the same; what was in the segment was let go by a durable frame before |
//! | while a segment is added | a file that `RING` does not count: it is made anew |
//! | while opening writes the last frame again | the same bytes |
//!
//! **Invariants.** Sequences have no gap from `needed` to the last frame. Nothing in force lies in a
//! segment that may be written over, and a durable frame has said so before it is. What is in force
//! in the oldest segment when room gets short is copied forward with the next groups, from memory if a
//! frame has rotted.
//!
//! **Failure is final.** The first error of a write is kept and returned to every later commit.
//!
//! **Assumptions.** fsync is honest; a sector is written whole or as it was; one process. Rot of the
//! very last frame after a crash looks like a torn tail.

mod forward;
mod frame;
mod image;
mod live;
mod reader;
mod ring;
mod scan;
mod tables;
#[cfg(test)]
mod tests;
mod volume;
mod window;
mod writer;

use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub(super) use self::image::Image;
use self::reader::JournalReader;
use self::volume::{Access, BLOCK, Files, Volume};
use self::writer::Journal;
use super::directory::DataDirectory;
use super::schema::StoreIdentity;
use super::{CommitStats, Recovered, Store, StoreError, StoreLimits, StoreReader, sealed};
use crate::sequencer::port::Record;
use crate::types::Timestamp;

/// Settings of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// Length of a segment, fixed when the store is created: bytes, default 32 MiB, 1 MiB to 4 GiB,
    /// in whole blocks of 4 KiB. A group is never longer.
    pub segment_bytes: ByteSize,
    /// Most segments, which bounds the disk used: default 256, 4 to 65,536. When what is in force
    /// fills them, nothing more is admitted until something expires.
    pub segments_max: u32,
    /// Blocks bypass the page cache where the file system allows it: default true.
    pub direct_io: bool,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self { segment_bytes: ByteSize::mib(32), segments_max: 256, direct_io: true }
    }
}

impl JournalConfig {
    fn access(&self) -> Access {
        if self.direct_io { Access::Direct } else { Access::Cached }
    }

    /// Checks every bound.
    pub fn validate(&self) -> Result<(), StoreError> {
        let within = |name, value, minimum, maximum| {
            if (minimum..=maximum).contains(&value) {
                Ok(())
            } else {
                Err(StoreError::Setting { name, value, minimum, maximum })
            }
        };
        let segment_bytes = self.segment_bytes.as_u64();
        within("segment_bytes", segment_bytes, 1 << 20, 4 << 30)?;
        within("segment_bytes modulo 4096", segment_bytes % BLOCK as u64, 0, 0)?;
        within("segments_max", u64::from(self.segments_max), 4, 1 << 16)
    }
}

/// The one writer of a durable store.
#[derive(Debug)]
pub struct JournalStore(Journal);

impl JournalStore {
    /// Creates a store where none is, and opens it.
    pub fn create(
        path: &Path,
        identity: StoreIdentity,
        config: &JournalConfig,
    ) -> Result<Self, StoreError> {
        Self::create_with(path, identity, config, None)
    }

    /// Creates a store in place of one that was lost: nothing is signed before `until`, in consensus
    /// time, also not after a restart. See [`crate::sequencer::silent_until`].
    pub fn replace(
        path: &Path,
        identity: StoreIdentity,
        config: &JournalConfig,
        until: Timestamp,
    ) -> Result<Self, StoreError> {
        Self::create_with(path, identity, config, Some(until))
    }

    fn create_with(
        path: &Path,
        identity: StoreIdentity,
        config: &JournalConfig,
        silent_until: Option<Timestamp>,
    ) -> Result<Self, StoreError> {
        const DOING: &str = "creating the journal";
        config.validate()?;
        let (directory, files) = DataDirectory::create(path, identity, |path, meta| {
            let doing = |error| StoreError::io(DOING, &error);
            let secret = volume::random_secret().map_err(doing)?;
            let files =
                Files::create(path, secret, config.segment_bytes.as_u64(), config.direct_io);
            let files: Arc<dyn Volume> = Arc::new(files.map_err(doing)?);
            Journal::format(&files, &secret, meta, silent_until)?;
            Ok((files, secret))
        })?;
        let (files, secret) = files;
        let meta = *directory.meta();
        Ok(Self(Journal::new(files, secret, meta, config.segments_max, Some(directory))))
    }

    /// Opens the store of this validator on this chain.
    pub fn open(
        path: &Path,
        identity: StoreIdentity,
        config: &JournalConfig,
    ) -> Result<Self, StoreError> {
        config.validate()?;
        let directory = DataDirectory::open_own(path, &identity)?;
        let files = Files::open(&directory.database(), config.access())?;
        let (secret, meta) = (files.secret(), *directory.meta());
        let files = Arc::new(files);
        Ok(Self(Journal::new(files, secret, meta, config.segments_max, Some(directory))))
    }
}

impl sealed::Sealed for JournalStore {}

impl Store for JournalStore {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.0.recover()
    }

    fn commit(&mut self, records: &[Record]) -> Result<CommitStats, StoreError> {
        self.0.commit(records)
    }

    fn limits(&self) -> StoreLimits {
        let segment_bytes = self.0.shared.volume.segment_bytes();
        let capacity_bytes = segment_bytes.saturating_mul(u64::from(self.0.segments_max));
        StoreLimits { group_bytes_max: segment_bytes, capacity_bytes }
    }

    fn reader(&self) -> Arc<dyn StoreReader> {
        Arc::new(JournalReader(Arc::clone(&self.0.shared)))
    }
}

/// True if the directory holds a journal.
pub(super) fn is_at(database: &Path) -> bool {
    volume::is_ring(database)
}
