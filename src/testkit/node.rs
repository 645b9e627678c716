//! One validator: a production sequencer, a store that can crash, and what its shell does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::cluster::{Cluster, Event};
use super::followers::{Attachments, INDEXERS};
use super::host::{Host, Pending};
use super::keys::Keys;
use super::store::{CrashStore, Tear};
use crate::crypto::Signer;
use crate::sequencer::port::{
    Effect, Event as Told, Input, Measurement, Promise, ReleaseReason, RequestId,
};
use crate::sequencer::status::WindowStatus;
use crate::sequencer::{Sequencer, Setup};
use crate::store::{Durable, Group, Released, Store, StoredBatch};
use crate::types::{
    AbsenceAnswer, AbsenceStatement, Author, Digest, Epoch, Membership, Message, ProofOfStore,
    Timestamp, Vote,
};

/// See the module docs.
pub(super) struct Node {
    pub author: Author,
    pub keys: Keys,
    /// How far its wall clock is off, in microseconds.
    pub skew: i64,
    pub store: Option<CrashStore>,
    pub running: Option<Running>,
    /// What its host keeps on a disk of its own.
    pub host: Host,
    /// Counts its starts.
    pub life: u64,
    /// Inputs over all lives.
    pub steps: u64,
    /// While above zero, a group commit takes this much longer, in microseconds.
    pub slow_disk: u64,
}

/// What a crash takes away.
pub(super) struct Running {
    pub sequencer: Sequencer,
    /// The group on its way to the disk.
    pub writing: Option<Group>,
    /// Inputs that wait because the open group is full.
    inbox: VecDeque<Input>,
    tick_at: Option<u64>,
    pub pending: BTreeMap<RequestId, Pending>,
    pub cancelled: BTreeSet<RequestId>,
    /// The next commit to tell the sequencer of.
    pub told: u64,
    /// True while it ends an epoch or begins the next one.
    pub ending: bool,
    /// What the links follow.
    pub membership: Arc<Membership>,
    pub attachments: Attachments,
    /// Commits executed, and since when.
    pub progress: (u64, u64),
    /// True if its executor was detached for holding too much, or needs again what it had
    /// acknowledged: content that it misses may be gone everywhere.
    pub may_miss: bool,
    /// When it tries to execute next.
    pub execute_at: Option<u64>,
    /// Content that was fetched for execution.
    /// Payloads that were.
    pub fetched_payloads: BTreeSet<Digest>,
    pub fetched: BTreeMap<Digest, crate::types::Batch>,
}

impl Running {
    /// True while inputs wait for a full group.
    pub fn waits(&self) -> bool {
        self.sequencer.is_full() || !self.inbox.is_empty()
    }
}

impl Node {
    pub fn new(keys: Keys, store: CrashStore, skew: i64) -> Self {
        Self {
            author: keys.author(),
            keys,
            skew,
            store: Some(store),
            running: None,
            host: Host::new(),
            life: 0,
            steps: 0,
            slow_disk: 0,
        }
    }
}

impl Cluster {
    /// Starts a validator from what its store holds.
    pub(super) fn boot(&mut self, node: usize) {
        if self.nodes[node].running.is_some() {
            return;
        }
        let now = self.clock(node);
        let setup = Setup {
            author: self.nodes[node].author,
            genesis: self.genesis.clone(),
            epoch: Epoch(0),
            committee: self.plan.of(Epoch(0)).committee.clone(),
            config: self.options.config.clone(),
        };
        let Some(store) = &mut self.nodes[node].store else { return };
        let recovered = match store.recover() {
            Ok(recovered) => recovered,
            Err(error) => return self.checker.fail("every reopen works", error.to_string()),
        };
        self.checker.on_recovered(node, &recovered.records);
        let sequencer = match Sequencer::recover(setup, recovered, now) {
            Ok(sequencer) => sequencer,
            Err(error) => return self.checker.fail("every recovery works", error.to_string()),
        };
        let loses = self.is_stormy() && self.rng.u32(..4) == 0;
        let lost = loses && self.lose_executed(node);
        let told = sequencer.status().logged.0;
        let membership = Arc::clone(sequencer.membership());
        let state = &mut self.nodes[node];
        state.life += 1;
        let life = state.life;
        state.running = Some(Running {
            sequencer,
            writing: None,
            inbox: VecDeque::new(),
            tick_at: None,
            pending: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            told,
            ending: false,
            membership,
            attachments: Attachments::default(),
            progress: (0, self.now),
            may_miss: lost,
            execute_at: None,
            fetched_payloads: BTreeSet::new(),
            fetched: BTreeMap::new(),
        });
        self.checker.on_boot(node);
        self.trace.event(self.now, node, "boot", life);
        if self.options.pulled_percent > 0 {
            self.nodes[node].host.mempool.on_boot();
            self.input(node, Input::SourceReady);
        }
        for peer in self.network.peers(node) {
            let micros = self.rng.u64(..50_000);
            self.dial(node, peer, micros);
        }
        self.skip_if_behind(node);
        for which in 0..=INDEXERS {
            self.attach(node, which);
        }
        self.after(1000, Event::Told { node, life });
    }

