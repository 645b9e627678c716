//! What is proposed here and what commits order: how full payloads are, whose batches they hold, and
//! how long those waited.

use prometheus::{Histogram, IntCounterVec, Registry, exponential_buckets};

use super::instruments::Register;
use super::links::label;
use crate::sequencer::port::Measurement;
use crate::types::Author;

pub(in crate::engine) struct Proposing {
    batches: Histogram,
    transactions: Histogram,
    bytes: Histogram,
    age_seconds: Histogram,
    proof_wait_seconds: Histogram,
    proposed: IntCounterVec,
    ordered: IntCounterVec,
    ordered_transactions: IntCounterVec,
}

impl Proposing {
    /// `authors`: validators that are known from the start.
    pub fn new(
        registry: &Registry,
        authors: impl Iterator<Item = Author>,
    ) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        let by_author = |name, help| make.counters_by(name, help, &["author"]);
        let metrics = Self {
            batches: make.histogram(
                "payload_batches",
                "Batches in an own payload that orders any.",
                exponential_buckets(1.0, 2.0, 14)?,
            )?,
            transactions: make.histogram(
                "payload_transactions",
                "Transactions in an own payload that orders any.",
                exponential_buckets(1.0, 2.0, 18)?,
            )?,
            bytes: make.histogram(
                "payload_bytes",
                "Bytes of the batches in an own payload that orders any.",
                exponential_buckets(1024.0, 2.0, 18)?,
            )?,
            age_seconds: make.histogram(
                "proposed_batch_age_seconds",
                "From the arrival here of a batch, or of its proof, to the own payload it is in.",
                exponential_buckets(0.001, 1.5, 26)?,
            )?,
            proof_wait_seconds: make.histogram(
                "proposed_proof_wait_seconds",
                "From the arrival here of a proof to the own payload it is in.",
                exponential_buckets(0.001, 1.5, 26)?,
            )?,
            proposed: by_author("proposed_batches_total", "Batches in own payloads, by author.")?,
            ordered: by_author(
                "ordered_batches_total",
                "Batches that commits ordered, by author.",
            )?,
            ordered_transactions: by_author(
                "ordered_transactions_total",
                "Transactions in batches that commits ordered, by author.",
            )?,
        };
        for author in authors.map(|author| label(&author)) {
            for counters in [&metrics.proposed, &metrics.ordered, &metrics.ordered_transactions] {
                counters.with_label_values(&[&author]);
            }
        }
        Ok(metrics)
    }

    /// The sequencer measured something.
    pub fn measured(&self, measurement: Measurement) {
        match measurement {
            Measurement::Proposed { batches, transactions, bytes } => {
                self.batches.observe(batches as f64);
                self.transactions.observe(transactions as f64);
                self.bytes.observe(bytes as f64);
            }
            Measurement::ProposedBatch { author, age, proven } => {
                self.proposed.with_label_values(&[&label(&author)]).inc();
                self.age_seconds.observe(age.as_secs_f64());
                if let Some(proven) = proven {
                    self.proof_wait_seconds.observe(proven.as_secs_f64());
                }
            }
            Measurement::OrderedOf { author, batches, transactions } => {
                let author = label(&author);
                self.ordered.with_label_values(&[&author]).inc_by(batches);
                self.ordered_transactions.with_label_values(&[&author]).inc_by(transactions);
            }
            _ => {}
        }
    }
}
