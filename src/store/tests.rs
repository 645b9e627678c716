//! Both stores give back what they were given; helpers for the tests of their parts.

use std::sync::Arc;

use bytes::Bytes;

use super::memory::MemoryStore;
use super::schema::{self, StoreIdentity, Write};
use super::{Store, StoreError, StoreReader};
use crate::sequencer::port::{BatchRecord, Record, TransactionMeta};
use crate::types::{
    Ack, Author, Batch, ChainId, Commit, CommitIndex, CommitReceipt, Committee, Component, Digest,
    Epoch, EpochReceipt, FormerEpoch, Incarnation, Member, Membership, Payload, PayloadContent,
    PayloadHeader, ProofOfStore, Timestamp, samples,
};

pub(crate) const CHAIN: ChainId = ChainId([5; 32]);
pub(crate) const OWN: StoreIdentity = StoreIdentity { author: Author([1; 32]), chain: CHAIN };
/// The author byte of `OWN`.
pub(crate) const OWN_BYTE: u8 = 1;

/// A batch whose digest is right, with a body of about `length` bytes.
pub(crate) fn batch(author: u8, counter: u64, expiration: u64, length: usize) -> Batch {
    let mut builder = crate::types::BodyBuilder::new();
    let text = [author, counter as u8, 17].repeat(length.div_ceil(3));
    builder.push(Bytes::from(text));
    let body = builder.finish();
    let mut info = samples::batch(author, counter, &[b"x"]).info;
    (info.expiration, info.bytes, info.root) =
        (Timestamp(expiration), body.bytes().len() as u32, body.root());
    Batch { info, body }
}

pub(crate) fn digest(batch: &Batch) -> Digest {
    batch.info.digest(&CHAIN)
}

pub(crate) fn batch_record(batch: &Batch, claims_slot: bool) -> Record {
    let own = (batch.info.author == OWN.author).then(|| {
        Arc::from([TransactionMeta { gas_unit_price: 3, expiration: Timestamp(9) }].as_slice())
    });
    let (digest, info, body) = (digest(batch), batch.info, batch.body.bytes().clone());
    Record::Batch(BatchRecord { digest, info, body, claims_slot, own })
}

pub(crate) fn proof(batch: &Batch) -> ProofOfStore {
    ProofOfStore { info: batch.info, ..samples::proof(1, 1) }
}

pub(crate) fn proof_record(batch: &Batch) -> Record {
    Record::Proof { digest: digest(batch), proof: Arc::new(proof(batch)) }
}

pub(crate) fn payload(height: u64, block_timestamp: u64, batches: &[&Batch]) -> Payload {
    let content = PayloadContent {
        proofs: batches.iter().map(|batch| proof(batch)).collect(),
        ..PayloadContent::default()
    };
    let header = PayloadHeader {
        epoch: Epoch(0),
        height: CommitIndex(height),
        parent: Digest([3; 32]),
        block_timestamp: Timestamp(block_timestamp),
        content_root: content.root(),
    };
    Payload { header, content }
}

pub(crate) fn payload_record(payload: &Payload, expiration: u64) -> Record {
    Record::Payload {
        digest: payload.digest(&CHAIN),
        payload: Arc::new(payload.clone()),
        batches: payload.content.batches().map(|info| info.digest(&CHAIN)).collect(),
        expiration: Timestamp(expiration),
    }
}

pub(crate) fn commit(payload: &Payload) -> Commit {
    Commit { index: payload.header.height, round: 2, header: payload.header }
}

pub(crate) fn receipt(payload: &Payload) -> CommitReceipt {
    let index = payload.header.height;
    let acks = Component::ALL.map(|component| Ack { component, freed: 1, watermark: index });
    CommitReceipt { index, block_timestamp: payload.header.block_timestamp, acks }
}

fn lagged() -> Record {
    Record::Lagged { subscriber: "indexer".into(), next: CommitIndex(1) }
}

