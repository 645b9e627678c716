//! Pulling from the host's source: when, how much, and what is left out.

use std::time::Duration;

use bytes::Bytes;

use super::net::*;
use crate::config::SequencerConfig;
use crate::sequencer::port::*;
use crate::types::*;

const IDLE: Duration = Duration::from_millis(250);

/// Four nodes, of which the first has a source that was asked once.
fn with_source() -> Net {
    let mut net = Net::new();
    give_source(&mut net, 0);
    net
}

fn give_source(net: &mut Net, index: usize) {
    net.nodes[index].source.is_there = true;
    net.input(index, Input::SourceReady);
    assert_eq!(pulls(net, index), 1, "a source is asked at once");
}

/// How often the source was asked since this was last looked at.
fn pulls(net: &mut Net, index: usize) -> usize {
    std::mem::take(&mut net.nodes[index].source.pulls).len()
}

fn answer(net: &mut Net, index: usize, texts: &[&str]) {
    let transactions = texts.iter().map(|text| net.transaction(text)).collect();
    net.input(index, Input::Transactions(transactions));
}

fn key(text: &str) -> TransactionKey {
    TransactionKey::of(text.as_bytes())
}

fn excludes(net: &Net, index: usize, text: &str) -> bool {
    net.nodes[index].source.excluded.contains(&key(text))
}

#[test]
fn a_source_gives_no_more_than_fills_two_batches_with_what_is_in_the_pool() {
    let mut net = Net::new();
    net.submit(0, &["four", "three"]);
    net.input(0, Input::SourceReady);
    let limits = SourceLimits { transactions_max: 2 * 8192 - 2, bytes_max: (512 << 10) - 9 };
    assert_eq!(net.nodes[0].source.pulls, [limits]);
}

