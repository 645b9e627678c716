//! Batches, signatures, proofs and windows.

use std::time::Duration;

use bytesize::ByteSize;

use super::net::*;
use crate::config::SequencerConfig;
use crate::sequencer::port::*;
use crate::store::Store as _;
use crate::types::*;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_submitted_transaction_is_durable_at_a_quorum_and_provable_everywhere() {
    let mut net = Net::new();
    let id = net.submit(0, &["one", "two"]);
    assert!(net.nodes[0].replies.is_empty(), "accepted before its batch was durable");
    net.pass(net.config.batch_age_max);
    let accepted = net.accepted(0, id);
    assert_eq!(accepted[0].batch, accepted[1].batch);
    assert_eq!((accepted[0].position, accepted[1].position), (0, 1));
    let digest = accepted[0].batch;
    assert!(net.nodes[0].events.contains(&Event::Certified { digest }));
    for node in &net.nodes {
        let stored = node.store.reader().batch(&digest).unwrap().unwrap();
        assert_eq!(stored.body.transactions().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(node.sequencer.proposable(), 1);
        assert!(node.store.reader().proof(&digest).unwrap().is_some());
        assert_eq!(node.signed, [digest], "each validator signs once");
    }
}

#[test]
fn nothing_is_signed_accepted_or_published_before_its_group_is_written() {
    let mut net = Net::new();
    (0..4).for_each(|index| net.nodes[index].holds = true);
    let id = net.submit(0, &["one"]);
    net.pass(Duration::from_millis(200));
    for node in &net.nodes {
        assert!(node.signed.is_empty());
        assert!(node.events.is_empty());
        assert!(!node.replies.contains_key(&id));
    }
    // Three write and sign; the author's own group is still on its way.
    (1..4).for_each(|index| net.nodes[index].holds = false);
    net.settle();
    assert!(net.nodes[0].events.is_empty(), "certified before the proof was durable here");
    assert_eq!(net.nodes[1].sequencer.proposable(), 0, "published before it was durable here");
    net.nodes[0].holds = false;
    net.settle();
    assert_eq!(net.accepted(0, id).len(), 1);
    assert_eq!(net.nodes[1].sequencer.proposable(), 1);
}

#[test]
fn a_duplicate_waits_for_the_same_group_and_later_ones_are_signed_again() {
    let mut net = Net::new();
    let batch = net.forge(1, 1, "one", SOON);
    net.nodes[0].holds = true;
    net.give_batch(1, 0, &batch);
    net.give_batch(1, 0, &batch);
    net.nodes[0].holds = false;
    net.settle();
    assert_eq!(net.nodes[0].signed.len(), 1, "one signature for the group that was waited for");
    net.give_batch(1, 0, &batch);
    net.settle();
    assert_eq!(net.nodes[0].signed.len(), 2, "lost signatures are given again");
}

#[test]
fn a_second_batch_in_one_slot_is_never_signed_also_after_a_restart() {
    let mut net = Net::new();
    let (first, second) = (net.forge(1, 1, "one", SOON), net.forge(1, 1, "two", SOON));
    let digest = net.give_batch(1, 0, &first);
    net.settle();
    net.give_batch(1, 0, &second);
    net.settle();
    assert_eq!(net.nodes[0].signed, [digest]);
    assert_eq!(net.nodes[0].refusals, [Refusal::Equivocation]);
    net.restart(0);
    net.give_batch(1, 0, &second);
    net.settle();
    assert!(net.nodes[0].signed.is_empty());
    assert_eq!(net.nodes[0].refusals, [Refusal::Equivocation]);
    net.give_batch(1, 0, &first);
    net.settle();
    assert_eq!(net.nodes[0].signed, [digest], "the first one is signed again");
}

#[test]
fn a_batch_is_admitted_only_from_its_author_in_its_epoch_and_within_its_time() {
    let mut net = Net::new();
    let refusal = |net: &mut Net, from: usize, batch: &Batch| {
        net.give_batch(from, 0, batch);
        net.settle();
        assert!(net.nodes[0].signed.is_empty());
        net.nodes[0].refusals.pop()
    };
    let batch = net.forge(1, 1, "one", SOON);
    assert_eq!(refusal(&mut net, 2, &batch), Some(Refusal::NotFromAuthor));
    let mut other = batch.clone();
    other.info.epoch = Epoch(1);
    assert_eq!(refusal(&mut net, 1, &other), Some(Refusal::NotYet));
    let allowed = Duration::from_millis(30_500);
    let late = net.forge(1, 1, "one", allowed + Duration::from_micros(1));
    assert_eq!(refusal(&mut net, 1, &late), Some(Refusal::ExpiresTooLate));
    let mut expired = batch;
    expired.info.expiration = Timestamp(0);
    assert_eq!(refusal(&mut net, 1, &expired), Some(Refusal::Expired));
    let just = net.forge(1, 1, "one", allowed);
    net.give_batch(1, 0, &just);
    net.settle();
    assert_eq!(net.nodes[0].signed.len(), 1, "exactly at the bound is allowed");
}

#[test]
fn expirations_of_an_author_never_fall_as_its_counter_rises() {
    let mut net = Net::new();
    for (counter, seconds, expected) in [
        (10, 20, None),
        (12, 19, Some(Refusal::ExpirationOrder)),
        (8, 21, Some(Refusal::ExpirationOrder)),
        (12, 20, None),
        (8, 19, None),
        (11, 20, None),
    ] {
        let batch = net.forge(1, counter, "x", Duration::from_secs(seconds));
        net.give_batch(1, 0, &batch);
        assert_eq!(net.nodes[0].refusals.pop(), expected, "counter {counter}, {seconds} s");
    }
}

#[test]
fn incarnations_of_one_author_are_bounded() {
    let mut net = Net::new();
    for incarnation in 0..9 {
        let mut batch = net.forge(1, 1, "x", SOON);
        batch.info.batch_id.incarnation = Incarnation(incarnation);
        net.give_batch(1, 0, &batch);
    }
    assert_eq!(net.nodes[0].refusals, [Refusal::TooManyIncarnations]);
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_window_is_enforced_here_and_respected_there() {
    let config = SequencerConfig {
        window_batches: 16,
        window_bytes: ByteSize::mib(4),
        ..SequencerConfig::default()
    };
    let mut net = Net::with(config);
    for counter in 0..17 {
        let batch = net.forge(1, counter, "x", SOON);
        net.give_batch(1, 0, &batch);
    }
    net.settle();
    assert_eq!(net.nodes[0].refusals, [Refusal::WindowSpent]);
    assert_eq!(net.nodes[0].signed.len(), 16);

    // An author that keeps the rules stops by itself: nobody refuses it.
    let mut net = Net::with(net.config);
    for count in 0..40 {
        net.submit(2, &[&format!("transaction {count}")]);
        net.pass(net.config.batch_age_max);
    }
    for node in &net.nodes {
        assert!(node.refusals.is_empty(), "{:?}", node.refusals);
        assert!(node.sequencer.stored_of(&net.nodes[2].author).batches <= 16);
    }
    let status = net.status(2);
    assert_eq!(status.busy.as_deref(), Some("windows spent"));
    assert_eq!(status.outstanding_batches, 16);
    assert!(status.pool_transactions > 0);
}

#[test]
fn silent_validators_are_asked_again_until_there_is_a_proof() {
    let mut net = Net::new();
    // Nobody hears of the batch.
    net.drops = |_, _, message| matches!(message, Message::Batch(_));
    let digest = net.batch(0, "one");
    net.pass(Duration::from_secs(3));
    assert_eq!(net.status(0).uncertified_batches, 1);
    net.drops = |_, _, _| false;
    net.pass(Duration::from_secs(10));
    assert_eq!(net.status(0).uncertified_batches, 0);
    assert!(net.nodes[0].events.contains(&Event::Certified { digest }));
}

#[test]
fn the_time_to_ask_again_is_a_deadline() {
    let config = SequencerConfig {
        resend_interval: Duration::from_millis(100),
        announce_interval: Duration::from_secs(1),
        ..SequencerConfig::default()
    };
    let mut net = Net::with(config);
    net.drops = |_, _, message| matches!(message, Message::Votes { .. });
    net.batch(0, "one");
    let due = net.nodes[0].sequencer.next_deadline().unwrap();
    assert!(due <= net.now.monotonic + Duration::from_millis(100), "{due:?}");
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_full_group_takes_nothing_more_until_it_is_taken() {
    let group = ByteSize::mib(4);
    let config = SequencerConfig { group_bytes_max: group, ..SequencerConfig::default() };
    let mut net = Net::with(config);
    net.nodes[0].holds = true;
    assert!(!net.nodes[0].sequencer.is_full());
    for counter in 1.. {
        let open = net.nodes[0].sequencer.open_bytes();
        assert_eq!(net.nodes[0].sequencer.is_full(), open >= group.as_u64());
        if open >= group.as_u64() {
            break;
        }
        let batch = net.forge(1, counter, &"x".repeat(60_000), SOON);
        net.give_batch(1, 0, &batch);
    }
    // What is in the pool stays there.
    net.submit(0, &["waits"]);
    net.input(0, Input::Tick);
    net.now.monotonic += net.config.batch_age_max;
    net.input(0, Input::Tick);
    assert_eq!(net.status(0).pool_transactions, 1);
    net.nodes[0].holds = false;
    net.settle();
    net.pass(net.config.batch_age_max);
    assert_eq!(net.status(0).pool_transactions, 0);
}

#[test]
fn votes_for_unknown_batches_and_repeated_votes_count_nothing() {
    let mut net = Net::new();
    // Its own votes and proofs would be real; here signatures are made up.
    net.drops = |_, _, message| matches!(message, Message::Votes { .. } | Message::Proofs(_));
    let digest = net.batch(0, "one");
    let vote = |net: &Net, signer: usize, digest| SignedBatchInfo {
        digest,
        signer: net.nodes[signer].author,
        signature: Signature::from_bytes(&[1; 64]),
    };
    for _ in 0..5 {
        let repeated = vote(&net, 1, digest);
        net.input(0, Input::Vote(repeated));
    }
    net.settle();
    assert!(net.nodes[0].events.is_empty(), "two signers are no quorum, however often they sign");
    let unknown = vote(&net, 2, Digest([9; 32]));
    net.input(0, Input::Vote(unknown));
    assert_eq!(net.nodes[0].refusals, [Refusal::UnknownBatch]);
    let third = vote(&net, 2, digest);
    net.input(0, Input::Vote(third));
    net.settle();
    assert_eq!(net.nodes[0].events, [Event::Certified { digest }]);
}

#[test]
fn transactions_are_refused_with_a_reason_and_batched_by_price() {
    let config = SequencerConfig { pool_transactions_max: 3, ..SequencerConfig::default() };
    let mut net = Net::with(config);
    let good = net.transaction("good");
    let mut empty = good.clone();
    empty.bytes.clear();
    let large = Transaction { bytes: vec![0; (64 << 10) + 1].into(), ..good.clone() };
    let expired = Transaction { expiration: net.now.wall, ..good.clone() };
    let dear = Transaction { gas_unit_price: 1_000_000, ..good.clone() };
    let transactions = vec![empty, large, expired, good.clone(), dear, good.clone(), good];
    let id = RequestId(999);
    net.input(0, Input::Submit { id, transactions });
    net.pass(net.config.batch_age_max);
    let Some(Reply::Submitted(results)) = net.nodes[0].replies.remove(&id) else { panic!() };
    assert_eq!(results[0], Err(SubmitError::Empty));
    assert!(matches!(results[1], Err(SubmitError::TooLarge { .. })));
    assert_eq!(results[2], Err(SubmitError::Expired));
    assert_eq!(results[3].unwrap().batch, results[5].unwrap().batch);
    assert_ne!(results[3].unwrap().batch, results[4].unwrap().batch, "a bucket has its own batch");
    assert!(matches!(results[6], Err(SubmitError::Busy { reason: BusyReason::Pool, .. })));
    let dear = results[4].unwrap().batch;
    let stored = net.nodes[1].store.reader().batch(&dear).unwrap().unwrap();
    assert_eq!(stored.info.gas_bucket_start, 1_000_000);
    let payload = net.pull(0, 1, net.genesis_digest());
    assert_eq!(payload.content.proofs[0].info.gas_bucket_start, 1_000_000, "highest bucket first");
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn batches_are_cut_at_their_target_and_what_is_ordered_is_outstanding_no_more() {
    let mut net = Net::new();
    let target = net.config.batch_bytes_target.as_u64() as usize;
    let large = Transaction { bytes: vec![7; 60_000].into(), ..net.transaction("") };
    let transactions = vec![large; target / 60_000 + 1];
    let id = RequestId(999);
    net.input(0, Input::Submit { id, transactions: transactions.clone() });
    net.pass(net.config.batch_age_max * 3);
    let accepted = net.accepted(0, id);
    let stored = |digest| net.nodes[0].store.reader().batch(digest).unwrap().unwrap();
    let batches: std::collections::BTreeSet<_> = accepted.iter().map(|a| a.batch).collect();
    assert_eq!(batches.len(), 2, "one more than fits the target");
    assert!(batches.iter().all(|digest| stored(digest).body.bytes().len() <= target));
    let status = net.status(0);
    let charges = batches.iter().map(|digest| stored(digest).info.charge()).sum::<u64>();
    assert_eq!((status.outstanding_batches, status.outstanding_bytes), (2, charges));
    net.block(1, net.genesis_digest());
    let status = net.status(0);
    assert_eq!((status.outstanding_batches, status.outstanding_bytes), (0, 0));
}

#[test]
fn no_batch_is_sealed_before_its_range_of_ids_is_durable() {
    let mut net = Net::new();
    net.restart(0);
    net.nodes[0].holds = true;
    net.submit(0, &["one"]);
    net.pass(net.config.batch_age_max * 2);
    let waiting = net.status(0).pool_transactions;
    assert_eq!(waiting, 1, "sealed with an id that is not reserved yet");
    net.nodes[0].holds = false;
    net.settle();
    net.pass(net.config.batch_age_max * 2);
    assert_eq!(net.status(0).pool_transactions, 0);
}

#[test]
fn who_waits_for_a_batch_when_the_disk_fills_up_is_told() {
    let mut net = Net::new();
    let waiting = net.submit(0, &["one", "two"]);
    assert!(!net.nodes[0].replies.contains_key(&waiting), "not sealed yet");
    net.input(0, Input::Space { admits: false });
    net.settle();
    let Some(Reply::Submitted(results)) = net.nodes[0].replies.remove(&waiting) else { panic!() };
    let is_told = |result: &Result<_, _>| {
        matches!(result, Err(SubmitError::Busy { reason: BusyReason::Disk, .. }))
    };
    assert!(results.iter().all(is_told), "{results:?}");
    net.input(0, Input::Space { admits: true });
    net.batch(0, "after");
}

#[test]
fn a_full_disk_stops_admission_and_nothing_else() {
    let mut net = Net::new();
    let before = net.batch(0, "before");
    net.input(0, Input::Space { admits: false });
    let id = net.submit(0, &["one"]);
    let Some(Reply::Submitted(results)) = net.nodes[0].replies.remove(&id) else { panic!() };
    assert!(matches!(results[0], Err(SubmitError::Busy { reason: BusyReason::Disk, .. })));
    let batch = net.forge(1, 1, "x", SOON);
    net.give_batch(1, 0, &batch);
    assert_eq!(net.nodes[0].refusals, [Refusal::DiskNearlyFull]);
    let (_, payload) = net.block(1, net.genesis_digest());
    assert_eq!(payload.content.proofs[0].info.digest(&net.genesis.chain_id()), before);
    net.input(0, Input::Space { admits: true });
    net.batch(0, "after");
}

#[test]
fn a_payload_weighs_in_its_group_what_it_takes_on_disk_and_not_much_more() {
    let mut net = Net::new();
    for text in ["one", "two", "three"] {
        net.batch(0, text);
    }
    let payload = net.pull(1, 1, net.genesis_digest());
    assert_eq!(payload.content.proofs.len(), 3);
    let encoded = bcs::to_bytes(&*payload).unwrap().len() as u64;
    net.nodes[2].holds = true;
    let before = net.nodes[2].sequencer.open_bytes();
    net.give_payload(1, 2, &payload);
    net.verify(2, payload.digest(&net.genesis.chain_id()), None);
    let weight = net.nodes[2].sequencer.open_bytes() - before;
    assert!((encoded / 2..=4 * encoded).contains(&weight), "{weight} for {encoded}");
}

#[test]
fn only_what_no_timing_and_no_restart_explains_is_a_fault() {
    use Refusal::*;
    for fault in [NotFromAuthor, Equivocation, ExpirationOrder, TooManyIncarnations, UnaskedFlood] {
        assert!(fault.is_fault(), "{fault}");
    }
    let explained = [
        EpochOver,
        NotYet,
        Expired,
        ExpiresTooLate,
        BelowFloor,
        WindowSpent,
        DiskNearlyFull,
        UnknownBatch,
        NotAMember,
        Filtered,
        Unasked,
        DeclaredAbsent,
        TooManyPayloads,
    ];
    for refusal in explained {
        assert!(!refusal.is_fault(), "{refusal}");
    }
}

#[test]
fn a_batch_gathers_for_its_full_age_only_while_the_one_before_waits_for_its_proof() {
    let ages = |min, max| SequencerConfig {
        batch_age_min: Duration::from_millis(min),
        batch_age_max: Duration::from_millis(max),
        ..SequencerConfig::default()
    };
    for certified in [true, false] {
        let mut net = Net::with(ages(20, 200));
        if !certified {
            net.drops = |_, _, message| matches!(message, Message::Votes { .. });
        }
        net.submit(0, &["one"]);
        net.pass(Duration::from_millis(30));
        let sealed = |net: &Net| net.status(0).outstanding_batches;
        assert_eq!(sealed(&net), 1, "nothing was before it");
        net.pass(Duration::from_millis(200));
        assert_eq!(net.status(0).uncertified_batches, u64::from(!certified));
        net.submit(0, &["two"]);
        net.pass(Duration::from_millis(30));
        assert_eq!(sealed(&net), 1 + u64::from(certified));
        net.pass(Duration::from_millis(200));
        assert_eq!(sealed(&net), 2);
    }
}