/// An epoch, served after one that was fenced and closed.
fn epochs() -> Vec<Record> {
    let member = Member { author: OWN.author, power: 5 };
    let committee = Committee::new(vec![member]).unwrap();
    let (epoch, final_index) = (Epoch(0), CommitIndex(1));
    let former =
        vec![FormerEpoch { epoch, committee: committee.clone(), served_until: Timestamp(9) }];
    let membership = Membership { epoch: Epoch(1), committee, former };
    let receipt = EpochReceipt {
        epoch,
        final_index,
        block_timestamp: Timestamp(50),
        acks: receipt(&payload(1, 50, &[])).acks,
        handed_over_batches: 1,
        handed_over_transactions: 2,
        served_until: Timestamp(9),
        behind: vec!["n".repeat(64); 64],
    };
    vec![
        Record::Epoch(Arc::new(membership)),
        Record::Fence { epoch, final_index },
        Record::Closed(receipt),
    ]
}

/// A jump above the one commit of the sample.
fn skipped() -> Record {
    Record::Skipped { from: CommitIndex(2), header: payload(9, 60, &[]).header }
}

/// Everything that two records can differ in, as bytes.
pub(crate) fn plain(records: &[Record]) -> Vec<(&'static str, Vec<u8>)> {
    fn bcs(value: impl serde::Serialize) -> Vec<u8> {
        bcs::to_bytes(&value).unwrap()
    }
    let plain = |record: &Record| match record {
        Record::Batch(BatchRecord { digest, info, body, claims_slot, own }) => {
            ("batch", bcs((digest, info, &body[..], claims_slot, own.as_deref())))
        }
        Record::Claim { digest, slot } => ("claim", bcs((digest, slot))),
        Record::Proof { digest, proof } => ("proof", bcs((digest, &**proof))),
        Record::Payload { digest, payload, batches, expiration } => {
            ("payload", bcs((digest, &**payload, batches, expiration)))
        }
        Record::Commit(commit) => ("commit", bcs(commit)),
        Record::Applied(receipt) => ("applied", bcs(receipt)),
        Record::Cursor { subscriber, next } => ("cursor", bcs((subscriber, next))),
        Record::Reserved { until } => ("reserved", bcs(until)),
        Record::Floor { slot } => ("floor", bcs(slot)),
        Record::Lagged { subscriber, next } => ("lagged", bcs((subscriber, next))),
        Record::Skipped { from, header } => ("skipped", bcs((from, header))),
        Record::Epoch(membership) => ("epoch", bcs(&**membership)),
        Record::Fence { epoch, final_index } => ("fence", bcs((epoch, final_index))),
        Record::Closed(receipt) => ("closed", bcs(receipt)),
        Record::Absent { index, digest, slot } => ("absent", bcs((index, digest, slot))),
        Record::Passed { below } => ("passed", bcs(below)),
        Record::Rewritten { by, proof } => ("rewritten", bcs((by, &**proof))),
        Record::Silence { until } => ("silence", bcs(until)),
        Record::Unsubscribed { .. }
        | Record::DropFloors { .. }
        | Record::Settled { .. }
        | Record::DropBatch { .. }
        | Record::DropPayload { .. }
        | Record::DropAbsent { .. }
        | Record::DropRewritten { .. }
        | Record::DropProof { .. }
        | Record::DropCommits { .. } => panic!("a deletion is never recovered"),
    };
    records.iter().map(plain).collect()
}

/// One record of every kind, sound together.
pub(crate) struct Sample {
    pub(crate) own: Batch,
    pub(crate) ordered: Batch,
    pub(crate) peer: Batch,
    pub(crate) payload: Payload,
    pub(crate) groups: Vec<Vec<Record>>,
}

pub(crate) fn sample() -> Sample {
    let own = batch(OWN_BYTE, 5, 900, 3000);
    let ordered = batch(OWN_BYTE, 4, 800, 20);
    let peer = batch(2, 3, 700, 5000);
    let payload = payload(1, 50, &[&ordered, &peer]);
    let cursor = Record::Cursor { subscriber: "executor".into(), next: CommitIndex(1) };
    let floor = Record::Floor { slot: batch(2, 2, 1, 1).info.slot() };
    let claim = Record::Claim { digest: digest(&peer), slot: peer.info.slot() };
    let groups = vec![
        vec![cursor, floor, Record::Reserved { until: 6 }],
        vec![batch_record(&own, true), batch_record(&ordered, true), batch_record(&peer, false)],
        vec![claim, proof_record(&peer), proof_record(&ordered), payload_record(&payload, 850)],
        vec![Record::Commit(commit(&payload)), Record::Applied(receipt(&payload))],
        vec![lagged(), skipped()],
        epochs(),
    ];
    Sample { own, ordered, peer, payload, groups }
}

