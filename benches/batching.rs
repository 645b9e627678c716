//! What it takes to make batches: the pure core alone, on one core, without a disk or a link.
//!
//! | operation | from | to |
//! |---|---|---|
//! | `submit_and_seal` | transactions of clients, one submission for each batch | sealed batches in the open group, with the frames to send |
//! | `submit_one_by_one` | the same, one submission for each transaction | the same |
//! | `build_body` | transactions | a body |
//! | `root` | a body | its BLAKE3 |
//! | `digest` | an info | its digest |
//!
//! Throughput is in transactions, of `digest` in batches; the table at the end has nanoseconds of one transaction, and how much of
//! that goes into the body (laying it out, and hashing it), which grows with bytes. The rest is the same
//! for all sizes: the pool, the tickets by which each client is answered, back-pressure.
//!
//! It fails if bookkeeping takes more than 2 us of a transaction: 500,000 a second on one core, of which
//! the sequencer has one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use measure::{in_earnest, median, noise};
use pure::{Core, US, unbounded};
use quorum_store::config::SequencerConfig;
use quorum_store::sequencer::port::{Input, Record};
use quorum_store::types::{BatchBody, BodyBuilder};

#[path = "support/measure.rs"]
mod measure;
#[path = "support/pure.rs"]
mod pure;

/// Transactions in a batch, and bytes of each.
const SHAPES: [(usize, usize); 5] = [(10, 512), (100, 512), (1000, 128), (1000, 512), (100, 4096)];
/// Batches that are sealed before a world is thrown away.
const BATCHES: usize = 32;
/// Bookkeeping of one transaction takes no longer.
const BOOKKEEPING_MAX: f64 = 2000.0;

fn world() -> Core {
    let batch_bytes_target = bytesize::ByteSize::mib(4);
    Core::new(4, SequencerConfig { batch_bytes_target, ..unbounded() })
}

/// The time to seal some batches; what was sealed is thrown away in between.
fn sealing((count, bytes): (usize, usize), at_once: bool, noise: &Bytes) -> Duration {
    let mut core = world();
    let mut took = Duration::ZERO;
    for batch in 0..BATCHES {
        let transactions = core.transactions(batch * count, count, bytes, noise);
        let submissions: Vec<_> = if at_once {
            vec![transactions]
        } else {
            transactions.into_iter().map(|transaction| vec![transaction]).collect()
        };
        let submissions: Vec<_> = submissions
            .into_iter()
            .map(|transactions| Input::Submit { id: core.request(), transactions })
            .collect();
        let began = Instant::now();
        for submission in submissions {
            core.step(submission);
        }
        // Old enough.
        core.now.monotonic += Duration::from_millis(20);
        core.step(Input::Tick);
        let group = core.sequencer.take_group().expect("a batch was sealed");
        took += began.elapsed();
        let sealed = group.records().iter().filter_map(|record| match record {
            Record::Batch(batch) => Some(batch.info.count as usize),
            _ => None,
        });
        assert_eq!(sealed.sum::<usize>(), count);
        core.step(Input::Durable { sequence: group.sequence() });
        core.settle(|_| ());
    }
    took
}

fn body(transactions: &[Bytes]) -> BatchBody {
    let mut builder = BodyBuilder::new();
    for transaction in transactions {
        builder.push(transaction.clone());
    }
    builder.finish()
}

/// Nanoseconds of one transaction: median of some runs.
fn nanoseconds(transactions: usize, mut run: impl FnMut() -> Duration) -> f64 {
    let times = (0..15).map(|_| run().as_nanos() as f64 / transactions as f64);
    median(times.collect())
}

fn table(noise: &Bytes) {
    println!("\nns of one transaction");
    println!("transactions  bytes  sealed   one by one  body    hash    bookkeeping");
    let mut slow = false;
    for shape @ (count, bytes) in SHAPES {
        let all = count * BATCHES;
        let sealed = nanoseconds(all, || sealing(shape, true, noise));
        let single = nanoseconds(all, || sealing(shape, false, noise));
        let core = world();
        let (_, batch) = core.batch(US, 1, shape, noise);
        let transactions: Vec<_> = batch.body.transactions().collect();
        // Each into memory of its own, as where they are kept until they are ordered.
        let mut bodies = Vec::new();
        let laid_out = nanoseconds(all, || {
            bodies.clear();
            let began = Instant::now();
            bodies.extend((0..BATCHES).map(|_| body(&transactions)));
            began.elapsed()
        });
        let hash = nanoseconds(all, || {
            let began = Instant::now();
            for body in &bodies {
                black_box(body.root());
            }
            began.elapsed()
        });
        let bookkeeping = single - laid_out - hash;
        println!(
            "{count:<14}{bytes:<7}{sealed:<9.0}{single:<12.0}{laid_out:<8.0}{hash:<8.0}{bookkeeping:.0}"
        );
        slow |= bookkeeping > BOOKKEEPING_MAX;
    }
    assert!(!slow, "bookkeeping takes more than {BOOKKEEPING_MAX} ns of a transaction");
}

fn main() {
    let noise = noise();
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("batching");
    for shape @ (count, bytes) in SHAPES {
        let label = format!("transactions={count}/bytes={bytes}");
        group.throughput(Throughput::Elements(count as u64));
        for (name, at_once) in [("submit_and_seal", true), ("submit_one_by_one", false)] {
            group.bench_function(format!("{name}/{label}"), |bencher| {
                bencher.iter_custom(|iterations| {
                    let rounds = iterations.div_ceil(BATCHES as u64);
                    let took: Duration = (0..rounds).map(|_| sealing(shape, at_once, &noise)).sum();
                    took.mul_f64(iterations as f64 / (rounds * BATCHES as u64) as f64)
                });
            });
        }
        let core = world();
        let (_, batch) = core.batch(US, 1, shape, &noise);
        let transactions: Vec<_> = batch.body.transactions().collect();
        group.bench_function(format!("build_body/{label}"), |bencher| {
            bencher.iter(|| body(black_box(&transactions)));
        });
        group.bench_function(format!("root/{label}"), |bencher| {
            bencher.iter(|| black_box(&batch.body).root());
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("digest/{label}"), |bencher| {
            bencher.iter(|| black_box(&batch.info).digest(&core.chain));
        });
    }
    group.finish();
    criterion.final_summary();
    // As a test, only that it runs.
    if in_earnest() {
        table(&noise);
    }
}
