//! Frames one after the other, read ahead: many small ones cost one read together.
//!
//! While frames are short, a whole stride is read, and the next ones are found in it; of a frame
//! that is longer than that, only what is needed is read.

use std::io;

use super::frame::{HEADER_BYTES, Header, Secret};
use super::scan::Read;
use super::tables::FrameAt;
use super::volume::{BLOCK, Buffer, Volume, buffer};

/// Read at once.
const STRIDE: usize = 1 << 20;
/// Frames up to this length are short: several of them lie in a stride.
const SHORT_BYTES: u64 = STRIDE as u64 / 4;

/// See the module docs.
#[derive(Debug)]
pub(super) struct Window<'a> {
    volume: &'a dyn Volume,
    secret: &'a Secret,
    buffer: Buffer,
    segment: u32,
    /// What of the segment is in the buffer.
    offset: u64,
    length: usize,
    /// Whether the last frame was short.
    short: bool,
}

impl<'a> Window<'a> {
    pub fn new(volume: &'a dyn Volume, secret: &'a Secret) -> Self {
        let buffer = buffer(BLOCK);
        Self { volume, secret, buffer, segment: 0, offset: 0, length: 0, short: false }
    }

    /// Reads the frame at a place, if there is one; its content is not looked at.
    pub fn frame(&mut self, segment: u32, offset: u64) -> io::Result<Option<Read>> {
        let room = self.volume.segment_bytes().saturating_sub(offset);
        if room < BLOCK as u64 {
            return Ok(None);
        }
        let Some(header) = Header::decode(self.bytes(segment, offset, BLOCK)?, room) else {
            return Ok(None);
        };
        // Within the segment: `decode` has checked the length against its room.
        let end = HEADER_BYTES + header.change_bytes as usize;
        let secret = self.secret;
        let bytes = self.bytes(segment, offset, end.next_multiple_of(BLOCK))?;
        let changes = &bytes[HEADER_BYTES..end];
        if !header.verify(secret, Header::sum(bytes), changes) {
            return Ok(None);
        }
        let (at, changes) = (FrameAt::new(segment, offset, &header), changes.to_vec());
        self.short = header.frame_bytes() <= SHORT_BYTES;
        Ok(Some(Read { header, at, changes }))
    }

    /// Whole blocks from a place on, out of the buffer if they are all there.
    fn bytes(&mut self, segment: u32, offset: u64, length: usize) -> io::Result<&[u8]> {
        let skip = offset.checked_sub(self.offset).filter(|_| segment == self.segment);
        let end = skip.map(|skip| skip.saturating_add(length as u64));
        if let (Some(skip), Some(end)) = (skip, end)
            && end <= self.length as u64
        {
            return Ok(&self.buffer[skip as usize..end as usize]);
        }
        let room = self.volume.segment_bytes() - offset;
        let ahead = if self.short { room.min(STRIDE as u64) as usize } else { 0 };
        // What cannot be read ahead may be blocks that nobody needs.
        if ahead <= length || self.read(segment, offset, ahead).is_err() {
            self.read(segment, offset, length)?;
        }
        Ok(&self.buffer[..length])
    }

    fn read(&mut self, segment: u32, offset: u64, length: usize) -> io::Result<()> {
        if self.buffer.len() < length {
            self.buffer = buffer(length);
        }
        // A read that fails leaves nothing that could be taken for what was asked for.
        (self.segment, self.offset, self.length) = (segment, offset, 0);
        self.volume.read(segment, offset, &mut self.buffer[..length])?;
        self.length = length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::frame::Frame;
    use super::*;

    const SECRET: Secret = [3; 32];
    const FRAMES: u64 = 400;

    /// One segment, of which what lies behind `end` cannot be read.
    #[derive(Debug)]
    struct Segment {
        bytes: Vec<u8>,
        end: usize,
        reads: AtomicUsize,
    }

    impl Volume for Segment {
        fn count(&self) -> u32 {
            1
        }

        fn segment_bytes(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn add(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn read(&self, _: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let (offset, end) = (offset as usize, offset as usize + buffer.len());
            if end > self.end {
                return Err(io::ErrorKind::Other.into());
            }
            buffer.copy_from_slice(&self.bytes[offset..end]);
            Ok(())
        }

        fn write(&self, _: u32, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync(&self, _: u32) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn free_bytes(&self) -> io::Result<u64> {
            Ok(0)
        }
    }

    /// Frames of one block, and in the middle one whose changes alone are longer than a stride.
    fn segment() -> (Segment, Vec<(u64, Header)>) {
        let (mut bytes, mut frames) = (Vec::new(), Vec::new());
        for sequence in 1..=FRAMES {
            let mut frame = Frame::default();
            frame.entry(&sequence.to_le_bytes(), b"small");
            if sequence == FRAMES / 2 {
                frame.entry(b"large", &vec![7; STRIDE + 5]);
            }
            let header = frame.measured(Header {
                base: 1,
                life: 1,
                sequence,
                durable: sequence - 1,
                needed: 1,
                closing: false,
                change_bytes: 0,
                content_bytes: 0,
            });
            let offset = bytes.len();
            bytes.resize(offset + frame.bytes() as usize, 0);
            frame.lay_out(&header, &SECRET, &mut bytes[offset..]);
            frames.push((offset as u64, header));
        }
        let end = bytes.len();
        bytes.resize(end + 8 * BLOCK, 0);
        let length = bytes.len();
        (Segment { bytes, end: length, reads: AtomicUsize::new(0) }, frames)
    }

    #[test]
    fn short_frames_share_reads_and_long_ones_are_read_whole() {
        let (segment, frames) = segment();
        let mut window = Window::new(&segment, &SECRET);
        for (offset, header) in &frames {
            let read = window.frame(0, *offset).unwrap().unwrap();
            assert_eq!((read.header, read.at.offset), (*header, *offset));
            assert_eq!(read.changes.len(), header.change_bytes as usize);
        }
        let after = frames.last().unwrap().0 + BLOCK as u64;
        assert!(window.frame(0, after).unwrap().is_none(), "zeros are no frame");
        assert!(window.frame(0, segment.segment_bytes()).unwrap().is_none(), "no room");
        let reads = segment.reads.into_inner();
        assert!(reads < 10, "{FRAMES} frames took {reads} reads");
    }

    #[test]
    fn blocks_that_cannot_be_read_matter_only_to_whoever_asks_for_them() {
        let (mut segment, frames) = segment();
        segment.end = frames[9].0 as usize;
        let mut window = Window::new(&segment, &SECRET);
        for (offset, header) in &frames[..9] {
            assert_eq!(window.frame(0, *offset).unwrap().unwrap().header, *header);
        }
        for _ in 0..2 {
            assert!(window.frame(0, frames[9].0).is_err());
        }
        assert_eq!(window.frame(0, 0).unwrap().unwrap().header, frames[0].1);
    }
}
