//! What the ordering engine asks, answered by the quorum store.
//!
//! | question | answer |
//! |---|---|
//! | propose | a payload that is durable here, once there is something to order |
//! | verify | `true` once it is durable here and its time has come; `false` if it never can be |
//! | certify | `true` once the payload is durable here; never `false` |
//!
//! **The end of an epoch.** Nothing is built on its last block: every further proposal is that
//! block again, until it is final. The next epoch has another engine, and another of these.
//!
//! What is missing keeps the answer pending, and so does a store that stopped: a validator that
//! cannot store does not vote. The engine drops a future whose answer nobody needs any more.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use quorum_store::engine::{CallError, QuorumStore};
use quorum_store::sequencer::port::{
    ParentOf, PayloadLimits, PullError, PullRequest, VerifyRequest,
};
use quorum_store::types::{Author, ChainId, Digest, Epoch, Payload, PayloadHeader, Timestamp};
use quorum_store_ordering::{Application, Context, Finalized};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::clock;
use crate::config::ProposalConfig;
use crate::config::epochs::Plan;
use crate::headers::Headers;

/// Own payloads that may still have to be announced.
const RECENT_PAYLOADS: usize = 8;

/// Least time between two tries for one proposal: what is tried is stored, even if it is empty.
const PULL_INTERVAL: Duration = Duration::from_millis(20);

/// With fewer bytes to order, the next block comes after the shorter interval. A block costs what it
/// costs, however little is in it: many small ones would take the time that many bytes need.
const EARLY_BYTES_MAX: u64 = 512 << 10;

/// What the newest finalised block is, as far as this validator knows.
pub type Newest = Option<Arc<Finalized>>;

/// Takes note of a finalised block. After a restart older ones are reported again; the newest one
/// covers them all.
pub fn note(newest: &watch::Sender<Newest>, finalized: Finalized) {
    newest.send_if_modified(|newest| {
        let place = |finalized: &Finalized| (finalized.epoch, finalized.view);
        let newer = newest.as_ref().is_none_or(|known| place(known) < place(&finalized));
        if newer {
            *newest = Some(Arc::new(finalized));
        }
        newer
    });
}

/// The validator behind the ordering engine. Clones are the same.
#[derive(Clone, Debug)]
pub struct Validator(Arc<Inner>);

/// What a validator is made of.
pub struct Parts {
    /// The quorum store.
    pub store: QuorumStore,
    /// Headers by digest.
    pub headers: Arc<Headers>,
    /// Names the chain.
    pub chain: ChainId,
    /// The epoch that is served.
    pub epoch: Epoch,
    /// When it ends.
    pub plan: watch::Receiver<Arc<Plan>>,
    /// How far ahead of this clock a block may be.
    pub clock_allowance: Duration,
    /// Pace and size of proposals.
    pub proposal: ProposalConfig,
    /// While this file exists, only empty payloads are proposed.
    pub hold: Option<PathBuf>,
    /// Takes the newest finalised block.
    pub newest: watch::Sender<Newest>,
}

struct Inner {
    parts: Parts,
    recent: Mutex<VecDeque<(Digest, Arc<Payload>)>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validator").field("epoch", &self.parts.epoch).finish_non_exhaustive()
    }
}

impl Validator {
    /// Answers for this store.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner { parts, recent: Mutex::new(VecDeque::new()) }))
    }
}

impl Application for Validator {
    fn propose(&self, context: Context) -> BoxFuture<'static, Option<[u8; 32]>> {
        let inner = self.0.clone();
        async move { inner.propose(context).await }.boxed()
    }

    fn verify(&self, context: Context, digest: [u8; 32]) -> BoxFuture<'static, bool> {
        let inner = self.0.clone();
        async move { inner.verify(context, Digest(digest)).await }.boxed()
    }

    fn certify(&self, _: u64, _: u64, digest: [u8; 32]) -> BoxFuture<'static, bool> {
        let inner = self.0.clone();
        async move { inner.certify(Digest(digest)).await }.boxed()
    }

    fn broadcast(&self, digest: [u8; 32]) {
        self.0.broadcast(Digest(digest));
    }

    fn finalized(&self, finalized: Finalized) {
        note(&self.0.parts.newest, finalized);
    }
}

impl Inner {
    async fn propose(&self, context: Context) -> Option<[u8; 32]> {
        if context.epoch != self.parts.epoch.0 {
            return None;
        }
        let deadline = Instant::now() + self.parts.proposal.empty_block_interval;
        let parent = Digest(context.parent);
        let Ok(header) = self.parts.headers.header(parent, &[]).await else {
            return std::future::pending().await;
        };
        if self.is_last(&header) {
            sleep(self.parts.proposal.block_interval).await;
            return Some(parent.0);
        }
        self.pace(&header).await;
        let payload = self.payload(parent, &header, deadline).await?;
        let digest = payload.digest(&self.parts.chain);
        self.parts.headers.remember(digest, payload.header);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((digest, payload));
        if recent.len() > RECENT_PAYLOADS {
            recent.pop_front();
        }
        Some(digest.0)
    }

    /// Waits until a block may follow its parent.
    async fn pace(&self, parent: &PayloadHeader) {
        let ProposalConfig { block_interval, block_interval_min, .. } = self.parts.proposal;
        sleep(pause(block_interval_min, parent.block_timestamp, clock::wall())).await;
        let waiting = *self.parts.store.proposable_bytes().borrow();
        if waiting > EARLY_BYTES_MAX {
            sleep(pause(block_interval, parent.block_timestamp, clock::wall())).await;
        }
    }

