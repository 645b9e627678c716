//! The checker's books on epochs, state sync and what subscribers should have.

use std::collections::{BTreeMap, BTreeSet};

use super::checker::{Books, Checker};
use crate::crypto::Signer;
use crate::sequencer::port::Record;
use crate::types::{
    Commit, Component, EpochReceipt, Membership, PayloadHeader, ProofOfStore, SignedBatchInfo,
    Timestamp,
};

/// How long a batch may take to be certified when all is well, in microseconds.
const PATIENCE: u64 = 10_000_000;

impl Checker {
    /// How many records of a kind a validator has made durable.
    pub fn records(&self, node: usize, kind: &'static str) -> u64 {
        self.records.get(&(node, kind)).copied().unwrap_or_default()
    }

    /// The highest commit that a validator has applied or passed over, durably.
    pub(super) fn applied(&self, node: usize) -> u64 {
        self.books[node].applied
    }

    /// Where subscribers stand, before what else the group says. All of a group is one moment: what
    /// it drops, nobody may need both before and after it.
    pub(super) fn on_cursors(&mut self, node: usize, records: &[Record]) {
        let Books { cursors, pinned_from, .. } = &mut self.books[node];
        let lowest =
            |cursors: &BTreeMap<String, u64>| cursors.values().min().copied().unwrap_or(u64::MAX);
        let before = lowest(cursors);
        for record in records {
            match record {
                Record::Cursor { subscriber, next } => {
                    cursors.insert(subscriber.clone(), next.0);
                }
                // From then on it pins nothing.
                Record::Lagged { subscriber, .. } | Record::Unsubscribed { subscriber } => {
                    cursors.remove(subscriber);
                }
                _ => {}
            }
        }
        *pinned_from = before.max(lowest(cursors));
    }

    /// Own batches that have waited for a proof for too long.
    pub(super) fn stuck(&self, node: usize, now: u64) -> usize {
        let books = &self.books[node];
        let open = books.uncertified.values();
        open.filter(|(since, end)| since + PATIENCE < now && *end > books.consensus).count()
    }

    /// True if whatever a commit ordered may be gone everywhere by now.
    pub(super) fn is_over_everywhere(&self, index: u64) -> bool {
        let parameters = &self.genesis.parameters;
        let kept = parameters.batch_lifetime_micros + parameters.grace_micros;
        let time = |commit: &Commit| commit.header.block_timestamp.0;
        let (first, last) = (self.finalised.get(index as usize - 1), self.finalised.last());
        first.zip(last).is_some_and(|(first, last)| time(first) + kept < time(last))
    }

    /// What tells headers apart.
    pub(super) fn header_hash(&self, header: &PayloadHeader) -> u64 {
        let digest = header.digest(&self.chain);
        u64::from_le_bytes(std::array::from_fn(|i| digest.0[i]))
    }

    /// What an indexer has that took every commit up to this one.
    pub(super) fn prefix(&self, index: u64) -> u64 {
        // Beyond what is finalised there is nothing to have.
        self.prefixes.get(index as usize).copied().unwrap_or(u64::MAX)
    }

    /// Distinct members with more than two thirds of the power, each signature real.
    pub(super) fn is_proof(&self, proof: &ProofOfStore) -> bool {
        let Some(planned) = self.plan.get(proof.info.epoch) else { return false };
        let members = planned.committee.members();
        let digest = proof.info.digest(&self.chain);
        let signers: BTreeSet<u16> = proof.signatures.iter().map(|part| part.signer).collect();
        let mut power = 0_u128;
        for part in &proof.signatures {
            let Some(member) = members.get(usize::from(part.signer)) else { return false };
            let signed =
                SignedBatchInfo { digest, signer: member.author, signature: part.signature };
            if !self.keys.verify_batch(&planned.scope, &signed) {
                return false;
            }
            power += u128::from(member.power);
        }
        let total: u128 = members.iter().map(|member| u128::from(member.power)).sum();
        signers.len() == proof.signatures.len() && power * 3 > total * 2
    }

