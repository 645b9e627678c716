//! Executes finalised blocks: the part of the validator that has a state.
//!
//! The state is deliberately small, a chain of digests over what was executed, but it is kept like
//! a real one:
//!
//! - **One commit point.** The next index, the state digest, the ids executed in a block and the
//!   block's summary are one synced write. A crash keeps all of a block or nothing of it, so a
//!   block is never executed twice and never skipped: whoever feeds this resumes at
//!   [`Progress::next_index`].
//! - **Replicated decisions only.** What is executed follows from the blocks: a transaction is
//!   refused if its expiration lies below the block's timestamp, or more than the longest life
//!   above it, or if its id was executed before. No clock and no local history is asked, so the
//!   state digest is equal at equal height at every correct validator.
//! - **Back only as a whole.** What a commit rewrites is executed again from the state below it,
//!   which one write brings back (`revert`).
//! - **Gaps only as a whole.** The state of others ([`snapshot`]) is taken over in one write as
//!   well, with the index it belongs to.
//! - **Bounded memory.** An id is remembered until it has expired by consensus time; after that the
//!   first rule refuses it. Ids that expire in the same second are dropped together.
//!
//! A failed write is final: the caller ends the process, and the next start resumes here.

mod archive;
pub mod check;
mod revert;
mod schema;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use quorum_store::engine::MaterializedBatch;
use quorum_store::types::{Author, ChainId, Digest, PayloadHeader, Timestamp};
use rocksdb::{DB, WriteBatch};

pub use archive::Archive;
pub use schema::{BlockSummary, Boundary, Counters, ExecutorError};

use crate::ids::second_of;
use crate::transaction::{self, Envelope, TransactionId};
use archive::{Dedup, Seconds};
use schema::{ExecutedIds, StateRecord};

const DOMAIN: &[u8] = b"quorum-store/v1/executed-state";

/// Ids stay on disk for so much longer than they are needed here, in consensus time: whoever takes
/// over our state may ask for that of a moment ago.
const SERVED_SPAN: std::time::Duration = std::time::Duration::from_secs(10);

/// After so many blocks whose ids were deleted, files that hold nothing else are dropped.
const DEAD_BLOCKS_MAX: usize = 64;

/// What the state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The validator.
    pub author: Author,
    /// The chain.
    pub chain: ChainId,
}

/// What execution needs to know of the chain.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Longest life of a transaction.
    pub transaction_life_max: std::time::Duration,
    /// Summaries of this many blocks are kept.
    pub blocks_kept: u64,
}

/// How far execution got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The index of the block to execute next.
    pub next_index: u64,
    /// Digest of the block below it.
    pub head: Digest,
    /// Header of that block.
    pub header: PayloadHeader,
    /// Timestamp of that block.
    pub block_timestamp: Timestamp,
    /// Digest over everything executed so far.
    pub state_digest: Digest,
    /// What was executed and what was not.
    pub counters: Counters,
}

impl Progress {
    /// Height of the last executed block; 0 is genesis.
    pub const fn height(&self) -> u64 {
        self.next_index - 1
    }
}

/// A block with its content.
#[derive(Debug)]
pub struct Block {
    /// Its digest.
    pub digest: Digest,
    /// Its header.
    pub header: PayloadHeader,
    /// Its batches in order of execution.
    pub batches: Vec<MaterializedBatch>,
}

/// What became of a block.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BlockOutcome {
    /// Id and expiration of what was executed, in order.
    pub executed: Vec<(TransactionId, Timestamp)>,
    /// Ids refused because of their expiration.
    pub expired: Vec<TransactionId>,
    /// How many were refused because they were executed before.
    pub duplicates: u64,
    /// Entries of batches that are not transactions.
    pub malformed: u64,
    /// Batches without content at this index.
    pub skipped: Vec<Digest>,
}

/// A block whose ids are on disk.
#[derive(Clone, Copy, Debug)]
struct Stored {
    height: u64,
    block_timestamp: Timestamp,
}

/// The executor. One owner; readers use its [`Archive`].
#[derive(Debug)]
pub struct Executor {
    db: Arc<DB>,
    rules: Rules,
    state: StateRecord,
    dedup: Dedup,
    /// Blocks whose ids are on disk, oldest first.
    stored: VecDeque<Stored>,
    /// Blocks whose ids were deleted since their files were looked for.
    dead: usize,
    /// Batches without content that this process executed around, by height.
    skipped: BTreeSet<(u64, Digest)>,
}

