//! From entries back to records, the same for every store: the inverse of [`schema::encode`].
//!
//! **What is returned.** Every record in force, in the order of kinds of the control table:
//! reservation, floors, epoch, fence, receipt of an epoch, silence, batches, claims, proofs,
//! payloads, commits, receipts, cursors, subscribers that lagged, the last jump of state sync, what
//! was said to be absent, what was passed, committed evidence; inside a kind in the order of keys, so batches, proofs and payloads by expiration, commits by index. A
//! batch claims its slot if a claim for its digest is there; a claim on its own is returned only
//! where its batch is not.
//!
//! **Own batches.** `own` is there if and only if the body is: for batches of ours that no applied
//! commit ordered while they were unexpired, which are to be sent or batched again. The others come
//! back like those of other validators: held, claimed, deleted in time, and nothing more.
//!
//! **Damage.** A control entry that does not decode, contradicts its key or its digest, or a store
//! that does not say whose it is, ends recovery: nothing else holds it. Content that is read here
//! and is missing or does not match its digest is not fatal, because it can be fetched again. A
//! payload is dropped from what is returned, and deleted with the record that starts the life, so
//! that it does not come back. An own batch loses `own`: it is not sent, and not signed for again,
//! while its claim still keeps its slot. Bodies of other validators are not read: whoever reads one
//! checks it then.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::entries::{Entries, checked_batch, checked_payload, damaged_entry};
use super::hash::Seeded;
use super::index::{Index, Located};
use super::schema::{self, BatchEntry, ContentKind, Entry, Meta, Table, Write};
use super::{Recovered, StoreError};
use crate::sequencer::port::{BatchRecord, Record};
use crate::types::{
    ChainId, Commit, CommitIndex, CommitReceipt, Digest, ProofOfStore, Slot, Timestamp,
};

/// What was found.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) recovered: Recovered,
    pub(crate) index: Index,
    /// The life to start now.
    pub(crate) life: u64,
    /// To be written with it.
    pub(crate) repairs: Vec<Write<'static>>,
}

/// Reads everything that is in force.
pub(crate) fn recover(entries: &dyn Entries, meta: &Meta) -> Result<Image, StoreError> {
    let mut found = Found::default();
    let decode = |key: &[u8], value: &[u8]| {
        let entry = Entry::decode(key, value).map_err(|error| damaged_entry(key, &error))?;
        check(&meta.identity.chain, key, &entry)?;
        Ok(entry)
    };
    entries.decode_control(&decode, &mut |entry| found.add(entry))?;
    if found.meta != Some(*meta) {
        return Err(StoreError::Damaged {
            what: "the database is not the one that this directory was created with".into(),
        });
    }
    found.into_image(entries, meta)
}

/// What is stored under a digest is what has that digest.
fn check(chain: &ChainId, key: &[u8], entry: &Entry) -> Result<(), StoreError> {
    let (info, digest) = match entry {
        Entry::Batch { digest, entry } => (&entry.info, digest),
        Entry::Proof { digest, proof } => (&proof.info, digest),
        _ => return Ok(()),
    };
    let same = info.digest(chain) == *digest;
    if same { Ok(()) } else { Err(damaged_entry(key, &"differs from its digest")) }
}

/// Control entries, sorted by kind.
#[derive(Default)]
struct Found {
    meta: Option<Meta>,
    life: u64,
    reserved: Option<u64>,
    floors: Vec<Slot>,
    /// The epoch, a fence, a receipt: as they are returned.
    epochs: Vec<Record>,
    batches: Vec<(Digest, BatchEntry)>,
    claims: HashMap<Digest, Slot, Seeded>,
    proofs: Vec<(Digest, Arc<ProofOfStore>)>,
    payloads: Vec<(Digest, Timestamp, Vec<Digest>)>,
    commits: Vec<Commit>,
    applied: Vec<CommitReceipt>,
    /// Cursors, subscribers that lagged, a jump: as they are returned.
    rest: Vec<Record>,
}

