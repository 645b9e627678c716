//! Parts of a host that follow the commits, on real engines.

use std::time::Duration;

use quorum_store::engine::{AcknowledgeError, CallError, QuorumStore, SubscriptionError};
use quorum_store::sequencer::port::{Delivery, SubscribeError, SubscriptionEnd};
use quorum_store::types::{Commit, CommitIndex, Genesis};

use crate::cluster::*;
use crate::{child_of, stop};

/// `count` blocks, from height `first` on.
async fn blocks(nodes: &[QuorumStore], genesis: &Genesis, commits: &mut Vec<Commit>, count: u64) {
    for _ in 0..count {
        let parent = commits.last().map_or(genesis_parent(genesis), |last| child_of(last, genesis));
        let height = commits.len() as u64 + 1;
        commits.push(block(nodes, genesis, height, parent).await.1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_gets_every_commit_in_order_also_when_it_comes_back() {
    let genesis = genesis(20);
    let (_network, nodes) = four(&genesis).await;
    let mut commits = Vec::new();
    let mut executor = nodes[0].subscribe("executor", CommitIndex(1)).await.unwrap();
    let mut waiting = Box::pin(executor.next());
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "nothing to deliver yet");
    drop(waiting);
    blocks(&nodes, &genesis, &mut commits, 3).await;
    for commit in &commits[..2] {
        assert_eq!(executor.next().await.unwrap(), Delivery::Commit(*commit));
    }
    let ahead = executor.acknowledge(CommitIndex(3)).await;
    assert!(matches!(ahead, Err(AcknowledgeError::NotDelivered { up_to: CommitIndex(3) })));
    let elsewhere = executor.acknowledger();
    tokio::spawn(async move { elsewhere.acknowledge(CommitIndex(1)).await.unwrap() })
        .await
        .unwrap();
    drop(executor);
    blocks(&nodes, &genesis, &mut commits, 1).await;
    // Its own store holds commit 1 and not 2.
    let mut executor = nodes[0].subscribe("executor", CommitIndex(2)).await.unwrap();
    for commit in &commits[1..] {
        assert_eq!(executor.next().await.unwrap(), Delivery::Commit(*commit));
        executor.acknowledge(commit.index).await.unwrap();
    }
    let status = nodes[0].status().await.unwrap();
    assert_eq!(status.subscribers[0].next, CommitIndex(5));
    assert!(status.subscribers[0].attached);
    // A second one of the same name takes its place.
    let mut second = nodes[0].subscribe("executor", CommitIndex(4)).await.unwrap();
    for _ in 0..2 {
        let replaced = executor.next().await;
        let ended = matches!(replaced, Err(SubscriptionError::Ended(SubscriptionEnd::Replaced)));
        assert!(ended, "{replaced:?}");
    }
    assert_eq!(second.next().await.unwrap(), Delivery::Commit(commits[3]));
    drop(executor);
    nodes[0].unsubscribe("executor").await.unwrap();
    let gone = second.next().await;
    assert!(matches!(gone, Err(SubscriptionError::Ended(SubscriptionEnd::Unsubscribed))));
    assert!(nodes[0].status().await.unwrap().subscribers.is_empty());
    let refused = nodes[0].subscribe("", CommitIndex(1)).await;
    assert!(matches!(refused, Err(CallError::Refused(SubscribeError::Name))));
    stop(&nodes).await;
    assert!(matches!(second.next().await, Err(SubscriptionError::Ended(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_handle_is_detached_and_a_stopped_node_ends_the_others() {
    let genesis = genesis(21);
    let (_network, nodes) = four(&genesis).await;
    let dropped = nodes[0].subscribe("indexer", CommitIndex(1)).await.unwrap();
    let mut open = nodes[0].subscribe("executor", CommitIndex(1)).await.unwrap();
    drop(dropped);
    let attached = async || {
        let status = nodes[0].status().await.unwrap();
        status.subscribers.iter().filter(|subscriber| subscriber.attached).count()
    };
    let detached = async {
        while attached().await != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, detached).await.expect("detached in time");
    let waiting = tokio::spawn(async move { open.next().await });
    stop(&nodes).await;
    let ended = tokio::time::timeout(PATIENCE, waiting).await.expect("in time").unwrap();
    assert!(matches!(ended, Err(SubscriptionError::Stopped(_))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_takes_the_state_of_others_goes_on_where_they_are() {
    let genesis = genesis(22);
    let (network, mut nodes) = four(&genesis).await;
    let behind = nodes.pop().unwrap();
    let mut executor = behind.subscribe("executor", CommitIndex(1)).await.unwrap();
    let mut commits = Vec::new();
    blocks(&nodes, &genesis, &mut commits, 3).await;
    behind.skip_to(commits[2].header).await.unwrap();
    let (from, to) = (CommitIndex(1), CommitIndex(3));
    assert_eq!(executor.next().await.unwrap(), Delivery::Skipped { from, to });
    executor.acknowledge(to).await.unwrap();
    nodes.push(behind);
    blocks(&nodes, &genesis, &mut commits, 1).await;
    assert_eq!(executor.next().await.unwrap(), Delivery::Commit(commits[3]));
    drop(network);
    stop(&nodes).await;
}
