//! Values for tests.

use std::sync::LazyLock;

use bytes::Bytes;

use super::*;

/// A well-formed batch of author `[author; 32]`.
pub(crate) fn batch(author: u8, counter: u64, transactions: &[&'static [u8]]) -> Batch {
    let mut builder = BodyBuilder::new();
    for transaction in transactions {
        builder.push(Bytes::from_static(transaction));
    }
    let count = builder.count();
    let body = builder.finish();
    let info = BatchInfo {
        author: Author([author; 32]),
        batch_id: BatchId { incarnation: Incarnation(7), counter },
        epoch: Epoch(0),
        expiration: Timestamp(30_000_000),
        count,
        bytes: body.bytes().len() as u32,
        gas_bucket_start: 0,
        root: body.root(),
    };
    Batch { info, body }
}

/// A proof with made-up signatures of signers 0, 1 and 2.
pub(crate) fn proof(author: u8, counter: u64) -> ProofOfStore {
    let signatures = (0..3)
        .map(|signer| ProofSignature {
            signer,
            signature: Signature::from_bytes(&[signer as u8 + 1; 64]),
        })
        .collect();
    ProofOfStore { info: batch(author, counter, &[b"one", b"two"]).info, signatures }
}

/// A payload of two proofs.
pub(crate) fn payload() -> Payload {
    let content =
        PayloadContent { proofs: vec![proof(1, 1), proof(2, 1)], ..PayloadContent::default() };
    let header = PayloadHeader {
        epoch: Epoch(0),
        height: CommitIndex(1),
        parent: Digest([3; 32]),
        block_timestamp: Timestamp(5),
        content_root: content.root(),
    };
    Payload { header, content }
}

/// The last chunk of a batch of three. Hashed once: that takes an interpreter long.
fn chunk() -> Chunk {
    static CHUNK: LazyLock<Chunk> = LazyLock::new(|| {
        let body = BatchBody::new(Bytes::from(vec![7; chunk::WHOLE_BYTES_MAX + 5]));
        let info = BatchInfo { bytes: body.bytes().len() as u32, ..batch(1, 1, &[b"one"]).info };
        let mut chunk = Chunk::of(info, &body, 2).unwrap();
        chunk.info.root = chunk::root(&chunk.outline);
        chunk
    });
    CHUNK.clone()
}

/// One message of every kind.
pub(crate) fn messages() -> Vec<Message> {
    let digest = Digest([4; 32]);
    let announcement =
        Announcement { window: Usage { bytes: 1 << 20, batches: 100 }, released: Timestamp(17) };
    let vote = Vote { digest, signature: Signature::from_bytes(&[9; 64]) };
    let batch = batch(1, 1, &[b"one", b"two"]);
    let absence = |answer| Message::Absence { index: CommitIndex(5), digest, answer };
    let reply = |content| Message::FetchReply { digest, content };
    vec![
        Message::Batch(batch.clone()),
        Message::Votes { announcement, votes: vec![vote] },
        Message::Proofs(vec![proof(1, 1)]),
        Message::Payload(Box::new(payload())),
        Message::Announce(announcement),
        Message::FetchRequest(vec![digest, digest]),
        reply(FetchedContent::Absent(AbsentReason::NotHeld)),
        reply(FetchedContent::Batch(batch)),
        reply(FetchedContent::Payload(Box::new(payload()))),
        Message::Serving(Epoch(3)),
        Message::ChunkRequest(vec![ChunkId { digest, index: 3 }]),
        reply(FetchedContent::Chunk(Box::new(chunk()))),
        reply(FetchedContent::Busy(250)),
        Message::AbsenceRequest { index: CommitIndex(5), digest },
        absence(AbsenceAnswer::Signed {
            epoch: Epoch(3),
            reason: AbsenceReason::StoreReplaced,
            signature: Signature::from_bytes(&[9; 64]),
        }),
        absence(AbsenceAnswer::Passed),
        absence(AbsenceAnswer::Held),
        absence(AbsenceAnswer::Unknown),
    ]
}
