//! The handle of the host: every call of the crate.
//!
//! Calls are cancel-safe: dropping a future takes the request back where that has a meaning, and
//! changes nothing otherwise. When the sequencer is rebuilt inside the process, waiting calls are
//! repeated in its next life; all of them may be, but for `submit`. When the engine stops, every
//! waiting call ends with its cause.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use prometheus::Registry;
use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::NodeConfig;
use super::egress::Sender;
use super::epochs::View;
use super::error::{CallError, Part, StartError, StopCause};
use super::filter;
use super::hooks::Hooks;
use super::ingress::{Inboxed, Judge};
use super::life::{self, Life, Node};
use super::metrics::{Metrics, Statistics};
use super::shared::{self, Grants, Replies, Shared};
use super::source::Exclusions;
use super::subscription::Subscriptions;
use super::supervisor::{Restarts, State, Supervisor};
use crate::crypto::Signer;
use crate::sequencer::port::{
    Accepted, CommitError, Content, Event, FetchError, Input, PullError, PullRequest, Reply,
    RequestId, SkipError, SubmitError, Transaction, VerifyRequest, Wanted,
};
use crate::sequencer::pressure::Pressure;
use crate::sequencer::status::Status;
use crate::store::{Store, StoreReader};
use crate::transport::{Handshake, LinkEvent, LinkStatus, Transport};
use crate::tripwire::Tripwire;
use crate::types::{
    Author, Commit, CommitIndex, CommitReceipt, Digest, InvalidPayload, Membership, Message,
    Payload, PayloadHeader,
};

/// A running node; cheap to clone. Dropping all handles does not stop it: call `shutdown`.
#[derive(Clone)]
pub struct QuorumStore {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    restarts: watch::Receiver<Restarts>,
    host: Semaphore,
    submit_bytes: Semaphore,
    leased_bytes: Semaphore,
    submit_bytes_max: usize,
    subscriber_window: usize,
    transport: Arc<dyn Transport>,
    sender: Sender,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl QuorumStore {
    /// Recovers from the store and starts everything. Call inside a tokio runtime; `transport`
    /// gets the handshake to use and where to send its events.
    pub async fn start<T, E>(
        config: NodeConfig,
        store: Box<dyn Store>,
        signer: Arc<dyn Signer>,
        transport: T,
        registry: &Registry,
    ) -> Result<Self, StartError>
    where
        T: FnOnce(Arc<dyn Handshake>, mpsc::Sender<LinkEvent>) -> Result<Arc<dyn Transport>, E>,
        E: std::error::Error + Send + Sync + 'static,
    {
        Self::start_with_hooks(config, store, signer, transport, registry, Hooks::new()).await
    }

    /// The same, with a source of transactions or a filter of the host.
    pub async fn start_with_hooks<T, E>(
        config: NodeConfig,
        store: Box<dyn Store>,
        signer: Arc<dyn Signer>,
        transport: T,
        registry: &Registry,
        hooks: Hooks,
    ) -> Result<Self, StartError>
    where
        T: FnOnce(Arc<dyn Handshake>, mpsc::Sender<LinkEvent>) -> Result<Arc<dyn Transport>, E>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let tripwire = Tripwire::default();
        Self::start_with(config, store, signer, transport, registry, (hooks, tripwire)).await
    }

    /// The same, with a place where tests make a part panic.
    pub(super) async fn start_with<T, E>(
        config: NodeConfig,
        store: Box<dyn Store>,
        signer: Arc<dyn Signer>,
        transport: T,
        registry: &Registry,
        (hooks, tripwire): (Hooks, Tripwire),
    ) -> Result<Self, StartError>
    where
        T: FnOnce(Arc<dyn Handshake>, mpsc::Sender<LinkEvent>) -> Result<Arc<dyn Transport>, E>,
        E: std::error::Error + Send + Sync + 'static,
    {
        config.validate()?;
        config.validate_for(&store.limits())?;
        let author = signer.author();
        if config.committee.index_of(&author).is_none() {
            return Err(StartError::NotAMember(author));
        }
        let shared = Arc::new(shared(&config, signer, store.reader(), registry, hooks)?);
        let (store, sequencer) = life::recover(&config, &shared, store).await?;
        let (events_sender, events) = mpsc::channel(config.engine.link_queue);
        let judge = Arc::new(Judge { shared: Arc::clone(&shared) });
        let transport = transport(judge, events_sender)
            .map_err(|error| StartError::Transport(Box::new(error)))?;
        let sender = Sender { shared: Arc::clone(&shared), transport: Arc::clone(&transport) };
        let events = Arc::new(Mutex::new(events));
        let node = Node { config, shared: Arc::clone(&shared), sender, events, tripwire };
        let stop = CancellationToken::new();
        let running = node.start(store, sequencer, stop.child_token())?;
        Ok(Self { inner: Arc::new(Inner::supervised(node, running, stop)) })
    }

