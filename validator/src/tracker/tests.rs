use super::*;

const SECOND: u64 = 1_000_000;
const LIFE: Duration = Duration::from_secs(30);

fn tracker(entries_max: usize) -> Tracker {
    Tracker::new(entries_max, LIFE, Clock::start(), Arc::new(Outcomes::new(1 << 20)))
}

fn id(name: u8) -> TransactionId {
    [name; 32]
}

fn batch(name: u8) -> Digest {
    Digest([name; 32])
}

fn place(in_batch: u8, position: u32) -> Accepted {
    Accepted { batch: batch(in_batch), position }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp(seconds * SECOND)
}

/// Of transactions that expire at second 100.
fn outcome(executed: &[u8], skipped: &[u8]) -> BlockOutcome {
    BlockOutcome {
        executed: executed.iter().map(|name| (id(*name), at(100))).collect(),
        skipped: skipped.iter().map(|name| batch(*name)).collect(),
        ..BlockOutcome::default()
    }
}

fn stage(tracker: &Tracker, name: u8) -> Option<Stage> {
    tracker.lookup(&id(name)).map(|tracked| tracked.stage)
}

/// State and number of ids of every line so far.
fn lines(tracker: &Tracker) -> Vec<(String, usize)> {
    let read = tracker.outcomes().read(tracker.outcomes().life(), usize::MAX);
    let parse = |line: &bytes::Bytes| {
        let line: serde_json::Value = serde_json::from_slice(&crate::outcomes::text(line)).unwrap();
        let state = line["state"].as_str().unwrap().to_owned();
        (state, line["ids"].as_str().unwrap().len() / 64)
    };
    read.lines.iter().map(parse).collect()
}

fn accept(tracker: &Tracker, name: u8, expiration: Timestamp, place: Accepted) {
    assert_eq!(tracker.begin(&[(id(name), expiration)]), [Admission::New]);
    tracker.answered(&[((id(name), expiration), Some(place))]);
}

#[test]
fn a_transaction_is_followed_to_its_execution_and_forgotten_after_its_life() {
    let tracker = tracker(10);
    assert_eq!(tracker.begin(&[(id(1), at(100))]), [Admission::New]);
    assert_eq!(stage(&tracker, 1), Some(Stage::Pending));
    tracker.answered(&[((id(1), at(100)), Some(place(7, 0)))]);
    assert_eq!(stage(&tracker, 1), Some(Stage::Batched));
    tracker.on_event(&Event::Certified { digest: batch(7) });
    assert_eq!(stage(&tracker, 1), Some(Stage::Certified));
    tracker.ordered(4, [batch(7)].into_iter());
    assert_eq!(stage(&tracker, 1), Some(Stage::Ordered));
    tracker.executed(4, at(80), &outcome(&[1], &[]));
    let found = tracker.lookup(&id(1)).unwrap();
    assert_eq!((found.stage, found.height), (Stage::Executed, Some(4)));
    assert_eq!(found.place, Some(place(7, 0)));
    let states: Vec<String> = lines(&tracker).into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["accepted", "certified", "executed"]);

    tracker.executed(5, at(130), &outcome(&[], &[]));
    assert_eq!(stage(&tracker, 1), Some(Stage::Executed));
    tracker.executed(6, at(131), &outcome(&[], &[]));
    assert_eq!((stage(&tracker, 1), tracker.len()), (None, 0));
    assert_eq!(lines(&tracker).len(), 3);
}

#[test]
fn answers_certificates_and_blocks_may_come_in_any_order() {
    let tracker = tracker(10);
    tracker.begin(&[(id(1), at(100)), (id(2), at(100))]);
    tracker.on_event(&Event::Certified { digest: batch(7) });
    tracker.executed(3, at(70), &outcome(&[2], &[]));
    let named = |name| (id(name), at(100));
    tracker.answered(&[(named(1), Some(place(7, 0))), (named(2), Some(place(7, 1)))]);
    assert_eq!(stage(&tracker, 1), Some(Stage::Certified));
    assert_eq!(stage(&tracker, 2), Some(Stage::Executed));
    let expected = [("executed", 1), ("accepted", 2), ("certified", 1)];
    assert_eq!(lines(&tracker), expected.map(|(state, count)| (state.to_owned(), count)));
}

