//! Batches without a proof: the voter's rule, commits, failures, restarts.

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;

use super::net::*;
use crate::config::SequencerConfig;
use crate::sequencer::port::*;
use crate::store::Store as _;
use crate::types::*;

/// Proposes without a proof at once, and nothing inline.
fn trusting() -> SequencerConfig {
    SequencerConfig {
        optimistic: true,
        optimistic_age_min: Duration::ZERO,
        optimistic_batch_age_max: Duration::from_millis(20),
        inline_batches_max: 0,
        ..SequencerConfig::default()
    }
}

fn no_votes(_: usize, _: usize, message: &Message) -> bool {
    matches!(message, Message::Votes { .. })
}

/// A payload with this content, on genesis.
fn payload(net: &Net, content: PayloadContent) -> (Digest, Arc<Payload>) {
    let header = PayloadHeader {
        epoch: Epoch(0),
        height: CommitIndex(1),
        parent: net.genesis_digest(),
        block_timestamp: net.now.wall,
        content_root: content.root(),
    };
    let payload = Payload { header, content };
    (payload.digest(&net.genesis.chain_id()), Arc::new(payload))
}

fn listing(net: &Net, optimistic: Vec<BatchInfo>) -> (Digest, Arc<Payload>) {
    payload(net, PayloadContent { optimistic, ..PayloadContent::default() })
}

fn on_genesis(net: &Net) -> ParentOf {
    let genesis = net.genesis.header();
    let (digest, block_timestamp) = (net.genesis_digest(), genesis.block_timestamp);
    ParentOf { digest, height: CommitIndex(0), block_timestamp }
}

/// Shows a payload to a node and asks whether it may be voted for.
fn ask(net: &mut Net, node: usize, digest: Digest, payload: &Arc<Payload>) -> RequestId {
    net.give_payload(0, node, payload);
    let parent = on_genesis(net);
    let id = net.verify(node, digest, Some(parent));
    net.settle();
    id
}

fn verdict(net: &Net, node: usize, id: RequestId) -> Option<Result<(), InvalidPayload>> {
    match net.nodes[node].replies.get(&id)? {
        Reply::Verified(result) => Some(result.clone().map(drop)),
        other => panic!("not a verdict: {other:?}"),
    }
}

#[test]
fn a_batch_is_ordered_before_it_has_a_proof_and_is_done_with_in_every_respect() {
    let mut net = Net::with(trusting());
    net.drops = no_votes;
    let digest = net.batch(1, "one");
    let (first, payload) = net.block(1, net.genesis_digest());
    assert_eq!(payload.content.proofs.len(), 0);
    assert_eq!(payload.content.optimistic[0].digest(&net.genesis.chain_id()), digest);
    let receipt = net.nodes[1].store.reader().receipt(CommitIndex(1)).unwrap().unwrap();
    assert_eq!(receipt.acks.map(|ack| ack.freed), [1, 0, 1, 1], "its author lets go of it");
    assert_eq!(net.status(1).outstanding_batches, 0);
    for node in 0..4 {
        assert_eq!(net.nodes[node].sequencer.proposable(), 0, "node {node}");
        assert!(net.nodes[node].store.reader().batch(&digest).unwrap().is_some());
    }
    // Nobody signs for it any more, and it is not proposed again, now or after a restart.
    net.drops = |_, _, _| false;
    net.pass(Duration::from_secs(2));
    assert!(net.nodes.iter().all(|node| node.signed.is_empty()));
    for node in 0..4 {
        net.restart(node);
    }
    net.settle();
    net.pass(Duration::from_millis(200));
    let payload = net.pull(0, 2, first);
    assert!(payload.content.is_empty(), "{payload:?}");
}

#[test]
fn nobody_votes_for_a_proposal_beside_the_block_that_was_ordered_in_its_place() {
    let mut net = Net::with(trusting());
    let digest = net.batch(1, "one");
    let batch = net.nodes[1].store.reader().batch(&digest).unwrap().unwrap();
    let (beside, payload) = listing(&net, vec![batch.info]);
    net.give_payload(0, 2, &payload);
    net.verify(2, beside, None);
    net.pass(Duration::from_millis(10));
    let (ordered, proposed) = net.block(1, net.genesis_digest());
    assert_ne!(ordered, beside);
    let id = ask(&mut net, 2, beside, &payload);
    assert_eq!(verdict(&net, 2, id), None);
    let id = ask(&mut net, 2, ordered, &proposed);
    assert_eq!(verdict(&net, 2, id), Some(Ok(())));
}

