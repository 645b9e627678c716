//! `ProofCoordinator`: votes for our batches become proofs of store.
//!
//! Invariants: each batch is certified once; a proof holds verified signatures of distinct members
//! with the power of a quorum; votes for a batch of ours that is not in the store are ignored.
//! Silent validators are sent the batch again with a backoff that doubles, and votes are kept until
//! the batch expires. Whoever had no room for it is sent it within `resend_interval` of having some:
//! the silence of others must not keep it waiting.
//!
//! **A proof grows** while its batch waits to be ordered: whoever signs after the quorum is one more
//! that a fetch may ask. A batch that is ordered soon is published once, and costs nothing more; one
//! that waits for longer than `resend_interval` is published again with every signature that came
//! meanwhile, each time after twice as long.
//!
//! **Who signs badly** is not sent a batch again until it is forgiven ([`Standing`]), unless the
//! others alone make no quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::digest_map::DigestMap;
use super::outbox::{Clock, Outbox};
use super::port::{Effect, Measurement, Promise, Record, Refusal};
use super::standing::Standing;
use super::windows::Windows;
use crate::types::message::PROOFS_MAX;
use crate::types::{
    Author, Batch, BatchInfo, Committee, Digest, Message, ProofOfStore, ProofSignature, Signature,
    SignedBatchInfo, Timestamp,
};

/// Resends, and publications of a proof that has grown, back off up to this many doublings.
const BACKOFF_DOUBLINGS_MAX: u32 = 4;

/// A batch of ours that is not ordered yet.
#[derive(Debug)]
struct Collecting {
    info: BatchInfo,
    /// When it was sealed, or recovered.
    since: Duration,
    votes: BTreeMap<u16, Signature>,
    power: u64,
    /// Its proof as last published, once there is one.
    proof: Option<Proven>,
    resends: u32,
    /// When those who were sent it and are silent are asked again.
    round: Duration,
    /// When silent validators are asked again, or somebody may have room by then; once it is certified, when it is published with
    /// what was signed since then, if anything was.
    due: Option<Duration>,
}

#[derive(Debug)]
struct Proven {
    proof: Arc<ProofOfStore>,
    /// The group that makes it durable.
    group: u64,
    /// When it was made, or recovered.
    since: Duration,
    /// How often it was published with more signatures.
    grown: u32,
}

impl Collecting {
    fn proof_of_votes(&self) -> Arc<ProofOfStore> {
        let sign = |(signer, signature): (&u16, &Signature)| ProofSignature {
            signer: *signer,
            signature: *signature,
        };
        let signatures = self.votes.iter().map(sign).collect();
        Arc::new(ProofOfStore { info: self.info, signatures })
    }
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct ProofCoordinator {
    resend_interval: Duration,
    batches: DigestMap<Collecting>,
    due: BTreeSet<(Duration, Digest)>,
    /// Validators whose link came up, and when they are asked for votes that they may owe.
    relinked: BTreeMap<Author, Duration>,
    /// When each expires, with those that were ordered meanwhile.
    expirations: BTreeSet<(Timestamp, Digest)>,
    uncertified: u64,
    /// Sequence of the last group known to be durable.
    durable: u64,
    pub standing: Standing,
}

impl ProofCoordinator {
    pub fn new(resend_interval: Duration) -> Self {
        Self {
            resend_interval,
            batches: DigestMap::default(),
            due: BTreeSet::new(),
            relinked: BTreeMap::new(),
            expirations: BTreeSet::new(),
            uncertified: 0,
            durable: 0,
            standing: Standing::default(),
        }
    }

    /// Sends a new batch of ours to everyone who has room, and waits for votes.
    pub fn on_own_batch(
        &mut self,
        outbox: &mut Outbox,
        clock: &Clock,
        windows: &mut Windows,
        digest: Digest,
        batch: Batch,
    ) {
        self.collect(clock.now.monotonic, digest, batch.info);
        let everyone: Vec<_> = windows.peers().collect();
        let to = windows.grant(everyone.into_iter(), digest, &batch.info);
        outbox.effect(Effect::Multicast { to, message: Message::Batch(batch) });
    }

    /// A batch of ours from an earlier life: it, or its proof, is sent again once links are up.
    pub fn on_recovered(
        &mut self,
        clock: &Clock,
        committee: &Committee,
        digest: Digest,
        info: BatchInfo,
        proof: Option<Arc<ProofOfStore>>,
    ) {
        self.collect(clock.now.monotonic, digest, info);
        let (Some(proof), Some(batch)) = (proof, self.batches.get_mut(&digest)) else { return };
        let votes = proof.signatures.iter().map(|part| (part.signer, part.signature));
        batch.votes.extend(votes);
        let power = |signer: &u16| committee.member(*signer).map_or(0, |member| member.power);
        batch.power = batch.votes.keys().map(power).sum();
        self.certify(clock.now.monotonic, digest, proof, 0);
    }