    /// Submits transactions. One entry per transaction, in order; `Ok` once its batch is durable
    /// here.
    pub async fn submit(
        &self,
        transactions: Vec<Transaction>,
    ) -> Result<Vec<Result<Accepted, SubmitError>>, StopCause> {
        let room = &self.inner.submit_bytes;
        let bulk = |life: &Life| life.inboxes.bulk.clone();
        let input = |id, transactions| Input::Submit { id, transactions };
        self.submit_as(transactions, (room, self.inner.submit_bytes_max), bulk, input).await
    }

    /// Room for submissions under leases, which pass by the others: they must not expire in a queue.
    pub(super) fn leased_bytes(&self) -> (&Semaphore, usize) {
        (&self.inner.leased_bytes, self.inner.submit_bytes_max)
    }

    pub(super) async fn submit_as(
        &self,
        transactions: Vec<Transaction>,
        (room, bytes_max): (&Semaphore, usize),
        queue: impl FnOnce(&Life) -> mpsc::Sender<Inboxed>,
        input: impl FnOnce(RequestId, Vec<Transaction>) -> Input,
    ) -> Result<Vec<Result<Accepted, SubmitError>>, StopCause> {
        let began = Instant::now();
        let filter = self.inner.shared.hooks.filter.as_deref();
        let (transactions, verdicts) = filter::sift(filter, transactions);
        let bytes: usize = transactions.iter().map(|t| t.bytes.len() + 64).sum();
        // One submission above the bound waits for all of it. Proof of the cast: at most 2^31.
        let charge = bytes.min(bytes_max) as u32;
        // Waits while the sequencer is behind: back-pressure, in bytes.
        let permit = room.acquire_many(charge).await;
        // Once: whether it was carried out before the sequencer broke is not known.
        let life = self.life().await?;
        let queue = queue(&life);
        let reply = self.ask(&life, &queue, |id| input(id, transactions));
        let reply = reply.await;
        drop(permit);
        match reply.ok_or_else(|| self.ended(&life))? {
            Reply::Submitted(results) => {
                let results = verdicts.join(results);
                self.called("submit", began);
                self.inner.shared.metrics.host.submitted(&results);
                Ok(results)
            }
            other => unexpected(&other),
        }
    }

    /// The best payload to propose now. `Ok`: it is durable here and may be proposed.
    pub async fn pull(&self, request: PullRequest) -> Result<Arc<Payload>, CallError<PullError>> {
        let began = Instant::now();
        match self.control(|id| Input::Pull { id, request: request.clone() }).await? {
            Reply::Pulled(result) => {
                self.called("pull", began);
                result.map_err(CallError::Refused)
            }
            other => unexpected(&other),
        }
    }

    /// Sends a payload to every peer; never blocks.
    pub fn announce(&self, payload: &Arc<Payload>) {
        let message = Message::Payload(Box::new(Payload::clone(payload)));
        let members = self.inner.shared.view().members.clone();
        self.inner.sender.send(members, &message);
    }

    /// Whether a payload may be voted for. Pending while it is missing (it is fetched from
    /// `responders` meanwhile); `Ok` once it is valid and durable here; `Refused` only for what
    /// can never be valid.
    pub async fn verify(
        &self,
        request: VerifyRequest,
    ) -> Result<PayloadHeader, CallError<InvalidPayload>> {
        let began = Instant::now();
        match self.control(|id| Input::Verify { id, request: request.clone() }).await? {
            Reply::Verified(result) => {
                self.called("verify", began);
                result.map_err(CallError::Refused)
            }
            other => unexpected(&other),
        }
    }

