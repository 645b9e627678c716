//! What it takes to fetch: a node that missed batches materialises the blocks that order them, from
//! three holders that answer at once, and stores what it fetched.
//!
//! Large batches come in chunks from several holders. After the timings a node catches up with
//! `BATCHES` missed batches (default 10000) of `BYTES` each (default 20000); beside it stands what
//! the same disk takes when the same bytes are written in groups of 8 MiB, and the run fails if
//! catching up is less than half as fast.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use futures::{StreamExt as _, stream};
use quorum_store::config::SequencerConfig;
use quorum_store::engine::{Materialized, QuorumStore};
use quorum_store::sequencer::port::{BatchRecord, Record};
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::{Store as _, StoreIdentity};
use quorum_store::transport::memory::MemoryTransport;
use quorum_store::transport::{Class, Frame, LinkEvent, Transport as _};
use quorum_store::types::{
    AbsentReason, Author, Batch, BatchId, BatchInfo, BodyBuilder, ChainId, ChainParameters, Chunk,
    ChunkId, Commit, Digest, Epoch, FetchedContent, Incarnation, Message, Payload, PayloadContent,
    PayloadHeader, ProofOfStore, ProofSignature, Signature,
};
use support::{Chain, now};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

mod support;

/// Batches in one block.
const IN_BLOCK: u64 = 50;
/// Blocks whose content is gathered at once, as the validator does.
const AT_ONCE: usize = 4;
const PATIENCE: Duration = Duration::from_mins(1);
/// The validators: the first one fetches.
const AUTHORS: [Author; 4] = [Author([1; 32]), Author([2; 32]), Author([3; 32]), Author([4; 32])];

/// What every holder has.
type Held = Arc<RwLock<BTreeMap<Digest, Batch>>>;

async fn hold(transport: Arc<MemoryTransport>, mut events: mpsc::Receiver<LinkEvent>, held: Held) {
    while let Some(event) = events.recv().await {
        let LinkEvent::Frame(inbound) = event else { continue };
        let replies = match Message::decode(&inbound.bytes).unwrap() {
            Message::FetchRequest(digests) => {
                let held = held.read().unwrap();
                let content = |digest: &Digest| match held.get(digest) {
                    Some(batch) => FetchedContent::Batch(batch.clone()),
                    None => FetchedContent::Absent(AbsentReason::NotHeld),
                };
                digests.iter().map(|digest| (*digest, content(digest))).collect()
            }
            Message::ChunkRequest(chunks) => {
                let held = held.read().unwrap();
                let mut by_digest: BTreeMap<Digest, Vec<u16>> = BTreeMap::new();
                for ChunkId { digest, index } in chunks {
                    by_digest.entry(digest).or_default().push(index);
                }
                let mut replies = Vec::new();
                for (digest, indices) in by_digest {
                    // What was asked of somebody else as well may be over by now.
                    let Some(batch) = held.get(&digest) else { continue };
                    let chunks = Chunk::cut(batch.info, &batch.body, &indices);
                    let content = chunks.into_iter().map(Box::new).map(FetchedContent::Chunk);
                    replies.extend(content.map(|content| (digest, content)));
                }
                replies
            }
            _ => continue,
        };
        for (digest, content) in replies {
            send(&transport, Class::Bulk, &Message::FetchReply { digest, content }).await;
        }
    }
}

async fn send(transport: &MemoryTransport, class: Class, message: &Message) {
    let encoded = message.encode();
    let frame = Frame { head: encoded.head, body: encoded.body };
    while transport.send(AUTHORS[0], class, frame.clone()).is_err() {
        tokio::task::yield_now().await;
    }
}

