//! Watches free space: admission of batches stops before the disk is full, and goes on when there
//! is room again. What remains takes commits, payloads, deletions and cursors.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::ingress::Inboxed;
use super::shared::Shared;
use crate::sequencer::port::Input;

/// Looks at the disk until cancelled.
pub(super) async fn watch(
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Inboxed>,
    reserve: u64,
    interval: Duration,
    stop: CancellationToken,
) {
    let mut admits = true;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let reader = Arc::clone(&shared.reader);
        let Ok(space) = tokio::task::spawn_blocking(move || reader.space()).await else { return };
        shared.metrics.state.observe_space(space, reserve);
        // A quarter of the reserve in between, so that it does not flap.
        let room = if admits { reserve } else { reserve + reserve / 4 };
        let now_admits = space.free_bytes >= room;
        if now_admits == admits {
            continue;
        }
        admits = now_admits;
        let free = space.free_bytes;
        if admits {
            tracing::info!(free, "the disk has room again: batches are admitted");
        } else {
            tracing::warn!(free, reserve, "the disk is nearly full: no batches are admitted");
        }
        if inbox.send(Inboxed::of_host(Input::Space { admits })).await.is_err() {
            return;
        }
    }
}
