//! Four validators of one chain: the one under test on a disk of ours, its peers in memory.
//!
//! The peers are real engines as well, so what the one under test sends is judged by code that
//! checks it; they know nothing of the chain of blocks, which only its host tells it of.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use prometheus::Registry;
use quorum_store::config::SequencerConfig;
use quorum_store::crypto::{Ed25519Signer, Signer};
use quorum_store::engine::{EngineConfig, NodeConfig, QuorumStore, StartError};
use quorum_store::sequencer::port::Transaction;
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::memory::MemoryStore;
use quorum_store::store::{Store, StoreError, StoreIdentity};
use quorum_store::transport::memory::MemoryNetwork;
use quorum_store::transport::{Peer, Transport};
use quorum_store::types::{
    ChainParameters, Committee, Digest, Epoch, Genesis, Incarnation, Member, Timestamp,
};
use zeroize::Zeroizing;

use super::witness::{Recorder, Witness};

/// Nothing takes longer on any machine; whatever waits this long is stuck.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The validator under test.
pub const TESTED: u8 = 0;
/// With it, a quorum.
const PEERS: [u8; 2] = [1, 2];

pub fn signer(index: u8) -> Ed25519Signer {
    Ed25519Signer::new(&Zeroizing::new([index + 1; 32]))
}

pub fn genesis() -> Genesis {
    let members = (0..4).map(|i| Member { author: signer(i).author(), power: 1 }).collect();
    Genesis {
        nonce: Digest([5; 32]),
        parameters: ChainParameters {
            batch_bytes_max: 256 << 10,
            payload_bytes_max: 256 << 10,
            ..ChainParameters::default()
        },
        committee: Committee::new(members).unwrap(),
    }
}

pub fn identity() -> StoreIdentity {
    StoreIdentity { author: signer(TESTED).author(), chain: genesis().chain_id() }
}

pub fn peers() -> Vec<Peer> {
    let address = "127.0.0.1:1".parse().unwrap();
    (0..4).map(|index| Peer { key: signer(index).author(), address }).collect()
}

pub fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(now.as_micros() as u64)
}

/// A transaction of these bytes that lives nearly as long as it may after `at`.
pub fn transaction(bytes: impl Into<Bytes>, at: Timestamp) -> Transaction {
    let expiration = at.saturating_add(Duration::from_secs(25));
    Transaction { bytes: bytes.into(), gas_unit_price: 1, expiration }
}

/// The smallest journal, so that little data goes round it.
pub fn storage() -> JournalConfig {
    JournalConfig { segment_bytes: ByteSize::mib(1), segments_max: 64, direct_io: true }
}

/// Where the store of the tested validator lies on its disk.
pub fn store_path(disk: &Path) -> PathBuf {
    disk.join("store")
}

pub fn create(disk: &Path) -> Result<(), StoreError> {
    JournalStore::create(&store_path(disk), identity(), &storage()).map(drop)
}

pub fn open(disk: &Path) -> Result<JournalStore, StoreError> {
    JournalStore::open(&store_path(disk), identity(), &storage())
}

fn config(genesis: &Genesis) -> NodeConfig {
    NodeConfig {
        genesis: genesis.clone(),
        epoch: Epoch(0),
        committee: genesis.committee.clone(),
        sequencer: SequencerConfig {
            batch_bytes_target: ByteSize::kib(256),
            batch_age_max: Duration::from_millis(1),
            resend_interval: Duration::from_millis(200),
            group_bytes_max: ByteSize::kib(256),
            ..SequencerConfig::default()
        },
        engine: EngineConfig {
            ingress_workers: 1,
            disk_reserve: ByteSize::mib(16),
            disk_check_interval: Duration::from_millis(10),
            ..EngineConfig::default()
        },
    }
}

/// The peers and the network between all.
pub struct Town {
    pub network: MemoryNetwork,
    pub peers: Vec<QuorumStore>,
}

impl Town {
    /// Starts the peers, with empty stores.
    pub async fn start() -> Self {
        let (network, genesis) = (MemoryNetwork::new(), genesis());
        let mut nodes = Vec::new();
        for index in PEERS {
            // A store that starts empty is another one: it must not use the ids of the one before.
            let (author, incarnation) = (signer(index).author(), Incarnation(now().0));
            let store = MemoryStore::new(author, genesis.chain_id(), incarnation);
            let joining = network.clone();
            let start = |handshake, events| {
                let transport = joining.join(author, handshake, &peers(), events);
                Ok::<_, Infallible>(Arc::new(transport) as Arc<dyn Transport>)
            };
            let signer = Arc::new(signer(index));
            let registry = Registry::new();
            let node =
                QuorumStore::start(config(&genesis), Box::new(store), signer, start, &registry);
            nodes.push(node.await.unwrap());
        }
        Self { network, peers: nodes }
    }

    pub async fn stop(self) {
        for peer in &self.peers {
            within("a peer stops", peer.shutdown()).await;
        }
    }
}

/// Starts the tested validator; what it sends is seen by the witness.
pub async fn start(
    network: &MemoryNetwork,
    store: impl Store,
    witness: &Witness,
) -> Result<QuorumStore, StartError> {
    start_with(network, store, witness, |_| {}).await
}

/// The same with other settings.
pub async fn start_with(
    network: &MemoryNetwork,
    store: impl Store,
    witness: &Witness,
    change: impl FnOnce(&mut NodeConfig),
) -> Result<QuorumStore, StartError> {
    let mut config = config(&genesis());
    change(&mut config);
    let (signer, network, witness) = (signer(TESTED), network.clone(), witness.clone());
    let author = signer.author();
    let start = |handshake, events| {
        let transport = network.join(author, handshake, &peers(), events);
        Ok::<_, Infallible>(Arc::new(Recorder::new(transport, witness)) as Arc<dyn Transport>)
    };
    let registry = Registry::new();
    QuorumStore::start(config, Box::new(store), Arc::new(signer), start, &registry).await
}

/// Waits until this process has no file of the disk open any more: a link that is just being refused
/// may still hold the handshake, and with it the engine, for an instant after `shutdown`.
pub async fn released(disk: &Path) {
    let is_there = |entry: std::io::Result<std::fs::DirEntry>| {
        let target = entry.and_then(|entry| std::fs::read_link(entry.path()));
        target.is_ok_and(|target| target.starts_with(disk))
    };
    let closed = async {
        while std::fs::read_dir("/proc/self/fd").unwrap().any(is_there) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within("the store is closed", closed).await;
}

/// Ends in time, or the test does.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let Ok(done) = tokio::time::timeout(PATIENCE, work).await else { panic!("stuck: {what}") };
    done
}
