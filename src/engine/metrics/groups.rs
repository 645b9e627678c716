//! The writer: groups, fsyncs, bytes, and what retention had deleted.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry, exponential_buckets};

use super::instruments::Register;
use crate::engine::writer::Written;

pub(in crate::engine) struct Groups {
    pub(super) count: IntCounter,
    pub(super) fsyncs: IntCounter,
    records: IntCounter,
    pub(super) batches: IntCounter,
    pub(super) bytes_written: IntCounter,
    pub(super) content_bytes: IntCounter,
    deleted: IntCounterVec,
    pub(super) commit_seconds: Histogram,
    pub(super) size_bytes: Histogram,
    size_records: Histogram,
    pub(super) size_batches: Histogram,
    failed: IntGauge,
}

impl Groups {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        let sizes = || exponential_buckets(1.0, 2.0, 13);
        Ok(Self {
            count: make.counter("groups_total", "Groups made durable.")?,
            fsyncs: make.counter("fsyncs_total", "Fsyncs issued by the store.")?,
            records: make.counter("group_records_total", "Records made durable in groups.")?,
            batches: make.counter("group_batches_total", "Batches made durable in groups.")?,
            bytes_written: make
                .counter("store_written_bytes_total", "Bytes handed to the storage.")?,
            content_bytes: make
                .counter("store_content_bytes_total", "Bytes of batch bodies and payloads.")?,
            deleted: make.counters(
                "deleted_total",
                "Contents deleted once their time was over, by kind.",
                "kind",
                &["batch", "payload"],
            )?,
            commit_seconds: make.histogram(
                "group_commit_seconds",
                "Time to make a group durable, its fsync included.",
                exponential_buckets(0.000_05, 1.25, 52)?,
            )?,
            size_bytes: make.histogram(
                "group_bytes",
                "Size of a group.",
                exponential_buckets(256.0, 2.0, 20)?,
            )?,
            size_records: make.histogram("group_records", "Records in a group.", sizes()?)?,
            size_batches: make.histogram("group_batches", "Batches in a group.", sizes()?)?,
            failed: make
                .gauge("store_failed", "1 once the store failed: nothing is signed any more.")?,
        })
    }

    /// A group was written, or could not be.
    pub fn written(&self, written: &Written) {
        let Written::Durable { stats, contents, .. } = written else {
            self.failed.set(1);
            return;
        };
        self.count.inc();
        if contents.records == 0 {
            return;
        }
        self.records.inc_by(contents.records);
        self.batches.inc_by(contents.batches);
        self.fsyncs.inc_by(stats.fsyncs);
        self.bytes_written.inc_by(stats.bytes);
        self.content_bytes.inc_by(stats.content_bytes);
        self.deleted.with_label_values(&["batch"]).inc_by(contents.deleted_batches);
        self.deleted.with_label_values(&["payload"]).inc_by(contents.deleted_payloads);
        self.commit_seconds.observe(stats.elapsed.as_secs_f64());
        self.size_bytes.observe(stats.bytes as f64);
        self.size_records.observe(contents.records as f64);
        self.size_batches.observe(contents.batches as f64);
    }
}
