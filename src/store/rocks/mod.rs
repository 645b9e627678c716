//! The durable store: everything in `RocksDB`, one synced write per group.
//!
//! ```text
//!  Record ─encode─> WriteBatch ──write, fsync──> log ──flush──> control: small tables
//!  Record ─────────────^   (one per group)                      content: keys, bodies in blob files
//! ```
//!
//! **One commit point.** A group is one `WriteBatch` over both tables, written with sync by one
//! thread. It is atomic and checksummed in the database's log, and `Ok` comes after the fsync.
//!
//! **The opening barrier.** The database replays its log, flushes what it replayed to files of its
//! own and syncs them; [`Store::recover`] flushes again explicitly, syncs the directories, and
//! then writes a synced record that starts this life. What recovery returns is therefore durable
//! again, although whoever wrote it may have died between write and fsync and left bytes that only
//! the page cache held.
//!
//! **Opening on a full disk** works: the directory keeps a reserve of what opening may have to write.
//!
//! **Failure is final.** The first error of a write is kept and returned to every later commit
//! without touching the database. So are errors of its background threads: a flush that failed
//! means a disk that cannot be trusted, even where the log still could.
//!
//! **Invariants.** An entry in force in one table has its counterpart in the other; the index in
//! memory holds nothing that is not on disk; nothing leaves through a reader unless it matches its
//! digest; the lock outlives the last reader.
//!
//! **Assumptions.** fsync is honest; a sector is written whole or detectably not; one process.

mod config;
mod database;
#[cfg(test)]
pub(super) mod tests;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use rocksdb::WriteBatch;

pub use config::RocksConfig;
pub(super) use database::Database;

use super::directory::DataDirectory;
use super::entries;
use super::index::{Index, Tally};
use super::recovery;
use super::schema::{self, ContentKind, Meta, StoreIdentity};
use super::{CommitStats, Recovered, Space, Store, StoreError, StoreReader, sealed};
use crate::sequencer::port::Record;
use crate::types::{Batch, CommitIndex, CommitReceipt, Digest, Payload, ProofOfStore, Timestamp};

/// The one writer of a durable store.
#[derive(Debug)]
pub struct RocksStore {
    shared: Arc<Shared>,
    /// The first failure, once there is one.
    failed: Option<StoreError>,
    recovered: bool,
    /// Kept free for the next opening.
    opening_bytes: u64,
}

/// What the writer and its readers hold together. Fields are dropped in order: the database is
/// closed before the directory is unlocked.
#[derive(Debug)]
struct Shared {
    database: Database,
    index: RwLock<Index>,
    directory: DataDirectory,
}

impl Shared {
    fn meta(&self) -> &Meta {
        self.directory.meta()
    }

