//! Four nodes in one process, on the in-memory transport.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use quorum_store::config::SequencerConfig;
use quorum_store::crypto::{Ed25519Signer, Signer};
use quorum_store::engine::{EngineConfig, Hooks, NodeConfig, QuorumStore};
use quorum_store::sequencer::port::{
    Event, ParentOf, PayloadLimits, PullRequest, Transaction, VerifyRequest,
};
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::{Store, StoreIdentity, memory::MemoryStore};
use quorum_store::transport::memory::MemoryNetwork;
use quorum_store::transport::{Peer, Transport};
use quorum_store::types::{
    Author, ChainParameters, Commit, CommitIndex, Committee, Digest, Epoch, Genesis, Incarnation,
    Member, Payload, Timestamp,
};
use zeroize::Zeroizing;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn signer(index: u8) -> Ed25519Signer {
    Ed25519Signer::new(&Zeroizing::new([index + 1; 32]))
}

pub fn genesis(nonce: u8) -> Genesis {
    Genesis {
        nonce: Digest([nonce; 32]),
        parameters: ChainParameters::default(),
        committee: committee(0..4),
    }
}

pub fn peers() -> Vec<Peer> {
    peers_of(0..4)
}

pub fn peers_of(indices: std::ops::Range<u8>) -> Vec<Peer> {
    let address = "127.0.0.1:1".parse().unwrap();
    indices.map(|index| Peer { key: signer(index).author(), address }).collect()
}

pub fn committee(indices: impl IntoIterator<Item = u8>) -> Committee {
    let member = |index| Member { author: signer(index).author(), power: 1 };
    Committee::new(indices.into_iter().map(member).collect()).unwrap()
}

pub fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(now.as_micros() as u64)
}

pub fn transaction(text: &str) -> Transaction {
    Transaction {
        bytes: Bytes::copy_from_slice(text.as_bytes()),
        gas_unit_price: 1,
        expiration: now().saturating_add(Duration::from_secs(25)),
    }
}

/// Starts node `index` of the chain `genesis` on `network`.
pub async fn node(
    index: u8,
    genesis: &Genesis,
    network: &MemoryNetwork,
    store: Box<dyn Store>,
) -> QuorumStore {
    node_with(index, genesis, network, store, &Registry::new()).await
}

/// The same, with a registry that the test looks at.
pub async fn node_with(
    index: u8,
    genesis: &Genesis,
    network: &MemoryNetwork,
    store: Box<dyn Store>,
    registry: &Registry,
) -> QuorumStore {
    node_from(config(genesis), index, network, store, registry, peers()).await
}

/// Groups that fit a small journal.
pub fn sequencer() -> SequencerConfig {
    SequencerConfig { group_bytes_max: bytesize::ByteSize::mib(1), ..SequencerConfig::default() }
}

pub fn config(genesis: &Genesis) -> NodeConfig {
    NodeConfig {
        genesis: genesis.clone(),
        epoch: Epoch(0),
        committee: genesis.committee.clone(),
        sequencer: sequencer(),
        engine: EngineConfig { invalid_per_minute_max: 5, ..EngineConfig::default() },
    }
}

/// The same, from any config and with any peers.
pub async fn node_from(
    config: NodeConfig,
    index: u8,
    network: &MemoryNetwork,
    store: Box<dyn Store>,
    registry: &Registry,
    peers: Vec<Peer>,
) -> QuorumStore {
    hooked(config, index, network, store, (registry, Hooks::new()), peers).await
}

/// The same, with a source of transactions or a filter.
pub async fn hooked(
    config: NodeConfig,
    index: u8,
    network: &MemoryNetwork,
    store: Box<dyn Store>,
    (registry, hooks): (&Registry, Hooks),
    peers: Vec<Peer>,
) -> QuorumStore {
    let signer = signer(index);
    let author = signer.author();
    let network = network.clone();
    let start = |handshake, events| {
        let transport = network.join(author, handshake, &peers, events);
        Ok::<_, std::convert::Infallible>(Arc::new(transport) as Arc<dyn Transport>)
    };
    let signer = Arc::new(signer);
    QuorumStore::start_with_hooks(config, store, signer, start, registry, hooks).await.unwrap()
}

