//! Payloads, commits, acks, retention.

use std::sync::Arc;
use std::time::Duration;

use super::net::*;
use crate::config::SequencerConfig;
use crate::sequencer::port::*;
use crate::store::Store as _;
use crate::types::*;

#[test]
fn a_commit_is_applied_to_all_four_components_and_acked_by_each() {
    let mut net = Net::new();
    let digest = net.batch(0, "one");
    let (_, payload) = net.block(1, net.genesis_digest());
    assert_eq!(payload.content.proofs.len(), 1);
    for (index, node) in net.nodes.iter().enumerate() {
        let receipt = node.store.reader().receipt(CommitIndex(1)).unwrap().unwrap();
        assert_eq!(receipt.acks.map(|ack| ack.component), Component::ALL);
        assert!(receipt.acks.iter().all(|ack| ack.watermark == CommitIndex(1)));
        let own = u64::from(index == 0);
        assert_eq!(receipt.acks.map(|ack| ack.freed), [own, 0, own, 1], "node {index}");
        assert_eq!(node.sequencer.proposable(), 0);
        assert!(node.store.reader().batch(&digest).unwrap().is_some(), "never deleted at commit");
    }
    // A late proof does not bring it back.
    let proof = net.nodes[0].store.reader().proof(&digest).unwrap().unwrap();
    net.input(1, Input::Proof { digest, proof: Arc::new(proof) });
    assert_eq!(net.nodes[1].sequencer.proposable(), 0);
}

#[test]
fn a_repeat_gets_the_same_receipt_and_what_does_not_follow_is_a_typed_error() {
    let mut net = Net::new();
    net.batch(0, "one");
    net.pass(Duration::from_secs(1));
    let (first, payload) = net.block(1, net.genesis_digest());
    let again = net.commit(0, payload.header);
    net.settle();
    let second = net.receipt(0, again).unwrap();
    assert_eq!(Some(second), net.nodes[0].store.reader().receipt(CommitIndex(1)).unwrap());

    let child = PayloadHeader { height: CommitIndex(2), parent: first, ..payload.header };
    let error = |net: &mut Net, header: PayloadHeader| {
        let id = net.commit(0, header);
        match net.nodes[0].replies.remove(&id) {
            Some(Reply::Committed(Err(error))) => error,
            other => panic!("{other:?}"),
        }
    };
    let gap = PayloadHeader { height: CommitIndex(3), ..child };
    let (found, expected) = (CommitIndex(3), CommitIndex(2));
    assert_eq!(error(&mut net, gap), CommitError::Gap { found, expected });
    let other = PayloadHeader { content_root: Digest([9; 32]), ..payload.header };
    assert_eq!(error(&mut net, other), CommitError::Conflict(CommitIndex(1)));
    let fork = PayloadHeader { parent: Digest([9; 32]), ..child };
    assert_eq!(error(&mut net, fork), CommitError::Conflict(CommitIndex(1)));
    let back = PayloadHeader { block_timestamp: Timestamp(1), ..child };
    assert_eq!(error(&mut net, back), CommitError::TimeWentBack(CommitIndex(2)));
    let id = RequestId(5_000);
    let commit = Commit { index: CommitIndex(2), round: 1, header: payload.header };
    net.input(0, Input::Commit { id, commit });
    let reply = net.nodes[0].replies.remove(&id);
    assert!(matches!(reply, Some(Reply::Committed(Err(CommitError::Height(CommitIndex(2)))))));

    // An equal timestamp is allowed, and another round is no conflict.
    let payload = net.pull(0, 2, first);
    let header = payload.header;
    assert_eq!(header.block_timestamp, child.block_timestamp, "no time has passed");
    let id = net.commit(0, header);
    net.settle();
    assert!(net.receipt(0, id).is_some());
    let id = RequestId(5_001);
    net.input(0, Input::Commit { id, commit: Commit { index: CommitIndex(2), round: 7, header } });
    net.settle();
    assert!(net.receipt(0, id).is_some());
}

