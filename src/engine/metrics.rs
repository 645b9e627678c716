//! What the engine counts. Every name is `quorum_store_*`, in base units.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};
use serde::Serialize;

use super::writer::Written;
use crate::sequencer::status::Status;
use crate::transport::SendError;

/// The engine's instruments, registered with the host's registry.
pub(super) struct Metrics {
    groups: IntCounter,
    fsyncs: IntCounter,
    group_records: IntCounter,
    group_batches: IntCounter,
    bytes_written: IntCounter,
    content_bytes: IntCounter,
    group_commit_seconds: Histogram,
    group_bytes: Histogram,
    received: IntCounterVec,
    received_bytes: IntCounterVec,
    sent: IntCounterVec,
    not_sent: IntCounterVec,
    invalid: IntCounterVec,
    refused: IntCounterVec,
    served: IntCounterVec,
    fetches: IntCounterVec,
    pub certified: IntCounter,
    pub commits: IntCounter,
    pub links_up: IntGauge,
    proofs: IntGauge,
    pool_transactions: IntGauge,
    outstanding_batches: IntGauge,
    contents: IntGauge,
    applied: IntGauge,
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
    /// Bytes handed to the storage.
    pub bytes_written: u64,
    /// Of those, bytes of batch bodies and payloads.
    pub content_bytes: u64,
    /// Own batches that got a proof.
    pub certified: u64,
    /// Commits applied and durable.
    pub commits: u64,
    /// Fetches of the host.
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
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let register = Register(registry);
        Ok(Self {
            groups: register.counter("groups_total", "Groups made durable.")?,
            fsyncs: register.counter("fsyncs_total", "Fsyncs issued by the store.")?,
            group_records: register
                .counter("group_records_total", "Records made durable in groups.")?,
            group_batches: register
                .counter("group_batches_total", "Batches made durable in groups.")?,
            bytes_written: register
                .counter("store_written_bytes_total", "Bytes handed to the storage.")?,
            content_bytes: register
                .counter("store_content_bytes_total", "Bytes of batch bodies and payloads.")?,
            group_commit_seconds: register.histogram(
                "group_commit_seconds",
                "Time to make a group durable.",
                exponential_buckets(0.000_05, 1.25, 52)?,
            )?,
            group_bytes: register.histogram(
                "group_bytes",
                "Size of a group.",
                exponential_buckets(256.0, 4.0, 10)?,
            )?,
            received: register.counters("received_total", "Messages received.", "kind")?,
            received_bytes: register.counters("received_bytes_total", "Bytes received.", "kind")?,
            sent: register.counters("sent_total", "Messages queued for a peer.", "kind")?,
            not_sent: register.counters(
                "not_sent_total",
                "Messages dropped because a link was down or its queue full.",
                "reason",
            )?,
            invalid: register.counters("invalid_total", "Invalid messages.", "kind")?,
            refused: register.counters(
                "refused_total",
                "Valid messages not admitted.",
                "reason",
            )?,
            served: register.counters("served_total", "Contents served to peers.", "result")?,
            fetches: register.counters("fetches_total", "Fetches of the host.", "outcome")?,
            certified: register.counter("certified_total", "Own batches that got a proof.")?,
            commits: register.counter("commits_total", "Commits applied and durable.")?,
            links_up: register.gauge("links_up", "Links that are up.")?,
            proofs: register.gauge("proofs", "Proofs that could be proposed.")?,
            pool_transactions: register
                .gauge("pool_transactions", "Transactions not batched yet.")?,
            outstanding_batches: register
                .gauge("outstanding_batches", "Own batches not ordered yet.")?,
            contents: register.gauge("contents", "Batches and payloads held.")?,
            applied: register.gauge("applied_index", "Highest commit applied.")?,
        })
    }

    pub fn written(&self, written: &Written) {
        if let Written::Durable { stats, batches, records, .. } = written {
            self.groups.inc();
            self.group_records.inc_by(*records);
            self.group_batches.inc_by(*batches);
            if *records > 0 {
                self.fsyncs.inc_by(stats.fsyncs);
                self.bytes_written.inc_by(stats.bytes);
                self.content_bytes.inc_by(stats.content_bytes);
                self.group_commit_seconds.observe(stats.elapsed.as_secs_f64());
                self.group_bytes.observe(stats.bytes as f64);
            }
        }
    }

    pub fn received(&self, kind: &str, bytes: usize) {
        self.received.with_label_values(&[kind]).inc();
        self.received_bytes.with_label_values(&[kind]).inc_by(bytes as u64);
    }

    pub fn sent(&self, kind: &str) {
        self.sent.with_label_values(&[kind]).inc();
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

    pub fn served(&self, found: bool) {
        self.served.with_label_values(&[if found { "found" } else { "missing" }]).inc();
    }

    pub fn fetched(&self, outcome: &str) {
        self.fetches.with_label_values(&[outcome]).inc();
    }

    pub fn observe(&self, status: &Status) {
        let gauge = |gauge: &IntGauge, value: u64| gauge.set(value.cast_signed());
        gauge(&self.proofs, status.proofs);
        gauge(&self.pool_transactions, status.pool_transactions);
        gauge(&self.outstanding_batches, status.outstanding_batches);
        gauge(&self.contents, status.contents);
        gauge(&self.applied, status.applied.0);
        let up = status.windows.iter().filter(|window| window.linked).count();
        gauge(&self.links_up, up as u64);
    }

    pub fn statistics(&self) -> Statistics {
        let synced = self.fsyncs.get().max(1);
        Statistics {
            groups: self.groups.get(),
            fsyncs: self.fsyncs.get(),
            batches_per_group_mean: self.group_batches.get() as f64 / synced as f64,
            group_commit_seconds_p50: quantile(&self.group_commit_seconds, 0.5),
            group_commit_seconds_p99: quantile(&self.group_commit_seconds, 0.99),
            bytes_written: self.bytes_written.get(),
            content_bytes: self.content_bytes.get(),
            certified: self.certified.get(),
            commits: self.commits.get(),
            fetch_requests: ["found", "timed_out", "busy"]
                .iter()
                .map(|outcome| self.fetches.with_label_values(&[*outcome]).get())
                .sum(),
            fetch_found: self.fetches.with_label_values(&["found"]).get(),
            fetch_timed_out: self.fetches.with_label_values(&["timed_out"]).get(),
            refused: by_label(&self.refused),
            invalid: by_label(&self.invalid),
        }
    }
}

