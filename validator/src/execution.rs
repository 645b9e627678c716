//! Executes commits, one after the other: content, state, acknowledgement.
//!
//! It is a subscriber of the library's commits, and says at each start which index its own store
//! needs next. That store holds the index and the state in one write: whatever it lost, although it
//! had acknowledged it, is delivered again, as long as it is kept.
//!
//! A commit's effects are durable before it is acknowledged, so content that execution needs is
//! never deleted. Missing content is waited for: a deadline decides nothing but what is reported,
//! and when the state of others is asked for instead. Content is skipped only because a commit
//! carries evidence that it is gone; who has executed it goes back to below its block, and executes
//! again what everybody executes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use quorum_store::engine::{
    AcknowledgeError, Acknowledger, CallError, Materialized, MaterializedBatch, QuorumStore,
    Subscription, SubscriptionError,
};
use quorum_store::sequencer::port::{Delivery, SubscribeError, SubscriptionEnd};
use quorum_store::types::{ChainId, Commit, CommitIndex, Digest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chain::MISSING_MAX;
use crate::executor::{Block, Executor, Progress};
use crate::exit::Failure;
use crate::metrics::Metrics;
use crate::tracker::Tracker;
use crate::waiting::Waiting;

/// Blocks whose content is gathered at once, beside the one that is executed: one that catches up does
/// not wait for each in turn. Each may be as large as a proposal.
const PREFETCHED_BLOCKS: usize = 2;

/// The executor's name among the subscribers.
pub const SUBSCRIBER: &str = "executor";

/// The task.
#[derive(Clone)]
pub struct Execution {
    /// Where commits and content come from.
    pub store: QuorumStore,
    /// Names blocks.
    pub chain: ChainId,
    /// Told of every executed block.
    pub tracker: Arc<Tracker>,
    /// Says how far execution got.
    pub progress: watch::Sender<Progress>,
    /// Says what execution waits for, if it waits for long.
    pub waiting: Arc<Waiting>,
    /// Missing content is reported after this long.
    pub materialize_deadline: Duration,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Why it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Halt {
    /// What is needed is not to be had: the state of others is.
    Behind,
    /// It attaches again: it was detached, or goes on from an earlier block.
    Detached,
}

/// What a subscription tells, made ready.
enum Next {
    Block(Commit, Vec<MaterializedBatch>),
    /// A commit says that content of this one is gone.
    Rewritten(CommitIndex, Digest),
}

/// What comes next, or why nothing does.
type Gathered = Result<Result<Next, Halt>, Failure>;

impl Execution {
    /// Runs until it is stopped, between two blocks, or until what it needs is not to be had. The
    /// executor comes back. `Err` if execution cannot go on.
    pub async fn run(
        self,
        mut executor: Executor,
        stop: CancellationToken,
    ) -> Result<Executor, Failure> {
        loop {
            let next = CommitIndex(executor.progress().next_index);
            let halt = match self.store.subscribe(SUBSCRIBER, next).await {
                Ok(subscription) => {
                    let halt;
                    (executor, halt) = self.follow(executor, subscription, &stop).await?;
                    halt
                }
                Err(CallError::Refused(SubscribeError::Pruned { .. })) => Some(Halt::Behind),
                Err(CallError::Refused(error)) => return Err(Failure::other(error.to_string())),
                Err(CallError::Stopped(cause)) => return Err(cause.into()),
            };
            match halt {
                Some(Halt::Detached) => {}
                Some(Halt::Behind) | None => return Ok(executor),
            }
        }
    }

    async fn follow(
        &self,
        mut executor: Executor,
        subscription: Subscription,
        stop: &CancellationToken,
    ) -> Result<(Executor, Option<Halt>), Failure> {
        let acknowledger = subscription.acknowledger();
        let next = executor.progress().next_index;
        let delivered = stream::unfold(Some(subscription), |subscription| async move {
            let mut subscription = subscription?;
            let told = subscription.next().await;
            let more = told.is_ok().then_some(subscription);
            Some((told, more))
        });
        let gathered = delivered.filter_map(|told| async move {
            match told {
                Ok(Delivery::Rewritten { index, digest, .. }) => {
                    Some(Err(Ok(Ok(Next::Rewritten(index, digest)))))
                }
                // Already in the state that was taken over.
                Ok(delivery) if delivery.last().0 < next => None,
                Ok(Delivery::Commit(commit)) => Some(Ok(commit)),
                Ok(Delivery::Skipped { .. }) => Some(Err(Ok(Err(Halt::Behind)))),
                Err(SubscriptionError::Ended(SubscriptionEnd::Lagged)) => {
                    tracing::warn!("execution lagged behind the commits and attaches again");
                    Some(Err(Ok(Err(Halt::Detached))))
                }
                Err(SubscriptionError::Stopped(cause)) => Some(Err(Err(cause.into()))),
                Err(error) => Some(Err(Err(Failure::other(error.to_string())))),
            }
        });
        let gathered = gathered.map(|commit| async move {
            match commit {
                Ok(commit) => self.content(commit).await,
                Err(told) => told,
            }
        });
        let mut blocks = std::pin::pin!(gathered.buffered(PREFETCHED_BLOCKS));
        while let Some(Some(block)) = stop.run_until_cancelled(blocks.next()).await {
            let (commit, batches) = match block? {
                Ok(Next::Block(commit, batches)) => (commit, batches),
                Ok(Next::Rewritten(index, digest)) => {
                    let reverted;
                    (executor, reverted) = self.rewrite(executor, index, digest).await?;
                    if reverted {
                        return Ok((executor, Some(Halt::Detached)));
                    }
                    continue;
                }
                Err(halt) => return Ok((executor, Some(halt))),
            };
            self.waiting.over();
            executor = self.execute(executor, commit, batches, &acknowledger).await?;
        }
        Ok((executor, None))
    }

    /// The batches of a commit.
    async fn content(&self, commit: Commit) -> Gathered {
        let height = commit.index.0;
        let started = Instant::now();
        // Before the first look, so that no change after it is missed.
        let mut skips = self.store.skips();
        loop {
            match self.store.materialize(&commit, self.materialize_deadline).await? {
                Materialized::Ready(batches) => return Ok(Ok(Next::Block(commit, batches))),
                Materialized::TimedOut { missing } => {
                    let seconds = started.elapsed().as_secs();
                    let count = missing.len();
                    self.waiting.for_what(format!(
                        "{count} contents of block {height} are missing for {seconds} s"
                    ));
                    if started.elapsed() >= MISSING_MAX {
                        return Ok(Err(Halt::Behind));
                    }
                }
                // The evidence goes into a proposal by itself; once it is committed, all skip it.
                Materialized::Unavailable(proof) => {
                    self.waiting.for_what(format!(
                        "a quorum says that content {} of block {height} is gone",
                        proof.digest
                    ));
                    // Without a commit it is looked for again: it may turn up.
                    let _ = tokio::time::timeout(self.materialize_deadline, skips.changed()).await;
                }
                // Any other end is final: waiting longer would not bring the content.
                _ => return Ok(Err(Halt::Behind)),
            }
        }
    }

    /// Content of a commit is gone for everybody: whoever executed it goes back. True if we did.
    async fn rewrite(
        &self,
        mut executor: Executor,
        index: CommitIndex,
        content: Digest,
    ) -> Result<(Executor, bool), Failure> {
        let work = tokio::task::spawn_blocking(move || {
            let reverted = executor.took(index, &content).and_then(|took| {
                if took {
                    executor.revert(index)?;
                }
                Ok(took)
            });
            (executor, reverted)
        });
        let (executor, reverted) =
            work.await.map_err(|_| Failure::other("the executor panicked: see the log"))?;
        let reverted = reverted?;
        tracing::warn!(index = index.0, %content, reverted, "content is gone: everybody skips it");
        if reverted {
            self.progress.send_replace(executor.progress());
        }
        Ok((executor, reverted))
    }

    async fn execute(
        &self,
        mut executor: Executor,
        commit: Commit,
        batches: Vec<MaterializedBatch>,
        acknowledger: &Acknowledger,
    ) -> Result<Executor, Failure> {
        let header = commit.header;
        let block = Block { digest: header.digest(&self.chain), header, batches };
        let started = Instant::now();
        let work = tokio::task::spawn_blocking(move || {
            let outcome = executor.execute(&block);
            (executor, outcome)
        });
        let (executor, outcome) =
            work.await.map_err(|_| Failure::other("the executor panicked: see the log"))?;
        let outcome = outcome?;
        let progress = executor.progress();
        match acknowledger.acknowledge(commit.index).await {
            // A store that ends says so itself; whatever it was not told is delivered again.
            Ok(()) | Err(AcknowledgeError::Stopped(_)) => {}
            Err(error) => return Err(Failure::other(error.to_string())),
        }
        self.metrics.executed(&outcome, &progress, started.elapsed());
        self.tracker.executed(header.height.0, header.block_timestamp, &outcome);
        self.progress.send_replace(progress);
        Ok(executor)
    }
}
