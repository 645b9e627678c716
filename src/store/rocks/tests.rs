//! What was committed survives, what is damaged is noticed, and both stores agree.

use std::fs;
use std::path::PathBuf;

use super::super::memory::MemoryStore;
use super::super::schema::{Entry, Table};
use super::super::tests::{
    CHAIN, OWN, OWN_BYTE, batch, batch_record, commit, digest, payload, payload_record, plain,
    proof_record, receipt, sample,
};
use super::*;
use crate::types::{Author, ChainId, Timestamp};

pub(crate) struct Place {
    _temporary: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) fn place() -> Place {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    Place { _temporary: temporary, path }
}

impl Place {
    pub(crate) fn create(&self) -> RocksStore {
        let mut store = RocksStore::create(&self.path, OWN, &RocksConfig::default()).unwrap();
        assert!(store.recover().unwrap().records.is_empty());
        store
    }

    fn try_open(&self) -> Result<RocksStore, StoreError> {
        RocksStore::open(&self.path, OWN, &RocksConfig::default())
    }

    fn open(&self) -> (RocksStore, Vec<Record>) {
        let mut store = self.try_open().unwrap();
        let records = store.recover().unwrap().records;
        (store, records)
    }

    /// A store that holds the sample and is closed.
    pub(crate) fn filled(&self) {
        let mut store = self.create();
        for group in &sample().groups {
            store.commit(group).unwrap();
        }
    }

    /// Past the store, into its database.
    pub(crate) fn raw(&self, change: impl FnOnce(&rocksdb::DB)) {
        let families = ["content", "control"];
        let options = rocksdb::Options::default();
        let db = rocksdb::DB::open_cf(&options, self.path.join("database"), families).unwrap();
        change(&db);
    }

    pub(crate) fn put_raw(&self, table: Table, key: &[u8], value: &[u8]) {
        self.raw(|db| db.put_cf(db.cf_handle(table.name()).unwrap(), key, value).unwrap());
    }
}

pub(crate) fn body_key(batch: &Batch) -> Vec<u8> {
    schema::batch_key(batch.info.expiration, &digest(batch))
}

#[test]
fn everything_survives_and_drops_leave_nothing() {
    let (place, sample) = (place(), sample());
    let mut store = place.create();
    for group in &sample.groups {
        let stats = store.commit(group).unwrap();
        assert_eq!(stats.fsyncs, 1);
        assert!(stats.bytes > stats.content_bytes);
    }
    sample.assert_readable(&*store.reader());
    drop(store);
    let (mut store, records) = place.open();
    assert_eq!(plain(&records), plain(&sample.expected()));
    sample.assert_readable(&*store.reader());
    assert!(store.reader().space().free_bytes > 0);
    store.commit(&sample.drops()).unwrap();
    let gone = |store: &RocksStore| {
        let space = store.reader().space();
        assert_eq!((space.contents, space.content_bytes), (0, 0));
        for batch in [&sample.own, &sample.ordered, &sample.peer] {
            assert_eq!(store.reader().batch(&digest(batch)).unwrap(), None);
            assert_eq!(store.reader().proof(&digest(batch)).unwrap(), None);
        }
        assert_eq!(store.reader().payload(&sample.payload.digest(&CHAIN)).unwrap(), None);
        assert_eq!(store.reader().receipt(CommitIndex(1)).unwrap(), None);
    };
    gone(&store);
    drop(store);
    let (store, records) = place.open();
    gone(&store);
    assert!(matches!(
        &records[..],
        [
            Record::Reserved { until: 6 },
            Record::Floor { .. },
            Record::Epoch(_),
            Record::Fence { .. },
            Record::Closed(_),
            Record::Cursor { .. },
            Record::Lagged { .. },
            Record::Skipped { .. }
        ]
    ));
    drop(store);
    let mut content = 0;
    place.raw(|db| {
        let family = db.cf_handle("content").unwrap();
        content = db.iterator_cf(family, rocksdb::IteratorMode::Start).count();
    });
    assert_eq!(content, 0);
}

