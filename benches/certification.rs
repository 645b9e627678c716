//! What certificates cost: verifying a vote, forming a proof, checking a proof.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ed25519_dalek::{Signer as _, SigningKey};
use quorum_store::crypto::{Ed25519Signer, Signer as _, verify_proof};
use quorum_store::types::{
    Author, BatchId, BatchInfo, ChainId, Committee, Digest, Epoch, Incarnation, Member,
    ProofOfStore, ProofSignature, Scope, Signature, SignedBatchInfo, Timestamp,
};
use zeroize::Zeroizing;

struct Setting {
    committee: Committee,
    scope: Scope,
    proof: ProofOfStore,
    votes: Vec<SignedBatchInfo>,
    signer: Ed25519Signer,
}

fn key(index: usize) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(&index.to_le_bytes()).as_bytes())
}

fn author(key: &SigningKey) -> Author {
    Author(key.verifying_key().to_bytes())
}

fn setting(validators: usize) -> Setting {
    let keys: Vec<_> = (0..validators).map(key).collect();
    let members = keys.iter().map(|key| Member { author: author(key), power: 1 }).collect();
    let committee = Committee::new(members).unwrap();
    let chain = ChainId([1; 32]);
    let scope = Scope { chain, epoch: Epoch(0), committee: committee.hash() };
    let info = BatchInfo {
        author: author(&keys[0]),
        batch_id: BatchId { incarnation: Incarnation(1), counter: 1 },
        epoch: Epoch(0),
        expiration: Timestamp(1),
        count: 100,
        bytes: 50_000,
        gas_bucket_start: 0,
        root: Digest([4; 32]),
    };
    let digest = info.digest(&chain);
    let message = scope.batch_stored_bytes(&digest);
    let mut votes: Vec<_> = keys
        .iter()
        .map(|key| {
            let signature = Signature::from_bytes(&key.sign(&message).to_bytes());
            SignedBatchInfo { digest, signer: author(key), signature }
        })
        .collect();
    votes.sort_unstable_by_key(|vote| committee.index_of(&vote.signer));
    votes.truncate(validators * 2 / 3 + 1);
    let proof = ProofOfStore { info, signatures: aggregate(&committee, &votes) };
    let signer = Ed25519Signer::new(&Zeroizing::new([9; 32]));
    Setting { committee, scope, proof, votes, signer }
}

fn aggregate(committee: &Committee, votes: &[SignedBatchInfo]) -> Vec<ProofSignature> {
    let part = |vote: &SignedBatchInfo| ProofSignature {
        signer: committee.index_of(&vote.signer).unwrap(),
        signature: vote.signature,
    };
    votes.iter().map(part).collect()
}

fn certification(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("certification");
    for validators in [4, 25, 100] {
        let setting = setting(validators);
        let vote = setting.votes[0];
        group.bench_function(format!("verify_vote/validators={validators}"), |bencher| {
            bencher.iter(|| {
                assert!(setting.signer.verify_batch(&setting.scope, black_box(&vote)));
            });
        });
        group.bench_function(format!("aggregate/validators={validators}"), |bencher| {
            bencher.iter(|| aggregate(&setting.committee, black_box(&setting.votes)));
        });
        group.bench_function(format!("check_proof/validators={validators}"), |bencher| {
            bencher.iter(|| {
                let Setting { signer, scope, committee, proof, .. } = &setting;
                verify_proof(signer, scope, committee, black_box(proof)).unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, certification);
criterion_main!(benches);
