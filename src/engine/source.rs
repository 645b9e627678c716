//! The host's source of transactions: its mempool, from which batches are made beside what is
//! submitted.
//!
//! A source is asked when it says that it is ready and there is room for a batch, and at intervals
//! while it says nothing (`sequencer.source.idle_interval`). It keeps what it gives: a transaction
//! leaves it when the host has executed it, when it expires, or when it is [refused][refused]. Until
//! then [`Exclusions`] say what must not be given a second time.
//!
//! **Failure.** A source that is late, or panics, has given nothing; it is asked again later. What
//! it gives beyond what was asked for is left to it.
//!
//! [refused]: TransactionSource::refused

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::filter;
use super::ingress::Inboxed;
use super::shared::Shared;
use crate::sequencer::port::{Input, SourceLimits, SubmitError, Transaction, TransactionKey};

/// Refusals that wait for the source; beyond it they are dropped, and come again.
const REFUSALS: usize = 256;

/// What a source answers, later.
pub type SourceFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The host's mempool, as this crate sees it. Its methods must not block the thread.
pub trait TransactionSource: Send + Sync + 'static {
    /// The best transactions there are: the dearest first, none that is excluded, within the limits.
    /// What is given stays in the source.
    fn pull<'a>(
        &'a self,
        limits: SourceLimits,
        excluded: &'a Exclusions,
    ) -> SourceFuture<'a, Vec<Transaction>>;

    /// Resolves once there is something that the last pull did not give. It is dropped and made
    /// anew at any time: what it waits for must not be lost with it (`tokio::sync::Notify` keeps a
    /// permit). A source that cannot tell never resolves, and is asked at intervals.
    fn ready(&self) -> SourceFuture<'_, ()>;

    /// These can never be batched here, and should leave the source: it would be asked for them, or
    /// give them, again and again. It may hear of one more than once.
    fn refused(&self, refused: &[(TransactionKey, SubmitError)]);
}

/// Transactions that are in progress: in the pool, in own batches, or seen in batches of other
/// validators lately.
#[derive(Debug, Default)]
pub struct Exclusions {
    keys: RwLock<HashSet<TransactionKey>>,
}

impl Exclusions {
    /// True if this one must not be given.
    pub fn contains(&self, key: &TransactionKey) -> bool {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A life of the sequencer begins, and knows nothing yet.
    pub(super) fn clear(&self) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = HashSet::new();
    }

    pub(super) fn change(&self, entered: &[TransactionKey], left: &[TransactionKey]) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        for key in left {
            keys.remove(key);
        }
        keys.extend(entered);
    }
}

/// How the driver reaches the source.
pub(super) struct Puller {
    pulls: mpsc::Sender<SourceLimits>,
    refusals: mpsc::Sender<Vec<(TransactionKey, SubmitError)>>,
}

impl Puller {
    /// The sequencer asks for transactions: it has one pull under way at most, so there is room.
    pub fn pull(&self, limits: SourceLimits) {
        let _ = self.pulls.try_send(limits);
    }

    pub fn refused(&self, refused: Vec<(TransactionKey, SubmitError)>) {
        let _ = self.refusals.try_send(refused);
    }
}

/// What the task of a source reads.
pub(super) struct Asked {
    pulls: mpsc::Receiver<SourceLimits>,
    refusals: mpsc::Receiver<Vec<(TransactionKey, SubmitError)>>,
}

/// The two ends between the driver and a source.
pub(super) fn channel() -> (Puller, Asked) {
    let (pulls_sender, pulls) = mpsc::channel(1);
    let (refusals_sender, refusals) = mpsc::channel(REFUSALS);
    (Puller { pulls: pulls_sender, refusals: refusals_sender }, Asked { pulls, refusals })
}

/// Asks the source on behalf of one life of the sequencer, until that ends.
pub(super) async fn run(
    shared: Arc<Shared>,
    source: Arc<dyn TransactionSource>,
    mut asked: Asked,
    inbox: mpsc::Sender<Inboxed>,
    timeout: Duration,
    stop: CancellationToken,
) {
    // The sequencer hears that there is a source.
    let mut input = Some(Input::SourceReady);
    // Once it knows that there is something, it need not hear so again before it has asked.
    let mut told = true;
    loop {
        if let Some(input) = input.take()
            && inbox.send(Inboxed::of_host(input)).await.is_err()
        {
            return;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(refused) = asked.refusals.recv() => tell(&*source, &refused),
            Some(limits) = asked.pulls.recv() => {
                told = false;
                let pulled = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    pulled = pull(&shared, &*source, limits, timeout) => pulled,
                };
                input = Some(Input::Transactions(pulled));
            }
            ready = readiness(&*source), if !told => {
                told = true;
                if ready.is_ok() {
                    input = Some(Input::SourceReady);
                } else {
                    tracing::error!("the host's source of transactions panicked");
                }
            }
        }
    }
}

/// Resolves once the source has something, or has panicked.
async fn readiness(source: &dyn TransactionSource) -> std::thread::Result<()> {
    AssertUnwindSafe(async { source.ready().await }).catch_unwind().await
}

/// What the source gives in time, within the limits and past the host's filter.
async fn pull(
    shared: &Shared,
    source: &dyn TransactionSource,
    limits: SourceLimits,
    timeout: Duration,
) -> Vec<Transaction> {
    let began = Instant::now();
    let pulling = async { source.pull(limits, &shared.excluded).await };
    let pulling = tokio::time::timeout(timeout, AssertUnwindSafe(pulling).catch_unwind());
    let (outcome, pulled) = match pulling.await {
        Ok(Ok(pulled)) if pulled.is_empty() => ("empty", pulled),
        Ok(Ok(pulled)) => ("found", pulled),
        Ok(Err(_)) => {
            tracing::error!("the host's source of transactions panicked");
            ("panicked", Vec::new())
        }
        Err(_) => {
            tracing::warn!(?timeout, "the host's source of transactions is late");
            ("late", Vec::new())
        }
    };
    shared.metrics.source.pulled(outcome, began);
    let mut left = limits.bytes_max;
    let fits = |transaction: &Transaction| {
        let rest = left.checked_sub(transaction.bytes.len() as u64);
        left = rest.unwrap_or(left);
        // One that is too large for any batch goes on, and is refused.
        rest.is_some() || transaction.bytes.len() > shared.parameters.transaction_bytes_max as usize
    };
    let pulled = pulled.into_iter().take(limits.transactions_max as usize).filter(fits);
    let Some(filter) = shared.hooks.filter.as_deref() else { return pulled.collect() };
    let mut refused = Vec::new();
    let passes = |transaction: &Transaction| match filter::transaction(filter, transaction) {
        Ok(()) => true,
        Err(error) => {
            refused.push((TransactionKey::of(&transaction.bytes), error));
            false
        }
    };
    let kept = pulled.filter(passes).collect();
    shared.metrics.source.refused(&refused);
    tell(source, &refused);
    kept
}

fn tell(source: &dyn TransactionSource, refused: &[(TransactionKey, SubmitError)]) {
    if refused.is_empty() {
        return;
    }
    if catch_unwind(AssertUnwindSafe(|| source.refused(refused))).is_err() {
        tracing::error!("the host's source of transactions panicked");
    }
}
