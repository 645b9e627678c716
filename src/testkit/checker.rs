//! The checker: books of its own, from what crosses the boundary of each honest core. It shares no
//! predicate with the code it checks: quorums, expiry, pins and slots are computed here again.
//!
//! The first violation is kept; a run stops at it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::epochs::Plan;
use super::followers::fold;
use super::keys::Keys;
use crate::crypto::Signer;
use crate::sequencer::port::{Record, Room};
use crate::sequencer::status::Status;
use crate::store::StoredBatch;
use crate::types::{
    Author, BatchId, BatchInfo, ChainId, Commit, CommitIndex, CommitReceipt, Component, Digest,
    Epoch, EpochReceipt, Genesis, Payload, ProofOfStore, Slot,
};

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub property: &'static str,
    /// Where and how.
    pub detail: String,
}

/// What one honest validator has on disk and has said.
#[derive(Debug, Default)]
pub(super) struct Books {
    batches: BTreeMap<Digest, BatchInfo>,
    payloads: BTreeSet<Digest>,
    signed: BTreeMap<Slot, Digest>,
    own: BTreeMap<BatchId, Digest>,
    authored: BTreeSet<Digest>,
    reserved: u64,
    pub(super) logged: u64,
    pub(super) applied: u64,
    receipts: BTreeMap<u64, CommitReceipt>,
    pub(super) cursors: BTreeMap<String, u64>,
    /// Content of commits from here on stays.
    pub(super) pinned_from: u64,
    pub(super) epoch: Epoch,
    /// Own batches without a proof: since when, and until when they can have one.
    pub(super) uncertified: BTreeMap<Digest, (u64, u64)>,
    /// Epochs that are fenced or over.
    pub(super) ended: BTreeSet<Epoch>,
    pub(super) closed: BTreeMap<Epoch, EpochReceipt>,
    /// Where state sync led.
    pub(super) skips: BTreeSet<u64>,
    pub(super) consensus: u64,
    /// The highest commit that orders a batch or payload.
    ordered: BTreeMap<Digest, u64>,
    /// Said to be absent.
    absent: BTreeSet<Digest>,
    /// Every commit below this was passed.
    passed: u64,
    /// The same before the last group: what a validator says in a group, it may say before it
    /// passes the commit in the same one.
    passed_before: u64,
    /// A replaced store signs nothing before this.
    pub(super) silent_until: Option<u64>,
    /// Its disk was lost once.
    pub(super) wiped: bool,
}

impl Books {
    /// It is on disk no more.
    pub(super) fn forget(&mut self, digest: &Digest) {
        self.batches.remove(digest);
        self.payloads.remove(digest);
    }
}

/// See the module docs.
#[derive(Debug)]
pub struct Checker {
    pub(super) genesis: Genesis,
    pub(super) chain: ChainId,
    pub(super) plan: Plan,
    pub(super) keys: Keys,
    /// Virtual microseconds, when a group was last durable.
    pub(super) now: u64,
    pub(super) books: Vec<Books>,
    pub(super) honest: Vec<bool>,
    pub(super) authors: Vec<Author>,
    pub(super) finalised: Vec<Commit>,
    /// What an indexer that took every header has, before the first commit and after each.
    pub(super) prefixes: Vec<u64>,
    contents: BTreeMap<Digest, Arc<Payload>>,
    /// By index, and by what was skipped because of evidence until then.
    states: BTreeMap<(u64, u64), u64>,
    /// The last of each validator.
    pub(super) last_states: BTreeMap<usize, (u64, u64)>,
    /// Identifier to expiration, and at whom.
    pub(super) accepted: BTreeMap<u64, (u64, usize)>,
    executed: BTreeSet<u64>,
    /// Durable records of each kind.
    pub(super) records: BTreeMap<(usize, &'static str), u64>,
    /// What was quoted: to whom by validator and number, how much, and when it is over at the latest.
    pub(super) leases: BTreeMap<(usize, u64), (Room, u64)>,
    /// Content that was taken from disks, against every promise.
    pub(super) lost: BTreeSet<Digest>,
    violation: Option<Violation>,
}

impl Checker {
    pub(super) fn new(genesis: Genesis, plan: Plan, keys: &[Keys], honest: Vec<bool>) -> Self {
        Self {
            chain: genesis.chain_id(),
            genesis,
            plan,
            books: keys.iter().map(|_| Books::default()).collect(),
            authors: keys.iter().map(Signer::author).collect(),
            keys: keys[0].clone(),
            honest,
            finalised: Vec::new(),
            prefixes: vec![0],
            contents: BTreeMap::new(),
            states: BTreeMap::new(),
            last_states: BTreeMap::new(),
            accepted: BTreeMap::new(),
            executed: BTreeSet::new(),
            records: BTreeMap::new(),
            leases: BTreeMap::new(),
            lost: BTreeSet::new(),
            violation: None,
            now: 0,
        }
    }

