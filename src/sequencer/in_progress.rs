//! `InProgress`: transactions that must not be pulled from the host's source, because they are in
//! the pool, in an own batch, or were seen in a batch of another validator.
//!
//! A transaction is in progress as long as anything holds it: one place in the pool, or one batch.
//! Each holder lets go exactly once, whatever the order in which it is ordered, expires, lapses or
//! is lost, so a transaction in several batches stays until the last of them is done with.
//!
//! ```text
//!            certified                ordered                    every subscriber has passed it
//!   seen ───────────────▶ held ─────────────────▶ ordered ───────────────────────────────────▶ let go
//!    └── lapses ──▶ let go  └── expires, lost ──▶ let go   └── expires ──▶ let go
//! ```
//!
//! What is ordered stays until every subscriber has acknowledged its commit: whoever executes takes
//! it out of the source only then, and until then it would be pulled a second time.
//!
//! **Bounds.** Batches of one validator hold at most its share; what is beyond is not remembered, and
//! may be pulled although somebody else batched it: execution drops the second. About 100 bytes per
//! transaction: key and count here, the key in its batch, the key where sources look.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::port::{ReleaseReason, TransactionKey};
use crate::types::{Author, CommitIndex, Digest, Timestamp};

/// A batch that holds transactions.
#[derive(Debug)]
struct Holder {
    author: Author,
    keys: Arc<[TransactionKey]>,
    expiration: Timestamp,
    /// Let go then, unless it is certified.
    lapses: Option<Duration>,
    /// The commit that orders it.
    index: Option<CommitIndex>,
}

/// What entered, and what left, since this was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub entered: Vec<TransactionKey>,
    pub left: Vec<TransactionKey>,
}

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct InProgress {
    /// By how many each is held; never 0.
    counts: BTreeMap<TransactionKey, u32>,
    holders: BTreeMap<Digest, Holder>,
    /// Transactions in the batches of each author.
    held: BTreeMap<Author, u64>,
    lapses: BTreeSet<(Duration, Digest)>,
    expirations: BTreeSet<(Timestamp, Digest)>,
    ordered: BTreeSet<(CommitIndex, Digest)>,
    /// What was touched since it was last told, and whether it was in progress before that.
    touched: BTreeMap<TransactionKey, bool>,
    /// Transactions that batches let go of since it was last told, by reason.
    released: BTreeMap<ReleaseReason, u64>,
}

impl InProgress {
    /// True if anything holds it.
    pub fn contains(&self, key: &TransactionKey) -> bool {
        self.counts.contains_key(key)
    }

    /// Different transactions that are held.
    pub fn len(&self) -> u64 {
        self.counts.len() as u64
    }

    /// Transactions in the batches of one author.
    pub fn held_by(&self, author: &Author) -> u64 {
        self.held.get(author).copied().unwrap_or_default()
    }

    /// One more place in the pool holds it.
    pub fn hold_one(&mut self, key: TransactionKey) {
        let count = self.counts.entry(key).or_default();
        self.touched.entry(key).or_insert(*count > 0);
        *count += 1;
    }

    /// One place in the pool holds it no more.
    pub fn release_one(&mut self, key: &TransactionKey) {
        let Some(count) = self.counts.get_mut(key) else {
            unreachable!("{key:?} is let go of more often than it was held")
        };
        self.touched.entry(*key).or_insert(true);
        *count -= 1;
        if *count == 0 {
            self.counts.remove(key);
        }
    }

    /// A batch holds these, until `lapses` if that is given. Without effect if it is known.
    pub fn hold(
        &mut self,
        digest: Digest,
        author: Author,
        keys: Arc<[TransactionKey]>,
        expiration: Timestamp,
        lapses: Option<Duration>,
    ) {
        if self.holders.contains_key(&digest) {
            return;
        }
        keys.iter().for_each(|key| self.hold_one(*key));
        *self.held.entry(author).or_default() += keys.len() as u64;
        self.expirations.insert((expiration, digest));
        self.lapses.extend(lapses.map(|at| (at, digest)));
        self.holders.insert(digest, Holder { author, keys, expiration, lapses, index: None });
    }

    /// It has a proof: it will be ordered, or expire.
    pub fn on_certified(&mut self, digest: &Digest) {
        if let Some(holder) = self.holders.get_mut(digest)
            && let Some(at) = holder.lapses.take()
        {
            self.lapses.remove(&(at, *digest));
        }
    }

    /// A commit orders it.
    pub fn on_ordered(&mut self, digest: &Digest, index: CommitIndex) {
        self.on_certified(digest);
        if let Some(holder) = self.holders.get_mut(digest)
            && holder.index.is_none()
        {
            holder.index = Some(index);
            self.ordered.insert((index, *digest));
        }
    }

    /// Every subscriber has passed what lies below this; without subscribers, everything.
    pub fn on_passed(&mut self, below: Option<CommitIndex>) {
        while let Some(&(index, digest)) = self.ordered.first() {
            if below.is_some_and(|below| index >= below) {
                break;
            }
            self.release(&digest, ReleaseReason::Ordered);
        }
    }

    /// Consensus time has come so far.
    pub fn on_consensus_time(&mut self, consensus: Timestamp) {
        while let Some(&(expiration, digest)) = self.expirations.first() {
            if expiration >= consensus {
                break;
            }
            self.release(&digest, ReleaseReason::Expired);
        }
    }

    /// What is not certified by now may never be.
    pub fn on_time(&mut self, now: Duration) {
        while let Some(&(at, digest)) = self.lapses.first() {
            if at > now {
                break;
            }
            self.release(&digest, ReleaseReason::Lapsed);
        }
    }

    /// A batch holds nothing any more. True if it did.
    pub fn release(&mut self, digest: &Digest, reason: ReleaseReason) -> bool {
        let Some(holder) = self.holders.remove(digest) else { return false };
        self.expirations.remove(&(holder.expiration, *digest));
        if let Some(at) = holder.lapses {
            self.lapses.remove(&(at, *digest));
        }
        if let Some(index) = holder.index {
            self.ordered.remove(&(index, *digest));
        }
        let count = holder.keys.len() as u64;
        if let Some(held) = self.held.get_mut(&holder.author) {
            *held -= count;
            if *held == 0 {
                self.held.remove(&holder.author);
            }
        }
        *self.released.entry(reason).or_default() += count;
        holder.keys.iter().for_each(|key| self.release_one(key));
        true
    }

    /// When something lapses.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.lapses.first().map(|(at, _)| *at)
    }

    /// What entered and what left since the last time; nothing of what did both.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for (key, before) in std::mem::take(&mut self.touched) {
            match (before, self.counts.contains_key(&key)) {
                (false, true) => changes.entered.push(key),
                (true, false) => changes.left.push(key),
                _ => {}
            }
        }
        changes
    }

    /// Transactions that batches let go of since the last time.
    pub fn take_released(&mut self) -> BTreeMap<ReleaseReason, u64> {
        std::mem::take(&mut self.released)
    }
}