#[test]
fn each_way_of_opening_what_is_not_ours_is_refused() {
    let place = place();
    assert!(matches!(place.try_open(), Err(StoreError::Missing(_))));
    let store = place.create();
    assert!(matches!(place.try_open(), Err(StoreError::InUse(_))));
    let again = RocksStore::create(&place.path, OWN, &RocksConfig::default());
    assert!(matches!(again, Err(StoreError::Exists(_))));
    // Whoever reads keeps the lock.
    let reader = store.reader();
    drop(store);
    assert!(matches!(place.try_open(), Err(StoreError::InUse(_))));
    drop(reader);
    drop(place.open());
    let other_author = StoreIdentity { author: Author([9; 32]), ..OWN };
    let other_chain = StoreIdentity { chain: ChainId([9; 32]), ..OWN };
    for identity in [other_author, other_chain] {
        let opened = RocksStore::open(&place.path, identity, &RocksConfig::default());
        assert!(matches!(opened, Err(StoreError::Foreign { .. })));
    }
    let format = place.path.join("FORMAT");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replace("quorum-store 3", "quorum-store 4")).unwrap();
    assert!(matches!(place.try_open(), Err(StoreError::Format { found: 4, expected: 3, .. })));
}

#[test]
fn settings_outside_their_bounds_are_named_before_anything_is_made() {
    let place = place();
    let config = RocksConfig { write_buffers: 1, ..RocksConfig::default() };
    let created = RocksStore::create(&place.path, OWN, &config);
    assert!(matches!(created, Err(StoreError::Setting { name: "write_buffers", value: 1, .. })));
    assert!(!place.path.exists());
}

#[test]
fn the_database_of_another_directory_is_damage() {
    let (one, two) = (place(), place());
    one.filled();
    two.filled();
    fs::remove_dir_all(one.path.join("database")).unwrap();
    fs::rename(two.path.join("database"), one.path.join("database")).unwrap();
    let mut store = one.try_open().unwrap();
    assert!(matches!(store.recover(), Err(StoreError::Damaged { .. })));
}

#[test]
fn an_empty_database_directory_is_damage_and_not_a_first_start() {
    let place = place();
    place.filled();
    fs::remove_dir_all(place.path.join("database")).unwrap();
    fs::create_dir(place.path.join("database")).unwrap();
    assert!(matches!(place.try_open(), Err(StoreError::Damaged { .. })));
    assert!(matches!(place.try_open(), Err(StoreError::Damaged { .. })));
}

#[test]
fn every_opening_starts_a_life_with_a_synced_record() {
    let place = place();
    drop(place.create());
    drop(place.open());
    drop(place.try_open().unwrap());
    drop(place.open());
    place.raw(|db| {
        let value = db.get_cf(db.cf_handle("control").unwrap(), [2]).unwrap().unwrap();
        assert_eq!(Entry::decode(&[2], &value), Ok(Entry::Life(3)));
    });
}

#[test]
fn damaged_control_entries_end_recovery_and_the_store_stays_poisoned() {
    let sample = sample();
    let mut entry = None;
    schema::encode(&sample.groups[1][2..], &std::collections::BTreeSet::new(), |write| {
        if let schema::Write::Put { table: Table::Control, key, value } = write {
            entry = Some((key, value.as_ref().to_vec()));
        }
    });
    let (key, value) = entry.unwrap();
    let mut other_info = value.clone();
    other_info[40] ^= 1;
    let damages: [(&[u8], &[u8]); 5] = [
        (&key, b"garbage"),
        (&key, b""),
        (&key, &other_info),
        (&[0x77], b"unknown kind"),
        (&key[..20], &value),
    ];
    for (key, value) in damages {
        let place = place();
        place.filled();
        place.put_raw(Table::Control, key, value);
        let mut store = place.try_open().unwrap();
        let first = store.recover().unwrap_err();
        assert!(matches!(&first, StoreError::Damaged { what } if what.contains(&hex::encode(key))));
        let second = store.commit(&[Record::Reserved { until: 9 }]).unwrap_err();
        assert_eq!(first.to_string(), second.to_string());
    }
}

