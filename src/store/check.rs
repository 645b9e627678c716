//! The offline check: every invariant between the records of a store that no process uses.
//!
//! It changes nothing. It holds the directory's lock while it reads (a store in use is
//! [`StoreError::InUse`]), sees also what is only in a log, and reports every problem
//! it finds instead of stopping at the first. What it checks:
//!
//! - the database is the one the directory was created with, and every entry decodes;
//! - a batch, a proof and a payload are what their digest names; each batch and payload has its
//!   content, and each content somebody who names it;
//! - a slot is claimed once, by a batch of that slot, and not at or below a floor unless its time
//!   is over (a subscriber that lags keeps the batch, and with it the claim);
//! - what is fenced or ended was served;
//! - no counter of our own is at or above the reservation;
//! - commits are gapless, but for what state sync skipped; a receipt has its commit, and one ack per component, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::StoreError;
use super::directory::DataDirectory;
use super::entries::AllEntries;
use super::journal;
#[cfg(feature = "rocksdb")]
use super::rocks::Database;
use super::schema::{self, BatchEntry, ContentKind, Entry, Meta};
use crate::types::{
    Author, ChainId, Commit, CommitIndex, CommitReceipt, Component, Digest, Epoch, Incarnation,
    Slot, Timestamp,
};

/// Problems listed; beyond it they are only counted.
const PROBLEMS_MAX: usize = 1000;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Entries by kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// Everything that is wrong, at most 1000 of it.
    pub problems: Vec<Problem>,
    /// Problems beyond those.
    pub problems_omitted: u64,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What.
    pub what: String,
    /// The key of the entry in hex, if it is about one.
    pub key: String,
}

impl CheckReport {
    /// True if nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn count(&mut self, kind: &'static str) {
        *self.counts.entry(kind).or_default() += 1;
    }

    fn problem(&mut self, key: &[u8], what: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { what: what.into(), key: hex::encode(key) });
        } else {
            self.problems_omitted += 1;
        }
    }

    fn require(&mut self, holds: bool, key: &[u8], what: impl Into<String>) {
        if !holds {
            self.problem(key, what);
        }
    }
}

/// Checks the store in `path`. An error means that it could not be checked at all.
pub fn check(path: &Path) -> Result<CheckReport, StoreError> {
    let directory = DataDirectory::open(path)?;
    let path = directory.database();
    let entries: Box<dyn AllEntries> =
        if journal::is_at(&path) { Box::new(journal::Image::read(&path)?) } else { other(&path)? };
    examine(*directory.meta(), &*entries)
}

fn examine(meta: Meta, entries: &dyn AllEntries) -> Result<CheckReport, StoreError> {
    let (report, books) = (CheckReport::default(), Books::default());
    let mut check = Check { meta, entries, report, books };
    check.read_control()?;
    check.read_content();
    check.epochs();
    check.claims();
    check.counters();
    check.commits();
    Ok(check.report)
}

#[cfg(feature = "rocksdb")]
fn other(path: &Path) -> Result<Box<dyn AllEntries>, StoreError> {
    Ok(Box::new(Database::open_read_only(path)?))
}

#[cfg(not(feature = "rocksdb"))]
fn other(path: &Path) -> Result<Box<dyn AllEntries>, StoreError> {
    Err(StoreError::Damaged { what: format!("{} is no journal", path.display()) })
}

/// What the control table says, as far as it decodes.
#[derive(Default)]
struct Books {
    meta: Option<Meta>,
    reserved: u64,
    floors: BTreeMap<(Epoch, Author, Incarnation), u64>,
    /// The epoch that is served; the last one fenced; the last one that ended.
    epoch: Option<Epoch>,
    fence: Option<Epoch>,
    closed: Option<Epoch>,
    batches: BTreeMap<Digest, BatchEntry>,
    claims: BTreeMap<Digest, Slot>,
    payloads: BTreeMap<Digest, (Timestamp, Vec<Digest>)>,
    commits: BTreeMap<CommitIndex, Commit>,
    applied: BTreeMap<CommitIndex, CommitReceipt>,
    subscribers: BTreeSet<String>,
    /// First and last commit that state sync passed over.
    skipped: Option<(CommitIndex, CommitIndex)>,
}

struct Check<'a> {
    meta: Meta,
    entries: &'a dyn AllEntries,
    report: CheckReport,
    books: Books,
}

