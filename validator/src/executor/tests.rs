use super::*;
use crate::exit::Failure;
use bytes::Bytes;
use quorum_store::types::{BatchBody, BatchId, BatchInfo, BodyBuilder, CommitIndex, Epoch};
use std::path::PathBuf;
use std::time::Duration;
use transaction::Transaction;

const LIFE: Duration = Duration::from_secs(30);
const SECOND: u64 = 1_000_000;
const START: u64 = 1_700_000_000 * SECOND;

pub(super) fn identity() -> Identity {
    Identity { author: Author([1; 32]), chain: ChainId([2; 32]) }
}

fn genesis() -> PayloadHeader {
    header(0, 0, Digest::default())
}

fn header(height: u64, at: u64, parent: Digest) -> PayloadHeader {
    PayloadHeader {
        epoch: Epoch(0),
        height: CommitIndex(height),
        parent,
        block_timestamp: Timestamp(at),
        content_root: Digest::default(),
    }
}

pub(super) fn rules() -> Rules {
    Rules { transaction_life_max: LIFE, blocks_kept: 1000 }
}

pub(super) fn transaction(name: u64, expiration_micros: u64) -> Transaction {
    let bytes = Bytes::copy_from_slice(&name.to_le_bytes());
    Transaction { gas_unit_price: 1, expiration_micros, bytes }
}

pub(super) fn batch(entries: &[Vec<u8>]) -> MaterializedBatch {
    let mut builder = BodyBuilder::new();
    for entry in entries {
        builder.push(Bytes::from(entry.clone()));
    }
    let body = builder.finish();
    let info = BatchInfo {
        author: Author([1; 32]),
        batch_id: BatchId::default(),
        epoch: Epoch(0),
        expiration: Timestamp(u64::MAX),
        count: entries.len() as u32,
        bytes: body.bytes().len() as u32,
        gas_bucket_start: 0,
        root: body.root(),
    };
    MaterializedBatch { digest: body.root(), info, body: Some(body) }
}

fn block(height: u64, at: u64, batches: Vec<MaterializedBatch>) -> Block {
    let header = header(height, at, Digest([height as u8 - 1; 32]));
    Block { digest: Digest([height as u8; 32]), header, batches }
}

/// A block of transactions with these names, all of which live as long as allowed.
pub(super) fn simple(height: u64, names: &[u64]) -> Block {
    let at = START + height * SECOND;
    let entries: Vec<Vec<u8>> =
        names.iter().map(|name| transaction(*name, START + 30 * SECOND).encode()).collect();
    block(height, at, if entries.is_empty() { vec![] } else { vec![batch(&entries)] })
}

/// The same block, with batches whose content is gone.
pub(super) fn gone(block: &Block) -> Block {
    let without = |batch: &MaterializedBatch| MaterializedBatch { body: None, ..batch.clone() };
    let batches = block.batches.iter().map(without).collect();
    Block { digest: block.digest, header: block.header, batches }
}

/// A block with one transaction of its own.
pub(super) fn with_batches(height: u64) -> Block {
    simple(height, &[height])
}

pub(super) fn fresh() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("execution");
    Executor::create(&path, identity(), genesis()).unwrap();
    (directory, path)
}

pub(super) fn open(path: &Path) -> Executor {
    Executor::open(path, identity(), rules()).unwrap()
}

fn executed(outcome: &BlockOutcome) -> Vec<TransactionId> {
    super::ids(&outcome.executed).collect()
}

fn ids(names: &[u64]) -> Vec<TransactionId> {
    names.iter().map(|name| transaction(*name, START + 30 * SECOND).id()).collect()
}

