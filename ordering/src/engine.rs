//! One engine: network, voter and adapter under one supervising task.
//!
//! The supervisor is the parent of every other task of the engine. It returns when any part has
//! ended, and with it everything else ends. So there is no state in which an engine half works.

use crate::{
    Application, EngineConfig, OrderingError,
    adapter::Adapter,
    committee::Digest,
    config::Identity,
    journals::{Journal, Journals, RELEASE_POLL_INTERVAL, RELEASE_WAIT_MAX},
    network::{Network, Oracle},
};
use commonware_consensus::{
    simplex::{
        self, Floor, ForwardPolicy, SkipBudget, SkipPolicy, elector::RoundRobin,
        scheme::ed25519::Scheme,
    },
    types::{Epoch, ViewDelta},
};
use commonware_cryptography::Sha256;
use commonware_parallel::Sequential;
use commonware_runtime::{
    Error, Handle, Spawner as _, Supervisor as _,
    buffer::paged::{CacheRef, page_size},
    tokio::Context,
};
use commonware_utils::{N3f1, NZUsize, NonZeroDuration, ordered::Quorum as _};
use std::{fmt, io, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tracing::{info, warn};

/// How often links are counted before voting starts, and after.
const LINK_POLL_INTERVALS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// With links to a quorum, this long is waited for the remaining participants.
const LINK_GRACE: Duration = Duration::from_millis(500);

/// Bytes read at once from the journal at the start.
const REPLAY_BUFFER_BYTES: usize = 1 << 20;

/// Bytes buffered for each open file of the journal.
const WRITE_BUFFER_BYTES: usize = 1 << 16;

/// Size of a page of the journal on disk. Part of the format and never to be changed: a journal
/// opened with another size is silently truncated, and the validator forgets its votes.
const JOURNAL_PAGE_BYTES: u32 = 4096;

/// Pages of the journal held in memory. They are read only at the start.
const JOURNAL_PAGES_CACHED: usize = 64;

/// A running engine. Dropping it aborts it.
pub struct Engine {
    supervisor: Option<Handle<OrderingError>>,
    tasks: TaskTracker,
    links: watch::Receiver<Vec<[u8; 32]>>,
}

impl Engine {
    /// Starts the supervisor of an engine below `context`.
    pub(crate) fn start(
        context: &Context,
        journals: &Journals,
        config: EngineConfig,
        application: Arc<dyn Application>,
    ) -> Result<Self, OrderingError> {
        let identity = config.check()?;
        let journal = journals.journal(config.partition());
        let tasks = TaskTracker::new();
        tasks.close();
        let token = tasks.token();
        let (connected, links) = watch::channel(Vec::new());
        let context = context.child("ordering").with_attribute("partition", config.partition());
        let supervisor = context.spawn(move |context| async move {
            let supervisor =
                Supervisor { context, config, identity, application, connected, journal, token };
            supervisor.run().await
        });
        Ok(Self { supervisor: Some(supervisor), tasks, links })
    }

    /// Waits until the engine has stopped and returns why. After [`abort`](Self::abort), and when
    /// asked again, the cause is [`OrderingError::Stopped`]. May be cancelled.
    pub async fn failed(&mut self) -> OrderingError {
        let Some(supervisor) = &mut self.supervisor else {
            return OrderingError::Stopped;
        };
        let outcome = supervisor.await;
        self.supervisor = None;
        match outcome {
            Ok(cause) => cause,
            // The supervisor itself panicked, in code that it does not run in a task.
            Err(Error::Exited) => OrderingError::EngineStopped,
            Err(_) => OrderingError::Stopped,
        }
    }

    /// Ends the engine without waiting. Its tasks end at their next await.
    pub fn abort(&self) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.abort();
        }
    }

    /// Ends the engine and waits until it has let go of the application: afterwards none of its
    /// methods is called any more and none of its futures exists.
    pub async fn stop(self) {
        self.abort();
        self.tasks.wait().await;
    }

    /// Returns the public keys of the participants that are connected now, without this one.
    pub fn connected(&self) -> Vec<[u8; 32]> {
        self.links.borrow().clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.abort();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("connected", &self.links.borrow().len())
            .finish_non_exhaustive()
    }
}

/// The task that everything else of an engine is a child of.
struct Supervisor {
    context: Context,
    config: EngineConfig,
    identity: Identity,
    application: Arc<dyn Application>,
    connected: watch::Sender<Vec<[u8; 32]>>,
    journal: Journal,
    token: TaskTrackerToken,
}

impl Supervisor {
    /// Runs the engine until a part of it ends.
    async fn run(self) -> OrderingError {
        match self.try_run().await {
            Ok(cause) | Err(cause) => {
                warn!(%cause, "ordering stopped");
                cause
            }
        }
    }

