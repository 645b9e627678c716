//! A batch: what its author says about it (the info) and its transactions (the body).
//!
//! A body is the BCS of `Vec<u32>` (the lengths) followed by the transactions' bytes, so that a
//! transaction is a slice of the received buffer and nothing is copied. The digest covers the
//! info, and through `root` the body; it names exactly one batch.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::codec::{self, DecodeError};
use super::genesis::ChainParameters;
use super::ids::{Author, BatchId, ChainId, Digest, Epoch, Slot, Timestamp};

const DOMAIN: &str = "quorum-store/v1/batch";

/// What a batch costs in a window beyond its body: its share of index, slot, proof and metadata.
pub const BATCH_OVERHEAD_BYTES: u64 = 1024;

/// Everything about a batch but its transactions. Its BCS has a fixed length of
/// [`BatchInfo::ENCODED_BYTES`], so that a frame splits into info and body without parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchInfo {
    /// Who gathered it.
    pub author: Author,
    /// Its number.
    pub batch_id: BatchId,
    /// The epoch it may be ordered in.
    pub epoch: Epoch,
    /// The last block timestamp that may order it.
    pub expiration: Timestamp,
    /// Number of transactions; never zero.
    pub count: u32,
    /// Length of the body in bytes.
    pub bytes: u32,
    /// Lowest gas unit price of the bucket its transactions come from.
    pub gas_bucket_start: u64,
    /// BLAKE3 of the body.
    pub root: Digest,
}

impl BatchInfo {
    /// Length of its BCS.
    pub const ENCODED_BYTES: usize = 32 + 16 + 8 + 8 + 4 + 4 + 8 + 32;

    /// The batch's only name.
    pub fn digest(&self, chain: &ChainId) -> Digest {
        Digest(codec::hash(DOMAIN, &(chain, self)))
    }

    /// Its slot.
    pub fn slot(&self) -> Slot {
        Slot { epoch: self.epoch, author: self.author, batch_id: self.batch_id }
    }

    /// What it takes of a window, in bytes: the same at the author and at whoever stores it.
    pub fn charge(&self) -> u64 {
        u64::from(self.bytes) + BATCH_OVERHEAD_BYTES
    }

    /// Checks that need only the chain's parameters.
    pub fn verify_limits(&self, parameters: &ChainParameters) -> Result<(), InvalidBatch> {
        if self.count == 0 {
            return Err(InvalidBatch::Empty);
        }
        if self.count > parameters.batch_transactions_max {
            return Err(InvalidBatch::TooManyTransactions(self.count));
        }
        if self.bytes > parameters.batch_bytes_max {
            return Err(InvalidBatch::TooLarge(self.bytes));
        }
        Ok(())
    }
}

/// Why a batch is invalid whatever the state of whoever receives it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBatch {
    /// No transactions.
    #[error("a batch holds at least one transaction")]
    Empty,
    /// More transactions than the chain allows.
    #[error("{0} transactions are more than the chain allows")]
    TooManyTransactions(u32),
    /// A larger body than the chain allows.
    #[error("{0} bytes are more than the chain allows for a batch")]
    TooLarge(u32),
    /// The body's length is not what the info says.
    #[error("the body has {found} bytes, its info says {stated}")]
    BytesMismatch {
        /// As received.
        found: usize,
        /// As stated.
        stated: u32,
    },
    /// The body's hash is not what the info says.
    #[error("the body's root differs from its info")]
    RootMismatch,
    /// The number of transactions is not what the info says.
    #[error("the body holds {found} transactions, its info says {stated}")]
    CountMismatch {
        /// As received.
        found: u32,
        /// As stated.
        stated: u32,
    },
    /// A transaction of no bytes.
    #[error("transaction {0} is empty")]
    EmptyTransaction(u32),
    /// A larger transaction than the chain allows.
    #[error("transaction {position} has {length} bytes, more than the chain allows")]
    TransactionTooLarge {
        /// Which.
        position: u32,
        /// Its length.
        length: u32,
    },
    /// The lengths do not add up to the body.
    #[error("the transactions' lengths do not add up to the body's")]
    LengthMismatch,
    /// The list of lengths is not canonical BCS.
    #[error("the list of lengths is malformed")]
    MalformedLengths,
}

/// The transactions of a batch as one buffer, checked against nothing yet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchBody(Bytes);

impl std::fmt::Debug for BatchBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BatchBody({} bytes)", self.0.len())
    }
}

/// Where the transactions of a body lie in it.
struct Layout {
    count: u32,
    /// Offset of the first length field.
    lengths: usize,
    /// Offset of the first transaction.
    transactions: usize,
}

impl BatchBody {
    /// Takes bytes as they came.
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The bytes: shared, not copied.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// BLAKE3 of the body.
    pub fn root(&self) -> Digest {
        Digest(*blake3::hash(&self.0).as_bytes())
    }

