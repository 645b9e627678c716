//! Words about absence that are not true any more, and evidence that comes too late.

use std::time::Duration;

use super::absences::{FIRST, attach, fetch, fetched, gone_everywhere, net};
use super::net::committee;
use crate::sequencer::port::*;
use crate::store::Store as _;
use crate::types::*;

#[test]
fn what_comes_into_the_group_that_would_say_it_is_absent_is_not_said_to_be_absent() {
    let mut net = net();
    net.drops = |_, to, _| to == 3;
    let digest = net.batch(0, "one");
    let batch = net.nodes[0].store.reader().batch(&digest).unwrap().unwrap();
    let (_, payload) = net.block(1, net.genesis_digest());
    net.give_payload(0, 3, &payload);
    net.settle();
    // Asked while it is missing; before the word is on disk, the content comes.
    let (asks, from) = (net.nodes[1].author, net.nodes[0].author);
    let question = Input::AbsenceRequest { from: asks, index: FIRST, digest };
    net.nodes[3].holds = true;
    net.input(3, question);
    assert_eq!(net.status(3).absences, 1);
    net.input(3, Input::FetchedBatch { from, digest, batch });
    net.nodes[3].holds = false;
    net.write(3);
    let said = net.wires.drain(..).filter(|(_, _, m)| matches!(m, Message::Absence { .. }));
    assert_eq!(said.count(), 0, "it is in the same group");
    assert!(net.nodes[3].store.reader().batch(&digest).unwrap().is_some());
    net.input(3, Input::AbsenceRequest { from: asks, index: FIRST, digest });
    while net.write(3) {}
    let answer = net.wires.pop_back();
    let held = |m: &Message| matches!(m, Message::Absence { answer: AbsenceAnswer::Held, .. });
    assert!(answer.is_some_and(|(_, to, message)| to == 1 && held(&message)));
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn whoever_has_passed_a_commit_does_not_vote_for_evidence_about_it_and_others_do() {
    let mut net = net();
    let (digest, info, first) = gone_everywhere(&mut net);
    fetch(&mut net, 1, 800, digest, info);
    net.pass(Duration::from_secs(5));
    assert!(matches!(fetched(&mut net, 1, 800), Some(Err(FetchError::Unavailable(_)))));
    let payload = net.pull(1, 2, first);
    assert_eq!(payload.content.unavailable.len(), 1);
    // The executor of node 0 had taken the commit, in time.
    attach(&mut net, 0, 2);
    net.settle();
    let second = payload.digest(&net.genesis.chain_id());
    for index in [0, 2, 3] {
        net.give_payload(1, index, &payload);
        let id = net.verify(index, second, None);
        net.settle();
        let reply = net.nodes[index].replies.remove(&id);
        let votes = matches!(reply, Some(Reply::Verified(Ok(_))));
        assert_eq!(votes, index != 0, "node {index}: {reply:?}");
    }
}

#[test]
fn evidence_is_proposed_once_in_a_chain_and_not_about_what_was_passed_here() {
    let mut net = net();
    let (digest, info, first) = gone_everywhere(&mut net);
    fetch(&mut net, 1, 800, digest, info);
    net.pass(Duration::from_secs(5));
    let second = net.pull(1, 2, first);
    assert_eq!(second.content.unavailable.len(), 1);
    let third = net.pull(1, 3, second.digest(&net.genesis.chain_id()));
    assert!(third.content.unavailable.is_empty(), "its parent carries it");
    // The executor has taken the commit after all.
    attach(&mut net, 1, 2);
    net.settle();
    assert_eq!(net.status(1).evidence, 1);
    let again = net.pull(1, 2, first);
    assert!(again.content.unavailable.is_empty());
}

#[test]
fn no_block_carries_evidence_about_itself() {
    let mut net = net();
    let (first, _) = net.block(1, net.genesis_digest());
    let lost = net.pull(0, 2, first);
    // Whoever had the next payload is gone with it.
    net.drops = |from, to, _| from == 0 || to == 0;
    for index in 1..4 {
        net.commit(index, lost.header);
    }
    net.pass(Duration::from_secs(10));
    assert_eq!(net.status(1).evidence, 1);
    assert!(net.pull(1, 2, first).content.unavailable.is_empty());
}

#[test]
fn what_a_commit_of_the_last_epoch_named_and_is_gone_is_said_by_the_committee_of_that_epoch() {
    let mut net = net();
    let (digest, info, _) = gone_everywhere(&mut net);
    net.close_all(0, 1);
    (0..4).for_each(|index| net.open(index, 1, &committee(0..4)));
    fetch(&mut net, 1, 800, digest, info);
    net.pass(Duration::from_secs(5));
    let found = fetched(&mut net, 1, 800);
    let Some(Err(FetchError::Unavailable(proof))) = found else { panic!("{found:?}") };
    assert_eq!((proof.epoch, proof.index, proof.digest), (Epoch(0), FIRST, digest));
}
