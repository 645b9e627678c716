//! What the validator may say, by naive bookkeeping of what it was told.
//!
//! Nothing is ever forgotten here, and nothing is computed the way the sequencer does: a slot's
//! history is a list, a window a sum over everything that was ever sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::disk::Disk;
use quorum_store::sequencer::port::{Now, PullRequest, Refusal, RequestId, VerifyRequest};
use quorum_store::types::{
    Announcement, Author, Batch, BatchId, BatchInfo, Commit, CommitIndex, Digest, Payload,
    ProofOfStore, Slot, Timestamp, Usage,
};

use crate::world;

/// A request of the host that has no answer yet.
#[derive(Debug, Clone)]
pub enum Asked {
    /// With the bytes of its transactions.
    Submit(Vec<Vec<u8>>),
    /// With what must not be in the answer.
    Pull(PullRequest, BTreeSet<Digest>),
    /// A payload.
    Verify(VerifyRequest),
    /// A commit.
    Commit(CommitIndex),
    /// A content, until then.
    Fetch(Digest, Duration),
    /// To be told of commits: a name, and the next index.
    Subscribe(String, CommitIndex),
    /// To be told of none.
    Unsubscribe,
    /// How things stand.
    Status,
}

/// A slot that was claimed in this life or durably before.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// Where.
    pub slot: Slot,
    /// By which batch.
    pub digest: Digest,
    /// Its expiration.
    pub expiration: Timestamp,
    /// What it takes of a window.
    pub charge: u64,
}

/// A peer, seen by an author.
#[derive(Debug, Default)]
pub struct Peer {
    /// True while its link is up.
    pub linked: bool,
    /// What it granted last.
    pub window: Usage,
    /// The most it released.
    pub released: Timestamp,
    /// Own batches that it was sent, or may have been.
    pub sent: BTreeMap<Digest, (Timestamp, u64)>,
}

/// A payload that exists somewhere.
#[derive(Debug, Clone)]
pub struct Known {
    /// The payload.
    pub payload: std::sync::Arc<Payload>,
    /// Its batches.
    pub batches: Vec<Digest>,
    /// Whether its proofs verify.
    pub valid: bool,
}

/// See the module docs.
#[derive(Debug, Default)]
pub struct Model {
    /// Everything written.
    pub disk: Disk,
    /// Requests of this life without an answer.
    pub asked: BTreeMap<RequestId, Asked>,
    /// Of those, what the host no longer waits for.
    pub cancelled: BTreeSet<RequestId>,
    /// Claimed slots.
    pub claims: Vec<Claim>,
    /// Every signature ever given.
    pub signed: BTreeMap<Slot, Digest>,
    /// Signatures that somebody waits for.
    pub unsigned: BTreeSet<Digest>,
    /// Every batch that was ever seen.
    pub batches: BTreeMap<Digest, Batch>,
    /// Own batch ids ever seen.
    pub own: BTreeMap<BatchId, Digest>,
    /// Votes given for own batches in this life.
    pub votes: BTreeMap<Digest, BTreeSet<Author>>,
    /// Own batches whose proof was published in this life, with how many signatures the last time.
    pub published: BTreeMap<Digest, usize>,
    /// Transactions of own batches that moved or expired in this life.
    pub moved: BTreeSet<(Digest, u32)>,
    /// Every payload that was ever seen.
    pub payloads: BTreeMap<Digest, Known>,
    /// Payloads that this validator proposed.
    pub proposed: BTreeSet<Digest>,
    /// What consensus ordered, index 1 first.
    pub log: Vec<Commit>,
    /// Digests of those.
    pub log_digests: Vec<Digest>,
    /// Commits whose content a subscriber needs.
    pub pinned: BTreeSet<CommitIndex>,
    /// The next index of each subscriber that holds something.
    pub cursors: BTreeMap<String, CommitIndex>,
    /// Attached subscribers, and the next index that each is told.
    pub attached: BTreeMap<RequestId, (String, CommitIndex)>,
    /// Subscriptions that the host dropped.
    pub detached: BTreeSet<RequestId>,
    /// How far the log is applied.
    pub applied: u64,
    /// Peers.
    pub peers: BTreeMap<Author, Peer>,
    /// False while the disk is nearly full.
    pub admits: bool,
}

impl Model {
    /// Consensus time.
    pub fn consensus(&self) -> Timestamp {
        self.log.last().map_or(Timestamp(0), |commit| commit.header.block_timestamp)
    }

