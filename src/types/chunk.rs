//! Chunks: a part of a batch's body that is checked by itself, so that several peers can send a
//! large batch at once.
//!
//! The root of a body is its BLAKE3 hash, and BLAKE3 is a tree over 1 KiB leaves: the body's
//! chunks of [`CHUNK_BYTES`] are subtrees of it. The *outline* is the hash of every chunk, in
//! order. It hashes to the root, so nothing about it is taken on trust, and each chunk is checked
//! against its entry alone: a wrong one names its sender, whoever sent the others.

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root,
    merge_subtrees_root,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::batch::{BatchBody, BatchInfo};
use super::genesis::BATCH_BYTES_LIMIT;
use super::ids::Digest;

/// Length of every chunk but the last. A subtree of BLAKE3: a power of two times 1 KiB.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Most chunks of any batch.
pub const CHUNKS_MAX: usize = (BATCH_BYTES_LIMIT as usize).div_ceil(CHUNK_BYTES);
/// Bodies up to this length are fetched whole: splitting them costs more than it spreads.
pub const WHOLE_BYTES_MAX: usize = 2 * CHUNK_BYTES;

/// One chunk of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChunkId {
    /// The batch.
    pub digest: Digest,
    /// Which of its chunks.
    pub index: u16,
}

/// A chunk with what it takes to check it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The batch's info: its digest is what was asked for, and its root is what counts.
    pub info: BatchInfo,
    /// Which chunk.
    pub index: u16,
    /// The hash of every chunk.
    pub outline: Vec<[u8; 32]>,
    /// The bytes: shared, not copied.
    pub bytes: Bytes,
}

/// Why a chunk is not one of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidChunk {
    /// The batch has no chunk with this index, or is too small for chunks.
    #[error("the batch has no such chunk")]
    Index,
    /// The outline does not hash to the root.
    #[error("the outline differs from the root")]
    Outline,
    /// The bytes do not hash to their entry.
    #[error("the bytes differ from the outline")]
    Bytes,
}

/// How many chunks a body of this length is fetched in; 1 if it is fetched whole.
pub fn chunks_of(body_bytes: u32) -> u16 {
    let length = body_bytes as usize;
    if length <= WHOLE_BYTES_MAX { 1 } else { length.div_ceil(CHUNK_BYTES) as u16 }
}

impl Chunk {
    /// Cuts chunks out of a body that has been checked; what is no chunk of it is left out. The
    /// whole body is hashed, once: ask for many at a time.
    pub fn cut(info: BatchInfo, body: &BatchBody, indices: &[u16]) -> Vec<Self> {
        let bytes = body.bytes();
        let is_chunk = |index: &u16| {
            let from = usize::from(*index) * CHUNK_BYTES;
            *index < chunks_of(info.bytes) && from < bytes.len()
        };
        let indices: Vec<u16> = indices.iter().copied().filter(is_chunk).collect();
        if indices.is_empty() || bytes.len() <= WHOLE_BYTES_MAX {
            return Vec::new();
        }
        let outline = outline(bytes);
        let chunk = |index: u16| {
            let from = usize::from(index) * CHUNK_BYTES;
            let to = (from + CHUNK_BYTES).min(bytes.len());
            Self { info, index, outline: outline.clone(), bytes: bytes.slice(from..to) }
        };
        indices.into_iter().map(chunk).collect()
    }

    /// Cuts one chunk; `None` if there is no such chunk.
    pub fn of(info: BatchInfo, body: &BatchBody, index: u16) -> Option<Self> {
        Self::cut(info, body, &[index]).pop()
    }

    /// Checks outline and bytes against the info's root.
    pub fn verify(&self) -> Result<(), InvalidChunk> {
        let count = chunks_of(self.info.bytes);
        if count < 2 || self.index >= count || self.info.bytes > BATCH_BYTES_LIMIT {
            return Err(InvalidChunk::Index);
        }
        if self.outline.len() != usize::from(count) || root(&self.outline) != self.info.root {
            return Err(InvalidChunk::Outline);
        }
        let from = usize::from(self.index) * CHUNK_BYTES;
        let to = (from + CHUNK_BYTES).min(self.info.bytes as usize);
        let entry = self.outline.get(usize::from(self.index));
        if self.bytes.len() == to - from && entry == Some(&hash_of(from, &self.bytes)) {
            Ok(())
        } else {
            Err(InvalidChunk::Bytes)
        }
    }
}

/// The hash of every chunk of a body of more than one.
fn outline(bytes: &[u8]) -> Vec<[u8; 32]> {
    let chunks = bytes.chunks(CHUNK_BYTES).enumerate();
    chunks.map(|(index, chunk)| hash_of(index * CHUNK_BYTES, chunk)).collect()
}

