//! The words between the core and its host: requests, their answers, events, and why not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::source::TransactionKey;
use super::{Lease, LeaseError, LeaseRefusal, Room};
use crate::sequencer::status::Status;
use crate::types::{
    AbsentReason, Author, Batch, BatchInfo, Commit, CommitIndex, CommitReceipt, Digest, Epoch,
    EpochReceipt, InvalidPayload, Payload, PayloadHeader, Timestamp, UnavailabilityProof,
};

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
    /// The host's own filter refuses it.
    #[error("refused by this validator: {reason}")]
    Filtered {
        /// In the filter's words.
        reason: &'static str,
    },
    /// The epoch is over and the next one is not open yet.
    #[error("epoch {} is closed; try again once the next one is open", epoch.0)]
    EpochClosed {
        /// Which.
        epoch: Epoch,
    },
    /// This validator is not in the committee: nothing of it can be ordered.
    #[error("this validator is not in the committee; submit to one that is")]
    NotAMember,
    /// Back-pressure: nothing is wrong with it.
    #[error("no room now ({reason}); try again in {} ms", retry_after.as_millis())]
    Busy {
        /// What is short.
        reason: BusyReason,
        /// The lowest bucket that is accepted now; `None`: none is.
        lowest_gas_bucket: Option<u64>,
        /// Why the lease that it came under did not help, if it came under one.
        lease: Option<LeaseRefusal>,
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
    /// Too many own batches wait for votes.
    #[error("votes lag")]
    Votes,
    /// A group takes long to become durable.
    #[error("disk lags")]
    DiskLag,
}

impl BusyReason {
    /// Each of them.
    pub const ALL: [Self; 6] =
        [Self::Pool, Self::Commits, Self::Windows, Self::Disk, Self::Votes, Self::DiskLag];
}

/// Why there is no payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// Not this epoch.
    #[error("epoch {0:?} is not served")]
    Epoch(Epoch),
    /// Above the last block of its epoch.
    #[error("epoch {} is closed", epoch.0)]
    EpochClosed {
        /// Which.
        epoch: Epoch,
    },
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
    /// It was applied, or passed over by state sync, and its receipt is not kept.
    #[error("commit {0:?} was applied or skipped, and is no longer kept")]
    Pruned(CommitIndex),
    /// Time went back.
    #[error("commit {0:?} has a timestamp below the one before")]
    TimeWentBack(CommitIndex),
    /// The header's height is not the index.
    #[error("commit {0:?} carries a header of another height")]
    Height(CommitIndex),
    /// Above the last commit of its epoch.
    #[error("epoch {} is closed", epoch.0)]
    EpochClosed {
        /// Which.
        epoch: Epoch,
    },
    /// Of an epoch that is not open yet: close the one before, then open it.
    #[error("epoch {} is not open yet", epoch.0)]
    EpochNotOpen {
        /// Which.
        epoch: Epoch,
    },
}

/// Why an epoch is not closed, or not yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// It is closed, or being closed, with another last commit.
    #[error("the epoch ends with commit {}", known.0)]
    Conflict {
        /// Its last commit.
        known: CommitIndex,
    },
    /// Commits above its last one are known.
    #[error("commits up to {} are logged: the epoch cannot end below", logged.0)]
    Passed {
        /// The highest one.
        logged: CommitIndex,
    },
    /// It was closed before the last one.
    #[error("epoch {} is closed", epoch.0)]
    EpochClosed {
        /// Which.
        epoch: Epoch,
    },
    /// It was never open.
    #[error("epoch {} is not open; epoch {} is", epoch.0, open.0)]
    NotOpen {
        /// Which.
        epoch: Epoch,
        /// The one that is.
        open: Epoch,
    },
    /// The deadline passed. The fence stays; closing again waits again.
    #[error("{}", late(*final_index, *logged, *applied, missing.as_ref()))]
    Late {
        /// The last commit of the epoch.
        final_index: CommitIndex,
        /// The highest commit that the host told of: below the last one, it is late.
        logged: CommitIndex,
        /// The highest commit applied.
        applied: CommitIndex,
        /// The payload that the next commit waits for: whoever should have it is late.
        missing: Option<Digest>,
    },
}

fn late(
    final_index: CommitIndex,
    logged: CommitIndex,
    applied: CommitIndex,
    missing: Option<&Digest>,
) -> String {
    let (last, logged, next) = (final_index.0, logged.0, applied.0 + 1);
    match missing {
        Some(digest) => format!("late: payload {digest} of commit {next} is missing everywhere"),
        None => {
            format!("late: ordering has told of commits up to {logged}, not of the last, {last}")
        }
    }
}

/// Why an epoch is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The one before is not closed.
    #[error("epoch {} is open: close it first", open.0)]
    NotClosed {
        /// The one before.
        open: Epoch,
    },
    /// Epochs only rise.
    #[error("epoch {} is over or known with another committee", epoch.0)]
    Conflict {
        /// As asked for.
        epoch: Epoch,
    },
}

/// Why state sync may not go on from a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SkipError {
    /// What is to be skipped was applied here.
    #[error("commits up to {applied:?} are applied here already; there is nothing to skip")]
    Behind {
        /// The highest commit applied.
        applied: CommitIndex,
    },
    /// Another header is known under this index.
    #[error("commit {0:?} is known with another header: the state is of another chain")]
    Conflict(CommitIndex),
    /// Time would go back.
    #[error("commit {0:?} has a timestamp below one that is known")]
    TimeWentBack(CommitIndex),
}

