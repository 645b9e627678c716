//! Content that is gone: what is said about it, what evidence needs, and what a commit does with it.

use std::time::Duration;

use super::net::*;
use crate::sequencer::port::*;
use crate::sequencer::silent_until;
use crate::store::Store as _;
use crate::store::memory::MemoryStore;
use crate::types::*;

pub const FIRST: CommitIndex = CommitIndex(1);

/// Four nodes whose executors need every commit from the first on.
pub fn net() -> Net {
    let mut net = Net::new();
    (0..4).for_each(|index| attach(&mut net, index, 1));
    net.settle();
    net
}

/// The executor of a node needs this commit next.
pub fn attach(net: &mut Net, index: usize, from: u64) {
    let subscriber = "executor".to_owned();
    net.request(index, |id| Input::Subscribe { id, subscriber, next: CommitIndex(from) });
}

fn info(net: &Net, index: usize, digest: Digest) -> BatchInfo {
    let proof = net.nodes[index].store.reader().proof(&digest).unwrap().unwrap();
    proof.info
}

/// The disk of a node loses a batch, and its process is started again.
fn lose(net: &mut Net, index: usize, digest: Digest, expiration: Timestamp) {
    net.nodes[index].store.commit(&[Record::DropBatch { digest, expiration }]).unwrap();
    net.restart(index);
}

pub fn fetch(net: &mut Net, index: usize, id: u64, digest: Digest, info: BatchInfo) {
    let deadline = net.now.monotonic + Duration::from_secs(20);
    let commit = Some(FIRST);
    let wanted = Wanted { digest, info: Some(info), holders: Vec::new(), commit };
    net.input(index, Input::Fetch { id: RequestId(id), wanted, deadline });
}

pub fn fetched(net: &mut Net, index: usize, id: u64) -> Option<Result<Content, FetchError>> {
    match net.nodes[index].replies.remove(&RequestId(id))? {
        Reply::Fetched(result) => Some(result),
        other => panic!("not fetched: {other:?}"),
    }
}

