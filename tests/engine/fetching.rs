//! Materialising as a host sees it: in order, shared, taken back, and over at its deadline.

use std::time::Instant;

use quorum_store::crypto::Signer as _;
use quorum_store::engine::{MaterializedBatch, Step};
use quorum_store::types::{Digest, Payload};

use super::*;

const SHORT: Duration = Duration::from_millis(300);

/// Three nodes ordered four batches; the fourth node knows the commit and has no links.
async fn late(genesis: &Genesis) -> (MemoryNetwork, Vec<QuorumStore>, Payload, Commit) {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for index in 0..3 {
        nodes.push(node(index, genesis, &network, memory(index, genesis)).await);
    }
    for (index, node) in nodes.iter().enumerate() {
        certify(node, &format!("from node {index}")).await;
    }
    until(|| *nodes[0].proposable().borrow() == 3).await;
    let (payload, commit) = block(&nodes, genesis, 1, genesis_parent(genesis)).await;
    for index in 0..3 {
        network.disconnect(signer(3).author(), signer(index).author());
    }
    nodes.push(node(3, genesis, &network, memory(3, genesis)).await);
    // It is logged at once; its receipt comes once it is applied.
    let told = tokio::time::timeout(SHORT, nodes[3].notify_commit(commit)).await;
    assert!(told.is_err(), "the payload is not here");
    (network, nodes, Payload::clone(&payload), commit)
}

fn link(network: &MemoryNetwork) {
    for index in 0..3 {
        network.connect(signer(3).author(), signer(index).author());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_finds_nothing_ends_at_its_deadline_and_says_what_is_missing() {
    let genesis = genesis(31);
    let (network, nodes, payload, commit) = late(&genesis).await;
    let began = Instant::now();
    let outcome = nodes[3].materialize(&commit, SHORT).await.unwrap();
    let took = began.elapsed();
    let Materialized::TimedOut { missing } = outcome else { panic!("{outcome:?}") };
    assert_eq!(missing, [payload.digest(&genesis.chain_id())]);
    // One tick, and what a busy machine needs.
    assert!(took >= SHORT && took < SHORT + Duration::from_secs(2), "{took:?}");
    // It decided nothing.
    link(&network);
    assert_eq!(transactions(&nodes[3], &commit).await.len(), 3);
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_come_in_the_order_of_the_payload_and_callers_share_what_is_fetched() {
    let genesis = genesis(32);
    let (network, nodes, payload, commit) = late(&genesis).await;
    // One caller gives up while it waits, others do not.
    let given_up = nodes[3].materialize(&commit, PATIENCE);
    assert!(tokio::time::timeout(Duration::from_millis(50), given_up).await.is_err());
    let others = tokio::spawn({
        let node = nodes[3].clone();
        async move { (transactions(&node, &commit).await, transactions(&node, &commit).await) }
    });
    let mut stream = nodes[3].materializing(&commit, PATIENCE);
    // A wait that is given up loses nothing either.
    assert!(tokio::time::timeout(Duration::from_millis(50), stream.next()).await.is_err());
    link(&network);
    let mut batches: Vec<MaterializedBatch> = Vec::new();
    let end = loop {
        match stream.next().await.unwrap() {
            Step::Batch(batch) => batches.push(batch),
            Step::End(end) => break end,
        }
    };
    assert!(matches!(end, Materialized::Ready(ref rest) if rest.is_empty()), "{end:?}");
    let order: Vec<Digest> =
        payload.content.batches().map(|info| info.digest(&genesis.chain_id())).collect();
    assert_eq!(batches.iter().map(|batch| batch.digest).collect::<Vec<_>>(), order);
    let bodies = batches.iter().map(|batch| batch.body.as_ref().unwrap());
    let bytes: Vec<_> = bodies.flat_map(|body| body.transactions().collect::<Vec<_>>()).collect();
    let (first, second) = tokio::time::timeout(PATIENCE, others).await.expect("in time").unwrap();
    assert_eq!(first, second);
    assert_eq!(bytes, first);
    stop(&nodes).await;
}
