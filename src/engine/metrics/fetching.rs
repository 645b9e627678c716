//! Fetching: what peers were asked for, and what they answered.

use prometheus::{GaugeVec, IntCounter, IntGauge, IntGaugeVec, Registry};

use super::instruments::{Register, raise, set};
use super::links::label;
use crate::sequencer::status::Status;

pub(in crate::engine) struct Fetching {
    /// Contents or chunks that peers were asked for.
    pub requests: IntCounter,
    /// Answers that say "not here".
    pub absent: IntCounter,
    /// Answers that say "not now".
    pub busy: IntCounter,
    /// Answers that were something else.
    pub wrong: IntCounter,
    /// Bytes of content that was right.
    pub bytes: IntCounter,
    /// Statements that content is absent here.
    pub absences: IntCounter,
    /// Contents pushed because a payload says that they are gone.
    pub pushes: IntCounter,
    in_flight: IntGauge,
    refetches: IntGauge,
    refetched: IntCounter,
    evidence: IntGauge,
    skipped: IntGauge,
    silent: IntGauge,
    latency: GaugeVec,
    penalty: IntGaugeVec,
}

impl Fetching {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        Ok(Self {
            requests: make.counter(
                "fetch_requests_total",
                "Contents, or chunks of large ones, that peers were asked for.",
            )?,
            absent: make
                .counter("fetch_misses_total", "Peers that did not have what was asked for.")?,
            busy: make.counter("fetch_busy_total", "Peers that answered: not now.")?,
            wrong: make
                .counter("fetch_wrong_total", "Answers that were not what was asked for.")?,
            bytes: make.counter("fetched_bytes_total", "Bytes of content that peers sent.")?,
            absences: make.counter(
                "absences_signed_total",
                "Statements signed that content which a commit names is absent here.",
            )?,
            pushes: make.counter(
                "pushes_total",
                "Contents pushed because evidence in a payload says that they are gone.",
            )?,
            refetches: make.gauge(
                "refetches_open",
                "Contents that nobody waits for yet and that are, or will be, fetched.",
            )?,
            refetched: make.counter(
                "refetches_total",
                "Contents fetched, or tried, before anybody waited for them.",
            )?,
            evidence: make.gauge("evidence_open", "Proofs that content is gone, not committed.")?,
            skipped: make.gauge(
                "skipped_contents",
                "Contents that everybody skips because committed evidence says that they are gone.",
            )?,
            silent: make
                .gauge("silent", "1 while a store that replaces a lost one signs for no batch.")?,
            in_flight: make.gauge("fetch_in_flight_bytes", "Bytes asked for and not answered.")?,
            latency: make.reals(
                "fetch_latency_seconds",
                "Smoothed time that a peer takes to answer a fetch; 0 before it did.",
                "peer",
            )?,
            penalty: make.gauges(
                "fetch_penalty",
                "What a peer's failed answers count for; halved every five seconds.",
                &["peer"],
            )?,
        })
    }

    pub fn observe(&self, status: &Status) {
        set(&self.in_flight, status.fetch_bytes_in_flight);
        set(&self.refetches, status.refetches);
        raise(&self.refetched, status.refetched);
        set(&self.evidence, status.evidence);
        set(&self.skipped, status.skipped.len() as u64);
        set(&self.silent, u64::from(status.silent_until.is_some()));
        for peer in &status.fetch_peers {
            let by = &[label(&peer.peer)];
            set(&self.penalty.with_label_values(by), peer.penalty.into());
            self.latency.with_label_values(by).set(peer.latency_seconds.unwrap_or_default());
        }
    }
}
