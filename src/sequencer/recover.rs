//! Recovery: the inverse of writing. Records in, a sequencer out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::absence::Absences;
use super::ballots::Ballots;
use super::batch_coordinator::{AdmissionLimits, BatchCoordinator};
use super::batch_generator::{BatchGenerator, Identity};
use super::commit_log::CommitLog;
use super::epoch::{Ends, Phase};
use super::fetcher::{Fetcher, Limits as FetchLimits};
use super::optimism::Optimism;
use super::outbox::{Clock, Outbox};
use super::payloads::{Content, Payloads};
use super::port::{BatchRecord, Now, Promise, Record};
use super::pressure::DiskLag;
use super::proof_coordinator::ProofCoordinator;
use super::proof_manager::{CREDIT_MAX, ProofManager};
use super::refetch::Refetch;
use super::retention::{Held, Retention};
use super::silence::Silence;
use super::sourcing::Sourcing;
use super::subscribers::Bounds;
use super::windows::Windows;
use super::{Released, Sequencer};
use crate::config::SequencerConfig;
use crate::store::{Recovered, StoredBatch};
use crate::tripwire::Tripwire;
use crate::types::{
    Author, BatchId, ChainParameters, Commit, CommitIndex, CommitReceipt, Committee, Digest, Epoch,
    EpochReceipt, Genesis, Incarnation, Membership, Payload, PayloadHeader, ProofOfStore, Slot,
    Timestamp, UnavailabilityProof,
};

/// What a sequencer is made of, beside what its store held.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This validator.
    pub author: Author,
    /// The chain.
    pub genesis: Genesis,
    /// The epoch to serve if the store has served none yet: its own record governs.
    pub epoch: Epoch,
    /// Its committee.
    pub committee: Committee,
    /// Settings; validated by the caller.
    pub config: SequencerConfig,
}

/// Records that contradict each other. The store is damaged, or not ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// A commit does not follow the one before.
    #[error("commit {0:?} on disk does not follow the one before it")]
    Gap(CommitIndex),
    /// A commit that no chain has: of genesis, at the end of the range, or of another height.
    #[error("commit {0:?} on disk cannot be")]
    Commit(CommitIndex),
    /// A jump of state sync that leads nowhere.
    #[error("commits skipped up to {0:?} on disk cannot be")]
    Skipped(CommitIndex),
    /// A receipt without its commit.
    #[error("the receipt of commit {0:?} on disk has no commit")]
    Receipt(CommitIndex),
    /// A claimed slot whose batch is not there.
    #[error("slot {0:?} on disk is claimed by a batch that is not there")]
    Claim(Slot),
    /// Two batches in one slot.
    #[error("slot {0:?} on disk is claimed by two batches")]
    Slot(Slot),
    /// Own counters reserved beyond what any store uses.
    #[error("own counters on disk are reserved up to {0}, which no store reaches")]
    Reserved(u64),
    /// A slot of our own that was never reserved: its counter would be used again.
    #[error("own slot {0:?} on disk lies beyond what is reserved; the reservation is lost")]
    Unreserved(Slot),
    /// The epoch is known with another committee.
    #[error("the store served epoch {} with another committee than the one configured", .0.0)]
    Committee(Epoch),
    /// Two records of one content.
    #[error("content {0:?} is on disk twice")]
    Twice(Digest),
}

/// Indices and own counters stay below this: half of the range leaves room to count on.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// What was said to be absent: in which commit, and for a batch its slot and expiration.
type Said = (CommitIndex, Digest, Option<(Slot, Timestamp)>);

/// Batches in the order of digests. A million of them are sorted in one piece, and not put into a
/// tree one by one.
#[derive(Default)]
struct Batches(Vec<BatchRecord>);

impl Batches {
    /// Called once, when all are there.
    fn sort(&mut self) -> Result<(), RecoverError> {
        self.0.sort_unstable_by_key(|batch| batch.digest);
        let twice = self.0.array_windows().find(|[one, next]| one.digest == next.digest);
        twice.map_or(Ok(()), |[batch, _]| Err(RecoverError::Twice(batch.digest)))
    }

    fn get_mut(&mut self, digest: &Digest) -> Option<&mut BatchRecord> {
        let at = self.0.binary_search_by_key(digest, |batch| batch.digest).ok()?;
        Some(&mut self.0[at])
    }

    fn iter(&self) -> std::slice::Iter<'_, BatchRecord> {
        self.0.iter()
    }
}