#[test]
fn what_is_pulled_is_batched_and_the_source_is_asked_again_when_it_is_ready() {
    let mut net = with_source();
    answer(&mut net, 0, &["one", "two"]);
    assert!(excludes(&net, 0, "one") && excludes(&net, 0, "two"));
    net.input(0, Input::SourceReady);
    net.input(0, Input::SourceReady);
    assert_eq!(pulls(&mut net, 0), 0, "a moment passes between pulls that bring little");
    net.pass(net.config.batch_age_max);
    assert_eq!(pulls(&mut net, 0), 1);
    let batched = |event: &Event| match event {
        Event::Batched { pulled, .. } => Some(pulled.clone()),
        _ => None,
    };
    let batched: Vec<_> = net.nodes[0].events.iter().filter_map(batched).collect();
    assert_eq!(batched, [[(0, key("one")), (1, key("two"))]]);
    // Ready while it is asked: asked once more, and not before it has answered.
    net.input(0, Input::SourceReady);
    net.pass(IDLE);
    assert_eq!(pulls(&mut net, 0), 0, "one pull at a time");
    answer(&mut net, 0, &["three"]);
    net.pass(net.config.batch_age_max);
    assert_eq!(pulls(&mut net, 0), 1);
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_source_with_more_is_asked_at_once_and_one_that_is_full_of_rubbish_is_not() {
    let mut net = with_source();
    let limits = SourceLimits { transactions_max: 2 * 8192, bytes_max: 512 << 10 };
    net.pass(IDLE);
    let large = "x".repeat(60 << 10);
    let texts: Vec<String> = (0..8).map(|n| format!("{n}{large}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    answer(&mut net, 0, &texts);
    assert_eq!(pulls(&mut net, 0), 1, "sealed, and asked for more in the same step");
    // As much again that can never be batched: the source hears why, and is left alone.
    let good = net.transaction("good");
    let too_large = "x".repeat((64 << 10) + 1);
    let rubbish = (0..1000).map(|number| match number % 3 {
        0 => Transaction { bytes: Bytes::new(), ..good.clone() },
        1 => Transaction { bytes: Bytes::from(too_large.clone()), ..good.clone() },
        _ => Transaction { expiration: net.now.wall, ..good.clone() },
    });
    let rubbish = rubbish.collect();
    net.input(0, Input::Transactions(rubbish));
    assert_eq!(net.nodes[0].source.refused.len(), 1000);
    let (length, bound) = (too_large.len(), 64 << 10);
    assert_eq!(net.nodes[0].source.refused[1], SubmitError::TooLarge { length, bound });
    assert_eq!(pulls(&mut net, 0), 0);
    net.pass(IDLE.saturating_sub(Duration::from_millis(10)));
    assert_eq!(pulls(&mut net, 0), 0);
    net.pass(Duration::from_millis(20));
    assert_eq!(net.nodes[0].source.pulls, [limits], "a while later, once");
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_source_that_says_it_is_ready_and_never_is_cannot_spin() {
    let mut net = with_source();
    let mut asked = 0;
    // Every millisecond, for ten seconds.
    for _ in 0..10_000 {
        net.now.monotonic += Duration::from_millis(1);
        net.now.wall = net.now.wall.saturating_add(Duration::from_millis(1));
        net.input(0, Input::Transactions(Vec::new()));
        net.input(0, Input::SourceReady);
        asked += pulls(&mut net, 0);
    }
    assert!((40..60).contains(&asked), "{asked} pulls in ten seconds");
}

#[test]
fn nothing_is_pulled_without_room_for_it() {
    let mut net = with_source();
    net.input(0, Input::Space { admits: false });
    answer(&mut net, 0, &["late"]);
    net.input(0, Input::SourceReady);
    net.pass(IDLE * 4);
    assert_eq!(pulls(&mut net, 0), 0, "no room on the disk");
    net.input(0, Input::Space { admits: true });
    assert_eq!(pulls(&mut net, 0), 1);
    // Nobody sees the deadlines of a source that may not be asked.
    let mut net = Net::with(SequencerConfig { pool_transactions_max: 1, ..net.config });
    give_source(&mut net, 0);
    net.submit(0, &["in the way"]);
    answer(&mut net, 0, &["no room"]);
    assert!(!excludes(&net, 0, "no room"), "still in the source");
    assert_eq!(pulls(&mut net, 0), 0);
    net.input(0, Input::Tick);
    let deadline = net.nodes[0].sequencer.next_deadline().unwrap();
    assert!(deadline > net.now.monotonic, "it would spin");
}

#[test]
fn what_others_batched_is_not_pulled_until_that_lapses() {
    let mut net = with_source();
    // Nobody else signs: it is never certified.
    net.drops = |_, _, message| matches!(message, Message::Votes { .. });
    net.batch(1, "seen");
    assert!(excludes(&net, 0, "seen"));
    answer(&mut net, 0, &["seen"]);
    assert!(!net.nodes[0].events.iter().any(|event| matches!(event, Event::Batched { .. })));
    net.pass(net.config.source.seen_exclusion.saturating_sub(Duration::from_millis(100)));
    assert!(excludes(&net, 0, "seen"));
    net.pass(Duration::from_millis(200));
    assert!(!excludes(&net, 0, "seen"), "it may never be certified");
}

#[test]
fn what_others_certified_is_not_pulled_until_it_is_ordered_and_everybody_has_passed_that() {
    let mut net = with_source();
    let subscriber = "executor".to_owned();
    net.request(0, |id| Input::Subscribe { id, subscriber, next: CommitIndex(1) });
    net.batch(1, "certified");
    net.pass(net.config.source.seen_exclusion * 3);
    assert!(excludes(&net, 0, "certified"));
    net.block(1, net.genesis_digest());
    assert!(excludes(&net, 0, "certified"), "not executed yet");
    let subscriber = "executor".to_owned();
    net.input(0, Input::Acknowledge { subscriber, next: CommitIndex(2) });
    assert!(!excludes(&net, 0, "certified"));
    assert_eq!(net.status(0).in_progress, 0);
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_batch_that_is_refused_excludes_nothing_and_a_flood_only_its_author_s_share() {
    let mut net = Net::new();
    net.config.source.in_progress_max = 1000;
    net.restart(0);
    net.settle();
    give_source(&mut net, 0);
    let expired = net.forge(1, 1, "refused", Duration::ZERO);
    let digest = net.give_batch(
        1,
        0,
        &Batch { info: BatchInfo { expiration: Timestamp(0), ..expired.info }, ..expired },
    );
    let keys = [key("refused")].into();
    net.input(0, Input::Seen { digest, keys });
    assert!(!excludes(&net, 0, "refused"));
    for counter in 2..1000 {
        let text = format!("flood {counter}");
        let batch = net.forge(1, counter, &text, Duration::from_secs(20));
        let digest = net.give_batch(1, 0, &batch);
        let keys = [key(&text)].into();
        net.input(0, Input::Seen { digest, keys });
    }
    assert_eq!(net.status(0).in_progress, 1000 / 2 / 3);
    let batch = net.forge(2, 1, "of somebody else", Duration::from_secs(20));
    let digest = net.give_batch(2, 0, &batch);
    net.input(0, Input::Seen { digest, keys: [key("of somebody else")].into() });
    assert!(excludes(&net, 0, "of somebody else"));
}

#[test]
fn own_batches_of_an_earlier_life_and_submissions_are_not_pulled_again() {
    let mut net = with_source();
    answer(&mut net, 0, &["pulled"]);
    net.pass(net.config.batch_age_max);
    net.batch(0, "submitted");
    assert!(excludes(&net, 0, "pulled") && excludes(&net, 0, "submitted"));
    net.restart(0);
    net.settle();
    give_source(&mut net, 0);
    assert!(excludes(&net, 0, "pulled") && excludes(&net, 0, "submitted"));
    answer(&mut net, 0, &["pulled", "new"]);
    assert_eq!(net.status(0).pool_transactions, 1);
    net.pass(net.config.batch_age_max);
    let (parent, _) = net.block(1, net.genesis_digest());
    assert_eq!(net.status(0).in_progress, 0, "{:?}", net.nodes[0].source.excluded);
    // A second commit of the same batches lets nothing go a second time.
    net.block(2, parent);
}

#[test]
fn what_expires_in_the_pool_is_not_batched_and_the_source_is_told() {
    let mut net = with_source();
    let mut short = net.transaction("short");
    short.expiration = net.now.wall.saturating_add(Duration::from_millis(5));
    let long = net.transaction("long");
    net.input(0, Input::Transactions(vec![short, long]));
    net.pass(net.config.batch_age_max);
    assert_eq!(net.nodes[0].source.refused, [SubmitError::Expired]);
    let batched = |event: &Event| match event {
        Event::Batched { pulled, .. } => Some(pulled.clone()),
        _ => None,
    };
    let batched: Vec<_> = net.nodes[0].events.iter().filter_map(batched).collect();
    assert_eq!(batched, [[(0, key("long"))]]);
}
