//! What it takes to fetch: a node that missed batches materialises the blocks that order them, from
//! three holders that answer at once, and stores what it fetched.
//!
//! Large batches come in chunks from several holders. After the timings a node catches up over QUIC
//! with `BATCHES` missed batches (default 10000) of `BYTES` each (default 20000), three times. Each
//! time beside it stands what link and disk carry: the same frames over the same links, written to
//! the same disk in groups of 8 MiB as they arrive, and nothing else done with them. The run fails
//! if the median of catching up is less than half of that. What the links carry alone and what the
//! disk takes alone is shown too, and catching up over links in memory.
//!
//! Everything is on one machine: whoever serves takes its processors as well.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use ed25519_dalek::SigningKey;
use futures::{StreamExt as _, stream};
use quorum_store::config::SequencerConfig;
use quorum_store::engine::{Materialized, QuorumStore};
use quorum_store::sequencer::port::{BatchRecord, Record};
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::{Store as _, StoreIdentity};
use quorum_store::transport::{Class, Frame, LinkEvent, Peer, Transport};
use quorum_store::types::{
    AbsentReason, Author, Batch, BatchId, BatchInfo, BodyBuilder, ChainId, ChainParameters, Chunk,
    ChunkId, Commit, Digest, Epoch, FetchedContent, Incarnation, Message, Payload, PayloadContent,
    PayloadHeader, ProofOfStore, ProofSignature, Signature,
};
use support::{Bound, Chain, linked, now};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

mod support;

/// Batches in one block.
const IN_BLOCK: u64 = 50;
/// Blocks whose content is gathered at once, as the validator does.
const AT_ONCE: usize = 4;
const PATIENCE: Duration = Duration::from_mins(1);
/// The validators, in the order of the committee: the first one fetches.
static KEYS: LazyLock<Vec<SigningKey>> = LazyLock::new(|| {
    let mut keys: Vec<_> = (1..=4).map(|seed| SigningKey::from_bytes(&[seed; 32])).collect();
    keys.sort_by_key(|key| key.verifying_key().to_bytes());
    keys
});

fn author(index: usize) -> Author {
    Author(KEYS[index].verifying_key().to_bytes())
}

fn authors() -> Vec<Author> {
    (0..KEYS.len()).map(author).collect()
}

/// What the validators are linked by.
#[derive(Clone, Copy, PartialEq)]
enum Links {
    Memory,
    Quic,
}

type Received = mpsc::Receiver<LinkEvent>;

/// What every holder has.
type Held = Arc<RwLock<BTreeMap<Digest, Batch>>>;

async fn hold(transport: Arc<dyn Transport>, mut events: Received, held: Held) {
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
            send(&*transport, Class::Bulk, &Message::FetchReply { digest, content }).await;
        }
    }
}

async fn send(transport: &dyn Transport, class: Class, message: &Message) {
    let encoded = message.encode();
    let frame = Frame { head: encoded.head, body: encoded.body };
    while transport.send(author(0), class, frame.clone()).is_err() {
        tokio::task::yield_now().await;
    }
}

struct World {
    node: QuorumStore,
    chain: ChainId,
    holders: Vec<Arc<dyn Transport>>,
    held: Held,
    parent: PayloadHeader,
    counter: u64,
    directory: tempfile::TempDir,
}

impl World {
    async fn new(links: Links) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let parameters = ChainParameters {
            batch_lifetime_micros: 3_600_000_000,
            batch_bytes_max: 4 << 20,
            ..ChainParameters::default()
        };
        let chain = Chain::new(&authors(), parameters);
        let store = chain.create(&directory.path().join("store"), &JournalConfig::default());
        let sequencer = SequencerConfig {
            unasked_payloads_max: 1024,
            recovered_bytes_max: bytesize::ByteSize::gib(16),
            // What nobody waits for yet is not to be here before somebody does.
            refetch_bytes_per_second: bytesize::ByteSize::kib(64),
            ..SequencerConfig::default()
        };
        let held = Held::default();
        let mut holders: Vec<Arc<dyn Transport>> = Vec::new();
        let node = if links == Links::Quic {
            let mut joined: Vec<_> = KEYS[1..].iter().map(|key| chain.bind(key)).collect();
            let (node, peer) = chain.start_on_quic(store, sequencer, &KEYS[0], &joined).await;
            for (transport, mut events) in joined.drain(..) {
                transport.set_peers(vec![peer]);
                linked(&mut events).await;
                let transport: Arc<dyn Transport> = transport;
                tokio::spawn(hold(Arc::clone(&transport), events, Arc::clone(&held)));
                holders.push(transport);
            }
            node
        } else {
            let node = chain.start(store, sequencer).await;
            for author in &authors()[1..] {
                let (transport, events) = chain.join(*author).await;
                let transport: Arc<dyn Transport> = transport;
                tokio::spawn(hold(Arc::clone(&transport), events, Arc::clone(&held)));
                holders.push(transport);
            }
            node
        };
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
            author: author(1),
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
        send(&*self.holders[0], Class::Control, &payload).await;
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

    /// A store of its own on the same disk.
    fn store(&self) -> JournalStore {
        let identity = StoreIdentity { author: author(0), chain: self.chain };
        let path = self.directory.path().join(format!("disk-{}", self.counter));
        let mut store = JournalStore::create(&path, identity, &JournalConfig::default()).unwrap();
        store.recover().unwrap();
        store
    }