impl Sample {
    /// What must come back.
    pub(crate) fn expected(&self) -> Vec<Record> {
        let without_body = |batch: &Batch| match batch_record(batch, true) {
            Record::Batch(record) => {
                Record::Batch(BatchRecord { body: Bytes::new(), own: None, ..record })
            }
            other => other,
        };
        vec![
            Record::Reserved { until: 6 },
            Record::Floor { slot: batch(2, 2, 1, 1).info.slot() },
            epochs()[0].clone(),
            epochs()[1].clone(),
            epochs()[2].clone(),
            without_body(&self.peer),
            without_body(&self.ordered),
            batch_record(&self.own, true),
            proof_record(&self.peer),
            proof_record(&self.ordered),
            payload_record(&self.payload, 850),
            Record::Commit(commit(&self.payload)),
            Record::Applied(receipt(&self.payload)),
            Record::Cursor { subscriber: "executor".into(), next: CommitIndex(1) },
            lagged(),
            skipped(),
        ]
    }

    /// What deletes all content.
    pub(crate) fn drops(&self) -> Vec<Record> {
        let drop_batch = |batch: &Batch| Record::DropBatch {
            digest: digest(batch),
            expiration: batch.info.expiration,
        };
        let (digest, expiration) = (self.payload.digest(&CHAIN), Timestamp(850));
        vec![
            drop_batch(&self.own),
            drop_batch(&self.ordered),
            drop_batch(&self.peer),
            Record::DropPayload { digest, expiration },
            Record::DropCommits { below: CommitIndex(2) },
        ]
    }

    /// Everything that is in force can be read, and nothing else is found.
    pub(crate) fn assert_readable(&self, reader: &dyn StoreReader) {
        for batch in [&self.own, &self.ordered, &self.peer] {
            assert_eq!(reader.batch(&digest(batch)).unwrap().as_ref(), Some(batch));
            assert!(reader.may_hold(&digest(batch)));
        }
        let payload_digest = self.payload.digest(&CHAIN);
        assert_eq!(reader.payload(&payload_digest).unwrap().as_ref(), Some(&self.payload));
        assert_eq!(reader.proof(&digest(&self.peer)).unwrap(), Some(proof(&self.peer)));
        assert_eq!(reader.proof(&digest(&self.own)).unwrap(), None);
        assert_eq!(reader.receipt(CommitIndex(1)).unwrap(), Some(receipt(&self.payload)));
        assert_eq!(reader.receipt(CommitIndex(2)).unwrap(), None);
        assert_eq!(reader.batch(&payload_digest).unwrap(), None);
        assert_eq!(reader.payload(&digest(&self.own)).unwrap(), None);
        let space = reader.space();
        let bodies = [&self.own, &self.ordered, &self.peer];
        let bodies: u64 = bodies.iter().map(|batch| u64::from(batch.info.bytes)).sum();
        let payload = self.payload.encode().len() as u64 + 1;
        assert_eq!((space.contents, space.content_bytes), (4, bodies + payload));
    }
}

pub(crate) fn memory() -> MemoryStore {
    MemoryStore::new(OWN.author, CHAIN, Incarnation(7))
}

#[test]
fn memory_gives_back_what_it_was_given_and_copies_share_nothing() {
    let sample = sample();
    let mut store = memory();
    assert!(store.recover().unwrap().records.is_empty());
    for group in &sample.groups {
        let stats = store.commit(group).unwrap();
        assert!(stats.fsyncs == 0 && stats.bytes > stats.content_bytes);
    }
    sample.assert_readable(&*store.reader());
    let mut copy = store.clone_durable();
    store.commit(&sample.drops()).unwrap();
    let recovered = copy.recover().unwrap();
    assert_eq!(recovered.incarnation, Incarnation(7));
    assert_eq!(plain(&recovered.records), plain(&sample.expected()));
    sample.assert_readable(&*copy.reader());
    assert_eq!(store.reader().space().contents, 0);
}

