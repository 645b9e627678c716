//! Collecting votes: proofs that grow, signers that are demoted and forgiven, links that come back.

use std::time::Duration;

use super::net::*;
use crate::sequencer::port::*;
use crate::store::Store as _;
use crate::types::*;

fn signers(net: &mut Net, leader: usize) -> usize {
    let payload = net.pull(leader, 1, net.genesis_digest());
    payload.content.proofs[0].signatures.len()
}

/// A batch of node 0 that is certified, and the vote of node 3 for it, held back.
fn certified_without(net: &mut Net) -> (Digest, SignedBatchInfo) {
    net.drops = |from, _, message| from == 3 && matches!(message, Message::Votes { .. });
    let digest = net.batch(0, "one");
    assert_eq!(net.status(0).uncertified_batches, 0);
    net.drops = |_, _, _| false;
    // Sent to node 3 again, it is signed again.
    let (signer, from) = (net.nodes[3].author, net.nodes[0].author);
    let batch = net.nodes[0].store.reader().batch(&digest).unwrap().unwrap();
    net.input(3, Input::Batch { from, digest, batch });
    net.write(3);
    let sent = net.wires.pop_back();
    let Some((3, 0, Message::Votes { votes, .. })) = sent else { panic!("{sent:?}") };
    (digest, SignedBatchInfo { digest, signer, signature: votes[0].signature })
}

#[test]
fn a_proof_grows_while_its_batch_waits() {
    let mut net = Net::new();
    let (_, late) = certified_without(&mut net);
    net.pass(Duration::from_millis(300));
    net.input(0, Input::Vote(late));
    net.input(0, Input::Vote(late));
    net.settle();
    assert_eq!(signers(&mut net, 1), 3, "what is ordered soon is published once");
    let mut net = Net::new();
    let (_, late) = certified_without(&mut net);
    net.pass(Duration::from_millis(300));
    net.input(0, Input::Vote(late));
    net.pass(net.config.resend_interval);
    for leader in 0..4 {
        assert_eq!(signers(&mut net, leader), 4, "at {leader}");
    }
}

#[test]
fn a_proof_grows_no_more_once_its_batch_is_ordered() {
    let mut net = Net::new();
    let (digest, late) = certified_without(&mut net);
    let (_, payload) = net.block(1, net.genesis_digest());
    assert_eq!(payload.content.proofs[0].info.digest(&net.genesis.chain_id()), digest);
    net.nodes[0].refusals.clear();
    net.input(0, Input::Vote(late));
    assert_eq!(net.nodes[0].refusals, [Refusal::UnknownBatch]);
    // Nothing is armed for it.
    let before = net.now.monotonic;
    net.drops = |_, _, message| {
        assert!(!matches!(message, Message::Proofs(_)), "published again");
        false
    };
    net.pass(Duration::from_secs(5));
    assert!(net.now.monotonic > before);
}

/// Whom node 0 sends its batch in the next seconds.
fn asked(net: &mut Net, duration: Duration) -> Vec<usize> {
    let mut asked = Vec::new();
    let mut left = duration;
    let step = Duration::from_millis(50);
    while !left.is_zero() {
        left = left.saturating_sub(step);
        net.now.monotonic += step;
        net.now.wall = net.now.wall.saturating_add(step);
        net.input(0, Input::Tick);
        let batches = net.wires.iter().filter(|(_, _, m)| matches!(m, Message::Batch(_)));
        asked.extend(batches.map(|(_, to, _)| *to));
        net.wires.clear();
    }
    asked.sort_unstable();
    asked.dedup();
    asked
}

#[test]
fn who_signs_badly_is_not_asked_again_until_it_is_forgiven() {
    let mut net = Net::new();
    net.drops = |_, _, message| matches!(message, Message::Votes { .. });
    net.batch(0, "one");
    net.wires.clear();
    let liar = net.nodes[3].author;
    net.input(0, Input::BadVote { from: liar });
    assert_eq!(net.status(0).demoted, [liar]);
    assert_eq!(asked(&mut net, Duration::from_millis(9_500)), [1, 2]);
    // Resends have backed off to once in sixteen seconds by now.
    assert_eq!(asked(&mut net, Duration::from_secs(17)), [1, 2, 3], "forgiven");
    assert_eq!(net.status(0).demoted, []);
}

#[test]
fn demoted_signers_are_asked_where_nobody_else_makes_a_quorum() {
    let mut net = Net::new();
    net.drops = |_, _, message| matches!(message, Message::Votes { .. });
    net.batch(0, "one");
    net.wires.clear();
    for index in [2, 3] {
        let from = net.nodes[index].author;
        net.input(0, Input::BadVote { from });
    }
    // Somebody without a seat changes nothing.
    net.input(0, Input::BadVote { from: signer_of_nobody() });
    assert_eq!(net.status(0).demoted.len(), 2);
    assert_eq!(asked(&mut net, Duration::from_secs(5)), [1, 2, 3]);
}

fn signer_of_nobody() -> Author {
    Author([0xEE; 32])
}

#[test]
fn a_link_that_comes_up_has_only_its_own_end_asked_again() {
    let mut net = Net::new();
    net.drops = |_, _, message| matches!(message, Message::Votes { .. });
    net.batch(0, "one");
    // Everybody was asked at first and three seconds later; the next time is seven seconds away.
    assert_eq!(asked(&mut net, Duration::from_millis(3_500)), [1, 2, 3]);
    let peer = net.nodes[2].author;
    for _ in 0..3 {
        net.input(0, Input::LinkDown { peer });
        net.link(0, 2);
        net.wires.clear();
    }
    assert_eq!(asked(&mut net, Duration::from_secs(1)), [2]);
}

#[test]
fn who_had_no_room_is_sent_a_batch_soon_after_whatever_the_silence_of_others() {
    let mut net = Net::new();
    let interval = net.config.resend_interval;
    // Node 3 is silent; node 1 grants nothing, and what it says later does not arrive by itself.
    net.drops = |from, _, message| {
        from == 3 && matches!(message, Message::Votes { .. })
            || from == 1 && matches!(message, Message::Announce(_))
    };
    let from = net.nodes[1].author;
    let announcement = net.nodes[1].sequencer.announcement();
    let window = Usage::default();
    net.input(0, Input::Announce { from, announcement: Announcement { window, ..announcement } });
    net.batch(0, "one");
    assert_eq!(net.status(0).uncertified_batches, 1, "two of four have signed");
    // So long that node 3 is hardly ever asked any more.
    net.pass(16 * interval);
    assert_eq!(net.status(0).uncertified_batches, 1);
    assert!(asked(&mut net, interval).is_empty(), "there is nobody to ask");
    net.input(0, Input::Announce { from, announcement });
    assert_eq!(asked(&mut net, interval), [1], "and not node 3");
}
