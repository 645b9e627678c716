//! `CommitLog`: what consensus ordered, gapless, and how far it is applied.
//!
//! A commit is logged durably as soon as the host tells of it, also while its payload is missing;
//! it is applied to all four components in one step, in order, as soon as the payload is here; the
//! receipt is a promise of the group that holds both. Node-scoped: the index is global, and an
//! epoch's end does not touch the log.
//!
//! **State sync** makes the only gap: `skip_to` names the header up to which the host took the
//! state of others, and the log goes on from there. What was applied before it stays, for those who
//! have not read it yet; what was only logged goes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::outbox::Outbox;
use super::port::{CommitError, Record, Reply, RequestId, SkipError};
use super::rewrites::Rewrites;
use super::subscribers::{Bounds, Subscribers};
use crate::types::{ChainId, Commit, CommitIndex, CommitReceipt, Digest, PayloadHeader, Timestamp};

/// Old commits are dropped in runs of at least this many,
const DROP_RUN: u64 = 64;
/// and of at most this many: a jump of time must not fill a group.
const DROP_RUN_MAX: usize = 4096;

#[derive(Debug)]
struct Logged {
    commit: Commit,
    digest: Digest,
    receipt: Option<CommitReceipt>,
    /// When it was applied, or recovered.
    applied_at: Duration,
    /// Bytes of the batches of this commit and of all before it, since the start of the process.
    bytes_so_far: u64,
    waiters: Vec<RequestId>,
}

/// Commits that state sync passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Skipped {
    from: CommitIndex,
    to: CommitIndex,
    /// Timestamp of the last one.
    time: Timestamp,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct CommitLog {
    chain: ChainId,
    /// Commits are kept this long after their block.
    retention: Duration,
    commits: BTreeMap<CommitIndex, Logged>,
    /// Index, digest and timestamp of the highest commit logged.
    last: (CommitIndex, Digest, Timestamp),
    /// Index and digest of the highest commit applied.
    applied: (CommitIndex, Digest),
    bytes_applied: u64,
    /// Commits below this are gone.
    kept_from: CommitIndex,
    /// The last jump.
    skipped: Option<Skipped>,
    pub(super) subscribers: Subscribers,
    /// Evidence in logged commits.
    pub(super) rewrites: Rewrites,
}

impl CommitLog {
    pub fn new(
        chain: ChainId,
        genesis: &PayloadHeader,
        retention: Duration,
        bounds: Bounds,
    ) -> Self {
        let digest = genesis.digest(&chain);
        Self {
            chain,
            retention,
            commits: BTreeMap::new(),
            last: (CommitIndex(0), digest, genesis.block_timestamp),
            applied: (CommitIndex(0), digest),
            bytes_applied: 0,
            kept_from: CommitIndex(1),
            skipped: None,
            subscribers: Subscribers::new(bounds),
            rewrites: Rewrites::default(),
        }
    }

    /// A jump of an earlier life; recovered before any commit.
    pub fn on_recovered_skip(&mut self, from: CommitIndex, header: &PayloadHeader) {
        let digest = header.digest(&self.chain);
        let time = header.block_timestamp;
        self.skipped = Some(Skipped { from, to: header.height, time });
        self.last = (header.height, digest, header.block_timestamp);
        self.applied = (header.height, digest);
        self.kept_from = from;
    }

