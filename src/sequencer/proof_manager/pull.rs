//! Pulling: the best payload within limits, at a cost that follows what is taken and what does not
//! fit, not what is excluded.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use super::ProofManager;
use super::entry::{Arrival, State};
use super::lines::{Buckets, Lines};
use crate::sequencer::port::PayloadLimits;
use crate::types::payload::OPTIMISTIC_MAX;
use crate::types::{Author, BatchInfo, Digest, ProofOfStore, Timestamp};

/// What a signature weighs in an encoded proof.
const SIGNATURE_BYTES: u64 = 66;

/// A pull looks at no more than this many entries that it does not take: its cost is bounded
/// although many may be too large or too old.
const SKIPPED_MAX: usize = 8192;

/// What a pull may take, and must leave out.
#[derive(Clone, Copy, Debug)]
pub(in crate::sequencer) struct Wanted<'a> {
    pub limits: &'a PayloadLimits,
    /// Bytes of an encoded payload.
    pub encoded_max: u64,
    pub block_timestamp: Timestamp,
    /// Payloads that the new one builds on.
    pub ancestors: &'a BTreeSet<Digest>,
    /// Batches that the host leaves out.
    pub exclude: &'a BTreeSet<Digest>,
    /// Batches without a proof may be taken too.
    pub optimistic: Option<Optimistic<'a>>,
}

/// What of the batches without a proof may be taken.
#[derive(Clone, Copy, Debug)]
pub(in crate::sequencer) struct Optimistic<'a> {
    /// None of these authors'.
    pub blamed: &'a BTreeSet<Author>,
    /// None that expire later than this.
    pub latest: Timestamp,
}

/// What is taken so far.
#[derive(Debug, Default)]
pub(in crate::sequencer) struct Taken {
    pub proofs: Vec<Arc<ProofOfStore>>,
    pub optimistic: Vec<(Digest, BatchInfo)>,
    inline: u64,
    transactions: u64,
    batch_bytes: u64,
    encoded: u64,
    skipped: usize,
}

impl Taken {
    fn is_full(&self, wanted: &Wanted<'_>) -> bool {
        let limits = wanted.limits;
        self.batches() >= limits.batches_max
            || self.transactions >= limits.transactions_max
            || self.optimistic.len() >= OPTIMISTIC_MAX
            || self.skipped > SKIPPED_MAX
    }

    fn batches(&self) -> u64 {
        self.proofs.len() as u64 + self.optimistic.len() as u64 + self.inline
    }

    /// Takes a batch that weighs so much in the payload, if it fits.
    fn offer(&mut self, wanted: &Wanted<'_>, info: &BatchInfo, size: u64) -> bool {
        let limits = wanted.limits;
        let fits = self.batches() < limits.batches_max
            && self.transactions + u64::from(info.count) <= limits.transactions_max
            && self.batch_bytes + u64::from(info.bytes) <= limits.batch_bytes_max
            && self.encoded + size <= wanted.encoded_max;
        if !fits || info.expiration < wanted.block_timestamp {
            self.skipped += 1;
            return false;
        }
        self.transactions += u64::from(info.count);
        self.batch_bytes += u64::from(info.bytes);
        self.encoded += size;
        true
    }

    fn offer_proof(&mut self, wanted: &Wanted<'_>, proof: &Arc<ProofOfStore>) -> bool {
        let signatures = proof.signatures.len() as u64;
        let size = BatchInfo::ENCODED_BYTES as u64 + 4 + SIGNATURE_BYTES * signatures;
        let fits = self.offer(wanted, &proof.info, size);
        if fits {
            self.proofs.push(Arc::clone(proof));
        }
        fits
    }

    fn offer_optimistic(&mut self, wanted: &Wanted<'_>, digest: Digest, info: &BatchInfo) -> bool {
        let late = wanted.optimistic.is_none_or(|allowed| info.expiration > allowed.latest);
        if late {
            self.skipped += 1;
            return false;
        }
        let fits = self.offer(wanted, info, BatchInfo::ENCODED_BYTES as u64);
        if fits {
            self.optimistic.push((digest, *info));
        }
        fits
    }

    /// Counts a batch that travels in the payload, if it fits.
    pub fn offer_inline(&mut self, wanted: &Wanted<'_>, info: &BatchInfo) -> bool {
        let size = BatchInfo::ENCODED_BYTES as u64 + 5 + u64::from(info.bytes);
        let fits = self.offer(wanted, info, size);
        self.inline += u64::from(fits);
        fits
    }
}

/// One author's entries in one bucket, oldest first.
type Source<'a> = Box<dyn Iterator<Item = (Arrival, Digest)> + 'a>;