    /// The validator dies: what was not written is gone.
    pub fn crash(&mut self) {
        let durable = &self.disk.claims;
        self.claims.retain(|claim| durable.get(&claim.slot) == Some(&claim.digest));
        let chain = world::chain();
        self.log = self.disk.commits.values().copied().collect();
        self.log_digests = self.log.iter().map(|commit| commit.header.digest(&chain)).collect();
        self.applied = self.disk.receipts.len() as u64;
        self.cursors = self.disk.cursors.clone();
        self.attached.clear();
        let lowest = self.lowest_cursor();
        let needed = |index: &CommitIndex| lowest.is_some_and(|lowest| *index >= lowest);
        self.pinned = self.disk.commits.keys().copied().filter(needed).collect();
        self.asked.clear();
        self.cancelled.clear();
        self.unsigned.clear();
        // What is in a proof on disk still counts.
        let disk = &self.disk;
        self.votes.retain(|digest, _| disk.proofs.contains(digest));
        self.published.clear();
        self.moved.clear();
        self.admits = true;
        // Nobody remembers who was sent what: everyone may have everything that is stored.
        let own = self.disk.batches.iter().filter(|(_, info)| info.author == world::author(0));
        let sent: BTreeMap<_, _> =
            own.map(|(digest, info)| (*digest, (info.expiration, info.charge()))).collect();
        for peer in self.peers.values_mut() {
            *peer = Peer { sent: sent.clone(), ..Peer::default() };
        }
    }

    /// The lowest index that a subscriber needs.
    pub fn lowest_cursor(&self) -> Option<CommitIndex> {
        self.cursors.values().min().copied()
    }

    // ---- admission -----------------------------------------------------------------------------

    /// Whether a batch over a link must be admitted. `stored` is what the sequencer counts.
    pub fn admits(
        &self,
        now: Now,
        from: Author,
        digest: Digest,
        info: &BatchInfo,
        stored: Usage,
    ) -> Verdict {
        let consensus = self.consensus();
        let latest = now.wall.max(consensus);
        let longest = world::LIFETIME + world::ALLOWANCE;
        let member = (0..world::MEMBERS).any(|index| world::author(index) == info.author);
        if from != info.author
            || info.epoch.0 != 0
            || !member
            || info.expiration <= consensus
            || info.expiration > latest.saturating_add(longest)
        {
            return Verdict::Refused;
        }
        if let Some(claim) = self.claims.iter().find(|claim| claim.slot == info.slot()) {
            return if claim.digest == digest { Verdict::Again } else { Verdict::Refused };
        }
        let of_author = || self.claims.iter().filter(|claim| claim.slot.author == info.author);
        let id = info.batch_id;
        let incarnations: BTreeSet<_> =
            of_author().map(|claim| claim.slot.batch_id.incarnation).collect();
        let new_store = !incarnations.contains(&id.incarnation);
        let falls = of_author().any(|claim| {
            let other = claim.slot.batch_id;
            other.incarnation == id.incarnation
                && ((other.counter < id.counter && claim.expiration > info.expiration)
                    || (other.counter > id.counter && claim.expiration < info.expiration))
        });
        let window = world::config().window();
        let room = stored.bytes + info.charge() <= window.bytes && stored.batches < window.batches;
        if !self.admits || (new_store && incarnations.len() >= 8) || falls || !room {
            return Verdict::Refused;
        }
        Verdict::Admitted
    }

    /// A slot is claimed.
    pub fn claim(&mut self, digest: Digest, info: &BatchInfo) {
        let (slot, expiration, charge) = (info.slot(), info.expiration, info.charge());
        self.claims.push(Claim { slot, digest, expiration, charge });
    }

    /// What the sequencer counts of an author lies between what cannot have gone and what it
    /// tells others that it may still count.
    pub fn check_stored(&self, author: &Author, stored: Usage, announced: Announcement) {
        let usage = |counts: &dyn Fn(Timestamp) -> bool| {
            let mut usage = Usage::default();
            for claim in self.claims.iter().filter(|claim| claim.slot.author == *author) {
                if counts(claim.expiration.saturating_add(world::GRACE)) {
                    usage.bytes += claim.charge;
                    usage.batches += 1;
                }
            }
            usage
        };
        let consensus = self.consensus();
        let least = usage(&|over| over >= consensus);
        let most = usage(&|over| over >= announced.released);
        let between = |least: u64, it: u64, most: u64| least <= it && it <= most;
        assert!(
            between(least.bytes, stored.bytes, most.bytes)
                && between(least.batches, stored.batches, most.batches),
            "{author:?}: at least {least:?}, {stored:?}, at most {most:?}"
        );
        if *author != world::author(0) {
            let window = world::config().window();
            assert!(stored.bytes <= window.bytes && stored.batches <= window.batches);
        }
    }

