//! Links over QUIC: one UDP socket, one connection per pair of validators.
//!
//! # Job
//!
//! [`QuicTransport`] implements [`Transport`] on the network. The end with the lower key dials,
//! and dials again with backoff for as long as the other key is in the set.
//!
//! ```text
//!  dialler (lower key)                               acceptor
//!     |---- QUIC, TLS 1.3, raw public keys -------------->|  both keys proved and in the sets
//!     |---- control stream: length, hello --------------->|  judged
//!     |<--- control stream: length, hello ----------------|  judged
//!     |---- "qsok" -------------->     <------- "qsok" ---|  up when the other's has arrived
//!     |==== control frames, bulk frames ==================|
//! ```
//!
//! Each end opens two unidirectional streams: the first is control, the second bulk. Control has
//! the higher priority, and the windows are sized so that unread bulk data cannot use up what
//! control needs.
//!
//! # Guarantees
//!
//! Those of [the module above](crate::transport), and:
//!
//! - Who is not in the set cannot get past the handshake; the set is asked again afterwards, so
//!   a change of the set while a handshake is under way applies.
//! - Handshakes are answered concurrently, bounded in number and time.
//! - A killed and restarted peer is back within about two seconds. A restarted *acceptor* answers
//!   the packets of its old link with a stateless reset (the key for it is derived from the
//!   identity, so that it survives the restart), and the dialler redials. A restarted *dialler*
//!   brings a second link: the acceptor listens to the old one for one and a half keep-alive
//!   intervals, in which a live peer cannot be silent, and lets the new one replace it. If the old
//!   one is heard, two processes hold one key, and the new link is refused with
//!   [`Refusal::SecondLink`].
//!
//! # What it is not
//!
//! It does not find addresses, pass firewalls that block UDP, or protect from floods of packets
//! beyond bounding what a handshake can cost.
//!
//! # Failure behaviour
//!
//! Errors of [`QuicTransport::start`] are of this machine: settings, key, socket. After that, every
//! failure belongs to one peer and shows in [`Transport::links`].

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use ed25519_dalek::SigningKey;
use futures::{FutureExt as _, future::BoxFuture};
use quinn::Endpoint;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Class, Frame, Handshake, LinkDown, LinkEvent, LinkStatus, Peer, Refusal, SendError, Transport,
    events::Events,
    peers::{PeerSlot, PeerTable},
    sync::lock,
    tasks::Tasks,
};
use crate::types::Author;

mod accept;
mod config;
mod dial;
mod endpoint;
mod link;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

pub use config::{ConfigError, QuicConfig};

/// How long [`Transport::shutdown`] waits for peers and tasks to end in order. Then it drops what
/// is left.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);

/// Why the transport cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A setting is outside its bound.
    #[error("transport settings: {0}")]
    Config(#[from] ConfigError),
    /// The socket cannot be had; the address may be in use.
    #[error("cannot listen on UDP {address}: {source}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The key cannot be used as a TLS identity.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// `start` was called outside of a tokio runtime.
    #[error("a tokio runtime is needed to start the transport")]
    NoRuntime,
}

/// What the tasks of one transport share.
struct Shared {
    config: QuicConfig,
    peers: Arc<PeerTable>,
    handshake: Arc<dyn Handshake>,
    events: Events,
    tls: tls::Tls,
    quic: Arc<quinn::TransportConfig>,
    /// Taken by shutdown: the socket closes when the last clone is gone.
    endpoint: Mutex<Option<Endpoint>>,
    /// Begins the orderly end of everything.
    stop: CancellationToken,
    tasks: Tasks,
    /// The tasks of the QUIC library, which ends them when the last handle is gone.
    drivers: Tasks,
}

/// Links to the other validators over QUIC. See the module documentation.
///
/// Dropping it without [`Transport::shutdown`] stops its tasks too, but nothing waits for them.
pub struct QuicTransport {
    shared: Arc<Shared>,
    local_address: SocketAddr,
}

impl fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicTransport")
            .field("key", &self.shared.peers.own())
            .field("local_address", &self.local_address)
            .finish_non_exhaustive()
    }
}

