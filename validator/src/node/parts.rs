//! The parts of a validator, made from its setup.

use std::net::SocketAddr;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use quorum_store::engine::QuorumStore;
use quorum_store::sequencer::port::Event;
use quorum_store::transport::quic::{QuicConfig, QuicTransport, TransportError};
use quorum_store::transport::{Handshake, Limits, LinkEvent};
use quorum_store::types::CommitIndex;
use quorum_store_ordering::Runtime;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Node;
use super::epochs::Epochs;
use super::returned::hand_over;
use crate::application::Newest;
use crate::clock::Clock;
use crate::config::NetworkConfig;
use crate::config::epochs::Plan;
use crate::execution::Execution;
use crate::executor::Executor;
use crate::exit::Failure;
use crate::headers::Headers;
use crate::http::listener::BoundedListener;
use crate::http::{self, Phase, Service};
use crate::metrics::Metrics;
use crate::outcomes::Outcomes;
use crate::setup::Setup;
use crate::sync::client::Others;
use crate::sync::source::Source;
use crate::tracker::Tracker;
use crate::tracker::follow::follow;
use crate::waiting::Waits;

/// Connections that wait in the system's queue.
const BACKLOG: u32 = 1024;

/// Room for a payload's frame beside the payload.
const FRAME_MARGIN: usize = 64 << 10;

/// What clients and the ordering engine listen on.
pub(super) struct Sockets {
    http: TcpListener,
    http_address: SocketAddr,
    /// For other validators, if they do not ask where clients do.
    sync: Option<TcpListener>,
    /// The ordering engine binds this itself.
    pub(super) ordering: SocketAddr,
}

impl Sockets {
    /// Binds what can be bound now, and chooses ports where none is given.
    pub(super) async fn bind(network: &NetworkConfig) -> Result<Self, Failure> {
        let http = listen("clients", network.http_listen)?;
        let failed = |error| Failure::listen("clients", network.http_listen, &error);
        let http_address = http.local_addr().map_err(failed)?;
        let ordering = match network.ordering_listen {
            given if given.port() != 0 => given,
            any => {
                // The engine does not tell which port it got, so a free one is chosen for it.
                let failed = |error| Failure::listen("ordering", any, &error);
                TcpListener::bind(any).await.and_then(|free| free.local_addr()).map_err(failed)?
            }
        };
        let sync = network.sync_listen.map(|address| listen("other validators", address));
        Ok(Self { http, http_address, sync: sync.transpose()?, ordering })
    }

    /// Writes the addresses to the data directory.
    pub(super) fn publish(&self, setup: &Setup, transport: SocketAddr) -> Result<(), Failure> {
        let addresses = json!({
            "http": self.http_address,
            "transport": transport,
            "ordering": self.ordering,
        });
        let path = setup.data.addresses();
        let new = path.with_extension("json.new");
        // Renamed into place, so that nobody reads half of it.
        std::fs::write(&new, format!("{addresses:#}\n"))
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|error| Failure::write(&path.display().to_string(), &error))
    }
}

