//! The queue beside a naive model that keeps a list and sorts it anew for every question.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::{Optimistic, ProofManager, Totals, Waited, Wanted};
use crate::sequencer::port::PayloadLimits;
use crate::types::{
    Author, BatchId, BatchInfo, Digest, Epoch, Incarnation, ProofOfStore, Timestamp,
};

/// A million in a release build; under an interpreter or a debugger fewer.
const OPERATIONS: u64 = if cfg!(miri) {
    40
} else if cfg!(debug_assertions) {
    30_000
} else {
    1_000_000
};

const NOW: Duration = Duration::ZERO;
/// As much as a few batches, so that it is used up.
const CREDIT: u64 = 2500;

fn digest(number: u64) -> Digest {
    let mut bytes = [0; 32];
    // Not in the order of arrival.
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    Digest(bytes)
}

fn proof(rng: &mut Rng, number: u64, now: u64) -> Arc<ProofOfStore> {
    let info = BatchInfo {
        author: Author([rng.u8(..4); 32]),
        batch_id: BatchId { incarnation: Incarnation(1), counter: number },
        epoch: Epoch(0),
        expiration: Timestamp(now + rng.u64(..40)),
        count: rng.u32(1..10),
        bytes: rng.u32(1..1000),
        gas_bucket_start: rng.u64(..3) * 100,
        root: Digest([9; 32]),
    };
    Arc::new(ProofOfStore { info, signatures: Vec::new() })
}

/// What the module docs say, done the slow way.
#[derive(Default)]
struct Model {
    /// In order of arrival.
    queued: Vec<(Digest, Arc<ProofOfStore>)>,
    tombstones: BTreeMap<Digest, Timestamp>,
    open: BTreeMap<Digest, Vec<Digest>>,
    served: BTreeMap<Author, u64>,
}

impl Model {
    fn has(&self, author: Author) -> bool {
        self.queued.iter().any(|(_, proof)| proof.info.author == author)
    }

    fn served(&self, author: Author) -> u64 {
        self.served.get(&author).copied().unwrap_or_default()
    }

    fn proof(&mut self, digest: Digest, proof: &Arc<ProofOfStore>, now: u64) -> bool {
        let info = proof.info;
        let known = self.tombstones.contains_key(&digest)
            || self.queued.iter().any(|(queued, _)| *queued == digest);
        if known || info.expiration < Timestamp(now) {
            return false;
        }
        if !self.has(info.author) {
            let others: BTreeSet<Author> = self.queued.iter().map(|(_, p)| p.info.author).collect();
            let least = others.into_iter().map(|other| self.served(other)).min();
            let least = least.map(|least| least.saturating_sub(CREDIT));
            let level = self.served(info.author).max(least.unwrap_or_default());
            if least.is_some() {
                self.served.insert(info.author, level);
            }
        }
        self.queued.push((digest, Arc::clone(proof)));
        true
    }

    fn commit(&mut self, ordered: &[(Digest, BatchInfo)], now: u64) -> u64 {
        let before = self.queued.len();
        for (digest, info) in ordered {
            *self.served.entry(info.author).or_default() += info.charge();
            self.queued.retain(|(queued, _)| queued != digest);
            if info.expiration >= Timestamp(now) {
                self.tombstones.insert(*digest, info.expiration);
            }
        }
        self.queued.retain(|(_, proof)| proof.info.expiration >= Timestamp(now));
        self.tombstones.retain(|_, expiration| *expiration >= Timestamp(now));
        (before - self.queued.len()) as u64
    }

    fn totals(&self) -> Totals {
        Totals {
            proofs: self.queued.len() as u64,
            transactions: self.queued.iter().map(|(_, p)| u64::from(p.info.count)).sum(),
            bytes: self.queued.iter().map(|(_, p)| u64::from(p.info.bytes)).sum(),
        }
    }

