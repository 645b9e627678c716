//! What is measured is what happened, and how long it took by the clock that the core is given.

use std::time::Duration;

use super::net::*;
use crate::config::SequencerConfig;
use crate::sequencer::port::*;
use crate::store::Store as _;
use crate::types::*;

const MS: Duration = Duration::from_millis(1);

/// What a node measured since this was last looked at.
fn measured(net: &mut Net, index: usize) -> Vec<Measurement> {
    std::mem::take(&mut net.nodes[index].measured)
}

fn hold(net: &mut Net, holds: bool) {
    (1..4).for_each(|index| net.nodes[index].holds = holds);
    net.settle();
}

#[test]
fn a_batch_is_measured_when_it_is_sealed_certified_proposed_and_ordered() {
    let mut net = Net::with(SequencerConfig { batch_age_min: 20 * MS, ..Default::default() });
    hold(&mut net, true);
    let id = net.submit(0, &["one", "three"]);
    net.pass(net.config.batch_age_max);
    let author = net.nodes[0].author;
    let digest = net.accepted(0, id)[0].batch;
    let bytes = net.nodes[0].store.reader().batch(&digest).unwrap().unwrap().info.bytes;
    assert_eq!(measured(&mut net, 0), [Measurement::Sealed { transactions: 2, bytes }]);
    net.pass(30 * MS);
    hold(&mut net, false);
    let certified = measured(&mut net, 0);
    assert_eq!(certified[0], Measurement::Certified(30 * MS));
    assert!(certified[1..].iter().all(|m| *m == Measurement::LateVote), "{certified:?}");
    net.pass(50 * MS);
    let leader = &net.nodes[1].sequencer;
    assert_eq!((leader.proposable(), leader.proposable_bytes()), (1, bytes.into()));
    let payload = net.pull(1, 1, net.genesis_digest());
    let (age, proven) = (50 * MS, Some(50 * MS));
    let (batches, transactions) = (1, 2);
    let proposed = [
        Measurement::ProposedBatch { author, age, proven },
        Measurement::Proposed { batches, transactions, bytes: bytes.into() },
    ];
    assert_eq!(measured(&mut net, 1), proposed, "and none without a proof");
    net.pass(20 * MS);
    for index in 0..4 {
        net.give_payload(1, index, &payload);
        net.commit(index, payload.header);
    }
    net.settle();
    let of_author = Measurement::OrderedOf { author, batches, transactions };
    assert_eq!(measured(&mut net, 0), [of_author, Measurement::Ordered(100 * MS)]);
    assert_eq!(measured(&mut net, 2), [of_author], "not one of its own");
    net.pull(1, 2, payload.digest(&net.genesis.chain_id()));
    assert_eq!(measured(&mut net, 1)[1..], [], "nothing is in it");
}

#[test]
fn votes_that_come_late_and_the_proof_that_grows_by_them_are_measured() {
    let mut net = Net::new();
    net.drops = |from, _, message| from == 3 && matches!(message, Message::Votes { .. });
    let digest = net.batch(0, "one");
    net.drops = |_, _, _| false;
    measured(&mut net, 0);
    let signature = Signature::from_bytes(&[7; 64]);
    let late = SignedBatchInfo { digest, signer: net.nodes[3].author, signature };
    for expected in [&[Measurement::LateVote][..], &[]] {
        net.input(0, Input::Vote(late));
        assert_eq!(measured(&mut net, 0), expected, "each once");
    }
    // Such a proof would not be accepted.
    net.drops = |_, _, message| matches!(message, Message::Proofs(_));
    net.pass(net.config.resend_interval);
    assert_eq!(measured(&mut net, 0), [Measurement::Grown]);
}

#[test]
fn a_member_that_signs_badly_is_counted_once() {
    let mut net = Net::new();
    for (from, expected) in [(Author([9; 32]), 0), (net.nodes[3].author, 1)] {
        for _ in 0..3 {
            net.input(0, Input::BadVote { from });
        }
        let demoted = measured(&mut net, 0);
        assert_eq!(demoted, vec![Measurement::Demoted; expected]);
    }
}

