//! What a batch costs as the committee grows: signatures, bytes and processor time, counted where that many
//! validators fit on one machine, computed from measured unit costs beyond. `docs/scaling.md` tells what
//! follows from it.
//!
//! 1. **Counted.** Real engines on links in memory, 4 to 25 of them; per certified batch: signatures made
//!    and verified, messages and bytes sent, by kind. It fails if they are not what the model says, within
//!    a quarter: then the model, or the protocol, has changed.
//! 2. **Unit costs** on this machine: a signature made and verified, a byte hashed, stored and sent.
//! 3. **The model**: 1 with the costs of 2, for a validator with `CORES` (default 8), a link of `LINK_GBIT` each
//!    way (default 10) and a disk of `DISK_MB` a second (default 2000), for batches of `BODY` bytes (default
//!    100000 and 1000000): which of them binds, and at how many bytes of transactions a second. Then the
//!    same with one signature for each group commit instead of one for each batch, `GROUP` batches (default
//!    8 and 32) to a group. And how often everybody may seal a batch, however small, before signatures
//!    take a whole core.
//!
//! The model leaves out what the sequencer, the host and the kernel's scheduler add, so it is an upper bound.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ed25519_dalek::Signer as _;
use measure::{in_earnest, median, noise, setting, usage};
use pair::Pair;
use pure::{Core, genesis, identity, peer, unbounded};
use quorum_store::crypto::{Ed25519Signer, Signer as _};
use quorum_store::sequencer::port::{BatchRecord, Record};
use quorum_store::store::Store as _;
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::transport::Frame;
use quorum_store::types::{BatchInfo, Digest, Epoch, Scope, Signature, SignedBatchInfo};
use tokio::runtime::Runtime;
use town::{Counts, StoreKind, Town};
use zeroize::Zeroizing;

#[path = "support/measure.rs"]
mod measure;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/pure.rs"]
mod pure;
#[path = "support/town/mod.rs"]
mod town;

const COUNTED: [usize; 4] = [4, 7, 10, 25];
const COMPUTED: [usize; 7] = [4, 7, 10, 25, 50, 100, 200];
/// A signature in a proof, and the index of its signer.
const PROOF_PART_BYTES: f64 = 66.0;
const VOTE_BYTES: f64 = 96.0;
/// A digest of a path in a tree of the batches of a group.
const PATH_BYTES: f64 = 32.0;
/// Entries of a batch in the journal beside body and proof.
const ENTRY_BYTES: f64 = 600.0;

/// Signatures in a proof, where everybody has one power.
fn quorum(validators: usize) -> f64 {
    (validators * 2 / 3 + 1) as f64
}

/// What all validators do together for one batch.
struct PerBatch {
    signed: f64,
    verified: f64,
    /// Bytes of proofs and of their second journey, in payloads.
    proof_bytes: f64,
    copies: f64,
}

impl PerBatch {
    /// Everybody signs once. The author checks each vote of the others, and each of them every signature of
    /// the proof, once: it is remembered when it comes back in a payload.
    fn model(validators: usize) -> Self {
        let others = validators as f64 - 1.0;
        let proof = BatchInfo::ENCODED_BYTES as f64 + PROOF_PART_BYTES * quorum(validators);
        Self {
            signed: validators as f64,
            verified: others * (1.0 + quorum(validators)),
            proof_bytes: 2.0 * others * proof,
            copies: others,
        }
    }

    fn counted(counts: &Counts) -> Self {
        let certified = counts.certified.max(1) as f64;
        let sent = |kind: &str| counts.sent.get(kind).copied().unwrap_or_default();
        Self {
            signed: counts.signed as f64 / certified,
            verified: counts.verified as f64 / certified,
            proof_bytes: (sent("proofs").1 + sent("payload").1) / certified,
            copies: sent("batch").0 / certified,
        }
    }
}

fn counted(runtime: &Runtime, validators: usize) -> Counts {
    runtime.block_on(async {
        let town = Town::start(validators, StoreKind::Memory, 512).await;
        let load = town.load(validators.max(8), 200);
        tokio::time::sleep(Duration::from_secs(setting("SECONDS", 2))).await;
        load.stop().await;
        let counts = town.counts();
        town.stop().await;
        counts
    })
}

