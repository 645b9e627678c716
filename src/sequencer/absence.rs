//! Absence: what this validator says it does not hold, and the evidence that a quorum says so.
//!
//! ```text
//!  a named content that a whole round of fetching did not find
//!      ▼
//!  AbsenceRequest to the committee of the commit's epoch ──▶ each judges by its own records:
//!      passed   for a while nobody here needed it any more: it may be gone rightly
//!      held     here it is: ask again
//!      unknown  not in my log, or not named there
//!      signed   (a) logged and named, (b) not held, (c) never passed: a record, then a signature
//!      ▼
//!  a quorum of power signed ──▶ UnavailabilityProof ──▶ whoever waits; the next proposal
//!  more than f has passed, and nobody holds it in the next round either ──▶ pruned: whoever waits takes the state of another
//! ```
//!
//! **Invariants.** A statement leaves only with, or after, its record. What was said to be absent
//! is never signed for afterwards, in this life or a later one, although its content may arrive and
//! is then stored and served. Evidence is proposed only while this validator does not hold the
//! content, and whoever holds it withholds its vote.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Sequencer;
use super::outbox::{Clock, Outbox};
use super::payloads::Content;
use super::port::{Effect, FetchError, Promise, Record};
use crate::types::{
    AbsenceAnswer, AbsenceReason, AbsenceSignature, AbsenceStatement, Author, BatchInfo, Commit,
    CommitIndex, Committee, Digest, Epoch, Message, Signature, Slot, Timestamp,
    UnavailabilityProof,
};

/// Most evidence in one payload.
pub(super) const EVIDENCE_MAX: usize = crate::types::payload::EVIDENCE_MAX;
/// Most contents of which statements are gathered at once.
const GATHERED_MAX: usize = 1024;

/// A content in a commit.
type Named = (CommitIndex, Digest);

/// Statements about one content.
#[derive(Debug, Default)]
struct Gathering {
    signatures: BTreeMap<u16, (AbsenceReason, Signature)>,
    passed: BTreeSet<Author>,
    /// Who said, since it was last asked for, that the content is there.
    held: BTreeSet<Author>,
    /// Once there is a quorum of them.
    proof: Option<Arc<UnavailabilityProof>>,
}

/// What this validator says when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Passed,
    Held,
    Unknown,
    /// With the epoch of the commit, and for a batch its slot and expiration.
    Absent(Epoch, Option<(Slot, Timestamp)>),
}

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct Absences {
    /// What was said, on record.
    said: BTreeSet<Named>,
    /// In how many commits, by content.
    commits: BTreeMap<Digest, usize>,
    /// Slots that are never signed, until they expire.
    slots: BTreeMap<Slot, Timestamp>,
    gathering: BTreeMap<Named, Gathering>,
    /// True if this store replaces one that was lost.
    pub replaced: bool,
}

impl Absences {
    /// Something that an earlier life said.
    pub fn on_recovered(
        &mut self,
        index: CommitIndex,
        digest: Digest,
        slot: Option<(Slot, Timestamp)>,
    ) {
        self.say((index, digest));
        self.slots.extend(slot);
    }

    /// True if a batch in this slot was said to be absent.
    pub fn refuses(&self, slot: &Slot) -> bool {
        self.slots.contains_key(slot)
    }

    /// True if it is new.
    fn say(&mut self, named: Named) -> bool {
        let is_new = self.said.insert(named);
        if is_new {
            *self.commits.entry(named.1).or_default() += 1;
        }
        is_new
    }

    /// True if this was said to be absent in some commit.
    pub fn was_said(&self, digest: &Digest) -> bool {
        self.commits.contains_key(digest)
    }

    /// Statements on record.
    pub fn len(&self) -> usize {
        self.said.len()
    }

    /// What is expired by consensus time is not signed anyway.
    pub fn on_time(&mut self, consensus: Timestamp) {
        self.slots.retain(|_, expiration| *expiration > consensus);
    }

