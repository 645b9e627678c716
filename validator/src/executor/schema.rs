//! How the executor's state lies on disk.
//!
//! | key | value | lives |
//! |---|---|---|
//! | `s` | [`StateRecord`], BCS | for ever |
//! | `b`, height (u64, big-endian) | [`BlockSummary`], BCS | `execution.blocks_kept` blocks |
//! | `i`, height (u64, big-endian) | [`ExecutedIds`] | a little longer than until all have expired |
//! | `e`, epoch (u64, big-endian) | [`Boundary`], BCS | for ever |
//!
//! Everything a block changes is one `WriteBatch`, written with sync. Recovery replays the log up
//! to the last whole write and flushes it, so what was opened is durable.

use std::fs::File;
use std::path::{Path, PathBuf};

use quorum_store::types::{Author, ChainId, Digest, Epoch, PayloadHeader, Timestamp};
use rocksdb::{
    DB, DBRecoveryMode, Direction, ErrorKind, IteratorMode, LogLevel, Options, WriteBatch,
    WriteOptions,
};
use serde::{Deserialize, Serialize};

use super::{Identity, Progress};
use crate::exit::Failure;
use crate::transaction::TransactionId;

pub(super) const STATE_KEY: [u8; 1] = *b"s";
const SUMMARY_PREFIX: u8 = b'b';
const IDS_PREFIX: u8 = b'i';
const BOUNDARY_PREFIX: u8 = b'e';

/// Version of this layout.
const FORMAT: u32 = 2;

/// What can go wrong with the executor's state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// There is no state.
    #[error(
        "no execution state found in {0}: create the data directory with `init`; if this \
         validator ran before, its disk is lost"
    )]
    Missing(PathBuf),
    /// There is one that must not be overwritten.
    #[error("{0} already holds execution state; it is never overwritten")]
    Exists(PathBuf),
    /// Of another validator or chain.
    #[error("{0} belongs to another validator or chain; check the config's data directory")]
    Foreign(PathBuf),
    /// Written by another version.
    #[error("the execution state has format {found}, this release reads {FORMAT}")]
    Format {
        /// Its version.
        found: u32,
    },
    /// Reading or writing failed. Final for this life of the process.
    #[error("storage of the execution state failed: {0}; check the disk, then start again")]
    Io(String),
    /// No space left.
    #[error("disk full while writing the execution state; free space, then start again")]
    DiskFull,
    /// What is there cannot be right.
    #[error("the execution state is damaged: {0}; restore the disk")]
    Damaged(String),
    /// Not the next block.
    #[error("block {found} was to be executed, the next one is {expected}")]
    OutOfOrder {
        /// The next one.
        expected: u64,
        /// As given.
        found: u64,
    },
    /// Time went back.
    #[error("block {0} has a timestamp below its parent's")]
    TimeWentBack(u64),
    /// A block has to be executed again, and the state below it is not kept any more.
    #[error(
        "committed evidence says that content of block {0}, which was executed here, is gone, and \
         the state below it is not kept any more: give this validator a new data directory"
    )]
    NotKept(u64),
    /// A state that others agreed on, and that does not fit itself or ours.
    #[error("a state to take over does not fit: {0}")]
    Unfit(&'static str),
}

impl From<rocksdb::Error> for ExecutorError {
    fn from(error: rocksdb::Error) -> Self {
        let text = error.to_string();
        // The kind does not tell a full disk from any other failure; the text is the system's own.
        match error.kind() {
            _ if text.contains("No space left on device") => Self::DiskFull,
            ErrorKind::Corruption => Self::Damaged(text),
            _ => Self::Io(text),
        }
    }
}

impl From<ExecutorError> for Failure {
    fn from(error: ExecutorError) -> Self {
        let message = error.to_string();
        match error {
            ExecutorError::Missing(_) | ExecutorError::Damaged(_) => Self::Damaged(message),
            ExecutorError::Exists(_) | ExecutorError::Foreign(_) | ExecutorError::Format { .. } => {
                Self::Usage(message)
            }
            ExecutorError::Io(_) => Self::Storage(message),
            ExecutorError::DiskFull => Self::DiskFull(message),
            ExecutorError::OutOfOrder { .. }
            | ExecutorError::TimeWentBack(_)
            | ExecutorError::NotKept(_)
            | ExecutorError::Unfit(_) => Self::Other(message),
        }
    }
}

/// What execution has done, since genesis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Distinct transactions executed.
    pub executed_transactions: u64,
    /// Transactions refused because they were executed before.
    pub duplicates: u64,
    /// Transactions refused because of their expiration.
    pub expired: u64,
    /// Entries of batches that are not transactions.
    pub malformed: u64,
    /// Batches skipped.
    pub skipped: u64,
}

