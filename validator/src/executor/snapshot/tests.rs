use std::path::Path;
use std::time::Duration;

use quorum_store::engine::MaterializedBatch;
use quorum_store::types::{CommitIndex, Epoch, PayloadHeader, Timestamp};

use super::*;
use crate::executor::tests::{batch, fresh, identity, open, rules, transaction};
use crate::executor::{Block, check};

const SECOND: u64 = 1_000_000;
const START: u64 = 1_700_000_000 * SECOND;

/// A chain of blocks, one a second, each with one transaction that lives as long as allowed.
struct Chain {
    blocks: Vec<Block>,
}

impl Chain {
    fn new(count: u64) -> Self {
        let mut blocks: Vec<Block> = Vec::new();
        for height in 1..=count {
            let parent = blocks.last().map_or(Digest::default(), |block| block.digest);
            let at = START + height * SECOND;
            let header = PayloadHeader {
                epoch: Epoch(0),
                height: CommitIndex(height),
                parent,
                block_timestamp: Timestamp(at),
                content_root: Digest::default(),
            };
            // Every fourth block executes nothing.
            let batches = if height % 4 == 0 { vec![] } else { vec![content(height, at)] };
            blocks.push(Block { digest: header.digest(&identity().chain), header, batches });
        }
        Self { blocks }
    }

    fn execute(&self, executor: &mut Executor, to: u64) {
        let next = executor.progress().next_index;
        for block in &self.blocks[next as usize - 1..to as usize] {
            executor.execute(block).unwrap();
        }
    }
}

fn content(name: u64, at: u64) -> MaterializedBatch {
    batch(&[transaction(name, at + 30 * SECOND).encode()])
}

fn snapshot(executor: &Executor, height: u64, above: u64) -> Snapshot {
    let made = executor.archive().snapshot(&rules(), height, above).unwrap().expect("to be had");
    Snapshot::decode(&identity().chain, &made.encode().unwrap()).unwrap()
}

fn remembered(executor: &Executor) -> Vec<[u8; 16]> {
    let mut ids = executor.dedup.read().ids();
    ids.sort_unstable();
    ids
}

fn assert_same(path: &Path, one: &Executor, other: &Executor) {
    assert_eq!(one.progress(), other.progress());
    assert_eq!(remembered(one), remembered(other));
    let archived = |executor: &Executor| {
        let height = one.progress().height();
        (
            executor.archive().block(height).unwrap(),
            executor.archive().transactions(height).unwrap(),
        )
    };
    assert_eq!(archived(one), archived(other));
    let report = check::check(path).unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
}

#[test]
fn whoever_takes_over_a_state_goes_on_like_those_who_executed_it() {
    let chain = Chain::new(60);
    let (_first, path) = fresh();
    let mut executed = open(&path);
    chain.execute(&mut executed, 50);
    // Somebody new, somebody who missed more than is remembered, and somebody who missed a little.
    for reached in [0, 10, 45] {
        let (_second, path) = fresh();
        let mut other = open(&path);
        chain.execute(&mut other, reached);
        other.adopt(&snapshot(&executed, 50, reached)).unwrap();
        assert_same(&path, &executed, &other);
        drop(other);
        let mut other = open(&path);
        assert_same(&path, &executed, &other);
        // A duplicate of what was executed by others only is one here as well.
        let mut replay = chain.blocks[50].header;
        replay.content_root = Digest([1; 32]);
        let batches = vec![content(30, START + 30 * SECOND), content(99, START + 40 * SECOND)];
        let block = Block { digest: replay.digest(&identity().chain), header: replay, batches };
        let outcome = other.execute(&block).unwrap();
        assert_eq!((outcome.duplicates, outcome.executed.len()), (1, 1));
    }
}