#[test]
fn damaged_content_is_never_returned_and_not_sent_again() {
    let (place, sample) = (place(), sample());
    place.filled();
    let flipped = |batch: &Batch| {
        let mut body = batch.body.bytes().to_vec();
        body[17] ^= 1;
        body
    };
    place.put_raw(Table::Content, &body_key(&sample.own), &flipped(&sample.own));
    place.put_raw(Table::Content, &body_key(&sample.peer), &flipped(&sample.peer));
    let payload_key = schema::payload_key(Timestamp(850), &sample.payload.digest(&CHAIN));
    place.put_raw(Table::Content, &payload_key, b"\x01garbage");
    let (store, records) = place.open();
    for batch in [&sample.own, &sample.peer] {
        let read = store.reader().batch(&digest(batch));
        assert!(matches!(read, Err(StoreError::Damaged { .. })));
    }
    let ordered = store.reader().batch(&digest(&sample.ordered)).unwrap();
    assert_eq!(ordered, Some(sample.ordered.clone()));
    assert_eq!(store.reader().payload(&sample.payload.digest(&CHAIN)).unwrap(), None);
    let own = records.iter().find_map(|record| match record {
        Record::Batch(record) if record.digest == digest(&sample.own) => Some(record),
        _ => None,
    });
    let own = own.unwrap();
    assert!(own.claims_slot && own.own.is_none() && own.body.is_empty());
    assert!(!records.iter().any(|record| matches!(record, Record::Payload { .. })));
    drop(store);
    place.raw(|db| {
        for table in ["content", "control"] {
            assert_eq!(db.get_cf(db.cf_handle(table).unwrap(), &payload_key).unwrap(), None);
        }
    });
    // Written again, it is whole again.
    let (mut store, _) = place.open();
    store.commit(&[batch_record(&sample.own, false)]).unwrap();
    let group = [batch_record(&sample.peer, false), payload_record(&sample.payload, 850)];
    store.commit(&group).unwrap();
    sample.assert_readable(&*store.reader());
    drop(store);
    let (store, records) = place.open();
    assert_eq!(plain(&records), plain(&sample.expected()));
    sample.assert_readable(&*store.reader());
}

#[test]
fn a_bit_that_flips_in_a_file_is_noticed() {
    let (place, sample) = (place(), sample());
    place.filled();
    // Opening moves everything from the log to files.
    drop(place.open());
    let files = fs::read_dir(place.path.join("database")).unwrap();
    let blobs: Vec<PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "blob"))
        .collect();
    assert!(!blobs.is_empty());
    for blob in blobs {
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&blob, bytes).unwrap();
    }
    let (store, _) = place.open();
    let mut damaged = 0;
    for batch in [&sample.own, &sample.peer] {
        match store.reader().batch(&digest(batch)) {
            Ok(Some(read)) => assert_eq!(&read, batch),
            Ok(None) => damaged += 1,
            Err(StoreError::Damaged { .. }) => damaged += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(damaged > 0);
}

#[test]
fn a_missing_blob_file_is_damage() {
    let (place, sample) = (place(), sample());
    place.filled();
    drop(place.open());
    for file in fs::read_dir(place.path.join("database")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "blob") {
            fs::remove_file(path).unwrap();
        }
    }
    let (store, _) = place.open();
    let read = store.reader().batch(&digest(&sample.peer));
    assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
}

