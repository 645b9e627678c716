//! Each broken invariant is found, and nothing is found in a sound store.

use super::super::rocks::tests::{Place, body_key, place};
use super::super::rocks::{RocksConfig, RocksStore};
use super::super::schema::{Table, Value, Write};
use super::super::tests::{
    CHAIN, OWN, OWN_BYTE, batch, batch_record, commit, digest, payload, payload_record, proof,
    receipt, sample,
};
use super::super::{Store, StoreReader};
use super::*;
use crate::sequencer::port::Record;

fn sound() -> Place {
    let place = place();
    place.filled();
    place
}

/// Writes records past the store, which would never write them together.
fn force(place: &Place, records: &[Record]) {
    let mut writes = Vec::new();
    schema::encode(records, &BTreeSet::new(), |write| {
        if let Write::Put { table, key, value } = write {
            let value = match value {
                Value::Encoded(bytes) => bytes,
                Value::Body { bytes, .. } => bytes.to_vec(),
            };
            writes.push((table, key, value));
        }
    });
    for (table, key, value) in writes {
        place.put_raw(table, &key, &value);
    }
}

fn problems(place: &Place) -> Vec<String> {
    let report = check(&place.path).unwrap();
    assert_eq!(report.is_sound(), report.problems.is_empty());
    report.problems.into_iter().map(|problem| problem.what).collect()
}

fn assert_finds(place: &Place, what: &str) {
    let found = problems(place);
    assert!(found.iter().any(|problem| problem.contains(what)), "{what}: {found:?}");
}

#[test]
fn a_sound_store_is_sound_whether_in_the_log_or_in_files() {
    let place = sound();
    let counts = check(&place.path).unwrap();
    assert!(counts.is_sound(), "{:?}", counts.problems);
    assert_eq!(counts.counts["batch"], 3);
    assert_eq!(counts.counts["claim"], 3);
    assert_eq!(counts.counts["batch content"], 3);
    assert_eq!(counts.counts["payload content"], 1);
    assert!(!bcs::to_bytes(&counts).unwrap().is_empty());
    // It changed nothing.
    let mut store = RocksStore::open(&place.path, OWN, &RocksConfig::default()).unwrap();
    assert_eq!(store.recover().unwrap().records.len(), 16);
    drop(store);
    assert_eq!(check(&place.path).unwrap(), counts);
}

#[test]
fn a_store_in_use_or_missing_is_not_checked() {
    let place = place();
    assert!(matches!(check(&place.path), Err(StoreError::Missing(_))));
    let store = place.create();
    assert!(matches!(check(&place.path), Err(StoreError::InUse(_))));
    let reader: std::sync::Arc<dyn StoreReader> = store.reader();
    drop((store, reader));
    assert!(check(&place.path).unwrap().is_sound());
}

#[test]
fn damage_of_entries_and_content_is_found() {
    let sample = sample();
    let peer_key = body_key(&sample.peer);
    let place = sound();
    place.put_raw(Table::Control, &[0x77], b"x");
    assert_finds(&place, "unknown kind");

    let place = sound();
    place.put_raw(Table::Control, &peer_key, b"x");
    assert_finds(&place, "version");
    assert_finds(&place, "no control entry");

    let place = sound();
    place.put_raw(Table::Content, &peer_key, &vec![0; sample.peer.info.bytes as usize]);
    assert_finds(&place, "not what its batch info says");

    let place = sound();
    place.raw(|db| db.delete_cf(db.cf_handle("content").unwrap(), &peer_key).unwrap());
    assert_finds(&place, "missing");

    let place = sound();
    place.raw(|db| db.delete_cf(db.cf_handle("control").unwrap(), &peer_key).unwrap());
    assert_finds(&place, "no control entry names");

    let place = sound();
    let key = schema::payload_key(Timestamp(850), &sample.payload.digest(&CHAIN));
    place.put_raw(Table::Content, &key, b"\x01x");
    assert_finds(&place, "payload");

    let place = sound();
    let (digest, proof) = (digest(&sample.own), std::sync::Arc::new(proof(&sample.peer)));
    force(&place, &[Record::Proof { digest, proof }]);
    assert_finds(&place, "proof is not of the batch");

    let place = sound();
    let other = payload(1, 50, &[]);
    let record = Record::Payload {
        digest: other.digest(&CHAIN),
        payload: std::sync::Arc::new(other),
        batches: vec![digest],
        expiration: Timestamp(5),
    };
    force(&place, &[record]);
    assert_finds(&place, "batches are not those");

    let place = sound();
    place.raw(|db| db.delete_cf(db.cf_handle("control").unwrap(), [1]).unwrap());
    assert_finds(&place, "not the one this directory");
}

#[test]
fn contradictions_between_slots_floors_and_the_reservation_are_found() {
    let twin = batch(2, 3, 700, 9);
    let place = sound();
    force(&place, &[batch_record(&twin, true)]);
    assert_finds(&place, "slot is also claimed by");

    let place = sound();
    let slot = batch(2, 99, 1, 1).info.slot();
    force(&place, &[Record::Claim { digest: digest(&sample().peer), slot }]);
    assert_finds(&place, "slot of another batch");

    let place = sound();
    force(&place, &[Record::Floor { slot: twin.info.slot() }]);
    assert_finds(&place, "at or below a floor");

    let place = place_with_own_counter(9);
    assert_finds(&place, "at or above the reservation");
}

#[test]
fn a_batch_that_a_subscriber_keeps_beyond_its_time_may_lie_below_a_floor() {
    let (place, twin) = (sound(), batch(2, 3, 700, 9));
    force(&place, &[Record::Floor { slot: twin.info.slot() }]);
    // Consensus time is beyond the 700 at which it expired.
    let later = payload(10, 701, &[]);
    let records = [payload_record(&later, 900), Record::Commit(commit(&later))];
    force(&place, &records);
    assert_eq!(problems(&place), Vec::<String>::new());
}

/// The incarnation is random, so the batch is made for it.
fn place_with_own_counter(counter: u64) -> Place {
    let place = place();
    let mut store = RocksStore::create(&place.path, OWN, &RocksConfig::default()).unwrap();
    let incarnation = store.recover().unwrap().incarnation;
    let mut own = batch(OWN_BYTE, counter, 10, 10);
    own.info.batch_id.incarnation = incarnation;
    let below = batch_record(&own, true);
    store.commit(&[Record::Reserved { until: counter + 1 }, below]).unwrap();
    drop(store);
    assert!(check(&place.path).unwrap().is_sound());
    force(&place, &[Record::Reserved { until: counter }]);
    place
}

#[test]
fn gaps_and_receipts_without_commit_or_acks_are_found() {
    let far = payload(3, 60, &[]);
    let place = sound();
    force(&place, &[Record::Commit(commit(&far))]);
    assert_finds(&place, "leave a gap");

    let place = sound();
    force(&place, &[Record::Applied(receipt(&far))]);
    assert_finds(&place, "receipt without its commit");

    let mut swapped = receipt(&sample().payload);
    swapped.acks.swap(0, 1);
    let place = sound();
    force(&place, &[Record::Applied(swapped)]);
    assert_finds(&place, "out of order");

    let mut behind = receipt(&sample().payload);
    behind.acks[2].watermark = CommitIndex(0);
    let place = sound();
    force(&place, &[Record::Applied(behind)]);
    assert_finds(&place, "another watermark");

    let mut moved = commit(&sample().payload);
    moved.header.height = CommitIndex(9);
    let place = sound();
    force(&place, &[Record::Commit(moved)]);
    assert_finds(&place, "another height");
}
