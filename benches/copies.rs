//! What a batch costs on its way from a link to the journal, and from the journal to a link: memory
//! that is allocated, and copies of its transactions. Counted, not timed; `docs/copies.md` tells the way.
//!
//! Three things are counted for each step: allocations, the bytes of them for each byte of the body, and
//! whether the body that comes out lies in the same memory as the one that went in. A step that neither
//! allocates as much as a body nor moves it has not copied it; the one copy that needs no allocation is
//! that into the buffer which the journal writes from, and the step has it in its table.
//!
//! It fails, also as a test, if any step allocates more than its bound, which lies close above what it takes now, or if a
//! body is not where it was: so it fails when somebody adds a copy.
//!
//! `BATCHES` (default 200) of `TRANSACTIONS` (default 200) with `BYTES` each (default 512).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::alloc::System;
use std::time::Duration;

use bytes::Bytes;
use measure::{noise, setting};
use pair::Pair;
use pure::{Core, US, genesis, identity, peer, unbounded};
use quorum_store::config::SequencerConfig;
use quorum_store::sequencer::port::{Input, Record};
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::{Store as _, StoreReader};
use quorum_store::transport::Frame;
use quorum_store::types::{Batch, Digest, Message};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use tokio::runtime::Runtime;

#[path = "support/measure.rs"]
mod measure;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/pure.rs"]
mod pure;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Done before anything is counted, so that tables and buffers have grown.
const WARM_UP: u64 = 40;

/// A step of the way, and what it may take for one batch.
struct Step {
    name: &'static str,
    /// Of the body, by us.
    copies: u32,
    /// At most.
    allocations: f64,
    /// At most, for each byte of the body.
    bytes: f64,
    counted: (usize, usize),
}

impl Step {
    const fn new(name: &'static str, copies: u32, allocations: f64, bytes: f64) -> Self {
        Self { name, copies, allocations, bytes, counted: (0, 0) }
    }

    /// Counts what is allocated meanwhile, by any thread.
    fn count<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let region = Region::new(ALLOCATOR);
        let result = run();
        self.add(&region.change());
        result
    }

    fn add(&mut self, change: &Stats) {
        self.counted.0 += change.allocations + change.reallocations;
        self.counted.1 += change.bytes_allocated;
    }

    /// What it took; false if that was too much.
    fn report(&self, job: &Job) -> bool {
        let allocations = self.counted.0 as f64 / job.batches as f64;
        let bytes = self.counted.1 as f64 / (job.batches * job.body_bytes()) as f64;
        let holds = allocations <= self.allocations && bytes <= self.bytes;
        println!(
            "{:<46}{:<8}{allocations:<10.1}{:<17.4}{bytes:<10.4}{:<10.1}{:<8.2}{}",
            self.name,
            self.copies,
            allocations / job.shape.0 as f64,
            self.allocations,
            self.bytes,
            if holds { "" } else { "TOO MUCH" },
        );
        holds
    }
}

struct Job {
    batches: u64,
    /// Transactions of a batch, and bytes of each.
    shape: (usize, usize),
    noise: Bytes,
}

impl Job {
    fn body_bytes(&self) -> u64 {
        (self.shape.0 * self.shape.1) as u64
    }
}

fn same_memory(one: &Bytes, other: &Bytes) -> bool {
    one.as_ptr() == other.as_ptr() && one.len() == other.len()
}

/// The body in what is written.
fn written(records: &[Record]) -> &Bytes {
    let body = records.iter().find_map(|record| match record {
        Record::Batch(batch) => Some(&batch.body),
        _ => None,
    });
    body.expect("the batch is in its group")
}

/// A store, with a segment so long that none is added meanwhile.
fn store(directory: &tempfile::TempDir) -> JournalStore {
    let config =
        JournalConfig { segment_bytes: bytesize::ByteSize::mib(64), ..JournalConfig::default() };
    let identity = identity(&genesis(4));
    let mut store =
        JournalStore::create(&directory.path().join("store"), identity, &config).unwrap();
    store.recover().unwrap();
    store
}

/// From a frame to the journal, and from there to frames.
fn there_and_back(job: &Job) -> Vec<Step> {
    let directory = tempfile::tempdir().unwrap();
    let mut store = store(&directory);
    let mut core = Core::new(4, unbounded());
    let mut steps = [
        Step::new("decode: frame -> batch", 0, 1.5, 0.005),
        Step::new("verify: root, limits, digest", 0, 2.0, 0.01),
        Step::new("step: batch -> group", 0, 8.0, 0.06),
        Step::new("commit: group -> journal, synced", 1, 32.0, 0.04),
        Step::new("durable: group -> signature", 0, 2.0, 0.01),
        Step::new("read: journal -> batch", 0, 8.0, 1.08),
        Step::new("encode: batch -> frames for three", 0, 5.0, 0.01),
    ];
    for counter in 0..WARM_UP + job.batches {
        if counter == WARM_UP {
            for step in &mut steps {
                step.counted = (0, 0);
            }
        }
        let (digest, batch) = core.batch(peer(1), counter, job.shape, &job.noise);
        let frame = Message::Batch(batch).encode().to_bytes();
        let batch = receive(&mut steps[..2], &core, &frame);
        let body = batch.body.bytes().clone();
        let group = steps[2].count(|| {
            core.step(Input::Batch { from: peer(1), digest, batch });
            core.sequencer.take_group().expect("something to write")
        });
        assert!(same_memory(&body, written(group.records())), "the body was moved");
        steps[3].count(|| store.commit(group.records()).unwrap());
        steps[4].count(|| {
            core.step(Input::Durable { sequence: group.sequence() });
            drop(group);
        });
        core.settle(|records| {
            store.commit(records).unwrap();
        });
        send(&mut steps[5..], &*store.reader(), &digest);
    }
    steps.into()
}

