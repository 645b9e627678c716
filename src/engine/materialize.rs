//! Materialise: the transactions of a block, in the order of execution, or a verdict.
//!
//! ```text
//!  commit ─▶ payload ─▶ its batches, 64 at once ─▶ in the order of execution, each once it is here
//!             │             │                          │
//!             └── memory, disk, peers ────────────────▶ Ready / TimedOut / Unavailable / Pruned
//! ```
//!
//! It always ends, by its deadline and one tick, with one of five outcomes; the fifth is that the
//! engine stopped. What is skipped is never a local opinion: a batch that expired before the block's
//! timestamp, and content of which a logged commit carries evidence that it is gone. No deadline,
//! clock or answer of a peer decides content.
//!
//! Whoever waits for the same content shares one fetch; dropping the future takes the wait back.
//! What was fetched goes to whoever waits first, and is stored with the next group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{CallError, StopCause};
use super::handle::QuorumStore;
use super::serve;
use crate::sequencer::Skips;
use crate::sequencer::port::{Content, FetchError, Wanted};
use crate::types::{
    Author, BatchBody, BatchInfo, Commit, CommitIndex, Digest, Payload, UnavailabilityProof,
};

/// Batches looked for at once for one block.
const AT_ONCE: usize = 64;
/// How much later than its deadline a call may end.
const TICK: Duration = Duration::from_millis(100);

/// One batch of a block.
#[derive(Clone, Debug)]
pub struct MaterializedBatch {
    /// Its digest.
    pub digest: Digest,
    /// Its info.
    pub info: BatchInfo,
    /// Its transactions; `None` if everybody skips it: it expired before the block's timestamp, or
    /// committed evidence says that it is gone.
    pub body: Option<BatchBody>,
}

/// How materialising ended. Beside these, the engine may have stopped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Materialized {
    /// Everything is here, in the order of execution. Empty if committed evidence says that the
    /// content of the payload is gone.
    Ready(Vec<MaterializedBatch>),
    /// A quorum signed that content is gone. It changes nothing until a commit carries the evidence,
    /// which goes into the next proposal by itself: call again. It may still turn up.
    Unavailable(Arc<UnavailabilityProof>),
    /// No decision: call again.
    TimedOut {
        /// What is still missing: the payload, or batches of it.
        missing: Vec<Digest>,
    },
    /// The commit lies so far back that its content has rightly been deleted: take the state of
    /// another validator. Never skip it.
    Pruned,
}

/// Why there is no content.
enum Ended {
    Verdict(Materialized),
    Stopped(StopCause),
}

/// Where the body of a batch comes from.
enum Source {
    /// It travelled in the payload.
    Inline(BatchBody),
    /// These hold it, best first; the others are asked after them.
    Holders(Vec<Author>),
}

/// The batches of a commit as they become ready, in the order of execution.
pub struct Materializing {
    store: QuorumStore,
    commit: Commit,
    deadline: Instant,
    skips: Arc<Skips>,
    /// `None` until the payload is here.
    batches: Option<FuturesOrdered<BoxFuture<'static, Result<MaterializedBatch, Ended>>>>,
    /// Batches that are not looked for yet.
    rest: VecDeque<(Digest, BatchInfo, Source)>,
    missing: Vec<Digest>,
    ended: bool,
}

/// What comes next out of [`Materializing`].
#[derive(Clone, Debug)]
pub enum Step {
    /// The next batch.
    Batch(MaterializedBatch),
    /// There are no more. `Ready` is empty here: its batches have come before.
    End(Materialized),
}

impl QuorumStore {
    /// The batches of a committed block, in the order of execution, or a verdict; at the latest
    /// after `deadline` and one tick.
    pub async fn materialize(
        &self,
        commit: &Commit,
        deadline: Duration,
    ) -> Result<Materialized, StopCause> {
        let began = std::time::Instant::now();
        let mut stream = self.materializing(commit, deadline);
        let mut batches = Vec::new();
        let end = loop {
            match stream.next().await? {
                Step::Batch(batch) => batches.push(batch),
                Step::End(end) => break end,
            }
        };
        self.called("materialize", began);
        Ok(match end {
            Materialized::Ready(_) => Materialized::Ready(batches),
            other => other,
        })
    }

