//! The set beside a naive model: a list of holders, and every question answered by going through
//! all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::InProgress;
use crate::sequencer::port::{ReleaseReason, TransactionKey};
use crate::types::{Author, CommitIndex, Digest, Timestamp};

/// A million in a release build; under an interpreter or a debugger fewer.
const OPERATIONS: u64 = if cfg!(miri) {
    300
} else if cfg!(debug_assertions) {
    30_000
} else {
    1_200_000
};
const KEYS: u8 = 40;
const AUTHORS: u8 = 3;

fn key(number: u8) -> TransactionKey {
    TransactionKey([number.wrapping_mul(37); 16])
}

fn digest(number: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    Digest(bytes)
}

#[derive(Clone)]
struct Batch {
    number: u64,
    author: Author,
    keys: Vec<u8>,
    expiration: u64,
    lapses: Option<u64>,
    index: Option<u64>,
}

#[derive(Default)]
struct Model {
    /// Each a place in the pool.
    pool: Vec<u8>,
    batches: Vec<Batch>,
    released: BTreeMap<ReleaseReason, u64>,
}

impl Model {
    fn in_progress(&self) -> BTreeSet<TransactionKey> {
        let batched = self.batches.iter().flat_map(|batch| &batch.keys);
        self.pool.iter().chain(batched).map(|number| key(*number)).collect()
    }

    fn release(&mut self, reason: ReleaseReason, goes: impl Fn(&Batch) -> bool) {
        let (gone, kept) = self.batches.iter().cloned().partition(goes);
        self.batches = kept;
        for batch in gone as Vec<Batch> {
            *self.released.entry(reason).or_default() += batch.keys.len() as u64;
        }
    }
}

struct Run {
    rng: Rng,
    set: InProgress,
    model: Model,
    /// What a source that hears of every change believes.
    told: BTreeSet<TransactionKey>,
    now: u64,
    next: u64,
    fired: BTreeMap<&'static str, u64>,
}

impl Run {
    fn any(&mut self) -> u64 {
        // Now and then one that nobody knows, or that is done with.
        let batches = &self.model.batches;
        match self.rng.usize(..=batches.len()) {
            at if at < batches.len() => batches[at].number,
            _ => self.rng.u64(..self.next + 2),
        }
    }

    fn hold(&mut self, number: u64) {
        let keys: Vec<u8> = (0..self.rng.usize(1..6)).map(|_| self.rng.u8(..KEYS)).collect();
        let author = Author([self.rng.u8(..AUTHORS); 32]);
        let expiration = self.now + self.rng.u64(..60);
        let lapses = self.rng.bool().then(|| self.now + self.rng.u64(1..20));
        let shared: Arc<[TransactionKey]> = keys.iter().map(|number| key(*number)).collect();
        let at = lapses.map(Duration::from_secs);
        self.set.hold(digest(number), author, shared, Timestamp(expiration), at);
        if self.model.batches.iter().all(|batch| batch.number != number) {
            let batch = Batch { number, author, keys, expiration, lapses, index: None };
            self.model.batches.push(batch);
        }
    }

