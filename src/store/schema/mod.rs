//! How records lie on disk: the layout of every key and value, and nothing else.
//!
//! Pure functions between [`Record`]s and entries `(table, key, value)`. Both stores write what
//! [`encode`] says and read through [`Entry::decode`], so that neither can have a layout of its
//! own.
//!
//! **Two tables.** `content` holds what is large and read by digest; `control` everything small. A
//! group is written to both in one atomic write, so an entry that is in force in one has its
//! counterpart in the other. Recovery reads `control`, never the bodies of other validators.
//!
//! | table | kind | key after the kind byte | value |
//! |---|---|---|---|
//! | content | `0x20` body | expiration, digest | the body as received, nothing else |
//! | content | `0x23` payload | expiration, digest | version, [`Payload`] |
//! | control | `0x01` meta | | version, [`Meta`] |
//! | control | `0x02` life | | version, u64: lives of this store so far |
//! | control | `0x10` reservation | | version, u64: one above the highest counter in use |
//! | control | `0x11` floor | epoch, author, incarnation | version, u64: highest counter dropped |
//! | control | `0x12` epoch | | version, [`Membership`] |
//! | control | `0x13` fence | | version, epoch, index of its last commit |
//! | control | `0x14` closed | | version, [`EpochReceipt`] of the last epoch that ended |
//! | control | `0x15` silence | | version, consensus time before which nothing is signed |
//! | control | `0x20` batch | expiration, digest | version, [`BatchInfo`], runs of own transactions' metas |
//! | control | `0x21` claim | digest | version, [`Slot`] |
//! | control | `0x22` proof | expiration, digest | version, [`ProofOfStore`] |
//! | control | `0x23` payload | expiration, digest | version, digests of its batches |
//! | control | `0x30` commit | index | version, [`Commit`] |
//! | control | `0x31` applied | index | version, [`CommitReceipt`] |
//! | control | `0x32` cursor | name of the subscriber, UTF-8 | version, [`CommitIndex`] |
//! | control | `0x33` lagged | name of the subscriber, UTF-8 | version, [`CommitIndex`] |
//! | control | `0x34` skipped | | version, first index, [`PayloadHeader`] of the last |
//! | control | `0x35` absent | index, digest | version, [`Slot`] and expiration of a batch |
//! | control | `0x36` passed | | version, [`CommitIndex`] |
//! | control | `0x37` rewritten | carrying index, digest, index | version, [`UnavailabilityProof`] |
//!
//! Integers in keys are big-endian, so that keys sort as their values do; values are BCS behind one
//! version byte. A body has no version: it is opaque, and its batch entry names its length and root.
//!
//! **Order of keys.** What is born together dies together: content is sorted by expiration, so the
//! part of the database that garbage collection empties is one end of it. Random keys (digests
//! alone) cost half as many bytes written again. Kinds sort in the order of [`Recovered::records`].
//!
//! **A claim is an entry of its own**, whether it came with its batch or later: writing the content
//! again, say after damage, can never lose it.
//!
//! [`Recovered::records`]: super::Recovered::records
//! [`Payload`]: crate::types::Payload
//! [`ProofOfStore`]: crate::types::ProofOfStore
//! [`Membership`]: crate::types::Membership
//! [`EpochReceipt`]: crate::types::EpochReceipt
//! [`PayloadHeader`]: crate::types::PayloadHeader
//! [`Commit`]: crate::types::Commit
//! [`CommitReceipt`]: crate::types::CommitReceipt
//! [`UnavailabilityProof`]: crate::types::UnavailabilityProof

mod decode;
mod metas;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use decode::{ContentKind, Entry, EntryError, decode_content_key, decode_payload};

use crate::sequencer::port::{BatchRecord, Record, TransactionMeta};
use crate::types::{
    Author, BatchId, BatchInfo, ChainId, CommitIndex, Digest, Incarnation, Slot, Timestamp,
};

/// Version of the directory and of the tables. A store of another version is not opened.
pub const FORMAT_VERSION: u32 = 3;
/// First byte of every value but a body.
pub const VALUE_VERSION: u8 = 1;

