//! What survives the end of a process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::net::*;
use crate::config::SequencerConfig;
use crate::sequencer::port::*;
use crate::sequencer::status::Status;
use crate::sequencer::{RecoverError, Sequencer, Setup};
use crate::store::{Recovered, Store as _};
use crate::types::*;

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn no_batch_id_is_ever_used_twice_whatever_was_written() {
    let mut net = Net::new();
    let mut ids = BTreeSet::new();
    for life in 0..5 {
        for count in 0..3 {
            net.nodes[0].holds = count == 2;
            net.submit(0, &[&format!("{life} {count}")]);
            net.now.monotonic += net.config.batch_age_max;
            net.input(0, Input::Tick);
            // The bytes leave before our own group is written: this is what could be seen.
            for (from, _, message) in &net.wires {
                if let (0, Message::Batch(batch)) = (*from, message) {
                    ids.insert((batch.info.batch_id, batch.info.root));
                }
            }
            net.settle();
        }
        net.restart(0);
        net.settle();
    }
    let numbers: BTreeSet<_> = ids.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), numbers.len(), "an id was used for two batches");
    assert!(numbers.len() >= 10, "{}", numbers.len());
}

#[test]
fn no_id_is_used_before_its_reservation_is_durable() {
    let mut net = Net::new();
    net.restart(0);
    net.nodes[0].holds = true;
    net.wires.clear();
    net.submit(0, &["one"]);
    net.pass(Duration::from_millis(100));
    assert!(!net.wires.iter().any(|(from, _, m)| *from == 0 && matches!(m, Message::Batch(_))));
    net.nodes[0].holds = false;
    net.pass(Duration::from_millis(100));
    assert_eq!(net.nodes[3].sequencer.proposable(), 1);
}

#[test]
fn uncertified_batches_of_the_last_life_are_sent_again_and_certified() {
    let mut net = Net::new();
    net.drops = |from, _, message| from == 0 && matches!(message, Message::Batch(_));
    let digest = net.batch(0, "one");
    net.drops = |_, _, _| false;
    net.restart(0);
    net.pass(Duration::from_secs(2));
    assert!(net.nodes[0].events.contains(&Event::Certified { digest }));
    assert!((0..4).all(|index| net.nodes[index].sequencer.proposable() == 1));
}

#[test]
fn a_proof_that_was_recorded_and_never_published_is_published_by_the_next_life() {
    let mut net = Net::new();
    net.drops = |from, _, message| from == 0 && matches!(message, Message::Proofs(_));
    net.batch(0, "one");
    assert_eq!(net.nodes[1].sequencer.proposable(), 0);
    net.drops = |_, _, _| false;
    net.restart(0);
    net.settle();
    assert_eq!(net.nodes[0].sequencer.proposable(), 1);
    assert_eq!(net.nodes[1].sequencer.proposable(), 1);
}

#[test]
fn a_proof_does_not_leave_over_a_new_link_before_it_is_durable() {
    let mut net = Net::new();
    net.drops = |_, to, message| to == 0 && matches!(message, Message::Votes { .. });
    let digest = net.batch(0, "one");
    net.nodes[0].holds = true;
    for signer in 1..3 {
        let signer = net.nodes[signer].author;
        let signature = Signature::from_bytes(&[1; 64]);
        net.input(0, Input::Vote(SignedBatchInfo { digest, signer, signature }));
    }
    net.link(0, 1);
    let proofs = |net: &Net| {
        let of_zero = |(from, _, message): &(usize, usize, Message)| {
            *from == 0 && matches!(message, Message::Proofs(_))
        };
        net.wires.iter().filter(|wire| of_zero(wire)).count()
    };
    assert_eq!(proofs(&net), 0, "published before its group is on disk");
    net.write(0);
    assert_eq!(proofs(&net), 3);
    net.link(0, 1);
    assert_eq!(proofs(&net), 4);
}

