//! Where the sequencer stands: pool, proofs, commits, cursors, back-pressure, disk.

use prometheus::{Gauge, Histogram, IntGauge, IntGaugeVec, Registry, exponential_buckets};

use super::instruments::{Register, set};
use crate::sequencer::port::{BusyReason, Measurement};
use crate::sequencer::status::Status;
use crate::store::Space;
use crate::types::{CommitReceipt, Component};

/// What may hold admission back: the label.
const BUSY: [(&str, BusyReason); 6] = [
    ("pool", BusyReason::Pool),
    ("commits", BusyReason::Commits),
    ("windows", BusyReason::Windows),
    ("disk", BusyReason::Disk),
    ("votes", BusyReason::Votes),
    ("disk_lag", BusyReason::DiskLag),
];

/// How long each queue of the driver is.
pub(in crate::engine) struct Queued {
    pub control: usize,
    pub bulk: usize,
    pub loopback: usize,
}

pub(in crate::engine) struct State {
    batch_transactions: Histogram,
    batch_bytes: Histogram,
    certification_seconds: Histogram,
    ordering_seconds: Histogram,
    pool_transactions: IntGauge,
    pool_bytes: IntGauge,
    uncertified_batches: IntGauge,
    outstanding_batches: IntGauge,
    outstanding_bytes: IntGauge,
    proofs: IntGauge,
    contents: IntGauge,
    open_payloads: IntGauge,
    fetches_open: IntGauge,
    consensus_time: Gauge,
    logged: IntGauge,
    applied: IntGauge,
    lag: IntGauge,
    watermarks: IntGaugeVec,
    busy: IntGaugeVec,
    inbox: IntGaugeVec,
    disk_free: IntGauge,
    disk_reserve: IntGauge,
    live_bytes: IntGauge,
    /// Of the last start.
    pub recovery_seconds: Gauge,
}

impl State {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        let seconds = || exponential_buckets(0.001, 1.5, 26);
        let state = Self {
            batch_transactions: make.histogram(
                "batch_transactions",
                "Transactions in an own batch when it is sealed.",
                exponential_buckets(1.0, 2.0, 15)?,
            )?,
            batch_bytes: make.histogram(
                "batch_bytes",
                "Size of an own batch when it is sealed.",
                exponential_buckets(256.0, 2.0, 16)?,
            )?,
            certification_seconds: make.histogram(
                "batch_certification_seconds",
                "From sealing an own batch to its proof.",
                seconds()?,
            )?,
            ordering_seconds: make.histogram(
                "batch_ordering_seconds",
                "From sealing an own batch to the commit that orders it.",
                seconds()?,
            )?,
            pool_transactions: make.gauge("pool_transactions", "Transactions not batched yet.")?,
            pool_bytes: make.gauge("pool_bytes", "Bytes of transactions not batched yet.")?,
            uncertified_batches: make.gauge("uncertified_batches", "Own batches without proof.")?,
            outstanding_batches: make.gauge("outstanding_batches", "Own batches not ordered.")?,
            outstanding_bytes: make
                .gauge("outstanding_bytes", "Bytes of own batches not ordered.")?,
            proofs: make.gauge("proofs", "Proofs that could be proposed.")?,
            contents: make.gauge("contents", "Batches and payloads held.")?,
            open_payloads: make.gauge("open_payloads", "Payloads stored and not ordered.")?,
            fetches_open: make.gauge("fetches_open", "Contents being fetched.")?,
            consensus_time: make.real(
                "consensus_time_seconds",
                "The largest committed block timestamp, seconds since the Unix epoch.",
            )?,
            logged: make.gauge("logged_index", "Highest commit logged.")?,
            applied: make.gauge("applied_index", "Highest commit applied.")?,
            lag: make.gauge("commit_lag", "Commits logged and not applied.")?,
            watermarks: make.gauges(
                "component_watermark",
                "Highest commit acknowledged by each component, durably.",
                &["component"],
            )?,
            busy: make.gauges("busy", "1 while this holds admission back.", &["reason"])?,
            inbox: make.gauges("inbox_entries", "Inputs that wait, by queue.", &["queue"])?,
            disk_free: make.gauge("disk_free_bytes", "Bytes free on the file system.")?,
            disk_reserve: make
                .gauge("disk_reserve_bytes", "Free bytes below which no batch is admitted.")?,
            live_bytes: make.gauge("store_live_bytes", "Bytes of content held on disk.")?,
            recovery_seconds: make
                .real("recovery_seconds", "Time that the last start took to recover.")?,
        };
        for component in Component::ALL {
            state.watermarks.with_label_values(&[component.name()]);
        }
        Ok(state)
    }

    /// The sequencer measured something.
    pub fn measured(&self, measurement: Measurement) {
        match measurement {
            Measurement::Sealed { transactions, bytes } => {
                self.batch_transactions.observe(f64::from(transactions));
                self.batch_bytes.observe(f64::from(bytes));
            }
            Measurement::Certified(elapsed) => {
                self.certification_seconds.observe(elapsed.as_secs_f64());
            }
            Measurement::Ordered(elapsed) => self.ordering_seconds.observe(elapsed.as_secs_f64()),
            _ => {}
        }
    }

    /// The host got a receipt.
    pub fn committed(&self, receipt: &CommitReceipt) {
        for ack in &receipt.acks {
            let watermark = self.watermarks.with_label_values(&[ack.component.name()]);
            // A repeated notification gets the old receipt again.
            watermark.set(watermark.get().max(ack.watermark.0.cast_signed()));
        }
    }

    pub fn observe(&self, status: &Status, queued: &Queued) {
        set(&self.pool_transactions, status.pool_transactions);
        set(&self.pool_bytes, status.pool_bytes);
        set(&self.uncertified_batches, status.uncertified_batches);
        set(&self.outstanding_batches, status.outstanding_batches);
        set(&self.outstanding_bytes, status.outstanding_bytes);
        set(&self.proofs, status.proofs);
        set(&self.contents, status.contents);
        set(&self.open_payloads, status.open_payloads);
        set(&self.fetches_open, status.fetches);
        self.consensus_time.set(status.consensus_time.0 as f64 / 1e6);
        set(&self.logged, status.logged.0);
        set(&self.applied, status.applied.0);
        set(&self.lag, status.logged.0.saturating_sub(status.applied.0));
        for (label, reason) in BUSY {
            let busy = status.pressure.reasons.contains(reason);
            self.busy.with_label_values(&[label]).set(i64::from(busy));
        }
        let lengths =
            [("control", queued.control), ("bulk", queued.bulk), ("loopback", queued.loopback)];
        for (queue, entries) in lengths {
            set(&self.inbox.with_label_values(&[queue]), entries as u64);
        }
    }

    pub fn observe_space(&self, space: Space, reserve: u64) {
        set(&self.disk_free, space.free_bytes);
        set(&self.disk_reserve, reserve);
        set(&self.live_bytes, space.content_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::BUSY;
    use crate::sequencer::port::BusyReason;

    #[test]
    fn every_reason_of_the_sequencer_has_its_label() {
        assert_eq!(BUSY.map(|(_, reason)| reason), BusyReason::ALL);
    }
}
