//! Who may link, and how refusals show.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use quinn::{ClientConfig, Endpoint, crypto::rustls::QuicClientConfig};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Node, QuicConfig, author, config, keys, linked};
use crate::transport::{
    Class, Frame, LinkDown, LinkEvent, Refusal, SendError, Transport as _,
    peers::PeerTable,
    quic::{endpoint, tls::Tls},
    tasks::Tasks,
    testing::{PATIENCE, eventually, frame, nowhere, peer, status},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_are_authenticated_and_exchange_frames_of_both_classes() {
    let (mut a, mut b) = linked(config(), config()).await;
    for (class, bytes) in [(Class::Control, 100), (Class::Bulk, 3 << 20)] {
        a.transport.send(b.key, class, frame(bytes, 7)).expect("a link");
        b.transport.send(a.key, class, frame(bytes, 7)).expect("a link");
        for (receiver, from) in [(&mut b.host, a.key), (&mut a.host, b.key)] {
            let inbound = receiver.frame().await;
            assert_eq!((inbound.peer, inbound.class, inbound.bytes.len()), (from, class, bytes));
            assert!(inbound.bytes.starts_with(b"head\x07"));
        }
    }
    let link = status(&a.transport, b.key);
    assert!(link.up && link.rtt.is_some());
    let bytes = (3 << 20) + 100 + 2 * 4;
    assert_eq!((link.bytes_sent, link.bytes_received), (bytes, bytes));
    assert_eq!((link.ups, link.last_down), (1, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_key_is_refused_and_both_ends_link_once_it_is_known() {
    let keys = keys(2);
    let mut a = Node::start(config(), &keys[0]);
    let mut b = Node::start(config(), &keys[1]);
    a.know(&[&b]);
    let refused = Some(LinkDown::RefusedByPeer(Refusal::UnknownKey));
    eventually("refused", || status(&a.transport, b.key).last_down == refused).await;
    assert!(!status(&a.transport, b.key).up);
    assert_eq!(a.transport.send(b.key, Class::Control, frame(10, 0)), Err(SendError::NotConnected));
    b.know(&[&a]);
    assert_eq!(a.host.up().await.0, b.key);
    assert_eq!(b.host.up().await.0, a.key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_another_key_than_the_dialled_one_is_refused() {
    let keys = keys(3);
    let a = Node::start(config(), &keys[0]);
    let mut b = Node::start(config(), &keys[1]);
    let expected = author(&keys[2]);
    b.know(&[&a]);
    a.transport.set_peers(vec![peer(expected, b.address())]);
    let refused = Some(LinkDown::RefusedByUs(Refusal::UnknownKey));
    eventually("refused", || status(&a.transport, expected).last_down == refused).await;
    assert!(!status(&a.transport, expected).up);
    assert!(b.host.waiting().is_none(), "no event of a link that never was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_mismatch_is_seen_at_both_ends_until_it_is_mended() {
    let keys = keys(2);
    let mut a = Node::start(config(), &keys[0]);
    let mut b = Node::start(config(), &keys[1]);
    b.set_chain(2);
    b.know(&[&a]);
    a.know(&[&b]);
    let mismatch = |node: &Node, peer| {
        matches!(
            status(&node.transport, peer).last_down,
            Some(
                LinkDown::RefusedByUs(Refusal::ChainMismatch)
                    | LinkDown::RefusedByPeer(Refusal::ChainMismatch)
            )
        )
    };
    eventually("seen by both", || mismatch(&a, b.key) && mismatch(&b, a.key)).await;
    assert!(a.host.waiting().is_none() && b.host.waiting().is_none(), "never up");
    b.set_chain(1);
    assert_eq!(a.host.up().await, (b.key, Bytes::from_static(&[1])));
    assert_eq!(b.host.up().await, (a.key, Bytes::from_static(&[1])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_frame_closes_the_link_and_it_is_redialled() {
    let mut small = config();
    small.limits.frame_bytes_max.bulk = 1 << 20;
    let (mut a, mut b) = linked(config(), small).await;
    assert_eq!(
        b.transport.send(a.key, Class::Bulk, frame((1 << 20) + 1, 0)),
        Err(SendError::TooLarge { bytes: (1 << 20) + 1, max: 1 << 20, class: Class::Bulk })
    );
    a.transport.send(b.key, Class::Bulk, frame((1 << 20) + 1, 0)).expect("allowed here");
    assert_eq!(b.host.down().await, (a.key, LinkDown::RefusedByUs(Refusal::Oversized)));
    assert_eq!(a.host.down().await, (b.key, LinkDown::RefusedByPeer(Refusal::Oversized)));
    assert_eq!((a.host.up().await.0, b.host.up().await.0), (b.key, a.key));
    assert_eq!(status(&b.transport, a.key).ups, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_frame_closes_the_link_and_it_is_redialled() {
    let (mut a, mut b) = linked(config(), config()).await;
    for class in Class::ALL {
        let empty = Frame::default();
        assert_eq!(a.transport.send(b.key, class, empty.clone()), Err(SendError::Empty));
        // Past the check, as a faulty peer would.
        let link = a.transport.shared.peers.get(&b.key).and_then(|slot| slot.link());
        link.expect("a link").queue(class).push(empty).expect("room");
        assert_eq!(b.host.down().await, (a.key, LinkDown::RefusedByUs(Refusal::Malformed)));
        assert_eq!(a.host.down().await, (b.key, LinkDown::RefusedByPeer(Refusal::Malformed)));
        assert_eq!((a.host.up().await.0, b.host.up().await.0), (b.key, a.key));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_under_traffic_keep_events_in_order_and_pauses_grow() {
    let (mut a, mut b) = linked(config(), config()).await;
    let start = Instant::now();
    for _ in 0..6 {
        for i in 0..50 {
            a.transport.send(b.key, Class::Control, frame(200, i)).expect("a link");
            a.transport.send(b.key, Class::Bulk, frame(9_000, i)).expect("a link");
        }
        drop(b.host.frame().await);
        b.transport.refuse(a.key, Refusal::Abuse);
        assert_eq!(b.host.down().await, (a.key, LinkDown::RefusedByUs(Refusal::Abuse)));
        assert_eq!(a.host.down().await, (b.key, LinkDown::RefusedByPeer(Refusal::Abuse)));
        assert_eq!((a.host.up().await.0, b.host.up().await.0), (b.key, a.key));
    }
    // 50 + 100 + 200 + 400 + 800 + 1600 ms, of which jitter leaves at least half.
    assert!(start.elapsed() > Duration::from_millis(1575), "redialled hot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_with_one_key_is_refused_and_the_first_link_stays() {
    let (mut a, mut b) = linked(config(), config()).await;
    let twin = Node::start(config(), &keys(2)[0]);
    twin.know(&[&b]);
    let refused = Some(LinkDown::RefusedByPeer(Refusal::SecondLink));
    eventually("refused", || status(&twin.transport, b.key).last_down == refused).await;
    let link = status(&b.transport, a.key);
    assert!(link.up && link.second_links > 0 && link.ups == 1);
    a.transport.send(b.key, Class::Control, frame(10, 0)).expect("a link");
    assert_eq!(b.host.frame().await.peer, a.key);
    assert!(a.host.waiting().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_key_is_closed_and_a_kept_one_stays() {
    let keys = keys(3);
    let [mut a, mut b, mut c] = [0, 1, 2].map(|i| Node::start(config(), &keys[i]));
    b.know(&[&a, &b, &c]);
    a.know(&[&b]);
    c.know(&[&b]);
    assert_eq!((a.host.up().await.0, c.host.up().await.0), (b.key, b.key));
    b.host.up().await;
    b.host.up().await;
    b.know(&[&c]);
    assert_eq!(b.host.down().await, (a.key, LinkDown::RefusedByUs(Refusal::UnknownKey)));
    assert_eq!(a.host.down().await, (b.key, LinkDown::RefusedByPeer(Refusal::UnknownKey)));
    b.transport.send(c.key, Class::Control, frame(10, 0)).expect("still linked");
    assert_eq!(c.host.frame().await.peer, b.key);
    assert_eq!(b.transport.links().len(), 1);
    b.know(&[&c, &a]);
    assert_eq!((a.host.up().await.0, b.host.up().await.0), (b.key, a.key));
}

/// A dialler below the transport: it completes the handshake and then does what the test says.
async fn raw_dial(
    key: &SigningKey,
    to: &Node,
    change: impl FnOnce(&mut rustls::ClientConfig),
) -> (Endpoint, Result<quinn::Connection, quinn::ConnectionError>) {
    let table = PeerTable::new(author(key), config().limits, CancellationToken::new());
    table.replace(&[peer(to.key, to.address())]);
    let table = Arc::new(table);
    let tls = Tls::new(key, &table).expect("an identity");
    let transport = Arc::new(endpoint::transport_config(&config()));
    let drivers = Tasks::new(tokio::runtime::Handle::current());
    let endpoint = endpoint::open(&config(), key, &tls, &transport, drivers).expect("a socket");
    let mut client = tls.client(to.key).expect("settings");
    change(&mut client);
    let crypto = QuicClientConfig::try_from(client).expect("a suite");
    let config = ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint.connect_with(config, to.address(), "validator").expect("dialled");
    let connection = timeout(PATIENCE, connecting).await.expect("an answer in time");
    (endpoint, connection)
}

fn acceptor(handshake_timeout: Duration) -> Node {
    let mut config = config();
    config.handshake_timeout = handshake_timeout;
    let keys = keys(2);
    let node = Node::start(config, &keys[1]);
    node.transport.set_peers(vec![peer(author(&keys[0]), nowhere())]);
    node
}

fn dialler() -> crate::types::Author {
    author(&keys(2)[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_says_nothing_is_refused_after_the_deadline() {
    let mut b = acceptor(Duration::from_millis(1600));
    let (_endpoint, connection) = raw_dial(&keys(2)[0], &b, |_| {}).await;
    let connection = connection.expect("its key is known");
    let closed = timeout(PATIENCE, connection.closed()).await.expect("closed in time");
    let quinn::ConnectionError::ApplicationClosed(close) = closed else {
        panic!("not closed by the peer: {closed}");
    };
    assert_eq!(close.error_code.into_inner(), u64::from(u32::from(Refusal::Timeout)));
    let refused = Some(LinkDown::RefusedByUs(Refusal::Timeout));
    eventually("noted", || status(&b.transport, dialler()).last_down == refused).await;
    assert!(b.host.waiting().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_under_way_are_bounded_and_half_of_them_prove_their_address() {
    let keys = keys(4);
    let b = Node::start(QuicConfig { pending_handshakes_max: 2, ..config() }, &keys[3]);
    b.transport.set_peers(keys[..3].iter().map(|key| peer(author(key), nowhere())).collect());
    // Nobody says hello, so each keeps its place. The second one comes through a retry.
    let (_endpoint_0, first) = raw_dial(&keys[0], &b, |_| {}).await;
    let (_endpoint_1, second) = raw_dial(&keys[1], &b, |_| {}).await;
    let (first, second) = (first.expect("a place"), second.expect("a place"));
    let (_endpoint_2, third) = raw_dial(&keys[2], &b, |_| {}).await;
    let error = third.expect_err("no place");
    let quinn::ConnectionError::ConnectionClosed(close) = &error else { panic!("{error}") };
    assert_eq!(close.error_code, quinn::TransportErrorCode::CONNECTION_REFUSED);
    first.close(0_u32.into(), b"");
    second.close(0_u32.into(), b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_hello_is_refused() {
    let b = acceptor(Duration::from_secs(5));
    let (_endpoint, connection) = raw_dial(&keys(2)[0], &b, |_| {}).await;
    let connection = connection.expect("its key is known");
    let mut stream = connection.open_uni().await.expect("a stream");
    stream.write_all(&u32::MAX.to_le_bytes()).await.expect("room");
    let refused = Some(LinkDown::RefusedByUs(Refusal::Oversized));
    eventually("noted", || status(&b.transport, dialler()).last_down == refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_version_fails_the_handshake() {
    let b = acceptor(Duration::from_secs(5));
    let (_endpoint, connection) =
        raw_dial(&keys(2)[0], &b, |client| client.alpn_protocols = vec![b"qs/2".to_vec()]).await;
    let error = connection.expect_err("refused");
    let reason = crate::transport::quic::stream::connection_failed(&error);
    assert_eq!(reason, LinkDown::RefusedByPeer(Refusal::Version));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_joins_everything_tells_the_peer_and_frees_the_port() {
    let (a, mut b) = linked(config(), config()).await;
    let address = a.address();
    let start = Instant::now();
    a.transport.shutdown().await;
    assert!(start.elapsed() < Duration::from_millis(1500), "took {:?}", start.elapsed());
    assert_eq!(b.host.down().await, (a.key, LinkDown::Closed));
    std::net::UdpSocket::bind(address).expect("the port is free again");
    assert_eq!(a.transport.send(b.key, Class::Bulk, frame(9, 0)), Err(SendError::NotConnected));
    let mut events = a.host;
    assert_eq!(events.down().await, (b.key, LinkDown::Closed));
    a.transport.shutdown().await;
    let again = timeout(PATIENCE, b.transport.shutdown()).await;
    again.expect("the other end too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_does_not_wait_for_a_host_that_takes_no_events() {
    let (a, mut b) = linked(config(), config()).await;
    // More than the channel of the host holds.
    for i in 0..200 {
        b.transport.send(a.key, Class::Control, frame(10, i)).expect("a link");
    }
    eventually("the channel is full", || a.host.events.len() == 64).await;
    let start = Instant::now();
    a.transport.shutdown().await;
    assert!(start.elapsed() < Duration::from_millis(1900), "took {:?}", start.elapsed());
    assert_eq!(b.host.down().await, (a.key, LinkDown::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_drops_its_receiver_stops_the_transport() {
    let (a, mut b) = linked(config(), config()).await;
    drop(a.host);
    b.transport.send(a.key, Class::Control, frame(10, 0)).expect("a link");
    let LinkEvent::Down { peer, reason } = b.host.next().await else { panic!("expected Down") };
    assert_eq!((peer, reason), (a.key, LinkDown::Closed));
    a.transport.shutdown().await;
}
