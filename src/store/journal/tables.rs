//! What is in force, and where: derived from frames alone, by the same steps at opening and at
//! every group.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use super::super::hash::Seeded;
use super::frame::{Change, HEADER_BYTES, Header, changes};
use crate::types::Digest;

/// Keys up to this length lie in the table itself: all but names of subscribers are shorter.
const INLINE: usize = 46;

/// A key, where the table looks for it: not behind a pointer.
#[derive(Clone, Debug)]
enum Key {
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
    pub segment: u32,
    /// Which use of the segment.
    pub base: u64,
    pub offset: u64,
    pub bytes: u32,
    pub root: Digest,
}

/// A small entry in force.
#[derive(Clone, Debug)]
struct Entry {
    value: Box<[u8]>,
    /// Where its newest frame lies.
    segment: u32,
}

/// Something in force that lies in a segment.
trait Placed {
    fn segment(&self) -> u32;
    fn bytes(&self) -> u64;
}

impl Placed for Entry {
    fn segment(&self) -> u32 {
        self.segment
    }

    fn bytes(&self) -> u64 {
        self.value.len() as u64
    }
}

impl Placed for Location {
    fn segment(&self) -> u32 {
        self.segment
    }

    fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }
}

/// How much of something is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    /// Entries and contents.
    pub count: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// By key: most hold a digest, so that the order of a tree would cost a walk through cold memory
/// for each group, and is wanted only at opening.
#[derive(Debug)]
struct Table<V> {
    map: HashMap<Key, V, Seeded>,
    /// What is in force, by segment.
    live: Vec<Live>,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { map: HashMap::default(), live: Vec::new() }
    }
}

impl<V: Placed> Table<V> {
    fn insert(&mut self, key: &[u8], value: V) {
        let segment = value.segment() as usize;
        if self.live.len() <= segment {
            self.live.resize(segment + 1, Live::default());
        }
        self.live[segment].count += 1;
        self.live[segment].bytes += key.len() as u64 + value.bytes();
        let old = self.map.insert(key.into(), value);
        self.removed(key, old);
    }

    fn remove(&mut self, key: &[u8]) {
        let old = self.map.remove(key);
        self.removed(key, old);
    }

    fn removed(&mut self, key: &[u8], old: Option<V>) {
        if let Some(old) = old {
            let live = &mut self.live[old.segment() as usize];
            live.count -= 1;
            live.bytes -= key.len() as u64 + old.bytes();
        }
    }

    fn live(&self, segment: u32) -> Live {
        self.live.get(segment as usize).copied().unwrap_or_default()
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
                self.0.insert(key, Entry { value: value.into(), segment: at.segment });
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
                self.0.insert(key, at.location(skip, bytes, root));
            }
            Change::ContentGone { key } => self.0.remove(key),
            Change::Entry { .. } | Change::EntryGone { .. } => {}
        }
    }
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

    /// Of a content that begins so many bytes after the first one.
    pub fn location(&self, skip: u64, bytes: u32, root: Digest) -> Location {
        let first = self.offset + HEADER_BYTES as u64 + u64::from(self.change_bytes);
        Location { segment: self.segment, base: self.base, offset: first + skip, bytes, root }
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
        let (entries, contents) = (self.entries.0.live(segment), self.contents.0.live(segment));
        Live { count: entries.count + contents.count, bytes: entries.bytes + contents.bytes }
    }

    pub fn entry(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.0.map.get(key).map(|entry| &*entry.value)
    }

    /// The entry, if its newest frame lies in this segment.
    pub fn entry_in(&self, key: &[u8], segment: u32) -> Option<&[u8]> {
        let entry = self.entries.0.map.get(key).filter(|entry| entry.segment == segment);
        entry.map(|entry| &*entry.value)
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