    /// One step of a validator, unless this is where it crashes.
    pub(super) fn input(&mut self, node: usize, input: Input) {
        let Some(running) = &mut self.nodes[node].running else { return };
        let completes = matches!(input, Input::Durable { .. } | Input::Vote(_) | Input::Tick);
        if running.waits() && !completes {
            running.inbox.push_back(input);
            let idle = running.writing.is_none();
            self.trace.count("input waits for a full group");
            if idle {
                // Recovery alone has filled it.
                self.pump(node);
            }
            return;
        }
        self.step(node, input);
        self.pump(node);
    }

    fn step(&mut self, node: usize, input: Input) {
        self.nodes[node].steps += 1;
        let step = self.nodes[node].steps;
        let here = |point: &super::cluster::CrashPoint| point.node == node && point.step == step;
        if let Some(at) = self.crash_points.iter().position(here) {
            let point = self.crash_points.remove(at);
            self.trace.count("crash at a chosen step");
            self.crash(node, point.tear);
            self.after(50_000, Event::Restart { node });
            return;
        }
        let here = |point: &super::cluster::StopPoint| point.node == node && point.step == step;
        if let Some(at) = self.stop_points.iter().position(here) {
            let point = self.stop_points.remove(at);
            self.stop_subscribers(&point);
        }
        let now = self.clock(node);
        let (name, detail) = describe(&input);
        self.trace.event(self.now, node, name, detail);
        if let Some(running) = &mut self.nodes[node].running {
            running.sequencer.step(now, input);
        }
        self.on_membership(node);
        self.drain(node);
    }

    /// Starts writing, takes what waited for it, and plans the next tick.
    fn pump(&mut self, node: usize) {
        self.write(node);
        while let Some(running) = &mut self.nodes[node].running {
            if running.sequencer.is_full() {
                break;
            }
            let Some(input) = running.inbox.pop_front() else { break };
            self.step(node, input);
            self.write(node);
        }
        let (now, life) = (self.now, self.nodes[node].life);
        let Some(running) = &mut self.nodes[node].running else { return };
        let Some(due) = running.sequencer.next_deadline() else { return };
        // Never twice at one moment: time moves on.
        let due = (due.as_micros() as u64).max(now + 100);
        if running.tick_at.is_none_or(|at| due < at) {
            running.tick_at = Some(due);
            self.after(due - now, Event::Tick { node, life });
        }
    }

    fn write(&mut self, node: usize) {
        let slow = self.nodes[node].slow_disk;
        let most = self.options.write_max.as_micros() as u64;
        let life = self.nodes[node].life;
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.writing.is_none()
            && let Some(group) = running.sequencer.take_group()
        {
            let empty = group.records().is_empty();
            running.writing = Some(group);
            let micros = if empty { 1 } else { 100 + slow + self.rng.u64(..most.max(1)) };
            self.after(micros, Event::Written { node, life });
        }
    }

    pub(super) fn on_tick(&mut self, node: usize, life: u64) {
        let now = self.now;
        let state = &mut self.nodes[node];
        let current = state.life == life;
        let Some(running) = state.running.as_mut().filter(|_| current) else { return };
        if running.tick_at != Some(now) {
            return;
        }
        running.tick_at = None;
        let due = running.sequencer.next_deadline().map(|due| due.as_micros() as u64);
        if due.is_some_and(|due| due <= now) {
            self.input(node, Input::Tick);
        } else {
            self.pump(node);
        }
    }

