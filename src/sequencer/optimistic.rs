//! Batches without a proof on their way through the core: proposed, voted for, ordered.
//!
//! **The voter's rule.** A payload may be voted for once every optimistic batch that it names sits
//! here in the slot that its author sent it in, or that a proof gave it: the answer is a promise of
//! the open group, so content and slot are durable before it leaves, and a finalised block is
//! itself a quorum of durable copies. A slot that holds another batch is a refusal;
//! anything that is missing keeps the answer pending, and is asked for: first of its author, whose
//! answer, over its own link, claims the slot.
//!
//! What was fetched from others does not claim one, or a faulty proposer could fill the slots of
//! others with what they never said. A store that replaces a lost one does not know what its slots
//! held: until its silence ends it votes for no payload with optimistic batches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Sequencer;
use super::epoch::Phase;
use super::outbox::Clock;
use super::payloads::Content;
use super::port::{Effect, Measurement};
use crate::types::{Author, Batch, BatchInfo, CommitIndex, Digest, InvalidPayload, Slot};

/// Whose batch has no proof is to blame for that only after this long.
const UNPROVEN_MIN: Duration = Duration::from_millis(500);
/// How far own batches are looked through for some that travel in a payload.
const INLINE_LOOKED_AT: usize = 64;

/// Whether a payload's optimistic batches are where they should be.
pub(super) enum Readiness {
    Ready,
    Refused(InvalidPayload),
    /// What each slot is to hold. Empty while nothing may be said about slots.
    Missing(BTreeMap<Slot, Digest>),
}

impl Content {
    /// Its optimistic batches with their digests.
    pub(super) fn optimistic(&self) -> impl Iterator<Item = (&BatchInfo, &Digest)> {
        let content = &self.payload.content;
        content.optimistic.iter().zip(self.batches.iter().skip(content.proofs.len()))
    }
}

impl Sequencer {
    // ---- voting --------------------------------------------------------------------------------

    /// What is here and has a proof takes its slot, where that is free and may be taken.
    pub(super) fn claim_vouched(&mut self, content: &Content) {
        for (info, digest) in content.optimistic() {
            let free = self.coordinator.holder(info).is_none();
            if free && self.is_vouched(digest) && !self.absences.refuses(&info.slot()) {
                let (outbox, retention) = (&mut self.outbox, &mut self.retention);
                self.coordinator.on_proven(outbox, retention, *digest, info);
            }
        }
    }

    pub(super) fn readiness(&self, content: &Content) -> Readiness {
        let mut missing = BTreeMap::new();
        for (info, digest) in content.optimistic() {
            match self.coordinator.holder(info) {
                Some(held) if held == digest => {}
                Some(_) => return Readiness::Refused(InvalidPayload::SlotTaken(*digest)),
                None => drop(missing.insert(info.slot(), *digest)),
            }
        }
        let blind = self.coordinator.silent && !content.payload.content.optimistic.is_empty();
        if missing.is_empty() && !blind { Readiness::Ready } else { Readiness::Missing(missing) }
    }

    /// True if it is here, and a quorum says that its slot holds it.
    fn is_vouched(&self, digest: &Digest) -> bool {
        self.manager.is_proven(digest) && self.retention.get(digest).is_some()
    }

    /// A question waits for optimistic batches.
    pub(super) fn await_batches(&mut self, digest: Digest, missing: BTreeMap<Slot, Digest>) {
        self.ballots.wait(digest, missing, self.stepped);
    }

    /// What a payload waits for is asked for, its author first, then whoever should have the
    /// payload, unless it arrives by itself.
    pub(super) fn ask_for_awaited(&mut self, digest: &Digest, responders: &[Author]) {
        let missing = self.ballots.missing(digest);
        let stored = self.payloads.stored(digest).and_then(|stored| stored.content.as_ref());
        let Some(content) = stored.filter(|_| !missing.is_empty()) else { return };
        let wanted = content.optimistic().filter(|(_, batch)| missing.contains(batch));
        let wanted: Vec<_> = wanted.map(|(info, batch)| (*batch, *info)).collect();
        let due = self.stepped + self.config.payload_patience;
        for (batch, info) in wanted {
            if self.retention.get(&batch).is_none() {
                let holders: Vec<Author> =
                    [info.author].iter().chain(responders).copied().collect();
                self.fetcher.on_need(batch, Some(info), &holders, due);
            }
        }
    }

    /// A batch came to sit in its author's slot.
    pub(super) fn on_slot(&mut self, clock: &Clock, digest: Digest, info: &BatchInfo) {
        if self.optimism.is_enabled() && info.epoch == self.epoch() {
            self.manager.on_batch(digest, info, clock.now.monotonic, clock.consensus);
        }
        self.settle_ballots(clock, digest, &info.slot());
    }

    /// A proof or a content arrived: with the other, it is as good as in its slot.
    pub(super) fn on_vouched(&mut self, clock: &Clock, digest: Digest, slot: &Slot) {
        if self.ballots.awaits(slot) && self.is_vouched(&digest) {
            self.settle_ballots(clock, digest, slot);
        }
    }

    fn settle_ballots(&mut self, clock: &Clock, digest: Digest, slot: &Slot) {
        for payload in self.ballots.on_slot(slot, &digest) {
            self.decide_again(clock, payload);
        }
    }

    fn decide_again(&mut self, clock: &Clock, payload: Digest) {
        let since = self.ballots.forget(&payload);
        for (id, parent) in self.payloads.take_waiting(&payload) {
            if !self.decide(id, payload, parent) {
                self.payloads.wait(payload, id, parent);
            }
        }
        let waits = !self.ballots.missing(&payload).is_empty();
        if let Some(since) = since.filter(|_| !waits) {
            let waited = clock.now.monotonic.saturating_sub(since);
            self.outbox.effect(Effect::Measured(Measurement::OptimisticWait(waited)));
        }
    }