    /// True for the last block of the epoch that is served.
    fn is_last(&self, header: &PayloadHeader) -> bool {
        header.epoch == self.parts.epoch && self.parts.plan.borrow().is_last(header)
    }

    /// Waits until there is something to order, or until the deadline for an empty payload.
    async fn payload(
        &self,
        parent: Digest,
        header: &PayloadHeader,
        deadline: Instant,
    ) -> Option<Arc<Payload>> {
        let mut proposable = self.parts.store.proposable();
        let mut again = false;
        loop {
            // What can be proposed is counted with what unfinalised ancestors hold already: after
            // an empty payload only a change of the count makes another try worth its fsync.
            let something = async {
                if again {
                    sleep(PULL_INTERVAL).await;
                    proposable.changed().await?;
                }
                proposable.wait_for(|count| *count > 0).await.map(|_| ())
            };
            let due = match timeout_at(deadline, something).await {
                Ok(Ok(())) => false,
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => true,
            };
            let payload = self.pull(parent, header).await?;
            if due || !payload.content.is_empty() {
                return Some(payload);
            }
            again = true;
        }
    }

    /// A payload that is durable here. `None` if this validator is too far behind to propose.
    async fn pull(&self, parent: Digest, header: &PayloadHeader) -> Option<Arc<Payload>> {
        let limits = &self.parts.proposal;
        let mut asked_for = None;
        let held = self.parts.hold.as_ref().is_some_and(|file| file.exists());
        loop {
            let request = PullRequest {
                epoch: self.parts.epoch,
                height: header.height.next(),
                parent,
                block_timestamp: clock::wall().max(header.block_timestamp),
                limits: PayloadLimits {
                    transactions_max: limits.transactions_max,
                    batch_bytes_max: limits.batch_bytes_max.0,
                    batches_max: if held { 0 } else { limits.batches_max },
                },
                exclude: Vec::new(),
            };
            match self.parts.store.pull(request).await {
                Ok(payload) => return Some(payload),
                Err(CallError::Stopped(_)) => return std::future::pending().await,
                Err(CallError::Refused(PullError::UnknownAncestor(ancestor)))
                    if asked_for != Some(ancestor) =>
                {
                    asked_for = Some(ancestor);
                    if self.parts.headers.fetched(ancestor, &[]).await.is_err() {
                        return std::future::pending().await;
                    }
                }
                Err(CallError::Refused(reason)) => {
                    tracing::info!(%parent, %reason, "no proposal in this view");
                    return None;
                }
            }
        }
    }

    async fn verify(&self, context: Context, digest: Digest) -> bool {
        if context.epoch != self.parts.epoch.0 {
            return std::future::pending().await;
        }
        let leader = Author(context.leader);
        let parent = Digest(context.parent);
        let Ok(header) = self.parts.headers.header(parent, &[leader]).await else {
            return std::future::pending().await;
        };
        if self.is_last(&header) {
            return if digest == parent { self.certify(digest).await } else { false };
        }
        let parent = ParentOf {
            digest: parent,
            height: header.height,
            block_timestamp: header.block_timestamp,
        };
        let responders = self.parts.headers.responders(&[leader]);
        let request = VerifyRequest { digest, parent: Some(parent), responders };
        match self.parts.store.verify(request).await {
            Ok(header) => {
                self.parts.headers.remember(digest, header);
                self.time_has_come(header.block_timestamp).await;
                true
            }
            Err(CallError::Refused(reason)) => {
                tracing::warn!(%digest, %leader, %reason, "an invalid proposal");
                false
            }
            Err(CallError::Stopped(_)) => std::future::pending().await,
        }
    }

    async fn certify(&self, digest: Digest) -> bool {
        match self.parts.headers.durable(digest, &[]).await {
            Ok(header) => {
                self.parts.headers.remember(digest, header);
                true
            }
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits while a block is too far ahead of this validator's clock.
    async fn time_has_come(&self, block_timestamp: Timestamp) {
        loop {
            let latest = clock::wall().saturating_add(self.parts.clock_allowance);
            let Some(ahead) = block_timestamp.0.checked_sub(latest.0).filter(|ahead| *ahead > 0)
            else {
                return;
            };
            // In steps, because the clock may be set meanwhile.
            sleep(Duration::from_micros(ahead).min(Duration::from_secs(1))).await;
        }
    }

    fn broadcast(&self, digest: Digest) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, payload)) = recent.iter().find(|(known, _)| *known == digest) {
            self.parts.store.announce(payload);
        } else {
            // Proposed in a former life: the others fetch it.
            tracing::debug!(%digest, "a proposal that is no longer in memory");
        }
    }
}

/// How long to wait so that a block interval lies between the parent and now. Never longer than
/// the interval, however wrong a clock is.
fn pause(interval: Duration, parent: Timestamp, now: Timestamp) -> Duration {
    let since = Duration::from_micros(now.0.saturating_sub(parent.0));
    interval.saturating_sub(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_never_exceeds_the_interval() {
        let interval = Duration::from_millis(50);
        let at = |millis: u64| Timestamp(millis * 1000);
        assert_eq!(pause(interval, at(1000), at(1010)), Duration::from_millis(40));
        assert_eq!(pause(interval, at(1000), at(2000)), Duration::ZERO);
        assert_eq!(pause(interval, at(2000), at(1000)), interval);
        assert_eq!(pause(interval, at(0), at(5000)), Duration::ZERO);
    }
}
