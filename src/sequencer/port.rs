//! The only words that cross the boundary of the core.
//!
//! An [`Input`] happened; [`Record`]s must be on disk; an [`Effect`] may leave now, because it
//! promises nothing; a [`Promise`] leaves only once the group it travels in is durable.
//! Requests of the host carry a [`RequestId`], and are answered once, by a [`Reply`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::store::StoredBatch;
use crate::types::{
    Announcement, Author, Batch, BatchInfo, Commit, CommitIndex, CommitReceipt, Digest, Epoch,
    Hello, InvalidPayload, Message, Payload, PayloadHeader, ProofOfStore, SignedBatchInfo, Slot,
    Timestamp,
};

/// The time of a step: an argument, never read by the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the start of the process; timers use it; never goes back.
    pub monotonic: Duration,
    /// Of the clock on the wall; expirations use it; may jump.
    pub wall: Timestamp,
}

/// Names a request of the host within one life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something happened. Whatever came from a peer has been decoded, hashed and had its signatures
/// checked by ingress; whether it is *admissible* is decided here.
#[derive(Debug)]
pub enum Input {
    /// A link is up; the hello has been judged.
    LinkUp {
        /// Who.
        peer: Author,
        /// What it said.
        hello: Hello,
    },
    /// A link is down.
    LinkDown {
        /// Who.
        peer: Author,
    },
    /// A batch whose body matches its info.
    Batch {
        /// Over whose link.
        from: Author,
        /// Its digest.
        digest: Digest,
        /// The batch.
        batch: Batch,
    },
    /// A signature that verifies, for a batch of ours; or our own, looped back by egress.
    Vote(SignedBatchInfo),
    /// A proof that verifies.
    Proof {
        /// The batch's digest.
        digest: Digest,
        /// The proof.
        proof: Arc<ProofOfStore>,
    },
    /// A payload whose content matches its header.
    Payload {
        /// Over whose link.
        from: Author,
        /// Its digest.
        digest: Digest,
        /// The payload.
        payload: Arc<Payload>,
        /// Digests of its batches in order of execution, computed by ingress.
        batches: Vec<Digest>,
        /// Whether its proofs, sizes and epochs can ever be valid.
        verdict: Result<(), InvalidPayload>,
    },
    /// What a peer grants now.
    Announce {
        /// Who.
        from: Author,
        /// What.
        announcement: Announcement,
    },
    /// A batch that was asked for; its body matches its info.
    FetchedBatch {
        /// Who answered.
        from: Author,
        /// Its digest.
        digest: Digest,
        /// The batch.
        batch: Batch,
    },
    /// A peer does not have what was asked for.
    FetchMissing {
        /// Who answered.
        from: Author,
        /// What was asked for.
        digest: Digest,
    },
    /// The host submits transactions.
    Submit {
        /// Answered with [`Reply::Submitted`].
        id: RequestId,
        /// The transactions.
        transactions: Vec<Transaction>,
    },
    /// The host wants a payload to propose.
    Pull {
        /// Answered with [`Reply::Pulled`].
        id: RequestId,
        /// What it wants.
        request: PullRequest,
    },
    /// The host asks whether a payload may be voted for.
    Verify {
        /// Answered with [`Reply::Verified`], once it is decided.
        id: RequestId,
        /// Which payload, proposed on what.
        request: VerifyRequest,
    },
    /// The host tells of a finalised block.
    Commit {
        /// Answered with [`Reply::Committed`].
        id: RequestId,
        /// The block.
        commit: Commit,
    },
    /// The host needs a content that is not in the store.
    Fetch {
        /// Answered with [`Reply::Fetched`].
        id: RequestId,
        /// What it needs.
        digest: Digest,
        /// Who should have it.
        responders: Vec<Author>,
        /// When to give up, on the monotonic clock.
        deadline: Duration,
    },
    /// A subscriber needs no commit below `next`.
    Acknowledge {
        /// Its name.
        subscriber: String,
        /// The next index it needs.
        next: CommitIndex,
    },
    /// The host no longer waits.
    Cancel(RequestId),
    /// A group and all before it are on disk.
    Durable {
        /// Its sequence.
        sequence: u64,
    },
    /// How much room the disk has.
    Space {
        /// False stops admission; commits and payloads go on.
        admits: bool,
    },
    /// The host asks how things stand; answered with [`Reply::Status`].
    Status(RequestId),
    /// Time passed: a deadline that `step` returned is due.
    Tick,
}