#[test]
fn blocks_are_executed_in_order_and_the_state_follows_them() {
    let (_directory, path) = fresh();
    let mut executor = open(&path);
    assert_eq!(executor.progress().height(), 0);
    let outcome = executor.execute(&simple(1, &[1, 2, 3])).unwrap();
    assert_eq!(executed(&outcome), ids(&[1, 2, 3]));
    let progress = executor.progress();
    assert_eq!((progress.next_index, progress.head), (2, Digest([1; 32])));
    let expected = chain_digest(&Digest::default(), &Digest([1; 32]), ids(&[1, 2, 3]).into_iter());
    assert_eq!(progress.state_digest, expected);

    let refused = executor.execute(&simple(3, &[])).unwrap_err();
    assert_eq!(refused, ExecutorError::OutOfOrder { expected: 2, found: 3 });
    let refused = executor.execute(&block(2, START, vec![])).unwrap_err();
    assert_eq!(refused, ExecutorError::TimeWentBack(2));
    executor.execute(&block(2, START + SECOND, vec![])).unwrap();

    let archive = executor.archive();
    let summary = archive.block(1).unwrap().unwrap();
    assert_eq!((summary.transactions, summary.state_digest), (3, expected));
    assert_eq!(archive.transactions(1).unwrap().unwrap(), ids(&[1, 2, 3]).concat());
    assert_eq!(archive.height_of(&ids(&[2])[0]), Some(1));
    assert_eq!(archive.block(3).unwrap(), None);
}

#[test]
fn where_transactions_were_executed_is_told_by_position_whatever_second_they_expire_in() {
    let (_directory, path) = fresh();
    let mut executor = open(&path);
    executor.execute(&simple(1, &[1, 2])).unwrap();
    let made = [(3, 29), (4, 30)].map(|(name, life)| transaction(name, START + life * SECOND));
    let entries = made.map(|made| made.encode());
    executor.execute(&block(2, START + 2 * SECOND, vec![batch(&entries)])).unwrap();
    let named = |(name, life): (u64, u64)| {
        let made = transaction(name, START + life * SECOND);
        (made.id(), Timestamp(made.expiration_micros))
    };
    // Neighbours of one second, one of a second in which nothing was executed, and back.
    let asked = [(3, 29), (9, 29), (1, 30), (9, 28), (4, 30)].map(named);
    assert_eq!(executor.archive().heights_of(&asked), [(0, 2), (2, 1), (4, 2)]);
}

#[test]
fn each_distinct_transaction_is_executed_once_also_across_blocks_and_restarts() {
    let (_directory, path) = fresh();
    let mut executor = open(&path);
    let doubled = executor.execute(&simple(1, &[1, 2, 1])).unwrap();
    assert_eq!((executed(&doubled), doubled.duplicates), (ids(&[1, 2]), 1));
    drop(executor);

    let mut executor = open(&path);
    let again = executor.execute(&simple(2, &[2, 3])).unwrap();
    assert_eq!((executed(&again), again.duplicates), (ids(&[3]), 1));
    let counters = executor.progress().counters;
    assert_eq!((counters.executed_transactions, counters.duplicates), (3, 2));
}

#[test]
fn a_transaction_is_refused_below_and_beyond_its_life_whatever_the_clock_says() {
    let (_directory, path) = fresh();
    let mut executor = open(&path);
    let at = START;
    let life = 30 * SECOND;
    let expirations = [at - 1, at, at + life, at + life + 1];
    let entries: Vec<Vec<u8>> =
        expirations.iter().map(|expiration| transaction(7, *expiration).encode()).collect();
    let mut batches = vec![batch(&entries), batch(&[b"nonsense".to_vec()])];
    batches.push(MaterializedBatch { body: None, ..batch(&[vec![1]]) });
    let skipped = batches[2].digest;
    let outcome = executor.execute(&block(1, at, batches)).unwrap();
    let expected = |expiration| transaction(7, expiration).id();
    assert_eq!(executed(&outcome), vec![expected(at), expected(at + life)]);
    assert_eq!(outcome.expired, vec![expected(at - 1), expected(at + life + 1)]);
    assert_eq!((outcome.malformed, outcome.skipped), (1, vec![skipped]));
}

