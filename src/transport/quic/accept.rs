//! Answering those who dial: bounded, concurrent, and deciding about second links.

use std::{sync::Arc, time::Duration};

use quinn::{Connection, Endpoint, Incoming};
use rustls::pki_types::CertificateDer;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, timeout},
};

use super::{Shared, link, tls::author_of};
use crate::{
    transport::{LinkDown, Refusal, link::Link, peers::PeerSlot},
    types::Author,
};

/// How often an old link is looked at while a new one waits for its end.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// Takes what dials us until the transport stops. It never waits for a handshake.
pub(super) async fn accept(shared: Arc<Shared>, endpoint: Endpoint) {
    let most = shared.config.pending_handshakes_max;
    let pending = Arc::new(Semaphore::new(most));
    while let Some(Some(incoming)) = shared.stop.run_until_cancelled(endpoint.accept()).await {
        let Ok(permit) = Arc::clone(&pending).try_acquire_owned() else {
            tracing::debug!(from = %incoming.remote_address(), "too many handshakes: refused");
            incoming.refuse();
            continue;
        };
        let busy = pending.available_permits() < most / 2;
        if busy && !incoming.remote_address_validated() {
            // A dialler that is there answers this in one round trip; a forged address never does.
            if let Err(error) = incoming.retry() {
                tracing::debug!(%error, "cannot ask for proof of address: refused");
            }
            continue;
        }
        shared.tasks.spawn(answer(Arc::clone(&shared), incoming, permit));
    }
}

/// One incoming connection, from its handshake to the end of its link.
async fn answer(shared: Arc<Shared>, incoming: Incoming, pending: OwnedSemaphorePermit) {
    let from = incoming.remote_address();
    let handshake = timeout(shared.config.handshake_timeout, async { incoming.accept()?.await });
    let connection = match shared.stop.run_until_cancelled(handshake).await {
        Some(Ok(Ok(connection))) => connection,
        Some(Ok(Err(error))) => {
            tracing::warn!(%from, %error, "handshake failed");
            return;
        }
        Some(Err(_)) => {
            tracing::warn!(%from, "handshake took too long");
            return;
        }
        None => return,
    };
    // The set may have changed since the handshake asked it.
    let slot = identity(&connection).and_then(|key| shared.peers.get(&key));
    let Some(slot) = slot else {
        link::close(&connection, &LinkDown::RefusedByUs(Refusal::UnknownKey));
        return;
    };
    if slot.key() > shared.peers.own() {
        let reason = LinkDown::RefusedByUs(Refusal::WrongDirection);
        link::close(&connection, &reason);
        shared.give_up(&slot, reason);
        return;
    }
    let candidate = slot.candidate();
    let give_up = async {
        tokio::select! {
            () = slot.stopped() => LinkDown::Closed,
            () = candidate.cancelled() => LinkDown::RefusedByUs(Refusal::SecondLink),
        }
    };
    tokio::pin!(give_up);
    let room = tokio::select! {
        reason = &mut give_up => Err(reason),
        room = supersede(&slot, shared.config.silence()) => room,
    };
    let greeted = match room {
        Ok(()) => link::greet(&shared, &slot, &connection, give_up).await,
        Err(reason) => Err(reason),
    };
    drop(pending);
    match greeted {
        Ok(greeted) => {
            link::run(&shared, &slot, connection, greeted, &candidate).await;
        }
        Err(reason) => {
            link::close(&connection, &reason);
            shared.give_up(&slot, reason);
        }
    }
}

/// The key that the other end has proved to hold.
fn identity(connection: &Connection) -> Option<Author> {
    let identity = connection.peer_identity()?;
    let keys = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    author_of(keys.first()?)
}

/// Makes room for a new link: ends the present one if it is silent for that long, or refuses the
/// new one if the present one is heard.
async fn supersede(slot: &PeerSlot, silence: Duration) -> Result<(), LinkDown> {
    let Some(old) = slot.link() else { return Ok(()) };
    tokio::select! {
        _ = old.ended() => Ok(()),
        () = heard(&old) => Err(LinkDown::RefusedByUs(Refusal::SecondLink)),
        () = tokio::time::sleep(silence) => {
            let text = "silent, and replaced by a newer link of the same key";
            old.end(LinkDown::Lost(text.into()));
            Ok(())
        }
    }
}

/// Waits until the other end of this link sends anything.
async fn heard(link: &Link) {
    let before = link.report().datagrams_received;
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while link.report().datagrams_received == before {
        ticks.tick().await;
    }
}
