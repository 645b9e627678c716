//! Shared fate: whichever part panics, at whatever input, all of them end; the next life goes on
//! from the store, and every call is answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use zeroize::Zeroizing;

use super::{EngineConfig, Hooks, Materialized, NodeConfig, Part, QuorumStore, StopCause};
use crate::config::SequencerConfig;
use crate::crypto::{Ed25519Signer, Signer as _};
use crate::sequencer::port::*;
use crate::store::memory::MemoryStore;
use crate::store::{CommitStats, Recovered, Store, StoreError, StoreReader, sealed};
use crate::transport::memory::MemoryNetwork;
use crate::transport::{Peer, Transport};
use crate::tripwire::Tripwire;
use crate::types::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn signer(index: u8) -> Ed25519Signer {
    Ed25519Signer::new(&Zeroizing::new([index + 1; 32]))
}

fn genesis() -> Genesis {
    let member = |index| Member { author: signer(index).author(), power: 1 };
    Genesis {
        nonce: Digest([1; 32]),
        parameters: ChainParameters::default(),
        committee: Committee::new((0..4).map(member).collect()).unwrap(),
    }
}

fn peers() -> Vec<Peer> {
    let address = "127.0.0.1:1".parse().unwrap();
    (0..4).map(|index| Peer { key: signer(index).author(), address }).collect()
}

async fn node(
    network: &MemoryNetwork,
    index: u8,
    store: Box<dyn Store>,
    tripwire: Tripwire,
) -> QuorumStore {
    let genesis = genesis();
    let config = NodeConfig {
        epoch: Epoch(0),
        committee: genesis.committee.clone(),
        genesis,
        sequencer: SequencerConfig {
            resend_interval: Duration::from_millis(100),
            fetch_try_timeout: Duration::from_millis(50),
            announce_interval: Duration::from_millis(50),
            ..SequencerConfig::default()
        },
        engine: EngineConfig {
            restart_backoff: Duration::from_millis(10),
            // What a life reads before it ends is not read again from memory.
            cache_bytes: bytesize::ByteSize::mib(1),
            ..EngineConfig::default()
        },
    };
    let network = network.clone();
    let start = |handshake, events| {
        let transport = network.join(signer(index).author(), handshake, &peers(), events);
        Ok::<_, std::convert::Infallible>(Arc::new(transport) as Arc<dyn Transport>)
    };
    let signer = Arc::new(signer(index));
    let registry = Registry::new();
    let hooks = (Hooks::new(), tripwire);
    QuorumStore::start_with(config, store, signer, start, &registry, hooks).await.unwrap()
}

fn memory(index: u8) -> MemoryStore {
    let incarnation = Incarnation(u64::from(index) + 1);
    MemoryStore::new(signer(index).author(), genesis().chain_id(), incarnation)
}

fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(now.as_micros() as u64)
}

