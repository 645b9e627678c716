//! What the sequencer says of itself: a snapshot for status pages, health and metrics.

use std::sync::Arc;

use serde::Serialize;

use super::port::BusyReason;
use super::pressure::Pressure;
use crate::types::{Author, CommitIndex, Digest, Epoch, Timestamp, UnavailabilityProof, Usage};

/// A snapshot of the sequencer.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The epoch that is served.
    pub epoch: Epoch,
    /// `"open"`, `"closing"` or `"closed"`.
    pub epoch_phase: &'static str,
    /// The last commit of the epoch, once that is known.
    pub final_index: Option<CommitIndex>,
    /// Epochs that are over and whose content is still served.
    pub epochs_served: Vec<Epoch>,
    /// The largest committed block timestamp, microseconds.
    pub consensus_time: Timestamp,
    /// The highest index logged.
    pub logged: CommitIndex,
    /// The highest index applied to all four components.
    pub applied: CommitIndex,
    /// Transactions accepted and not in a batch yet.
    pub pool_transactions: u64,
    /// Their bytes.
    pub pool_bytes: u64,
    /// Transactions that are not pulled from the host's source; 0 without one.
    pub in_progress: u64,
    /// Own batches without a proof.
    pub uncertified_batches: u64,
    /// Validators that sent signatures which do not verify, and are not forgiven yet.
    pub demoted: Vec<Author>,
    /// Own batches not ordered yet, with or without a proof.
    pub outstanding_batches: u64,
    /// Bytes of those.
    pub outstanding_bytes: u64,
    /// Proofs that could be proposed.
    pub proofs: u64,
    /// Batches that could be proposed without a proof: old enough, whoever their author is.
    pub unproven: u64,
    /// Payloads whose votes wait for optimistic batches.
    pub ballots: u64,
    /// Blocks for which, after a failed proposal, none without a proof is proposed.
    pub optimistic_pause: u64,
    /// Authors whose batches are not proposed without a proof for a while.
    pub optimistic_blamed: u64,
    /// Contents held, batches and payloads.
    pub contents: u64,
    /// Fetches under way.
    pub fetches: u64,
    /// Bytes asked for and not answered.
    pub fetch_bytes_in_flight: u64,
    /// How each peer answers fetches.
    pub fetch_peers: Vec<FetchPeerStatus>,
    /// Contents that nobody waits for yet and that are, or will be, fetched.
    pub refetches: u64,
    /// How many were begun in this life.
    pub refetched: u64,
    /// Contents that this validator said are absent here.
    pub absences: u64,
    /// Evidence that content is gone, not committed.
    pub evidence: u64,
    /// Contents that everybody skips because committed evidence says that they are gone, with the
    /// commit that names each.
    pub skipped: Vec<(CommitIndex, Digest)>,
    /// The evidence that says so, as long as it is kept. Too large for a status page.
    #[serde(skip)]
    pub committed_evidence: Vec<Arc<UnavailabilityProof>>,
    /// A store that replaces a lost one signs for no batch before this consensus time.
    pub silent_until: Option<Timestamp>,
    /// Payloads stored and not ordered yet.
    pub open_payloads: u64,
    /// What holds admission back, if anything.
    pub busy: Option<String>,
    /// What is accepted now.
    pub pressure: Pressure,
    /// Per validator.
    pub windows: Vec<WindowStatus>,
    /// Who follows the commits.
    pub subscribers: Vec<SubscriberStatus>,
    /// Bytes of batches kept beyond their time because a subscriber needs them.
    pub held_bytes: u64,
}

/// How a peer answers fetches.
#[derive(Clone, Debug, Serialize)]
pub struct FetchPeerStatus {
    /// Who.
    pub peer: Author,
    /// Smoothed time until it answers with content; `None` before it ever did.
    pub latency_seconds: Option<f64>,
    /// What its failures count for; halved every five seconds. From 4 on it is asked last.
    pub penalty: u32,
    /// Contents and chunks that it was asked for and has not answered.
    pub asked: u64,
    /// Contents and chunks that it sent.
    pub answered: u64,
    /// What it did not answer in time, or answered wrongly.
    pub failed: u64,
}

/// How far a subscriber has come.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SubscriberStatus {
    /// Its name.
    pub name: String,
    /// The next index it needs, as far as it told us.
    pub next: CommitIndex,
    /// True while it is attached.
    pub attached: bool,
    /// True once it held too much for too long: it holds nothing until it attaches again.
    pub lagged: bool,
    /// Applied commits that it has not acknowledged.
    pub lag_commits: u64,
    /// Bytes of their batches, as far as this life of the process knows them.
    pub lag_bytes: u64,
    /// How long ago the first of them was applied, or recovered; seconds.
    pub lag_seconds: f64,
}

/// How two validators stand with each other.
#[derive(Clone, Debug, Serialize)]
pub struct WindowStatus {
    /// The other validator.
    pub peer: Author,
    /// True if a link is up.
    pub linked: bool,
    /// False if it left the committee and may only fetch.
    pub member: bool,
    /// The epoch it serves, as far as it told us.
    pub epoch: Option<Epoch>,
    /// What it grants us.
    pub granted: Usage,
    /// What we have used of that.
    pub used: Usage,
    /// What we store of it.
    pub stored: Usage,
    /// What it said it has released up to, microseconds.
    pub released: Timestamp,
}

impl Status {
    /// The reason in words.
    pub(crate) fn reason(busy: Option<BusyReason>) -> Option<String> {
        busy.map(|reason| reason.to_string())
    }
}