fn listen(what: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = socket.and_then(|socket| {
        // A restarted validator takes its address again although old connections linger.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    bound.map_err(|error| Failure::listen(what, address, &error))
}

/// Links to the other validators.
pub(super) fn transport(
    setup: &Setup,
    handshake: Arc<dyn Handshake>,
    events: mpsc::Sender<LinkEvent>,
) -> Result<QuicTransport, TransportError> {
    let network = &setup.config.network;
    let mut limits = Limits::default();
    let payload = setup.genesis.parameters.payload_bytes_max as usize + FRAME_MARGIN;
    if payload > limits.frame_bytes_max.control {
        limits.frame_bytes_max.control = payload;
        limits.receive_budget_bytes.control = 4 * payload;
        limits.send_queue_bytes.control = 4 * payload;
    }
    let config = QuicConfig {
        listen: network.transport_listen,
        loopback: network.loopback,
        limits,
        // Differs between validators, so that they do not redial in step.
        jitter_seed: setup.author.as_bytes().first_chunk().map_or(0, |b| u64::from_le_bytes(*b)),
        ..QuicConfig::default()
    };
    QuicTransport::start(config, &SigningKey::from_bytes(&setup.seed), &[], handshake, events)
}

/// Makes everything, and starts it.
pub(super) fn assemble(
    setup: Setup,
    store: &QuorumStore,
    executor: Executor,
    sockets: Sockets,
    registry: prometheus::Registry,
    runtime: Runtime,
    links: Arc<QuicTransport>,
) -> Result<Node, Failure> {
    let setup = Arc::new(setup);
    let metrics = Arc::new(Metrics::register(&registry)?);
    let (phase, phase_receiver) = watch::channel(Phase::Starting);
    let (newest, newest_receiver) = watch::channel(Newest::default());
    let start = executor.progress();
    let (progress, progress_receiver) = watch::channel(start);
    let (plan_sender, plan) = watch::channel(Arc::new(setup.plan.clone()));
    let ([chain_waiting, content_waiting], waits) = Waits::new();
    let http_config = setup.config.http.clone();
    let outcomes = Arc::new(Outcomes::new(http_config.outcomes_bytes_max.get()));
    let life = setup.genesis.parameters.transaction_life_max();
    let tracked_max = http_config.tracked_transactions_max;
    let tracker = Arc::new(Tracker::new(tracked_max, life, Clock::start(), outcomes));
    let archive = executor.archive();
    let service = Arc::new(Service {
        store: store.clone(),
        runtime: runtime.clone(),
        tracker: tracker.clone(),
        sync: Arc::new(Source::new(archive.clone(), setup.rules(), setup.chain, &setup.seed)),
        archive,
        leases: http::leases::Leases::default(),
        progress: progress_receiver,
        newest: newest_receiver,
        waits,
        phase: phase_receiver,
        registry,
        metrics: metrics.clone(),
        identity: setup.identity(),
        genesis: setup.genesis.clone(),
        plan: plan.clone(),
        limits: http::Limits::new(http_config),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    });
    let stop = CancellationToken::new();
    let genesis = (setup.genesis_digest(), setup.genesis.header());
    let execution = Execution {
        store: store.clone(),
        chain: setup.chain,
        tracker: tracker.clone(),
        progress,
        waiting: Arc::new(content_waiting),
        materialize_deadline: setup.config.execution.materialize_deadline,
        metrics,
    };
    let (tasks, stopped) = (service.tasks.clone(), service.stop.clone());
    let others = Arc::new(Others::new(setup.author, setup.chain, plan.clone(), tasks, stopped));
    let epochs = Epochs {
        setup: setup.clone(),
        store: store.clone(),
        service: service.clone(),
        runtime,
        ordering: sockets.ordering,
        headers: Arc::new(Headers::new(store.clone(), setup.author, genesis)),
        links,
        others: others.clone(),
        plan,
        newest,
        phase: phase.clone(),
        execution,
        chain_waiting: Arc::new(chain_waiting),
        stop: stop.clone(),
    };
    let next = CommitIndex(start.next_index);
    let following = follow(store.clone(), setup.chain, tracker.clone(), next, stop.clone());
    let epochs = tokio::spawn(epochs.run(executor));
    let mut node =
        Node { setup, service, phase, tasks: JoinSet::new(), epochs, stop_execution: stop.clone() };
    node.spawn(follow_events(store.events(), tracker, stop.clone()));
    node.spawn(following);
    node.spawn(hand_over(store.clone(), others, stop.clone()));
    node.spawn(reload(node.setup.clone(), plan_sender, stop));
    node.serve_http(sockets.http, sockets.sync);
    Ok(node)
}

/// Reads the file of epochs again whenever that is asked for.
async fn reload(
    setup: Arc<Setup>,
    plan: watch::Sender<Arc<Plan>>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut asked = signal(SignalKind::hangup())
        .map_err(|error| Failure::other(format!("cannot take signals: {error}")))?;
    while stop.run_until_cancelled(asked.recv()).await.flatten().is_some() {
        let Setup { config, genesis, .. } = &*setup;
        let known = plan.borrow().clone();
        match Plan::read(genesis.committee.clone(), &config.peers, &config.epochs) {
            Ok(read) if read.extends(&known) => {
                tracing::info!("the plan of epochs was read again");
                plan.send_replace(Arc::new(read));
            }
            Ok(_) => tracing::error!("the plan of epochs contradicts what it said: not taken"),
            Err(failure) => tracing::error!(%failure, "the plan of epochs cannot be read"),
        }
    }
    stop.cancelled().await;
    Ok(())
}

/// Tells the tracker what the library tells. What is missed is not needed for correctness.
async fn follow_events(
    mut events: broadcast::Receiver<Event>,
    tracker: Arc<Tracker>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    loop {
        match stop.run_until_cancelled(events.recv()).await {
            None => return Ok(()),
            Some(Ok(event)) => tracker.on_event(&event),
            Some(Err(broadcast::error::RecvError::Lagged(missed))) => {
                tracing::warn!(missed, "events of the store were missed");
            }
            Some(Err(broadcast::error::RecvError::Closed)) => {
                // The store has ended, and says why itself.
                stop.cancelled().await;
                return Ok(());
            }
        }
    }
}

impl Node {
    /// Starts to serve clients, and other validators.
    fn serve_http(&mut self, http: TcpListener, sync: Option<TcpListener>) {
        let connections_max = self.setup.config.http.connections_max;
        let service = self.service.clone();
        let routers = [
            (Some(http), http::router(service.clone())),
            (sync, http::sync_router(service.clone())),
        ];
        for (listener, router) in routers {
            if let Some(listener) = listener {
                let listener = BoundedListener::new(listener, connections_max);
                self.spawn(http::serve(listener, router, service.stop.clone()));
            }
        }
    }
}
