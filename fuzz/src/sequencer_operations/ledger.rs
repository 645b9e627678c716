//! The model of the commit log, of retention and of payloads.

use std::collections::BTreeSet;

use quorum_store::sequencer::port::{
    CommitError, Delivery, PayloadLimits, PullRequest, Record, RequestId, VerifyRequest,
};
use quorum_store::sequencer::status::SubscriberStatus;
use quorum_store::types::{Commit, CommitIndex, Digest, Payload, PayloadHeader};

use super::model::{Asked, Model};
use crate::world;

impl Model {
    /// What the answer to a commit must be: `Ok` if it is, or becomes, part of the log.
    pub fn judge(&self, commit: &Commit) -> Result<(), CommitError> {
        let index = commit.index;
        if commit.header.height != index {
            return Err(CommitError::Height(index));
        }
        let length = self.log.len() as u64;
        if let Some(at) = index.0.checked_sub(1).filter(|at| *at < length) {
            let same = self.log[at as usize].header == commit.header;
            return if same { Ok(()) } else { Err(CommitError::Conflict(index)) };
        }
        if index.0 == 0 {
            return Err(CommitError::Pruned(index));
        }
        if index.0 != length + 1 {
            return Err(CommitError::Gap { found: index, expected: CommitIndex(length + 1) });
        }
        if commit.header.parent != self.tip() {
            return Err(CommitError::Conflict(CommitIndex(length)));
        }
        if commit.header.block_timestamp < self.consensus() {
            return Err(CommitError::TimeWentBack(index));
        }
        Ok(())
    }

    /// Digest of the highest commit.
    pub fn tip(&self) -> Digest {
        let genesis = || world::genesis().header().digest(&world::chain());
        self.log_digests.last().copied().unwrap_or_else(genesis)
    }

    /// A commit becomes part of the log.
    pub fn on_logged(&mut self, commit: Commit) {
        if commit.index.0 <= self.log.len() as u64 {
            return;
        }
        if self.lowest_cursor().is_some_and(|lowest| commit.index >= lowest) {
            self.pinned.insert(commit.index);
        }
        self.log_digests.push(commit.header.digest(&world::chain()));
        self.log.push(commit);
    }

    /// Subscribers moved, came or went.
    pub fn on_cursors(&mut self, subscribers: Vec<SubscriberStatus>) {
        let before = std::mem::take(&mut self.cursors);
        for SubscriberStatus { name, next, lagged, .. } in subscribers {
            let before = before.get(&name);
            assert!(before.is_none_or(|before| *before <= next), "a cursor went back");
            if !lagged {
                self.cursors.insert(name, next);
            }
        }
        match self.lowest_cursor() {
            Some(lowest) => self.pinned = self.pinned.split_off(&lowest),
            None => self.pinned.clear(),
        }
    }

    /// An attached subscriber is told of a commit.
    pub fn on_delivered(&mut self, subscription: RequestId, delivery: Delivery) {
        if self.detached.contains(&subscription) {
            // It was on its way when the host dropped the subscription.
            return;
        }
        let Some((name, next)) = self.attached.get_mut(&subscription) else {
            panic!("{delivery:?} for nobody")
        };
        let Delivery::Commit(commit) = delivery else { panic!("{delivery:?}: nobody skipped") };
        assert_eq!(commit.index, *next, "{name} is told out of order");
        assert_eq!(commit, self.log[next.0 as usize - 1], "{name} is told of another commit");
        assert!(self.disk.receipts.contains_key(next), "{name} is told before it is applied");
        *next = next.next();
    }

    /// The log is applied up to here.
    pub fn on_applied(&mut self, applied: u64) {
        assert!(applied >= self.applied, "applied went back to {applied}");
        assert!(applied <= self.log.len() as u64, "{applied} is applied and not logged");
        for at in self.applied..applied {
            let digest = self.log_digests[at as usize];
            assert!(self.payloads.contains_key(&digest), "{digest:?} is applied without content");
        }
        self.applied = applied;
    }

    /// Content is deleted, in the step that was just taken.
    pub fn check_drop(&self, record: &Record) {
        let (digest, expiration) = match record {
            Record::DropBatch { digest, expiration }
            | Record::DropPayload { digest, expiration } => (*digest, *expiration),
            _ => return,
        };
        assert!(self.is_over(expiration), "{digest:?} goes too early");
        for index in &self.pinned {
            let at = self.log_digests[index.0 as usize - 1];
            let batches = self.payloads.get(&at).map(|known| &known.batches[..]);
            let header = self.log[index.0 as usize - 1].header;
            let skipped = expiration < header.block_timestamp && digest != at;
            let needed = at == digest || batches.unwrap_or_default().contains(&digest);
            assert!(!needed || skipped, "{digest:?} goes while {index:?} needs it");
        }
    }

    // ---- payloads ------------------------------------------------------------------------------

    /// Batches that a payload on `parent` must not order again.
    pub fn ordered_below(&self, parent: Digest) -> BTreeSet<Digest> {
        let mut below: BTreeSet<Digest> = BTreeSet::new();
        for digest in self.log_digests.iter().take(self.applied as usize) {
            below.extend(self.payloads[digest].batches.iter().copied());
        }
        let mut at = parent;
        while let Some(known) = self.payloads.get(&at) {
            below.extend(known.batches.iter().copied());
            at = known.payload.header.parent;
        }
        below
    }

    /// Checks a proposal of ours.
    pub fn check_proposal(request: &PullRequest, forbidden: &BTreeSet<Digest>, payload: &Payload) {
        let PayloadHeader { epoch, height, parent, block_timestamp, content_root } = payload.header;
        assert_eq!((epoch, height), (request.epoch, request.height));
        assert_eq!((parent, block_timestamp), (request.parent, request.block_timestamp));
        assert_eq!(content_root, payload.content.root());
        let chain = world::chain();
        let mut seen = BTreeSet::new();
        let PayloadLimits { transactions_max, batch_bytes_max, batches_max } = request.limits;
        let (mut transactions, mut bytes) = (0, 0);
        for info in payload.content.batches() {
            let digest = info.digest(&chain);
            assert!(seen.insert(digest), "{digest:?} is proposed twice");
            assert!(!forbidden.contains(&digest), "{digest:?} is ordered already, or excluded");
            assert!(info.expiration >= block_timestamp, "{digest:?} is expired");
            transactions += u64::from(info.count);
            bytes += u64::from(info.bytes);
        }
        assert!(transactions <= transactions_max && bytes <= batch_bytes_max);
        assert!(seen.len() as u64 <= batches_max);
        let encoded = payload.encode().len();
        assert!(encoded <= world::genesis().parameters.payload_bytes_max as usize, "{encoded}");
    }

    /// Whether a payload may be called valid on this parent.
    pub fn may_verify(&self, request: &VerifyRequest) -> bool {
        let Some(known) = self.payloads.get(&request.digest) else { return false };
        let header = known.payload.header;
        let ours = self.proposed.contains(&request.digest);
        let ordered = self.log_digests.contains(&request.digest);
        let stands = (known.valid && header.epoch.0 == 0) || ours || ordered;
        let fits = request.parent.is_none_or(|parent| {
            header.parent == parent.digest
                && Some(header.height.0) == parent.height.0.checked_add(1)
                && header.block_timestamp >= parent.block_timestamp
        });
        stands && fits
    }

    /// A request is answered: once.
    pub fn answer(&mut self, id: RequestId) -> Asked {
        let asked = self.asked.remove(&id);
        asked.unwrap_or_else(|| panic!("{id:?} is answered twice, or was never asked"))
    }
}
