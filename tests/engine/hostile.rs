//! A member of the committee that sends what it should not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorum_store::crypto::Signer as _;
use quorum_store::engine::QuorumStore;
use quorum_store::transport::memory::{MemoryNetwork, MemoryTransport};
use quorum_store::transport::{
    Class, Frame, Handshake, LinkDown, LinkEvent, LinkStatus, Refusal, Transport,
};
use quorum_store::types::{
    Announcement, Author, Batch, BatchBody, BatchId, BatchInfo, CommitIndex, Digest, Epoch,
    Genesis, Hello, Incarnation, Message, ProofOfStore, Signature, Usage, Vote, WIRE_VERSION,
};
use tokio::sync::mpsc;

use super::cluster::*;

struct Liar {
    hello: Bytes,
}

impl Handshake for Liar {
    fn hello(&self, _: Author) -> Bytes {
        self.hello.clone()
    }

    fn judge(&self, _: Author, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }
}

fn hello(genesis: &Genesis) -> Hello {
    Hello {
        chain: genesis.chain_id(),
        epoch: Epoch(0),
        committee: genesis.committee.hash(),
        announcement: Announcement::default(),
        holds: Usage::default(),
    }
}

/// Node 0 is honest; member 3 says whatever the test wants.
async fn with_liar(
    genesis: &Genesis,
    hello: Bytes,
) -> (QuorumStore, MemoryTransport, mpsc::Receiver<LinkEvent>) {
    let network = MemoryNetwork::new();
    let honest = node(0, genesis, &network, memory(0, genesis)).await;
    let (sender, events) = mpsc::channel(64);
    let liar = network.join(signer(3).author(), Arc::new(Liar { hello }), &peers(), sender);
    (honest, liar, events)
}

/// Waits for the `nth` link to the honest node: the one before may still be ending.
async fn up(liar: &MemoryTransport, nth: u64) {
    let honest = signer(0).author();
    let is_up = |link: &LinkStatus| link.peer == honest && link.up && link.ups == nth;
    until(|| liar.links().iter().any(is_up)).await;
}

fn invalid(node: &QuorumStore, kind: &str) -> u64 {
    let counts = node.statistics().invalid;
    counts.iter().find(|(name, _)| name == kind).map_or(0, |(_, count)| *count)
}

fn refusal_seen(liar: &MemoryTransport) -> Option<LinkDown> {
    let honest = signer(0).author();
    liar.links().into_iter().find(|link| link.peer == honest)?.last_down
}

