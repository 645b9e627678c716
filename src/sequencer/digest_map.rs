//! `DigestMap`: an ordered map by digest, for the indexes that hold 100,000 entries.
//!
//! One tree of that size costs a cache miss or more for each of its levels. Digests are as good as
//! random, so their first bits tell evenly which of many small trees an entry is in: a step costs
//! what a look at one small tree does, and the order of all entries is still that of their digests.
//!
//! **The worst case** is a tree. An author can grind digests that share their first bits, and so
//! have a small tree of its own filled: a step there costs what it would in one tree for all, never
//! more. Nothing is keyed, nothing is copied when the map grows, and the same steps give the same
//! map.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::{self, Entry};

use crate::types::Digest;

/// How many of the first bits choose the tree. A tree of one entry takes the memory of eleven, so
/// not more of them than there are entries on a usual day. Fewer under an interpreter, which would
/// spend most of its time in planting and dropping trees.
const BITS: u32 = if cfg!(miri) { 4 } else { 10 };

/// See the module docs.
#[derive(Debug)]
pub(super) struct DigestMap<V> {
    trees: Vec<BTreeMap<Digest, V>>,
    len: usize,
}

impl<V> Default for DigestMap<V> {
    fn default() -> Self {
        Self { trees: Vec::new(), len: 0 }
    }
}

impl<V> DigestMap<V> {
    fn tree_of(digest: &Digest) -> usize {
        let [first, second, ..] = digest.0;
        usize::from(u16::from_be_bytes([first, second]) >> (u16::BITS - BITS))
    }

    fn tree(&self, digest: &Digest) -> Option<&BTreeMap<Digest, V>> {
        self.trees.get(Self::tree_of(digest))
    }

    fn tree_mut(&mut self, digest: &Digest) -> Option<&mut BTreeMap<Digest, V>> {
        self.trees.get_mut(Self::tree_of(digest))
    }

    pub fn get(&self, digest: &Digest) -> Option<&V> {
        self.tree(digest)?.get(digest)
    }

    pub fn get_mut(&mut self, digest: &Digest) -> Option<&mut V> {
        self.tree_mut(digest)?.get_mut(digest)
    }

    pub fn insert(&mut self, digest: Digest, value: V) -> Option<V> {
        self.plant();
        let before = self.trees[Self::tree_of(&digest)].insert(digest, value);
        self.len += usize::from(before.is_none());
        before
    }

    pub fn get_or_default(&mut self, digest: Digest) -> &mut V
    where
        V: Default,
    {
        self.plant();
        match self.trees[Self::tree_of(&digest)].entry(digest) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.len += 1;
                new.insert(V::default())
            }
        }
    }

    /// An empty map costs nothing.
    fn plant(&mut self) {
        if self.trees.is_empty() {
            self.trees.resize_with(1 << BITS, BTreeMap::new);
        }
    }

    pub fn remove(&mut self, digest: &Digest) -> Option<V> {
        let removed = self.tree_mut(digest)?.remove(digest)?;
        self.len -= 1;
        Some(removed)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// In the order of digests.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &V)> {
        self.trees.iter().flat_map(btree_map::BTreeMap::iter)
    }

    /// In the order of digests.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.trees.iter().flat_map(btree_map::BTreeMap::values)
    }
}
