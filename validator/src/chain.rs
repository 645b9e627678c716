//! From a finalised digest to commits: walks the ancestors that were not reported one by one.
//!
//! Finalising a block finalises its ancestors, and the ordering engine names only the newest. This
//! task walks from there by parent down to the block it knows, and tells the library of each block
//! upwards, which logs it durably; whoever executes follows the library's commits.
//!
//! **Crashes.** Where it starts is the executor's own durable position and nothing else: at the
//! start the ordering engine reports its newest finalised blocks again, and the walk from there
//! ends at the last *executed* block. So blocks that were logged but not executed are told of again
//! (which changes nothing: a commit is known by its index); blocks that were executed are not
//! reached. It does not matter when the process was killed, nor whether one validator was or all of
//! them: payloads of unexecuted blocks are pinned in the store by the executor's cursor, and what
//! is not here is fetched from the others.
//!
//! **Newest wins.** While a walk is busy, newer finalised blocks replace each other; the next walk
//! covers them all.
//!
//! **It ends** with the last block of the epoch, once that is told and noted with its certificate;
//! or when what it needs is not to be had: then the state of others is.

use std::sync::Arc;
use std::time::Duration;

use quorum_store::engine::{CallError, QuorumStore};
use quorum_store::sequencer::port::CommitError;
use quorum_store::types::{Author, Commit, Digest, Epoch, PayloadHeader};
use quorum_store_ordering::Finalized;
use tokio::sync::watch;

use crate::application::Newest;
use crate::config::epochs::Plan;
use crate::executor::{Archive, Boundary};
use crate::exit::Failure;
use crate::headers::Headers;
use crate::waiting::Waiting;

/// A block that is missing for longer is told of, again and again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A block that is missing for so long is not waited for any more.
pub const MISSING_MAX: Duration = Duration::from_secs(10);

/// The last block that was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its header.
    pub header: PayloadHeader,
    /// Its digest.
    pub digest: Digest,
}

/// The task, for one epoch.
pub struct Chain {
    /// Where to find headers.
    pub headers: Arc<Headers>,
    /// Whom to tell of commits.
    pub store: QuorumStore,
    /// Where the end of the epoch is noted.
    pub archive: Archive,
    /// The newest finalised block.
    pub newest: watch::Receiver<Newest>,
    /// The epoch that is followed.
    pub epoch: Epoch,
    /// When it ends.
    pub plan: watch::Receiver<Arc<Plan>>,
    /// The last executed block at the start.
    pub head: Head,
    /// Says which block is waited for, if it takes long.
    pub waiting: Arc<Waiting>,
}

/// Why it ends by itself.
#[derive(Debug)]
pub enum ChainEnd {
    /// The epoch is over: its last block is told and noted.
    Boundary(Boundary),
    /// A block is not to be had.
    Behind,
}

impl Chain {
    /// Follows to the end of the epoch. `Err` if the chain cannot be followed any more. May be
    /// dropped at any point.
    pub async fn follow(mut self) -> Result<ChainEnd, Failure> {
        self.newest.mark_changed();
        let mut missed = Duration::ZERO;
        loop {
            if self.newest.changed().await.is_err() {
                // The application is gone: so is the ordering engine, and that is told elsewhere.
                return std::future::pending().await;
            }
            let newest = self.newest.borrow_and_update().clone();
            let Some(finalized) = newest.filter(|newest| newest.epoch == self.epoch.0) else {
                continue;
            };
            let digest = Digest(finalized.digest);
            if digest != self.head.digest {
                let signers = signers(&finalized);
                // A block that is reported again after a restart may be gone everywhere, and it may
                // be one that was executed long ago: then a newer one leads on.
                let search = self.headers.header(digest, &signers);
                let Ok(header) = tokio::time::timeout(PATIENCE, search).await else {
                    missed += PATIENCE;
                    self.missing(digest, missed);
                    if missed >= MISSING_MAX {
                        return Ok(ChainEnd::Behind);
                    }
                    self.newest.mark_changed();
                    continue;
                };
                header?;
                missed = Duration::ZERO;
                let Some(path) = self.walk(digest, &signers).await? else {
                    return Ok(ChainEnd::Behind);
                };
                if !self.tell(finalized.view, path).await? {
                    return Ok(ChainEnd::Behind);
                }
            }
            self.waiting.over();
            if let Some(boundary) = self.boundary(&finalized).await? {
                return Ok(ChainEnd::Boundary(boundary));
            }
        }
    }

