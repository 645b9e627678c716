//! Transactions that this validator took and cannot order any more: given to somebody who can.
//!
//! The library gives them back when this validator leaves the committee, or when it took over the
//! state of others beyond the end of their epoch; in the second case some may have been executed.
//! That does no harm: a transaction keeps its id wherever it goes, and is executed once.
//!
//! What nobody takes expires, and its client is told so. The same holds for what is given back
//! right before a crash.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorum_store::engine::QuorumStore;
use quorum_store::sequencer::port::Event;
use quorum_store::types::Digest;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::exit::Failure;
use crate::sync::client::Others;
use crate::transaction;

/// How often they are offered before they are left to expire.
const TRIES: usize = 20;

/// Pause between two offers.
const PAUSE: Duration = Duration::from_millis(500);

/// Hands over what is given back, until `stop`.
pub(super) async fn hand_over(
    store: QuorumStore,
    others: Arc<Others>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut events = store.events();
    while let Some(event) = stop.run_until_cancelled(events.recv()).await {
        match event {
            Ok(Event::Returned { batch, positions, .. }) => {
                let transactions = read(&store, batch, positions).await;
                let offered = offer(&others, transactions);
                if let Some(left) = stop.run_until_cancelled(offered).await {
                    tracing::info!(%batch, left, "gave back what cannot be ordered here");
                }
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "events were missed"),
            Err(RecvError::Closed) => break,
        }
    }
    stop.cancelled().await;
    Ok(())
}

/// Those of a batch at these positions, as they were wrapped.
async fn read(store: &QuorumStore, batch: Digest, positions: Vec<u32>) -> Vec<Bytes> {
    let reader = store.reader();
    let read = tokio::task::spawn_blocking(move || reader.batch(&batch)).await;
    let Ok(Ok(Some(batch))) = read else {
        tracing::warn!(%batch, "a batch that was given back cannot be read");
        return Vec::new();
    };
    let all: Vec<Bytes> = batch.body.transactions().collect();
    positions.iter().filter_map(|position| all.get(*position as usize).cloned()).collect()
}

/// Returns how many nobody took.
async fn offer(others: &Others, mut transactions: Vec<Bytes>) -> usize {
    for _ in 0..TRIES {
        let now = clock::wall();
        transactions.retain(|wrapped| {
            transaction::unwrap(wrapped).is_some_and(|(_, expiration)| expiration > now)
        });
        if transactions.is_empty() {
            break;
        }
        let left = others.hand_over(&transactions).await;
        transactions = left.into_iter().map(|position| transactions[position].clone()).collect();
        if transactions.is_empty() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    transactions.len()
}