#[cfg(feature = "testkit")]
#[test]
fn a_store_with_the_same_entries_is_the_same_store() {
    let (sample, mut store, mut copy) = (sample(), memory(), memory());
    for group in &sample.groups {
        store.commit(group).unwrap();
    }
    for (table, key, value) in store.entries() {
        copy.put_entry(table, key, value);
    }
    assert_eq!(plain(&copy.recover().unwrap().records), plain(&sample.expected()));
}

#[cfg(feature = "testkit")]
#[test]
fn writes_that_are_carried_out_later_lead_to_the_same_store() {
    let (sample, mut store) = (sample(), memory());
    store.recover().unwrap();
    for group in &sample.groups {
        let writes = store.encode(group);
        store.replay(&writes);
        store.recover().unwrap();
    }
    assert_eq!(plain(&store.recover().unwrap().records), plain(&sample.expected()));
    sample.assert_readable(&*store.reader());
    let writes = store.encode(&sample.drops());
    store.replay(&writes);
    store.recover().unwrap();
    assert_eq!(store.reader().space().contents, 0);
}

#[test]
fn a_proof_that_rots_into_another_one_is_not_given_away() {
    let (peer, other) = (batch(2, 1, 10, 10), batch(2, 2, 10, 10));
    let (mut store, mut twin) = (memory(), memory());
    store.commit(&[proof_record(&peer)]).unwrap();
    let misplaced = Record::Proof { digest: digest(&peer), proof: Arc::new(proof(&other)) };
    schema::encode(&[misplaced], &std::collections::BTreeSet::new(), |write| {
        let Write::Put { table, key, value } = write else { panic!() };
        store.put_entry(table, key, Bytes::copy_from_slice(value.as_ref()));
    });
    let read = store.reader().proof(&digest(&peer));
    assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
    twin.commit(&[proof_record(&peer)]).unwrap();
    assert_eq!(twin.reader().proof(&digest(&peer)).unwrap(), Some(proof(&peer)));
}

#[test]
fn proofs_come_back_also_where_no_batch_does() {
    let mut store = memory();
    let proofs = [1, 2, 3].map(|counter| proof_record(&batch(2, counter, counter, 10)));
    store.commit(&proofs).unwrap();
    assert_eq!(plain(&store.recover().unwrap().records), plain(&proofs));
}

#[test]
fn an_entry_under_a_digest_that_is_not_its_own_is_damage() {
    let (peer, other) = (batch(2, 1, 10, 10), batch(2, 2, 10, 10));
    let of = digest(&other);
    let Record::Batch(record) = batch_record(&peer, false) else { panic!() };
    let renamed = Record::Batch(BatchRecord { digest: of, ..record });
    let misplaced = Record::Proof { digest: of, proof: Arc::new(proof(&peer)) };
    for record in [renamed, misplaced] {
        let mut store = memory();
        store.commit(&[record]).unwrap();
        let Err(StoreError::Damaged { what }) = store.recover() else { panic!() };
        assert!(what.contains("differs from its digest"), "{what}");
    }
}

#[test]
fn an_own_batch_that_was_skipped_at_execution_comes_back_with_its_body() {
    let expired = batch(OWN_BYTE, 1, 40, 10);
    let payload = payload(1, 50, &[&expired]);
    let mut store = memory();
    let group = [
        batch_record(&expired, true),
        payload_record(&payload, 60),
        Record::Commit(commit(&payload)),
        Record::Applied(receipt(&payload)),
    ];
    store.commit(&group).unwrap();
    let records = store.recover().unwrap().records;
    assert_eq!(plain(&records[..1]), plain(&group[..1]));
}

