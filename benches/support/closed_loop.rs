//! One job for every way to make batches durable: clients that each wait for their acknowledgement, what
//! that took, and a table of what several ways took in interleaved rounds.

#![allow(dead_code, reason = "each benchmark uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorum_store::sequencer::port::{BatchRecord, Record};
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::{Store, StoreIdentity};
use quorum_store::types::{
    Author, BatchId, BatchInfo, ChainId, Digest, Epoch, Incarnation, Timestamp,
};

use super::measure::{median, percentiles, picked, setting, usage};

pub const SIZES: [(usize, &str); 3] = [(4 << 10, "4KB"), (100 << 10, "100KB"), (1 << 20, "1MB")];
const CLIENTS: [usize; 3] = [1, 8, 32];
/// A group takes what is queued, up to this much.
pub const GROUP_BYTES_MAX: usize = 16 << 20;
/// What is live at a time.
pub const LIVE_BYTES: usize = 512 << 20;

/// What every run gets: a fresh directory, bytes to cut batches from, their size, how many are in
/// flight, and for how long.
pub struct Job<'a> {
    pub directory: &'a Path,
    pub noise: &'a Bytes,
    pub size: usize,
    pub clients: usize,
    pub duration: Duration,
}

impl Job<'_> {
    /// The body of a batch.
    pub fn body(&self, counter: u64) -> Bytes {
        let offset = (counter as usize * 977) % (self.noise.len() - self.size);
        self.noise.slice(offset..offset + self.size)
    }
}

