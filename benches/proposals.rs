//! What a proposal and a commit cost the sequencer, with many proofs waiting: the pure core alone,
//! on one core, without a disk. At the end the slowest percentile of each is printed, and held to
//! what a leader can afford, with proofs of batches that are not here; then the median, with batches
//! that are, a quarter of them our own, as after a restart.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::Criterion;
use quorum_store::config::SequencerConfig;
use quorum_store::sequencer::port::{
    BatchRecord, Effect, Input, Now, PayloadLimits, PullRequest, Record, RequestId, TransactionMeta,
};
use quorum_store::sequencer::{Sequencer, Setup};
use quorum_store::store::Recovered;
use quorum_store::types::{
    Author, BatchId, BatchInfo, ChainId, ChainParameters, Commit, Committee, Digest, Epoch,
    Genesis, Incarnation, Member, Payload, PayloadHeader, ProofOfStore, ProofSignature, Signature,
    Timestamp,
};

/// Proofs that wait.
const PROOFS: u64 = 100_000;
const AUTHORS: u8 = 4;
/// We.
const AUTHOR: Author = Author([1; 32]);
const TRANSACTIONS: u32 = 100;
/// Batches of a block.
const BATCHES: u32 = 50;
/// Blocks that are proposed and not finalised: 20,000 transactions that must not be in the next.
const ANCESTORS: u64 = 4;
const START: u64 = 3_600_000_000;

struct World {
    sequencer: Sequencer,
    chain: ChainId,
    now: Now,
    /// Blocks that are proposed and not finalised.
    unfinalised: VecDeque<PayloadHeader>,
    requests: u64,
    /// Ever made.
    proofs: u64,
}

/// A proof of a batch of somebody, at some price.
fn proof_of(counter: u64) -> Arc<ProofOfStore> {
    let starts = SequencerConfig::default().gas_bucket_starts;
    let author = Author([1 + (counter % u64::from(AUTHORS)) as u8; 32]);
    let info = BatchInfo {
        author,
        batch_id: BatchId { incarnation: Incarnation(9), counter },
        epoch: Epoch(0),
        expiration: Timestamp(START + 20_000_000 + counter),
        count: TRANSACTIONS,
        bytes: 50_000,
        gas_bucket_start: starts[counter as usize * 7 % starts.len()],
        root: Digest([4; 32]),
    };
    let signature = Signature::from_bytes(&[1; 64]);
    let signatures = [0, 1, 2].map(|signer| ProofSignature { signer, signature });
    Arc::new(ProofOfStore { info, signatures: signatures.to_vec() })
}

/// The same with its batch, as a store had it.
fn stored(chain: &ChainId, counter: u64) -> [Record; 2] {
    let proof = proof_of(counter);
    let info = proof.info;
    let digest = info.digest(chain);
    let meta = TransactionMeta { gas_unit_price: 0, expiration: info.expiration };
    let own = (info.author == AUTHOR).then(|| vec![meta; TRANSACTIONS as usize].into());
    let body = Bytes::from(vec![0; if own.is_some() { 1000 } else { 0 }]);
    let batch = BatchRecord { digest, info, body, claims_slot: true, own };
    [Record::Batch(batch), Record::Proof { digest, proof }]
}

impl World {
    fn new(held: bool) -> Self {
        let member = |index: u8| Member { author: Author([index + 1; 32]), power: 1 };
        let genesis = Genesis {
            nonce: Digest([7; 32]),
            parameters: ChainParameters::default(),
            committee: Committee::new((0..AUTHORS).map(member).collect()).unwrap(),
        };
        let (chain, root) = (genesis.chain_id(), genesis.header());
        let setup = Setup {
            author: AUTHOR,
            epoch: Epoch(0),
            committee: genesis.committee.clone(),
            config: SequencerConfig::default(),
            genesis,
        };
        let records =
            if held { (0..PROOFS).flat_map(|n| stored(&chain, n)).collect() } else { vec![] };
        let recovered = Recovered { incarnation: Incarnation(1), records };
        let now = Now { monotonic: Duration::ZERO, wall: Timestamp(START) };
        let sequencer = Sequencer::recover(setup, recovered, now).unwrap();
        let unfinalised = VecDeque::new();
        let mut world = Self { sequencer, chain, now, unfinalised, requests: 0, proofs: 0 };
        world.proofs = if held { PROOFS } else { 0 };
        if !held {
            world.refill();
        }
        world.settle();
        let mut tip = root;
        for _ in 0..ANCESTORS {
            tip = world.pull(&tip).1;
            world.unfinalised.push_back(tip);
        }
        world
    }

