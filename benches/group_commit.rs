//! Making batches durable: one synced group per write, in the journal and in `RocksDB`, against
//! `RocksDB` as the system that this crate replaces uses it (default options, one unsynced put per
//! batch, key = digest).
//!
//! Ours delete what was written 512 MB ago with each group, as a validator does; what is being
//! replaced deletes nothing here, which is kind to it. Processor time and bytes written are those
//! of the whole process, background threads included.
//!
//! Beside them, `bare` writes as many bytes past the page cache to a file that was written before, and
//! syncs it: what the disk itself takes. The time of a group commit is that of the call alone.
//!
//! Closed loop: each of N clients waits for its acknowledgement before it sends the next batch.
//! The ways run interleaved in one process, round after round on fresh directories, and the
//! table at the end compares their medians. Each round warms up until 640 MB are written, so that
//! flushes, compactions and recycled segments are part of what is measured (for at least `WARM_MS`,
//! default 1000, and at most four times that), and is then measured for `ROUND_MS` (default 3000;
//! `ROUNDS`, default 3). `SIZE`, `IN_FLIGHT` and `WAY` pick (`1,32`). Filters of criterion apply to the
//! per-operation timings only. `benches/peers` does the same job with the logs and stores of others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use aligned_vec::{AVec, ConstAlign};
use closed_loop::{
    GROUP_BYTES_MAX, Job, LIVE_BYTES, Measured, SIZES, Way, durable, journal, once, table,
};
use criterion::{Criterion, Throughput};
use measure::{in_earnest, noise};
use quorum_store::sequencer::port::Record;
use rocks::{grouped, unsynced};
use rustix::fs::{Mode, OFlags};

#[path = "support/closed_loop.rs"]
mod closed_loop;
#[path = "support/measure.rs"]
mod measure;
#[path = "support/rocks.rs"]
mod rocks;

const BLOCK: usize = 4096;

/// What the disk takes: no store at all.
fn bare(job: &Job<'_>) -> Measured {
    let path = job.directory.join("bare");
    let mut blocks = AVec::<[u8; BLOCK], ConstAlign<BLOCK>>::new(BLOCK);
    blocks.resize(GROUP_BYTES_MAX / BLOCK * 2, [7; BLOCK]);
    let written = File::create(&path).unwrap();
    for _ in 0..LIVE_BYTES / blocks.as_flattened().len() {
        (&written).write_all(blocks.as_flattened()).unwrap();
    }
    written.sync_all().unwrap();
    let flags = OFlags::RDWR | OFlags::DIRECT;
    let file = File::from(rustix::fs::open(&path, flags, Mode::empty()).unwrap());
    let mut offset = 0;
    let commit = move |records: &[Record]| {
        let bodies = records.iter().map(|record| match record {
            Record::Batch(batch) => batch.body.len(),
            _ => 0,
        });
        let bytes = bodies.sum::<usize>().next_multiple_of(BLOCK);
        if offset + bytes > LIVE_BYTES {
            offset = 0;
        }
        file.write_all_at(&blocks.as_flattened()[..bytes], offset as u64).unwrap();
        file.sync_data().unwrap();
        offset += bytes;
    };
    durable(commit, job)
}

const WAYS: [(&str, Way); 4] =
    [("unsynced_default", unsynced), ("rocksdb", grouped), ("bare", bare), ("journal", journal)];

fn main() {
    let noise = noise();
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for (size, name) in SIZES {
        let mut group = criterion.benchmark_group("group_commit");
        group.throughput(Throughput::Bytes(size as u64));
        for (way, run) in WAYS {
            // Per-operation time with one client; the table below has the closed loops.
            group.bench_function(format!("{way}/size={name}"), |bencher| {
                bencher.iter_custom(|iterations| {
                    let measured = once(run, &noise, (size, 1), Duration::from_millis(100));
                    measured.elapsed * iterations as u32 / measured.batches.max(1) as u32
                });
            });
        }
        group.finish();
    }
    criterion.final_summary();
    // Under `cargo test` every benchmark only has to run once.
    if in_earnest() {
        table(&WAYS, &noise);
    }
}