impl Found {
    fn add(&mut self, entry: Entry) {
        match entry {
            Entry::Meta(meta) => self.meta = Some(meta),
            Entry::Life(life) => self.life = life,
            Entry::Reserved(until) => self.reserved = Some(until),
            Entry::Floor(slot) => self.floors.push(slot),
            Entry::Epoch(membership) => self.epochs.push(Record::Epoch(membership)),
            Entry::Fence(epoch, final_index) => {
                self.epochs.push(Record::Fence { epoch, final_index });
            }
            Entry::Closed(receipt) => self.epochs.push(Record::Closed(receipt)),
            Entry::Batch { digest, entry } => self.batches.push((digest, entry)),
            Entry::Claim { digest, slot } => drop(self.claims.insert(digest, slot)),
            Entry::Proof { digest, proof } => self.proofs.push((digest, proof)),
            Entry::Payload { digest, expiration, batches } => {
                self.payloads.push((digest, expiration, batches));
            }
            Entry::Commit(commit) => self.commits.push(commit),
            Entry::Applied(receipt) => self.applied.push(receipt),
            Entry::Cursor { subscriber, next } => {
                self.rest.push(Record::Cursor { subscriber, next });
            }
            Entry::Lagged { subscriber, next } => {
                self.rest.push(Record::Lagged { subscriber, next });
            }
            Entry::Skipped { from, header } => self.rest.push(Record::Skipped { from, header }),
            Entry::Absent { index, digest, slot } => {
                self.rest.push(Record::Absent { index, digest, slot });
            }
            Entry::Passed(below) => self.rest.push(Record::Passed { below }),
            Entry::Rewritten { by, proof } => self.rest.push(Record::Rewritten { by, proof }),
            Entry::Silence(until) => self.epochs.push(Record::Silence { until: Some(until) }),
        }
    }

    fn into_image(mut self, entries: &dyn Entries, meta: &Meta) -> Result<Image, StoreError> {
        let ordered = self.ordered(&meta.identity.chain);
        let contents = self.batches.len() + self.payloads.len();
        let count = contents + self.proofs.len() + self.commits.len() + self.applied.len();
        let mut stage = Stage {
            entries,
            chain: meta.identity.chain,
            records: Vec::with_capacity(count),
            index: Index::with_capacity(contents, self.proofs.len()),
            repairs: Vec::new(),
        };
        stage.records.extend(self.reserved.map(|until| Record::Reserved { until }));
        stage.records.extend(self.floors.into_iter().map(|slot| Record::Floor { slot }));
        stage.records.extend(self.epochs);
        for (digest, entry) in self.batches {
            let claim = self.claims.remove(&digest);
            if claim.is_some_and(|slot| slot != entry.info.slot()) {
                let what = format!("batch {digest} claims the slot of another batch");
                return Err(StoreError::Damaged { what });
            }
            let claims_slot = claim.is_some();
            let at = ordered.get(&digest);
            let is_ordered = at.is_some_and(|at| *at <= entry.info.expiration);
            stage.batch(digest, entry, claims_slot, is_ordered)?;
        }
        let claims: BTreeMap<_, _> = self.claims.into_iter().collect();
        let claims = claims.into_iter();
        stage.records.extend(claims.map(|(digest, slot)| Record::Claim { digest, slot }));
        for (digest, proof) in self.proofs {
            stage.index.insert_proof(digest, proof.info.expiration);
            stage.records.push(Record::Proof { digest, proof });
        }
        for (digest, expiration, batches) in self.payloads {
            stage.payload(digest, expiration, batches)?;
        }
        for commit in self.commits {
            stage.index.insert_commit(commit.index);
            stage.records.push(Record::Commit(commit));
        }
        for receipt in self.applied {
            stage.index.insert_commit(receipt.index);
            stage.records.push(Record::Applied(receipt));
        }
        let Some(life) = self.life.checked_add(1) else {
            return Err(StoreError::Damaged { what: "more lives than a store can have".into() });
        };
        stage.records.extend(self.rest);
        Ok(Image {
            recovered: Recovered { incarnation: meta.incarnation, records: stage.records },
            index: stage.index,
            life,
            repairs: stage.repairs,
        })
    }

