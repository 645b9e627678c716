//! Keys sort as their values do; bytes on disk never panic.

use super::super::tests::{OWN, batch, batch_record, commit, payload, sample};
use super::*;
use crate::types::{DecodeError, Payload};

fn entries(groups: &[Vec<Record>]) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    for group in groups {
        encode(group, &BTreeSet::new(), |write| match write {
            Write::Put { table, key, value } => entries.push((table, key, value.as_ref().to_vec())),
            // A cursor ends a lag, and the other way round.
            Write::Delete { .. } => {}
        });
    }
    entries
}

#[test]
fn each_table_and_each_kind_of_content_has_a_name_of_its_own() {
    assert_eq!([Table::Content, Table::Control].map(Table::name), ["content", "control"]);
    let kinds = [ContentKind::Batch, ContentKind::Payload].map(ContentKind::name);
    assert_eq!(kinds, ["batch content", "payload content"]);
}

/// Deterministic bytes.
fn noise(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 24) as u8
}

#[test]
fn content_sorts_by_expiration() {
    let mut keys: Vec<_> = [300, 2, 256, 1]
        .into_iter()
        .map(|expiration| {
            let batch = batch(2, 1, expiration, 4);
            (expiration, batch_key(Timestamp(expiration), &super::super::tests::digest(&batch)))
        })
        .collect();
    keys.sort_by(|a, b| a.1.cmp(&b.1));
    assert!(keys.iter().map(|(expiration, _)| *expiration).eq([1, 2, 256, 300]));
}

#[test]
fn a_body_is_written_as_it_came() {
    let batch = batch(2, 1, 10, 4000);
    let group = [batch_record(&batch, true)];
    let mut bodies = 0;
    encode(&group, &BTreeSet::new(), |write| {
        if let Write::Put {
            table: Table::Content, value: Value::Body { bytes: body, .. }, ..
        } = write
        {
            assert_eq!(body.as_ptr(), batch.body.bytes().as_ptr());
            bodies += 1;
        }
    });
    assert_eq!(bodies, 1);
}

#[test]
fn any_change_of_a_control_entry_is_an_error_or_another_entry_and_never_a_panic() {
    for (table, key, value) in entries(&sample().groups) {
        if table == Table::Content {
            decode_content_key(&key).unwrap();
            continue;
        }
        let entry = Entry::decode(&key, &value).unwrap();
        for length in (0..value.len()).step_by(STRIDE) {
            assert!(Entry::decode(&key, &value[..length]).is_err(), "{}", entry.kind());
        }
        let mut longer = value.clone();
        longer.push(0);
        assert!(Entry::decode(&key, &longer).is_err());
        let mut version = value.clone();
        version[0] += 1;
        let newer = DecodeError::Version { found: 2, expected: 1 };
        assert_eq!(Entry::decode(&key, &version), Err(EntryError::Value(newer)));
        for position in (0..key.len()).step_by(STRIDE) {
            let mut other = key.clone();
            other[position] ^= 0x40;
            assert_ne!(Entry::decode(&other, &value), Ok(entry.clone()));
        }
        for position in (0..value.len()).step_by(STRIDE) {
            let mut other = value.clone();
            other[position] ^= 1;
            assert_ne!(Entry::decode(&key, &other), Ok(entry.clone()));
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let kinds = [
        META, LIFE, RESERVED, FLOOR, EPOCH, FENCE, CLOSED, BATCH, CLAIM, PROOF, PAYLOAD, COMMIT,
        APPLIED, CURSOR, LAGGED, SKIPPED,
    ];
    let rounds = if cfg!(miri) { 200 } else { 20_000 };
    for round in 0_usize..rounds {
        let mut key: Vec<u8> = (0..noise(&mut state) % 60).map(|_| noise(&mut state)).collect();
        let mut value: Vec<u8> = (0..noise(&mut state)).map(|_| noise(&mut state)).collect();
        if round % 2 == 0 {
            key.insert(0, kinds[round / 2 % kinds.len()]);
            value.insert(0, VALUE_VERSION);
        }
        let _ = Entry::decode(&key, &value);
        let _ = decode_content_key(&key);
        let _ = decode_payload(&value);
    }
}

#[test]
fn the_largest_values_a_chain_allows_fit_their_bounds() {
    let small = batch(2, 1, 10, 1);
    // An interpreter would need an hour for the largest.
    let most = if cfg!(miri) { 64 } else { PAYLOAD_BYTES / BatchInfo::ENCODED_BYTES };
    let mut full: Payload = payload(1, 1, &[]);
    full.content.optimistic = vec![small.info; most];
    let batches = vec![super::super::tests::digest(&small); most];
    let digest = full.digest(&OWN.chain);
    let record = Record::Payload {
        digest,
        payload: std::sync::Arc::new(full.clone()),
        batches,
        expiration: Timestamp(1),
    };
    let Record::Batch(mut own) = batch_record(&batch(1, 1, 10, 1), true) else { panic!() };
    // Each differs from the one before.
    let transactions = if cfg!(miri) { 64 } else { 65_536 };
    let meta = |n| TransactionMeta { gas_unit_price: u64::MAX - n, expiration: Timestamp(n) };
    own.own = Some((0..transactions).map(meta).collect());
    let groups = [vec![record, Record::Batch(own), Record::Commit(commit(&full))]];
    for (table, key, value) in entries(&groups) {
        match (table, decode_content_key(&key)) {
            (Table::Control, _) => drop(Entry::decode(&key, &value).unwrap()),
            (_, Ok((ContentKind::Payload, ..))) => {
                assert_eq!(decode_payload(&value).unwrap(), full);
            }
            _ => (),
        }
    }
}

const PAYLOAD_BYTES: usize = crate::types::genesis::PAYLOAD_BYTES_LIMIT as usize;
/// Every byte; an interpreter looks at some.
const STRIDE: usize = if cfg!(miri) { 211 } else { 1 };
