//! `ProofManager`: what can be proposed, and in which order.
//!
//! Identity is the digest, never a part of it. What is ordered stays as a tombstone until it
//! expires, so that a late proof does not bring it back.
//!
//! ```text
//!             proof                  a payload names it
//!   unknown ────────▶ queued ◀──────────────────────────▶ named ── commit ─▶ ordered ─▶ expired
//!                              the payload came to nothing
//! ```
//!
//! A pull takes the highest gas bucket first. Inside a bucket authors take turns: the one of whom
//! the chain has ordered the fewest bytes goes first, with what arrived here first. So an author
//! that offers ten times as much as the others delays its own batches, not theirs. Whoever comes
//! back after having had nothing to propose starts level with the others. A batch that does not fit
//! is skipped and smaller ones follow; the same state gives the same answer.
//!
//! What a stored payload names waits aside, so that a pull costs no more for what its ancestors
//! hold, or for what is ordered already.

mod pull;
#[cfg(test)]
mod tests;

pub(super) use pull::Wanted;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::types::{Author, BatchInfo, Digest, ProofOfStore, Timestamp};

/// Order of arrival here.
type Arrival = u64;

#[derive(Debug)]
enum State {
    /// Can be proposed.
    Queued { proof: Arc<ProofOfStore>, arrival: Arrival },
    /// Ordered by a commit; whether a proof of it is on record here.
    Ordered { proven: bool },
}

impl State {
    /// True if a proof of it is on record here.
    fn is_proven(&self) -> bool {
        !matches!(self, Self::Ordered { proven: false })
    }
}

/// What of one gas bucket can be proposed, by author.
type Bucket = BTreeMap<Author, BTreeMap<Arrival, Digest>>;

/// Exactly what is queued, named or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub proofs: u64,
    pub transactions: u64,
    pub bytes: u64,
}

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct ProofManager {
    entries: BTreeMap<Digest, State>,
    /// Queued and named by no open payload; the highest bucket first.
    buckets: BTreeMap<Reverse<u64>, Bucket>,
    /// Stored payloads that no commit has ordered or passed by, with their batches.
    open: BTreeMap<Digest, Vec<Digest>>,
    /// For each batch that open payloads name, which ones.
    names: BTreeMap<Digest, Vec<Digest>>,
    expirations: BTreeSet<(Timestamp, Digest)>,
    /// Bytes ordered, by author, since the epoch began.
    served: BTreeMap<Author, u64>,
    /// How many of each author are queued.
    backlog: BTreeMap<Author, u64>,
    totals: Totals,
    arrivals: Arrival,
    /// Proofs on record that can be proposed no more.
    expired: Vec<(Timestamp, Digest)>,
}