pub type Way = fn(&Job<'_>) -> Measured;

pub fn identity() -> StoreIdentity {
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
#[derive(Default)]
pub struct Measured {
    /// Acknowledged after the warm-up.
    pub batches: u64,
    pub elapsed: Duration,
    /// Acknowledged in all, and in how many groups.
    pub total: u64,
    pub groups: u64,
    /// Of this process, after the warm-up.
    pub cpu: Duration,
    pub written: u64,
    /// Half of the group commits took no longer.
    pub commit: Duration,
    /// Until a client was acknowledged: the median, and the slowest of a hundred.
    pub latency: (Duration, Duration),
}

/// Runs closed loops until told to stop; `put` acknowledges one batch of a client: its number, and
/// that of the batch.
pub fn closed_loop<F>(job: &Job<'_>, put: F) -> Measured
where
    F: Fn(usize, u64) + Send + Sync,
{
    let (stop, warm) = (AtomicBool::new(false), AtomicBool::new(false));
    let (next, count) = (AtomicU64::new(0), AtomicU64::new(0));
    let latencies = Mutex::new(Vec::new());
    let mut measured = Measured::default();
    std::thread::scope(|scope| {
        for client in 0..job.clients {
            let (stop, warm, count, next) = (&stop, &warm, &count, &next);
            let (latencies, put) = (&latencies, &put);
            scope.spawn(move || {
                let mut times = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let (is_warm, began) = (warm.load(Ordering::Relaxed), Instant::now());
                    put(client, next.fetch_add(1, Ordering::Relaxed));
                    count.fetch_add(1, Ordering::Relaxed);
                    if is_warm {
                        times.push(began.elapsed());
                    }
                }
                latencies.lock().unwrap().append(&mut times);
            });
        }
        warm_up(job, &count);
        warm.store(true, Ordering::Relaxed);
        let (started, before) = (Instant::now(), count.load(Ordering::Relaxed));
        let (cpu, written) = usage();
        std::thread::sleep(job.duration);
        let after = usage();
        (measured.cpu, measured.written) = (after.0.saturating_sub(cpu), after.1 - written);
        measured.batches = count.load(Ordering::Relaxed) - before;
        measured.elapsed = started.elapsed();
        stop.store(true, Ordering::Relaxed);
    });
    measured.total = count.into_inner();
    measured.latency = percentiles(latencies.into_inner().unwrap());
    measured
}

/// Until what is live has been written once and deletions have begun, but for no more than four times
/// `WARM_MS`; short runs measure single operations, and have nothing to warm up.
fn warm_up(job: &Job<'_>, count: &AtomicU64) {
    if job.duration < Duration::from_secs(1) {
        return;
    }
    let (least, began) = (Duration::from_millis(setting("WARM_MS", 1000)), Instant::now());
    let enough = (LIVE_BYTES / job.size * 5 / 4) as u64;
    while began.elapsed() < least
        || count.load(Ordering::Relaxed) < enough && began.elapsed() < 4 * least
    {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// This crate's journal.
pub fn journal(job: &Job<'_>) -> Measured {
    let config = JournalConfig::default();
    let path = job.directory.join("store");
    durable(committing(JournalStore::create(&path, identity(), &config).unwrap()), job)
}

/// The groups of a store.
pub fn committing(mut store: impl Store) -> impl FnMut(&[Record]) + Send + 'static {
    store.recover().unwrap();
    move |records| {
        store.commit(records).unwrap();
    }
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

/// Clients hand batches to one writer, which commits whatever is queued.
pub fn durable(mut commit: impl FnMut(&[Record]) + Send + 'static, job: &Job<'_>) -> Measured {
    let size = job.size;
    let (sender, receiver) = mpsc::sync_channel::<Request>(job.clients);
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
    let mut measured = closed_loop(job, |_, counter| {
        let (done, acknowledged) = mpsc::sync_channel(1);
        let record = record(counter, job.body(counter));
        sender.send(Request { record, bytes: size, done }).unwrap();
        acknowledged.recv().unwrap();
    });
    drop(sender);
    let mut took = writer.join().unwrap();
    took.sort_unstable();
    measured.groups = took.len() as u64;
    measured.commit = took.get(took.len() / 2).copied().unwrap_or_default();
    measured
}

/// One round of one way.
pub fn once(
    way: Way,
    noise: &Bytes,
    (size, clients): (usize, usize),
    duration: Duration,
) -> Measured {
    let directory = tempfile::tempdir().unwrap();
    way(&Job { directory: directory.path(), noise, size, clients, duration })
}

/// Of one way, in the rounds of one cell.
#[derive(Default)]
struct Cell {
    rates: Vec<f64>,
    cpu: Vec<f64>,
    written: Vec<f64>,
    groups: Vec<f64>,
    commits: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Cell {
    fn add(&mut self, measured: &Measured, size: usize) {
        let batches = measured.batches.max(1) as f64;
        let bytes = batches * size as f64;
        self.rates.push(bytes / 1e6 / measured.elapsed.as_secs_f64());
        self.cpu.push(measured.cpu.as_micros() as f64 / batches);
        self.written.push(measured.written as f64 / bytes);
        self.groups.push(measured.total as f64 / measured.groups.max(1) as f64);
        self.commits.push(measured.commit.as_secs_f64() * 1e6);
        self.p50.push(measured.latency.0.as_secs_f64() * 1e6);
        self.p99.push(measured.latency.1.as_secs_f64() * 1e6);
    }
}

/// The comparison: rounds of all ways, one after the other. Ratios are to the first of them.
pub fn table(ways: &[(&str, Way)], noise: &Bytes) {
    let rounds = setting("ROUNDS", 3);
    let duration = Duration::from_millis(setting("ROUND_MS", 3000));
    println!(
        "\nsize    in flight  way                 MB/s    ratio   us cpu/batch  written/byte  \
         batches/group  us p50 of a group  us p50 / p99 to a client"
    );
    for (size, name) in SIZES {
        for clients in CLIENTS {
            if !picked("SIZE", name) || !picked("IN_FLIGHT", &clients.to_string()) {
                continue;
            }
            let ways = ways.iter().filter(|(way, _)| picked("WAY", way));
            let mut cells: Vec<_> = ways.map(|(name, way)| (name, way, Cell::default())).collect();
            for _ in 0..rounds {
                for (_, way, cell) in &mut cells {
                    cell.add(&once(**way, noise, (size, clients), duration), size);
                }
            }
            let Some(first) = cells.first().map(|(_, _, cell)| median(cell.rates.clone())) else {
                continue;
            };
            for (way, _, cell) in cells {
                let rate = median(cell.rates);
                println!(
                    "{name:<8}{clients:<11}{way:<20}{rate:<8.0}{:<8.2}{:<14.0}{:<14.2}{:<15.1}\
                     {:<19.0}{:>6.0} / {:.0}",
                    rate / first,
                    median(cell.cpu),
                    median(cell.written),
                    median(cell.groups),
                    median(cell.commits),
                    median(cell.p50),
                    median(cell.p99),
                );
            }
        }
    }
}