    /// The header of an ancestor; `None` if it is not to be had.
    async fn header(
        &self,
        digest: Digest,
        from: &[Author],
    ) -> Result<Option<PayloadHeader>, Failure> {
        let mut header = std::pin::pin!(self.headers.header(digest, from));
        let mut waited = Duration::ZERO;
        while waited < MISSING_MAX {
            if let Ok(header) = tokio::time::timeout(PATIENCE, &mut header).await {
                return Ok(Some(header?));
            }
            waited += PATIENCE;
            self.missing(digest, waited);
        }
        Ok(None)
    }

    fn missing(&self, digest: Digest, waited: Duration) {
        let height = self.head.header.height.0;
        self.waiting.for_what(format!(
            "finalised block {digest}, above block {height}, is missing for {waited:?}"
        ));
    }

    /// The blocks between the head (without it) and a finalised block (with it), lowest first.
    /// `None` if one of them is not to be had.
    async fn walk(
        &self,
        mut digest: Digest,
        signers: &[Author],
    ) -> Result<Option<Vec<(Digest, PayloadHeader)>>, Failure> {
        let head = self.head.header.height;
        let mut path: Vec<(Digest, PayloadHeader)> = Vec::new();
        while digest != self.head.digest {
            let Some(header) = self.header(digest, signers).await? else { return Ok(None) };
            let height = header.height;
            if let Some((_, above)) = path.last()
                && (above.height != height.next()
                    || (above.epoch == header.epoch && self.plan.borrow().is_last(&header)))
            {
                return Err(broken(&format!("{digest} is not one below its child")));
            }
            if height <= head {
                // Reported again after a restart, and below what is known: nothing to do. But a
                // block that leads past the head without meeting it is on another chain.
                if path.is_empty() && height < head {
                    return Ok(Some(path));
                }
                return Err(broken(&format!("{digest} at {} is not our block there", height.0)));
            }
            path.push((digest, header));
            digest = header.parent;
        }
        path.reverse();
        Ok(Some(path))
    }

    /// Tells the library of each block, in order. False if it cannot apply one.
    async fn tell(
        &mut self,
        view: u64,
        path: Vec<(Digest, PayloadHeader)>,
    ) -> Result<bool, Failure> {
        for (digest, header) in path {
            let commit = Commit { index: header.height, round: view, header };
            let told = tokio::time::timeout(MISSING_MAX, self.store.notify_commit(commit));
            let Ok(told) = told.await else {
                self.missing(digest, MISSING_MAX);
                return Ok(false);
            };
            match told {
                // Applied in a former life, and its receipt is no longer kept.
                Ok(_) | Err(CallError::Refused(CommitError::Pruned(_))) => {}
                Err(CallError::Stopped(cause)) => return Err(cause.into()),
                Err(CallError::Refused(reason)) => {
                    return Err(broken(&format!("commit {}: {reason}", header.height.0)));
                }
            }
            self.head = Head { header, digest };
        }
        Ok(true)
    }

    /// If this block was the last one of the epoch: notes it, durably.
    async fn boundary(&self, finalized: &Finalized) -> Result<Option<Boundary>, Failure> {
        let Head { header, digest } = self.head;
        let is_last = header.epoch == self.epoch && self.plan.borrow().is_last(&header);
        if !is_last || digest != Digest(finalized.digest) {
            return Ok(None);
        }
        let boundary = Boundary { header, certificate: finalized.certificate.to_vec() };
        let (archive, noted) = (self.archive.clone(), boundary.clone());
        tokio::task::spawn_blocking(move || archive.note_boundary(&noted))
            .await
            .map_err(|_| Failure::other("noting the end of an epoch panicked: see the log"))??;
        Ok(Some(boundary))
    }
}

/// Those who must have a finalised block.
fn signers(finalized: &Finalized) -> Vec<Author> {
    finalized.signers.iter().map(|key| Author(*key)).collect()
}

/// Two finalised chains, or a data directory that holds parts of two.
fn broken(what: &str) -> Failure {
    Failure::other(format!(
        "the finalised chain does not fit what was executed here: {what}; more than a third of the \
         validators are faulty, parts of the data directory were replaced, or the next epoch became \
         known only after it had begun"
    ))
}
