//! The disk as a naive reader of records sees it.

use std::collections::{BTreeMap, BTreeSet};

use quorum_store::sequencer::port::Record;
use quorum_store::types::{
    Author, BatchInfo, Commit, CommitIndex, CommitReceipt, Digest, Incarnation, Slot, Timestamp,
};

/// What every written group together says.
#[derive(Debug, Default)]
pub struct Disk {
    /// Batches in force.
    pub batches: BTreeMap<Digest, BatchInfo>,
    /// Every slot that was ever claimed.
    pub claims: BTreeMap<Slot, Digest>,
    /// Every proof in force.
    pub proofs: BTreeSet<Digest>,
    /// Payloads in force, and when they may go.
    pub payloads: BTreeMap<Digest, Timestamp>,
    /// Every commit ever logged.
    pub commits: BTreeMap<CommitIndex, Commit>,
    /// Every receipt ever written.
    pub receipts: BTreeMap<CommitIndex, CommitReceipt>,
    /// The next index of each subscriber.
    pub cursors: BTreeMap<String, CommitIndex>,
    /// One above the highest own counter that may be used.
    pub reserved: u64,
    /// What was said to be absent, and in which commit.
    pub absent: BTreeSet<(CommitIndex, Digest)>,
    floors: BTreeMap<(Author, Incarnation), u64>,
    passed: CommitIndex,
}

impl Disk {
    /// Writes a record, and checks that it follows from what is there.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Batch(batch) => {
                let info = batch.info;
                let known = self.batches.insert(batch.digest, info);
                assert!(known.is_none(), "{:?} is written twice", batch.digest);
                assert_eq!(batch.body.len(), info.bytes as usize, "a batch without its body");
                if batch.claims_slot {
                    self.claim(info.slot(), batch.digest);
                }
            }
            Record::Claim { digest, slot } => {
                let info = self.batches.get(digest);
                let agrees = info.is_some_and(|info| info.slot() == *slot);
                assert!(agrees, "{digest:?} claims {slot:?} and is {info:?}");
                self.claim(*slot, *digest);
            }
            Record::Proof { digest, .. } => {
                self.proofs.insert(*digest);
            }
            Record::Payload { digest, expiration, .. } => {
                let known = self.payloads.insert(*digest, *expiration);
                assert!(known.is_none(), "payload {digest:?} is written twice");
            }
            Record::Commit(commit) => {
                let last = self.commits.keys().next_back().map_or(0, |index| index.0);
                assert_eq!(commit.index.0, last + 1, "commits have a gap");
                self.commits.insert(commit.index, *commit);
            }
            Record::Applied(receipt) => {
                let last = self.receipts.keys().next_back().map_or(0, |index| index.0);
                assert_eq!(receipt.index.0, last + 1, "receipts have a gap");
                assert!(self.commits.contains_key(&receipt.index), "applied before it is logged");
                self.receipts.insert(receipt.index, *receipt);
            }
            Record::Cursor { subscriber, next } => {
                let before = self.cursors.insert(subscriber.clone(), *next);
                assert!(before.is_none_or(|before| before < *next), "a cursor goes back");
            }
            Record::Reserved { until } => {
                assert!(*until > self.reserved, "the reservation falls to {until}");
                self.reserved = *until;
            }
            Record::Floor { slot } => {
                let key = (slot.author, slot.batch_id.incarnation);
                let before = self.floors.insert(key, slot.batch_id.counter);
                assert!(before.is_none_or(|b| b < slot.batch_id.counter), "{slot:?} falls");
            }
            Record::DropBatch { digest, expiration } => {
                self.proofs.remove(digest);
                if let Some(info) = self.batches.remove(digest) {
                    assert_eq!(info.expiration, *expiration, "the key of {digest:?}");
                }
            }
            Record::DropPayload { digest, expiration } => {
                let known = self.payloads.remove(digest);
                assert_eq!(known, Some(*expiration), "the key of payload {digest:?}");
            }
            Record::DropCommits { below } => {
                let lowest = self.cursors.values().min();
                assert!(lowest.is_none_or(|lowest| below <= lowest), "{below:?} is needed");
            }
            Record::DropProof { digest, expiration } => {
                // It may have gone with its batch in the same step.
                self.proofs.remove(digest);
                let held = self.batches.contains_key(digest);
                assert!(!held, "the proof of {digest:?} goes before its batch at {expiration:?}");
            }
            Record::Passed { below } => {
                assert!(*below > self.passed, "what was passed falls to {below:?}");
                self.passed = *below;
            }
            Record::Epoch(membership) => assert_eq!(membership.epoch.0, 0, "another epoch"),
            Record::Settled { .. } => {}
            Record::Absent { index, digest, slot } => {
                // Nobody waits for a batch of a commit here: only payloads are asked about.
                assert!(slot.is_none() && self.commits.contains_key(index), "{digest:?} absent");
                assert!(!self.payloads.contains_key(digest), "{digest:?} is here");
                assert!(self.absent.insert((*index, *digest)), "{digest:?} is said twice");
            }
            Record::DropAbsent { index, digest } => {
                assert!(self.absent.remove(&(*index, *digest)), "{digest:?} was never said");
            }
            // Nobody closes an epoch, jumps, leaves, or has evidence.
            other @ (Record::Fence { .. }
            | Record::Closed(_)
            | Record::DropFloors { .. }
            | Record::Lagged { .. }
            | Record::Unsubscribed { .. }
            | Record::Skipped { .. }
            | Record::Rewritten { .. }
            | Record::DropRewritten { .. }
            | Record::Silence { .. }) => panic!("{} is written", other.name()),
        }
    }

    fn claim(&mut self, slot: Slot, digest: Digest) {
        let known = self.claims.insert(slot, digest);
        assert!(known.is_none(), "{slot:?} is claimed twice: {known:?}, {digest:?}");
    }
}