#[test]
fn what_is_remembered_is_forgotten_once_nothing_in_it_can_be_executed_again() {
    let (_directory, path) = fresh();
    let mut executor = open(&path);
    let late = |height: u64, at: u64, name: u64| {
        block(height, at, vec![batch(&[transaction(name, at + 30 * SECOND).encode()])])
    };
    executor.execute(&late(1, START, 1)).unwrap();
    executor.execute(&late(2, START + 10 * SECOND, 2)).unwrap();
    // At the last instant of block 1's transaction it is still a duplicate...
    let replay = batch(&[transaction(1, START + 30 * SECOND).encode()]);
    let outcome = executor.execute(&block(3, START + 30 * SECOND, vec![replay])).unwrap();
    assert_eq!(outcome.duplicates, 1);
    assert_eq!(executor.dedup.read().ids().len(), 2);
    // ...one microsecond later it has expired, and is forgotten once its second is over.
    let replay = batch(&[transaction(1, START + 30 * SECOND).encode()]);
    let outcome = executor.execute(&block(4, START + 30 * SECOND + 1, vec![replay])).unwrap();
    assert_eq!((outcome.duplicates, outcome.expired.len()), (0, 1));
    assert_eq!(executor.dedup.read().ids().len(), 2);
    // On disk it stays a little longer, for those who take over the state of a moment ago.
    assert!(executor.archive().transactions(1).unwrap().is_some());
    executor.execute(&block(5, START + 40 * SECOND, vec![])).unwrap();
    assert_eq!(executor.dedup.read().ids().len(), 1);
    assert!(executor.archive().transactions(1).unwrap().is_some());
    executor.execute(&block(6, START + 40 * SECOND + 1, vec![])).unwrap();
    assert_eq!(executor.archive().transactions(1).unwrap(), None);
    drop(executor);
    let mut executor = open(&path);
    assert_eq!(executor.dedup.read().ids().len(), 1, "its second is not over");
    executor.execute(&block(7, START + 41 * SECOND, vec![])).unwrap();
    assert_eq!(executor.dedup.read().ids().len(), 0);
    drop(executor);
    assert!(check::check(&path).unwrap().is_sound());
}

/// A crash that loses the last write is a crash before it: the block is executed again, with the
/// same result.
#[test]
fn undoing_the_last_write_and_executing_again_ends_with_the_same_state() {
    let (directory, path) = fresh();
    let mut executor = open(&path);
    let blocks = [simple(1, &[1, 2]), simple(2, &[2, 3]), simple(3, &[3, 4, 1, 5])];
    executor.execute(&blocks[0]).unwrap();
    executor.execute(&blocks[1]).unwrap();
    drop(executor);
    let before = directory.path().join("before");
    copy(&path, &before);

    let mut executor = open(&path);
    let outcome = executor.execute(&blocks[2]).unwrap();
    let after = executor.progress();
    drop(executor);

    let mut undone = open(&before);
    assert_eq!(undone.progress().next_index, 3);
    assert_eq!(undone.execute(&blocks[2]).unwrap(), outcome);
    assert_eq!(undone.progress(), after);
    assert_eq!(executed(&outcome), ids(&[4, 5]));
}

/// The log is torn in the middle of the last write: the block is gone as a whole.
#[test]
fn a_torn_last_write_loses_the_whole_block_and_nothing_else() {
    let (directory, path) = fresh();
    let mut executor = open(&path);
    executor.execute(&simple(1, &[1, 2])).unwrap();
    let kept = executor.progress();
    executor.execute(&simple(2, &[3, 4])).unwrap();
    let after = executor.progress();
    // Copied while it is open: what a power cut leaves behind, without a clean close.
    let torn = directory.path().join("torn");
    copy(&path, &torn);
    let log = std::fs::read_dir(&torn).unwrap().map(|entry| entry.unwrap().path());
    let log = log.filter(|path| path.extension().is_some_and(|e| e == "log"));
    let log = log.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let length = std::fs::metadata(&log).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(length - 7).unwrap();

    let mut executor = open(&torn);
    assert_eq!(executor.progress(), kept);
    executor.execute(&simple(2, &[3, 4])).unwrap();
    assert_eq!(executor.progress(), after);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn creating_is_not_opening_and_foreign_state_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("execution");
    let missing = Executor::open(&path, identity(), rules()).unwrap_err();
    assert_eq!(Failure::from(missing).code(), 12);
    Executor::create(&path, identity(), genesis()).unwrap();
    // An interrupted creation of the data directory may be completed...
    Executor::create(&path, identity(), genesis()).unwrap();
    open(&path).execute(&simple(1, &[1])).unwrap();
    // ...but nothing is ever overwritten.
    let exists = Executor::create(&path, identity(), genesis()).unwrap_err();
    assert_eq!(exists, ExecutorError::Exists(path.clone()));
    let other = Identity { author: Author([9; 32]), ..identity() };
    let foreign = Executor::open(&path, other, rules()).unwrap_err();
    assert_eq!(Failure::from(foreign).code(), 2);
}

