//! Batches without a proof: proposed, waited for, ordered; and how careful failures have made us.

use prometheus::{Histogram, IntCounterVec, IntGauge, Registry, exponential_buckets};

use super::instruments::{Register, set};
use crate::sequencer::port::Measurement;
use crate::sequencer::status::Status;

const KINDS: [&str; 2] = ["optimistic", "inline"];

pub(in crate::engine) struct Optimism {
    proposed: IntCounterVec,
    ordered: IntCounterVec,
    wait_seconds: Histogram,
    waiting: IntGauge,
    unproven: IntGauge,
    pause: IntGauge,
    blamed: IntGauge,
}

impl Optimism {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        Ok(Self {
            proposed: make.counters(
                "unproven_proposed_total",
                "Batches in own payloads without a proof, by kind.",
                "kind",
                &KINDS,
            )?,
            ordered: make.counters(
                "unproven_ordered_total",
                "Batches that commits ordered without a proof, by kind.",
                "kind",
                &KINDS,
            )?,
            wait_seconds: make.histogram(
                "optimistic_wait_seconds",
                "Time that votes waited for optimistic batches, of those that did.",
                exponential_buckets(0.001, 2.0, 14)?,
            )?,
            waiting: make
                .gauge("optimistic_waits", "Payloads whose votes wait for optimistic batches.")?,
            unproven: make
                .gauge("unproven_batches", "Batches old enough to be proposed without a proof.")?,
            pause: make.gauge(
                "optimistic_pause_blocks",
                "Blocks without optimistic batches that are left after a failed proposal.",
            )?,
            blamed: make.gauge(
                "optimistic_blamed_authors",
                "Authors whose batches are not proposed without a proof for a while.",
            )?,
        })
    }

    /// The sequencer measured something.
    pub fn measured(&self, measurement: Measurement) {
        match measurement {
            Measurement::ProposedUnproven { optimistic, inline } => {
                count(&self.proposed, optimistic, inline);
            }
            Measurement::OrderedUnproven { optimistic, inline } => {
                count(&self.ordered, optimistic, inline);
            }
            Measurement::OptimisticWait(elapsed) => {
                self.wait_seconds.observe(elapsed.as_secs_f64());
            }
            _ => {}
        }
    }

    pub fn observe(&self, status: &Status) {
        set(&self.waiting, status.ballots);
        set(&self.unproven, status.unproven);
        set(&self.pause, status.optimistic_pause);
        set(&self.blamed, status.optimistic_blamed);
    }
}

fn count(counters: &IntCounterVec, optimistic: u64, inline: u64) {
    for (kind, batches) in KINDS.iter().zip([optimistic, inline]) {
        counters.with_label_values(&[kind]).inc_by(batches);
    }
}