/// Offers a transaction until it is accepted, as a client does.
async fn submit(node: &QuorumStore, text: &str) {
    loop {
        let transaction = Transaction {
            bytes: Bytes::copy_from_slice(text.as_bytes()),
            gas_unit_price: 1,
            expiration: now().saturating_add(Duration::from_secs(25)),
        };
        // While the sequencer is rebuilt, nobody knows what became of it.
        if let Ok(results) = node.submit(vec![transaction]).await
            && results[0].is_ok()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Node `leader` proposes what is there; all verify, and are told of the commit.
async fn block(nodes: &[QuorumStore], leader: usize, height: u64, parent: ParentOf) -> Commit {
    let mut proposable = nodes[leader].proposable();
    proposable.wait_for(|count| *count > 0).await.unwrap();
    let request = PullRequest {
        epoch: nodes[leader].membership().epoch,
        height: CommitIndex(height),
        parent: parent.digest,
        block_timestamp: now().max(parent.block_timestamp),
        limits: PayloadLimits {
            transactions_max: 1000,
            batch_bytes_max: 1 << 20,
            batches_max: 100,
        },
        exclude: Vec::new(),
    };
    let payload = nodes[leader].pull(request).await.unwrap();
    nodes[leader].announce(&payload);
    let digest = payload.digest(&genesis().chain_id());
    let responders: Vec<_> = peers().iter().map(|peer| peer.key).collect();
    for node in nodes {
        let responders = responders.clone();
        let request = VerifyRequest { digest, parent: Some(parent), responders };
        assert_eq!(node.verify(request).await.unwrap(), payload.header);
    }
    let commit = Commit { index: CommitIndex(height), round: 1, header: payload.header };
    for node in nodes {
        let receipt = node.notify_commit(commit).await.unwrap();
        assert!(receipt.acks.iter().all(|ack| ack.watermark == commit.index));
    }
    commit
}

fn child_of(header: &PayloadHeader) -> ParentOf {
    let digest = header.digest(&genesis().chain_id());
    ParentOf { digest, height: header.height, block_timestamp: header.block_timestamp }
}

/// Every kind of input that a host and peers give to node 0 in two epochs.
async fn scenario(part: &'static str, what: &'static str) {
    let tripwire = Tripwire::armed(part, what, 1);
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for index in 0..4 {
        let armed = if index == 0 { tripwire.clone() } else { Tripwire::default() };
        nodes.push(node(&network, index, Box::new(memory(index)), armed).await);
    }
    let mut executor = nodes[0].subscribe("executor", CommitIndex(1)).await.unwrap();
    let mut commits = Vec::new();
    let mut parent = child_of(&genesis().header());
    for (height, epoch) in [(1, 0), (2, 0), (3, 1)] {
        for (index, node) in nodes[..2].iter().enumerate() {
            submit(node, &format!("{height} of {index}")).await;
        }
        commits.push(block(&nodes, height as usize % 2, height, parent).await);
        parent = child_of(&commits[commits.len() - 1].header);
        if (height, epoch) == (2, 0) {
            for node in &nodes {
                let receipt = node.close(Epoch(0), CommitIndex(2), PATIENCE).await.unwrap();
                assert!(receipt.acks.iter().all(|ack| ack.watermark == CommitIndex(2)));
                let committee = genesis().committee;
                node.open_epoch(Epoch(1), committee, peers()).await.unwrap();
            }
        }
        // Somebody who has only node 0 to ask: it serves.
        let asked = vec![signer(0).author()];
        nodes[3]
            .fetch(
                Wanted { digest: parent.digest, info: None, holders: asked, commit: None },
                PATIENCE,
            )
            .await
            .unwrap();
    }
    for commit in &commits {
        assert_eq!(executor.next().await.unwrap(), Delivery::Commit(*commit));
        executor.acknowledge(commit.index).await.unwrap();
        let receipts = nodes.iter().map(|node| node.reader().receipt(commit.index).unwrap());
        for receipt in receipts {
            let acks = receipt.expect("a receipt, durably").acks;
            assert_eq!(acks.map(|ack| ack.component), Component::ALL);
            assert!(acks.iter().all(|ack| ack.watermark == commit.index), "one is ahead: {acks:?}");
        }
        for node in &nodes {
            let content = node.materialize(commit, PATIENCE).await.unwrap();
            assert!(matches!(content, Materialized::Ready(_)), "{content:?}");
        }
    }
    assert!(!tripwire.is_armed(), "{part} never came by {what}");
    let restarts = nodes[0].restarts().borrow().clone();
    let message = format!("tripwire in {part} at {what}");
    match restarts.cause {
        Some(StopCause::Broken { message: found, .. }) => assert_eq!(found, message),
        other => panic!("{other:?} instead of: {message}"),
    }
    assert_eq!(restarts.count, 1);
    assert_eq!(nodes[1].restarts().borrow().count, 0, "a restart here breaks nothing there");
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_any_part_at_any_input_ends_all_of_them_and_every_receipt_completes() {
    let places = [
        ("batch_generator", &["submit", "durable", "tick", "commit", "close", "open_epoch"][..]),
        ("batch_coordinator", &["batch", "tick", "commit", "close", "open_epoch"]),
        ("proof_coordinator", &["link_up", "vote", "tick", "commit", "close"]),
        ("proof_manager", &["vote", "proof", "pull", "commit", "close"]),
        ("writer", &["before", "after"]),
        ("egress", &["group"]),
        ("ingress", &["up", "frame"]),
        ("serve", &["job"]),
    ];
    for (part, whats) in places {
        let scenarios = whats.iter().map(|what| {
            let running = tokio::spawn(tokio::time::timeout(PATIENCE, scenario(part, what)));
            async move { (what, running.await) }
        });
        for (what, ended) in futures::future::join_all(scenarios).await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(_)) => panic!("{part} at {what}: not over in time"),
                Err(error) => panic!("{part} at {what}: {error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_third_failure_within_a_minute_is_final_and_every_call_ends_with_its_cause() {
    let network = MemoryNetwork::new();
    let tripwire = Tripwire::armed("writer", "before", 3);
    let node = node(&network, 0, Box::new(memory(0)), tripwire.clone()).await;
    let cause = tokio::time::timeout(PATIENCE, node.stopped()).await.expect("in time");
    let broken = |cause: &StopCause| matches!(cause, StopCause::Broken { part: Part::Writer, message } if message.contains("tripwire"));
    assert!(broken(&cause), "{cause:?}");
    assert_eq!(node.restarts().borrow().count, 2);
    assert!(broken(&node.status().await.unwrap_err()));
    assert!(broken(&node.submit(Vec::new()).await.unwrap_err()));
    node.shutdown().await;
}

/// Fails for good at the first write.
struct Failing(MemoryStore);

impl sealed::Sealed for Failing {}

impl Store for Failing {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.0.recover()
    }

    fn commit(&mut self, _: &[Record]) -> Result<CommitStats, StoreError> {
        Err(StoreError::Io { doing: "a test", reason: "as told".into() })
    }

    fn reader(&self) -> Arc<dyn StoreReader> {
        self.0.reader()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_storage_failure_there_is_no_restart() {
    let network = MemoryNetwork::new();
    let node = node(&network, 0, Box::new(Failing(memory(0))), Tripwire::default()).await;
    let cause = tokio::time::timeout(PATIENCE, node.stopped()).await.expect("in time");
    assert!(matches!(cause, StopCause::Storage(StoreError::Io { .. })), "{cause:?}");
    assert_eq!(node.restarts().borrow().count, 0);
    assert!(matches!(node.status().await, Err(StopCause::Storage(_))));
    node.shutdown().await;
}
