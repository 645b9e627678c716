//! What is fetched before anybody waits for it: of whom, when, and how much at a time.

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;

use super::net::*;
use crate::config::SequencerConfig;
use crate::sequencer::port::*;
use crate::types::*;

/// A batch that node 3 knows by a proof of these signers alone.
fn prove(net: &mut Net, counter: u64, text: &str, signers: &[usize]) -> Digest {
    let info = net.forge(0, counter, text, Duration::from_secs(10)).info;
    let digest = info.digest(&net.genesis.chain_id());
    let signature = Signature::from_bytes(&[7; 64]);
    let index = |signer: &usize| net.genesis.committee.index_of(&net.nodes[*signer].author);
    let part = |signer| ProofSignature { signer: index(signer).unwrap(), signature };
    let signatures = signers.iter().map(part).collect();
    net.input(3, Input::Proof { digest, proof: Arc::new(ProofOfStore { info, signatures }) });
    digest
}

/// Whom node 3 asks for content.
fn asked(net: &mut Net) -> Vec<usize> {
    let requests = net.wires.drain(..).filter_map(|(from, to, message)| match message {
        Message::FetchRequest(_) if from == 3 => Some(to),
        _ => None,
    });
    requests.collect()
}

#[test]
fn what_a_proof_names_and_is_not_here_is_asked_of_who_signed_it_and_in_time() {
    for holder in 0..3 {
        let delay = Duration::from_millis(50);
        let config = SequencerConfig { refetch_delay: delay, ..SequencerConfig::default() };
        let mut net = Net::with(config);
        // What is announced first is announced at once.
        net.input(3, Input::Tick);
        net.settle();
        prove(&mut net, 1, "one", &[holder, 3]);
        assert!(asked(&mut net).is_empty(), "it may be on its way");
        let due = net.nodes[3].sequencer.next_deadline().unwrap();
        assert_eq!(due, net.now.monotonic + delay);
        net.now.monotonic = due;
        net.input(3, Input::Tick);
        assert_eq!(asked(&mut net), [holder]);
    }
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn the_rate_is_kept_to_the_microsecond_and_every_deadline_brings_something() {
    let config = SequencerConfig {
        refetch_delay: Duration::from_millis(10),
        refetch_bytes_per_second: ByteSize::kib(64),
        announce_interval: Duration::from_secs(1),
        ..SequencerConfig::default()
    };
    let mut net = Net::with(config);
    net.input(3, Input::Tick);
    let text = "x".repeat(16 << 10);
    for counter in 1..=4 {
        prove(&mut net, counter, &text, &[0, 1, 2]);
    }
    let began = net.now.monotonic;
    let mut starts = Vec::new();
    while starts.len() < 4 {
        let due = net.nodes[3].sequencer.next_deadline().unwrap();
        assert!(due > net.now.monotonic, "time goes on");
        net.now.monotonic = due;
        let before = net.status(3).refetched;
        net.input(3, Input::Tick);
        starts.extend((before..net.status(3).refetched).map(|_| due.saturating_sub(began)));
        let rate = net.nodes[3].sequencer.next_deadline();
        assert!(rate.is_some_and(|next| next > due), "what was due at {due:?} is done");
    }
    // A tenth of a second's worth at once, then a quarter of a second for each.
    let gaps: Vec<Duration> =
        starts.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert_eq!(starts[0], Duration::from_millis(10));
    let quarter = |gap: &Duration| gap.as_millis().abs_diff(250) <= 1;
    assert!(gaps[0] < Duration::from_millis(250) && gaps[1..].iter().all(quarter), "{gaps:?}");
}

#[test]
fn a_proposer_that_sends_its_payload_by_itself_is_not_held_to_have_sent_what_nobody_asked_for() {
    let mut net = Net::new();
    for height in 1..8 {
        // None of them is ordered: each is another proposal for the same block.
        net.batch(0, &format!("text {height}"));
        let payload = net.pull(0, 1, net.genesis_digest());
        net.give_payload(0, 3, &payload);
    }
    assert!(net.nodes[3].refusals.is_empty());
    let proposer = net.nodes[0].author;
    let status = net.status(3);
    let peer = status.fetch_peers.iter().find(|peer| peer.peer == proposer).unwrap();
    assert_eq!((peer.penalty, peer.failed), (0, 0));
}

#[test]
fn what_a_proof_names_and_an_earlier_life_did_not_fetch_is_fetched_in_the_next_one() {
    let mut net = Net::new();
    let digest = prove(&mut net, 1, "one", &[0, 1, 2]);
    net.settle();
    net.restart(3);
    assert_eq!(net.status(3).refetches, 1);
    net.input(3, Input::Tick);
    assert_eq!(asked(&mut net).len(), 1, "at once");
    // What is here is not fetched, whatever was planned.
    let batch = net.forge(0, 1, "one", Duration::from_secs(10));
    assert_eq!(net.give_batch(0, 3, &batch), digest);
    net.settle();
    assert_eq!((net.status(3).fetches, net.status(3).refetches), (0, 0));
    net.restart(3);
    assert_eq!(net.status(3).refetches, 0);
}