#[test]
fn a_late_proof_of_what_is_ordered_is_useless() {
    let mut net = Net::with(trusting());
    net.drops = |_, to, message| to == 0 && matches!(message, Message::Proofs(_));
    let digest = net.batch(1, "one");
    net.pass(Duration::from_millis(200));
    let proof = net.nodes[1].store.reader().proof(&digest).unwrap().expect("certified");
    let (_, payload) = net.block(1, net.genesis_digest());
    assert_eq!(payload.content.optimistic.len(), 1, "node 0 does not know the proof");
    net.input(0, Input::Proof { digest, proof: Arc::new(proof) });
    assert_eq!(net.nodes[0].sequencer.proposable(), 0);
}

#[test]
fn a_vote_waits_for_what_is_missing_and_the_authors_answer_fills_the_slot() {
    let mut net = Net::with(trusting());
    net.drops = |_, to, message| to == 2 && matches!(message, Message::Batch(_));
    let digest = net.batch(1, "one");
    let payload = net.pull(0, 1, net.genesis_digest());
    assert_eq!(payload.content.optimistic.len(), 1);
    let name = payload.digest(&net.genesis.chain_id());
    let (here, there) = (ask(&mut net, 3, name, &payload), ask(&mut net, 2, name, &payload));
    assert_eq!(verdict(&net, 3, here), Some(Ok(())));
    assert_eq!(verdict(&net, 2, there), None, "pending, not refused");
    assert_eq!(net.status(2).ballots, 1);
    net.pass(net.config.payload_patience + Duration::from_millis(20));
    assert_eq!(verdict(&net, 2, there), Some(Ok(())));
    assert!(net.nodes[2].store.reader().batch(&digest).unwrap().is_some());
    assert_eq!(net.status(2).ballots, 0);
    let author = net.nodes[1].author;
    assert_eq!(net.nodes[2].sequencer.stored_of(&author).batches, 1, "it came to sit in its slot");
}

#[test]
fn the_answer_leaves_once_the_batch_is_durable() {
    let mut net = Net::with(trusting());
    let batch = net.forge(1, 1, "one", Duration::from_secs(30));
    let (name, payload) = listing(&net, vec![batch.info]);
    net.nodes[2].holds = true;
    let id = ask(&mut net, 2, name, &payload);
    net.give_batch(1, 2, &batch);
    net.settle();
    assert_eq!(net.status(2).ballots, 0, "it is on its way");
    assert_eq!(verdict(&net, 2, id), None);
    net.nodes[2].holds = false;
    net.settle();
    assert_eq!(verdict(&net, 2, id), Some(Ok(())));
}

#[test]
fn a_slot_that_holds_another_batch_is_a_refusal_whichever_comes_first() {
    let mut net = Net::with(trusting());
    let held = net.forge(1, 1, "held", Duration::from_secs(30));
    let other = net.forge(1, 1, "other", Duration::from_secs(30));
    let (name, payload) = listing(&net, vec![other.info]);
    let taken = InvalidPayload::SlotTaken(other.info.digest(&net.genesis.chain_id()));
    net.give_batch(1, 2, &held);
    let id = ask(&mut net, 2, name, &payload);
    assert_eq!(verdict(&net, 2, id), Some(Err(taken.clone())));
    let id = ask(&mut net, 3, name, &payload);
    assert_eq!(verdict(&net, 3, id), None);
    net.give_batch(1, 3, &held);
    net.settle();
    assert_eq!(verdict(&net, 3, id), Some(Err(taken)));
}

#[test]
fn what_others_send_claims_no_slot_and_a_proof_does() {
    let mut net = Net::with(trusting());
    // The author answers nobody, and node 2 never gets its batch, nor a proof.
    net.drops = |from, to, message| match message {
        Message::Batch(_) | Message::Proofs(_) => to == 2,
        Message::FetchReply { .. } => from == 1,
        _ => false,
    };
    let digest = net.batch(1, "one");
    let payload = net.pull(0, 1, net.genesis_digest());
    let name = payload.digest(&net.genesis.chain_id());
    let id = ask(&mut net, 2, name, &payload);
    net.pass(Duration::from_secs(3));
    assert!(net.nodes[2].store.reader().batch(&digest).unwrap().is_some(), "fetched from others");
    assert_eq!(verdict(&net, 2, id), None);
    let proof = net.nodes[1].store.reader().proof(&digest).unwrap().expect("certified");
    net.input(2, Input::Proof { digest, proof: Arc::new(proof) });
    net.settle();
    assert_eq!(verdict(&net, 2, id), Some(Ok(())));
    let author = net.nodes[1].author;
    assert_eq!(net.nodes[2].sequencer.stored_of(&author).batches, 1);
    // Another batch in this slot is an equivocation from now on.
    let info = payload.content.optimistic[0];
    let mut twin = net.forge(1, 1, "twin", Duration::from_secs(30));
    twin.info.batch_id = info.batch_id;
    net.give_batch(1, 2, &twin);
    assert!(net.nodes[2].refusals.contains(&Refusal::Equivocation));
}

