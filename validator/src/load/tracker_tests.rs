//! The life of a transaction in the books, in every order in which news can arrive.

use serde_json::json;

use super::super::latency::LatencyQuantiles;
use super::*;

const EXPIRATION: u64 = 1_000;
const WINDOW: Window = Window { start_micros: 1_000, end_micros: 2_000 };

fn keys(count: u8) -> Vec<Key> {
    (0..count).map(|index| Key([index; 32])).collect()
}

fn outcome(tracker: &mut Tracker, state: &str, keys: &[Key], time_micros: u64) {
    let ids: String = keys.iter().map(|key| hex::encode(key.0)).collect();
    let line = json!({
        "seq": 0,
        "state": state,
        "time_micros": time_micros,
        "ids": ids,
        "latency_micros": vec![70; keys.len()],
    });
    tracker.on_outcome(&Outcome::read(line.to_string().as_bytes()).expect("well formed"));
}

fn accept(tracker: &mut Tracker, keys: &[Key]) {
    tracker.on_answer(keys, std::iter::repeat(202));
}

#[test]
fn an_executed_transaction_leaves_the_books_with_its_latencies() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(3));
    tracker.on_sent(&keys, 1_500, EXPIRATION);
    accept(&mut tracker, &keys);
    assert_eq!(tracker.counts().unresolved, 3);
    for state in ["accepted", "certified", "executed"] {
        outcome(&mut tracker, state, &keys, 1_600);
    }
    let counts = tracker.counts();
    assert_eq!((counts.sent_in_window, counts.executed, counts.executed_in_window), (3, 3, 3));
    assert_eq!((counts.unresolved, counts.repeated), (0, 0));
    assert!(tracker.open.is_empty());
    let quantiles = tracker.latencies().quantiles();
    for found in [quantiles.accepted, quantiles.certified, quantiles.executed] {
        assert!(found.is_some_and(|found| (found.max - 0.07).abs() < f64::EPSILON));
    }
}

#[test]
fn an_outcome_that_overtakes_its_answer_resolves_it() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(2));
    tracker.on_sent(&keys, 1_500, EXPIRATION);
    outcome(&mut tracker, "executed", &keys, 1_600);
    accept(&mut tracker, &keys);
    let counts = tracker.counts();
    assert_eq!((counts.accepted, counts.executed, counts.unresolved), (2, 2, 0));
    assert!(tracker.open.is_empty());
}

#[test]
fn the_warm_up_and_the_drain_do_not_count_as_throughput() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(3));
    tracker.on_sent(&keys[..1], 999, EXPIRATION);
    tracker.on_sent(&keys[1..], 1_999, EXPIRATION);
    accept(&mut tracker, &keys);
    outcome(&mut tracker, "executed", &keys[..1], 999);
    outcome(&mut tracker, "executed", &keys[1..2], 1_999);
    outcome(&mut tracker, "executed", &keys[2..], 2_000);
    let counts = tracker.counts();
    assert_eq!((counts.sent_in_window, counts.executed, counts.executed_in_window), (2, 3, 1));
}

#[test]
fn a_warm_up_transaction_has_no_latency_and_a_late_one_has() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(2));
    tracker.on_sent(&keys[..1], 999, EXPIRATION);
    outcome(&mut tracker, "executed", &keys[..1], 1_500);
    assert_eq!(tracker.latencies().quantiles().executed, None);
    tracker.on_sent(&keys[1..], 1_999, EXPIRATION);
    outcome(&mut tracker, "executed", &keys[1..], 9_000);
    assert!(tracker.latencies().quantiles().executed.is_some());
}

#[test]
fn refusals_are_counted_by_status_and_are_not_accepted() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(6));
    tracker.on_sent(&keys, 1_500, EXPIRATION);
    tracker.on_answer(&keys, [202, 400, 413, 429, 503, 418].into_iter());
    let counts = tracker.counts();
    let refused =
        Refused { malformed: 1, too_large: 1, back_pressure: 1, not_serving: 1, other: 1 };
    assert_eq!((counts.accepted, counts.refused, counts.refused.total()), (1, refused, 5));
    assert_eq!((counts.unresolved, tracker.open.len()), (1, 1));
}

#[test]
fn an_accepted_transaction_without_an_outcome_stays_unresolved() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(3));
    tracker.on_sent(&keys, 1_500, EXPIRATION);
    accept(&mut tracker, &keys);
    outcome(&mut tracker, "expired", &keys[..1], 1_600);
    outcome(&mut tracker, "skipped", &keys[1..2], 1_600);
    let counts = tracker.counts();
    assert_eq!((counts.expired, counts.skipped, counts.executed, counts.unresolved), (1, 1, 0, 1));
}

#[test]
fn an_unanswered_transaction_is_not_lost_but_may_be_executed() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(3));
    tracker.on_sent(&keys, 1_500, EXPIRATION);
    outcome(&mut tracker, "executed", &keys[..1], 1_600);
    tracker.on_unanswered(&keys);
    outcome(&mut tracker, "executed", &keys[1..2], 1_600);
    let counts = tracker.counts();
    assert_eq!((counts.unanswered, counts.executed, counts.unresolved), (3, 2, 0));
    assert_eq!((counts.repeated, tracker.open.len()), (0, 1));
}