/// A transaction as the host submits it: the bytes are opaque to this crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// What the executor will get back.
    pub bytes: Bytes,
    /// Decides its bucket.
    pub gas_unit_price: u64,
    /// Not batched after this.
    pub expiration: Timestamp,
}

/// What of an own batch's transactions is not in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TransactionMeta {
    /// As submitted.
    pub gas_unit_price: u64,
    /// As submitted.
    pub expiration: Timestamp,
}

/// Limits of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadLimits {
    /// Most transactions.
    pub transactions_max: u64,
    /// Most bytes of batch bodies it orders.
    pub batch_bytes_max: u64,
    /// Most batches.
    pub batches_max: u64,
}

/// What a leader wants to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    /// Epoch of the block.
    pub epoch: Epoch,
    /// Its height.
    pub height: CommitIndex,
    /// Digest of the payload below.
    pub parent: Digest,
    /// Its timestamp: not below the parent's.
    pub block_timestamp: Timestamp,
    /// How much.
    pub limits: PayloadLimits,
    /// Batches to leave out, beyond those of unfinalised ancestors.
    pub exclude: Vec<Digest>,
}

/// A payload somebody proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRequest {
    /// Its digest.
    pub digest: Digest,
    /// What it must be built on; `None` where only storing it matters (it is certified already).
    pub parent: Option<ParentOf>,
    /// Who should have it, best first.
    pub responders: Vec<Author>,
}

/// What a proposal says about the block below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentOf {
    /// Its digest.
    pub digest: Digest,
    /// Its height.
    pub height: CommitIndex,
    /// Its timestamp.
    pub block_timestamp: Timestamp,
}

/// Where an accepted transaction sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its batch, durable here.
    pub batch: Digest,
    /// Its position in the batch.
    pub position: u32,
}

/// Why a transaction is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// No bytes.
    #[error("an empty transaction")]
    Empty,
    /// Larger than the chain allows.
    #[error("{length} bytes are more than the {bound} the chain allows")]
    TooLarge {
        /// Its length.
        length: usize,
        /// The most allowed.
        bound: u32,
    },
    /// Its expiration has passed.
    #[error("the transaction has expired")]
    Expired,
    /// Back-pressure: nothing is wrong with it.
    #[error("no room now ({reason}); try again in {} ms", retry_after.as_millis())]
    Busy {
        /// What is short.
        reason: BusyReason,
        /// When to try again.
        retry_after: Duration,
    },
}

/// What is short under back-pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BusyReason {
    /// The pool of transactions not batched yet is full.
    #[error("pool full")]
    Pool,
    /// Too many own batches wait to be ordered.
    #[error("commits lag")]
    Commits,
    /// No quorum of validators has room for more of our batches.
    #[error("windows spent")]
    Windows,
    /// The disk is nearly full.
    #[error("disk nearly full")]
    Disk,
}

/// Why there is no payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// Not this epoch.
    #[error("epoch {0:?} is not served")]
    Epoch(Epoch),
    /// What the proposal builds on is not here: have it verified first.
    #[error("ancestor {0:?} is not here; fetch it before proposing on it")]
    UnknownAncestor(Digest),
    /// The parent is not at the height below, or its timestamp is above.
    #[error("the parent's height or timestamp do not fit the request")]
    Parent,
    /// The block would lie below what is committed.
    #[error("height {0:?} is committed already")]
    Stale(CommitIndex),
}

