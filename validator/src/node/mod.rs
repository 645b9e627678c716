//! `validator run`: one validator, wired together, until it is told to end.
//!
//! ```text
//!  clients ──▶ http ──▶ quorum store ◀──▶ peers (UDP)
//!                │       │ ▲ ▲ │ proofs
//!            tracker ◀───┤ │ │ ▼
//!                ▲       │ │ application ◀──▶ ordering engine ◀──▶ peers (TCP)
//!                │       │ │                       │ finalised
//!            execution ◀─┘ └─── chain ◀────────────┘
//!                commits
//! ```
//!
//! **Epochs** ([`epochs`]): application, ordering engine and chain are made anew for each.
//!
//! **Start**: the data directory is locked and opened before anything else, so that a second
//! process, a lost disk or a foreign directory is told before a socket is bound. Ordering starts
//! once links to a quorum are up, or after a bounded wait.
//!
//! **End**: a signal, or the end of standard input if that was asked for, drains: no new
//! transactions, ordering stops, the block in execution is finished, the store finishes its group,
//! streams end, every task is joined. A second signal ends the process at once, and so does a
//! drain that takes too long.
//!
//! **Failure** of any part ends the whole in the same way, with the exit code of the first cause.

mod epochs;
mod parts;
mod returned;
mod shutdown;
#[cfg(test)]
mod tests;
mod transitions;

use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorum_store::engine::{NodeConfig, QuorumStore};
use quorum_store::store::journal::JournalStore;
use quorum_store::transport::quic::QuicTransport;
use quorum_store::types::Epoch;
use quorum_store_ordering::{OrderingError, Runtime, RuntimeConfig};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::executor::Executor;
use crate::exit::Failure;
use crate::http::{Phase, Service};
use crate::setup::Setup;
use parts::Sockets;
use shutdown::{End, Ending};

/// How long clients may take to end their requests once everything else has ended.
const CLIENT_GRACE: Duration = Duration::from_secs(2);

/// Arguments of `validator run`.
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    /// Config of the validator
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// End when standard input ends: for children of a process that may be killed
    #[arg(long)]
    end_with_stdin: bool,
    /// Propose empty payloads while this file exists: for `testnet`
    #[arg(long, value_name = "FILE", hide = true)]
    hold_proposals: Option<PathBuf>,
}

/// Runs a validator until it ends.
pub fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let mut setup = Setup::read(&arguments.config)?;
    setup.hold_proposals.clone_from(&arguments.hold_proposals);
    let (store, executor) = setup.open()?;
    let runtime = RuntimeConfig {
        directory: setup.data.consensus(),
        worker_threads: setup.config.worker_threads,
    };
    let end_with_stdin = arguments.end_with_stdin;
    quorum_store_ordering::run(runtime, move |runtime| async move {
        let ending = Ending::listen(end_with_stdin)?;
        serve(setup, store, executor, runtime, ending).await
    })?
}

/// Everything that runs.
struct Node {
    setup: Arc<Setup>,
    service: Arc<Service>,
    phase: watch::Sender<Phase>,
    /// Tasks that end only if they are stopped or fail.
    tasks: JoinSet<Result<(), Failure>>,
    /// Ordering and execution, epoch after epoch.
    epochs: JoinHandle<Result<(), Failure>>,
    /// Ends ordering and execution.
    stop_execution: CancellationToken,
}

async fn serve(
    setup: Setup,
    store: JournalStore,
    executor: Executor,
    runtime: Runtime,
    mut ending: Ending,
) -> Result<(), Failure> {
    let sockets = Sockets::bind(&setup.config.network).await?;
    let registry = prometheus::Registry::new();
    let (store, links) = start_store(&setup, store, &registry).await?;
    let drain_timeout = setup.config.drain_timeout;
    let assembled = sockets
        .publish(&setup, links.local_address())
        .and_then(|()| parts::assemble(setup, &store, executor, sockets, registry, runtime, links));
    let mut node = match assembled {
        Ok(node) => node,
        Err(failure) => {
            store.shutdown().await;
            return Err(failure);
        }
    };
    tracing::info!(
        validator = %node.setup.author,
        chain = %node.setup.chain,
        height = node.service.progress.borrow().height(),
        "store open"
    );
    let end = tokio::select! {
        end = ending.first() => end,
        end = node.failed() => end,
    };
    end.log();
    ending.within(drain_timeout, node.drain()).await?;
    end.result()
}

