//! Links inside one process: the same semantics as on the network, without sockets.
//!
//! # Job
//!
//! A [`MemoryNetwork`] is a place where transports meet. Each validator
//! [joins](MemoryNetwork::join) with its key and gets a [`MemoryTransport`]. Hellos are exchanged
//! and judged, queues and budgets are bounded, links go up and down with reasons, refused ones are
//! tried again with backoff: as the [module above](crate::transport) promises.
//! [`MemoryNetwork::disconnect`] and [`MemoryNetwork::connect`] cut and mend a pair.
//!
//! # What it is not
//!
//! Nothing is authenticated: who joins with a key has it. Nothing is lost, late or out of order
//! while a link is up, and a frame that is under way is in a queue, not in a network. A member
//! that sends what the framing forbids cannot exist here. It runs on tokio's clock and scheduler,
//! so it is not deterministic.
//!
//! # Failure behaviour
//!
//! Joining again with a key is a restart: the links of the earlier transport end, and it stays
//! without links from then on. A transport that is dropped without shutdown ends its links too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Class, Frame, HELLO_BYTES_MAX, Handshake, Limits, LimitsError, LinkDown, LinkEvent, LinkStatus,
    Peer, Refusal, SendError, Transport,
    backoff::{Backoff, pair_seed},
    events::Events,
    peers::{PeerSlot, PeerTable},
    sync::lock,
    tasks::Tasks,
};
use crate::types::Author;

mod ends;
#[cfg(test)]
mod tests;

use ends::{End, linked};

/// Pauses before a refused or broken link is tried again.
const REDIAL_BACKOFF_MIN: Duration = Duration::from_millis(5);
const REDIAL_BACKOFF_MAX: Duration = Duration::from_millis(200);

/// How long [`Transport::shutdown`] waits for tasks to end in order. Then it drops what is left.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);

/// Where transports of one process meet. Clones are the same network.
#[derive(Clone)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    state: Mutex<State>,
    /// Wakes those who wait for somebody to be there.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<Author, Arc<Node>>,
    cut: BTreeSet<(Author, Author)>,
}

/// One member of the network.
struct Node {
    peers: PeerTable,
    handshake: Arc<dyn Handshake>,
    events: Events,
    stop: CancellationToken,
    tasks: Tasks,
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.shared.state);
        f.debug_struct("MemoryNetwork")
            .field("nodes", &state.nodes.keys())
            .field("cut", &state.cut)
            .finish()
    }
}

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new()
    }
}

/// A pair in the order in which it is stored.
fn pair(a: Author, b: Author) -> (Author, Author) {
    if a < b { (a, b) } else { (b, a) }
}

impl MemoryNetwork {
    /// A network with the default [`Limits`].
    pub fn new() -> Self {
        Self::unchecked(Limits::default())
    }

    /// A network whose members all have these limits.
    pub fn with_limits(limits: Limits) -> Result<Self, LimitsError> {
        limits.validate()?;
        Ok(Self::unchecked(limits))
    }

    fn unchecked(limits: Limits) -> Self {
        let (changed, _) = watch::channel(());
        Self { shared: Arc::new(Shared { limits, state: Mutex::default(), changed }) }
    }

    /// Joins with a key. Must be called inside a tokio runtime, and panics elsewhere. Peers that
    /// have not joined yet are linked when they do; their addresses mean nothing here and are only
    /// shown.
    pub fn join(
        &self,
        author: Author,
        handshake: Arc<dyn Handshake>,
        peers: &[Peer],
        events: mpsc::Sender<LinkEvent>,
    ) -> MemoryTransport {
        let stop = CancellationToken::new();
        let node = Arc::new(Node {
            peers: PeerTable::new(author, self.shared.limits, stop.clone()),
            handshake,
            events: Events::new(events, stop.clone()),
            stop,
            tasks: Tasks::new(tokio::runtime::Handle::current()),
        });
        let earlier = lock(&self.shared.state).nodes.insert(author, Arc::clone(&node));
        if let Some(earlier) = earlier {
            earlier.stop.cancel();
        }
        let transport = MemoryTransport { network: Arc::clone(&self.shared), node };
        transport.set_peers(peers.to_vec());
        self.shared.changed.send_replace(());
        transport
    }

    /// Cuts a pair: a link between them is lost, and there is none until
    /// [`connect`](Self::connect).
    pub fn disconnect(&self, a: Author, b: Author) {
        let nodes = {
            let mut state = lock(&self.shared.state);
            state.cut.insert(pair(a, b));
            (state.nodes.get(&a).cloned(), state.nodes.get(&b).cloned())
        };
        for (node, peer) in [(nodes.0, b), (nodes.1, a)] {
            let link = node.and_then(|node| node.peers.get(&peer)).and_then(|slot| slot.link());
            if let Some(link) = link {
                link.end(LinkDown::Lost("disconnected".into()));
            }
        }
    }

    /// Mends a pair that was cut.
    pub fn connect(&self, a: Author, b: Author) {
        lock(&self.shared.state).cut.remove(&pair(a, b));
        self.shared.changed.send_replace(());
    }
}

impl Shared {
    /// The other member, if it is there and not cut off.
    fn reachable(&self, from: Author, to: Author) -> Option<Arc<Node>> {
        let state = lock(&self.state);
        let node = state.nodes.get(&to).filter(|node| !node.stop.is_cancelled())?;
        (!state.cut.contains(&pair(from, to))).then(|| Arc::clone(node))
    }

