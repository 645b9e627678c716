//! The job of `group_commit`, done by what others have built: batches made durable, with 1, 8 and 32 in
//! flight, and the oldest deleted once 512 MB are live.
//!
//! | way | what it is |
//! |---|---|
//! | `unsynced_default` | `RocksDB` as the system that this crate replaces uses it: **not durable** (feature `rocksdb`) |
//! | `rocksdb` | `RocksDB` with one synced write per group (feature `rocksdb`) |
//! | `raft_engine` | the append-only log of `TiKV`, whose own write groups merge concurrent writers |
//! | `fjall` | a store of sorted runs, values apart from keys, one synced batch per group |
//! | `journal` | the store of this crate |
//!
//! Each is set up to do this job well: nothing is compressed, what does not compress being sent; raft-engine
//! recycles its files; fjall takes bodies without a copy and gets the groups of our own writer. All of
//! them give a body back by its key, and know from a checksum what a crash has torn.
//!
//! raft-engine can also fill its files beforehand. It is then up to a fifth faster with 32 in flight, but the
//! kernel counts whole folios of the page cache as written where a part of them was, and what is written
//! for a byte could not be told.
//!
//! The ways run interleaved in one process, on fresh directories, and the table has their medians.
//! Ratios are to the first row. The environment is that of `group_commit`: `ROUNDS` (default 3), `ROUND_MS`
//! (3000), `WARM_MS` (1000, and until 640 MB are written, but at most four times that); `SIZE`, `IN_FLIGHT` and `WAY` pick.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::sync::Mutex;

use closed_loop::{Job, LIVE_BYTES, Measured, Way, closed_loop, durable, journal, table};
use fjall::config::CompressionPolicy;
use fjall::{Database, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use protobuf::well_known_types::BytesValue;
use quorum_store::sequencer::port::Record;
use quorum_store::types::{Digest, Timestamp};
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

#[path = "../../support/closed_loop.rs"]
mod closed_loop;
#[path = "../../support/measure.rs"]
mod measure;
#[cfg(feature = "rocksdb")]
#[path = "../../support/rocks.rs"]
mod rocks;

/// Batches between two deletions of one client.
const DELETED_AT_ONCE: u64 = 64;

/// An entry begins with its index.
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().copied().map_or(0, u64::from_le_bytes)
    }
}

/// Each client is a region, as in a store of many groups: writers meet in the engine's own queue.
fn raft(job: &Job<'_>) -> Measured {
    let config = Config {
        dir: job.directory.join("raft-engine").to_string_lossy().into_owned(),
        batch_compression_threshold: ReadableSize(0),
        purge_threshold: ReadableSize(2 * LIVE_BYTES as u64),
        enable_log_recycle: true,
        ..Config::default()
    };
    let engine = Engine::open(config).unwrap();
    let live = (LIVE_BYTES / job.size / job.clients) as u64;
    let last: Vec<Mutex<u64>> = (0..job.clients).map(|_| Mutex::default()).collect();
    closed_loop(job, |client, counter| {
        let region = client as u64 + 1;
        let mut last = last[client].lock().unwrap();
        *last += 1;
        let mut value = job.body(counter).to_vec();
        value[..8].copy_from_slice(&last.to_le_bytes());
        let mut entry = BytesValue::new();
        entry.set_value(value);
        let mut batch = LogBatch::default();
        batch.add_entries::<Entries>(region, &[entry]).unwrap();
        engine.write(&mut batch, true).unwrap();
        if last.is_multiple_of(DELETED_AT_ONCE) && *last > live {
            engine.compact_to(region, *last - live);
            if client == 0 {
                engine.purge_expired_files().unwrap();
            }
        }
    })
}

/// In the order of expiry, which costs least to merge.
fn key(expiration: Timestamp, digest: &Digest) -> [u8; 40] {
    let mut key = [0; 40];
    key[..8].copy_from_slice(&expiration.0.to_be_bytes());
    key[8..].copy_from_slice(&digest.0);
    key
}

fn fjall(job: &Job<'_>) -> Measured {
    let database = Database::builder(job.directory.join("fjall")).open().unwrap();
    let options = || {
        let options = KeyspaceCreateOptions::default();
        let apart = KvSeparationOptions::default();
        options
            .data_block_compression_policy(CompressionPolicy::disabled())
            .with_kv_separation(Some(apart))
    };
    let batches = database.keyspace("batches", options).unwrap();
    let commit = move |records: &[Record]| {
        let mut group = database.batch().durability(Some(PersistMode::SyncData));
        for record in records {
            match record {
                Record::Batch(batch) => {
                    let key = key(batch.info.expiration, &batch.digest);
                    group.insert(&batches, key, batch.body.clone());
                }
                Record::DropBatch { digest, expiration } => {
                    group.remove(&batches, key(*expiration, digest));
                }
                _ => {}
            }
        }
        group.commit().unwrap();
    };
    durable(commit, job)
}

const WAYS: &[(&str, Way)] = &[
    #[cfg(feature = "rocksdb")]
    ("unsynced_default", rocks::unsynced),
    #[cfg(feature = "rocksdb")]
    ("rocksdb", rocks::grouped),
    ("raft_engine", raft),
    ("fjall", fjall),
    ("journal", journal),
];

fn main() {
    table(WAYS, &measure::noise());
}
