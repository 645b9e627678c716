//! The log alone: what follows what, what is kept, and what it says of each commit.

use super::*;
use crate::sequencer::port::Promise;
use crate::types::{Ack, Component, Epoch};

const CHAIN: ChainId = ChainId([5; 32]);
/// In microseconds, as the timestamps here.
const RETENTION: u64 = 100;
const GENESIS: PayloadHeader = PayloadHeader {
    epoch: Epoch(0),
    height: CommitIndex(0),
    parent: Digest([0; 32]),
    block_timestamp: Timestamp(0),
    content_root: Digest([0; 32]),
};

fn log() -> CommitLog {
    let bounds = Bounds { window: 2, lag_bytes_max: 1000, lag_max: Duration::from_secs(1) };
    CommitLog::new(CHAIN, &GENESIS, Duration::from_micros(RETENTION), bounds)
}

/// The commit that follows this header.
fn next(before: &PayloadHeader, block_timestamp: u64) -> Commit {
    let (parent, height) = (before.digest(&CHAIN), before.height.next());
    let block_timestamp = Timestamp(block_timestamp);
    let header = PayloadHeader { height, parent, block_timestamp, ..*before };
    Commit { index: height, round: 1, header }
}

/// Commits in a row, each this much later than the one before.
fn chain(count: usize, step: u64) -> Vec<Commit> {
    let after =
        |before: &Commit| Some(next(&before.header, before.header.block_timestamp.0 + step));
    std::iter::successors(Some(next(&GENESIS, step)), after).take(count).collect()
}

fn tell(log: &mut CommitLog, commits: &[Commit]) {
    for commit in commits {
        let (mut outbox, id) = (Outbox::default(), RequestId(commit.index.0));
        let digest = log.on_commit(&mut outbox, Duration::ZERO, id, *commit);
        assert_eq!(digest, Some(commit.header.digest(&CHAIN)));
        assert_eq!(outbox.records.len(), 1);
    }
}

/// Applies what is next; returns who is answered.
fn apply(log: &mut CommitLog, seconds: u64, bytes: u64) -> Vec<RequestId> {
    let mut outbox = Outbox::default();
    let (Commit { index, header, .. }, _) = log.next_to_apply().unwrap();
    let acks = Component::ALL.map(|component| Ack { component, freed: 0, watermark: index });
    let receipt = CommitReceipt { index, block_timestamp: header.block_timestamp, acks };
    log.on_applied(&mut outbox, Duration::from_secs(seconds), receipt, bytes);
    let answered = outbox.promises.into_iter().map(|promise| match promise {
        Promise::Reply { id, reply: Reply::Committed(Ok(of)) } if of.index == index => id,
        other => panic!("{other:?}"),
    });
    answered.collect()
}

#[test]
fn only_what_follows_is_new_and_only_what_is_the_same_is_known() {
    let (mut log, chain) = (log(), chain(4, 10));
    tell(&mut log, &chain[..2]);
    assert_eq!(log.admit(&chain[2]), Ok(true));
    assert!(chain[..2].iter().all(|known| log.admit(known) == Ok(false)));
    let gap = CommitError::Gap { found: CommitIndex(4), expected: CommitIndex(3) };
    assert_eq!(log.admit(&chain[3]), Err(gap));
    let with = |commit: &Commit, header| Commit { header, ..*commit };
    let other = PayloadHeader { content_root: Digest([7; 32]), ..chain[1].header };
    assert_eq!(log.admit(&with(&chain[1], other)), Err(CommitError::Conflict(CommitIndex(2))));
    let beside = next(&other, 30);
    assert_eq!(log.admit(&beside), Err(CommitError::Conflict(CommitIndex(2))), "another parent");
    let at = |time| log.admit(&next(&chain[1].header, time));
    assert_eq!(at(20), Ok(true), "at the same moment");
    assert_eq!(at(19), Err(CommitError::TimeWentBack(CommitIndex(3))));
    assert_eq!(
        log.admit(&with(&chain[2], chain[1].header)),
        Err(CommitError::Height(CommitIndex(3)))
    );
    let genesis = Commit { index: CommitIndex(0), round: 1, header: GENESIS };
    assert_eq!(log.admit(&genesis), Err(CommitError::Pruned(CommitIndex(0))));
}

