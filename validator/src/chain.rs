//! From a finalised digest to commits: walks the ancestors that were not reported one by one.
//!
//! Finalising a block finalises its ancestors, and the ordering engine names only the newest. This
//! task walks from there by parent down to the block it knows, and tells the library of each block
//! upwards, which logs it durably. Then it queues it for execution.
//!
//! **Crashes.** Where it starts is the executor's own durable position and nothing else: at the
//! start the ordering engine reports its newest finalised blocks again, and the walk from there
//! ends at the last *executed* block. So blocks that were logged but not executed are told of again
//! (which changes nothing: a commit is known by its index) and executed; blocks that were executed
//! are not reached. It does not matter when the process was killed, nor whether one validator was
//! or all of them: payloads of unexecuted blocks are pinned in the store by the executor's cursor,
//! and what is not here is fetched from the others.
//!
//! **Newest wins.** While a walk or the queue is busy, newer finalised blocks replace each other;
//! the next walk covers them all.

use std::sync::Arc;
use std::time::Duration;

use quorum_store::engine::{CallError, QuorumStore};
use quorum_store::sequencer::port::CommitError;
use quorum_store::types::{Author, Commit, Digest, PayloadHeader};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::application::Newest;
use crate::exit::Failure;
use crate::headers::Headers;
use crate::waiting::Waiting;

/// A block that is missing for longer is told of, again and again.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last block that was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its height.
    pub height: u64,
    /// Its digest.
    pub digest: Digest,
}

/// A finalised block on its way to execution.
#[derive(Clone, Copy, Debug)]
pub struct Ordered {
    /// As the library was told.
    pub commit: Commit,
    /// The payload's digest.
    pub digest: Digest,
}

/// The task.
pub struct Chain {
    /// Where to find headers.
    pub headers: Arc<Headers>,
    /// Whom to tell of commits.
    pub store: QuorumStore,
    /// The newest finalised block.
    pub newest: watch::Receiver<Newest>,
    /// The queue of the executor: bounded; a full one holds up the walk and nothing else.
    pub ordered: mpsc::Sender<Ordered>,
    /// The last executed block at the start.
    pub head: Head,
    /// Says which block is waited for, if it takes long.
    pub waiting: Waiting,
}

impl Chain {
    /// Runs until it is stopped. `Err` if the chain cannot be followed any more.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Failure> {
        stop.run_until_cancelled_owned(async move { self.follow().await }).await.unwrap_or(Ok(()))
    }

    async fn follow(&mut self) -> Result<(), Failure> {
        loop {
            if self.newest.changed().await.is_err() {
                // The application is gone: so is the ordering engine, and that is told elsewhere.
                return std::future::pending().await;
            }
            let newest = self.newest.borrow_and_update().clone();
            let Some(finalized) = newest else { continue };
            let digest = Digest(finalized.digest);
            if digest == self.head.digest {
                self.waiting.over();
                continue;
            }
            let signers: Vec<Author> = finalized.signers.iter().map(|key| Author(*key)).collect();
            // A block that is reported again after a restart may be gone everywhere, and it may be
            // one that was executed long ago: then a newer one leads on. Below the first block
            // there is no choice, because all finalised blocks are on one chain.
            let found = tokio::time::timeout(PATIENCE, self.headers.header(digest, &signers)).await;
            let Ok(header) = found else {
                self.missing(digest, PATIENCE);
                self.newest.mark_changed();
                continue;
            };
            header?;
            self.waiting.over();
            let path = self.walk(digest, &signers).await?;
            self.tell(finalized.view, path).await?;
        }
    }

    /// A header on the way down, however long it takes.
    async fn header(&self, digest: Digest, from: &[Author]) -> Result<PayloadHeader, Failure> {
        let mut header = std::pin::pin!(self.headers.header(digest, from));
        let mut waited = Duration::ZERO;
        loop {
            if let Ok(header) = tokio::time::timeout(PATIENCE, &mut header).await {
                self.waiting.over();
                return Ok(header?);
            }
            waited += PATIENCE;
            self.missing(digest, waited);
        }
    }

    fn missing(&self, digest: Digest, waited: Duration) {
        let height = self.head.height;
        self.waiting.for_what(format!(
            "finalised block {digest}, above block {height}, is missing for {waited:?}; if nobody \
             has it any more, this validator needs the state of another one"
        ));
    }

    /// The blocks between the head (without it) and a finalised block (with it), lowest first.
    async fn walk(
        &self,
        mut digest: Digest,
        signers: &[Author],
    ) -> Result<Vec<(Digest, PayloadHeader)>, Failure> {
        let mut path: Vec<(Digest, PayloadHeader)> = Vec::new();
        while digest != self.head.digest {
            let header = self.header(digest, signers).await?;
            let height = header.height.0;
            if let Some((_, above)) = path.last()
                && above.height != header.height.next()
            {
                return Err(broken(&format!("{digest} is not one below its child")));
            }
            if height <= self.head.height {
                // Reported again after a restart, and below what is known: nothing to do. But a
                // block that leads past the head without meeting it is on another chain.
                if path.is_empty() && height < self.head.height {
                    return Ok(path);
                }
                return Err(broken(&format!("{digest} at {height} is not our block there")));
            }
            path.push((digest, header));
            digest = header.parent;
        }
        path.reverse();
        Ok(path)
    }

    /// Tells the library of each block, in order, and queues it.
    async fn tell(&mut self, view: u64, path: Vec<(Digest, PayloadHeader)>) -> Result<(), Failure> {
        for (digest, header) in path {
            let commit = Commit { index: header.height, round: view, header };
            match self.store.notify_commit(commit).await {
                // Applied in a former life, and its receipt is no longer kept.
                Ok(_) | Err(CallError::Refused(CommitError::Pruned(_))) => {}
                Err(CallError::Stopped(cause)) => return Err(cause.into()),
                Err(CallError::Refused(reason)) => {
                    return Err(broken(&format!("commit {}: {reason}", header.height.0)));
                }
            }
            self.head = Head { height: header.height.0, digest };
            if self.ordered.send(Ordered { commit, digest }).await.is_err() {
                // Execution has ended, and says why itself.
                return std::future::pending().await;
            }
        }
        Ok(())
    }
}

/// Two finalised chains, or a data directory that holds parts of two.
fn broken(what: &str) -> Failure {
    Failure::other(format!(
        "the finalised chain does not fit what was executed here: {what}; more than a third of the \
         validators are faulty, or parts of the data directory were replaced"
    ))
}