    /// What held answers back for another reason than a batch may be over.
    pub(super) fn decide_all_again(&mut self, clock: &Clock) {
        for payload in self.payloads.waited_for() {
            self.decide_again(clock, payload);
        }
    }

    /// Nobody waits for an answer any more: what only it needed is not fetched.
    pub(super) fn withdraw_ballot(&mut self, payload: &Digest) {
        for batch in self.ballots.missing(payload) {
            if !self.manager.is_proven(&batch) && !self.retention.is_missing(&batch) {
                self.fetcher.on_needless(&batch);
            }
        }
        self.ballots.forget(payload);
    }

    /// A batch that was asked of its author, because a vote waits for it, and that came over its
    /// author's link: it is admitted like one that was sent unasked.
    pub(super) fn claims_slot(&self, from: Author, digest: &Digest, batch: &Batch) -> bool {
        from == batch.info.author
            && self.ballots.awaits(&batch.info.slot())
            && self.fetcher.was_asked(&from, digest)
    }

    // ---- signing -------------------------------------------------------------------------------

    /// What is ordered without a proof needs no signatures: while all is well, new batches are
    /// signed for only once they have waited for a while.
    pub(super) fn sign_deferred(&mut self, now: Duration) {
        let (outbox, manager) = (&mut self.outbox, &self.manager);
        self.coordinator.sign_deferred(outbox, now, |digest| manager.is_ordered(digest));
        let delay = self.config.optimistic_signing_delay;
        let defers = !delay.is_zero() && self.may_be_optimistic(self.commits.applied().0.next());
        self.coordinator.defer_until = defers.then(|| now + delay);
    }

    // ---- proposing -----------------------------------------------------------------------------

    /// Batches that are old enough may be proposed without a proof.
    pub(super) fn ripen(&mut self, now: Duration) {
        if self.optimism.is_enabled() {
            self.manager.ripen(now.saturating_sub(self.config.optimistic_age_min));
        }
    }

    /// When the next one is old enough.
    pub(super) fn next_ripe(&self) -> Option<Duration> {
        let enabled = self.optimism.is_enabled();
        self.manager.next_unripe().filter(|_| enabled).map(|at| at + self.config.optimistic_age_min)
    }

    /// True if a block at this height may have batches without a proof.
    pub(super) fn may_be_optimistic(&self, height: CommitIndex) -> bool {
        let blind = self.coordinator.silent;
        self.optimism.allows(height) && self.ends.phase == Phase::Open && !blind
    }

    /// Proposals at this height, and beside these ancestors, failed.
    pub(super) fn note_failures(&mut self, height: CommitIndex, ancestors: &BTreeSet<Digest>) {
        let failed = self.optimism.on_pull(height, ancestors);
        self.blame(&failed);
    }

    /// A payload is ordered; those beside it failed. Comes before their contents go.
    pub(super) fn judge_proposals(&mut self, index: CommitIndex, ordered: &Digest) {
        let stored = self.payloads.stored(ordered).and_then(|stored| stored.content.as_ref());
        let optimistic = stored.is_some_and(|c| !c.payload.content.optimistic.is_empty());
        let failed = self.optimism.on_ordered(index, ordered, optimistic);
        self.blame(&failed);
    }

    /// Authors of optimistic batches that sit in their slots here and still have no proof.
    fn blame(&mut self, failed: &[Digest]) {
        for payload in failed {
            let stored = self.payloads.stored(payload).and_then(|stored| stored.content.as_ref());
            let Some(content) = stored else { continue };
            let before = self.stepped.saturating_sub(UNPROVEN_MIN);
            let unproven =
                content.optimistic().filter(|(_, d)| self.manager.is_unproven_since(d, before));
            let authors = unproven.map(|(info, _)| info.author);
            let others: BTreeSet<Author> = authors.filter(|a| *a != self.author).collect();
            for author in others {
                self.optimism.blame(author, self.stepped);
            }
        }
    }

    /// What waits for its batch goes with the next payload.
    pub(super) fn seal_for_proposal(&mut self, clock: &Clock) {
        let open = self.optimism.is_enabled() && self.ends.phase == Phase::Open;
        if open && self.config.inline_batches_max > 0 && self.may_seal() {
            let most = self.config.inline_bytes_max.as_u64();
            let sealed = self.generator.seal_early(&mut self.outbox, clock, most);
            if let Some(sealed) = sealed {
                self.spread(clock, sealed);
            }
        }
    }

    /// Own batches without a proof that may travel in a payload, the oldest first.
    pub(super) fn inline_candidates(
        &self,
        ancestors: &BTreeSet<Digest>,
        exclude: &BTreeSet<Digest>,
        listed: &BTreeSet<Digest>,
    ) -> Vec<(Digest, Batch)> {
        let small = self.config.inline_bytes_max.as_u64();
        let own = self.generator.newest().take(INLINE_LOOKED_AT);
        let mut found: Vec<_> = own
            .filter(|(digest, info, _)| {
                u64::from(info.bytes) <= small
                    && self.manager.is_unproven(digest)
                    && !self.manager.is_named_by(digest, ancestors)
                    && !exclude.contains(digest)
                    && !listed.contains(digest)
            })
            .map(|(digest, info, body)| (digest, Batch { info, body }))
            .collect();
        found.sort_unstable_by_key(|(_, batch)| batch.info.batch_id);
        found
    }
}
