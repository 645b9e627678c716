//! The pure core: one synchronous, deterministic sequencer that owns the four components.
//!
//! ```text
//!  Input ──▶ step ──┬─▶ BatchGenerator ── sealed batch ──▶ BatchCoordinator ─┐
//!                   ├─▶ BatchCoordinator (admission, slots, windows) ────────┤
//!                   ├─▶ ProofCoordinator (votes) ── proof ──▶ ProofManager   │
//!                   ├─▶ ProofManager (what can be proposed)                  │
//!                   ├─▶ Payloads, CommitLog, Retention, Fetcher              │
//!                   ▼                                                        ▼
//!               Effects (leave now)                          open Group {records, promises}
//! ```
//!
//! **Guarantees.** `step` never blocks, reads no clock and draws no randomness: the same inputs
//! give the same outputs. A promise travels in the group that holds, or follows, the records it
//! depends on, so nothing leaves before its disk write ([`crate::store::Group`]). A commit is
//! applied to all four components within one step, or to none.
//!
//! **What it is not.** It does not decode, hash what arrives, verify signatures (ingress does, in
//! parallel), sign (egress does, with a token), or touch a disk (the writer does).
//!
//! **Failure.** An `assert!` states only what this sequencer alone brought about; it ends the
//! sequencer as a whole. Whatever peers, hosts or faulty quorums can cause is a typed error.

mod absence;
mod admission;
mod ballots;
mod batch_coordinator;
mod batch_generator;
mod commit_log;
mod digest_map;
mod epoch;
mod fetched;
mod fetcher;
mod in_progress;
mod leases;
mod optimism;
mod optimistic;
mod ordered;
mod outbox;
mod payloads;
mod pool;
pub mod port;
pub mod pressure;
mod proof_coordinator;
mod proof_manager;
mod proposals;
mod pull_rate;
mod recover;
mod refetch;
mod retention;
mod rewrites;
mod silence;
mod sourcing;
mod standing;
pub mod status;
mod subscribers;
mod windows;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use recover::{RecoverError, Setup};
pub use subscribers::{SUBSCRIBER_NAME_BYTES_MAX, SUBSCRIBERS_MAX};

use self::absence::Absences;
use self::ballots::Ballots;
use self::batch_coordinator::BatchCoordinator;
use self::batch_generator::{BatchGenerator, Sealed};
use self::commit_log::CommitLog;
use self::epoch::{Ends, Phase};
use self::fetcher::Fetcher;
use self::in_progress::InProgress;
use self::optimism::Optimism;
use self::outbox::{Clock, Outbox};
use self::payloads::{Arrived, Content, Payloads};
use self::port::{
    BusyReason, Effect, Event, Input, Measurement, Now, Promise, Record, Refusal, Reply,
};
use self::pressure::DiskLag;
use self::proof_coordinator::ProofCoordinator;
use self::proof_manager::ProofManager;
use self::refetch::Refetch;
use self::retention::Retention;
pub use self::rewrites::Skips;
use self::silence::Silence;
pub use self::silence::silent_until;
use self::sourcing::Sourcing;
#[cfg(feature = "engine")]
pub(crate) use self::standing::Standing;
use self::status::Status;
use self::windows::Windows;
use crate::config::SequencerConfig;
use crate::store::Group;
use crate::tripwire::Tripwire;
use crate::types::{
    Announcement, Author, Batch, BatchInfo, ChainId, ChainParameters, Component, Digest, Epoch,
    Membership, Message, ProofOfStore, SignedBatchInfo, Timestamp, Usage,
};

/// See the module docs.
#[derive(Debug)]
pub struct Sequencer {
    author: Author,
    chain: ChainId,
    membership: Arc<Membership>,
    ends: Ends,
    parameters: ChainParameters,
    config: SequencerConfig,
    generator: BatchGenerator,
    coordinator: BatchCoordinator,
    proofs: ProofCoordinator,
    manager: ProofManager,
    windows: Windows,
    payloads: Payloads,
    commits: CommitLog,
    retention: Retention,
    fetcher: Fetcher,
    refetch: Refetch,
    absences: Absences,
    ballots: Ballots,
    optimism: Optimism,
    silence: Silence,
    sourcing: Sourcing,
    outbox: Outbox,
    /// Groups on their way to the disk.
    disk_lag: DiskLag,
    /// How long the newest of our batches that was ordered last waited for it.
    commit_time: Duration,
    next_announcement: Duration,
    /// When the last step was taken.
    stepped: Duration,
    /// The wall clock then.
    wall: Timestamp,
    /// Where tests make it panic, and the input that is handled.
    tripwire: Tripwire,
    input: &'static str,
    released: Released,
}