    /// A payload from memory or disk, else fetched until `deadline` has passed.
    pub async fn payload(
        &self,
        digest: Digest,
        responders: Vec<Author>,
        deadline: Duration,
    ) -> Result<Arc<Payload>, CallError<FetchError>> {
        let wanted = Wanted { digest, info: None, holders: responders, commit: None };
        self.find_payload(wanted, deadline).await
    }

    /// The same, for a commit or not.
    pub(super) async fn find_payload(
        &self,
        wanted: Wanted,
        deadline: Duration,
    ) -> Result<Arc<Payload>, CallError<FetchError>> {
        let digest = wanted.digest;
        if let Some(payload) = self.inner.shared.cached_payload(&digest) {
            return Ok(payload);
        }
        let reader = Arc::clone(&self.inner.shared.reader);
        let read = tokio::task::spawn_blocking(move || reader.payload(&digest));
        let read = read.await.map_err(|error| self.reader_broke(&error))?;
        match read {
            Ok(Some(payload)) => return Ok(Arc::new(payload)),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "reading a payload failed; it is fetched"),
        }
        match self.fetch(wanted, deadline).await? {
            Content::Payload(payload) => Ok(payload),
            // A digest names one content: a batch cannot have a payload's.
            Content::Batch(_) => Err(CallError::Refused(FetchError::TimedOut { asked: 0 })),
        }
    }

    /// Content from peers; ends at the latest after `deadline`.
    pub(super) async fn fetch(
        &self,
        wanted: Wanted,
        deadline: Duration,
    ) -> Result<Content, CallError<FetchError>> {
        let fetching = self.inner.shared.metrics.host.fetch();
        let deadline = self.inner.shared.started.elapsed() + deadline;
        let input = |id| Input::Fetch { id, wanted: wanted.clone(), deadline };
        match self.control(input).await? {
            Reply::Fetched(result) => {
                fetching.ended(&result);
                result.map_err(CallError::Refused)
            }
            other => unexpected(&other),
        }
    }

    /// Tells of a finalised block: logged at once, answered when applied and durable. A repeat
    /// gets the same receipt.
    pub async fn notify_commit(
        &self,
        commit: Commit,
    ) -> Result<CommitReceipt, CallError<CommitError>> {
        let began = Instant::now();
        match self.control(|id| Input::Commit { id, commit }).await? {
            Reply::Committed(result) => {
                if let Ok(receipt) = &result {
                    self.inner.shared.metrics.committed(receipt);
                }
                self.called("notify_commit", began);
                result.map_err(CallError::Refused)
            }
            other => unexpected(&other),
        }
    }

    /// State sync: the host has the state after a finalised block, taken from others, and goes on
    /// above it. Every subscriber is told which commits it does not get. Repeating it changes
    /// nothing.
    pub async fn skip_to(
        &self,
        header: PayloadHeader,
    ) -> Result<CommitReceipt, CallError<SkipError>> {
        match self.control(|id| Input::SkipTo { id, header }).await? {
            Reply::SkippedTo(result) => result.map_err(CallError::Refused),
            other => unexpected(&other),
        }
    }

    /// As far as this subscriber is concerned, content of commits below `next` may go: for one
    /// that follows the commits in another way than [`Self::subscribe`]. Waits only for room in
    /// the queue.
    pub async fn acknowledge(&self, subscriber: &str, next: CommitIndex) -> Result<(), StopCause> {
        let input = Input::Acknowledge { subscriber: subscriber.to_owned(), next };
        self.tell_in_turn(Inboxed::of_host(input)).await
    }

    /// Tells the sequencer something if there is room now, and one that can hear it.
    pub(super) fn tell(&self, input: Input) {
        if let State::Running(life) = &*self.inner.state.borrow() {
            let _ = life.inboxes.control.try_send(Inboxed::of_host(input));
        }
    }

    /// Tells the sequencer something once there is room.
    pub(super) async fn tell_in_turn(&self, input: Inboxed) -> Result<(), StopCause> {
        let life = self.life().await?;
        // One that has just ended: whoever tells it anything has to tell the next one anyway.
        let _ = life.inboxes.control.send(input).await;
        Ok(())
    }

    /// Deliveries under way to one subscriber.
    pub(super) fn subscriber_window(&self) -> usize {
        self.inner.subscriber_window
    }

    /// What happens, for whoever wants to follow. A slow listener misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.shared.events.subscribe()
    }

    /// How many batches could be proposed, as it changes; those that unfinalised ancestors order
    /// already are among them.
    pub fn proposable(&self) -> watch::Receiver<u64> {
        self.inner.shared.proposable.subscribe()
    }

    /// Bytes of the same: whether a block would be small.
    pub fn proposable_bytes(&self) -> watch::Receiver<u64> {
        self.inner.shared.proposable_bytes.subscribe()
    }

    /// A snapshot of the sequencer.
    pub async fn status(&self) -> Result<Status, StopCause> {
        match self.control(Input::Status).await? {
            Reply::Status(status) => Ok(*status),
            other => unexpected(&other),
        }
    }

    /// Counters since the start.
    pub fn statistics(&self) -> Statistics {
        self.inner.shared.metrics.statistics()
    }

    /// Every peer's link.
    pub fn links(&self) -> Vec<LinkStatus> {
        self.inner.transport.links()
    }

    /// Durable content, proofs and receipts.
    pub fn reader(&self) -> Arc<dyn StoreReader> {
        Arc::clone(&self.inner.shared.reader)
    }

    /// How often the sequencer was rebuilt inside the process, as it changes.
    pub fn restarts(&self) -> watch::Receiver<Restarts> {
        self.inner.restarts.clone()
    }

    /// Resolves when the engine has stopped for good, by itself or on request.
    pub async fn stopped(&self) -> StopCause {
        let mut stop = self.inner.shared.stop.subscribe();
        // The sender lives in `shared`, which we hold: waiting cannot fail.
        match stop.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or(StopCause::Shutdown),
            Err(_) => StopCause::Shutdown,
        }
    }

    /// Stops: the group in flight finishes and its promises leave; every task and thread is
    /// joined. Calling it again waits like the first.
    pub async fn shutdown(&self) {
        self.inner.shared.stop_with(StopCause::Shutdown);
        self.inner.stop.cancel();
        self.inner.tasks.wait().await;
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// A call was answered.
    pub(super) fn called(&self, call: &str, began: Instant) {
        self.inner.shared.metrics.host.called(call, began);
    }

    /// A call through the queue of votes and proofs, at most `host_queue` at once; repeated if the
    /// sequencer is rebuilt before it was answered.
    pub(super) async fn control(
        &self,
        mut input: impl FnMut(RequestId) -> Input,
    ) -> Result<Reply, StopCause> {
        let permit = self.inner.host.acquire().await;
        let reply = loop {
            let life = self.life().await?;
            if let Some(reply) = self.ask(&life, &life.inboxes.control, &mut input).await {
                break reply;
            }
            // Until the supervisor has seen it too, this life looks as if it were running.
            life.ended.cancelled().await;
            let mut state = self.inner.state.clone();
            let over = |state: &State| match state {
                State::Running(next) => !Arc::ptr_eq(next, &life),
                State::Restarting | State::Stopped => true,
            };
            if state.wait_for(over).await.is_err() {
                return Err(self.cause());
            }
        };
        drop(permit);
        Ok(reply)
    }

    /// The present life, or the next one while there is none.
    async fn life(&self) -> Result<Arc<Life>, StopCause> {
        let mut state = self.inner.state.clone();
        let state = state.wait_for(|state| !matches!(state, State::Restarting)).await;
        match state.as_deref() {
            Ok(State::Running(life)) if !self.inner.stop.is_cancelled() => Ok(Arc::clone(life)),
            _ => Err(self.cause()),
        }
    }

    /// Asks one life. `None` if it ended before it answered.
    async fn ask(
        &self,
        life: &Life,
        queue: &mpsc::Sender<Inboxed>,
        input: impl FnOnce(RequestId) -> Input,
    ) -> Option<Reply> {
        let (id, reply) = self.inner.shared.replies.open();
        let waiting = Waiting { store: self, id };
        if queue.send(Inboxed::of_host(input(id))).await.is_err() {
            return None;
        }
        let reply = tokio::select! {
            biased;
            reply = reply => reply.ok(),
            // Only once the driver has ended: until then it may still answer.
            () = life.ended.cancelled() => None,
        };
        drop(waiting);
        reply
    }

    fn cause(&self) -> StopCause {
        self.inner.shared.stop.borrow().clone().unwrap_or(StopCause::Shutdown)
    }

    /// Why a life ended that may be followed by another.
    fn ended(&self, life: &Life) -> StopCause {
        self.inner.shared.stop.borrow().clone().unwrap_or_else(|| life.faults.cause())
    }

    /// A read for the host panicked: that ends the present life like any other part's panic.
    pub(super) fn reader_broke(&self, error: &tokio::task::JoinError) -> StopCause {
        let cause = StopCause::Broken { part: Part::Reader, message: error.to_string() };
        if let State::Running(life) = &*self.inner.state.borrow() {
            life.faults.report(cause.clone());
        }
        cause
    }
}