/// Proposes without a proof what is so old; nothing gets one.
fn trusting(optimistic_age_min: Duration) -> Net {
    let mut net = Net::with(SequencerConfig {
        optimistic: true,
        optimistic_age_min,
        optimistic_batch_age_max: 20 * MS,
        batch_age_min: 20 * MS,
        inline_batches_max: 1,
        ..SequencerConfig::default()
    });
    net.drops = |_, _, message| matches!(message, Message::Votes { .. });
    net
}

#[test]
fn batches_without_a_proof_are_counted_by_the_way_they_travel() {
    // Of another author, by its digest; or its own that is too young for that, in the payload.
    let optimistic = (1, Duration::ZERO, 1, 0);
    let inline = (0, Duration::from_secs(1), 0, 1);
    for (author, age_min, optimistic, inline) in [optimistic, inline] {
        let mut net = trusting(age_min);
        net.batch(author, "one");
        measured(&mut net, 0);
        net.block(1, net.genesis_digest());
        let seen = measured(&mut net, 0);
        let proposed = Measurement::ProposedUnproven { optimistic, inline };
        let ordered = Measurement::OrderedUnproven { optimistic, inline };
        assert!(seen.contains(&proposed) && seen.contains(&ordered), "{seen:?}");
        let author = net.nodes[author].author;
        let (age, proven) = (Duration::ZERO, None);
        let batch = Measurement::ProposedBatch { author, age, proven };
        assert!(seen.contains(&batch), "{seen:?}");
    }
}

#[test]
fn pulls_and_what_is_released_are_counted() {
    let mut net = Net::new();
    net.nodes[0].source.is_there = true;
    net.input(0, Input::SourceReady);
    let mut transactions: Vec<_> = ["one", "two"].map(|text| net.transaction(text)).into();
    transactions.push(net.transaction(""));
    net.input(0, Input::Transactions(transactions));
    let pulled = Measurement::Pulled { transactions: 2, refused: 1 };
    assert_eq!(measured(&mut net, 0), [pulled]);
    net.pass(net.config.batch_age_max);
    net.block(1, net.genesis_digest());
    let reason = ReleaseReason::Ordered;
    let released = Measurement::Released { reason, transactions: 2 };
    assert_eq!(measured(&mut net, 0).iter().filter(|m| **m == released).count(), 1);
}

#[test]
fn a_vote_that_waited_for_a_batch_says_how_long() {
    let mut net = trusting(Duration::ZERO);
    net.drops = |_, to, m| to == 2 || matches!(m, Message::Votes { .. });
    let digest = net.batch(1, "one");
    let payload = net.pull(0, 1, net.genesis_digest());
    assert_eq!(payload.content.optimistic.len(), 1);
    net.give_payload(0, 2, &payload);
    let genesis = net.genesis.header();
    let parent = ParentOf {
        digest: net.genesis_digest(),
        height: CommitIndex(0),
        block_timestamp: genesis.block_timestamp,
    };
    let id = net.verify(2, payload.digest(&net.genesis.chain_id()), Some(parent));
    net.settle();
    net.pass(40 * MS);
    assert!(!net.nodes[2].replies.contains_key(&id));
    measured(&mut net, 2);
    let batch = net.nodes[1].store.reader().batch(&digest).unwrap().unwrap();
    net.give_batch(1, 2, &batch);
    net.settle();
    assert!(matches!(net.nodes[2].replies.get(&id), Some(Reply::Verified(Ok(_)))));
    assert_eq!(measured(&mut net, 2), [Measurement::OptimisticWait(40 * MS)]);
}

#[test]
fn how_long_the_newest_batch_in_a_commit_waited_is_felt_while_others_wait() {
    let mut net = Net::new();
    let bound = net.config.pressure.commit_time_max;
    for text in ["one", "two"] {
        net.batch(0, text);
        net.pass(bound / 5);
    }
    let level = |net: &Net| net.nodes[0].sequencer.pressure().levels.commits;
    let before = level(&net);
    net.block(1, net.genesis_digest());
    assert_eq!(level(&net), 0, "nothing waits");
    net.batch(0, "three");
    assert_eq!((before, level(&net)), (0, 200));
}
