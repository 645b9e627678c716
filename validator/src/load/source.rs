//! Where transactions come from: made up, or read from a file.
//!
//! Made-up ones look random to a compressor and are unique: they begin with seed, target and
//! counter, the rest is a window into one pregenerated block. So making one costs a copy.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::replay::Replay;
use super::tracker::Key;
use crate::transaction;

/// What every transaction of the load bids.
pub const GAS_UNIT_PRICE: u64 = 1;
/// Smallest transaction that can carry seed, target and counter.
pub const TRANSACTION_BYTES_MIN: u32 = 20;
/// Largest that the load makes up; validators may take less.
pub const TRANSACTION_BYTES_MAX: u32 = 1 << 20;
/// Most transactions in a request.
const BATCH_TRANSACTIONS_MAX: u64 = 500;
/// A request takes no further transaction once it has this many bytes.
const BATCH_BYTES_MAX: usize = 1 << 20;
const BLOCK_BYTES: usize = 64 << 10;

/// What a load sends.
#[derive(Clone)]
pub enum Content {
    /// Made-up transactions of so many bytes.
    Random {
        /// Bytes of each.
        transaction_bytes: u32,
        /// Two loads with the same seed make up the same bytes.
        seed: u64,
    },
    /// Transactions of a file, each once.
    Replay(Arc<Replay>),
}

/// One request's worth of transactions.
pub struct Batch {
    /// The body: u32 little-endian length, bytes, repeated.
    pub body: Bytes,
    /// The books' name of each, in order.
    pub keys: Vec<Key>,
}

/// Makes the requests of one target.
pub struct Source {
    content: Content,
    target: u32,
    counter: u64,
    random: SplitMix,
    block: Vec<u8>,
}

impl Source {
    /// The transactions for the target with this number.
    pub fn new(content: Content, target: u32) -> Self {
        let seed = match content {
            Content::Random { seed, .. } => seed,
            Content::Replay(_) => 0,
        };
        let mut random = SplitMix(seed ^ (u64::from(target) << 32));
        let words = (0..BLOCK_BYTES / 8).flat_map(|_| random.next().to_le_bytes());
        let block = words.collect();
        Self { content, target, counter: 0, random, block }
    }

    /// Up to `due` transactions that expire at `expiration_unix_secs`; fewer if they fill a
    /// request; `None` if there are no more.
    pub fn batch(&mut self, due: u64, expiration_unix_secs: u64) -> Option<Batch> {
        let count = due.min(BATCH_TRANSACTIONS_MAX);
        let mut body = BytesMut::new();
        if let Content::Random { transaction_bytes, .. } = self.content {
            let bytes = (4 + transaction_bytes as usize) * count as usize;
            body.reserve(bytes.min(BATCH_BYTES_MAX + 4 + transaction_bytes as usize));
        }
        let mut ends = Vec::with_capacity(count as usize);
        while (ends.len() as u64) < count && body.len() < BATCH_BYTES_MAX {
            if !self.append(&mut body) {
                break;
            }
            ends.push(body.len());
        }
        let body = body.freeze();
        let keys = keys(&body, &ends, expiration_unix_secs);
        (!keys.is_empty()).then_some(Batch { body, keys })
    }

    fn append(&mut self, body: &mut BytesMut) -> bool {
        match &self.content {
            Content::Replay(replay) => {
                let Some(transaction) = replay.take() else { return false };
                body.put_u32_le(transaction.len() as u32);
                body.put_slice(&transaction);
            }
            Content::Random { transaction_bytes, seed } => {
                body.put_u32_le(*transaction_bytes);
                body.put_u64_le(*seed);
                body.put_u32_le(self.target);
                body.put_u64_le(self.counter);
                self.counter += 1;
                let mut left = (*transaction_bytes - TRANSACTION_BYTES_MIN) as usize;
                let mut offset = self.random.next() as usize % BLOCK_BYTES;
                while left > 0 {
                    let piece = left.min(BLOCK_BYTES - offset);
                    body.put_slice(&self.block[offset..offset + piece]);
                    left -= piece;
                    offset = 0;
                }
            }
        }
        true
    }
}

/// The keys that the validators' ids of a body's entries have.
fn keys(body: &[u8], ends: &[usize], expiration_unix_secs: u64) -> Vec<Key> {
    let expiration_micros = expiration_unix_secs.saturating_mul(1_000_000);
    let starts = std::iter::once(&0).chain(ends);
    let entries = starts.zip(ends).map(|(start, end)| &body[start + 4..*end]);
    let total = entries.clone().map(|entry| transaction::wrapped_bytes(entry.len())).sum();
    let mut wrapped = BytesMut::with_capacity(total);
    for entry in entries.clone() {
        transaction::wrap(&mut wrapped, GAS_UNIT_PRICE, expiration_micros, entry);
    }
    let mut rest = &wrapped[..];
    let split = |entry: &[u8]| {
        let (one, others) = rest.split_at(transaction::wrapped_bytes(entry.len()));
        rest = others;
        one
    };
    let wrapped: Vec<&[u8]> = entries.map(split).collect();
    transaction::ids(&wrapped).into_iter().map(Key).collect()
}

/// `SplitMix64` (Steele, Lea, Flood 2014): a few instructions per word, any seed is a good one.
pub struct SplitMix(u64);

impl SplitMix {
    /// Words that follow from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next word.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