/// Registers instruments under one prefix.
struct Register<'a>(&'a Registry);

impl Register<'_> {
    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let counter = IntCounter::new(format!("quorum_store_{name}"), help)?;
        self.0.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> Result<IntCounterVec, prometheus::Error> {
        let options = Opts::new(format!("quorum_store_{name}"), help);
        let counters = IntCounterVec::new(options, &[label])?;
        self.0.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let gauge = IntGauge::new(format!("quorum_store_{name}"), help)?;
        self.0.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> Result<Histogram, prometheus::Error> {
        let options = HistogramOpts::new(format!("quorum_store_{name}"), help).buckets(buckets);
        let histogram = Histogram::with_opts(options)?;
        self.0.register(Box::new(histogram.clone()))?;
        Ok(histogram)
    }
}

/// A quantile, interpolated inside its bucket; 0 while nothing was observed.
fn quantile(histogram: &Histogram, quantile: f64) -> f64 {
    use prometheus::core::Collector as _;
    let families = histogram.collect();
    let Some(metric) = families.first().and_then(|family| family.get_metric().first()) else {
        return 0.0;
    };
    let data = metric.get_histogram();
    if data.get_sample_count() == 0 {
        return 0.0;
    }
    let rank = quantile * data.get_sample_count() as f64;
    let (mut lower, mut below) = (0.0, 0_u64);
    for bucket in data.get_bucket() {
        let cumulative = bucket.cumulative_count();
        if cumulative as f64 >= rank && cumulative > below {
            let share = (rank - below as f64) / (cumulative - below) as f64;
            return lower + share * (bucket.upper_bound() - lower);
        }
        (lower, below) = (bucket.upper_bound(), cumulative);
    }
    lower
}

fn by_label(counters: &IntCounterVec) -> Vec<(String, u64)> {
    use prometheus::core::Collector as _;
    let families = counters.collect();
    let metrics = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric);
    metrics
        .map(|metric| {
            let label = metric.get_label().first().map(|pair| pair.value().to_owned());
            (label.unwrap_or_default(), count(metric.get_counter().get_value()))
        })
        .collect()
}

/// A counter's value: the library keeps whole numbers as floats.
#[allow(clippy::cast_sign_loss, reason = "a counter never falls below zero")]
fn count(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instrument_is_told_to_operators() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        // Families show once they have a label.
        metrics.received("x", 1);
        metrics.sent("x");
        metrics.not_sent("x", &SendError::Empty);
        metrics.invalid("x");
        metrics.refused("x");
        metrics.served(true);
        metrics.fetched("x");
        let families = registry.gather();
        assert_eq!(families.len(), 24);
        for family in families {
            let name = family.name().strip_prefix("quorum_store_").unwrap();
            let chapter = include_str!("../../docs/operators.md");
            assert!(chapter.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn quantiles_lie_in_the_right_bucket() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        assert!(quantile(&metrics.group_commit_seconds, 0.5).abs() < f64::EPSILON);
        for _ in 0..99 {
            metrics.group_commit_seconds.observe(0.001);
        }
        metrics.group_commit_seconds.observe(1.0);
        let median = quantile(&metrics.group_commit_seconds, 0.5);
        assert!((0.0007..0.0014).contains(&median), "{median}");
        let last = quantile(&metrics.group_commit_seconds, 0.999);
        assert!(last > 0.7, "{last}");
    }
}