#[test]
fn commits_receipts_cursors_and_payloads_are_where_they_were() {
    let mut net = Net::new();
    let ordered = net.batch(0, "one");
    let (first, payload) = net.block(1, net.genesis_digest());
    let subscriber = "executor".to_owned();
    net.input(0, Input::Acknowledge { subscriber, next: CommitIndex(2) });
    let waiting = net.batch(0, "two");
    let open = net.pull(0, 2, first);
    let before = net.status(0);
    net.restart(0);
    net.settle();
    let after = net.status(0);
    assert_eq!(after.applied, CommitIndex(1));
    assert_eq!(after.logged, before.logged);
    let cursors = |status: &Status| -> Vec<_> {
        status.subscribers.iter().map(|s| (s.name.clone(), s.next)).collect()
    };
    assert_eq!(cursors(&after), cursors(&before));
    assert_eq!(after.consensus_time, before.consensus_time);
    assert_eq!(after.contents, before.contents);
    assert_eq!(after.proofs, 1, "what was ordered is not proposed again");
    assert_eq!(after.outstanding_batches, 1);
    let id = net.commit(0, payload.header);
    net.settle();
    assert_eq!(net.receipt(0, id), net.nodes[0].store.reader().receipt(CommitIndex(1)).unwrap());
    // The open payload still counts as an ancestor.
    let child = net.pull(0, 3, open.digest(&net.genesis.chain_id()));
    assert!(child.content.is_empty());
    let chain = net.genesis.chain_id();
    let orders = |payload: &Payload| payload.content.batches().next().unwrap().digest(&chain);
    assert_eq!(orders(&open), waiting);
    assert_eq!(orders(&payload), ordered);
}

#[test]
fn a_commit_that_was_logged_without_its_payload_is_applied_by_the_next_life() {
    let mut net = Net::new();
    net.batch(0, "one");
    let payload = net.pull(0, 1, net.genesis_digest());
    net.drops = |_, _, message| matches!(message, Message::FetchRequest(_));
    net.commit(3, payload.header);
    net.settle();
    net.restart(3);
    assert_eq!(net.status(3).logged, CommitIndex(1));
    net.drops = |_, _, _| false;
    net.pass(Duration::from_secs(3));
    assert_eq!(net.status(3).applied, CommitIndex(1));
    let id = net.commit(3, payload.header);
    net.settle();
    assert!(net.receipt(3, id).is_some());
}

#[test]
fn fetched_content_goes_to_the_waiter_and_stays_outside_the_window() {
    let mut net = Net::new();
    net.drops = |_, to, message| to == 3 && matches!(message, Message::Batch(_));
    let digest = net.batch(0, "one");
    let id = RequestId(800);
    let deadline = net.now.monotonic + Duration::from_secs(2);
    let responders = vec![net.nodes[0].author];
    net.input(3, Input::Fetch { id, wanted: wanted(digest, responders), deadline });
    net.settle();
    let reply = net.nodes[3].replies.remove(&id);
    assert!(matches!(reply, Some(Reply::Fetched(Ok(Content::Batch(_))))), "{reply:?}");
    assert_eq!(net.nodes[3].sequencer.stored_of(&net.nodes[0].author), Usage::default());
    assert!(net.nodes[3].store.reader().batch(&digest).unwrap().is_some());
    // From its author's link it is signed after all, also by the next life.
    for _ in 0..2 {
        let batch = net.nodes[0].store.reader().batch(&digest).unwrap().unwrap();
        net.give_batch(0, 3, &batch);
        net.settle();
        assert_eq!(net.nodes[3].signed.pop(), Some(digest));
        assert_eq!(net.nodes[3].sequencer.stored_of(&net.nodes[0].author).batches, 1);
        net.restart(3);
        net.settle();
    }
}

