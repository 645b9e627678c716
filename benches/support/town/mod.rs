//! Validators in one process, leaders that order their batches, and clients.

#![allow(dead_code, reason = "each benchmark uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use prometheus::Registry;
use quorum_store::config::SequencerConfig;
use quorum_store::crypto::{Ed25519Signer, Signer};
use quorum_store::engine::{EngineConfig, Materialized, NodeConfig, QuorumStore};
use quorum_store::sequencer::port::{Event, SubmitError, Transaction};
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::{Store, StoreIdentity, memory::MemoryStore};
use quorum_store::transport::{Peer, Transport, memory::MemoryNetwork};
use quorum_store::types::{
    Author, ChainParameters, Commit, CommitIndex, Committee, Digest, Epoch, Genesis, Incarnation,
    Member, Timestamp,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::measure::noise;
use clients::{Client, Load, Times};
use counting::Counting;
pub use counting::Counts;
use leaders::Leaders;

mod clients;
mod counting;
mod leaders;

/// Whatever takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Blocks decided and not executed yet, of one validator.
const BEHIND: usize = 8;

/// Where groups become durable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// Nowhere: what everything else costs.
    Memory,
    /// On disk, synced.
    Journal,
}

impl StoreKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Journal => "journal",
        }
    }
}

/// What became of one batch at its author.
#[derive(Default)]
struct Progress {
    certified: Option<Instant>,
    executed: Option<Instant>,
    waiting: Vec<oneshot::Sender<()>>,
}

/// One validator, and what its clients wait for.
pub struct Validator {
    pub node: QuorumStore,
    own: Mutex<HashMap<Digest, Progress>>,
    /// Batches executed, in their order.
    history: Mutex<blake3::Hasher>,
    executed: watch::Sender<CommitIndex>,
}

impl Validator {
    /// Waits until a batch was executed here: when it was certified, and when executed.
    pub async fn executed(&self, batch: Digest) -> (Option<Instant>, Instant) {
        let waiting = {
            let mut own = self.own.lock().unwrap();
            let progress = own.entry(batch).or_default();
            progress.executed.is_none().then(|| {
                let (sender, waiting) = oneshot::channel();
                progress.waiting.push(sender);
                waiting
            })
        };
        if let Some(waiting) = waiting {
            let waiting = tokio::time::timeout(PATIENCE, waiting).await;
            waiting.expect("a batch that was accepted is executed in time").unwrap();
        }
        let own = self.own.lock().unwrap();
        (own[&batch].certified, own[&batch].executed.unwrap())
    }

    /// Executes blocks as they are decided.
    async fn execute(&self, author: Author, mut decided: mpsc::Receiver<Commit>) {
        while let Some(commit) = decided.recv().await {
            let block = self.node.materialize(&commit, PATIENCE).await.unwrap();
            let Materialized::Ready(batches) = block else { panic!("no content: {block:?}") };
            let now = Instant::now();
            for batch in batches {
                let body = batch.body.expect("nothing expires here");
                assert_eq!(body.transactions().count(), batch.info.count as usize);
                self.history.lock().unwrap().update(&batch.digest.0);
                if batch.info.author == author {
                    let mut own = self.own.lock().unwrap();
                    let progress = own.entry(batch.digest).or_default();
                    assert!(progress.executed.replace(now).is_none(), "executed twice");
                    for waiting in progress.waiting.drain(..) {
                        let _ = waiting.send(());
                    }
                }
            }
            self.node.acknowledge("executor", commit.index.next()).await.unwrap();
            self.executed.send_replace(commit.index);
        }
    }

    async fn follow(&self) {
        let mut events = self.node.events();
        // Ends with the node, or when it is aborted.
        while let Ok(event) = events.recv().await {
            if let Event::Certified { digest } = event {
                let now = Instant::now();
                self.own.lock().unwrap().entry(digest).or_default().certified = Some(now);
            }
        }
    }
}

/// Validators of one power each, which order what is certified, for ever.
pub struct Town {
    validators: Vec<Arc<Validator>>,
    signers: Vec<Arc<Counting>>,
    registries: Vec<Registry>,
    bytes: usize,
    noise: Bytes,
    next: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    /// Ends with the highest block.
    ordering: JoinHandle<CommitIndex>,
    executing: Vec<JoinHandle<()>>,
    following: Vec<JoinHandle<()>>,
    /// Held for its end.
    _directory: tempfile::TempDir,
}

fn signer(index: usize) -> Ed25519Signer {
    Ed25519Signer::new(&Zeroizing::new([index as u8 + 1; 32]))
}

fn now() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(now.as_micros() as u64)
}

