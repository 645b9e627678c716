//! Where transactions come from: made up, or read from a file.
//!
//! Made-up ones look random to a compressor and are unique: they begin with seed, target and
//! counter, the rest is a window into one pregenerated block. So making one costs a copy.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};

use super::tracker::Key;
use crate::transaction::Transaction;

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
/// Largest file that is replayed; it is held in memory.
const FILE_BYTES_MAX: u64 = 1 << 30;

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

/// The transactions of a file, shared by all targets.
pub struct Replay {
    transactions: Vec<Bytes>,
    next: AtomicUsize,
}

impl Replay {
    /// Reads a file: `.bin` holds u32 little-endian lengths before each transaction, any other
    /// name one hex string a line. Equal transactions are kept once: they would be one anyway.
    pub fn read(path: &Path) -> Result<Self, String> {
        let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let size = std::fs::metadata(path).map_err(|error| fail(&error))?.len();
        if size > FILE_BYTES_MAX {
            return Err(fail(&format_args!("holds {size} bytes; at most {FILE_BYTES_MAX} fit")));
        }
        let content = Bytes::from(std::fs::read(path).map_err(|error| fail(&error))?);
        let binary = path.extension().is_some_and(|extension| extension == "bin");
        let parsed = if binary { split_binary(content) } else { split_hex(&content) };
        let mut transactions = parsed.map_err(|error| fail(&error))?;
        let mut seen = HashSet::new();
        transactions.retain(|transaction| seen.insert(transaction.clone()));
        if transactions.is_empty() {
            return Err(fail(&"holds no transaction"));
        }
        Ok(Self { transactions, next: AtomicUsize::new(0) })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.transactions.len()
    }

    fn take(&self) -> Option<&Bytes> {
        self.transactions.get(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

fn split_binary(mut content: Bytes) -> Result<Vec<Bytes>, String> {
    let mut transactions = Vec::new();
    while !content.is_empty() {
        let number = transactions.len() + 1;
        let Some((length, rest)) = content.split_first_chunk::<4>() else {
            return Err(format!("ends inside the length of transaction {number}"));
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > rest.len() {
            return Err(format!("transaction {number} has an impossible length of {length} bytes"));
        }
        let _ = content.split_to(4);
        transactions.push(content.split_to(length));
    }
    Ok(transactions)
}

fn split_hex(content: &[u8]) -> Result<Vec<Bytes>, String> {
    let mut transactions = Vec::new();
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if !line.is_empty() {
            let bytes =
                hex::decode(line).map_err(|error| format!("line {}: {error}", index + 1))?;
            transactions.push(Bytes::from(bytes));
        }
    }
    Ok(transactions)
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
        let mut start = 0;
        let keys: Vec<Key> = ends
            .into_iter()
            .map(|end| {
                let bytes = body.slice(start + 4..end);
                start = end;
                key(bytes, expiration_unix_secs)
            })
            .collect();
        (!keys.is_empty()).then_some(Batch { body, keys })
    }

    fn append(&mut self, body: &mut BytesMut) -> bool {
        match &self.content {
            Content::Replay(replay) => {
                let Some(transaction) = replay.take() else { return false };
                body.put_u32_le(transaction.len() as u32);
                body.put_slice(transaction);
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

/// The key that a validator's id of these bytes has.
fn key(bytes: Bytes, expiration_unix_secs: u64) -> Key {
    let expiration_micros = expiration_unix_secs.saturating_mul(1_000_000);
    Key::of(&Transaction { gas_unit_price: GAS_UNIT_PRICE, expiration_micros, bytes }.id())
}

/// `SplitMix64` (Steele, Lea, Flood 2014): a few instructions per word, any seed is a good one.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
