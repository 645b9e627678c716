//! What content is held, until when, and what keeps it.
//!
//! Content goes when its expiration plus grace lies below consensus time and nothing pins it;
//! never at commit, because a faulty leader may order a committed batch again and honest
//! validators must still hold it. Pinned is what a commit at or above the lowest subscriber cursor
//! named; when its time is over it is parked until that cursor has passed, and counted: that is
//! what subscribers cost. Deletion is a record like any other.
//!
//! Node-scoped: an epoch's end does not touch it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::absence::Missing;
use super::digest_map::DigestMap;
use super::outbox::{Clock, Outbox};
use super::port::Record;
use crate::types::{BatchInfo, CommitIndex, Digest, Epoch, Timestamp};

/// Most contents deleted in one step: a jump of consensus time must not fill a group.
const DROPS_PER_STEP: usize = 1024;

/// What is held under a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// A batch.
    Batch {
        /// Its info.
        info: BatchInfo,
        /// True if it is stored in its author's slot.
        in_slot: bool,
    },
    /// A payload.
    Payload {
        /// When it may go, before the grace.
        expiration: Timestamp,
    },
}

impl Held {
    fn bytes(&self) -> u64 {
        match self {
            Self::Batch { info, .. } => info.charge(),
            Self::Payload { .. } => 0,
        }
    }

    fn expiration(&self) -> Timestamp {
        match self {
            Self::Batch { info, .. } => info.expiration,
            Self::Payload { expiration } => *expiration,
        }
    }
}

#[derive(Debug)]
struct Entry {
    held: Held,
    /// The group that made it, or makes it, durable.
    group: u64,
    /// The highest commit that named it.
    ordered: Option<CommitIndex>,
    /// True until its time is over: while it counts against its author's window.
    counted: bool,
}

/// A batch whose time is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overdue {
    pub digest: Digest,
    pub info: BatchInfo,
    /// True if it sat in its author's slot.
    pub in_slot: bool,
    /// True the first time: it counts against its author's window no more, deleted or pinned.
    pub frees_window: bool,
    /// True if it is deleted now; false if a pin keeps it a while longer.
    pub deleted: bool,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct Retention {
    grace: Duration,
    contents: DigestMap<Entry>,
    /// Contents by the time they may go, without the parked ones.
    order: BTreeSet<(Timestamp, Digest)>,
    /// Contents whose time is over and that a subscriber needs, by the commit that named them.
    parked: BTreeSet<(CommitIndex, Digest)>,
    parked_bytes: u64,
    /// Commits at or above this pin what they named; none do while nobody subscribes.
    lowest: Option<CommitIndex>,
    /// What a pinning commit named and is not here, both ways.
    absent: BTreeMap<Digest, Missing>,
    absent_order: BTreeSet<(CommitIndex, Digest)>,
    /// Bytes of batches outside their author's window.
    recovered_bytes: u64,
    /// Content that commits below this named was deleted rightly.
    passed: CommitIndex,
    /// Sequence of the last group known to be durable.
    durable: u64,
}

