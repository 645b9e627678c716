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
//! table at the end compares their medians. Each round warms up first (`WARM_MS`, default 2000), so
//! that flushes, compactions and recycled logs are part of what is measured (`ROUND_MS`, default
//! 3000; `ROUNDS`, default 3). `SIZE` and `IN_FLIGHT` pick one cell. Filters of criterion apply to
//! the per-operation timings only.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aligned_vec::{AVec, ConstAlign};
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use quorum_store::sequencer::port::{BatchRecord, Record};
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::rocks::{RocksConfig, RocksStore};
use quorum_store::store::{Store, StoreIdentity};
use quorum_store::types::{
    Author, BatchId, BatchInfo, ChainId, Digest, Epoch, Incarnation, Timestamp,
};
use rustix::fs::{Mode, OFlags};

const BLOCK: usize = 4096;
const SIZES: [(usize, &str); 3] = [(4 << 10, "4KB"), (100 << 10, "100KB"), (1 << 20, "1MB")];
const CLIENTS: [usize; 3] = [1, 8, 32];
/// A group takes what is queued, up to this much.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// What is live at a time.
const LIVE_BYTES: usize = 512 << 20;

/// Bytes that do not compress, cut at different places.
fn noise() -> Bytes {
    let mut seed = *blake3::hash(b"noise").as_bytes();
    let mut bytes = Vec::with_capacity(4 << 20);
    while bytes.len() < 4 << 20 {
        seed = *blake3::hash(&seed).as_bytes();
        bytes.extend_from_slice(&seed);
    }
    bytes.into()
}

fn identity() -> StoreIdentity {
    StoreIdentity { author: Author([1; 32]), chain: ChainId([2; 32]) }
}

fn record(counter: u64, body: Bytes) -> Record {
    let info = BatchInfo {
        author: Author([1; 32]),
        batch_id: BatchId { incarnation: Incarnation(1), counter },
        epoch: Epoch(0),
        expiration: Timestamp(1_000_000 + counter),
        count: 1,
        bytes: body.len() as u32,
        gas_bucket_start: 0,
        root: Digest([3; 32]),
    };
    // The digest's own cost is in `codec`; here it only has to be as random as a real one.
    let digest = Digest(*blake3::hash(&counter.to_le_bytes()).as_bytes());
    Record::Batch(BatchRecord { digest, info, body, claims_slot: true, own: None })
}

/// A batch on its way to the writer, and whom to tell.
struct Request {
    record: Record,
    bytes: usize,
    done: mpsc::SyncSender<()>,
}

/// What a run measured.
#[derive(Clone, Copy, Default)]
struct Measured {
    /// Acknowledged after the warm-up.
    batches: u64,
    elapsed: Duration,
    /// Acknowledged in all, and in how many groups.
    total: u64,
    groups: u64,
    /// Of this process, after the warm-up.
    cpu: Duration,
    written: u64,
    /// Half of the group commits took no longer.
    commit: Duration,
}

/// Processor time and bytes written to storage, of this process since it began.
fn usage() -> (Duration, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    // User and system time, in hundredths of a second.
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    (Duration::from_millis(ticks * 10), written.parse().unwrap())
}

/// Runs `clients` closed loops until told to stop; `put` acknowledges one batch.
fn closed_loop<F>(clients: usize, duration: Duration, put: F) -> Measured
where
    F: Fn(u64) + Send + Sync,
{
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let next = AtomicU64::new(0);
    // Short runs measure single operations: nothing to warm up.
    let warm_up = if duration < Duration::from_secs(1) { 0 } else { setting("WARM_MS", 2000) };
    let mut measured = Measured::default();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    put(next.fetch_add(1, Ordering::Relaxed));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(warm_up));
        let (started, before) = (Instant::now(), count.load(Ordering::Relaxed));
        let (cpu, written) = usage();
        std::thread::sleep(duration);
        let after = usage();
        (measured.cpu, measured.written) = (after.0.saturating_sub(cpu), after.1 - written);
        measured.batches = count.load(Ordering::Relaxed) - before;
        measured.elapsed = started.elapsed();
        stop.store(true, Ordering::Relaxed);
    });
    measured.total = count.into_inner();
    measured
}

fn journal(directory: &Path, noise: &Bytes, size: usize, clients: usize, d: Duration) -> Measured {
    let config = JournalConfig::default();
    let store = JournalStore::create(&directory.join("store"), identity(), &config).unwrap();
    durable(committing(store), noise, size, clients, d)
}

/// What the disk takes: no store at all.
fn bare(directory: &Path, noise: &Bytes, size: usize, clients: usize, d: Duration) -> Measured {
    let path = directory.join("bare");
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
    durable(commit, noise, size, clients, d)
}

fn committing(mut store: impl Store) -> impl FnMut(&[Record]) + Send + 'static {
    store.recover().unwrap();
    move |records| {
        store.commit(records).unwrap();
    }
}

fn rocks(directory: &Path, noise: &Bytes, size: usize, clients: usize, d: Duration) -> Measured {
    let config = RocksConfig { write_buffer_bytes: 256 << 20, ..RocksConfig::default() };
    let store = RocksStore::create(&directory.join("store"), identity(), &config).unwrap();
    durable(committing(store), noise, size, clients, d)
}

/// Takes the oldest of what is live away, until it fits again.
fn age(live: &mut VecDeque<Record>, size: usize, records: &mut Vec<Record>) {
    for record in records.iter() {
        if let Record::Batch(BatchRecord { digest, info, .. }) = record {
            let (digest, expiration) = (*digest, info.expiration);
            live.push_back(Record::DropBatch { digest, expiration });
        }
    }
    let most = LIVE_BYTES / size;
    let over = live.len().saturating_sub(most);
    records.extend(live.drain(..over));
}

