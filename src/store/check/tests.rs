//! Each broken invariant is found, and nothing is found in a sound store.

use std::sync::Arc;

use bytes::Bytes;

use super::super::entries::{Entries, Visit};
use super::super::schema::{FORMAT_VERSION, Table, Write};
use super::super::tests::{
    CHAIN, OWN, OWN_BYTE, batch, batch_record, commit, digest, payload, payload_record, proof,
    proof_record, receipt, sample,
};
use super::*;
use crate::sequencer::port::{BatchRecord, Record};
use crate::types::{Batch, EpochReceipt, Payload};

#[cfg(feature = "rocksdb")]
mod rocks;

const META: Meta = Meta { format: FORMAT_VERSION, incarnation: Incarnation(7), identity: OWN };

/// Entries as they lie, whatever they say.
#[derive(Default)]
struct Disk {
    control: BTreeMap<Vec<u8>, Vec<u8>>,
    content: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Content that a scan does not come to.
    unreachable: bool,
}

impl Disk {
    fn table(&mut self, table: Table) -> &mut BTreeMap<Vec<u8>, Vec<u8>> {
        match table {
            Table::Control => &mut self.control,
            Table::Content => &mut self.content,
        }
    }

    fn write(&mut self, write: Write<'_>) {
        match write {
            Write::Put { table, key, value } => {
                self.table(table).insert(key, value.as_ref().to_vec());
            }
            Write::Delete { table, key } => drop(self.table(table).remove(&key)),
        }
    }

    /// Writes records that no store would write together.
    fn force(&mut self, records: &[Record]) {
        schema::encode(records, &BTreeSet::new(), |write| self.write(write));
    }
}

impl Entries for Disk {
    fn scan_control(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.control.iter().try_for_each(|(key, value)| visit(key, value))
    }

    fn control(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.control.get(key).cloned().map(Bytes::from))
    }

    fn content(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.content.get(key).cloned().map(Bytes::from))
    }
}

impl AllEntries for Disk {
    fn scan_content(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if self.unreachable {
            return Err(StoreError::Damaged { what: "a block".into() });
        }
        self.content.iter().try_for_each(|(key, value)| visit(key, value))
    }
}

/// One record of every kind.
fn sound() -> Disk {
    let mut disk = Disk::default();
    disk.write(schema::encode_meta(&META));
    sample().groups.iter().for_each(|group| disk.force(group));
    disk
}

fn problems(disk: &Disk) -> Vec<String> {
    let report = examine(META, disk).unwrap();
    assert_eq!(report.is_sound(), report.problems.is_empty());
    report.problems.into_iter().map(|problem| problem.what).collect()
}

/// A change is found, and nothing else.
fn assert_finds(what: &str, change: impl FnOnce(&mut Disk)) {
    let mut disk = sound();
    change(&mut disk);
    let found = problems(&disk);
    assert!(!found.is_empty() && found.iter().all(|p| p.contains(what)), "{what}: {found:?}");
}

fn key_of(batch: &Batch) -> Vec<u8> {
    schema::batch_key(batch.info.expiration, &digest(batch))
}

#[test]
fn a_sound_store_is_sound_and_its_entries_are_counted() {
    let report = examine(META, &sound()).unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
    let one = ["meta", "reservation", "floor", "epoch", "fence", "closed", "payload", "commit"];
    let more = ["applied", "cursor", "lagged", "skipped", "payload content"];
    let mut expected: BTreeMap<_, _> = one.into_iter().chain(more).map(|kind| (kind, 1)).collect();
    expected.extend([("batch", 3), ("claim", 3), ("proof", 2), ("batch content", 3)]);
    assert_eq!(report.counts, expected);
}

#[test]
fn problems_beyond_those_that_are_listed_are_counted() {
    let mut disk = sound();
    for number in 0..PROBLEMS_MAX as u64 + 5 {
        disk.control.insert([&[0x77], &number.to_be_bytes()[..]].concat(), Vec::new());
    }
    let report = examine(META, &disk).unwrap();
    assert_eq!((report.problems.len(), report.problems_omitted), (PROBLEMS_MAX, 5));
    assert!(!report.is_sound());
}