    /// Checks the body against its info and the chain's parameters, hashing it once.
    pub fn verify(
        &self,
        info: &BatchInfo,
        parameters: &ChainParameters,
    ) -> Result<(), InvalidBatch> {
        info.verify_limits(parameters)?;
        if self.0.len() != info.bytes as usize {
            return Err(InvalidBatch::BytesMismatch { found: self.0.len(), stated: info.bytes });
        }
        if self.root() != info.root {
            return Err(InvalidBatch::RootMismatch);
        }
        self.verify_layout(info, parameters)
    }

    /// The part of [`Self::verify`] that hashes nothing: for a body whose root is known to be right.
    pub(crate) fn verify_layout(
        &self,
        info: &BatchInfo,
        parameters: &ChainParameters,
    ) -> Result<(), InvalidBatch> {
        info.verify_limits(parameters)?;
        let layout = self.layout()?;
        if layout.count != info.count {
            let found = layout.count;
            return Err(InvalidBatch::CountMismatch { found, stated: info.count });
        }
        let mut end = layout.transactions as u64;
        for position in 0..layout.count {
            let length = self.length_at(&layout, position);
            if length == 0 {
                return Err(InvalidBatch::EmptyTransaction(position));
            }
            if length > parameters.transaction_bytes_max {
                return Err(InvalidBatch::TransactionTooLarge { position, length });
            }
            end += u64::from(length);
        }
        if end == self.0.len() as u64 { Ok(()) } else { Err(InvalidBatch::LengthMismatch) }
    }

    /// The transactions of a verified body, each a part of it that keeps all of it. A body that
    /// was not verified yields as many as lie within it, and never panics.
    pub fn transactions(&self) -> impl Iterator<Item = Bytes> + '_ {
        self.ranges().map(|range| self.0.slice(range))
    }

    /// The same for whoever only looks at them: nothing is counted.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        // A range lies within the body.
        self.ranges().map(|range| &self.0[range])
    }

    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let empty = Layout { count: 0, lengths: 0, transactions: 0 };
        let layout = self.layout().unwrap_or(empty);
        let mut offset = layout.transactions;
        (0..layout.count).map_while(move |position| {
            let start = offset;
            offset = start.checked_add(self.length_at(&layout, position) as usize)?;
            (offset <= self.0.len()).then_some(start..offset)
        })
    }

    /// Reads the number of transactions; every length field is known to lie within the body.
    fn layout(&self) -> Result<Layout, InvalidBatch> {
        let mut count = 0_u64;
        for (position, byte) in self.0.iter().take(5).enumerate() {
            count |= u64::from(byte & 0x7f) << (7 * position);
            if byte & 0x80 != 0 {
                continue;
            }
            let lengths = position + 1;
            let canonical = *byte != 0 || position == 0;
            let count = u32::try_from(count).map_err(|_| InvalidBatch::MalformedLengths)?;
            let transactions = lengths + 4 * count as usize;
            if !canonical || transactions > self.0.len() {
                return Err(InvalidBatch::MalformedLengths);
            }
            return Ok(Layout { count, lengths, transactions });
        }
        Err(InvalidBatch::MalformedLengths)
    }

    fn length_at(&self, layout: &Layout, position: u32) -> u32 {
        let at = layout.lengths + 4 * position as usize;
        let mut field = [0; 4];
        field.copy_from_slice(&self.0[at..at + 4]);
        u32::from_le_bytes(field)
    }
}

/// Gathers transactions into a body.
#[derive(Debug, Default)]
pub struct BodyBuilder {
    lengths: Vec<u32>,
    bytes: usize,
    transactions: Vec<Bytes>,
}

impl BodyBuilder {
    /// Nothing gathered yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Transactions gathered.
    pub fn count(&self) -> u32 {
        self.lengths.len() as u32
    }

    /// Length of the body if it were finished after one more transaction of `length` bytes.
    pub fn bytes_with(&self, length: usize) -> usize {
        uleb_bytes(self.lengths.len() + 1) + 4 * (self.lengths.len() + 1) + self.bytes + length
    }

    /// Adds one transaction; the caller keeps it below the chain's largest (at most 1 MiB).
    pub fn push(&mut self, transaction: Bytes) {
        self.lengths.push(transaction.len() as u32);
        self.bytes += transaction.len();
        self.transactions.push(transaction);
    }

    /// The body: one allocation, each transaction copied once.
    pub fn finish(self) -> BatchBody {
        let count = self.lengths.len();
        let mut body = BytesMut::with_capacity(uleb_bytes(count) + 4 * count + self.bytes);
        let mut rest = count;
        while rest >= 0x80 {
            body.extend_from_slice(&[(rest & 0x7f) as u8 | 0x80]);
            rest >>= 7;
        }
        body.extend_from_slice(&[rest as u8]);
        for length in &self.lengths {
            body.extend_from_slice(&length.to_le_bytes());
        }
        for transaction in &self.transactions {
            body.extend_from_slice(transaction);
        }
        BatchBody(body.freeze())
    }
}

fn uleb_bytes(mut value: usize) -> usize {
    let mut bytes = 1;
    while value >= 0x80 {
        value >>= 7;
        bytes += 1;
    }
    bytes
}

