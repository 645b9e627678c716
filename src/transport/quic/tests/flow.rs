//! Budgets, queues, priorities, datagram sizes.

use bytes::Bytes;
use tokio::time::Instant;

use super::{QuicConfig, config, linked};
use crate::transport::{
    Class, FRAME_OVERHEAD_BYTES, Frame, LinkDown, Refusal, SendError, Transport as _,
    testing::{eventually, frame, status},
};

const FRAME: usize = 128 << 10;

/// Room for two bulk frames at the receiver, for four at the sender, and little in between.
fn narrow() -> QuicConfig {
    let mut config = config();
    config.stream_window_bytes = 64 << 10;
    config.limits.frame_bytes_max.bulk = FRAME;
    config.limits.receive_budget_bytes.bulk = 2 * (FRAME + FRAME_OVERHEAD_BYTES);
    config.limits.send_queue_bytes.bulk = 4 * (FRAME + FRAME_OVERHEAD_BYTES);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_passes_while_bulk_waits_for_the_budget_and_bulk_goes_on_when_it_is_free() {
    let (a, mut b) = linked(narrow(), narrow()).await;
    for i in 0..4 {
        a.transport.send(b.key, Class::Bulk, frame(FRAME, i)).expect("room");
    }
    let held = [b.host.frame().await, b.host.frame().await];
    assert_eq!(held.each_ref().map(|inbound| inbound.bytes[4]), [0, 1]);
    // The third is unread; control goes round it, in both directions, again and again.
    for i in 0..100 {
        a.transport.send(b.key, Class::Control, frame(5_000, i)).expect("room");
        let inbound = b.host.frame().await;
        assert_eq!((inbound.class, inbound.bytes[4]), (Class::Control, i));
    }
    assert!(b.host.waiting().is_none(), "the budget was exceeded");
    assert!(status(&a.transport, b.key).queue_bytes.bulk > 0);
    drop(held);
    assert_eq!(b.host.frame().await.bytes[4], 2);
    assert_eq!(b.host.frame().await.bytes[4], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permit_outlives_its_frame_and_still_counts() {
    let (a, mut b) = linked(narrow(), narrow()).await;
    for i in 0..3 {
        a.transport.send(b.key, Class::Bulk, frame(FRAME, i)).expect("room");
    }
    let (bytes, first) = b.host.frame().await.into_parts();
    let second = b.host.frame().await;
    drop(bytes);
    a.transport.send(b.key, Class::Control, frame(10, 9)).expect("room");
    assert_eq!(b.host.frame().await.class, Class::Control, "bulk still waits");
    drop(first);
    assert_eq!(b.host.frame().await.bytes[4], 2);
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_send_queue_refuses_and_takes_again_when_it_was_written() {
    let (a, mut b) = linked(narrow(), narrow()).await;
    let mut sent = 0_u8;
    let mut held = Vec::new();
    // The receiver holds what it gets, so in the end everything between is full.
    let full = loop {
        match a.transport.send(b.key, Class::Bulk, frame(FRAME, sent)) {
            Ok(()) => sent += 1,
            Err(error) if held.len() == 2 => break error,
            Err(_) => held.push(b.host.frame().await),
        }
        assert!(sent < 32, "nothing is bounded");
    };
    assert_eq!(full, SendError::QueueFull);
    let queued = status(&a.transport, b.key).queue_bytes;
    assert!(queued.bulk <= narrow().limits.send_queue_bytes.bulk && queued.control == 0);
    assert!(a.transport.send(b.key, Class::Control, frame(10, 0)).is_ok(), "its own queue");
    for i in 0..sent {
        let inbound = if held.is_empty() { b.host.frame().await } else { held.remove(0) };
        if inbound.class == Class::Control {
            assert_eq!(b.host.frame().await.bytes[4], i);
        } else {
            assert_eq!(inbound.bytes[4], i);
        }
    }
    eventually("written", || status(&a.transport, b.key).queue_bytes.bulk == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_frames_arrive_whole_and_in_order() {
    let (a, mut b) = linked(config(), config()).await;
    for i in 0..20_000_u32 {
        let frame = Frame {
            head: Bytes::copy_from_slice(&i.to_le_bytes()),
            body: Bytes::from(vec![i as u8; (i % 300) as usize]),
        };
        while a.transport.send(b.key, Class::Control, frame.clone()) == Err(SendError::QueueFull) {
            tokio::task::yield_now().await;
        }
        if i % 32 == 31 {
            for i in i - 31..=i {
                let inbound = b.host.frame().await;
                assert_eq!(inbound.bytes[..4], i.to_le_bytes());
                assert_eq!(inbound.bytes.len(), 4 + (i % 300) as usize);
                assert!(inbound.bytes[4..].iter().all(|byte| *byte == i as u8));
            }
        }
    }
}

/// The finding behind it: a large size together with segmentation offload is dropped silently, and
/// the connection falls back to 1,200 bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_grow_beyond_ethernet_without_black_holes() {
    for loopback in [true, false] {
        let config = QuicConfig { loopback, ..config() };
        let (a, mut b) = linked(config.clone(), config).await;
        for i in 0..4 {
            a.transport.send(b.key, Class::Bulk, frame(1 << 20, i)).expect("room");
            b.host.frame().await;
        }
        // Discovery needs a few round trips after the traffic began.
        eventually("large datagrams", || {
            let _ = a.transport.send(b.key, Class::Bulk, frame(64 << 10, 0));
            while b.host.waiting().is_some() {}
            status(&a.transport, b.key).current_mtu > 1452
        })
        .await;
        let link = status(&a.transport, b.key);
        println!("transport/mtu/loopback={loopback} {} bytes", link.current_mtu);
        assert_eq!(link.black_holes, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_smoke() {
    for loopback in [true, false] {
        let config = QuicConfig { loopback, ..config() };
        let (a, mut b) = linked(config.clone(), config).await;
        let (count, bytes) = (256, 1 << 20);
        let body = Bytes::from(vec![7; bytes]);
        let start = Instant::now();
        let to = b.key;
        let sender = async {
            for _ in 0..count {
                let frame = Frame::from(body.clone());
                while a.transport.send(to, Class::Bulk, frame.clone()).is_err() {
                    tokio::task::yield_now().await;
                }
            }
        };
        let receiver = async {
            for _ in 0..count {
                assert_eq!(b.host.frame().await.bytes.len(), bytes);
            }
        };
        tokio::join!(sender, receiver);
        let rate = (count * bytes) as f64 / 1e6 / start.elapsed().as_secs_f64();
        let link = status(&a.transport, b.key);
        let (mtu, holes) = (link.current_mtu, link.black_holes);
        println!(
            "transport/bulk/frame=1MiB,loopback={loopback} {rate:.0} MB/s mtu={mtu} holes={holes}"
        );
    }
}

/// The library sends no close while data is pending and the congestion window is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reason_arrives_although_both_ends_are_full_of_bulk() {
    for round in 0..6 {
        let (mut a, mut b) = linked(config(), config()).await;
        for i in 0..24 {
            a.transport.send(b.key, Class::Bulk, frame(1 << 20, i)).expect("room");
            b.transport.send(a.key, Class::Bulk, frame(1 << 20, i)).expect("room");
        }
        drop(a.host.frame().await);
        let (ours, theirs) = if round % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        ours.transport.refuse(theirs.key, Refusal::Abuse);
        assert_eq!(ours.host.down().await, (theirs.key, LinkDown::RefusedByUs(Refusal::Abuse)));
        assert_eq!(theirs.host.down().await, (ours.key, LinkDown::RefusedByPeer(Refusal::Abuse)));
    }
}
