//! A chain for benchmarks: a real node with a real store on an in-memory network, and members that
//! do what a benchmark tells them to.

#![allow(dead_code, reason = "each benchmark uses its part of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
#[cfg(feature = "quic")]
use ed25519_dalek::SigningKey;
use prometheus::Registry;
use quorum_store::config::SequencerConfig;
use quorum_store::crypto::Signer;
use quorum_store::engine::{EngineConfig, NodeConfig, QuorumStore};
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::{Durable, Store, StoreIdentity, StoredBatch};
use quorum_store::transport::memory::{MemoryNetwork, MemoryTransport};
#[cfg(feature = "quic")]
use quorum_store::transport::quic::{QuicConfig, QuicTransport};
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
        let start = |handshake, events| {
            let transport = self.network.join(author, handshake, &self.peers, events);
            Ok::<_, std::convert::Infallible>(Arc::new(transport) as Arc<dyn Transport>)
        };
        let (signer, registry) = (Arc::new(Trusting(author)), Registry::new());
        let config = self.config(sequencer);
        QuorumStore::start(config, Box::new(store), signer, start, &registry).await.unwrap()
    }

    fn config(&self, sequencer: SequencerConfig) -> NodeConfig {
        NodeConfig {
            genesis: self.genesis.clone(),
            epoch: Epoch(0),
            committee: self.genesis.committee.clone(),
            sequencer,
            engine: EngineConfig::default(),
        }
    }

    /// Starts the node on QUIC, linked with those who are bound. They learn where it is from what
    /// is returned.
    #[cfg(feature = "quic")]
    pub async fn start_on_quic(
        &self,
        store: impl Store,
        sequencer: SequencerConfig,
        key: &SigningKey,
        bound: &[Bound],
    ) -> (QuorumStore, Peer) {
        let author = self.peers[0].key;
        let others = self.peers[1..].iter().zip(bound);
        let peers: Vec<Peer> = others
            .map(|(peer, (transport, _))| Peer { address: transport.local_address(), ..*peer })
            .collect();
        let mut address = None;
        let start = |handshake, events| {
            let transport = QuicTransport::start(quic(), key, &peers, handshake, events).unwrap();
            address = Some(transport.local_address());
            Ok::<_, std::convert::Infallible>(Arc::new(transport) as Arc<dyn Transport>)
        };
        let (signer, registry) = (Arc::new(Trusting(author)), Registry::new());
        let config = self.config(sequencer);
        let node = QuorumStore::start(config, Box::new(store), signer, start, &registry);
        let node = node.await.unwrap();
        (node, Peer { key: author, address: address.unwrap() })
    }

    /// A member on QUIC that knows nobody yet.
    #[cfg(feature = "quic")]
    pub fn bind(&self, key: &SigningKey) -> Bound {
        let (sender, events) = mpsc::channel(4096);
        let transport = QuicTransport::start(quic(), key, &[], self.greeting(), sender).unwrap();
        (Arc::new(transport), events)
    }

    fn greeting(&self) -> Arc<Greeting> {
        let hello = Hello {
            chain: self.genesis.chain_id(),
            epoch: Epoch(0),
            committee: self.genesis.committee.hash(),
            announcement: Announcement::default(),
            holds: Usage::default(),
        };
        Arc::new(Greeting(hello.encode()))
    }

    /// Joins as a member, and returns once it is linked with the node.
    pub async fn join(&self, author: Author) -> (Arc<MemoryTransport>, mpsc::Receiver<LinkEvent>) {
        let (sender, mut events) = mpsc::channel(4096);
        let transport = self.network.join(author, self.greeting(), &self.peers[..1], sender);
        linked(&mut events).await;
        (Arc::new(transport), events)
    }
}

/// Waits until a peer is linked.
pub async fn linked(events: &mut mpsc::Receiver<LinkEvent>) {
    while !matches!(events.recv().await.unwrap(), LinkEvent::Up { .. }) {}
}

/// A member on QUIC, and what it hears.
#[cfg(feature = "quic")]
pub type Bound = (Arc<QuicTransport>, mpsc::Receiver<LinkEvent>);

#[cfg(feature = "quic")]
fn quic() -> QuicConfig {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    QuicConfig { listen, loopback: true, ..QuicConfig::default() }
}
