//! Validators without payloads: what a real one keeps on disk and sends to its peers is one table
//! in memory here, from digest to parent.

use futures::future::{BoxFuture, join_all, select_all};
use quorum_store_ordering::{
    Application, Context, Engine, EngineConfig, Finalized, OrderingError, Participant, Runtime,
    public_key,
};
use std::{
    collections::HashMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

pub const CHAIN_ID: [u8; 32] = [0xc1; 32];
pub const GENESIS: [u8; 32] = [0x6e; 32];

/// Time between a parent and the proposal on top of it.
const BLOCK_INTERVAL: Duration = Duration::from_millis(50);

/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Fails the test if the future takes too long.
pub async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    let output = timeout(PATIENCE, future).await;
    output.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// A directory that is removed with it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let unique = format!("quorum-store-ordering-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(unique))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Addresses that nobody listens on at the moment.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    // All are held until all are known, or one could be given out twice.
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind(any).unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

/// How a validator answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Honest,
    /// `verify` stays pending for ever.
    NeverVerifies,
    /// `verify` panics before it returns a future.
    PanicsInVerify,
    /// `finalized` panics.
    PanicsInFinalized,
}

/// Stands for disks and links of all validators.
#[derive(Default)]
struct Table {
    parents: Mutex<HashMap<[u8; 32], [u8; 32]>>,
    counter: AtomicU64,
}

impl Table {
    fn parent(&self, digest: &[u8; 32]) -> Option<[u8; 32]> {
        self.parents.lock().unwrap().get(digest).copied()
    }

    fn child_of(&self, parent: [u8; 32]) -> [u8; 32] {
        let mut digest = [0; 32];
        let count = self.counter.fetch_add(1, Ordering::SeqCst) + 1;
        digest[..8].copy_from_slice(&count.to_be_bytes());
        self.parents.lock().unwrap().insert(digest, parent);
        digest
    }
}

#[derive(Default)]
struct Ledger {
    /// Final digests from the first above genesis upwards.
    chain: Vec<[u8; 32]>,
    reports: Vec<Finalized>,
}

/// The application of one validator.
pub struct Validator {
    table: Arc<Table>,
    mode: Mode,
    ledger: Mutex<Ledger>,
    changes: watch::Sender<()>,
    futures: Arc<AtomicUsize>,
}

/// Counts a future while it exists.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Validator {
    fn new(table: Arc<Table>, mode: Mode) -> Arc<Self> {
        Arc::new(Self {
            table,
            mode,
            ledger: Mutex::default(),
            changes: watch::Sender::new(()),
            futures: Arc::default(),
        })
    }

    pub fn chain(&self) -> Vec<[u8; 32]> {
        self.ledger.lock().unwrap().chain.clone()
    }

    pub fn height(&self) -> usize {
        self.ledger.lock().unwrap().chain.len()
    }

    /// Everything reported so far, repetitions included.
    pub fn reports(&self) -> Vec<Finalized> {
        self.ledger.lock().unwrap().reports.clone()
    }

    pub fn newest(&self) -> Finalized {
        self.reports().pop().unwrap()
    }

    /// Futures of the application that exist now.
    pub fn futures(&self) -> usize {
        self.futures.load(Ordering::SeqCst)
    }

    /// Loses everything that was reported.
    pub fn forget(&self) {
        *self.ledger.lock().unwrap() = Ledger::default();
    }

    pub async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let mut changes = self.changes.subscribe();
        in_time(what, async {
            while !reached(self) {
                changes.changed().await.unwrap();
            }
        })
        .await;
    }

    pub async fn reach(&self, height: usize) {
        self.until("height", |validator| validator.height() >= height).await;
    }

    fn counted(&self) -> Counted {
        self.futures.fetch_add(1, Ordering::SeqCst);
        self.changes.send_replace(());
        Counted(self.futures.clone())
    }
}

impl Application for Validator {
    fn propose(&self, context: Context) -> BoxFuture<'static, Option<[u8; 32]>> {
        let (table, counted) = (self.table.clone(), self.counted());
        Box::pin(async move {
            let _counted = counted;
            sleep(BLOCK_INTERVAL).await;
            Some(table.child_of(context.parent))
        })
    }

    fn verify(&self, context: Context, digest: [u8; 32]) -> BoxFuture<'static, bool> {
        assert!(self.mode != Mode::PanicsInVerify, "verify panics on purpose");
        let never = self.mode == Mode::NeverVerifies;
        let (table, counted) = (self.table.clone(), self.counted());
        Box::pin(async move {
            let _counted = counted;
            if never {
                std::future::pending::<()>().await;
            }
            table.parent(&digest) == Some(context.parent)
        })
    }

    fn certify(&self, _: u64, _: u64, digest: [u8; 32]) -> BoxFuture<'static, bool> {
        let (table, counted) = (self.table.clone(), self.counted());
        Box::pin(async move {
            let _counted = counted;
            table.parent(&digest).is_some()
        })
    }

    fn broadcast(&self, digest: [u8; 32]) {
        assert!(self.table.parent(&digest).is_some(), "only own proposals are spread");
    }

    fn finalized(&self, finalized: Finalized) {
        assert!(self.mode != Mode::PanicsInFinalized, "finalized panics on purpose");
        let mut ledger = self.ledger.lock().unwrap();
        if !ledger.chain.contains(&finalized.digest) {
            let below = ledger.chain.last().copied().unwrap_or(GENESIS);
            let mut branch = vec![finalized.digest];
            loop {
                let lowest = branch[branch.len() - 1];
                let parent = self.table.parent(&lowest).unwrap();
                if parent == below {
                    break;
                }
                assert!(parent != GENESIS, "the chain forks below {finalized:?}");
                branch.push(parent);
            }
            ledger.chain.extend(branch.into_iter().rev());
        }
        ledger.reports.push(finalized);
        drop(ledger);
        self.changes.send_replace(());
    }
}

