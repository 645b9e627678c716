//! The same promises as on the network, and the controls of tests.

#![allow(clippy::expect_used)]

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::*;
use crate::transport::{
    FRAME_OVERHEAD_BYTES, PerClass,
    testing::{Chain, Host, PATIENCE, eventually, frame, nowhere, peer, status},
};

const A: Author = Author([1; 32]);
const B: Author = Author([2; 32]);
const C: Author = Author([3; 32]);

struct Member {
    transport: MemoryTransport,
    host: Host,
    chain: Arc<Chain>,
}

fn join(network: &MemoryNetwork, key: Author, peers: &[Author]) -> Member {
    let (sender, events) = mpsc::channel(64);
    let chain = Chain::new(1);
    let peers: Vec<_> = peers.iter().map(|key| peer(*key, nowhere())).collect();
    let transport = network.join(key, chain.clone(), &peers, sender);
    Member { transport, host: Host::new(events), chain }
}

async fn linked(network: &MemoryNetwork) -> (Member, Member) {
    let (mut a, mut b) = (join(network, A, &[A, B]), join(network, B, &[A, B]));
    assert_eq!((a.host.up().await.0, b.host.up().await.0), (B, A));
    (a, b)
}

#[tokio::test]
async fn frames_of_both_classes_pass_in_both_directions() {
    let (mut a, mut b) = linked(&MemoryNetwork::new()).await;
    for class in Class::ALL {
        a.transport.send(B, class, frame(5_000, 1)).expect("a link");
        b.transport.send(A, class, frame(6_000, 2)).expect("a link");
        let (at_b, at_a) = (b.host.frame().await, a.host.frame().await);
        assert_eq!((at_b.peer, at_b.class, at_b.bytes.len()), (A, class, 5_000));
        assert_eq!((at_a.peer, at_a.class, at_a.bytes.len()), (B, class, 6_000));
        assert!(at_b.bytes.starts_with(b"head\x01"));
    }
    let link = status(&a.transport, B);
    assert_eq!((link.up, link.bytes_sent, link.bytes_received), (true, 10_008, 12_008));
}

#[tokio::test]
async fn refusals_show_at_both_ends_and_end_when_mended() {
    let network = MemoryNetwork::new();
    let mut a = join(&network, A, &[B]);
    let mut b = join(&network, B, &[]);
    let last = |member: &Member, peer| status(&member.transport, peer).last_down;
    let unknown = Some(LinkDown::RefusedByPeer(Refusal::UnknownKey));
    eventually("unknown", || last(&a, B) == unknown).await;
    b.chain.0.store(2, Ordering::Relaxed);
    b.transport.set_peers(vec![peer(A, nowhere())]);
    let mismatch = Refusal::ChainMismatch;
    eventually("mismatch", || {
        last(&a, B) == Some(LinkDown::RefusedByPeer(mismatch))
            && last(&b, A) == Some(LinkDown::RefusedByUs(mismatch))
    })
    .await;
    assert!(a.host.waiting().is_none() && b.host.waiting().is_none());
    b.chain.0.store(1, Ordering::Relaxed);
    assert_eq!(a.host.up().await, (B, Bytes::from_static(&[1])));
    assert_eq!(b.host.up().await.0, A);
    for (refuser, other, at) in [(true, false, B), (false, true, A)] {
        assert_ne!(refuser, other);
        let (ours, theirs) = if refuser { (&mut a, &mut b) } else { (&mut b, &mut a) };
        ours.transport.refuse(at, Refusal::Abuse);
        assert_eq!(ours.host.down().await.1, LinkDown::RefusedByUs(Refusal::Abuse));
        assert_eq!(theirs.host.down().await.1, LinkDown::RefusedByPeer(Refusal::Abuse));
        ours.host.up().await;
        theirs.host.up().await;
    }
}