#[test]
fn damage_of_entries_is_found() {
    let sample = sample();
    let peer = key_of(&sample.peer);
    assert_finds("unknown kind", |disk| drop(disk.control.insert(vec![0x77], vec![1])));
    assert_finds("not the one this directory", |disk| drop(disk.control.remove(&vec![1])));
    let (of, by) = (digest(&sample.own), Arc::new(proof(&sample.peer)));
    assert_finds("proof is not of the batch", |disk| {
        disk.force(&[Record::Proof { digest: of, proof: by }]);
    });
    let Record::Batch(record) = batch_record(&batch(3, 1, 700, 9), false) else { panic!() };
    let renamed = BatchRecord { digest: Digest([9; 32]), ..record };
    assert_finds("not what its digest names", |disk| disk.force(&[Record::Batch(renamed)]));
    // Whose entry does not decode, of that nothing is known.
    let mut disk = sound();
    disk.control.insert(peer, b"x".to_vec());
    let found = problems(&disk);
    assert!(found.iter().any(|problem| problem.contains("version")), "{found:?}");
    assert!(found.iter().any(|problem| problem.contains("no control entry names")), "{found:?}");
    assert_finds("both lags and does not", |disk| {
        let before = disk.control.clone();
        disk.force(&[Record::Cursor { subscriber: "indexer".into(), next: CommitIndex(1) }]);
        disk.control.extend(before);
    });
}

#[test]
fn content_that_is_not_what_its_entry_says_is_found() {
    let sample = sample();
    let (peer, length) = (key_of(&sample.peer), sample.peer.info.bytes as usize);
    assert_finds("not what its batch info says", |disk| {
        disk.content.insert(peer.clone(), vec![0; length]);
    });
    assert_finds("not what its batch info says", |disk| {
        disk.content.get_mut(&peer).unwrap().push(0);
    });
    assert_finds("batch content is missing", |disk| drop(disk.content.remove(&peer)));
    // Its claim and its proof stay, and say nothing of a batch that is gone.
    assert_finds("no control entry names", |disk| drop(disk.control.remove(&peer)));
    let early = schema::batch_key(Timestamp(699), &digest(&sample.peer));
    assert_finds("no control entry names", |disk| {
        let body = disk.content[&peer].clone();
        disk.content.insert(early, body);
    });
    let twice = Record::Payload {
        digest: sample.payload.digest(&CHAIN),
        payload: Arc::new(sample.payload.clone()),
        batches: vec![digest(&sample.ordered), digest(&sample.peer)],
        expiration: Timestamp(849),
    };
    let mut disk = sound();
    disk.force(&[twice]);
    let found = problems(&disk);
    assert!(found.iter().any(|p| p.contains("a payload under two expirations")), "{found:?}");
    assert!(found.iter().any(|p| p.contains("no control entry names")), "{found:?}");
}

#[test]
fn payloads_that_are_not_what_their_entries_say_are_found() {
    let sample = sample();
    let of = sample.payload.digest(&CHAIN);
    let key = schema::payload_key(Timestamp(850), &of);
    assert_finds("payload", |disk| drop(disk.content.insert(key.clone(), b"\x01x".to_vec())));
    assert_finds("payload content is missing", |disk| drop(disk.content.remove(&key)));
    let record = |payload: &Payload, digest, batches| Record::Payload {
        digest,
        payload: Arc::new(payload.clone()),
        batches,
        expiration: Timestamp(850),
    };
    let batches = vec![digest(&sample.ordered), digest(&sample.peer)];
    let swapped = record(&sample.payload, of, batches.iter().rev().copied().collect());
    assert_finds("batches are not those", |disk| disk.force(&[swapped]));
    let mut other = sample.payload.clone();
    other.header.block_timestamp = Timestamp(51);
    let renamed = record(&other, of, batches.clone());
    assert_finds("not what its digest names", |disk| disk.force(&[renamed]));
    let mut emptied = sample.payload.clone();
    emptied.content.proofs.pop();
    let emptied = record(&emptied, of, batches[..1].to_vec());
    assert_finds("not what its digest names", |disk| disk.force(&[emptied]));
}

#[test]
fn content_that_a_scan_does_not_come_to_is_looked_at_one_by_one() {
    let peer = key_of(&sample().peer);
    let unreachable = |change: fn(&mut Vec<u8>)| {
        let mut disk = Disk { unreachable: true, ..sound() };
        change(disk.content.get_mut(&peer).unwrap());
        problems(&disk)
    };
    let of_the_scan = "the content table cannot be read on";
    let found = unreachable(|_| ());
    assert!(found.len() == 1 && found[0].contains(of_the_scan), "{found:?}");
    let found = unreachable(|body| body[9] ^= 1);
    assert!(found.len() == 2 && found[1].contains("not what its batch info says"), "{found:?}");
}

