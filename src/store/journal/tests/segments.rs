//! Segments: when they are prepared, added and used again, and what is said to be free.

use super::*;
use crate::store::journal::tables::Tables;
use crate::store::journal::writer::OPENING_BYTES;

/// Two blocks with its batch.
const GROUP_BYTES: u64 = 2 * BLOCK as u64;

/// A batch that fills two blocks, in force until it is dropped.
fn two_blocks(counter: u64) -> Batch {
    batch(2, counter, 1000, 5000)
}

fn opened() -> (Arc<Memory>, Journal) {
    let (disk, mut journal) = create();
    journal.recover().unwrap();
    (disk, journal)
}

fn free_bytes(journal: &Journal) -> u64 {
    JournalReader(Arc::clone(&journal.shared)).space().free_bytes
}

#[test]
fn a_segment_is_prepared_once_half_of_the_last_one_is_used_and_only_if_it_can_be_added() {
    let (disk, mut journal) = opened();
    for counter in 0.. {
        let (count, prepared) = (disk.count(), disk.0.lock().unwrap().prepared);
        if journal.commit(&[batch_record(&two_blocks(counter), true)]).is_err() {
            break;
        }
        if disk.count() > count {
            // Before the last one, what is copied forward may fill more than a half at once.
            assert!(prepared || count == SEGMENTS_MAX - 1, "segment {count} was not prepared");
            continue;
        }
        let (free, rest) = (journal.writer().ring.free(), journal.writer().ring.rest());
        let is_due = free == 0 && rest < SEGMENT_BYTES / 2 && count < SEGMENTS_MAX;
        assert_eq!(disk.0.lock().unwrap().prepared, is_due, "group {counter}");
    }
    assert_eq!(disk.count(), SEGMENTS_MAX);
}

/// How many segments are used in the end, when each group drops what an earlier one wrote.
fn segments_used(outlives: Option<Record>) -> (u32, Journal) {
    let (disk, mut journal) = opened();
    journal.commit(&Vec::from_iter(outlives)).unwrap();
    for counter in 0..100 {
        let mut group = vec![batch_record(&two_blocks(counter), false)];
        group.extend(counter.checked_sub(4).map(|old| drop_of(&two_blocks(old))));
        journal.commit(&group).unwrap();
    }
    (disk.count(), journal)
}

#[test]
fn the_little_that_outlives_its_neighbours_is_copied_forward_and_takes_no_segment() {
    let (without, _) = segments_used(None);
    let little = batch(3, 1, 1000, 1000);
    let (with, journal) = segments_used(Some(batch_record(&little, true)));
    assert_eq!(with, without);
    assert!(with < SEGMENTS_MAX, "{with}");
    let reader = JournalReader(Arc::clone(&journal.shared));
    assert_eq!(reader.batch(&digest(&little)).unwrap(), Some(little));
}

#[test]
fn what_outlives_its_neighbours_and_is_much_is_left_where_it_is_while_segments_can_be_added() {
    let (without, _) = segments_used(None);
    let much = batch(3, 1, 1000, 20_000);
    let (with, mut journal) = segments_used(Some(batch_record(&much, true)));
    assert!(with > without, "{with} segments, {without} without it");
    assert_eq!(with, SEGMENTS_MAX - 1, "one that can still be added is kept in reserve");
    // At last it is copied all the same.
    assert!(journal.writer().ring.uses().all(|held| held.base > 2));
    let reader = JournalReader(Arc::clone(&journal.shared));
    assert_eq!(reader.batch(&digest(&much)).unwrap(), Some(much));
}

/// A batch that takes one block with its group.
fn one_block(counter: u64) -> Batch {
    batch(2, counter, 1000, 1000)
}

fn drop_of(batch: &Batch) -> Record {
    Record::DropBatch { digest: digest(batch), expiration: batch.info.expiration }
}

