//! A chain for benchmarks: a real node with a real store on an in-memory network, and members that
//! do what a benchmark tells them to.

#![allow(dead_code, reason = "each benchmark uses its part of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prometheus::Registry;
use quorum_store::config::SequencerConfig;
use quorum_store::crypto::Signer;
use quorum_store::engine::{EngineConfig, NodeConfig, QuorumStore};
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::{Durable, Store, StoreIdentity, StoredBatch};
use quorum_store::transport::memory::{MemoryNetwork, MemoryTransport};
use quorum_store::transport::{Handshake, LinkEvent, Peer, Refusal, Transport};
use quorum_store::types::{
    AbsenceStatement, Announcement, Author, ChainParameters, Committee, Digest, Epoch, Genesis,
    Hello, Member, Scope, Signature, SignedAbsence, SignedBatchInfo, Timestamp, Usage,
};
use tokio::sync::mpsc;

/// Says yes to every signature: what they cost is measured elsewhere.
pub struct Trusting(pub Author);

impl Signer for Trusting {
    fn author(&self) -> Author {
        self.0
    }

    fn sign_batch(&self, _: &Scope, batch: &Durable<StoredBatch>) -> SignedBatchInfo {
        let signature = Signature::from_bytes(&[1; 64]);
        SignedBatchInfo { digest: batch.get().digest, signer: self.0, signature }
    }

    fn verify_batch(&self, _: &Scope, _: &SignedBatchInfo) -> bool {
        true
    }

    fn sign_absence(&self, _: &Scope, absence: &Durable<AbsenceStatement>) -> SignedAbsence {
        let signature = Signature::from_bytes(&[1; 64]);
        SignedAbsence { statement: *absence.get(), signer: self.0, signature }
    }

    fn verify_absence(&self, _: &Scope, _: &SignedAbsence) -> bool {
        true
    }
}

/// A member that links with everybody.
struct Greeting(Bytes);

impl Handshake for Greeting {
    fn hello(&self, _: Author) -> Bytes {
        self.0.clone()
    }

    fn judge(&self, _: Author, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Now, in consensus time.
pub fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(now.as_micros() as u64)
}

/// Members of one power each, and the network between them. The first one is the node.
pub struct Chain {
    pub genesis: Genesis,
    pub network: MemoryNetwork,
    peers: Vec<Peer>,
}

impl Chain {
    pub fn new(authors: &[Author], parameters: ChainParameters) -> Self {
        let members = authors.iter().map(|author| Member { author: *author, power: 1 }).collect();
        let genesis = Genesis {
            nonce: Digest([7; 32]),
            parameters,
            committee: Committee::new(members).unwrap(),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let peers = authors.iter().map(|key| Peer { key: *key, address }).collect();
        Self { genesis, network: MemoryNetwork::new(), peers }
    }

    pub fn identity(&self) -> StoreIdentity {
        StoreIdentity { author: self.peers[0].key, chain: self.genesis.chain_id() }
    }

    pub fn create(&self, path: &Path, config: &JournalConfig) -> JournalStore {
        JournalStore::create(path, self.identity(), config).unwrap()
    }

    /// Starts the node.
    pub async fn start(&self, store: impl Store, sequencer: SequencerConfig) -> QuorumStore {
        let author = self.peers[0].key;
        let config = NodeConfig {
            genesis: self.genesis.clone(),
            epoch: Epoch(0),
            committee: self.genesis.committee.clone(),
            sequencer,
            engine: EngineConfig::default(),
        };
        let start = |handshake, events| {
            let transport = self.network.join(author, handshake, &self.peers, events);
            Ok::<_, std::convert::Infallible>(Arc::new(transport) as Arc<dyn Transport>)
        };
        let (signer, registry) = (Arc::new(Trusting(author)), Registry::new());
        QuorumStore::start(config, Box::new(store), signer, start, &registry).await.unwrap()
    }

    /// Joins as a member, and returns once it is linked with the node.
    pub async fn join(&self, author: Author) -> (Arc<MemoryTransport>, mpsc::Receiver<LinkEvent>) {
        let hello = Hello {
            chain: self.genesis.chain_id(),
            epoch: Epoch(0),
            committee: self.genesis.committee.hash(),
            announcement: Announcement::default(),
            holds: Usage::default(),
        };
        let (sender, mut events) = mpsc::channel(4096);
        let greeting = Arc::new(Greeting(hello.encode()));
        let transport = self.network.join(author, greeting, &self.peers[..1], sender);
        while !matches!(events.recv().await, Some(LinkEvent::Up { .. })) {}
        (Arc::new(transport), events)
    }
}