#[test]
fn contradictions_between_slots_floors_and_the_reservation_are_found() {
    let twin = batch(2, 3, 700, 9);
    assert_finds("slot is also claimed by", |disk| disk.force(&[batch_record(&twin, true)]));
    let slot = batch(2, 99, 1, 1).info.slot();
    assert_finds("slot of another batch", |disk| {
        disk.force(&[Record::Claim { digest: digest(&sample().peer), slot }]);
    });
    assert_finds("at or below a floor", |disk| {
        disk.force(&[Record::Floor { slot: twin.info.slot() }]);
    });
    // A batch that claims nothing here lies where it may.
    let mut disk = sound();
    let below = batch(2, 1, 700, 9);
    disk.force(&[batch_record(&below, false)]);
    assert_eq!(problems(&disk), Vec::<String>::new());
    // The highest counter of ours is 5.
    assert_finds("at or above the reservation", |disk| {
        disk.force(&[Record::Reserved { until: 5 }]);
    });
    let mut other = batch(OWN_BYTE, 9, 900, 9);
    other.info.batch_id.incarnation = Incarnation(8);
    let mut disk = sound();
    disk.force(&[batch_record(&other, true)]);
    assert_eq!(problems(&disk), Vec::<String>::new(), "counters of another store are its own");
}

#[test]
fn a_batch_that_a_subscriber_keeps_beyond_its_time_may_lie_below_a_floor() {
    for (late, found) in [(0, 1), (1, 0)] {
        let (mut disk, twin) = (sound(), batch(2, 3, 700, 9));
        disk.force(&[Record::Floor { slot: twin.info.slot() }]);
        // Consensus time has come to 700, at which it expires, or is beyond.
        let later = payload(10, 700 + late, &[]);
        disk.force(&[payload_record(&later, 900), Record::Commit(commit(&later))]);
        assert_eq!(problems(&disk).len(), found, "{late} late");
    }
}

#[test]
fn epochs_that_were_never_served_are_found() {
    let (epoch, final_index) = (Epoch(2), CommitIndex(9));
    assert_finds("fenced that was never served", |disk| {
        disk.force(&[Record::Fence { epoch, final_index }]);
    });
    let closed = sample().groups[5].iter().find_map(|record| match record {
        Record::Closed(receipt) => Some(receipt.clone()),
        _ => None,
    });
    let closed = EpochReceipt { epoch, ..closed.unwrap() };
    assert_finds("closed that was never served", |disk| disk.force(&[Record::Closed(closed)]));
    let slot = Slot { epoch, ..batch(3, 2, 1, 1).info.slot() };
    assert_finds("a floor of an epoch", |disk| disk.force(&[Record::Floor { slot }]));
}

#[test]
fn gaps_and_receipts_without_commit_or_acks_are_found() {
    let height = |height| payload(height, 60, &[]);
    // Commits 2 to 9 were passed over: the next one is 10.
    assert_finds("leave a gap", |disk| disk.force(&[Record::Commit(commit(&height(11)))]));
    let mut disk = sound();
    disk.force(&[Record::Commit(commit(&height(10))), Record::Commit(commit(&height(11)))]);
    assert_eq!(problems(&disk), Vec::<String>::new());
    let mut disk = sound();
    disk.force(&[Record::Commit(commit(&height(3)))]);
    let found = problems(&disk);
    assert!(found.iter().any(|p| p.contains("leave a gap")), "{found:?}");
    assert!(found.iter().any(|p| p.contains("was skipped and is there")), "{found:?}");
    assert_finds("receipt without its commit", |disk| {
        disk.force(&[Record::Applied(receipt(&height(12)))]);
    });
    let ordered = sample().payload;
    let mut late = receipt(&ordered);
    late.block_timestamp = Timestamp(51);
    assert_finds("receipt without its commit", |disk| disk.force(&[Record::Applied(late)]));
    let mut swapped = receipt(&ordered);
    swapped.acks.swap(0, 1);
    assert_finds("out of order", |disk| disk.force(&[Record::Applied(swapped)]));
    let mut behind = receipt(&ordered);
    behind.acks[2].watermark = CommitIndex(0);
    assert_finds("another watermark", |disk| disk.force(&[Record::Applied(behind)]));
    let mut moved = commit(&ordered);
    moved.header.height = CommitIndex(9);
    assert_finds("another height", |disk| disk.force(&[Record::Commit(moved)]));
}

#[test]
fn a_proof_without_its_batch_is_sound() {
    let mut disk = sound();
    disk.force(&[proof_record(&batch(3, 1, 700, 9))]);
    assert_eq!(problems(&disk), Vec::<String>::new());
}