#[test]
fn the_check_finds_what_was_changed_behind_our_back() {
    let (_directory, path) = fresh();
    let mut executor = open(&path);
    for height in 1..=3 {
        executor.execute(&simple(height, &[height * 2, height * 2 + 1])).unwrap();
    }
    drop(executor);
    let sound = check::check(&path).unwrap();
    assert!(sound.is_sound(), "{:?}", sound.problems);
    assert_eq!((sound.blocks, sound.recomputed, sound.ids), (3, 3, 6));

    let mut swapped = ExecutedIds::new(Timestamp(START + 2 * SECOND));
    for id in ids(&[5, 4]) {
        swapped.push(&id, Timestamp(0));
    }
    tamper(&path, |batch| batch.put(schema::ids_key(2), swapped.bytes()));
    let report = check::check(&path).unwrap();
    assert_eq!(report.problems, ["block 2: its ids do not give its state digest"]);

    tamper(&path, |batch| batch.delete(schema::summary_key(3)));
    let report = check::check(&path).unwrap();
    assert!(report.problems.iter().any(|problem| problem.contains("last block 2")));
}

fn tamper(path: &Path, change: impl FnOnce(&mut WriteBatch)) {
    let db = schema::open(path, false).unwrap();
    let mut batch = WriteBatch::default();
    change(&mut batch);
    schema::write(&db, batch).unwrap();
}

#[test]
fn bodies_that_lie_about_their_length_execute_nothing_and_never_panic() {
    let (_directory, path) = fresh();
    let mut executor = open(&path);
    let mut odd = batch(&[vec![1; 20]]);
    odd.body = Some(BatchBody::new(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f])));
    let outcome = executor.execute(&block(1, START, vec![odd])).unwrap();
    assert_eq!(outcome, BlockOutcome::default());
}

#[test]
fn files_of_deleted_ids_go_and_take_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let db = super::schema::open(directory.path(), true).unwrap();
    let bytes = || -> u64 { db.live_files().unwrap().iter().map(|file| file.size as u64).sum() };
    let ids = |height: u64| {
        let mut ids = ExecutedIds::new(Timestamp(height));
        let id = |n: u64| *blake3::hash(&(height * 10_000 + n).to_le_bytes()).as_bytes();
        (0..1_000).for_each(|n| ids.push(&id(n), Timestamp(height)));
        ids
    };
    // Two files, each compacted by itself, and the second one ends the first one's ids.
    for heights in [1..=40, 41..=80] {
        let mut batch = WriteBatch::default();
        for height in heights {
            batch.put(super::schema::ids_key(height), ids(height).bytes());
            if height > 40 {
                batch.delete(super::schema::ids_key(height - 40));
            }
        }
        super::schema::write(&db, batch).unwrap();
        db.flush().unwrap();
        if bytes() < 2 << 20 {
            db.compact_range(None::<&[u8]>, None::<&[u8]>);
        }
    }
    assert!(bytes() > 3 << 20, "{}", bytes());
    // The last one is needed still.
    super::schema::drop_files_of_ids(&db, 39).unwrap();
    assert!(bytes() > 3 << 20, "{}", bytes());
    super::schema::drop_files_of_ids(&db, 40).unwrap();
    assert!(bytes() < 2 << 20, "{}", bytes());
    for height in 1..=80 {
        let found = super::schema::read_ids(&db, height).unwrap();
        assert_eq!(found.map(|ids| ids.len()), (height > 40).then_some(1_000), "{height}");
    }
}