    /// A group, and all before it, are durable.
    pub fn on_durable(&mut self, sequence: u64) {
        self.durable = sequence;
    }

    fn collect(&mut self, now: Duration, digest: Digest, info: BatchInfo) {
        let round = now + self.resend_interval;
        let (votes, due) = (BTreeMap::new(), Some(round));
        let (power, proof, resends) = (0, None, 0);
        let batch = Collecting { info, since: now, votes, power, proof, resends, round, due };
        self.due.extend(due.map(|due| (due, digest)));
        self.expirations.insert((info.expiration, digest));
        self.uncertified += 1;
        let known = self.batches.insert(digest, batch);
        assert!(known.is_none(), "votes for {digest:?} are collected already");
    }

    /// A verified vote. At a quorum: the proof, recorded; whoever calls promises to publish it.
    pub fn on_vote(
        &mut self,
        outbox: &mut Outbox,
        now: Duration,
        committee: &Committee,
        vote: &SignedBatchInfo,
    ) -> Option<Arc<ProofOfStore>> {
        let Some(batch) = self.batches.get_mut(&vote.digest) else {
            outbox.refuse(vote.signer, Refusal::UnknownBatch);
            return None;
        };
        let Some(index) = committee.index_of(&vote.signer) else {
            outbox.refuse(vote.signer, Refusal::NotAMember);
            return None;
        };
        if batch.votes.contains_key(&index) {
            return None;
        }
        batch.votes.insert(index, vote.signature);
        batch.power += committee.power_of(&vote.signer);
        if let Some(proven) = &batch.proof {
            outbox.effect(Effect::Measured(Measurement::LateVote));
            if batch.due.is_none() {
                let doublings = proven.grown.min(BACKOFF_DOUBLINGS_MAX);
                let due = proven.since + self.resend_interval * 2_u32.pow(doublings);
                batch.due = Some(due.max(now));
                self.due.insert((due.max(now), vote.digest));
            }
            return None;
        }
        if !committee.is_quorum(batch.power) {
            return None;
        }
        let proof = batch.proof_of_votes();
        outbox.record(Record::Proof { digest: vote.digest, proof: Arc::clone(&proof) });
        self.certify(now, vote.digest, Arc::clone(&proof), outbox.group);
        Some(proof)
    }

    fn certify(&mut self, now: Duration, digest: Digest, proof: Arc<ProofOfStore>, group: u64) {
        let Some(batch) = self.batches.get_mut(&digest) else { return };
        if let Some(due) = batch.due.take() {
            self.due.remove(&(due, digest));
        }
        batch.proof = Some(Proven { proof, group, since: now, grown: 0 });
        self.uncertified -= 1;
    }

    /// Asks silent validators again, and publishes proofs that have grown: returns those.
    pub fn on_tick(
        &mut self,
        outbox: &mut Outbox,
        clock: &Clock,
        windows: &mut Windows,
        committee: &Committee,
    ) -> Vec<(Digest, Arc<ProofOfStore>)> {
        let now = clock.now.monotonic;
        let mut grown = Vec::new();
        while let Some(&(due, digest)) = self.due.first() {
            if due > now {
                break;
            }
            self.due.remove(&(due, digest));
            let Some(batch) = self.batches.get_mut(&digest) else {
                unreachable!("{digest:?} is due and not collected")
            };
            batch.due = None;
            if batch.proof.is_some() {
                let proof = batch.proof_of_votes();
                if let Some(proven) = &mut batch.proof {
                    proven.proof = Arc::clone(&proof);
                    proven.grown += 1;
                }
                // Its group follows the one with the proof that is on record.
                outbox.promise(Promise::Publish(Arc::clone(&proof)));
                outbox.effect(Effect::Measured(Measurement::Grown));
                grown.push((digest, proof));
                continue;
            }
            let peers: Vec<_> = windows.peers().collect();
            let silent = peers.into_iter().filter(|peer| owes(batch, committee, peer));
            let mut asked = trusted(&self.standing, now, committee, silent);
            let lacks = |windows: &Windows, peer: &Author| windows.lacks(peer, digest, &batch.info);
            let round = batch.round <= now;
            // Between two rounds, those only who had no room for it before.
            asked.retain(|peer| round || lacks(windows, peer));
            let to = windows.grant(asked.iter().copied(), digest, &batch.info);
            let waits = asked.iter().any(|peer| lacks(windows, peer));
            if round {
                batch.resends += u32::from(!to.is_empty());
                let doublings = batch.resends.min(BACKOFF_DOUBLINGS_MAX);
                batch.round = now + self.resend_interval * 2_u32.pow(doublings);
            }
            if !to.is_empty() {
                outbox.effect(Effect::Resend { to, digest });
            }
            let soon = now + self.resend_interval;
            let due = if waits { batch.round.min(soon) } else { batch.round };
            batch.due = Some(due);
            self.due.insert((due, digest));
        }
        self.ask_relinked(outbox, now, windows, committee);
        grown
    }