/// Records by kind.
#[derive(Default)]
struct Sorted {
    reserved: u64,
    floors: Vec<Slot>,
    batches: Batches,
    claims: Vec<(Digest, Slot)>,
    proofs: BTreeMap<Digest, Arc<ProofOfStore>>,
    payloads: Vec<(Digest, Arc<Payload>, Vec<Digest>, Timestamp)>,
    commits: Vec<Commit>,
    receipts: Vec<CommitReceipt>,
    /// With "it lagged".
    subscribers: Vec<(String, CommitIndex, bool)>,
    skipped: Option<(CommitIndex, PayloadHeader)>,
    epoch: Option<Arc<Membership>>,
    fence: Option<(Epoch, CommitIndex)>,
    closed: Option<EpochReceipt>,
    absent: Vec<Said>,
    passed: CommitIndex,
    rewritten: Vec<(CommitIndex, Arc<UnavailabilityProof>)>,
    silence: Option<Timestamp>,
}

impl Sorted {
    fn new(records: Vec<Record>) -> Result<Self, RecoverError> {
        let mut sorted = Self::default();
        for record in records {
            match record {
                Record::Batch(batch) => sorted.batches.0.push(batch),
                Record::Claim { digest, slot } => sorted.claims.push((digest, slot)),
                Record::Proof { digest, proof } => {
                    sorted.proofs.insert(digest, proof);
                }
                Record::Payload { digest, payload, batches, expiration } => {
                    sorted.payloads.push((digest, payload, batches, expiration));
                }
                Record::Commit(commit) => {
                    let reachable = 1..=NUMBER_MAX;
                    if !reachable.contains(&commit.index.0) || commit.header.height != commit.index
                    {
                        return Err(RecoverError::Commit(commit.index));
                    }
                    sorted.commits.push(commit);
                }
                Record::Applied(receipt) => sorted.receipts.push(receipt),
                Record::Reserved { until } if until > NUMBER_MAX => {
                    return Err(RecoverError::Reserved(until));
                }
                Record::Cursor { subscriber, next } => {
                    sorted.subscribers.push((subscriber, next, false));
                }
                Record::Lagged { subscriber, next } => {
                    sorted.subscribers.push((subscriber, next, true));
                }
                Record::Skipped { from, header } => {
                    if from.0 == 0 || from > header.height || header.height.0 > NUMBER_MAX {
                        return Err(RecoverError::Skipped(header.height));
                    }
                    sorted.skipped = Some((from, header));
                }
                Record::Absent { index, digest, slot } => {
                    sorted.absent.push((index, digest, slot));
                }
                Record::Passed { below } => sorted.passed = below,
                Record::Rewritten { by, proof } => {
                    if by.0 > NUMBER_MAX || proof.index >= by {
                        return Err(RecoverError::Commit(by));
                    }
                    sorted.rewritten.push((by, proof));
                }
                Record::Silence { until } => sorted.silence = until,
                Record::Reserved { until } => sorted.reserved = sorted.reserved.max(until),
                Record::Floor { slot } => sorted.floors.push(slot),
                Record::Epoch(membership) => sorted.epoch = Some(membership),
                Record::Fence { epoch, final_index } => {
                    if final_index.0 > NUMBER_MAX {
                        return Err(RecoverError::Commit(final_index));
                    }
                    sorted.fence = Some((epoch, final_index));
                }
                Record::Closed(receipt) => {
                    if receipt.final_index.0 > NUMBER_MAX {
                        return Err(RecoverError::Commit(receipt.final_index));
                    }
                    sorted.closed = Some(receipt);
                }
                // Already carried out by the store.
                Record::DropFloors { .. }
                | Record::Settled { .. }
                | Record::Unsubscribed { .. }
                | Record::DropBatch { .. }
                | Record::DropPayload { .. }
                | Record::DropAbsent { .. }
                | Record::DropRewritten { .. }
                | Record::DropProof { .. }
                | Record::DropCommits { .. } => {}
            }
        }
        sorted.batches.sort()?;
        sorted.commits.sort_unstable_by_key(|commit| commit.index);
        sorted.receipts.sort_unstable_by_key(|receipt| receipt.index);
        Ok(sorted)
    }

    /// Every counter of ours that was used lies below what is reserved.
    fn check_own_slots(&self, me: &Author, own: Incarnation) -> Result<(), RecoverError> {
        let slots = self.batches.iter().map(|batch| batch.info.slot());
        let mut used = slots.chain(self.floors.iter().copied());
        let beyond = used.find(|slot| {
            let BatchId { incarnation, counter } = slot.batch_id;
            slot.author == *me && incarnation == own && counter >= self.reserved
        });
        beyond.map_or(Ok(()), |slot| Err(RecoverError::Unreserved(slot)))
    }
}