fn count(runtime: &Runtime) {
    println!(
        "counted for each certified batch, all validators together; in brackets the model\n\n\
         validators  batches   signed         verified           copies sent    bytes of proofs"
    );
    for validators in COUNTED {
        let counts = counted(runtime, validators);
        let (found, model) = (PerBatch::counted(&counts), PerBatch::model(validators));
        let pairs = [
            (found.signed, model.signed),
            (found.verified, model.verified),
            (found.copies, model.copies),
            (found.proof_bytes, model.proof_bytes),
        ];
        let [signed, verified, copies, bytes] =
            pairs.map(|(found, model)| format!("{found:.1} ({model:.0})"));
        println!(
            "{validators:<12}{:<10}{signed:<15}{verified:<19}{copies:<15}{bytes}",
            counts.certified
        );
        for (found, model) in pairs {
            let ratio = found / model;
            assert!((0.75..1.25).contains(&ratio), "{validators} validators: the model is wrong");
        }
    }
}

/// Microseconds of one core.
#[derive(Clone, Copy)]
struct Costs {
    sign: f64,
    verify: f64,
    /// Of two digests.
    hash_pair: f64,
    hash_byte: f64,
    store_batch: f64,
    store_byte: f64,
    /// At one end.
    link_byte: f64,
}

/// Wall time of one of `count`, in microseconds: median of some runs.
fn timed<T>(count: u32, run: impl Fn() -> T) -> f64 {
    let once = || {
        let began = Instant::now();
        (0..count).for_each(|_| {
            black_box(run());
        });
        began.elapsed().as_secs_f64() * 1e6 / f64::from(count)
    };
    median((0..7).map(|_| once()).collect())
}

impl Costs {
    fn measure(runtime: &Runtime, noise: &Bytes) -> Self {
        let genesis = genesis(4);
        let (chain, epoch, committee) = (genesis.chain_id(), Epoch(0), genesis.committee.hash());
        let scope = Scope { chain, epoch, committee };
        let key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
        let signer = Ed25519Signer::new(&Zeroizing::new([9; 32]));
        let digest = Digest([5; 32]);
        let message = scope.batch_stored_bytes(&digest);
        let signature = Signature::from_bytes(&key.sign(&message).to_bytes());
        let vote = SignedBatchInfo { digest, signer: signer.author(), signature };
        let verify = || assert!(signer.verify_batch(&scope, black_box(&vote)));
        let body = &noise[..100_000];
        let (small, large) = (stored(noise, 4000), stored(noise, 100_000));
        let store_byte = (large - small).max(0.0) / 96_000.0;
        Self {
            sign: timed(500, || key.sign(black_box(&message))),
            verify: timed(500, verify),
            hash_pair: timed(5000, || blake3::hash(black_box(&body[..64]))),
            hash_byte: timed(200, || blake3::hash(black_box(body))) / 1e5,
            store_batch: (small - store_byte * 4000.0).max(0.0),
            store_byte,
            link_byte: runtime.block_on(sent(noise)) / 2.0,
        }
    }
}

/// Processor time to store a batch of so many bytes in a group of eight, in microseconds.
fn stored(noise: &Bytes, bytes: usize) -> f64 {
    const GROUP: u64 = 8;
    let directory = tempfile::tempdir().unwrap();
    let config =
        JournalConfig { segment_bytes: bytesize::ByteSize::mib(512), ..JournalConfig::default() };
    let identity = identity(&pure::genesis(4));
    let mut store =
        JournalStore::create(&directory.path().join("store"), identity, &config).unwrap();
    store.recover().unwrap();
    let core = Core::new(4, unbounded());
    let groups = if in_earnest() { 500 } else { 2 };
    let (_, batch) = core.batch(peer(1), 0, (1, bytes), noise);
    let group = |number: u64| -> Vec<Record> {
        let record = |index| {
            let counter = number * GROUP + index;
            let mut info = batch.info;
            info.batch_id.counter = counter;
            let digest = Digest(*blake3::hash(&counter.to_le_bytes()).as_bytes());
            let body = batch.body.bytes().clone();
            Record::Batch(BatchRecord { digest, info, body, claims_slot: true, own: None })
        };
        (0..GROUP).map(record).collect()
    };
    store.commit(&group(0)).unwrap();
    let (cpu, _) = usage();
    for number in 1..=groups {
        store.commit(&group(number)).unwrap();
    }
    (usage().0.saturating_sub(cpu)).as_secs_f64() * 1e6 / (groups * GROUP) as f64
}

/// Processor time of a byte over an encrypted link, both ends, in microseconds.
async fn sent(noise: &Bytes) -> f64 {
    const BYTES: usize = 100_000;
    let frames = if in_earnest() { 5000 } else { 20 };
    let mut pair = Pair::new().await;
    let frame = Frame { head: Bytes::from_static(b"head"), body: noise.slice(..BYTES) };
    let (mut queued, mut received) = (0, 0);
    let (cpu, _) = usage();
    while received < frames {
        while queued < frames && queued - received < 32 && pair.send(frame.clone()) {
            queued += 1;
        }
        pair.receive().await;
        received += 1;
    }
    let took = usage().0.saturating_sub(cpu);
    pair.end().await;
    took.as_secs_f64() * 1e6 / (frames * BYTES) as f64
}

