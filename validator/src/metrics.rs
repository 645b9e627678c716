//! The validator's own metrics, in the registry that the library fills too.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Counter, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::executor::{BlockOutcome, Progress};
use crate::exit::Failure;

/// Upper bounds of the buckets of execution times, in seconds.
const EXECUTION_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// Why transactions are refused, as far as it matters to operators.
const REFUSALS: &[&str] =
    &["commits lag", "disk nearly full", "ingress", "pool full", "tracker", "windows spent"];
const OUTCOMES: [&str; 4] = ["executed", "expired", "duplicate", "malformed"];

/// Values that are looked at when somebody asks for metrics, not when they change.
#[derive(Debug)]
pub struct LookedAt {
    /// 1 while the validator is ready.
    pub ready: IntGauge,
    /// 1 while links to a quorum are up.
    pub reaches_quorum: IntGauge,
    /// 1 while execution waits for content.
    pub waiting: IntGauge,
    /// Of the process.
    pub resident: IntGauge,
    consensus_fsyncs: IntCounter,
    cpu_seconds: Counter,
    /// Two that ask at once must not add the same difference twice.
    raising: Mutex<()>,
}

impl LookedAt {
    /// Brings counters up to totals that are counted elsewhere.
    pub fn raise(&self, consensus_fsyncs: u64, cpu_seconds: f64) {
        let _alone = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        let fsyncs = consensus_fsyncs.saturating_sub(self.consensus_fsyncs.get());
        self.consensus_fsyncs.inc_by(fsyncs);
        self.cpu_seconds.inc_by((cpu_seconds - self.cpu_seconds.get()).max(0.0));
    }
}

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
    /// What is looked at when somebody asks for metrics.
    pub looked_at: LookedAt,
    /// Snapshots handed to other validators.
    pub snapshots_served: IntCounter,
    states_taken_over: IntCounter,
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
        let real = |name: &str, help: &str| -> Result<Counter, prometheus::Error> {
            let counter = Counter::with_opts(Opts::new(full(name), help))?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
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
                looked_at: LookedAt {
                    ready: gauge("ready", "1 while it takes part and takes transactions")?,
                    reaches_quorum: gauge("reaches_quorum", "1 while it reaches a quorum")?,
                    waiting: gauge("execution_waiting", "1 while execution waits for content")?,
                    consensus_fsyncs: counter(
                        "consensus_fsyncs_total",
                        "Fsyncs of the ordering engine's journals",
                    )?,
                    cpu_seconds: real(
                        "process_cpu_seconds_total",
                        "Processor time of the process",
                    )?,
                    raising: Mutex::new(()),
                    resident: gauge("process_resident_bytes", "Resident memory")?,
                },
                snapshots_served: counter(
                    "snapshots_served_total",
                    "Snapshots of the state handed to other validators",
                )?,
                states_taken_over: counter(
                    "states_taken_over_total",
                    "How often the state of other validators was taken over",
                )?,
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
        let metrics = || {
            metrics().inspect(|metrics: &Self| {
                // There as zero from the start, so that rates have something to rise from.
                for reason in REFUSALS {
                    metrics.refused.with_label_values(&[*reason]);
                }
                for outcome in OUTCOMES {
                    metrics.outcomes.with_label_values(&[outcome]);
                }
            })
        };
        metrics().map_err(failed)
    }

    /// A block was executed.
    pub fn executed(&self, outcome: &BlockOutcome, progress: &Progress, elapsed: Duration) {
        self.blocks.inc();
        self.height.set(i64::try_from(progress.height()).unwrap_or(i64::MAX));
        self.execution_seconds.observe(elapsed.as_secs_f64());
        let counts = [
            outcome.executed.len() as u64,
            outcome.expired.len() as u64,
            outcome.duplicates,
            outcome.malformed,
        ];
        for (name, count) in OUTCOMES.into_iter().zip(counts) {
            self.outcomes.with_label_values(&[name]).inc_by(count);
        }
    }

    /// The state of others was taken over.
    pub fn state_taken_over(&self, progress: &Progress) {
        self.states_taken_over.inc();
        self.height.set(i64::try_from(progress.height()).unwrap_or(i64::MAX));
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
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

fn full(name: &str) -> String {
    format!("quorum_store_validator_{name}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn exactly_the_listed_metrics_are_there_from_the_start() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards/metrics.txt");
        let text = std::fs::read_to_string(path).unwrap();
        let own = text.lines().filter(|line| line.starts_with("quorum_store_validator_"));
        let listed: BTreeMap<String, (String, String)> = own
            .map(|line| {
                let fields: Vec<&str> = line.split('|').map(str::trim).collect();
                (fields[0].to_owned(), (fields[1].to_owned(), fields[3].to_owned()))
            })
            .collect();
        let registry = Registry::new();
        let _metrics = Metrics::register(&registry).unwrap();
        let found: BTreeMap<String, (String, String)> = registry
            .gather()
            .iter()
            .map(|family| {
                let kind = format!("{:?}", family.get_field_type()).to_lowercase();
                (family.name().to_owned(), (kind, family.help().to_owned()))
            })
            .collect();
        assert_eq!(found, listed);
    }
}