#[test]
fn a_reader_beside_the_writer_finds_a_batch_or_nothing() {
    let place = place();
    let mut store = place.create();
    let peer = batch(2, 1, 10, 5000);
    let (name, expiration) = (digest(&peer), peer.info.expiration);
    let (reader, done) = (store.reader(), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                if let Some(read) = reader.batch(&name).unwrap() {
                    assert_eq!(read, peer);
                }
            }
        });
        for _ in 0..150 {
            store.commit(&[batch_record(&peer, true)]).unwrap();
            store.commit(&[Record::DropBatch { digest: name, expiration }]).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn the_first_failure_is_final() {
    let place = place();
    let mut store = place.create();
    store.failed = Some(StoreError::DiskFull { doing: "testing" });
    for _ in 0..2 {
        let refused = store.commit(&[Record::Reserved { until: 3 }]);
        assert!(matches!(refused, Err(StoreError::DiskFull { doing: "testing" })));
        assert!(matches!(store.recover(), Err(StoreError::DiskFull { .. })));
    }
    drop(store);
    assert!(place.open().1.is_empty());
}

#[test]
#[should_panic(expected = "S2")]
fn nothing_is_committed_before_recovery() {
    let place = place();
    let mut store = RocksStore::create(&place.path, OWN, &RocksConfig::default()).unwrap();
    let _ = store.commit(&[Record::Reserved { until: 3 }]);
}

/// Deterministic numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }

    fn record(&mut self) -> Record {
        let author = 1 + self.below(3) as u8;
        let counter = self.below(12);
        // Digests repeat, so that records meet: everything follows from author and counter.
        let length = (counter * 400) as usize + 1;
        let some = batch(author, counter, 1000 + counter, length);
        let other = batch(1 + author % 3, counter, 1000 + counter, length);
        let height = self.below(12);
        let ordering = payload(height, 1004, &[&some, &other]);
        match self.below(14) {
            0..=2 => batch_record(&some, self.below(2) == 0),
            3 => Record::Claim { digest: digest(&some), slot: some.info.slot() },
            4 => proof_record(&some),
            5 => payload_record(&ordering, 2000 + height),
            6 => Record::Commit(commit(&ordering)),
            7 => Record::Applied(receipt(&ordering)),
            8 => {
                let subscriber = ["executor", "indexer"][self.below(2) as usize].to_owned();
                Record::Cursor { subscriber, next: CommitIndex(height) }
            }
            9 => Record::Reserved { until: counter },
            10 => Record::Floor { slot: some.info.slot() },
            11 => Record::DropBatch { digest: digest(&some), expiration: some.info.expiration },
            12 => {
                let (digest, expiration) = (ordering.digest(&CHAIN), Timestamp(2000 + height));
                Record::DropPayload { digest, expiration }
            }
            _ => Record::DropCommits { below: CommitIndex(height) },
        }
    }
}

#[test]
fn both_stores_recover_the_same_after_any_groups() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = seed.map_or_else(|| (1..=6).collect(), |seed: u64| vec![seed]);
    for seed in seeds {
        println!("SEED={seed}");
        let mut random = Random(seed);
        let place = place();
        let mut durable = place.create();
        let mut memory = MemoryStore::new(OWN.author, CHAIN, crate::types::Incarnation(7));
        for _ in 0..60 {
            let length = 1 + random.below(8);
            let group: Vec<Record> = (0..length).map(|_| random.record()).collect();
            let stats = durable.commit(&group).unwrap();
            let same = memory.commit(&group).unwrap();
            assert_eq!((stats.bytes, stats.content_bytes), (same.bytes, same.content_bytes));
            assert_same(&*durable.reader(), &*memory.reader());
            if random.below(12) == 0 {
                drop(durable);
                let (reopened, records) = place.open();
                durable = reopened;
                memory = memory.clone_durable();
                assert_eq!(plain(&records), plain(&memory.recover().unwrap().records));
                assert_same(&*durable.reader(), &*memory.reader());
            }
        }
    }
}

fn assert_same(durable: &dyn StoreReader, memory: &dyn StoreReader) {
    let (left, right) = (durable.space(), memory.space());
    assert_eq!((left.contents, left.content_bytes), (right.contents, right.content_bytes));
    for counter in 0..12 {
        for author in [OWN_BYTE, 2, 3] {
            let length = (counter * 400) as usize + 1;
            let digest = digest(&batch(author, counter, 1000 + counter, length));
            assert_eq!(durable.batch(&digest).unwrap(), memory.batch(&digest).unwrap());
            assert_eq!(durable.proof(&digest).unwrap(), memory.proof(&digest).unwrap());
        }
        let index = CommitIndex(counter);
        assert_eq!(durable.receipt(index).unwrap(), memory.receipt(index).unwrap());
    }
}