/// What is announced as released must stay released after a crash: it follows the groups that hold
/// the commits and deletions behind it.
#[derive(Debug, Default)]
struct Released {
    /// What the disk vouches for.
    durable: Timestamp,
    /// What groups on their way will vouch for: the group's sequence, and the time.
    pending: VecDeque<(u64, Timestamp)>,
}

impl Released {
    fn on_durable(&mut self, sequence: u64) {
        while let Some((_, released)) = self.pending.pop_front_if(|(group, _)| *group <= sequence) {
            self.durable = self.durable.max(released);
        }
    }
}

impl Sequencer {
    // ---- getters -------------------------------------------------------------------------------

    /// When `step` wants to be called with [`Input::Tick`], on the monotonic clock.
    pub fn next_deadline(&self) -> Option<Duration> {
        let due = [
            self.generator.next_deadline(self.is_idle()).filter(|_| self.may_seal()),
            self.proofs.next_deadline().filter(|_| self.ends.phase == Phase::Open),
            self.coordinator.next_signature(),
            self.commits.next_deadline(),
            self.generator.leases.next_deadline(),
            self.ends.next_deadline(),
            self.fetcher.next_deadline(),
            self.refetch.next_deadline(),
            self.sourcing_deadline(),
            self.next_ripe(),
        ];
        due.into_iter().flatten().chain([self.next_announcement]).min()
    }

    /// True if the open group takes no more input until it is taken.
    pub fn is_full(&self) -> bool {
        self.outbox.bytes >= self.config.group_bytes_max.as_u64()
    }

    /// Size of the open group in bytes, roughly.
    pub fn open_bytes(&self) -> u64 {
        self.outbox.bytes
    }

    /// What this validator grants and has released.
    pub fn announcement(&self) -> Announcement {
        Announcement { window: self.config.window(), released: self.released.durable }
    }

    /// What this validator stores of another one.
    pub fn stored_of(&self, author: &Author) -> Usage {
        self.coordinator.stored(author)
    }

    /// The epoch that is served, and those before it that still matter.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// The epoch that is served.
    pub fn epoch(&self) -> Epoch {
        self.membership.epoch
    }

