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
//! that offers ten times as much as the others delays its own batches, not theirs. Whoever had
//! nothing to propose for a while has saved up turns, but no more than [`CREDIT_MAX`]: what comes in
//! bursts and is less than a fair share over time goes first, and nobody can come back and take
//! every turn for long. A batch that does not fit is skipped and smaller ones follow; the same state
//! gives the same answer.
//!
//! What a stored payload names waits aside, so that a pull costs no more for what its ancestors
//! hold, or for what is ordered already.

mod entry;
mod lines;
mod pull;
#[cfg(test)]
mod tests;
mod unproven;

pub(super) use pull::{Optimistic, Taken, Wanted};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::entry::{Arrival, Entry, State};
use self::lines::Lines;
use super::digest_map::DigestMap;
use crate::types::{Author, BatchInfo, Digest, ProofOfStore, Timestamp};

/// Exactly what is queued, named or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub proofs: u64,
    pub transactions: u64,
    pub bytes: u64,
}

/// How long a batch has waited to be proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waited {
    /// Since it, or its proof if that came first, arrived here.
    pub age: Duration,
    /// Since its proof did.
    pub proven: Option<Duration>,
}

/// Bytes by which who had nothing to propose may be behind the others, at most.
pub(super) const CREDIT_MAX: u64 = 1 << 20;

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct ProofManager {
    credit_max: u64,
    /// Whatever is known of a batch: a commit looks each of its own up once.
    entries: DigestMap<Entry>,
    /// What of it can be proposed and is named by no open payload, in order.
    lines: Lines,
    /// Unproven ones that are not ripe, by when they arrived; with some that have left since.
    unripe: VecDeque<(Duration, Digest)>,
    /// How many are ripe, named or not, and their bytes.
    ripe: (u64, u64),
    /// Stored payloads that no commit has ordered or passed by, with their batches.
    open: BTreeMap<Digest, Vec<Digest>>,
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
    pub fn new(credit_max: u64) -> Self {
        Self { credit_max, ..Self::default() }
    }

    /// A verified proof. True if it is new. One that holds more signatures than the one known
    /// takes its place: whoever fetches has more to ask.
    pub fn on_proof(
        &mut self,
        digest: Digest,
        proof: Arc<ProofOfStore>,
        now: Duration,
        consensus: Timestamp,
    ) -> bool {
        let info = proof.info;
        if info.expiration < consensus {
            return false;
        }
        let entry = self.entries.get_or_default(digest);
        match &mut entry.state {
            State::Unknown | State::Unproven { .. } => {}
            State::Queued { proof: known, .. } => {
                if known.signatures.len() < proof.signatures.len() {
                    *known = proof;
                }
                return false;
            }
            State::Ordered { .. } => return false,
        }
        let (before, is_named) = (std::mem::take(&mut entry.state), entry.is_named());
        let (arrival, since) = if let State::Unproven { arrival, since, .. } = before {
            // It has waited since its batch arrived.
            self.forget_unproven(&before, is_named);
            (arrival, since)
        } else {
            self.expirations.insert((info.expiration, digest));
            (self.arrive(info.author), now)
        };
        self.totals.proofs += 1;
        self.totals.transactions += u64::from(info.count);
        self.totals.bytes += u64::from(info.bytes);
        let state = State::Queued { proof, arrival, since, proven: now };
        if !is_named {
            self.lines.enter(digest, &state);
        }
        self.entries.get_or_default(digest).state = state;
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

    /// An author that had nothing to propose has saved up no more turns than it may.
    fn level(&mut self, author: Author) {
        if self.backlog.contains_key(&author) {
            return;
        }
        let served = |author: &Author| self.served.get(author).copied().unwrap_or_default();
        if let Some(least) = self.backlog.keys().map(served).min() {
            let own = self.served.entry(author).or_default();
            *own = (*own).max(least.saturating_sub(self.credit_max));
        }
    }

    /// A payload is stored: what it names waits aside.
    pub fn on_payload(&mut self, payload: Digest, batches: &[Digest]) {
        if self.open.contains_key(&payload) {
            return;
        }
        // Whoever made the payload may have named a batch twice.
        let mut named = Vec::with_capacity(batches.len());
        for digest in batches {
            let entry = self.entries.get_or_default(*digest);
            if entry.names.contains(&payload) {
                continue;
            }
            if !entry.is_named() {
                self.lines.leave(&entry.state);
            }
            entry.names.push(payload);
            named.push(*digest);
        }
        self.open.insert(payload, named);
    }

    /// A payload was ordered, or can be no more: what is not ordered can be proposed again.
    pub fn on_payload_over(&mut self, payload: &Digest) {
        for digest in self.open.remove(payload).unwrap_or_default() {
            let Some(entry) = self.entries.get_mut(&digest) else {
                unreachable!("{digest:?} is named and has no entry")
            };
            entry.names.retain(|name| name != payload);
            if entry.is_void() {
                self.entries.remove(&digest);
            } else if !entry.is_named() {
                self.lines.enter(digest, &entry.state);
            }
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
            self.expirations.pop_first();
            let Some(entry) = self.entries.get_mut(&digest) else {
                unreachable!("{digest:?} expires and has no entry")
            };
            let (state, is_named) = (std::mem::take(&mut entry.state), entry.is_named());
            if !is_named {
                self.entries.remove(&digest);
            }
            if state.is_proven() {
                self.expired.push((expiration, digest));
            }
            freed += u64::from(self.leave(&state, is_named));
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
        let is_live = info.expiration >= consensus;
        let Some(entry) = self.entries.get_mut(&digest) else {
            if is_live {
                self.entries.insert(digest, State::Ordered { proven: false }.into());
                self.expirations.insert((info.expiration, digest));
            }
            return 0;
        };
        if matches!(entry.state, State::Unknown) {
            if is_live {
                entry.state = State::Ordered { proven: false };
                self.expirations.insert((info.expiration, digest));
            }
            return 0;
        }
        // Its expiration is known too.
        let (proven, is_named) = (entry.state.is_proven(), entry.is_named());
        let before = std::mem::replace(&mut entry.state, State::Ordered { proven });
        u64::from(self.leave(&before, is_named))
    }

    /// What was in this state is out of what can be proposed. True if it was in.
    fn leave(&mut self, state: &State, is_named: bool) -> bool {
        let Some(info) = state.waiting() else { return false };
        if !is_named {
            self.lines.leave(state);
        }
        match state {
            State::Queued { .. } => {
                self.totals.proofs -= 1;
                self.totals.transactions -= u64::from(info.count);
                self.totals.bytes -= u64::from(info.bytes);
            }
            State::Unproven { ripe: true, .. } => {
                self.ripe.0 -= 1;
                self.ripe.1 -= u64::from(info.bytes);
            }
            _ => {}
        }
        let Some(left) = self.backlog.get_mut(&info.author) else {
            unreachable!("{:?} waits for nothing and had a batch that waited", info.author)
        };
        *left -= 1;
        if *left == 0 {
            self.backlog.remove(&info.author);
        }
        true
    }

    /// The epoch is over: nothing of it can be proposed any more. Returns how much could.
    pub fn on_close(&mut self) -> u64 {
        let waits = |entry: &&Entry| entry.state.waiting().is_some();
        let freed = self.entries.values().filter(waits).count() as u64;
        let is_proven = |digest| self.state(digest).is_proven();
        let proven = self.expirations.iter().filter(|(_, digest)| is_proven(digest));
        let expired = self.expired.iter().chain(proven).copied().collect();
        *self = Self { arrivals: self.arrivals, expired, ..Self::new(self.credit_max) };
        freed
    }

    fn state(&self, digest: &Digest) -> &State {
        self.entries.get(digest).map_or(&State::Unknown, |entry| &entry.state)
    }

    /// True if a commit ordered it and it has not expired.
    pub fn is_ordered(&self, digest: &Digest) -> bool {
        matches!(self.state(digest), State::Ordered { .. })
    }

    /// True if a proof of it is known, or a commit that ordered it, and it has not expired.
    pub fn knows(&self, digest: &Digest) -> bool {
        !matches!(self.state(digest), State::Unknown)
    }

    /// How long what could be proposed has waited for it.
    pub fn waited(&self, digest: &Digest, now: Duration) -> Option<Waited> {
        let (since, proven) = match self.state(digest) {
            State::Unproven { since, .. } => (*since, None),
            State::Queued { since, proven, .. } => (*since, Some(*proven)),
            State::Unknown | State::Ordered { .. } => return None,
        };
        let age = now.saturating_sub(since);
        Some(Waited { age, proven: proven.map(|proven| now.saturating_sub(proven)) })
    }

    /// Proofs on record that can be proposed no more.
    pub fn take_expired(&mut self) -> Vec<(Timestamp, Digest)> {
        std::mem::take(&mut self.expired)
    }

    /// Every proof that could be proposed, named by an open payload or not.
    pub fn proofs(&self) -> impl Iterator<Item = (Digest, Arc<ProofOfStore>)> {
        self.entries.iter().filter_map(|(digest, entry)| match &entry.state {
            State::Queued { proof, .. } => Some((*digest, Arc::clone(proof))),
            _ => None,
        })
    }

    /// What could be proposed with its proof.
    pub fn totals(&self) -> Totals {
        self.totals
    }
}