/// Takes a request back when its future is dropped before the answer.
struct Waiting<'a> {
    store: &'a QuorumStore,
    id: RequestId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.store.shared().replies.forget(self.id) {
            // A full queue only means that something is waited for a little longer in vain.
            self.store.tell(Input::Cancel(self.id));
        }
    }
}

/// Replies match their requests: the sequencer answers each with its kind.
pub(super) fn unexpected(reply: &Reply) -> ! {
    unreachable!("a reply of another kind than the request: {reply:?}")
}

fn shared(
    config: &NodeConfig,
    signer: Arc<dyn Signer>,
    reader: Arc<dyn StoreReader>,
    registry: &Registry,
    hooks: Hooks,
) -> Result<Shared, StartError> {
    let chain = config.genesis.chain_id();
    let author = signer.author();
    let members = config.committee.members().iter().map(|member| member.author);
    let peers = members.filter(|member| *member != author);
    // Until the store has said which epoch it serves.
    let membership = Arc::new(Membership {
        epoch: config.epoch,
        committee: config.committee.clone(),
        former: Vec::new(),
    });
    let view = View::new(chain, &membership, peers.clone());
    Ok(Shared {
        author,
        chain,
        parameters: config.genesis.parameters,
        view: RwLock::new(Arc::new(view)),
        addresses: Mutex::default(),
        hellos: Mutex::default(),
        lives: AtomicU64::new(0),
        signer,
        reader,
        skips: watch::channel(Arc::default()).0,
        contents: shared::contents(config.engine.cache_bytes.as_u64()),
        proofs: Cache::new(config.engine.proof_cache),
        grants: RwLock::new(Grants::default()),
        hooks,
        excluded: Exclusions::default(),
        replies: Replies::default(),
        subscriptions: Subscriptions::default(),
        events: broadcast::channel(config.engine.event_queue).0,
        proposable: watch::channel(0).0,
        proposable_bytes: watch::channel(0).0,
        pressure: watch::channel(Pressure::default()).0,
        stop: watch::channel(None).0,
        metrics: Metrics::new(registry, peers)?,
        started: Instant::now(),
    })
}

impl Inner {
    /// Runs the first life, and those after it, in a task of their own.
    fn supervised(node: Node, running: life::Running, stop: CancellationToken) -> Self {
        let engine = &node.config.engine;
        let (state_sender, state) = watch::channel(State::Running(Arc::clone(&running.life)));
        let (restarts_sender, restarts) = watch::channel(Restarts::default());
        let inner = Self {
            shared: Arc::clone(&node.shared),
            state,
            restarts,
            host: Semaphore::new(engine.host_queue),
            submit_bytes: Semaphore::new(engine.submit_queue_bytes.as_u64() as usize),
            leased_bytes: Semaphore::new(engine.submit_queue_bytes.as_u64() as usize),
            submit_bytes_max: engine.submit_queue_bytes.as_u64() as usize,
            subscriber_window: node.config.sequencer.subscriber_window,
            transport: Arc::clone(&node.sender.transport),
            sender: node.sender.clone(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        };
        let (state, restarts) = (state_sender, restarts_sender);
        inner.tasks.spawn(Supervisor { node, state, restarts, stop }.run(running));
        inner.tasks.close();
        inner
    }
}
