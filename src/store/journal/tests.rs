//! The journal on a disk that forgets: whatever the power leaves of a write, what comes back is
//! every group that was committed, and perhaps the one under way, whole.

mod segments;

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use bytes::Bytes;
use bytesize::ByteSize;

use super::frame::{Frame, Header, Secret};
use super::scan::read_frame;
use super::*;
use crate::store::Recovered;
use crate::store::check::check;
use crate::store::entries::Entries as _;
use crate::store::memory::MemoryStore;
use crate::store::schema::{self, FORMAT_VERSION, Meta};
use crate::store::tests::{
    CHAIN, OWN, batch, batch_record, commit, digest, payload, payload_record, plain, proof_record,
    receipt, sample,
};
use crate::types::{Batch, CommitIndex, Digest, Incarnation};

const SECRET: Secret = [9; 32];
const META: Meta = Meta { format: FORMAT_VERSION, incarnation: Incarnation(3), identity: OWN };
const SEGMENT_BYTES: u64 = 64 << 10;
const SEGMENTS_MAX: u32 = 5;
/// What a disk writes whole.
const SECTOR: usize = 512;

/// A disk: what is on it, and what was written since the last sync.
#[derive(Debug)]
struct Disk {
    segments: Vec<Vec<u8>>,
    unsynced: Vec<(u32, u64, Vec<u8>)>,
    /// Writes and syncs until the power goes.
    power: u64,
    done: u64,
    syncs: u64,
    reads: u64,
    /// True if the next segment is under way.
    prepared: bool,
    /// What is left for further segments.
    free_bytes: u64,
}

impl Disk {
    fn new(segments: Vec<Vec<u8>>) -> Self {
        let (unsynced, power, free_bytes) = (Vec::new(), u64::MAX, u64::MAX);
        Self { segments, unsynced, power, done: 0, syncs: 0, reads: 0, prepared: false, free_bytes }
    }
}

