//! What is in force, and where: derived from frames alone, by the same steps at opening and at
//! every group.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use super::super::hash::Seeded;
use super::frame::{Change, HEADER_BYTES, Header, changes};
use super::live::{Live, Segments, Spot};
use super::volume::BLOCK;
use crate::types::Digest;

/// Keys up to this length lie in the table itself: all but names of subscribers are shorter.
const INLINE: usize = 46;

/// A key, where the table looks for it: not behind a pointer.
#[derive(Clone, Debug)]
pub(super) enum Key {
    Inline { length: u8, bytes: [u8; INLINE] },
    Boxed(Box<[u8]>),
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        if key.len() > INLINE {
            return Self::Boxed(key.into());
        }
        let mut bytes = [0; INLINE];
        bytes[..key.len()].copy_from_slice(key);
        Self::Inline { length: key.len() as u8, bytes }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Self::Boxed(bytes) => bytes,
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let key: &[u8] = self.borrow();
        key.hash(hasher);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let (one, other): (&[u8], &[u8]) = (self.borrow(), other.borrow());
        one == other
    }
}

impl Eq for Key {}

/// Where a content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// Its frame.
    pub spot: Spot,
    /// Which use of the segment.
    pub base: u64,
    /// How far behind the start of the frame it begins.
    skip: u32,
    pub bytes: u32,
    pub root: Digest,
}

impl Location {
    pub fn offset(&self) -> u64 {
        u64::from(self.spot.block) * BLOCK as u64 + u64::from(self.skip)
    }
}

/// A small entry in force.
#[derive(Clone, Debug)]
struct Entry {
    value: Box<[u8]>,
    /// Its newest frame.
    spot: Spot,
}

/// Something in force that came with a frame.
trait Placed {
    fn spot(&self) -> Spot;
    fn bytes(&self) -> u64;
}

impl Placed for Entry {
    fn spot(&self) -> Spot {
        self.spot
    }

    fn bytes(&self) -> u64 {
        self.value.len() as u64
    }
}

impl Placed for Location {
    fn spot(&self) -> Spot {
        self.spot
    }

    fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }
}

/// By key: most hold a digest, so that the order of a tree would cost a walk through cold memory
/// for each group, and is wanted only at opening.
#[derive(Debug)]
struct Table<V> {
    map: HashMap<Key, V, Seeded>,
    segments: Segments,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { map: HashMap::default(), segments: Segments::default() }
    }
}

impl<V: Placed> Table<V> {
    fn insert(&mut self, at: &FrameAt, key: &[u8], value: V) {
        self.segments.add(at, key.len() as u64 + value.bytes());
        let old = self.map.insert(key.into(), value);
        self.removed(key, old);
    }

    fn remove(&mut self, key: &[u8]) {
        let old = self.map.remove(key);
        self.removed(key, old);
    }

    fn removed(&mut self, key: &[u8], old: Option<V>) {
        if let Some(old) = old {
            self.segments.remove(old.spot(), key.len() as u64 + old.bytes());
        }
    }
}

/// The small entries.
#[derive(Debug, Default)]
pub(super) struct EntryTable(Table<Entry>);

impl EntryTable {
    /// Carries out what a frame says of small entries.
    pub fn apply(&mut self, at: &FrameAt, bytes: &[u8]) {
        changes(bytes).flatten().for_each(|change| self.change(at, change));
    }

    fn change(&mut self, at: &FrameAt, change: Change<'_>) {
        match change {
            Change::Entry { key, value } => {
                self.0.insert(at, key, Entry { value: value.into(), spot: at.spot() });
            }
            Change::EntryGone { key } => self.0.remove(key),
            Change::Content { .. } | Change::ContentGone { .. } => {}
        }
    }
}

/// Where contents lie.
#[derive(Debug, Default)]
pub(super) struct ContentTable(Table<Location>);

impl ContentTable {
    /// Carries out what a frame says of contents. False if its changes are not what a frame holds.
    #[must_use]
    pub fn apply(&mut self, at: &FrameAt, bytes: &[u8]) -> bool {
        changes(bytes).all(|change| change.map(|change| self.change(at, change)).is_some())
    }

    fn change(&mut self, at: &FrameAt, change: Change<'_>) {
        match change {
            Change::Content { key, skip, bytes, root } => {
                self.0.insert(at, key, at.location(skip, bytes, root));
            }
            Change::ContentGone { key } => self.0.remove(key),
            Change::Entry { .. } | Change::EntryGone { .. } => {}
        }
    }
}

/// What of a frame is in force.
#[derive(Debug)]
pub(super) struct InFrame {
    pub entries: Vec<(Key, Box<[u8]>)>,
    pub contents: Vec<(Key, Location)>,
}

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub entries: EntryTable,
    pub contents: ContentTable,
}

