//! What the engine counts. Every name is `quorum_store_*`, in base units, and listed in
//! `dashboards/metrics.txt`.
//!
//! Hot paths touch atomics only. What the sequencer and the transport count themselves is looked
//! at a few times a second. No label names a batch or a transaction; peers are labelled by the
//! first 8 hex digits of their key. Labels whose values are known are there from the start, as
//! zero, so that a rate has something to rise from.

mod admission;
mod collecting;
mod epochs;
mod fetching;
mod followers;
mod groups;
mod host;
mod instruments;
mod links;
mod messages;
mod optimism;
mod proposing;
mod restarts;
mod source;
mod state;

use prometheus::Registry;
use serde::Serialize;

use self::admission::Admission;
use self::collecting::Collecting;
use self::epochs::Epochs;
use self::fetching::Fetching;
use self::groups::Groups;
use self::host::Host;
use self::instruments::by_label;
use self::links::Links;
use self::messages::Messages;
use self::optimism::Optimism;
use self::proposing::Proposing;
use self::restarts::Restarts;
use self::source::Source;
use self::state::State;
use crate::sequencer::port::Measurement;
use crate::types::Author;

pub(super) use self::followers::Followers;
pub use self::instruments::Distribution;
pub(super) use self::state::Queued;

/// The engine's instruments, registered with the host's registry.
pub(super) struct Metrics {
    /// Of the writer.
    pub groups: Groups,
    /// Of ingress, egress and serving.
    pub messages: Messages,
    /// Of pulling from the host's source.
    pub source: Source,
    /// Of vote collection.
    pub collecting: Collecting,
    /// By peer.
    pub links: Links,
    /// Of the sequencer.
    pub state: State,
    /// Of those who follow the commits.
    pub followers: Followers,
    /// Of what is accepted.
    pub admission: Admission,
    /// Of the ends of epochs.
    pub epochs: Epochs,
    /// Of fetches, as peers answer them.
    pub fetching: Fetching,
    pub optimism: Optimism,
    /// Of payloads made here, and of commits.
    pub proposing: Proposing,
    /// Of the supervisor.
    pub restarts: Restarts,
    /// Of the handle.
    pub host: Host,
}

/// Counters in the words of reports.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Statistics {
    /// Groups made durable, those without records included.
    pub groups: u64,
    /// Fsyncs issued for them.
    pub fsyncs: u64,
    /// Batches in a group with records, on average.
    pub batches_per_group_mean: f64,
    /// Median time to make a group durable, seconds.
    pub group_commit_seconds_p50: f64,
    /// 99th percentile of the same, seconds.
    pub group_commit_seconds_p99: f64,
    /// Times to make groups durable, seconds.
    pub group_commit_distribution: Distribution,
    /// Sizes of groups, bytes.
    pub group_bytes_distribution: Distribution,
    /// Batches in each group.
    pub group_batches_distribution: Distribution,
    /// Bytes handed to the storage.
    pub bytes_written: u64,
    /// Of those, bytes of batch bodies and payloads.
    pub content_bytes: u64,
    /// Own batches that got a proof.
    pub certified: u64,
    /// Commits applied and durable.
    pub commits: u64,
    /// Fetches of the host that were answered.
    pub fetch_requests: u64,
    /// Of those, answered with content.
    pub fetch_found: u64,
    /// Of those, ended by their deadline.
    pub fetch_timed_out: u64,
    /// Refused messages and transactions by reason.
    pub refused: Vec<(String, u64)>,
    /// Invalid messages by kind.
    pub invalid: Vec<(String, u64)>,
}

impl Metrics {
    /// `peers`: every other validator.
    pub fn new(
        registry: &Registry,
        peers: impl Iterator<Item = Author>,
    ) -> Result<Self, prometheus::Error> {
        let peers: Vec<Author> = peers.collect();
        Ok(Self {
            groups: Groups::new(registry)?,
            messages: Messages::new(registry)?,
            source: Source::new(registry)?,
            collecting: Collecting::new(registry)?,
            links: Links::new(registry, peers.iter().copied())?,
            state: State::new(registry)?,
            followers: Followers::new(registry)?,
            admission: Admission::new(registry)?,
            epochs: Epochs::new(registry)?,
            fetching: Fetching::new(registry)?,
            optimism: Optimism::new(registry)?,
            proposing: Proposing::new(registry, peers.into_iter())?,
            restarts: Restarts::new(registry)?,
            host: Host::new(registry)?,
        })
    }

    pub fn statistics(&self) -> Statistics {
        let (groups, host) = (&self.groups, &self.host);
        let fetched = |outcome: &str| host.fetches.with_label_values(&[outcome]).get();
        let commit_seconds = Distribution::of(&groups.commit_seconds);
        Statistics {
            groups: groups.count.get(),
            fsyncs: groups.fsyncs.get(),
            batches_per_group_mean: groups.batches.get() as f64 / groups.fsyncs.get().max(1) as f64,
            group_commit_seconds_p50: commit_seconds.quantile(0.5),
            group_commit_seconds_p99: commit_seconds.quantile(0.99),
            group_commit_distribution: commit_seconds,
            group_bytes_distribution: Distribution::of(&groups.size_bytes),
            group_batches_distribution: Distribution::of(&groups.size_batches),
            bytes_written: groups.bytes_written.get(),
            content_bytes: groups.content_bytes.get(),
            certified: host.certified.get(),
            commits: host.commits.get(),
            fetch_requests: ["found", "timed_out", "busy", "unavailable", "rewritten", "pruned"]
                .into_iter()
                .map(fetched)
                .sum(),
            fetch_found: fetched("found"),
            fetch_timed_out: fetched("timed_out"),
            refused: by_label(&self.messages.refused),
            invalid: by_label(&self.messages.invalid),
        }
    }

    /// The sequencer measured something.
    pub fn measured(&self, measurement: Measurement) {
        self.state.measured(measurement);
        self.collecting.measured(measurement);
        self.source.measured(measurement);
        self.optimism.measured(measurement);
        self.proposing.measured(measurement);
    }

    /// The host got a receipt.
    pub fn committed(&self, receipt: &crate::types::CommitReceipt) {
        self.host.commits.inc();
        self.state.committed(receipt);
    }
}