#[tokio::test]
async fn queues_and_budgets_are_bounded_and_control_goes_round_bulk() {
    let room = |frames| PerClass::of(|_| frames * (10_000 + FRAME_OVERHEAD_BYTES));
    let limits = Limits {
        frame_bytes_max: PerClass { control: 10_000, bulk: 10_000 },
        receive_budget_bytes: room(2),
        send_queue_bytes: room(3),
    };
    let (a, mut b) = linked(&MemoryNetwork::with_limits(limits).expect("valid")).await;
    let mut sent = 0;
    let mut held = Vec::new();
    while held.len() < 2 || sent < 5 {
        match a.transport.send(B, Class::Bulk, frame(10_000, sent)) {
            Ok(()) => sent += 1,
            Err(error) => {
                assert_eq!(error, SendError::QueueFull);
                assert!(held.len() < 2, "full with {sent} sent");
                held.push(b.host.frame().await);
            }
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(a.transport.send(B, Class::Bulk, frame(10_000, 9)), Err(SendError::QueueFull));
    assert!(matches!(
        a.transport.send(B, Class::Bulk, frame(10_001, 9)),
        Err(SendError::TooLarge { bytes: 10_001, max: 10_000, class: Class::Bulk })
    ));
    assert_eq!(a.transport.send(B, Class::Bulk, Frame::default()), Err(SendError::Empty));
    a.transport.send(B, Class::Control, frame(10, 7)).expect("its own queue");
    assert_eq!(b.host.frame().await.class, Class::Control);
    assert!(b.host.waiting().is_none());
    drop(held);
    for i in 2..sent {
        assert_eq!(b.host.frame().await.bytes[4], i);
    }
    eventually("moved", || status(&a.transport, B).queue_bytes.bulk == 0).await;
}

#[tokio::test]
async fn a_cut_pair_is_lost_and_comes_back_when_mended() {
    let network = MemoryNetwork::new();
    let (mut a, mut b) = linked(&network).await;
    for _ in 0..5 {
        network.disconnect(B, A);
        assert!(matches!(a.host.down().await, (B, LinkDown::Lost(_))));
        assert!(matches!(b.host.down().await, (A, LinkDown::Lost(_))));
        assert_eq!(a.transport.send(B, Class::Bulk, frame(9, 0)), Err(SendError::NotConnected));
        network.connect(A, B);
        assert_eq!((a.host.up().await.0, b.host.up().await.0), (B, A));
    }
    assert_eq!(status(&b.transport, A).ups, 6);
}

#[tokio::test]
async fn removed_keys_are_closed_and_restarts_link_again() {
    let network = MemoryNetwork::new();
    let (mut a, mut b) = linked(&network).await;
    let mut c = join(&network, C, &[A]);
    a.transport.set_peers(vec![peer(C, nowhere())]);
    assert_eq!(b.host.down().await, (A, LinkDown::RefusedByPeer(Refusal::UnknownKey)));
    assert_eq!(c.host.up().await.0, A);
    let mut seen = vec![a.host.next().await, a.host.next().await];
    seen.retain(|event| match event {
        LinkEvent::Up { peer, .. } => *peer != C,
        LinkEvent::Down { peer, reason } => {
            (*peer, reason) != (B, &LinkDown::RefusedByUs(Refusal::UnknownKey))
        }
        LinkEvent::Frame(_) => true,
    });
    assert!(seen.is_empty(), "{seen:?}");
    let mut a_again = join(&network, A, &[C]);
    assert_eq!(c.host.down().await, (A, LinkDown::Closed));
    assert_eq!(a.host.down().await, (C, LinkDown::Closed));
    assert_eq!((c.host.up().await.0, a_again.host.up().await.0), (A, C));
}

#[tokio::test]
async fn shutdown_joins_everything_and_does_not_wait_for_a_full_host() {
    let (a, mut b) = linked(&MemoryNetwork::new()).await;
    for i in 0..100 {
        b.transport.send(A, Class::Control, frame(10, i)).expect("room");
    }
    eventually("the channel is full", || a.host.events.len() == 64).await;
    let start = Instant::now();
    timeout(PATIENCE, a.transport.shutdown()).await.expect("ends");
    assert!(start.elapsed() < Duration::from_millis(1900), "took {:?}", start.elapsed());
    assert_eq!(b.host.down().await, (A, LinkDown::Closed));
    assert_eq!(a.transport.send(B, Class::Bulk, frame(9, 0)), Err(SendError::NotConnected));
    timeout(PATIENCE, b.transport.shutdown()).await.expect("ends");
}
