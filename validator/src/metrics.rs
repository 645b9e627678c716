//! The validator's own metrics, in the registry that the library fills too.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::executor::{BlockOutcome, Progress};
use crate::exit::Failure;

/// Upper bounds of the buckets of execution times, in seconds.
const EXECUTION_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// The metrics.
#[derive(Debug)]
pub struct Metrics {
    /// Transactions of clients that were accepted.
    pub accepted: IntCounter,
    /// Transactions of clients that were known already.
    pub known: IntCounter,
    /// Transactions of clients that were refused, by reason.
    pub refused: IntCounterVec,
    /// Transactions of clients that are followed.
    pub tracked: IntGauge,
    /// Newest finalised view.
    pub view: IntGauge,
    blocks: IntCounter,
    outcomes: IntCounterVec,
    height: IntGauge,
    execution_seconds: Histogram,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, Failure> {
        let failed = |error: prometheus::Error| Failure::other(format!("metrics: {error}"));
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::with_opts(Opts::new(full(name), help))?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(full(name), help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::with_opts(Opts::new(full(name), help))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let histogram = || {
            let options = HistogramOpts::new(
                full("block_execution_seconds"),
                "Time to execute a block, with its sync",
            );
            let histogram = Histogram::with_opts(options.buckets(EXECUTION_BUCKETS.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let metrics = || {
            Ok(Self {
                accepted: counter("transactions_accepted_total", "Transactions accepted")?,
                known: counter("transactions_known_total", "Transactions accepted before")?,
                refused: counters("transactions_refused_total", "Refused, by reason", "reason")?,
                tracked: gauge("transactions_tracked", "Transactions that are followed")?,
                view: gauge("finalized_view", "Newest finalised view")?,
                blocks: counter("blocks_executed_total", "Blocks executed")?,
                outcomes: counters(
                    "transactions_executed_total",
                    "What execution did with transactions, by outcome",
                    "outcome",
                )?,
                height: gauge("height", "Height of the last executed block")?,
                execution_seconds: histogram()?,
            })
        };
        metrics().map_err(failed)
    }

    /// A block was executed.
    pub fn executed(&self, outcome: &BlockOutcome, progress: &Progress, elapsed: Duration) {
        self.blocks.inc();
        self.height.set(i64::try_from(progress.height()).unwrap_or(i64::MAX));
        self.execution_seconds.observe(elapsed.as_secs_f64());
        for (name, count) in [
            ("executed", outcome.executed.len() as u64),
            ("expired", outcome.expired.len() as u64),
            ("duplicate", outcome.duplicates),
            ("malformed", outcome.malformed),
        ] {
            self.outcomes.with_label_values(&[name]).inc_by(count);
        }
    }

    /// How many transactions were refused, by reason.
    #[allow(clippy::cast_sign_loss, reason = "a counter is never negative")]
    pub fn refused_by_reason(&self) -> std::collections::BTreeMap<String, u64> {
        use prometheus::core::Collector as _;
        let families = self.refused.collect();
        let samples = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric);
        samples
            .filter_map(|sample| {
                let label = sample.get_label().first()?.value().to_owned();
                Some((label, sample.get_counter().get_value() as u64))
            })
            .collect()
    }
}

fn full(name: &str) -> String {
    format!("quorum_store_validator_{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instrument_is_told_to_operators() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        // Families show once they have a label.
        metrics.refused.with_label_values(&["x"]).inc();
        metrics.outcomes.with_label_values(&["x"]).inc();
        let families = registry.gather();
        assert_eq!(families.len(), 9);
        for family in families {
            let name = family.name().strip_prefix("quorum_store_").unwrap();
            let chapter = include_str!("../../docs/operators.md");
            assert!(chapter.contains(&format!("`{name}`")), "{name}");
        }
    }
}
