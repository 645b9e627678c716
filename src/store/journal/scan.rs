//! Reading the ring at opening: which frames are in force, where they end, and what is damage.
//!
//! 1. The first frame of each segment says when its use began. The newest use is read to its end.
//! 2. The last frame counts only if its content is what it says: a frame that was being written
//!    when the power went is a **torn tail**, and is dropped. No promise was made for it.
//! 3. The last frame says what is needed. From there on every frame must be there, one after the
//!    other: a gap is **damage**. So is a good frame behind the end, because a frame is written
//!    only when the one before it is durable.
//!
//! Content before the last frame is not read: a later frame proves that it was durable, and
//! whoever reads it checks it then.

use std::collections::VecDeque;
use std::io;

use super::super::StoreError;
use super::frame::{Change, HEADER_BYTES, Header, Secret, changes};
use super::ring::{Ring, Use};
use super::tables::{FrameAt, Tables};
use super::volume::{BLOCK, Volume, buffer};
use crate::types::Digest;

const DOING: &str = "reading the journal";
/// Opening says how far it has come each time that it has gone through so much.
const PROGRESS_BYTES: u64 = 1 << 30;
/// Read at once in search of frames behind the end.
const STRIDE: usize = 1 << 20;

/// Segment and offset of a torn frame.
type Torn = Option<(u32, u64)>;

/// A frame without its content.
#[derive(Debug)]
pub(super) struct Read {
    pub header: Header,
    pub at: FrameAt,
    pub changes: Vec<u8>,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Scan {
    pub tables: Tables,
    pub ring: Ring,
    /// Segment and offset of a frame that is torn, although its header is good.
    pub torn: Torn,
    /// The last frame; `None` in a ring that nothing was ever written to.
    pub last: Option<Read>,
}

/// Reads the frame at a place, if there is one; its content is not looked at.
pub(super) fn read_frame(
    volume: &dyn Volume,
    secret: &Secret,
    segment: u32,
    offset: u64,
) -> io::Result<Option<Read>> {
    let room = volume.segment_bytes() - offset;
    if room < BLOCK as u64 {
        return Ok(None);
    }
    let mut head = buffer(BLOCK);
    volume.read(segment, offset, &mut head)?;
    let Some(header) = Header::decode(&head, room) else { return Ok(None) };
    let end = HEADER_BYTES + header.change_bytes as usize;
    let changes = if end <= BLOCK {
        head[HEADER_BYTES..end].to_vec()
    } else {
        // Within the segment: `decode` has checked the length against its room.
        let mut whole = buffer(end.next_multiple_of(BLOCK));
        volume.read(segment, offset, &mut whole)?;
        whole[HEADER_BYTES..end].to_vec()
    };
    let sum = &head[HEADER_BYTES - size_of::<Digest>()..HEADER_BYTES];
    if !header.verify(secret, sum, &changes) {
        return Ok(None);
    }
    Ok(Some(Read { header, at: FrameAt::new(segment, offset, &header), changes }))
}

/// Reads bytes that begin and end anywhere.
pub(super) fn read_bytes(
    volume: &dyn Volume,
    segment: u32,
    offset: u64,
    length: u32,
) -> io::Result<bytes::Bytes> {
    let start = offset / BLOCK as u64 * BLOCK as u64;
    let skip = (offset - start) as usize;
    let mut whole = buffer((skip + length as usize).next_multiple_of(BLOCK));
    volume.read(segment, start, &mut whole)?;
    Ok(bytes::Bytes::from_owner(whole).slice(skip..skip + length as usize))
}

/// Reads the whole ring.
pub(super) fn scan(volume: &dyn Volume, secret: &Secret) -> Result<Scan, StoreError> {
    let scanner = Scanner { volume, secret };
    scanner.scan()
}

struct Scanner<'a> {
    volume: &'a dyn Volume,
    secret: &'a Secret,
}

