//! Epoch after epoch: who this validator is in each, and what it runs for it.
//!
//! ```text
//!            ┌────────────── in the committee ───────────────┐
//!            ▼                                               │
//!   [ordering engine, chain, execution] ── last block ──▶ close, open the next
//!            │                                               │
//!            └── behind ──▶ state of others ◀── every second ┴─▶ not in the committee
//! ```
//!
//! **Order.** The last block of an epoch is final and noted with its certificate; then the ordering
//! engine of the epoch ends, the library closes it and opens the next one, and the next engine
//! starts from that block. A crash at any point between goes on there: the note, the library's own
//! record and the executor's index say how far it got.
//!
//! **Who was away** at the end of an epoch is in an engine in which nobody else is any more. So
//! whenever nothing was final for a while, the others are asked how this epoch ended.
//!
//! **Who is not in the committee** takes over the state of the others again and again: its clients
//! learn what became of their transactions, and it is up to date when it joins.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorum_store::engine::QuorumStore;
use quorum_store::transport::quic::QuicTransport;
use quorum_store::types::Epoch;
use quorum_store_ordering::{Engine, EngineConfig, OrderingError, Participant, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ordering_failure;
use crate::application::{Newest, Parts, Validator, note};
use crate::chain::{Chain, ChainEnd, Head};
use crate::config::epochs::Plan;
use crate::execution::Execution;
use crate::executor::{Boundary, Executor};
use crate::exit::Failure;
use crate::headers::Headers;
use crate::http::{Phase, Service};
use crate::setup::Setup;
use crate::sync::client::{Others, verify};
use crate::waiting::Waiting;

/// With nothing final for so long, the others are asked whether the epoch is over.
const QUIET: Duration = Duration::from_secs(2);

/// How often the state of others is taken over while this validator is in no committee, and how
/// long is waited before they are asked again if they had none.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// Whoever has executed nothing follows so many blocks from the first one on, and takes over the
/// state of others if there are more.
const BLOCKS_WALKED: u64 = 64;

/// How long the end of an epoch may take before it is told of.
pub(super) const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// How often links are counted before ordering starts.
const LINK_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The task.
pub(super) struct Epochs {
    pub setup: Arc<Setup>,
    pub store: QuorumStore,
    pub service: Arc<Service>,
    pub runtime: Runtime,
    /// Where the ordering engine listens.
    pub ordering: SocketAddr,
    pub headers: Arc<Headers>,
    pub links: Arc<QuicTransport>,
    pub others: Arc<Others>,
    pub plan: watch::Receiver<Arc<Plan>>,
    pub newest: watch::Sender<Newest>,
    pub phase: watch::Sender<Phase>,
    pub execution: Execution,
    pub chain_waiting: Arc<Waiting>,
    pub stop: CancellationToken,
}

/// Why what runs for an epoch ended.
enum Over {
    Stopped,
    Boundary(Boundary),
    Behind,
}

impl Epochs {
    /// Runs until it is stopped. `Err` if the validator cannot go on.
    pub async fn run(self, mut executor: Executor) -> Result<(), Failure> {
        let header = executor.progress().header;
        // A new validator has nobody to talk to before its first epoch begins.
        if header.height.0 > 0 || self.store.membership().epoch == Epoch(0) {
            self.link();
        }
        self.align(&header).await?;
        if header.height.0 == 0 && self.others.height().await > BLOCKS_WALKED {
            executor = self.take_over(executor).await?;
        }
        let mut linked = false;
        while !self.stop.is_cancelled() {
            let epoch = self.store.membership().epoch;
            if let Some(boundary) = self.boundary(epoch).await?
                && self.store.status().await?.logged >= boundary.header.height
            {
                self.next_epoch(&boundary).await?;
                continue;
            }
            if !self.takes_part(epoch).await? {
                executor = self.observe(executor).await?;
                continue;
            }
            if !linked {
                linked = true;
                self.wait_for_links().await;
            }
            let over;
            (executor, over) = self.take_part(epoch, executor).await?;
            match over {
                Over::Stopped => break,
                Over::Boundary(boundary) => self.next_epoch(&boundary).await?,
                Over::Behind => {
                    let before = executor.progress().height();
                    executor = self.take_over(executor).await?;
                    if executor.progress().height() == before {
                        // Nobody has what is missing: it is looked for again.
                        self.pause().await;
                    }
                }
            }
        }
        Ok(())
    }

    /// True if this validator orders in an epoch, and has everything up to its start.
    async fn takes_part(&self, epoch: Epoch) -> Result<bool, Failure> {
        if !self.service.is_member() {
            return Ok(false);
        }
        let Some(before) = epoch.0.checked_sub(1).map(Epoch) else { return Ok(true) };
        let Some(boundary) = self.find_boundary(before).await? else { return Ok(false) };
        Ok(self.store.status().await?.logged >= boundary.header.height)
    }

    /// Waits for links to a quorum, but not for ever.
    async fn wait_for_links(&self) {
        let linked = async {
            while !self.service.reaches_quorum() {
                tokio::time::sleep(LINK_POLL_INTERVAL).await;
            }
        };
        let wait = self.setup.config.network.link_wait;
        let waited = self.stop.run_until_cancelled(tokio::time::timeout(wait, linked)).await;
        if waited.is_some_and(|waited| waited.is_err()) {
            tracing::warn!("no links to a quorum yet: ordering starts anyway");
        }
    }

    /// Orders and executes, to the end of an epoch.
    async fn take_part(
        &self,
        epoch: Epoch,
        executor: Executor,
    ) -> Result<(Executor, Over), Failure> {
        let known = self.boundary(epoch).await?;
        if let Some(boundary) = &known {
            let plan = self.plan.borrow().clone();
            match verify(&self.setup.chain, &plan, boundary) {
                Some(finalized) => note(&self.newest, finalized),
                None => return Err(Failure::usage("the plan of epochs is not the one of before")),
            }
        }
        let mut engine = if known.is_none() { Some(self.start_engine(epoch).await?) } else { None };
        self.link();
        self.enter(Phase::Serving);
        tracing::info!(epoch = epoch.0, "serving");
        let progress = executor.progress();
        let head = Head { header: progress.header, digest: progress.head };
        let halt = CancellationToken::new();
        let mut execution = tokio::spawn(self.execution.clone().run(executor, halt.clone()));
        let ended = tokio::select! {
            () = self.stop.cancelled() => Ok(Over::Stopped),
            end = self.chain(epoch, head).follow() => end.map(|end| match end {
                ChainEnd::Boundary(boundary) => Over::Boundary(boundary),
                ChainEnd::Behind => Over::Behind,
            }),
            cause = failed(&mut engine) => {
                Err(ordering_failure(cause, &self.setup.data.consensus()))
            }
            joined = &mut execution => {
                // It was not told to end: what it needs is not to be had.
                stop_engine(engine).await;
                return Ok((executed(joined)?, Over::Behind));
            }
            () = self.look_out(epoch) => Ok(Over::Stopped),
        };
        stop_engine(engine).await;
        halt.cancel();
        let executor = executed(execution.await)?;
        ended.map(|over| (executor, over))
    }

    fn chain(&self, epoch: Epoch, head: Head) -> Chain {
        Chain {
            headers: self.headers.clone(),
            store: self.store.clone(),
            archive: self.service.archive.clone(),
            newest: self.newest.subscribe(),
            epoch,
            plan: self.plan.clone(),
            head,
            waiting: self.chain_waiting.clone(),
        }
    }

    /// Asks the others whether an epoch is over, whenever nothing was final for a while.
    async fn look_out(&self, epoch: Epoch) {
        let mut newest = self.newest.subscribe();
        loop {
            match tokio::time::timeout(QUIET, newest.changed()).await {
                Ok(Ok(())) => {}
                // We hold its other end.
                Ok(Err(_)) => return,
                Err(_) => {
                    if let Some((_, finalized)) = self.others.boundary(epoch).await {
                        tracing::info!(epoch = epoch.0, "the others say that the epoch is over");
                        note(&self.newest, finalized);
                    }
                }
            }
        }
    }

    async fn start_engine(&self, epoch: Epoch) -> Result<Engine, Failure> {
        let start = match epoch.0.checked_sub(1) {
            None => self.setup.genesis.header(),
            Some(before) => match self.boundary(Epoch(before)).await? {
                Some(boundary) => boundary.header,
                None => {
                    return Err(Failure::other("an epoch begins before the last one has ended"));
                }
            },
        };
        let genesis = start.digest(&self.setup.chain);
        self.headers.start_from(genesis, start);
        let Setup { config, seed, author, chain, genesis: chain_genesis, .. } = &*self.setup;
        let plan = self.plan.borrow().clone();
        let peers = plan.peers(epoch).iter().filter(|peer| peer.key != *author);
        let mut participants: Vec<Participant> =
            peers.map(|peer| Participant { key: peer.key.0, address: peer.ordering }).collect();
        let listen = self.ordering;
        participants.push(Participant { key: author.0, address: listen });
        let mut engine =
            EngineConfig::new(chain.0, epoch.0, seed.clone(), listen, participants, genesis.0);
        engine.leader_timeout = config.ordering.leader_timeout;
        engine.certification_timeout = config.ordering.certification_timeout;
        engine.timeout_retry = config.ordering.timeout_retry;
        engine.skip_timeout = Some(config.ordering.skip_timeout);
        engine.link_wait = config.network.link_wait;
        engine.votes = self.setup.may_vote(&plan, epoch)?;
        if !engine.votes {
            tracing::warn!(
                epoch = epoch.0,
                "the ordering journal was lost: this validator does not vote in this epoch"
            );
        }
        let application = Arc::new(Validator::new(Parts {
            store: self.store.clone(),
            headers: self.headers.clone(),
            chain: *chain,
            epoch,
            plan: self.plan.clone(),
            clock_allowance: chain_genesis.parameters.clock_allowance(),
            proposal: config.proposal.clone(),
            hold: self.setup.hold_proposals.clone(),
            newest: self.newest.clone(),
        }));
        Ok(self.runtime.start(engine, application)?)
    }

    /// Keeps the state up to date while this validator does not take part; one step of it.
    async fn observe(&self, executor: Executor) -> Result<Executor, Failure> {
        self.enter(Phase::Observing);
        let executor = self.take_over(executor).await?;
        if !self.takes_part(self.store.membership().epoch).await? {
            self.pause().await;
        }
        Ok(executor)
    }

    async fn pause(&self) {
        self.stop.run_until_cancelled(tokio::time::sleep(OBSERVE_INTERVAL)).await;
    }

    /// Whoever ends stays in that phase.
    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|present| {
            let changed = *present != phase && *present != Phase::Draining;
            if changed {
                *present = phase;
            }
            changed
        });
    }
}

/// The executor comes back from its task.
fn executed(
    joined: Result<Result<Executor, Failure>, tokio::task::JoinError>,
) -> Result<Executor, Failure> {
    joined.map_err(|_| Failure::other("execution panicked: see the log"))?
}

async fn stop_engine(engine: Option<Engine>) {
    if let Some(engine) = engine {
        engine.stop().await;
    }
}

/// Resolves when an engine has failed; never without one.
async fn failed(engine: &mut Option<Engine>) -> OrderingError {
    match engine {
        Some(engine) => engine.failed().await,
        None => std::future::pending().await,
    }
}