    /// The same, batch by batch, so that execution can begin with the first.
    pub fn materializing(&self, commit: &Commit, deadline: Duration) -> Materializing {
        Materializing {
            store: self.clone(),
            commit: *commit,
            deadline: Instant::now() + deadline,
            skips: self.shared().skips(),
            batches: None,
            rest: VecDeque::new(),
            missing: Vec::new(),
            ended: false,
        }
    }

    /// What everybody skips because a logged commit carries evidence that it is gone, and from which
    /// commit on; as it changes.
    pub fn skips(&self) -> watch::Receiver<Arc<Skips>> {
        self.shared().skips.subscribe()
    }
}

impl Materializing {
    /// The next batch, or how it ended; after the end, the same end again. Cancel-safe.
    pub async fn next(&mut self) -> Result<Step, StopCause> {
        let deadline = self.deadline + TICK;
        let step = tokio::time::timeout_at(deadline, self.step()).await;
        match step {
            Ok(Ok(step)) => Ok(step),
            Ok(Err(Ended::Verdict(verdict))) => Ok(self.end(verdict)),
            Ok(Err(Ended::Stopped(cause))) => Err(cause),
            // The queue of requests is full, or the sequencer is being rebuilt.
            Err(_) => {
                let missing = self.missing();
                Ok(self.end(Materialized::TimedOut { missing }))
            }
        }
    }

    fn end(&mut self, verdict: Materialized) -> Step {
        (self.ended, self.batches) = (true, None);
        self.rest.clear();
        Step::End(verdict)
    }

    fn missing(&self) -> Vec<Digest> {
        let payload = self.commit.header.digest(&self.store.shared().chain);
        if self.batches.is_none() && !self.ended { vec![payload] } else { self.missing.clone() }
    }

    async fn step(&mut self) -> Result<Step, Ended> {
        if self.ended {
            let missing = self.missing.clone();
            return Ok(Step::End(Materialized::TimedOut { missing }));
        }
        if self.batches.is_none() {
            self.open().await?;
        }
        while let Some(batches) = &mut self.batches {
            while batches.len() < AT_ONCE
                && let Some(wanted) = self.rest.pop_front()
            {
                let (store, commit) = (self.store.clone(), self.commit);
                let (skips, deadline) = (Arc::clone(&self.skips), self.deadline);
                let find = find_batch(store, commit, skips, deadline, wanted);
                batches.push_back(find.boxed());
            }
            match batches.next().await {
                Some(Ok(batch)) if self.missing.is_empty() => return Ok(Step::Batch(batch)),
                // Beyond a gap nothing is handed out; what else is missing is gathered.
                Some(Ok(_)) => {}
                Some(Err(Ended::Verdict(Materialized::TimedOut { missing }))) => {
                    self.missing.extend(missing);
                }
                Some(Err(other)) => return Err(other),
                None => break,
            }
        }
        let missing = std::mem::take(&mut self.missing);
        Err(Ended::Verdict(if missing.is_empty() {
            Materialized::Ready(Vec::new())
        } else {
            Materialized::TimedOut { missing }
        }))
    }