fn forged_batch(author: Author) -> Batch {
    // One transaction of one byte.
    let body = BatchBody::new(Bytes::from_static(&[1, 1, 0, 0, 0, 7]));
    let info = BatchInfo {
        author,
        batch_id: BatchId { incarnation: Incarnation(1), counter: 1 },
        epoch: Epoch(0),
        expiration: now().saturating_add(Duration::from_secs(20)),
        count: 1,
        bytes: 6,
        gas_bucket_start: 0,
        root: body.root(),
    };
    Batch { info, body }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_decoded_is_counted_and_closes_the_link_with_a_reason() {
    let genesis = genesis(20);
    let (honest, liar, _events) = with_liar(&genesis, hello(&genesis).encode()).await;
    let to = signer(0).author();
    let valid = Message::FetchRequest(vec![Digest([1; 32])]).encode().to_bytes().to_vec();
    let mut trailing = valid.clone();
    trailing.push(0);
    let mut version = valid.clone();
    version[0] = WIRE_VERSION + 1;
    let too_many = Message::FetchRequest(vec![Digest([1; 32]); 300]).encode().to_bytes().to_vec();
    let cases: [(&str, Vec<u8>, Refusal); 8] = [
        ("one byte", vec![WIRE_VERSION], Refusal::Malformed),
        ("unknown kind", vec![WIRE_VERSION, 250, 1], Refusal::Malformed),
        ("all zero", vec![0; 100], Refusal::Version),
        ("another version", version, Refusal::Version),
        ("trailing garbage", trailing, Refusal::Malformed),
        ("a length that is not canonical", vec![WIRE_VERSION, 6, 0x80, 0x00], Refusal::Malformed),
        (
            "a length of 2^31 - 1",
            vec![WIRE_VERSION, 3, 0xff, 0xff, 0xff, 0xff, 0x07],
            Refusal::Malformed,
        ),
        ("more digests than allowed", too_many, Refusal::Oversized),
    ];
    for (count, (what, bytes, reason)) in cases.into_iter().enumerate() {
        up(&liar, count as u64 + 1).await;
        liar.send(to, Class::Control, Frame::from(Bytes::from(bytes))).unwrap();
        until(|| invalid(&honest, "decode") == count as u64 + 1).await;
        until(|| refusal_seen(&liar) == Some(LinkDown::RefusedByPeer(reason))).await;
        println!("{what}: link closed with {reason}");
    }
    // It is redialled with backoff, and what is valid is still served.
    up(&liar, 9).await;
    assert!(honest.status().await.is_ok());
    honest.shutdown().await;
    liar.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_decodes_and_is_invalid_is_counted_and_closes_the_link_when_it_goes_on() {
    let genesis = genesis(21);
    let (honest, liar, _events) = with_liar(&genesis, hello(&genesis).encode()).await;
    let (me, to) = (signer(3).author(), signer(0).author());
    let wrong_root = {
        let mut batch = forged_batch(me);
        batch.info.root = Digest([9; 32]);
        Message::Batch(batch)
    };
    let wrong_author = Message::Batch(forged_batch(signer(1).author()));
    let forged_vote = Message::Votes {
        announcement: Announcement::default(),
        votes: vec![Vote { digest: Digest([1; 32]), signature: Signature::from_bytes(&[7; 64]) }],
    };
    let empty_proof =
        Message::Proofs(vec![ProofOfStore { info: forged_batch(me).info, signatures: vec![] }]);
    let messages = [
        ("batch", &wrong_root),
        ("batch", &wrong_author),
        ("votes", &forged_vote),
        ("proofs", &empty_proof),
        ("batch", &wrong_root),
    ];
    up(&liar, 1).await;
    for (_, message) in messages {
        let class = if message.is_bulk() { Class::Bulk } else { Class::Control };
        let encoded = message.encode();
        liar.send(to, class, Frame { head: encoded.head, body: encoded.body }).unwrap();
    }
    until(|| {
        invalid(&honest, "batch") == 3
            && invalid(&honest, "votes") == 1
            && invalid(&honest, "proofs") == 1
    })
    .await;
    // Five in a minute are allowed in this test; the sixth closes the link.
    assert!(refusal_seen(&liar).is_none(), "{:?}", refusal_seen(&liar));
    liar.send(to, Class::Control, Frame::from(forged_vote.encode().to_bytes())).unwrap();
    until(|| refusal_seen(&liar) == Some(LinkDown::RefusedByPeer(Refusal::Abuse))).await;
    assert_eq!(honest.statistics().certified, 0);
    honest.shutdown().await;
    liar.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_of_another_committee_version_or_no_hello_at_all_is_refused() {
    let genesis = genesis(22);
    let good = hello(&genesis);
    let mut other_version = good.encode().to_vec();
    other_version[0] = 9;
    let mut trailing = good.encode().to_vec();
    trailing.push(0);
    let mut committee = good;
    committee.committee.0[0] ^= 1;
    let cases = [
        (committee.encode(), Refusal::CommitteeMismatch),
        (other_version.into(), Refusal::Version),
        (trailing.into(), Refusal::Malformed),
        (Bytes::from_static(b"\x01"), Refusal::Malformed),
        (vec![1; 2000].into(), Refusal::Oversized),
    ];
    for (hello, reason) in cases {
        let (honest, liar, _events) = with_liar(&genesis, hello).await;
        until(|| refusal_seen(&liar) == Some(LinkDown::RefusedByPeer(reason))).await;
        assert!(honest.links().iter().all(|link| !link.up), "{reason}");
        honest.shutdown().await;
        liar.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_may_be_an_epoch_ahead_and_is_judged_again_once_we_are_there() {
    let genesis = genesis(27);
    let mut ahead = Hello { epoch: Epoch(1), ..hello(&genesis) };
    ahead.committee.0[0] ^= 1;
    let (honest, liar, _events) = with_liar(&genesis, ahead.encode()).await;
    up(&liar, 1).await;
    // What it sends of its epoch is answered, and is no offence.
    let mut batch = forged_batch(signer(3).author());
    batch.info.epoch = Epoch(1);
    batch.info.expiration = now().saturating_add(Duration::from_secs(20));
    for _ in 0..20 {
        let encoded = Message::Batch(batch.clone()).encode();
        let frame = Frame { head: encoded.head, body: encoded.body };
        liar.send(signer(0).author(), Class::Bulk, frame).unwrap();
    }
    let refused = || {
        honest
            .statistics()
            .refused
            .iter()
            .any(|(reason, count)| reason == "not_yet" && *count == 20)
    };
    until(refused).await;
    assert!(honest.links().iter().any(|link| link.up));
    honest.close(Epoch(0), CommitIndex(0), PATIENCE).await.unwrap();
    honest.open_epoch(Epoch(1), committee(0..4), peers()).await.unwrap();
    let mismatch = LinkDown::RefusedByPeer(Refusal::CommitteeMismatch);
    until(|| refusal_seen(&liar) == Some(mismatch.clone())).await;
    honest.shutdown().await;
    liar.shutdown().await;
}