struct World {
    node: QuorumStore,
    chain: ChainId,
    holders: Vec<Arc<MemoryTransport>>,
    held: Held,
    parent: PayloadHeader,
    counter: u64,
    directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let parameters = ChainParameters {
            batch_lifetime_micros: 3_600_000_000,
            batch_bytes_max: 4 << 20,
            ..ChainParameters::default()
        };
        let chain = Chain::new(&AUTHORS, parameters);
        let store = chain.create(&directory.path().join("store"), &JournalConfig::default());
        let sequencer = SequencerConfig {
            unasked_payloads_max: 1024,
            recovered_bytes_max: bytesize::ByteSize::gib(16),
            // What nobody waits for yet is not to be here before somebody does.
            refetch_bytes_per_second: bytesize::ByteSize::kib(64),
            ..SequencerConfig::default()
        };
        let node = chain.start(store, sequencer).await;
        let held = Held::default();
        let mut holders = Vec::new();
        for author in &AUTHORS[1..] {
            let (transport, events) = chain.join(*author).await;
            tokio::spawn(hold(Arc::clone(&transport), events, Arc::clone(&held)));
            holders.push(transport);
        }
        let parent = chain.genesis.header();
        let chain = chain.genesis.chain_id();
        Self { node, chain, holders, held, parent, counter: 0, directory }
    }

    /// A batch that everybody else has.
    fn batch(&mut self, bytes: usize) -> (Digest, ProofOfStore) {
        self.counter += 1;
        let mut builder = BodyBuilder::new();
        let mut transaction = vec![self.counter as u8; 1900];
        transaction[..8].copy_from_slice(&self.counter.to_le_bytes());
        while builder.count() == 0 || builder.bytes_with(transaction.len()) <= bytes {
            builder.push(Bytes::from(transaction.clone()));
        }
        let count = builder.count();
        let body = builder.finish();
        let info = BatchInfo {
            author: AUTHORS[1],
            batch_id: BatchId { incarnation: Incarnation(9), counter: self.counter },
            epoch: Epoch(0),
            expiration: now().saturating_add(Duration::from_mins(30)),
            count,
            bytes: body.bytes().len() as u32,
            gas_bucket_start: 0,
            root: body.root(),
        };
        let digest = info.digest(&self.chain);
        self.held.write().unwrap().insert(digest, Batch { info, body });
        let signature = Signature::from_bytes(&[1; 64]);
        let signatures = [1, 2, 3].map(|signer| ProofSignature { signer, signature });
        (digest, ProofOfStore { info, signatures: signatures.to_vec() })
    }

    /// A block of so many new batches, of which the node has the list alone.
    async fn block(&mut self, batches: u64, bytes: usize) -> Commit {
        let proofs = (0..batches).map(|_| self.batch(bytes).1).collect();
        let content = PayloadContent { proofs, ..PayloadContent::default() };
        let header = PayloadHeader {
            epoch: Epoch(0),
            height: self.parent.height.next(),
            parent: self.parent.digest(&self.chain),
            block_timestamp: now().max(self.parent.block_timestamp),
            content_root: content.root(),
        };
        self.parent = header;
        let payload = Message::Payload(Box::new(Payload { header, content }));
        send(&self.holders[0], Class::Control, &payload).await;
        let commit = Commit { index: header.height, round: 1, header };
        self.node.notify_commit(commit).await.unwrap();
        commit
    }

    /// Materialises them, and forgets what the holders had. Returns the bytes.
    async fn materialize(&self, commits: &[Commit]) -> u64 {
        let gathered = stream::iter(commits).map(|commit| self.node.materialize(commit, PATIENCE));
        let mut gathered = gathered.buffered(AT_ONCE);
        let mut bytes = 0;
        while let Some(outcome) = gathered.next().await {
            let Materialized::Ready(batches) = outcome.unwrap() else { panic!("not ready") };
            let bodies = batches.iter().filter_map(|batch| batch.body.as_ref());
            bytes += bodies.map(|body| body.bytes().len() as u64).sum::<u64>();
        }
        self.held.write().unwrap().clear();
        bytes
    }

    /// How long materialising new batches takes, so many times.
    async fn timed(&mut self, times: u64, batches: u64, bytes: usize) -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..times {
            let commit = self.block(batches, bytes).await;
            let began = Instant::now();
            self.materialize(&[commit]).await;
            took += began.elapsed();
        }
        took
    }

    /// What the disk takes of the same content, in bytes a second.
    fn disk(&mut self, batches: u64, bytes: usize) -> f64 {
        let identity = StoreIdentity { author: AUTHORS[0], chain: self.chain };
        let path = self.directory.path().join("disk");
        let mut store = JournalStore::create(&path, identity, &JournalConfig::default()).unwrap();
        store.recover().unwrap();
        let in_group = ((8 << 20) / bytes.max(1)).max(1) as u64;
        let (mut took, mut written, mut left) = (Duration::ZERO, 0, batches);
        while left > 0 {
            let count = left.min(in_group);
            left -= count;
            let records = (0..count).map(|_| {
                let (digest, _) = self.batch(bytes);
                let Batch { info, body } = self.held.write().unwrap().remove(&digest).unwrap();
                let body = body.bytes().clone();
                written += body.len();
                Record::Batch(BatchRecord { digest, info, body, claims_slot: false, own: None })
            });
            let records: Vec<Record> = records.collect();
            let began = Instant::now();
            store.commit(&records).unwrap();
            took += began.elapsed();
        }
        written as f64 / took.as_secs_f64()
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn catch_up(runtime: &Runtime, world: &mut World) {
    let (batches, bytes) = (number("BATCHES", 10_000), number("BYTES", 20_000) as usize);
    let mut commits = Vec::new();
    for _ in 0..batches / IN_BLOCK {
        commits.push(runtime.block_on(world.block(IN_BLOCK, bytes)));
    }
    let began = Instant::now();
    let fetched = runtime.block_on(world.materialize(&commits));
    let rate = fetched as f64 / began.elapsed().as_secs_f64();
    let disk = world.disk(batches, bytes);
    println!(
        "{batches} missed batches of {bytes} bytes: {:.0} MB/s, {:.2} of the {:.0} MB/s that the \
         disk takes",
        rate / 1e6,
        rate / disk,
        disk / 1e6
    );
    assert!(rate * 2.0 >= disk, "catching up is less than half as fast as the disk");
}

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut world = runtime.block_on(World::new());
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("fetch");
    group.sample_size(10);
    for (batches, bytes) in [(1, 2_000), (50, 20_000), (1, 3 << 20)] {
        group.throughput(Throughput::Bytes(batches * bytes as u64));
        let name = BenchmarkId::from_parameter(format!("batches={batches}/bytes={bytes}"));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| runtime.block_on(world.timed(times, batches, bytes)));
        });
    }
    group.finish();
    // As a test, only that it runs.
    if std::env::args().any(|argument| argument == "--bench") {
        catch_up(&runtime, &mut world);
    }
    runtime.block_on(world.node.shutdown());
    criterion.final_summary();
}