#[derive(Debug)]
struct Memory(Mutex<Disk>);

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Disk::new(vec![vec![0; SEGMENT_BYTES as usize]]))))
    }

    /// What a power cut leaves: of each sector that was not synced, the old or the new bytes.
    fn cut(&self, rng: &mut fastrand::Rng) -> Arc<Self> {
        let disk = self.0.lock().unwrap();
        let mut segments = disk.segments.clone();
        // All, nothing, or any sectors.
        let keeps = rng.u32(..4);
        for (segment, offset, bytes) in &disk.unsynced {
            for (at, sector) in (*offset as usize..).step_by(SECTOR).zip(bytes.chunks(SECTOR)) {
                let kept = match keeps {
                    0 => false,
                    1 => true,
                    _ => rng.bool(),
                };
                if kept {
                    segments[*segment as usize][at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        Arc::new(Self(Mutex::new(Disk::new(segments))))
    }

    fn lose_power_after(&self, steps: u64) {
        let mut disk = self.0.lock().unwrap();
        disk.power = disk.done + steps;
    }

    fn done(&self) -> u64 {
        self.0.lock().unwrap().done
    }

    fn change(&self, segment: u32, at: usize, bytes: &[u8]) {
        let mut disk = self.0.lock().unwrap();
        disk.segments[segment as usize][at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn step(disk: &mut Disk) -> io::Result<()> {
        disk.done += 1;
        if disk.done > disk.power { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }
}

impl Volume for Memory {
    fn count(&self) -> u32 {
        self.0.lock().unwrap().segments.len() as u32
    }

    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES
    }

    fn prepare(&self) {
        self.0.lock().unwrap().prepared = true;
    }

    fn add(&self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        Self::step(&mut disk)?;
        disk.prepared = false;
        disk.segments.push(vec![0; SEGMENT_BYTES as usize]);
        Ok(())
    }

    fn read(&self, segment: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK as u64) && buffer.len().is_multiple_of(BLOCK));
        let mut disk = self.0.lock().unwrap();
        disk.reads += 1;
        let offset = offset as usize;
        buffer.copy_from_slice(&disk.segments[segment as usize][offset..offset + buffer.len()]);
        for (of, at, bytes) in &disk.unsynced {
            if *of == segment {
                for (at, byte) in (*at as usize..).zip(bytes) {
                    if let Some(place) = at.checked_sub(offset).and_then(|at| buffer.get_mut(at)) {
                        *place = *byte;
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&self, segment: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK));
        assert!(offset + bytes.len() as u64 <= SEGMENT_BYTES, "beyond the segment");
        let mut disk = self.0.lock().unwrap();
        disk.unsynced.push((segment, offset, bytes.to_vec()));
        Self::step(&mut disk)
    }

    fn sync(&self, _: u32) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        Self::step(&mut disk)?;
        disk.syncs += 1;
        for (segment, offset, bytes) in std::mem::take(&mut disk.unsynced) {
            let offset = offset as usize;
            disk.segments[segment as usize][offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().free_bytes)
    }
}

fn create() -> (Arc<Memory>, Journal) {
    let disk = Memory::new();
    let volume: Arc<dyn Volume> = disk.clone();
    Journal::format(&volume, &SECRET, &META, None).unwrap();
    (disk, open(volume))
}

fn open(volume: Arc<dyn Volume>) -> Journal {
    Journal::new(volume, SECRET, META, SEGMENTS_MAX, None)
}

fn model() -> MemoryStore {
    MemoryStore::new(OWN.author, CHAIN, META.incarnation)
}

/// Everything that a store gives back.
fn image(recovered: &Recovered) -> Vec<(&'static str, Vec<u8>)> {
    assert_eq!(recovered.incarnation, META.incarnation);
    plain(&recovered.records)
}

/// Groups whose content lives for a while and is then deleted, as consensus time goes by.
struct Maker {
    rng: fastrand::Rng,
    counter: u64,
    time: u64,
    height: u64,
    held: BTreeMap<(u64, Digest), Record>,
    claimed: Vec<Batch>,
}

impl Maker {
    fn new(seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let (held, claimed) = (BTreeMap::new(), Vec::new());
        Self { rng, counter: 0, time: 1, height: 0, held, claimed }
    }

    fn group(&mut self) -> Vec<Record> {
        self.time += 1;
        let mut records = Vec::new();
        for _ in 0..=self.rng.u32(..4) {
            match self.rng.u32(..10) {
                0..=3 => records.push(self.batch()),
                4 => {
                    let place = self.rng.usize(..self.claimed.len().max(1));
                    records.extend(self.claimed.get(place).map(proof_record));
                }
                5 | 6 => self.block(&mut records),
                7 => records.push(Record::Reserved { until: self.rng.u64(..1000) }),
                8 => {
                    let next = CommitIndex(self.rng.u64(..9));
                    records.push(Record::Cursor { subscriber: "executor".into(), next });
                }
                _ => {
                    let below = CommitIndex(self.height.saturating_sub(self.rng.u64(..4)));
                    records.push(Record::DropCommits { below });
                }
            }
        }
        let young = self.held.split_off(&(self.time, Digest([0; 32])));
        records.extend(std::mem::replace(&mut self.held, young).into_values());
        self.claimed.retain(|batch| batch.info.expiration.0 >= self.time);
        records
    }

    fn batch(&mut self) -> Record {
        self.counter += 1;
        let length = if self.rng.u32(..8) == 0 { 12_000 } else { 1 + self.rng.usize(..2000) };
        let author = self.rng.u8(1..4);
        // A few outlive their neighbours by far.
        let life = if self.rng.u32(..12) == 0 { 60 } else { 1 + self.rng.u64(..12) };
        let batch = batch(author, self.counter, self.time + life, length);
        let digest = digest(&batch);
        let expiration = batch.info.expiration;
        self.held.insert((expiration.0, digest), Record::DropBatch { digest, expiration });
        self.claimed.push(batch.clone());
        batch_record(&batch, self.rng.bool())
    }

    fn block(&mut self, records: &mut Vec<Record>) {
        self.height += 1;
        let named: Vec<_> = self.claimed.iter().take(self.rng.usize(..4)).collect();
        let payload = payload(self.height, self.time, &named);
        let expiration = self.time + 10;
        records.push(payload_record(&payload, expiration));
        records.push(Record::Commit(commit(&payload)));
        if self.rng.bool() {
            records.push(Record::Applied(receipt(&payload)));
        }
        let digest = payload.digest(&CHAIN);
        let expiration = Timestamp(expiration);
        self.held.insert((expiration.0, digest), Record::DropPayload { digest, expiration });
    }
}

/// The same contents, read one by one.
fn assert_same_contents(model: &dyn StoreReader, journal: &dyn StoreReader, records: &[Record]) {
    for record in records {
        if let Record::Batch(batch) = record {
            let digest = &batch.digest;
            assert_eq!(model.batch(digest).unwrap(), journal.batch(digest).unwrap());
            assert_eq!(model.proof(digest).unwrap(), journal.proof(digest).unwrap());
        }
        if let Record::Payload { digest, .. } = record {
            assert_eq!(model.payload(digest).unwrap(), journal.payload(digest).unwrap());
        }
    }
}

#[test]
fn a_ring_that_goes_round_many_times_holds_what_a_store_in_memory_holds() {
    let (rounds, groups) = if cfg!(miri) { (1, 20) } else { (6, 1500) };
    for seed in 0..rounds {
        let (disk, mut journal) = create();
        let (mut model, mut maker, mut copied) = (model(), Maker::new(seed), false);
        assert_eq!(image(&journal.recover().unwrap()), image(&model.recover().unwrap()));
        for number in 0..groups {
            let group = maker.group();
            model.commit(&group).unwrap();
            let stats = journal.commit(&group).unwrap();
            copied |= stats.fsyncs > 1;
            if number % 100 == 99 {
                drop(journal);
                journal = open(disk.clone());
                let (found, expected) = (journal.recover().unwrap(), model.recover().unwrap());
                assert_eq!(image(&found), image(&expected), "seed {seed}, group {number}");
                let reader = JournalReader(Arc::clone(&journal.shared));
                assert_same_contents(&*model.reader(), &reader, &found.records);
            }
        }
        if !cfg!(miri) {
            assert!(journal.writer().ring.uses().all(|held| held.base > groups / 2));
            assert!(copied, "something was to outlive its neighbours");
        }
    }
}

/// Runs the same groups with the power going at each step in turn, opening included, and once more
/// while what is left is opened.
#[test]
fn whatever_step_the_power_goes_at_committed_groups_are_there_and_others_whole_or_not_at_all() {
    const GROUPS: usize = 60;
    let seeds = if cfg!(miri) { 0 } else { 3 };
    for seed in 0..seeds {
        let groups: Vec<_> = {
            let mut maker = Maker::new(seed);
            (0..GROUPS).map(|_| maker.group()).collect()
        };
        let mut rng = fastrand::Rng::with_seed(seed);
        for step in 1.. {
            let (disk, mut journal) = create();
            disk.lose_power_after(step);
            let mut model = model();
            model.recover().unwrap();
            let mut under_way = None;
            let begun = journal.recover().is_ok();
            for group in groups.iter().filter(|_| begun) {
                if journal.commit(group).is_err() {
                    under_way = Some(group);
                    break;
                }
                model.commit(group).unwrap();
            }
            let finished = begun && under_way.is_none();
            let mut left = disk.cut(&mut rng);
            // Once more, while it is opened.
            if rng.bool() {
                left.lose_power_after(rng.u64(..4));
                let _ = open(left.clone()).recover();
                left = left.cut(&mut rng);
            }
            let mut journal = open(left.clone());
            let found = journal.recover().unwrap_or_else(|error| panic!("step {step}: {error}"));
            let before = image(&model.clone_durable().recover().unwrap());
            if image(&found) != before {
                let group = under_way.unwrap_or_else(|| panic!("step {step}: something is lost"));
                model.commit(group).unwrap();
                let with = image(&model.clone_durable().recover().unwrap());
                assert_eq!(
                    image(&found),
                    with,
                    "seed {seed}, step {step}: neither all nor nothing"
                );
            }
            let reader = JournalReader(Arc::clone(&journal.shared));
            assert_same_contents(&*model.reader(), &reader, &found.records);
            // It goes on.
            journal.commit(&[Record::Reserved { until: 7 }]).unwrap();
            if finished {
                break;
            }
        }
    }
}

#[test]
fn the_first_failure_of_the_journal_is_final_although_the_disk_works_again() {
    let (disk, mut journal) = create();
    journal.recover().unwrap();
    let mut maker = Maker::new(1);
    journal.commit(&maker.group()).unwrap();
    disk.lose_power_after(1);
    let group = maker.group();
    let failed = journal.commit(&group).unwrap_err().to_string();
    disk.lose_power_after(u64::MAX / 2);
    for _ in 0..2 {
        assert_eq!(journal.commit(&group).unwrap_err().to_string(), failed);
        assert_eq!(journal.recover().unwrap_err().to_string(), failed);
    }
    let done = disk.done();
    drop(journal);
    assert_eq!(disk.done(), done, "no last frame either");
}

#[test]
#[should_panic(expected = "S2: a group before recovery")]
fn the_journal_commits_nothing_before_recovery() {
    let (_, mut journal) = create();
    let _ = journal.commit(&[Record::Reserved { until: 3 }]);
}

#[test]
fn damage_before_the_end_is_told_from_a_torn_tail() {
    let (disk, mut journal) = create();
    journal.recover().unwrap();
    let mut maker = Maker::new(1);
    let mut ends = vec![journal.writer().ring.place(1, 0).unwrap().offset];
    for _ in 0..6 {
        journal.commit(&maker.group()).unwrap();
        ends.push(journal.writer().ring.place(1, 0).unwrap().offset);
    }
    assert!(ends.is_sorted() && disk.count() == 1, "all in one segment: {ends:?}");
    // The process dies: no closing frame.
    journal.failed = Some(StoreError::DiskFull { doing: "testing" });
    let rng = &mut fastrand::Rng::with_seed(1);
    let changed = |at: u64| {
        let copy = disk.cut(rng);
        copy.change(0, at as usize + 70, &[0xaa; 8]);
        open(copy).recover()
    };
    let opened: Vec<_> = ends[..6].iter().copied().map(changed).collect();
    // The last frame looks torn; each before it is announced by one that is whole.
    assert!(opened[5].is_ok(), "{:?}", opened[5]);
    for (frame, opened) in opened[..5].iter().enumerate() {
        let Err(StoreError::Damaged { what }) = opened else { panic!("frame {frame}: {opened:?}") };
        assert!(what.contains("damaged"), "{what}");
    }
}

#[test]
fn bytes_of_transactions_are_never_read_as_frames() {
    let (disk, mut journal) = create();
    journal.recover().unwrap();
    // A frame that somebody makes with another secret, inside a body, on a whole block.
    let mut forged = Frame::default();
    forged.entry(b"key", b"value");
    let header = forged.measured(Header {
        base: 1,
        life: 9,
        sequence: 1000,
        durable: 999,
        needed: 1000,
        closing: true,
        change_bytes: 0,
        content_bytes: 0,
    });
    let mut bytes = vec![0; BLOCK];
    forged.lay_out(&header, &[8; 32], &mut bytes);
    let mut builder = crate::types::BodyBuilder::new();
    builder.push(Bytes::from(bytes.repeat(3)));
    let mut wrapped = batch(2, 1, 50, 10);
    wrapped.body = builder.finish();
    (wrapped.info.bytes, wrapped.info.root) =
        (wrapped.body.bytes().len() as u32, wrapped.body.root());
    journal.commit(&[batch_record(&wrapped, true)]).unwrap();
    drop(journal);
    let mut journal = open(disk);
    let found = journal.recover().unwrap();
    assert!(found.records.iter().any(|record| matches!(record, Record::Batch(_))));
}

#[test]
fn a_full_ring_is_said_to_be_full_and_loses_nothing() {
    let (disk, mut journal) = create();
    let mut model = model();
    drop(journal.recover().unwrap());
    drop(model.recover().unwrap());
    let mut failed = None;
    for counter in 0..100 {
        let reader = JournalReader(Arc::clone(&journal.shared));
        let free = reader.space().free_bytes;
        let group = [batch_record(&batch(2, counter, 1000, 12_000), true)];
        match journal.commit(&group) {
            Ok(_) => drop(model.commit(&group)),
            Err(error) => {
                assert!(free < 5 * BLOCK as u64, "room was announced until it was gone: {free}");
                failed = Some(error);
                break;
            }
        }
    }
    assert!(matches!(failed, Some(StoreError::DiskFull { .. })), "{failed:?}");
    drop(journal);
    let mut journal = open(disk);
    // Opening writes a frame of its own, for which room is kept.
    let found = journal.recover().unwrap();
    assert_eq!(image(&found), image(&model.recover().unwrap()));
}

#[test]
fn a_group_that_no_segment_holds_is_said_to_be_too_large() {
    let bytes_of = |length| {
        let (_disk, mut journal) = create();
        journal.recover().unwrap();
        journal.commit(&[batch_record(&batch(2, 1, 50, length), true)]).map(|stats| stats.bytes)
    };
    // Beside what is kept for openings.
    assert_eq!(bytes_of(12 * BLOCK - 600).unwrap(), 12 * BLOCK as u64);
    for length in [SEGMENT_BYTES as usize, 3 * SEGMENT_BYTES as usize] {
        let Err(StoreError::Setting { minimum, value, .. }) = bytes_of(length) else { panic!() };
        assert!(value == SEGMENT_BYTES && minimum > length as u64);
    }
}

#[test]
fn a_group_is_one_write_and_one_sync() {
    let (disk, mut journal) = create();
    journal.recover().unwrap();
    let before = disk.done();
    let stats = journal.commit(&[batch_record(&batch(2, 1, 50, 5000), true)]).unwrap();
    assert_eq!(disk.done() - before, 2);
    assert_eq!((stats.fsyncs, stats.bytes), (1, 2 * BLOCK as u64));
}

const CONFIG: JournalConfig =
    JournalConfig { segment_bytes: ByteSize::mib(1), segments_max: 8, direct_io: true };

fn in_files(path: &Path) -> JournalStore {
    let mut store = JournalStore::create(path, OWN, &CONFIG).unwrap();
    store.recover().unwrap();
    for group in &sample().groups {
        let stats = store.commit(group).unwrap();
        assert_eq!(stats.fsyncs, 1);
        assert!(stats.bytes >= BLOCK as u64 && stats.bytes > stats.content_bytes);
    }
    store
}

#[test]
fn files_give_back_what_they_were_given_with_and_without_the_page_cache() {
    for direct_io in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = in_files(&path);
        sample().assert_readable(&*store.reader());
        assert!(store.reader().space().free_bytes > 0);
        let in_use = JournalStore::open(&path, OWN, &CONFIG);
        assert!(matches!(in_use, Err(StoreError::InUse(_))));
        drop(store);
        let config = JournalConfig { direct_io, ..CONFIG };
        let mut store = JournalStore::open(&path, OWN, &config).unwrap();
        let recovered = store.recover().unwrap();
        assert_eq!(plain(&recovered.records), plain(&sample().expected()));
        let reader = store.reader();
        sample().assert_readable(&*reader);
        store.commit(&sample().drops()).unwrap();
        assert_eq!(reader.space().contents, 0);
        assert_eq!(reader.batch(&digest(&sample().peer)).unwrap(), None);
        // The same life of the process, another life of the sequencer.
        store.recover().unwrap();
    }
}

#[test]
fn a_ring_of_files_that_is_not_whole_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    drop(in_files(&path));
    let database = path.join("database");
    let refused = |what: &str| {
        let opened = JournalStore::open(&path, OWN, &CONFIG);
        let Err(StoreError::Damaged { what: found }) = opened else { panic!("{opened:?}") };
        assert!(found.contains(what), "{found}");
    };
    let (ring, segment) = (database.join("RING"), database.join("00000000"));
    let good = std::fs::read(&ring).unwrap();
    std::fs::write(&ring, &good[..good.len() - 3]).unwrap();
    refused("is not what was written");
    std::fs::remove_file(&ring).unwrap();
    refused("is missing");
    assert!(!is_at(&database));
    std::fs::write(&ring, good).unwrap();
    assert!(is_at(&database));
    std::fs::rename(&segment, database.join("kept")).unwrap();
    refused("has 0 bytes");
    std::fs::rename(database.join("kept"), &segment).unwrap();
    let report = check(&path).unwrap();
    assert!(report.is_sound() && report.counts["batch"] == 3, "{report:?}");
    let contents = ["batch content", "payload content"].map(|kind| report.counts[kind]);
    assert_eq!(contents, [3, 1], "read where they lie");
    let image = Image::read(&database).unwrap();
    let meta = schema::encode_meta(DataDirectory::open(&path).unwrap().meta());
    let schema::Write::Put { key, value, .. } = meta else { panic!() };
    assert_eq!(image.control(&key).unwrap().as_deref(), Some(value.as_ref()));
    assert_eq!(image.control(&[0x77]).unwrap(), None);
    drop(image);
    // A body that rots is found when it is read, and nowhere else.
    let bytes = std::fs::read(&segment).unwrap();
    let body = sample().peer.body.bytes().clone();
    let at = bytes.windows(body.len()).position(|window| window == body).unwrap();
    volume::overwrite(&segment, at as u64 + 100, &[0xff; 4]);
    let mut store = JournalStore::open(&path, OWN, &CONFIG).unwrap();
    store.recover().unwrap();
    let read = store.reader().batch(&digest(&sample().peer));
    assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
    drop(store);
    let report = check(&path).unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    // A life that ended in order ends in a frame, so one that is missing before it is found.
    let journal = Files::open(&database, Access::Read).unwrap();
    let first = read_frame(&journal, &journal.secret(), 0, 0).unwrap().unwrap();
    volume::overwrite(&segment, first.header.frame_bytes() + 64, &[0; 32]);
    let mut store = JournalStore::open(&path, OWN, &CONFIG).unwrap();
    assert!(matches!(store.recover(), Err(StoreError::Damaged { .. })));
}

/// Frames with these headers one after the other, each with a small entry.
fn lay_out(disk: &Memory, headers: &[Header]) {
    for (number, header) in headers.iter().enumerate() {
        let mut frame = Frame::default();
        frame.entry(&number.to_le_bytes(), b"value");
        let header = frame.measured(*header);
        let mut bytes = vec![0; BLOCK];
        frame.lay_out(&header, &SECRET, &mut bytes);
        disk.change(0, number * BLOCK, &bytes);
    }
}

#[test]
fn frames_that_no_writer_leaves_are_damage() {
    let header = |sequence, life, durable| Header {
        base: 1,
        life,
        sequence,
        durable,
        needed: 1,
        closing: false,
        change_bytes: 0,
        content_bytes: 0,
    };
    let first = header(1, 5, 0);
    let third = header(3, 7, 2);
    let read = |second| {
        let disk = Memory::new();
        lay_out(&disk, &[first, second, third]);
        scan::scan(&*disk, &SECRET).map(|found| found.tables.count().0)
    };
    for good in [header(2, 5, 1), header(2, 6, 0), header(2, 7, 1)] {
        assert!(matches!(read(good), Ok(3)), "{good:?}");
    }
    // The life of one before, and one that says of itself that it is durable.
    for bad in [header(2, 4, 1), header(2, 8, 1), header(2, 5, 2), header(2, 5, 9)] {
        let found = read(bad);
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "{bad:?}: {found:?}");
    }
    // Without the second one, the third one says that something is missing.
    let disk = Memory::new();
    lay_out(&disk, &[first, header(9, 9, 8), third]);
    assert!(matches!(scan::scan(&*disk, &SECRET), Err(StoreError::Damaged { .. })));
    // A frame that is there twice is read once.
    let disk = Memory::new();
    lay_out(&disk, &[first, first]);
    assert_eq!(scan::scan(&*disk, &SECRET).unwrap().last.unwrap().at.offset, 0);
    // A use of a segment begins with its base.
    let disk = Memory::new();
    lay_out(&disk, &[header(2, 5, 1)]);
    assert!(scan::scan(&*disk, &SECRET).unwrap().last.is_none());
}

#[test]
fn the_last_frame_of_a_clean_stop_says_so_and_no_other() {
    let (disk, mut journal) = create();
    journal.recover().unwrap();
    journal.commit(&[Record::Reserved { until: 7 }]).unwrap();
    drop(journal);
    let read = |number: u64| read_frame(&*disk, &SECRET, 0, number * BLOCK as u64).unwrap();
    let closing: Vec<bool> = (0..).map_while(read).map(|read| read.header.closing).collect();
    // Creating, opening, the group, the stop.
    assert_eq!(closing, [false, false, false, true]);
}

#[test]
fn entries_are_visited_in_the_order_in_which_they_are_decoded() {
    let (_disk, mut journal) = create();
    journal.recover().unwrap();
    for group in &sample().groups {
        journal.commit(group).unwrap();
    }
    let mut visited = Vec::new();
    let shared = &journal.shared;
    shared
        .scan_control(&mut |key, value| {
            visited.push(schema::Entry::decode(key, value).unwrap());
            Ok(())
        })
        .unwrap();
    let mut decoded = Vec::new();
    let decode = |key: &[u8], value: &[u8]| Ok(schema::Entry::decode(key, value).unwrap());
    shared.decode_control(&decode, &mut |entry| decoded.push(entry)).unwrap();
    assert!(visited.len() > 10 && visited == decoded);
    let stop = shared.scan_control(&mut |_, _| Err(StoreError::DiskFull { doing: "testing" }));
    assert!(matches!(stop, Err(StoreError::DiskFull { .. })));
    let reader = JournalReader(Arc::clone(&journal.shared));
    assert!(!StoreReader::may_hold(&reader, &Digest([9; 32])));
}

#[test]
fn settings_outside_their_bounds_are_refused() {
    let wrong = |config: JournalConfig| match config.validate() {
        Err(StoreError::Setting { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    assert!(JournalConfig::default().validate().is_ok());
    assert_eq!(wrong(JournalConfig { segment_bytes: ByteSize(4096), ..CONFIG }), "segment_bytes");
    let odd = JournalConfig { segment_bytes: ByteSize((1 << 20) + 1), ..CONFIG };
    assert_eq!(wrong(odd), "segment_bytes modulo 4096");
    assert_eq!(wrong(JournalConfig { segments_max: 3, ..CONFIG }), "segments_max");
}
