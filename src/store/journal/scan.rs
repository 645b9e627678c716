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
use std::sync::mpsc;

use super::super::StoreError;
use super::frame::{Change, Header, Secret, changes};
use super::ring::{Ring, Use};
use super::tables::{ContentTable, EntryTable, FrameAt, Tables};
use super::volume::{BLOCK, Volume, buffer};
use super::window::Window;

const DOING: &str = "reading the journal";
/// Opening says how far it has come each time that it has gone through so much.
const PROGRESS_BYTES: u64 = 1 << 28;
/// Frames that are read before the small entries of those before are in their table: both tables are
/// filled at once, each by its own thread.
const FRAMES_AHEAD: usize = 16;
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
    Window::new(volume, secret).frame(segment, offset)
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
            let mut frames = Frames::of(self, segment, base);
            let mut last = frames.at(0, base)?;
            while let Some(read) = &last {
                let (next, sequence) = (end(read), read.header.sequence + 1);
                let Some(found) = frames.at(next, sequence)? else { break };
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
            let found = read_bytes(self.volume, at.spot.segment, at.offset(), bytes)
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
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel::<(FrameAt, Vec<u8>)>(FRAMES_AHEAD);
            let fill = move || {
                let mut entries = EntryTable::default();
                for (at, changes) in receiver {
                    entries.apply(&at, &changes);
                }
                entries
            };
            let filler = std::thread::Builder::new().name("journal-entries".into());
            let filler = filler.spawn_scoped(scope, fill);
            let filler = filler.map_err(|error| StoreError::io(DOING, &error))?;
            let mut contents = ContentTable::default();
            let apply = |read: Read| {
                let is_lawful = contents.apply(&read.at, &read.changes);
                // Gone only if it panicked, which is passed on below.
                let _ = sender.send((read.at, read.changes));
                is_lawful
            };
            let uses = self.replayed(held, last, apply);
            drop(sender);
            let entries = filler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((Tables { entries, contents }, uses?))
        })
    }

    /// Hands each of those frames on; `apply` says whether it holds what a frame holds.
    fn replayed(
        &self,
        held: &[(u64, u32)],
        last: &Read,
        mut apply: impl FnMut(Read) -> bool,
    ) -> Result<VecDeque<Use>, StoreError> {
        let damaged = |sequence: u64| StoreError::Damaged {
            what: format!(
                "frame {sequence} of the journal is missing or damaged; {} to {} are needed",
                last.header.needed, last.header.sequence
            ),
        };
        let mut uses = VecDeque::new();
        let mut sequence = last.header.needed;
        let (mut life, mut seen) = (0, 0);
        for (base, segment) in held {
            if *base != sequence {
                return Err(damaged(sequence));
            }
            let mut offset = 0;
            let mut frames = Frames::of(self, *segment, *base);
            while sequence <= last.header.sequence {
                let Some(read) = frames.at(offset, sequence)? else { break };
                let header = read.header;
                let is_lawful = header.life >= life && header.durable < sequence;
                if !is_lawful || !apply(read) {
                    return Err(damaged(sequence));
                }
                life = header.life;
                let before = (seen + offset) / PROGRESS_BYTES;
                offset += header.frame_bytes();
                if (seen + offset) / PROGRESS_BYTES > before {
                    let megabytes = (seen + offset) >> 20;
                    tracing::info!(megabytes, "reading the journal");
                }
                sequence += 1;
            }
            seen += offset;
            uses.push_back(Use { segment: *segment, base: *base });
        }
        if sequence == last.header.sequence + 1 { Ok(uses) } else { Err(damaged(sequence)) }
    }
}

/// The frames of one use of a segment.
struct Frames<'a> {
    window: Window<'a>,
    segment: u32,
    base: u64,
}

impl<'a> Frames<'a> {
    fn of(scanner: &Scanner<'a>, segment: u32, base: u64) -> Self {
        Self { window: Window::new(scanner.volume, scanner.secret), segment, base }
    }

    /// The one with this sequence, if it lies there.
    fn at(&mut self, offset: u64, sequence: u64) -> Result<Option<Read>, StoreError> {
        let read = self.window.frame(self.segment, offset);
        let read = read.map_err(|error| StoreError::io(DOING, &error))?;
        let base = self.base;
        let follows = |read: &Read| read.header.base == base && read.header.sequence == sequence;
        Ok(read.filter(follows))
    }
}

fn end(read: &Read) -> u64 {
    read.at.offset + read.header.frame_bytes()
}
