//! Leases and pressure through the handle.

use std::time::Duration;

use prometheus::Registry;
use quorum_store::engine::{CallError, NodeConfig, QuorumStore};
use quorum_store::sequencer::port::{
    BusyReason, LeaseError, LeaseId, LeaseRefusal, LeaseRequest, Room, SubmitError, Transaction,
    UnderLease,
};
use quorum_store::sequencer::pressure::Pressure;
use quorum_store::transport::memory::MemoryNetwork;

use crate::cluster::*;

/// Nothing leaves a pool for ten transactions within the test, unless the batch is full.
fn slow(mut config: NodeConfig) -> NodeConfig {
    config.sequencer.pool_transactions_max = 10;
    config.sequencer.batch_age_max = Duration::from_secs(1);
    config.sequencer.batch_age_min = Duration::from_secs(1);
    config
}

fn priced(price: u64, count: usize) -> Vec<Transaction> {
    let one =
        |index| Transaction { gas_unit_price: price, ..transaction(&format!("{price}/{index}")) };
    (0..count).map(one).collect()
}

fn request(transactions: u64) -> LeaseRequest {
    let room = Room { bytes: 100, transactions };
    LeaseRequest { client: "a".to_owned(), room, life: Duration::from_secs(9) }
}

async fn until_pressure(node: &QuorumStore, wanted: impl Fn(&Pressure) -> bool) -> Pressure {
    let mut changes = node.pressure();
    let seen = tokio::time::timeout(PATIENCE, changes.wait_for(wanted)).await;
    *seen.expect("in time").expect("the node runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quote_is_kept_while_the_stream_of_changes_tells_everybody_else_of_the_price() {
    let genesis = genesis(31);
    let network = MemoryNetwork::new();
    let config = slow(config(&genesis));
    let registry = Registry::new();
    let store = memory(0, &genesis);
    let mut nodes = vec![node_from(config, 0, &network, store, &registry, peers()).await];
    for index in 1..4 {
        nodes.push(node(index, &genesis, &network, memory(index, &genesis)).await);
    }
    let node = &nodes[0];
    let before =
        until_pressure(node, |p| p.serving && !p.reasons.contains(BusyReason::Windows)).await;
    assert_eq!((before.lowest_gas_bucket, before.accepted.transactions), (Some(0), 10));
    let lease = node.lease(request(3)).await.unwrap();
    assert_eq!((lease.lowest_gas_bucket, lease.room.transactions), (0, 3));
    let filling = tokio::spawn({
        let node = node.clone();
        async move { node.submit(priced(5_000_000, 7)).await.unwrap() }
    });
    let full = until_pressure(node, |p| p.pooled.transactions == 7).await;
    assert_eq!((full.lowest_gas_bucket, full.accepted), (None, Room::default()));
    assert_eq!((full.leases, full.leased.transactions), (1, 3));
    assert!(full.reasons.contains(BusyReason::Pool));
    let refused = node.submit(priced(9_000_000, 1)).await.unwrap();
    let told = matches!(refused[0], Err(SubmitError::Busy { reason: BusyReason::Pool, .. }));
    assert!(told, "{refused:?}");
    let refused = node.lease(request(1)).await.unwrap_err();
    let CallError::Refused(LeaseError::Busy { lowest_gas_bucket: None, .. }) = refused else {
        panic!("{refused:?}")
    };
    let under = UnderLease { client: "a".to_owned(), id: lease.id };
    let honoured = node.submit_under(under.clone(), priced(0, 3)).await.unwrap();
    assert!(honoured.iter().all(Result::is_ok), "{honoured:?}");
    assert!(filling.await.unwrap().iter().all(Result::is_ok));
    let empty = until_pressure(node, |p| p.pooled == Room::default()).await;
    assert_eq!((empty.lowest_gas_bucket, empty.leased), (Some(0), Room::default()));
    // Used up, and of another life: typed.
    let refusal = |result: Result<Room, CallError<LeaseRefusal>>| match result {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(node.release(under.clone()).await), LeaseRefusal::Unknown);
    let former = UnderLease { id: LeaseId { life: 1, number: 1 }, ..under };
    assert_eq!(refusal(node.release(former).await), LeaseRefusal::FormerLife);
    let unused = node.lease(request(2)).await.unwrap();
    let under = UnderLease { client: "a".to_owned(), id: unused.id };
    assert_eq!(node.release(under).await.unwrap(), unused.room);
    for node in &nodes {
        node.shutdown().await;
    }
}