const META: u8 = 0x01;
const LIFE: u8 = 0x02;
const RESERVED: u8 = 0x10;
const FLOOR: u8 = 0x11;
const EPOCH: u8 = 0x12;
const FENCE: u8 = 0x13;
const CLOSED: u8 = 0x14;
const SILENCE: u8 = 0x15;
const BATCH: u8 = 0x20;
const CLAIM: u8 = 0x21;
const PROOF: u8 = 0x22;
const PAYLOAD: u8 = 0x23;
const COMMIT: u8 = 0x30;
const APPLIED: u8 = 0x31;
const CURSOR: u8 = 0x32;
const LAGGED: u8 = 0x33;
const SKIPPED: u8 = 0x34;
const ABSENT: u8 = 0x35;
const PASSED: u8 = 0x36;
const REWRITTEN: u8 = 0x37;

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Bodies and payloads.
    Content,
    /// Everything else.
    Control,
}

impl Table {
    /// Its name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Control => "control",
        }
    }
}

/// Whose store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// The validator.
    pub author: Author,
    /// The chain.
    pub chain: ChainId,
}

/// What a store says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// [`FORMAT_VERSION`] of whoever created it.
    pub format: u32,
    /// Chosen at random when it was created.
    pub incarnation: Incarnation,
    /// Whose it is.
    pub identity: StoreIdentity,
}

/// A batch without its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchEntry {
    /// Its info.
    pub info: BatchInfo,
    /// For our own: what of its transactions is not in the body.
    #[serde(with = "metas")]
    pub own: Option<Arc<[TransactionMeta]>>,
}

/// A value to be written: bodies are borrowed, so that no buffer is built around them.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Encoded here.
    Encoded(Vec<u8>),
    /// A body as it came.
    Body {
        /// It.
        bytes: &'a Bytes,
        /// Its hash, which its info names.
        root: Digest,
    },
}

impl AsRef<[u8]> for Value<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Encoded(bytes) => bytes,
            Self::Body { bytes, .. } => bytes,
        }
    }
}

/// One change of a group.
#[derive(Clone, Debug)]
pub enum Write<'a> {
    /// Sets a key.
    Put {
        /// Where.
        table: Table,
        /// Its key.
        key: Vec<u8>,
        /// Its value.
        value: Value<'a>,
    },
    /// Removes a key, if it is there.
    Delete {
        /// Where.
        table: Table,
        /// Its key.
        key: Vec<u8>,
    },
}

/// Turns the records of one group, in order, into writes. `kept` are the indices of commits in the
/// store: dropping or skipping commits deletes each by name, because range deletions that all begin at zero
/// pile up and slow down every later read.
pub fn encode<'a>(
    records: &'a [Record],
    kept: &BTreeSet<CommitIndex>,
    mut write: impl FnMut(Write<'a>),
) {
    let mut added = BTreeSet::new();
    for record in records {
        match record {
            Record::Commit(commit) => drop(added.insert(commit.index)),
            Record::Applied(receipt) => drop(added.insert(receipt.index)),
            Record::DropCommits { below } => {
                for index in kept.range(..below).chain(added.range(..below)) {
                    write(delete(Table::Control, commit_key(*index)));
                    write(delete(Table::Control, applied_key(*index)));
                }
                added = added.split_off(below);
            }
            Record::Skipped { from, header } => {
                let passed = *from..=header.height;
                for index in kept.range(passed.clone()).chain(added.range(passed.clone())) {
                    write(delete(Table::Control, commit_key(*index)));
                    write(delete(Table::Control, applied_key(*index)));
                }
                added.retain(|index| !passed.contains(index));
            }
            _ => (),
        }
        encode_record(record, &mut write);
    }
}

