//! Optimism: whether batches without a proof are proposed now, and whose.
//!
//! A proposal that names such a batch fails if a quorum does not hold it, and with it a view of
//! consensus. So after each failure nothing of the kind is proposed for some blocks, twice as many
//! each time; the first block that is ordered with optimistic batches, and beside no failed one,
//! ends the caution. A failed proposal is seen when a second one is made or looked for at its
//! height, or when another one is ordered there: the very next leader is cautious.
//!
//! An author is blamed when a failed proposal named a batch of its that has sat in its slot here for
//! a while and still has no proof: others did not get it, or got another one. That is local knowledge, which
//! nobody can forge for somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::types::{Author, CommitIndex, Digest};

/// Longest caution, in blocks.
const PAUSE_MAX: u64 = 64;

/// See the module docs.
#[derive(Debug)]
pub(super) struct Optimism {
    enabled: bool,
    /// How long an author is blamed.
    blame: Duration,
    /// Blocks of caution after the last failure; zero once a clean one was ordered.
    pause: u64,
    /// Nothing optimistic is proposed below this height.
    resumes: CommitIndex,
    blamed: BTreeMap<Author, Duration>,
    /// Payloads with optimistic batches that are not over; true once they count as failed.
    open: BTreeMap<(CommitIndex, Digest), bool>,
}

impl Optimism {
    pub fn new(enabled: bool, blame: Duration) -> Self {
        let (blamed, open) = (BTreeMap::new(), BTreeMap::new());
        Self { enabled, blame, pause: 0, resumes: CommitIndex(0), blamed, open }
    }

    /// False if this validator never proposes batches without a proof.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// True if a block at this height may have optimistic batches.
    pub fn allows(&self, height: CommitIndex) -> bool {
        self.enabled && height >= self.resumes
    }

    /// A payload with optimistic batches is stored.
    pub fn on_payload(&mut self, height: CommitIndex, digest: Digest) {
        self.open.entry((height, digest)).or_insert(false);
    }

    /// A payload is asked for at this height: those that were proposed there before, or below
    /// beside its ancestors, failed. Returns the ones that were not known to.
    pub fn on_pull(&mut self, height: CommitIndex, ancestors: &BTreeSet<Digest>) -> Vec<Digest> {
        let end = (height.next(), Digest::default());
        let beside = self.open.range_mut(..end).filter(|((_, d), _)| !ancestors.contains(d));
        let failed: Vec<Digest> = beside
            .filter_map(|((_, digest), failed)| {
                (!std::mem::replace(failed, true)).then_some(*digest)
            })
            .collect();
        if !failed.is_empty() {
            self.be_cautious(height);
        }
        failed
    }

    /// A payload is ordered; `optimistic` if it has such batches. Returns the ones beside it that
    /// were not known to have failed.
    pub fn on_ordered(
        &mut self,
        index: CommitIndex,
        ordered: &Digest,
        optimistic: bool,
    ) -> Vec<Digest> {
        let mut beside = false;
        let mut failed = Vec::new();
        while let Some(entry) = self.open.first_entry().filter(|entry| entry.key().0 <= index) {
            let ((_, digest), known) = entry.remove_entry();
            if digest != *ordered {
                beside = true;
                failed.extend((!known).then_some(digest));
            }
        }
        if !failed.is_empty() {
            self.be_cautious(index.next());
        } else if optimistic && !beside {
            self.pause = 0;
            self.resumes = CommitIndex(0);
        }
        failed
    }

    /// Nothing at or below this height is ordered any more, and nobody knows what was.
    pub fn on_passed(&mut self, index: CommitIndex) {
        self.open = self.open.split_off(&(index.next(), Digest::default()));
    }

    fn be_cautious(&mut self, from: CommitIndex) {
        self.pause = (self.pause * 2).clamp(1, PAUSE_MAX);
        let resumes = CommitIndex(from.0.saturating_add(self.pause));
        self.resumes = self.resumes.max(resumes);
    }