/// This crate: clients hand batches to one writer, which commits whatever is queued.
fn durable(
    mut commit: impl FnMut(&[Record]) + Send + 'static,
    noise: &Bytes,
    size: usize,
    clients: usize,
    d: Duration,
) -> Measured {
    let (sender, receiver) = mpsc::sync_channel::<Request>(clients);
    let writer = std::thread::spawn(move || {
        let (mut took, mut live) = (Vec::new(), VecDeque::new());
        while let Ok(first) = receiver.recv() {
            let (mut records, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
            let mut next = Some(first);
            while let Some(request) = next {
                bytes += request.bytes;
                records.push(request.record);
                waiting.push(request.done);
                next = (bytes < GROUP_BYTES_MAX).then(|| receiver.try_recv().ok()).flatten();
            }
            age(&mut live, size, &mut records);
            let began = Instant::now();
            commit(&records);
            took.push(began.elapsed());
            for done in waiting {
                let _ = done.send(());
            }
        }
        took
    });
    let sender = Arc::new(sender);
    let mut measured = closed_loop(clients, d, |counter| {
        let (done, acknowledged) = mpsc::sync_channel(1);
        let offset = (counter as usize * 977) % (noise.len() - size);
        let body = noise.slice(offset..offset + size);
        sender.send(Request { record: record(counter, body), bytes: size, done }).unwrap();
        acknowledged.recv().unwrap();
    });
    drop(sender);
    let mut took = writer.join().unwrap();
    took.sort_unstable();
    measured.groups = took.len() as u64;
    measured.commit = took.get(took.len() / 2).copied().unwrap_or_default();
    measured
}

/// What is being replaced: default options, no sync, one put per batch, key = digest.
fn unsynced(directory: &Path, noise: &Bytes, size: usize, clients: usize, d: Duration) -> Measured {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    let db = rocksdb::DB::open(&options, directory.join("unsynced")).unwrap();
    closed_loop(clients, d, |counter| {
        let offset = (counter as usize * 977) % (noise.len() - size);
        let key = blake3::hash(&counter.to_le_bytes());
        db.put(key.as_bytes(), &noise[offset..offset + size]).unwrap();
    })
}

type Way = fn(&Path, &Bytes, usize, usize, Duration) -> Measured;

fn once(way: Way, noise: &Bytes, size: usize, clients: usize, duration: Duration) -> Measured {
    let directory = tempfile::tempdir().unwrap();
    way(directory.path(), noise, size, clients, duration)
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// True if the environment names no cell, or this one.
fn picked(name: &str, value: &str) -> bool {
    std::env::var(name).map_or(true, |wanted| wanted == value)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

const WAYS: [(&str, Way); 4] =
    [("unsynced_default", unsynced), ("rocksdb", rocks), ("bare", bare), ("journal", journal)];

/// Of one way, in the rounds of one cell.
#[derive(Default)]
struct Cell {
    rates: Vec<f64>,
    cpu: Vec<f64>,
    written: Vec<f64>,
    groups: Vec<f64>,
    commits: Vec<f64>,
}

impl Cell {
    fn add(&mut self, measured: Measured, size: usize) {
        let batches = measured.batches.max(1) as f64;
        let bytes = batches * size as f64;
        self.rates.push(bytes / 1e6 / measured.elapsed.as_secs_f64());
        self.cpu.push(measured.cpu.as_micros() as f64 / batches);
        self.written.push(measured.written as f64 / bytes);
        self.groups.push(measured.total as f64 / measured.groups.max(1) as f64);
        self.commits.push(measured.commit.as_secs_f64() * 1e6);
    }
}

/// The comparison: rounds of all ways, one after the other.
fn table(noise: &Bytes) {
    let rounds = setting("ROUNDS", 3);
    let duration = Duration::from_millis(setting("ROUND_MS", 3000));
    println!(
        "\nsize    in flight  way                MB/s    ratio   us cpu/batch  written/byte  \
         batches/group  us p50 of a group"
    );
    for (size, name) in SIZES {
        for clients in CLIENTS {
            if !picked("SIZE", name) || !picked("IN_FLIGHT", &clients.to_string()) {
                continue;
            }
            let mut cells: [Cell; WAYS.len()] = Default::default();
            for _ in 0..rounds {
                for (cell, (_, way)) in cells.iter_mut().zip(WAYS) {
                    cell.add(once(way, noise, size, clients, duration), size);
                }
            }
            let theirs = median(cells[0].rates.clone());
            for (cell, (way, _)) in cells.into_iter().zip(WAYS) {
                let rate = median(cell.rates);
                println!(
                    "{name:<8}{clients:<11}{way:<19}{rate:<8.0}{:<8.2}{:<14.0}{:<14.2}{:<15.1}{:.0}",
                    rate / theirs,
                    median(cell.cpu),
                    median(cell.written),
                    median(cell.groups),
                    median(cell.commits),
                );
            }
        }
    }
}

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
                    let measured = once(run, &noise, size, 1, Duration::from_millis(100));
                    measured.elapsed * iterations as u32 / measured.batches.max(1) as u32
                });
            });
        }
        group.finish();
    }
    criterion.final_summary();
    // Under `cargo test` every benchmark only has to run once.
    if std::env::args().any(|argument| argument == "--bench") {
        table(&noise);
    }
}
