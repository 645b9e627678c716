//! The engine as an embedder sees it: real threads, queues and stores, in-memory links.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

mod cluster;
mod epochs;
mod fetching;
mod filters;
mod hostile;
mod leases;
mod metrics;
mod optimistic;
mod sources;
mod subscriptions;

use std::time::Duration;

use cluster::*;
use quorum_store::engine::{CallError, Materialized, QuorumStore, StopCause};
use quorum_store::sequencer::port::{CommitError, ParentOf};
use quorum_store::transport::memory::MemoryNetwork;
use quorum_store::transport::{LinkDown, Refusal};
use quorum_store::types::{Commit, CommitIndex, Genesis};

async fn transactions(node: &QuorumStore, commit: &Commit) -> Vec<String> {
    match node.materialize(commit, PATIENCE).await.unwrap() {
        Materialized::Ready(batches) => batches
            .iter()
            .flat_map(|batch| batch.body.as_ref().unwrap().transactions().collect::<Vec<_>>())
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
            .collect(),
        other => panic!("not ready: {other:?}"),
    }
}

fn child_of(commit: &Commit, genesis: &Genesis) -> ParentOf {
    let header = &commit.header;
    let digest = header.digest(&genesis.chain_id());
    ParentOf { digest, height: header.height, block_timestamp: header.block_timestamp }
}

async fn stop(nodes: &[QuorumStore]) {
    for node in nodes {
        tokio::time::timeout(PATIENCE, node.shutdown()).await.expect("shut down in time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_come_back_at_every_node_in_the_order_of_the_commit() {
    let genesis = genesis(1);
    let (_network, nodes) = four(&genesis).await;
    for (index, node) in nodes.iter().enumerate() {
        certify(node, &format!("from node {index}")).await;
    }
    until(|| *nodes[0].proposable().borrow() == 4).await;
    let (payload, commit) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    assert_eq!(payload.content.proofs.len(), 4);
    let expected = transactions(&nodes[0], &commit).await;
    assert_eq!(expected.len(), 4);
    for node in &nodes[1..] {
        assert_eq!(transactions(node, &commit).await, expected);
    }
    let gap = Commit { index: CommitIndex(9), ..commit };
    let refused = nodes[0].notify_commit(gap).await;
    assert!(matches!(refused, Err(CallError::Refused(CommitError::Height(_)))));
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_missed_everything_fetches_payload_and_batches() {
    let genesis = genesis(2);
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for index in 0..3 {
        nodes.push(node(index, &genesis, &network, memory(index, &genesis)).await);
    }
    certify(&nodes[1], "one").await;
    until(|| *nodes[0].proposable().borrow() == 1).await;
    let (_, commit) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    let late = node(3, &genesis, &network, memory(3, &genesis)).await;
    let receipt = tokio::time::timeout(PATIENCE, late.notify_commit(commit)).await;
    assert_eq!(receipt.expect("in time").unwrap().index, CommitIndex(1));
    assert_eq!(transactions(&late, &commit).await, ["one"]);
    // For whoever executes, or before, on sight of what was ordered.
    let before = late.status().await.unwrap().refetched;
    assert!(late.statistics().fetch_found + before >= 1);
    nodes.push(late);
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_from_disk_keeps_what_was_promised() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = genesis(3);
    let network = MemoryNetwork::new();
    for index in 0..4 {
        create(directory.path(), index, &genesis);
    }
    let mut parent = genesis_parent(&genesis);
    let mut commits: Vec<(Commit, Vec<String>)> = Vec::new();
    for life in 1..=3 {
        let mut nodes = Vec::new();
        for index in 0..4 {
            let store = open(directory.path(), index, &genesis);
            nodes.push(node(index, &genesis, &network, store).await);
        }
        for (commit, expected) in &commits {
            let again = nodes[1].notify_commit(*commit).await.unwrap();
            assert_eq!(again.index, commit.index);
            assert_eq!(&transactions(&nodes[2], commit).await, expected);
        }
        let text = format!("life {life}");
        certify(&nodes[3], &text).await;
        until(|| *nodes[0].proposable().borrow() == 1).await;
        let (_, commit) = block(&nodes, &genesis, life, parent).await;
        assert_eq!(transactions(&nodes[3], &commit).await, [text.as_str()]);
        parent = child_of(&commit, &genesis);
        commits.push((commit, vec![text]));
        stop(&nodes).await;
    }
    for index in 0..4 {
        let path = directory.path().join(format!("validator-{index}"));
        let report = quorum_store::store::check::check(&path).unwrap();
        assert!(report.is_sound(), "{:?}", report.problems);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_chain_is_refused_and_both_sides_say_so() {
    let network = MemoryNetwork::new();
    let (one, two) = (genesis(4), genesis(5));
    let nodes = [
        node(0, &one, &network, memory(0, &one)).await,
        node(1, &two, &network, memory(1, &two)).await,
    ];
    let refused = |node: &QuorumStore| {
        node.links().iter().any(|link| {
            !link.up
                && matches!(
                    link.last_down,
                    Some(
                        LinkDown::RefusedByUs(Refusal::ChainMismatch)
                            | LinkDown::RefusedByPeer(Refusal::ChainMismatch)
                    )
                )
        })
    };
    until(|| refused(&nodes[0]) && refused(&nodes[1])).await;
    assert_eq!(nodes[0].status().await.unwrap().windows.iter().filter(|w| w.linked).count(), 0);
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_with_the_cause_when_the_node_stops() {
    let genesis = genesis(6);
    let (_network, nodes) = four(&genesis).await;
    let digest = quorum_store::types::Digest([9; 32]);
    let request = quorum_store::sequencer::port::VerifyRequest {
        digest,
        parent: None,
        responders: Vec::new(),
    };
    let waiting = tokio::spawn({
        let node = nodes[0].clone();
        async move { node.verify(request).await }
    });
    // The request is with the sequencer once it is counted as a fetch.
    loop {
        if nodes[0].status().await.unwrap().fetches == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop(&nodes).await;
    let ended = tokio::time::timeout(PATIENCE, waiting).await.expect("in time").unwrap();
    assert!(matches!(ended, Err(CallError::Stopped(StopCause::Shutdown))), "{ended:?}");
    assert!(matches!(nodes[0].status().await, Err(StopCause::Shutdown)));
    assert!(matches!(nodes[0].stopped().await, StopCause::Shutdown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_call_is_taken_back() {
    let genesis = genesis(7);
    let (_network, nodes) = four(&genesis).await;
    let digest = quorum_store::types::Digest([9; 32]);
    let call = nodes[0].payload(digest, vec![], PATIENCE);
    assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err());
    let waiting = async {
        while nodes[0].status().await.unwrap().fetches != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("forgotten in time");
    stop(&nodes).await;
}
