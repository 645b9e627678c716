//! How long a node takes from opening its store to its first signature, and what a live batch costs
//! in memory: with many small batches, and with a large journal. There is no index to be lost: what
//! is in memory is always derived from the journal.
//!
//! `LIVE` batches (default 1,000,000) and `GB` of journal (default 10, in batches of 100 KB). The page
//! cache is dropped before each opening where we may; the ring bypasses it anyway.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytesize::ByteSize;
use quorum_store::config::SequencerConfig;
use quorum_store::sequencer::port::{BatchRecord, Record};
use quorum_store::store::Store as _;
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::transport::{Class, Frame, LinkEvent, Transport as _};
use quorum_store::types::{
    Author, Batch, BatchId, BatchInfo, BodyBuilder, ChainParameters, Digest, Epoch, Incarnation,
    Message, Timestamp,
};
use support::{Chain, now};
use tokio::runtime::Runtime;

mod support;

/// The node, and four authors whose batches it holds.
const AUTHORS: [Author; 5] =
    [Author([1; 32]), Author([2; 32]), Author([3; 32]), Author([4; 32]), Author([5; 32])];
const GROUP_BYTES: u64 = 4 << 20;

fn batch(author: Author, counter: u64, bytes: usize, expiration: Timestamp) -> Batch {
    let mut transaction = vec![counter as u8; bytes];
    transaction[..8].copy_from_slice(&counter.to_le_bytes());
    let mut builder = BodyBuilder::new();
    builder.push(Bytes::from(transaction));
    let (count, body) = (builder.count(), builder.finish());
    let info = BatchInfo {
        author,
        batch_id: BatchId { incarnation: Incarnation(9), counter },
        epoch: Epoch(0),
        expiration,
        count,
        bytes: body.bytes().len() as u32,
        gas_bucket_start: 0,
        root: body.root(),
    };
    Batch { info, body }
}

/// Resident memory of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// What a bench holds on the disk, and how it is described.
struct Case<'a> {
    chain: &'a Chain,
    config: &'a JournalConfig,
    path: &'a Path,
    expiration: Timestamp,
    /// Of all authors.
    live_bytes: u64,
}

impl Case<'_> {
    /// Stores so many batches, in turn of every author but the node.
    fn fill(&self, batches: u64, bytes: usize) {
        let mut store = self.chain.create(self.path, self.config);
        store.recover().unwrap();
        let chain = self.chain.genesis.chain_id();
        let in_group = (GROUP_BYTES / bytes as u64).clamp(1, 4096);
        let mut counter = 0;
        while counter < batches {
            let records = (0..in_group.min(batches - counter)).map(|_| {
                counter += 1;
                let author = AUTHORS[1 + (counter % 4) as usize];
                let Batch { info, body } = batch(author, counter, bytes, self.expiration);
                let (digest, body) = (info.digest(&chain), body.bytes().clone());
                Record::Batch(BatchRecord { digest, info, body, claims_slot: true, own: None })
            });
            let records: Vec<Record> = records.collect();
            store.commit(&records).unwrap();
        }
    }

    /// Opens, and signs for a new batch of a peer.
    async fn first_signature(&self) -> (Duration, Duration) {
        let began = Instant::now();
        let store = JournalStore::open(self.path, self.chain.identity(), self.config).unwrap();
        // What is live counts against its authors' windows, and the new batch must fit in one too.
        let window_bytes = ByteSize::gib(1) + ByteSize::b(self.live_bytes / 3);
        let sequencer = SequencerConfig { window_bytes, ..SequencerConfig::default() };
        let node = self.chain.start(store, sequencer).await;
        let started = began.elapsed();
        let (peer, mut events) = self.chain.join(AUTHORS[1]).await;
        // Expirations of an author never fall.
        let new = batch(AUTHORS[1], 1 << 40, 512, self.expiration);
        let digest = new.info.digest(&self.chain.genesis.chain_id());
        let encoded = Message::Batch(new).encode();
        let frame = Frame { head: encoded.head, body: encoded.body };
        peer.send(AUTHORS[0], Class::Bulk, frame).unwrap();
        loop {
            let event = events.recv().await.expect("a network that stays");
            if matches!(&event, LinkEvent::Frame(frame) if is_vote(&frame.bytes, digest)) {
                break;
            }
        }
        let signed = began.elapsed();
        node.shutdown().await;
        (started, signed)
    }
}

fn is_vote(bytes: &Bytes, digest: Digest) -> bool {
    match Message::decode(bytes) {
        Ok(Message::Votes { votes, .. }) => votes.iter().any(|vote| vote.digest == digest),
        _ => false,
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn run(runtime: &Runtime, config: &JournalConfig, batches: u64, bytes: usize) -> (Duration, u64) {
    let directory = tempfile::tempdir().unwrap();
    let hour = 3_600_000_000;
    let parameters = ChainParameters { batch_lifetime_micros: hour, ..ChainParameters::default() };
    let chain = Chain::new(&AUTHORS, parameters);
    let expiration = now().saturating_add(Duration::from_mins(50));
    let path = directory.path().join("store");
    let live_bytes = batches * bytes as u64;
    let case = Case { chain: &chain, config, path: &path, expiration, live_bytes };
    case.fill(batches, bytes);
    let before = resident();
    let (started, signed) = runtime.block_on(case.first_signature());
    let memory = resident().saturating_sub(before) / batches;
    let gigabytes = (batches * bytes as u64) as f64 / 1e9;
    println!(
        "{batches} live batches of {bytes} bytes, {gigabytes:.1} GB: started after {:.2} s, signed \
         after {:.2} s, {:.2} s/GB; {memory} bytes of memory a batch",
        started.as_secs_f64(),
        signed.as_secs_f64(),
        signed.as_secs_f64() / gigabytes,
    );
    (signed, memory)
}

fn main() {
    let runtime = Runtime::new().unwrap();
    let config = JournalConfig { segments_max: 1024, ..JournalConfig::default() };
    // As a test, only that it runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        run(&runtime, &config, 1000, 200);
        return;
    }
    let (signed, _) = run(&runtime, &config, number("LIVE", 1_000_000), 200);
    assert!(signed <= Duration::from_secs(5), "the first signature comes after {signed:?}");
    let gigabytes = number("GB", 10);
    let (signed, _) = run(&runtime, &config, gigabytes * 10_000, 100_000);
    let most = Duration::from_secs(10 * gigabytes);
    assert!(signed <= most, "{gigabytes} GB take {signed:?}");
}