/// Everything but ids and summaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StateRecord {
    pub(super) format: u32,
    pub(super) author: Author,
    pub(super) chain: ChainId,
    pub(super) next_index: u64,
    pub(super) head: Digest,
    pub(super) header: PayloadHeader,
    pub(super) state_digest: Digest,
    pub(super) counters: Counters,
    /// The last height whose state was taken over from others as a whole; 0 if none was. What lies
    /// below it is not complete.
    pub(super) adopted: u64,
}

impl StateRecord {
    /// Before the first block.
    pub(super) fn genesis(identity: Identity, header: PayloadHeader) -> Self {
        Self {
            format: FORMAT,
            author: identity.author,
            chain: identity.chain,
            next_index: 1,
            head: header.digest(&identity.chain),
            header,
            state_digest: Digest::default(),
            counters: Counters::default(),
            adopted: 0,
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { author: self.author, chain: self.chain }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            next_index: self.next_index,
            head: self.head,
            header: self.header,
            block_timestamp: self.header.block_timestamp,
            state_digest: self.state_digest,
            counters: self.counters,
        }
    }
}

/// What is kept of an executed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSummary {
    /// Its height.
    pub height: u64,
    /// Its digest.
    pub digest: Digest,
    /// Its header.
    pub header: PayloadHeader,
    /// Batches it ordered.
    pub batches: u64,
    /// Transactions executed in it.
    pub transactions: u64,
    /// The state digest after it.
    pub state_digest: Digest,
    /// What was executed up to and including it.
    pub counters: Counters,
}

/// The end of an epoch, with what proves it to anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boundary {
    /// Of its last block.
    pub header: PayloadHeader,
    /// The encoded finalisation of that block by the epoch's committee.
    pub certificate: Vec<u8>,
}

/// Ids executed in one block, as they are stored: the block's timestamp (u64, little-endian), then
/// id and expiration (32 bytes, u64) of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExecutedIds {
    pub(super) block_timestamp: Timestamp,
    bytes: Vec<u8>,
}

const TIMESTAMP_BYTES: usize = 8;
const ENTRY_BYTES: usize = 32 + 8;

impl ExecutedIds {
    pub(super) fn new(block_timestamp: Timestamp) -> Self {
        Self { block_timestamp, bytes: block_timestamp.0.to_le_bytes().to_vec() }
    }

    pub(super) fn push(&mut self, id: &TransactionId, expiration: Timestamp) {
        self.bytes.extend_from_slice(id);
        self.bytes.extend_from_slice(&expiration.0.to_le_bytes());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == TIMESTAMP_BYTES
    }

    pub(super) fn len(&self) -> usize {
        (self.bytes.len() - TIMESTAMP_BYTES) / ENTRY_BYTES
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Id and expiration of each.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TransactionId, Timestamp)> + '_ {
        let (entries, _) = self.bytes[TIMESTAMP_BYTES..].as_chunks::<ENTRY_BYTES>();
        entries.iter().map(|entry| {
            let (mut id, mut expiration) = ([0; 32], [0; 8]);
            id.copy_from_slice(&entry[..32]);
            expiration.copy_from_slice(&entry[32..]);
            (id, Timestamp(u64::from_le_bytes(expiration)))
        })
    }

    pub(super) fn decode(height: u64, bytes: Vec<u8>) -> Result<Self, ExecutorError> {
        let head = bytes.first_chunk::<TIMESTAMP_BYTES>();
        match head.map(|head| Timestamp(u64::from_le_bytes(*head))) {
            Some(block_timestamp)
                if (bytes.len() - TIMESTAMP_BYTES).is_multiple_of(ENTRY_BYTES) =>
            {
                Ok(Self { block_timestamp, bytes })
            }
            _ => Err(ExecutorError::Damaged(format!("the ids of block {height} are malformed"))),
        }
    }
}

pub(super) fn summary_key(height: u64) -> [u8; 9] {
    key(SUMMARY_PREFIX, height)
}

pub(super) fn ids_key(height: u64) -> [u8; 9] {
    key(IDS_PREFIX, height)
}

/// Removes every block: their state is replaced as a whole.
pub(super) fn delete_blocks(batch: &mut WriteBatch) {
    for prefix in [SUMMARY_PREFIX, IDS_PREFIX] {
        batch.delete_range([prefix], [prefix + 1]);
    }
}

fn key(prefix: u8, height: u64) -> [u8; 9] {
    let mut key = [prefix; 9];
    key[1..].copy_from_slice(&height.to_be_bytes());
    key
}

fn options() -> Options {
    let mut options = Options::default();
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_write_buffer_size(16 << 20);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(64 << 20);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options
}

/// True if a database lies there.
pub(super) fn exists(path: &Path) -> bool {
    path.join("CURRENT").exists()
}

