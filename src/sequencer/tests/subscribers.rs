//! Who follows the commits: order, gaps, lag, and what state sync does to them.

use std::time::Duration;

use bytesize::ByteSize;

use super::net::*;
use crate::config::SequencerConfig;
use crate::sequencer::port::*;
use crate::store::Store as _;
use crate::types::*;

/// An executor in miniature: its own store is the next index and what it executed, written
/// together.
#[derive(Clone, Debug, PartialEq)]
struct Follower {
    name: &'static str,
    next: u64,
    executed: Vec<Delivery>,
}

impl Follower {
    fn new(name: &'static str) -> Self {
        Self { name, next: 1, executed: Vec::new() }
    }

    fn attach(&self, net: &mut Net, index: usize) -> RequestId {
        let id = subscribe(net, index, self.name, self.next);
        net.settle();
        match net.nodes[index].replies.remove(&id) {
            Some(Reply::Subscribed(Ok(()))) => id,
            other => panic!("not attached: {other:?}"),
        }
    }

    /// Takes what was delivered: each is the next one, or older and known.
    fn follow(&mut self, net: &mut Net, index: usize, subscription: RequestId) {
        let mine = |delivery: &(RequestId, Delivery)| delivery.0 == subscription;
        while let Some(at) = net.nodes[index].deliveries.iter().position(mine) {
            let (_, delivery) = net.nodes[index].deliveries.remove(at).unwrap();
            let first = match delivery {
                Delivery::Commit(commit) => commit.index.0,
                Delivery::Skipped { from, .. } => from.0,
                Delivery::Rewritten { by, .. } => by.0,
            };
            assert!(
                first <= self.next,
                "{}: {delivery:?} leaves a gap at {}",
                self.name,
                self.next
            );
            if first == self.next {
                self.next = delivery.last().0 + 1;
                self.executed.push(delivery);
            }
            let done = CommitIndex(self.next);
            net.input(index, Input::Delivered { subscription, next: done });
            net.settle();
        }
    }
}

fn subscribe(net: &mut Net, index: usize, name: &str, from: u64) -> RequestId {
    let (subscriber, from) = (name.to_owned(), CommitIndex(from));
    net.request(index, |id| Input::Subscribe { id, subscriber, next: from })
}

fn refused(net: &mut Net, index: usize, name: &str, from: u64) -> SubscribeError {
    let id = subscribe(net, index, name, from);
    match net.nodes[index].replies.remove(&id) {
        Some(Reply::Subscribed(Err(error))) => error,
        other => panic!("not refused: {other:?}"),
    }
}

fn indices(net: &mut Net, index: usize, subscription: RequestId) -> Vec<u64> {
    let deliveries = std::mem::take(&mut net.nodes[index].deliveries);
    let mine = deliveries.into_iter().filter(|(id, _)| *id == subscription);
    mine.map(|(_, delivery)| delivery.last().0).collect()
}