impl Executor {
    /// Makes the state of a chain at genesis. Never overwrites one that has executed something.
    pub fn create(
        path: &Path,
        identity: Identity,
        genesis: PayloadHeader,
    ) -> Result<(), ExecutorError> {
        let db = schema::open(path, true)?;
        if let Some(state) = schema::read_state(&db)? {
            // A creation that was interrupted before the rest of the data directory was complete
            // leaves the genesis state behind; it may be completed.
            let fresh = state.next_index == 1 && state.identity() == identity;
            return if fresh { Ok(()) } else { Err(ExecutorError::Exists(path.to_owned())) };
        }
        let state = StateRecord::genesis(identity, genesis);
        let mut batch = WriteBatch::default();
        batch.put(schema::STATE_KEY, schema::encode(&state)?);
        schema::write(&db, batch)?;
        schema::sync_parent(path)
    }

    /// Opens the state and rebuilds what is remembered.
    pub fn open(path: &Path, identity: Identity, rules: Rules) -> Result<Self, ExecutorError> {
        if !schema::exists(path) {
            return Err(ExecutorError::Missing(path.to_owned()));
        }
        let db = schema::open(path, false)?;
        let state =
            schema::read_state(&db)?.ok_or_else(|| ExecutorError::Missing(path.to_owned()))?;
        if state.identity() != identity {
            return Err(ExecutorError::Foreign(path.to_owned()));
        }
        let mut executor = Self {
            db: Arc::new(db),
            rules,
            state,
            dedup: Dedup::default(),
            stored: VecDeque::new(),
            dead: 0,
            skipped: BTreeSet::new(),
        };
        executor.remember_again()?;
        Ok(executor)
    }

    /// Fills `dedup` from the ids on disk.
    fn remember_again(&mut self) -> Result<(), ExecutorError> {
        let now = self.state.header.block_timestamp;
        self.stored.clear();
        let mut seconds = Seconds::default();
        for entry in schema::executed_ids(&self.db) {
            let (height, ids) = entry?;
            self.stored.push_back(Stored { height, block_timestamp: ids.block_timestamp });
            let needed = ids.iter().filter(|(_, at)| second_of(*at) >= second_of(now));
            seconds.remember(height, needed);
        }
        // At once, so that nobody who asks finds a part of them.
        self.dedup.replace(seconds);
        Ok(())
    }

    /// How far execution got.
    pub fn progress(&self) -> Progress {
        self.state.progress()
    }

    /// A handle for readers.
    pub fn archive(&self) -> Archive {
        Archive::new(self.db.clone(), self.dedup.clone())
    }

    /// Executes the next block. Its effects are durable when this returns.
    pub fn execute(&mut self, block: &Block) -> Result<BlockOutcome, ExecutorError> {
        let height = block.header.height.0;
        if height != self.state.next_index {
            let expected = self.state.next_index;
            return Err(ExecutorError::OutOfOrder { expected, found: height });
        }
        if block.header.block_timestamp < self.state.header.block_timestamp {
            return Err(ExecutorError::TimeWentBack(height));
        }
        self.dedup.forget_expired(block.header.block_timestamp);
        let (outcome, ids) = self.select(block);
        let state = self.after(block, &outcome);
        let summary = BlockSummary {
            height,
            digest: block.digest,
            header: block.header,
            batches: block.batches.len() as u64,
            transactions: outcome.executed.len() as u64,
            state_digest: state.state_digest,
            counters: state.counters,
        };
        let deleted = self.deletable(block.header.block_timestamp);
        if let Err(error) = self.write(&state, &summary, &ids, deleted) {
            // Final, but until the process has ended nobody is to be told of what is not durable.
            self.dedup.undo(height);
            return Err(error);
        }
        self.state = state;
        self.note_skipped(height, &outcome.skipped);
        self.let_go(deleted)?;
        if !ids.is_empty() {
            self.stored.push_back(Stored { height, block_timestamp: ids.block_timestamp });
        }
        Ok(outcome)
    }