#[test]
fn what_is_fetched_is_stored_as_far_as_there_is_room_and_goes_to_the_waiter_all_the_same() {
    let (one, two) = ("one", "two");
    let charge = Net::new().forge(0, 1, one, Duration::ZERO).info.charge();
    for (bytes, stored) in [(2 * charge, [true, true]), (2 * charge - 1, [true, false])] {
        let recovered_bytes_max = bytesize::ByteSize(bytes);
        let mut net =
            Net::with(SequencerConfig { recovered_bytes_max, ..SequencerConfig::default() });
        net.drops = |_, to, message| to == 3 && matches!(message, Message::Batch(_));
        let digests = [one, two].map(|text| net.batch(0, text));
        for (id, digest) in (800..).map(RequestId).zip(digests) {
            let deadline = net.now.monotonic + Duration::from_secs(2);
            let responders = vec![net.nodes[0].author];
            net.input(3, Input::Fetch { id, wanted: wanted(digest, responders), deadline });
            net.settle();
            let reply = net.nodes[3].replies.remove(&id);
            assert!(matches!(reply, Some(Reply::Fetched(Ok(Content::Batch(_))))), "{reply:?}");
        }
        let reader = net.nodes[3].store.reader();
        assert_eq!(digests.map(|digest| reader.batch(&digest).unwrap().is_some()), stored);
    }
}

#[test]
fn what_a_commit_named_that_is_not_kept_any_more_is_pruned() {
    let mut net = Net::new();
    let deadline = net.now.monotonic + Duration::from_secs(2);
    let of =
        |commit| Wanted { commit: Some(CommitIndex(commit)), ..wanted(Digest([9; 32]), vec![]) };
    for (id, commit, pruned) in [(800, 0, true), (801, 1, false), (802, 2, false)] {
        let id = RequestId(id);
        net.input(3, Input::Fetch { id, wanted: of(commit), deadline });
        let reply = net.nodes[3].replies.remove(&id);
        let told = matches!(reply, Some(Reply::Fetched(Err(FetchError::Pruned))));
        assert_eq!((told, reply.is_some()), (pruned, pruned), "commit {commit}");
    }
}

#[test]
fn a_fetch_ends_at_its_deadline_and_a_cancelled_one_is_forgotten() {
    let mut net = Net::new();
    let digest = Digest([5; 32]);
    let responders: Vec<_> = net.nodes.iter().map(|node| node.author).collect();
    for id in [RequestId(800), RequestId(801)] {
        let deadline = net.now.monotonic + Duration::from_secs(1);
        let responders = responders.clone();
        net.input(0, Input::Fetch { id, wanted: wanted(digest, responders), deadline });
    }
    net.input(0, Input::Cancel(RequestId(801)));
    net.pass(Duration::from_millis(990));
    assert_eq!(net.status(0).fetches, 1);
    net.pass(Duration::from_millis(20));
    let reply = net.nodes[0].replies.remove(&RequestId(800));
    assert!(matches!(reply, Some(Reply::Fetched(Err(FetchError::TimedOut { .. })))));
    assert!(!net.nodes[0].replies.contains_key(&RequestId(801)));
    assert_eq!(net.status(0).fetches, 0);
    // What nobody waits for is not taken.
    let batch = net.forge(1, 1, "x", Duration::from_secs(5));
    let digest = batch.info.digest(&net.genesis.chain_id());
    let from = net.nodes[1].author;
    net.input(0, Input::FetchedBatch { from, digest, batch });
    assert_eq!(net.nodes[0].refusals.pop(), Some(Refusal::Unasked));
}

#[test]
fn a_fetch_does_not_wait_for_the_patience_of_a_proposal() {
    let mut net = Net::new();
    net.batch(0, "one");
    let payload = net.pull(0, 1, net.genesis_digest());
    let digest = payload.digest(&net.genesis.chain_id());
    net.verify(1, digest, None);
    let id = RequestId(800);
    let deadline = net.now.monotonic + Duration::from_secs(2);
    let responders = vec![net.nodes[0].author];
    net.input(1, Input::Fetch { id, wanted: wanted(digest, responders), deadline });
    net.settle();
    let reply = net.nodes[1].replies.remove(&id);
    assert!(matches!(reply, Some(Reply::Fetched(Ok(Content::Payload(_))))), "{reply:?}");
}

/// A life that finds these records.
fn recovered(records: Vec<Record>) -> Result<Sequencer, RecoverError> {
    let net = Net::new();
    let setup = Setup {
        author: net.nodes[0].author,
        genesis: net.genesis.clone(),
        epoch: Epoch(0),
        committee: net.genesis.committee.clone(),
        config: net.config.clone(),
    };
    let recovered = Recovered { incarnation: Incarnation(100), records };
    Sequencer::recover(setup, recovered, net.now)
}