/// A batch in the first commit that every disk has lost.
pub fn gone_everywhere(net: &mut Net) -> (Digest, BatchInfo, Digest) {
    let digest = net.batch(0, "one");
    let info = info(net, 0, digest);
    let (first, _) = net.block(1, net.genesis_digest());
    (0..4).for_each(|index| lose(net, index, digest, info.expiration));
    net.settle();
    (digest, info, first)
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn content_that_a_quorum_misses_is_evidence_then_a_proposal_then_skipped_by_all() {
    let mut net = net();
    let (digest, info, first) = gone_everywhere(&mut net);
    fetch(&mut net, 1, 800, digest, info);
    net.pass(Duration::from_secs(5));
    let Some(Err(FetchError::Unavailable(proof))) = fetched(&mut net, 1, 800) else {
        panic!("no evidence")
    };
    assert_eq!((proof.index, proof.digest), (FIRST, digest));
    assert!(proof.verify_shape(&net.genesis.committee, Epoch(0)).is_ok());
    assert_eq!((net.status(1).evidence, net.status(1).skipped.len()), (1, 0));
    // Who asks again is told again, and evidence alone changes nothing.
    fetch(&mut net, 1, 801, digest, info);
    net.pass(Duration::from_secs(5));
    assert!(matches!(fetched(&mut net, 1, 801), Some(Err(FetchError::Unavailable(_)))));

    // Somebody waits while it is ordered, and is told what to do.
    fetch(&mut net, 2, 802, digest, info);
    let payload = net.pull(1, 2, first);
    assert_eq!(payload.content.unavailable, [UnavailabilityProof::clone(&proof)]);
    let second = payload.digest(&net.genesis.chain_id());
    for index in [0, 2, 3] {
        net.give_payload(1, index, &payload);
        let id = net.verify(index, second, None);
        net.settle();
        assert!(matches!(net.nodes[index].replies.remove(&id), Some(Reply::Verified(Ok(_)))));
    }
    for index in 0..4 {
        net.commit(index, payload.header);
    }
    net.settle();
    let rewritten = fetched(&mut net, 2, 802);
    assert!(matches!(rewritten, Some(Err(FetchError::Rewritten | FetchError::Unavailable(_)))));
    for round in 0..2 {
        for index in 0..4 {
            let skips = net.nodes[index].sequencer.skips();
            assert_eq!(skips.get(&digest), Some(&FIRST), "for whoever executes");
            let status = net.status(index);
            assert_eq!(status.skipped, [(FIRST, digest)], "node {index}, life {round}");
            assert_eq!((status.evidence, status.committed_evidence.len()), (0, 1));
            net.restart(index);
        }
        net.settle();
    }
    // It is known to be gone: nobody is asked, and nobody waits.
    fetch(&mut net, 0, 803, digest, info);
    assert!(matches!(fetched(&mut net, 0, 803), Some(Err(FetchError::Rewritten))));
    // Whoever executed the first commit is told before the second one.
    attach(&mut net, 3, 2);
    net.settle();
    let told: Vec<Delivery> = net.nodes[3].deliveries.drain(..).map(|(_, told)| told).collect();
    let expected = Delivery::Rewritten { by: CommitIndex(2), index: FIRST, digest };
    assert_eq!(told[0], expected);
    assert!(matches!(told[1], Delivery::Commit(commit) if commit.index == CommitIndex(2)));
    // Nothing proposes it again.
    let third = net.pull(1, 3, second);
    assert!(third.content.unavailable.is_empty());
}

#[test]
fn one_copy_left_is_found_and_never_evidence_against_it() {
    let mut net = net();
    let digest = net.batch(0, "one");
    let info = info(&net, 0, digest);
    net.block(1, net.genesis_digest());
    (1..4).for_each(|index| lose(&mut net, index, digest, info.expiration));
    net.settle();
    fetch(&mut net, 1, 800, digest, info);
    net.pass(Duration::from_secs(5));
    assert!(matches!(fetched(&mut net, 1, 800), Some(Ok(Content::Batch(_)))));
    assert_eq!(net.status(1).evidence, 0);
    assert!(net.nodes[1].store.reader().batch(&digest).unwrap().is_some(), "and stored");
}

#[test]
fn a_wait_for_what_is_held_here_ends_although_nobody_else_has_it() {
    let mut net = net();
    let digest = net.batch(0, "one");
    let info = info(&net, 0, digest);
    net.block(1, net.genesis_digest());
    for index in [0, 2, 3] {
        lose(&mut net, index, digest, info.expiration);
    }
    net.settle();
    // As by a host that looked into the store before the content was there.
    fetch(&mut net, 1, 800, digest, info);
    net.pass(Duration::from_secs(21));
    let ended = fetched(&mut net, 1, 800);
    assert!(matches!(ended, Some(Ok(_) | Err(FetchError::TimedOut { .. }))), "{ended:?}");
    assert_eq!(net.status(1).evidence, 0);
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn whoever_holds_the_content_does_not_vote_for_evidence_and_pushes_it_instead() {
    let mut net = net();
    let digest = net.batch(0, "one");
    let info = info(&net, 0, digest);
    let (first, _) = net.block(1, net.genesis_digest());
    // Node 0 keeps it, and is cut off while the others say that it is gone.
    (1..4).for_each(|index| lose(&mut net, index, digest, info.expiration));
    net.drops = |from, to, _| from == 0 || to == 0;
    net.settle();
    fetch(&mut net, 1, 800, digest, info);
    net.pass(Duration::from_secs(5));
    assert!(matches!(fetched(&mut net, 1, 800), Some(Err(FetchError::Unavailable(_)))));
    let payload = net.pull(1, 2, first);
    assert_eq!(payload.content.unavailable.len(), 1);
    net.drops = |_, _, _| false;
    net.give_payload(1, 0, &payload);
    let id = net.verify(0, payload.digest(&net.genesis.chain_id()), None);
    net.settle();
    assert!(!net.nodes[0].replies.contains_key(&id), "no vote");
    for index in 1..4 {
        let held = net.nodes[index].store.reader().batch(&digest).unwrap();
        assert!(held.is_some(), "node {index} has it again");
    }
    let again = net.pull(1, 2, first);
    assert!(again.content.unavailable.is_empty(), "there is nothing to say any more");
}

/// What a node answers to the question whether content of a commit is absent there.
fn ask(net: &mut Net, index: usize, commit: CommitIndex, digest: Digest) -> AbsenceAnswer {
    // Any other one but the last, which some tests cut off.
    let from = net.nodes[(index + 1) % 3].author;
    let wires = net.wires.len();
    assert_eq!(wires, 0, "settled before");
    net.input(index, Input::AbsenceRequest { from, index: commit, digest });
    while net.write(index) {}
    let answers = net.wires.drain(..).filter_map(|(_, _, message)| match message {
        Message::Absence { index, digest: of, answer } if (index, of) == (commit, digest) => {
            Some(answer)
        }
        _ => None,
    });
    let answers: Vec<_> = answers.collect();
    assert_eq!(answers.len(), 1);
    answers[0]
}

#[test]
fn absence_is_said_only_of_what_a_logged_commit_names_and_is_needed_and_missing_here() {
    let mut net = net();
    net.drops = |_, to, message| to == 3 && matches!(message, Message::Batch(_));
    let digest = net.batch(0, "one");
    // Before the commit, whatever is held or not.
    for index in 0..4 {
        let expected = if index == 3 { AbsenceAnswer::Unknown } else { AbsenceAnswer::Held };
        assert_eq!(ask(&mut net, index, FIRST, digest), expected);
    }
    net.drops = |_, to, message| to == 3 && !matches!(message, Message::Payload(_));
    net.block(1, net.genesis_digest());
    for index in 0..3 {
        assert_eq!(ask(&mut net, index, FIRST, digest), AbsenceAnswer::Held);
    }
    // Another commit, or a content that this one does not name.
    for (commit, content) in [(CommitIndex(2), digest), (FIRST, Digest([9; 32]))] {
        assert_eq!(ask(&mut net, 3, commit, content), AbsenceAnswer::Unknown);
    }
    assert_eq!(net.status(3).absences, 0);
    let said = ask(&mut net, 3, FIRST, digest);
    assert!(matches!(said, AbsenceAnswer::Signed { epoch: Epoch(0), .. }), "{said:?}");
    assert_eq!(net.status(3).absences, 1);
    // Once the executor has passed the commit, its absence proves nothing, also if it comes back.
    attach(&mut net, 3, 2);
    assert_eq!(ask(&mut net, 3, FIRST, digest), AbsenceAnswer::Passed);
    net.settle();
    net.restart(3);
    attach(&mut net, 3, 1);
    net.wires.clear();
    assert_eq!(ask(&mut net, 3, FIRST, digest), AbsenceAnswer::Passed);
}

#[test]
fn what_was_said_to_be_absent_is_never_signed_for_and_kept_all_the_same() {
    let mut net = net();
    net.drops = |_, to, message| to == 3 && matches!(message, Message::Batch(_));
    let digest = net.batch(0, "one");
    net.drops = |_, to, _| to == 3;
    let (_, payload) = net.block(1, net.genesis_digest());
    net.give_payload(0, 3, &payload);
    net.settle();
    assert!(matches!(ask(&mut net, 3, FIRST, digest), AbsenceAnswer::Signed { .. }));
    let batch = net.nodes[0].store.reader().batch(&digest).unwrap().unwrap();
    for life in 0..3 {
        net.nodes[3].signed.clear();
        net.give_batch(0, 3, &batch);
        net.settle();
        assert!(net.nodes[3].signed.is_empty(), "life {life}");
        let held = net.nodes[3].store.reader().batch(&digest).unwrap();
        assert!(held.is_some(), "somebody may need it");
        assert_eq!(ask(&mut net, 3, FIRST, digest), AbsenceAnswer::Held);
        net.restart(3);
        net.wires.clear();
    }
}

#[test]
fn statements_add_up_only_for_one_content_one_commit_and_one_epoch_each_member_once() {
    let mut net = net();
    let (digest, info, _) = gone_everywhere(&mut net);
    // The questions of node 1 leave, the answers do not arrive: they are given by hand.
    net.drops = |_, to, message| to == 1 && matches!(message, Message::Absence { .. });
    fetch(&mut net, 1, 800, digest, info);
    net.pass(Duration::from_secs(5));
    assert_eq!(net.status(1).evidence, 0);
    let reason = AbsenceReason::NeverHeld;
    let signature = Signature::from_bytes(&[7; 64]);
    let signed = |epoch| AbsenceAnswer::Signed { epoch: Epoch(epoch), reason, signature };
    let say = |net: &mut Net, from: usize, index: u64, digest, answer| {
        let (from, index) = (net.nodes[from].author, CommitIndex(index));
        net.input(1, Input::Absence { from, index, digest, answer });
        net.status(1).evidence
    };
    // It has signed itself. One more is no quorum of four, however often it says so.
    for _ in 0..3 {
        assert_eq!(say(&mut net, 0, 1, digest, signed(0)), 0);
    }
    assert_eq!(say(&mut net, 2, 1, digest, signed(1)), 0, "of another epoch");
    assert_eq!(say(&mut net, 2, 2, digest, signed(0)), 0, "about another commit");
    assert_eq!(say(&mut net, 2, 1, Digest([9; 32]), signed(0)), 0, "about another content");
    for answer in [AbsenceAnswer::Passed, AbsenceAnswer::Unknown, AbsenceAnswer::Held] {
        assert_eq!(say(&mut net, 2, 1, digest, answer), 0, "{answer:?} proves nothing");
    }
    let outsider = Author([9; 32]);
    let index = FIRST;
    net.input(1, Input::Absence { from: outsider, index, digest, answer: signed(0) });
    assert_eq!(net.status(1).evidence, 0, "no member");
    assert_eq!(say(&mut net, 2, 1, digest, signed(0)), 1, "three of four");
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn when_more_than_f_have_passed_a_commit_what_it_named_is_pruned_and_not_gone() {
    let mut net = net();
    let (digest, info, _) = gone_everywhere(&mut net);
    for index in [0, 2] {
        let subscriber = "executor".to_owned();
        net.input(index, Input::Acknowledge { subscriber, next: CommitIndex(2) });
    }
    net.settle();
    fetch(&mut net, 1, 800, digest, info);
    net.pass(Duration::from_secs(15));
    assert_eq!(fetched(&mut net, 1, 800).map(|r| r.unwrap_err()), Some(FetchError::Pruned));
    assert_eq!(net.status(1).evidence, 0);
}

#[test]
fn a_proof_whose_batch_never_came_is_deleted_once_it_has_expired() {
    let mut net = Net::new();
    net.drops = |_, to, message| {
        to == 3 && matches!(message, Message::Batch(_) | Message::FetchReply { .. })
    };
    let digest = net.batch(0, "one");
    let payload = net.pull(3, 1, net.genesis_digest());
    assert_eq!(payload.content.proofs.len(), 1, "it can be proposed all the same");
    let proof = |net: &Net| net.nodes[3].store.reader().proof(&digest).unwrap();
    assert!(proof(&net).is_some());
    net.pass(net.genesis.parameters.batch_lifetime() + Duration::from_secs(1));
    // A commit far enough ahead in time.
    let mut parent = net.genesis_digest();
    for height in 1..3 {
        parent = net.block(height, parent).0;
        net.pass(Duration::from_secs(1));
    }
    assert!(proof(&net).is_none());
    net.restart(3);
    assert_eq!(net.status(3).proofs, 0);
}

#[test]
fn what_proofs_name_and_is_not_here_is_fetched_before_anybody_waits_for_it() {
    let mut net = Net::new();
    net.drops = |_, to, message| to == 3 && matches!(message, Message::Batch(_));
    let digest = net.batch(0, "one");
    net.drops = |_, _, _| false;
    let held = |net: &Net| net.nodes[3].store.reader().batch(&digest).unwrap().is_some();
    assert!(!held(&net) && net.status(3).refetches == 1);
    net.pass(net.config.refetch_delay + Duration::from_secs(1));
    assert!(held(&net));
    assert_eq!((net.status(3).refetches, net.status(3).refetched), (0, 1));
    assert!(!net.nodes[3].signed.contains(&digest), "nobody sent it as its author");
}

#[test]
fn a_store_that_replaces_a_lost_one_signs_for_nothing_before_its_time() {
    let mut net = Net::new();
    let parameters = net.genesis.parameters;
    let until = silent_until(net.now.wall, &parameters);
    let (author, chain) = (net.nodes[3].author, net.genesis.chain_id());
    net.nodes[3].store = MemoryStore::replacement(author, chain, Incarnation(500), until);
    for _ in 0..2 {
        net.restart(3);
        net.settle();
        assert_eq!(net.status(3).silent_until, Some(until));
        net.nodes[3].signed.clear();
        let digest = net.batch(0, "one");
        net.settle();
        let reader = net.nodes[3].store.reader();
        assert!(reader.batch(&digest).unwrap().is_some(), "it is stored, and the others sign");
        assert!(net.nodes[3].signed.is_empty() && net.status(0).uncertified_batches == 0);
        net.pass(Duration::from_secs(1));
    }
    net.pass(parameters.batch_lifetime() + Duration::from_secs(2));
    net.block(1, net.genesis_digest());
    assert_eq!(net.status(3).silent_until, None, "consensus time has come that far");
    let digest = net.batch(0, "two");
    net.settle();
    assert_eq!(net.nodes[3].signed, [digest]);
    net.restart(3);
    assert_eq!(net.status(3).silent_until, None);
}
