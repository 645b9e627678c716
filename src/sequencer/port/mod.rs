//! The only words that cross the boundary of the core.
//!
//! An [`Input`] happened; [`Record`]s must be on disk; an [`Effect`] may leave now, because it
//! promises nothing; a [`Promise`] leaves only once the group it travels in is durable.
//! Requests of the host carry a [`RequestId`], and are answered once, by a [`Reply`].

mod host;
mod lease;
mod source;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use host::{
    Accepted, BusyReason, CloseError, CommitError, Content, Delivery, Event, FetchError, NoContent,
    OpenError, ParentOf, PayloadLimits, PullError, PullRequest, Reply, ReturnReason, SkipError,
    SubmitError, SubscribeError, SubscriptionEnd, Transaction, TransactionMeta, VerifyRequest,
    Wanted,
};
pub use lease::{
    CLIENT_NAME_BYTES_MAX, InvalidLeaseId, Lease, LeaseError, LeaseId, LeaseLimit, LeaseRefusal,
    LeaseRequest, Room, UnderLease,
};
pub use source::{ReleaseReason, SourceLimits, TransactionKey};

use crate::store::StoredBatch;
use crate::types::{
    AbsenceAnswer, AbsenceStatement, Announcement, Author, Batch, BatchInfo, Chunk, Commit,
    CommitIndex, CommitReceipt, Committee, Digest, Epoch, EpochReceipt, Hello, Incarnation,
    InvalidPayload, Membership, Message, Payload, PayloadHeader, ProofOfStore, SignedBatchInfo,
    Slot, Timestamp, UnavailabilityProof,
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
    /// A signature of a member does not verify in any epoch that matters.
    BadVote {
        /// Over whose link.
        from: Author,
    },
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
    /// A chunk that was asked for; it is one of its batch.
    FetchedChunk {
        /// Who answered.
        from: Author,
        /// The batch's digest.
        digest: Digest,
        /// The chunk.
        chunk: Box<Chunk>,
    },
    /// A peer answered a fetch without what was asked for.
    NoContent {
        /// Who answered.
        from: Author,
        /// What was asked for.
        digest: Digest,
        /// What it said.
        answer: NoContent,
    },
    /// The host submits transactions.
    Submit {
        /// Answered with [`Reply::Submitted`].
        id: RequestId,
        /// The transactions.
        transactions: Vec<Transaction>,
    },
    /// There is a source of transactions beside submissions, and it has something to pull.
    SourceReady,
    /// What the source had: the answer to [`Effect::PullTransactions`].
    Transactions(Vec<Transaction>),
    /// What a batch of another validator holds; follows that batch. Only with a source.
    Seen {
        /// The batch.
        digest: Digest,
        /// Its transactions, in order.
        keys: Arc<[TransactionKey]>,
    },
    /// The host submits transactions under a lease.
    SubmitUnder {
        /// Answered with [`Reply::Submitted`].
        id: RequestId,
        /// The lease.
        lease: UnderLease,
        /// The transactions.
        transactions: Vec<Transaction>,
    },
    /// A client wants room and a price reserved.
    Lease {
        /// Answered with [`Reply::Leased`].
        id: RequestId,
        /// How much, for whom.
        request: LeaseRequest,
    },
    /// A client needs its lease no more.
    Release {
        /// Answered with [`Reply::Released`].
        id: RequestId,
        /// Which.
        lease: UnderLease,
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
    /// A peer asks whether content that a commit names is absent here.
    AbsenceRequest {
        /// Who.
        from: Author,
        /// The commit.
        index: CommitIndex,
        /// The content.
        digest: Digest,
    },
    /// A peer says whether content is absent there; a signature verifies. Or our own, looped back.
    Absence {
        /// Who.
        from: Author,
        /// The commit.
        index: CommitIndex,
        /// The content.
        digest: Digest,
        /// What it says.
        answer: AbsenceAnswer,
    },
    /// The host needs a content that is not in the store.
    Fetch {
        /// Answered with [`Reply::Fetched`].
        id: RequestId,
        /// What it needs.
        wanted: Wanted,
        /// When to give up, on the monotonic clock.
        deadline: Duration,
    },
    /// State sync: the host has the state after a finalised block, and needs none up to it.
    SkipTo {
        /// Answered with [`Reply::SkippedTo`].
        id: RequestId,
        /// The block.
        header: PayloadHeader,
    },
    /// Ends the epoch with this commit. From now on nothing is signed or admitted for it.
    Close {
        /// Answered with [`Reply::Closed`], once the final commit is applied.
        id: RequestId,
        /// Which epoch.
        epoch: Epoch,
        /// Its last commit.
        final_index: CommitIndex,
        /// When to say who is late, on the monotonic clock.
        deadline: Duration,
    },
    /// Starts the epoch after one that is closed.
    OpenEpoch {
        /// Answered with [`Reply::Opened`].
        id: RequestId,
        /// Its number: above the one that is closed.
        epoch: Epoch,
        /// Its committee.
        committee: Committee,
    },
    /// A peer says which epoch it serves.
    Serving {
        /// Who.
        from: Author,
        /// Which.
        epoch: Epoch,
    },
    /// A peer sent something of an epoch not reached here; it is not an offence.
    Ahead {
        /// Who.
        from: Author,
    },
    /// A subscriber attaches: from then on commits come as [`Promise::Deliver`] under this id. A
    /// former attachment of the same name ends.
    Subscribe {
        /// Answered with [`Reply::Subscribed`]; names the subscription.
        id: RequestId,
        /// Its name.
        subscriber: String,
        /// The next index that its own store needs.
        next: CommitIndex,
    },
    /// Everything delivered under a subscription below `next` is in the subscriber's own store.
    Delivered {
        /// Which.
        subscription: RequestId,
        /// The next index it needs.
        next: CommitIndex,
    },
    /// The host dropped a subscription. Its cursor stays.
    Detach {
        /// Which.
        subscription: RequestId,
    },
    /// A subscriber is gone for good and holds nothing any more.
    Unsubscribe {
        /// Answered with [`Reply::Unsubscribed`].
        id: RequestId,
        /// Its name.
        subscriber: String,
    },
    /// A subscriber that is not attached needs no commit below `next`.
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

impl Input {
    /// Its name in logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::LinkUp { .. } => "link_up",
            Self::LinkDown { .. } => "link_down",
            Self::Batch { .. } => "batch",
            Self::Vote(_) => "vote",
            Self::BadVote { .. } => "bad_vote",
            Self::Proof { .. } => "proof",
            Self::Payload { .. } => "payload",
            Self::Announce { .. } => "announce",
            Self::FetchedBatch { .. } => "fetched_batch",
            Self::FetchedChunk { .. } => "fetched_chunk",
            Self::NoContent { .. } => "no_content",
            Self::Submit { .. } => "submit",
            Self::SourceReady => "source_ready",
            Self::Transactions(_) => "transactions",
            Self::Seen { .. } => "seen",
            Self::SubmitUnder { .. } => "submit_under",
            Self::Lease { .. } => "lease",
            Self::Release { .. } => "release",
            Self::Pull { .. } => "pull",
            Self::Verify { .. } => "verify",
            Self::Commit { .. } => "commit",
            Self::AbsenceRequest { .. } => "absence_request",
            Self::Absence { .. } => "absence",
            Self::Fetch { .. } => "fetch",
            Self::SkipTo { .. } => "skip_to",
            Self::Close { .. } => "close",
            Self::OpenEpoch { .. } => "open_epoch",
            Self::Serving { .. } => "serving",
            Self::Ahead { .. } => "ahead",
            Self::Subscribe { .. } => "subscribe",
            Self::Delivered { .. } => "delivered",
            Self::Detach { .. } => "detach",
            Self::Unsubscribe { .. } => "unsubscribe",
            Self::Acknowledge { .. } => "acknowledge",
            Self::Cancel(_) => "cancel",
            Self::Durable { .. } => "durable",
            Self::Space { .. } => "space",
            Self::Status(_) => "status",
            Self::Tick => "tick",
        }
    }
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
    /// Content goes to those who may have lost it: read, and sent as if they had asked.
    Push {
        /// Whom.
        to: Vec<Author>,
        /// The content.
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
    /// Asks the source for transactions, best first, none that are in progress. Answered once, by
    /// [`Input::Transactions`], with nothing if the source is late.
    PullTransactions(SourceLimits),
    /// Tells the source what can never be batched.
    SourceRefused(Vec<(TransactionKey, SubmitError)>),
    /// What is in progress has changed: what the source is asked for leaves it out.
    InProgress {
        /// From now on.
        entered: Vec<TransactionKey>,
        /// No more.
        left: Vec<TransactionKey>,
    },
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
    /// The source was asked.
    Pulled {
        /// Taken into the pool.
        transactions: u64,
        /// Not taken: never to be batched, in progress, or without room.
        refused: u64,
    },
    /// Batches hold transactions no more.
    Released {
        /// Why.
        reason: ReleaseReason,
        /// How many.
        transactions: u64,
    },
    /// A vote came after its batch was certified, and before it was ordered.
    LateVote,
    /// A proof of ours is published again, with more signatures.
    Grown,
    /// A validator sent a signature that does not verify, and was in good standing until then.
    Demoted,
    /// A payload was made that orders something.
    Proposed {
        /// Batches that it orders.
        batches: u64,
        /// Transactions in them.
        transactions: u64,
        /// Bytes of them.
        bytes: u64,
    },
    /// A batch is in a payload that was made.
    ProposedBatch {
        /// Whose it is.
        author: Author,
        /// How long it, or its proof if that came first, had been here.
        age: Duration,
        /// How long its proof had been here, if it has one.
        proven: Option<Duration>,
    },
    /// A commit ordered batches of a member of the committee.
    OrderedOf {
        /// Whose they are.
        author: Author,
        /// How many.
        batches: u64,
        /// Transactions in them.
        transactions: u64,
    },
    /// A payload was made with so many batches without a proof.
    ProposedUnproven {
        /// Optimistic ones.
        optimistic: u64,
        /// Inline ones.
        inline: u64,
    },
    /// A commit ordered so many batches without a proof.
    OrderedUnproven {
        /// Optimistic ones.
        optimistic: u64,
        /// Inline ones.
        inline: u64,
    },
    /// A vote waited so long for optimistic batches.
    OptimisticWait(Duration),
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
    /// Beyond the window. No fault by itself: after a crash an author cannot know which of its last
    /// batches, sent before they were on its own disk, reached whom.
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
    /// The host's filter refuses it: not signed for here. No fault.
    #[error("filtered")]
    Filtered,
    /// Not asked for. No fault by itself: a restart forgets what was asked.
    #[error("unasked")]
    Unasked,
    /// In a slot of a batch that was said to be absent: it is never signed. No fault.
    #[error("declared_absent")]
    DeclaredAbsent,
    /// More than a restart explains that was not asked for.
    #[error("unasked_flood")]
    UnaskedFlood,
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
                | Self::UnaskedFlood
        )
    }
}