fn limits_of_fetches(config: &SequencerConfig, parameters: &ChainParameters) -> FetchLimits {
    FetchLimits {
        try_timeout: config.fetch_try_timeout,
        wants_max: config.fetches_max,
        bytes_in_flight_max: config.fetch_bytes_in_flight_max.as_u64(),
        asks_per_peer_max: config.fetch_asks_per_peer_max,
        unknown_bytes: u64::from(parameters.batch_bytes_max.max(parameters.payload_bytes_max)),
    }
}

impl Sequencer {
    /// Rebuilds the sequencer from what its store held. Counters of the last life are skipped,
    /// batches without a proof are collected again, our own signatures for them are given again.
    pub fn recover(setup: Setup, recovered: Recovered, now: Now) -> Result<Self, RecoverError> {
        let mut sorted = Sorted::new(recovered.records)?;
        let reserved = sorted.reserved;
        sorted.check_own_slots(&setup.author, recovered.incarnation)?;
        let configured = Membership {
            epoch: setup.epoch,
            committee: setup.committee.clone(),
            former: Vec::new(),
        };
        let recorded = sorted.epoch.take();
        let is_new = recorded.is_none();
        let membership = match recorded {
            Some(known) if known.epoch == configured.epoch => {
                if known.committee != configured.committee {
                    return Err(RecoverError::Committee(known.epoch));
                }
                known
            }
            Some(known) => known,
            None => Arc::new(configured),
        };
        let incarnation = recovered.incarnation;
        let mut sequencer = Self::empty(setup, Arc::clone(&membership), incarnation, reserved, now);
        if is_new {
            // What the store serves is on record from its first group on.
            sequencer.outbox.record(Record::Epoch(membership));
        }
        sequencer.recover_absences(&mut sorted);
        sequencer.recover_epoch(&mut sorted);
        sequencer.recover_commits(now, &mut sorted)?;
        sequencer.recover_batches(&mut sorted)?;
        sequencer.recover_payloads(&mut sorted)?;
        sequencer.recover_deletions(now);
        sequencer.recover_proofs(now, &sorted);
        sequencer.refetch_recovered();
        sequencer.look_at_logged(now, CommitIndex(0));
        sequencer.generator.reserve_ids(&mut sequencer.outbox);
        sequencer.apply_commits(now);
        Ok(sequencer)
    }

    fn empty(
        setup: Setup,
        membership: Arc<Membership>,
        incarnation: Incarnation,
        reserved: u64,
        now: Now,
    ) -> Self {
        let Setup { author, genesis, config, .. } = setup;
        let Membership { epoch, committee, former } = &*membership;
        let epoch = *epoch;
        let lifetime = genesis.parameters.batch_lifetime() + genesis.parameters.clock_allowance();
        let times = (lifetime, genesis.parameters.grace());
        let mut windows = Windows::new(author, epoch, committee, times);
        windows.on_epoch(epoch, committee, former.iter().map(|former| &former.committee));
        let parameters = genesis.parameters;
        let chain = genesis.chain_id();
        let limits = AdmissionLimits {
            window: config.window(),
            batch_lifetime: parameters.batch_lifetime(),
            clock_allowance: parameters.clock_allowance(),
        };
        let life = now.wall;
        let identity = Identity { author, chain, epoch, incarnation, life };
        // Longer than any own batch they ordered: the store tells ordered batches from open ones by
        // the commits it keeps.
        let kept = 2 * (parameters.batch_lifetime() + parameters.grace());
        let bounds = Bounds {
            window: config.subscriber_window,
            lag_bytes_max: config.subscriber_lag_bytes_max.as_u64(),
            lag_max: config.subscriber_lag_max,
        };
        Self {
            generator: BatchGenerator::new(&identity, parameters, config.clone(), reserved),
            coordinator: BatchCoordinator::new(epoch, committee, limits),
            proofs: ProofCoordinator::new(config.resend_interval),
            manager: ProofManager::new(CREDIT_MAX),
            windows,
            payloads: Payloads::new(config.unasked_payloads_max),
            commits: CommitLog::new(chain, &genesis.header(), kept, bounds),
            retention: Retention::new(parameters.grace()),
            fetcher: Fetcher::new(limits_of_fetches(&config, &parameters)),
            refetch: Refetch::new(config.refetch_bytes_per_second.as_u64()),
            absences: Absences::default(),
            ballots: Ballots::default(),
            optimism: Optimism::new(config.optimistic, config.optimistic_blame),
            silence: Silence::default(),
            sourcing: Sourcing::default(),
            outbox: Outbox { group: 1, ..Outbox::default() },
            disk_lag: DiskLag::default(),
            commit_time: Duration::ZERO,
            next_announcement: Duration::ZERO,
            released: Released::default(),
            stepped: now.monotonic,
            wall: now.wall,
            tripwire: Tripwire::default(),
            input: "recovery",
            author,
            chain,
            membership,
            ends: Ends::new(),
            parameters,
            config,
        }
    }

