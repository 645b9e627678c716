//! Pulling from the host's source: how often, what came, and what is in progress.

use std::time::Instant;

use prometheus::{Histogram, IntCounterVec, IntGauge, Registry, exponential_buckets};

use super::host::{RESULTS, result_index};
use super::instruments::{Register, set};
use crate::sequencer::port::{Measurement, ReleaseReason, SubmitError, TransactionKey};
use crate::sequencer::status::Status;

pub(in crate::engine) struct Source {
    pulls: IntCounterVec,
    pull_seconds: Histogram,
    transactions: IntCounterVec,
    refused: IntCounterVec,
    in_progress: IntGauge,
    released: IntCounterVec,
}

impl Source {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        let reasons = ReleaseReason::ALL.map(ReleaseReason::name);
        Ok(Self {
            pulls: make.counters(
                "source_pulls_total",
                "Times that the host's source was asked for transactions, by outcome.",
                "outcome",
                &["found", "empty", "late", "panicked"],
            )?,
            pull_seconds: make.histogram(
                "source_pull_seconds",
                "Time that the host's source takes to answer.",
                exponential_buckets(0.000_01, 2.0, 18)?,
            )?,
            transactions: make.counters(
                "source_transactions_total",
                "Transactions that the host's source gave, by what became of them.",
                "result",
                &["taken", "left"],
            )?,
            refused: make.counters(
                "source_refused_total",
                "Transactions of the host's source that can never be batched, by reason.",
                "reason",
                &["empty", "too_large", "expired", "filtered"],
            )?,
            in_progress: make.gauge(
                "in_progress_transactions",
                "Transactions that are not pulled: batched here, or seen in batches of others.",
            )?,
            released: make.counters(
                "in_progress_released_total",
                "Transactions that a batch held and holds no more, by reason.",
                "reason",
                &reasons,
            )?,
        })
    }

    /// The source was asked.
    pub fn pulled(&self, outcome: &str, began: Instant) {
        self.pulls.with_label_values(&[outcome]).inc();
        self.pull_seconds.observe(began.elapsed().as_secs_f64());
    }

    /// The source is told what can never be batched.
    pub fn refused(&self, refused: &[(TransactionKey, SubmitError)]) {
        for (_, error) in refused {
            self.refused.with_label_values(&[RESULTS[result_index(&Err(*error))]]).inc();
        }
    }

    /// The sequencer measured something.
    pub fn measured(&self, measurement: Measurement) {
        match measurement {
            Measurement::Pulled { transactions, refused } => {
                self.transactions.with_label_values(&["taken"]).inc_by(transactions);
                self.transactions.with_label_values(&["left"]).inc_by(refused);
            }
            Measurement::Released { reason, transactions } => {
                self.released.with_label_values(&[reason.name()]).inc_by(transactions);
            }
            _ => {}
        }
    }

    pub fn observe(&self, status: &Status) {
        set(&self.in_progress, status.in_progress);
    }
}