#[test]
fn what_is_deleted_before_its_segment_is_needed_again_is_not_copied() {
    // In force for longer than it takes to fill a segment.
    const LAG: u64 = SEGMENT_BYTES / BLOCK as u64 + 4;
    let (disk, mut journal) = opened();
    let mut places = BTreeMap::new();
    let groups = if cfg!(miri) { 3 * LAG } else { 500 };
    for counter in 0..groups {
        let mut group = vec![batch_record(&one_block(counter), false)];
        group.extend(counter.checked_sub(LAG).map(|old| drop_of(&one_block(old))));
        journal.commit(&group).unwrap();
        let now: BTreeMap<_, _> = journal.shared.tables(|tables| {
            tables.contents().map(|(key, location)| (key.to_vec(), location)).collect()
        });
        for (key, place) in &now {
            assert_eq!(places.get(key).unwrap_or(place), place, "group {counter}");
        }
        places = now;
    }
    assert!(disk.count() < SEGMENTS_MAX - 1, "{}", disk.count());
}

#[test]
fn of_a_segment_that_is_copied_only_frames_with_something_in_force_are_read() {
    let (disk, mut journal) = opened();
    let outlives = batch(3, 1, 1000, 1000);
    let reads = || disk.0.lock().unwrap().reads;
    let copied = (0..200).find(|counter| {
        let before = reads();
        let mut group = vec![batch_record(&one_block(*counter), false)];
        group.extend(counter.checked_sub(1).map(|old| drop_of(&one_block(old))));
        if *counter == 8 {
            group.push(batch_record(&outlives, false));
        }
        let is_copied = journal.commit(&group).unwrap().fsyncs > 1;
        // Two frames of opening, this one, and its content.
        assert!(reads() - before <= 4, "{} reads", reads() - before);
        is_copied
    });
    assert!(copied.is_some_and(|counter| counter > 8), "{copied:?}");
    let reader = JournalReader(Arc::clone(&journal.shared));
    assert_eq!(reader.batch(&digest(&outlives)).unwrap(), Some(outlives));
}

#[test]
fn what_a_damaged_frame_holds_is_copied_forward_from_memory_and_the_next_opening_finds_no_damage() {
    let (disk, mut journal) = opened();
    let (outlives, payload) = (batch(3, 1, 1000, 1000), payload(1, 1000, &[]));
    let records = [batch_record(&outlives, true), payload_record(&payload, 1_000_000)];
    journal.commit(&records).unwrap();
    let held = journal.shared.tables(|tables| tables.contents().next().unwrap().1.spot);
    disk.change(held.segment, held.block as usize * BLOCK + 40, &[7; 60]);
    for counter in 0..300 {
        let mut group = vec![batch_record(&two_blocks(counter), false)];
        group.extend(counter.checked_sub(1).map(|old| drop_of(&two_blocks(old))));
        journal.commit(&group).unwrap_or_else(|error| panic!("{counter}: {error}"));
    }
    assert!(disk.count() < SEGMENTS_MAX, "{}", disk.count());
    let count = journal.shared.tables(Tables::count);
    drop(journal);
    let mut journal = open(disk);
    journal.recover().unwrap();
    assert_eq!(journal.shared.tables(Tables::count), count);
    let reader = JournalReader(Arc::clone(&journal.shared));
    assert_eq!(reader.batch(&digest(&outlives)).unwrap(), Some(outlives));
}

#[test]
fn a_group_that_leaves_no_room_for_openings_in_its_segment_has_a_place_all_the_same() {
    let (_, mut journal) = opened();
    let reserve = OPENING_BYTES.min(SEGMENT_BYTES / 4);
    let long = |counter| batch(2, counter, 1000, (SEGMENT_BYTES - reserve) as usize);
    for counter in 0..20 {
        let mut group = vec![batch_record(&long(counter), false)];
        group.extend(counter.checked_sub(1).map(|old| drop_of(&long(old))));
        let stats = journal.commit(&group).unwrap_or_else(|error| panic!("{counter}: {error}"));
        assert!(stats.bytes > SEGMENT_BYTES - reserve);
    }
}