/// Where a frame lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameAt {
    pub segment: u32,
    pub offset: u64,
    pub base: u64,
    pub change_bytes: u32,
}

impl FrameAt {
    pub fn new(segment: u32, offset: u64, header: &Header) -> Self {
        Self { segment, offset, base: header.base, change_bytes: header.change_bytes }
    }

    pub fn spot(&self) -> Spot {
        Spot::new(self.segment, self.offset)
    }

    /// Of a content that begins so many bytes after the first one.
    pub fn location(&self, skip: u64, bytes: u32, root: Digest) -> Location {
        let skip = HEADER_BYTES as u64 + u64::from(self.change_bytes) + skip;
        let skip = u32::try_from(skip)
            .unwrap_or_else(|_| panic!("J8: a content {skip} bytes behind the start of its frame"));
        Location { spot: self.spot(), base: self.base, skip, bytes, root }
    }
}

impl Tables {
    /// Carries out the changes of a durable frame. False if they are not what a frame holds.
    #[must_use]
    pub fn apply(&mut self, at: &FrameAt, bytes: &[u8]) -> bool {
        changes(bytes).all(|change| {
            let Some(change) = change else { return false };
            self.entries.change(at, change);
            self.contents.change(at, change);
            true
        })
    }

    /// How much of a segment is in force.
    pub fn live(&self, segment: u32) -> Live {
        let [entries, contents] = self.segments().map(|segments| segments.live(segment));
        Live { count: entries.count + contents.count, bytes: entries.bytes + contents.bytes }
    }

    /// Offset of the first frame of a segment, from an offset on, that holds anything in force.
    pub fn first_live(&self, segment: u32, from: u64) -> Option<u64> {
        self.segments().into_iter().filter_map(|segments| segments.first(segment, from)).min()
    }

    fn segments(&self) -> [&Segments; 2] {
        [&self.entries.0.segments, &self.contents.0.segments]
    }

    pub fn entry(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.0.map.get(key).map(|entry| &*entry.value)
    }

    /// The entry, if this is its newest frame.
    pub fn entry_at(&self, key: &[u8], spot: Spot) -> Option<&[u8]> {
        let entry = self.entries.0.map.get(key).filter(|entry| entry.spot == spot);
        entry.map(|entry| &*entry.value)
    }

    /// Copies of all entries whose newest frame this is, and its contents in force: everything is
    /// gone through.
    pub fn in_frame(&self, spot: Spot) -> InFrame {
        let entries = self.entries.0.map.iter().filter(|(_, entry)| entry.spot == spot);
        let entries = entries.map(|(key, entry)| (key.clone(), entry.value.clone())).collect();
        let contents = self.contents.0.map.iter().filter(|(_, location)| location.spot == spot);
        let contents = contents.map(|(key, location)| (key.clone(), *location)).collect();
        InFrame { entries, contents }
    }

    pub fn content(&self, key: &[u8]) -> Option<Location> {
        self.contents.0.map.get(key).copied()
    }

    /// Every content, in any order.
    pub fn contents(&self) -> impl Iterator<Item = (&[u8], Location)> {
        self.contents.0.map.iter().map(|(key, at)| (key.borrow(), *at))
    }

    /// Small entries and contents in force.
    pub fn count(&self) -> (usize, usize) {
        (self.entries.0.map.len(), self.contents.0.map.len())
    }

    /// Every small entry in the order of keys.
    pub fn entries(&self) -> Vec<(&[u8], &[u8])> {
        let entries = self.entries.0.map.iter();
        let mut sorted: Vec<(u128, &Key, &Entry)> =
            entries.map(|(key, entry)| (prefix(key.borrow()), key, entry)).collect();
        sorted.sort_unstable_by(|(a, key_a, _), (b, key_b, _)| {
            let keys = || Borrow::<[u8]>::borrow(*key_a).cmp((*key_b).borrow());
            a.cmp(b).then_with(keys)
        });
        sorted.into_iter().map(|(_, key, entry)| (key.borrow(), &*entry.value)).collect()
    }
}

