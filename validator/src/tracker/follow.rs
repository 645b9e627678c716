//! The tracker as a subscriber of commits: which batches are ordered, and where.
//!
//! It is memory of one process life, so it needs nothing from before: it attaches with the next
//! index of the executor at the start, or wherever the commits begin that are kept. Milestones
//! that are missed do no harm.

use std::sync::Arc;
use std::time::Duration;

use quorum_store::engine::{CallError, QuorumStore, SubscriptionError};
use quorum_store::sequencer::port::{Delivery, SubscribeError, SubscriptionEnd};
use quorum_store::types::{ChainId, Commit, CommitIndex};
use tokio_util::sync::CancellationToken;

use super::Tracker;
use crate::exit::Failure;

/// Its name among the subscribers.
const SUBSCRIBER: &str = "tracker";

/// A payload that was applied is here; looking for it at others is not worth longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Follows the commits until `stop`.
pub async fn follow(
    store: QuorumStore,
    chain: ChainId,
    tracker: Arc<Tracker>,
    next: CommitIndex,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut next = next;
    loop {
        let followed = follow_from(&store, &chain, &tracker, next);
        match stop.run_until_cancelled(followed).await {
            None => return Ok(()),
            Some(Ok(again)) => next = again,
            Some(Err(failure)) => return Err(failure),
        }
    }
}

/// Follows until it was detached. Returns where to attach again.
async fn follow_from(
    store: &QuorumStore,
    chain: &ChainId,
    tracker: &Tracker,
    mut next: CommitIndex,
) -> Result<CommitIndex, Failure> {
    let mut subscription = match store.subscribe(SUBSCRIBER, next).await {
        Ok(subscription) => subscription,
        Err(CallError::Refused(SubscribeError::Pruned { first_kept })) => return Ok(first_kept),
        Err(CallError::Refused(error)) => return Err(Failure::other(error.to_string())),
        Err(CallError::Stopped(cause)) => return Err(cause.into()),
    };
    loop {
        let delivery = match subscription.next().await {
            Ok(delivery) => delivery,
            Err(SubscriptionError::Ended(SubscriptionEnd::Lagged)) => return Ok(next),
            Err(SubscriptionError::Stopped(cause)) => return Err(cause.into()),
            Err(error) => return Err(Failure::other(error.to_string())),
        };
        if let Delivery::Commit(commit) = delivery {
            ordered(store, chain, tracker, &commit).await;
        }
        next = delivery.last().next();
        // Whatever stops it tells the next call as well.
        let _ = subscription.acknowledge(delivery.last()).await;
    }
}

async fn ordered(store: &QuorumStore, chain: &ChainId, tracker: &Tracker, commit: &Commit) {
    let digest = commit.header.digest(chain);
    if let Ok(payload) = store.payload(digest, Vec::new(), PATIENCE).await {
        let batches = payload.content.batches().map(|info| info.digest(chain));
        tracker.ordered(commit.index.0, batches);
    }
}