fn receive(steps: &mut [Step], core: &Core, frame: &Bytes) -> Batch {
    let message = steps[0].count(|| Message::decode(frame).unwrap());
    let Message::Batch(batch) = message else { panic!("a batch was sent") };
    let (within, body) = (frame.as_ptr_range(), batch.body.bytes().as_ptr_range());
    assert!(within.start <= body.start && body.end <= within.end, "the body was moved");
    steps[1].count(|| {
        batch.body.verify(&batch.info, &core.parameters).unwrap();
        assert!(batch.info.digest(&core.chain) != Digest([0; 32]));
    });
    batch
}

fn send(steps: &mut [Step], reader: &dyn StoreReader, digest: &Digest) {
    let batch = steps[0].count(|| reader.batch(digest).unwrap().unwrap());
    let body = batch.body.bytes().clone();
    let frames = steps[1].count(|| {
        let encoded = Message::Batch(batch).encode();
        [(); 3].map(|()| Frame { head: encoded.head.clone(), body: encoded.body.clone() })
    });
    assert!(frames.iter().all(|frame| same_memory(&frame.body, &body)), "the body was moved");
}

/// From transactions of clients to a sealed batch that is written and sent.
fn sealed(job: &Job) -> Step {
    // Sealed by its age, with everything in it.
    let batch_bytes_target = bytesize::ByteSize(2 * job.body_bytes());
    let mut core = Core::new(4, SequencerConfig { batch_bytes_target, ..unbounded() });
    let mut step = Step::new("seal: transactions -> group, and frames", 1, 80.0, 2.0);
    for counter in 0..WARM_UP + job.batches {
        if counter == WARM_UP {
            step.counted = (0, 0);
        }
        let from = counter as usize * job.shape.0;
        let transactions = core.transactions(from, job.shape.0, job.shape.1, &job.noise);
        let id = core.request();
        let group = step.count(|| {
            core.step(Input::Submit { id, transactions });
            core.now.monotonic += Duration::from_millis(20);
            core.step(Input::Tick);
            core.sequencer.take_group().expect("a batch was sealed")
        });
        let body = written(group.records()).clone();
        core.step(Input::Durable { sequence: group.sequence() });
        let sent = core.settle(|_| ());
        let mut sent = sent.iter().filter_map(|message| match message {
            Message::Batch(batch) => Some(batch.body.bytes()),
            _ => None,
        });
        let first = sent.next().expect("a sealed batch is sent");
        assert!(same_memory(first, &body), "written and sent from two places");
    }
    step
}

/// From a frame at one validator to a frame at another, QUIC and its encryption at both ends included.
async fn linked(job: &Job) -> Step {
    let mut pair = Pair::new().await;
    let mut step = Step::new("link: frame -> frame, over QUIC, both ends", 1, 20.0, 2.3);
    let core = Core::new(4, unbounded());
    for counter in 0..WARM_UP + job.batches {
        let encoded = Message::Batch(core.batch(US, counter, job.shape, &job.noise).1).encode();
        let frame = Frame { head: encoded.head, body: encoded.body };
        if counter == WARM_UP {
            step.counted = (0, 0);
        }
        let region = Region::new(ALLOCATOR);
        assert!(pair.send(frame.clone()), "there is room for one");
        let received = pair.receive().await;
        step.add(&region.change());
        assert_eq!(received.len(), frame.len());
    }
    pair.end().await;
    step
}

fn main() {
    let shape = (setting("TRANSACTIONS", 200) as usize, setting("BYTES", 512) as usize);
    let batches = setting("BATCHES", 200);
    let job = Job { batches, shape, noise: noise() };
    println!(
        "{} batches of {} transactions of {} bytes\n\n\
         copies/{:<39}copies  allocs    per transaction  bytes     bounds: allocs, bytes a body byte",
        batches, shape.0, shape.1, "step",
    );
    let mut steps = vec![Runtime::new().unwrap().block_on(linked(&job))];
    steps.extend(there_and_back(&job));
    steps.push(sealed(&job));
    let holds: Vec<_> = steps.iter().map(|step| step.report(&job)).collect();
    let copies: u32 = steps[..5].iter().map(|step| step.copies).sum();
    let allocated: usize = steps[1..5].iter().map(|step| step.counted.1).sum();
    println!(
        "\nfrom a link to the journal: {copies} copies of a body by us; {:.4} bytes allocated a byte \
         after its frame has been received",
        allocated as f64 / (job.batches * job.body_bytes()) as f64,
    );
    assert!(holds.into_iter().all(|holds| holds), "a step allocates more than its bound");
}