/// Why a commit is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// An index between was left out.
    #[error("commit {found:?} leaves a gap; the next one is {expected:?}")]
    Gap {
        /// As told.
        found: CommitIndex,
        /// The next in order.
        expected: CommitIndex,
    },
    /// Another header is known under this index.
    #[error("commit {0:?} is known with another header: consensus broke, or the host did")]
    Conflict(CommitIndex),
    /// Its receipt is no longer kept.
    #[error("commit {0:?} was applied and is no longer kept")]
    Pruned(CommitIndex),
    /// Time went back.
    #[error("commit {0:?} has a timestamp below the one before")]
    TimeWentBack(CommitIndex),
    /// The header's height is not the index.
    #[error("commit {0:?} carries a header of another height")]
    Height(CommitIndex),
}

/// Why a fetch ended without content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody answered with it in time.
    #[error("not found at {asked} of its holders before the deadline")]
    TimedOut {
        /// Requests sent.
        asked: u32,
    },
    /// Too much is being fetched already.
    #[error("too many fetches at once")]
    Busy,
}

/// What was fetched.
#[derive(Clone, Debug)]
pub enum Content {
    /// A batch.
    Batch(Batch),
    /// A payload.
    Payload(Arc<Payload>),
}

/// The one answer to a request.
#[derive(Debug)]
pub enum Reply {
    /// To `Submit`: one entry per transaction. An `Ok` is a promise.
    Submitted(Vec<Result<Accepted, SubmitError>>),
    /// To `Pull`. An `Ok` is a promise: the payload is durable here.
    Pulled(Result<Arc<Payload>, PullError>),
    /// To `Verify`. An `Ok` is a promise: the payload is durable here.
    Verified(Result<PayloadHeader, InvalidPayload>),
    /// To `Commit`. An `Ok` is a promise.
    Committed(Result<CommitReceipt, CommitError>),
    /// To `Fetch`.
    Fetched(Result<Content, FetchError>),
    /// To `Status`.
    Status(Box<super::status::Status>),
}

/// What the host may want to know as it happens. Never needed for correctness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A batch of ours has a proof of store, durable here.
    Certified {
        /// The batch.
        digest: Digest,
    },
    /// Transactions of ours moved from an expired batch to a new one.
    Rebatched {
        /// The old batch.
        from: Digest,
        /// For each, its position in the old batch, and its new place.
        moved: Vec<(u32, Accepted)>,
    },
    /// Transactions of ours expired without being ordered.
    Expired {
        /// Their last batch.
        batch: Digest,
        /// Their positions in it.
        positions: Vec<u32>,
    },
}

/// May leave at once, because it promises nothing.
#[derive(Debug)]
pub enum Effect {
    /// To one peer.
    Send {
        /// Whom.
        to: Author,
        /// What.
        message: Message,
    },
    /// To several peers: encoded once.
    Multicast {
        /// Whom.
        to: Vec<Author>,
        /// What.
        message: Message,
    },
    /// Reads a durable batch and sends it again.
    Resend {
        /// Whom.
        to: Vec<Author>,
        /// The batch.
        digest: Digest,
    },
    /// Answers a request.
    Reply {
        /// Which.
        id: RequestId,
        /// With what.
        reply: Reply,
    },
    /// Tells the host.
    Event(Event),
    /// What a peer sent was refused.
    Refused {
        /// Who sent it.
        peer: Author,
        /// Why.
        reason: Refusal,
    },
    /// What was measured, for metrics.
    Measured(Measurement),
}

/// What the sequencer measures, by the clock that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measurement {
    /// A batch of ours was sealed.
    Sealed {
        /// Transactions in it.
        transactions: u32,
        /// Bytes of its body.
        bytes: u32,
    },
    /// A batch of ours got its proof, so long after it was sealed (or recovered).
    Certified(Duration),
    /// A batch of ours was ordered, so long after it was sealed (or recovered).
    Ordered(Duration),
}

