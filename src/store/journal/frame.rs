//! Frames: one group each, as they lie in a segment. Pure.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic |
//! | 8..16 | base: sequence of the first frame of this use of the segment |
//! | 16..24 | life of the store that wrote it |
//! | 24..32 | sequence: one more than that of the frame before, across segments |
//! | 32..40 | durable: every frame up to this one was on stable storage before this was written |
//! | 40..48 | needed: base of the oldest segment that holds anything in force |
//! | 48..52 | flags: 1 = closing, the last frame of a clean stop |
//! | 52..56 | bytes of changes |
//! | 56..64 | bytes of content |
//! | 64..96 | BLAKE3 of bytes 0..64 and the changes, keyed with the secret of the store |
//! | 96.. | changes, then contents in the order of their changes, then zeros to a whole block |
//!
//! Integers are little-endian. Changes are put one after the other:
//!
//! | tag | change | after it |
//! |---|---|---|
//! | 0 | small entry | key, u32 length and bytes of the value |
//! | 1 | small entry gone | key |
//! | 2 | content | key, u32 length, BLAKE3 of the content |
//! | 3 | content gone | key |
//!
//! where a key is its u16 length and its bytes. The checksum does not cover content: its hash is
//! in the change, where the body's own root serves, so that no byte is hashed a second time.
//!
//! The key of the checksum never leaves the store. So neither stale bytes of an earlier use of the
//! segment (their base is another one) nor bytes that somebody chose for a transaction can be read
//! as a frame.

use bytes::Bytes;

use super::super::schema::{Table, Value, Write};
use super::volume::BLOCK;
use crate::types::Digest;

/// Length of a header.
pub(super) const HEADER_BYTES: usize = 96;
const MAGIC: [u8; 8] = *b"qstore\x00\x01";
const SUMMED: usize = 64;
const CLOSING: u32 = 1;

/// Keys the checksums.
pub(super) type Secret = [u8; 32];

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub base: u64,
    pub life: u64,
    pub sequence: u64,
    pub durable: u64,
    pub needed: u64,
    pub closing: bool,
    pub change_bytes: u32,
    pub content_bytes: u64,
}

impl Header {
    /// Length of the whole frame: a multiple of a block.
    pub fn frame_bytes(&self) -> u64 {
        frame_bytes(u64::from(self.change_bytes), self.content_bytes)
    }

    fn encode(&self) -> [u8; SUMMED] {
        let mut bytes = [0; SUMMED];
        bytes[..8].copy_from_slice(&MAGIC);
        let words = [self.base, self.life, self.sequence, self.durable, self.needed];
        for (place, word) in bytes[8..48].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes[48..52].copy_from_slice(&u32::from(self.closing).to_le_bytes());
        bytes[52..56].copy_from_slice(&self.change_bytes.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.content_bytes.to_le_bytes());
        bytes
    }

    /// From the start of a frame that has at most `room` bytes. `None` if it is none; what is
    /// returned is to be believed only once [`Self::verify`] says so.
    pub fn decode(bytes: &[u8], room: u64) -> Option<Self> {
        let bytes: &[u8; SUMMED] = bytes.first_chunk()?;
        if bytes[..8] != MAGIC {
            return None;
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let lengths = word(48);
        let (flags, change_bytes) = (lengths as u32, (lengths >> 32) as u32);
        let header = Self {
            base: word(8),
            life: word(16),
            sequence: word(24),
            durable: word(32),
            needed: word(40),
            closing: flags == CLOSING,
            change_bytes,
            content_bytes: word(56),
        };
        let is_known = flags <= CLOSING && header.content_bytes <= room;
        (is_known && header.frame_bytes() <= room).then_some(header)
    }

    /// The checksum in the first block of a frame.
    pub fn sum(block: &[u8]) -> &[u8] {
        &block[SUMMED..HEADER_BYTES]
    }

    /// True if the header and the changes are what was written.
    pub fn verify(&self, secret: &Secret, checksum: &[u8], changes: &[u8]) -> bool {
        // Of public bytes: no need to compare in constant time.
        checksum == self.checksum(secret, changes)
    }

    fn checksum(&self, secret: &Secret, changes: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(&self.encode());
        hasher.update(changes);
        *hasher.finalize().as_bytes()
    }
}

fn frame_bytes(change_bytes: u64, content_bytes: u64) -> u64 {
    (HEADER_BYTES as u64 + change_bytes + content_bytes).next_multiple_of(BLOCK as u64)
}

/// One change, as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// A small entry.
    Entry { key: &'a [u8], value: &'a [u8] },
    /// It is gone.
    EntryGone { key: &'a [u8] },
    /// A content, so many bytes after the first content of the frame.
    Content { key: &'a [u8], skip: u64, bytes: u32, root: Digest },
    /// It is gone.
    ContentGone { key: &'a [u8] },
}

/// The changes of a frame; `None` where they are not what [`Frame`] writes.
pub(super) fn changes(mut bytes: &[u8]) -> impl Iterator<Item = Option<Change<'_>>> {
    let mut skip = 0;
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let change = change(&mut bytes, &mut skip);
        if change.is_none() {
            bytes = &[];
        }
        Some(change)
    })
}