    /// Decides, transaction by transaction, what is executed, and remembers it.
    fn select(&self, block: &Block) -> (BlockOutcome, ExecutedIds) {
        let now = block.header.block_timestamp;
        let latest = now.saturating_add(self.rules.transaction_life_max);
        let mut outcome = BlockOutcome::default();
        let mut ids = ExecutedIds::new(now);
        let mut open = self.dedup.open(block.header.height.0);
        let mut named = Vec::new();
        for batch in &block.batches {
            let Some(body) = &batch.body else {
                outcome.skipped.push(batch.digest);
                continue;
            };
            // All are named before the first is looked up, so that the processor may look up
            // several at once; and by the second of their expiration, as they are remembered.
            named.clear();
            let wrapped: Vec<&[u8]> = body.slices().collect();
            for envelope in transaction::unwrap_each(&wrapped) {
                let Some(envelope) = envelope else {
                    outcome.malformed += 1;
                    continue;
                };
                if envelope.expiration < now || envelope.expiration > latest {
                    outcome.expired.push(envelope.id);
                } else {
                    named.push(envelope);
                }
            }
            let second = |envelope: &Envelope| second_of(envelope.expiration);
            for together in named.chunk_by(|one, other| second(one) == second(other)) {
                let mut known = open.second(second(&together[0]));
                for envelope in together {
                    if known.remember(&envelope.id) {
                        ids.push(&envelope.id, envelope.expiration);
                        outcome.executed.push((envelope.id, envelope.expiration));
                    } else {
                        outcome.duplicates += 1;
                    }
                }
            }
        }
        (outcome, ids)
    }

    /// The state once a block has this outcome.
    fn after(&self, block: &Block, outcome: &BlockOutcome) -> StateRecord {
        let mut counters = self.state.counters;
        counters.executed_transactions += outcome.executed.len() as u64;
        counters.duplicates += outcome.duplicates;
        counters.expired += outcome.expired.len() as u64;
        counters.malformed += outcome.malformed;
        counters.skipped += outcome.skipped.len() as u64;
        StateRecord {
            next_index: self.state.next_index + 1,
            head: block.digest,
            header: block.header,
            state_digest: chain_digest(
                &self.state.state_digest,
                &block.digest,
                ids(&outcome.executed),
            ),
            counters,
            ..self.state
        }
    }

    /// How many of the stored blocks nobody may ask for any more.
    fn deletable(&self, now: Timestamp) -> usize {
        let kept = self.rules.transaction_life_max + SERVED_SPAN;
        let past = |block: &&Stored| block.block_timestamp.saturating_add(kept) < now;
        self.stored.iter().take_while(past).count()
    }

    /// The ids of the oldest blocks were deleted.
    fn let_go(&mut self, deleted: usize) -> Result<(), ExecutorError> {
        let Some(last) = self.stored.drain(..deleted).next_back() else { return Ok(()) };
        self.dead += deleted;
        if self.dead < DEAD_BLOCKS_MAX {
            return Ok(());
        }
        self.dead = 0;
        schema::drop_files_of_ids(&self.db, last.height)
    }

    /// The one synced write of a block.
    fn write(
        &self,
        state: &StateRecord,
        summary: &BlockSummary,
        ids: &ExecutedIds,
        deleted: usize,
    ) -> Result<(), ExecutorError> {
        let mut batch = WriteBatch::default();
        batch.put(schema::STATE_KEY, schema::encode(state)?);
        batch.put(schema::summary_key(summary.height), schema::encode(summary)?);
        if !ids.is_empty() {
            batch.put(schema::ids_key(summary.height), ids.bytes());
        }
        for old in self.stored.range(..deleted) {
            batch.delete(schema::ids_key(old.height));
        }
        if let Some(old) = summary.height.checked_sub(self.rules.blocks_kept) {
            batch.delete(schema::summary_key(old));
        }
        schema::write(&self.db, batch)
    }
}

/// The ids of what was executed.
fn ids(executed: &[(TransactionId, Timestamp)]) -> impl Iterator<Item = TransactionId> {
    executed.iter().map(|(id, _)| *id)
}

/// One link of the chain of state digests: ids have a fixed length, so nothing is ambiguous.
fn chain_digest(
    previous: &Digest,
    block: &Digest,
    executed: impl Iterator<Item = TransactionId>,
) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN);
    hasher.update(previous.as_bytes());
    hasher.update(block.as_bytes());
    let mut together = Vec::new();
    for id in executed {
        together.extend_from_slice(&id);
        if together.len() >= 16 << 10 {
            hasher.update(&together);
            together.clear();
        }
    }
    hasher.update(&together);
    Digest(*hasher.finalize().as_bytes())
}
