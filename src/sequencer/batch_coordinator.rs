//! `BatchCoordinator`: which batches of which author are admitted, signed for, and counted.
//!
//! Invariants: at most one digest per slot is ever signed, also after a restart; a promise to sign
//! always joins a group at or after the one that holds the content; what an author has stored here
//! never exceeds its window; no counter at or below a floor is admitted again.
//!
//! A slot is claimed only by a batch from its author's own link, by a proof, or by our own batch. When a batch goes, its
//! slot record goes with it and the floor of (author, incarnation) rises to its counter, so memory
//! is bounded by expiry and not by history.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::outbox::{Clock, Outbox};
use super::port::{BatchRecord, Promise, Record, Refusal, TransactionMeta};
use super::retention::{Held, Overdue, Retention};
use crate::store::StoredBatch;
use crate::types::{
    Author, Batch, BatchId, BatchInfo, Committee, Digest, Epoch, Incarnation, Slot, Timestamp,
    Usage,
};

/// Most incarnations of one author in one epoch: a store is not lost more often than that.
pub(super) const INCARNATIONS_MAX: usize = 8;

/// One claimed slot.
#[derive(Clone, Copy, Debug)]
struct Claim {
    digest: Digest,
    expiration: Timestamp,
}

/// What is known of one author.
#[derive(Debug, Default)]
struct AuthorState {
    slots: BTreeMap<BatchId, Claim>,
    /// Highest counter dropped, per incarnation; `None` until one was.
    incarnations: BTreeMap<Incarnation, Option<u64>>,
}

/// Limits of admission.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdmissionLimits {
    pub window: Usage,
    pub batch_lifetime: Duration,
    pub clock_allowance: Duration,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct BatchCoordinator {
    epoch: Epoch,
    limits: AdmissionLimits,
    authors: BTreeMap<Author, AuthorState>,
    /// What is stored of each author, of all epochs: windows do not begin anew with an epoch.
    stored: BTreeMap<Author, Usage>,
    /// True once the epoch is being closed: nothing more is admitted or signed for it.
    fenced: bool,
    /// False while the disk is nearly full.
    pub admits: bool,
    /// True while a store that replaces a lost one may not sign.
    pub silent: bool,
    /// New batches may be ordered without a proof: they are signed for then, not at once.
    pub defer_until: Option<Duration>,
    /// Batches that are not signed for yet, by when they are.
    deferred: VecDeque<(Duration, Digest, BatchInfo)>,
}

impl BatchCoordinator {
    pub fn new(epoch: Epoch, committee: &Committee, limits: AdmissionLimits) -> Self {
        let members = committee.members().iter();
        let authors = members.map(|member| (member.author, AuthorState::default())).collect();
        let stored = BTreeMap::new();
        Self {
            epoch,
            limits,
            authors,
            stored,
            fenced: false,
            admits: true,
            silent: false,
            defer_until: None,
            deferred: VecDeque::new(),
        }
    }

    /// The epoch is being closed.
    pub fn on_fence(&mut self) {
        self.fenced = true;
    }

    /// The epoch is over: its slots end. Returns how many there were.
    pub fn on_close(&self) -> u64 {
        self.authors.values().map(|author| author.slots.len() as u64).sum()
    }

    /// The next epoch begins. What is stored of each author goes on to count.
    pub fn on_epoch(&mut self, outbox: &mut Outbox, epoch: Epoch, committee: &Committee) {
        let floors = |(author, state): (&Author, &AuthorState)| -> Vec<(Author, Incarnation)> {
            let raised = state.incarnations.iter().filter(|(_, floor)| floor.is_some());
            raised.map(|(incarnation, _)| (*author, *incarnation)).collect()
        };
        let floors: Vec<_> = self.authors.iter().flat_map(floors).collect();
        if !floors.is_empty() {
            outbox.record(Record::DropFloors { epoch: self.epoch, floors });
        }
        let next = Self::new(epoch, committee, self.limits);
        let stored = std::mem::take(&mut self.stored);
        *self = Self { stored, admits: self.admits, ..next };
    }

