//! Retention alone: until when content is held, by whom, and what that costs.

use super::*;
use crate::sequencer::port::Now;
use crate::types::samples;

const GRACE: u64 = 10;

fn retention() -> Retention {
    Retention::new(Duration::from_micros(GRACE))
}

fn at(consensus: u64) -> Clock {
    let now = Now { monotonic: Duration::ZERO, wall: Timestamp(0) };
    Clock { now, consensus: Timestamp(consensus) }
}

fn info(expiration: u64, bytes: u32) -> BatchInfo {
    let info = samples::batch(2, 1, &[b"x"]).info;
    BatchInfo { expiration: Timestamp(expiration), bytes, ..info }
}

fn digest(number: u8) -> Digest {
    Digest([number; 32])
}

fn hold(retention: &mut Retention, number: u8, expiration: u64, in_slot: bool) -> u64 {
    let info = info(expiration, u32::from(number));
    retention.insert(digest(number), Held::Batch { info, in_slot }, 1);
    info.charge()
}

/// Which batches are concerned: whether deleted, and whether a window is freed.
fn collect(retention: &mut Retention, consensus: u64) -> Vec<(u8, bool, bool)> {
    let mut outbox = Outbox::default();
    let overdue = retention.collect(&mut outbox, &at(consensus));
    let deleted = overdue.iter().filter(|overdue| overdue.deleted).count();
    assert_eq!(outbox.records.len(), deleted);
    overdue.iter().map(|o| (o.digest.0[0], o.deleted, o.frees_window)).collect()
}

#[test]
fn content_is_held_through_the_last_moment_of_its_grace() {
    let mut retention = retention();
    hold(&mut retention, 1, 100, true);
    hold(&mut retention, 2, 101, true);
    assert!(!retention.is_over(Timestamp(100), &at(110)));
    assert!(retention.is_over(Timestamp(100), &at(111)));
    assert_eq!([110, 111].map(|time| retention.is_due(&at(time))), [false, true]);
    assert_eq!(collect(&mut retention, 110), []);
    assert_eq!(retention.released(Timestamp(200)), Timestamp(110), "what is not collected is not");
    assert_eq!(collect(&mut retention, 111), [(1, true, true)]);
    assert_eq!(retention.released(Timestamp(200)), Timestamp(111));
    assert_eq!(retention.released(Timestamp(105)), Timestamp(105), "time has not come so far");
    assert_eq!(collect(&mut retention, 200), [(2, true, true)]);
    assert_eq!((retention.len(), retention.released(Timestamp(200))), (0, Timestamp(200)));
}

#[test]
fn a_group_is_durable_with_all_before_it() {
    let mut retention = retention();
    for group in [1, 2, 3] {
        let held = Held::Payload { expiration: Timestamp(9) };
        retention.insert(digest(group), held, group.into());
    }
    retention.on_durable(2);
    assert_eq!([1, 2, 3, 4].map(|n| retention.is_durable(&digest(n))), [true, true, false, false]);
}

#[test]
fn what_lies_outside_its_authors_window_is_counted_until_it_is_claimed_or_goes() {
    let mut retention = retention();
    let one = hold(&mut retention, 1, 100, false);
    let two = hold(&mut retention, 2, 100, false);
    hold(&mut retention, 3, 100, true);
    assert_eq!(retention.recovered_bytes(), one + two);
    retention.claim(&digest(1));
    retention.claim(&digest(1));
    retention.claim(&digest(3));
    assert_eq!(retention.recovered_bytes(), two);
    let expected = [(1, true, true), (2, true, false), (3, true, true)];
    assert_eq!(collect(&mut retention, 200), expected);
    assert_eq!(retention.recovered_bytes(), 0);
}