impl ProofManager {
    /// The best payload within the limits: what has a proof, then what has none.
    pub fn pull(&self, wanted: &Wanted<'_>) -> Taken {
        let (lines, aside) = (&self.lines, self.aside(wanted.ancestors));
        let mut served = self.served.clone();
        let mut taken = Taken::default();
        self.take(
            wanted,
            [&lines.proven, &aside.proven],
            &BTreeSet::new(),
            &mut served,
            &mut taken,
        );
        if let Some(Optimistic { blamed, .. }) = wanted.optimistic {
            self.take(wanted, [&lines.unproven, &aside.unproven], blamed, &mut served, &mut taken);
        }
        taken
    }

    fn take(
        &self,
        wanted: &Wanted<'_>,
        lines: [&Buckets; 2],
        without: &BTreeSet<Author>,
        served: &mut BTreeMap<Author, u64>,
        taken: &mut Taken,
    ) {
        let buckets: BTreeSet<_> = lines.iter().flat_map(|line| line.keys()).copied().collect();
        for bucket in buckets {
            if taken.is_full(wanted) {
                break;
            }
            let mut sources: BTreeMap<Author, Vec<Source<'_>>> = BTreeMap::new();
            let of_bucket = lines.iter().filter_map(|line| line.get(&bucket)).flatten();
            for (author, queue) in of_bucket.filter(|(author, _)| !without.contains(author)) {
                let entries = queue.iter().map(|(arrival, digest)| (*arrival, *digest));
                sources.entry(*author).or_default().push(Box::new(entries));
            }
            self.take_turns(wanted, sources, served, taken);
        }
    }

    /// What failed proposals name and no ancestor does: it can be proposed here.
    fn aside(&self, ancestors: &BTreeSet<Digest>) -> Lines {
        let mut aside = Lines::default();
        let failed = self.open.iter().filter(|(payload, _)| !ancestors.contains(payload));
        for digest in failed.flat_map(|(_, batches)| batches) {
            // It takes the same place, however many of them name it.
            if !self.is_named_by(digest, ancestors) {
                aside.enter(*digest, self.state(digest));
            }
        }
        aside
    }