    /// Slots that an earlier life claimed, all of them. Fails with one that two batches claimed.
    ///
    /// They come in no order of theirs: each author's are sorted before its tree is made, because a
    /// million of them put in one by one are a million walks through cold memory.
    pub fn on_recovered_claims<'a>(
        &mut self,
        claims: impl Iterator<Item = (&'a Digest, &'a BatchInfo)>,
    ) -> Result<(), Slot> {
        let mut slots: BTreeMap<Author, Vec<(BatchId, Claim)>> = BTreeMap::new();
        for (digest, info) in claims {
            self.stored.entry(info.author).or_default().add(info.charge());
            if info.epoch == self.epoch {
                let claim = Claim { digest: *digest, expiration: info.expiration };
                slots.entry(info.author).or_default().push((info.batch_id, claim));
            }
        }
        for (author, mut claims) in slots {
            let Some(state) = self.authors.get_mut(&author) else { continue };
            claims.sort_unstable_by_key(|(batch_id, _)| *batch_id);
            let twice = claims.array_windows().find(|[(one, _), (next, _)]| one == next);
            if let Some([(batch_id, _), _]) = twice {
                return Err(Slot { epoch: self.epoch, author, batch_id: *batch_id });
            }
            for batches in claims.chunk_by(|(a, _), (b, _)| a.incarnation == b.incarnation) {
                state.incarnations.entry(batches[0].0.incarnation).or_default();
            }
            state.slots = claims.into_iter().collect();
        }
        Ok(())
    }

    /// A floor that an earlier life raised.
    pub fn on_recovered_floor(&mut self, slot: Slot) {
        if slot.epoch != self.epoch {
            return;
        }
        let Some(author) = self.authors.get_mut(&slot.author) else { return };
        let floor = author.incarnations.entry(slot.batch_id.incarnation).or_default();
        *floor = (*floor).max(Some(slot.batch_id.counter));
    }

    /// A batch of ours: stored and signed like any other, without being refused.
    pub fn on_own_batch(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        digest: Digest,
        batch: &Batch,
        metas: Arc<[TransactionMeta]>,
    ) {
        self.store(outbox, retention, digest, batch, Some(metas));
    }

    /// A batch over a link. Returns true if it is stored because of it.
    pub fn on_batch(
        &mut self,
        outbox: &mut Outbox,
        clock: &Clock,
        retention: &mut Retention,
        from: Author,
        digest: Digest,
        batch: &Batch,
    ) -> Result<bool, Refusal> {
        let info = &batch.info;
        self.check_origin(from, info)?;
        self.check_expiration(clock, info)?;
        if let Some(claim) = self.claim_of(info) {
            if claim.digest != digest {
                return Err(Refusal::Equivocation);
            }
            // Sent again: our signature got lost. If its group is still on its way, the signature
            // that waits there is the answer.
            if retention.is_durable(&digest) {
                self.sign(outbox, digest, info);
            }
            return Ok(false);
        }
        if !self.admits {
            return Err(Refusal::DiskNearlyFull);
        }
        self.check_slot(info)?;
        match retention.get(&digest) {
            None => self.store(outbox, retention, digest, batch, None),
            Some(_) => self.claim_stored(outbox, retention, digest, info),
        }
        Ok(true)
    }

    /// A batch that was fetched before has a proof: a quorum says that its slot holds it.
    pub fn on_proven(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        digest: Digest,
        info: &BatchInfo,
    ) {
        let admissible = self.admits && self.check_origin(info.author, info).is_ok();
        if admissible && self.check_slot(info).is_ok() {
            self.claim_stored(outbox, retention, digest, info);
        }
    }

    fn check_origin(&self, from: Author, info: &BatchInfo) -> Result<(), Refusal> {
        if from != info.author {
            return Err(Refusal::NotFromAuthor);
        }
        if info.epoch > self.epoch {
            return Err(Refusal::NotYet);
        }
        if info.epoch < self.epoch || self.fenced {
            return Err(Refusal::EpochOver);
        }
        if self.authors.contains_key(&info.author) { Ok(()) } else { Err(Refusal::NotAMember) }
    }

    /// Bounded both ways: content that never expires would pin its window for ever.
    fn check_expiration(&self, clock: &Clock, info: &BatchInfo) -> Result<(), Refusal> {
        if info.expiration <= clock.consensus {
            return Err(Refusal::Expired);
        }
        let latest = clock.latest().saturating_add(self.limits.batch_lifetime);
        if info.expiration > latest.saturating_add(self.limits.clock_allowance) {
            return Err(Refusal::ExpiresTooLate);
        }
        Ok(())
    }

    /// What only a batch in a new slot must satisfy.
    fn check_slot(&self, info: &BatchInfo) -> Result<(), Refusal> {
        let Some(author) = self.authors.get(&info.author) else {
            return Err(Refusal::NotAMember);
        };
        let id = info.batch_id;
        match author.incarnations.get(&id.incarnation) {
            Some(Some(floor)) if id.counter <= *floor => return Err(Refusal::BelowFloor),
            None if author.incarnations.len() >= INCARNATIONS_MAX => {
                return Err(Refusal::TooManyIncarnations);
            }
            _ => {}
        }
        let same = |other: &BatchId| other.incarnation == id.incarnation;
        let before = author.slots.range(..id).next_back().filter(|(other, _)| same(other));
        let after = author.slots.range(id..).next().filter(|(other, _)| same(other));
        if before.is_some_and(|(_, claim)| claim.expiration > info.expiration)
            || after.is_some_and(|(_, claim)| claim.expiration < info.expiration)
        {
            return Err(Refusal::ExpirationOrder);
        }
        if !self.stored(&info.author).has_room(info.charge(), &self.limits.window) {
            return Err(Refusal::WindowSpent);
        }
        Ok(())
    }

    /// Content, slot and signature in one group.
    fn store(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        digest: Digest,
        batch: &Batch,
        own: Option<Arc<[TransactionMeta]>>,
    ) {
        let info = batch.info;
        let body = batch.body.bytes().clone();
        let record = BatchRecord { digest, info, body, claims_slot: true, own };
        outbox.record(Record::Batch(record));
        retention.insert(digest, Held::Batch { info, in_slot: true }, outbox.group);
        self.occupy(digest, &info);
        self.sign_new(outbox, digest, &info);
    }

    fn sign_new(&mut self, outbox: &mut Outbox, digest: Digest, info: &BatchInfo) {
        match self.defer_until {
            Some(due) => self.deferred.push_back((due, digest, *info)),
            None => self.sign(outbox, digest, info),
        }
    }

    /// When the next one is signed for that was not at once.
    pub fn next_signature(&self) -> Option<Duration> {
        self.deferred.front().map(|(due, _, _)| *due)
    }

    /// Signs for what is due, unless it has been ordered meanwhile.
    pub fn sign_deferred(
        &mut self,
        outbox: &mut Outbox,
        now: Duration,
        ordered: impl Fn(&Digest) -> bool,
    ) {
        while let Some((_, digest, info)) = self.deferred.pop_front_if(|(due, _, _)| *due <= now) {
            let held = self.claim_of(&info).is_some_and(|claim| claim.digest == digest);
            if held && !self.fenced && !ordered(&digest) {
                self.sign(outbox, digest, &info);
            }
        }
    }

    /// The signature joins the group that holds, or follows, the content.
    fn sign(&self, outbox: &mut Outbox, digest: Digest, info: &BatchInfo) {
        if !self.silent {
            let BatchInfo { author, epoch, .. } = *info;
            outbox.promise(Promise::Sign(StoredBatch { digest, author, epoch }));
        }
    }

    /// Content that was fetched before now arrives from its author: only the slot is new.
    fn claim_stored(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        digest: Digest,
        info: &BatchInfo,
    ) {
        outbox.record(Record::Claim { digest, slot: info.slot() });
        retention.claim(&digest);
        self.occupy(digest, info);
        self.sign_new(outbox, digest, info);
    }

    fn occupy(&mut self, digest: Digest, info: &BatchInfo) {
        let author = self.authors.entry(info.author).or_default();
        author.incarnations.entry(info.batch_id.incarnation).or_default();
        let claim = Claim { digest, expiration: info.expiration };
        let known = author.slots.insert(info.batch_id, claim);
        assert!(known.is_none(), "slot {:?} is claimed twice", info.slot());
        self.stored.entry(info.author).or_default().add(info.charge());
    }

    /// What the slot of this batch holds.
    pub fn holder(&self, info: &BatchInfo) -> Option<&Digest> {
        let claim = self.claim_of(info).filter(|_| info.epoch == self.epoch)?;
        Some(&claim.digest)
    }

    fn claim_of(&self, info: &BatchInfo) -> Option<&Claim> {
        self.authors.get(&info.author)?.slots.get(&info.batch_id)
    }

    /// Batches whose time is over: windows are freed, slots end, floors rise. Returns how many were
    /// deleted.
    pub fn on_overdue(&mut self, outbox: &mut Outbox, overdue: &[Overdue]) -> u64 {
        let mut floors: BTreeMap<(Author, Incarnation), u64> = BTreeMap::new();
        for Overdue { digest, info, in_slot, frees_window, deleted } in overdue {
            if *frees_window && let Some(stored) = self.stored.get_mut(&info.author) {
                stored.remove(info.charge());
            }
            if info.epoch != self.epoch || !in_slot || !deleted {
                continue;
            }
            let Some(author) = self.authors.get_mut(&info.author) else { continue };
            let claim = author.slots.remove(&info.batch_id);
            assert!(
                claim.is_some_and(|claim| claim.digest == *digest),
                "slot {:?} was not claimed by {digest:?}, which went",
                info.slot()
            );
            let BatchId { incarnation, counter } = info.batch_id;
            let floor = author.incarnations.entry(incarnation).or_default();
            if floor.is_none_or(|floor| floor < counter) {
                *floor = Some(counter);
                floors.insert((info.author, incarnation), counter);
            }
        }
        for ((author, incarnation), counter) in floors {
            let batch_id = BatchId { incarnation, counter };
            outbox.record(Record::Floor { slot: Slot { epoch: self.epoch, author, batch_id } });
        }
        overdue.iter().filter(|overdue| overdue.deleted).count() as u64
    }

    /// What is stored of an author.
    pub fn stored(&self, author: &Author) -> Usage {
        self.stored.get(author).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