/// `count` empty blocks above the last one.
fn blocks(net: &mut Net, parent: &mut Digest, heights: std::ops::RangeInclusive<u64>) {
    for height in heights {
        *parent = net.block(height, *parent).0;
    }
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn every_subset_of_subscribers_may_stop_at_any_point_and_ends_where_the_others_are() {
    const NAMES: [&str; 3] = ["executor", "indexer", "tracker"];
    const BLOCKS: u64 = 4;
    for stopped in 0..(1 << NAMES.len()) {
        for at in 1..=BLOCKS {
            // How the stopped ones come back: from their handle, after a crash of the process, or
            // after a crash in which their own last write was undone.
            for (crash, undone) in [(false, 0), (true, 0), (true, 1)] {
                let mut net = Net::new();
                let mut parent = net.genesis_digest();
                let mut followers = NAMES.map(Follower::new);
                let mut ids = followers.clone().map(|follower| follower.attach(&mut net, 0));
                for height in 1..=BLOCKS {
                    parent = net.block(height, parent).0;
                    for (bit, follower) in followers.iter_mut().enumerate() {
                        if height < at || stopped & (1 << bit) == 0 {
                            follower.follow(&mut net, 0, ids[bit]);
                        } else if height == at {
                            net.input(0, Input::Detach { subscription: ids[bit] });
                        }
                    }
                    if crash && height == at {
                        net.restart(0);
                        net.settle();
                        for (bit, follower) in followers.iter_mut().enumerate() {
                            if stopped & (1 << bit) == 0 {
                                ids[bit] = follower.attach(&mut net, 0);
                            }
                        }
                    }
                }
                for (bit, follower) in followers.iter_mut().enumerate() {
                    if stopped & (1 << bit) != 0 {
                        for _ in 0..undone {
                            follower.next = follower.next.max(2) - 1;
                            follower.executed.pop();
                        }
                        ids[bit] = follower.attach(&mut net, 0);
                    }
                    follower.follow(&mut net, 0, ids[bit]);
                    assert_eq!(follower.next, BLOCKS + 1, "{} of {stopped:b}", follower.name);
                }
                assert_eq!(followers[0].executed, followers[1].executed);
                assert_eq!(followers[0].executed, followers[2].executed);
            }
        }
    }
}

#[test]
fn a_commit_is_delivered_once_it_is_durable_and_only_as_far_as_the_window_goes() {
    let config = SequencerConfig { subscriber_window: 2, ..SequencerConfig::default() };
    let mut net = Net::with(config);
    let mut parent = net.genesis_digest();
    let id = Follower::new("executor").attach(&mut net, 0);
    let payload = net.pull(0, 1, parent);
    net.nodes[0].holds = true;
    net.commit(0, payload.header);
    net.settle();
    assert!(net.nodes[0].deliveries.is_empty(), "delivered before it was durable");
    net.nodes[0].holds = false;
    net.settle();
    assert_eq!(indices(&mut net, 0, id), [1]);
    parent = payload.digest(&net.genesis.chain_id());
    for index in 1..4 {
        net.give_payload(0, index, &payload);
        net.commit(index, payload.header);
    }
    blocks(&mut net, &mut parent, 2..=5);
    assert_eq!(indices(&mut net, 0, id), [2], "the window is two");
    let status = &net.status(0).subscribers[0];
    assert_eq!((status.lag_commits, status.attached, status.lagged), (5, true, false));
    net.input(0, Input::Delivered { subscription: id, next: CommitIndex(3) });
    net.settle();
    assert_eq!(indices(&mut net, 0, id), [3, 4]);
    // An ack beyond what was delivered says no more than that; an older one says nothing.
    net.input(0, Input::Delivered { subscription: id, next: CommitIndex(9) });
    net.input(0, Input::Delivered { subscription: id, next: CommitIndex(2) });
    net.settle();
    assert_eq!(indices(&mut net, 0, id), [5]);
    assert_eq!(net.status(0).subscribers[0].next, CommitIndex(5));
}

#[test]
fn an_ack_costs_no_group_of_its_own_and_joins_the_next_one() {
    let mut net = Net::new();
    let mut parent = net.genesis_digest();
    let id = Follower::new("executor").attach(&mut net, 0);
    blocks(&mut net, &mut parent, 1..=1);
    net.input(0, Input::Delivered { subscription: id, next: CommitIndex(2) });
    assert!(net.nodes[0].sequencer.take_group().is_none());
    net.restart(0);
    net.settle();
    assert_eq!(net.status(0).subscribers[0].next, CommitIndex(1), "not on disk: it holds more");
    let id = subscribe(&mut net, 0, "executor", 2);
    blocks(&mut net, &mut parent, 2..=2);
    net.input(0, Input::Delivered { subscription: id, next: CommitIndex(3) });
    blocks(&mut net, &mut parent, 3..=3);
    net.restart(0);
    assert_eq!(net.status(0).subscribers[0].next, CommitIndex(3));
}

#[test]
fn the_same_name_attached_again_replaces_the_first_and_acks_of_that_one_count_no_more() {
    let mut net = Net::new();
    let mut parent = net.genesis_digest();
    let first = Follower::new("executor").attach(&mut net, 0);
    blocks(&mut net, &mut parent, 1..=2);
    assert_eq!(indices(&mut net, 0, first), [1, 2]);
    let second = subscribe(&mut net, 0, "executor", 1);
    net.input(0, Input::Delivered { subscription: first, next: CommitIndex(3) });
    net.input(0, Input::Detach { subscription: first });
    net.settle();
    assert_eq!(net.nodes[0].ended[&first], SubscriptionEnd::Replaced);
    assert_eq!(net.status(0).subscribers[0].next, CommitIndex(1));
    assert_eq!(indices(&mut net, 0, second), [1, 2]);
}

#[test]
fn who_holds_for_too_long_is_detached_stays_so_and_may_come_back() {
    let config = SequencerConfig {
        subscriber_lag_max: Duration::from_secs(40),
        ..SequencerConfig::default()
    };
    let mut net = Net::with(config);
    let mut parent = net.genesis_digest();
    let slow = Follower::new("indexer").attach(&mut net, 0);
    let mut executor = Follower::new("executor");
    let good = executor.attach(&mut net, 0);
    blocks(&mut net, &mut parent, 1..=1);
    executor.follow(&mut net, 0, good);
    net.pass(Duration::from_secs(39));
    assert!(net.nodes[0].ended.is_empty());
    net.pass(Duration::from_secs(2));
    assert_eq!(net.nodes[0].ended[&slow], SubscriptionEnd::Lagged);
    assert!(!net.nodes[0].ended.contains_key(&good));
    net.restart(0);
    net.settle();
    let status = net.status(0).subscribers;
    let lagged = |name| status.iter().find(|s| s.name == name).unwrap().lagged;
    assert!(lagged("indexer") && !lagged("executor"), "{status:?}");
    // Its commits are still kept: it attaches where it stopped, and holds again.
    let mut indexer = Follower::new("indexer");
    let id = indexer.attach(&mut net, 0);
    indexer.follow(&mut net, 0, id);
    assert_eq!(indexer.next, 2);
    assert!(net.status(0).subscribers.iter().all(|s| !s.lagged));
}

#[test]
fn who_comes_back_late_is_given_time_to_catch_up() {
    let mut net = Net::with(SequencerConfig {
        subscriber_lag_max: Duration::from_secs(40),
        subscriber_window: 1,
        ..SequencerConfig::default()
    });
    let mut parent = net.genesis_digest();
    blocks(&mut net, &mut parent, 1..=3);
    net.pass(Duration::from_secs(41));
    // All of these were applied longer ago than a subscriber may hold them.
    let mut indexer = Follower::new("indexer");
    let id = indexer.attach(&mut net, 0);
    net.pass(Duration::from_secs(39));
    indexer.follow(&mut net, 0, id);
    net.pass(Duration::from_secs(39));
    indexer.follow(&mut net, 0, id);
    assert_eq!(indexer.next, 4);
    assert!(net.nodes[0].ended.is_empty());
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn who_holds_too_many_bytes_is_detached_and_what_it_held_goes() {
    let mut net = Net::with(SequencerConfig {
        subscriber_lag_bytes_max: ByteSize::mib(2),
        subscriber_lag_max: Duration::from_hours(24),
        batch_bytes_target: ByteSize::kib(600),
        ..SequencerConfig::default()
    });
    let slow = Follower::new("indexer").attach(&mut net, 0);
    let mut parent = net.genesis_digest();
    let large = "x".repeat(60_000);
    let mut first = None;
    for height in 1..=5 {
        for count in 0..9 {
            net.submit(1, &[&format!("{height} {count} {large}")]);
        }
        net.pass(net.config.batch_age_max);
        let (digest, payload) = net.block(height, parent);
        first = first.or_else(|| payload.content.batches().next().copied());
        parent = digest;
    }
    let first = first.unwrap().digest(&net.genesis.chain_id());
    for height in 6..=8 {
        net.pass(Duration::from_secs(25));
        parent = net.block(height, parent).0;
    }
    assert_eq!(net.nodes[0].ended.get(&slow), Some(&SubscriptionEnd::Lagged));
    parent = net.block(9, parent).0;
    net.block(10, parent);
    assert_eq!(net.status(0).held_bytes, 0);
    assert!(net.nodes[0].store.reader().batch(&first).unwrap().is_none());
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn what_is_no_longer_kept_is_pruned_and_names_are_bounded() {
    let mut net = Net::new();
    let mut parent = net.genesis_digest();
    for round in 0..3 {
        blocks(&mut net, &mut parent, round * 40 + 1..=round * 40 + 40);
        net.pass(Duration::from_secs(130));
    }
    blocks(&mut net, &mut parent, 121..=121);
    let SubscribeError::Pruned { first_kept } = refused(&mut net, 0, "executor", 1) else {
        panic!("not pruned")
    };
    assert!(first_kept > CommitIndex(64), "{first_kept:?}");
    let mut follower = Follower { next: first_kept.0, ..Follower::new("executor") };
    let id = follower.attach(&mut net, 0);
    follower.follow(&mut net, 0, id);
    assert_eq!(follower.next, 122);
    assert_eq!(refused(&mut net, 0, "", 122), SubscribeError::Name);
    assert_eq!(refused(&mut net, 0, &"n".repeat(65), 122), SubscribeError::Name);
    for count in 1..64 {
        subscribe(&mut net, 0, &format!("name {count}"), 122);
    }
    assert_eq!(refused(&mut net, 0, "one more", 122), SubscribeError::TooMany);
    let id = net.request(0, |id| Input::Unsubscribe { id, subscriber: "name 1".into() });
    subscribe(&mut net, 0, "one more", 122);
    net.settle();
    assert!(matches!(net.nodes[0].replies[&id], Reply::Unsubscribed));
    net.restart(0);
    assert_eq!(net.status(0).subscribers.len(), 64);
}

fn skip(net: &mut Net, index: usize, header: PayloadHeader) -> Result<CommitReceipt, SkipError> {
    let id = net.request(index, |id| Input::SkipTo { id, header });
    net.settle();
    match net.nodes[index].replies.remove(&id) {
        Some(Reply::SkippedTo(result)) => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn state_sync_reaches_every_subscriber_as_the_only_gap_also_after_a_crash() {
    for crash in [false, true] {
        let mut net = Net::new();
        let mut parent = net.genesis_digest();
        let mut executor = Follower::new("executor");
        let mut id = executor.attach(&mut net, 3);
        blocks(&mut net, &mut parent, 1..=2);
        executor.follow(&mut net, 3, id);
        // Node 3 misses five blocks; of one, it hears without getting the payload.
        net.drops = |from, to, _| from == 3 || to == 3;
        let mut headers = Vec::new();
        for height in 3..=7 {
            let payload = net.pull(0, height, parent);
            parent = payload.digest(&net.genesis.chain_id());
            (0..3).for_each(|index| {
                net.give_payload(0, index, &payload);
                net.commit(index, payload.header);
            });
            net.settle();
            net.pass(Duration::from_secs(1));
            headers.push(payload.header);
        }
        let waiting = net.commit(3, headers[0]);
        net.settle();
        assert_eq!(net.status(3).logged, CommitIndex(3));
        let receipt = skip(&mut net, 3, headers[4]).unwrap();
        assert!(receipt.acks.iter().all(|ack| ack.watermark == CommitIndex(7)));
        let reply = net.nodes[3].replies.remove(&waiting);
        let gone = CommitError::Pruned(CommitIndex(3));
        assert!(matches!(reply, Some(Reply::Committed(Err(error))) if error == gone));
        assert_eq!(net.status(3).fetches, 0, "what was skipped is not needed");
        assert_eq!(net.status(3).consensus_time, headers[4].block_timestamp);
        if crash {
            net.restart(3);
            net.settle();
            id = executor.attach(&mut net, 3);
        }
        net.drops = |_, _, _| false;
        blocks(&mut net, &mut parent, 8..=9);
        executor.follow(&mut net, 3, id);
        let (from, to) = (CommitIndex(3), CommitIndex(7));
        assert_eq!(executor.executed[2], Delivery::Skipped { from, to });
        assert_eq!(executor.next, 10);
        // One that comes later, and needs all, is told the same.
        let mut indexer = Follower::new("indexer");
        let id = indexer.attach(&mut net, 3);
        indexer.follow(&mut net, 3, id);
        assert_eq!(indexer.executed, executor.executed);
    }
}

#[test]
fn a_skip_that_does_not_lead_forward_on_this_chain_is_refused_and_a_repeat_changes_nothing() {
    let mut net = Net::new();
    let mut parent = net.genesis_digest();
    net.pass(Duration::from_secs(1));
    blocks(&mut net, &mut parent, 1..=2);
    let last = net.pull(0, 3, parent).header;
    let applied = CommitIndex(2);
    let behind = PayloadHeader { height: CommitIndex(1), ..last };
    assert_eq!(skip(&mut net, 0, behind), Err(SkipError::Behind { applied }));
    let fork = PayloadHeader { height: applied, ..last };
    assert_eq!(skip(&mut net, 0, fork), Err(SkipError::Behind { applied }));
    let back = PayloadHeader { height: CommitIndex(9), block_timestamp: Timestamp(1), ..last };
    assert_eq!(skip(&mut net, 0, back), Err(SkipError::TimeWentBack(CommitIndex(9))));
    let ahead = PayloadHeader { height: CommitIndex(9), ..last };
    skip(&mut net, 0, ahead).unwrap();
    let contents = net.status(0).contents;
    skip(&mut net, 0, ahead).unwrap();
    assert_eq!(net.status(0).applied, CommitIndex(9));
    assert_eq!(net.status(0).contents, contents);
    // A second jump right after the first is one jump for whoever has seen neither.
    let farther = PayloadHeader { height: CommitIndex(20), ..last };
    skip(&mut net, 0, farther).unwrap();
    let mut indexer = Follower { next: 2, ..Follower::new("indexer") };
    let id = indexer.attach(&mut net, 0);
    indexer.follow(&mut net, 0, id);
    let skipped = Delivery::Skipped { from: CommitIndex(3), to: CommitIndex(20) };
    assert_eq!(indexer.executed[1..], [skipped]);
    net.restart(0);
    net.settle();
    assert_eq!(net.status(0).applied, CommitIndex(20));
    assert_eq!(net.status(0).logged, CommitIndex(20));
}