/// Why something that decodes and verifies is not admitted. Names in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A batch over a link that is not its author's.
    #[error("not_from_author")]
    NotFromAuthor,
    /// Of an epoch that is over.
    #[error("epoch_over")]
    EpochOver,
    /// Of an epoch not reached yet.
    #[error("not_yet")]
    NotYet,
    /// Expired by consensus time.
    #[error("expired")]
    Expired,
    /// Expires later than allowed.
    #[error("expires_too_late")]
    ExpiresTooLate,
    /// At or below the author's floor.
    #[error("below_floor")]
    BelowFloor,
    /// More incarnations of one author than allowed.
    #[error("too_many_incarnations")]
    TooManyIncarnations,
    /// A second batch in one slot: evidence that its author equivocates.
    #[error("equivocation")]
    Equivocation,
    /// Expirations of one author fall as its counter rises.
    #[error("expiration_order")]
    ExpirationOrder,
    /// Beyond the window.
    #[error("window_spent")]
    WindowSpent,
    /// The disk is nearly full.
    #[error("disk_nearly_full")]
    DiskNearlyFull,
    /// A vote for a batch of ours that is not in the store.
    #[error("unknown_batch")]
    UnknownBatch,
    /// From somebody without power in this epoch.
    #[error("not_a_member")]
    NotAMember,
    /// Not asked for.
    #[error("unasked")]
    Unasked,
    /// More payloads than a proposer needs.
    #[error("too_many_payloads")]
    TooManyPayloads,
}

impl Refusal {
    /// True if a correct peer never causes it, whatever the timing: it counts against the link.
    pub const fn is_fault(self) -> bool {
        matches!(
            self,
            Self::NotFromAuthor
                | Self::Equivocation
                | Self::ExpirationOrder
                | Self::TooManyIncarnations
                | Self::WindowSpent
        )
    }
}

/// Leaves only once its group is durable.
#[derive(Debug)]
pub enum Promise {
    /// "I hold this batch": signed, and sent to its author.
    Sign(StoredBatch),
    /// A proof of ours: to every peer.
    Publish(Arc<ProofOfStore>),
    /// Answers a request.
    Reply {
        /// Which.
        id: RequestId,
        /// With what.
        reply: Reply,
    },
    /// Tells the host.
    Event(Event),
}

/// What must be on disk. See `store::schema` for the layout.
#[derive(Clone, Debug)]
pub enum Record {
    /// A batch: its content, and the claim of its slot if it has one.
    Batch(BatchRecord),
    /// The slot of a batch that was already stored without one.
    Claim {
        /// The batch.
        digest: Digest,
        /// Its slot.
        slot: Slot,
    },
    /// A proof of store.
    Proof {
        /// The batch's digest.
        digest: Digest,
        /// The proof.
        proof: Arc<ProofOfStore>,
    },
    /// A payload.
    Payload {
        /// Its digest.
        digest: Digest,
        /// The payload.
        payload: Arc<Payload>,
        /// Digests of its batches, in order of execution.
        batches: Vec<Digest>,
        /// When it may go, before the grace.
        expiration: Timestamp,
    },
    /// A finalised block.
    Commit(Commit),
    /// A commit was applied to all four components.
    Applied(CommitReceipt),
    /// The next index a subscriber needs.
    Cursor {
        /// Its name.
        subscriber: String,
        /// The next index.
        next: CommitIndex,
    },
    /// Own counters below this may be in use.
    Reserved {
        /// One above the highest counter that may be used.
        until: u64,
    },
    /// Every counter of (author, incarnation) at or below this is refused.
    Floor {
        /// Epoch, author, and the highest counter dropped.
        slot: Slot,
    },
    /// A batch, its slot and its proof are no longer needed.
    DropBatch {
        /// Which.
        digest: Digest,
        /// Its expiration: part of its key.
        expiration: Timestamp,
    },
    /// A payload is no longer needed.
    DropPayload {
        /// Which.
        digest: Digest,
        /// Its expiration: part of its key.
        expiration: Timestamp,
    },
    /// Commits below this index are no longer needed.
    DropCommits {
        /// The lowest index kept.
        below: CommitIndex,
    },
}

/// A batch on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRecord {
    /// Its digest.
    pub digest: Digest,
    /// Its info.
    pub info: BatchInfo,
    /// Its body. Empty in recovered records, except for our own unordered batches.
    pub body: Bytes,
    /// True if it claims its slot: from its author's link, or our own.
    pub claims_slot: bool,
    /// For our own: what of its transactions is not in the body.
    pub own: Option<Arc<[TransactionMeta]>>,
}