    /// A commit that an earlier life logged. False if it does not follow the one before.
    pub fn on_recovered(&mut self, now: Duration, commit: Commit) -> bool {
        let index = commit.index;
        let digest = commit.header.digest(&self.chain);
        let before = self.commits.last_key_value().map(|(last, logged)| {
            (last.next(), logged.digest, logged.commit.header.block_timestamp)
        });
        let jumped = |skipped: Skipped| (skipped.to.next(), self.last.1, self.last.2);
        // What it must follow: the one before, or the jump. The lowest one follows nothing.
        let follows = match (before, self.skipped) {
            (Some(before), Some(skipped)) if before.0 == skipped.from => Some(jumped(skipped)),
            (Some(before), _) => Some(before),
            (None, Some(skipped)) if index == skipped.to.next() => Some(jumped(skipped)),
            (None, Some(skipped)) if index < skipped.from => {
                self.kept_from = index;
                None
            }
            (None, _) => {
                self.restart_at(&commit);
                None
            }
        };
        let (parent, time) = (commit.header.parent, commit.header.block_timestamp);
        let fits = follows
            .is_none_or(|(next, digest, last)| index == next && parent == digest && time >= last);
        if !fits || self.skipped_to(index).is_some() {
            return false;
        }
        if self.skipped.is_none_or(|skipped| index > skipped.to) {
            self.last = (index, digest, time);
        }
        self.insert(now, commit, digest);
        true
    }

    /// The lowest commit that is kept: everything below it was applied.
    fn restart_at(&mut self, lowest: &Commit) {
        self.kept_from = lowest.index;
        let below = CommitIndex(lowest.index.0.saturating_sub(1));
        self.applied = (below, lowest.header.parent);
    }

    /// A receipt that an earlier life promised. False if its commit is not there.
    pub fn on_recovered_receipt(&mut self, receipt: CommitReceipt) -> bool {
        let Some(logged) = self.commits.get_mut(&receipt.index) else { return false };
        logged.receipt = Some(receipt);
        if receipt.index > self.applied.0 {
            self.applied = (receipt.index, logged.digest);
        }
        true
    }

    /// Bytes of the batches that a recovered commit ordered; called in the order of commits.
    pub fn on_recovered_bytes(&mut self, index: CommitIndex, bytes: u64) {
        self.bytes_applied += bytes;
        for (_, logged) in self.commits.range_mut(index..) {
            logged.bytes_so_far = self.bytes_applied;
        }
    }

    fn insert(&mut self, now: Duration, commit: Commit, digest: Digest) {
        let logged = Logged {
            commit,
            digest,
            receipt: None,
            applied_at: now,
            bytes_so_far: self.bytes_applied,
            waiters: Vec::new(),
        };
        self.commits.insert(commit.index, logged);
    }

    /// The host tells of a finalised block. `Some` with its digest if it is new.
    pub fn on_commit(
        &mut self,
        outbox: &mut Outbox,
        now: Duration,
        id: RequestId,
        commit: Commit,
    ) -> Option<Digest> {
        match self.admit(&commit) {
            Ok(true) => {}
            Ok(false) => {
                self.answer_known(outbox, id, commit.index);
                return None;
            }
            Err(error) => {
                outbox.reply_now(id, Reply::Committed(Err(error)));
                return None;
            }
        }
        let digest = commit.header.digest(&self.chain);
        self.last = (commit.index, digest, commit.header.block_timestamp);
        self.insert(now, commit, digest);
        outbox.record(Record::Commit(commit));
        self.answer_known(outbox, id, commit.index);
        Some(digest)
    }

    /// Ok(true): new and next; Ok(false): known.
    fn admit(&self, commit: &Commit) -> Result<bool, CommitError> {
        let index = commit.index;
        if commit.header.height != index {
            return Err(CommitError::Height(index));
        }
        if index <= self.last.0 {
            return match self.commits.get(&index) {
                Some(known) if known.commit.header == commit.header => Ok(false),
                Some(_) => Err(CommitError::Conflict(index)),
                None => Err(CommitError::Pruned(index)),
            };
        }
        if index != self.last.0.next() {
            return Err(CommitError::Gap { found: index, expected: self.last.0.next() });
        }
        if commit.header.parent != self.last.1 {
            return Err(CommitError::Conflict(self.last.0));
        }
        if commit.header.block_timestamp < self.last.2 {
            return Err(CommitError::TimeWentBack(index));
        }
        Ok(true)
    }