/// What one validator does for each batch of the network, of which it makes its share.
struct Model {
    signature_us: f64,
    byte_us: f64,
    sent_bytes: f64,
    disk_bytes: f64,
}

impl Model {
    /// With one signature for `group` batches.
    fn new(costs: &Costs, validators: usize, body: f64, group: f64) -> Self {
        let (quorum, share) = (quorum(validators), 1.0 - 1.0 / validators as f64);
        let depth = group.log2().ceil();
        let proof =
            BatchInfo::ENCODED_BYTES as f64 + quorum * (PROOF_PART_BYTES + depth * PATH_BYTES);
        // Batches, votes, proofs, and proofs again in payloads.
        let sent_bytes = share * (body + VOTE_BYTES / group + 2.0 * proof);
        let verified = share * (1.0 + quorum) / group;
        let paths = share * quorum * depth;
        let signature_us = costs.sign / group + costs.verify * verified + costs.hash_pair * paths;
        let disk_bytes = body + proof + ENTRY_BYTES;
        let stored = costs.store_batch + costs.store_byte * disk_bytes;
        // As much is received as is sent.
        let byte_us = costs.hash_byte * body + stored + costs.link_byte * 2.0 * sent_bytes;
        Self { signature_us, byte_us, sent_bytes, disk_bytes }
    }

    /// What binds, and at how many megabytes of transactions a second.
    fn bound(&self, body: f64) -> (&'static str, f64) {
        let (cores, gigabits) = (setting("CORES", 8) as f64, setting("LINK_GBIT", 10) as f64);
        let disk = setting("DISK_MB", 2000) as f64 * 1e6;
        let cpu = cores * 1e6 / (self.signature_us + self.byte_us);
        let link = gigabits * 1e9 / 8.0 / self.sent_bytes;
        let batches = [("processors", cpu), ("link", link), ("disk", disk / self.disk_bytes)];
        let (what, rate) = batches.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        (what, rate * body / 1e6)
    }
}

fn compute(costs: &Costs) {
    let Costs { sign, verify, hash_pair, hash_byte, store_batch, store_byte, link_byte } = costs;
    println!(
        "\nunit costs of one core: a signature made {sign:.1} us, verified {verify:.1} us; two digests \
         hashed {hash_pair:.3} us; a batch stored {store_batch:.1} us; a KB hashed {:.3} us, stored \
         {:.3} us, sent or received {:.3} us",
        hash_byte * 1e3,
        store_byte * 1e3,
        link_byte * 1e3,
    );
    ages(costs, &[1, 8, 32]);
    let bodies = picked_or("BODY", &[100_000, 1_000_000]);
    let groups = picked_or("GROUP", &[8, 32]);
    for body in bodies.into_iter().map(|body| body as f64) {
        println!(
            "\nbatches of {body} bytes; one validator, for each batch of the network\n\n\
             group  validators  us signatures  us bytes  signatures  sent/byte  binds       MB/s"
        );
        for group in [1].into_iter().chain(groups.iter().copied()) {
            for validators in COMPUTED {
                let model = Model::new(costs, validators, body, group as f64);
                let (binds, rate) = model.bound(body);
                let share = model.signature_us / (model.signature_us + model.byte_us);
                println!(
                    "{group:<7}{validators:<12}{:<15.0}{:<10.0}{:<12}{:<11.2}{binds:<12}{rate:.0}",
                    model.signature_us,
                    model.byte_us,
                    format!("{:.0} %", share * 100.0),
                    model.sent_bytes / body,
                );
            }
        }
    }
}

/// Who always has something to seal makes a batch each `batch_age_max`, whatever its size.
fn ages(costs: &Costs, groups: &[u64]) {
    println!("\nleast batch_age_max at which signatures take one core of each validator, ms\n");
    print!("validators");
    for group in groups {
        print!("  group={group:<4}");
    }
    println!();
    for validators in COMPUTED {
        print!("{validators:<12}");
        for group in groups {
            let model = Model::new(costs, validators, 0.0, *group as f64);
            print!("{:<12.1}", model.signature_us * validators as f64 / 1000.0);
        }
        println!();
    }
}

/// What the environment says, or the defaults.
fn picked_or(name: &str, defaults: &[u64]) -> Vec<u64> {
    std::env::var(name).map_or_else(|_| defaults.to_vec(), |_| vec![setting(name, 0)])
}

fn main() {
    let runtime = Runtime::new().unwrap();
    if in_earnest() {
        count(&runtime);
    }
    compute(&Costs::measure(&runtime, &noise()));
}
