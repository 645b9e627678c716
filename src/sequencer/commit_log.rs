//! `CommitLog`: what consensus ordered, gapless, and how far it is applied.
//!
//! A commit is logged durably as soon as the host tells of it, also while its payload is missing;
//! it is applied to all four components in one step, in order, as soon as the payload is here; the
//! receipt is a promise of the group that holds both. Content of commits at or above the lowest
//! subscriber cursor is pinned. Node-scoped: an epoch's end does not touch it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::outbox::Outbox;
use super::port::{CommitError, Record, Reply, RequestId};
use super::retention::Retention;
use crate::types::{ChainId, Commit, CommitIndex, CommitReceipt, Digest, PayloadHeader, Timestamp};

/// Old commits are dropped in runs of at least this many.
const DROP_RUN: u64 = 64;

#[derive(Debug)]
struct Logged {
    commit: Commit,
    digest: Digest,
    receipt: Option<CommitReceipt>,
    /// What is kept from deletion because of it.
    pinned: Vec<Digest>,
    waiters: Vec<RequestId>,
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
    cursors: BTreeMap<String, CommitIndex>,
    /// Commits below this are gone from disk.
    kept_from: CommitIndex,
}

impl CommitLog {
    pub fn new(chain: ChainId, genesis: &PayloadHeader, retention: Duration) -> Self {
        let digest = genesis.digest(&chain);
        Self {
            chain,
            retention,
            commits: BTreeMap::new(),
            last: (CommitIndex(0), digest, genesis.block_timestamp),
            applied: (CommitIndex(0), digest),
            cursors: BTreeMap::new(),
            kept_from: CommitIndex(1),
        }
    }

    /// A commit that an earlier life logged. False if it does not follow the one before.
    pub fn on_recovered(&mut self, commit: Commit) -> bool {
        let header = &commit.header;
        if let Some((last, _)) = self.commits.last_key_value() {
            if commit.index != last.next()
                || header.parent != self.last.1
                || header.block_timestamp < self.last.2
            {
                return false;
            }
        } else {
            self.kept_from = commit.index;
            let below = CommitIndex(commit.index.0.saturating_sub(1));
            self.applied = (below, commit.header.parent);
        }
        let digest = commit.header.digest(&self.chain);
        self.last = (commit.index, digest, commit.header.block_timestamp);
        self.insert(commit, digest);
        true
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

    /// Where a subscriber of an earlier life stood.
    pub fn on_recovered_cursor(&mut self, subscriber: String, next: CommitIndex) {
        self.cursors.insert(subscriber, next);
    }

    fn insert(&mut self, commit: Commit, digest: Digest) {
        let (receipt, pinned, waiters) = (None, Vec::new(), Vec::new());
        let logged = Logged { commit, digest, receipt, pinned, waiters };
        self.commits.insert(commit.index, logged);
    }

    /// The host tells of a finalised block. True if it is new.
    pub fn on_commit(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        id: RequestId,
        commit: Commit,
    ) -> bool {
        match self.admit(&commit) {
            Ok(true) => {}
            Ok(false) => {
                self.answer_known(outbox, id, commit.index);
                return false;
            }
            Err(error) => {
                outbox.reply_now(id, Reply::Committed(Err(error)));
                return false;
            }
        }
        let digest = commit.header.digest(&self.chain);
        self.last = (commit.index, digest, commit.header.block_timestamp);
        self.insert(commit, digest);
        outbox.record(Record::Commit(commit));
        self.pin(retention, commit.index, &[digest]);
        self.answer_known(outbox, id, commit.index);
        true
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

    /// True if a logged commit waits for this payload.
    pub fn awaits(&self, digest: &Digest) -> bool {
        let unapplied = self.commits.range(self.applied.0.next()..);
        unapplied.into_iter().any(|(_, logged)| logged.digest == *digest)
    }

    /// All four components have applied a commit.
    pub fn on_applied(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        receipt: CommitReceipt,
        batches: &[Digest],
    ) {
        let index = receipt.index;
        assert_eq!(index, self.applied.0.next(), "commits are applied in order");
        self.pin(retention, index, batches);
        let Some(logged) = self.commits.get_mut(&index) else {
            unreachable!("{index:?} is applied and not logged")
        };
        logged.receipt = Some(receipt);
        self.applied = (index, logged.digest);
        outbox.record(Record::Applied(receipt));
        for id in std::mem::take(&mut logged.waiters) {
            outbox.reply_durably(id, Reply::Committed(Ok(receipt)));
        }
    }

    /// Keeps content while a subscriber may need it.
    pub fn pin(&mut self, retention: &mut Retention, index: CommitIndex, digests: &[Digest]) {
        if self.lowest_cursor().is_none_or(|lowest| index < lowest) {
            return;
        }
        let Some(logged) = self.commits.get_mut(&index) else { return };
        for digest in digests {
            retention.pin(*digest);
            logged.pinned.push(*digest);
        }
    }

    /// A subscriber needs nothing below `next`. Never goes back.
    pub fn on_acknowledge(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        subscriber: String,
        next: CommitIndex,
    ) {
        let next = next.min(self.applied.0.next());
        let before = self.lowest_cursor();
        let cursor = self.cursors.entry(subscriber.clone()).or_default();
        if next <= *cursor {
            return;
        }
        *cursor = next;
        outbox.record(Record::Cursor { subscriber, next });
        let after = self.lowest_cursor();
        if before == after {
            return;
        }
        let freed = self.commits.range_mut(..after.unwrap_or(next));
        for logged in freed.rev().map(|(_, logged)| logged).take_while(|l| !l.pinned.is_empty()) {
            for digest in std::mem::take(&mut logged.pinned) {
                retention.unpin(&digest);
            }
        }
        self.drop_old(outbox);
    }

    /// Forgets commits that no subscriber and no late question needs.
    fn drop_old(&mut self, outbox: &mut Outbox) {
        let Some(lowest) = self.lowest_cursor() else { return };
        let consensus = self.last.2;
        let old = |logged: &Logged| {
            logged.commit.index < lowest
                && logged.commit.header.block_timestamp.saturating_add(self.retention) < consensus
        };
        let first_kept = self.commits.iter().find(|(_, logged)| !old(logged));
        let Some(below) = first_kept.map(|(index, _)| *index) else { return };
        if below.0 < self.kept_from.0 + DROP_RUN {
            return;
        }
        self.commits = self.commits.split_off(&below);
        self.kept_from = below;
        outbox.record(Record::DropCommits { below });
    }

    fn lowest_cursor(&self) -> Option<CommitIndex> {
        self.cursors.values().min().copied()
    }

    /// The largest committed block timestamp.
    pub fn consensus_time(&self) -> Timestamp {
        self.last.2
    }

    /// Timestamp of the highest commit applied; zero before the first one.
    pub fn applied_time(&self) -> Timestamp {
        let applied = self.commits.get(&self.applied.0);
        applied.map_or(Timestamp(0), |logged| logged.commit.header.block_timestamp)
    }

    /// Index of the highest commit logged.
    pub fn logged(&self) -> CommitIndex {
        self.last.0
    }

    /// Index and digest of the highest commit applied.
    pub fn applied(&self) -> (CommitIndex, Digest) {
        self.applied
    }

    /// The next index each subscriber needs.
    pub fn cursors(&self) -> Vec<(String, CommitIndex)> {
        self.cursors.iter().map(|(name, next)| (name.clone(), *next)).collect()
    }
}
