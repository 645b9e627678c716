//! A mempool of the host as a source of transactions, and what a bad one cannot do.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::Registry;
use quorum_store::engine::{
    EngineConfig, Exclusions, Filter, Filtered, Hooks, NodeConfig, QuorumStore, SourceFuture,
    TransactionSource,
};
use quorum_store::sequencer::port::{
    Event, SourceLimits, SubmitError, Transaction, TransactionKey,
};
use quorum_store::transport::memory::MemoryNetwork;
use quorum_store::types::{Batch, CommitIndex, Genesis};
use std::sync::Arc;
use tokio::sync::Notify;

use crate::cluster::*;
use crate::{child_of, stop, transactions};

/// The smallest mempool: transactions by key, and a bell.
#[derive(Default)]
struct Mempool {
    transactions: Mutex<BTreeMap<TransactionKey, Transaction>>,
    arrived: Notify,
    pulls: AtomicU64,
    refused: Mutex<Vec<SubmitError>>,
}

impl Mempool {
    fn add(&self, text: &str) -> TransactionKey {
        let transaction = transaction(text);
        let key = TransactionKey::of(&transaction.bytes);
        self.transactions.lock().unwrap().insert(key, transaction);
        self.arrived.notify_one();
        key
    }

    /// As an executor does with what it has executed.
    fn remove(&self, text: &str) {
        self.transactions.lock().unwrap().remove(&TransactionKey::of(text.as_bytes()));
    }

    fn pulls(&self) -> u64 {
        self.pulls.load(Ordering::Relaxed)
    }
}

impl TransactionSource for Mempool {
    fn pull<'a>(
        &'a self,
        limits: SourceLimits,
        excluded: &'a Exclusions,
    ) -> SourceFuture<'a, Vec<Transaction>> {
        Box::pin(async move {
            self.pulls.fetch_add(1, Ordering::Relaxed);
            let transactions = self.transactions.lock().unwrap();
            let open = transactions.iter().filter(|(key, _)| !excluded.contains(key));
            let open = open.map(|(_, transaction)| transaction.clone());
            open.take(limits.transactions_max as usize).collect()
        })
    }

    fn ready(&self) -> SourceFuture<'_, ()> {
        Box::pin(self.arrived.notified())
    }

    fn refused(&self, refused: &[(TransactionKey, SubmitError)]) {
        let mut transactions = self.transactions.lock().unwrap();
        for (key, error) in refused {
            transactions.remove(key);
            self.refused.lock().unwrap().push(*error);
        }
    }
}

/// Nothing is looked at by chance while a test runs: the bell has to ring.
fn patient(genesis: &Genesis) -> NodeConfig {
    let mut config = config(genesis);
    config.sequencer.source.idle_interval = Duration::from_secs(10);
    config
}

/// Four nodes, each with a mempool.
async fn with_mempools(genesis: &Genesis) -> (Vec<QuorumStore>, Vec<Arc<Mempool>>) {
    let network = MemoryNetwork::new();
    let (mut nodes, mut mempools) = (Vec::new(), Vec::new());
    for index in 0..4 {
        let mempool = Arc::new(Mempool::default());
        let hooks = (&Registry::new(), Hooks::new().with_source(mempool.clone()));
        let store = memory(index, genesis);
        nodes.push(hooked(patient(genesis), index, &network, store, hooks, peers()).await);
        mempools.push(mempool);
    }
    for node in &nodes {
        until(|| node.links().iter().filter(|link| link.up).count() == 3).await;
    }
    (nodes, mempools)
}