#[test]
fn whoever_only_stores_a_payload_does_not_wait_and_a_vote_after_a_restart_does() {
    let mut net = Net::with(trusting());
    let batch = net.forge(1, 1, "one", Duration::from_secs(30));
    let (name, payload) = listing(&net, vec![batch.info]);
    net.give_payload(0, 2, &payload);
    let id = net.verify(2, name, None);
    net.settle();
    assert_eq!(verdict(&net, 2, id), Some(Ok(())), "a quorum holds what it names");
    let id = ask(&mut net, 2, name, &payload);
    assert_eq!(verdict(&net, 2, id), None);
    net.restart(2);
    let parent = on_genesis(&net);
    let id = net.verify(2, name, Some(parent));
    net.settle();
    assert_eq!(verdict(&net, 2, id), None, "it is stored, and its batch is not");
    net.give_batch(1, 2, &batch);
    net.settle();
    assert_eq!(verdict(&net, 2, id), Some(Ok(())));
}

#[test]
fn a_batch_that_is_ordered_and_missing_is_fetched_and_can_be_said_to_be_absent() {
    let mut net = Net::with(trusting());
    net.drops = |_, to, message| to == 3 && matches!(message, Message::Batch(_));
    let subscriber = "executor".to_owned();
    net.request(3, |id| Input::Subscribe { id, subscriber, next: CommitIndex(1) });
    net.settle();
    let digest = net.batch(1, "one");
    let (first, _) = net.block(1, net.genesis_digest());
    net.pass(Duration::from_millis(20));
    assert!(net.nodes[3].store.reader().batch(&digest).unwrap().is_some(), "fetched at once");
    // Of one that nobody has, the commit lets it say so.
    let lost = net.forge(1, 9, "lost", Duration::from_secs(30));
    let (_, payload) = listing(&net, vec![lost.info]);
    let mut second = Payload::clone(&payload);
    second.header.height = CommitIndex(2);
    second.header.parent = first;
    let second = Arc::new(second);
    net.give_payload(0, 3, &second);
    net.commit(3, second.header);
    net.settle();
    let (from, index) = (net.nodes[0].author, CommitIndex(2));
    let lost = lost.info.digest(&net.genesis.chain_id());
    net.input(3, Input::AbsenceRequest { from, index, digest: lost });
    net.settle();
    assert_eq!(net.status(3).absences, 1);
}

#[test]
fn inline_batches_travel_in_their_payload_and_nowhere_else() {
    let config = SequencerConfig { inline_batches_max: 4, ..trusting() };
    let mut net =
        Net::with(SequencerConfig { optimistic_age_min: Duration::from_secs(5), ..config });
    // Nobody but its author ever gets the batch.
    net.drops = |_, _, message| matches!(message, Message::Batch(_) | Message::FetchReply { .. });
    let digest = net.batch(0, "one");
    let late = net.submit(0, &["two"]);
    let (_, payload) = net.block(1, net.genesis_digest());
    assert_eq!(payload.content.inline.len(), 2, "what waits in the pool goes along");
    assert_eq!(payload.content.inline[0].info.digest(&net.genesis.chain_id()), digest);
    assert_eq!(net.accepted(0, late).len(), 1);
    assert_eq!(net.status(0).outstanding_batches, 0);
    for node in 0..4 {
        assert!(net.nodes[node].store.reader().receipt(CommitIndex(1)).unwrap().is_some());
        assert_eq!(net.nodes[node].sequencer.proposable(), 0);
    }
    assert_eq!(net.status(3).contents, 1, "the payload");
    assert_eq!(net.status(3).refetches, 0, "nothing is missing");
    // Nobody can say that it is absent: it is where its payload is.
    let (from, index) = (net.nodes[0].author, CommitIndex(1));
    net.input(3, Input::AbsenceRequest { from, index, digest });
    net.settle();
    assert_eq!(net.status(3).absences, 0);
}

#[test]
fn inline_batches_share_the_bytes_that_are_left_for_them() {
    let config = SequencerConfig { inline_batches_max: 4, ..trusting() };
    let optimistic_age_min = Duration::from_secs(5);
    let inline_bytes_max = ByteSize::b(1000);
    let mut net = Net::with(SequencerConfig { optimistic_age_min, inline_bytes_max, ..config });
    net.drops = |_, _, message| matches!(message, Message::Batch(_));
    for letter in ["a", "b", "c", "d"] {
        net.batch(0, &letter.repeat(300));
    }
    let payload = net.pull(0, 1, net.genesis_digest());
    assert_eq!(payload.content.inline.len(), 3);
}