fn change<'a>(bytes: &mut &'a [u8], content: &mut u64) -> Option<Change<'a>> {
    let tag = take(bytes, 1)?[0];
    let length = u16::from_le_bytes(*take(bytes, 2)?.first_chunk()?);
    let key = take(bytes, usize::from(length))?;
    let mut length = || Some(u32::from_le_bytes(*take(bytes, 4)?.first_chunk()?));
    Some(match tag {
        0 => {
            let length = length()?;
            Change::Entry { key, value: take(bytes, length as usize)? }
        }
        1 => Change::EntryGone { key },
        2 => {
            let length = length()?;
            let (skip, root) = (*content, Digest(*take(bytes, 32)?.first_chunk()?));
            *content += u64::from(length);
            Change::Content { key, skip, bytes: length, root }
        }
        3 => Change::ContentGone { key },
        _ => return None,
    })
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// A frame that is put together.
#[derive(Debug, Default)]
pub(super) struct Frame {
    changes: Vec<u8>,
    contents: Vec<Bytes>,
    content_bytes: u64,
}

impl Frame {
    /// Adds one change of a group.
    pub fn write(&mut self, write: Write<'_>) {
        match write {
            Write::Put { table: Table::Control, key, value } => self.entry(&key, value.as_ref()),
            Write::Put { table: Table::Content, key, value: Value::Encoded(value) } => {
                let root = Digest(*blake3::hash(&value).as_bytes());
                self.content(&key, Bytes::from(value), root);
            }
            Write::Put { table: Table::Content, key, value: Value::Body { bytes, root } } => {
                self.content(&key, bytes.clone(), root);
            }
            Write::Delete { table: Table::Control, key } => self.key(1, &key),
            Write::Delete { table: Table::Content, key } => self.content_gone(&key),
        }
    }

    pub fn entry(&mut self, key: &[u8], value: &[u8]) {
        self.key(0, key);
        self.length(value.len());
        self.changes.extend_from_slice(value);
    }

    pub fn content(&mut self, key: &[u8], bytes: Bytes, root: Digest) {
        self.key(2, key);
        self.length(bytes.len());
        self.changes.extend_from_slice(root.as_bytes());
        self.content_bytes += bytes.len() as u64;
        self.contents.push(bytes);
    }

    pub fn content_gone(&mut self, key: &[u8]) {
        self.key(3, key);
    }

    fn key(&mut self, tag: u8, key: &[u8]) {
        self.changes.push(tag);
        let length = u16::try_from(key.len()).unwrap_or_else(|_| {
            panic!("J1: a key of {} bytes; no key of the schema is longer than 65,535", key.len())
        });
        self.changes.extend_from_slice(&length.to_le_bytes());
        self.changes.extend_from_slice(key);
    }

    fn length(&mut self, length: usize) {
        let length = u32::try_from(length)
            .unwrap_or_else(|_| panic!("J2: a value of {length} bytes; no record has one"));
        self.changes.extend_from_slice(&length.to_le_bytes());
    }

    /// True if it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Length of the whole frame.
    pub fn bytes(&self) -> u64 {
        frame_bytes(self.changes.len() as u64, self.content_bytes)
    }

    /// What it takes so far, content included.
    pub fn weight(&self) -> u64 {
        self.changes.len() as u64 + self.content_bytes
    }

    /// The changes, as [`changes`] reads them.
    pub fn changes(&self) -> &[u8] {
        &self.changes
    }

    /// Fills in the lengths of a header.
    pub fn measured(&self, header: Header) -> Header {
        let change_bytes = u32::try_from(self.changes.len())
            .unwrap_or_else(|_| panic!("J3: changes of {} bytes in a group", self.changes.len()));
        Header { change_bytes, content_bytes: self.content_bytes, ..header }
    }