    /// What was said to be absent, what was passed, committed evidence, and whether anything may be
    /// signed.
    fn recover_absences(&mut self, sorted: &mut Sorted) {
        for (index, digest, slot) in std::mem::take(&mut sorted.absent) {
            self.absences.on_recovered(index, digest, slot);
        }
        for (by, proof) in std::mem::take(&mut sorted.rewritten) {
            self.commits.rewrites.on_recovered(by, proof);
        }
        self.commits.subscribers.on_recovered_passed(sorted.passed);
        self.silence.on_recovered(sorted.silence);
        self.coordinator.silent = sorted.silence.is_some();
        self.absences.replaced = sorted.silence.is_some();
    }

    /// Where the epoch stood. A fence is before, a receipt after the end of the epoch it names.
    fn recover_epoch(&mut self, sorted: &mut Sorted) {
        let epoch = self.epoch();
        if let Some((_, final_index)) = sorted.fence.filter(|(fenced, _)| *fenced == epoch) {
            self.ends.phase = Phase::Closing { final_index };
            self.coordinator.on_fence();
        }
        self.ends.receipt = sorted.closed.take();
        if self.ends.receipt.as_ref().is_some_and(|receipt| receipt.epoch == epoch) {
            self.ends.phase = Phase::Closed;
            self.coordinator.on_fence();
        }
    }

    fn recover_commits(&mut self, now: Now, sorted: &mut Sorted) -> Result<(), RecoverError> {
        for (name, next, lagged) in std::mem::take(&mut sorted.subscribers) {
            self.commits.subscribers.on_recovered(now.monotonic, name, next, lagged);
        }
        let lowest = self.commits.subscribers.lowest();
        if let Some(lowest) = lowest {
            self.commits.subscribers.pass(lowest);
        }
        self.retention.on_lowest(lowest);
        if let Some((from, header)) = &sorted.skipped {
            self.commits.on_recovered_skip(*from, header);
        }
        for commit in &sorted.commits {
            if !self.commits.on_recovered(now.monotonic, *commit) {
                return Err(RecoverError::Gap(commit.index));
            }
        }
        for receipt in &sorted.receipts {
            if !self.commits.on_recovered_receipt(*receipt) {
                return Err(RecoverError::Receipt(receipt.index));
            }
        }
        // Also where the payload is not here: it may still arrive.
        for commit in &sorted.commits {
            let digest = commit.header.digest(&self.chain);
            self.retention.on_ordered(digest, None, commit.index);
        }
        Ok(())
    }

    /// What was announced as released stays released: whatever was over when the last commit was
    /// applied goes, or, pinned, counts no more.
    fn recover_deletions(&mut self, now: Now) {
        let clock = Clock { now, consensus: self.commits.applied_time() };
        while self.retention.is_due(&clock) {
            let overdue = self.retention.collect(&mut self.outbox, &clock);
            self.coordinator.on_overdue(&mut self.outbox, &overdue);
        }
        self.released.durable = self.retention.released(self.commits.consensus_time());
    }

    fn recover_batches(&mut self, sorted: &mut Sorted) -> Result<(), RecoverError> {
        for slot in &sorted.floors {
            self.coordinator.on_recovered_floor(*slot);
        }
        for (digest, slot) in &sorted.claims {
            match sorted.batches.get_mut(digest) {
                Some(batch) => batch.claims_slot = true,
                None => return Err(RecoverError::Claim(*slot)),
            }
        }
        let held = sorted.batches.iter().map(|batch| {
            (batch.digest, Held::Batch { info: batch.info, in_slot: batch.claims_slot })
        });
        self.retention.on_recovered(held);
        let claims = sorted.batches.iter().filter(|batch| batch.claims_slot);
        let claims = claims.map(|batch| (&batch.digest, &batch.info));
        self.coordinator.on_recovered_claims(claims).map_err(RecoverError::Slot)?;
        let enabled = self.optimism.is_enabled();
        for BatchRecord { digest, info, claims_slot, .. } in sorted.batches.iter() {
            if enabled && *claims_slot && info.epoch == self.epoch() {
                let (now, consensus) = (self.stepped, self.commits.consensus_time());
                self.manager.on_batch(*digest, info, now, consensus);
            }
            if info.author == self.author {
                self.windows.on_recovered_batch(*digest, info);
                self.generator.on_recovered_own(info);
            }
        }
        Ok(())
    }