/// Leaves only once its group is durable.
#[derive(Debug)]
pub enum Promise {
    /// "I hold this batch": signed, and sent to its author.
    Sign(StoredBatch),
    /// "I do not hold this": signed, and sent to whoever asked; looped back if that is us.
    SignAbsence {
        /// What is said.
        statement: AbsenceStatement,
        /// To whom.
        to: Author,
    },
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
    /// Tells a subscriber: in order, without a gap, never more than its window without an ack.
    Deliver {
        /// Which.
        subscription: RequestId,
        /// What.
        delivery: Delivery,
    },
    /// Nothing follows under this subscription.
    EndSubscription {
        /// Which.
        subscription: RequestId,
        /// Why.
        end: SubscriptionEnd,
    },
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
    /// The epoch that is served.
    Epoch(Arc<Membership>),
    /// Nothing is signed or admitted for this epoch any more.
    Fence {
        /// Which.
        epoch: Epoch,
        /// Its last commit.
        final_index: CommitIndex,
    },
    /// An epoch is over.
    Closed(EpochReceipt),
    /// Floors of an epoch that is over.
    DropFloors {
        /// Which epoch.
        epoch: Epoch,
        /// Whose floors.
        floors: Vec<(Author, Incarnation)>,
    },
    /// The transactions of an own batch are in other batches, or will not be offered again.
    Settled {
        /// The batch, still held.
        digest: Digest,
        /// Its info.
        info: BatchInfo,
    },
    /// The next index a subscriber needs.
    Cursor {
        /// Its name.
        subscriber: String,
        /// The next index.
        next: CommitIndex,
    },
    /// A subscriber held too much for too long, and holds nothing any more.
    Lagged {
        /// Its name.
        subscriber: String,
        /// The next index it needed.
        next: CommitIndex,
    },
    /// A subscriber is gone for good.
    Unsubscribed {
        /// Its name.
        subscriber: String,
    },
    /// State sync passed over the commits from `from` to the header's.
    Skipped {
        /// The first one passed over.
        from: CommitIndex,
        /// The block whose state the host has.
        header: PayloadHeader,
    },
    /// It was said that this is absent: its slot is never signed.
    Absent {
        /// The commit that names it.
        index: CommitIndex,
        /// The content.
        digest: Digest,
        /// For a batch: its slot, and when it expires.
        slot: Option<(Slot, Timestamp)>,
    },
    /// Commits so old that what was said about them no longer matters.
    DropAbsent {
        /// The commit that named it.
        index: CommitIndex,
        /// The content.
        digest: Digest,
    },
    /// For a while, at least, no subscriber needed any commit below this: what they named may be gone
    /// rightly, also if somebody comes back to them.
    Passed {
        /// The lowest index that was not.
        below: CommitIndex,
    },
    /// A commit carries evidence: from then on everybody skips what it names.
    Rewritten {
        /// The commit that carries it.
        by: CommitIndex,
        /// The evidence.
        proof: Arc<UnavailabilityProof>,
    },
    /// The commits that evidence concerns are no longer kept.
    DropRewritten {
        /// The commit that carried it.
        by: CommitIndex,
        /// The content.
        digest: Digest,
        /// The commit it was about.
        index: CommitIndex,
    },
    /// A store that replaces a lost one signs for no batch before this consensus time.
    Silence {
        /// When it ends; `None` once it has.
        until: Option<Timestamp>,
    },
    /// A proof whose batch never came is no longer needed.
    DropProof {
        /// The batch.
        digest: Digest,
        /// Its expiration: part of its key.
        expiration: Timestamp,
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

impl Record {
    /// Its name in tests and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Batch(_) => "batch",
            Self::Claim { .. } => "claim",
            Self::Proof { .. } => "proof",
            Self::Payload { .. } => "payload",
            Self::Commit(_) => "commit",
            Self::Applied(_) => "applied",
            Self::Epoch(_) => "epoch",
            Self::Fence { .. } => "fence",
            Self::Closed(_) => "closed",
            Self::DropFloors { .. } => "drop_floors",
            Self::Settled { .. } => "settled",
            Self::Cursor { .. } => "cursor",
            Self::Lagged { .. } => "lagged",
            Self::Unsubscribed { .. } => "unsubscribed",
            Self::Skipped { .. } => "skipped",
            Self::Reserved { .. } => "reserved",
            Self::Floor { .. } => "floor",
            Self::DropBatch { .. } => "drop_batch",
            Self::DropPayload { .. } => "drop_payload",
            Self::DropCommits { .. } => "drop_commits",
            Self::Absent { .. } => "absent",
            Self::DropAbsent { .. } => "drop_absent",
            Self::Passed { .. } => "passed",
            Self::Rewritten { .. } => "rewritten",
            Self::DropRewritten { .. } => "drop_rewritten",
            Self::Silence { .. } => "silence",
            Self::DropProof { .. } => "drop_proof",
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_and_records_are_called_what_they_are() {
        let inputs = [Input::Tick, Input::Cancel(RequestId(1)), Input::Durable { sequence: 1 }];
        assert_eq!(inputs.map(|input| input.name()), ["tick", "cancel", "durable"]);
        let below = CommitIndex(1);
        let records = [Record::Passed { below }, Record::DropCommits { below }];
        assert_eq!(records.map(|record| record.name()), ["passed", "drop_commits"]);
    }

    #[test]
    fn only_what_no_timing_explains_is_a_fault() {
        let faults = [Refusal::NotFromAuthor, Refusal::Equivocation, Refusal::UnaskedFlood];
        assert!(faults.into_iter().all(Refusal::is_fault));
        let accidents = [Refusal::WindowSpent, Refusal::Unasked, Refusal::Expired];
        assert!(!accidents.into_iter().any(Refusal::is_fault));
    }
}