    /// Commits below this are not kept: nobody asks about them, and their batches have expired.
    pub fn keep_from(&mut self, outbox: &mut Outbox, below: CommitIndex) {
        let kept = self.said.split_off(&(below, Digest::default()));
        for (index, digest) in std::mem::replace(&mut self.said, kept) {
            outbox.record(Record::DropAbsent { index, digest });
            if let Entry::Occupied(mut commits) = self.commits.entry(digest) {
                *commits.get_mut() -= 1;
                if *commits.get() == 0 {
                    commits.remove();
                }
            }
        }
        self.gathering = self.gathering.split_off(&(below, Digest::default()));
    }

    /// Evidence that is not committed, the oldest commit first.
    fn ready(&self) -> impl Iterator<Item = &Arc<UnavailabilityProof>> {
        self.gathering.values().filter_map(|gathering| gathering.proof.as_ref())
    }

    /// How much evidence is not committed.
    pub fn ready_len(&self) -> usize {
        self.ready().count()
    }
}

impl Sequencer {
    /// What a whole round of fetching did not find: is it gone?
    pub(super) fn ask_for_absences(&mut self, clock: &Clock) {
        for (digest, index) in self.fetcher.take_exhausted() {
            self.gather(clock, index, digest);
        }
    }

    fn gather(&mut self, clock: &Clock, index: CommitIndex, digest: Digest) {
        let Some((_, committee)) = self.committee_at(index) else { return };
        let named = (index, digest);
        if self.retention.get(&digest).is_some() {
            // It is on its way to the disk, where whoever waits did not find it: the next round of
            // fetching, or the next look at the store, does.
            return;
        }
        let known = self.absences.gathering.get(&named);
        if let Some(proof) = known.and_then(|gathering| gathering.proof.clone()) {
            let verdict = FetchError::Unavailable(proof);
            return self.fetcher.on_verdict(&mut self.outbox, &digest, &verdict);
        }
        if known.is_none() && self.absences.gathering.len() >= GATHERED_MAX {
            return;
        }
        if let Some(gathering) = self.absences.gathering.get_mut(&named) {
            let power = gathering.passed.iter().map(|author| committee.power_of(author)).sum();
            if committee.is_above_faults(power) && gathering.held.is_empty() {
                // Asked, and looked for once more: whoever is left does not have it either.
                return self.fetcher.on_verdict(&mut self.outbox, &digest, &FetchError::Pruned);
            }
            gathering.held.clear();
        }
        let members = self.windows.linked().filter(|peer| committee.index_of(peer).is_some());
        let to: Vec<Author> = members.collect();
        self.absences.gathering.entry(named).or_default();
        self.outbox
            .effect(Effect::Multicast { to, message: Message::AbsenceRequest { index, digest } });
        self.on_absence_request(clock, self.author, index, digest);
    }

    /// Somebody, perhaps we, asks whether content that a commit names is absent here.
    pub(super) fn on_absence_request(
        &mut self,
        clock: &Clock,
        from: Author,
        index: CommitIndex,
        digest: Digest,
    ) {
        let answer = match self.judge_absence(index, digest) {
            Judgement::Absent(epoch, slot) => {
                if self.absences.say((index, digest)) {
                    let slot = slot.filter(|(_, expiration)| *expiration > clock.consensus);
                    self.outbox.record(Record::Absent { index, digest, slot });
                    self.absences.slots.extend(slot);
                }
                let replaced = self.absences.replaced;
                let reason =
                    if replaced { AbsenceReason::StoreReplaced } else { AbsenceReason::NeverHeld };
                let statement = AbsenceStatement { epoch, index, digest, reason };
                // A repeat joins the open group, so that it does not overtake the record.
                return self.outbox.promise(Promise::SignAbsence { statement, to: from });
            }
            Judgement::Passed => AbsenceAnswer::Passed,
            Judgement::Held => AbsenceAnswer::Held,
            Judgement::Unknown => AbsenceAnswer::Unknown,
        };
        if from == self.author {
            self.on_absence(clock, from, (index, digest), answer);
        } else {
            let message = Message::Absence { index, digest, answer };
            self.outbox.effect(Effect::Send { to: from, message });
        }
    }