    /// The first property that did not hold.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Transactions executed so far, at whichever validator came first.
    pub fn executed(&self) -> usize {
        self.executed.len()
    }

    pub(super) fn fail(&mut self, property: &'static str, detail: String) {
        self.violation.get_or_insert(Violation { property, detail });
    }

    pub(super) fn require(
        &mut self,
        holds: bool,
        property: &'static str,
        detail: impl FnOnce() -> String,
    ) {
        if !holds {
            self.fail(property, detail());
        }
    }

    /// A group of this validator is on disk.
    pub(super) fn on_durable(&mut self, node: usize, now: u64, records: &[Record]) {
        self.now = now;
        for record in records {
            *self.records.entry((node, record.name())).or_default() += 1;
        }
        if self.honest[node] {
            self.books[node].passed_before = self.books[node].passed;
            self.on_cursors(node, records);
            for record in records {
                self.on_record(node, record);
            }
        }
    }

    fn on_record(&mut self, node: usize, record: &Record) {
        match record {
            Record::Batch(batch) => self.on_batch(node, batch.digest, &batch.info),
            Record::Proof { digest, proof } => {
                self.books[node].uncertified.remove(digest);
                self.check_proof(node, digest, proof);
            }
            Record::Payload { digest, .. } => drop(self.books[node].payloads.insert(*digest)),
            Record::Commit(commit) => self.on_commit(node, commit),
            Record::Applied(receipt) => self.on_applied(node, receipt),
            Record::Reserved { until } => self.books[node].reserved = *until,
            Record::DropBatch { digest, expiration } => {
                self.check_drop(node, digest, expiration.0);
                self.books[node].batches.remove(digest);
                self.books[node].uncertified.remove(digest);
            }
            Record::DropPayload { digest, expiration } => {
                self.check_drop(node, digest, expiration.0);
                self.books[node].payloads.remove(digest);
            }
            Record::Fence { epoch, .. } => drop(self.books[node].ended.insert(*epoch)),
            Record::Closed(receipt) => self.on_epoch_end(node, receipt),
            Record::Epoch(membership) => self.on_epoch(node, membership),
            Record::Skipped { header, .. } => self.on_skip(node, header),
            Record::Settled { digest, .. } => drop(self.books[node].uncertified.remove(digest)),
            // See `on_cursors`.
            Record::Cursor { .. } | Record::Lagged { .. } | Record::Unsubscribed { .. } => {}
            Record::Passed { below } => self.books[node].passed = below.0,
            Record::Silence { until } => self.books[node].silent_until = until.map(|until| until.0),
            Record::Claim { .. }
            | Record::Absent { .. }
            | Record::DropAbsent { .. }
            | Record::Rewritten { .. }
            | Record::DropRewritten { .. }
            | Record::DropProof { .. }
            | Record::Floor { .. }
            | Record::DropFloors { .. }
            | Record::DropCommits { .. } => {}
        }
    }

    fn on_batch(&mut self, node: usize, digest: Digest, info: &BatchInfo) {
        self.books[node].batches.insert(digest, *info);
        if info.author != self.authors[node] {
            return;
        }
        let reserved = self.books[node].reserved;
        self.require(info.batch_id.counter < reserved, "ids are used once reserved", || {
            format!("node {node} used {:?} below {reserved}", info.batch_id)
        });
        self.books[node].authored.insert(digest);
        self.books[node].uncertified.insert(digest, (self.now, info.expiration.0));
        let before = self.books[node].own.insert(info.batch_id, digest);
        self.require(before.is_none_or(|before| before == digest), "ids are used once", || {
            format!("node {node} used {:?} for {before:?} and {digest:?}", info.batch_id)
        });
    }

