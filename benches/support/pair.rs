//! Two ends of a QUIC link on this machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use quorum_store::transport::quic::{QuicConfig, QuicTransport};
use quorum_store::transport::{Class, Frame, Handshake, LinkEvent, Peer, Refusal, Transport as _};
use quorum_store::types::Author;
use tokio::sync::mpsc;

/// Links with everybody.
struct Open;

impl Handshake for Open {
    fn hello(&self, _: Author) -> Bytes {
        Bytes::from_static(b"hello")
    }

    fn judge(&self, _: Author, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }
}

fn bind(key: &SigningKey, peers: &[Peer]) -> (QuicTransport, mpsc::Receiver<LinkEvent>) {
    let (sender, events) = mpsc::channel(4096);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = QuicConfig { listen, loopback: true, ..QuicConfig::default() };
    (QuicTransport::start(config, key, peers, Arc::new(Open), sender).unwrap(), events)
}

/// One sends, the other receives.
pub struct Pair {
    sending: QuicTransport,
    receiving: QuicTransport,
    to: Author,
    events: mpsc::Receiver<LinkEvent>,
    /// Held for its end.
    _others: mpsc::Receiver<LinkEvent>,
}

impl Pair {
    pub async fn new() -> Self {
        let keys = [1, 2].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        let name = |key: &SigningKey| Author(key.verifying_key().to_bytes());
        let (sending, mut others) = bind(&keys[0], &[]);
        let peer = Peer { key: name(&keys[0]), address: sending.local_address() };
        let (receiving, mut events) = bind(&keys[1], &[peer]);
        let to = name(&keys[1]);
        sending.set_peers(vec![Peer { key: to, address: receiving.local_address() }]);
        for events in [&mut others, &mut events] {
            while !matches!(events.recv().await.unwrap(), LinkEvent::Up { .. }) {}
        }
        Self { sending, receiving, to, events, _others: others }
    }

    /// Queues a frame; false if there is no room for it now.
    pub fn send(&self, frame: Frame) -> bool {
        self.sending.send(self.to, Class::Bulk, frame).is_ok()
    }

    /// The next frame that arrived.
    pub async fn receive(&mut self) -> Bytes {
        loop {
            if let LinkEvent::Frame(inbound) = self.events.recv().await.unwrap() {
                return inbound.bytes;
            }
        }
    }

    pub async fn end(self) {
        self.sending.shutdown().await;
        self.receiving.shutdown().await;
    }
}
