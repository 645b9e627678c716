//! `ProofManager`: what can be proposed, and in which order.
//!
//! Identity is the digest, never a part of it. What is ordered stays as a tombstone until it
//! expires, so that a late proof does not bring it back. A pull takes the highest gas bucket first
//! and, inside a bucket, what arrived here first; a batch that does not fit is skipped and smaller
//! ones follow; the same state gives the same answer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::port::PayloadLimits;
use crate::types::{BatchInfo, Digest, ProofOfStore, Timestamp};

/// What a queue entry weighs in an encoded payload beyond its signatures.
const SIGNATURE_BYTES: u64 = 66;

/// A pull looks at no more than this many entries beyond those it takes: its cost is bounded
/// although many entries may be excluded or too large.
const SKIPPED_MAX: usize = 8192;

#[derive(Debug)]
enum State {
    /// Can be proposed; its place in the order.
    Queued { proof: Arc<ProofOfStore>, arrival: u64 },
    /// Ordered by a commit; whether a proof of it is on record here.
    Ordered { proven: bool },
}

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct ProofManager {
    entries: BTreeMap<Digest, State>,
    queue: BTreeMap<(Reverse<u64>, u64), Digest>,
    expirations: BTreeSet<(Timestamp, Digest)>,
    arrivals: u64,
    /// Proofs on record that can be proposed no more.
    expired: Vec<(Timestamp, Digest)>,
}

impl ProofManager {
    /// A verified proof. True if it is new.
    pub fn on_proof(
        &mut self,
        digest: Digest,
        proof: Arc<ProofOfStore>,
        consensus: Timestamp,
    ) -> bool {
        let info = proof.info;
        if info.expiration < consensus || self.entries.contains_key(&digest) {
            return false;
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.entries.insert(digest, State::Queued { proof, arrival });
        self.queue.insert((Reverse(info.gas_bucket_start), arrival), digest);
        self.expirations.insert((info.expiration, digest));
        true
    }

    /// The best payload within the limits, leaving out what `excluded` names.
    pub fn pull(
        &self,
        limits: &PayloadLimits,
        payload_bytes_max: u64,
        block_timestamp: Timestamp,
        excluded: &BTreeSet<Digest>,
    ) -> Vec<Arc<ProofOfStore>> {
        let mut taken = Vec::new();
        let (mut transactions, mut batch_bytes, mut encoded) = (0_u64, 0_u64, 0_u64);
        let mut skipped = 0;
        for digest in self.queue.values() {
            if taken.len() as u64 >= limits.batches_max || skipped > SKIPPED_MAX {
                break;
            }
            let Some(State::Queued { proof, .. }) = self.entries.get(digest) else {
                unreachable!("{digest:?} is queued and has no proof")
            };
            let info = &proof.info;
            let size = BatchInfo::ENCODED_BYTES as u64
                + 4
                + SIGNATURE_BYTES * proof.signatures.len() as u64;
            let fits = transactions + u64::from(info.count) <= limits.transactions_max
                && batch_bytes + u64::from(info.bytes) <= limits.batch_bytes_max
                && encoded + size <= payload_bytes_max;
            if !fits || info.expiration < block_timestamp || excluded.contains(digest) {
                skipped += 1;
                continue;
            }
            transactions += u64::from(info.count);
            batch_bytes += u64::from(info.bytes);
            encoded += size;
            taken.push(Arc::clone(proof));
        }
        taken
    }

    /// Ordered batches leave the queue, expired ones leave altogether. Returns how many left the
    /// queue.
    pub fn on_commit(&mut self, ordered: &[(Digest, BatchInfo)], consensus: Timestamp) -> u64 {
        let mut freed = 0;
        for (digest, info) in ordered {
            freed += u64::from(self.dequeue(digest));
            if info.expiration >= consensus {
                let proven = self.is_proven(digest);
                self.entries.insert(*digest, State::Ordered { proven });
                self.expirations.insert((info.expiration, *digest));
            }
        }
        while let Some(&(expiration, digest)) = self.expirations.first() {
            if expiration >= consensus {
                break;
            }
            self.expirations.remove(&(expiration, digest));
            if self.is_proven(&digest) {
                self.expired.push((expiration, digest));
            }
            freed += u64::from(self.dequeue(&digest));
            self.entries.remove(&digest);
        }
        freed
    }

    fn dequeue(&mut self, digest: &Digest) -> bool {
        let Some(State::Queued { proof, arrival }) = self.entries.get(digest) else {
            return false;
        };
        self.queue.remove(&(Reverse(proof.info.gas_bucket_start), *arrival)).is_some()
    }

    /// The epoch is over: nothing of it can be proposed any more. Returns how much could.
    pub fn on_close(&mut self) -> u64 {
        let freed = self.queue.len() as u64;
        let proven = self.expirations.iter().filter(|(_, digest)| self.is_proven(digest));
        let expired = self.expired.iter().chain(proven).copied().collect();
        *self = Self { arrivals: self.arrivals, expired, ..Self::default() };
        freed
    }

    /// True if a commit ordered it and it has not expired.
    pub fn is_ordered(&self, digest: &Digest) -> bool {
        matches!(self.entries.get(digest), Some(State::Ordered { .. }))
    }

    fn is_proven(&self, digest: &Digest) -> bool {
        let state = self.entries.get(digest);
        matches!(state, Some(State::Queued { .. } | State::Ordered { proven: true }))
    }

    /// Proofs on record that can be proposed no more.
    pub fn take_expired(&mut self) -> Vec<(Timestamp, Digest)> {
        std::mem::take(&mut self.expired)
    }

    /// What can be proposed.
    pub fn queued(&self) -> Vec<(Digest, Arc<ProofOfStore>)> {
        let proof = |digest: &Digest| match self.entries.get(digest) {
            Some(State::Queued { proof, .. }) => Some((*digest, Arc::clone(proof))),
            _ => None,
        };
        self.queue.values().filter_map(proof).collect()
    }

    /// How many proofs could be proposed.
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}