#[test]
fn commits_are_dropped_also_inside_the_group_that_made_them() {
    let payloads: Vec<Payload> = (1..=4).map(|height| payload(height, height, &[])).collect();
    let mut store = memory();
    store.commit(&[Record::Commit(commit(&payloads[0]))]).unwrap();
    let mut group = vec![Record::Applied(receipt(&payloads[0]))];
    group.extend(payloads[1..].iter().map(|payload| Record::Commit(commit(payload))));
    group.push(Record::DropCommits { below: CommitIndex(4) });
    store.commit(&group).unwrap();
    let records = store.recover().unwrap().records;
    assert_eq!(plain(&records), plain(&[Record::Commit(commit(&payloads[3]))]));
    // A receipt whose commit came in an earlier group and is dropped with it.
    let applied = Record::Applied(receipt(&payloads[1]));
    store.commit(&[applied, Record::DropCommits { below: CommitIndex(4) }]).unwrap();
    assert_eq!(store.reader().receipt(CommitIndex(2)).unwrap(), None);
}

#[test]
fn skipped_commits_go_also_inside_the_group_that_logged_them_and_a_name_has_one_state() {
    let payloads: Vec<Payload> = (1..=4).map(|height| payload(height, height, &[])).collect();
    let mut store = memory();
    store
        .commit(&[Record::Commit(commit(&payloads[0])), Record::Commit(commit(&payloads[1]))])
        .unwrap();
    let skipped = Record::Skipped { from: CommitIndex(2), header: payloads[2].header };
    let cursor = Record::Cursor { subscriber: "indexer".into(), next: CommitIndex(1) };
    let group = [
        Record::Commit(commit(&payloads[2])),
        skipped.clone(),
        Record::Commit(commit(&payloads[3])),
        cursor.clone(),
        lagged(),
    ];
    store.commit(&group).unwrap();
    let kept = [commit(&payloads[0]), commit(&payloads[3])].map(Record::Commit);
    let expected = |last: Vec<Record>| [kept.to_vec(), last].concat();
    let records = store.recover().unwrap().records;
    assert_eq!(plain(&records), plain(&expected(vec![lagged(), skipped.clone()])));
    store.commit(std::slice::from_ref(&cursor)).unwrap();
    let records = store.recover().unwrap().records;
    assert_eq!(plain(&records), plain(&expected(vec![cursor, skipped.clone()])));
    store.commit(&[Record::Unsubscribed { subscriber: "indexer".into() }]).unwrap();
    let records = store.recover().unwrap().records;
    assert_eq!(plain(&records), plain(&expected(vec![skipped])));
}

#[test]
fn a_settled_batch_keeps_its_content_and_floors_of_a_former_epoch_go() {
    let own = batch(OWN_BYTE, 5, 900, 30);
    let slot = batch(2, 2, 1, 1).info.slot();
    let mut store = memory();
    store.commit(&[batch_record(&own, true), Record::Floor { slot }]).unwrap();
    let floors = vec![(slot.author, slot.batch_id.incarnation)];
    let settled = Record::Settled { digest: digest(&own), info: own.info };
    store.commit(&[settled, Record::DropFloors { epoch: slot.epoch, floors }]).unwrap();
    let records = store.recover().unwrap().records;
    let [Record::Batch(record)] = &records[..] else { panic!("{records:?}") };
    assert!(record.own.is_none() && record.claims_slot);
    assert_eq!(store.reader().batch(&digest(&own)).unwrap(), Some(own));
}

#[test]
fn writing_content_again_keeps_its_claim() {
    let peer = batch(2, 1, 10, 10);
    let mut store = memory();
    store.commit(&[batch_record(&peer, true)]).unwrap();
    store.commit(&[batch_record(&peer, false)]).unwrap();
    let records = store.recover().unwrap().records;
    assert!(matches!(&records[..], [Record::Batch(batch)] if batch.claims_slot));
}

#[test]
#[should_panic(expected = "S1")]
fn a_recovered_record_cannot_replace_content_by_nothing() {
    let Record::Batch(record) = batch_record(&batch(2, 1, 10, 10), true) else { panic!() };
    let record = BatchRecord { body: Bytes::new(), ..record };
    memory().commit(&[Record::Batch(record)]).unwrap();
}

#[test]
fn a_life_that_cannot_be_counted_is_damage() {
    let mut store = MemoryStore::new(OWN.author, OWN.chain, Incarnation(7));
    let Write::Put { table, key, value } = schema::encode_life(u64::MAX) else { panic!() };
    store.put_entry(table, key, Bytes::copy_from_slice(value.as_ref()));
    assert!(matches!(store.recover(), Err(StoreError::Damaged { .. })));
}