    fn on_commit(&mut self, node: usize, commit: &Commit) {
        let index = commit.index.0;
        let books = &mut self.books[node];
        let (expected, consensus) = (books.logged + 1, books.consensus);
        books.logged = index;
        books.consensus = commit.header.block_timestamp.0;
        let digest = commit.header.digest(&self.chain);
        books.ordered.insert(digest, index);
        if let Some(payload) = self.contents.get(&digest) {
            for info in payload.content.batches() {
                // What is ordered needs no proof any more.
                books.uncertified.remove(&info.digest(&self.chain));
            }
            // The payload holds the bodies of the others.
            for info in payload.content.batches().take(payload.content.outside()) {
                books.ordered.insert(info.digest(&self.chain), index);
            }
        }
        let header = commit.header;
        self.require(index == expected, "commits are gapless", || {
            format!("node {node} logged {index} after {}", expected - 1)
        });
        self.require(header.block_timestamp.0 >= consensus, "time never goes back", || {
            format!("node {node} at commit {index}")
        });
        let told = self.finalised.get(index as usize - 1).is_some_and(|c| c.header == header);
        self.require(told, "only what is finalised is logged", || format!("node {node}, {index}"));
    }

    fn on_applied(&mut self, node: usize, receipt: &CommitReceipt) {
        let books = &mut self.books[node];
        let (expected, logged) = (books.applied + 1, books.logged);
        books.applied = receipt.index.0;
        books.receipts.insert(receipt.index.0, *receipt);
        let whole =
            receipt.acks.iter().zip(Component::ALL).all(|(ack, component)| {
                ack.component == component && ack.watermark == receipt.index
            });
        let index = receipt.index.0;
        self.require(index == expected && index <= logged, "commits are applied in order", || {
            format!("node {node} applied {index}, expected {expected}, logged {logged}")
        });
        self.require(whole, "every component acks every commit", || {
            format!("node {node}: {receipt:?}")
        });
    }

    /// Expiration plus grace lies below consensus time, and no subscriber may still need it.
    fn check_drop(&mut self, node: usize, digest: &Digest, expiration: u64) {
        let books = &self.books[node];
        let (cursor, consensus) = (books.pinned_from, books.consensus);
        let pinned = books.ordered.get(digest).is_some_and(|index| *index >= cursor);
        let over = expiration + self.genesis.parameters.grace_micros < consensus;
        self.require(over, "content stays until its time is over", || {
            format!("node {node} dropped {digest:?} at {consensus}, it expires at {expiration}")
        });
        self.require(!pinned, "what is pinned stays", || {
            format!("node {node} dropped {digest:?}, which a subscriber at {cursor} needs")
        });
    }

    /// A validator says that it does not hold what a commit names.
    pub(super) fn on_absence(&mut self, node: usize, index: CommitIndex, digest: &Digest) {
        if !self.honest[node] {
            return;
        }
        let books = &self.books[node];
        let held = books.batches.contains_key(digest) || books.payloads.contains(digest);
        let (logged, passed) = (books.logged, books.passed_before);
        self.require(!held, "what is held is not said to be absent", || {
            format!("node {node}, {digest:?} in {index:?}")
        });
        self.require(index.0 <= logged, "absence is about what is logged", || {
            format!("node {node} logged {logged}, spoke of {index:?}")
        });
        self.require(index.0 >= passed, "absence is not about what was passed", || {
            format!("node {node} passed {passed}, spoke of {index:?}")
        });
        self.books[node].absent.insert(*digest);
    }

    /// A signature for a batch left, or was looped back to its author.
    pub(super) fn on_signed(&mut self, node: usize, stored: &StoredBatch) {
        if !self.honest[node] {
            return;
        }
        let digest = stored.digest;
        let absent = self.books[node].absent.contains(&digest);
        self.require(!absent, "what was said to be absent is never signed", || {
            format!("node {node} signed {digest:?}")
        });
        let (silent, time) = (self.books[node].silent_until, self.books[node].consensus);
        self.require(
            silent.is_none_or(|until| until <= time),
            "a replaced store is silent",
            || format!("node {node} signed {digest:?} at {time}"),
        );
        let Some(info) = self.books[node].batches.get(&digest).copied() else {
            self.fail("durable before signed", format!("node {node} signed {digest:?}"));
            return;
        };
        let is_over = self.books[node].ended.contains(&info.epoch);
        self.require(!is_over, "nothing is signed for an epoch that is fenced", || {
            format!("node {node} signed {digest:?} of {:?}", info.epoch)
        });
        let slot = Slot { epoch: info.epoch, author: info.author, batch_id: info.batch_id };
        let before = self.books[node].signed.insert(slot, digest);
        self.require(before.is_none_or(|b| b == digest), "one digest per slot is signed", || {
            format!("node {node} signed {before:?} and {digest:?} in {slot:?}")
        });
    }