    /// Proofs of batches that are not here come in the place of what was ordered.
    fn refill(&mut self) {
        while self.sequencer.proposable() < PROOFS {
            let proof = proof_of(self.proofs);
            let digest = proof.info.digest(&self.chain);
            self.sequencer.step(self.now, Input::Proof { digest, proof });
            self.proofs += 1;
        }
    }

    /// What is on its way to the disk arrives there, and what this brings about is thrown away.
    /// The last payload that was written, if there is one.
    fn settle(&mut self) -> Option<Arc<Payload>> {
        let mut written = None;
        loop {
            while let Some(effect) = self.sequencer.poll_effect() {
                assert!(!matches!(effect, Effect::Refused { .. }), "{effect:?}");
            }
            let Some(group) = self.sequencer.take_group() else { return written };
            for record in group.records() {
                if let Record::Payload { payload, .. } = record {
                    written = Some(Arc::clone(payload));
                }
            }
            self.sequencer.step(self.now, Input::Durable { sequence: group.sequence() });
        }
    }

    fn request(&self, on: &PayloadHeader) -> PullRequest {
        PullRequest {
            epoch: Epoch(0),
            height: on.height.next(),
            parent: on.digest(&self.chain),
            block_timestamp: on.block_timestamp.max(self.now.wall),
            limits: PayloadLimits {
                transactions_max: u64::from(BATCHES * TRANSACTIONS),
                batch_bytes_max: u64::MAX,
                batches_max: u64::from(BATCHES),
            },
            exclude: Vec::new(),
        }
    }

    /// The time of one step; what follows from it is not counted.
    fn timed(&mut self, input: impl FnOnce(RequestId) -> Input) -> Duration {
        self.requests += 1;
        let input = input(RequestId(self.requests));
        let began = Instant::now();
        self.sequencer.step(self.now, input);
        began.elapsed()
    }

    /// A proposal on a block, after a microsecond, so that no two are the same.
    fn pull(&mut self, on: &PayloadHeader) -> (Duration, PayloadHeader) {
        self.now.wall.0 += 1;
        let request = self.request(on);
        let took = self.timed(|id| Input::Pull { id, request });
        let payload = self.settle().expect("there is enough to propose");
        assert_eq!(payload.content.proofs.len(), BATCHES as usize);
        (took, payload.header)
    }

    /// A proposal on the highest block, while the lowest of those that are not finalised is: the
    /// time of either.
    fn round(&mut self) -> (Duration, Duration) {
        let (pull, proposed) = self.pull(&self.tip());
        self.unfinalised.push_back(proposed);
        let header = self.unfinalised.pop_front().unwrap();
        let commit = Commit { index: header.height, round: 1, header };
        let commit = self.timed(|id| Input::Commit { id, commit });
        self.settle();
        assert_eq!(self.sequencer.status().applied, header.height);
        self.refill();
        self.settle();
        (pull, commit)
    }

    fn tip(&self) -> PayloadHeader {
        *self.unfinalised.back().unwrap()
    }
}

/// The median and the slowest of a hundred: of pulls, and of commits.
fn measured(held: bool, what: &str) -> [(Duration, Duration); 2] {
    let mut world = World::new(held);
    let (pulls, commits) = (0..1000).map(|_| world.round()).unzip();
    let sorted = |mut times: Vec<Duration>| {
        times.sort_unstable();
        (times[times.len() / 2], times[times.len() * 99 / 100])
    };
    let (pull, commit) = (sorted(pulls), sorted(commits));
    println!(
        "{what}: p50 and p99 of a pull {:?} {:?}, of a commit of {BATCHES} batches {:?} {:?}",
        pull.0, pull.1, commit.0, commit.1
    );
    [pull, commit]
}

fn main() {
    let mut world = World::new(false);
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("proposals");
    group.sample_size(20);
    group.bench_function("pull/proofs=100000/excluded=20000", |bencher| {
        bencher.iter_custom(|count| (0..count).map(|_| world.round().0).sum());
    });
    group.bench_function("commit/proofs=100000/batches=50", |bencher| {
        bencher.iter_custom(|count| (0..count).map(|_| world.round().1).sum());
    });
    group.finish();
    // As a test, only that it runs.
    if std::env::args().any(|argument| argument == "--bench") {
        let proofs = measured(false, "nothing held");
        let batches = measured(true, "everything held");
        let limits = [Duration::from_millis(3), Duration::from_micros(100)];
        for (at, what) in ["a pull", "a commit"].into_iter().enumerate() {
            assert!(proofs[at].1 <= limits[at], "{what} is too slow: one in a hundred");
            assert!(batches[at].0 <= limits[at], "{what} of held batches is too slow: the median");
        }
    }
    criterion.final_summary();
}
