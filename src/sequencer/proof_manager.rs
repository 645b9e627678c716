//! `ProofManager`: what can be proposed, and in which order.
//!
//! Identity is the digest, never a part of it. What is ordered stays as a tombstone until it
//! expires, so that a late proof does not bring it back.
//!
//! ```text
//!             proof                  a payload names it
//!   unknown ────────▶ queued ◀──────────────────────────▶ named ── commit ─▶ ordered ─▶ expired
//!      │               ▲       the payload came to nothing               ▲
//!      └──▶ unproven ──┴──────────── an optimistic or inline batch ──────┘
//!   held    (ripe once
//!   here     old enough)
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
mod unproven;

pub(super) use pull::{Optimistic, Taken, Wanted};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::types::{Author, BatchInfo, Digest, ProofOfStore, Timestamp};

/// Order of arrival here.
type Arrival = u64;

#[derive(Debug)]
enum State {
    /// Held here in its author's slot; no proof is known.
    Unproven { info: BatchInfo, arrival: Arrival, since: Duration, ripe: bool },
    /// Can be proposed.
    Queued { proof: Arc<ProofOfStore>, arrival: Arrival },
    /// Ordered by a commit; whether a proof of it is on record here.
    Ordered { proven: bool },
}

impl State {
    /// True if a proof of it is on record here.
    fn is_proven(&self) -> bool {
        matches!(self, Self::Queued { .. } | Self::Ordered { proven: true })
    }

    /// What waits to be ordered, and when it arrived.
    fn waiting(&self) -> Option<(BatchInfo, Arrival)> {
        match self {
            Self::Unproven { info, arrival, .. } => Some((*info, *arrival)),
            Self::Queued { proof, arrival } => Some((proof.info, *arrival)),
            Self::Ordered { .. } => None,
        }
    }
}

/// What of one gas bucket can be proposed, by author.
type Bucket = BTreeMap<Author, BTreeMap<Arrival, Digest>>;