    /// Lays it out at the start of `buffer`, which is at least as long. `header` is measured.
    pub fn lay_out(&self, header: &Header, secret: &Secret, buffer: &mut [u8]) {
        let mut rest = buffer;
        let mut put = |bytes: &[u8]| {
            let (place, after) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            place.copy_from_slice(bytes);
            rest = after;
        };
        put(&header.encode());
        put(&header.checksum(secret, &self.changes));
        put(&self.changes);
        for content in &self.contents {
            put(content);
        }
        let used = HEADER_BYTES as u64 + self.weight();
        rest[..(header.frame_bytes() - used) as usize].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Secret = [3; 32];
    const HEADER: Header = Header {
        base: 5,
        life: 2,
        sequence: 7,
        durable: 6,
        needed: 1,
        closing: false,
        change_bytes: 0,
        content_bytes: 0,
    };

    fn laid_out(frame: &Frame) -> (Header, Vec<u8>) {
        let header = frame.measured(HEADER);
        let mut buffer = vec![0xee; frame.bytes() as usize + BLOCK];
        frame.lay_out(&header, &SECRET, &mut buffer);
        assert!(buffer[frame.bytes() as usize..].iter().all(|byte| *byte == 0xee));
        buffer.truncate(frame.bytes() as usize);
        (header, buffer)
    }

    fn full() -> Frame {
        let mut frame = Frame::default();
        frame.entry(b"key", b"value");
        frame.content(b"a", Bytes::from_static(b"first"), Digest([1; 32]));
        frame.write(Write::Delete { table: Table::Control, key: b"gone".to_vec() });
        frame.content(b"b", Bytes::from(vec![7; 9000]), Digest([2; 32]));
        frame.content_gone(b"c");
        frame
    }

    #[test]
    fn what_is_written_is_read() {
        let frame = full();
        let (header, bytes) = laid_out(&frame);
        let read = Header::decode(&bytes, bytes.len() as u64).unwrap();
        assert_eq!(read, header);
        let end = HEADER_BYTES + read.change_bytes as usize;
        let read_changes = &bytes[HEADER_BYTES..end];
        assert!(read.verify(&SECRET, &bytes[SUMMED..HEADER_BYTES], read_changes));
        let found: Vec<_> = changes(read_changes).map(Option::unwrap).collect();
        let (first, second) = (Digest([1; 32]), Digest([2; 32]));
        let expected = [
            Change::Entry { key: b"key", value: b"value" },
            Change::Content { key: b"a", skip: 0, bytes: 5, root: first },
            Change::EntryGone { key: b"gone" },
            Change::Content { key: b"b", skip: 5, bytes: 9000, root: second },
            Change::ContentGone { key: b"c" },
        ];
        assert_eq!(found, expected);
        assert_eq!(&bytes[end..end + 5], b"first");
        assert_eq!(bytes.len() % BLOCK, 0);
    }

    #[test]
    fn any_changed_bit_another_secret_and_a_cut_are_no_frame() {
        let (_, bytes) = laid_out(&full());
        let is_frame = |bytes: &[u8], secret: &Secret| {
            let Some(header) = Header::decode(bytes, bytes.len() as u64) else { return false };
            let end = HEADER_BYTES + header.change_bytes as usize;
            let Some(changes) = bytes.get(HEADER_BYTES..end) else { return false };
            header.verify(secret, &bytes[SUMMED..HEADER_BYTES], changes)
        };
        assert!(is_frame(&bytes, &SECRET));
        assert!(!is_frame(&bytes, &[4; 32]));
        let Header { change_bytes, .. } = Header::decode(&bytes, bytes.len() as u64).unwrap();
        for at in 0..HEADER_BYTES + change_bytes as usize {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(!is_frame(&changed, &SECRET), "byte {at}, bit {bit}");
            }
        }
        assert!(!is_frame(&bytes[..bytes.len() - BLOCK], &SECRET), "longer than its room");
        assert!(!is_frame(&bytes[..40], &SECRET));
    }

    #[test]
    fn changes_that_nobody_wrote_are_said_to_be_none_and_never_panic() {
        let good = full().changes().to_vec();
        for cut in 0..good.len() {
            let read: Vec<_> = changes(&good[..cut]).collect();
            assert!(read.len() <= 5, "an end after each");
        }
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let mut bytes = good.clone();
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
            for change in changes(&bytes) {
                let _ = change;
            }
        }
        assert_eq!(changes(&[9, 0, 0]).collect::<Vec<_>>(), [None]);
    }
}