    /// Distinct members with more than two thirds of the power, each signature real.
    fn check_proof(&mut self, node: usize, digest: &Digest, proof: &ProofOfStore) {
        let named = proof.info.digest(&self.chain) == *digest;
        let valid = named && self.is_proof(proof);
        self.require(valid, "a proof is a quorum of real signatures", || {
            format!("node {node} took {digest:?}: {proof:?}")
        });
        let over = proof.info.expiration.0 + self.genesis.parameters.grace_micros;
        for part in &proof.signatures {
            let planned = self.plan.get(proof.info.epoch);
            let members = planned.map(|planned| planned.committee.members()).unwrap_or_default();
            let Some(member) = members.get(usize::from(part.signer)) else { continue };
            let Some(signer) = self.authors.iter().position(|author| *author == member.author)
            else {
                continue;
            };
            let books = &self.books[signer];
            let holds = !self.honest[signer]
                || books.wiped
                || self.lost.contains(digest)
                || books.batches.contains_key(digest)
                || books.consensus > over;
            self.require(holds, "honest signers hold what is certified", || {
                format!("node {signer} does not hold {digest:?}")
            });
        }
    }

    /// A quorum voted for this payload.
    pub(super) fn on_finalised(&mut self, commit: Commit, payload: Arc<Payload>, voters: &[usize]) {
        let digest = payload.digest(&self.chain);
        for voter in voters.iter().filter(|voter| self.honest[**voter]).copied() {
            let held = self.books[voter].payloads.contains(&digest);
            self.violation = self.violation.take().or_else(|| {
                (!held).then(|| Violation {
                    property: "a payload is durable before it is voted for",
                    detail: format!("node {voter} voted for {digest:?}"),
                })
            });
        }
        let mut seen = BTreeSet::new();
        for proof in &payload.content.proofs {
            let batch = proof.info.digest(&self.chain);
            let valid = seen.insert(batch)
                && proof.info.expiration >= payload.header.block_timestamp
                && self.is_proof(proof);
            self.require(valid, "what is finalised is valid", || {
                format!("{batch:?} in {digest:?}")
            });
        }
        self.check_unproven(&digest, &payload, seen, voters);
        let ends = self.plan.at(commit.index.0) == commit.header.epoch;
        self.require(ends, "blocks are of their epoch", || format!("{commit:?}"));
        let before = self.prefixes.last().copied().unwrap_or_default();
        let header = self.header_hash(&commit.header);
        self.prefixes.push(fold(before, commit.index.0, header));
        self.finalised.push(commit);
        self.contents.insert(digest, payload);
    }

    /// Batches without a proof: each once and in time; each honest voter holds the optimistic ones,
    /// and nothing else in their slots; the bodies of inline ones are theirs.
    fn check_unproven(
        &mut self,
        digest: &Digest,
        payload: &Payload,
        mut seen: BTreeSet<Digest>,
        voters: &[usize],
    ) {
        let content = &payload.content;
        let inline = content.inline.iter().map(|batch| &batch.info);
        for info in content.optimistic.iter().chain(inline) {
            let batch = info.digest(&self.chain);
            let valid = seen.insert(batch)
                && info.expiration >= payload.header.block_timestamp
                && info.epoch == payload.header.epoch;
            self.require(valid, "what is finalised is valid", || format!("{batch:?} {digest:?}"));
        }
        for batch in &content.inline {
            let root = blake3::hash(batch.body.bytes());
            let whole = root.as_bytes() == &batch.info.root.0;
            self.require(whole, "an inline batch has its body", || format!("{digest:?}"));
        }
        for info in &content.optimistic {
            let batch = info.digest(&self.chain);
            for voter in voters.iter().filter(|voter| self.honest[**voter]).copied() {
                let books = &mut self.books[voter];
                let held = books.batches.contains_key(&batch);
                let slot = Slot { epoch: info.epoch, author: info.author, batch_id: info.batch_id };
                let before = *books.signed.entry(slot).or_insert(batch);
                let silent = books.silent_until.is_some_and(|until| until > books.consensus);
                let property = "who votes for an optimistic batch holds it in its slot";
                self.violation = self.violation.take().or_else(|| {
                    (!held || before != batch || silent).then(|| Violation {
                        property,
                        detail: format!("node {voter}: {batch:?} in {digest:?}, not {before:?}"),
                    })
                });
            }
        }
    }