#[test]
fn every_validator_makes_the_same_bytes_also_one_that_took_over_itself() {
    let chain = Chain::new(60);
    let (_first, path) = fresh();
    let mut executed = open(&path);
    chain.execute(&mut executed, 50);
    let (_second, path) = fresh();
    let mut other = open(&path);
    other.adopt(&snapshot(&executed, 50, 0)).unwrap();
    chain.execute(&mut executed, 58);
    chain.execute(&mut other, 55);
    for (height, above) in [(50, 0), (55, 0), (55, 49), (53, 52), (52, 20)] {
        let bytes = |executor: &Executor| snapshot(executor, height, above).encode().unwrap();
        assert_eq!(bytes(&executed), bytes(&other), "{height} above {above}");
    }
    let none = |executor: &Executor, height, above| {
        executor.archive().snapshot(&rules(), height, above).unwrap().is_none()
    };
    assert!(none(&other, 49, 0), "incomplete: it was taken over in between");
    assert!(none(&executed, 47, 0), "too old: 11 s");
    assert!(none(&executed, 59, 0), "not executed yet");
    assert!(none(&executed, 58, 58), "nothing above");
}

#[test]
fn a_snapshot_that_does_not_fit_is_refused_and_changes_nothing() {
    let chain = Chain::new(60);
    let (_first, path) = fresh();
    let mut executed = open(&path);
    chain.execute(&mut executed, 50);
    let good = snapshot(&executed, 50, 40);
    let decode = |snapshot: &Snapshot| {
        Snapshot::decode(&identity().chain, &snapshot.encode().unwrap()).is_ok()
    };
    assert!(decode(&good));
    let wrong = |change: fn(&mut Vec<SnapshotBlock>)| {
        let mut bad = good.clone();
        change(&mut bad.blocks);
        decode(&bad)
    };
    assert!(!wrong(Vec::clear));
    assert!(!wrong(|blocks| blocks.swap(2, 3)));
    assert!(!wrong(|blocks| drop(blocks.remove(4))));
    assert!(!wrong(|blocks| blocks[5].ids.push(1)));
    assert!(!wrong(|blocks| blocks[5].summary.state_digest.0[0] ^= 1));
    assert!(!wrong(|blocks| blocks[5].summary.transactions += 1));
    assert!(!wrong(|blocks| blocks[5].summary.header.block_timestamp.0 += 1));
    assert!(!wrong(|blocks| blocks[5].ids[8] ^= 1), "another id than the one that was executed");
    assert!(Snapshot::decode(&identity().chain, b"garbage").is_err());

    // It fits itself, and does not follow from what was executed here.
    let (_second, path) = fresh();
    let mut other = open(&path);
    chain.execute(&mut other, 40);
    let mut foreign = chain.blocks[39].header;
    foreign.block_timestamp.0 += 1;
    let (_third, third) = fresh();
    let mut forked = open(&third);
    chain.execute(&mut forked, 39);
    let digest = foreign.digest(&identity().chain);
    forked.execute(&Block { digest, header: foreign, batches: vec![] }).unwrap();
    let before = forked.progress();
    assert!(matches!(forked.adopt(&good), Err(ExecutorError::Unfit(_))));
    other.adopt(&good).unwrap();
    assert!(matches!(other.adopt(&good), Err(ExecutorError::Unfit(_))), "it lies behind");
    assert_eq!(forked.progress(), before);
    drop(forked);
    assert_eq!(open(&third).progress(), before);
}

#[test]
fn ids_that_expire_on_the_way_are_forgotten_there_as_well() {
    let chain = Chain::new(60);
    let (_first, path) = fresh();
    let mut executed = open(&path);
    chain.execute(&mut executed, 58);
    let (_second, path) = fresh();
    let mut other = open(&path);
    chain.execute(&mut other, 20);
    let part = snapshot(&executed, 58, 28);
    assert_eq!(part.from(), 29);
    chain.execute(&mut other, 28);
    other.adopt(&part).unwrap();
    assert_same(&path, &executed, &other);
    assert_eq!(rules().transaction_life_max, Duration::from_secs(30));
    assert_eq!(other.archive().transactions(17).unwrap(), None, "nobody asks for it any more");
    assert!(other.archive().transactions(18).unwrap().is_some());
}