#[test]
fn free_is_what_is_left_of_the_last_segment_and_what_the_disk_has_for_others_but_the_spare_ones() {
    let (disk, mut journal) = opened();
    // Two segments are kept for copying forward, two frames were written by opening.
    let others = u64::from(SEGMENTS_MAX) - 1;
    let room = (others - 2) * SEGMENT_BYTES + SEGMENT_BYTES - 2 * BLOCK as u64;
    assert_eq!(free_bytes(&journal), room);
    journal.commit(&[batch_record(&two_blocks(1), true)]).unwrap();
    let room = room - GROUP_BYTES;
    assert_eq!(free_bytes(&journal), room);
    let lacks = |bytes| {
        disk.0.lock().unwrap().free_bytes = others * SEGMENT_BYTES - bytes;
        free_bytes(&journal)
    };
    assert_eq!(lacks(0), room);
    assert_eq!(lacks(SEGMENT_BYTES), room - SEGMENT_BYTES);
    assert_eq!(lacks(others * SEGMENT_BYTES), 0);
}

#[test]
fn a_segment_that_was_prepared_belongs_to_the_ring_only_once_it_is_added() {
    const BYTES: u64 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let second = directory.path().join("00000001");
    let files = Files::create(directory.path(), SECRET, BYTES, false).unwrap();
    files.prepare();
    drop(files);
    assert!(!second.exists(), "nobody counts it");
    let files = Files::open(directory.path(), Access::Cached).unwrap();
    assert_eq!((files.count(), files.segment_bytes(), files.secret()), (1, BYTES, SECRET));
    files.prepare();
    files.add().unwrap();
    files.write(1, BLOCK as u64, &[7; BLOCK]).unwrap();
    files.sync(1).unwrap();
    drop(files);
    let files = Files::open(directory.path(), Access::Cached).unwrap();
    assert_eq!(files.count(), 2);
    let mut bytes = vec![1; 3 * BLOCK];
    files.read(1, 0, &mut bytes).unwrap();
    let expected = [[0; BLOCK], [7; BLOCK], [0; BLOCK]].concat();
    assert!(bytes == expected, "zeros but where it was written");
    assert!(files.read(2, 0, &mut bytes).is_err());
}

#[test]
fn a_store_says_how_much_one_group_and_all_of_it_may_hold() {
    let directory = tempfile::tempdir().unwrap();
    let store = in_files(&directory.path().join("store"));
    let limits = StoreLimits { group_bytes_max: 1 << 20, capacity_bytes: 8 << 20 };
    assert_eq!(store.limits(), limits);
}

#[test]
fn a_ring_that_cannot_be_read_is_not_said_to_be_missing() {
    let directory = tempfile::tempdir().unwrap();
    let missing = Files::open(directory.path(), Access::Read);
    assert!(matches!(missing, Err(StoreError::Damaged { .. })), "{missing:?}");
    let file = directory.path().join("file");
    std::fs::write(&file, b"where a directory is expected").unwrap();
    let unreadable = Files::open(&file, Access::Read);
    assert!(matches!(unreadable, Err(StoreError::Io { .. })), "{unreadable:?}");
}

#[test]
fn what_the_last_groups_deleted_is_used_again_before_a_segment_is_added() {
    let (disk, mut journal) = opened();
    let mut commit = |adds: Option<u64>, drops: &[u64]| {
        let mut group: Vec<Record> =
            adds.map(|counter| batch_record(&two_blocks(counter), false)).into_iter().collect();
        group.extend(drops.iter().map(|old| drop_of(&two_blocks(*old))));
        let stats = journal.commit(&group).unwrap();
        (stats.fsyncs, disk.count(), journal.writer().ring.rest() / BLOCK as u64)
    };
    // The first one keeps its segment in use, until the second segment is used for a while.
    commit(Some(0), &[]);
    commit(Some(1), &[]);
    let mut newest = 1;
    let mut add = || {
        newest += 1;
        (newest, commit(Some(newest), &[newest - 1]))
    };
    let (newest, _) = loop {
        let (newest, (fsyncs, segments, rest)) = add();
        assert_eq!(fsyncs, 1, "a frame of its own would be of no use");
        if segments == 2 && rest == 6 {
            break (newest, rest);
        }
        assert!(newest < 50);
    };
    assert_eq!(commit(None, &[0, newest]), (1, 2, 5));
    // What little is in force in the first segment is copied; a frame of its own says that nothing
    // is any more; then there is room.
    let (fsyncs, segments, _) = commit(Some(60), &[]);
    assert_eq!((fsyncs, segments), (3, 2));
}