#[test]
fn what_no_later_block_can_execute_is_expired_and_said_once() {
    let tracker = tracker(10);
    accept(&tracker, 1, Timestamp(100 * SECOND + 5), place(7, 0));
    tracker.executed(1, Timestamp(100 * SECOND + 5), &outcome(&[], &[]));
    assert_eq!(stage(&tracker, 1), Some(Stage::Batched));
    tracker.executed(2, at(101), &outcome(&[], &[]));
    assert_eq!(stage(&tracker, 1), Some(Stage::Expired));
    tracker.executed(3, at(102), &outcome(&[], &[]));
    assert_eq!(lines(&tracker)[1..], [("expired".to_owned(), 1)]);
}

#[test]
fn a_transaction_in_a_skipped_batch_is_skipped_unless_another_copy_is_executed() {
    let tracker = tracker(10);
    accept(&tracker, 1, at(100), place(7, 0));
    accept(&tracker, 2, at(100), place(7, 1));
    tracker.executed(1, at(80), &outcome(&[], &[7]));
    assert_eq!(stage(&tracker, 1), Some(Stage::Skipped));
    tracker.executed(2, at(81), &outcome(&[2], &[]));
    assert_eq!(stage(&tracker, 2), Some(Stage::Executed));
    tracker.executed(3, at(120), &outcome(&[], &[]));
    assert_eq!(stage(&tracker, 1), Some(Stage::Skipped));
}

#[test]
fn a_refused_transaction_may_come_again_and_its_key_is_not_mistaken_for_another() {
    let tracker = tracker(10);
    tracker.begin(&[(id(1), at(50))]);
    tracker.answered(&[((id(1), at(50)), None)]);
    assert_eq!(stage(&tracker, 1), None);
    // It takes the place of the refused one, and must not inherit its expiration.
    accept(&tracker, 2, at(100), place(7, 0));
    tracker.executed(1, at(60), &outcome(&[], &[]));
    assert_eq!(stage(&tracker, 2), Some(Stage::Batched));
    accept(&tracker, 1, at(100), place(7, 1));
    // Keys of a batch are not mistaken either, once their entries are dropped and used again.
    tracker.executed(2, at(140), &outcome(&[], &[]));
    assert_eq!(tracker.len(), 0);
    accept(&tracker, 3, at(200), place(8, 0));
    tracker.on_event(&Event::Certified { digest: batch(7) });
    assert_eq!(stage(&tracker, 3), Some(Stage::Batched));
}

#[test]
fn moving_to_another_batch_follows_the_library() {
    let tracker = tracker(10);
    accept(&tracker, 1, at(100), place(7, 0));
    accept(&tracker, 2, at(100), place(7, 1));
    let moved = vec![(1, place(8, 0))];
    tracker.on_event(&Event::Rebatched { from: batch(7), moved });
    tracker.on_event(&Event::Certified { digest: batch(8) });
    assert_eq!(stage(&tracker, 1), Some(Stage::Batched));
    assert_eq!(stage(&tracker, 2), Some(Stage::Certified));
    assert_eq!(tracker.lookup(&id(2)).unwrap().place, Some(place(8, 0)));
}

#[test]
fn room_is_bounded_and_made_by_dropping_what_is_final() {
    let tracker = tracker(2);
    accept(&tracker, 1, at(50), place(7, 0));
    accept(&tracker, 2, at(100), place(7, 1));
    assert_eq!(tracker.begin(&[(id(3), at(100))]), [Admission::Full]);
    // Transaction 1 has expired: nobody can need it any more, although it would be kept longer.
    tracker.executed(1, at(60), &outcome(&[], &[]));
    assert_eq!(tracker.begin(&[(id(3), at(100))]), [Admission::New]);
    assert_eq!((stage(&tracker, 1), tracker.len()), (None, 2));
}

