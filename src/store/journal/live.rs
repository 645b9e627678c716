//! How much of each segment is in force, and in which of its frames: what is copied forward is found
//! without reading what is dead.

use super::tables::FrameAt;
use super::volume::BLOCK;

/// How much of something is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    /// Entries and contents.
    pub count: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Where a frame begins: a segment, and how many blocks lie before it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub segment: u32,
    pub block: u32,
}

impl Spot {
    pub fn new(segment: u32, offset: u64) -> Self {
        // Whole blocks of at most 4 GiB.
        Self { segment, block: (offset / BLOCK as u64) as u32 }
    }
}

/// One use of a segment.
#[derive(Debug, Default)]
struct Used {
    base: u64,
    live: Live,
    /// Frames that held anything, in their order: the first block, and how much is in force.
    frames: Vec<(u32, u32)>,
}

/// Of every segment.
#[derive(Debug, Default)]
pub(super) struct Segments(Vec<Used>);

impl Segments {
    /// Something in a frame comes into force; frames come in the order in which they lie.
    pub fn add(&mut self, at: &FrameAt, bytes: u64) {
        let Spot { segment, block } = at.spot();
        let segment = segment as usize;
        if self.0.len() <= segment {
            self.0.resize_with(segment + 1, Used::default);
        }
        let used = &mut self.0[segment];
        if used.base != at.base {
            assert_eq!(used.live.count, 0, "J6: a segment is written over that is in force");
            used.base = at.base;
            used.frames.clear();
        }
        used.live.count += 1;
        used.live.bytes += bytes;
        match used.frames.last_mut() {
            Some((last, count)) if *last == block => *count += 1,
            _ => used.frames.push((block, 1)),
        }
    }

    /// Something that came into force with the frame at `spot` is in force no longer.
    pub fn remove(&mut self, spot: Spot, bytes: u64) {
        let used = &mut self.0[spot.segment as usize];
        let frame = used.frames.binary_search_by_key(&spot.block, |(block, _)| *block);
        let frame = frame.unwrap_or_else(|_| panic!("J7: {spot:?} held nothing"));
        used.frames[frame].1 -= 1;
        used.live.count -= 1;
        used.live.bytes -= bytes;
    }

    pub fn live(&self, segment: u32) -> Live {
        self.0.get(segment as usize).map(|used| used.live).unwrap_or_default()
    }

    /// Offset of the first frame from an offset on that holds anything in force.
    pub fn first(&self, segment: u32, from: u64) -> Option<u64> {
        let frames = &self.0.get(segment as usize)?.frames;
        let offset = |block: u32| u64::from(block) * BLOCK as u64;
        let at = frames.partition_point(|(block, _)| offset(*block) < from);
        frames[at..].iter().find(|(_, count)| *count > 0).map(|(block, _)| offset(*block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(base: u64, block: u32) -> FrameAt {
        FrameAt { segment: 1, offset: u64::from(block) * BLOCK as u64, base, change_bytes: 0 }
    }

    #[test]
    fn frames_with_nothing_in_force_are_passed_over_and_a_new_use_begins_with_none() {
        let mut segments = Segments::default();
        let [first, second, third] = [0, 2, 7].map(|block| frame(5, block));
        for (at, bytes) in [(&first, 10), (&first, 20), (&second, 30), (&third, 40)] {
            segments.add(at, bytes);
        }
        let live = |segments: &Segments| {
            let Live { count, bytes } = segments.live(1);
            (count, bytes)
        };
        assert_eq!((live(&segments), segments.live(0)), ((4, 100), Live::default()));
        let block = BLOCK as u64;
        let found = |segments: &Segments, from| segments.first(1, from);
        assert_eq!(found(&segments, 0), Some(0));
        assert_eq!(found(&segments, 1), Some(2 * block));
        assert_eq!(found(&segments, 7 * block + 1), None);
        segments.remove(first.spot(), 10);
        assert_eq!(found(&segments, 0), Some(0), "half of it is in force");
        segments.remove(first.spot(), 20);
        assert_eq!(found(&segments, 0), Some(2 * block));
        segments.remove(second.spot(), 30);
        assert_eq!((found(&segments, 0), live(&segments)), (Some(7 * block), (1, 40)));
        segments.remove(third.spot(), 40);
        assert_eq!((found(&segments, 0), live(&segments)), (None, (0, 0)));
        segments.add(&frame(9, 1), 1);
        assert_eq!((found(&segments, 0), found(&segments, block + 1)), (Some(block), None));
        assert_eq!((segments.first(0, 0), segments.first(2, 0)), (None, None));
    }

    #[test]
    #[should_panic(expected = "J6: a segment is written over that is in force")]
    fn a_segment_that_holds_anything_in_force_is_not_used_again() {
        let mut segments = Segments::default();
        segments.add(&frame(5, 0), 1);
        segments.add(&frame(6, 0), 1);
    }
}