    /// Sets up all parts, waits for links, lets the voter start, and watches them.
    async fn try_run(self) -> Result<OrderingError, OrderingError> {
        // In this order, so that the application has been let go when the token ends.
        let Self { token, application, context, config, identity, connected, journal } = self;
        let lease = journal.lease(&context, token).await?;
        let (failures, mut failed) = mpsc::channel(1);
        let committee = identity.committee.clone();
        let adapter = Adapter::new(
            application,
            context.child("application"),
            committee.clone(),
            failures,
            lease,
        );
        wait_for_address(config.listen).await?;

        let Network { lookup: network, oracle, votes, certificates, requests, mut links } =
            Network::new(&context, &config, &identity);
        let mut gate = LinkGate::new(committee.len(), committee.quorum::<N3f1>(), &config);
        let voter = Voter::new(
            context.child("consensus"),
            voter_config(&config, identity, oracle, adapter),
        );
        let mut network = network.start();
        let mut update = || {
            if let Some(keys) = links.connected() {
                connected.send_if_modified(|known| {
                    *known != keys && {
                        *known = keys;
                        true
                    }
                });
            }
            connected.borrow().len()
        };

        while !gate.open(update()) {
            tokio::select! {
                biased;
                _ = &mut network => return Err(OrderingError::NetworkStopped),
                () = sleep(LINK_POLL_INTERVALS[0]) => {}
            }
        }
        info!(links = update(), "voting starts");
        let mut voter = voter.start(votes, certificates, requests);
        loop {
            tokio::select! {
                biased;
                Some(cause) = failed.recv() => return Ok(cause),
                _ = &mut voter => return Err(OrderingError::EngineStopped),
                _ = &mut network => return Err(OrderingError::NetworkStopped),
                () = sleep(LINK_POLL_INTERVALS[1]) => {
                    update();
                }
            }
        }
    }
}

/// The voter with all its types filled in. Naming it here is what compiles it in this crate.
type Voter = simplex::Engine<
    Context,
    Scheme,
    RoundRobin<Sha256>,
    Oracle,
    Digest,
    Adapter,
    Adapter,
    Adapter,
    Sequential,
>;

/// Configuration of [`Voter`].
type VoterConfig = simplex::Config<
    Scheme,
    RoundRobin<Sha256>,
    Oracle,
    Digest,
    Adapter,
    Adapter,
    Adapter,
    Sequential,
>;

/// Returns the configuration of the voter.
fn voter_config(
    config: &EngineConfig,
    identity: Identity,
    blocker: Oracle,
    adapter: Adapter,
) -> VoterConfig {
    VoterConfig {
        scheme: identity.scheme,
        elector: RoundRobin::default(),
        blocker,
        automaton: adapter.clone(),
        relay: adapter.clone(),
        reporter: adapter,
        track_historical_votes: false,
        strategy: Sequential,
        partition: config.partition(),
        mailbox_size: NonZeroUsize::new(config.mailbox_size).unwrap_or(NZUsize!(1)),
        epoch: Epoch::new(config.epoch),
        floor: identity.floor.map_or(Floor::Genesis(Digest(config.genesis)), Floor::Finalized),
        replay_buffer: NZUsize!(REPLAY_BUFFER_BYTES),
        write_buffer: NZUsize!(WRITE_BUFFER_BYTES),
        page_cache: CacheRef::new(page_size(JOURNAL_PAGE_BYTES), NZUsize!(JOURNAL_PAGES_CACHED)),
        leader_timeout: config.leader_timeout,
        certification_timeout: config.certification_timeout,
        timeout_retry: config.timeout_retry,
        view_retention: ViewDelta::new(config.view_retention),
        skip: config.skip_timeout.map_or(SkipPolicy::Disabled, |timeout| SkipPolicy::Enabled {
            timeout,
            budget: SkipBudget::Participants,
        }),
        fetch_timeout: NonZeroDuration::new(config.fetch_timeout)
            .unwrap_or(NonZeroDuration::new_panic(Duration::from_secs(1))),
        fetch_retry_delay: config.fetch_retry_delay,
        forward: ForwardPolicy::Disabled,
    }
}

/// Decides when there are enough links to start voting. The first views would be lost otherwise:
/// votes to peers that are not connected go nowhere and are only repeated after a timeout.
struct LinkGate {
    all: usize,
    quorum: usize,
    deadline: Instant,
    grace_until: Option<Instant>,
}

impl LinkGate {
    fn new(participants: usize, quorum: u32, config: &EngineConfig) -> Self {
        Self {
            all: participants,
            quorum: quorum as usize,
            deadline: Instant::now() + config.link_wait,
            grace_until: None,
        }
    }

    /// Returns whether to start, given the number of participants connected to this one.
    fn open(&mut self, connected: usize) -> bool {
        let now = Instant::now();
        let present = connected + 1;
        if present >= self.quorum && self.grace_until.is_none() {
            self.grace_until = Some(now + LINK_GRACE);
        }
        present >= self.all
            || now >= self.deadline
            || self.grace_until.is_some_and(|until| now >= until)
    }
}

/// Waits until the address can be listened on.
///
/// The network would only log a failure. Between this probe and the real listener somebody else
/// may take the address; that ends the network and thereby the engine.
async fn wait_for_address(address: SocketAddr) -> Result<(), OrderingError> {
    let deadline = Instant::now() + RELEASE_WAIT_MAX;
    loop {
        match TcpListener::bind(address).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                sleep(RELEASE_POLL_INTERVAL).await;
            }
            Err(source) => return Err(OrderingError::Listen { address, source }),
        }
    }
}