#[tokio::test]
async fn an_equal_transaction_waits_for_the_answer_to_the_first() {
    let tracker = Arc::new(tracker(10));
    assert_eq!(tracker.begin(&[(id(1), at(100)), (id(2), at(100))]), [Admission::New; 2]);
    assert_eq!(tracker.begin(&[(id(1), at(100))]), [Admission::InFlight]);
    let wait = |name| {
        let tracker = tracker.clone();
        tokio::spawn(async move { tracker.accepted(&(id(name), at(100)), LIFE).await })
    };
    let (first, second) = (wait(1), wait(2));
    tokio::task::yield_now().await;
    let named = |name| (id(name), at(100));
    tracker.answered(&[(named(1), Some(place(7, 0))), (named(2), None)]);
    assert!(first.await.unwrap());
    assert!(!second.await.unwrap());
    assert_eq!(tracker.begin(&[(id(1), at(100))]), [Admission::Accepted]);
}

#[test]
fn what_was_executed_before_it_arrived_is_said_once_and_ends_with_its_time() {
    let tracker = tracker(10);
    assert_eq!(tracker.begin(&[(id(1), at(100))]), [Admission::New]);
    tracker.executed_before(&[((id(1), at(100)), 3)]);
    assert_eq!(stage(&tracker, 1), Some(Stage::Executed));
    // The block may be told of as well, if it came in between.
    tracker.executed(4, at(80), &outcome(&[1], &[]));
    assert_eq!(lines(&tracker), [("executed".to_owned(), 1)]);
    assert_eq!(tracker.begin(&[(id(1), at(100))]), [Admission::Accepted]);
    tracker.executed(6, at(131), &outcome(&[], &[]));
    assert_eq!((stage(&tracker, 1), tracker.len()), (None, 0));
}

#[test]
fn there_is_room_again_once_what_is_open_has_ended() {
    let tracker = tracker(40_000);
    let name = |number: u32| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        id
    };
    let ids: Vec<TransactionId> = (0..16_384).map(name).collect();
    let arriving: Vec<_> = ids.iter().map(|id| (*id, at(100))).collect();
    tracker.begin(&arriving[1..]);
    assert!(tracker.has_room());
    tracker.begin(&arriving[..1]);
    assert!(!tracker.has_room());
    tracker.answered(&[(arriving[0], None)]);
    assert!(tracker.has_room(), "refused");
    tracker.begin(&arriving[..1]);
    assert!(!tracker.has_room());
    let executed = arriving[..1].to_vec();
    let executed = BlockOutcome { executed, ..BlockOutcome::default() };
    tracker.executed(1, at(80), &executed);
    assert!(tracker.has_room(), "executed");
    let answers = arriving[1..].iter().map(|named| (*named, Some(place(7, 0))));
    tracker.answered(&answers.collect::<Vec<_>>());
    tracker.executed(2, at(101), &outcome(&[], &[]));
    assert_eq!(tracker.book().open_count(), 0, "expired");
}

#[test]
fn what_nobody_follows_leaves_nothing_behind() {
    let tracker = tracker(10);
    accept(&tracker, 1, at(100), place(7, 0));
    // Handed over by another validator, whose clients wait there.
    tracker.answered(&[((id(2), at(100)), Some(place(8, 0))), ((id(3), at(90)), None)]);
    assert_eq!((tracker.len(), tracker.book().batches()), (1, 1));
    tracker.answered(&[((id(4), at(100)), Some(place(7, 1)))]);
    assert_eq!((tracker.len(), tracker.book().batches()), (1, 1));
    tracker.executed(1, at(131), &outcome(&[], &[]));
    assert_eq!((tracker.len(), tracker.book().batches()), (0, 0));
}

#[test]
fn the_last_places_go_to_whoever_comes_first() {
    let tracker = tracker(3);
    let named = |name| (id(name), at(100));
    tracker.begin(&[named(1), named(2)]);
    let admissions = tracker.begin(&[named(2), named(3), named(3), named(4), named(1)]);
    let [in_flight, full] = [Admission::InFlight, Admission::Full];
    assert_eq!(admissions, [in_flight, Admission::New, in_flight, full, in_flight]);
    assert_eq!(tracker.len(), 3);
}
