//! What is in force, and where: derived from frames alone, by the same steps at opening and at
//! every group.

use std::collections::HashMap;

use super::frame::{Change, HEADER_BYTES, Header, changes};
use crate::types::Digest;

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

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// By key: most hold a digest, so that the order of a tree would cost a walk through cold memory
    /// for each group, and is wanted only at opening.
    entries: HashMap<Box<[u8]>, Entry>,
    contents: HashMap<Box<[u8]>, Location>,
    /// What is in force, by segment.
    live: Vec<Live>,
}

/// How much of something is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    /// Entries and contents.
    pub count: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
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
            match change {
                Change::Entry { key, value } => {
                    let weight = (key.len() + value.len()) as u64;
                    let (value, segment) = (value.into(), at.segment);
                    let old = self.entries.insert(key.into(), Entry { value, segment });
                    self.add(segment, weight);
                    self.remove_entry(key, old);
                }
                Change::EntryGone { key } => {
                    let old = self.entries.remove(key);
                    self.remove_entry(key, old);
                }
                Change::Content { key, skip, bytes, root } => {
                    let location = at.location(skip, bytes, root);
                    let old = self.contents.insert(key.into(), location);
                    self.add(at.segment, key.len() as u64 + u64::from(bytes));
                    self.remove_content(key, old);
                }
                Change::ContentGone { key } => {
                    let old = self.contents.remove(key);
                    self.remove_content(key, old);
                }
            }
            true
        })
    }

    fn add(&mut self, segment: u32, bytes: u64) {
        let segment = segment as usize;
        if self.live.len() <= segment {
            self.live.resize(segment + 1, Live::default());
        }
        self.live[segment].count += 1;
        self.live[segment].bytes += bytes;
    }

    fn remove_entry(&mut self, key: &[u8], old: Option<Entry>) {
        if let Some(old) = old {
            self.remove(old.segment, (key.len() + old.value.len()) as u64);
        }
    }

    fn remove_content(&mut self, key: &[u8], old: Option<Location>) {
        if let Some(old) = old {
            self.remove(old.segment, key.len() as u64 + u64::from(old.bytes));
        }
    }

    fn remove(&mut self, segment: u32, bytes: u64) {
        let live = &mut self.live[segment as usize];
        live.count -= 1;
        live.bytes -= bytes;
    }

    /// How much of a segment is in force.
    pub fn live(&self, segment: u32) -> Live {
        self.live.get(segment as usize).copied().unwrap_or_default()
    }

    pub fn entry(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key).map(|entry| &*entry.value)
    }

    /// The entry, if its newest frame lies in this segment.
    pub fn entry_in(&self, key: &[u8], segment: u32) -> Option<&[u8]> {
        let entry = self.entries.get(key).filter(|entry| entry.segment == segment);
        entry.map(|entry| &*entry.value)
    }

    pub fn content(&self, key: &[u8]) -> Option<Location> {
        self.contents.get(key).copied()
    }

    /// Every content, in any order.
    pub fn contents(&self) -> impl Iterator<Item = (&[u8], Location)> {
        self.contents.iter().map(|(key, at)| (&**key, *at))
    }

    /// Every small entry in the order of keys.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let prefixed = self.entries.iter().map(|(key, entry)| (prefix(key), &**key, &*entry.value));
        let mut sorted: Vec<_> = prefixed.collect();
        sorted.sort_unstable_by(|(a, key_a, _), (b, key_b, _)| a.cmp(b).then(key_a.cmp(key_b)));
        sorted.into_iter().map(|(_, key, value)| (key, value))
    }
}

/// What of a key nearly always decides, at hand while keys are sorted.
fn prefix(key: &[u8]) -> [u8; 24] {
    let mut prefix = [0; 24];
    let length = key.len().min(prefix.len());
    prefix[..length].copy_from_slice(&key[..length]);
    prefix
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
        let found: Vec<_> =
            tables.entries().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        let expected: Vec<_> = keys.into_iter().map(|key| (key.clone(), key)).collect();
        assert_eq!(found, expected);
    }
}