    fn drain(&mut self, node: usize) {
        while let Some(effect) =
            self.nodes[node].running.as_mut().and_then(|r| r.sequencer.poll_effect())
        {
            match effect {
                Effect::Send { to, message } => self.send(node, &[to], &message),
                Effect::Multicast { to, message } => self.send(node, &to, &message),
                Effect::Resend { to, digest } => {
                    let reader = self.nodes[node].store.as_ref().map(Store::reader);
                    let batch = reader.and_then(|reader| reader.batch(&digest).ok().flatten());
                    if let Some(batch) = batch {
                        self.trace.count("batch sent again");
                        self.send(node, &to, &Message::Batch(batch));
                    }
                }
                Effect::Push { to, digest } => {
                    self.trace.count("content pushed against evidence");
                    for peer in to {
                        self.serve(node, peer, &[(digest, None)]);
                    }
                }
                Effect::Reply { id, reply } => self.on_reply(node, id, reply),
                Effect::Event(event) => self.on_event(node, &event),
                Effect::Measured(measurement) => self.trace.count(measured(&measurement)),
                Effect::PullTransactions(limits) => self.ask_source(node, limits),
                Effect::InProgress { entered, left } => self.on_progress(node, &entered, &left),
                Effect::SourceRefused(refused) => {
                    for (key, _) in refused {
                        self.trace.count("source's transaction refused");
                        self.nodes[node].host.mempool.on_refused(&key);
                    }
                }
                Effect::Refused { peer, reason } => {
                    self.trace.count(refused(reason));
                    let honest = self.index_of(&peer).is_some_and(|peer| self.is_honest(peer));
                    if reason.is_fault() && honest && self.is_honest(node) {
                        let stored = self.grants(node, &peer);
                        let other = self.index_of(&peer).unwrap_or(node);
                        let me = self.nodes[node].author;
                        let used = self.grants(other, &me);
                        let detail = format!(
                            "node {node} refused node {other}: {reason}; here {stored:?}; there {used:?}"
                        );
                        self.checker.fail("correct validators are never at fault", detail);
                    }
                }
            }
        }
    }

    /// How the window between a validator and a peer stands, as the validator sees it.
    fn grants(&self, node: usize, peer: &Author) -> Option<(WindowStatus, Timestamp)> {
        let status = self.nodes[node].running.as_ref()?.sequencer.status();
        let window = status.windows.into_iter().find(|window| window.peer == *peer)?;
        Some((window, status.consensus_time))
    }

    fn on_event(&mut self, node: usize, event: &Told) {
        if let Told::Returned { batch, positions, .. } = event {
            self.on_returned(node, batch, positions);
        }
        if let Told::Batched { batch, pulled } = event {
            self.on_batched(node, batch, pulled);
        }
        self.trace.count(match event {
            Told::Certified { .. } => "batch certified",
            Told::Batched { .. } => "pulled transactions batched",
            Told::Rebatched { .. } => "transactions batched again",
            Told::Expired { .. } => "transactions expired",
            Told::Returned { .. } => "transactions returned",
        });
    }

    /// The disk has the group, or has failed.
    pub(super) fn on_written(&mut self, node: usize, life: u64) {
        let state = &mut self.nodes[node];
        let current = state.life == life;
        let Some(running) = state.running.as_mut().filter(|_| current) else { return };
        let Some(group) = running.writing.take() else { return };
        let Some(store) = &mut state.store else { return };
        let records = group.records().to_vec();
        let Ok(persisted) = group.persist(store) else {
            // Fail-stop: whatever became of the group, this life signs nothing any more.
            self.trace.count("disk failed");
            self.crash(node, Tear::Lost);
            let micros = self.rng.u64(500_000..3_000_000);
            self.after(micros, Event::Restart { node });
            return;
        };
        self.checker.on_durable(node, self.now, &records);
        self.step(node, Input::Durable { sequence: persisted.sequence });
        for promise in persisted.promises {
            if self.nodes[node].running.is_none() || self.nodes[node].life != life {
                return;
            }
            self.release(node, promise);
        }
        self.pump(node);
    }

    fn release(&mut self, node: usize, promise: Durable<Promise>) {
        match promise.release() {
            Released::Sign(token) => self.sign(node, &token),
            Released::SignAbsence(token, to) => self.sign_absence(node, &token, to),
            Released::Other(Promise::Publish(proof)) => {
                let Some(running) = &self.nodes[node].running else { return };
                let committee = &running.membership.committee;
                let others = running.sequencer.peers();
                let others: Vec<Author> =
                    others.filter(|peer| committee.index_of(peer).is_some()).collect();
                self.trace.count("proof published");
                self.send(node, &others, &Message::Proofs(vec![ProofOfStore::clone(&proof)]));
            }
            Released::Other(Promise::Reply { id, reply }) => self.on_reply(node, id, reply),
            Released::Other(Promise::Event(event)) => self.on_event(node, &event),
            Released::Other(Promise::Deliver { subscription, delivery }) => {
                self.on_delivery(node, subscription, delivery);
            }
            Released::Other(Promise::EndSubscription { subscription, end }) => {
                self.on_subscription_end(node, subscription, end);
            }
            Released::Other(Promise::Sign(_) | Promise::SignAbsence { .. }) => {
                unreachable!("released as a token")
            }
        }
    }

