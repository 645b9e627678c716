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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::samples;

    fn slot(counter: u64) -> Slot {
        samples::batch(2, counter, &[b"x"]).info.slot()
    }

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    fn wait(ballots: &mut Ballots, payload: u8, missing: &[(u64, u8)], seconds: u64) {
        let missing = missing.iter().map(|(counter, batch)| (slot(*counter), digest(*batch)));
        ballots.wait(digest(payload), missing.collect(), Duration::from_secs(seconds));
    }

    #[test]
    fn a_ballot_is_settled_by_the_last_batch_it_waits_for_or_by_another_in_its_slot() {
        let mut ballots = Ballots::default();
        wait(&mut ballots, 1, &[(1, 11), (2, 12)], 1);
        wait(&mut ballots, 2, &[(1, 99)], 2);
        assert_eq!(ballots.len(), 2);
        assert_eq!(ballots.missing(&digest(1)), [digest(11), digest(12)]);
        assert!(ballots.awaits(&slot(1)) && !ballots.awaits(&slot(3)));
        assert_eq!(ballots.on_slot(&slot(1), &digest(11)), [digest(2)], "it gets another batch");
        assert!(!ballots.awaits(&slot(1)));
        assert_eq!(ballots.missing(&digest(1)), [digest(12)]);
        assert_eq!(ballots.on_slot(&slot(2), &digest(12)), [digest(1)]);
        assert_eq!(ballots.on_slot(&slot(2), &digest(12)), []);
    }

    #[test]
    fn whoever_waits_again_has_waited_since_the_first_time_and_for_nothing_else() {
        let mut ballots = Ballots::default();
        wait(&mut ballots, 1, &[(1, 11), (2, 12)], 1);
        wait(&mut ballots, 2, &[(2, 12)], 5);
        wait(&mut ballots, 1, &[(3, 13)], 9);
        assert!(!ballots.awaits(&slot(1)) && ballots.awaits(&slot(2)) && ballots.awaits(&slot(3)));
        assert_eq!(ballots.forget(&digest(1)), Some(Duration::from_secs(1)));
        assert_eq!(ballots.forget(&digest(1)), None);
        assert!(ballots.awaits(&slot(2)) && !ballots.awaits(&slot(3)));
        assert_eq!(ballots.len(), 1);
    }
}