    fn pull(&self, wanted: &Wanted<'_>) -> Vec<Digest> {
        let named = |digest: &Digest| {
            let ancestors =
                self.open.iter().filter(|(payload, _)| wanted.ancestors.contains(payload));
            ancestors.into_iter().any(|(_, batches)| batches.contains(digest))
        };
        let mut left: Vec<_> = self
            .queued
            .iter()
            .enumerate()
            .filter(|(_, (digest, _))| !named(digest) && !wanted.exclude.contains(digest))
            .collect();
        let (mut served, mut taken) = (self.served.clone(), Vec::new());
        let (mut transactions, mut bytes) = (0, 0);
        let limits = wanted.limits;
        while taken.len() < limits.batches_max as usize && transactions < limits.transactions_max {
            let best = left.iter().enumerate().max_by_key(|(_, (arrival, (_, proof)))| {
                let before = served.get(&proof.info.author).copied().unwrap_or_default();
                (proof.info.gas_bucket_start, Reverse(before), Reverse(*arrival))
            });
            let Some((at, _)) = best else { break };
            let (_, (digest, proof)) = left.remove(at);
            let info = &proof.info;
            if info.expiration >= wanted.block_timestamp
                && transactions + u64::from(info.count) <= limits.transactions_max
                && bytes + u64::from(info.bytes) <= limits.batch_bytes_max
            {
                transactions += u64::from(info.count);
                bytes += u64::from(info.bytes);
                *served.entry(info.author).or_default() += info.charge();
                taken.push(*digest);
            }
        }
        taken
    }
}

fn some<T: Copy>(rng: &mut Rng, from: &[T], most: usize) -> Vec<T> {
    let count = rng.usize(..=most);
    (0..count).filter_map(|_| from.get(rng.usize(..from.len().max(1))).copied()).collect()
}

#[test]
fn a_naive_model_agrees_over_a_million_operations() {
    let mut rng = Rng::with_seed(8);
    let (mut real, mut model) = (ProofManager::new(CREDIT), Model::default());
    let (mut now, mut numbers, mut known) = (1000, 0, Vec::new());
    let mut pulled = 0;
    for operation in 0..OPERATIONS {
        match rng.u32(..20) {
            0..=9 => {
                // Now and then one that is known, ordered or expired.
                let number = if rng.u32(..8) == 0 { rng.u64(..=numbers) } else { numbers };
                numbers += u64::from(number == numbers);
                let (digest, proof) = (digest(number), proof(&mut rng, number, now - 3));
                if let Some((_, info)) = known.iter().find(|(other, _)| *other == digest) {
                    let proof = Arc::new(ProofOfStore { info: *info, signatures: Vec::new() });
                    let expected = model.proof(digest, &proof, now);
                    assert_eq!(real.on_proof(digest, proof, NOW, Timestamp(now)), expected);
                } else {
                    known.push((digest, proof.info));
                    let expected = model.proof(digest, &proof, now);
                    assert_eq!(real.on_proof(digest, proof, NOW, Timestamp(now)), expected);
                }
            }
            10..=12 => {
                let payload = digest(rng.u64(..6) + (1 << 60));
                let recent = &known[known.len().saturating_sub(40)..];
                let batches: Vec<_> = some(&mut rng, recent, 12).into_iter().map(|b| b.0).collect();
                let batches: BTreeSet<_> = batches.into_iter().collect();
                let batches: Vec<_> = batches.into_iter().collect();
                real.on_payload(payload, &batches);
                model.open.entry(payload).or_insert(batches);
            }
            13 | 14 => {
                let payload = digest(rng.u64(..6) + (1 << 60));
                real.on_payload_over(&payload);
                model.open.remove(&payload);
            }
            15 | 16 => {
                now += rng.u64(..4);
                let recent = &known[known.len().saturating_sub(40)..];
                let ordered: BTreeMap<_, _> = some(&mut rng, recent, 6).into_iter().collect();
                let ordered: Vec<_> = ordered.into_iter().collect();
                let expected = model.commit(&ordered, now);
                assert_eq!(real.on_commit(&ordered, Timestamp(now)), expected, "{operation}");
                known.drain(..known.len().saturating_sub(200));
            }
            _ => {
                let limits = PayloadLimits {
                    transactions_max: rng.u64(..60),
                    batch_bytes_max: rng.u64(..6000),
                    batches_max: rng.u64(..12),
                };
                let open: Vec<Digest> = model.open.keys().copied().collect();
                let ancestors = some(&mut rng, &open, 4).into_iter().collect();
                let exclude = some(&mut rng, &known, 4).into_iter().map(|b| b.0).collect();
                let wanted = Wanted {
                    limits: &limits,
                    encoded_max: u64::MAX,
                    block_timestamp: Timestamp(now + rng.u64(..3)),
                    ancestors: &ancestors,
                    exclude: &exclude,
                    optimistic: None,
                };
                let of = |proof: &Arc<ProofOfStore>| digest(proof.info.batch_id.counter);
                let found: Vec<Digest> = real.pull(&wanted).proofs.iter().map(of).collect();
                assert_eq!(found, model.pull(&wanted), "{operation}");
                pulled += found.len();
            }
        }
        assert_eq!(real.totals(), model.totals(), "{operation}");
    }
    assert!(pulled as u64 > OPERATIONS / 8, "{pulled}");
}