    /// The receipt, now or once there is one.
    fn answer_known(&mut self, outbox: &mut Outbox, id: RequestId, index: CommitIndex) {
        let Some(logged) = self.commits.get_mut(&index) else { return };
        match logged.receipt {
            // The receipt's group may still be on its way: this answer joins the open one.
            Some(receipt) => outbox.reply_durably(id, Reply::Committed(Ok(receipt))),
            None => logged.waiters.push(id),
        }
    }

    /// The next commit to apply, and the digest of its payload.
    pub fn next_to_apply(&self) -> Option<(Commit, Digest)> {
        let logged = self.commits.get(&self.applied.0.next())?;
        Some((logged.commit, logged.digest))
    }

    /// True if a logged commit orders this payload at this height.
    pub fn names(&self, payload: &Digest, height: CommitIndex) -> bool {
        self.commits.get(&height).is_some_and(|logged| logged.digest == *payload)
    }

    /// A logged commit, while it is kept.
    pub fn commit(&self, index: CommitIndex) -> Option<Commit> {
        self.commits.get(&index).map(|logged| logged.commit)
    }

    /// Logged commits from an index on that are not applied, not too many, with the digests of
    /// their payloads.
    pub fn unapplied(&self, from: CommitIndex, most: usize) -> Vec<(Commit, Digest)> {
        let first = self.applied.0.next();
        let end = CommitIndex(first.0.saturating_add(most as u64));
        let from = from.max(first).min(end);
        let range = self.commits.range(from..end);
        range.map(|(_, logged)| (logged.commit, logged.digest)).collect()
    }

    /// True if a logged commit waits for this payload.
    pub fn awaits(&self, digest: &Digest) -> bool {
        let unapplied = self.commits.range(self.applied.0.next()..);
        unapplied.into_iter().any(|(_, logged)| logged.digest == *digest)
    }

    /// All four components have applied a commit.
    pub fn on_applied(
        &mut self,
        outbox: &mut Outbox,
        now: Duration,
        receipt: CommitReceipt,
        bytes: u64,
    ) {
        let index = receipt.index;
        assert_eq!(index, self.applied.0.next(), "commits are applied in order");
        self.bytes_applied += bytes;
        let Some(logged) = self.commits.get_mut(&index) else {
            unreachable!("{index:?} is applied and not logged")
        };
        logged.receipt = Some(receipt);
        logged.applied_at = now;
        logged.bytes_so_far = self.bytes_applied;
        self.applied = (index, logged.digest);
        outbox.record(Record::Applied(receipt));
        for id in std::mem::take(&mut logged.waiters) {
            outbox.reply_durably(id, Reply::Committed(Ok(receipt)));
        }
    }

    /// State sync: the host has the state after this block. `Ok(Some)` with the payloads that are
    /// not needed any more; `Ok(None)` if nothing changes.
    pub fn on_skip(
        &mut self,
        outbox: &mut Outbox,
        header: &PayloadHeader,
    ) -> Result<Option<Vec<Digest>>, SkipError> {
        let (index, digest) = (header.height, header.digest(&self.chain));
        let (applied, at) = self.applied;
        if index == applied && digest == at {
            return Ok(None);
        }
        if index <= applied {
            return Err(SkipError::Behind { applied });
        }
        match self.commits.get(&index) {
            Some(known) if known.digest != digest => return Err(SkipError::Conflict(index)),
            None if header.block_timestamp < self.last.2 => {
                return Err(SkipError::TimeWentBack(index));
            }
            _ => {}
        }
        // Two jumps in a row are one: the log has at most one gap.
        let before = self.skipped.filter(|skipped| self.kept_from <= skipped.to);
        let from = before.map_or(applied.next(), |skipped| skipped.from);
        let mut passed = self.commits.split_off(&from);
        let mut kept = passed.split_off(&index.next());
        self.commits.append(&mut kept);
        for logged in passed.values() {
            for id in &logged.waiters {
                let error = CommitError::Pruned(logged.commit.index);
                outbox.reply_durably(*id, Reply::Committed(Err(error)));
            }
        }
        self.skipped = Some(Skipped { from, to: index, time: header.block_timestamp });
        self.applied = (index, digest);
        if index >= self.last.0 {
            self.last = (index, digest, header.block_timestamp);
        }
        outbox.record(Record::Skipped { from, header: *header });
        Ok(Some(passed.values().map(|logged| logged.digest).collect()))
    }