/// Opens the library, with the links that it uses; there are none before somebody is named.
async fn start_store(
    setup: &Setup,
    store: JournalStore,
    registry: &prometheus::Registry,
) -> Result<(QuorumStore, Arc<QuicTransport>), Failure> {
    // Where a store that has served nothing yet begins: the first epoch that we are a member of.
    let epoch = setup.plan.next_epoch_of(&setup.author, Epoch(0)).unwrap_or_default();
    let committee = setup.plan.committee(epoch).unwrap_or(&setup.genesis.committee);
    let config = NodeConfig {
        genesis: setup.genesis.clone(),
        epoch,
        committee: committee.clone(),
        sequencer: setup.config.sequencer.clone(),
        engine: setup.config.engine.clone(),
    };
    let mut links = None;
    let signer = Arc::new(quorum_store::crypto::Ed25519Signer::new(&setup.seed));
    let start = QuorumStore::start(
        config,
        Box::new(store),
        signer,
        |handshake, events| {
            let transport = Arc::new(parts::transport(setup, handshake, events)?);
            links = Some(transport.clone());
            Ok::<_, quorum_store::transport::quic::TransportError>(transport as Arc<_>)
        },
        registry,
    );
    let store = start.await?;
    let links = links.ok_or_else(|| Failure::other("the store started without links"))?;
    Ok((store, links))
}

/// The ordering engine does not say why it stopped. Its journal is what fails by itself, so it is
/// asked whether anything can be written there.
fn ordering_failure(cause: OrderingError, journal: &Path) -> Failure {
    let probe = || {
        let path = journal.join("probe");
        let written = File::create(&path)
            .and_then(|mut file| file.write_all(b"probe").and_then(|()| file.sync_all()));
        written.and_then(|()| std::fs::remove_file(path))
    };
    match (cause, probe()) {
        (OrderingError::EngineStopped, Err(error)) => {
            Failure::write("the journal of the ordering engine", &error)
        }
        (cause, _) => cause.into(),
    }
}

impl Node {
    /// Resolves when a part has failed.
    async fn failed(&mut self) -> End {
        let store = self.service.store.clone();
        tokio::select! {
            cause = store.stopped() => End::Failure(cause.into()),
            ended = &mut self.epochs => {
                let ended = ended.map_err(|_| Failure::other("ordering panicked: see the log"));
                let failure = ended.and_then(|ended| ended).err();
                let by_itself = || Failure::other("ordering ended by itself");
                // Joined: it must not be waited for again.
                self.epochs = tokio::spawn(async { Ok(()) });
                End::Failure(failure.unwrap_or_else(by_itself))
            }
            Some(ended) = self.tasks.join_next() => End::Failure(match ended {
                Ok(Err(failure)) => failure,
                Ok(Ok(())) => Failure::other("a part of the validator ended by itself"),
                Err(_) => Failure::other("a part of the validator panicked: see the log"),
            }),
        }
    }

    /// Ends everything, in the order in which nothing is lost.
    async fn drain(mut self) {
        self.phase.send_replace(Phase::Draining);
        self.stop_execution.cancel();
        match (&mut self.epochs).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::warn!(%failure, "ordering failed while it ended"),
            Err(error) => tracing::error!(%error, "ordering panicked while it ended"),
        }
        // Submissions under way are still answered; then the store finishes its group.
        self.service.tasks.close();
        self.service.store.shutdown().await;
        self.service.tasks.wait().await;
        self.service.stop.cancel();
        if tokio::time::timeout(CLIENT_GRACE, self.join()).await.is_err() {
            tracing::info!("clients that did not end their requests are cut off");
            self.tasks.shutdown().await;
        }
        tracing::info!("drained");
    }

    /// Waits for every part.
    async fn join(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => tracing::warn!(%failure, "a part failed while it ended"),
                Err(error) => tracing::error!(%error, "a part panicked while it ended"),
            }
        }
    }

    /// Adds a part.
    fn spawn(&mut self, part: impl Future<Output = Result<(), Failure>> + Send + 'static) {
        self.tasks.spawn(part);
    }
}