    // ---- own batches ---------------------------------------------------------------------------

    /// A batch of ours is seen for the first time.
    pub fn on_own_batch(&mut self, digest: Digest, batch: &Batch) {
        let info = &batch.info;
        assert!(self.admits, "a batch is sealed while the disk is nearly full");
        assert_eq!(info.author, world::author(0));
        batch.body.verify(info, &world::genesis().parameters).expect("an own batch is valid");
        let id = info.batch_id;
        assert!(id.counter < self.disk.reserved, "{id:?} is not reserved durably");
        let known = self.own.insert(id, digest);
        assert!(known.is_none(), "{id:?} is used twice");
        let falls = self.claims.iter().find(|claim| {
            claim.slot.author == info.author
                && claim.slot.batch_id.incarnation == id.incarnation
                && claim.expiration > info.expiration
        });
        assert!(falls.is_none(), "{info:?} expires before {falls:?}");
        self.claim(digest, info);
        self.unsigned.insert(digest);
        self.batches.insert(digest, batch.clone());
    }

    /// A batch of ours leaves for these peers.
    pub fn on_sent(&mut self, to: &[Author], digest: Digest) {
        let info = self.batches[&digest].info;
        for author in to {
            let peer = self.peers.get_mut(author).expect("batches go to members");
            assert!(peer.linked, "{digest:?} is sent to {author:?} without a link");
            if peer.sent.contains_key(&digest) {
                continue;
            }
            peer.sent.insert(digest, (info.expiration, info.charge()));
            let counted = || {
                let sent = peer.sent.values();
                sent.filter(|(over, _)| over.saturating_add(world::GRACE) >= peer.released)
            };
            let bytes: u64 = counted().map(|(_, charge)| charge).sum();
            let batches = counted().count() as u64;
            let window = peer.window;
            let within = bytes <= window.bytes && batches <= window.batches;
            assert!(within, "{author:?} grants {window:?} and is sent {bytes} bytes, {batches}");
        }
    }

    /// A proof of ours is published.
    pub fn on_published(&mut self, proof: &ProofOfStore) {
        let digest = proof.info.digest(&world::chain());
        assert!(self.disk.proofs.contains(&digest) || self.is_over(proof.info.expiration));
        let before = self.published.insert(digest, proof.signatures.len()).unwrap_or_default();
        assert!(before < proof.signatures.len(), "{digest:?} is published again as it was");
        let votes = self.votes.get(&digest).cloned().unwrap_or_default();
        let mut signers = BTreeSet::new();
        for part in &proof.signatures {
            let signer = world::author(part.signer as u8);
            assert!(votes.contains(&signer), "{signer:?} never signed {digest:?}");
            assert!(signers.insert(signer), "{signer:?} counts twice");
            assert_eq!(part.signature.to_bytes(), [part.signer as u8; 64], "not its signature");
        }
        assert!(signers.len() >= 3, "{} of 4 are no quorum", signers.len());
    }

    /// Transactions of an own batch got a new place, or none.
    pub fn on_moved(&mut self, from: Digest, positions: impl Iterator<Item = u32>) {
        let info = self.batches[&from].info;
        assert_eq!(info.author, world::author(0));
        for position in positions {
            assert!(position < info.count, "{position} of {info:?}");
            assert!(self.moved.insert((from, position)), "{position} of {from:?} moved twice");
        }
        assert!(!self.is_ordered_in_time(from), "{from:?} is ordered in time, and batched again");
    }

    fn is_ordered_in_time(&self, digest: Digest) -> bool {
        self.log.iter().zip(&self.log_digests).any(|(commit, at)| {
            let names = self.payloads.get(at).is_some_and(|known| known.batches.contains(&digest));
            names && self.batches[&digest].info.expiration >= commit.header.block_timestamp
        })
    }

    /// True if content with this expiration may be gone.
    pub fn is_over(&self, expiration: Timestamp) -> bool {
        expiration.saturating_add(world::GRACE) < self.consensus()
    }
}

/// What must happen to a batch over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stored and signed.
    Admitted,
    /// Known; signed again.
    Again,
    /// A typed refusal.
    Refused,
}

/// A refusal of a batch, as opposed to one of anything else.
pub fn is_of_batch(reason: Refusal) -> bool {
    !matches!(reason, Refusal::UnknownBatch | Refusal::Unasked | Refusal::TooManyPayloads)
}