    /// Forgets commits that no subscriber and no late question needs.
    pub(super) fn drop_old(&mut self, outbox: &mut Outbox) {
        let next = self.applied.0.next();
        let lowest = self.subscribers.lowest().map_or(next, |lowest| lowest.min(next));
        let consensus = self.last.2;
        let old = |logged: &Logged| {
            logged.commit.index < lowest
                && logged.commit.header.block_timestamp.saturating_add(self.retention) < consensus
        };
        let young = self.commits.iter().take(DROP_RUN_MAX).find(|(_, logged)| !old(logged));
        let farthest = || self.commits.iter().take(DROP_RUN_MAX).next_back();
        let Some(below) = young.or_else(farthest).map(|(index, _)| *index) else { return };
        // A jump that somebody has not been told of stays known.
        let below = below.min(lowest);
        if below.0 >= self.kept_from.0 + DROP_RUN {
            self.keep_from(outbox, below);
        }
    }

    fn keep_from(&mut self, outbox: &mut Outbox, below: CommitIndex) {
        self.commits = self.commits.split_off(&below);
        self.kept_from = below;
        outbox.record(Record::DropCommits { below });
        self.rewrites.keep_from(outbox, below);
    }

    /// Commits below this are gone.
    pub fn kept_from(&self) -> CommitIndex {
        self.kept_from
    }

    /// A commit that is applied and kept.
    pub fn applied_commit(&self, index: CommitIndex) -> Option<Commit> {
        let logged = self.commits.get(&index).filter(|_| index <= self.applied.0)?;
        Some(logged.commit)
    }

    /// When a commit was applied, as far as it is kept and applied.
    pub fn applied_at(&self, index: CommitIndex) -> Option<Duration> {
        // Whoever keeps up asks for the next one: most do, and ask often.
        if index > self.applied.0 {
            return None;
        }
        let (_, logged) = self.commits.range(index..=self.applied.0).next()?;
        Some(logged.applied_at)
    }

    /// The end of the jump that passed over this index.
    pub fn skipped_to(&self, index: CommitIndex) -> Option<CommitIndex> {
        let skipped = self.skipped.filter(|s| (s.from..=s.to).contains(&index))?;
        Some(skipped.to)
    }

    /// Bytes of batches in applied commits from this index on, as far as this life knows them.
    pub fn bytes_from(&self, index: CommitIndex) -> u64 {
        let below = self.commits.range(..index).next_back();
        let before = below.map_or(0, |(_, logged)| logged.bytes_so_far);
        if index > self.applied.0 { 0 } else { self.bytes_applied.saturating_sub(before) }
    }

    /// The largest committed block timestamp.
    pub fn consensus_time(&self) -> Timestamp {
        self.last.2
    }

    /// Timestamp of the highest commit applied; zero before the first one.
    pub fn applied_time(&self) -> Timestamp {
        let jump = self.skipped.filter(|skipped| skipped.to == self.applied.0);
        let applied = self.commits.get(&self.applied.0);
        let applied = applied.map(|logged| logged.commit.header.block_timestamp);
        applied.or(jump.map(|skipped| skipped.time)).unwrap_or_default()
    }

    /// Index of the highest commit logged.
    pub fn logged(&self) -> CommitIndex {
        self.last.0
    }

    /// Index and digest of the highest commit applied.
    pub fn applied(&self) -> (CommitIndex, Digest) {
        self.applied
    }
}

#[cfg(test)]
mod tests;