#[test]
fn what_waits_in_the_pool_is_sealed_for_a_proposal_only_if_it_may_go_along() {
    let mut net = Net::with(trusting());
    net.submit(0, &["one"]);
    let payload = net.pull(0, 1, net.genesis_digest());
    assert!(payload.content.is_empty());
    assert_eq!(net.status(0).pool_transactions, 1);
}

#[test]
fn a_full_disk_takes_no_payload_with_batches_in_it_unless_it_is_certified() {
    let mut net = Net::with(trusting());
    let batch = net.forge(1, 1, "one", Duration::from_secs(30));
    let content = PayloadContent { inline: vec![batch], ..PayloadContent::default() };
    let (name, payload) = payload(&net, content);
    net.input(2, Input::Space { admits: false });
    let id = ask(&mut net, 2, name, &payload);
    assert_eq!(verdict(&net, 2, id), None);
    assert_eq!(net.status(2).contents, 0);
    net.input(2, Input::Space { admits: true });
    net.settle();
    assert_eq!(verdict(&net, 2, id), Some(Ok(())));
    net.input(3, Input::Space { admits: false });
    net.give_payload(0, 3, &payload);
    let id = net.verify(3, name, None);
    net.settle();
    assert_eq!(verdict(&net, 3, id), Some(Ok(())));
}

#[test]
fn a_failed_proposal_makes_the_next_leader_careful_and_its_author_is_blamed() {
    let mut net = Net::with(trusting());
    // Node 0 alone gets the batches of node 3, which is never certified.
    net.drops = |from, to, message| from == 3 && to != 0 && matches!(message, Message::Batch(_));
    net.batch(3, "bad");
    let good = net.batch(1, "good");
    net.drops = |from, to, message| match message {
        Message::Batch(_) => from == 3 && to != 0,
        Message::FetchReply { .. } | Message::Votes { .. } => from == 3,
        _ => false,
    };
    let failed = net.pull(0, 1, net.genesis_digest());
    assert_eq!(failed.content.optimistic.len(), 2);
    let name = failed.digest(&net.genesis.chain_id());
    let waits = ask(&mut net, 1, name, &failed);
    net.pass(Duration::from_secs(1));
    assert_eq!(verdict(&net, 1, waits), None);
    // The next leader has seen it, and its proofs.
    let careful = net.pull(1, 1, net.genesis_digest());
    assert_eq!((careful.content.proofs.len(), careful.content.optimistic.len()), (1, 0));
    assert_eq!(careful.content.proofs[0].info.digest(&net.genesis.chain_id()), good);
    assert_eq!(net.status(1).optimistic_pause, 1);
    // So has the one that failed, and it knows whose fault it was.
    let again = net.pull(0, 1, net.genesis_digest());
    assert_eq!((again.content.proofs.len(), again.content.optimistic.len()), (1, 0));
    assert_eq!(net.status(0).optimistic_blamed, 1);
    assert_eq!(net.status(1).optimistic_blamed, 0);
    let head = careful.digest(&net.genesis.chain_id());
    for node in 0..4 {
        net.give_payload(1, node, &careful);
        net.commit(node, careful.header);
    }
    net.settle();
    assert_eq!(net.status(1).ballots, 0, "nobody waits for what came to nothing");
    net.pass(Duration::from_millis(500));
    net.batch(2, "later");
    let second = net.pull(0, 2, head);
    let authors: Vec<Author> = second.content.optimistic.iter().map(|info| info.author).collect();
    assert_eq!(authors, [net.nodes[2].author], "the caution was for one block, the blame lasts");
}