    fn sign(&mut self, node: usize, token: &Durable<StoredBatch>) {
        let scope = self.plan.of(token.get().epoch).scope;
        let state = &self.nodes[node];
        let (me, author) = (state.author, token.get().author);
        let signed = state.keys.sign_batch(&scope, token);
        self.checker.on_signed(node, token.get());
        if author != me && self.refuses(node, &token.get().digest) {
            let detail = format!("node {node} signed for {:?}", token.get().digest);
            self.checker.fail("what a host's filter refuses is not signed for", detail);
        }
        if author == me {
            self.step(node, Input::Vote(signed));
            return;
        }
        let Some(running) = &self.nodes[node].running else { return };
        let announcement = running.sequencer.announcement();
        let vote = Vote { digest: signed.digest, signature: signed.signature };
        self.send(node, &[author], &Message::Votes { announcement, votes: vec![vote] });
    }

    fn sign_absence(&mut self, node: usize, token: &Durable<AbsenceStatement>, to: Author) {
        let AbsenceStatement { epoch, index, digest, reason } = *token.get();
        let scope = self.plan.of(epoch).scope;
        let state = &self.nodes[node];
        let signature = state.keys.sign_absence(&scope, token).signature;
        let from = state.author;
        self.trace.count("absence signed");
        self.checker.on_absence(node, index, &digest);
        let answer = AbsenceAnswer::Signed { epoch, reason, signature };
        if to == from {
            self.step(node, Input::Absence { from, index, digest, answer });
        } else {
            self.send(node, &[to], &Message::Absence { index, digest, answer });
        }
    }

    /// The power fails, or the process dies: memory is gone, the disk keeps what `tear` says.
    pub(super) fn crash(&mut self, node: usize, tear: Tear) {
        let Some(running) = self.nodes[node].running.take() else { return };
        self.trace.event(self.now, node, "crash", tear as u64);
        let records = running.writing.as_ref().map(Group::records);
        if records.is_some_and(|records| !records.is_empty()) {
            self.trace.count(match tear {
                Tear::Kept => "crash keeps the group in flight",
                Tear::Lost => "crash loses the group in flight",
                Tear::Cut => "crash cuts the group in flight",
                Tear::Hole => "crash loses a sector of the group in flight",
            });
        }
        if let Some(store) = self.nodes[node].store.take() {
            let store = store.crash(records, tear, &mut self.rng);
            if store.keeps_tail() {
                self.checker.on_durable(node, self.now, records.unwrap_or_default());
            }
            self.nodes[node].store = Some(store);
        }
        self.on_gone(node);
    }