    /// The payload, and with it the list of batches.
    async fn open(&mut self) -> Result<(), Ended> {
        let shared = Arc::clone(self.store.shared());
        let digest = self.commit.header.digest(&shared.chain);
        if is_skipped(&self.skips, &digest, self.commit.index) {
            return Err(Ended::Verdict(Materialized::Ready(Vec::new())));
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let wanted =
            Wanted { digest, info: None, holders: Vec::new(), commit: Some(self.commit.index) };
        let payload = match self.store.find_payload(wanted, left).await {
            Ok(payload) => payload,
            Err(CallError::Refused(FetchError::Rewritten)) => {
                return Err(Ended::Verdict(Materialized::Ready(Vec::new())));
            }
            Err(error) => return Err(ended(digest, error)),
        };
        self.rest = payload
            .content
            .batches()
            .enumerate()
            .map(|(position, info)| {
                (info.digest(&shared.chain), *info, source(&self.store, &payload, position))
            })
            .collect();
        self.batches = Some(FuturesOrdered::new());
        Ok(())
    }
}

/// True if committed evidence says that it is gone.
fn is_skipped(skips: &Skips, digest: &Digest, at: CommitIndex) -> bool {
    skips.get(digest).is_some_and(|from| *from <= at)
}

/// Who signed the proof of this batch; of an optimistic one, whose voters only consensus knows, its
/// author. The others are asked after them.
fn source(store: &QuorumStore, payload: &Payload, position: usize) -> Source {
    let (shared, content) = (store.shared(), &payload.content);
    if let Some(proof) = content.proofs.get(position) {
        let view = shared.view();
        let committee = view.committee_of(proof.info.epoch);
        let signers = committee.into_iter().flat_map(|committee| proof.signers(committee));
        return Source::Holders(signers.filter(|signer| *signer != shared.author).collect());
    }
    let past = position - content.proofs.len();
    match content.optimistic.get(past) {
        Some(info) => Source::Holders(vec![info.author]),
        None => Source::Inline(content.inline[past - content.optimistic.len()].body.clone()),
    }
}

/// One batch: memory, then disk, then peers.
async fn find_batch(
    store: QuorumStore,
    commit: Commit,
    skips: Arc<Skips>,
    deadline: Instant,
    (digest, info, source): (Digest, BatchInfo, Source),
) -> Result<MaterializedBatch, Ended> {
    let skipped = MaterializedBatch { digest, info, body: None };
    if info.expiration < commit.header.block_timestamp || is_skipped(&skips, &digest, commit.index)
    {
        return Ok(skipped);
    }
    let holders = match source {
        Source::Inline(body) => return Ok(MaterializedBatch { digest, info, body: Some(body) }),
        Source::Holders(holders) => holders,
    };
    let shared = Arc::clone(store.shared());
    let local = if let Some(batch) = shared.cached_batch(&digest) {
        Some(batch)
    } else if !shared.reader.may_hold(&digest) {
        // A node that catches up misses thousands: no thread is woken for each of them.
        None
    } else {
        let read = move || serve::find_batch(&shared, &digest).ok().flatten();
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| Ended::Stopped(store.reader_broke(&error)))?
    };
    if let Some(batch) = local {
        return Ok(MaterializedBatch { digest, info, body: Some(batch.body) });
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let wanted = Wanted { digest, info: Some(info), holders, commit: Some(commit.index) };
    match store.fetch(wanted, left).await {
        Ok(Content::Batch(batch)) => Ok(MaterializedBatch { digest, info, body: Some(batch.body) }),
        // A digest names one content: a payload cannot have a batch's.
        Ok(Content::Payload(_)) => {
            Err(Ended::Verdict(Materialized::TimedOut { missing: vec![digest] }))
        }
        Err(CallError::Refused(FetchError::Rewritten)) => Ok(skipped),
        Err(error) => Err(ended(digest, error)),
    }
}

fn ended(digest: Digest, error: CallError<FetchError>) -> Ended {
    match error {
        CallError::Stopped(cause) => Ended::Stopped(cause),
        CallError::Refused(FetchError::Unavailable(proof)) => {
            Ended::Verdict(Materialized::Unavailable(proof))
        }
        CallError::Refused(FetchError::Pruned) => Ended::Verdict(Materialized::Pruned),
        CallError::Refused(_) => Ended::Verdict(Materialized::TimedOut { missing: vec![digest] }),
    }
}