impl Scanner<'_> {
    fn scan(&self) -> Result<Scan, StoreError> {
        let mut firsts = Vec::new();
        let mut unused = VecDeque::new();
        for segment in 0..self.volume.count() {
            match self.frame(segment, 0)? {
                Some(read) if read.header.sequence == read.header.base => {
                    firsts.push((read.header.base, segment));
                }
                _ => unused.push_back(segment),
            }
        }
        firsts.sort_unstable();
        let (last, torn) = self.last(&mut firsts, &mut unused)?;
        let Some(last) = last else {
            let ring = Ring::new(self.volume.segment_bytes(), VecDeque::new(), unused, 0);
            return Ok(Scan { tables: Tables::default(), ring, torn, last: None });
        };
        let newest = last.header.sequence;
        for segment in unused.iter().copied().chain([last.at.segment]) {
            self.nothing_later(segment, newest)?;
        }
        let needed = last.header.needed;
        let (old, held): (Vec<_>, Vec<_>) =
            firsts.into_iter().partition(|(base, _)| *base < needed);
        // Those that were never used go first: they are not in anybody's way.
        let free = unused.into_iter().chain(old.into_iter().map(|(_, segment)| segment));
        let free = free.collect();
        let (tables, uses) = self.replay(&held, &last)?;
        let end = last.at.offset + last.header.frame_bytes();
        let ring = Ring::new(self.volume.segment_bytes(), uses, free, end);
        Ok(Scan { tables, ring, torn, last: Some(last) })
    }

    /// The last frame that is whole, and where a torn one lies whose header is good.
    fn last(
        &self,
        firsts: &mut Vec<(u64, u32)>,
        unused: &mut VecDeque<u32>,
    ) -> Result<(Option<Read>, Torn), StoreError> {
        let mut torn = None;
        while let Some((base, segment)) = firsts.last().copied() {
            let mut before = None;
            let mut last = self.next(segment, base, 0, base)?;
            while let Some(read) = &last {
                let (next, sequence) = (end(read), read.header.sequence + 1);
                let Some(found) = self.next(segment, base, next, sequence)? else { break };
                before = last.replace(found);
            }
            // A good header, torn or not, says that the frame before it was durable.
            let whole = match last {
                Some(last) if torn.is_some() || self.is_whole(&last)? => Some(last),
                Some(last) => {
                    tracing::warn!(segment, "the last frame is torn: it was being written");
                    torn = Some((segment, last.at.offset));
                    before
                }
                None => before,
            };
            if whole.is_some() {
                return Ok((whole, torn));
            }
            firsts.pop();
            unused.push_front(segment);
        }
        Ok((None, torn))
    }

    /// The frame that follows in one use of a segment.
    fn next(
        &self,
        segment: u32,
        base: u64,
        offset: u64,
        sequence: u64,
    ) -> Result<Option<Read>, StoreError> {
        let read = self.frame(segment, offset)?;
        let follows = |read: &Read| read.header.base == base && read.header.sequence == sequence;
        Ok(read.filter(follows))
    }

    fn frame(&self, segment: u32, offset: u64) -> Result<Option<Read>, StoreError> {
        read_frame(self.volume, self.secret, segment, offset)
            .map_err(|error| StoreError::io(DOING, &error))
    }

    /// True if every content of a frame is what its change says.
    fn is_whole(&self, read: &Read) -> Result<bool, StoreError> {
        for change in changes(&read.changes) {
            let Some(change) = change else { return Ok(false) };
            let Change::Content { skip, bytes, root, .. } = change else { continue };
            let at = read.at.location(skip, bytes, root);
            let found = read_bytes(self.volume, at.segment, at.offset, bytes)
                .map_err(|error| StoreError::io(DOING, &error))?;
            if *blake3::hash(&found).as_bytes() != root.0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A good frame behind the end says that one before it is damaged. The one that follows may be
    /// there, torn: its header was written, its content was not.
    fn nothing_later(&self, segment: u32, newest: u64) -> Result<(), StoreError> {
        let mut offset = 0;
        let mut stride = buffer(STRIDE.min(self.volume.segment_bytes() as usize));
        while offset < self.volume.segment_bytes() {
            let length = (self.volume.segment_bytes() - offset).min(stride.len() as u64) as usize;
            let blocks = &mut stride[..length];
            self.volume
                .read(segment, offset, blocks)
                .map_err(|error| StoreError::io(DOING, &error))?;
            for (place, block) in (offset..).step_by(BLOCK).zip(blocks.chunks(BLOCK)) {
                let room = self.volume.segment_bytes() - place;
                let later = |header: Header| header.sequence > newest + 1;
                if Header::decode(block, room).is_some_and(later)
                    && self.frame(segment, place)?.is_some()
                {
                    let what = format!(
                        "segment {segment} of the journal has a good frame at {place}, behind the \
                         end: frame {newest} is not the last, and the next one is damaged"
                    );
                    return Err(StoreError::Damaged { what });
                }
            }
            offset += length as u64;
        }
        Ok(())
    }

    /// Every frame from the oldest that is needed to the last.
    fn replay(
        &self,
        held: &[(u64, u32)],
        last: &Read,
    ) -> Result<(Tables, VecDeque<Use>), StoreError> {
        let damaged = |sequence: u64| StoreError::Damaged {
            what: format!(
                "frame {sequence} of the journal is missing or damaged; {} to {} are needed",
                last.header.needed, last.header.sequence
            ),
        };
        let (mut tables, mut uses) = (Tables::default(), VecDeque::new());
        let mut sequence = last.header.needed;
        let (mut life, mut seen) = (0, 0);
        for (base, segment) in held {
            if *base != sequence {
                return Err(damaged(sequence));
            }
            let mut offset = 0;
            while sequence <= last.header.sequence {
                let Some(read) = self.next(*segment, *base, offset, sequence)? else { break };
                let is_lawful = read.header.life >= life && read.header.durable < sequence;
                if !is_lawful || !tables.apply(&read.at, &read.changes) {
                    return Err(damaged(sequence));
                }
                life = read.header.life;
                let before = (seen + offset) / PROGRESS_BYTES;
                offset += read.header.frame_bytes();
                if (seen + offset) / PROGRESS_BYTES > before {
                    let gigabytes = (seen + offset) / PROGRESS_BYTES;
                    tracing::info!(gigabytes, "reading the journal");
                }
                sequence += 1;
            }
            seen += offset;
            uses.push_back(Use { segment: *segment, base: *base, last: sequence - 1 });
        }
        if sequence == last.header.sequence + 1 {
            Ok((tables, uses))
        } else {
            Err(damaged(sequence))
        }
    }
}

fn end(read: &Read) -> u64 {
    read.at.offset + read.header.frame_bytes()
}
