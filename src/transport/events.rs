//! The way to the host: a bounded channel, awaited.
//!
//! Awaiting is harmless because what can wait is bounded by the receive budgets. A host that
//! drops its receiver is gone: the transport stops. During shutdown the host may no longer take
//! events, so a wait lasts at most [`SHUTDOWN_GRACE`] then.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::LinkEvent;

/// How long an event waits for a host that has begun to shut down.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub(super) struct Events {
    sender: mpsc::Sender<LinkEvent>,
    /// Cancelled at shutdown, and by us when the host is gone.
    stop: CancellationToken,
}

impl Events {
    pub(super) fn new(sender: mpsc::Sender<LinkEvent>, stop: CancellationToken) -> Self {
        Self { sender, stop }
    }

    /// Hands an event to the host, or gives up at shutdown. Returns whether the host has it.
    /// Dropped before it is ready, it has handed over nothing.
    pub(super) async fn emit(&self, event: LinkEvent) -> bool {
        let grace = async {
            self.stop.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            biased;
            sent = self.sender.send(event) => {
                if sent.is_err() && !self.stop.is_cancelled() {
                    tracing::info!("nobody takes link events any more: the transport stops");
                    self.stop.cancel();
                }
                sent.is_ok()
            }
            () = grace => {
                tracing::debug!("a link event found no taker before shutdown");
                false
            }
        }
    }
}