impl Check<'_> {
    fn chain(&self) -> ChainId {
        self.meta.identity.chain
    }

    fn read_control(&mut self) -> Result<(), StoreError> {
        let entries = self.entries;
        let scanned = entries.scan_control(&mut |key, value| {
            match Entry::decode(key, value) {
                Ok(entry) => self.enter(key, entry),
                Err(error) => self.report.problem(key, error.to_string()),
            }
            Ok(())
        });
        match scanned {
            Err(StoreError::Damaged { what }) => {
                self.report.problem(&[], format!("the control table cannot be read on: {what}"));
            }
            other => other?,
        }
        let same = self.books.meta == Some(self.meta);
        self.report.require(same, &[], "the database is not the one this directory was made with");
        Ok(())
    }

    fn enter(&mut self, key: &[u8], entry: Entry) {
        let chain = self.chain();
        let Self { report, books, .. } = self;
        report.count(entry.kind());
        match entry {
            Entry::Meta(meta) => books.meta = Some(meta),
            Entry::Life(_)
            | Entry::Absent { .. }
            | Entry::Passed(_)
            | Entry::Rewritten { .. }
            | Entry::Silence(_) => (),
            Entry::Cursor { subscriber, .. } | Entry::Lagged { subscriber, .. } => {
                let once = books.subscribers.insert(subscriber);
                report.require(once, key, "a subscriber that both lags and does not");
            }
            Entry::Skipped { from, header } => books.skipped = Some((from, header.height)),
            Entry::Reserved(until) => books.reserved = until,
            Entry::Floor(Slot { epoch, author, batch_id }) => {
                books.floors.insert((epoch, author, batch_id.incarnation), batch_id.counter);
            }
            Entry::Epoch(membership) => books.epoch = Some(membership.epoch),
            Entry::Fence(epoch, _) => books.fence = Some(epoch),
            Entry::Closed(receipt) => books.closed = Some(receipt.epoch),
            Entry::Batch { digest, entry } => {
                let named = entry.info.digest(&chain) == digest;
                report.require(named, key, "the batch info is not what its digest names");
                let twice = books.batches.insert(digest, entry).is_some();
                report.require(!twice, key, "a batch under two expirations");
            }
            Entry::Claim { digest, slot } => drop(books.claims.insert(digest, slot)),
            Entry::Proof { digest, proof } => {
                let named = proof.info.digest(&chain) == digest;
                report.require(named, key, "the proof is not of the batch its digest names");
            }
            Entry::Payload { digest, expiration, batches } => {
                let twice = books.payloads.insert(digest, (expiration, batches)).is_some();
                report.require(!twice, key, "a payload under two expirations");
            }
            Entry::Commit(commit) => {
                let at_height = commit.header.height == commit.index;
                report.require(at_height, key, "a commit whose header has another height");
                books.commits.insert(commit.index, commit);
            }
            Entry::Applied(receipt) => drop(books.applied.insert(receipt.index, receipt)),
        }
    }

    /// Content in the order in which it lies; then, one by one, what that did not reach.
    fn read_content(&mut self) {
        let entries = self.entries;
        let mut seen = BTreeSet::new();
        let scanned = entries.scan_content(&mut |key, value| {
            match schema::decode_content_key(key) {
                Ok((kind, expiration, digest)) => {
                    self.report.count(kind.name());
                    self.content(key, kind, expiration, &digest, value);
                    seen.insert(key.to_vec());
                }
                Err(error) => self.report.problem(key, error.to_string()),
            }
            Ok(())
        });
        if let Err(error) = scanned {
            self.report.problem(&[], format!("the content table cannot be read on: {error}"));
        }
        let batches = self.books.batches.iter().map(|(digest, entry)| {
            let expiration = entry.info.expiration;
            (schema::batch_key(expiration, digest), ContentKind::Batch, expiration, *digest)
        });
        let payloads = self.books.payloads.iter().map(|(digest, (expiration, _))| {
            (schema::payload_key(*expiration, digest), ContentKind::Payload, *expiration, *digest)
        });
        let unseen: Vec<_> =
            batches.chain(payloads).filter(|(key, ..)| !seen.contains(key)).collect();
        for (key, kind, expiration, digest) in unseen {
            match entries.content(&key) {
                Ok(Some(value)) => self.content(&key, kind, expiration, &digest, &value),
                Ok(None) => self.report.problem(&key, format!("{} is missing", kind.name())),
                Err(error) => self.report.problem(&key, format!("{}: {error}", kind.name())),
            }
        }
    }

    fn content(
        &mut self,
        key: &[u8],
        kind: ContentKind,
        expiration: Timestamp,
        digest: &Digest,
        value: &[u8],
    ) {
        let chain = self.chain();
        let Self { report, books, .. } = self;
        let nobody = "content that no control entry names";
        match kind {
            ContentKind::Batch => {
                let Some(BatchEntry { info, .. }) = books.batches.get(digest) else {
                    return report.problem(key, nobody);
                };
                report.require(info.expiration == expiration, key, nobody);
                let matches = value.len() == info.bytes as usize
                    && blake3::hash(value).as_bytes() == info.root.as_bytes();
                report.require(matches, key, "the body is not what its batch info says");
            }
            ContentKind::Payload => {
                let Some((expected, batches)) = books.payloads.get(digest) else {
                    return report.problem(key, nobody);
                };
                report.require(*expected == expiration, key, nobody);
                let payload = match schema::decode_payload(value) {
                    Ok(payload) => payload,
                    Err(error) => return report.problem(key, error.to_string()),
                };
                let matches = payload.header.digest(&chain) == *digest
                    && payload.header.content_root == payload.content.root();
                report.require(matches, key, "the payload is not what its digest names");
                let listed = payload.content.batches().map(|info| info.digest(&chain));
                let same = listed.eq(batches.iter().copied());
                report.require(same, key, "the payload's batches are not those in its entry");
            }
        }
    }

    fn epochs(&mut self) {
        let Self { report, books, .. } = self;
        let known = books.epoch;
        for (of, what) in [(books.fence, "fenced"), (books.closed, "closed")] {
            let sound = of.is_none_or(|of| known.is_some_and(|epoch| of <= epoch));
            report.require(sound, &[], format!("an epoch was {what} that was never served"));
        }
        let beyond = |floor: &&(Epoch, Author, Incarnation)| known.is_some_and(|k| floor.0 > k);
        let beyond = books.floors.keys().find(beyond).is_some();
        report.require(!beyond, &[], "a floor of an epoch that was never served");
    }

    fn claims(&mut self) {
        let Self { report, books, .. } = self;
        let mut slots = BTreeMap::new();
        let committed = books.commits.values().map(|commit| commit.header.block_timestamp);
        let consensus_time = committed.max().unwrap_or_default();
        for (digest, slot) in &books.claims {
            let id = slot.batch_id;
            if let Some(other) = slots.insert(*slot, digest) {
                report.problem(digest.as_bytes(), format!("its slot is also claimed by {other}"));
            }
            let batch = books.batches.get(digest);
            let of_batch = batch.is_none_or(|entry| entry.info.slot() == *slot);
            report.require(of_batch, digest.as_bytes(), "it claims the slot of another batch");
            let floor = books.floors.get(&(slot.epoch, slot.author, id.incarnation));
            let above = floor.is_none_or(|floor| id.counter > *floor);
            // One that a subscriber still needs outlives its time, and the floor rises past it.
            let is_over = batch.is_some_and(|entry| entry.info.expiration < consensus_time);
            let what = "it claims a slot at or below a floor before its time is over";
            report.require(above || is_over, digest.as_bytes(), what);
        }
    }

    fn counters(&mut self) {
        let Self { report, books, meta, .. } = self;
        let claimed = books.claims.iter().map(|(digest, slot)| (digest, *slot));
        let stored = books.batches.iter().map(|(digest, entry)| (digest, entry.info.slot()));
        let own: BTreeMap<&Digest, Slot> = claimed
            .chain(stored)
            .filter(|(_, slot)| slot.author == meta.identity.author)
            .filter(|(_, slot)| slot.batch_id.incarnation == meta.incarnation)
            .collect();
        for (digest, slot) in own {
            let reserved = slot.batch_id.counter < books.reserved;
            let what = "an own counter at or above the reservation";
            report.require(reserved, digest.as_bytes(), what);
        }
    }

    fn commits(&mut self) {
        let Self { report, books, .. } = self;
        let indices = books.commits.keys();
        let jumped = |lower: &CommitIndex, upper: &CommitIndex| {
            books.skipped.is_some_and(|(from, to)| lower.next() == from && to.next() == *upper)
        };
        for (lower, upper) in indices.clone().zip(indices.clone().skip(1)) {
            let what = format!("commits {} and {} leave a gap", lower.0, upper.0);
            let gapless = lower.0.checked_add(1) == Some(upper.0) || jumped(lower, upper);
            report.require(gapless, &[], what);
        }
        for index in indices {
            let passed = books.skipped.is_some_and(|(from, to)| (from..=to).contains(index));
            report.require(!passed, &[], format!("commit {} was skipped and is there", index.0));
        }
        for (index, receipt) in &books.applied {
            let key = schema::applied_key(*index);
            let commit = books.commits.get(index);
            let same_time = commit
                .is_some_and(|commit| commit.header.block_timestamp == receipt.block_timestamp);
            report.require(same_time, &key, "a receipt without its commit");
            let components = receipt.acks.iter().map(|ack| ack.component).eq(Component::ALL);
            report.require(components, &key, "acks missing or out of order");
            let applied = receipt.acks.iter().all(|ack| ack.watermark == *index);
            report.require(applied, &key, "an ack with another watermark");
        }
    }
}

#[cfg(test)]
mod tests;