    fn step(&mut self) {
        let operation = match self.rng.u32(..100) {
            0..15 => {
                let number = self.rng.u8(..KEYS);
                self.set.hold_one(key(number));
                self.model.pool.push(number);
                "pooled"
            }
            15..32 if !self.model.pool.is_empty() => {
                let at = self.rng.usize(..self.model.pool.len());
                let number = self.model.pool.swap_remove(at);
                self.set.release_one(&key(number));
                "left the pool"
            }
            32..50 => {
                self.next += 1;
                self.hold(self.next);
                "held"
            }
            50..54 => {
                let number = self.any();
                self.hold(number);
                "held again"
            }
            54..62 => {
                let number = self.any();
                self.set.on_certified(&digest(number));
                for batch in self.model.batches.iter_mut().filter(|b| b.number == number) {
                    batch.lapses = None;
                }
                "certified"
            }
            62..76 => {
                let (number, index) = (self.any(), self.rng.u64(..100));
                self.set.on_ordered(&digest(number), CommitIndex(index));
                for batch in self.model.batches.iter_mut().filter(|b| b.number == number) {
                    (batch.lapses, batch.index) = (None, batch.index.or(Some(index)));
                }
                "ordered"
            }
            76..82 => {
                // Cursors never go back here, but a subscriber may come or go.
                let below = (self.rng.u32(..4) > 0).then(|| self.rng.u64(..100));
                self.set.on_passed(below.map(CommitIndex));
                let passed = |index| below.is_none_or(|below| index < below);
                self.model.release(ReleaseReason::Ordered, |batch| batch.index.is_some_and(passed));
                "passed"
            }
            82..88 => {
                let number = self.any();
                let known = self.model.batches.iter().any(|batch| batch.number == number);
                assert_eq!(self.set.release(&digest(number), ReleaseReason::Lost), known);
                self.model.release(ReleaseReason::Lost, |batch| batch.number == number);
                "lost"
            }
            88..93 => {
                // Also times that lie back.
                let consensus = self.now.saturating_sub(self.rng.u64(..20));
                self.set.on_consensus_time(Timestamp(consensus));
                let expired = |batch: &Batch| batch.expiration < consensus;
                self.model.release(ReleaseReason::Expired, expired);
                "expired"
            }
            93..97 => {
                let now = self.now;
                self.set.on_time(Duration::from_secs(now));
                let lapsed = |batch: &Batch| batch.lapses.is_some_and(|at| at <= now);
                self.model.release(ReleaseReason::Lapsed, lapsed);
                "lapsed"
            }
            _ => {
                self.now += self.rng.u64(..3);
                "time passed"
            }
        };
        *self.fired.entry(operation).or_default() += 1;
    }

    fn compare(&mut self) {
        let expected = self.model.in_progress();
        let changes = self.set.take_changes();
        for key in changes.entered {
            assert!(self.told.insert(key), "{key:?} entered twice");
        }
        for key in changes.left {
            assert!(self.told.remove(&key), "{key:?} left twice");
        }
        assert_eq!(self.told, expected);
        assert_eq!(self.set.len(), expected.len() as u64);
        for number in 0..KEYS {
            assert_eq!(self.set.contains(&key(number)), expected.contains(&key(number)));
        }
        for author in 0..AUTHORS {
            let author = Author([author; 32]);
            let of = self.model.batches.iter().filter(|batch| batch.author == author);
            let held: usize = of.map(|batch| batch.keys.len()).sum();
            assert_eq!(self.set.held_by(&author), held as u64);
        }
        let lapses = self.model.batches.iter().filter_map(|batch| batch.lapses).min();
        assert_eq!(self.set.next_deadline(), lapses.map(Duration::from_secs));
        assert_eq!(self.set.take_released(), std::mem::take(&mut self.model.released));
    }
}

#[test]
fn a_naive_model_agrees_over_a_million_operations() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(8);
    println!("SEED={seed}");
    let mut run = Run {
        rng: Rng::with_seed(seed),
        set: InProgress::default(),
        model: Model::default(),
        told: BTreeSet::new(),
        now: 0,
        next: 0,
        fired: BTreeMap::new(),
    };
    for _ in 0..OPERATIONS {
        run.step();
        if run.rng.u32(..4) == 0 {
            run.compare();
        }
    }
    // Everybody lets go: nothing is left.
    run.set.on_passed(None);
    run.set.on_consensus_time(Timestamp(u64::MAX));
    for number in std::mem::take(&mut run.model.pool) {
        run.set.release_one(&key(number));
    }
    run.model.batches.clear();
    assert_eq!(run.set.len(), 0);
    assert!(run.set.holders.is_empty() && run.set.held.is_empty());
    assert!(run.set.lapses.is_empty() && run.set.ordered.is_empty());
    assert_eq!(run.fired.len(), 11, "{:?}", run.fired);
}

#[test]
#[should_panic(expected = "more often than it was held")]
fn letting_go_twice_is_a_defect() {
    let mut set = InProgress::default();
    set.hold_one(key(1));
    set.release_one(&key(1));
    set.release_one(&key(1));
}
