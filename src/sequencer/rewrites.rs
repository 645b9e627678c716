//! Committed evidence: what everybody skips.
//!
//! Content is skipped at execution in a commit if evidence for its digest is committed that names
//! an index at or below that commit's. Whether a node has heard of the evidence when it executes
//! the commit decides nothing: who executed before is told by [`Delivery::Rewritten`], before the
//! commit that carries the evidence, and rebuilds.
//!
//! Derived from payloads of logged commits and nothing else, so every validator that has logged
//! the same commits skips the same.
//!
//! [`Delivery::Rewritten`]: super::port::Delivery::Rewritten

use std::collections::BTreeMap;
use std::sync::Arc;

use super::outbox::Outbox;
use super::port::Record;
use crate::types::{CommitIndex, Digest, UnavailabilityProof};

/// A content in a commit.
type Named = (CommitIndex, Digest);

/// What is skipped, for whoever executes: the lowest commit from which on each content is.
pub type Skips = BTreeMap<Digest, CommitIndex>;

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct Rewrites {
    by_carrier: BTreeMap<CommitIndex, BTreeMap<Named, Arc<UnavailabilityProof>>>,
    skips: Arc<Skips>,
}

impl Rewrites {
    /// Evidence of an earlier life.
    pub fn on_recovered(&mut self, by: CommitIndex, proof: Arc<UnavailabilityProof>) {
        self.by_carrier.entry(by).or_default().insert((proof.index, proof.digest), proof);
        self.refresh();
    }

    /// A logged commit carries evidence. Returns what is skipped because of it from now on.
    pub fn on_evidence(
        &mut self,
        outbox: &mut Outbox,
        by: CommitIndex,
        evidence: &[UnavailabilityProof],
    ) -> Vec<Digest> {
        let mut new = Vec::new();
        for proof in evidence {
            let carried = self.by_carrier.entry(by).or_default();
            let named = (proof.index, proof.digest);
            if carried.contains_key(&named) {
                continue;
            }
            let proof = Arc::new(proof.clone());
            outbox.record(Record::Rewritten { by, proof: Arc::clone(&proof) });
            carried.insert(named, proof);
            new.push(named.1);
        }
        if !new.is_empty() {
            self.refresh();
        }
        new
    }

    /// True if a commit at this index skips the content.
    pub fn skips(&self, digest: &Digest, at: CommitIndex) -> bool {
        self.skips.get(digest).is_some_and(|from| *from <= at)
    }

    /// What the commit at this index rewrites, in order; the first `told` left out.
    pub fn carried(&self, by: CommitIndex, told: usize) -> Option<Named> {
        self.by_carrier.get(&by)?.keys().nth(told).copied()
    }

    /// True if evidence for this content in this commit is committed.
    pub fn is_committed(&self, index: CommitIndex, digest: &Digest) -> bool {
        self.skips(digest, index)
    }

    /// For whoever executes.
    pub fn shared(&self) -> &Arc<Skips> {
        &self.skips
    }

    /// Committed evidence, the newest last.
    pub fn evidence(&self) -> impl Iterator<Item = &Arc<UnavailabilityProof>> {
        self.by_carrier.values().flat_map(BTreeMap::values)
    }

    /// Commits below this are not kept: their batches have expired and nobody executes them here.
    pub fn keep_from(&mut self, outbox: &mut Outbox, below: CommitIndex) {
        let kept = self.by_carrier.split_off(&below);
        let dropped = std::mem::replace(&mut self.by_carrier, kept);
        for (by, named) in &dropped {
            for (index, digest) in named.keys().copied() {
                outbox.record(Record::DropRewritten { by: *by, digest, index });
            }
        }
        if !dropped.is_empty() {
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        let mut skips = Skips::new();
        for (index, digest) in self.by_carrier.values().flat_map(BTreeMap::keys) {
            let from = skips.entry(*digest).or_insert(*index);
            *from = (*from).min(*index);
        }
        self.skips = Arc::new(skips);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn evidence_is_in_force_with_the_commit_that_carries_it_and_recorded_once() {
        let (index, digest) = (CommitIndex(3), Digest([7; 32]));
        let proof = UnavailabilityProof { epoch: Epoch(0), index, digest, signatures: Vec::new() };
        let (mut rewrites, mut outbox) = (Rewrites::default(), Outbox::default());
        let mut carry = |rewrites: &mut Rewrites| {
            rewrites.on_evidence(&mut outbox, CommitIndex(9), std::slice::from_ref(&proof))
        };
        assert_eq!(carry(&mut rewrites), [digest]);
        assert!(rewrites.skips(&digest, index) && rewrites.skips(&digest, CommitIndex(8)));
        assert!(!rewrites.skips(&digest, CommitIndex(2)), "it was there before");
        assert_eq!(carry(&mut rewrites), []);
        assert!(matches!(outbox.records[..], [Record::Rewritten { by: CommitIndex(9), .. }]));
        // What is not kept is skipped no more, and neither is it on disk.
        rewrites.keep_from(&mut outbox, CommitIndex(10));
        assert!(!rewrites.skips(&digest, CommitIndex(8)));
        assert!(matches!(outbox.records[1..], [Record::DropRewritten { .. }]));
    }
}
