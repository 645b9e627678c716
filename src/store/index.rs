//! What a store knows in memory: where the content of a digest lies.
//!
//! Derived from the records alone, by the same steps at recovery and at every commit, so it can
//! never know anything that the disk does not. Keys are sorted by expiration; readers ask by
//! digest; this is the way from one to the other.

use std::collections::{BTreeSet, HashMap};

use super::hash::Seeded;
use super::schema::{ContentKind, Table, Value, Write};
use crate::sequencer::port::Record;
use crate::types::{CommitIndex, Digest, Timestamp};

/// Where a content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) kind: ContentKind,
    /// Part of its key.
    pub(crate) expiration: Timestamp,
    /// Length of the content.
    pub(crate) bytes: u64,
}

/// What one group weighs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Keys and values.
    pub(crate) bytes: u64,
    /// Of those, values that are content.
    pub(crate) content_bytes: u64,
    /// Of those, each payload, in order.
    payloads: Vec<u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, write: &Write<'_>) {
        let (key, value) = match write {
            Write::Put { table: Table::Content, key, value } => {
                let length = value.as_ref().len() as u64;
                self.content_bytes += length;
                if matches!(value, Value::Encoded(_)) {
                    self.payloads.push(length);
                }
                (key, length)
            }
            Write::Put { key, value, .. } => (key, value.as_ref().len() as u64),
            Write::Delete { key, .. } => (key, 0),
        };
        self.bytes += key.len() as u64 + value;
    }
}

/// Content, proofs and commits in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    contents: HashMap<Digest, Located, Seeded>,
    /// Proofs may be here without their batch.
    proofs: HashMap<Digest, Timestamp, Seeded>,
    commits: BTreeSet<CommitIndex>,
    content_bytes: u64,
}

impl Index {
    /// Room for so many contents and proofs.
    pub(crate) fn with_capacity(contents: usize, proofs: usize) -> Self {
        let seed = Seeded::default();
        Self {
            contents: HashMap::with_capacity_and_hasher(contents, seed.clone()),
            proofs: HashMap::with_capacity_and_hasher(proofs, seed),
            ..Self::default()
        }
    }

    pub(crate) fn content(&self, digest: &Digest, kind: ContentKind) -> Option<Located> {
        self.contents.get(digest).copied().filter(|located| located.kind == kind)
    }

    pub(crate) fn proof(&self, digest: &Digest) -> Option<Timestamp> {
        self.proofs.get(digest).copied()
    }

    /// Indices of which a commit or a receipt is kept.
    pub(crate) fn commits(&self) -> &BTreeSet<CommitIndex> {
        &self.commits
    }