    /// A batch of this author was not where it should be.
    pub fn blame(&mut self, author: Author, now: Duration) {
        self.blamed.insert(author, now + self.blame);
    }

    /// Blame ends.
    pub fn on_time(&mut self, now: Duration) {
        self.blamed.retain(|_, until| *until > now);
    }

    /// Whose batches are not proposed without a proof.
    pub fn blamed(&self) -> BTreeSet<Author> {
        self.blamed.keys().copied().collect()
    }

    /// How many those are.
    pub fn blamed_len(&self) -> u64 {
        self.blamed.len() as u64
    }

    /// Blocks of caution that are left above this one.
    pub fn pause_left(&self, applied: CommitIndex) -> u64 {
        self.resumes.0.saturating_sub(applied.next().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLAME: Duration = Duration::from_secs(10);

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    /// One block at this height, proposed with optimistic batches, ordered or followed by another.
    fn block(optimism: &mut Optimism, height: u64, ordered: bool) -> bool {
        let (index, none) = (CommitIndex(height), BTreeSet::new());
        optimism.on_pull(index, &none);
        if !optimism.allows(index) {
            optimism.on_ordered(index, &digest(0), false);
            return false;
        }
        optimism.on_payload(index, digest(1));
        if ordered {
            assert!(optimism.on_ordered(index, &digest(1), true).is_empty());
        } else {
            assert_eq!(optimism.on_pull(index, &none), [digest(1)], "the next leader sees it");
            assert!(!optimism.allows(index), "and is cautious at once");
            assert!(optimism.on_ordered(index, &digest(2), false).is_empty(), "counted once");
        }
        true
    }

    #[test]
    fn each_failure_doubles_the_caution_and_a_clean_block_ends_it() {
        let mut optimism = Optimism::new(true, BLAME);
        let mut proposed = Vec::new();
        for height in 1..=40 {
            if block(&mut optimism, height, false) {
                proposed.push(height);
            }
        }
        assert_eq!(proposed, [1, 2, 4, 8, 16, 32], "at most every second block fails, then fewer");
        let first = (41..200).find(|height| block(&mut optimism, *height, true)).unwrap();
        assert_eq!(first, 64);
        assert!((65..80).all(|height| block(&mut optimism, height, true)));
        assert!(block(&mut optimism, 80, false));
        assert!(block(&mut optimism, 81, true), "it begins anew with one");
    }

    #[test]
    fn caution_is_bounded_and_a_validator_that_does_not_propose_learns_too() {
        let mut optimism = Optimism::new(true, BLAME);
        for height in 1..1000 {
            optimism.on_payload(CommitIndex(height), digest(1));
            let failed = optimism.on_ordered(CommitIndex(height), &digest(2), false);
            assert_eq!(failed, [digest(1)]);
        }
        assert_eq!(optimism.pause_left(CommitIndex(999)), PAUSE_MAX);
        assert!(optimism.open.is_empty());
    }

    #[test]
    fn one_that_is_ordered_beside_a_failed_one_is_not_clean() {
        let mut optimism = Optimism::new(true, BLAME);
        let index = CommitIndex(1);
        optimism.on_payload(index, digest(1));
        optimism.on_payload(index, digest(2));
        optimism.on_ordered(index, &digest(2), true);
        assert_eq!(optimism.pause_left(index), 1);
        assert!(!Optimism::new(false, BLAME).allows(index), "off is off");
    }

    #[test]
    fn blame_ends() {
        let mut optimism = Optimism::new(true, BLAME);
        optimism.blame(Author([1; 32]), Duration::from_secs(1));
        optimism.on_time(Duration::from_secs(10));
        assert_eq!(optimism.blamed_len(), 1);
        optimism.on_time(Duration::from_secs(11));
        assert_eq!(optimism.blamed_len(), 0);
    }
}