#[test]
fn commits_are_logged_while_their_payload_is_missing_and_applied_in_order_once_it_is_fetched() {
    let mut net = Net::new();
    net.batch(0, "one");
    let first = net.pull(0, 1, net.genesis_digest());
    let first_digest = first.digest(&net.genesis.chain_id());
    net.batch(0, "two");
    let second = net.pull(0, 2, first_digest);
    net.drops = |_, _, message| matches!(message, Message::FetchRequest(_));
    let ids = [net.commit(3, first.header), net.commit(3, second.header)];
    net.settle();
    assert_eq!(net.status(3).logged, CommitIndex(2));
    assert_eq!(net.status(3).applied, CommitIndex(0));
    assert!(ids.iter().all(|id| net.receipt(3, *id).is_none()));
    // The second arrives first; then the first is fetched.
    net.give_payload(0, 3, &second);
    net.settle();
    assert_eq!(net.status(3).applied, CommitIndex(0));
    net.drops = |_, _, _| false;
    net.pass(Duration::from_secs(5));
    assert_eq!(net.status(3).applied, CommitIndex(2));
    assert!(ids.iter().all(|id| net.receipt(3, *id).is_some()));
    assert_eq!(net.status(3).fetches, 0);
}

#[test]
fn a_payload_is_voted_for_only_when_valid_and_durable_and_stays_pending_while_missing() {
    let mut net = Net::new();
    net.batch(0, "one");
    let genesis = net.genesis_digest();
    let payload = net.pull(0, 1, genesis);
    let digest = payload.digest(&net.genesis.chain_id());
    let parent =
        ParentOf { digest: genesis, height: CommitIndex(0), block_timestamp: Timestamp(0) };
    net.drops = |_, _, message| matches!(message, Message::FetchRequest(_));
    let id = net.verify(1, digest, Some(parent));
    net.pass(Duration::from_secs(2));
    assert!(!net.nodes[1].replies.contains_key(&id), "pending, never false, while missing");
    net.nodes[1].holds = true;
    net.give_payload(0, 1, &payload);
    assert!(!net.nodes[1].replies.contains_key(&id), "not before it is durable");
    net.nodes[1].holds = false;
    net.settle();
    assert!(matches!(net.nodes[1].replies.get(&id), Some(Reply::Verified(Ok(_)))));
    assert!(net.nodes[1].store.reader().payload(&digest).unwrap().is_some());

    let invalid = |net: &mut Net, parent| {
        let id = net.verify(1, digest, Some(parent));
        net.settle();
        match net.nodes[1].replies.remove(&id) {
            Some(Reply::Verified(Err(error))) => error,
            other => panic!("{other:?}"),
        }
    };
    let other = ParentOf { digest: Digest([8; 32]), ..parent };
    assert_eq!(invalid(&mut net, other), InvalidPayload::Parent);
    let other = ParentOf { height: CommitIndex(1), ..parent };
    assert_eq!(invalid(&mut net, other), InvalidPayload::Parent);
    let other = ParentOf { block_timestamp: Timestamp(u64::MAX), ..parent };
    assert_eq!(invalid(&mut net, other), InvalidPayload::TimeWentBack);
}

#[test]
fn a_missing_payload_is_fetched_from_who_should_have_it() {
    let mut net = Net::new();
    net.batch(0, "one");
    let payload = net.pull(0, 1, net.genesis_digest());
    let digest = payload.digest(&net.genesis.chain_id());
    let id = net.verify(1, digest, None);
    net.pass(Duration::from_secs(2));
    assert!(matches!(net.nodes[1].replies.get(&id), Some(Reply::Verified(Ok(_)))));
}

