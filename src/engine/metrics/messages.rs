//! Ingress, egress and serving: messages by kind, what was refused and why, and how long it took.

use std::time::Instant;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, Registry, exponential_buckets,
};

use super::instruments::Register;
use crate::transport::SendError;

/// Kinds of messages, see `Message::kind_name`.
const KINDS: &[&str] = &[
    "batch",
    "votes",
    "proofs",
    "payload",
    "announce",
    "fetch_request",
    "chunk_request",
    "fetch_reply",
    "serving",
    "absence_request",
    "absence",
];
/// Kinds with signatures or hashes to check.
const VERIFIED: &[&str] = &["batch", "votes", "proofs", "payload", "chunk", "absence"];
const INVALID: &[&str] = &[
    "batch",
    "votes",
    "proofs",
    "payload",
    "fetch_reply",
    "decode",
    "serve_queue_full",
    "read_failed",
];
/// Those of the sequencer that matter most to operators, and our own.
const REFUSED: &[&str] = &[
    "inbox_full",
    "serve_queue_full",
    "window_spent",
    "equivocation",
    "expired",
    "filtered",
    "disk_nearly_full",
];
const NOT_SENT: &[&str] = &["not_connected", "queue_full", "too_large", "empty"];

pub(in crate::engine) struct Messages {
    received: IntCounterVec,
    received_bytes: IntCounterVec,
    verification_seconds: HistogramVec,
    pub(super) invalid: IntCounterVec,
    pub(super) refused: IntCounterVec,
    sent: IntCounterVec,
    sent_bytes: IntCounterVec,
    not_sent: IntCounterVec,
    /// Batches signed for, own ones included.
    pub votes_signed: IntCounter,
    /// Own proofs sent to everybody.
    pub proofs_published: IntCounter,
    /// Own batches sent again to silent validators.
    pub resends: IntCounter,
    served: IntCounterVec,
    /// Bytes of content sent to peers that asked for it.
    pub served_bytes: IntCounter,
    serve_seconds: Histogram,
}

impl Messages {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        let times = || exponential_buckets(0.000_01, 2.0, 18);
        Ok(Self {
            received: make.counters("received_total", "Messages received.", "kind", KINDS)?,
            received_bytes: make.counters(
                "received_bytes_total",
                "Bytes of messages received.",
                "kind",
                KINDS,
            )?,
            verification_seconds: make.histograms(
                "verification_seconds",
                "Time to check hashes and signatures of one batch, chunk, vote, absence, proof or payload.",
                times()?,
                "kind",
                VERIFIED,
            )?,
            invalid: make.counters("invalid_total", "Invalid messages.", "kind", INVALID)?,
            refused: make.counters(
                "refused_total",
                "Valid messages not admitted.",
                "reason",
                REFUSED,
            )?,
            sent: make.counters("sent_total", "Messages queued for a peer.", "kind", KINDS)?,
            sent_bytes: make.counters(
                "sent_bytes_total",
                "Bytes of messages queued for a peer.",
                "kind",
                KINDS,
            )?,
            not_sent: make.counters(
                "not_sent_total",
                "Messages dropped because a link was down or its queue full.",
                "reason",
                NOT_SENT,
            )?,
            votes_signed: make.counter("votes_signed_total", "Batches signed for.")?,
            proofs_published: make
                .counter("proofs_published_total", "Own proofs sent to every validator.")?,
            resends: make
                .counter("resends_total", "Own batches sent again to silent validators.")?,
            served: make.counters(
                "served_total",
                "Contents that peers asked for, by result.",
                "result",
                &["found", "missing", "busy"],
            )?,
            served_bytes: make.counter(
                "served_bytes_total",
                "Bytes of content sent to peers that asked for it.",
            )?,
            serve_seconds: make.histogram(
                "serve_seconds",
                "Time to read and send one content.",
                times()?,
            )?,
        })
    }

    pub fn received(&self, kind: &str, bytes: usize) {
        self.received.with_label_values(&[kind]).inc();
        self.received_bytes.with_label_values(&[kind]).inc_by(bytes as u64);
    }

    /// Hashes or signatures of one item were checked.
    pub fn verified(&self, kind: &str, began: Instant) {
        let elapsed = began.elapsed().as_secs_f64();
        self.verification_seconds.with_label_values(&[kind]).observe(elapsed);
    }

    pub fn sent(&self, kind: &str, bytes: usize) {
        self.sent.with_label_values(&[kind]).inc();
        self.sent_bytes.with_label_values(&[kind]).inc_by(bytes as u64);
    }

    pub fn not_sent(&self, kind: &str, error: &SendError) {
        let reason = match error {
            SendError::NotConnected => "not_connected",
            SendError::QueueFull => "queue_full",
            SendError::TooLarge { .. } => "too_large",
            SendError::Empty => "empty",
        };
        tracing::debug!(kind, reason, "not sent");
        self.not_sent.with_label_values(&[reason]).inc();
    }

    pub fn invalid(&self, kind: &str) {
        self.invalid.with_label_values(&[kind]).inc();
    }

    pub fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub fn served(&self, result: &str, began: Instant) {
        self.served.with_label_values(&[result]).inc();
        self.serve_seconds.observe(began.elapsed().as_secs_f64());
    }
}