    /// The author of whom the fewest bytes are ordered goes first, then who has waited longest.
    fn take_turns<'a>(
        &self,
        wanted: &Wanted<'_>,
        sources: BTreeMap<Author, Vec<Source<'a>>>,
        served: &mut BTreeMap<Author, u64>,
        taken: &mut Taken,
    ) {
        let mut queues: Vec<(Author, Source<'a>)> = sources
            .into_iter()
            .flat_map(|(author, sources)| sources.into_iter().map(move |source| (author, source)))
            .collect();
        let mut turns = BinaryHeap::new();
        for (at, (author, source)) in queues.iter_mut().enumerate() {
            let before = served.get(author).copied().unwrap_or_default();
            turns.extend(
                source.next().map(|(arrival, digest)| Reverse((before, arrival, at, digest))),
            );
        }
        while let Some(Reverse((before, arrival, at, digest))) = turns.pop() {
            if taken.is_full(wanted) {
                break;
            }
            let (author, source) = &mut queues[at];
            let now = served.entry(*author).or_default();
            if *now != before {
                // Its other source had a turn meanwhile.
                turns.push(Reverse((*now, arrival, at, digest)));
                continue;
            }
            if wanted.exclude.contains(&digest) {
                taken.skipped += 1;
            } else if let Some(charge) = self.offer(wanted, taken, digest) {
                *now += charge;
            }
            let next = source.next();
            turns.extend(next.map(|(arrival, digest)| Reverse((*now, arrival, at, digest))));
        }
    }

    /// Offers an entry; what it takes of its author's turn if it fits.
    fn offer(&self, wanted: &Wanted<'_>, taken: &mut Taken, digest: Digest) -> Option<u64> {
        let (fits, info) = match self.state(&digest) {
            State::Queued { proof, .. } => (taken.offer_proof(wanted, proof), &proof.info),
            State::Unproven { info, .. } => (taken.offer_optimistic(wanted, digest, info), &**info),
            _ => unreachable!("{digest:?} stands in line and cannot be proposed"),
        };
        fits.then(|| info.charge())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ProofSignature, Signature, samples};

    const EXPIRATION: Timestamp = Timestamp(100);
    const BYTES: u64 = 1000;
    /// Of a batch with two signatures, of one without a proof, and of one in the payload.
    const SIZES: [u64; 3] = {
        let info = BatchInfo::ENCODED_BYTES as u64;
        [info + 4 + 2 * 66, info, info + 5 + BYTES]
    };
    const PLENTY: PayloadLimits =
        PayloadLimits { transactions_max: 1000, batch_bytes_max: 1 << 30, batches_max: 1000 };

    fn info() -> BatchInfo {
        let info = samples::batch(2, 1, &[b"x"]).info;
        BatchInfo { bytes: BYTES as u32, count: 7, expiration: EXPIRATION, ..info }
    }

    fn proof() -> Arc<ProofOfStore> {
        let part = |signer| ProofSignature { signer, signature: Signature::from_bytes(&[7; 64]) };
        Arc::new(ProofOfStore { info: info(), signatures: [0, 3].map(part).into() })
    }

    /// How many of a kind are taken of three that are offered.
    fn takes(kind: usize, limits: &PayloadLimits, encoded_max: u64, times: [u64; 2]) -> u64 {
        let (none, blamed) = (BTreeSet::new(), BTreeSet::new());
        let [block_timestamp, latest] = times.map(Timestamp);
        let optimistic = Some(Optimistic { blamed: &blamed, latest });
        let (ancestors, exclude) = (&none, &none);
        let wanted =
            Wanted { limits, encoded_max, block_timestamp, ancestors, exclude, optimistic };
        let mut taken = Taken::default();
        let mut count = 0;
        for _ in 0..3 {
            count += u64::from(match kind {
                0 => taken.offer_proof(&wanted, &proof()),
                1 => taken.offer_optimistic(&wanted, Digest([1; 32]), &info()),
                _ => taken.offer_inline(&wanted, &info()),
            });
        }
        assert_eq!((taken.batches(), taken.skipped as u64), (count, 3 - count));
        let listed = [taken.proofs.len(), taken.optimistic.len(), taken.inline as usize];
        assert_eq!(listed[kind] as u64, count);
        count
    }

    #[test]
    fn what_fits_exactly_is_taken_and_what_lacks_a_byte_is_not() {
        let times = [100, 100];
        for (kind, size) in SIZES.into_iter().enumerate() {
            for fit in 1..=3 {
                let encoded = |max| takes(kind, &PLENTY, max, times);
                assert_eq!((encoded(fit * size), encoded(fit * size - 1)), (fit, fit - 1));
                let bytes = |batch_bytes_max| {
                    takes(kind, &PayloadLimits { batch_bytes_max, ..PLENTY }, 1 << 20, times)
                };
                assert_eq!((bytes(fit * BYTES), bytes(fit * BYTES - 1)), (fit, fit - 1));
                let transactions = |transactions_max| {
                    takes(kind, &PayloadLimits { transactions_max, ..PLENTY }, 1 << 20, times)
                };
                assert_eq!((transactions(fit * 7), transactions(fit * 7 - 1)), (fit, fit - 1));
                let limits = PayloadLimits { batches_max: fit, ..PLENTY };
                assert_eq!(takes(kind, &limits, 1 << 20, times), fit);
            }
        }
    }

    #[test]
    fn what_has_expired_at_the_time_of_the_block_is_left_and_so_is_what_may_not_yet_be_trusted() {
        for kind in 0..3 {
            assert_eq!(takes(kind, &PLENTY, 1 << 20, [100, 100]), 3, "at its last moment");
            assert_eq!(takes(kind, &PLENTY, 1 << 20, [101, 101]), 0, "expired");
            let expires_late = takes(kind, &PLENTY, 1 << 20, [99, 99]);
            assert_eq!(expires_late, if kind == 1 { 0 } else { 3 });
        }
    }

    #[test]
    fn a_payload_is_full_when_one_of_its_bounds_is_reached_or_too_much_was_looked_at() {
        let none = BTreeSet::new();
        let limits = PayloadLimits { transactions_max: 10, batches_max: 4, ..PLENTY };
        let wanted = Wanted {
            limits: &limits,
            encoded_max: 0,
            block_timestamp: EXPIRATION,
            ancestors: &none,
            exclude: &none,
            optimistic: None,
        };
        let is_full = |taken: Taken| taken.is_full(&wanted);
        let one = (Digest([1; 32]), info());
        assert!(!is_full(Taken::default()));
        let mixed = |inline| Taken {
            proofs: vec![proof()],
            optimistic: vec![one, one],
            inline,
            ..Taken::default()
        };
        assert!(!is_full(mixed(0)) && is_full(mixed(1)));
        for (transactions, full) in [(9, false), (10, true)] {
            assert_eq!(is_full(Taken { transactions, ..Taken::default() }), full);
        }
        for (skipped, full) in [(SKIPPED_MAX, false), (SKIPPED_MAX + 1, true)] {
            assert_eq!(is_full(Taken { skipped, ..Taken::default() }), full);
        }
        let limits = PayloadLimits { batches_max: u64::MAX, ..PLENTY };
        let wanted = Wanted { limits: &limits, ..wanted };
        for (count, full) in [(OPTIMISTIC_MAX - 1, false), (OPTIMISTIC_MAX, true)] {
            let taken = Taken { optimistic: vec![one; count], ..Taken::default() };
            assert_eq!(taken.is_full(&wanted), full);
        }
    }
}
