//! `RocksDB`, as the system that this crate replaces uses it, and as well as we know how to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use quorum_store::store::rocks::{RocksConfig, RocksStore};

use super::closed_loop::{Job, Measured, closed_loop, committing, durable, identity};

/// One synced group per write, with the options that serve it best.
pub fn grouped(job: &Job<'_>) -> Measured {
    let config = RocksConfig { write_buffer_bytes: 256 << 20, ..RocksConfig::default() };
    let path = job.directory.join("store");
    durable(committing(RocksStore::create(&path, identity(), &config).unwrap()), job)
}

/// What is being replaced: default options, no sync, one put per batch, key = digest.
pub fn unsynced(job: &Job<'_>) -> Measured {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    let db = rocksdb::DB::open(&options, job.directory.join("unsynced")).unwrap();
    closed_loop(job, |_, counter| {
        let key = blake3::hash(&counter.to_le_bytes());
        db.put(key.as_bytes(), job.body(counter)).unwrap();
    })
}