/// What can be proposed; the highest bucket first.
type Buckets = BTreeMap<Reverse<u64>, Bucket>;

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
    /// Queued and named by no open payload.
    buckets: Buckets,
    /// Ripe, without a proof, and named by no open payload.
    ripe: Buckets,
    /// Unproven ones that are not ripe, by when they arrived; with some that have left since.
    unripe: VecDeque<(Duration, Digest)>,
    /// How many are ripe, named or not.
    ripe_count: u64,
    /// Stored payloads that no commit has ordered or passed by, with their batches.
    open: BTreeMap<Digest, Vec<Digest>>,
    /// For each batch that open payloads name, which ones.
    names: BTreeMap<Digest, Vec<Digest>>,
    expirations: BTreeSet<(Timestamp, Digest)>,
    /// Bytes ordered, by author, since the epoch began.
    served: BTreeMap<Author, u64>,
    /// How many of each author wait to be ordered.
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
        if let Some(State::Queued { proof: known, .. }) = self.entries.get_mut(&digest) {
            if known.signatures.len() < proof.signatures.len() {
                *known = proof;
            }
            return false;
        }
        let arrival = match self.entries.get(&digest) {
            None => self.arrive(info.author),
            // It has waited since its batch arrived.
            Some(State::Unproven { arrival, .. }) => {
                let arrival = *arrival;
                self.forget_unproven(&digest);
                arrival
            }
            Some(_) => return false,
        };
        self.totals.proofs += 1;
        self.totals.transactions += u64::from(info.count);
        self.totals.bytes += u64::from(info.bytes);
        self.entries.insert(digest, State::Queued { proof, arrival });
        self.expirations.insert((info.expiration, digest));
        if !self.names.contains_key(&digest) {
            enqueue(&mut self.buckets, digest, &info, arrival);
        }
        true
    }

    /// One more of this author waits.
    fn arrive(&mut self, author: Author) -> Arrival {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.level(author);
        *self.backlog.entry(author).or_default() += 1;
        arrival
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

    /// A payload is stored: what it names waits aside.
    pub fn on_payload(&mut self, payload: Digest, batches: &[Digest]) {
        if self.open.contains_key(&payload) {
            return;
        }
        for digest in batches {
            self.names.entry(*digest).or_default().push(payload);
            self.stand_aside(digest);
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
                self.stand_in_line(digest);
            }
        }
    }

    /// The queue that an entry stands in while no open payload names it.
    fn line(&mut self, digest: &Digest) -> Option<(&mut Buckets, BatchInfo, Arrival)> {
        let state = self.entries.get(digest)?;
        let (info, arrival) = state.waiting()?;
        let line = match state {
            State::Queued { .. } => &mut self.buckets,
            State::Unproven { ripe: true, .. } => &mut self.ripe,
            _ => return None,
        };
        Some((line, info, arrival))
    }

    fn stand_aside(&mut self, digest: &Digest) {
        if let Some((line, info, arrival)) = self.line(digest) {
            dequeue(line, &info, arrival);
        }
    }

    fn stand_in_line(&mut self, digest: Digest) {
        if let Some((line, info, arrival)) = self.line(&digest) {
            enqueue(line, digest, &info, arrival);
        }
    }

    /// Ordered batches leave the queue, expired ones leave altogether. Returns how many left the
    /// queue.
    pub fn on_commit(&mut self, ordered: &[(Digest, BatchInfo)], consensus: Timestamp) -> u64 {
        let mut freed = 0;
        for (digest, info) in ordered {
            *self.served.entry(info.author).or_default() += info.charge();
            freed += self.on_ordered(*digest, info, consensus);
        }
        while let Some(&(expiration, digest)) = self.expirations.first() {
            if expiration >= consensus {
                break;
            }
            self.expirations.remove(&(expiration, digest));
            self.leave(&digest);
            let Some(state) = self.entries.remove(&digest) else { continue };
            if state.is_proven() {
                self.expired.push((expiration, digest));
            }
            freed += u64::from(state.waiting().is_some());
        }
        freed
    }

    /// A batch that its proposer brought along is ordered. Whose turn it was does not change: its
    /// author is the proposer's word.
    pub fn on_inline_commit(
        &mut self,
        ordered: &[(Digest, BatchInfo)],
        consensus: Timestamp,
    ) -> u64 {
        let order =
            |(digest, info): &(Digest, BatchInfo)| self.on_ordered(*digest, info, consensus);
        ordered.iter().map(order).sum()
    }

    fn on_ordered(&mut self, digest: Digest, info: &BatchInfo, consensus: Timestamp) -> u64 {
        self.leave(&digest);
        let Some(state) = self.entries.get_mut(&digest) else {
            if info.expiration >= consensus {
                self.entries.insert(digest, State::Ordered { proven: false });
                self.expirations.insert((info.expiration, digest));
            }
            return 0;
        };
        // Its expiration is known too.
        let proven = state.is_proven();
        let before = std::mem::replace(state, State::Ordered { proven });
        u64::from(before.waiting().is_some())
    }

    /// An entry is about to be out of what can be proposed.
    fn leave(&mut self, digest: &Digest) {
        self.stand_aside(digest);
        let Some(state) = self.entries.get(digest) else { return };
        let Some((info, _)) = state.waiting() else { return };
        match state {
            State::Queued { .. } => {
                self.totals.proofs -= 1;
                self.totals.transactions -= u64::from(info.count);
                self.totals.bytes -= u64::from(info.bytes);
            }
            State::Unproven { ripe: true, .. } => self.ripe_count -= 1,
            _ => {}
        }
        let left = self.backlog.entry(info.author).or_default();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.backlog.remove(&info.author);
        }
    }

    /// The epoch is over: nothing of it can be proposed any more. Returns how much could.
    pub fn on_close(&mut self) -> u64 {
        let freed = self.entries.values().filter(|state| state.waiting().is_some()).count() as u64;
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
            _ => None,
        })
    }

    /// What could be proposed with its proof.
    pub fn totals(&self) -> Totals {
        self.totals
    }
}

fn enqueue(line: &mut Buckets, digest: Digest, info: &BatchInfo, arrival: Arrival) {
    let bucket = line.entry(Reverse(info.gas_bucket_start)).or_default();
    bucket.entry(info.author).or_default().insert(arrival, digest);
}

fn dequeue(line: &mut Buckets, info: &BatchInfo, arrival: Arrival) {
    let at = Reverse(info.gas_bucket_start);
    let Some(bucket) = line.get_mut(&at) else { return };
    let Some(queue) = bucket.get_mut(&info.author) else { return };
    queue.remove(&arrival);
    if queue.is_empty() {
        bucket.remove(&info.author);
        if bucket.is_empty() {
            line.remove(&at);
        }
    }
}
