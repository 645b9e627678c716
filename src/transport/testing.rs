//! What the tests of both transports share: a handshake that can be told what to say, a host that
//! waits for events, and deadlines.
//!
//! A [`Host`] checks the order of events as it takes them: `Up`, frames, one `Down`, per peer.

#![allow(clippy::expect_used)]

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};

use super::{Frame, Handshake, Inbound, LinkDown, LinkEvent, LinkStatus, Peer, Refusal, Transport};
use crate::types::Author;

/// No wait in a test is longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Says one byte and accepts the same.
pub(super) struct Chain(pub(super) AtomicU8);

impl Chain {
    pub(super) fn new(chain: u8) -> Arc<Self> {
        Arc::new(Self(AtomicU8::new(chain)))
    }
}

impl Handshake for Chain {
    fn hello(&self, _: Author) -> Bytes {
        Bytes::copy_from_slice(&[self.0.load(Ordering::Relaxed)])
    }

    fn judge(&self, _: Author, hello: &[u8]) -> Result<(), Refusal> {
        match hello {
            [chain] if *chain == self.0.load(Ordering::Relaxed) => Ok(()),
            [_] => Err(Refusal::ChainMismatch),
            _ => Err(Refusal::Malformed),
        }
    }
}

pub(super) fn frame(bytes: usize, fill: u8) -> Frame {
    Frame { head: Bytes::from_static(b"head"), body: Bytes::from(vec![fill; bytes - 4]) }
}

/// An address for peers that are not dialled, or not over a network.
pub(super) fn nowhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 9))
}

/// Takes the events of one transport and checks their order.
pub(super) struct Host {
    pub(super) events: mpsc::Receiver<LinkEvent>,
    up: BTreeSet<Author>,
}

impl Host {
    pub(super) fn new(events: mpsc::Receiver<LinkEvent>) -> Self {
        Self { events, up: BTreeSet::new() }
    }

    pub(super) async fn next(&mut self) -> LinkEvent {
        let event = timeout(PATIENCE, self.events.recv()).await.expect("an event in time");
        let event = event.expect("the transport lives");
        self.check(&event);
        event
    }

    /// An event that has arrived already.
    pub(super) fn waiting(&mut self) -> Option<LinkEvent> {
        let event = self.events.try_recv().ok()?;
        self.check(&event);
        Some(event)
    }

    fn check(&mut self, event: &LinkEvent) {
        match event {
            LinkEvent::Up { peer, .. } => assert!(self.up.insert(*peer), "up twice: {peer}"),
            LinkEvent::Down { peer, .. } => assert!(self.up.remove(peer), "down twice: {peer}"),
            LinkEvent::Frame(inbound) => {
                assert!(self.up.contains(&inbound.peer), "a frame outside of a link");
            }
        }
    }

    /// The next event must be this peer's `Up`; returns its hello.
    pub(super) async fn up(&mut self) -> (Author, Bytes) {
        match self.next().await {
            LinkEvent::Up { peer, hello } => (peer, hello),
            other => panic!("expected Up: {other:?}"),
        }
    }

    /// Takes events until the next `Down`, dropping frames.
    pub(super) async fn down(&mut self) -> (Author, LinkDown) {
        loop {
            match self.next().await {
                LinkEvent::Down { peer, reason } => return (peer, reason),
                LinkEvent::Frame(_) => {}
                up @ LinkEvent::Up { .. } => panic!("expected Down: {up:?}"),
            }
        }
    }

    pub(super) async fn frame(&mut self) -> Inbound {
        match self.next().await {
            LinkEvent::Frame(inbound) => inbound,
            other => panic!("expected a frame: {other:?}"),
        }
    }
}

pub(super) fn status(transport: &dyn Transport, peer: Author) -> LinkStatus {
    let links = transport.links();
    links.into_iter().find(|link| link.peer == peer).expect("the peer is in the set")
}

/// Looks until it holds: for states that have no event.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let look = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while !holds() {
            ticks.tick().await;
        }
    };
    assert!(timeout(PATIENCE, look).await.is_ok(), "not in time: {what}");
}

pub(super) fn peer(key: Author, address: SocketAddr) -> Peer {
    Peer { key, address }
}