/// What a subscriber is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The next commit: applied here to all components, and durable.
    Commit(Commit),
    /// The next commit carries evidence that content of an earlier one is gone, and everybody skips
    /// it: whoever executed that content rebuilds its state from below that commit, or stops. Comes
    /// before that next commit, also to those who had skipped the content already.
    Rewritten {
        /// The commit that carries the evidence.
        by: CommitIndex,
        /// The commit that named the content.
        index: CommitIndex,
        /// The content: a batch, or the whole payload of that commit.
        digest: Digest,
    },
    /// State sync passed over these: the only gap there is.
    Skipped {
        /// The first one.
        from: CommitIndex,
        /// The last one.
        to: CommitIndex,
    },
}

impl Delivery {
    /// The last index that it covers.
    pub const fn last(&self) -> CommitIndex {
        match self {
            Self::Commit(commit) => commit.index,
            Self::Skipped { to, .. } => *to,
            Self::Rewritten { by, .. } => CommitIndex(by.0.saturating_sub(1)),
        }
    }
}

/// Why a subscriber cannot attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// What it needs is gone.
    #[error(
        "commits below {} are gone: take the state of another validator, then attach there",
        first_kept.0
    )]
    Pruned {
        /// The lowest commit that is kept.
        first_kept: CommitIndex,
    },
    /// A name without letters, or too long.
    #[error("a subscriber's name has 1 to 64 bytes")]
    Name,
    /// Too many names.
    #[error("there are 64 subscribers already: unsubscribe those that are gone for good")]
    TooMany,
}

/// Why nothing follows under a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriptionEnd {
    /// It held commits or content beyond the bounds.
    #[error("it lagged beyond `subscriber_lag_max` or `subscriber_lag_bytes_max`")]
    Lagged,
    /// The same name attached again.
    #[error("the same subscriber attached again")]
    Replaced,
    /// The name was given up.
    #[error("it was unsubscribed")]
    Unsubscribed,
}

/// Content that the host needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its digest.
    pub digest: Digest,
    /// For a batch: its info, so that a large one is fetched in chunks from several peers.
    pub info: Option<BatchInfo>,
    /// Who should have it; the others are asked after them.
    pub holders: Vec<Author>,
    /// The commit that it is needed for.
    pub commit: Option<CommitIndex>,
}

/// What a peer answers instead of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoContent {
    /// It does not have it.
    Absent(AbsentReason),
    /// It has too much to do, for about so long.
    Busy(Duration),
    /// It sent something else.
    Wrong,
}

/// Why a fetch ended without content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// A quorum signed that it is gone. It changes nothing until a commit carries the evidence.
    #[error("a quorum says that it is gone; ask again, or propose the evidence")]
    Unavailable(Arc<UnavailabilityProof>),
    /// A commit carries evidence that it is gone: everybody skips it.
    #[error("evidence that it is gone is committed: it is skipped")]
    Rewritten,
    /// The commit lies so far back that others, or this node, have rightly deleted it.
    #[error("the commit is too old: take the state of another validator")]
    Pruned,
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
    /// To `Lease`. Memory of this life: no promise of a group.
    Leased(Result<Lease, LeaseError>),
    /// To `Release`: the room that came back.
    Released(Result<Room, LeaseRefusal>),
    /// To `Pull`. An `Ok` is a promise: the payload is durable here.
    Pulled(Result<Arc<Payload>, PullError>),
    /// To `Verify`. An `Ok` is a promise: the payload is durable here.
    Verified(Result<PayloadHeader, InvalidPayload>),
    /// To `Commit`. An `Ok` is a promise.
    Committed(Result<CommitReceipt, CommitError>),
    /// To `SkipTo`. An `Ok` is a promise.
    SkippedTo(Result<CommitReceipt, SkipError>),
    /// To `Close`. An `Ok` is a promise.
    Closed(Result<EpochReceipt, CloseError>),
    /// To `OpenEpoch`. An `Ok` is a promise.
    Opened(Result<(), OpenError>),
    /// To `Subscribe`. An `Ok` is a promise; deliveries follow it.
    Subscribed(Result<(), SubscribeError>),
    /// To `Unsubscribe`. A promise.
    Unsubscribed,
    /// To `Fetch`.
    Fetched(Result<Content, FetchError>),
    /// To `Status`.
    Status(Box<Status>),
}

/// What the host may want to know as it happens. Never needed for correctness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A batch of ours has a proof of store, durable here.
    Certified {
        /// The batch.
        digest: Digest,
    },
    /// Transactions from the source sit in a batch that is durable here.
    Batched {
        /// The batch.
        batch: Digest,
        /// For each, its position, and what names it.
        pulled: Vec<(u32, TransactionKey)>,
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
    /// Transactions of ours that this validator does not offer again, and knows in no commit.
    Returned {
        /// Their last batch.
        batch: Digest,
        /// Their positions in it.
        positions: Vec<u32>,
        /// Why.
        reason: ReturnReason,
    },
}

/// Why transactions are not offered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReturnReason {
    /// This validator left the committee.
    LeftCommittee,
    /// State sync led past the end of their epoch: they may be in a commit that was skipped.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_the_end_of_an_epoch_is_told_what_is_late() {
        let late = |missing| CloseError::Late {
            final_index: CommitIndex(9),
            logged: CommitIndex(7),
            applied: CommitIndex(5),
            missing,
        };
        let ordering = late(None).to_string();
        assert!(ordering.contains("up to 7") && ordering.contains("last, 9"), "{ordering}");
        let payload = late(Some(Digest([7; 32]))).to_string();
        assert!(payload.contains("of commit 6 "), "{payload}");
    }
}