async fn in_progress(node: &QuorumStore, count: u64) {
    let waiting = async {
        while node.status().await.unwrap().in_progress != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_mempool_holds_is_batched_once_and_pulled_by_nobody_else() {
    let genesis = genesis(60);
    let (nodes, mempools) = with_mempools(&genesis).await;
    let mut executor = nodes[1].subscribe("executor", CommitIndex(1)).await.unwrap();
    let mut events = nodes[0].events();
    let key = mempools[0].add("one");
    let batched = async {
        loop {
            if let Event::Batched { pulled, .. } = events.recv().await.unwrap() {
                return pulled;
            }
        }
    };
    let batched = tokio::time::timeout(PATIENCE, batched).await.expect("batched in time");
    assert_eq!(batched, [(0, key)]);
    until(|| *nodes[0].proposable().borrow() == 1).await;
    // The others have heard of it too by now, and of another one.
    in_progress(&nodes[1], 1).await;
    mempools[1].add("one");
    mempools[1].add("two");
    until(|| *nodes[0].proposable().borrow() == 2).await;
    let (payload, commit) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    let counts: Vec<_> = payload.content.batches().map(|info| info.count).collect();
    assert_eq!(counts, [1, 1], "each in one batch");
    let mut executed = transactions(&nodes[1], &commit).await;
    executed.sort();
    assert_eq!(executed, ["one", "two"]);
    // Until it is executed it is in the mempool, and must not be pulled again.
    in_progress(&nodes[1], 2).await;
    in_progress(&nodes[0], 0).await;
    for text in &executed {
        mempools[1].remove(text);
    }
    let delivery = executor.next().await.unwrap();
    executor.acknowledge(delivery.last()).await.unwrap();
    in_progress(&nodes[1], 0).await;
    // Whoever has nothing is left alone.
    let before: Vec<u64> = mempools[2..].iter().map(|mempool| mempool.pulls()).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after: Vec<u64> = mempools[2..].iter().map(|mempool| mempool.pulls()).collect();
    assert_eq!(before, after);
    stop(&nodes).await;
}

/// Refuses what begins with `x`.
struct NoX;

impl Filter for NoX {
    fn transaction(&self, transaction: &Transaction) -> Result<(), Filtered> {
        if transaction.bytes.starts_with(b"x") { Err(Filtered("an x")) } else { Ok(()) }
    }

    fn batch(&self, _: &Batch) -> Result<(), Filtered> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_be_batched_leaves_the_mempool_and_the_rest_goes_on() {
    let genesis = genesis(61);
    let network = MemoryNetwork::new();
    let mempool = Arc::new(Mempool::default());
    mempool.add(&"y".repeat((64 << 10) + 1));
    mempool.add("x rated");
    mempool.add("good");
    let hooks = Hooks::new().with_source(mempool.clone()).with_filter(Arc::new(NoX));
    let registry = Registry::new();
    let store = memory(0, &genesis);
    let hooks = (&registry, hooks);
    let mut nodes = vec![hooked(patient(&genesis), 0, &network, store, hooks, peers()).await];
    for index in 1..4 {
        nodes.push(node(index, &genesis, &network, memory(index, &genesis)).await);
    }
    until(|| *nodes[0].proposable().borrow() == 1).await;
    until(|| mempool.refused.lock().unwrap().len() == 2).await;
    let mut refused = mempool.refused.lock().unwrap().clone();
    refused.sort_by_key(|error| matches!(error, SubmitError::TooLarge { .. }));
    assert_eq!(refused[0], SubmitError::Filtered { reason: "an x" });
    assert!(matches!(refused[1], SubmitError::TooLarge { .. }), "{refused:?}");
    let (_, commit) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    assert_eq!(transactions(&nodes[2], &commit).await, ["good"]);
    stop(&nodes).await;
}

/// Late, then broken, then careless: gives the same transaction for ever.
#[derive(Default)]
struct BadSource(AtomicU64);

impl TransactionSource for BadSource {
    fn pull<'a>(
        &'a self,
        _: SourceLimits,
        _: &'a Exclusions,
    ) -> SourceFuture<'a, Vec<Transaction>> {
        Box::pin(async move {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 => std::future::pending().await,
                1 => panic!("a bug of the host"),
                _ => vec![transaction("again"); 5],
            }
        })
    }

    fn ready(&self) -> SourceFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn refused(&self, _: &[(TransactionKey, SubmitError)]) {
        panic!("another one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_source_stops_nobody_and_is_not_asked_in_a_loop() {
    let genesis = genesis(62);
    let network = MemoryNetwork::new();
    let source = Arc::new(BadSource::default());
    let config = config(&genesis);
    let engine = EngineConfig { source_pull_timeout: Duration::from_millis(100), ..config.engine };
    let config = NodeConfig { engine, ..config };
    let hooks = (&Registry::new(), Hooks::new().with_source(source.clone()));
    let store = memory(0, &genesis);
    let mut nodes = vec![hooked(config, 0, &network, store, hooks, peers()).await];
    for index in 1..4 {
        nodes.push(node(index, &genesis, &network, memory(index, &genesis)).await);
    }
    certify(&nodes[0], "submitted").await;
    until(|| *nodes[0].proposable().borrow() == 2).await;
    let (_, commit) = block(&nodes, &genesis, 1, genesis_parent(&genesis)).await;
    let executed = transactions(&nodes[0], &commit).await;
    assert_eq!(executed.iter().filter(|text| *text == "again").count(), 1);
    assert_eq!(executed.iter().filter(|text| *text == "submitted").count(), 1);
    // Always ready, and nothing new: four times a second.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = source.0.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = source.0.load(Ordering::Relaxed) - before;
    assert!(asked < 40, "{asked} pulls in two seconds");
    assert_eq!(nodes[0].restarts().borrow().count, 0, "nobody fell over");
    let parent = child_of(&commit, &genesis);
    certify(&nodes[0], "later").await;
    let (_, commit) = block(&nodes, &genesis, 2, parent).await;
    assert!(transactions(&nodes[3], &commit).await.contains(&"later".to_owned()));
    stop(&nodes).await;
}
