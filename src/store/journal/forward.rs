//! Copying forward: what is in force in the oldest segment is written again, so that the segment can
//! be used again. Content lives for about as long as its neighbours, so this is rarely much.

use std::borrow::Borrow as _;
use std::collections::HashSet;
use std::sync::Arc;

use super::super::StoreError;
use super::frame::{Change, Frame, changes};
use super::live::Spot;
use super::reader::Shared;
use super::ring::Use;
use super::scan::{read_bytes, read_frame};
use super::tables::{FrameAt, Location};
use super::volume::{BLOCK, Volume};
use super::writer::{Journal, Kind, SEGMENTS_SPARE, Writer};

/// Copied forward with one group.
const COPIED_BYTES: u64 = 4 << 20;

/// What is at most this part of a segment is copied before a segment is added.
const CHEAP_SHARE: u64 = 16;

/// True if a segment with so much in force is rather copied forward than kept while another is added.
pub(super) fn is_cheap(bytes: u64, volume: &dyn Volume) -> bool {
    bytes <= volume.segment_bytes() / CHEAP_SHARE
}

impl Journal {
    /// Before a group of so many bytes: writes again what is in force in the oldest segment, if room is
    /// short, a part of it before each group. Little is copied before a segment has to be added for the
    /// want of it, and not earlier: most of it is deleted before that.
    pub(super) fn copy_forward(&mut self, group_bytes: u64) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let segment_bytes = shared.volume.segment_bytes();
        let is_short = self.spare() < SEGMENTS_SPARE;
        let Writer { ring, reserve, .. } = self.writer();
        let Some(Use { segment, base, .. }) = ring.oldest() else { return Ok(()) };
        let is_last = ring.free() == 0 && ring.rest() < group_bytes + *reserve + segment_bytes / 4;
        let live = shared.tables(|tables| tables.live(segment));
        let is_due = is_last && is_cheap(live.bytes, &*shared.volume);
        if live.count == 0 || !(is_short || is_due) {
            return Ok(());
        }
        let mut staged = HashSet::new();
        let mut frame = Frame::default();
        let mut from = 0;
        while frame.weight() < COPIED_BYTES
            && let Some(offset) = shared.tables(|tables| tables.first_live(segment, from))
        {
            let doing = |error| StoreError::io("copying forward", &error);
            let read = read_frame(&*shared.volume, &shared.secret, segment, offset);
            let Some(read) = read.map_err(doing)?.filter(|read| read.header.base == base) else {
                from = offset + BLOCK as u64;
                stage_from_memory(&shared, segment, offset, &mut frame)?;
                continue;
            };
            from = offset + read.header.frame_bytes();
            // No longer, together, than the frames that are read: it fits a segment.
            for change in changes(&read.changes).flatten() {
                stage(&shared, &read.at, change, &mut staged, &mut frame)?;
            }
        }
        // Without a place for it, the group itself may still fit; deletions make room.
        if !frame.is_empty() && self.has_place(frame.bytes()) {
            self.append(&frame, Kind::Group)?;
        }
        Ok(())
    }
}

/// Stages one change of an old frame again, if it is still in force.
fn stage(
    shared: &Shared,
    at: &FrameAt,
    change: Change<'_>,
    staged: &mut HashSet<Vec<u8>>,
    frame: &mut Frame,
) -> Result<(), StoreError> {
    match change {
        Change::Entry { key, .. } => {
            let value = shared.tables(|tables| tables.entry_at(key, at.spot()).map(<[u8]>::to_vec));
            if let Some(value) = value.filter(|_| staged.insert(key.to_vec())) {
                frame.entry(key, &value);
            }
        }
        Change::Content { key, skip, bytes, root } => {
            let location = at.location(skip, bytes, root);
            if shared.tables(|tables| tables.content(key)) != Some(location) {
                return Ok(());
            }
            stage_content(shared, key, location, frame)?;
        }
        Change::EntryGone { .. } | Change::ContentGone { .. } => {}
    }
    Ok(())
}

fn stage_content(
    shared: &Shared,
    key: &[u8],
    location: Location,
    frame: &mut Frame,
) -> Result<(), StoreError> {
    let Location { spot, bytes, root, .. } = location;
    let content = read_bytes(&*shared.volume, spot.segment, location.offset(), bytes)
        .map_err(|error| StoreError::io("copying forward", &error))?;
    if *blake3::hash(&content).as_bytes() == root.0 {
        frame.content(key, content, root);
    } else {
        // Whoever needs it fetches it again; its claim and its proof stay.
        tracing::warn!(key = hex::encode(key), "damaged content is not copied forward");
        frame.content_gone(key);
    }
    Ok(())
}

/// The same for a frame whose own account of itself rotted since it was read: what is in force in it
/// is found in the tables, all of which are gone through. Once it is written again the next opening
/// does not need the frame.
fn stage_from_memory(
    shared: &Shared,
    segment: u32,
    offset: u64,
    frame: &mut Frame,
) -> Result<(), StoreError> {
    tracing::error!(
        segment,
        offset,
        "a frame of the journal is damaged: what it holds is written again from memory; check the disk"
    );
    let spot = Spot::new(segment, offset);
    let held = shared.tables(|tables| tables.in_frame(spot));
    held.entries.iter().for_each(|(key, value)| frame.entry(key.borrow(), value));
    let mut contents = held.contents.iter();
    contents.try_for_each(|(key, location)| stage_content(shared, key.borrow(), *location, frame))
}
