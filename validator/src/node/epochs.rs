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

use quorum_store::engine::{CallError, QuorumStore};
use quorum_store::sequencer::port::{CloseError, SkipError};
use quorum_store::transport::Transport as _;
use quorum_store::transport::quic::QuicTransport;
use quorum_store::types::{Author, CommitIndex, Committee, Epoch, PayloadHeader};
use quorum_store_ordering::{Engine, EngineConfig, OrderingError, Participant, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ordering_failure;
use crate::application::{Newest, Parts, Validator, note};
use crate::chain::{Chain, ChainEnd, Head};
use crate::config::epochs::Plan;
use crate::execution::{self, Execution};
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
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

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
                Over::Behind => executor = self.take_over(executor).await?,
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
        let application = Arc::new(Validator::new(Parts {
            store: self.store.clone(),
            headers: self.headers.clone(),
            chain: *chain,
            epoch,
            plan: self.plan.clone(),
            clock_allowance: chain_genesis.parameters.clock_allowance(),
            proposal: config.proposal.clone(),
            newest: self.newest.clone(),
        }));
        Ok(self.runtime.start(engine, application)?)
    }

    /// Ends an epoch whose last block is told, and begins the next one.
    async fn next_epoch(&self, boundary: &Boundary) -> Result<(), Failure> {
        let PayloadHeader { epoch, height, .. } = boundary.header;
        loop {
            match self.store.close(epoch, height, CLOSE_DEADLINE).await {
                Ok(receipt) => {
                    tracing::info!(
                        epoch = epoch.0,
                        height = height.0,
                        handed_over = receipt.handed_over_transactions,
                        "the epoch is over"
                    );
                    break;
                }
                Err(CallError::Refused(late @ CloseError::Late { .. })) => {
                    tracing::warn!(epoch = epoch.0, "the end of the epoch is {late}");
                    if self.stop.is_cancelled() {
                        return Ok(());
                    }
                }
                Err(CallError::Refused(reason)) => {
                    return Err(Failure::other(format!("epoch {}: {reason}", epoch.0)));
                }
                Err(CallError::Stopped(cause)) => return Err(cause.into()),
            }
        }
        self.open(Epoch(epoch.0 + 1)).await
    }

    async fn open(&self, epoch: Epoch) -> Result<(), Failure> {
        let plan = self.plan.borrow().clone();
        let Some(committee) = plan.committee(epoch) else {
            let path = self.setup.config.epochs.display();
            return Err(Failure::usage(format!("{path}: epoch {} is missing", epoch.0)));
        };
        match self.store.open_epoch(epoch, committee.clone(), plan.addresses()).await {
            Ok(()) => {
                self.link();
                Ok(())
            }
            Err(CallError::Refused(reason)) => {
                Err(Failure::other(format!("epoch {}: {reason}", epoch.0)))
            }
            Err(CallError::Stopped(cause)) => Err(cause.into()),
        }
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

    /// Takes over the state of the others, if they have one that lies ahead.
    async fn take_over(&self, mut executor: Executor) -> Result<Executor, Failure> {
        let executed = executor.progress().height();
        let asked = self.stop.run_until_cancelled(self.others.newest_state(executed)).await;
        let Some(Some((statement, snapshot))) = asked else {
            self.pause().await;
            return Ok(executor);
        };
        let adopting = tokio::task::spawn_blocking(move || {
            let adopted = executor.adopt(&snapshot);
            (executor, adopted)
        });
        let (executor, adopted) =
            adopting.await.map_err(|_| Failure::other("the executor panicked: see the log"))?;
        adopted?;
        let progress = executor.progress();
        let (from, height) = (executed + 1, progress.height());
        tracing::info!(
            from,
            height,
            whole = statement.from > from,
            "took over the state of others"
        );
        self.service.metrics.state_taken_over(&progress);
        self.service.tracker.adopted(&self.service.archive, progress.block_timestamp);
        self.execution.progress.send_replace(progress);
        self.execution.waiting.over();
        self.chain_waiting.over();
        self.align(&statement.header).await?;
        // Below that nothing is kept for execution, also while it does not follow the commits.
        self.store.acknowledge(execution::SUBSCRIBER, CommitIndex(progress.next_index)).await?;
        Ok(executor)
    }

    /// Brings the library up to what the executor holds. Changes nothing if it is there already.
    async fn align(&self, header: &PayloadHeader) -> Result<(), Failure> {
        if header.height > self.store.status().await?.applied {
            match self.store.skip_to(*header).await {
                Ok(_) | Err(CallError::Refused(SkipError::Behind { .. })) => {}
                Err(CallError::Refused(reason)) => {
                    return Err(Failure::other(format!("the state of others: {reason}")));
                }
                Err(CallError::Stopped(cause)) => return Err(cause.into()),
            }
        }
        if header.epoch > self.store.membership().epoch {
            self.open(header.epoch).await?;
        }
        let is_last = self.plan.borrow().is_last(header);
        if is_last && header.epoch == self.store.membership().epoch {
            // Without its certificate nobody could be shown that the epoch is over.
            if let Some(boundary) = self.find_boundary(header.epoch).await? {
                self.next_epoch(&boundary).await?;
            }
        }
        Ok(())
    }

    /// Keeps links with those who keep them with us: members of the epoch that is served, and of
    /// those before it whose content is, if we are one of them.
    fn link(&self) {
        let membership = self.store.membership();
        let former = membership.former.iter().map(|former| &former.committee);
        let committees: Vec<&Committee> = former.chain([&membership.committee]).collect();
        let knows = |key: &Author| committees.iter().any(|known| known.index_of(key).is_some());
        let mut peers = self.plan.borrow().addresses();
        let linked = knows(&self.setup.author);
        peers.retain(|peer| linked && knows(&peer.key));
        self.links.set_peers(peers);
    }

    /// How an epoch ended, as far as that is noted here.
    async fn boundary(&self, epoch: Epoch) -> Result<Option<Boundary>, Failure> {
        let archive = self.service.archive.clone();
        let read = tokio::task::spawn_blocking(move || archive.boundary(epoch)).await;
        Ok(read.map_err(|_| Failure::other("a read panicked: see the log"))??)
    }

    /// The same; whoever does not know it asks the others, and notes it.
    async fn find_boundary(&self, epoch: Epoch) -> Result<Option<Boundary>, Failure> {
        if let Some(boundary) = self.boundary(epoch).await? {
            return Ok(Some(boundary));
        }
        let asked = self.stop.run_until_cancelled(self.others.boundary(epoch)).await;
        let Some(Some((boundary, _))) = asked else { return Ok(None) };
        let (archive, noted) = (self.service.archive.clone(), boundary.clone());
        let noting = tokio::task::spawn_blocking(move || archive.note_boundary(&noted)).await;
        noting.map_err(|_| Failure::other("a write panicked: see the log"))??;
        Ok(Some(boundary))
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