    /// Content is in the open group: what was to be said about it there is not true any more, and
    /// what others said is of no use.
    pub(super) fn unsay(&mut self, digest: &Digest) {
        let says = |promise: &Promise| matches!(promise, Promise::SignAbsence { statement, .. } if statement.digest == *digest);
        self.outbox.promises.retain(|promise| !says(promise));
        self.absences.gathering.retain(|(_, gathered), _| gathered != digest);
    }

    /// The conditions of the design, in the order in which they are cheapest to be sure of.
    fn judge_absence(&self, index: CommitIndex, digest: Digest) -> Judgement {
        if self.retention.get(&digest).is_some() {
            return Judgement::Held;
        }
        if index < self.passed() {
            return Judgement::Passed;
        }
        let Some(commit) = self.commits.commit(index) else { return Judgement::Unknown };
        let epoch = commit.header.epoch;
        if commit.header.digest(&self.chain) == digest {
            return Judgement::Absent(epoch, None);
        }
        match self.retention.names(&digest, index) {
            // What is expired there is skipped by everybody anyway.
            Some(info) if info.expiration >= commit.header.block_timestamp => {
                Judgement::Absent(epoch, Some((info.slot(), info.expiration)))
            }
            _ => Judgement::Unknown,
        }
    }

    /// Every commit below this was passed here, or what it named was deleted rightly.
    pub(super) fn passed(&self) -> CommitIndex {
        let passed = self.commits.subscribers.passed();
        passed.max(self.retention.passed()).max(self.commits.kept_from())
    }

    /// A validator says whether content is absent there.
    pub(super) fn on_absence(
        &mut self,
        clock: &Clock,
        from: Author,
        (index, digest): Named,
        answer: AbsenceAnswer,
    ) {
        let Some((epoch, committee)) = self.committee_at(index) else { return };
        let Some(gathering) = self.absences.gathering.get_mut(&(index, digest)) else { return };
        let Some(member) = committee.index_of(&from) else { return };
        match answer {
            AbsenceAnswer::Unknown => {}
            AbsenceAnswer::Held => {
                gathering.held.insert(from);
                self.fetcher.on_holder(clock.now.monotonic, from, &digest);
                self.tick_fetcher(clock);
            }
            AbsenceAnswer::Passed => {
                gathering.passed.insert(from);
            }
            AbsenceAnswer::Signed { epoch: of, reason, signature } if of == epoch => {
                gathering.signatures.insert(member, (reason, signature));
                if gathering.proof.is_none()
                    && let Some(proof) = proof_of(gathering, &committee, epoch, index, digest)
                {
                    let proof = Arc::new(proof);
                    gathering.proof = Some(Arc::clone(&proof));
                    let verdict = FetchError::Unavailable(proof);
                    self.fetcher.on_verdict(&mut self.outbox, &digest, &verdict);
                }
            }
            AbsenceAnswer::Signed { .. } => {}
        }
    }

    /// Epoch and committee of a logged commit, while they are known.
    fn committee_at(&self, index: CommitIndex) -> Option<(Epoch, Committee)> {
        let epoch = self.commits.commit(index)?.header.epoch;
        if epoch == self.membership.epoch {
            return Some((epoch, self.membership.committee.clone()));
        }
        let former = self.membership.former.iter().find(|former| former.epoch == epoch)?;
        Some((epoch, former.committee.clone()))
    }

    // ---- evidence ------------------------------------------------------------------------------

    /// What the next payload carries: evidence that is neither committed nor in an ancestor of it,
    /// about content that is still not here.
    pub(super) fn evidence_to_propose(
        &self,
        height: CommitIndex,
        ancestors: &BTreeSet<Digest>,
        room: &mut u64,
    ) -> Vec<UnavailabilityProof> {
        let ancestors = ancestors.iter().filter_map(|digest| self.payloads.stored(digest));
        let ancestors = ancestors.filter_map(|stored| stored.content.as_ref());
        let proposed = ancestors.flat_map(|content| &content.payload.content.unavailable);
        let proposed: BTreeSet<(CommitIndex, Digest)> =
            proposed.map(|proof| (proof.index, proof.digest)).collect();
        let mut taken = Vec::new();
        for proof in self.absences.ready() {
            let bytes = 64 + 67 * proof.signatures.len() as u64;
            let useful = proof.index < height
                && proof.index >= self.passed()
                && !proposed.contains(&(proof.index, proof.digest))
                && self.retention.get(&proof.digest).is_none()
                && !self.commits.rewrites.is_committed(proof.index, &proof.digest);
            if useful && taken.len() < EVIDENCE_MAX && bytes <= *room {
                *room -= bytes;
                taken.push(UnavailabilityProof::clone(proof));
            }
        }
        taken
    }