#[test]
fn a_pull_leaves_out_what_unfinalised_ancestors_hold_and_repeats_itself() {
    let mut net = Net::new();
    let one = net.batch(0, "one");
    let first = net.pull(0, 1, net.genesis_digest());
    let chain = net.genesis.chain_id();
    let two = net.batch(1, "two");
    let second = net.pull(0, 2, first.digest(&chain));
    let digests = |payload: &Payload| -> Vec<Digest> {
        payload.content.batches().map(|info| info.digest(&chain)).collect()
    };
    assert_eq!(digests(&first), [one]);
    assert_eq!(digests(&second), [two]);
    assert_eq!(net.pull(0, 2, first.digest(&chain)), second, "same state, same answer");
    let rival = net.pull(0, 1, net.genesis_digest());
    assert_eq!(digests(&rival), [one, two], "another fork excludes only its own ancestors");

    let request = net.pull_request(2, Digest([7; 32]));
    net.input(0, Input::Pull { id: RequestId(900), request });
    let reply = net.nodes[0].replies.remove(&RequestId(900));
    assert!(matches!(reply, Some(Reply::Pulled(Err(PullError::UnknownAncestor(_))))));
    let request = net.pull_request(7, first.digest(&chain));
    net.input(0, Input::Pull { id: RequestId(901), request });
    let reply = net.nodes[0].replies.remove(&RequestId(901));
    assert!(matches!(reply, Some(Reply::Pulled(Err(PullError::Parent)))));
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn content_goes_after_its_grace_unless_a_subscriber_still_needs_it() {
    let mut net = Net::new();
    let digest = net.batch(1, "one");
    let attach = |net: &mut Net, next| {
        let subscriber = "executor".to_owned();
        net.input(0, Input::Acknowledge { subscriber, next: CommitIndex(next) });
        net.settle();
    };
    attach(&mut net, 1);
    let (mut parent, _) = net.block(1, net.genesis_digest());
    let holds =
        |net: &Net, index: usize| net.nodes[index].store.reader().batch(&digest).unwrap().is_some();
    for height in 2..5 {
        net.pass(Duration::from_secs(25));
        parent = net.block(height, parent).0;
    }
    assert!(!holds(&net, 1), "75 s later it is gone where nobody needs it");
    assert!(holds(&net, 0), "the executor has not passed commit 1 yet");
    assert_eq!(net.nodes[0].sequencer.stored_of(&net.nodes[1].author), Usage::default());
    attach(&mut net, 5);
    parent = net.block(5, parent).0;
    assert!(!holds(&net, 0));
    assert!(net.nodes[0].store.reader().proof(&digest).unwrap().is_none());
    assert!(net.nodes[0].store.reader().payload(&parent).unwrap().is_some());

    // Its slot is gone, its floor is not: neither it nor another one comes back.
    let before = net.nodes[0].signed.len();
    for restart in [false, true] {
        if restart {
            net.restart(0);
            net.settle();
        }
        let mut batch = net.forge(1, 0, "one", Duration::from_secs(20));
        batch.info.batch_id = BatchId { incarnation: Incarnation(101), counter: 0 };
        net.give_batch(1, 0, &batch);
        net.settle();
        assert_eq!(net.nodes[0].refusals.pop(), Some(Refusal::BelowFloor));
        assert_eq!(net.nodes[0].signed.len(), if restart { 0 } else { before });
    }
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn transactions_of_an_expired_batch_are_batched_again_while_they_live() {
    let mut net = Net::new();
    // Certified nowhere, so nothing can order it.
    net.drops = |_, _, message| matches!(message, Message::Votes { .. });
    let long = Transaction {
        expiration: net.now.wall.saturating_add(Duration::from_secs(100)),
        ..net.transaction("long")
    };
    let short = net.transaction("short");
    let id = RequestId(700);
    net.input(0, Input::Submit { id, transactions: vec![short, long] });
    net.pass(net.config.batch_age_max);
    let old = net.accepted(0, id)[0].batch;
    net.drops = |_, _, _| false;
    let mut parent = net.genesis_digest();
    net.drops = |_, _, message| matches!(message, Message::Batch(_) | Message::Votes { .. });
    net.pass(Duration::from_secs(31));
    net.drops = |_, _, _| false;
    parent = net.block(1, parent).0;
    net.pass(Duration::from_secs(1));
    let events = std::mem::take(&mut net.nodes[0].events);
    assert!(events.contains(&Event::Expired { batch: old, positions: vec![0] }), "{events:?}");
    let moved = events.iter().find_map(|event| match event {
        Event::Rebatched { from, moved } if *from == old => Some(moved.clone()),
        _ => None,
    });
    let moved = moved.unwrap();
    assert_eq!(moved[0].0, 1);
    let (_, payload) = net.block(2, parent);
    let chain = net.genesis.chain_id();
    let ordered: Vec<_> = payload.content.batches().map(|info| info.digest(&chain)).collect();
    assert_eq!(ordered, [moved[0].1.batch]);
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_node_that_catches_up_keeps_and_counts_what_commits_not_applied_yet_order_in_time() {
    let mut net = Net::new();
    let subscriber = "executor".to_owned();
    net.input(3, Input::Acknowledge { subscriber, next: CommitIndex(1) });
    let empty = net.pull(0, 1, net.genesis_digest());
    net.commit(0, empty.header);
    let mut payloads = vec![empty];
    let own = net.batch(3, "own");
    let other = net.batch(1, "other");
    let chain = net.genesis.chain_id();
    for height in 2..6 {
        let parent = payloads[payloads.len() - 1].digest(&chain);
        let payload = net.pull(0, height, parent);
        assert_eq!(payload.content.proofs.len(), if height == 2 { 2 } else { 0 });
        net.commit(0, payload.header);
        payloads.push(payload);
        net.pass(Duration::from_secs(25));
    }
    // All at once: consensus time lies beyond the grace of what the second commit orders.
    let ids: Vec<_> = payloads.iter().map(|payload| net.commit(3, payload.header)).collect();
    for payload in &payloads {
        net.give_payload(0, 3, payload);
    }
    net.settle();
    assert_eq!(net.nodes[3].sequencer.status().applied, CommitIndex(5));
    let reader = net.nodes[3].store.reader();
    for digest in [own, other] {
        assert!(reader.batch(&digest).unwrap().is_some(), "the executor needs {digest:?}");
    }
    assert_eq!(net.nodes[3].events, [Event::Certified { digest: own }], "not batched again");
    assert_eq!(net.receipt(3, ids[1]).unwrap().acks[0].freed, 1);
}

/// An empty payload at the first height, told from others by a parent that nobody knows.
fn on_unknown(net: &Net, parent: u8) -> Arc<Payload> {
    let content = PayloadContent::default();
    let header = PayloadHeader {
        epoch: Epoch(0),
        height: CommitIndex(1),
        parent: Digest([parent; 32]),
        block_timestamp: net.now.wall,
        content_root: content.root(),
    };
    Arc::new(Payload { header, content })
}

#[test]
fn whoever_asked_about_a_payload_is_answered_when_it_arrives_again() {
    let config = SequencerConfig { unasked_payloads_max: 2, ..SequencerConfig::default() };
    let mut net = Net::with(config);
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|parent| on_unknown(&net, parent));
    let (digest, height) = (net.genesis_digest(), CommitIndex(0));
    let elsewhere = Some(ParentOf { digest, height, block_timestamp: Timestamp(0) });
    let chain = net.genesis.chain_id();
    // Refused for where they were proposed, and pushed out by each other.
    for (from, payload) in [(1, &first), (2, &second), (2, &third)] {
        net.give_payload(from, 0, payload);
        let id = net.verify(0, payload.digest(&chain), elsewhere);
        let refused = net.nodes[0].replies.get(&id);
        assert!(matches!(refused, Some(Reply::Verified(Err(InvalidPayload::Parent)))));
    }
    let id = net.verify(0, first.digest(&chain), None);
    assert!(!net.nodes[0].replies.contains_key(&id), "it is gone, and asked for again");
    net.give_payload(1, 0, &fourth);
    net.give_payload(1, 0, &first);
    net.settle();
    assert!(matches!(net.nodes[0].replies.get(&id), Some(Reply::Verified(Ok(_)))));
}

#[test]
fn as_many_payloads_as_said_are_kept_of_a_peer_that_nobody_asked_and_the_oldest_makes_room() {
    let config = SequencerConfig { unasked_payloads_max: 2, ..SequencerConfig::default() };
    let mut net = Net::with(config);
    let payloads = [1, 2, 3].map(|parent| on_unknown(&net, parent));
    for payload in &payloads {
        net.give_payload(2, 0, payload);
    }
    let (digest, chain) = (net.genesis_digest(), net.genesis.chain_id());
    let elsewhere = ParentOf { digest, height: CommitIndex(0), block_timestamp: Timestamp(0) };
    // What is here is refused at once, for where it was proposed.
    let is_here = payloads.map(|payload| {
        let id = net.verify(0, payload.digest(&chain), Some(elsewhere));
        net.nodes[0].replies.contains_key(&id)
    });
    assert_eq!(is_here, [false, true, true]);
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn commits_are_known_through_the_last_moment_of_their_time_and_then_pruned() {
    let mut net = Net::new();
    let parameters = net.genesis.parameters;
    let kept = 2 * (parameters.batch_lifetime() + parameters.grace());
    let (mut parent, payload) = net.block(1, net.genesis_digest());
    // They go in runs of 64.
    for height in 2..=64 {
        parent = net.block(height, parent).0;
    }
    for (height, later) in [(65, kept), (66, Duration::from_micros(1))] {
        net.now.wall = net.now.wall.saturating_add(later);
        parent = net.block(height, parent).0;
        let id = net.commit(0, payload.header);
        net.settle();
        let Some(Reply::Committed(result)) = net.nodes[0].replies.remove(&id) else { panic!() };
        let pruned = result == Err(CommitError::Pruned(CommitIndex(1)));
        assert_eq!((result.is_ok(), pruned), (height == 65, height == 66), "{result:?}");
    }
}
