//! What a commit costs: blocks of 50 batches are told of, logged, applied to all components,
//! acknowledged by each and delivered to a subscriber, on a node with a store on disk.
//!
//! Proofs were verified beforehand (their signer says yes to all), and there is no content: what is
//! measured is the path of the commit. After the timings, blocks come at a fixed rate (`RATE`,
//! default 1000 a second, for `SECONDS`, default 5): it fails if any queue grows, or if there were
//! more group commits than commits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quorum_store::config::SequencerConfig;
use quorum_store::engine::{Acknowledger, QuorumStore};
use quorum_store::store::journal::JournalConfig;
use quorum_store::transport::memory::MemoryTransport;
use quorum_store::transport::{Class, Frame, LinkEvent, Transport as _};
use quorum_store::types::{
    Author, BatchId, BatchInfo, ChainId, ChainParameters, Commit, CommitIndex, CommitReceipt,
    Digest, Epoch, Incarnation, Message, Payload, PayloadContent, PayloadHeader, ProofOfStore,
    ProofSignature, Signature,
};
use support::{Chain, now};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

mod support;

const BATCHES: u64 = 50;
/// Commits under way at once in the timings.
const IN_FLIGHT: u64 = 64;
/// Payloads sent before their commits.
const AHEAD: usize = 128;

const NODE: Author = Author([1; 32]);
const LEADER: Author = Author([2; 32]);

struct World {
    node: QuorumStore,
    leader: Arc<MemoryTransport>,
    chain: ChainId,
    /// The last block proposed.
    parent: PayloadHeader,
    /// Proposed, and not told of.
    ahead: VecDeque<Commit>,
    counter: u64,
    /// Held for their ends.
    _kept: (mpsc::Receiver<LinkEvent>, tempfile::TempDir),
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let chain = Chain::new(&[NODE, LEADER], ChainParameters::default());
        let store = chain.create(&directory.path().join("store"), &JournalConfig::default());
        let sequencer =
            SequencerConfig { unasked_payloads_max: 1024, ..SequencerConfig::default() };
        let node = chain.start(store, sequencer).await;
        let (leader, events) = chain.join(LEADER).await;
        follow(&node).await;
        let parent = chain.genesis.header();
        let ahead = VecDeque::new();
        let kept = (events, directory);
        Self {
            node,
            leader,
            chain: chain.genesis.chain_id(),
            parent,
            ahead,
            counter: 0,
            _kept: kept,
        }
    }

    /// The next block to be told of. Its payload was sent some blocks ago, as by a leader before it
    /// is voted for: one that comes late is written in a group of its own.
    fn block(&mut self) -> Commit {
        while self.ahead.len() < AHEAD {
            let commit = self.propose();
            self.ahead.push_back(commit);
        }
        self.ahead.pop_front().unwrap()
    }

    fn propose(&mut self) -> Commit {
        let time = now().max(self.parent.block_timestamp);
        let proofs = (0..BATCHES).map(|_| {
            self.counter += 1;
            let batch_id = BatchId { incarnation: Incarnation(9), counter: self.counter };
            let info = BatchInfo {
                author: LEADER,
                batch_id,
                epoch: Epoch(0),
                expiration: time.saturating_add(Duration::from_secs(20)),
                count: 100,
                bytes: 50_000,
                gas_bucket_start: 0,
                root: Digest([4; 32]),
            };
            let signature = Signature::from_bytes(&[1; 64]);
            let signatures = [0, 1].map(|signer| ProofSignature { signer, signature });
            ProofOfStore { info, signatures: signatures.to_vec() }
        });
        let content = PayloadContent { proofs: proofs.collect(), ..PayloadContent::default() };
        let header = PayloadHeader {
            epoch: Epoch(0),
            height: self.parent.height.next(),
            parent: self.parent.digest(&self.chain),
            block_timestamp: time,
            content_root: content.root(),
        };
        self.parent = header;
        let encoded = Message::Payload(Box::new(Payload { header, content })).encode();
        let frame = Frame { head: encoded.head, body: encoded.body };
        while self.leader.send(NODE, Class::Control, frame.clone()).is_err() {
            std::thread::yield_now();
        }
        Commit { index: header.height, round: 1, header }
    }

    /// Tells of so many blocks, as fast as they are taken.
    async fn commits(&mut self, count: u64) {
        let node = self.node.clone();
        let mut under_way = FuturesUnordered::new();
        for _ in 0..count {
            under_way.push(begun(node.notify_commit(self.block())).await);
            if under_way.len() as u64 >= IN_FLIGHT {
                under_way.next().await.unwrap().unwrap();
            }
        }
        while let Some(receipt) = under_way.next().await {
            receipt.unwrap();
        }
    }

    /// Tells of blocks at a fixed rate. Says the longest time that one took, and the longest queue
    /// in the second half.
    async fn sustain(&mut self, rate: u64, seconds: u64) -> (Duration, u64) {
        let (node, began) = (self.node.clone(), Instant::now());
        let mut under_way = FuturesUnordered::new();
        let (mut slowest, mut longest) = (Duration::ZERO, 0);
        let total = rate * seconds;
        for count in 0..total {
            let due = began + Duration::from_secs_f64(count as f64 / rate as f64);
            let asked = async |commit: Commit| -> (Instant, CommitReceipt) {
                let asked = Instant::now();
                (asked, node.notify_commit(commit).await.unwrap())
            };
            under_way.push(begun(asked(self.block())).await);
            loop {
                let pause = due.saturating_duration_since(Instant::now());
                match tokio::time::timeout(pause, under_way.next()).await {
                    Ok(Some((asked, _))) => slowest = slowest.max(asked.elapsed()),
                    Ok(None) | Err(_) => break,
                }
            }
            if count > total / 2 {
                longest = longest.max(under_way.len() as u64);
            }
        }
        while let Some((asked, _)) = under_way.next().await {
            slowest = slowest.max(asked.elapsed());
        }
        (slowest, longest)
    }
}