/// A payload without batches, and its commit.
fn empty_block(height: u64, parent: Digest, at: u64) -> (Digest, Record, Record) {
    let content = PayloadContent::default();
    let header = PayloadHeader {
        epoch: Epoch(0),
        height: CommitIndex(height),
        parent,
        block_timestamp: Timestamp(at),
        content_root: content.root(),
    };
    let digest = header.digest(&Net::new().genesis.chain_id());
    let (payload, expiration) = (Arc::new(Payload { header, content }), Timestamp(at));
    let payload = Record::Payload { digest, payload, batches: Vec::new(), expiration };
    (digest, payload, Record::Commit(Commit { index: header.height, round: 1, header }))
}

#[test]
fn heights_that_no_chain_reaches_are_refused_or_harmless() {
    for height in [0, u64::MAX - 40, u64::MAX] {
        let (_, payload, commit) = empty_block(height, Digest([3; 32]), START);
        let mut sequencer = recovered(vec![payload]).unwrap();
        let error = recovered(vec![commit]).unwrap_err();
        assert_eq!(error, RecoverError::Commit(CommitIndex(height)));
        sequencer.step(Net::new().now, Input::Tick);
    }
}

#[test]
fn commits_that_do_not_form_a_chain_are_refused() {
    let (first, _, one) = empty_block(1, Net::new().genesis_digest(), START);
    let (_, _, other_parent) = empty_block(2, Digest([3; 32]), START);
    let (_, _, back_in_time) = empty_block(2, first, START - 1);
    let (_, _, gap) = empty_block(3, first, START);
    let (_, _, next) = empty_block(2, first, START);
    for (wrong, index) in [(other_parent, 2), (back_in_time, 2), (gap, 3)] {
        let error = recovered(vec![one.clone(), wrong]).unwrap_err();
        assert_eq!(error, RecoverError::Gap(CommitIndex(index)));
    }
    assert_eq!(recovered(vec![one, next]).unwrap().status().logged, CommitIndex(2));
    let mut other_height = empty_block(4, first, START).2;
    if let Record::Commit(commit) = &mut other_height {
        commit.header.height = CommitIndex(5);
    }
    let error = recovered(vec![other_height]).unwrap_err();
    assert_eq!(error, RecoverError::Commit(CommitIndex(4)));
}

#[test]
fn a_slot_with_two_batches_on_disk_is_an_error() {
    let net = Net::new();
    let record = |text| {
        let batch = net.forge(1, 7, text, Duration::from_secs(5));
        let digest = batch.info.digest(&net.genesis.chain_id());
        let body = batch.body.bytes().clone();
        let record = BatchRecord { digest, info: batch.info, body, claims_slot: true, own: None };
        (batch.info.slot(), Record::Batch(record))
    };
    let ((slot, one), (_, other)) = (record("one"), record("other"));
    assert!(recovered(vec![one.clone()]).is_ok());
    assert_eq!(recovered(vec![one, other]).unwrap_err(), RecoverError::Slot(slot));
}

#[test]
fn own_counters_at_the_end_of_their_range_are_an_error() {
    let error = recovered(vec![Record::Reserved { until: u64::MAX }]).unwrap_err();
    assert_eq!(error, RecoverError::Reserved(u64::MAX));
    assert!(recovered(vec![Record::Reserved { until: 1 << 40 }]).is_ok());
}

#[test]
fn an_own_slot_beyond_what_is_reserved_is_an_error() {
    let net = Net::new();
    let mut batch = net.forge(0, 300, "one", Duration::from_secs(5));
    batch.info.batch_id.incarnation = Incarnation(100);
    let (info, slot) = (batch.info, batch.info.slot());
    let digest = info.digest(&net.genesis.chain_id());
    let body = batch.body.bytes().clone();
    let record = BatchRecord { digest, info, body, claims_slot: true, own: None };
    for used in [Record::Batch(record), Record::Floor { slot }] {
        for records in [vec![used.clone()], vec![used.clone(), Record::Reserved { until: 300 }]] {
            assert_eq!(recovered(records).unwrap_err(), RecoverError::Unreserved(slot));
        }
        assert!(recovered(vec![used, Record::Reserved { until: 301 }]).is_ok());
    }
}

