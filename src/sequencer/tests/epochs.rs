//! The end of an epoch, and the start of the next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::net::*;
use crate::sequencer::port::*;
use crate::store::Store as _;
use crate::types::*;

const SOON: Duration = Duration::from_secs(1);

/// What execution would do: every transaction in the batches of a payload, by its bytes.
fn execute(net: &Net, payload: &Payload, executed: &mut BTreeMap<Vec<u8>, u32>) {
    let chain = net.genesis.chain_id();
    for info in payload.content.batches() {
        assert_eq!(info.epoch, payload.header.epoch, "a payload orders its own epoch only");
        let holds = |node: &Node| node.store.reader().batch(&info.digest(&chain)).unwrap();
        let batch = net.nodes.iter().find_map(holds).expect("somebody holds it");
        for bytes in batch.body.transactions() {
            *executed.entry(bytes.to_vec()).or_default() += 1;
        }
    }
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn own_transactions_in_no_commit_are_offered_again_certified_or_not_and_none_runs_twice() {
    let mut net = Net::new();
    let mut executed = BTreeMap::new();
    net.batch(0, "ordered");
    let (_, payload) = net.block(1, net.genesis_digest());
    execute(&net, &payload, &mut executed);
    let certified = net.batch(0, "certified");
    net.drops = |_, _, message| matches!(message, Message::Votes { .. });
    let uncertified = net.batch(0, "uncertified");
    net.drops = |_, _, _| false;
    let pooled = net.submit(0, &["pooled"]);
    let receipts = net.close_all(0, 1);
    let receipt = &receipts[0];
    assert_eq!((receipt.epoch, receipt.final_index), (Epoch(0), CommitIndex(1)));
    assert_eq!((receipt.handed_over_batches, receipt.handed_over_transactions), (2, 2));
    assert_eq!(receipt.acks.map(|ack| ack.component), Component::ALL);
    assert!(receipt.acks.iter().all(|ack| ack.watermark == CommitIndex(1)));
    // Two own batches, three slots, two own batches with votes, one proof that was not ordered.
    assert_eq!(receipt.acks.map(|ack| ack.freed), [2, 3, 2, 1]);
    assert_eq!(net.status(0).epoch_phase, "closed");
    for index in 0..4 {
        net.open(index, 1, &committee(0..4));
    }
    net.pass(SOON);
    net.accepted(0, pooled);
    let digest = payload.digest(&net.genesis.chain_id());
    let (_, payload) = net.block(2, digest);
    execute(&net, &payload, &mut executed);
    let expected = ["ordered", "certified", "uncertified", "pooled"];
    let expected = expected.map(|text| (text.as_bytes().to_vec(), 1));
    assert_eq!(executed, BTreeMap::from(expected));
    let moved = |event: &Event| match event {
        Event::Rebatched { from, .. } => Some(*from),
        _ => None,
    };
    let moved: Vec<_> = net.nodes[0].events.iter().filter_map(moved).collect();
    assert!(moved.contains(&certified) && moved.contains(&uncertified));
    // Also a later life does not offer them again.
    net.restart(0);
    net.settle();
    let status = net.status(0);
    assert_eq!((status.pool_transactions, status.outstanding_batches), (0, 0));
}

#[test]
fn nothing_is_signed_admitted_or_submitted_after_the_fence_and_late_calls_say_so() {
    let mut net = Net::new();
    let (first, payload) = net.block(1, net.genesis_digest());
    // A signature waits in the open group when the epoch is closed.
    let batch = net.forge(1, 1, "one", Duration::from_secs(20));
    net.nodes[0].holds = true;
    net.give_batch(1, 0, &batch);
    let close = net.close(0, 0, 2, SOON);
    net.nodes[0].holds = false;
    net.settle();
    assert!(net.nodes[0].signed.is_empty(), "signed after the fence");
    assert!(!net.nodes[0].replies.contains_key(&close), "commit 2 is still to come");
    assert_eq!(net.status(0).epoch_phase, "closing");
    let other = net.forge(1, 2, "two", Duration::from_secs(20));
    for batch in [&batch, &other] {
        net.give_batch(1, 0, batch);
        net.settle();
        assert_eq!(net.nodes[0].refusals.pop(), Some(Refusal::EpochOver));
    }
    assert!(!Refusal::EpochOver.is_fault() && !Refusal::NotYet.is_fault());
    let id = net.submit(0, &["late"]);
    let Some(Reply::Submitted(results)) = net.nodes[0].replies.remove(&id) else { panic!() };
    assert_eq!(results, [Err(SubmitError::EpochClosed { epoch: Epoch(0) })]);

    // What leads to the last commit goes on; what lies beyond does not.
    let last = net.pull(0, 2, first);
    let pull = |net: &mut Net, height, parent| {
        let request = net.pull_request(height, parent);
        let id = net.request(0, |id| Input::Pull { id, request });
        net.settle();
        net.nodes[0].replies.remove(&id)
    };
    let last_digest = last.digest(&net.genesis.chain_id());
    let beyond = pull(&mut net, 3, last_digest);
    let closed = PullError::EpochClosed { epoch: Epoch(0) };
    assert!(matches!(beyond, Some(Reply::Pulled(Err(error))) if error == closed));
    let parent = last.digest(&net.genesis.chain_id());
    let beyond = PayloadHeader { height: CommitIndex(3), parent, ..last.header };
    let content = PayloadContent::default();
    let payload_beyond = std::sync::Arc::new(Payload { header: beyond, content });
    net.give_payload(1, 0, &payload_beyond);
    let id = net.verify(0, payload_beyond.digest(&net.genesis.chain_id()), None);
    let over = InvalidPayload::EpochOver { final_index: CommitIndex(2) };
    let reply = net.nodes[0].replies.remove(&id);
    assert!(matches!(reply, Some(Reply::Verified(Err(error))) if error == over));

    let id = net.commit(0, last.header);
    net.settle();
    assert!(net.receipt(0, id).is_some());
    assert_eq!(net.closed(0, close).unwrap().final_index, CommitIndex(2));
    net.give_payload(1, 0, &payload_beyond);
    let id = net.verify(0, payload_beyond.digest(&net.genesis.chain_id()), None);
    let reply = net.nodes[0].replies.remove(&id);
    assert!(matches!(reply, Some(Reply::Verified(Err(error))) if error == over));
    let id = net.commit(0, beyond);
    let reply = net.nodes[0].replies.remove(&id);
    let closed = CommitError::EpochClosed { epoch: Epoch(0) };
    assert!(matches!(reply, Some(Reply::Committed(Err(error))) if error == closed));
    let of_the_next = PayloadHeader { epoch: Epoch(1), ..beyond };
    let id = net.commit(0, of_the_next);
    let reply = net.nodes[0].replies.remove(&id);
    let early = CommitError::EpochNotOpen { epoch: Epoch(1) };
    assert!(matches!(reply, Some(Reply::Committed(Err(error))) if error == early));
    // A repeat of what is known is answered as ever.
    let id = net.commit(0, payload.header);
    net.settle();
    assert!(net.receipt(0, id).is_some());
}

#[test]
fn the_receipt_of_an_epoch_names_the_subscribers_that_are_behind() {
    let mut net = Net::new();
    for name in ["executor", "indexer"] {
        let subscriber = name.to_owned();
        net.request(0, |id| Input::Subscribe { id, subscriber, next: CommitIndex(1) });
    }
    net.block(1, net.genesis_digest());
    let subscriber = "executor".to_owned();
    net.input(0, Input::Acknowledge { subscriber, next: CommitIndex(2) });
    let receipts = net.close_all(0, 1);
    assert_eq!(receipts[0].behind, ["indexer"]);
    assert!(receipts[1].behind.is_empty());
}

#[test]
fn closing_again_gives_the_same_end_and_a_deadline_says_who_is_late() {
    let mut net = Net::new();
    net.batch(0, "one");
    let first = net.pull(0, 1, net.genesis_digest());
    net.drops = |_, _, message| matches!(message, Message::FetchRequest(_));
    let id = net.close(3, 0, 1, SOON);
    net.pass(SOON);
    let late = |logged, missing| CloseError::Late {
        final_index: CommitIndex(1),
        logged: CommitIndex(logged),
        applied: CommitIndex(0),
        missing,
    };
    let ordering = net.closed(3, id).unwrap_err();
    assert_eq!(ordering, late(0, None));
    let phase = |net: &Net| (net.status(3).epoch_phase, net.status(3).final_index);
    assert_eq!(phase(&net), ("closing", Some(CommitIndex(1))));
    assert!(ordering.to_string().contains("ordering"), "{ordering}");
    let (waits, cancelled) = (net.close(3, 0, 1, SOON * 60), net.close(3, 0, 1, SOON));
    let id = net.close(3, 0, 1, SOON);
    net.input(3, Input::Cancel(cancelled));
    net.commit(3, first.header);
    net.pass(SOON);
    let digest = first.digest(&net.genesis.chain_id());
    assert_eq!(net.closed(3, id).unwrap_err(), late(1, Some(digest)));
    let id = net.close(3, 0, 2, SOON);
    assert_eq!(net.closed(3, id), Err(CloseError::Conflict { known: CommitIndex(1) }));
    let id = net.close(3, 1, 2, SOON);
    let not_open = CloseError::NotOpen { epoch: Epoch(1), open: Epoch(0) };
    assert_eq!(net.closed(3, id), Err(not_open));
    net.drops = |_, _, _| false;
    net.pass(SOON * 4);
    let receipt = net.closed(3, waits).unwrap();
    assert!(!net.nodes[3].replies.contains_key(&cancelled));
    let id = net.close(3, 0, 1, SOON);
    net.settle();
    assert_eq!(net.closed(3, id).unwrap(), receipt);
    assert_eq!(phase(&net), ("closed", Some(CommitIndex(1))));
    let id = net.close(3, 0, 2, SOON);
    net.settle();
    assert_eq!(net.closed(3, id), Err(CloseError::Conflict { known: CommitIndex(1) }));
    // Also after the next one began; and what was closed before that is only known to be over.
    net.open(3, 1, &committee(0..4));
    assert_eq!(phase(&net), ("open", None));
    let id = net.close(3, 0, 1, SOON);
    net.settle();
    assert_eq!(net.closed(3, id).unwrap(), receipt);
    let id = net.close(3, 1, 0, SOON);
    assert_eq!(net.closed(3, id), Err(CloseError::Passed { logged: CommitIndex(1) }));
    let id = net.close(3, 1, 1, SOON);
    net.settle();
    net.closed(3, id).unwrap();
    let id = net.close(3, 0, 1, SOON);
    assert_eq!(net.closed(3, id), Err(CloseError::EpochClosed { epoch: Epoch(0) }));
}

#[test]
fn epochs_open_in_order_and_opening_again_changes_nothing() {
    let mut net = Net::new();
    let opened = |net: &mut Net, epoch, committee: Committee| {
        let id = net.request(0, |id| Input::OpenEpoch { id, epoch: Epoch(epoch), committee });
        net.settle();
        match net.nodes[0].replies.remove(&id) {
            Some(Reply::Opened(result)) => result,
            other => panic!("{other:?}"),
        }
    };
    let early = OpenError::NotClosed { open: Epoch(0) };
    assert_eq!(opened(&mut net, 1, committee(0..4)), Err(early));
    net.block(1, net.genesis_digest());
    net.close_all(0, 1);
    net.committees.insert(Epoch(1), committee(0..3));
    assert_eq!(opened(&mut net, 1, committee(0..3)), Ok(()));
    assert_eq!(opened(&mut net, 1, committee(0..3)), Ok(()));
    let known = OpenError::Conflict { epoch: Epoch(1) };
    assert_eq!(opened(&mut net, 1, committee(0..4)), Err(known));
    let over = OpenError::Conflict { epoch: Epoch(0) };
    assert_eq!(opened(&mut net, 0, committee(0..4)), Err(over));
    assert_eq!(net.status(0).epoch, Epoch(1));
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn floors_go_with_their_epoch() {
    let mut net = Net::new();
    let floors = |net: &Net| {
        let recovered = net.nodes[0].store.clone_durable().recover().unwrap();
        let is_floor = |record: &&Record| matches!(record, Record::Floor { .. });
        recovered.records.iter().filter(is_floor).count()
    };
    net.batch(1, "one");
    let (parent, _) = net.block(1, net.genesis_digest());
    net.pass(Duration::from_mins(3));
    net.block(2, parent);
    assert_eq!(floors(&net), 1, "its slot ended with its content");
    net.close_all(0, 2);
    for index in 0..4 {
        net.open(index, 1, &committee(0..4));
    }
    net.pass(SOON);
    assert_eq!(floors(&net), 0);
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_restart_in_any_phase_goes_on_in_it() {
    // Before the fence is written, after it, once closed, and in the next epoch.
    for phase in 0..5 {
        let mut net = Net::new();
        let (first, _) = net.block(1, net.genesis_digest());
        net.batch(0, "kept");
        let last = net.pull(1, 2, first);
        net.nodes[0].holds = phase == 0;
        net.close(0, 0, 2, SOON);
        net.settle();
        if phase >= 2 {
            net.give_payload(1, 0, &last);
            net.commit(0, last.header);
            net.settle();
        }
        if phase >= 3 {
            net.open(0, 1, &committee(0..3));
        }
        if phase == 4 {
            net.pass(SOON);
        }
        net.nodes[0].holds = false;
        net.restart(0);
        net.settle();
        let status = net.status(0);
        let expected = ["open", "closing", "closed", "open", "open"][phase];
        assert_eq!((status.epoch_phase, status.epoch.0), (expected, u64::from(phase >= 3)));
        let batch = net.forge(1, 1, "one", Duration::from_secs(20));
        net.nodes[0].signed.clear();
        net.give_batch(1, 0, &batch);
        net.settle();
        assert_eq!(net.nodes[0].signed.len(), usize::from(phase == 0));
        // Going on from there ends the same way.
        if phase < 3 {
            let close = net.close(0, 0, 2, SOON);
            net.give_payload(1, 0, &last);
            net.commit(0, last.header);
            net.settle();
            assert_eq!(net.closed(0, close).unwrap().final_index, CommitIndex(2));
            net.open(0, 1, &committee(0..3));
        }
        for index in 1..4 {
            net.give_payload(1, index, &last);
            net.commit(index, last.header);
            net.settle();
            net.close(index, 0, 2, SOON);
            net.settle();
            net.open(index, 1, &committee(0..3));
        }
        net.pass(SOON * 3);
        // The batch was ordered by the last payload: it is in no pool and no batch.
        let status = net.status(0);
        assert_eq!((status.pool_transactions, status.outstanding_batches), (0, 0), "{phase}");
        net.batch(0, "next");
        let third = net.pull(0, 3, last.digest(&net.genesis.chain_id()));
        assert_eq!(third.content.proofs.len(), 1);
        assert_eq!(third.content.proofs[0].info.epoch, Epoch(1));
    }
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn the_last_batch_of_an_epoch_held_by_leavers_is_read_in_the_next_until_its_retention_ends() {
    let mut net = Net::new();
    // Node 0 certifies at the last moment with 1 and 2, who leave with it; node 3 has nothing.
    net.drops = |_, to, message| to == 3 && matches!(message, Message::Batch(_));
    let digest = net.batch(0, "last");
    let (last, payload) = net.block(1, net.genesis_digest());
    assert_eq!(payload.content.proofs.len(), 1);
    let receipts = net.close_all(0, 1);
    let newcomers = committee(3..7);
    net.committees.insert(Epoch(1), newcomers.clone());
    net.starts_at = Epoch(1);
    for _ in 4..7 {
        net.add_node();
    }
    net.open(3, 1, &newcomers);
    for index in 4..7 {
        net.link_both(index);
        // They took the state of others, which is how one joins.
        let header = payload.header;
        net.request(index, |id| Input::SkipTo { id, header });
    }
    net.settle();
    assert_eq!(net.status(3).epochs_served, [Epoch(0)]);
    let fetch = |net: &mut Net, index: usize| {
        let responders = (0..3).map(|index| net.nodes[index].author).collect();
        let deadline = net.now.monotonic + SOON;
        let id = net.request(index, |id| Input::Fetch {
            id,
            wanted: wanted(digest, responders),
            deadline,
        });
        net.pass(SOON);
        net.nodes[index].replies.remove(&id)
    };
    let found = fetch(&mut net, 3);
    assert!(matches!(found, Some(Reply::Fetched(Ok(Content::Batch(_))))), "{found:?}");
    // The next epoch works with who is in it, and consensus time moves on.
    net.pass(SOON);
    let peers = |net: &Net| net.nodes[3].sequencer.peers().count();
    assert_eq!(peers(&net), 6, "leavers keep their links");
    let mut parent = last;
    for height in 2..5 {
        net.pass(Duration::from_secs(31));
        let mut request = net.pull_request(height, parent);
        request.epoch = Epoch(1);
        let id = net.request(3, |id| Input::Pull { id, request });
        net.settle();
        let Some(Reply::Pulled(Ok(payload))) = net.nodes[3].replies.remove(&id) else { panic!() };
        net.commit(3, payload.header);
        net.settle();
        parent = payload.digest(&net.genesis.chain_id());
    }
    assert!(net.status(3).consensus_time > receipts[3].served_until);
    assert_eq!(net.status(3).epochs_served, []);
    assert_eq!(peers(&net), 3, "and no longer");
    assert!(net.nodes[3].store.reader().batch(&digest).unwrap().is_none());
}

#[test]
fn a_validator_that_is_an_epoch_behind_is_told_so_without_offence_and_catches_up() {
    let mut net = Net::new();
    let (first, payload) = net.block(1, net.genesis_digest());
    for index in 0..3 {
        net.close(index, 0, 1, SOON);
        net.settle();
        net.open(index, 1, &committee(0..4));
    }
    assert_eq!(net.status(3).epoch, Epoch(0));
    // Nobody sends it batches that it could not sign; three are a quorum.
    let digest = net.batch(0, "without three");
    assert!(net.nodes[0].events.contains(&Event::Certified { digest }));
    assert!(net.nodes[3].store.reader().batch(&digest).unwrap().is_none());
    let batch = net.forge(1, 1, "early", Duration::from_secs(20));
    net.give_batch(1, 3, &batch);
    assert_eq!(net.nodes[3].refusals.pop(), Some(Refusal::NotYet));
    let answer = net.wires.iter().find(|(from, to, _)| (*from, *to) == (3, 1));
    assert!(matches!(answer, Some((_, _, Message::Serving(Epoch(0))))), "{answer:?}");
    net.settle();
    let behind = net.status(0).windows;
    let three = behind.iter().find(|w| w.peer == net.nodes[3].author).unwrap();
    assert_eq!(three.epoch, Some(Epoch(0)));
    // Then it does, and takes part at once.
    net.close(3, 0, 1, SOON);
    net.settle();
    net.open(3, 1, &committee(0..4));
    net.pass(SOON);
    assert_eq!(net.nodes[3].sequencer.proposable(), 1, "it got the proofs that it missed");
    let ordered = net.block(2, first).1;
    assert_eq!(ordered.content.proofs.len(), 1);
    let digest = net.batch(3, "with three");
    assert!(net.nodes[3].events.contains(&Event::Certified { digest }));
    assert_eq!(payload.header.epoch, Epoch(0));
}

#[test]
fn a_leaver_gives_back_what_it_accepted_and_still_serves() {
    let mut net = Net::new();
    net.drops = |_, _, message| matches!(message, Message::Votes { .. });
    let batch = net.batch(3, "sealed");
    let waiting = net.submit(3, &["pooled"]);
    net.drops = |_, _, _| false;
    net.block(1, net.genesis_digest());
    net.close_all(0, 1);
    net.open(3, 1, &committee(0..3));
    let Some(Reply::Submitted(results)) = net.nodes[3].replies.remove(&waiting) else { panic!() };
    assert_eq!(results, [Err(SubmitError::NotAMember)]);
    let (positions, reason) = (vec![0], ReturnReason::LeftCommittee);
    let returned = Event::Returned { batch, positions, reason };
    assert!(net.nodes[3].events.contains(&returned), "{:?}", net.nodes[3].events);
    let id = net.submit(3, &["late"]);
    let Some(Reply::Submitted(results)) = net.nodes[3].replies.remove(&id) else { panic!() };
    assert_eq!(results, [Err(SubmitError::NotAMember)]);
    assert!(net.nodes[3].store.reader().batch(&batch).unwrap().is_some());
    assert_eq!(net.nodes[3].sequencer.peers().count(), 3);
    net.restart(3);
    net.settle();
    assert_eq!(net.status(3).pool_transactions, 0, "given back once");
}

#[test]
fn state_sync_past_the_end_of_an_epoch_ends_it_and_what_became_of_own_batches_is_unknown() {
    for crash in [false, true] {
        let mut net = Net::new();
        let batch = net.batch(3, "one");
        let (first, _) = net.block(1, net.genesis_digest());
        let other = net.batch(3, "two");
        let parent = Digest([8; 32]);
        let last = net.pull(0, 2, first).header;
        let header = PayloadHeader { epoch: Epoch(1), height: CommitIndex(9), parent, ..last };
        let id = net.request(3, |id| Input::SkipTo { id, header });
        net.settle();
        assert!(matches!(net.nodes[3].replies[&id], Reply::SkippedTo(Ok(_))));
        let returned = |event: &Event| match event {
            Event::Returned { batch, reason: ReturnReason::Unknown, .. } => Some(*batch),
            _ => None,
        };
        let returned: Vec<_> = net.nodes[3].events.iter().filter_map(returned).collect();
        assert_eq!(returned, [other], "not {batch:?}, which was ordered");
        if crash {
            net.restart(3);
            net.settle();
        }
        let status = net.status(3);
        assert_eq!((status.epoch_phase, status.pool_transactions), ("closed", 0));
        net.open(3, 1, &committee(0..4));
        assert_eq!(net.status(3).outstanding_batches, 0);
        assert_eq!(net.status(3).applied, CommitIndex(9));
    }
}

#[test]
fn a_payload_that_was_judged_before_its_epoch_was_opened_is_judged_again() {
    let mut net = Net::new();
    net.close_all(0, 0);
    for index in 0..3 {
        net.open(index, 1, &committee(0..4));
    }
    let payload = net.pull(0, 1, net.genesis_digest());
    let digest = payload.digest(&net.genesis.chain_id());
    // Ingress judged it while the last epoch was open here.
    net.open(3, 1, &committee(0..4));
    let from = net.nodes[0].author;
    let verdict = Err(InvalidPayload::Epoch { found: Epoch(1), expected: Epoch(0) });
    let (early, batches) = (std::sync::Arc::clone(&payload), Vec::new());
    net.input(3, Input::Payload { from, digest, payload: early, batches, verdict });
    let id = net.verify(3, digest, None);
    net.settle();
    let reply = net.nodes[3].replies.remove(&id);
    assert!(matches!(reply, None | Some(Reply::Verified(Ok(_)))), "{reply:?}");
    net.give_payload(0, 3, &payload);
    let id = net.verify(3, digest, None);
    net.settle();
    assert!(matches!(net.nodes[3].replies.remove(&id), Some(Reply::Verified(Ok(_)))));
    // One of another epoch stays what it is.
    let old = PayloadHeader { epoch: Epoch(0), ..payload.header };
    let old = std::sync::Arc::new(Payload { header: old, ..Payload::clone(&payload) });
    net.give_payload(0, 3, &old);
    let id = net.verify(3, old.digest(&net.genesis.chain_id()), None);
    net.settle();
    let reply = net.nodes[3].replies.remove(&id);
    assert!(matches!(reply, Some(Reply::Verified(Err(InvalidPayload::Epoch { .. })))), "{reply:?}");
}

#[test]
fn who_signs_badly_is_remembered_over_the_end_of_an_epoch() {
    let mut net = Net::new();
    let from = net.nodes[3].author;
    net.input(0, Input::BadVote { from });
    assert_eq!(net.status(0).demoted, [from]);
    net.close_all(0, 0);
    (0..4).for_each(|index| net.open(index, 1, &committee(0..4)));
    assert_eq!(net.status(0).demoted, [from]);
}
