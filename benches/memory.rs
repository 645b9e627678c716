//! What a live batch takes of memory: in the sequencer, and in the tables of the stores.
//!
//! Counted by the allocator, so exact, and without what it keeps for itself; the resident size, which has
//! that too, stands beside it. A batch of another validator is in memory without its body from the moment
//! it is on disk; of our own the body stays until it is ordered.
//!
//! | what | held there |
//! |---|---|
//! | `sequencer/stored` | batches of others, durable: slots, windows, retention |
//! | `sequencer/certified` | the same with their proofs, ready to be proposed |
//! | `sequencer/own` | batches of ours with votes of a quorum; their bodies too, of 69 bytes here |
//! | `journal/stored` | batches on disk: where they lie, their small entries, the index |
//! | `journal/certified` | the same with their proofs |
//!
//! It fails if one of them takes more than its bound, or if anything is left after a sequencer is gone.
//! `LIVE` batches, default 100000; `CASE` picks one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::alloc::System;
use std::time::Duration;

use bytes::Bytes;
use measure::{in_earnest, noise, setting};
use pure::{Core, genesis, identity, peer, unbounded};
use quorum_store::sequencer::port::{BatchRecord, Input, Record};
use quorum_store::store::Store as _;
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::types::Digest;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "support/measure.rs"]
mod measure;
#[path = "support/pure.rs"]
mod pure;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Of each batch: its content is not what is measured.
const SHAPE: (usize, usize) = (1, 64);
/// Batches of a group.
const GROUP: u64 = 500;

/// What is allocated and not freed since some moment, and what is resident.
struct Held {
    region: Region<'static, System>,
    bytes: u64,
    resident: u64,
}

impl Held {
    fn new() -> Self {
        Self { region: Region::new(ALLOCATOR), bytes: 0, resident: resident() }
    }

    /// Before it is let go.
    fn until_now(self) -> Self {
        let change = self.region.change();
        let bytes = change.bytes_allocated as u64 - change.bytes_deallocated as u64;
        Self { bytes, resident: resident().saturating_sub(self.resident), ..self }
    }

    /// Prints what one of `live` takes.
    fn report(&self, name: &str, live: u64, bound: u64) {
        let each = self.bytes / live;
        println!("memory/{name:<27}{each:<8}{:<10}{bound}", self.resident / live);
        assert!(each <= bound, "a live batch takes {each} bytes of memory, its bound is {bound}");
    }
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Batches of three others arrive, and become durable.
fn stored(core: &mut Core, live: u64, noise: &Bytes, certified: bool) {
    for counter in 0..live {
        let author = peer(1 + (counter % 3) as u8);
        let (digest, batch) = core.batch(author, counter, SHAPE, noise);
        let info = batch.info;
        core.step(Input::Batch { from: author, digest, batch });
        if certified {
            let proof = core.proof(digest, info);
            core.step(proof);
        }
        if counter % GROUP == GROUP - 1 {
            core.settle(|_| ());
        }
    }
    core.settle(|_| ());
}

/// Batches of others, with proofs or without.
fn others(live: u64, noise: &Bytes, certified: bool) -> Held {
    let held = Held::new();
    let mut core = Core::new(4, unbounded());
    stored(&mut core, live, noise, certified);
    let held = held.until_now();
    drop(core);
    let left = held.region.change();
    let left = left.bytes_allocated as u64 - left.bytes_deallocated as u64;
    assert!(left < 64 << 10, "something is left of batches that are gone: {left} bytes");
    held
}

fn own(live: u64, noise: &Bytes) -> Held {
    let held = Held::new();
    let mut core = Core::new(4, unbounded());
    for counter in 0..live {
        let transactions = core.transactions(counter as usize, SHAPE.0, SHAPE.1, noise);
        let id = core.request();
        core.step(Input::Submit { id, transactions });
        core.now.monotonic += Duration::from_millis(20);
        core.step(Input::Tick);
        let mut sealed = None;
        core.settle(|records| sealed = records.iter().find_map(digest_of).or(sealed));
        let digest = sealed.expect("a batch was sealed");
        for vote in core.votes(digest) {
            core.step(vote);
        }
    }
    core.settle(|_| ());
    held.until_now()
}

fn digest_of(record: &Record) -> Option<Digest> {
    match record {
        Record::Batch(batch) => Some(batch.digest),
        _ => None,
    }
}

fn journal(live: u64, noise: &Bytes, certified: bool) -> Held {
    let directory = tempfile::tempdir().unwrap();
    let (config, identity) = (JournalConfig::default(), identity(&genesis(4)));
    let path = directory.path().join("store");
    let mut store = JournalStore::create(&path, identity, &config).unwrap();
    store.recover().unwrap();
    let core = Core::new(4, unbounded());
    // The buffer that frames are laid out in is as large as the largest group, and no batch's.
    store.commit(&records(&core, 0..GROUP, noise, certified)).unwrap();
    let held = Held::new();
    for group in 1..=live / GROUP {
        let range = group * GROUP..(group + 1) * GROUP;
        store.commit(&records(&core, range, noise, certified)).unwrap();
    }
    held.until_now()
}

fn records(
    core: &Core,
    range: std::ops::Range<u64>,
    noise: &Bytes,
    certified: bool,
) -> Vec<Record> {
    let mut records = Vec::new();
    for counter in range {
        let (digest, batch) = core.batch(peer(1), counter, SHAPE, noise);
        let (info, body) = (batch.info, batch.body.bytes().clone());
        records.push(Record::Batch(BatchRecord {
            digest,
            info,
            body,
            claims_slot: true,
            own: None,
        }));
        if certified && let Input::Proof { digest, proof } = core.proof(digest, info) {
            records.push(Record::Proof { digest, proof });
        }
    }
    records
}

/// What is measured, and the most that one batch may take, in bytes.
type Case = (&'static str, u64, fn(u64, &Bytes) -> Held);

const CASES: [Case; 5] = [
    ("sequencer/stored", 700, |live, noise| others(live, noise, false)),
    ("sequencer/certified", 1500, |live, noise| others(live, noise, true)),
    ("sequencer/own", 3800, own),
    ("journal/stored", 700, |live, noise| journal(live, noise, false)),
    ("journal/certified", 1300, |live, noise| journal(live, noise, true)),
];

/// Each in a process of its own, or what one leaves to the allocator would hide what the next one takes.
fn main() {
    let live = if in_earnest() { setting("LIVE", 100_000) } else { 1000 };
    if let Ok(only) = std::env::var("CASE") {
        let (name, bound, run) =
            CASES.into_iter().find(|(name, ..)| *name == only).expect("a case");
        // Of a few, tables are mostly room to grow.
        let bound = if live < 50_000 { u64::MAX } else { bound };
        return run(live, &noise()).report(name, live, bound);
    }
    println!(
        "{live} live batches, committee of 4\n\n{:<34}bytes   resident  bound of bytes",
        "what"
    );
    let program = std::env::current_exe().unwrap();
    let mut holds = true;
    for (name, ..) in CASES {
        let mut command = std::process::Command::new(&program);
        command.args(std::env::args().skip(1)).env("CASE", name);
        holds &= command.status().unwrap().success();
    }
    assert!(holds, "see above");
}
