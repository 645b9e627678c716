//! Links between validators: who may talk to whom, and how bytes get there.
//!
//! # Job
//!
//! A [`Transport`] keeps one authenticated link to every peer of the committee and moves
//! [`Frame`]s over it, in two classes that do not wait for each other. It knows keys, addresses
//! and byte budgets; what the bytes mean is the business of the engine above it.
//!
//! ```text
//!  send(to, class, frame)                              LinkEvent::{Up, Frame, Down}
//!        |                                                        ^
//!        v                                                        |
//!  +------------------+   link: two streams per direction   +---------------+
//!  | queue per peer   |====== control (goes first) ========>| budget per    |
//!  | and class, bytes |====== bulk =========================>| peer and class|
//!  +------------------+                                     +---------------+
//! ```
//!
//! Two implementations: `quic` for the network (feature `quic`) and [`memory`] for tests and
//! embedders that run a committee in one process. They share the table of peers and the queues, so
//! they bound and account alike.
//!
//! # Guarantees
//!
//! - A link is [`LinkEvent::Up`] only after both ends have exchanged hellos and *both* have
//!   accepted them ([`Handshake`]). The peer's key is proved by the link, never read from a frame.
//! - Exactly one [`LinkEvent::Down`] follows every `Up`; every frame of a link lies between them,
//!   and frames of one class arrive in the order they were sent. `Up` and `Down` of successive
//!   links of one peer do not interleave. The one exception: a host that does not take events
//!   while it shuts down, or drops the receiver, forgoes the last events.
//! - [`Transport::send`] never blocks. Everything queued is bounded in bytes per peer and class,
//!   in both directions; each frame is charged [`FRAME_OVERHEAD_BYTES`] beside its length, so many
//!   tiny frames cannot use more memory than the limit says.
//! - Control frames do not wait behind bulk frames: not in the queue, not on the wire, not for
//!   the receive budget. They share only the events channel of the host.
//! - Every task is owned and joined by [`Transport::shutdown`].
//!
//! # What it is not
//!
//! It does not deliver reliably: a frame that was accepted by `send` is lost when the link breaks
//! before it arrived, and nobody is told which frames were. Whoever needs an answer asks again. It
//! does not route, gossip or discover.
//!
//! # Failure behaviour
//!
//! A peer that breaks the framing, exceeds a limit or is refused by the host loses its link with a
//! [`Refusal`] that the other end is told and that both ends show in [`Transport::links`]. The link
//! is redialled with backoff for as long as the peer is in the set. Nothing a peer does ends the
//! process, and no peer can use the budget of another.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use crate::types::Author;

mod backoff;
mod events;
mod limits;
mod link;
pub mod memory;
mod peers;
mod queue;
#[cfg(feature = "quic")]
pub mod quic;
mod refusal;
mod sync;
mod tasks;
#[cfg(test)]
mod testing;

pub use limits::{FRAME_OVERHEAD_BYTES, HELLO_BYTES_MAX, Limits, LimitsError, PerClass};
pub use refusal::{LinkDown, Refusal};

/// The two classes of frames. Each has its own stream, queue and budget on every link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Votes, proofs, requests: small, urgent, never behind [`Class::Bulk`].
    Control,
    /// Batches and replies that carry them.
    Bulk,
}

impl Class {
    /// Both classes, the urgent one first.
    pub const ALL: [Self; 2] = [Self::Control, Self::Bulk];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
        })
    }
}

/// A message as it goes on the wire: a small header and a body that is not copied.
///
/// On the wire: the length of both together as `u32` little-endian, then the head, then the body.
/// The receiver gets head and body as one [`Inbound::bytes`]. Cloning is cheap, so one frame can
/// be sent to many peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// What comes first; may be empty.
    pub head: Bytes,
    /// What follows; may be empty, but not together with the head.
    pub body: Bytes,
}

impl Frame {
    /// Bytes of head and body together, without the length word.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether there is nothing to send. An empty frame is refused by [`Transport::send`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Frame {
    fn from(body: Bytes) -> Self {
        Self { head: Bytes::new(), body }
    }
}

/// Room in a peer's receive budget. Dropping it gives the room back.
#[derive(Debug, Default)]
pub struct ReceivePermit(
    #[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>,
);

/// A frame that arrived. Its bytes stay counted against the peer's receive budget of that class
/// until this value, or the permit taken out of it, is dropped.
///
/// The transport stops reading that class from that peer while the budget is used up: whoever
/// keeps these values keeps the peer waiting.
#[derive(Debug)]
pub struct Inbound {
    /// Who sent it, as proved by the link.
    pub peer: Author,
    /// The class it was sent in.
    pub class: Class,
    /// Head and body in one allocation of their own. Never empty.
    pub bytes: Bytes,
    permit: ReceivePermit,
}

impl Inbound {
    pub(crate) fn new(
        peer: Author,
        class: Class,
        bytes: Bytes,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { peer, class, bytes, permit: ReceivePermit(Some(permit)) }
    }