/// What of a key nearly always decides, at hand while keys are sorted: a shorter one, filled up with
/// zeros, never sorts behind one that it begins.
fn prefix(key: &[u8]) -> u128 {
    let mut prefix = [0; 16];
    let length = key.len().min(prefix.len());
    prefix[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(prefix)
}

#[cfg(test)]
mod tests {
    use super::super::frame::Frame;
    use super::*;

    #[test]
    fn what_is_in_force_is_known_by_segment_and_by_frame() {
        let mut tables = Tables::default();
        let at = |segment, block: u64| FrameAt {
            segment,
            offset: block * BLOCK as u64,
            base: 1,
            change_bytes: 0,
        };
        let mut apply = |at: FrameAt, write: &dyn Fn(&mut Frame)| {
            let mut frame = Frame::default();
            write(&mut frame);
            assert!(tables.apply(&at, frame.changes()));
            let live = |segment| {
                let Live { count, bytes } = tables.live(segment);
                (count, bytes, tables.first_live(segment, 0).map(|offset| offset / BLOCK as u64))
            };
            let newest = [at.spot(), Spot { segment: 0, block: 3 }];
            (live(0), live(1), newest.map(|spot| tables.entry_at(b"k", spot).map(<[u8]>::len)))
        };
        let content = |frame: &mut Frame| {
            frame.content(b"body", vec![7; 100].into(), Digest([1; 32]));
        };
        let (none, nowhere) = ((0, 0, None), [None, None]);
        assert_eq!(apply(at(0, 1), &content), ((1, 104, Some(1)), none, nowhere));
        let small = apply(at(0, 3), &|frame| frame.entry(b"k", b"small"));
        assert_eq!(small, ((2, 110, Some(1)), none, [Some(5), Some(5)]));
        let gone = apply(at(0, 4), &|frame| frame.content_gone(b"body"));
        assert_eq!(gone, ((1, 6, Some(3)), none, [None, Some(5)]));
        let moved = apply(at(1, 0), &|frame| frame.entry(b"k", b"larger"));
        assert_eq!(moved, (none, (1, 7, Some(0)), [Some(6), None]));
    }

    #[test]
    fn entries_come_in_the_order_of_keys_whatever_their_length() {
        let mut tables = Tables::default();
        let mut keys: Vec<Vec<u8>> = (0..200u8).map(|i| vec![i % 7; usize::from(i % 40)]).collect();
        keys.push([vec![3; 30], vec![1]].concat());
        keys.push([vec![3; 30], vec![0, 9]].concat());
        let mut frame = Frame::default();
        for key in &keys {
            frame.entry(key, key);
        }
        let at = FrameAt { segment: 0, offset: 0, base: 1, change_bytes: 0 };
        assert!(tables.apply(&at, frame.changes()));
        keys.sort();
        keys.dedup();
        let found: Vec<_> = tables
            .entries()
            .into_iter()
            .map(|(key, value)| (key.to_vec(), value.to_vec()))
            .collect();
        let expected: Vec<_> = keys.into_iter().map(|key| (key.clone(), key)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_in_force_is_counted_where_its_newest_frame_lies() {
        let mut tables = Tables::default();
        let root = Digest([1; 32]);
        let at = |segment| FrameAt { segment, offset: 8192, base: 7, change_bytes: 100 };
        let mut apply = |segment, write: &dyn Fn(&mut Frame)| {
            let mut frame = Frame::default();
            write(&mut frame);
            assert!(tables.apply(&at(segment), frame.changes()));
            [0, 1, 2].map(|segment| tables.live(segment)).map(|live| (live.count, live.bytes))
        };
        let first = apply(0, &|frame| {
            frame.entry(b"key", b"value");
            frame.entry(b"other", b"");
            frame.content(b"a", vec![0; 10].into(), root);
            frame.content(b"bb", vec![0; 300].into(), root);
        });
        assert_eq!(first, [(4, 8 + 5 + 11 + 302), (0, 0), (0, 0)]);
        let moved = apply(2, &|frame| {
            frame.entry(b"key", b"longer value");
            frame.content(b"bb", vec![0; 30].into(), root);
        });
        assert_eq!(moved, [(2, 5 + 11), (0, 0), (2, 15 + 32)]);
        let gone = apply(1, &|frame| {
            frame.content_gone(b"a");
            frame.content_gone(b"nothing");
        });
        assert_eq!(gone, [(1, 5), (0, 0), (2, 15 + 32)]);
        assert_eq!(tables.count(), (2, 1));
        assert_eq!(tables.entry(b"key"), Some(&b"longer value"[..]));
        let found = tables.content(b"bb").unwrap();
        assert_eq!((found.base, found.bytes, found.root), (7, 30, root));
        assert_eq!(tables.content(b"a"), None);
        assert!(tables.contents().eq([(&b"bb"[..], found)]));
    }

    #[test]
    fn names_too_long_to_lie_in_the_table_are_found_like_others() {
        let keys = [vec![7; INLINE - 1], vec![7; INLINE], vec![7; INLINE + 1], vec![7; 200]];
        let mut frame = Frame::default();
        for key in &keys {
            frame.entry(key, &[key.len() as u8]);
        }
        let at = FrameAt { segment: 0, offset: 0, base: 1, change_bytes: 0 };
        let mut tables = Tables::default();
        assert!(tables.apply(&at, frame.changes()));
        for key in &keys {
            assert_eq!(tables.entry(key), Some(&[key.len() as u8][..]));
        }
        assert_eq!(tables.count(), (4, 0));
    }
}
