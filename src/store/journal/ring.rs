//! Which segment is written next: the order of the ring, and what of it is free. Pure.
//!
//! Segments are used in a ring, oldest first, so what they hold is always one piece of history, and
//! a deletion never goes before what it deletes. One is free once nothing in it is in force **and a
//! durable frame has said so** (its `needed`): whoever reads the ring after a crash then never looks
//! for what was written over.

use std::collections::VecDeque;

/// One use of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub segment: u32,
    /// Its first frame.
    pub base: u64,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u32,
    pub offset: u64,
    /// Sequence of the first frame of this use.
    pub base: u64,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct Ring {
    segment_bytes: u64,
    /// Oldest first; the last one is written to.
    uses: VecDeque<Use>,
    /// In the order in which they are used again.
    free: VecDeque<u32>,
    /// Where the next frame goes in the last one.
    offset: u64,
}

impl Ring {
    /// From what was found: uses that matter, oldest first, and the others, in the order of their
    /// age. `offset` is the end of the last frame.
    pub fn new(segment_bytes: u64, uses: VecDeque<Use>, free: VecDeque<u32>, offset: u64) -> Self {
        Self { segment_bytes, uses, free, offset }
    }

    /// Where a frame of this length goes; `None` if no segment is free for it.
    pub fn place(&self, bytes: u64, sequence: u64) -> Option<Place> {
        if let Some(last) = self.uses.back()
            && self.offset + bytes <= self.segment_bytes
        {
            return Some(Place { segment: last.segment, offset: self.offset, base: last.base });
        }
        let segment = *self.free.front()?;
        Some(Place { segment, offset: 0, base: sequence })
    }

    /// A segment was added.
    pub fn add(&mut self, segment: u32) {
        self.free.push_back(segment);
    }

    /// Base of the oldest use that holds anything in force, for a frame that goes to `place`.
    pub fn needed(&self, place: &Place, live: impl Fn(u32) -> u64) -> u64 {
        let mut uses = self.uses.iter().take_while(|held| held.base != place.base);
        uses.find(|held| live(held.segment) > 0).map_or(place.base, |held| held.base)
    }

    /// A frame is durable, and says what is needed.
    pub fn on_durable(&mut self, place: &Place, bytes: u64, sequence: u64, needed: u64) {
        if place.base == sequence {
            let taken = self.free.pop_front();
            assert_eq!(taken, Some(place.segment), "J4: a segment that was not free");
            let (segment, base) = (place.segment, place.base);
            self.uses.push_back(Use { segment, base });
        }
        self.offset = place.offset + bytes;
        while let Some(oldest) = self.uses.pop_front_if(|oldest| oldest.base < needed) {
            self.free.push_back(oldest.segment);
        }
    }

    /// Every use that may hold something in force, oldest first.
    pub fn uses(&self) -> impl Iterator<Item = &Use> {
        self.uses.iter()
    }

    /// The oldest use, if it is not the one that is written to.
    pub fn oldest(&self) -> Option<Use> {
        (self.uses.len() > 1).then(|| self.uses.front().copied()).flatten()
    }

    /// How many segments can be taken next.
    pub fn free(&self) -> u64 {
        self.free.len() as u64
    }

    /// Bytes left in the segment that is written to.
    pub fn rest(&self) -> u64 {
        if self.uses.is_empty() { 0 } else { self.segment_bytes - self.offset }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn segments_are_used_in_turn_and_only_when_a_durable_frame_has_let_them_go() {
        let mut ring = Ring::new(100, VecDeque::new(), (0..3).collect(), 0);
        let mut live: BTreeMap<u32, u64> = BTreeMap::new();
        let write = |ring: &mut Ring, live: &mut BTreeMap<u32, u64>, sequence| {
            let place = ring.place(60, sequence)?;
            let needed = ring.needed(&place, |segment| live.get(&segment).copied().unwrap_or(0));
            ring.on_durable(&place, 60, sequence, needed);
            *live.entry(place.segment).or_default() += 1;
            Some((place.segment, needed))
        };
        assert_eq!(write(&mut ring, &mut live, 1), Some((0, 1)));
        assert_eq!(write(&mut ring, &mut live, 2), Some((1, 1)));
        assert_eq!(ring.oldest().map(|held| held.segment), Some(0));
        // Nothing of the first is in force any more, but no durable frame says so yet.
        live.insert(0, 0);
        assert_eq!(ring.free(), 1);
        assert_eq!(write(&mut ring, &mut live, 3), Some((2, 2)));
        assert_eq!(ring.free(), 1);
        assert_eq!(write(&mut ring, &mut live, 4), Some((0, 2)));
        assert_eq!(write(&mut ring, &mut live, 5), None, "full: nothing in force is written over");
        // What is dead in the middle waits for its turn.
        live.insert(2, 0);
        assert_eq!(write(&mut ring, &mut live, 5), None);
        assert_eq!(ring.rest(), 40);
        assert_eq!(ring.place(40, 5), Some(Place { segment: 0, offset: 60, base: 4 }));
    }
}
