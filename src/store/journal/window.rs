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
