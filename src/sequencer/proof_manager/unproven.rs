//! Batches that are held here in their author's slot and have no proof: what may be proposed
//! without one, once it is old enough for the others to hold it too.
//!
//! Age counts from the arrival here: an author has no say in it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{ProofManager, State};
use crate::types::{BatchInfo, Digest, Timestamp};

impl ProofManager {
    /// A batch is held in its author's slot.
    pub fn on_batch(
        &mut self,
        digest: Digest,
        info: &BatchInfo,
        now: Duration,
        consensus: Timestamp,
    ) {
        if info.expiration < consensus || self.knows(&digest) {
            return;
        }
        let arrival = self.arrive(info.author);
        self.entries.get_or_default(digest).state =
            State::Unproven { info: Box::new(*info), arrival, since: now, ripe: false };
        self.expirations.insert((info.expiration, digest));
        self.unripe.push_back((now, digest));
    }

    /// What arrived at or before this moment is ripe.
    pub fn ripen(&mut self, until: Duration) {
        while let Some((_, digest)) = self.unripe.pop_front_if(|(since, _)| *since <= until) {
            let Some(entry) = self.entries.get_mut(&digest) else { continue };
            let State::Unproven { ripe, info, .. } = &mut entry.state else { continue };
            if std::mem::replace(ripe, true) {
                continue;
            }
            self.ripe.0 += 1;
            self.ripe.1 += u64::from(info.bytes);
            if !entry.is_named() {
                self.lines.enter(digest, &entry.state);
            }
        }
    }

    /// It gets a proof: it is unproven no more, and still waits.
    pub(super) fn forget_unproven(&mut self, state: &State, is_named: bool) {
        if let State::Unproven { ripe: true, info, .. } = state {
            self.ripe.0 -= 1;
            self.ripe.1 -= u64::from(info.bytes);
            if !is_named {
                self.lines.leave(state);
            }
        }
    }

    /// When the next one arrived that is not ripe.
    pub fn next_unripe(&self) -> Option<Duration> {
        self.unripe.front().map(|(since, _)| *since)
    }

    /// How many may be proposed without a proof, and their bytes.
    pub fn ripe(&self) -> (u64, u64) {
        self.ripe
    }

    /// True if it is held in its slot, is not ordered, and has no proof.
    pub fn is_unproven(&self, digest: &Digest) -> bool {
        matches!(self.state(digest), State::Unproven { .. })
    }

    /// True if it came to sit in its slot at or before this moment, and is unproven.
    pub fn is_unproven_since(&self, digest: &Digest, before: Duration) -> bool {
        matches!(self.state(digest), State::Unproven { since, .. } if *since <= before)
    }

    /// True if a proof of it is on record here.
    pub fn is_proven(&self, digest: &Digest) -> bool {
        self.state(digest).is_proven()
    }

    /// True if one of these payloads names it.
    pub fn is_named_by(&self, digest: &Digest, payloads: &BTreeSet<Digest>) -> bool {
        let entry = self.entries.get(digest);
        entry.is_some_and(|entry| entry.names.iter().any(|name| payloads.contains(name)))
    }
}