    /// An epoch is over, durably: everything up to its last commit is applied or passed over.
    pub(super) fn on_epoch_end(&mut self, node: usize, receipt: &EpochReceipt) {
        let applied = self.books[node].applied;
        let acked = receipt.acks.iter().zip(Component::ALL).all(|(ack, component)| {
            ack.component == component && ack.watermark == receipt.final_index
        });
        let before = self.books[node].closed.insert(receipt.epoch, receipt.clone());
        self.books[node].ended.insert(receipt.epoch);
        let whole = acked && applied == receipt.final_index.0;
        self.require(whole, "an epoch ends with its last commit, applied by all", || {
            format!("node {node} at {applied}: {receipt:?}")
        });
        self.require(before.is_none(), "an epoch ends once", || format!("{node}: {receipt:?}"));
    }

    /// The host got the receipt of an epoch.
    pub(super) fn on_epoch_receipt(
        &mut self,
        node: usize,
        receipt: &EpochReceipt,
        last: Option<u64>,
    ) {
        let known = self.books[node].closed.get(&receipt.epoch);
        let known = !self.honest[node] || known == Some(receipt);
        self.require(known, "an epoch's receipt is durable, and always the same", || {
            format!("node {node}: {receipt:?}")
        });
        let end = receipt.final_index.0;
        let fits = last == Some(end) || self.was_skipped_to(node, end);
        self.require(fits, "an epoch ends where it was closed", || {
            format!("node {node}: {receipt:?}, not {last:?}")
        });
    }

    /// The next epoch begins, after the end of the one before.
    pub(super) fn on_epoch(&mut self, node: usize, membership: &Membership) {
        let Books { ended, epoch, .. } = &mut self.books[node];
        let before = std::mem::replace(epoch, membership.epoch);
        // Former epochs are forgotten in records of the same kind.
        let next = before < membership.epoch && ended.contains(&before);
        let fits = before == membership.epoch || next;
        self.require(fits, "epochs follow each other", || format!("node {node}: {membership:?}"));
        if membership.committee.index_of(&self.authors[node]).is_none() {
            // It offers nothing again; a crash may take the words that say so.
            self.on_excused(node);
        }
    }

    /// State sync passed over commits.
    pub(super) fn on_skip(&mut self, node: usize, header: &PayloadHeader) {
        let index = header.height.0;
        let known = self.finalised.get(index as usize - 1).is_some_and(|c| c.header == *header);
        self.require(known, "only what is finalised is skipped to", || format!("{header:?}"));
        let books = &mut self.books[node];
        books.skips.insert(index);
        books.logged = books.logged.max(index);
        books.applied = index;
        books.consensus = books.consensus.max(header.block_timestamp.0);
    }

    /// True if state sync led exactly there.
    pub(super) fn was_skipped_to(&self, node: usize, index: u64) -> bool {
        self.books[node].skips.contains(&index)
    }

    /// These are the client's again.
    pub(super) fn on_returned(&mut self, ids: &[u64]) {
        for id in ids {
            self.accepted.remove(id);
        }
    }

    /// What this validator had accepted, it may not know how it ended.
    pub(super) fn on_excused(&mut self, node: usize) {
        self.accepted.retain(|_, (_, at)| *at != node);
    }

    /// Content is gone from a disk, against every promise.
    pub(super) fn on_lost(&mut self, node: usize, records: &[Record]) {
        for record in records {
            if let Record::DropBatch { digest, .. } | Record::DropPayload { digest, .. } = record {
                self.books[node].forget(digest);
                self.lost.insert(*digest);
            }
        }
    }

    /// A disk is gone with all that was on it. Among batches that may still be ordered, one digest
    /// per slot holds all the same: whatever was signed before has expired when it signs again.
    pub(super) fn on_disk_lost(&mut self, node: usize, until: Timestamp) {
        let mut books = Books::default();
        (books.silent_until, books.wiped) = (Some(until.0), true);
        self.books[node] = books;
        self.on_excused(node);
    }

    /// At the end everybody has skipped the same.
    pub(super) fn versions_differ(&self) -> bool {
        let mut versions: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for (node, (index, version)) in &self.last_states {
            if self.honest[*node] {
                versions.entry(*index).or_default().insert(*version);
            }
        }
        versions.values().any(|versions| versions.len() > 1)
    }
}