#[test]
fn an_author_that_offers_ten_times_as_much_delays_nobody_but_itself() {
    let mut rng = Rng::with_seed(1);
    let mut manager = ProofManager::default();
    let limits = PayloadLimits { transactions_max: 1000, batch_bytes_max: 1 << 20, batches_max: 8 };
    let (mut number, mut offered) = (0, BTreeMap::new());
    let mut waited: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
    let rounds = if cfg!(miri) { 20 } else { 2000 };
    for round in 0..rounds {
        for (author, share) in [(0, 10), (1, 1), (2, 1), (3, 1)] {
            for _ in 0..share {
                let mut proof = ProofOfStore::clone(&proof(&mut rng, number, 1 << 40));
                proof.info.author = Author([author; 32]);
                proof.info.gas_bucket_start = 0;
                (proof.info.count, proof.info.bytes) = (1, 100);
                offered.insert(number, round);
                manager.on_proof(digest(number), Arc::new(proof), NOW, Timestamp(0));
                number += 1;
            }
        }
        let none = BTreeSet::new();
        let taken = manager.pull(&Wanted {
            limits: &limits,
            encoded_max: 1 << 20,
            block_timestamp: Timestamp(0),
            ancestors: &none,
            exclude: &none,
            optimistic: None,
        });
        let of = |proof: &Arc<ProofOfStore>| (digest(proof.info.batch_id.counter), proof.info);
        let ordered: Vec<_> = taken.proofs.iter().map(of).collect();
        for (_, info) in &ordered {
            let age = round - offered[&info.batch_id.counter];
            waited.entry(info.author.0[0]).or_default().push(age);
        }
        manager.on_commit(&ordered, Timestamp(0));
    }
    for light in 1..4 {
        let ages = waited.get_mut(&light).unwrap();
        ages.sort_unstable();
        // Pulled in the round in which it was offered, as if nobody else were there.
        assert_eq!((ages.len() as u64, ages[ages.len() * 9 / 10]), (rounds, 0), "author {light}");
    }
    assert_eq!(waited[&0].len() as u64, 5 * rounds);
}

/// What a pull takes: with a proof, and without.
fn pulled(manager: &ProofManager, ancestors: &[Digest], blamed: &[u8]) -> (Vec<u64>, Vec<u64>) {
    let limits = PayloadLimits { transactions_max: 1000, batch_bytes_max: 1 << 20, batches_max: 8 };
    let blamed = blamed.iter().map(|author| Author([*author; 32])).collect();
    let taken = manager.pull(&Wanted {
        limits: &limits,
        encoded_max: 1 << 20,
        block_timestamp: Timestamp(0),
        ancestors: &ancestors.iter().copied().collect(),
        exclude: &BTreeSet::new(),
        optimistic: Some(Optimistic { blamed: &blamed, latest: Timestamp(1000) }),
    });
    let counter = |info: &BatchInfo| info.batch_id.counter;
    let proofs = taken.proofs.iter().map(|proof| counter(&proof.info)).collect();
    (proofs, taken.optimistic.iter().map(|(_, info)| counter(info)).collect())
}

