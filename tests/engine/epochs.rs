//! An epoch ends and the next begins, on real engines.

use std::time::Duration;

use prometheus::Registry;
use quorum_store::engine::{CallError, Materialized, NodeConfig, QuorumStore};
use quorum_store::sequencer::port::{CloseError, Delivery, OpenError, SubmitError};
use quorum_store::transport::memory::MemoryNetwork;
use quorum_store::types::{Commit, CommitIndex, Epoch, EpochReceipt};

use crate::cluster::*;
use crate::{child_of, stop};

async fn close(node: &QuorumStore, epoch: u64, last: u64) -> EpochReceipt {
    node.close(Epoch(epoch), CommitIndex(last), PATIENCE).await.unwrap()
}

/// Waits until each of these has so many members in its epoch that serve it too.
async fn agree(nodes: &[QuorumStore], others: usize) {
    let waiting = async {
        for node in nodes {
            loop {
                let status = node.status().await.unwrap();
                let serves = |w: &&quorum_store::sequencer::status::WindowStatus| {
                    w.member && w.linked && w.epoch == Some(status.epoch)
                };
                if status.windows.iter().filter(serves).count() == others {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time");
}

async fn texts(node: &QuorumStore, commit: &Commit) -> Vec<String> {
    let Materialized::Ready(batches) = node.materialize(commit, PATIENCE).await.unwrap() else {
        panic!("not ready")
    };
    let bodies = batches.iter().filter_map(|batch| batch.body.as_ref());
    let transactions = bodies.flat_map(|body| body.transactions().collect::<Vec<_>>());
    transactions.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leaves_and_one_joins_under_running_links_and_nothing_is_lost() {
    let genesis = genesis(30);
    let (network, mut nodes) = four(&genesis).await;
    let mut executor = nodes[1].subscribe("executor", CommitIndex(1)).await.unwrap();
    certify(&nodes[0], "first").await;
    until(|| *nodes[0].proposable().borrow() == 1).await;
    let (_, first) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    certify(&nodes[1], "certified and not ordered").await;
    let ups = || nodes[0].links().iter().map(|link| link.ups).collect::<Vec<_>>();
    let before = ups();
    for node in &nodes {
        let receipt = close(node, 0, 1).await;
        assert_eq!((receipt.epoch, receipt.final_index), (Epoch(0), CommitIndex(1)));
        let again = close(node, 0, 1).await;
        assert_eq!(again, receipt);
        let late = node.submit(vec![transaction("late")]).await.unwrap();
        assert_eq!(late, [Err(SubmitError::EpochClosed { epoch: Epoch(0) })]);
    }
    // Node 3 leaves, node 4 joins from the state of the others.
    let next = committee([0, 1, 2, 4]);
    for node in &nodes[..3] {
        node.open_epoch(Epoch(1), next.clone(), peers_of(0..5)).await.unwrap();
    }
    let joining = NodeConfig { epoch: Epoch(1), committee: next.clone(), ..config(&genesis) };
    let store = memory(4, &genesis);
    let joined = node_from(joining, 4, &network, store, &Registry::new(), peers_of(0..5)).await;
    joined.skip_to(first.header).await.unwrap();
    let left = nodes.pop().unwrap();
    nodes.push(joined);
    agree(&nodes, 3).await;
    let kept = nodes[0].links().iter().filter(|link| link.ups == 1).count();
    assert!(kept >= 3, "links of those who stay were not cut: {before:?} {:?}", nodes[0].links());

    certify(&nodes[3], "from the one who joined").await;
    until(|| *nodes[0].proposable().borrow() == 2).await;
    let (_, second) = block(&nodes, &genesis, 2, child_of(&first, &genesis)).await;
    let mut executed = texts(&nodes[3], &second).await;
    executed.sort();
    assert_eq!(executed, ["certified and not ordered", "from the one who joined"]);
    for commit in [first, second] {
        assert_eq!(executor.next().await.unwrap(), Delivery::Commit(commit));
    }
    // Who left still serves what it holds, and reads; and who joined reads the epoch before.
    assert_eq!(texts(&nodes[3], &first).await, ["first"]);
    assert_eq!(texts(&left, &first).await, ["first"]);
    assert_eq!(nodes[0].membership().former.len(), 1);
    nodes.push(left);
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_that_misses_its_deadline_says_why_and_a_dropped_one_is_taken_up_again() {
    let genesis = genesis(31);
    let (_network, nodes) = four(&genesis).await;
    let soon = Duration::from_millis(50);
    let late = nodes[0].close(Epoch(0), CommitIndex(1), soon).await;
    let Err(CallError::Refused(CloseError::Late { logged, missing, .. })) = late else {
        panic!("{late:?}")
    };
    assert_eq!((logged, missing), (CommitIndex(0), None));
    let dropped = nodes[0].close(Epoch(0), CommitIndex(1), PATIENCE);
    assert!(tokio::time::timeout(soon, dropped).await.is_err());
    let other = nodes[0].close(Epoch(0), CommitIndex(2), PATIENCE).await;
    let known = CommitIndex(1);
    assert!(
        matches!(other, Err(CallError::Refused(CloseError::Conflict { known: k })) if k == known)
    );
    let early = nodes[0].open_epoch(Epoch(1), committee(0..4), peers()).await;
    let open = OpenError::NotClosed { open: Epoch(0) };
    assert!(matches!(early, Err(CallError::Refused(error)) if error == open));
    let waiting = tokio::spawn({
        let node = nodes[0].clone();
        async move { close(&node, 0, 1).await }
    });
    // The fence holds back what is beyond the last commit, and lets everything else through.
    block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    let receipt = tokio::time::timeout(PATIENCE, waiting).await.expect("in time").unwrap();
    assert_eq!(receipt.final_index, CommitIndex(1));
    stop(&nodes).await;
    let stopped = nodes[0].close(Epoch(0), CommitIndex(1), PATIENCE).await;
    assert!(matches!(stopped, Err(CallError::Stopped(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_down_over_the_end_of_an_epoch_serves_the_one_on_its_disk() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = genesis(32);
    let network = MemoryNetwork::new();
    (0..4).for_each(|index| create(directory.path(), index, &genesis));
    let mut nodes = Vec::new();
    for index in 0..4 {
        let store = open(directory.path(), index, &genesis);
        nodes.push(node(index, &genesis, &network, store).await);
    }
    let (_, first) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    for node in &nodes {
        close(node, 0, 1).await;
        node.open_epoch(Epoch(1), committee(0..4), peers()).await.unwrap();
    }
    stop(&nodes).await;
    nodes.clear();
    for index in 0..4 {
        let store = open(directory.path(), index, &genesis);
        nodes.push(node(index, &genesis, &network, store).await);
    }
    agree(&nodes, 3).await;
    assert!(nodes.iter().all(|node| node.membership().epoch == Epoch(1)));
    certify(&nodes[2], "in the second").await;
    until(|| *nodes[0].proposable().borrow() == 1).await;
    let (_, second) = block(&nodes, &genesis, 2, child_of(&first, &genesis)).await;
    assert_eq!(texts(&nodes[0], &second).await, ["in the second"]);
    stop(&nodes).await;
    drop(nodes);
    for index in 0..4 {
        let path = directory.path().join(format!("validator-{index}"));
        let report = quorum_store::store::check::check(&path).unwrap();
        assert!(report.is_sound(), "{:?}", report.problems);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_certified_in_the_last_moment_is_read_in_the_next_epoch_until_its_retention_ends() {
    let genesis = genesis(33);
    let (_network, nodes) = four(&genesis).await;
    let (_, first) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    let last = certify(&nodes[1], "in the last moment").await;
    let read = |node: &QuorumStore| node.reader().batch(&last).unwrap();
    for node in &nodes {
        // A quorum stored it before it was certified, and the last one does so right after.
        until(|| read(node).is_some()).await;
    }
    for node in &nodes {
        close(node, 0, 1).await;
        node.open_epoch(Epoch(1), committee(0..4), peers()).await.unwrap();
    }
    agree(&nodes, 3).await;
    let batch = read(&nodes[0]).unwrap();
    assert_eq!(batch.info.epoch, Epoch(0));
    let end = batch.info.expiration.saturating_add(genesis.parameters.grace());
    let (_, second) = block_at(&nodes, &genesis, 2, child_of(&first, &genesis), end).await;
    for node in &nodes {
        assert_eq!(read(node).as_ref(), Some(&batch), "its retention ends after this instant");
    }
    let later = end.saturating_add(Duration::from_micros(1));
    block_at(&nodes, &genesis, 3, child_of(&second, &genesis), later).await;
    for node in &nodes {
        until(|| read(node).is_none()).await;
    }
    stop(&nodes).await;
}