#[test]
fn what_a_subscriber_needs_is_parked_and_counted_and_goes_once_it_has_passed() {
    let mut retention = retention();
    retention.on_lowest(Some(CommitIndex(5)));
    let charges: Vec<u64> = (1..=3).map(|n| hold(&mut retention, n, 100, true)).collect();
    for (number, index) in [(1, 4), (2, 5), (3, 6), (3, 5)] {
        retention.on_ordered(digest(number), None, CommitIndex(index));
    }
    assert_eq!(collect(&mut retention, 200), [(1, true, true), (2, false, true), (3, false, true)]);
    assert_eq!(retention.passed(), CommitIndex(5), "what the fourth commit named is gone");
    assert_eq!(retention.parked_bytes(), charges[1] + charges[2]);
    assert_eq!(collect(&mut retention, 200), [], "once");
    retention.on_lowest(Some(CommitIndex(6)));
    assert_eq!(retention.parked_bytes(), charges[2]);
    assert_eq!(collect(&mut retention, 200), [(2, true, false)], "its window was freed before");
    // Ordered again while it is parked: the later commit counts.
    retention.on_ordered(digest(3), None, CommitIndex(8));
    retention.on_lowest(Some(CommitIndex(8)));
    assert_eq!(collect(&mut retention, 200), []);
    retention.on_lowest(None);
    assert_eq!(collect(&mut retention, 200), [(3, true, false)]);
    assert_eq!((retention.parked_bytes(), retention.passed()), (0, CommitIndex(9)));
}

#[test]
fn what_pinned_commits_name_and_is_not_here_is_missing_until_it_comes_or_is_passed() {
    let mut retention = retention();
    let named = |retention: &Retention, number, index| {
        retention.names(&digest(number), CommitIndex(index)).is_some()
    };
    retention.on_ordered(digest(1), Some(info(100, 1)), CommitIndex(9));
    assert!(!retention.is_missing(&digest(1)), "nobody needs it");
    retention.on_lowest(Some(CommitIndex(5)));
    for (number, index) in [(1, 4), (2, 5), (2, 6), (3, 5)] {
        let batch = (number < 3).then(|| info(100, 1));
        retention.on_ordered(digest(number), batch, CommitIndex(index));
    }
    assert_eq!([1, 2, 3].map(|n| retention.is_missing(&digest(n))), [false, true, true]);
    let of_second = [4, 5, 6, 7].map(|index| named(&retention, 2, index));
    assert_eq!(of_second, [false, true, true, false]);
    assert!(!named(&retention, 3, 5), "no batch");
    assert_eq!(retention.missing_batches(), [(digest(2), info(100, 1))]);
    retention.on_lowest(Some(CommitIndex(6)));
    assert_eq!([2, 3].map(|n| retention.is_missing(&digest(n))), [true, false]);
    assert!(!named(&retention, 2, 5) && named(&retention, 2, 6));
    // It comes: it is pinned by the commit that named it.
    hold(&mut retention, 2, 100, true);
    assert!(!retention.is_missing(&digest(2)));
    assert_eq!(collect(&mut retention, 200), [(2, false, true)]);
    retention.on_lowest(Some(CommitIndex(7)));
    assert_eq!(collect(&mut retention, 200), [(2, true, false)]);
}

#[test]
fn an_epoch_is_kept_as_long_as_the_last_of_its_batches() {
    let mut retention = retention();
    hold(&mut retention, 1, 100, true);
    hold(&mut retention, 2, 300, true);
    let other = BatchInfo { epoch: Epoch(1), ..info(900, 1) };
    retention.insert(digest(3), Held::Batch { info: other, in_slot: true }, 1);
    retention.insert(digest(4), Held::Payload { expiration: Timestamp(999) }, 1);
    let until = [0, 1, 2].map(|epoch| retention.kept_until(Epoch(epoch)));
    assert_eq!(until, [Some(Timestamp(300 + GRACE)), Some(Timestamp(900 + GRACE)), None]);
}

#[test]
fn no_more_than_a_slice_is_deleted_in_one_step() {
    let mut retention = retention();
    for number in 0..=DROPS_PER_STEP as u64 {
        let digest = Digest(*blake3::hash(&number.to_le_bytes()).as_bytes());
        retention.insert(digest, Held::Batch { info: info(100, 1), in_slot: true }, 1);
    }
    assert_eq!(collect(&mut retention, 200).len(), DROPS_PER_STEP);
    assert_eq!(collect(&mut retention, 200).len(), 1);
}
