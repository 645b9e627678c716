//! Encoding, decoding and hashing of what travels: batches without copying their transactions,
//! votes, proofs and payloads.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorum_store::types::{
    Author, Batch, BatchId, BatchInfo, BodyBuilder, ChainId, ChainParameters, CommitIndex, Digest,
    Epoch, Incarnation, Message, Payload, PayloadContent, PayloadHeader, ProofOfStore,
    ProofSignature, Signature, Timestamp,
};

fn batch(transactions: usize, bytes: usize) -> Batch {
    let mut builder = BodyBuilder::new();
    for number in 0..transactions {
        let mut transaction = vec![7; bytes];
        transaction[..8].copy_from_slice(&(number as u64).to_le_bytes());
        builder.push(Bytes::from(transaction));
    }
    let body = builder.finish();
    let info = BatchInfo {
        author: Author([1; 32]),
        batch_id: BatchId { incarnation: Incarnation(1), counter: 1 },
        epoch: Epoch(0),
        expiration: Timestamp(1),
        count: transactions as u32,
        bytes: body.bytes().len() as u32,
        gas_bucket_start: 0,
        root: body.root(),
    };
    Batch { info, body }
}

fn payload(proofs: usize) -> Payload {
    let info = batch(1, 512).info;
    let signatures = (0..3)
        .map(|signer| ProofSignature { signer, signature: Signature::from_bytes(&[1; 64]) })
        .collect();
    let proof = ProofOfStore { info, signatures };
    let content = PayloadContent { proofs: vec![proof; proofs], ..PayloadContent::default() };
    let header = PayloadHeader {
        epoch: Epoch(0),
        height: CommitIndex(1),
        parent: Digest([1; 32]),
        block_timestamp: Timestamp(1),
        content_root: content.root(),
    };
    Payload { header, content }
}

fn codec(criterion: &mut Criterion) {
    let parameters = ChainParameters::default();
    let chain = ChainId([1; 32]);
    let mut group = criterion.benchmark_group("codec");
    for transactions in [100, 1000] {
        let batch = batch(transactions, 512);
        let frame = Message::Batch(batch.clone()).encode().to_bytes();
        let label = format!("transactions={transactions}");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        let message = Message::Batch(batch.clone());
        group.bench_function(format!("encode_batch/{label}"), |bencher| {
            bencher.iter(|| black_box(&message).encode());
        });
        group.bench_function(format!("decode_batch/{label}"), |bencher| {
            bencher.iter(|| Message::decode(black_box(&frame)).unwrap());
        });
        group.bench_function(format!("verify_body/{label}"), |bencher| {
            bencher.iter(|| batch.body.verify(black_box(&batch.info), &parameters).unwrap());
        });
        group.bench_function(format!("walk_transactions/{label}"), |bencher| {
            bencher.iter(|| batch.body.transactions().map(|t| t.len()).sum::<usize>());
        });
        group.bench_function(format!("build_body/{label}"), |bencher| {
            let transactions: Vec<_> = batch.body.transactions().collect();
            bencher.iter(|| {
                let mut builder = BodyBuilder::new();
                for transaction in &transactions {
                    builder.push(transaction.clone());
                }
                builder.finish()
            });
        });
    }
    for proofs in [10, 100] {
        let payload = payload(proofs);
        let message = Message::Payload(Box::new(payload.clone()));
        let frame = message.encode().to_bytes();
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("encode_payload/proofs={proofs}"), |bencher| {
            bencher.iter(|| black_box(&message).encode());
        });
        group.bench_function(format!("decode_payload/proofs={proofs}"), |bencher| {
            bencher.iter(|| Message::decode(black_box(&frame)).unwrap());
        });
        group.bench_function(format!("payload_digest/proofs={proofs}"), |bencher| {
            bencher.iter(|| (black_box(&payload).digest(&chain), payload.content.root()));
        });
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