#[test]
fn a_second_execution_is_noticed() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(1));
    tracker.on_sent(&keys, 1_500, EXPIRATION);
    outcome(&mut tracker, "executed", &keys, 1_600);
    outcome(&mut tracker, "executed", &keys, 1_600);
    accept(&mut tracker, &keys);
    outcome(&mut tracker, "executed", &keys, 1_600);
    let counts = tracker.counts();
    assert_eq!((counts.executed, counts.repeated), (1, 2));
}

#[test]
fn outcomes_of_others_are_not_ours() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(1));
    outcome(&mut tracker, "accepted", &keys, 1_600);
    outcome(&mut tracker, "expired", &keys, 1_600);
    assert_eq!(tracker.counts(), Counts::default());
    assert_eq!(tracker.latencies().quantiles(), LatencyQuantiles::default());
}

#[test]
fn a_gap_counts_what_is_lost() {
    let mut tracker = Tracker::new(WINDOW, true);
    let gap = Outcome::read(br#"{"seq":9,"state":"gap","lost":4}"#).expect("well formed");
    tracker.on_outcome(&gap);
    assert_eq!(tracker.counts().outcomes_lost, 4);
}

#[test]
fn counts_of_targets_add_up_in_every_field() {
    let refused =
        Refused { malformed: 5, too_large: 6, back_pressure: 7, not_serving: 8, other: 9 };
    let one = Counts {
        sent: 1,
        sent_in_window: 2,
        unsent: 3,
        resent: 4,
        accepted: 10,
        refused,
        unanswered: 11,
        asked: 20,
        executed: 12,
        executed_in_window: 13,
        expired: 14,
        skipped: 15,
        repeated: 16,
        outcomes_lost: 17,
        outcomes_malformed: 18,
        unresolved: 19,
        lost_with_disk: 21,
    };
    let mut sum = Counts::default();
    sum.add(&one);
    assert_eq!(sum, one);
}

#[test]
fn what_a_target_forgot_is_resolved_by_asking() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(6));
    tracker.on_sent(&keys, 1_500, EXPIRATION);
    assert!(tracker.open_before(2_000).is_empty(), "not answered yet");
    accept(&mut tracker, &keys[..5]);
    tracker.on_unanswered(&keys[5..]);
    assert!(tracker.open_before(1_500).is_empty(), "too young");
    assert_eq!(tracker.open_before(2_000).len(), 6);
    let expiration_micros = EXPIRATION * 1_000_000;
    let mut ask = |key: usize, standing, time| {
        tracker.on_standing(keys[key], standing, time, 1_900);
        tracker.counts()
    };
    assert_eq!(ask(0, Standing::Executed, 0).executed_in_window, 1);
    assert_eq!(ask(1, Standing::Open, u64::MAX).unresolved, 4);
    assert_eq!(ask(2, Standing::Unknown, expiration_micros).unresolved, 4, "may still be executed");
    assert_eq!(ask(2, Standing::Unknown, expiration_micros + 1).expired, 1);
    assert_eq!(ask(3, Standing::Skipped, 0).skipped, 1);
    assert_eq!(ask(4, Standing::Expired, 0).expired, 2);
    assert_eq!(ask(5, Standing::Unknown, u64::MAX).expired, 2, "was never promised anything");
    let counts = tracker.counts();
    assert_eq!((counts.asked, counts.unresolved, counts.executed), (4, 1, 1));
    // The stream of the new life may say it as well; but not twice.
    outcome(&mut tracker, "executed", &keys[..1], 1_950);
    assert_eq!(tracker.counts().repeated, 0);
    outcome(&mut tracker, "executed", &keys[..1], 1_950);
    assert_eq!(tracker.counts().repeated, 1);
    assert_eq!(tracker.latencies().quantiles().executed, None);
}

#[test]
fn what_a_destroyed_disk_had_and_no_quorum_is_counted_apart_unless_it_is_executed() {
    let (mut tracker, keys) = (Tracker::new(WINDOW, true), keys(5));
    tracker.on_sent(&keys, 1_500, EXPIRATION);
    accept(&mut tracker, &keys[..4]);
    outcome(&mut tracker, "certified", &keys[..1], 1_600);
    tracker.on_disk_lost();
    let counts = tracker.counts();
    assert_eq!((counts.unresolved, counts.lost_with_disk), (1, 3), "the first is owed");
    // One of them was certified without our knowing, and one expires.
    let later = (EXPIRATION + 1) * 1_000_000;
    tracker.on_standing(keys[1], Standing::Executed, later, 1_700);
    tracker.on_standing(keys[2], Standing::Unknown, later, 1_700);
    tracker.on_standing(keys[0], Standing::Executed, later, 1_700);
    let counts = tracker.counts();
    assert_eq!((counts.unresolved, counts.lost_with_disk), (0, 2));
    assert_eq!((counts.executed, counts.expired), (2, 0));
    // Given to it once more, in its new life: now it is owed.
    accept(&mut tracker, &keys[3..4]);
    let counts = tracker.counts();
    assert_eq!((counts.unresolved, counts.lost_with_disk), (1, 1));
}