#[test]
fn ancestors_that_go_in_circles_are_an_error() {
    let circle = Digest([3; 32]);
    let (_, mut payload, _) = empty_block(2, circle, START);
    if let Record::Payload { digest, .. } = &mut payload {
        *digest = circle;
    }
    let mut sequencer = recovered(vec![payload]).unwrap();
    let (id, net) = (RequestId(1), Net::new());
    let request = net.pull_request(3, circle);
    sequencer.step(net.now, Input::Pull { id, request });
    let reply = sequencer.poll_effect();
    let Some(Effect::Reply { reply: Reply::Pulled(Err(error)), .. }) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(error, PullError::Parent);
}

#[test]
fn own_batches_do_not_expire_before_ordered_ones_of_the_last_life_when_the_clock_is_set_back() {
    let mut net = Net::new();
    net.batch(0, "one");
    // Ordered by a leader whose clock is behind, so consensus time does not make up for it.
    net.now.wall = net.now.wall.saturating_sub(Duration::from_millis(300));
    net.block(1, net.genesis_digest());
    net.restart(0);
    net.settle();
    let digest = net.batch(0, "two");
    assert_eq!(net.nodes[1].refusals, [], "an author whose expirations fall counts as faulty");
    assert!(net.nodes[0].events.contains(&Event::Certified { digest }));
}

#[test]
fn a_payload_that_arrives_in_the_next_life_is_kept_for_the_subscriber_too() {
    let mut net = Net::new();
    let subscriber = "executor".to_owned();
    net.input(3, Input::Acknowledge { subscriber, next: CommitIndex(1) });
    let payload = net.pull(0, 1, net.genesis_digest());
    let chain = net.genesis.chain_id();
    let digest = payload.digest(&chain);
    net.commit(0, payload.header);
    net.drops = |_, _, message| matches!(message, Message::FetchRequest(_));
    net.commit(3, payload.header);
    net.settle();
    net.restart(3);
    net.give_payload(0, 3, &payload);
    net.settle();
    let mut parent = digest;
    for height in 2..5 {
        net.pass(Duration::from_secs(25));
        let payload = net.pull(0, height, parent);
        parent = payload.digest(&chain);
        net.give_payload(0, 3, &payload);
        net.commit(0, payload.header);
        net.commit(3, payload.header);
        net.settle();
    }
    assert_eq!(net.nodes[3].sequencer.status().applied, CommitIndex(4));
    assert!(net.nodes[0].store.reader().payload(&digest).unwrap().is_none(), "its time is over");
    assert!(net.nodes[3].store.reader().payload(&digest).unwrap().is_some(), "and it is needed");
}

#[test]
fn nothing_follows_the_last_height_there_is() {
    let (digest, payload, _) = empty_block(u64::MAX, Digest([3; 32]), START);
    let net = Net::new();
    let mut sequencer = recovered(vec![payload]).unwrap();
    let height = CommitIndex(u64::MAX);
    let parent = Some(ParentOf { digest: Digest([3; 32]), height, block_timestamp: Timestamp(0) });
    let request = VerifyRequest { digest, parent, responders: Vec::new() };
    sequencer.step(net.now, Input::Verify { id: RequestId(1), request });
    let request = net.pull_request(u64::MAX, digest);
    sequencer.step(net.now, Input::Pull { id: RequestId(2), request });
    for _ in 0..2 {
        let reply = sequencer.poll_effect();
        let refused = matches!(
            reply,
            Some(Effect::Reply {
                reply: Reply::Verified(Err(InvalidPayload::Parent))
                    | Reply::Pulled(Err(PullError::Parent | PullError::UnknownAncestor(_))),
                ..
            })
        );
        assert!(refused, "{reply:?}");
    }
}