impl ProofManager {
    /// A verified proof. True if it is new. One that holds more signatures than the one known
    /// takes its place: whoever fetches has more to ask.
    pub fn on_proof(
        &mut self,
        digest: Digest,
        proof: Arc<ProofOfStore>,
        consensus: Timestamp,
    ) -> bool {
        let info = proof.info;
        if info.expiration < consensus {
            return false;
        }
        if let Some(known) = self.entries.get_mut(&digest) {
            if let State::Queued { proof: known, .. } = known
                && known.signatures.len() < proof.signatures.len()
            {
                *known = proof;
            }
            return false;
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.level(info.author);
        *self.backlog.entry(info.author).or_default() += 1;
        self.totals.proofs += 1;
        self.totals.transactions += u64::from(info.count);
        self.totals.bytes += u64::from(info.bytes);
        self.entries.insert(digest, State::Queued { proof, arrival });
        self.expirations.insert((info.expiration, digest));
        if !self.names.contains_key(&digest) {
            self.enqueue(digest, &info, arrival);
        }
        true
    }

    /// An author that had nothing to propose has saved up no turns.
    fn level(&mut self, author: Author) {
        if self.backlog.contains_key(&author) {
            return;
        }
        let served = |author: &Author| self.served.get(author).copied().unwrap_or_default();
        if let Some(least) = self.backlog.keys().map(served).min() {
            let own = self.served.entry(author).or_default();
            *own = (*own).max(least);
        }
    }

    fn enqueue(&mut self, digest: Digest, info: &BatchInfo, arrival: Arrival) {
        let bucket = self.buckets.entry(Reverse(info.gas_bucket_start)).or_default();
        bucket.entry(info.author).or_default().insert(arrival, digest);
    }

    fn dequeue(&mut self, info: &BatchInfo, arrival: Arrival) {
        let at = Reverse(info.gas_bucket_start);
        let Some(bucket) = self.buckets.get_mut(&at) else { return };
        let Some(queue) = bucket.get_mut(&info.author) else { return };
        queue.remove(&arrival);
        if queue.is_empty() {
            bucket.remove(&info.author);
            if bucket.is_empty() {
                self.buckets.remove(&at);
            }
        }
    }

    /// A payload is stored: what it names waits aside.
    pub fn on_payload(&mut self, payload: Digest, batches: &[Digest]) {
        if self.open.contains_key(&payload) {
            return;
        }
        for digest in batches {
            self.names.entry(*digest).or_default().push(payload);
            if let Some((info, arrival)) = self.queued(digest) {
                self.dequeue(&info, arrival);
            }
        }
        self.open.insert(payload, batches.to_vec());
    }

    /// A payload was ordered, or can be no more: what is not ordered can be proposed again.
    pub fn on_payload_over(&mut self, payload: &Digest) {
        for digest in self.open.remove(payload).unwrap_or_default() {
            let Some(names) = self.names.get_mut(&digest) else { continue };
            names.retain(|name| name != payload);
            if names.is_empty() {
                self.names.remove(&digest);
                if let Some((info, arrival)) = self.queued(&digest) {
                    self.enqueue(digest, &info, arrival);
                }
            }
        }
    }

    fn queued(&self, digest: &Digest) -> Option<(BatchInfo, Arrival)> {
        match self.entries.get(digest) {
            Some(State::Queued { proof, arrival }) => Some((proof.info, *arrival)),
            _ => None,
        }
    }

    /// Ordered batches leave the queue, expired ones leave altogether. Returns how many left the
    /// queue.
    pub fn on_commit(&mut self, ordered: &[(Digest, BatchInfo)], consensus: Timestamp) -> u64 {
        let mut freed = 0;
        for (digest, info) in ordered {
            *self.served.entry(info.author).or_default() += info.charge();
            let known = self.entries.get_mut(digest).map(|state| {
                // Its expiration is known too.
                let proven = state.is_proven();
                std::mem::replace(state, State::Ordered { proven })
            });
            match known {
                Some(State::Queued { proof, arrival }) => {
                    self.leave(&proof.info, arrival);
                    freed += 1;
                }
                Some(State::Ordered { .. }) => {}
                None if info.expiration >= consensus => {
                    self.entries.insert(*digest, State::Ordered { proven: false });
                    self.expirations.insert((info.expiration, *digest));
                }
                None => {}
            }
        }
        while let Some(&(expiration, digest)) = self.expirations.first() {
            if expiration >= consensus {
                break;
            }
            self.expirations.remove(&(expiration, digest));
            let Some(state) = self.entries.remove(&digest) else { continue };
            if state.is_proven() {
                self.expired.push((expiration, digest));
            }
            if let State::Queued { proof, arrival } = state {
                self.leave(&proof.info, arrival);
                freed += 1;
            }
        }
        freed
    }

    /// An entry is out of what can be proposed.
    fn leave(&mut self, info: &BatchInfo, arrival: Arrival) {
        self.dequeue(info, arrival);
        self.totals.proofs -= 1;
        self.totals.transactions -= u64::from(info.count);
        self.totals.bytes -= u64::from(info.bytes);
        let left = self.backlog.entry(info.author).or_default();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.backlog.remove(&info.author);
        }
    }

    /// The epoch is over: nothing of it can be proposed any more. Returns how much could.
    pub fn on_close(&mut self) -> u64 {
        let freed = self.totals.proofs;
        let is_proven = |digest| self.entries.get(digest).is_some_and(State::is_proven);
        let proven = self.expirations.iter().filter(|(_, digest)| is_proven(digest));
        let expired = self.expired.iter().chain(proven).copied().collect();
        *self = Self { arrivals: self.arrivals, expired, ..Self::default() };
        freed
    }

    /// True if a commit ordered it and it has not expired.
    pub fn is_ordered(&self, digest: &Digest) -> bool {
        matches!(self.entries.get(digest), Some(State::Ordered { .. }))
    }

    /// True if a proof of it is known, or a commit that ordered it, and it has not expired.
    pub fn knows(&self, digest: &Digest) -> bool {
        self.entries.contains_key(digest)
    }

    /// Proofs on record that can be proposed no more.
    pub fn take_expired(&mut self) -> Vec<(Timestamp, Digest)> {
        std::mem::take(&mut self.expired)
    }

    /// Every proof that could be proposed, named by an open payload or not.
    pub fn proofs(&self) -> impl Iterator<Item = (Digest, Arc<ProofOfStore>)> {
        self.entries.iter().filter_map(|(digest, state)| match state {
            State::Queued { proof, .. } => Some((*digest, Arc::clone(proof))),
            State::Ordered { .. } => None,
        })
    }

    /// What could be proposed.
    pub fn totals(&self) -> Totals {
        self.totals
    }
}