impl Town {
    /// Starts them; all are linked when it returns. Transactions have so many bytes.
    pub async fn start(count: usize, kind: StoreKind, bytes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authors: Vec<Author> = (0..count).map(|index| signer(index).author()).collect();
        let members = authors.iter().map(|author| Member { author: *author, power: 1 }).collect();
        let genesis = Genesis {
            nonce: Digest([7; 32]),
            parameters: ChainParameters::default(),
            committee: Committee::new(members).unwrap(),
        };
        let address = "127.0.0.1:1".parse().unwrap(); // not looked at in memory
        let peers: Vec<Peer> = authors.iter().map(|key| Peer { key: *key, address }).collect();
        let (network, chain) = (MemoryNetwork::new(), genesis.chain_id());
        let (mut validators, mut executing, mut following) = (vec![], vec![], vec![]);
        let (mut decided, mut signers, mut registries) = (vec![], vec![], vec![]);
        for (index, author) in authors.iter().copied().enumerate() {
            let identity = StoreIdentity { author, chain };
            let path = directory.path().join(format!("validator-{index}"));
            let store: Box<dyn Store> = match kind {
                StoreKind::Memory => {
                    Box::new(MemoryStore::new(author, chain, Incarnation(index as u64 + 1)))
                }
                StoreKind::Journal => {
                    let config = JournalConfig::default();
                    Box::new(JournalStore::create(&path, identity, &config).unwrap())
                }
            };
            let config = NodeConfig {
                genesis: genesis.clone(),
                epoch: Epoch(0),
                committee: genesis.committee.clone(),
                sequencer: SequencerConfig::default(),
                engine: EngineConfig::default(),
            };
            let start = |handshake, events| {
                let transport = network.join(author, handshake, &peers, events);
                Ok::<_, Infallible>(Arc::new(transport) as Arc<dyn Transport>)
            };
            let signer = Arc::new(Counting::new(signer(index)));
            let registry = Registry::new();
            signers.push(Arc::clone(&signer));
            let node = QuorumStore::start(config, store, signer, start, &registry).await.unwrap();
            registries.push(registry);
            let validator = Arc::new(Validator {
                node,
                own: Mutex::default(),
                history: Mutex::default(),
                executed: watch::Sender::new(CommitIndex(0)),
            });
            let (sender, receiver) = mpsc::channel(BEHIND);
            decided.push(sender);
            let executor = Arc::clone(&validator);
            executing.push(tokio::spawn(async move { executor.execute(author, receiver).await }));
            let follower = Arc::clone(&validator);
            following.push(tokio::spawn(async move { follower.follow().await }));
            validators.push(validator);
        }
        for Validator { node, .. } in validators.iter().map(AsRef::as_ref) {
            while node.links().iter().filter(|link| link.up).count() < count - 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let (stop, stopped) = watch::channel(false);
        let nodes = validators.iter().map(|validator| validator.node.clone()).collect();
        let leaders = Leaders { nodes, authors, genesis, decided, stopped };
        Self {
            validators,
            signers,
            registries,
            bytes,
            noise: noise(),
            next: Arc::default(),
            stop,
            ordering: tokio::spawn(leaders.run()),
            executing,
            following,
            _directory: directory,
        }
    }

    /// One transaction, until it was executed where it was submitted.
    pub async fn single(&self) {
        let validator = &self.validators[0];
        let transactions = vec![self.transaction()];
        let batch = loop {
            // Windows may not have been announced yet.
            match validator.node.submit(transactions.clone()).await.unwrap()[0] {
                Ok(accepted) => break accepted.batch,
                Err(SubmitError::Busy { retry_after, .. }) => {
                    tokio::time::sleep(retry_after).await;
                }
                Err(refused) => panic!("{refused}"),
            }
        };
        validator.executed(batch).await;
    }

    fn transaction(&self) -> Transaction {
        transaction(&self.noise, self.bytes, &self.next)
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let sum = |count: fn(&Counting) -> &AtomicU64| {
            self.signers.iter().map(|signer| count(signer).load(Ordering::Relaxed)).sum()
        };
        let certified =
            self.validators.iter().map(|validator| validator.node.statistics().certified);
        let mut counts = Counts {
            signed: sum(|signer| &signer.signed),
            verified: sum(|signer| &signer.verified),
            certified: certified.sum(),
            sent: BTreeMap::new(),
        };
        for family in self.registries.iter().flat_map(Registry::gather) {
            let bytes = match family.name() {
                "quorum_store_sent_total" => false,
                "quorum_store_sent_bytes_total" => true,
                _ => continue,
            };
            for metric in family.get_metric() {
                let kind = metric.get_label()[0].value().to_owned();
                let (messages, sent_bytes) = counts.sent.entry(kind).or_default();
                let count = metric.get_counter().get_value();
                *if bytes { sent_bytes } else { messages } += count;
            }
        }
        counts
    }

    /// Begins with so many clients, spread over the validators.
    pub fn load(&self, clients: usize, transactions: usize) -> Load {
        let (stop, stopped) = watch::channel(false);
        let times = Arc::new(Mutex::new(Times::default()));
        let client = |index| Client {
            validator: Arc::clone(&self.validators[index % self.validators.len()]),
            noise: self.noise.clone(),
            bytes: self.bytes,
            next: Arc::clone(&self.next),
            transactions,
            times: Arc::clone(&times),
            stopped: stopped.clone(),
        };
        let clients = (0..clients).map(|index| tokio::spawn(client(index).run())).collect();
        Load { stop, times, clients }
    }

    /// Stops, after everybody has executed everything, and it was the same.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let highest = self.ordering.await.unwrap();
        try_join_all(self.executing).await.unwrap();
        let history = |validator: &Validator| validator.history.lock().unwrap().finalize();
        let first = history(&self.validators[0]);
        for validator in &self.validators {
            assert_eq!(*validator.executed.borrow(), highest, "a block was not executed");
            assert_eq!(history(validator), first, "validators executed different batches");
        }
        join_all(self.validators.iter().map(|validator| validator.node.shutdown())).await;
        self.following.iter().for_each(JoinHandle::abort);
    }
}

/// A new one, without copying its bytes.
pub fn transaction(noise: &Bytes, bytes: usize, next: &AtomicU64) -> Transaction {
    let number = next.fetch_add(1, Ordering::Relaxed) as usize;
    let offset = number * 977 % (noise.len() - bytes);
    Transaction {
        bytes: noise.slice(offset..offset + bytes),
        gas_unit_price: 1,
        expiration: now().saturating_add(Duration::from_secs(25)),
    }
}
