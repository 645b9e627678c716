//! The state of one height, as one validator hands it to another.
//!
//! A snapshot is the blocks whose ids are still remembered at that height, lowest first: with each
//! the ids it executed, and with the last one the state. For somebody who has executed a part of
//! them, the rest is enough. It follows from the chain alone: every correct validator makes the
//! same bytes of the same height, so its digest is what they agree on.
//!
//! Taking one over is one synced write, with the index it belongs to: a crash leaves the old state
//! or the new one.

use quorum_store::types::{ChainId, Digest};
use rocksdb::WriteBatch;
use serde::{Deserialize, Serialize};

use super::schema::{self, BlockSummary, ExecutedIds, ExecutorError, StateRecord};
use super::{Archive, Executor, Rules, SERVED_SPAN, Stored, chain_digest};

/// A snapshot; never empty once it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    blocks: Vec<SnapshotBlock>,
}

/// A block of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotBlock {
    summary: BlockSummary,
    /// As they are stored.
    ids: Vec<u8>,
}

impl Snapshot {
    /// Reads what somebody sent, and checks that it fits itself. Whether it is the chain's is
    /// known by the digest of the bytes.
    pub fn decode(chain: &ChainId, bytes: &[u8]) -> Result<Self, ExecutorError> {
        let snapshot: Self =
            bcs::from_bytes(bytes).map_err(|_| ExecutorError::Unfit("malformed bytes"))?;
        let mut previous: Option<&BlockSummary> = None;
        for block in &snapshot.blocks {
            let summary = &block.summary;
            let ids = ExecutedIds::decode(summary.height, block.ids.clone())?;
            let header = &summary.header;
            if header.height.0 != summary.height
                || header.digest(chain) != summary.digest
                || ids.block_timestamp != header.block_timestamp
                || ids.len() as u64 != summary.transactions
            {
                return Err(ExecutorError::Unfit("a block contradicts itself"));
            }
            if let Some(below) = previous {
                check_link(below.height, &below.state_digest, summary, &ids)?;
                if header.parent != below.digest {
                    return Err(ExecutorError::Unfit("two blocks are not on one chain"));
                }
            }
            previous = Some(summary);
        }
        match previous {
            Some(_) => Ok(snapshot),
            None => Err(ExecutorError::Unfit("no blocks")),
        }
    }

    /// The bytes that are sent.
    pub fn encode(&self) -> Result<Vec<u8>, ExecutorError> {
        schema::encode(self)
    }

    /// The block it is the state after.
    pub fn last(&self) -> &BlockSummary {
        // Proof: made from at least one block, or checked when it was read.
        #[allow(clippy::expect_used, reason = "never empty")]
        &self.blocks.last().expect("a snapshot has a block").summary
    }

    /// Its lowest block.
    pub fn from(&self) -> u64 {
        self.blocks.first().map_or(0, |block| block.summary.height)
    }
}

/// A block must follow from the state below it.
fn check_link(
    below: u64,
    state: &Digest,
    block: &BlockSummary,
    ids: &ExecutedIds,
) -> Result<(), ExecutorError> {
    let executed = ids.iter().map(|(id, _)| id);
    let follows = below + 1 == block.height
        && chain_digest(state, &block.digest, executed) == block.state_digest;
    if follows {
        Ok(())
    } else {
        Err(ExecutorError::Unfit("a block does not follow from the last"))
    }
}

impl Archive {
    /// The snapshot of a height, for somebody who has executed up to `above`. `None` if that height
    /// is not complete here, too old, or not executed yet.
    pub fn snapshot(
        &self,
        rules: &Rules,
        height: u64,
        above: u64,
    ) -> Result<Option<Snapshot>, ExecutorError> {
        let Some(state) = schema::read_state(&self.db)? else { return Ok(None) };
        let Some(last) = schema::read_summary(&self.db, height)? else { return Ok(None) };
        let at = last.header.block_timestamp;
        let served = at.saturating_add(SERVED_SPAN) >= state.header.block_timestamp;
        if !served || height < state.adopted || above >= height {
            return Ok(None);
        }
        let mut blocks = Vec::new();
        for height in (above + 1..=height).rev() {
            let Some(summary) = schema::read_summary(&self.db, height)? else { break };
            let time = summary.header.block_timestamp;
            if time.saturating_add(rules.transaction_life_max) < at {
                break;
            }
            let ids = schema::read_ids(&self.db, height)?.unwrap_or(ExecutedIds::new(time));
            if ids.len() as u64 != summary.transactions {
                // Deleted since the state was read: too old by now.
                return Ok(None);
            }
            blocks.push(SnapshotBlock { summary, ids: ids.bytes().to_vec() });
        }
        blocks.reverse();
        Ok(Some(Snapshot { blocks }))
    }
}

impl Executor {
    /// Takes over the state of others, which lies ahead. Durable when this returns.
    pub fn adopt(&mut self, snapshot: &Snapshot) -> Result<(), ExecutorError> {
        let (last, from) = (snapshot.last(), snapshot.from());
        let next = self.state.next_index;
        if last.height < next || from < next {
            return Err(ExecutorError::Unfit("it does not lie ahead"));
        }
        let is_whole = from > next;
        let mut batch = WriteBatch::default();
        if is_whole {
            schema::delete_blocks(&mut batch);
        } else {
            let first = &snapshot.blocks[0];
            let ids = ExecutedIds::decode(next, first.ids.clone())?;
            check_link(next - 1, &self.state.state_digest, &first.summary, &ids)?;
        }
        for SnapshotBlock { summary, ids } in &snapshot.blocks {
            batch.put(schema::summary_key(summary.height), schema::encode(summary)?);
            if summary.transactions > 0 {
                batch.put(schema::ids_key(summary.height), ids);
            }
        }
        let time = last.header.block_timestamp;
        let deleted = if is_whole { 0 } else { self.deletable(time) };
        for old in self.stored.range(..deleted) {
            batch.delete(schema::ids_key(old.height));
        }
        let state = StateRecord {
            next_index: last.height + 1,
            head: last.digest,
            header: last.header,
            state_digest: last.state_digest,
            counters: last.counters,
            adopted: if is_whole { last.height } else { self.state.adopted },
            ..self.state
        };
        batch.put(schema::STATE_KEY, schema::encode(&state)?);
        schema::write(&self.db, batch)?;
        self.state = state;
        if is_whole {
            return self.remember_again();
        }
        self.stored.drain(..deleted);
        self.remember(snapshot)?;
        self.dedup.forget_expired(time);
        Ok(())
    }

    /// Adds the ids of blocks that follow on what is known.
    fn remember(&mut self, snapshot: &Snapshot) -> Result<(), ExecutorError> {
        for SnapshotBlock { summary, ids } in &snapshot.blocks {
            let ids = ExecutedIds::decode(summary.height, ids.clone())?;
            if ids.is_empty() {
                continue;
            }
            let (height, block_timestamp) = (summary.height, ids.block_timestamp);
            self.dedup.remember(height, ids.iter());
            self.stored.push_back(Stored { height, block_timestamp });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