    /// Every other validator that is talked to, those of former epochs included.
    pub fn peers(&self) -> impl Iterator<Item = Author> + '_ {
        self.windows.peers()
    }

    /// How many batches could be proposed, with a proof or without one.
    pub fn proposable(&self) -> u64 {
        self.manager.totals().proofs + self.ripe().0
    }

    /// Bytes of those.
    pub fn proposable_bytes(&self) -> u64 {
        self.manager.totals().bytes + self.ripe().1
    }

    /// Batches that could be proposed without a proof, and their bytes.
    fn ripe(&self) -> (u64, u64) {
        let height = self.commits.applied().0.next();
        if self.may_be_optimistic(height) { self.manager.ripe() } else { (0, 0) }
    }

    /// What is skipped because committed evidence says that it is gone.
    pub fn skips(&self) -> &Arc<Skips> {
        self.commits.rewrites.shared()
    }

    /// A snapshot.
    pub fn status(&self) -> Status {
        let (pool_transactions, pool_bytes) = self.generator.pool();
        let (outstanding_batches, outstanding_bytes) = self.generator.outstanding();
        Status {
            epoch: self.epoch(),
            epoch_phase: match self.ends.phase {
                Phase::Open => "open",
                Phase::Closing { .. } => "closing",
                Phase::Closed => "closed",
            },
            final_index: match (&self.ends.phase, &self.ends.receipt) {
                (Phase::Closing { final_index }, _) => Some(*final_index),
                (Phase::Closed, Some(receipt)) => Some(receipt.final_index),
                _ => None,
            },
            epochs_served: self.membership.former.iter().map(|former| former.epoch).collect(),
            consensus_time: self.commits.consensus_time(),
            logged: self.commits.logged(),
            applied: self.commits.applied().0,
            pool_transactions,
            pool_bytes,
            in_progress: self.generator.progress().map_or(0, InProgress::len),
            uncertified_batches: self.proofs.uncertified(),
            demoted: self.proofs.standing.demoted(self.stepped).collect(),
            outstanding_batches,
            outstanding_bytes,
            proofs: self.manager.totals().proofs,
            unproven: self.manager.ripe().0,
            ballots: self.ballots.len() as u64,
            optimistic_pause: self.optimism.pause_left(self.commits.applied().0),
            optimistic_blamed: self.optimism.blamed_len(),
            contents: self.retention.len() as u64,
            fetches: self.fetcher.len() as u64,
            fetch_bytes_in_flight: self.fetcher.bytes_in_flight(),
            fetch_peers: self.fetch_peers(),
            refetches: self.refetch.len() as u64,
            refetched: self.refetch.started(),
            absences: self.absences.len() as u64,
            evidence: self.absences.ready_len() as u64,
            skipped: self
                .commits
                .rewrites
                .evidence()
                .map(|proof| (proof.index, proof.digest))
                .collect(),
            committed_evidence: self.commits.rewrites.evidence().cloned().collect(),
            silent_until: self.silence.until(),
            open_payloads: self.payloads.open() as u64,
            busy: Status::reason(self.busy()),
            pressure: self.pressure(),
            windows: self.windows.status(|author| self.coordinator.stored(author)),
            subscribers: self.commits.subscriber_status(self.stepped),
            held_bytes: self.retention.parked_bytes(),
        }
    }

    // ---- outputs -------------------------------------------------------------------------------

    /// The next thing that may leave now.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.outbox.effects.pop_front()
    }

    /// Closes the open group and hands it out, if there is anything in it.
    pub fn take_group(&mut self) -> Option<Group> {
        if self.outbox.records.is_empty() && self.outbox.promises.is_empty() {
            return None;
        }
        let released = self.retention.released(self.commits.consensus_time());
        self.released.pending.push_back((self.outbox.group, released));
        self.disk_lag.on_taken(self.outbox.group, self.stepped);
        let mut records = Vec::new();
        if !self.outbox.records.is_empty() {
            // First: what goes in this group may rest on them.
            self.commits.subscribers.flush(&mut records);
            records.append(&mut self.outbox.records);
        }
        let promises = std::mem::take(&mut self.outbox.promises);
        let group = Group::new(self.outbox.group, records, promises);
        self.outbox.group += 1;
        self.outbox.bytes = 0;
        Some(group)
    }

    // ---- inputs --------------------------------------------------------------------------------

    /// Takes one input at one time.
    pub fn step(&mut self, now: Now, input: Input) {
        self.stepped = now.monotonic;
        self.input = input.name();
        self.wall = now.wall;
        let clock = self.clock(now);
        self.generator.leases.on_time(now.monotonic);
        self.ripen(now.monotonic);
        self.sign_deferred(now.monotonic);
        self.route(&clock, input);
        // Consensus time may have moved.
        let clock = self.clock(now);
        self.generator.reserve_ids(&mut self.outbox);
        self.seal(&clock);
        self.pull_transactions(&clock);
    }

    fn route(&mut self, clock: &Clock, input: Input) {
        match input {
            Input::LinkUp { peer, hello } => {
                self.windows.on_link_up(peer, &hello, clock.consensus);
                self.enters(Component::ProofCoordinator);
                if self.windows.is_member(&peer) {
                    self.proofs.on_link_up(&mut self.outbox, clock, peer);
                }
            }
            Input::LinkDown { peer } => {
                self.windows.on_link_down(peer);
                self.fetcher.on_link_down(clock.now.monotonic, &peer);
                self.tick_fetcher(clock);
            }
            Input::Announce { from, announcement } => {
                self.windows.on_announcement(from, announcement);
            }
            Input::Batch { from, digest, batch } => self.on_batch(clock, from, digest, &batch),
            Input::Vote(vote) => self.on_vote(clock, &vote),
            Input::BadVote { from } => self.on_bad_vote(clock, from),
            Input::Proof { digest, proof } => self.on_proof(clock, digest, proof),
            Input::Payload { from, digest, payload, batches, verdict } => {
                let content = Content { payload, batches };
                self.on_payload(clock, from, digest, Arrived { content, verdict });
            }
            Input::FetchedBatch { from, digest, batch } => {
                self.on_fetched_batch(clock, from, digest, &batch);
            }
            Input::FetchedChunk { from, digest, chunk } => {
                self.on_fetched_chunk(clock, from, digest, &chunk);
            }
            Input::NoContent { from, digest, answer } => {
                if !self.fetcher.on_no_content(clock.now.monotonic, from, &digest, answer) {
                    self.on_unasked(clock, from);
                }
                self.tick_fetcher(clock);
            }
            Input::Submit { id, transactions } => {
                self.enters(Component::BatchGenerator);
                self.on_submit(clock, id, transactions, None);
            }
            Input::SourceReady => self.on_source_ready(clock),
            Input::Transactions(transactions) => {
                self.enters(Component::BatchGenerator);
                self.on_transactions(clock, transactions);
            }
            Input::Seen { digest, keys } => self.on_seen(clock, digest, keys),
            Input::SubmitUnder { id, lease, transactions } => {
                self.enters(Component::BatchGenerator);
                self.on_submit(clock, id, transactions, Some(&lease));
            }
            Input::Lease { id, request } => self.on_lease(clock, id, &request),
            Input::Release { id, lease } => self.on_release(id, &lease),
            Input::Pull { id, request } => self.on_pull(clock, id, &request),
            Input::Verify { id, request } => self.on_verify(clock, id, &request),
            Input::Commit { id, commit } => self.on_commit(clock.now, id, commit),
            Input::SkipTo { id, header } => self.on_skip(clock.now, id, &header),
            Input::Close { id, epoch, final_index, deadline } => {
                self.on_close(clock, id, epoch, final_index, deadline);
            }
            Input::OpenEpoch { id, epoch, committee } => self.on_open(id, epoch, committee),
            Input::Serving { from, epoch } => self.on_serving(clock, from, epoch),
            Input::Ahead { from } => {
                self.outbox.refuse(from, Refusal::NotYet);
                self.on_ahead(clock, from);
            }
            Input::AbsenceRequest { from, index, digest } => {
                self.on_absence_request(clock, from, index, digest);
            }
            Input::Absence { from, index, digest, answer } => {
                self.on_absence(clock, from, (index, digest), answer);
            }
            Input::Fetch { id, wanted, deadline } => self.on_fetch(clock, id, &wanted, deadline),
            Input::Subscribe { id, subscriber, next } => {
                let (outbox, retention) = (&mut self.outbox, &mut self.retention);
                let now = clock.now.monotonic;
                self.commits.on_subscribe(outbox, retention, now, id, subscriber, next);
            }
            Input::Delivered { subscription, next } => {
                let (outbox, retention) = (&mut self.outbox, &mut self.retention);
                let now = clock.now.monotonic;
                self.commits.on_delivered(outbox, retention, now, subscription, next);
            }
            Input::Detach { subscription } => self.commits.subscribers.on_detach(subscription),
            Input::Unsubscribe { id, subscriber } => {
                let (outbox, retention) = (&mut self.outbox, &mut self.retention);
                self.commits.on_unsubscribe(outbox, retention, id, &subscriber);
            }
            Input::Acknowledge { subscriber, next } => {
                let (outbox, retention) = (&mut self.outbox, &mut self.retention);
                let now = clock.now.monotonic;
                self.commits.on_acknowledge(outbox, retention, now, &subscriber, next);
            }
            Input::Cancel(id) => {
                self.commits.subscribers.on_detach(id);
                self.ends.on_cancel(id);
                self.fetcher.on_cancel(id);
                if let Some(digest) = self.payloads.on_cancel(id)
                    && !self.commits.awaits(&digest)
                {
                    self.fetcher.on_needless(&digest);
                    self.withdraw_ballot(&digest);
                }
            }
            Input::Durable { sequence } => {
                self.retention.on_durable(sequence);
                self.released.on_durable(sequence);
                self.disk_lag.on_durable(sequence);
                self.enters(Component::BatchGenerator);
                self.generator.on_durable(sequence);
                self.proofs.on_durable(sequence);
            }
            Input::Space { admits } => {
                self.enters(Component::BatchCoordinator);
                self.coordinator.admits = admits;
                if admits {
                    self.decide_all_again(clock);
                } else {
                    // Nothing is sealed until there is room: they would wait without an answer.
                    self.generator.refuse_pooled(&mut self.outbox, BusyReason::Disk);
                }
            }
            Input::Status(id) => {
                let status = Box::new(self.status());
                self.outbox.reply_now(id, Reply::Status(status));
            }
            Input::Tick => self.on_tick(clock),
        }
    }

    /// A component is about to take its part of the input.
    fn enters(&self, component: Component) {
        self.tripwire.at(component.name(), self.input);
    }

    /// Arms a test's tripwire.
    #[cfg(all(test, feature = "engine"))]
    pub(crate) fn set_tripwire(&mut self, tripwire: Tripwire) {
        self.tripwire = tripwire;
    }

    // ---- batches -------------------------------------------------------------------------------

    /// Seals what is due while there is room for it.
    fn seal(&mut self, clock: &Clock) {
        loop {
            self.follow_pressure(clock.now.monotonic);
            let idle = self.is_idle();
            if !self.generator.is_due(clock.now.monotonic, idle) || !self.may_seal() {
                break;
            }
            self.enters(Component::BatchGenerator);
            let Some(sealed) = self.generator.seal(&mut self.outbox, clock, idle) else { break };
            self.spread(clock, sealed);
        }
        self.record_settled();
    }

    /// A batch of ours goes its way.
    fn spread(&mut self, clock: &Clock, sealed: Sealed) {
        let (digest, batch) = (sealed.digest, sealed.batch);
        let BatchInfo { count: transactions, bytes, .. } = batch.info;
        self.outbox.effect(Effect::Measured(Measurement::Sealed { transactions, bytes }));
        self.enters(Component::BatchCoordinator);
        let (outbox, retention) = (&mut self.outbox, &mut self.retention);
        self.coordinator.on_own_batch(outbox, retention, digest, &batch, sealed.metas);
        self.enters(Component::ProofManager);
        self.on_slot(clock, digest, &batch.info);
        self.enters(Component::ProofCoordinator);
        let outbox = &mut self.outbox;
        self.proofs.on_own_batch(outbox, clock, &mut self.windows, digest, batch);
    }

    /// True while none of our own batches waits for its proof.
    fn is_idle(&self) -> bool {
        self.proofs.uncertified() == 0
    }

    fn may_seal(&self) -> bool {
        self.closed_to_clients().is_none() && self.busy().is_none() && !self.is_full()
    }

    /// What holds admission back, if anything.
    fn busy(&self) -> Option<BusyReason> {
        if !self.coordinator.admits {
            return Some(BusyReason::Disk);
        }
        if self.generator.is_lagging() {
            return Some(BusyReason::Commits);
        }
        (!self.has_windows()).then_some(BusyReason::Windows)
    }

    /// True if a quorum has room for one more batch of ours.
    fn has_windows(&self) -> bool {
        let charge = self.config.batch_bytes_target.as_u64();
        self.windows.quorum_has_room(&self.membership.committee, charge)
    }

    fn on_batch(&mut self, clock: &Clock, from: Author, digest: Digest, batch: &Batch) {
        if from == batch.info.author && self.absences.refuses(&batch.info.slot()) {
            return self.on_declared_absent(clock, from, digest, batch);
        }
        self.enters(Component::BatchCoordinator);
        let (outbox, retention) = (&mut self.outbox, &mut self.retention);
        let coordinator = &mut self.coordinator;
        match coordinator.on_batch(outbox, clock, retention, from, digest, batch) {
            Ok(true) => {
                let content = port::Content::Batch(batch.clone());
                let now = clock.now.monotonic;
                self.fetcher.on_content(&mut self.outbox, now, None, &digest, &content);
                self.refetched(&digest);
                self.on_slot(clock, digest, &batch.info);
            }
            Ok(false) => {}
            Err(reason) => {
                self.outbox.refuse(from, reason);
                if reason == Refusal::Equivocation {
                    self.optimism.blame(from, clock.now.monotonic);
                }
                if reason == Refusal::NotYet {
                    self.on_ahead(clock, from);
                }
            }
        }
    }

    // ---- proofs --------------------------------------------------------------------------------

    fn on_vote(&mut self, clock: &Clock, vote: &SignedBatchInfo) {
        if let Some(info) = self.proofs.info(&vote.digest) {
            // It stores it, however it came by it.
            self.windows.on_stored(&vote.signer, vote.digest, &info);
        }
        self.enters(Component::ProofCoordinator);
        let (outbox, committee) = (&mut self.outbox, &self.membership.committee);
        if let Some(proof) = self.proofs.on_vote(outbox, clock.now.monotonic, committee, vote) {
            if let Some(age) = self.proofs.age(&vote.digest, clock.now.monotonic) {
                self.outbox.effect(Effect::Measured(Measurement::Certified(age)));
            }
            self.enters(Component::ProofManager);
            let now = clock.now.monotonic;
            self.manager.on_proof(vote.digest, Arc::clone(&proof), now, clock.consensus);
            self.outbox.promise(Promise::Publish(proof));
            self.outbox.event(Event::Certified { digest: vote.digest });
        }
    }

    /// Somebody signed badly: it is asked for less until it is forgiven.
    fn on_bad_vote(&mut self, clock: &Clock, from: Author) {
        self.enters(Component::ProofCoordinator);
        if self.windows.is_member(&from)
            && self.proofs.standing.on_bad_signature(from, clock.now.monotonic)
        {
            self.outbox.effect(Effect::Measured(Measurement::Demoted));
        }
    }

    fn on_proof(&mut self, clock: &Clock, digest: Digest, proof: Arc<ProofOfStore>) {
        self.enters(Component::ProofManager);
        self.certified_in_progress(&digest);
        if proof.info.epoch == self.epoch()
            && self.ends.phase != Phase::Closed
            && self.manager.on_proof(
                digest,
                Arc::clone(&proof),
                clock.now.monotonic,
                clock.consensus,
            )
        {
            let due = clock.now.monotonic + self.config.refetch_delay;
            self.refetch(digest, &proof, due);
            let slot = proof.info.slot();
            self.outbox.record(Record::Proof { digest, proof });
            self.on_vouched(clock, digest, &slot);
        }
    }

    // ---- time ----------------------------------------------------------------------------------

    fn on_tick(&mut self, clock: &Clock) {
        self.enters(Component::ProofCoordinator);
        let (outbox, windows) = (&mut self.outbox, &mut self.windows);
        if self.ends.phase == Phase::Open {
            let grown = self.proofs.on_tick(outbox, clock, windows, &self.membership.committee);
            for (digest, proof) in grown {
                self.manager.on_proof(digest, proof, clock.now.monotonic, clock.consensus);
            }
        }
        self.optimism.on_time(clock.now.monotonic);
        self.tick_ends(clock.now.monotonic);
        self.commits.on_time(&mut self.outbox, &mut self.retention, clock.now.monotonic);
        self.tick_refetch(clock);
        self.tick_fetcher(clock);
        if clock.now.monotonic >= self.next_announcement {
            self.next_announcement = clock.now.monotonic + self.config.announce_interval;
            let message = Message::Announce(self.announcement());
            let to: Vec<Author> = self.windows.linked().collect();
            if !self.membership.former.is_empty() {
                // The word that the epoch has begun may have been lost.
                let message = Message::Serving(self.epoch());
                self.outbox.effect(Effect::Multicast { to: to.clone(), message });
            }
            self.outbox.effect(Effect::Multicast { to, message });
        }
    }

    /// Proofs whose time is over and whose batch is not here: nothing else would delete them.
    fn drop_unheld_proofs(&mut self) {
        for (expiration, digest) in self.manager.take_expired() {
            if self.retention.get(&digest).is_none() {
                self.outbox.record(Record::DropProof { digest, expiration });
            }
        }
    }

    /// The time of the step that is being taken.
    fn clock_now(&self) -> Clock {
        self.clock(Now { monotonic: self.stepped, wall: self.wall })
    }

    fn clock(&self, now: Now) -> Clock {
        Clock { now, consensus: self.commits.consensus_time() }
    }
}