    fn recover_payloads(&mut self, sorted: &mut Sorted) -> Result<(), RecoverError> {
        let applied = self.commits.applied().0;
        let by_index: BTreeMap<_, _> = sorted
            .commits
            .iter()
            .map(|commit| (commit.header.digest(&self.chain), commit.index))
            .collect();
        let mut bytes: BTreeMap<CommitIndex, u64> = BTreeMap::new();
        self.payloads.on_applied(applied);
        for (digest, payload, batches, expiration) in std::mem::take(&mut sorted.payloads) {
            if self.retention.get(&digest).is_some() {
                return Err(RecoverError::Twice(digest));
            }
            self.retention.insert(digest, Held::Payload { expiration }, 0);
            let index = by_index.get(&digest);
            if let Some(index) = index {
                // Whatever the cursors say now: a subscriber may attach below them.
                self.retention.on_ordered(digest, None, *index);
            }
            if let Some(index) = index
                && *index <= applied
            {
                let infos = payload.content.batches().copied();
                let ordered: Vec<_> = batches.iter().copied().zip(infos).collect();
                bytes.insert(*index, ordered.iter().map(|(_, info)| info.charge()).sum());
                let outside = payload.content.outside();
                for (batch, info) in ordered.iter().take(outside) {
                    self.retention.on_ordered(*batch, Some(*info), *index);
                }
                self.settle_ordered(&ordered, outside);
            }
            let height = payload.header.height;
            let optimistic = !payload.content.optimistic.is_empty();
            let content = Content { payload, batches: batches.clone() };
            if self.payloads.on_stored(digest, content) {
                self.manager.on_payload(digest, &batches);
                if optimistic {
                    self.optimism.on_payload(height, digest);
                }
            }
        }
        for (index, bytes) in bytes {
            self.commits.on_recovered_bytes(index, bytes);
        }
        Ok(())
    }

    fn recover_proofs(&mut self, now: Now, sorted: &Sorted) {
        let clock: Clock = self.clock(now);
        let is_over = self.ends.phase == Phase::Closed;
        for (digest, proof) in &sorted.proofs {
            let is_queued = proof.info.epoch == self.epoch()
                && !is_over
                && self.manager.on_proof(
                    *digest,
                    Arc::clone(proof),
                    clock.now.monotonic,
                    clock.consensus,
                );
            let ordered = self.manager.is_ordered(digest);
            if !is_queued && !ordered && self.retention.get(digest).is_none() {
                let expiration = proof.info.expiration;
                self.outbox.record(Record::DropProof { digest: *digest, expiration });
            }
        }
        // The store leaves out those that a block ordered in time.
        let mut own: Vec<_> = sorted.batches.iter().filter(|b| b.own.is_some()).collect();
        own.sort_unstable_by_key(|batch| batch.info.batch_id);
        for batch in own {
            let BatchRecord { digest, info, body, own: Some(metas), .. } = batch else { continue };
            let (metas, body) = (Arc::clone(metas), body.clone());
            let expired = info.expiration < self.commits.applied_time();
            if info.epoch < self.epoch() || is_over || expired {
                // It was to be offered again, or was being, when the last life ended.
                let outbox = &mut self.outbox;
                let generator = &mut self.generator;
                generator.on_recovered_unordered(outbox, &clock, *digest, *info, metas, body);
                continue;
            }
            if info.epoch > self.epoch() {
                continue;
            }
            self.generator.on_recovered(*digest, *info, metas, body);
            if info.expiration < clock.consensus {
                // A commit that waits for its payload may still order it.
                continue;
            }
            let proof = sorted.proofs.get(digest).cloned();
            let may_sign = self.ends.phase == Phase::Open && !self.coordinator.silent;
            if proof.is_none() && may_sign {
                let (author, epoch) = (self.author, info.epoch);
                let stored = StoredBatch { digest: *digest, author, epoch };
                self.outbox.promise(Promise::Sign(stored));
            }
            let committee = &self.membership.committee;
            self.proofs.on_recovered(&clock, committee, *digest, *info, proof);
        }
        self.record_settled();
    }
}