#[test]
fn what_has_no_proof_comes_after_what_has_one_once_it_is_ripe_and_once_only() {
    let mut rng = Rng::with_seed(2);
    let mut manager = ProofManager::default();
    let made = |rng: &mut Rng, number: u64, author: u8| {
        let mut proof = ProofOfStore::clone(&proof(rng, number, 500));
        (proof.info.author, proof.info.gas_bucket_start) = (Author([author; 32]), 0);
        Arc::new(proof)
    };
    let proofs: Vec<_> = (0..5).map(|n| made(&mut rng, n, n as u8 % 3)).collect();
    let seconds = Duration::from_secs;
    for (at, proof) in proofs.iter().enumerate() {
        manager.on_batch(digest(at as u64), &proof.info, seconds(at as u64), Timestamp(0));
    }
    assert_eq!(pulled(&manager, &[], &[]), (vec![], vec![]), "none is old enough");
    manager.ripen(seconds(3));
    assert_eq!((manager.ripe().0, manager.next_unripe()), (4, Some(seconds(4))));
    assert_eq!(pulled(&manager, &[], &[]), (vec![], vec![0, 1, 2, 3]), "authors take turns");
    assert_eq!(pulled(&manager, &[], &[0]), (vec![], vec![1, 2]), "0 and 3 are of one author");
    // One gets its proof: it counts once, as what it is now.
    assert!(manager.on_proof(digest(2), Arc::clone(&proofs[2]), seconds(9), Timestamp(0)));
    assert_eq!(pulled(&manager, &[], &[]), (vec![2], vec![0, 1, 3]));
    assert_eq!((manager.ripe().0, manager.totals().proofs), (3, 1));
    // It has waited since its batch was here, and since its proof was.
    let waited = |age, proven| Some(Waited { age: seconds(age), proven });
    assert_eq!(manager.waited(&digest(2), seconds(10)), waited(8, Some(seconds(1))));
    assert_eq!(manager.waited(&digest(3), seconds(10)), waited(7, None));
    // What an ancestor names is left out, with a proof or without; beside a failed one it is not.
    let payload = digest(1 << 60);
    manager.on_payload(payload, &[digest(0), digest(2), digest(4)]);
    manager.ripen(seconds(9));
    assert_eq!(pulled(&manager, &[payload], &[]), (vec![], vec![1, 3]));
    assert_eq!(pulled(&manager, &[], &[]), (vec![2], vec![0, 1, 3, 4]));
    manager.on_payload_over(&payload);
    assert_eq!(pulled(&manager, &[payload], &[]), (vec![2], vec![0, 1, 3, 4]));
    // What is ordered never comes back, whichever way it was ordered and whatever comes later.
    let ordered = |at: usize| [(digest(at as u64), proofs[at].info)];
    assert_eq!(manager.on_commit(&ordered(0), Timestamp(0)), 1);
    assert_eq!(manager.on_inline_commit(&ordered(1), Timestamp(0)), 1);
    for (at, proof) in proofs.iter().enumerate().take(2) {
        assert!(!manager.on_proof(digest(at as u64), Arc::clone(proof), NOW, Timestamp(0)));
        manager.on_batch(digest(at as u64), &proof.info, seconds(9), Timestamp(0));
    }
    manager.ripen(seconds(9));
    // Only what did not travel in a payload counts for its author's turns.
    assert_eq!(pulled(&manager, &[], &[]), (vec![2], vec![4, 3]));
    // What expires is gone.
    assert_eq!(manager.on_commit(&[], Timestamp(900)), 3);
    assert_eq!(pulled(&manager, &[], &[]), (vec![], vec![]));
    assert_eq!(
        (manager.ripe(), manager.take_expired().len()),
        ((0, 0), 1),
        "one proof was on record"
    );
}

#[test]
fn a_payload_that_names_a_batch_twice_names_it_once() {
    let mut manager = ProofManager::new(0);
    let (payload, batch) = (Digest([1; 32]), Digest([2; 32]));
    manager.on_payload(payload, &[batch, Digest([3; 32]), batch]);
    manager.on_payload_over(&payload);
    assert!(!manager.knows(&batch));
    assert_eq!(manager.entries.len(), 0);
}

#[test]
fn what_expires_at_this_moment_may_still_be_ordered_and_is_unproven_until_its_proof_comes() {
    let mut rng = Rng::with_seed(3);
    let mut manager = ProofManager::default();
    let made = proof(&mut rng, 1, 500);
    let (info, one) = (made.info, digest(1));
    let late = Timestamp(info.expiration.0 + 1);
    manager.on_batch(one, &info, NOW, late);
    assert!(!manager.is_unproven(&one) && !manager.knows(&one));
    manager.on_batch(one, &info, NOW, info.expiration);
    assert!(manager.is_unproven(&one) && manager.knows(&one) && !manager.is_proven(&one));
    assert!(!manager.on_proof(one, Arc::clone(&made), NOW, late));
    assert!(manager.on_proof(one, Arc::clone(&made), NOW, info.expiration));
    assert!(!manager.is_unproven(&one) && manager.is_proven(&one));
    // One with as many signatures tells nothing new, one with more takes its place.
    let signed = |signers: &[u16]| {
        let signature = crate::types::Signature::from_bytes(&[7; 64]);
        let part = |signer: &u16| crate::types::ProofSignature { signer: *signer, signature };
        Arc::new(ProofOfStore { info, signatures: signers.iter().map(part).collect() })
    };
    for (signers, known) in [(&[1, 2][..], [1, 2]), (&[0, 3], [1, 2]), (&[4], [1, 2])] {
        assert!(!manager.on_proof(one, signed(signers), NOW, info.expiration));
        let held = manager.proofs().next().unwrap().1;
        assert!(held.signatures.iter().map(|part| part.signer).eq(known), "{signers:?}");
    }
}