fn hash_of(offset: usize, chunk: &[u8]) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(offset as u64).update(chunk).finalize_non_root()
}

/// The root of a tree with these subtrees; at least two of them.
pub(super) fn root(outline: &[ChainingValue]) -> Digest {
    let (left, right) = halves(outline);
    let (left, right) = (subtree(left), subtree(right));
    Digest(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

fn subtree(outline: &[ChainingValue]) -> ChainingValue {
    if let [one] = outline {
        return *one;
    }
    let (left, right) = halves(outline);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// The left half is the largest power of two of chunks that leaves something to the right.
fn halves(outline: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    // In chunks or in bytes, the tree has the same shape: only the last chunk may be shorter.
    let left = left_subtree_len((outline.len() * CHUNK_BYTES) as u64) as usize / CHUNK_BYTES;
    outline.split_at(left)
}

#[cfg(test)]
mod tests {
    use super::super::{Author, BatchId, Epoch, Timestamp};
    use super::*;

    fn batch(length: usize) -> (BatchInfo, BatchBody) {
        let bytes: Vec<u8> = (0..length).map(|at| (at * 31 / 7) as u8).collect();
        let body = BatchBody::new(Bytes::from(bytes));
        let info = BatchInfo {
            author: Author([1; 32]),
            batch_id: BatchId::default(),
            epoch: Epoch(0),
            expiration: Timestamp(1),
            count: 1,
            bytes: length as u32,
            gas_bucket_start: 0,
            root: body.root(),
        };
        (info, body)
    }

    #[cfg_attr(miri, ignore = "minutes for an interpreter")]
    #[test]
    fn every_chunk_of_every_shape_is_checked_by_itself_and_together_they_are_the_body() {
        let lengths = [
            WHOLE_BYTES_MAX + 1,
            3 * CHUNK_BYTES - 1,
            3 * CHUNK_BYTES,
            4 * CHUNK_BYTES,
            5 * CHUNK_BYTES + 1000,
            7 * CHUNK_BYTES + 1,
            BATCH_BYTES_LIMIT as usize,
        ];
        for length in lengths {
            let (info, body) = batch(length);
            let mut whole = Vec::new();
            for index in 0..chunks_of(info.bytes) {
                let chunk = Chunk::of(info, &body, index).unwrap();
                assert_eq!(chunk.verify(), Ok(()), "{length} bytes, chunk {index}");
                whole.extend_from_slice(&chunk.bytes);
            }
            assert_eq!(whole, body.bytes()[..], "{length} bytes");
        }
        const { assert!(CHUNKS_MAX <= 127, "the outline's length is encoded in one byte") }
    }

    #[cfg_attr(miri, ignore = "minutes for an interpreter")]
    #[test]
    fn what_is_not_the_batch_s_is_a_typed_error() {
        let (info, body) = batch(5 * CHUNK_BYTES + 1000);
        let good = Chunk::of(info, &body, 4).unwrap();
        let wrong = |change: fn(&mut Chunk)| {
            let mut chunk = good.clone();
            change(&mut chunk);
            chunk.verify().unwrap_err()
        };
        assert_eq!(wrong(|chunk| chunk.index = 3), InvalidChunk::Bytes);
        assert_eq!(wrong(|chunk| chunk.index = 6), InvalidChunk::Index);
        assert_eq!(wrong(|chunk| chunk.outline[0][0] ^= 1), InvalidChunk::Outline);
        assert_eq!(wrong(|chunk| chunk.outline.truncate(5)), InvalidChunk::Outline);
        assert_eq!(wrong(|chunk| chunk.bytes = chunk.bytes.slice(1..)), InvalidChunk::Bytes);
        assert_eq!(wrong(|chunk| chunk.info.root.0[0] ^= 1), InvalidChunk::Outline);
        assert_eq!(wrong(|chunk| chunk.info.bytes = 1000), InvalidChunk::Index);
        assert_eq!(wrong(|chunk| chunk.info.bytes = u32::MAX), InvalidChunk::Index);
        let mut flipped = good.bytes.to_vec();
        flipped[17] ^= 1;
        let chunk = Chunk { bytes: flipped.into(), ..good };
        assert_eq!(chunk.verify(), Err(InvalidChunk::Bytes));
        let (small, body) = batch(WHOLE_BYTES_MAX);
        assert_eq!(Chunk::of(small, &body, 0), None);
        assert_eq!(chunks_of(small.bytes), 1);
        assert_eq!(Chunk::of(info, &batch(5 * CHUNK_BYTES + 1000).1, 6), None);
    }
}
