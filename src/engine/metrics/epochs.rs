//! Epochs: which one is served, how long it takes to end one, and who was late.

use std::time::Instant;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry, exponential_buckets};

use super::instruments::{Register, set};
use crate::sequencer::port::CloseError;
use crate::sequencer::status::Status;
use crate::types::EpochReceipt;

const LATE: [&str; 2] = ["ordering", "payload"];

pub(in crate::engine) struct Epochs {
    epoch: IntGauge,
    open: IntGauge,
    served: IntGauge,
    close_seconds: Histogram,
    late: IntCounterVec,
    handed_over: IntCounter,
    behind: IntGauge,
}

impl Epochs {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        Ok(Self {
            epoch: make.gauge("epoch", "The epoch that is served.")?,
            open: make.gauge("epoch_open", "1 while transactions and batches are taken for it.")?,
            served: make.gauge("former_epochs_served", "Epochs that are over and still served.")?,
            close_seconds: make.histogram(
                "close_seconds",
                "From the call that ends an epoch to its last commit applied and durable.",
                exponential_buckets(0.001, 2.0, 18)?,
            )?,
            late: make.counters(
                "close_late_total",
                "Deadlines of ending an epoch that passed, by who was late.",
                "straggler",
                &LATE,
            )?,
            handed_over: make.counter(
                "handed_over_transactions_total",
                "Transactions in no commit of their epoch, offered again in the next one.",
            )?,
            behind: make.gauge(
                "close_subscribers_behind",
                "Subscribers that had not acknowledged the last commit when its epoch ended.",
            )?,
        })
    }

    /// A call that ends an epoch was answered.
    pub fn closed(&self, began: Instant, result: &Result<EpochReceipt, CloseError>) {
        match result {
            Ok(receipt) => {
                self.close_seconds.observe(began.elapsed().as_secs_f64());
                self.handed_over.inc_by(receipt.handed_over_transactions);
                set(&self.behind, receipt.behind.len() as u64);
            }
            Err(CloseError::Late { missing, .. }) => {
                let straggler = LATE[usize::from(missing.is_some())];
                self.late.with_label_values(&[straggler]).inc();
            }
            Err(_) => {}
        }
    }

    pub fn observe(&self, status: &Status) {
        set(&self.epoch, status.epoch.0);
        set(&self.open, u64::from(status.epoch_phase == "open"));
        set(&self.served, status.epochs_served.len() as u64);
    }
}
