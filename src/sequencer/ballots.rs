//! Ballots: payloads that wait for optimistic batches before they may be voted for.
//!
//! Kept by slot: a batch that takes a slot settles the question, whether it is the one that is
//! waited for or another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::types::{Digest, Slot};

/// One payload.
#[derive(Debug)]
struct Ballot {
    missing: BTreeMap<Slot, Digest>,
    since: Duration,
}

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct Ballots {
    waiting: BTreeMap<Digest, Ballot>,
    slots: BTreeMap<Slot, BTreeSet<Digest>>,
}

impl Ballots {
    /// A payload waits for what these slots are to hold. Repeating it keeps the time it began.
    pub fn wait(&mut self, payload: Digest, missing: BTreeMap<Slot, Digest>, now: Duration) {
        let since = self.forget(&payload).unwrap_or(now);
        for slot in missing.keys() {
            self.slots.entry(*slot).or_default().insert(payload);
        }
        self.waiting.insert(payload, Ballot { missing, since });
    }

    /// It waits no more. Returns since when it did.
    pub fn forget(&mut self, payload: &Digest) -> Option<Duration> {
        let Ballot { missing, since } = self.waiting.remove(payload)?;
        for slot in missing.keys() {
            if let Some(payloads) = self.slots.get_mut(slot) {
                payloads.remove(payload);
                if payloads.is_empty() {
                    self.slots.remove(slot);
                }
            }
        }
        Some(since)
    }

    /// A slot holds this batch, or one that is as good as in it. Returns the payloads that wait for
    /// nothing else, or for another batch in this slot.
    pub fn on_slot(&mut self, slot: &Slot, digest: &Digest) -> Vec<Digest> {
        let mut settled = Vec::new();
        for payload in self.slots.remove(slot).unwrap_or_default() {
            let Some(ballot) = self.waiting.get_mut(&payload) else { continue };
            let expected = ballot.missing.remove(slot);
            if expected != Some(*digest) || ballot.missing.is_empty() {
                settled.push(payload);
            }
        }
        settled
    }

    /// True if some payload waits for what this slot is to hold.
    pub fn awaits(&self, slot: &Slot) -> bool {
        self.slots.contains_key(slot)
    }

    /// What a payload waits for.
    pub fn missing(&self, payload: &Digest) -> Vec<Digest> {
        let ballot = self.waiting.get(payload);
        ballot.map(|ballot| ballot.missing.values().copied().collect()).unwrap_or_default()
    }

    /// Payloads that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}