#[test]
fn everybody_who_tells_of_a_commit_is_answered_once_it_is_applied() {
    let (mut log, chain) = (log(), chain(1, 10));
    tell(&mut log, &chain);
    let mut outbox = Outbox::default();
    assert_eq!(log.on_commit(&mut outbox, Duration::ZERO, RequestId(7), chain[0]), None);
    assert!(outbox.promises.is_empty() && outbox.effects.is_empty());
    assert_eq!(apply(&mut log, 1, 0), [RequestId(1), RequestId(7)]);
    assert_eq!(log.on_commit(&mut outbox, Duration::ZERO, RequestId(8), chain[0]), None);
    assert_eq!(outbox.promises.len(), 1, "and at once from then on");
    assert!(log.next_to_apply().is_none());
}

#[test]
fn what_is_logged_and_not_applied_is_looked_at_from_an_index_on_and_not_too_far() {
    let (mut log, chain) = (log(), chain(6, 10));
    tell(&mut log, &chain);
    apply(&mut log, 1, 0);
    let found = |from, most| {
        let found = log.unapplied(CommitIndex(from), most);
        found
            .into_iter()
            .map(|(commit, digest)| {
                assert_eq!(digest, commit.header.digest(&CHAIN));
                commit.index.0
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(found(0, 3), [2, 3, 4]);
    assert_eq!(found(4, 100), [4, 5, 6]);
    assert_eq!(found(4, 3), [4]);
    assert_eq!(found(9, 100), [0; 0]);
    assert_eq!(found(0, usize::MAX), [2, 3, 4, 5, 6]);
    let digest = |at: usize| chain[at].header.digest(&CHAIN);
    assert!(!log.awaits(&digest(0)) && log.awaits(&digest(1)) && log.awaits(&digest(5)));
    assert!(log.names(&digest(0), CommitIndex(1)) && !log.names(&digest(0), CommitIndex(2)));
    assert_eq!(log.applied_commit(CommitIndex(1)), Some(chain[0]));
    assert_eq!(log.applied_commit(CommitIndex(2)), None);
    assert_eq!(log.commit(CommitIndex(2)), Some(chain[1]));
    assert_eq!((log.logged(), log.applied()), (CommitIndex(6), (CommitIndex(1), digest(0))));
    assert_eq!((log.consensus_time(), log.applied_time()), (Timestamp(60), Timestamp(10)));
}

#[test]
fn bytes_and_times_of_applied_commits_are_known_from_each_index_on() {
    let mut log = log();
    assert_eq!((log.bytes_from(CommitIndex(1)), log.applied_time()), (0, Timestamp(0)));
    tell(&mut log, &chain(4, 10));
    for (seconds, bytes) in [(1, 100), (2, 20), (3, 3)] {
        apply(&mut log, seconds, bytes);
    }
    let bytes = [0, 1, 2, 3, 4, 5].map(|index| log.bytes_from(CommitIndex(index)));
    assert_eq!(bytes, [123, 123, 23, 3, 0, 0]);
    let at = [0, 1, 2, 3, 4].map(|index| log.applied_at(CommitIndex(index)));
    let second = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(at, [second(1), second(1), second(2), second(3), None]);
}

#[test]
fn commits_go_in_runs_once_their_time_is_over_and_nobody_needs_them() {
    // Of one microsecond each; the last one says how late it is.
    let count = DROP_RUN + 4;
    for (last, kept_from) in [
        // The 63rd is old, and the 64th is not yet.
        (RETENTION + DROP_RUN, 1),
        (RETENTION + DROP_RUN + 1, DROP_RUN + 1),
        (RETENTION + DROP_RUN + 2, DROP_RUN + 2),
        // What is not applied is never old.
        (RETENTION + 1000, count + 1),
    ] {
        let mut log = log();
        let chain = chain(count as usize, 1);
        tell(&mut log, &chain);
        (0..count).for_each(|_| drop(apply(&mut log, 1, 0)));
        tell(&mut log, &[next(&chain[count as usize - 1].header, last)]);
        let mut outbox = Outbox::default();
        log.drop_old(&mut outbox);
        assert_eq!(log.kept_from(), CommitIndex(kept_from), "{last}");
        assert_eq!(outbox.records.len(), usize::from(kept_from > 1));
        assert_eq!(log.commit(CommitIndex(kept_from - 1)), None);
        assert!(log.commit(CommitIndex(kept_from)).is_some());
    }
}

#[test]
fn a_jump_leads_forward_and_to_no_other_chain() {
    let (mut log, chain) = (log(), chain(5, 10));
    tell(&mut log, &chain[..4]);
    apply(&mut log, 1, 0);
    let mut outbox = Outbox::default();
    let mut skip = |log: &mut CommitLog, header: &PayloadHeader| log.on_skip(&mut outbox, header);
    assert_eq!(skip(&mut log, &chain[0].header), Ok(None), "it is there");
    let behind = Err(SkipError::Behind { applied: CommitIndex(1) });
    assert_eq!(skip(&mut log, &GENESIS), behind);
    let other = |at: usize| PayloadHeader { content_root: Digest([7; 32]), ..chain[at].header };
    assert_eq!(skip(&mut log, &other(0)), behind, "another one at the same height");
    assert_eq!(skip(&mut log, &other(2)), Err(SkipError::Conflict(CommitIndex(3))));
    let back = PayloadHeader { block_timestamp: Timestamp(39), ..chain[4].header };
    assert_eq!(skip(&mut log, &back), Err(SkipError::TimeWentBack(CommitIndex(5))));
    // Over what is logged: it is not needed any more, and what follows is still known.
    let needless = [1, 2].map(|at: usize| chain[at].header.digest(&CHAIN)).to_vec();
    assert_eq!(skip(&mut log, &chain[2].header), Ok(Some(needless)));
    let (third, digest) = (CommitIndex(3), chain[2].header.digest(&CHAIN));
    assert_eq!((log.applied(), log.logged()), ((third, digest), CommitIndex(4)));
    assert_eq!((log.applied_time(), log.consensus_time()), (Timestamp(30), Timestamp(40)));
    let skipped_to = [1, 2, 3, 4].map(|index| log.skipped_to(CommitIndex(index)));
    assert_eq!(skipped_to, [None, Some(third), Some(third), None]);
    assert_eq!(log.admit(&chain[1]), Err(CommitError::Pruned(CommitIndex(2))));
    assert_eq!(log.next_to_apply().map(|(commit, _)| commit), Some(chain[3]));
    // And beyond all of it: two jumps in a row are one.
    let beyond = PayloadHeader { block_timestamp: Timestamp(40), ..chain[4].header };
    let height = CommitIndex(9);
    let beyond = PayloadHeader { height, ..beyond };
    assert!(matches!(skip(&mut log, &beyond), Ok(Some(_))));
    assert_eq!((log.logged(), log.applied().0), (height, height));
    let skipped_to = [2, 4, 9, 10].map(|index| log.skipped_to(CommitIndex(index)));
    assert_eq!(skipped_to, [Some(height), Some(height), Some(height), None]);
    assert_eq!(log.applied_time(), Timestamp(40));
}

#[test]
fn an_earlier_life_is_continued_only_where_each_commit_follows_the_one_before() {
    let chain = chain(5, 10);
    let recovered = |commits: &[Commit]| {
        let mut log = log();
        let fits = commits.iter().all(|commit| log.on_recovered(Duration::ZERO, *commit));
        fits.then_some(log)
    };
    // The lowest follows nothing: what was below it was applied.
    let mut log = recovered(&chain[2..]).unwrap();
    assert_eq!((log.kept_from(), log.applied().0), (CommitIndex(3), CommitIndex(2)));
    assert_eq!(log.applied().1, chain[1].header.digest(&CHAIN));
    let receipt = |index| {
        let acks = Component::ALL.map(|component| Ack { component, freed: 0, watermark: index });
        CommitReceipt { index, block_timestamp: Timestamp(0), acks }
    };
    assert!(!log.on_recovered_receipt(receipt(CommitIndex(2))), "its commit is not there");
    assert!(log.on_recovered_receipt(receipt(CommitIndex(4))));
    assert!(log.on_recovered_receipt(receipt(CommitIndex(3))));
    assert_eq!(log.applied().0, CommitIndex(4), "the highest counts");
    assert!(recovered(&[chain[0], chain[2]]).is_none(), "a gap");
    let beside = next(&PayloadHeader { content_root: Digest([7; 32]), ..chain[0].header }, 30);
    assert!(recovered(&[chain[0], beside]).is_none(), "another parent");
    assert!(recovered(&[chain[0], next(&chain[0].header, 9)]).is_none(), "time went back");
    assert!(recovered(&[chain[0], next(&chain[0].header, 10)]).is_some(), "at the same moment");
}

#[test]
fn bytes_of_recovered_commits_count_for_those_above_them() {
    let mut log = log();
    for commit in chain(3, 10) {
        assert!(log.on_recovered(Duration::ZERO, commit));
        let (index, block_timestamp) = (commit.index, commit.header.block_timestamp);
        let acks = Component::ALL.map(|component| Ack { component, freed: 0, watermark: index });
        assert!(log.on_recovered_receipt(CommitReceipt { index, block_timestamp, acks }));
    }
    log.on_recovered_bytes(CommitIndex(1), 100);
    log.on_recovered_bytes(CommitIndex(3), 7);
    let bytes = [1, 2, 3, 4].map(|index| log.bytes_from(CommitIndex(index)));
    assert_eq!(bytes, [107, 7, 7, 0]);
}

#[test]
fn a_subscriber_holds_commits_for_so_long_since_they_were_applied_or_it_came_further() {
    let mut log = log();
    let name = |name: &str| name.to_owned();
    let second = Duration::from_secs;
    log.subscribers.on_recovered(second(5), name("slow"), CommitIndex(1), false);
    log.subscribers.on_recovered(second(5), name("lost"), CommitIndex(1), true);
    tell(&mut log, &chain(2, 10));
    assert_eq!(log.next_deadline(), None, "nothing is applied");
    apply(&mut log, 9, 100);
    assert_eq!(log.next_deadline(), Some(second(10)));
    apply(&mut log, 30, 20);
    assert_eq!(log.next_deadline(), Some(second(10)));
    let status = log.subscriber_status(second(12));
    let seen: Vec<_> =
        status.iter().map(|s| (&*s.name, s.lagged, s.lag_commits, s.lag_bytes)).collect();
    assert_eq!(seen, [("lost", true, 2, 120), ("slow", false, 2, 120)]);
    assert!((status[1].lag_seconds - 3.0).abs() < 1e-9 && !status[1].attached);
    let behind = [0, 1].map(|index| log.behind(CommitIndex(index)));
    assert_eq!(behind, [vec![], vec![name("lost"), name("slow")]]);
    assert_eq!(log.subscribers.lowest(), Some(CommitIndex(1)));
    let (mut outbox, mut retention) =
        (Outbox::default(), crate::sequencer::retention::Retention::new(Duration::ZERO));
    log.on_acknowledge(&mut outbox, &mut retention, second(50), "slow", CommitIndex(2));
    assert_eq!(log.next_deadline(), Some(second(51)));
    // Not beyond what is applied, and not back.
    log.on_acknowledge(&mut outbox, &mut retention, second(60), "slow", CommitIndex(99));
    log.on_acknowledge(&mut outbox, &mut retention, second(70), "slow", CommitIndex(1));
    assert_eq!((log.subscribers.lowest(), log.next_deadline()), (Some(CommitIndex(3)), None));
    assert_eq!(log.behind(CommitIndex(2)), [name("lost")]);
}

#[test]
fn what_was_passed_is_recorded_once_when_it_rises() {
    let mut log = log();
    let mut flush = |below| {
        let mut records = Vec::new();
        log.subscribers.pass(CommitIndex(below));
        log.subscribers.flush(&mut records);
        records.len()
    };
    assert_eq!([3, 3, 2, 4].map(&mut flush), [1, 0, 0, 1]);
    assert_eq!(log.subscribers.passed(), CommitIndex(4));
}
