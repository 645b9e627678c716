//! Refetch: content that should be here and is not, fetched before anybody waits for it.
//!
//! What a proposal orders is fetched on sight of it, so that execution finds it; what logged
//! commits and proofs name and a lost or damaged disk does not hold is fetched again, so that there
//! are as many copies as were promised. Both are needs of our own: they take what bandwidth is left
//! over, and no more than `refetch_bytes_per_second`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Sequencer;
use super::digest_map::DigestMap;
use super::outbox::Clock;
use super::payloads::Content;
use crate::types::{Author, BatchInfo, Digest, Membership, ProofOfStore, Timestamp};

/// Most contents that wait; what does not fit is fetched when it is executed.
const WAITING_MAX: usize = 65_536;

#[derive(Debug)]
struct Item {
    info: BatchInfo,
    holders: Vec<Author>,
    /// When it is fetched; `None` once it is being fetched.
    due: Option<Duration>,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct Refetch {
    bytes_per_second: u64,
    items: DigestMap<Item>,
    /// What is fetched at each moment, with some that were moved or dropped since.
    due: BTreeMap<Duration, VecDeque<Digest>>,
    expirations: BTreeSet<(Timestamp, Digest)>,
    /// Until when what was started so far uses up the rate.
    busy_until: Duration,
    started: u64,
}

impl Refetch {
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            items: DigestMap::default(),
            due: BTreeMap::new(),
            expirations: BTreeSet::new(),
            busy_until: Duration::ZERO,
            started: 0,
        }
    }

    /// One more, or one that is wanted earlier.
    fn add(
        &mut self,
        digest: Digest,
        info: &BatchInfo,
        due: Duration,
        holders: impl FnOnce() -> Vec<Author>,
    ) {
        if let Some(item) = self.items.get_mut(&digest) {
            if item.due.is_some_and(|planned| due < planned) {
                item.due = Some(due);
                self.due.entry(due).or_default().push_back(digest);
            }
            return;
        }
        if self.items.len() >= WAITING_MAX {
            return;
        }
        let item = Item { info: *info, holders: holders(), due: Some(due) };
        self.items.insert(digest, item);
        self.due.entry(due).or_default().push_back(digest);
        self.expirations.insert((info.expiration, digest));
    }

    fn remove(&mut self, digest: &Digest) -> bool {
        let Some(item) = self.items.remove(digest) else { return false };
        self.expirations.remove(&(item.info.expiration, *digest));
        true
    }

    /// The next one, if it is due by now and the rate allows it.
    fn pop_due(&mut self, now: Duration) -> Option<Digest> {
        while let Some(mut first) = self.due.first_entry() {
            let due = *first.key();
            if due > now || self.busy_until > now {
                return None;
            }
            let Some(digest) = first.get_mut().pop_front() else {
                first.remove();
                continue;
            };
            if let Some(item) = self.items.get_mut(&digest).filter(|item| item.due == Some(due)) {
                item.due = None;
                return Some(digest);
            }
        }
        None
    }

    /// When something is due and the rate allows it.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.due.first_key_value().map(|(due, _)| (*due).max(self.busy_until))
    }

    /// Contents that wait or are being fetched.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// How many were started in this life.
    pub fn started(&self) -> u64 {
        self.started
    }
}

impl Sequencer {
    /// Batches of a payload that are not here are fetched from `due` on.
    pub(super) fn refetch_batches(&mut self, content: &Content, due: Duration) {
        for (proof, digest) in content.payload.content.proofs.iter().zip(&content.batches) {
            self.refetch(*digest, proof, due);
        }
    }

    /// The same once it is ordered: optimistic batches too. Who voted for it holds those, and their
    /// authors do.
    pub(super) fn refetch_ordered(&mut self, content: &Content, due: Duration) {
        self.refetch_batches(content, due);
        let consensus = self.commits.consensus_time();
        for (info, digest) in content.optimistic() {
            if info.expiration >= consensus && self.retention.get(digest).is_none() {
                self.refetch.add(*digest, info, due, || vec![info.author]);
            }
        }
    }

    /// The same for one proof.
    pub(super) fn refetch(&mut self, digest: Digest, proof: &ProofOfStore, due: Duration) {
        let over = proof.info.expiration < self.commits.consensus_time();
        if over || self.retention.get(&digest).is_some() {
            return;
        }
        let (membership, own) = (&self.membership, &self.author);
        self.refetch.add(digest, &proof.info, due, || signers_of(membership, own, proof));
    }

    /// Starts what is due, as far as the rate goes.
    pub(super) fn tick_refetch(&mut self, clock: &Clock) {
        let now = clock.now.monotonic;
        while let Some(digest) = self.refetch.pop_due(now) {
            if self.retention.get(&digest).is_some() {
                self.refetch.remove(&digest);
                continue;
            }
            let Some(item) = self.refetch.items.get(&digest) else {
                unreachable!("{digest:?} is due and not wanted")
            };
            let (info, holders) = (item.info, item.holders.clone());
            let rate = self.refetch.bytes_per_second.max(1);
            let micros = u64::from(info.bytes).saturating_mul(1_000_000) / rate;
            // A tenth of a second's worth may go at once.
            let from = self.refetch.busy_until.max(now.saturating_sub(Duration::from_millis(100)));
            self.refetch.busy_until = from + Duration::from_micros(micros);
            self.refetch.started += 1;
            self.fetcher.on_need(digest, Some(info), &holders, now);
        }
    }

    /// What has arrived, or can be ordered no more and is named by no commit that is kept for
    /// somebody, is not fetched any more.
    pub(super) fn drop_refetches(&mut self, clock: &Clock) {
        let over = self.refetch.expirations.range(..(clock.consensus, Digest::default()));
        let over: Vec<Digest> = over.map(|(_, digest)| *digest).collect();
        for digest in over {
            if !self.retention.is_missing(&digest) && self.refetch.remove(&digest) {
                self.fetcher.on_needless(&digest);
            }
        }
    }

    /// It is here, whoever sent it.
    pub(super) fn refetched(&mut self, digest: &Digest) {
        self.refetch.remove(digest);
    }

    /// What proofs and logged commits of an earlier life name and its store does not hold.
    pub(super) fn refetch_recovered(&mut self) {
        let proofs: Vec<_> = self.manager.proofs().collect();
        for (digest, proof) in proofs {
            self.refetch(digest, &proof, self.stepped);
        }
        for (digest, info) in self.retention.missing_batches() {
            self.refetch.add(digest, &info, self.stepped, Vec::new);
        }
    }
}

/// Who signed that it holds the batch, without us.
fn signers_of(membership: &Membership, own: &Author, proof: &ProofOfStore) -> Vec<Author> {
    let epoch = proof.info.epoch;
    let mut former = membership.former.iter();
    let committee = if epoch == membership.epoch {
        Some(&membership.committee)
    } else {
        former.find(|former| former.epoch == epoch).map(|former| &former.committee)
    };
    let signers = committee.into_iter().flat_map(|committee| proof.signers(committee));
    signers.filter(|signer| signer != own).collect()
}
