//! Well-formed values, as seeds and as material to spoil.

use bytes::Bytes;
use quorum_store::types::{
    AbsenceAnswer, AbsenceReason, AbsenceSignature, AbsentReason, Announcement, Author, Batch,
    BatchBody, BatchId, BatchInfo, BodyBuilder, ChainId, ChunkId, CommitIndex, CommitteeHash,
    Digest, Epoch, FetchedContent, Hello, Incarnation, Message, Payload, PayloadContent,
    PayloadHeader, ProofOfStore, ProofSignature, Signature, Timestamp, UnavailabilityProof, Usage,
    Vote,
};

/// A batch whose body matches its info.
pub fn batch(author: Author, id: BatchId, expiration: Timestamp, transactions: &[&[u8]]) -> Batch {
    let mut builder = BodyBuilder::new();
    for transaction in transactions {
        builder.push(Bytes::copy_from_slice(transaction));
    }
    let count = builder.count();
    let body = builder.finish();
    let info = BatchInfo {
        author,
        batch_id: id,
        epoch: Epoch(0),
        expiration,
        count,
        bytes: body.bytes().len() as u32,
        gas_bucket_start: 0,
        root: body.root(),
    };
    Batch { info, body }
}

/// A proof with made-up signatures of the first `signers` members.
pub fn proof(info: BatchInfo, signers: u16) -> ProofOfStore {
    let sign = |signer| {
        let signature = Signature::from_bytes(&[signer as u8 + 1; 64]);
        ProofSignature { signer, signature }
    };
    ProofOfStore { info, signatures: (0..signers).map(sign).collect() }
}

/// A payload of these proofs on `parent`.
pub fn payload(parent: Digest, height: u64, at: Timestamp, proofs: Vec<ProofOfStore>) -> Payload {
    let content = PayloadContent { proofs, ..PayloadContent::default() };
    let header = PayloadHeader {
        epoch: Epoch(0),
        height: CommitIndex(height),
        parent,
        block_timestamp: at,
        content_root: content.root(),
    };
    Payload { header, content }
}

/// Frames of every kind of message, and a hello.
pub fn frames() -> Vec<(&'static str, Bytes)> {
    let id = BatchId { incarnation: Incarnation(7), counter: 1 };
    let one = batch(Author([1; 32]), id, Timestamp(30), &[b"one", b"two"]);
    let two = batch(Author([2; 32]), id, Timestamp(31), &[b"three"]);
    let digest = Digest([4; 32]);
    let window = Usage { bytes: 1 << 20, batches: 100 };
    let announcement = Announcement { window, released: Timestamp(17) };
    let vote = Vote { digest, signature: Signature::from_bytes(&[9; 64]) };
    let proofs = vec![proof(one.info, 3), proof(two.info, 3)];
    let plain = payload(Digest([3; 32]), 1, Timestamp(5), proofs.clone());
    let mut full = plain.clone();
    full.content.optimistic = vec![two.info];
    full.content.inline = vec![two.clone(), one.clone()];
    let absence = |signer| AbsenceSignature {
        signer,
        reason: AbsenceReason::NeverHeld,
        signature: Signature::from_bytes(&[9; 64]),
    };
    full.content.unavailable = vec![UnavailabilityProof {
        epoch: Epoch(0),
        index: CommitIndex(1),
        digest,
        signatures: (0..3).map(absence).collect(),
    }];
    let answer = AbsenceAnswer::Signed {
        epoch: Epoch(0),
        reason: AbsenceReason::StoreReplaced,
        signature: Signature::from_bytes(&[9; 64]),
    };
    let index = CommitIndex(1);
    let reply = |content| Message::FetchReply { digest, content };
    let mut long_count = one.clone();
    // The count in two bytes where one does: not canonical.
    let body = [&[0x82, 0x00], &one.body.bytes()[1..]].concat();
    long_count.body = BatchBody::new(body.into());
    let messages = vec![
        ("batch", Message::Batch(one.clone())),
        ("batch-long-count", Message::Batch(long_count)),
        ("votes", Message::Votes { announcement, votes: vec![vote; 3] }),
        ("votes-none", Message::Votes { announcement, votes: Vec::new() }),
        ("proofs", Message::Proofs(proofs)),
        ("proofs-none", Message::Proofs(Vec::new())),
        ("payload", Message::Payload(Box::new(plain.clone()))),
        ("payload-full", Message::Payload(Box::new(full))),
        ("announce", Message::Announce(announcement)),
        ("serving", Message::Serving(Epoch(1))),
        ("fetch-request", Message::FetchRequest(vec![digest; 130])),
        ("fetch-missing", reply(FetchedContent::Absent(AbsentReason::NotHeld))),
        ("fetch-busy", reply(FetchedContent::Busy(300))),
        ("chunk-request", Message::ChunkRequest(vec![ChunkId { digest, index: 2 }; 9])),
        ("absence-request", Message::AbsenceRequest { index, digest }),
        ("absence", Message::Absence { index, digest, answer }),
        ("fetch-batch", reply(FetchedContent::Batch(one))),
        ("fetch-payload", reply(FetchedContent::Payload(Box::new(plain)))),
    ];
    let hello = Hello {
        chain: ChainId([1; 32]),
        epoch: Epoch(2),
        committee: CommitteeHash([3; 32]),
        announcement,
        holds: Usage { bytes: 5, batches: 6 },
    };
    let frames = messages.into_iter().map(|(name, message)| (name, message.encode().to_bytes()));
    frames.chain([("hello", hello.encode())]).collect()
}