    /// Batches in payloads of applied commits, and the earliest block timestamp that ordered each.
    fn ordered(&self, chain: &ChainId) -> BTreeMap<Digest, Timestamp> {
        let commits = self.commits.iter().map(|commit| (commit.index, commit.header));
        let commits: BTreeMap<CommitIndex, _> = commits.collect();
        let applied = self.applied.iter().filter_map(|receipt| commits.get(&receipt.index));
        let at: BTreeMap<Digest, Timestamp> =
            applied.map(|header| (header.digest(chain), header.block_timestamp)).collect();
        let mut ordered = BTreeMap::new();
        for (digest, _, batches) in &self.payloads {
            let Some(at) = at.get(digest) else { continue };
            for batch in batches {
                let first = ordered.entry(*batch).or_insert(*at);
                *first = (*first).min(*at);
            }
        }
        ordered
    }
}

/// Records as they are put together.
struct Stage<'a> {
    entries: &'a dyn Entries,
    chain: ChainId,
    records: Vec<Record>,
    index: Index,
    repairs: Vec<Write<'static>>,
}

impl Stage<'_> {
    fn batch(
        &mut self,
        digest: Digest,
        entry: BatchEntry,
        claims_slot: bool,
        is_ordered: bool,
    ) -> Result<(), StoreError> {
        let BatchEntry { info, own } = entry;
        let (expiration, bytes) = (info.expiration, u64::from(info.bytes));
        let mut record = BatchRecord { digest, info, body: Bytes::new(), claims_slot, own: None };
        if let Some(own) = own.filter(|_| !is_ordered) {
            let key = schema::batch_key(expiration, &digest);
            let check = |body| checked_batch(&self.chain, &digest, info, body);
            if let Some(batch) = self.read(&key, check)? {
                record.body = batch.body.bytes().clone();
                record.own = Some(own);
            } else {
                tracing::warn!(%digest, "the body of an own batch is lost; it is not sent again");
            }
        }
        self.index.insert_content(digest, Located { kind: ContentKind::Batch, expiration, bytes });
        self.records.push(Record::Batch(record));
        Ok(())
    }

    fn payload(
        &mut self,
        digest: Digest,
        expiration: Timestamp,
        batches: Vec<Digest>,
    ) -> Result<(), StoreError> {
        let key = schema::payload_key(expiration, &digest);
        let check = |value: Bytes| {
            let payload = checked_payload(&self.chain, &digest, &value)?;
            Ok((value.len() as u64, payload))
        };
        let Some((bytes, payload)) = self.read(&key, check)? else {
            tracing::warn!(%digest, "the content of a payload is lost; it must be fetched again");
            self.repairs.push(schema::delete(Table::Content, key.clone()));
            self.repairs.push(schema::delete(Table::Control, key));
            return Ok(());
        };
        self.index
            .insert_content(digest, Located { kind: ContentKind::Payload, expiration, bytes });
        let payload = Arc::new(payload);
        self.records.push(Record::Payload { digest, payload, batches, expiration });
        Ok(())
    }

    /// `None` if the content is missing or damaged; an error if the storage itself fails.
    fn read<T>(
        &self,
        key: &[u8],
        check: impl Fn(Bytes) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let checked = self.entries.content(key).and_then(|value| value.map(check).transpose());
        match checked {
            Err(StoreError::Damaged { what }) => {
                tracing::warn!(what, "damaged content");
                Ok(None)
            }
            other => other,
        }
    }
}