impl QuicTransport {
    /// Binds the socket and starts to dial and accept. Must be called inside a tokio runtime,
    /// which must live until [`Transport::shutdown`] is over; everything else may be called from
    /// any thread.
    ///
    /// `key` is the validator's identity; `peers` may contain it. `events` should be drained at
    /// all times: while it is full, nothing is read from any peer.
    pub fn start(
        config: QuicConfig,
        key: &SigningKey,
        peers: &[Peer],
        handshake: Arc<dyn Handshake>,
        events: mpsc::Sender<LinkEvent>,
    ) -> Result<Self, TransportError> {
        config.validate()?;
        let runtime = Handle::try_current().map_err(|_| TransportError::NoRuntime)?;
        let stop = CancellationToken::new();
        let drivers = Tasks::new(runtime.clone());
        let own = Author(key.verifying_key().to_bytes());
        let table = Arc::new(PeerTable::new(own, config.limits, stop.clone()));
        let tls = tls::Tls::new(key, &table)?;
        let quic = Arc::new(endpoint::transport_config(&config));
        let endpoint = endpoint::open(&config, key, &tls, &quic, drivers.clone())?;
        let local_address = endpoint
            .local_addr()
            .map_err(|source| TransportError::Listen { address: config.listen, source })?;
        let shared = Arc::new(Shared {
            config,
            peers: table,
            handshake,
            events: Events::new(events, stop.clone()),
            tls,
            quic,
            endpoint: Mutex::new(Some(endpoint.clone())),
            stop,
            tasks: Tasks::new(runtime),
            drivers,
        });
        shared.tasks.spawn(accept::accept(Arc::clone(&shared), endpoint));
        let transport = Self { shared, local_address };
        transport.set_peers(peers.to_vec());
        Ok(transport)
    }

    /// Where the socket listens, with the port that was chosen.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    async fn end_in_order(&self) {
        self.shared.tasks.join().await;
        // Out of the lock before the wait: a second shutdown finds nothing and waits below.
        let endpoint = lock(&self.shared.endpoint).take();
        if let Some(endpoint) = endpoint {
            endpoint.close(quinn::VarInt::from_u32(0), b"");
            // Without it peers would not hear of the end, and would wait for the idle timeout.
            endpoint.wait_idle().await;
        }
        self.shared.drivers.join().await;
    }
}

impl Transport for QuicTransport {
    fn send(&self, to: Author, class: Class, frame: Frame) -> Result<(), SendError> {
        self.shared.peers.send(to, class, frame)
    }

    fn refuse(&self, peer: Author, reason: Refusal) {
        self.shared.peers.refuse(peer, reason);
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.shared.peers.links()
    }

    fn set_peers(&self, peers: Vec<Peer>) {
        let own = self.shared.peers.own();
        let added = self.shared.peers.replace(&peers);
        for slot in added.into_iter().filter(|slot| own < slot.key()) {
            self.shared.tasks.spawn(dial::keep_dialled(Arc::clone(&self.shared), slot));
        }
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        async move {
            self.shared.stop.cancel();
            if tokio::time::timeout(SHUTDOWN_DEADLINE, self.end_in_order()).await.is_err() {
                tracing::warn!("links did not end in time: dropping what is left");
                self.shared.tasks.abandon().await;
                drop(lock(&self.shared.endpoint).take());
                self.shared.drivers.abandon().await;
            }
        }
        .boxed()
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    /// Closes an attempt that did not become a link, and notes why.
    fn give_up(&self, slot: &PeerSlot, reason: LinkDown) {
        use LinkDown::{Closed, Lost, RefusedByPeer, RefusedByUs};
        let (own, peer) = (self.peers.own(), slot.key());
        match &reason {
            RefusedByUs(_) | RefusedByPeer(_) => {
                tracing::warn!(%own, %peer, %reason, "no link");
            }
            Lost(_) | Closed => tracing::debug!(%own, %peer, %reason, "no link"),
        }
        slot.note_down(reason);
    }
}
