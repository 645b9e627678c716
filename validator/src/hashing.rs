//! BLAKE3 of many short inputs at once.
//!
//! Every validator names every transaction, which is a sixth of what a transaction costs if each is
//! hashed alone: the blocks of one short input have to be hashed one after the other. Those of
//! several inputs do not, so each lane of the processor's vectors takes an input of its own. The
//! vectors know whole blocks of 64 bytes only, so every input is filled up with zeros to the next
//! whole block; the result is the plain BLAKE3 of that. Callers' inputs say their own length.
//!
//! The one thing here that `blake3` does not promise to keep is its `platform` module, which is
//! public for its own benchmarks. The version is pinned; the tests hold every length against the
//! public function.

use blake3::IncrementCounter;
use blake3::platform::{MAX_SIMD_DEGREE, Platform};

/// A hash.
type Hash = [u8; 32];

/// Bytes of a block.
const BLOCK: usize = 64;
/// Blocks of a chunk. An input of more chunks than one fills vectors by itself.
const CHUNK_BLOCKS: usize = 16;

/// What BLAKE3 starts from (section 2.1 of its paper).
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Domain flags (table 3 there).
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 1 << 1;
const ROOT: u8 = 1 << 3;

/// The hash of each input, filled up with zeros to whole blocks, in their order.
pub fn hash_each(inputs: &[&[u8]]) -> Vec<Hash> {
    let mut hashes = vec![[0; 32]; inputs.len()];
    // Inputs that wait for company, by their blocks.
    let mut lanes = [const { Lanes::new() }; CHUNK_BLOCKS];
    for (position, input) in inputs.iter().enumerate() {
        let blocks = input.len().div_ceil(BLOCK).max(1);
        match lanes.get_mut(blocks - 1) {
            None => hashes[position] = hash_one(input),
            Some(waiting) => {
                waiting.push(position);
                if waiting.is_full() {
                    waiting.finish(blocks, inputs, &mut hashes);
                }
            }
        }
    }
    for (index, waiting) in lanes.iter_mut().enumerate() {
        waiting.finish(index + 1, inputs, &mut hashes);
    }
    hashes
}

/// Any input by itself.
fn hash_one(input: &[u8]) -> Hash {
    let filled = input.len().max(1).next_multiple_of(BLOCK);
    let mut hasher = blake3::Hasher::new();
    hasher.update(input).update(&[0; BLOCK][..filled - input.len()]);
    *hasher.finalize().as_bytes()
}

/// Inputs, by their positions, that have equally many blocks.
#[derive(Clone, Copy)]
struct Lanes {
    positions: [usize; MAX_SIMD_DEGREE],
    count: usize,
}

impl Lanes {
    const fn new() -> Self {
        Self { positions: [0; MAX_SIMD_DEGREE], count: 0 }
    }

    fn push(&mut self, position: usize) {
        self.positions[self.count] = position;
        self.count += 1;
    }

    const fn is_full(&self) -> bool {
        self.count == MAX_SIMD_DEGREE
    }

    /// Hashes them, and is empty again. The vectors take a number of bytes that is known to the
    /// compiler, so there is one function for each number of blocks.
    fn finish(&mut self, blocks: usize, inputs: &[&[u8]], hashes: &mut [Hash]) {
        let positions = &self.positions[..self.count];
        self.count = 0;
        if positions.is_empty() {
            return;
        }
        macro_rules! by_blocks {
            ($($number:literal)*) => {
                match blocks {
                    $($number => together::<{ $number * BLOCK }>(positions, inputs, hashes),)*
                    _ => unreachable!("a chunk has at most {CHUNK_BLOCKS} blocks"),
                }
            };
        }
        by_blocks!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
    }
}

/// Hashes inputs that fill `BYTES`.
fn together<const BYTES: usize>(positions: &[usize], inputs: &[&[u8]], hashes: &mut [Hash]) {
    let mut filled = [[0; BYTES]; MAX_SIMD_DEGREE];
    for (lane, position) in filled.iter_mut().zip(positions) {
        let input = inputs[*position];
        lane[..input.len()].copy_from_slice(input);
    }
    let lanes = filled.each_ref();
    let mut out = [0; MAX_SIMD_DEGREE * 32];
    let (lanes, out) = (&lanes[..positions.len()], &mut out[..positions.len() * 32]);
    let (start, end) = (CHUNK_START, CHUNK_END | ROOT);
    Platform::detect().hash_many(lanes, &START, 0, IncrementCounter::No, 0, start, end, out);
    for (position, hash) in positions.iter().zip(out.chunks_exact(32)) {
        hashes[*position].copy_from_slice(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize, seed: u8) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + usize::from(seed) * 7 + at / 251) as u8).collect()
    }

    fn check(inputs: &[Vec<u8>]) {
        let slices: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let hashes = hash_each(&slices);
        assert_eq!(hashes.len(), inputs.len());
        for (input, hash) in inputs.iter().zip(hashes) {
            let mut filled = input.clone();
            filled.resize(input.len().div_ceil(64).max(1) * 64, 0);
            assert_eq!(hash, *blake3::hash(&filled).as_bytes(), "{} bytes", input.len());
        }
    }

    #[test]
    fn it_is_blake3_for_every_length_alone_and_in_company() {
        for length in (0..=1_090).chain([2048, 2049, 70_000]) {
            check(&[bytes(length, 0)]);
            let company = 0..MAX_SIMD_DEGREE as u8 + 3;
            check(&company.map(|seed| bytes(length, seed)).collect::<Vec<_>>());
        }
        check(&[]);
    }

    #[test]
    fn lengths_may_be_mixed_and_their_order_is_kept() {
        let lengths = (0..2_000_usize).map(|at| at.wrapping_mul(2_654_435_761) % 1_300);
        check(&lengths.enumerate().map(|(at, length)| bytes(length, at as u8)).collect::<Vec<_>>());
    }
}