/// A batch whose body has been checked against its info.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// What its author says.
    pub info: BatchInfo,
    /// The transactions.
    pub body: BatchBody,
}

impl Batch {
    /// Splits `info ++ body`, the layout of frames and records. Checks lengths only.
    pub(crate) fn split(bytes: &Bytes) -> Result<Self, DecodeError> {
        if bytes.len() < BatchInfo::ENCODED_BYTES {
            return Err(DecodeError::Truncated { kind: "batch" });
        }
        let info: BatchInfo = codec::decode(
            "batch info",
            &bytes[..BatchInfo::ENCODED_BYTES],
            BatchInfo::ENCODED_BYTES,
        )?;
        Ok(Self { info, body: BatchBody::new(bytes.slice(BatchInfo::ENCODED_BYTES..)) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_body_is_bcs_lengths_followed_by_the_bytes() {
        for count in [1_usize, 2, 127, 128, 300] {
            let transactions: Vec<Bytes> =
                (0..count).map(|i| Bytes::from(vec![i as u8; 1 + i % 7])).collect();
            let mut builder = BodyBuilder::new();
            let mut expected_length = 0;
            for transaction in &transactions {
                expected_length = builder.bytes_with(transaction.len());
                builder.push(transaction.clone());
            }
            let body = builder.finish();
            assert_eq!(body.bytes().len(), expected_length);
            let lengths: Vec<u32> = transactions.iter().map(|t| t.len() as u32).collect();
            let mut expected = bcs::to_bytes(&lengths).unwrap();
            for transaction in &transactions {
                expected.extend_from_slice(transaction);
            }
            assert_eq!(body.bytes(), &expected);
            assert!(body.slices().eq(transactions.iter()));
            assert!(body.transactions().eq(transactions));
        }
    }

    #[test]
    fn every_way_a_body_can_lie_is_found() {
        let parameters = ChainParameters::default();
        let good = samples::batch(1, 1, &[b"one", b"two"]);
        good.body.verify(&good.info, &parameters).unwrap();
        let rehashed = |body: Vec<u8>, change: fn(&mut BatchInfo)| {
            let body = BatchBody::new(Bytes::from(body));
            let mut info = BatchInfo { root: body.root(), ..good.info };
            info.bytes = body.bytes().len() as u32;
            change(&mut info);
            body.verify(&info, &parameters).unwrap_err()
        };
        let bytes = good.body.bytes().to_vec();
        assert_eq!(rehashed(bytes.clone(), |i| i.count = 0), InvalidBatch::Empty);
        assert!(matches!(
            rehashed(bytes.clone(), |i| i.count = 3),
            InvalidBatch::CountMismatch { found: 2, stated: 3 }
        ));
        assert!(matches!(
            rehashed(bytes.clone(), |i| i.bytes += 1),
            InvalidBatch::BytesMismatch { .. }
        ));
        assert_eq!(
            rehashed(bytes.clone(), |i| i.root = Digest([9; 32])),
            InvalidBatch::RootMismatch
        );
        assert_eq!(
            rehashed(bytes.clone(), |i| i.bytes = u32::MAX),
            InvalidBatch::TooLarge(u32::MAX)
        );
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(rehashed(longer, |_| ()), InvalidBatch::LengthMismatch);
        let mut bomb = vec![0xff, 0xff, 0xff, 0xff, 0x0f];
        bomb.extend_from_slice(&bytes);
        assert_eq!(rehashed(bomb, |_| ()), InvalidBatch::MalformedLengths);
        // 0x82 0x00 also says 2, but is not the shortest way to say it.
        let mut long_count = vec![0x82, 0x00];
        long_count.extend_from_slice(&bytes[1..]);
        assert_eq!(rehashed(long_count, |_| ()), InvalidBatch::MalformedLengths);
        let mut empty_one = bytes.clone();
        empty_one[1..5].copy_from_slice(&0_u32.to_le_bytes());
        assert_eq!(rehashed(empty_one, |_| ()), InvalidBatch::EmptyTransaction(0));
        assert_eq!(rehashed(Vec::new(), |_| ()), InvalidBatch::MalformedLengths);
    }

    #[test]
    fn the_digest_covers_every_field_and_the_chain() {
        let chain = ChainId([1; 32]);
        let info = samples::batch(1, 1, &[b"one"]).info;
        let mut digests = vec![info.digest(&chain), info.digest(&ChainId([2; 32]))];
        let changes: [fn(&mut BatchInfo); 9] = [
            |i| i.author = Author([9; 32]),
            |i| i.batch_id.incarnation.0 += 1,
            |i| i.batch_id.counter += 1,
            |i| i.epoch.0 += 1,
            |i| i.expiration.0 += 1,
            |i| i.count += 1,
            |i| i.bytes += 1,
            |i| i.gas_bucket_start += 1,
            |i| i.root.0[31] ^= 1,
        ];
        for change in changes {
            let mut other = info;
            change(&mut other);
            digests.push(other.digest(&chain));
        }
        let all = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), all);
        assert_eq!(bcs::to_bytes(&info).unwrap().len(), BatchInfo::ENCODED_BYTES);
    }
}
