//! A host's filter: what it refuses is not batched or signed for here, and nothing else changes.

use std::sync::Arc;

use prometheus::Registry;
use quorum_store::engine::{Filter, Filtered, Hooks};
use quorum_store::sequencer::port::{SubmitError, Transaction};
use quorum_store::transport::memory::MemoryNetwork;
use quorum_store::types::Batch;

use crate::cluster::*;
use crate::{child_of, stop, transactions};

/// Refuses transactions that begin with `x`, and batches that hold one; falls over `!`.
struct NoX;

fn judge(bytes: &[u8]) -> Result<(), Filtered> {
    assert_ne!(bytes.first(), Some(&b'!'), "a bug of the host");
    if bytes.starts_with(b"x") { Err(Filtered("an x")) } else { Ok(()) }
}

impl Filter for NoX {
    fn transaction(&self, transaction: &Transaction) -> Result<(), Filtered> {
        judge(&transaction.bytes)
    }

    fn batch(&self, batch: &Batch) -> Result<(), Filtered> {
        batch.body.transactions().try_for_each(|bytes| judge(&bytes))
    }
}

fn refused(registry: &Registry) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|f| f.name() == "quorum_store_refused_total").unwrap();
    let filtered = |m: &&prometheus::proto::Metric| m.get_label()[0].value() == "filtered";
    family.get_metric().iter().find(filtered).unwrap().get_counter().get_value()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refused_transaction_does_not_condemn_the_others_of_its_submission() {
    let genesis = genesis(65);
    let network = MemoryNetwork::new();
    let hooks = (&Registry::new(), Hooks::new().with_filter(Arc::new(NoX)));
    let store = memory(0, &genesis);
    let mut nodes = vec![hooked(config(&genesis), 0, &network, store, hooks, peers()).await];
    for index in 1..4 {
        nodes.push(node(index, &genesis, &network, memory(index, &genesis)).await);
    }
    certify(&nodes[0], "first").await;
    let all = ["good", "x one", "!", "fine", "x two"].map(transaction);
    let results = nodes[0].submit(all.to_vec()).await.unwrap();
    let an_x = Err(SubmitError::Filtered { reason: "an x" });
    assert_eq!((results[1], results[4]), (an_x, an_x));
    assert!(matches!(results[2], Err(SubmitError::Filtered { .. })), "a filter that fails refuses");
    assert_eq!(results[0].unwrap().batch, results[3].unwrap().batch);
    let only = nodes[0].submit(vec![transaction("x three")]).await.unwrap();
    assert_eq!(only, [an_x]);
    until(|| *nodes[0].proposable().borrow() == 2).await;
    let (_, commit) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    assert_eq!(transactions(&nodes[1], &commit).await, ["first", "good", "fine"]);
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_one_refuses_is_certified_by_the_others_and_executed_by_all() {
    let genesis = genesis(66);
    let network = MemoryNetwork::new();
    let registry = Registry::new();
    let mut nodes = Vec::new();
    for index in 0..3 {
        nodes.push(node(index, &genesis, &network, memory(index, &genesis)).await);
    }
    let hooks = (&registry, Hooks::new().with_filter(Arc::new(NoX)));
    let store = memory(3, &genesis);
    nodes.push(hooked(config(&genesis), 3, &network, store, hooks, peers()).await);
    for node in &nodes {
        until(|| node.links().iter().filter(|link| link.up).count() == 3).await;
    }
    let dirty = certify(&nodes[1], "x rated").await;
    until(|| refused(&registry) >= 1.0).await;
    until(|| nodes.iter().all(|node| *node.proposable().borrow() == 1)).await;
    let (payload, commit) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    let index =
        genesis.committee.index_of(&quorum_store::crypto::Signer::author(&signer(3))).unwrap();
    let proof = &payload.content.proofs[0];
    assert_eq!(proof.info.digest(&genesis.chain_id()), dirty);
    assert!(proof.signatures.iter().all(|part| part.signer != index), "it did not sign");
    for node in &nodes {
        assert_eq!(transactions(node, &commit).await, ["x rated"]);
    }
    // It is no offence: the link stays, and clean batches are signed for.
    assert!(nodes[3].links().iter().all(|link| link.up));
    let clean = certify(&nodes[1], "clean").await;
    until(|| nodes[3].reader().batch(&clean).unwrap().is_some()).await;
    until(|| *nodes[0].proposable().borrow() == 1).await;
    let (_, commit) = block(&nodes, &genesis, 2, child_of(&commit, &genesis)).await;
    assert_eq!(transactions(&nodes[3], &commit).await, ["clean"]);
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_fails_on_a_batch_refuses_it_and_nobody_falls_over() {
    let genesis = genesis(67);
    let network = MemoryNetwork::new();
    let registry = Registry::new();
    let mut nodes = Vec::new();
    for index in 0..3 {
        nodes.push(node(index, &genesis, &network, memory(index, &genesis)).await);
    }
    let hooks = (&registry, Hooks::new().with_filter(Arc::new(NoX)));
    let store = memory(3, &genesis);
    nodes.push(hooked(config(&genesis), 3, &network, store, hooks, peers()).await);
    for node in &nodes {
        until(|| node.links().iter().filter(|link| link.up).count() == 3).await;
    }
    certify(&nodes[0], "!").await;
    until(|| refused(&registry) >= 1.0).await;
    assert_eq!(nodes[3].restarts().borrow().count, 0);
    stop(&nodes).await;
}