pub fn memory(index: u8, genesis: &Genesis) -> Box<dyn Store> {
    let incarnation = Incarnation(u64::from(index) + 1);
    Box::new(MemoryStore::new(signer(index).author(), genesis.chain_id(), incarnation))
}

fn path(directory: &Path, index: u8) -> PathBuf {
    directory.join(format!("validator-{index}"))
}

pub fn create(directory: &Path, index: u8, genesis: &Genesis) {
    let identity = StoreIdentity { author: signer(index).author(), chain: genesis.chain_id() };
    JournalStore::create(&path(directory, index), identity, &small()).unwrap();
}

pub fn open(directory: &Path, index: u8, genesis: &Genesis) -> Box<dyn Store> {
    let identity = StoreIdentity { author: signer(index).author(), chain: genesis.chain_id() };
    Box::new(JournalStore::open(&path(directory, index), identity, &small()).unwrap())
}

fn small() -> JournalConfig {
    JournalConfig {
        segment_bytes: bytesize::ByteSize::mib(4),
        segments_max: 1024,
        ..JournalConfig::default()
    }
}

/// Four nodes with in-memory stores, all links up.
pub async fn four(genesis: &Genesis) -> (MemoryNetwork, Vec<QuorumStore>) {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for index in 0..4 {
        nodes.push(node(index, genesis, &network, memory(index, genesis)).await);
    }
    for node in &nodes {
        until(|| node.links().iter().filter(|link| link.up).count() == 3).await;
    }
    (network, nodes)
}

/// Waits for a condition that others bring about.
pub async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time");
}

/// Submits one transaction and waits until its batch is certified.
pub async fn certify(node: &QuorumStore, text: &str) -> Digest {
    let mut events = node.events();
    // Links to a quorum may still be coming up.
    let accepted = loop {
        let results = node.submit(vec![transaction(text)]).await.unwrap();
        if let Ok(accepted) = results[0] {
            break accepted;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let waiting = async {
        loop {
            if let Event::Certified { digest } = events.recv().await.unwrap()
                && digest == accepted.batch
            {
                return digest;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("certified in time")
}

/// What a leader asks for.
pub fn pull_request(epoch: Epoch, height: u64, parent: Digest) -> PullRequest {
    let limits =
        PayloadLimits { transactions_max: 10_000, batch_bytes_max: 8 << 20, batches_max: 100 };
    let height = CommitIndex(height);
    PullRequest { epoch, height, parent, block_timestamp: now(), limits, exclude: Vec::new() }
}

/// Node 0 proposes, everybody verifies and is told of the commit.
pub async fn block(
    nodes: &[QuorumStore],
    genesis: &Genesis,
    height: u64,
    parent: ParentOf,
) -> (Arc<Payload>, Commit) {
    block_at(nodes, genesis, height, parent, now()).await
}

/// The same, with a timestamp.
pub async fn block_at(
    nodes: &[QuorumStore],
    genesis: &Genesis,
    height: u64,
    parent: ParentOf,
    block_timestamp: Timestamp,
) -> (Arc<Payload>, Commit) {
    let epoch = nodes[0].membership().epoch;
    let request = PullRequest { block_timestamp, ..pull_request(epoch, height, parent.digest) };
    let payload = nodes[0].pull(request).await.unwrap();
    let digest = payload.digest(&genesis.chain_id());
    nodes[0].announce(&payload);
    let responders: Vec<Author> = peers().iter().map(|peer| peer.key).collect();
    for node in nodes {
        let responders = responders.clone();
        let request = VerifyRequest { digest, parent: Some(parent), responders };
        let verified = tokio::time::timeout(PATIENCE, node.verify(request)).await;
        assert_eq!(verified.expect("in time").unwrap(), payload.header);
    }
    let commit = Commit { index: CommitIndex(height), round: height, header: payload.header };
    for node in nodes {
        let receipt = node.notify_commit(commit).await.unwrap();
        assert_eq!(receipt.index, commit.index);
    }
    (payload, commit)
}

/// The block below the first one.
pub fn genesis_parent(genesis: &Genesis) -> ParentOf {
    ParentOf {
        digest: genesis.header().digest(&genesis.chain_id()),
        height: CommitIndex(0),
        block_timestamp: Timestamp(0),
    }
}