impl Retention {
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            contents: DigestMap::default(),
            order: BTreeSet::new(),
            parked: BTreeSet::new(),
            parked_bytes: 0,
            lowest: None,
            absent: BTreeMap::new(),
            absent_order: BTreeSet::new(),
            recovered_bytes: 0,
            passed: CommitIndex(0),
            durable: 0,
        }
    }

    /// Holds content that the group with this sequence makes durable.
    pub fn insert(&mut self, digest: Digest, held: Held, group: u64) {
        self.insert_unordered(digest, held, group);
        self.order.insert((held.expiration(), digest));
    }

    fn insert_unordered(&mut self, digest: Digest, held: Held, group: u64) {
        if let Held::Batch { info, in_slot: false } = held {
            self.recovered_bytes += info.charge();
        }
        let missing = self.absent.remove(&digest);
        let ordered = missing.as_ref().and_then(|missing| missing.indices.last()).copied();
        for index in missing.iter().flat_map(|missing| &missing.indices) {
            self.absent_order.remove(&(*index, digest));
        }
        let known = self.contents.insert(digest, Entry { held, group, ordered, counted: true });
        assert!(known.is_none(), "content {digest:?} is held already");
    }

    /// Batches that an earlier life held, in the order of digests. What is pinned is known, and none
    /// of them is held yet.
    pub fn on_recovered(&mut self, batches: impl Iterator<Item = (Digest, Held)>) {
        // In one go: put in one by one they are as many walks through a large tree.
        let mut order = Vec::new();
        for (digest, held) in batches {
            order.push((held.expiration(), digest));
            self.insert_unordered(digest, held, 0);
        }
        self.order.append(&mut order.into_iter().collect());
    }

    /// A held batch now sits in its author's slot.
    pub fn claim(&mut self, digest: &Digest) {
        if let Some(Entry { held: Held::Batch { info, in_slot }, .. }) =
            self.contents.get_mut(digest)
            && !*in_slot
        {
            *in_slot = true;
            self.recovered_bytes -= info.charge();
        }
    }

    /// What is held under this digest.
    pub fn get(&self, digest: &Digest) -> Option<&Held> {
        self.contents.get(digest).map(|entry| &entry.held)
    }

    /// True if it is held and its group is known to be durable.
    pub fn is_durable(&self, digest: &Digest) -> bool {
        self.contents.get(digest).is_some_and(|entry| entry.group <= self.durable)
    }

    /// A group, and all before it, are durable.
    pub fn on_durable(&mut self, sequence: u64) {
        assert!(sequence > self.durable, "group {sequence} became durable twice");
        self.durable = sequence;
    }

    /// Contents held.
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// Bytes of batches outside their author's window.
    pub fn recovered_bytes(&self) -> u64 {
        self.recovered_bytes
    }

    /// A commit names a content, here or not: a batch if it has an info.
    pub fn on_ordered(&mut self, digest: Digest, info: Option<BatchInfo>, index: CommitIndex) {
        if let Some(entry) = self.contents.get_mut(&digest) {
            let before = entry.ordered;
            let after = before.max(Some(index));
            entry.ordered = after;
            if let (Some(before), Some(after)) = (before, after)
                && self.parked.remove(&(before, digest))
            {
                self.parked.insert((after, digest));
            }
            return;
        }
        if !self.pins(index) {
            return;
        }
        let none = || Missing { info, indices: BTreeSet::new() };
        self.absent.entry(digest).or_insert_with(none).indices.insert(index);
        self.absent_order.insert((index, digest));
    }

    /// The info of a batch that this commit names, that a subscriber needs, and that is not here.
    pub fn names(&self, digest: &Digest, index: CommitIndex) -> Option<BatchInfo> {
        let missing = self.absent.get(digest)?;
        missing.info.filter(|_| missing.indices.contains(&index))
    }

    /// True if a subscriber needs it for some commit, and it is not here.
    pub fn is_missing(&self, digest: &Digest) -> bool {
        self.absent.contains_key(digest)
    }

    /// Batches that subscribers need and that are not here.
    pub fn missing_batches(&self) -> Vec<(Digest, BatchInfo)> {
        let missing = self.absent.iter();
        missing.filter_map(|(digest, missing)| Some((*digest, missing.info?))).collect()
    }

    /// Content that commits below this named was deleted rightly.
    pub fn passed(&self) -> CommitIndex {
        self.passed
    }

    fn pins(&self, index: CommitIndex) -> bool {
        self.lowest.is_some_and(|lowest| index >= lowest)
    }

    /// The lowest cursor moved: what only commits below it named may go once its time is over.
    pub fn on_lowest(&mut self, lowest: Option<CommitIndex>) {
        if lowest == self.lowest {
            return;
        }
        self.lowest = lowest;
        while let Some(&(index, digest)) = self.parked.first() {
            if self.pins(index) {
                break;
            }
            self.parked.remove(&(index, digest));
            let Some(entry) = self.contents.get(&digest) else {
                unreachable!("{digest:?} is parked and not held")
            };
            self.parked_bytes -= entry.held.bytes();
            self.order.insert((entry.held.expiration(), digest));
        }
        while let Some(&(index, digest)) = self.absent_order.first() {
            if self.pins(index) {
                break;
            }
            self.absent_order.remove(&(index, digest));
            if let Some(missing) = self.absent.get_mut(&digest) {
                missing.indices.remove(&index);
                if missing.indices.is_empty() {
                    self.absent.remove(&digest);
                }
            }
        }
    }

    /// Bytes of batches that are kept beyond their time because a subscriber needs them.
    pub fn parked_bytes(&self) -> u64 {
        self.parked_bytes
    }

    /// Until when the last batch of an epoch is kept, at least.
    pub fn kept_until(&self, epoch: Epoch) -> Option<Timestamp> {
        let of_epoch = self.contents.values().filter_map(|entry| match entry.held {
            Held::Batch { info, .. } if info.epoch == epoch => Some(info.expiration),
            _ => None,
        });
        of_epoch.max().map(|expiration| expiration.saturating_add(self.grace))
    }

    /// True if content with this expiration may no longer be held.
    pub fn is_over(&self, expiration: Timestamp, clock: &Clock) -> bool {
        expiration.saturating_add(self.grace) < clock.consensus
    }

    /// True if [`Self::collect`] has something to do.
    pub fn is_due(&self, clock: &Clock) -> bool {
        self.order.first().is_some_and(|(expiration, _)| self.is_over(*expiration, clock))
    }

    /// Everything whose expiration plus grace lies below this counts no more in any window:
    /// consensus time, less what a bounded slice of deletion has not come to yet.
    pub fn released(&self, consensus: Timestamp) -> Timestamp {
        let first = self.order.first().map(|(expiration, _)| expiration.saturating_add(self.grace));
        first.map_or(consensus, |first| first.min(consensus))
    }

    /// Deletes what is due and not pinned, in one bounded slice; returns the batches concerned.
    pub fn collect(&mut self, outbox: &mut Outbox, clock: &Clock) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        for _ in 0..DROPS_PER_STEP {
            let Some(&(expiration, digest)) = self.order.first() else { break };
            if !self.is_over(expiration, clock) {
                break;
            }
            self.order.remove(&(expiration, digest));
            let Some(entry) = self.contents.get_mut(&digest) else {
                unreachable!("{digest:?} is ordered for deletion and not held")
            };
            let parked =
                entry.ordered.filter(|index| self.lowest.is_some_and(|lowest| *index >= lowest));
            if let Some(index) = parked {
                self.parked.insert((index, digest));
                self.parked_bytes += entry.held.bytes();
            }
            let deleted = parked.is_none();
            match entry.held {
                Held::Batch { info, in_slot } => {
                    let frees_window = in_slot && entry.counted;
                    entry.counted = false;
                    overdue.push(Overdue { digest, info, in_slot, frees_window, deleted });
                    if deleted {
                        self.recovered_bytes -= if in_slot { 0 } else { info.charge() };
                        outbox.record(Record::DropBatch { digest, expiration });
                    }
                }
                Held::Payload { .. } if deleted => {
                    outbox.record(Record::DropPayload { digest, expiration });
                }
                Held::Payload { .. } => {}
            }
            if deleted {
                if let Some(index) = entry.ordered {
                    self.passed = self.passed.max(index.next());
                }
                self.contents.remove(&digest);
            }
        }
        overdue
    }
}

#[cfg(test)]
mod tests;