    /// What the disk takes of the same content, in bytes a second.
    fn disk(&mut self, batches: u64, bytes: usize) -> f64 {
        let mut store = self.store();
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

/// What the links of a validator carry of the same batches, in bytes a second: what arrives is
/// written to this store in groups, or dropped if there is none.
async fn link(world: &mut World, batches: u64, bytes: usize, store: Option<JournalStore>) -> f64 {
    let parameters = ChainParameters { batch_bytes_max: 4 << 20, ..ChainParameters::default() };
    let chain = Chain::new(&authors(), parameters);
    let (receiver, arriving) = chain.bind(&KEYS[0]);
    let peer = Peer { key: author(0), address: receiver.local_address() };
    let mut senders: Vec<_> = KEYS[1..].iter().map(|key| chain.bind(key)).collect();
    let address = |(index, bound): (usize, &Bound)| Peer {
        key: author(index + 1),
        address: bound.0.local_address(),
    };
    receiver.set_peers(senders.iter().enumerate().map(address).collect());
    let mut frames: Vec<Vec<Message>> = vec![Vec::new(); senders.len()];
    for batch in 0..batches {
        let (digest, _) = world.batch(bytes);
        let held = world.held.write().unwrap().remove(&digest).unwrap();
        let content = FetchedContent::Batch(held);
        frames[batch as usize % KEYS[1..].len()].push(Message::FetchReply { digest, content });
    }
    for (transport, events) in &mut senders {
        transport.set_peers(vec![peer]);
        linked(events).await;
    }
    let began = Instant::now();
    for ((transport, _), frames) in senders.iter().zip(frames) {
        let transport = Arc::clone(transport);
        tokio::spawn(async move {
            for frame in frames {
                send(&*transport, Class::Bulk, &frame).await;
            }
        });
    }
    let taken = tokio::task::spawn_blocking(move || take(arriving, batches, store));
    let rate = taken.await.unwrap() as f64 / began.elapsed().as_secs_f64();
    for transport in senders.iter().map(|(transport, _)| transport).chain([&receiver]) {
        transport.shutdown().await;
    }
    rate
}

/// Takes what arrives; returns its bytes.
fn take(mut received: Received, batches: u64, mut store: Option<JournalStore>) -> u64 {
    let (mut left, mut bytes, mut group) = (batches, 0, Vec::new());
    while left > 0 {
        let LinkEvent::Frame(frame) = received.blocking_recv().unwrap() else { continue };
        left -= 1;
        bytes += frame.bytes.len() as u64;
        if store.is_some() {
            let Ok(Message::FetchReply { digest, content }) = Message::decode(&frame.bytes) else {
                panic!("not a reply")
            };
            let FetchedContent::Batch(Batch { info, body }) = content else { panic!("no batch") };
            let body = body.bytes().clone();
            group.push(Record::Batch(BatchRecord {
                digest,
                info,
                body,
                claims_slot: false,
                own: None,
            }));
        }
        if left == 0 || bytes >> 23 > (bytes - frame.bytes.len() as u64) >> 23 {
            if let Some(store) = &mut store {
                store.commit(&group).unwrap();
            }
            group.clear();
        }
    }
    bytes
}

/// Bytes a second, once.
fn catch_up(runtime: &Runtime, world: &mut World, batches: u64, bytes: usize) -> f64 {
    let mut commits = Vec::new();
    for _ in 0..batches / IN_BLOCK {
        commits.push(runtime.block_on(world.block(IN_BLOCK, bytes)));
    }
    let began = Instant::now();
    let fetched = runtime.block_on(world.materialize(&commits));
    fetched as f64 / began.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2] / 1e6
}

/// What a node catches up with beside what its links and its disk carry, in turn.
fn catch_up_beside(runtime: &Runtime, links: Links) {
    let (batches, bytes) = (number("BATCHES", 10_000), number("BYTES", 20_000) as usize);
    let mut world = runtime.block_on(World::new(links));
    let mut measured: [Vec<f64>; 4] = Default::default();
    for _ in 0..3 {
        measured[0].push(catch_up(runtime, &mut world, batches, bytes));
        measured[1].push(world.disk(batches, bytes));
        if links == Links::Quic {
            let store = world.store();
            measured[2].push(runtime.block_on(link(&mut world, batches, bytes, None)));
            measured[3].push(runtime.block_on(link(&mut world, batches, bytes, Some(store))));
        }
    }
    runtime.block_on(world.node.shutdown());
    if links == Links::Memory {
        let [rate, disk, ..] = measured;
        let (rate, disk) = (median(rate), median(disk));
        println!("over links in memory: {rate:.0} MB/s; the disk alone {disk:.0} MB/s");
        return;
    }
    let [rate, disk, link, both] = measured.map(median);
    let part = rate / both;
    println!(
        "{batches} missed batches of {bytes} bytes over QUIC: {rate:.0} MB/s, {part:.2} of the \
         {both:.0} MB/s that link and disk carry (the links alone {link:.0}, the disk alone \
         {disk:.0}); medians of 3"
    );
    assert!(part >= 0.5, "catching up is less than half as fast as link and disk");
}

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut world = runtime.block_on(World::new(Links::Memory));
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
    runtime.block_on(world.node.shutdown());
    // As a test, only that it runs.
    if std::env::args().any(|argument| argument == "--bench") {
        catch_up_beside(&runtime, Links::Memory);
        catch_up_beside(&runtime, Links::Quic);
    }
    criterion.final_summary();
}