    /// A number for a request of a host.
    pub(super) fn next_id(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// A host asks its sequencer.
    pub(super) fn request(
        &mut self,
        node: usize,
        pending: Pending,
        input: impl FnOnce(RequestId) -> Input,
    ) {
        let id = self.next_id();
        if let Some(running) = &mut self.nodes[node].running {
            running.pending.insert(id, pending);
            self.input(node, input(id));
        }
    }

    /// Clients are told that these are theirs again.
    fn on_returned(&mut self, node: usize, batch: &Digest, positions: &[u32]) {
        let content = self.reader(node).and_then(|reader| reader.batch(batch).ok().flatten());
        // Where its time and grace are over, so are its transactions.
        let Some(content) = content else { return };
        let is_returned = |(position, _): &(usize, _)| positions.contains(&(*position as u32));
        let returned = content.body.transactions().enumerate().filter(is_returned);
        let ids: Vec<u64> =
            returned.filter_map(|(_, bytes)| Some(super::host::head_of(&bytes)?.0)).collect();
        self.checker.on_returned(&ids);
    }

    pub(super) fn reader(&self, node: usize) -> Option<Arc<dyn crate::store::StoreReader>> {
        self.nodes[node].store.as_ref().map(Store::reader)
    }
}

/// A name for the trace, and something that tells two inputs of a kind apart.
fn describe(input: &Input) -> (&'static str, u64) {
    let of = |digest: &Digest| u64::from_le_bytes(std::array::from_fn(|i| digest.0[i]));
    match input {
        Input::LinkUp { .. } => ("link up", 0),
        Input::LinkDown { .. } => ("link down", 0),
        Input::Announce { announcement, .. } => ("announce", announcement.released.0),
        Input::Batch { digest, .. } => ("batch", of(digest)),
        Input::Vote(vote) => ("vote", of(&vote.digest)),
        Input::BadVote { .. } => ("bad vote", 0),
        Input::Proof { digest, .. } => ("proof", of(digest)),
        Input::Payload { digest, .. } => ("payload", of(digest)),
        Input::FetchedBatch { digest, .. } => ("fetched batch", of(digest)),
        Input::FetchedChunk { digest, .. } => ("fetched chunk", of(digest)),
        Input::NoContent { digest, .. } => ("no content", of(digest)),
        Input::Submit { id, .. } => ("submit", id.0),
        Input::SourceReady => ("source ready", 0),
        Input::Transactions(transactions) => ("transactions", transactions.len() as u64),
        Input::Seen { digest, .. } => ("seen", of(digest)),
        Input::SubmitUnder { id, .. } => ("submit under a lease", id.0),
        Input::Lease { id, .. } => ("lease", id.0),
        Input::Release { id, .. } => ("release", id.0),
        Input::Pull { id, .. } => ("pull", id.0),
        Input::Verify { request, .. } => ("verify", of(&request.digest)),
        Input::Commit { commit, .. } => ("commit", commit.index.0),
        Input::AbsenceRequest { index, .. } => ("absence request", index.0),
        Input::Absence { index, .. } => ("absence", index.0),
        Input::Fetch { wanted, .. } => ("fetch", of(&wanted.digest)),
        Input::Close { final_index, .. } => ("close", final_index.0),
        Input::OpenEpoch { epoch, .. } => ("open epoch", epoch.0),
        Input::Serving { epoch, .. } => ("serving", epoch.0),
        Input::Ahead { .. } => ("ahead", 0),
        Input::SkipTo { header, .. } => ("skip to", header.height.0),
        Input::Subscribe { next, .. } => ("subscribe", next.0),
        Input::Delivered { next, .. } => ("delivered", next.0),
        Input::Detach { subscription } => ("detach", subscription.0),
        Input::Unsubscribe { id, .. } => ("unsubscribe", id.0),
        Input::Acknowledge { next, .. } => ("acknowledge", next.0),
        Input::Cancel(id) => ("cancel", id.0),
        Input::Durable { sequence } => ("durable", *sequence),
        Input::Space { admits } => ("space", u64::from(*admits)),
        Input::Status(id) => ("status", id.0),
        Input::Tick => ("tick", 0),
    }
}

fn released(reason: ReleaseReason) -> &'static str {
    match reason {
        ReleaseReason::Ordered => "in progress until it was ordered",
        ReleaseReason::Expired => "in progress until it expired",
        ReleaseReason::Lapsed => "in progress until it lapsed",
        ReleaseReason::Lost => "in progress until it was lost",
    }
}

fn measured(measurement: &Measurement) -> &'static str {
    match measurement {
        Measurement::Sealed { .. } => "batch sealed",
        Measurement::Certified(_) => "own batch certified",
        Measurement::Ordered(_) => "own batch ordered",
        Measurement::ProposedUnproven { .. } => "a proposal with unproven batches",
        Measurement::OrderedUnproven { optimistic: 0, .. } => "inline batches ordered",
        Measurement::OrderedUnproven { .. } => "optimistic batches ordered",
        Measurement::OptimisticWait(_) => "a vote waited for optimistic batches",
        Measurement::LateVote => "late vote",
        Measurement::Grown => "proof grown",
        Measurement::Demoted => "signer demoted",
        Measurement::Pulled { .. } => "transactions pulled",
        Measurement::Released { reason, .. } => released(*reason),
    }
}

fn refused(reason: crate::sequencer::port::Refusal) -> &'static str {
    use crate::sequencer::port::Refusal;
    match reason {
        Refusal::Equivocation => "refused an equivocation",
        Refusal::WindowSpent => "refused beyond the window",
        Refusal::Expired => "refused an expired batch",
        Refusal::BelowFloor => "refused below the floor",
        Refusal::DiskNearlyFull => "refused for the disk",
        Refusal::Unasked => "refused what nobody asked for",
        Refusal::UnknownBatch => "refused a vote for an unknown batch",
        Refusal::NotFromAuthor => "refused from another than its author",
        Refusal::EpochOver => "refused of an epoch that is over",
        Refusal::NotYet => "refused of an epoch to come",
        Refusal::UnaskedFlood => "refused a flood of what nobody asked for",
        Refusal::Filtered => "refused by the filter",
        Refusal::TooManyPayloads => "refused one payload too many",
        _ => "refused for another reason",
    }
}
