//! The offline check of the executor's state: every invariant between its records.

use std::path::Path;

use quorum_store::types::{Digest, Timestamp};
use serde::Serialize;

use super::schema::{self, BlockSummary, StateRecord};
use super::{ExecutorError, chain_digest};
use crate::transaction::TransactionId;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct ExecutionReport {
    /// The last executed block.
    pub height: u64,
    /// The state digest after it.
    #[serde(serialize_with = "as_hex")]
    pub state_digest: Digest,
    /// Summaries found.
    pub blocks: u64,
    /// Blocks whose state digest was computed again from their ids.
    pub recomputed: u64,
    /// Ids found.
    pub ids: u64,
    /// What cannot be right; empty if the state is sound.
    pub problems: Vec<String>,
}

impl ExecutionReport {
    /// True if nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

fn as_hex<S: serde::Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(digest)
}

/// Checks the state. `Err` only if it cannot be read at all; the caller makes sure that nobody
/// writes it meanwhile.
pub fn check(path: &Path) -> Result<ExecutionReport, ExecutorError> {
    if !schema::exists(path) {
        return Err(ExecutorError::Missing(path.to_owned()));
    }
    let db = schema::open_read_only(path)?;
    let state = schema::read_state(&db)?.ok_or_else(|| ExecutorError::Missing(path.to_owned()))?;
    let mut report = ExecutionReport {
        height: state.next_index.saturating_sub(1),
        state_digest: state.state_digest,
        ..ExecutionReport::default()
    };
    let mut previous: Option<BlockSummary> = None;
    for entry in schema::summaries(&db) {
        let (height, summary) = entry?;
        report.blocks += 1;
        if summary.height != height {
            report.problems.push(format!("block {height} says it is block {}", summary.height));
        }
        let ids = schema::read_ids(&db, height)?;
        check_link(
            &mut report,
            previous.as_ref(),
            &summary,
            ids.map(|ids| ids.iter().map(|(id, _)| id).collect()),
        );
        previous = Some(summary);
    }
    check_head(&mut report, previous.as_ref(), &state);
    check_ids(&mut report, &db, &state)?;
    Ok(report)
}

/// A block and the one below it.
fn check_link(
    report: &mut ExecutionReport,
    previous: Option<&BlockSummary>,
    block: &BlockSummary,
    ids: Option<Vec<TransactionId>>,
) {
    let height = block.height;
    if let Some(ids) = &ids
        && ids.len() as u64 != block.transactions
    {
        let (stored, stated) = (ids.len(), block.transactions);
        report.problems.push(format!("block {height} executed {stated}, holds {stored} ids"));
    }
    let below = match previous {
        Some(previous) => {
            if previous.height + 1 != height {
                let problem = format!("blocks {} to {height}: a gap", previous.height);
                report.problems.push(problem);
                return;
            }
            if previous.header.block_timestamp > block.header.block_timestamp {
                report.problems.push(format!("block {height}: time went back"));
            }
            previous.state_digest
        }
        None if height == 1 => Digest::default(),
        None => return,
    };
    let ids = match ids {
        Some(ids) => ids,
        None if block.transactions == 0 => Vec::new(),
        // Its ids have expired and are gone.
        None => return,
    };
    report.recomputed += 1;
    if chain_digest(&below, &block.digest, ids.into_iter()) != block.state_digest {
        report.problems.push(format!("block {height}: its ids do not give its state digest"));
    }
}

/// The last block and the state.
fn check_head(report: &mut ExecutionReport, last: Option<&BlockSummary>, state: &StateRecord) {
    let Some(last) = last else {
        if state.next_index != 1 {
            report.problems.push("no block is kept, although blocks were executed".into());
        }
        return;
    };
    let head = (last.height + 1, last.digest, last.header, last.state_digest, last.counters);
    if head != (state.next_index, state.head, state.header, state.state_digest, state.counters) {
        report.problems.push(format!("the state is not that of its last block {}", last.height));
    }
}

/// Ids: none twice, none of a block that was not executed.
fn check_ids(
    report: &mut ExecutionReport,
    db: &rocksdb::DB,
    state: &StateRecord,
) -> Result<(), ExecutorError> {
    let mut all: Vec<TransactionId> = Vec::new();
    let mut time = Timestamp(0);
    for entry in schema::executed_ids(db) {
        let (height, ids) = entry?;
        if height >= state.next_index {
            report.problems.push(format!("ids of block {height}, which was not executed"));
        }
        if ids.block_timestamp < time {
            report.problems.push(format!("ids of block {height}: time went back"));
        }
        time = ids.block_timestamp;
        all.reserve(ids.len());
        all.extend(ids.iter().map(|(id, _)| id));
    }
    report.ids = all.len() as u64;
    all.sort_unstable();
    for pair in all.windows(2).filter(|pair| pair[0] == pair[1]) {
        report.problems.push(format!("transaction {} was executed twice", hex::encode(pair[0])));
    }
    Ok(())
}
