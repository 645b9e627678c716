//! Dialling one peer for as long as it is in the set.

use std::{sync::Arc, time::Duration};

use quinn::{ClientConfig, Connection, crypto::rustls::QuicClientConfig};
use tokio::time::Instant;

use super::{Shared, link, stream::connection_failed};
use crate::transport::{
    LinkDown, Refusal,
    backoff::{Backoff, pair_seed},
    peers::PeerSlot,
    sync::lock,
};

/// Required by the library, sent to nobody.
const SERVER_NAME: &str = "validator";

/// Dials, runs the link, and dials again, until the peer is removed or the transport stops.
pub(super) async fn keep_dialled(shared: Arc<Shared>, slot: Arc<PeerSlot>) {
    let config = &shared.config;
    let seed = pair_seed(config.jitter_seed, &slot.key());
    let mut backoff = Backoff::new(config.redial_backoff_min, config.redial_backoff_max, seed);
    while !slot.is_stopped() {
        let lasted = match attempt(&shared, &slot).await {
            Ok(lasted) => lasted,
            Err(reason) => {
                shared.give_up(&slot, reason);
                Duration::ZERO
            }
        };
        // A link that is refused soon after it came up must not be redialled without a pause.
        if lasted >= config.redial_backoff_max {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            () = slot.readdressed() => backoff.reset(),
            () = slot.stopped() => {}
        }
    }
}

/// One attempt. Returns how long its link lasted, or why there was none.
async fn attempt(shared: &Arc<Shared>, slot: &Arc<PeerSlot>) -> Result<Duration, LinkDown> {
    let candidate = slot.candidate();
    let connection = tokio::select! {
        () = slot.stopped() => return Err(LinkDown::Closed),
        connection = connect(shared, slot) => connection?,
    };
    let give_up = async {
        slot.stopped().await;
        LinkDown::Closed
    };
    let greeted = link::greet(shared, slot, &connection, give_up).await;
    let greeted = greeted.inspect_err(|reason| link::close(&connection, reason))?;
    let up = Instant::now();
    link::run(shared, slot, connection, greeted, &candidate).await;
    Ok(up.elapsed())
}

async fn connect(shared: &Shared, slot: &PeerSlot) -> Result<Connection, LinkDown> {
    let lost = |error: &dyn std::fmt::Display| LinkDown::Lost(format!("cannot dial: {error}"));
    let tls = shared.tls.client(slot.key()).map_err(|error| lost(&error))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| lost(&error))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::clone(&shared.quic));
    let endpoint = lock(&shared.endpoint).clone().ok_or(LinkDown::Closed)?;
    let connecting =
        endpoint.connect_with(config, slot.address(), SERVER_NAME).map_err(|error| lost(&error))?;
    tokio::time::timeout(shared.config.handshake_timeout, connecting)
        .await
        .map_err(|_| LinkDown::RefusedByUs(Refusal::Timeout))?
        .map_err(|error| connection_failed(&error))
}