    /// Content that evidence in a payload says is gone, and that is here: it is pushed to everybody,
    /// and there is no vote. Nor is there one for evidence about a commit that was passed here: it was
    /// executed, and old evidence, true for a moment, must not send everybody back.
    pub(super) fn contradicts(&mut self, content: &Content) -> bool {
        let evidence = content.payload.content.unavailable.iter();
        let held = evidence.map(|proof| proof.digest).filter(|d| self.retention.get(d).is_some());
        let held: Vec<Digest> = held.collect();
        for digest in &held {
            let to = self.windows.linked().collect();
            self.outbox.effect(Effect::Push { to, digest: *digest });
        }
        let passed = self.passed();
        let old = content.payload.content.unavailable.iter().any(|proof| proof.index < passed);
        old || !held.is_empty()
    }

    /// Evidence in the payload of a logged commit counts from now on, applied or not.
    pub(super) fn note_evidence(&mut self, commit: &Commit, content: &Content) {
        let evidence = &content.payload.content.unavailable;
        let skipped = self.commits.rewrites.on_evidence(&mut self.outbox, commit.index, evidence);
        for digest in skipped {
            self.fetcher.on_verdict(&mut self.outbox, &digest, &FetchError::Rewritten);
            self.fetcher.on_needless(&digest);
        }
        for proof in evidence {
            self.absences.gathering.remove(&(proof.index, proof.digest));
        }
    }
}

fn proof_of(
    gathering: &Gathering,
    committee: &Committee,
    epoch: Epoch,
    index: CommitIndex,
    digest: Digest,
) -> Option<UnavailabilityProof> {
    let signers = gathering.signatures.keys();
    let power = signers.filter_map(|signer| committee.member(*signer)).map(|m| m.power).sum();
    if !committee.is_quorum(power) {
        return None;
    }
    let signatures = gathering.signatures.iter().map(|(signer, (reason, signature))| {
        AbsenceSignature { signer: *signer, reason: *reason, signature: *signature }
    });
    Some(UnavailabilityProof { epoch, index, digest, signatures: signatures.collect() })
}

/// What a commit names and is not here.
#[derive(Debug)]
pub(super) struct Missing {
    /// For a batch.
    pub info: Option<BatchInfo>,
    /// The commits that name it.
    pub indices: BTreeSet<CommitIndex>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_in_two_commits_is_forgotten_with_the_later_one() {
        let (mut absences, mut outbox) = (Absences::default(), Outbox::default());
        let digest = Digest([7; 32]);
        for index in [1, 1, 2] {
            absences.on_recovered(CommitIndex(index), digest, None);
        }
        absences.keep_from(&mut outbox, CommitIndex(2));
        assert!(absences.was_said(&digest));
        assert_eq!(absences.len(), 1);
        absences.keep_from(&mut outbox, CommitIndex(3));
        assert!(!absences.was_said(&digest));
    }

    #[test]
    fn a_slot_that_was_said_to_be_empty_is_refused_until_its_batch_has_expired() {
        let mut absences = Absences::default();
        let info = crate::types::samples::batch(2, 1, &[b"x"]).info;
        let slot = info.slot();
        absences.on_recovered(CommitIndex(1), Digest([7; 32]), Some((slot, Timestamp(10))));
        absences.on_time(Timestamp(9));
        assert!(absences.refuses(&slot));
        absences.on_time(Timestamp(10));
        assert!(!absences.refuses(&slot));
        assert!(absences.was_said(&Digest([7; 32])), "what was said stays said");
    }
}
