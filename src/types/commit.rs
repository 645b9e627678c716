//! A commit: consensus ordered a payload; what the components answered; how an epoch ended.

use serde::{Deserialize, Serialize};

use super::committee::Committee;
use super::ids::{CommitIndex, Epoch, Timestamp};
use super::payload::PayloadHeader;

/// A finalised block, as the host tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Height of the block: global and gapless; equal to the header's height.
    pub index: CommitIndex,
    /// Round of the certificate that finalised it or a descendant. Informative: a repeat of the
    /// same header under another round is the same commit.
    pub round: u64,
    /// What was ordered.
    pub header: PayloadHeader,
}

/// The four components, in the order in which they apply a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Component {
    /// Transactions to batches.
    BatchGenerator,
    /// Admission, slots, expiry and retention of batches.
    BatchCoordinator,
    /// Votes to proofs.
    ProofCoordinator,
    /// Proofs that can be proposed.
    ProofManager,
}

impl Component {
    /// All four, in the order in which they apply a commit.
    pub const ALL: [Self; 4] =
        [Self::BatchGenerator, Self::BatchCoordinator, Self::ProofCoordinator, Self::ProofManager];

    /// Its name in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BatchGenerator => "batch_generator",
            Self::BatchCoordinator => "batch_coordinator",
            Self::ProofCoordinator => "proof_coordinator",
            Self::ProofManager => "proof_manager",
        }
    }
}

/// One component's word that it applied a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Who.
    pub component: Component,
    /// Batches (or, for the generator, transactions) it let go because of this commit.
    pub freed: u64,
    /// The highest index it has applied.
    pub watermark: CommitIndex,
}

/// All four acks of one commit: returned once the group that holds the commit is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReceipt {
    /// The commit.
    pub index: CommitIndex,
    /// Its consensus time.
    pub block_timestamp: Timestamp,
    /// One per component, in the order of [`Component::ALL`].
    pub acks: [Ack; 4],
}

/// How an epoch ended at this validator: returned once all of it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochReceipt {
    /// The epoch that is over.
    pub epoch: Epoch,
    /// Its last commit; or the one to which state sync led, if that lies beyond it.
    pub final_index: CommitIndex,
    /// Consensus time at its end.
    pub block_timestamp: Timestamp,
    /// One per component, in the order of [`Component::ALL`]: what it let go with the epoch.
    pub acks: [Ack; 4],
    /// Own batches of the epoch that are in no commit.
    pub handed_over_batches: u64,
    /// Their transactions that may still be executed: offered again in the next epoch.
    pub handed_over_transactions: u64,
    /// Content of the epoch is kept and served until consensus time has passed this.
    pub served_until: Timestamp,
    /// Subscribers that had not acknowledged the last commit: they go on in the next epoch.
    pub behind: Vec<String>,
}

/// An epoch that is over and whose content is still served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerEpoch {
    /// Which.
    pub epoch: Epoch,
    /// Its committee: its members may fetch, and are fetched from.
    pub committee: Committee,
    /// Until consensus time has passed this.
    pub served_until: Timestamp,
}

/// The epoch that is served, and those before it that still matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The epoch.
    pub epoch: Epoch,
    /// Its committee.
    pub committee: Committee,
    /// The newest last.
    pub former: Vec<FormerEpoch>,
}