    /// A frame that counts against no budget: for loopback and for tests of what reads frames.
    pub fn unmetered(peer: Author, class: Class, bytes: Bytes) -> Self {
        Self { peer, class, bytes, permit: ReceivePermit(None) }
    }

    /// The bytes, and the room they take. Keep the permit for as long as slices of the bytes live.
    pub fn into_parts(self) -> (Bytes, ReceivePermit) {
        (self.bytes, self.permit)
    }
}

/// What a transport tells its host. See the module documentation for the order of events.
#[derive(Debug)]
pub enum LinkEvent {
    /// The link to this peer is there; both hellos were accepted.
    Up {
        /// Whose link.
        peer: Author,
        /// What the peer said in its hello.
        hello: Bytes,
    },
    /// The link to this peer is gone. What was queued for it is dropped.
    Down {
        /// Whose link.
        peer: Author,
        /// Why.
        reason: LinkDown,
    },
    /// A frame arrived.
    Frame(Inbound),
}

/// The application's side of the handshake: "connected" means that both hellos have been exchanged
/// and accepted.
///
/// Both methods are called from the transport's tasks and must not block.
pub trait Handshake: Send + Sync + 'static {
    /// What we say first to this peer, at most [`HELLO_BYTES_MAX`]. Called once per attempt, so
    /// it may change between links.
    fn hello(&self, to: Author) -> Bytes;

    /// Whether what this peer said is acceptable. A refusal closes the link before it is up and
    /// is told to the peer.
    fn judge(&self, peer: Author, hello: &[u8]) -> Result<(), Refusal>;
}

/// Why a frame was not queued. Nothing of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no link to that key now; wait for [`LinkEvent::Up`].
    #[error("no link to this peer: wait until it is up")]
    NotConnected,
    /// The peer takes frames more slowly than they are sent; send again later or drop.
    #[error("the send queue of this peer and class is full: send again later")]
    QueueFull,
    /// The peer would refuse the link for a frame of this size.
    #[error("a frame of {bytes} bytes exceeds the limit of {max} for {class} frames")]
    TooLarge {
        /// Size of head and body.
        bytes: usize,
        /// The limit of the class, see [`Limits::frame_bytes_max`].
        max: usize,
        /// The class it was sent in.
        class: Class,
    },
    /// An empty frame says nothing, and is refused by receivers as malformed.
    #[error("an empty frame cannot be sent")]
    Empty,
}

/// A member of the committee and where to reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The validator's ed25519 key.
    pub key: Author,
    /// Where it listens.
    pub address: SocketAddr,
}

/// One row of [`Transport::links`].
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// The peer's key.
    pub peer: Author,
    /// Where it is configured to listen.
    pub address: SocketAddr,
    /// Whether a link is there now.
    pub up: bool,
    /// Why the last link, or the last attempt at one, ended. Kept while a later link is up; `None`
    /// until something ended.
    pub last_down: Option<LinkDown>,
    /// How many links to this peer have been up since it was added.
    pub ups: u64,
    /// Links of this key that were refused because one was alive already. Anything but zero means
    /// that two processes run with one key.
    pub second_links: u64,
    /// Smoothed round trip time of the present link.
    pub rtt: Option<Duration>,
    /// Bytes written to links of this peer, with length words, since it was added.
    pub bytes_sent: u64,
    /// Bytes of frames read from links of this peer, with length words, since it was added.
    pub bytes_received: u64,
    /// What the send queues hold, as charged (with overhead); zero while down.
    pub queue_bytes: PerClass<usize>,
    /// Size of the datagrams of the present link in bytes; zero if the link has none.
    pub current_mtu: u16,
    /// How often the present link lost its large datagrams and fell back to small ones. Anything
    /// but zero means that the path, or the choice of the loopback mode, does not fit.
    pub black_holes: u64,
}

/// Authenticated links to a set of peers. See the module documentation.
pub trait Transport: Send + Sync + 'static {
    /// Puts a frame into the peer's queue of that class. Never blocks, never copies the body.
    fn send(&self, to: Author, class: Class, frame: Frame) -> Result<(), SendError>;

    /// Closes the link with a reason that the peer is told; it is redialled with backoff. Does
    /// nothing if there is no link.
    fn refuse(&self, peer: Author, reason: Refusal);

    /// The state of every peer in the set, by key.
    fn links(&self) -> Vec<LinkStatus>;

    /// Replaces the set of peers, as an epoch change does. Links of removed keys are closed with
    /// [`Refusal::UnknownKey`], new keys are dialled, links of kept keys stay as they are. A
    /// changed address is used from the next dial on. Our own key is skipped.
    fn set_peers(&self, peers: Vec<Peer>);

    /// Closes every link, says so to the peers and joins every task, within two seconds. Queued
    /// frames are dropped. What comes after it does nothing; a second call waits like the first.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}