    async fn wait_for(&self, from: Author, to: Author) -> Arc<Node> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(node) = self.reachable(from, to) {
                return node;
            }
            if changed.changed().await.is_err() {
                // The sender lives in `self`.
                futures::future::pending::<()>().await;
            }
        }
    }
}

/// Links to the other members of a [`MemoryNetwork`].
pub struct MemoryTransport {
    network: Arc<Shared>,
    node: Arc<Node>,
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport")
            .field("key", &self.node.peers.own())
            .finish_non_exhaustive()
    }
}

impl MemoryTransport {
    fn leave(&self) {
        self.node.stop.cancel();
        let mut state = lock(&self.network.state);
        let own = self.node.peers.own();
        if state.nodes.get(&own).is_some_and(|node| Arc::ptr_eq(node, &self.node)) {
            state.nodes.remove(&own);
        }
    }
}

impl Transport for MemoryTransport {
    fn send(&self, to: Author, class: Class, frame: Frame) -> Result<(), SendError> {
        self.node.peers.send(to, class, frame)
    }

    fn refuse(&self, peer: Author, reason: Refusal) {
        self.node.peers.refuse(peer, reason);
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.node.peers.links()
    }

    fn set_peers(&self, peers: Vec<Peer>) {
        let own = self.node.peers.own();
        let added = self.node.peers.replace(&peers);
        for slot in added.into_iter().filter(|slot| own < slot.key()) {
            let (network, node) = (Arc::clone(&self.network), Arc::clone(&self.node));
            self.node.tasks.spawn(keep_dialled(network, node, slot));
        }
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        async move {
            self.leave();
            let tasks = &self.node.tasks;
            if tokio::time::timeout(SHUTDOWN_DEADLINE, tasks.join()).await.is_err() {
                tracing::warn!("links did not end in time: dropping what is left");
                tasks.abandon().await;
            }
        }
        .boxed()
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Links to one peer, again and again, until the peer is removed or the transport stops.
async fn keep_dialled(network: Arc<Shared>, node: Arc<Node>, slot: Arc<PeerSlot>) {
    let own = node.peers.own();
    let seed = pair_seed(0, &slot.key());
    let mut backoff = Backoff::new(REDIAL_BACKOFF_MIN, REDIAL_BACKOFF_MAX, seed);
    while !slot.is_stopped() {
        let other = tokio::select! {
            () = slot.stopped() => return,
            other = network.wait_for(own, slot.key()) => other,
        };
        let started = tokio::time::Instant::now();
        match greet(&node, &slot, &other) {
            Ok(pair) => pair.run(&network, node.clone(), slot.clone(), other).await,
            Err(reason) => slot.note_down(reason),
        }
        if started.elapsed() >= REDIAL_BACKOFF_MAX {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            () = slot.readdressed() => backoff.reset(),
            () = slot.stopped() => {}
        }
    }
}

/// Both hellos, accepted, and the far end's place for the link.
struct Greeted {
    near_hello: Bytes,
    far_hello: Bytes,
    far_slot: Arc<PeerSlot>,
}

fn greet(near: &Node, slot: &PeerSlot, far: &Node) -> Result<Greeted, LinkDown> {
    let (own, peer) = (near.peers.own(), slot.key());
    let unknown = LinkDown::RefusedByPeer(Refusal::UnknownKey);
    let far_slot = far.peers.get(&own).ok_or(unknown)?;
    let (near_hello, far_hello) = (near.handshake.hello(peer), far.handshake.hello(own));
    judge(far, own, &near_hello).map_err(|refusal| {
        far_slot.note_down(LinkDown::RefusedByUs(refusal));
        LinkDown::RefusedByPeer(refusal)
    })?;
    judge(near, peer, &far_hello).map_err(|refusal| {
        far_slot.note_down(LinkDown::RefusedByPeer(refusal));
        LinkDown::RefusedByUs(refusal)
    })?;
    Ok(Greeted { near_hello, far_hello, far_slot })
}

fn judge(judge: &Node, peer: Author, hello: &[u8]) -> Result<(), Refusal> {
    if hello.len() > HELLO_BYTES_MAX {
        return Err(Refusal::Oversized);
    }
    judge.handshake.judge(peer, hello)
}

impl Greeted {
    /// Runs the near end until the link is down; the far end is a task of the far member.
    async fn run(self, network: &Shared, node: Arc<Node>, slot: Arc<PeerSlot>, other: Arc<Node>) {
        let (near, far) = linked(&network.limits);
        // A cut that came between the greeting and here found no link to end.
        if network.reachable(node.peers.own(), slot.key()).is_none() {
            near.end(LinkDown::Lost("disconnected".into()));
        }
        let far_end = End {
            node: Arc::clone(&other),
            slot: Arc::clone(&self.far_slot),
            link: Arc::clone(&far),
            other: Arc::clone(&near),
            other_slot: Arc::clone(&slot),
        };
        other.tasks.spawn(far_end.live(self.near_hello));
        let near_end = End { node, slot, link: near, other: far, other_slot: self.far_slot };
        near_end.live(self.far_hello).await;
    }
}
