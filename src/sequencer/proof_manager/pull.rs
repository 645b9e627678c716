//! Pulling: the best payload within limits, at a cost that follows what is taken and what does not
//! fit, not what is excluded.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use super::{Arrival, ProofManager, State};
use crate::sequencer::port::PayloadLimits;
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
}

/// What is taken so far.
#[derive(Debug, Default)]
struct Taken {
    proofs: Vec<Arc<ProofOfStore>>,
    transactions: u64,
    batch_bytes: u64,
    encoded: u64,
    skipped: usize,
}

impl Taken {
    fn is_full(&self, wanted: &Wanted<'_>) -> bool {
        let limits = wanted.limits;
        self.proofs.len() as u64 >= limits.batches_max
            || self.transactions >= limits.transactions_max
            || self.skipped > SKIPPED_MAX
    }

    /// Takes a proof if it fits.
    fn offer(&mut self, wanted: &Wanted<'_>, proof: &Arc<ProofOfStore>) -> bool {
        let (info, limits) = (&proof.info, wanted.limits);
        let signatures = proof.signatures.len() as u64;
        let size = BatchInfo::ENCODED_BYTES as u64 + 4 + SIGNATURE_BYTES * signatures;
        let fits = self.transactions + u64::from(info.count) <= limits.transactions_max
            && self.batch_bytes + u64::from(info.bytes) <= limits.batch_bytes_max
            && self.encoded + size <= wanted.encoded_max;
        if !fits || info.expiration < wanted.block_timestamp {
            self.skipped += 1;
            return false;
        }
        self.transactions += u64::from(info.count);
        self.batch_bytes += u64::from(info.bytes);
        self.encoded += size;
        self.proofs.push(Arc::clone(proof));
        true
    }
}

/// One author's entries in one bucket, oldest first.
type Source<'a> = Box<dyn Iterator<Item = (Arrival, Digest)> + 'a>;

/// Entries that only payloads beside the ancestors name, by bucket and author.
type Aside = BTreeMap<Reverse<u64>, BTreeMap<Author, BTreeMap<Arrival, Digest>>>;

impl ProofManager {
    /// The best payload within the limits.
    pub fn pull(&self, wanted: &Wanted<'_>) -> Vec<Arc<ProofOfStore>> {
        let aside = self.aside(wanted.ancestors);
        let mut served = self.served.clone();
        let mut taken = Taken::default();
        let buckets: BTreeSet<_> = self.buckets.keys().chain(aside.keys()).copied().collect();
        for bucket in buckets {
            if taken.is_full(wanted) {
                break;
            }
            let mut sources: BTreeMap<Author, Vec<Source<'_>>> = BTreeMap::new();
            for queues in [self.buckets.get(&bucket), aside.get(&bucket)].into_iter().flatten() {
                for (author, queue) in queues {
                    let entries = queue.iter().map(|(arrival, digest)| (*arrival, *digest));
                    sources.entry(*author).or_default().push(Box::new(entries));
                }
            }
            self.take_turns(wanted, sources, &mut served, &mut taken);
        }
        taken.proofs
    }

    /// What failed proposals name and no ancestor does: it can be proposed here.
    fn aside(&self, ancestors: &BTreeSet<Digest>) -> Aside {
        let mut aside = Aside::new();
        // Each batch once, however many payloads name it.
        for (digest, names) in &self.names {
            if names.iter().any(|payload| ancestors.contains(payload)) {
                continue;
            }
            if let Some((info, arrival)) = self.queued(digest) {
                let bucket = aside.entry(Reverse(info.gas_bucket_start)).or_default();
                bucket.entry(info.author).or_default().insert(arrival, *digest);
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
            let Some(State::Queued { proof, .. }) = self.entries.get(&digest) else {
                unreachable!("{digest:?} is queued and has no proof")
            };
            if wanted.exclude.contains(&digest) {
                taken.skipped += 1;
            } else if taken.offer(wanted, proof) {
                *now += proof.info.charge();
            }
            let next = source.next();
            turns.extend(next.map(|(arrival, digest)| Reverse((*now, arrival, at, digest))));
        }
    }
}