    fn index<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn index_mut<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl RocksStore {
    /// Creates a store where none is, and opens it.
    pub fn create(
        path: &Path,
        identity: StoreIdentity,
        config: &RocksConfig,
    ) -> Result<Self, StoreError> {
        Self::create_with(path, identity, config, None)
    }

    fn create_with(
        path: &Path,
        identity: StoreIdentity,
        config: &RocksConfig,
        silent_until: Option<Timestamp>,
    ) -> Result<Self, StoreError> {
        config.validate()?;
        let (directory, database) = DataDirectory::create(path, identity, |path, meta| {
            let database = Database::create(path, config)?;
            let mut batch = WriteBatch::default();
            database.stage(&mut batch, &schema::encode_meta(meta))?;
            if let Some(until) = silent_until {
                database.stage(&mut batch, &schema::encode_silence(until))?;
            }
            database.write_synced(batch, "creating the database")?;
            database.flush()?;
            Ok(database)
        })?;
        Ok(Self::new(directory, database, config))
    }

    /// Creates a store in place of one that was lost: nothing is signed before `until`, in consensus
    /// time, also not after a restart. See [`crate::sequencer::silent_until`].
    pub fn replace(
        path: &Path,
        identity: StoreIdentity,
        config: &RocksConfig,
        until: Timestamp,
    ) -> Result<Self, StoreError> {
        Self::create_with(path, identity, config, Some(until))
    }

    /// Opens the store of this validator on this chain.
    pub fn open(
        path: &Path,
        identity: StoreIdentity,
        config: &RocksConfig,
    ) -> Result<Self, StoreError> {
        config.validate()?;
        let directory = DataDirectory::open_own(path, &identity)?;
        directory.make_room(config.opening_bytes())?;
        let database = Database::open(&directory.database(), config)?;
        Ok(Self::new(directory, database, config))
    }

    fn new(directory: DataDirectory, database: Database, config: &RocksConfig) -> Self {
        let index = RwLock::default();
        let shared = Arc::new(Shared { database, index, directory });
        Self { shared, failed: None, recovered: false, opening_bytes: config.opening_bytes() }
    }

    fn write(&self, records: &[Record]) -> Result<CommitStats, StoreError> {
        let start = Instant::now();
        let Shared { database, .. } = &*self.shared;
        database.background_failure()?;
        let mut batch = WriteBatch::default();
        let mut tally = Tally::default();
        let mut staged = Ok(());
        self.shared.index(|index| {
            schema::encode(records, index.commits(), |write| {
                tally.add(&write);
                if staged.is_ok() {
                    staged = database.stage(&mut batch, &write);
                }
            });
        });
        staged?;
        self.shared.index_mut(|index| index.forget(records));
        database.write_synced(batch, "writing a group")?;
        self.shared.index_mut(|index| index.apply(records, &tally));
        let Tally { bytes, content_bytes, .. } = tally;
        Ok(CommitStats { fsyncs: 1, bytes, content_bytes, elapsed: start.elapsed() })
    }

    fn open_life(&self) -> Result<Recovered, StoreError> {
        let Shared { database, directory, .. } = &*self.shared;
        let image = recovery::recover(database, self.shared.meta())?;
        database.flush()?;
        directory.sync()?;
        let mut batch = WriteBatch::default();
        for repair in &image.repairs {
            database.stage(&mut batch, repair)?;
        }
        database.stage(&mut batch, &schema::encode_life(image.life))?;
        database.write_synced(batch, "starting a life of the store")?;
        self.shared.index_mut(|index| *index = image.index);
        directory.keep_reserve(self.opening_bytes);
        Ok(image.recovered)
    }
}

impl sealed::Sealed for RocksStore {}

impl Store for RocksStore {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let recovered = self.open_life();
        self.recovered = recovered.is_ok();
        recovered.inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn commit(&mut self, records: &[Record]) -> Result<CommitStats, StoreError> {
        assert!(self.recovered || self.failed.is_some(), "S2: a group before recovery");
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let written = self.write(records);
        written.inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn reader(&self) -> Arc<dyn StoreReader> {
        Arc::new(RocksReader(Arc::clone(&self.shared)))
    }
}

/// Reads what is durable, from any thread.
#[derive(Debug)]
struct RocksReader(Arc<Shared>);

impl StoreReader for RocksReader {
    fn batch(&self, digest: &Digest) -> Result<Option<Batch>, StoreError> {
        let Shared { database, .. } = &*self.0;
        let chain = &self.0.meta().identity.chain;
        let find = || self.0.index(|index| index.content(digest, ContentKind::Batch));
        entries::located(find, |located| entries::batch(database, chain, digest, located))
    }

    fn payload(&self, digest: &Digest) -> Result<Option<Payload>, StoreError> {
        let Shared { database, .. } = &*self.0;
        let chain = &self.0.meta().identity.chain;
        let find = || self.0.index(|index| index.content(digest, ContentKind::Payload));
        entries::located(find, |located| entries::payload(database, chain, digest, located))
    }

    fn proof(&self, digest: &Digest) -> Result<Option<ProofOfStore>, StoreError> {
        let Some(expiration) = self.0.index(|index| index.proof(digest)) else { return Ok(None) };
        entries::proof(&self.0.database, &self.0.meta().identity.chain, digest, expiration)
    }

    fn receipt(&self, index: CommitIndex) -> Result<Option<CommitReceipt>, StoreError> {
        entries::receipt(&self.0.database, index)
    }

    fn space(&self) -> Space {
        let (content_bytes, contents) = self.0.index(Index::usage);
        // Unknown room counts as none: it stops admission, and nothing else.
        let free_bytes = self.0.directory.free_bytes().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell how much room the disk has");
            0
        });
        Space { content_bytes, contents, free_bytes }
    }
}
