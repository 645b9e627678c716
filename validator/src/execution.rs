//! Executes finalised blocks, one after the other: content, state, acknowledgement.
//!
//! A block's effects are durable before the library is told that its content is no longer needed
//! here, so content that execution needs is never deleted. Missing content is waited for: a
//! deadline decides nothing but what is reported.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use quorum_store::engine::{Materialized, MaterializedBatch, QuorumStore};
use quorum_store::types::CommitIndex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::chain::Ordered;
use crate::executor::{Block, Executor, Progress};
use crate::exit::Failure;
use crate::metrics::Metrics;
use crate::tracker::Tracker;
use crate::waiting::Waiting;

/// Blocks whose content is gathered at once: one that catches up does not wait for each in turn.
const PREFETCHED_BLOCKS: usize = 4;

/// The executor's name among the subscribers.
const SUBSCRIBER: &str = "executor";

/// The task.
pub struct Execution {
    /// Where content comes from.
    pub store: QuorumStore,
    /// Told of every executed block.
    pub tracker: Arc<Tracker>,
    /// Says how far execution got.
    pub progress: watch::Sender<Progress>,
    /// Says what execution waits for, if it waits for long.
    pub waiting: Waiting,
    /// Missing content is reported after this long.
    pub materialize_deadline: Duration,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Execution {
    /// Runs until it is stopped, between two blocks. `Err` if execution cannot go on.
    pub async fn run(
        self,
        mut executor: Executor,
        ordered: mpsc::Receiver<Ordered>,
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        self.acknowledge(executor.progress()).await?;
        let first = executor.progress().next_index;
        let received = stream::unfold(ordered, |mut ordered| async move {
            ordered.recv().await.map(|block| (block, ordered))
        });
        let wanted = received.filter(|block| ready(block.commit.index.0 >= first));
        let this = &self;
        let with_content = wanted.map(|block| async move {
            let batches = this.content(&block).await;
            batches.map(|batches| (block, batches))
        });
        let mut blocks = std::pin::pin!(with_content.buffered(PREFETCHED_BLOCKS));
        while let Some(Some(block)) = stop.run_until_cancelled(blocks.next()).await {
            let (block, batches) = block?;
            self.waiting.over();
            executor = self.execute(executor, block, batches).await?;
        }
        Ok(())
    }

    /// The batches of a block, for as long as it takes.
    async fn content(&self, ordered: &Ordered) -> Result<Vec<MaterializedBatch>, Failure> {
        let height = ordered.commit.index.0;
        let started = Instant::now();
        loop {
            let deadline = self.materialize_deadline;
            match self.store.materialize(&ordered.commit, deadline).await? {
                Materialized::Ready(batches) => return Ok(batches),
                Materialized::TimedOut { missing } => {
                    let seconds = started.elapsed().as_secs();
                    let count = missing.len();
                    self.waiting.for_what(format!(
                        "{count} contents of block {height} are missing for {seconds} s"
                    ));
                }
                // The evidence goes into a proposal by itself; once it is committed, all skip it.
                Materialized::Unavailable(proof) => {
                    self.waiting.for_what(format!(
                        "a quorum says that content {} of block {height} is gone",
                        proof.digest
                    ));
                    let mut skips = self.store.skips();
                    // Without a commit it is looked for again: it may turn up.
                    let _ = tokio::time::timeout(deadline, skips.changed()).await;
                }
                // Any other end is final: waiting longer would not bring the content.
                _ => {
                    return Err(Failure::other(format!(
                        "the content of block {height} is not to be had any more: this validator \
                         was away for longer than content is kept, and needs the state of another \
                         one"
                    )));
                }
            }
        }
    }

    /// Content below the next index is not needed here any more: its effects are durable.
    async fn acknowledge(&self, progress: Progress) -> Result<(), Failure> {
        let next = CommitIndex(progress.next_index);
        Ok(self.store.acknowledge(SUBSCRIBER, next).await?)
    }

    async fn execute(
        &self,
        mut executor: Executor,
        ordered: Ordered,
        batches: Vec<MaterializedBatch>,
    ) -> Result<Executor, Failure> {
        let header = ordered.commit.header;
        let height = header.height.0;
        self.tracker.ordered(height, batches.iter().map(|batch| batch.digest));
        let block = Block { digest: ordered.digest, header, batches };
        let started = Instant::now();
        let work = tokio::task::spawn_blocking(move || {
            let outcome = executor.execute(&block);
            (executor, outcome)
        });
        let (executor, outcome) =
            work.await.map_err(|_| Failure::other("the executor panicked: see the log"))?;
        let outcome = outcome?;
        let progress = executor.progress();
        self.acknowledge(progress).await?;
        self.metrics.executed(&outcome, &progress, started.elapsed());
        self.tracker.executed(height, header.block_timestamp, &outcome);
        self.progress.send_replace(progress);
        Ok(executor)
    }
}
