//! Batches without a proof through the real engine: proposed, voted for, executed, and read again
//! from disk in the next life.

use std::path::Path;
use std::time::Duration;

use prometheus::Registry;
use quorum_store::config::SequencerConfig;
use quorum_store::engine::{NodeConfig, QuorumStore};
use quorum_store::transport::memory::MemoryNetwork;
use quorum_store::types::Genesis;

use crate::cluster::*;
use crate::{stop, transactions};

/// Proofs come so late, and trust so soon, that a slow machine changes nothing.
fn trusting(genesis: &Genesis) -> NodeConfig {
    let sequencer = SequencerConfig {
        optimistic: true,
        optimistic_age_min: Duration::from_secs(1),
        optimistic_signing_delay: Duration::from_secs(5),
        resend_interval: Duration::from_secs(10),
        ..sequencer()
    };
    NodeConfig { sequencer, ..config(genesis) }
}

async fn start(directory: &Path, genesis: &Genesis) -> Vec<QuorumStore> {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for index in 0..4 {
        let store = open(directory, index, genesis);
        let (config, registry) = (trusting(genesis), Registry::new());
        nodes.push(node_from(config, index, &network, store, &registry, peers()).await);
    }
    for node in &nodes {
        until(|| node.links().iter().filter(|link| link.up).count() == 3).await;
    }
    nodes
}

async fn submit(node: &QuorumStore, text: &str) {
    while node.submit(vec![transaction(text)]).await.unwrap()[0].is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_proof_is_executed_everywhere_and_read_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = genesis(40);
    for index in 0..4 {
        create(directory.path(), index, &genesis);
    }
    let nodes = start(directory.path(), &genesis).await;
    submit(&nodes[1], "optimistic").await;
    until(|| *nodes[0].proposable().borrow() == 1).await;
    submit(&nodes[0], "inline").await;
    let (payload, commit) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    let content = &payload.content;
    let kinds = (content.proofs.len(), content.optimistic.len(), content.inline.len());
    assert_eq!(kinds, (0, 1, 1));
    for node in &nodes {
        assert_eq!(transactions(node, &commit).await, ["optimistic", "inline"]);
        assert_eq!(node.statistics().certified, 0);
        assert_eq!(*node.proposable().borrow(), 0);
    }
    stop(&nodes).await;
    drop(nodes);
    let nodes = start(directory.path(), &genesis).await;
    for node in &nodes {
        let again = node.notify_commit(commit).await.unwrap();
        assert_eq!(again.index, commit.index);
        assert_eq!(transactions(node, &commit).await, ["optimistic", "inline"]);
        assert_eq!(node.status().await.unwrap().outstanding_batches, 0);
    }
    stop(&nodes).await;
    drop(nodes);
    for index in 0..4 {
        let path = directory.path().join(format!("validator-{index}"));
        let report = quorum_store::store::check::check(&path).unwrap();
        assert!(report.is_sound(), "{:?}", report.problems);
    }
}