pub(super) fn open(path: &Path, create: bool) -> Result<DB, ExecutorError> {
    let mut options = options();
    options.create_if_missing(create);
    Ok(DB::open(&options, path)?)
}

/// For `check`, which holds no lock of its own here and writes nothing.
pub(super) fn open_read_only(path: &Path) -> Result<DB, ExecutorError> {
    Ok(DB::open_for_read_only(&options(), path, false)?)
}

pub(super) fn write(db: &DB, batch: WriteBatch) -> Result<(), ExecutorError> {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    Ok(db.write_opt(batch, &options)?)
}

/// Drops files that hold deleted ids and nothing else: of every block up to a height. Compaction
/// would get to them once there are gigabytes.
///
/// A file may go that says of an older one's ids that they are deleted. Then those are seen again at
/// the next start, and deleted again: they have expired, so nothing follows from them.
pub(super) fn drop_files_of_ids(db: &DB, up_to: u64) -> Result<(), ExecutorError> {
    Ok(db.delete_file_in_range(ids_key(0), ids_key(up_to))?)
}

/// Makes the directory's own entry durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), ExecutorError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))
        .and_then(|directory| directory.sync_all())
        .map_err(|error| ExecutorError::Io(error.to_string()))
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ExecutorError> {
    bcs::to_bytes(value).map_err(|error| ExecutorError::Damaged(error.to_string()))
}

fn decode<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, ExecutorError> {
    bcs::from_bytes(bytes).map_err(|error| ExecutorError::Damaged(format!("{what}: {error}")))
}

pub(super) fn read_state(db: &DB) -> Result<Option<StateRecord>, ExecutorError> {
    let Some(bytes) = db.get(STATE_KEY)? else { return Ok(None) };
    // The version comes first, so that it is read whatever follows.
    let found = bytes.first_chunk().map_or(0, |head| u32::from_le_bytes(*head));
    if found != FORMAT {
        return Err(ExecutorError::Format { found });
    }
    decode("the state record", &bytes).map(Some)
}

pub(super) fn read_summary(db: &DB, height: u64) -> Result<Option<BlockSummary>, ExecutorError> {
    let Some(bytes) = db.get(summary_key(height))? else { return Ok(None) };
    decode("a block summary", &bytes).map(Some)
}

pub(super) fn read_ids(db: &DB, height: u64) -> Result<Option<ExecutedIds>, ExecutorError> {
    db.get(ids_key(height))?.map(|bytes| ExecutedIds::decode(height, bytes)).transpose()
}

pub(super) fn read_boundary(db: &DB, epoch: Epoch) -> Result<Option<Boundary>, ExecutorError> {
    let Some(bytes) = db.get(key(BOUNDARY_PREFIX, epoch.0))? else { return Ok(None) };
    decode("the end of an epoch", &bytes).map(Some)
}

/// Durable when this returns.
pub(super) fn write_boundary(db: &DB, boundary: &Boundary) -> Result<(), ExecutorError> {
    let mut batch = WriteBatch::default();
    batch.put(key(BOUNDARY_PREFIX, boundary.header.epoch.0), encode(boundary)?);
    write(db, batch)
}

/// Every block whose ids are stored, by height.
pub(super) fn executed_ids(
    db: &DB,
) -> impl Iterator<Item = Result<(u64, ExecutedIds), ExecutorError>> + '_ {
    entries(db, IDS_PREFIX).map(|entry| {
        let (height, bytes) = entry?;
        Ok((height, ExecutedIds::decode(height, bytes)?))
    })
}

/// Every summary, by height.
pub(super) fn summaries(
    db: &DB,
) -> impl Iterator<Item = Result<(u64, BlockSummary), ExecutorError>> + '_ {
    entries(db, SUMMARY_PREFIX).map(|entry| {
        let (height, bytes) = entry?;
        Ok((height, decode("a block summary", &bytes)?))
    })
}

fn entries(
    db: &DB,
    prefix: u8,
) -> impl Iterator<Item = Result<(u64, Vec<u8>), ExecutorError>> + '_ {
    let start = [prefix];
    let iterator = db.iterator(IteratorMode::From(&start, Direction::Forward));
    iterator
        .map(|entry| entry.map_err(ExecutorError::from))
        .take_while(move |entry| entry.as_ref().map_or(true, |(key, _)| key[0] == prefix))
        .map(|entry| {
            let (key, value) = entry?;
            let height = key.get(1..).and_then(|tail| tail.try_into().ok());
            let height = height.map(u64::from_be_bytes);
            let height =
                height.ok_or_else(|| ExecutorError::Damaged("a key is malformed".into()))?;
            Ok((height, value.into_vec()))
        })
}