    /// Validators whose links came up a moment ago are asked for the votes that they owe.
    fn ask_relinked(
        &mut self,
        outbox: &mut Outbox,
        now: Duration,
        windows: &mut Windows,
        committee: &Committee,
    ) {
        let due: Vec<_> = self.relinked.extract_if(.., |_, due| *due <= now).collect();
        for (peer, _) in due {
            for (digest, batch) in self.batches.iter().filter(|(_, batch)| batch.proof.is_none()) {
                let asked = [peer].into_iter().filter(|peer| owes(batch, committee, peer));
                let asked = trusted(&self.standing, now, committee, asked);
                let to = windows.grant(asked.into_iter(), *digest, &batch.info);
                if !to.is_empty() {
                    outbox.effect(Effect::Resend { to, digest: *digest });
                }
            }
        }
    }

    /// A link came up: its other end may have missed our proofs, and is asked again for votes.
    pub fn on_link_up(&mut self, outbox: &mut Outbox, clock: &Clock, peer: Author) {
        // A little later, so that what is on its way in both directions arrives first.
        let due = clock.now.monotonic + self.resend_interval / 4;
        self.relinked.entry(peer).or_insert(due);
        let mut proofs = Vec::new();
        for proven in self.batches.values().filter_map(|batch| batch.proof.as_ref()) {
            // What is still being written is published to everyone once it is durable.
            if proven.group <= self.durable {
                proofs.push(ProofOfStore::clone(&proven.proof));
            }
        }
        for chunk in proofs.chunks(PROOFS_MAX) {
            let message = Message::Proofs(chunk.to_vec());
            outbox.effect(Effect::Send { to: peer, message });
        }
    }

    /// What of ours is ordered, and what is expired, needs no votes. Returns how many were let go.
    pub fn on_commit<'a>(
        &mut self,
        clock: &Clock,
        ordered: impl Iterator<Item = &'a Digest>,
    ) -> u64 {
        let mut freed = ordered.map(|digest| u64::from(self.let_go(digest))).sum();
        while let Some(&(expiration, digest)) = self.expirations.first() {
            if expiration >= clock.consensus {
                break;
            }
            self.expirations.pop_first();
            freed += u64::from(self.let_go(&digest));
        }
        freed
    }

    fn let_go(&mut self, digest: &Digest) -> bool {
        let Some(batch) = self.batches.remove(digest) else { return false };
        if let Some(due) = batch.due {
            self.due.remove(&(due, *digest));
        }
        self.uncertified -= u64::from(batch.proof.is_none());
        true
    }

    /// The epoch is over: its votes mean nothing any more. Returns how many batches had some.
    pub fn on_close(&mut self) -> u64 {
        let freed = self.batches.len() as u64;
        let standing = std::mem::take(&mut self.standing);
        *self = Self { durable: self.durable, standing, ..Self::new(self.resend_interval) };
        freed
    }

    /// A batch of ours that is not ordered yet.
    pub fn info(&self, digest: &Digest) -> Option<BatchInfo> {
        self.batches.get(digest).map(|batch| batch.info)
    }

    /// How long ago a batch of ours that is not ordered yet was sealed, or recovered.
    pub fn age(&self, digest: &Digest, now: Duration) -> Option<Duration> {
        self.batches.get(digest).map(|batch| now.saturating_sub(batch.since))
    }

    /// When the next validator is asked again.
    pub fn next_deadline(&self) -> Option<Duration> {
        let relinked = self.relinked.values().min().copied();
        self.due.first().map(|(due, _)| *due).into_iter().chain(relinked).min()
    }

    /// Own batches without a proof.
    pub fn uncertified(&self) -> u64 {
        self.uncertified
    }
}

/// True if it takes part and has not signed.
fn owes(batch: &Collecting, committee: &Committee, peer: &Author) -> bool {
    committee.index_of(peer).is_some_and(|index| !batch.votes.contains_key(&index))
}

/// Without those who are demoted, if everybody else makes a quorum.
fn trusted(
    standing: &Standing,
    now: Duration,
    committee: &Committee,
    candidates: impl Iterator<Item = Author>,
) -> Vec<Author> {
    let lost: u64 = standing.demoted(now).map(|author| committee.power_of(&author)).sum();
    let suffices = committee.is_quorum(committee.total_power().saturating_sub(lost));
    candidates.filter(|peer| !suffices || !standing.is_demoted(peer, now)).collect()
}

#[cfg(test)]
mod tests;
