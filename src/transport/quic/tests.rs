//! Tests over real sockets on loopback, by subject: who may link, flow of frames, restarts.

#![allow(clippy::expect_used)]

mod flow;
mod links;
mod restart;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ed25519_dalek::SigningKey;
use tokio::sync::mpsc;

use super::{QuicConfig, QuicTransport};
use crate::{
    transport::{
        Transport as _,
        testing::{Chain, Host, peer},
    },
    types::Author,
};

fn config() -> QuicConfig {
    QuicConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        loopback: true,
        ..QuicConfig::default()
    }
}

/// Keys in ascending order of their public halves: the first one dials all others.
fn keys(count: u8) -> Vec<SigningKey> {
    let mut keys: Vec<_> = (1..=count).map(|i| SigningKey::from_bytes(&[i; 32])).collect();
    keys.sort_by_key(|key| key.verifying_key().to_bytes());
    keys
}

fn author(key: &SigningKey) -> Author {
    Author(key.verifying_key().to_bytes())
}

/// A transport and its host.
struct Node {
    key: Author,
    transport: QuicTransport,
    host: Host,
    chain: Arc<Chain>,
}

impl Node {
    fn start(config: QuicConfig, key: &SigningKey) -> Self {
        let (sender, events) = mpsc::channel(64);
        let chain = Chain::new(1);
        let transport = QuicTransport::start(config, key, &[], chain.clone(), sender);
        let transport = transport.expect("a socket on loopback");
        Self { key: author(key), transport, host: Host::new(events), chain }
    }

    fn know(&self, others: &[&Node]) {
        let peers = others.iter().map(|other| peer(other.key, other.address())).collect();
        self.transport.set_peers(peers);
    }

    fn address(&self) -> SocketAddr {
        self.transport.local_address()
    }

    fn set_chain(&self, chain: u8) {
        self.chain.0.store(chain, Ordering::Relaxed);
    }
}

/// Two nodes that are linked. The first one dials.
async fn linked(dialler: QuicConfig, acceptor: QuicConfig) -> (Node, Node) {
    let keys = keys(2);
    let (mut a, mut b) = (Node::start(dialler, &keys[0]), Node::start(acceptor, &keys[1]));
    b.know(&[&a]);
    a.know(&[&b]);
    assert_eq!(a.host.up().await.0, b.key);
    assert_eq!(b.host.up().await.0, a.key);
    (a, b)
}

/// Longer than a link may take to be noticed as lost: the keep-alive that nobody answers, the idle
/// timeout after it, and a second for a busy machine.
const NOTICED: Duration = Duration::from_secs(5);
