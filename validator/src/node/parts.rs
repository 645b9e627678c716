//! The parts of a validator, made from its setup.

use std::net::SocketAddr;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use quorum_store::engine::QuorumStore;
use quorum_store::sequencer::port::Event;
use quorum_store::transport::quic::{QuicConfig, QuicTransport, TransportError};
use quorum_store::transport::{Handshake, Limits, LinkEvent, Peer};
use quorum_store_ordering::{Application, EngineConfig, Participant, Runtime};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{EPOCH, Node};
use crate::application::{Newest, Parts, Validator};
use crate::chain::{Chain, Head};
use crate::clock::Clock;
use crate::config::NetworkConfig;
use crate::execution::Execution;
use crate::executor::Executor;
use crate::exit::Failure;
use crate::headers::Headers;
use crate::http::listener::BoundedListener;
use crate::http::{self, Phase, Service};
use crate::metrics::Metrics;
use crate::outcomes::Outcomes;
use crate::setup::Setup;
use crate::tracker::Tracker;
use crate::waiting::Waits;

/// Connections that wait in the system's queue.
const BACKLOG: u32 = 1024;

/// Room for a payload's frame beside the payload.
const FRAME_MARGIN: usize = 64 << 10;

/// What clients and the ordering engine listen on.
pub(super) struct Sockets {
    http: TcpListener,
    http_address: SocketAddr,
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
        Ok(Self { http, http_address, ordering })
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
    let peers: Vec<Peer> = setup
        .config
        .peers
        .iter()
        .map(|peer| Peer { key: peer.key, address: peer.transport })
        .collect();
    QuicTransport::start(config, &SigningKey::from_bytes(&setup.seed), &peers, handshake, events)
}

/// Makes everything but the ordering engine, and starts it.
pub(super) fn assemble(
    setup: Setup,
    store: &QuorumStore,
    executor: Executor,
    sockets: Sockets,
    registry: prometheus::Registry,
    runtime: Runtime,
) -> Result<(Node, Arc<dyn Application>), Failure> {
    let metrics = Arc::new(Metrics::register(&registry)?);
    let (phase, phase_receiver) = watch::channel(Phase::Starting);
    let (newest, newest_receiver) = watch::channel(Newest::default());
    let (progress, progress_receiver) = watch::channel(executor.progress());
    let ([chain_waiting, content_waiting], waits) = Waits::new();
    let http_config = setup.config.http.clone();
    let outcomes = Arc::new(Outcomes::new(http_config.outcomes_bytes_max.get()));
    let life = setup.genesis.parameters.transaction_life_max();
    let tracked_max = http_config.tracked_transactions_max;
    let tracker = Arc::new(Tracker::new(tracked_max, life, Clock::start(), outcomes));
    let connections_max = http_config.connections_max;
    let service = Arc::new(Service {
        store: store.clone(),
        runtime,
        tracker: tracker.clone(),
        archive: executor.archive(),
        progress: progress_receiver,
        newest: newest_receiver.clone(),
        waits,
        phase: phase_receiver,
        registry,
        metrics: metrics.clone(),
        identity: setup.identity(),
        genesis: setup.genesis.clone(),
        limits: http::Limits::new(http_config),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    });
    let headers = Arc::new(headers(&setup, store.clone()));
    let application = Arc::new(Validator::new(Parts {
        store: store.clone(),
        headers: headers.clone(),
        chain: setup.chain,
        epoch: EPOCH,
        clock_allowance: setup.genesis.parameters.clock_allowance(),
        proposal: setup.config.proposal.clone(),
        newest,
    }));
    let (ordered, ordered_receiver) = mpsc::channel(setup.config.execution.queue_blocks_max);
    let start = executor.progress();
    let head = Head { height: start.height(), digest: start.head };
    let chain = Chain {
        headers,
        store: store.clone(),
        newest: newest_receiver,
        ordered,
        head,
        waiting: chain_waiting,
    };
    let execution = Execution {
        store: store.clone(),
        tracker: tracker.clone(),
        progress,
        waiting: content_waiting,
        materialize_deadline: setup.config.execution.materialize_deadline,
        metrics,
    };
    let stop_execution = CancellationToken::new();
    let mut node = Node { setup, service, phase, tasks: JoinSet::new(), stop_execution };
    node.spawn(follow_events(store.events(), tracker, node.stop_execution.clone()));
    node.spawn(chain.run(node.stop_execution.clone()));
    node.spawn(execution.run(executor, ordered_receiver, node.stop_execution.clone()));
    node.serve_http(BoundedListener::new(sockets.http, connections_max));
    Ok((node, application))
}

fn headers(setup: &Setup, store: QuorumStore) -> Headers {
    let members = setup.genesis.committee.members().iter().map(|member| member.author);
    let others = members.filter(|author| *author != setup.author).collect();
    Headers::new(store, others, (setup.genesis_digest(), setup.genesis.header()))
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
    /// What the ordering engine is told.
    pub(super) fn ordering(&self, listen: SocketAddr) -> EngineConfig {
        let Setup { config, seed, author, chain, .. } = &self.setup;
        let peers = config.peers.iter().filter(|peer| peer.key != *author);
        let mut participants: Vec<Participant> =
            peers.map(|peer| Participant { key: peer.key.0, address: peer.ordering }).collect();
        participants.push(Participant { key: author.0, address: listen });
        let genesis = self.setup.genesis_digest().0;
        let mut engine =
            EngineConfig::new(chain.0, EPOCH.0, seed.clone(), listen, participants, genesis);
        engine.leader_timeout = config.ordering.leader_timeout;
        engine.certification_timeout = config.ordering.certification_timeout;
        engine.timeout_retry = config.ordering.timeout_retry;
        engine.skip_timeout = Some(config.ordering.skip_timeout);
        engine.link_wait = config.network.link_wait;
        engine
    }
}
