//! Four validators in one process, with stores and links in memory: one batch is certified, one
//! payload is pulled and verified, one block is committed, and its transactions come back.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorum_store::config::SequencerConfig;
use quorum_store::crypto::{Ed25519Signer, Signer};
use quorum_store::engine::{EngineConfig, Materialized, NodeConfig, QuorumStore};
use quorum_store::sequencer::port::{
    ParentOf, PayloadLimits, PullRequest, Transaction, VerifyRequest,
};
use quorum_store::store::memory::MemoryStore;
use quorum_store::transport::{Peer, Transport, memory::MemoryNetwork};
use quorum_store::types::{
    ChainParameters, Commit, CommitIndex, Committee, Digest, Epoch, Genesis, Incarnation, Member,
    Timestamp,
};
use zeroize::Zeroizing;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // What all validators agree on before they start.
    let signer = |seed: u8| Ed25519Signer::new(&Zeroizing::new([seed; 32]));
    let members = (1..=4).map(|seed| Member { author: signer(seed).author(), power: 1 }).collect();
    let genesis = Genesis {
        nonce: Digest([7; 32]),
        parameters: ChainParameters::default(),
        committee: Committee::new(members)?,
    };
    let chain = genesis.chain_id();

    // A validator on a machine of its own takes `JournalStore::open` and `QuicTransport::start`.
    let address = "127.0.0.1:1".parse()?; // not looked at in memory
    let peers: Vec<Peer> = (1..=4).map(|s| Peer { key: signer(s).author(), address }).collect();
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for seed in 1..=4 {
        let config = NodeConfig {
            genesis: genesis.clone(),
            epoch: Epoch(0),
            committee: genesis.committee.clone(),
            sequencer: SequencerConfig::default(),
            engine: EngineConfig::default(),
        };
        let author = signer(seed).author();
        let store = Box::new(MemoryStore::new(author, chain, Incarnation(u64::from(seed))));
        let connect = |handshake, events| {
            let transport = network.join(author, handshake, &peers, events);
            Ok::<_, Infallible>(Arc::new(transport) as Arc<dyn Transport>)
        };
        let registry = prometheus::Registry::new();
        let signer = Arc::new(signer(seed));
        nodes.push(QuorumStore::start(config, store, signer, connect, &registry).await?);
    }
    let [leader, others @ ..] = nodes.as_slice() else { return Err("no nodes".into()) };
    while leader.status().await?.windows.iter().any(|window| !window.linked) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // Transactions become a batch. `Ok`: it is durable at this validator.
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = |since: Duration| Timestamp(since.as_micros() as u64);
    let transaction = Transaction {
        bytes: "pay alice".into(),
        gas_unit_price: 1,
        expiration: micros(now() + Duration::from_secs(20)),
    };
    let mut proposable = leader.proposable();
    let accepted = leader.submit(vec![transaction]).await?.remove(0)?;
    // A quorum made it durable and signed for it: there is a proof of store, ready to be ordered.
    proposable.wait_for(|proofs| *proofs == 1).await?;

    // The leader of a block pulls a payload; its header's digest is what consensus orders.
    let parent = ParentOf {
        digest: genesis.header().digest(&chain),
        height: CommitIndex(0),
        block_timestamp: Timestamp(0),
    };
    let request = PullRequest {
        epoch: Epoch(0),
        height: CommitIndex(1),
        parent: parent.digest,
        block_timestamp: micros(now()),
        limits: PayloadLimits {
            transactions_max: 1000,
            batch_bytes_max: 1 << 20,
            batches_max: 100,
        },
        exclude: Vec::new(),
    };
    let payload = leader.pull(request).await?;
    assert_eq!(payload.content.proofs[0].info.digest(&chain), accepted.batch);
    leader.announce(&payload);

    // The others vote only after `Ok`: the payload is valid, and durable at each of them.
    let digest = payload.digest(&chain);
    for node in others {
        let responders = vec![peers[0].key];
        let header =
            node.verify(VerifyRequest { digest, parent: Some(parent), responders }).await?;
        assert_eq!(header, payload.header);
    }

    // Consensus finalised it: every validator is told, and gets the transactions back.
    let commit = Commit { index: CommitIndex(1), round: 1, header: payload.header };
    for node in &nodes {
        let receipt = node.notify_commit(commit).await?;
        assert_eq!(receipt.acks.len(), 4); // one of each component
        let block = node.materialize(&commit, Duration::from_secs(10)).await?;
        let Materialized::Ready(batches) = block else { return Err("content is missing".into()) };
        let body = batches[0].body.as_ref().ok_or("the batch expired")?;
        assert_eq!(body.transactions().collect::<Vec<_>>(), ["pay alice"]);
        // Executed: as far as the executor is concerned, what lies below block 2 may go.
        node.acknowledge("executor", CommitIndex(2)).await?;
    }
    for node in &nodes {
        node.shutdown().await;
    }
    println!(
        "batch {} was ordered in block 1 and came back at {} nodes",
        accepted.batch,
        nodes.len()
    );
    Ok(())
}