    /// Bytes and number of contents.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.content_bytes, self.contents.len() as u64)
    }

    pub(crate) fn insert_content(&mut self, digest: Digest, located: Located) {
        self.content_bytes += located.bytes;
        if let Some(old) = self.contents.insert(digest, located) {
            self.content_bytes -= old.bytes;
        }
    }

    pub(crate) fn insert_proof(&mut self, digest: Digest, expiration: Timestamp) {
        self.proofs.insert(digest, expiration);
    }

    pub(crate) fn insert_commit(&mut self, index: CommitIndex) {
        self.commits.insert(index);
    }

    /// Before a group is written: readers must not be led to what it deletes.
    #[cfg(feature = "storage")]
    pub(crate) fn forget(&mut self, records: &[Record]) {
        for record in records {
            self.remove(record);
        }
    }

    /// After a group was written.
    pub(crate) fn apply(&mut self, records: &[Record], tally: &Tally) {
        let mut payload_bytes = tally.payloads.iter().copied();
        for record in records {
            match record {
                Record::Batch(batch) => {
                    let (expiration, bytes) = (batch.info.expiration, u64::from(batch.info.bytes));
                    let kind = ContentKind::Batch;
                    self.insert_content(batch.digest, Located { kind, expiration, bytes });
                }
                Record::Payload { digest, expiration, .. } => {
                    let bytes = payload_bytes.next().unwrap_or_default();
                    let (kind, expiration) = (ContentKind::Payload, *expiration);
                    self.insert_content(*digest, Located { kind, expiration, bytes });
                }
                Record::Proof { digest, proof } => {
                    self.insert_proof(*digest, proof.info.expiration);
                }
                Record::Commit(commit) => self.insert_commit(commit.index),
                Record::Applied(receipt) => self.insert_commit(receipt.index),
                other => self.remove(other),
            }
        }
    }

    fn remove(&mut self, record: &Record) {
        match record {
            Record::DropBatch { digest, expiration } => {
                self.remove_content(digest, ContentKind::Batch, *expiration);
                if self.proofs.get(digest) == Some(expiration) {
                    self.proofs.remove(digest);
                }
            }
            Record::DropProof { digest, expiration }
                if self.proofs.get(digest) == Some(expiration) =>
            {
                self.proofs.remove(digest);
            }
            Record::DropPayload { digest, expiration } => {
                self.remove_content(digest, ContentKind::Payload, *expiration);
            }
            Record::DropCommits { below } => self.commits = self.commits.split_off(below),
            Record::Skipped { from, header } => {
                self.commits.retain(|index| !(*from..=header.height).contains(index));
            }
            _ => (),
        }
    }

    /// The expiration is part of the key: with another one, nothing was deleted.
    fn remove_content(&mut self, digest: &Digest, kind: ContentKind, expiration: Timestamp) {
        let found = self.content(digest, kind);
        if let Some(located) = found.filter(|located| located.expiration == expiration) {
            self.contents.remove(digest);
            self.content_bytes -= located.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, batch_record, commit, digest, payload, proof_record};
    use super::*;

    fn apply(index: &mut Index, records: &[Record]) {
        index.apply(records, &Tally::default());
    }

    #[test]
    fn commits_that_are_skipped_or_dropped_are_forgotten_and_no_others() {
        let mut index = Index::default();
        let commits = (1..=6).map(|height| Record::Commit(commit(&payload(height, 1, &[]))));
        apply(&mut index, &commits.collect::<Vec<_>>());
        let header = payload(4, 1, &[]).header;
        apply(&mut index, &[Record::Skipped { from: CommitIndex(3), header }]);
        assert!(index.commits().iter().map(|index| index.0).eq([1, 2, 5, 6]));
        apply(&mut index, &[Record::DropCommits { below: CommitIndex(2) }]);
        assert!(index.commits().iter().map(|index| index.0).eq([2, 5, 6]));
    }

    #[cfg(feature = "storage")]
    #[test]
    fn readers_are_not_led_to_what_is_about_to_be_deleted() {
        let (held, mut index) = (batch(2, 1, 10, 20), Index::default());
        apply(&mut index, &[batch_record(&held, true), proof_record(&held)]);
        let (digest, expiration) = (digest(&held), held.info.expiration);
        index.forget(&[batch_record(&batch(2, 2, 10, 20), true)]);
        assert_eq!(index.usage().1, 1, "what is about to be written is not there yet");
        index.forget(&[Record::DropBatch { digest, expiration }]);
        assert_eq!((index.usage(), index.proof(&digest)), ((0, 0), None));
    }

    #[test]
    fn content_that_is_written_again_counts_once() {
        let (held, mut index) = (batch(2, 1, 10, 20), Index::default());
        for bytes in [20, 20, 500, 3] {
            let (kind, expiration) = (ContentKind::Batch, held.info.expiration);
            let located = Located { kind, expiration, bytes };
            index.insert_content(digest(&held), located);
            assert_eq!(index.usage(), (bytes, 1));
            assert_eq!(index.content(&digest(&held), ContentKind::Batch), Some(located));
            assert_eq!(index.content(&digest(&held), ContentKind::Payload), None);
        }
    }

    #[test]
    fn what_is_dropped_under_another_expiration_stays() {
        let (held, mut index) = (batch(2, 1, 10, 20), Index::default());
        apply(&mut index, &[batch_record(&held, true), proof_record(&held)]);
        let (digest, bytes) = (digest(&held), u64::from(held.info.bytes));
        let drops = |expiration| {
            let expiration = Timestamp(expiration);
            [Record::DropProof { digest, expiration }, Record::DropBatch { digest, expiration }]
        };
        apply(&mut index, &drops(11));
        assert_eq!((index.usage(), index.proof(&digest)), ((bytes, 1), Some(Timestamp(10))));
        apply(&mut index, &drops(10)[1..]);
        assert_eq!((index.usage(), index.proof(&digest)), ((0, 0), None), "its proof goes with it");
    }

    #[test]
    fn a_group_weighs_its_keys_and_values_and_each_payload_is_told_apart() {
        use super::super::schema::delete;
        let body = bytes::Bytes::from(vec![7; 40]);
        let root = Digest([1; 32]);
        let put = |table, key: &[u8], value| Write::Put { table, key: key.to_vec(), value };
        let mut tally = Tally::default();
        for write in [
            put(Table::Control, b"abc", Value::Encoded(vec![0; 10])),
            put(Table::Content, b"ab", Value::Body { bytes: &body, root }),
            put(Table::Content, b"a", Value::Encoded(vec![0; 200])),
            put(Table::Content, b"a", Value::Encoded(vec![0; 3000])),
            delete(Table::Control, b"four".to_vec()),
        ] {
            tally.add(&write);
        }
        assert_eq!(tally.bytes, 13 + 42 + 201 + 3001 + 4);
        assert_eq!((tally.content_bytes, tally.payloads), (3240, vec![200, 3000]));
    }
}