/// An executor without work: it acknowledges everything at once.
async fn follow(node: &QuorumStore) {
    let mut executor = node.subscribe("executor", CommitIndex(1)).await.unwrap();
    let acknowledger: Acknowledger = executor.acknowledger();
    tokio::spawn(async move {
        while let Ok(delivery) = executor.next().await {
            if acknowledger.acknowledge(delivery.last()).await.is_err() {
                return;
            }
        }
    });
}

/// A call that has been made: commits are told of in their order, whatever is polled first later.
async fn begun<T>(call: impl Future<Output = T>) -> impl Future<Output = T> {
    // Without the runtime's budget, or the first poll may make no call.
    let mut call = Box::pin(tokio::task::unconstrained(call));
    let mut early = std::future::poll_fn(|context| {
        std::task::Poll::Ready(match call.as_mut().poll(context) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        })
    })
    .await;
    async move {
        match early.take() {
            Some(done) => done,
            None => call.await,
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn sustained(runtime: &Runtime, world: &mut World) {
    let (rate, seconds) = (number("RATE", 1000), number("SECONDS", 5));
    let before = world.node.statistics();
    let (slowest, longest) = runtime.block_on(world.sustain(rate, seconds));
    let after = world.node.statistics();
    let commits = after.commits - before.commits;
    let fsyncs = after.fsyncs - before.fsyncs;
    println!(
        "{rate} commits/s of {BATCHES} batches for {seconds} s: {fsyncs} group commits for \
         {commits} commits, slowest {slowest:?}, at most {longest} under way"
    );
    assert_eq!(commits, rate * seconds);
    assert!(fsyncs <= commits, "a commit costs at most one group commit");
    assert!(longest <= rate, "more than a second of commits is under way: a queue grows");
    let status = runtime.block_on(world.node.status()).unwrap();
    let lag = status.subscribers[0].lag_commits;
    assert!(lag <= rate, "the subscriber is {lag} commits behind");
}

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut world = runtime.block_on(World::new());
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(10);
    for commits in [1, 100] {
        group.throughput(Throughput::Elements(commits));
        group.bench_function(format!("notify/commits={commits}/batches={BATCHES}"), |bencher| {
            bencher.iter(|| runtime.block_on(world.commits(commits)));
        });
    }
    group.finish();
    // As a test, only that it runs.
    if std::env::args().any(|argument| argument == "--bench") {
        sustained(&runtime, &mut world);
    }
    runtime.block_on(world.node.shutdown());
    criterion.final_summary();
}