/// Validators with their engines, all in one runtime.
pub struct Cluster {
    validators: Vec<Arc<Validator>>,
    configs: Vec<EngineConfig>,
    engines: Vec<Option<Engine>>,
}

impl Cluster {
    /// Starts engines that answer as told, on free ports.
    pub fn starting(runtime: &Runtime, modes: &[Mode]) -> Self {
        let table = Arc::new(Table::default());
        let configs = configs(modes.len());
        let validators: Vec<_> =
            modes.iter().map(|mode| Validator::new(table.clone(), *mode)).collect();
        let engines = modes.iter().map(|_| None).collect();
        let mut cluster = Self { validators, configs, engines };
        for index in 0..modes.len() {
            cluster.start_one(runtime, index);
        }
        cluster
    }

    /// Starts honest engines and waits until all have seen something final. Takes other ports
    /// when somebody was faster.
    pub async fn started(runtime: &Runtime, count: usize) -> Self {
        for _ in 0..5 {
            let mut cluster = Self::starting(runtime, &vec![Mode::Honest; count]);
            let Some(cause) = cluster.first_final_or_failure().await else {
                return cluster;
            };
            let lost_port =
                matches!(cause, OrderingError::Listen { .. } | OrderingError::NetworkStopped);
            assert!(lost_port, "{cause}");
            cluster.stop().await;
        }
        panic!("no free ports in five attempts");
    }

    async fn first_final_or_failure(&mut self) -> Option<OrderingError> {
        let reached = join_all(self.validators.iter().map(|validator| validator.reach(1)));
        let failed = self.engines.iter_mut().flatten().map(|engine| Box::pin(engine.failed()));
        tokio::select! {
            _ = reached => None,
            (cause, ..) = select_all(failed) => Some(cause),
        }
    }

    pub fn start_one(&mut self, runtime: &Runtime, index: usize) {
        let config = self.configs[index].clone();
        let application = self.validators[index].clone();
        self.engines[index] = Some(runtime.start(config, application).unwrap());
    }

    pub async fn stop_one(&mut self, index: usize) {
        let engine = self.engines[index].take().unwrap();
        in_time("stop", engine.stop()).await;
    }

    /// Drops all engines without waiting for their end.
    pub fn drop_all(&mut self) {
        self.engines.iter_mut().for_each(|engine| *engine = None);
    }

    pub async fn stop(mut self) {
        for index in 0..self.engines.len() {
            if self.engines[index].is_some() {
                self.stop_one(index).await;
            }
        }
    }

    pub fn validator(&self, index: usize) -> &Arc<Validator> {
        &self.validators[index]
    }

    pub fn validators(&self) -> &[Arc<Validator>] {
        &self.validators
    }

    pub fn engine(&mut self, index: usize) -> &mut Engine {
        self.engines[index].as_mut().unwrap()
    }

    /// Waits until exactly these are connected to one validator.
    pub async fn connected(&mut self, index: usize, keys: &[[u8; 32]]) {
        let engine = self.engine(index);
        in_time("links", async {
            while engine.connected() != keys {
                sleep(BLOCK_INTERVAL).await;
            }
        })
        .await;
    }

    pub fn config(&self, index: usize) -> &EngineConfig {
        &self.configs[index]
    }

    pub fn config_mut(&mut self, index: usize) -> &mut EngineConfig {
        &mut self.configs[index]
    }

    pub fn keys(&self) -> Vec<[u8; 32]> {
        self.configs[0].participants.iter().map(|participant| participant.key).collect()
    }

    pub fn height(&self) -> usize {
        self.validators.iter().map(|validator| validator.height()).max().unwrap()
    }

    pub async fn all_reach(&self, height: usize) {
        join_all(self.validators.iter().map(|validator| validator.reach(height))).await;
    }

    pub fn assert_one_chain(&self) {
        let mut chains: Vec<_> =
            self.validators.iter().map(|validator| validator.chain()).collect();
        chains.sort_by_key(Vec::len);
        let longest = chains.pop().unwrap();
        for chain in chains {
            assert!(!chain.is_empty());
            assert_eq!(chain, longest[..chain.len()]);
        }
    }
}

/// Configurations of a committee on free ports, with timeouts for a machine that does nothing else.
pub fn configs(count: usize) -> Vec<EngineConfig> {
    let seed = |index: usize| Zeroizing::new([u8::try_from(index + 1).unwrap(); 32]);
    let participants: Vec<_> = free_addresses(count)
        .into_iter()
        .enumerate()
        .map(|(index, address)| Participant { key: public_key(&seed(index)), address })
        .collect();
    (0..count)
        .map(|index| {
            let listen = participants[index].address;
            let mut config =
                EngineConfig::new(CHAIN_ID, 0, seed(index), listen, participants.clone(), GENESIS);
            config.leader_timeout = Duration::from_millis(500);
            config.certification_timeout = Duration::from_secs(1);
            config.timeout_retry = Duration::from_millis(500);
            config.skip_timeout = Some(Duration::from_secs(2));
            config.partition_prefix = format!("validator-{index}");
            config
        })
        .collect()
}
