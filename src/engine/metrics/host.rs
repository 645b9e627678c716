//! Calls of the host: how long they take, what became of submissions and fetches.

use std::time::Instant;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, Registry, exponential_buckets};

use super::instruments::Register;
use crate::sequencer::port::{Accepted, BusyReason, Event, FetchError, SubmitError};

/// The calls that are timed.
const CALLS: &[&str] = &["submit", "lease", "pull", "verify", "notify_commit", "materialize"];
pub(super) const FETCH_OUTCOMES: &[&str] =
    &["found", "timed_out", "busy", "unavailable", "rewritten", "pruned", "cancelled"];
pub(super) const RESULTS: [&str; 13] = [
    "accepted",
    "empty",
    "too_large",
    "expired",
    "busy_pool",
    "busy_commits",
    "busy_windows",
    "busy_disk",
    "busy_votes",
    "busy_disk_lag",
    "epoch_closed",
    "not_a_member",
    "filtered",
];

pub(in crate::engine) struct Host {
    call_seconds: HistogramVec,
    submitted: IntCounterVec,
    rebatched: IntCounter,
    expired: IntCounter,
    returned: IntCounter,
    pub(super) certified: IntCounter,
    pub(super) commits: IntCounter,
    pub(super) fetches: IntCounterVec,
    fetch_seconds: HistogramVec,
}

impl Host {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        let seconds = || exponential_buckets(0.000_1, 2.0, 19);
        Ok(Self {
            call_seconds: make.histograms(
                "call_seconds",
                "Time that calls of the host take, by call.",
                seconds()?,
                "call",
                CALLS,
            )?,
            submitted: make.counters(
                "submitted_transactions_total",
                "Transactions submitted by the host, by result.",
                "result",
                &RESULTS,
            )?,
            rebatched: make.counter(
                "rebatched_transactions_total",
                "Transactions moved from an expired batch to a new one.",
            )?,
            expired: make.counter(
                "expired_transactions_total",
                "Transactions that expired in a batch without being ordered.",
            )?,
            returned: make.counter(
                "returned_transactions_total",
                "Transactions in no known commit that this validator does not offer again.",
            )?,
            certified: make.counter("certified_total", "Own batches that got a proof.")?,
            commits: make.counter("commits_total", "Commits applied and durable.")?,
            fetches: make.counters(
                "fetches_total",
                "Fetches of the host, by outcome.",
                "outcome",
                FETCH_OUTCOMES,
            )?,
            fetch_seconds: make.histograms(
                "fetch_seconds",
                "Time that fetches of the host take, by outcome.",
                seconds()?,
                "outcome",
                FETCH_OUTCOMES,
            )?,
        })
    }

    pub fn called(&self, call: &str, began: Instant) {
        self.call_seconds.with_label_values(&[call]).observe(began.elapsed().as_secs_f64());
    }

    pub fn submitted(&self, results: &[Result<Accepted, SubmitError>]) {
        let mut counts = [0; RESULTS.len()];
        for result in results {
            counts[result_index(result)] += 1;
        }
        for (name, count) in RESULTS.iter().zip(counts).filter(|(_, count)| *count > 0) {
            self.submitted.with_label_values(&[*name]).inc_by(count);
        }
    }

    pub fn event(&self, event: &Event) {
        match event {
            Event::Certified { .. } => self.certified.inc(),
            Event::Batched { .. } => {}
            Event::Rebatched { moved, .. } => self.rebatched.inc_by(moved.len() as u64),
            Event::Expired { positions, .. } => self.expired.inc_by(positions.len() as u64),
            Event::Returned { positions, .. } => self.returned.inc_by(positions.len() as u64),
        }
    }

    /// A fetch begins; whatever ends it, also that the host no longer waits, is counted.
    pub fn fetch(&self) -> Fetching<'_> {
        Fetching { host: self, began: Instant::now(), outcome: "cancelled" }
    }
}

pub(super) fn result_index(result: &Result<Accepted, SubmitError>) -> usize {
    match result {
        Ok(_) => 0,
        Err(SubmitError::Empty) => 1,
        Err(SubmitError::TooLarge { .. }) => 2,
        Err(SubmitError::Expired) => 3,
        Err(SubmitError::Busy { reason, .. }) => match reason {
            BusyReason::Pool => 4,
            BusyReason::Commits => 5,
            BusyReason::Windows => 6,
            BusyReason::Disk => 7,
            BusyReason::Votes => 8,
            BusyReason::DiskLag => 9,
        },
        Err(SubmitError::EpochClosed { .. }) => 10,
        Err(SubmitError::NotAMember) => 11,
        Err(SubmitError::Filtered { .. }) => 12,
    }
}

/// A fetch under way.
pub(in crate::engine) struct Fetching<'a> {
    host: &'a Host,
    began: Instant,
    outcome: &'static str,
}

impl Fetching<'_> {
    /// It was answered.
    pub fn ended<T>(mut self, result: &Result<T, FetchError>) {
        self.outcome = match result {
            Ok(_) => "found",
            Err(FetchError::TimedOut { .. }) => "timed_out",
            Err(FetchError::Busy) => "busy",
            Err(FetchError::Unavailable(_)) => "unavailable",
            Err(FetchError::Rewritten) => "rewritten",
            Err(FetchError::Pruned) => "pruned",
        };
    }
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        let by = &[self.outcome];
        self.host.fetches.with_label_values(by).inc();
        self.host.fetch_seconds.with_label_values(by).observe(self.began.elapsed().as_secs_f64());
    }
}