fn encode_record<'a>(record: &'a Record, write: &mut impl FnMut(Write<'a>)) {
    let mut put = |table, key, value| write(Write::Put { table, key, value });
    match record {
        Record::Batch(batch) => encode_batch(batch, put),
        Record::Claim { digest, slot } => {
            put(Table::Control, claim_key(digest), versioned(slot));
        }
        Record::Proof { digest, proof } => {
            let key = proof_key(proof.info.expiration, digest);
            put(Table::Control, key, versioned(&**proof));
        }
        Record::Payload { digest, payload, batches, expiration } => {
            let key = payload_key(*expiration, digest);
            put(Table::Content, key.clone(), versioned(&**payload));
            put(Table::Control, key, versioned(batches));
        }
        Record::Commit(commit) => {
            put(Table::Control, commit_key(commit.index), versioned(commit));
        }
        Record::Applied(receipt) => {
            put(Table::Control, applied_key(receipt.index), versioned(receipt));
        }
        Record::Cursor { subscriber, next } => {
            put(Table::Control, subscriber_key(CURSOR, subscriber), versioned(next));
            write(delete(Table::Control, subscriber_key(LAGGED, subscriber)));
        }
        Record::Lagged { subscriber, next } => {
            put(Table::Control, subscriber_key(LAGGED, subscriber), versioned(next));
            write(delete(Table::Control, subscriber_key(CURSOR, subscriber)));
        }
        Record::Unsubscribed { subscriber } => {
            write(delete(Table::Control, subscriber_key(LAGGED, subscriber)));
            write(delete(Table::Control, subscriber_key(CURSOR, subscriber)));
        }
        Record::Skipped { from, header } => {
            put(Table::Control, vec![SKIPPED], versioned(&(from, header)));
        }
        Record::Absent { index, digest, slot } => {
            put(Table::Control, absent_key(*index, digest), versioned(slot));
        }
        Record::DropAbsent { index, digest } => {
            write(delete(Table::Control, absent_key(*index, digest)));
        }
        Record::Passed { below } => put(Table::Control, vec![PASSED], versioned(below)),
        Record::Rewritten { by, proof } => {
            let key = rewritten_key(*by, &proof.digest, proof.index);
            put(Table::Control, key, versioned(&**proof));
        }
        Record::DropRewritten { by, digest, index } => {
            write(delete(Table::Control, rewritten_key(*by, digest, *index)));
        }
        Record::Silence { until: Some(until) } => {
            put(Table::Control, vec![SILENCE], versioned(until));
        }
        Record::Silence { until: None } => write(delete(Table::Control, vec![SILENCE])),
        Record::DropProof { digest, expiration } => {
            write(delete(Table::Control, proof_key(*expiration, digest)));
        }
        Record::Epoch(membership) => put(Table::Control, vec![EPOCH], versioned(&**membership)),
        Record::Fence { epoch, final_index } => {
            put(Table::Control, vec![FENCE], versioned(&(epoch, final_index)));
        }
        Record::Closed(receipt) => put(Table::Control, vec![CLOSED], versioned(receipt)),
        Record::DropFloors { epoch, floors } => {
            for (author, incarnation) in floors {
                let batch_id = BatchId { incarnation: *incarnation, counter: 0 };
                let slot = Slot { epoch: *epoch, author: *author, batch_id };
                write(delete(Table::Control, floor_key(&slot)));
            }
        }
        Record::Settled { digest, info } => {
            let key = batch_key(info.expiration, digest);
            put(Table::Control, key, versioned(&BatchEntry { info: *info, own: None }));
        }
        Record::Reserved { until } => put(Table::Control, vec![RESERVED], versioned(until)),
        Record::Floor { slot } => {
            put(Table::Control, floor_key(slot), versioned(&slot.batch_id.counter));
        }
        Record::DropBatch { digest, expiration } => {
            write(delete(Table::Content, batch_key(*expiration, digest)));
            write(delete(Table::Control, batch_key(*expiration, digest)));
            write(delete(Table::Control, claim_key(digest)));
            write(delete(Table::Control, proof_key(*expiration, digest)));
        }
        Record::DropPayload { digest, expiration } => {
            write(delete(Table::Content, payload_key(*expiration, digest)));
            write(delete(Table::Control, payload_key(*expiration, digest)));
        }
        // Needs to know which are there: see `encode`.
        Record::DropCommits { .. } => (),
    }
}

