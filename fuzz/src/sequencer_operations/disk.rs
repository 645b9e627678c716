//! The disk as a naive reader of records sees it.

use std::collections::{BTreeMap, BTreeSet};

use quorum_store::sequencer::port::Record;
use quorum_store::types::{
    Author, BatchInfo, Commit, CommitIndex, CommitReceipt, Digest, Epoch, Incarnation, Slot,
    Timestamp,
};

use crate::world;

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
    /// Writes a group, which is one moment: what it drops, nobody may need both before and after.
    pub fn write(&mut self, records: &[Record]) {
        let before = self.lowest_cursor();
        for record in records {
            self.move_cursor(record);
        }
        let needed_from = before.max(self.lowest_cursor());
        for record in records {
            if let Record::DropCommits { below } = record {
                assert!(*below <= needed_from, "{below:?} is needed from {needed_from:?} on");
            }
            self.apply(record);
        }
    }

    /// The lowest index that a subscriber needs, or none below the highest there is.
    fn lowest_cursor(&self) -> CommitIndex {
        self.cursors.values().min().copied().unwrap_or(CommitIndex(u64::MAX))
    }

    fn move_cursor(&mut self, record: &Record) {
        match record {
            Record::Cursor { subscriber, next } => {
                self.cursors.insert(subscriber.clone(), *next);
            }
            // From then on it needs nothing.
            Record::Lagged { subscriber, .. } | Record::Unsubscribed { subscriber } => {
                self.cursors.remove(subscriber);
            }
            _ => {}
        }
    }

    /// Writes a record, and checks that it follows from what is there.
    fn apply(&mut self, record: &Record) {
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
            Record::DropProof { digest, expiration } => {
                // It may have gone with its batch in the same step.
                self.proofs.remove(digest);
                let held = self.batches.contains_key(digest);
                assert!(!held, "the proof of {digest:?} goes before its batch at {expiration:?}");
            }
            Record::Settled { digest, info } => {
                assert_eq!(self.batches.get(digest), Some(info), "a batch that is not here");
                assert_eq!(info.author, world::author(0), "somebody else's transactions");
            }
            Record::Epoch(membership) => {
                assert_eq!(membership.epoch, Epoch(0), "nobody opened an epoch");
            }
            Record::Passed { below } => {
                assert!(*below > self.passed, "what was passed falls to {below:?}");
                self.passed = *below;
            }
            Record::Absent { index, digest, slot } => {
                // Nobody waits for a batch of a commit here: only payloads are asked about.
                assert!(slot.is_none() && self.commits.contains_key(index), "{digest:?} absent");
                assert!(!self.payloads.contains_key(digest), "{digest:?} is here");
                assert!(self.absent.insert((*index, *digest)), "{digest:?} is said twice");
            }
            Record::DropAbsent { index, digest } => {
                assert!(self.absent.remove(&(*index, *digest)), "{digest:?} was never said");
            }
            Record::Cursor { .. }
            | Record::Lagged { .. }
            | Record::Unsubscribed { .. }
            | Record::DropCommits { .. } => {}
            Record::Fence { .. }
            | Record::Closed(_)
            | Record::DropFloors { .. }
            | Record::Skipped { .. } => panic!("{record:?}: nobody closed the epoch"),
            Record::Rewritten { .. } | Record::DropRewritten { .. } | Record::Silence { .. } => {
                panic!("{record:?}: nothing is lost")
            }
        }
    }

    fn claim(&mut self, slot: Slot, digest: Digest) {
        let known = self.claims.insert(slot, digest);
        assert!(known.is_none(), "{slot:?} is claimed twice: {known:?}, {digest:?}");
    }
}
