//! Refetch: content that should be here and is not, fetched before anybody waits for it.
//!
//! What a proposal orders is fetched on sight of it, so that execution finds it; what logged
//! commits and proofs name and a lost or damaged disk does not hold is fetched again, so that there
//! are as many copies as were promised. Both are needs of our own: they take what bandwidth is left
//! over, and no more than `refetch_bytes_per_second`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Sequencer;
use super::outbox::Clock;
use super::payloads::Content;
use crate::types::{Author, BatchInfo, Digest, ProofOfStore, Timestamp};

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
    items: BTreeMap<Digest, Item>,
    due: BTreeSet<(Duration, Digest)>,
    expirations: BTreeSet<(Timestamp, Digest)>,
    /// Until when what was started so far uses up the rate.
    busy_until: Duration,
    started: u64,
}

impl Refetch {
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            items: BTreeMap::new(),
            due: BTreeSet::new(),
            expirations: BTreeSet::new(),
            busy_until: Duration::ZERO,
            started: 0,
        }
    }

    fn add(&mut self, digest: Digest, info: BatchInfo, holders: Vec<Author>, due: Duration) {
        if let Some(item) = self.items.get_mut(&digest) {
            if let Some(planned) = item.due.filter(|planned| due < *planned) {
                self.due.remove(&(planned, digest));
                self.due.insert((due, digest));
                item.due = Some(due);
            }
            return;
        }
        if self.items.len() >= WAITING_MAX {
            return;
        }
        self.items.insert(digest, Item { info, holders, due: Some(due) });
        self.due.insert((due, digest));
        self.expirations.insert((info.expiration, digest));
    }

    fn remove(&mut self, digest: &Digest) -> bool {
        let Some(item) = self.items.remove(digest) else { return false };
        self.expirations.remove(&(item.info.expiration, *digest));
        if let Some(due) = item.due {
            self.due.remove(&(due, *digest));
        }
        true
    }

    /// When something is due and the rate allows it.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| (*due).max(self.busy_until))
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
                self.refetch.add(*digest, *info, vec![info.author], due);
            }
        }
    }

    /// The same for one proof.
    pub(super) fn refetch(&mut self, digest: Digest, proof: &ProofOfStore, due: Duration) {
        let over = proof.info.expiration < self.commits.consensus_time();
        if over || self.retention.get(&digest).is_some() {
            return;
        }
        let holders = self.signers_of(proof);
        self.refetch.add(digest, proof.info, holders, due);
    }

    /// Who signed that it holds the batch, without us.
    fn signers_of(&self, proof: &ProofOfStore) -> Vec<Author> {
        let epoch = proof.info.epoch;
        let mut former = self.membership.former.iter();
        let committee = if epoch == self.membership.epoch {
            Some(&self.membership.committee)
        } else {
            former.find(|former| former.epoch == epoch).map(|former| &former.committee)
        };
        let signers = committee.into_iter().flat_map(|committee| proof.signers(committee));
        signers.filter(|signer| *signer != self.author).collect()
    }

    /// Starts what is due, as far as the rate goes.
    pub(super) fn tick_refetch(&mut self, clock: &Clock) {
        let now = clock.now.monotonic;
        while let Some(&(due, digest)) = self.refetch.due.first() {
            if due > now || self.refetch.busy_until > now {
                return;
            }
            self.refetch.due.remove(&(due, digest));
            let Some(item) = self.refetch.items.get_mut(&digest) else {
                unreachable!("{digest:?} is due and not wanted")
            };
            item.due = None;
            if self.retention.get(&digest).is_some() {
                self.refetch.remove(&digest);
                continue;
            }
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

    /// It is here.
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
            self.refetch.add(digest, info, Vec::new(), self.stepped);
        }
    }
}