fn encode_batch<'a>(batch: &'a BatchRecord, mut put: impl FnMut(Table, Vec<u8>, Value<'a>)) {
    let BatchRecord { digest, info, body, claims_slot, own } = batch;
    // A recovered record has no body; written back, it would replace good content by nothing.
    assert!(body.len() == info.bytes as usize, "S1: body of {digest} differs from its info");
    let key = batch_key(info.expiration, digest);
    let entry = BatchEntry { info: *info, own: own.clone() };
    put(Table::Content, key.clone(), Value::Body { bytes: body, root: info.root });
    put(Table::Control, key, versioned(&entry));
    if *claims_slot {
        put(Table::Control, claim_key(digest), versioned(&info.slot()));
    }
}

/// The entry that creates a store.
pub fn encode_meta(meta: &Meta) -> Write<'static> {
    Write::Put { table: Table::Control, key: vec![META], value: versioned(meta) }
}

/// The entry of a store that replaces a lost one.
pub fn encode_silence(until: Timestamp) -> Write<'static> {
    Write::Put { table: Table::Control, key: vec![SILENCE], value: versioned(&until) }
}

/// The entry that starts a life.
pub fn encode_life(life: u64) -> Write<'static> {
    Write::Put { table: Table::Control, key: vec![LIFE], value: versioned(&life) }
}

/// Removes a key.
pub fn delete(table: Table, key: Vec<u8>) -> Write<'static> {
    Write::Delete { table, key }
}

/// Key of a batch, in both tables.
pub fn batch_key(expiration: Timestamp, digest: &Digest) -> Vec<u8> {
    tagged(BATCH, &[&expiration.0.to_be_bytes(), digest.as_bytes()])
}

/// Key of a payload, in both tables.
pub fn payload_key(expiration: Timestamp, digest: &Digest) -> Vec<u8> {
    tagged(PAYLOAD, &[&expiration.0.to_be_bytes(), digest.as_bytes()])
}

/// Key of a proof.
pub fn proof_key(expiration: Timestamp, digest: &Digest) -> Vec<u8> {
    tagged(PROOF, &[&expiration.0.to_be_bytes(), digest.as_bytes()])
}

/// Key of a receipt.
pub fn applied_key(index: CommitIndex) -> Vec<u8> {
    tagged(APPLIED, &[&index.0.to_be_bytes()])
}

fn commit_key(index: CommitIndex) -> Vec<u8> {
    tagged(COMMIT, &[&index.0.to_be_bytes()])
}

fn absent_key(index: CommitIndex, digest: &Digest) -> Vec<u8> {
    tagged(ABSENT, &[&index.0.to_be_bytes(), digest.as_bytes()])
}

fn rewritten_key(by: CommitIndex, digest: &Digest, index: CommitIndex) -> Vec<u8> {
    tagged(REWRITTEN, &[&by.0.to_be_bytes(), digest.as_bytes(), &index.0.to_be_bytes()])
}

fn claim_key(digest: &Digest) -> Vec<u8> {
    tagged(CLAIM, &[digest.as_bytes()])
}

fn subscriber_key(kind: u8, name: &str) -> Vec<u8> {
    tagged(kind, &[name.as_bytes()])
}

fn floor_key(slot: &Slot) -> Vec<u8> {
    let incarnation = slot.batch_id.incarnation.0.to_be_bytes();
    tagged(FLOOR, &[&slot.epoch.0.to_be_bytes(), slot.author.as_bytes(), &incarnation])
}

fn tagged(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(kind);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

fn versioned<T: Serialize>(value: &T) -> Value<'static> {
    let mut bytes = vec![VALUE_VERSION];
    // Proof: as for `codec::encode`; writing to a vector does not fail.
    #[allow(clippy::expect_used)]
    bcs::serialize_into(&mut bytes, value).expect("values of this crate are encodable");
    Value::Encoded(bytes)
}
