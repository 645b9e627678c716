//! Framing, uniqueness and identity of what is sent; files that are replayed.

use std::collections::HashSet;

use super::*;
use crate::transaction::Transaction;

fn random(transaction_bytes: u32, seed: u64) -> Content {
    Content::Random { transaction_bytes, seed }
}

/// Takes a body apart as the protocol says, independently of how it was put together.
fn unframe(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut transactions = Vec::new();
    while !body.is_empty() {
        let length = u32::from_le_bytes(body[..4].try_into().expect("four bytes")) as usize;
        transactions.push(body[4..4 + length].to_vec());
        body = &body[4 + length..];
    }
    transactions
}

fn file(name: &str, content: &[u8]) -> std::path::PathBuf {
    let name = format!("quorum-store-replay-{}-{name}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, content).expect("a temporary file");
    path
}

#[test]
fn a_body_is_length_and_bytes_repeated_and_each_key_is_that_of_the_wrapped_transaction() {
    let batch = Source::new(random(512, 7), 3).batch(40, 1_700_000_000).expect("endless");
    let transactions = unframe(&batch.body);
    assert_eq!((transactions.len(), batch.keys.len()), (40, 40));
    for (bytes, key) in transactions.into_iter().zip(&batch.keys) {
        assert_eq!(bytes.len(), 512);
        let (gas_unit_price, expiration_micros) = (1, 1_700_000_000_000_000);
        let wrapped = Transaction { gas_unit_price, expiration_micros, bytes: bytes.into() };
        assert_eq!(key.0, wrapped.id());
    }
}

#[test]
fn transactions_differ_across_counters_targets_and_seeds() {
    for bytes in [TRANSACTION_BYTES_MIN, 21, 512, 100_000] {
        let mut seen = HashSet::new();
        for (seed, target) in [(1, 0), (1, 1), (2, 0)] {
            let mut source = Source::new(random(bytes, seed), target);
            for _ in 0..3 {
                let batch = source.batch(5, 1).expect("endless");
                seen.extend(unframe(&batch.body));
            }
        }
        assert_eq!(seen.len(), 45, "{bytes} bytes");
    }
}

#[test]
fn the_same_seed_makes_the_same_bytes() {
    let body = |seed| Source::new(random(64, seed), 0).batch(9, 1).expect("endless").body;
    assert_eq!(body(5), body(5));
    assert_ne!(body(5), body(6));
}

#[test]
fn a_request_is_bounded_in_transactions_and_bytes() {
    let count = |bytes| Source::new(random(bytes, 1), 0).batch(u64::MAX, 1).map(|b| b.keys.len());
    assert_eq!(count(20), Some(500));
    assert_eq!(count(100_000), Some(11));
    assert_eq!(count(TRANSACTION_BYTES_MAX), Some(1));
}

#[test]
fn a_file_is_replayed_once_across_its_targets() {
    let path = file("shared.hex", b"0a0b\n\n  0C0D \r\n0a0b\n0e\n");
    let content = Content::Replay(Arc::new(Replay::read(&path).expect("well formed")));
    std::fs::remove_file(&path).expect("just written");
    let (mut first, mut second) = (Source::new(content.clone(), 0), Source::new(content, 1));
    let mut found = unframe(&first.batch(2, 1).expect("two of three").body);
    found.extend(unframe(&second.batch(2, 1).expect("the last").body));
    assert_eq!(found, [vec![0x0a, 0x0b], vec![0x0c, 0x0d], vec![0x0e]]);
    assert!(first.batch(1, 1).is_none() && second.batch(1, 1).is_none());
}
