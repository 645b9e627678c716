//! What the engine asks of the validator and what it tells it.

use bytes::Bytes;
use futures::future::BoxFuture;

/// The place in the chain that a digest is proposed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Epoch of the engine that asks.
    pub epoch: u64,
    /// View (round of voting) the digest is for. Views without a finalised digest are normal.
    pub view: u64,
    /// Ed25519 public key of the participant that proposes in this view.
    pub leader: [u8; 32],
    /// View of the parent; 0 is the start of the epoch.
    pub parent_view: u64,
    /// Digest the new one builds upon: certified, but not necessarily final yet. It is final once
    /// it or a descendant is reported by [`Application::finalized`].
    pub parent: [u8; 32],
}

/// A digest that a quorum of participants has voted to be final, and with it all its ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finalized {
    /// Epoch the digest was finalised in.
    pub epoch: u64,
    /// View the digest was finalised in.
    pub view: u64,
    /// The digest.
    pub digest: [u8; 32],
    /// View of its parent; 0 is the start of the epoch.
    pub parent_view: u64,
    /// The encoded proof: proposal and votes of a quorum. Anybody who knows the chain id and the
    /// committee checks it with [`verify_finalization`](crate::verify_finalization).
    ///
    /// Validators may hold different certificates for one digest (each collects its own quorum),
    /// so its bytes must not enter anything that has to be equal everywhere.
    pub certificate: Bytes,
    /// Public keys of the participants whose votes the certificate holds, ordered by key.
    pub signers: Vec<[u8; 32]>,
}

/// The validator behind the engine.
///
/// The futures run as tasks of their own in the engine's runtime, so `tokio` works in them. They
/// may stay pending; the engine drops them as soon as their answer is of no use any more (the view
/// is decided, or the engine stops). A panic in any of these methods stops the engine with
/// [`OrderingError::ApplicationPanicked`](crate::OrderingError::ApplicationPanicked).
pub trait Application: Send + Sync + 'static {
    /// Returns the digest to propose on top of `context.parent`, or `None` to decline.
    ///
    /// Called when this validator leads. Whoever answers has the bytes durable and will answer
    /// `true` when asked to certify the same digest; `verify` is not asked of the proposer. A view
    /// whose leader declines is given up, so waiting is usually better than declining, as long as
    /// the answer comes before [`EngineConfig::leader_timeout`](crate::EngineConfig) has passed at
    /// the others.
    ///
    /// After a restart it can be asked again for a view it has answered before, and a different
    /// answer is harmless: the vote for the first one had not left yet.
    fn propose(&self, context: Context) -> BoxFuture<'static, Option<[u8; 32]>>;

    /// Returns whether `digest`, proposed by `context.leader`, is valid on top of
    /// `context.parent`. The answer `true` leads to a vote, so the bytes are durable before it.
    ///
    /// `false` only for what can never be valid; all honest validators have to agree on it. Asked
    /// once per view and digest in the life of an engine, so stay pending while anything is
    /// missing. The parent may be unknown here as well.
    fn verify(&self, context: Context, digest: [u8; 32]) -> BoxFuture<'static, bool>;

    /// Returns `true` once the bytes of `digest` are durable here; it has been notarised by a
    /// quorum in this view, perhaps without our vote.
    ///
    /// The last gate before the vote that makes a digest final, asked also for own proposals. It
    /// must be answered for the view to end, and `false` has to be the answer of every honest
    /// validator or of none.
    fn certify(&self, epoch: u64, view: u64, digest: [u8; 32]) -> BoxFuture<'static, bool>;

    /// Spreads the bytes of an own proposal. Must not block: it is called by the voter itself.
    ///
    /// It comes before the vote for it is on disk, so after a crash others may have seen bytes
    /// that were never voted for.
    fn broadcast(&self, digest: [u8; 32]);

    /// Takes note of a final digest. Must not block: it is called by the voter itself.
    ///
    /// Views rise during the life of an engine, with gaps: what became final by a descendant alone
    /// is not reported. After a restart the newest of the former life are reported again first.
    fn finalized(&self, finalized: Finalized);
}
