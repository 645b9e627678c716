//! `ProofCoordinator`: votes for our batches become proofs of store.
//!
//! Invariants: each batch yields at most one proof; a proof holds verified signatures of distinct
//! members with the power of a quorum; votes for a batch of ours that is not in the store are
//! ignored. Silent validators are sent the batch again with a backoff that doubles, and votes are
//! kept until the batch expires.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::outbox::{Clock, Outbox};
use super::port::{Effect, Record, Refusal};
use super::windows::Windows;
use crate::types::message::PROOFS_MAX;
use crate::types::{
    Author, Batch, BatchInfo, Committee, Digest, Message, ProofOfStore, ProofSignature, Signature,
    SignedBatchInfo, Timestamp,
};

/// Resends back off up to this many doublings.
const BACKOFF_DOUBLINGS_MAX: u32 = 4;

/// A batch of ours that is not ordered yet.
#[derive(Debug)]
struct Collecting {
    info: BatchInfo,
    /// When it was sealed, or recovered.
    since: Duration,
    votes: BTreeMap<u16, Signature>,
    power: u64,
    /// Its proof, once there is one, and the group that makes it durable.
    proof: Option<(Arc<ProofOfStore>, u64)>,
    resends: u32,
    /// When silent validators are asked again.
    due: Duration,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct ProofCoordinator {
    resend_interval: Duration,
    batches: BTreeMap<Digest, Collecting>,
    due: BTreeSet<(Duration, Digest)>,
    expirations: BTreeSet<(Timestamp, Digest)>,
    uncertified: u64,
    /// Sequence of the last group known to be durable.
    durable: u64,
}

impl ProofCoordinator {
    pub fn new(resend_interval: Duration) -> Self {
        Self {
            resend_interval,
            batches: BTreeMap::new(),
            due: BTreeSet::new(),
            expirations: BTreeSet::new(),
            uncertified: 0,
            durable: 0,
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
        digest: Digest,
        info: BatchInfo,
        proof: Option<Arc<ProofOfStore>>,
    ) {
        self.collect(clock.now.monotonic, digest, info);
        if let Some(proof) = proof {
            self.certify(digest, proof, 0);
        }
    }

    /// A group, and all before it, are durable.
    pub fn on_durable(&mut self, sequence: u64) {
        self.durable = sequence;
    }

    fn collect(&mut self, now: Duration, digest: Digest, info: BatchInfo) {
        let due = now + self.resend_interval;
        let votes = BTreeMap::new();
        let batch = Collecting { info, since: now, votes, power: 0, proof: None, resends: 0, due };
        self.due.insert((due, digest));
        self.expirations.insert((info.expiration, digest));
        self.uncertified += 1;
        let known = self.batches.insert(digest, batch);
        assert!(known.is_none(), "votes for {digest:?} are collected already");
    }

    /// A verified vote. At a quorum: the proof, recorded; whoever calls promises to publish it.
    pub fn on_vote(
        &mut self,
        outbox: &mut Outbox,
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
        if batch.proof.is_some() || batch.votes.contains_key(&index) {
            return None;
        }
        batch.votes.insert(index, vote.signature);
        batch.power += committee.power_of(&vote.signer);
        if !committee.is_quorum(batch.power) {
            return None;
        }
        let signatures = std::mem::take(&mut batch.votes)
            .into_iter()
            .map(|(signer, signature)| ProofSignature { signer, signature })
            .collect();
        let proof = Arc::new(ProofOfStore { info: batch.info, signatures });
        outbox.record(Record::Proof { digest: vote.digest, proof: Arc::clone(&proof) });
        self.certify(vote.digest, Arc::clone(&proof), outbox.group);
        Some(proof)
    }

    fn certify(&mut self, digest: Digest, proof: Arc<ProofOfStore>, group: u64) {
        let Some(batch) = self.batches.get_mut(&digest) else { return };
        self.due.remove(&(batch.due, digest));
        batch.proof = Some((proof, group));
        self.uncertified -= 1;
    }

    /// Asks silent validators again.
    pub fn on_tick(
        &mut self,
        outbox: &mut Outbox,
        clock: &Clock,
        windows: &mut Windows,
        committee: &Committee,
    ) {
        while let Some(&(due, digest)) = self.due.first() {
            if due > clock.now.monotonic {
                break;
            }
            self.due.remove(&(due, digest));
            let Some(batch) = self.batches.get_mut(&digest) else {
                unreachable!("{digest:?} is due and not collected")
            };
            let silent: Vec<_> = windows
                .peers()
                .filter(|peer| {
                    committee.index_of(peer).is_some_and(|i| !batch.votes.contains_key(&i))
                })
                .collect();
            let to = windows.grant(silent.into_iter(), digest, &batch.info);
            if !to.is_empty() {
                outbox.effect(Effect::Resend { to, digest });
                batch.resends += 1;
            }
            let doublings = batch.resends.min(BACKOFF_DOUBLINGS_MAX);
            batch.due = clock.now.monotonic + self.resend_interval * 2_u32.pow(doublings);
            self.due.insert((batch.due, digest));
        }
    }

    /// A link came up: its other end may have missed our proofs, and is asked again for votes.
    pub fn on_link_up(&mut self, outbox: &mut Outbox, clock: &Clock, peer: Author) {
        let mut proofs = Vec::new();
        for (digest, batch) in &mut self.batches {
            if let Some((proof, group)) = &batch.proof {
                // What is still being written is published to everyone once it is durable.
                if *group <= self.durable {
                    proofs.push(ProofOfStore::clone(proof));
                }
                continue;
            }
            self.due.remove(&(batch.due, *digest));
            // A little later, so that what is on its way in both directions arrives first.
            batch.due = clock.now.monotonic + self.resend_interval / 4;
            self.due.insert((batch.due, *digest));
        }
        for chunk in proofs.chunks(PROOFS_MAX) {
            let message = Message::Proofs(chunk.to_vec());
            outbox.effect(Effect::Send { to: peer, message });
        }
    }

    /// What is ordered or expired needs no votes. Returns how many were let go.
    pub fn on_commit(&mut self, clock: &Clock, ordered: &[(Digest, BatchInfo)]) -> u64 {
        let mut freed = 0;
        for (digest, _) in ordered {
            freed += u64::from(self.let_go(digest));
        }
        while let Some(&(expiration, digest)) = self.expirations.first() {
            if expiration >= clock.consensus {
                break;
            }
            freed += u64::from(self.let_go(&digest));
        }
        freed
    }

    fn let_go(&mut self, digest: &Digest) -> bool {
        let Some(batch) = self.batches.remove(digest) else { return false };
        self.expirations.remove(&(batch.info.expiration, *digest));
        self.due.remove(&(batch.due, *digest));
        self.uncertified -= u64::from(batch.proof.is_none());
        true
    }

    /// The epoch is over: its votes mean nothing any more. Returns how many batches had some.
    pub fn on_close(&mut self) -> u64 {
        let freed = self.batches.len() as u64;
        *self = Self { durable: self.durable, ..Self::new(self.resend_interval) };
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
        self.due.first().map(|(due, _)| *due)
    }

    /// Own batches without a proof.
    pub fn uncertified(&self) -> u64 {
        self.uncertified
    }
}