    /// The host got a receipt.
    pub(super) fn on_receipt(&mut self, node: usize, receipt: &CommitReceipt) {
        let known = self.books[node].receipts.get(&receipt.index.0).copied();
        let holds = !self.honest[node] || known == Some(*receipt);
        self.require(holds, "a receipt is durable, and always the same", || {
            format!("node {node} answered {receipt:?}, its disk has {known:?}")
        });
    }

    /// A validator executed a commit.
    pub(super) fn on_executed(
        &mut self,
        node: usize,
        (index, version): (u64, u64),
        state: u64,
        ids: &[u64],
    ) {
        let first = *self.states.entry((index, version)).or_insert(state);
        self.last_states.insert(node, (index, version));
        self.require(first == state, "executed state is equal", || {
            format!("node {node} at {index}: {state:x}, another one {first:x}")
        });
        self.executed.extend(ids);
    }

    /// A client was told that its transaction is accepted.
    pub(super) fn on_accepted(&mut self, node: usize, id: u64, expiration: u64, batch: &Digest) {
        // Ever: a batch whose other transactions waited for long may be gone by now.
        let held = !self.honest[node] || self.books[node].authored.contains(batch);
        self.require(held, "accepted is durable", || format!("node {node}, {batch:?}"));
        self.accepted.insert(id, (expiration, node));
    }

    /// What a crash left is what was promised.
    pub(super) fn on_recovered(&mut self, node: usize, records: &[Record]) {
        if !self.honest[node] {
            return;
        }
        let found: BTreeSet<Digest> = records
            .iter()
            .filter_map(|record| match record {
                Record::Batch(batch) => Some(batch.digest),
                _ => None,
            })
            .collect();
        let promised: BTreeSet<Digest> = self.books[node].batches.keys().copied().collect();
        self.require(found == promised, "a crash keeps what is durable, and nothing else", || {
            let lost: Vec<_> = promised.difference(&found).collect();
            let more: Vec<_> = found.difference(&promised).collect();
            format!("node {node} lost {lost:?}, found {more:?}")
        });
    }

    /// Bounds that hold at every moment.
    pub(super) fn on_status(&mut self, node: usize, status: &Status, config: &Bounds) {
        for window in &status.windows {
            let within = window.stored.bytes <= config.window_bytes
                && window.stored.batches <= config.window_batches;
            self.require(within, "windows bound what is stored", || {
                format!("node {node} of {:?}: {:?}", window.peer, window.stored)
            });
        }
        // Re-batched transactions come back into a pool that may be full: at most what is
        // outstanding.
        let pool = config.pool_bytes + config.outstanding_bytes + config.batch_bytes;
        self.require(status.pool_bytes <= pool, "the pool is bounded", || {
            format!("node {node}: {} bytes", status.pool_bytes)
        });
        let outstanding = config.outstanding_bytes + config.batch_bytes + 1024;
        self.require(status.outstanding_bytes <= outstanding, "own batches are bounded", || {
            format!("node {node}: {} bytes", status.outstanding_bytes)
        });
    }

    /// Accepted transactions that were neither executed nor have expired by consensus time.
    pub(super) fn forgotten(&self) -> Vec<u64> {
        if !self.lost.is_empty() {
            // What a lost batch held, nobody can say.
            return Vec::new();
        }
        let consensus = self.finalised.last().map_or(0, |last| last.header.block_timestamp.0);
        let open = self
            .accepted
            .iter()
            .filter(|(id, (end, _))| *end >= consensus && !self.executed.contains(*id));
        open.map(|(id, _)| *id).collect()
    }

    /// A finalised payload.
    pub(super) fn content(&self, digest: &Digest) -> Option<&Arc<Payload>> {
        self.contents.get(digest)
    }

    /// What is finalised, in order.
    pub(super) fn finalised(&self) -> &[Commit] {
        &self.finalised
    }
}

/// What the configuration bounds.
pub(super) struct Bounds {
    pub window_bytes: u64,
    pub window_batches: u64,
    pub pool_bytes: u64,
    pub outstanding_bytes: u64,
    pub batch_bytes: u64,
}