#[test]
fn a_store_that_replaces_a_lost_one_votes_for_no_optimistic_batch_until_its_silence_ends() {
    let mut net = Net::with(trusting());
    let until = crate::sequencer::silent_until(net.now.wall, &net.genesis.parameters);
    let (author, chain) = (net.nodes[2].author, net.genesis.chain_id());
    let store =
        crate::store::memory::MemoryStore::replacement(author, chain, Incarnation(7), until);
    net.nodes[2].store = store;
    net.restart(2);
    let batch = net.forge(1, 1, "one", Duration::from_secs(30));
    net.give_batch(1, 2, &batch);
    let (name, payload) = listing(&net, vec![batch.info]);
    let id = ask(&mut net, 2, name, &payload);
    assert_eq!(verdict(&net, 2, id), None);
    // Another block at the same height brings consensus time beyond the silence.
    let mut other = Payload::clone(&listing(&net, Vec::new()).1);
    other.header.block_timestamp = until;
    let other = Arc::new(other);
    net.give_payload(0, 2, &other);
    net.commit(2, other.header);
    net.settle();
    assert_eq!(net.status(2).silent_until, None);
    let (name, payload) = {
        let late = net.forge(1, 2, "two", Duration::from_secs(50));
        net.give_batch(1, 2, &late);
        let (_, payload) = listing(&net, vec![late.info]);
        let mut payload = Payload::clone(&payload);
        payload.header.height = CommitIndex(2);
        payload.header.parent = other.digest(&chain);
        payload.header.block_timestamp = until;
        (payload.digest(&chain), Arc::new(payload))
    };
    net.give_payload(0, 2, &payload);
    let digest = other.digest(&chain);
    let parent = ParentOf { digest, height: CommitIndex(1), block_timestamp: until };
    let id = net.verify(2, name, Some(parent));
    net.settle();
    assert_eq!(verdict(&net, 2, id), Some(Ok(())));
}

#[test]
fn signatures_wait_while_all_is_well_and_are_given_when_a_batch_is_not_ordered() {
    let mut net = Net::with(trusting());
    let digest = net.batch(1, "one");
    assert!(net.nodes.iter().all(|node| node.signed.is_empty()));
    net.pass(net.config.optimistic_signing_delay + Duration::from_millis(10));
    assert!(net.nodes.iter().all(|node| node.signed == [digest]));
    assert_eq!(net.pull(0, 1, net.genesis_digest()).content.proofs.len(), 1);
}

#[test]
fn a_batch_that_will_be_old_enough_to_propose_is_a_deadline() {
    const AGE: Duration = Duration::from_millis(300);
    let mut net = Net::with(SequencerConfig {
        optimistic_age_min: AGE,
        resend_interval: Duration::from_secs(10),
        announce_interval: Duration::from_secs(1),
        ..trusting()
    });
    net.drops = no_votes;
    net.batch(1, "one");
    let ripe = net.now.monotonic + AGE;
    let due = |net: &Net| net.nodes[0].sequencer.next_deadline().filter(|due| *due <= ripe);
    // Time goes from deadline to deadline, as in the engine.
    while let Some(due) = due(&net) {
        net.now.monotonic = net.now.monotonic.max(due);
        net.input(0, Input::Tick);
        while net.write(0) {}
    }
    let payload = net.pull(0, 1, net.genesis_digest());
    assert_eq!(payload.content.optimistic.len(), 1);
}

#[test]
fn an_own_batch_travels_in_one_payload_of_a_chain_and_not_where_it_is_left_out() {
    let mut net = Net::with(SequencerConfig {
        inline_batches_max: 4,
        optimistic_age_min: Duration::from_secs(1),
        ..trusting()
    });
    net.drops = no_votes;
    let digest = net.batch(0, "one");
    let inline = |payload: &Payload| payload.content.inline.len();
    let first = net.pull(0, 1, net.genesis_digest());
    assert_eq!(inline(&first), 1);
    let second = net.pull(0, 2, first.digest(&net.genesis.chain_id()));
    assert_eq!(inline(&second), 0, "it is in the one below");
    let beside = net.pull(0, 1, net.genesis_digest());
    assert_eq!(inline(&beside), 1);
    let mut request = net.pull_request(1, net.genesis_digest());
    request.exclude.push(digest);
    let id = net.request(0, |id| Input::Pull { id, request });
    net.settle();
    let Some(Reply::Pulled(Ok(without))) = net.nodes[0].replies.remove(&id) else { panic!() };
    assert_eq!(inline(&without), 0);
}

#[test]
fn what_only_a_vote_waits_for_is_fetched_no_more_once_nobody_asks_about_it() {
    let mut net = Net::with(trusting());
    net.drops = |_, to, message| {
        to == 2 && matches!(message, Message::Batch(_) | Message::Proofs(_))
            || matches!(message, Message::FetchReply { .. })
    };
    net.batch(1, "one");
    let payload = net.pull(0, 1, net.genesis_digest());
    assert_eq!(payload.content.optimistic.len(), 1);
    let name = payload.digest(&net.genesis.chain_id());
    let id = ask(&mut net, 2, name, &payload);
    net.pass(net.config.payload_patience * 2);
    assert_eq!((net.status(2).fetches, net.status(2).ballots), (1, 1));
    net.input(2, Input::Cancel(id));
    assert_eq!((net.status(2).fetches, net.status(2).ballots), (0, 0));
}
