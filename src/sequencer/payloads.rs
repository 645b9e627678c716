//! Payloads: what was proposed, by us or by others, until it is ordered or passed by.
//!
//! A payload that arrives is kept in memory, bounded per peer, until the host asks about it; it is
//! stored when the host asks and it can be valid, or when a commit names it. The answer "valid" is
//! a promise of the group that holds it, and of those that hold its optimistic batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::port::{ParentOf, PullError, RequestId};
use crate::types::{Author, CommitIndex, Digest, InvalidPayload, Payload, PayloadHeader};

/// Headers are remembered this many heights below what is applied, for proposals that linger.
const HEIGHTS_KEPT: u64 = 1024;

/// A payload in the store.
#[derive(Debug)]
pub(super) struct Stored {
    pub header: PayloadHeader,
    /// True if it has optimistic batches.
    pub optimistic: bool,
    /// Gone once its commit is applied.
    pub content: Option<Content>,
}

/// A payload with the digests of its batches, in order of execution.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub payload: Arc<Payload>,
    pub batches: Vec<Digest>,
}

/// A payload that nobody asked about yet.
#[derive(Debug)]
pub(super) struct Arrived {
    pub content: Content,
    pub verdict: Result<(), InvalidPayload>,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct Payloads {
    unasked_max: usize,
    stored: BTreeMap<Digest, Stored>,
    heights: BTreeSet<(CommitIndex, Digest)>,
    /// With whom each counts against.
    arrived: BTreeMap<Digest, (Author, Arrived)>,
    /// Exactly those, oldest first.
    arrived_from: BTreeMap<Author, VecDeque<Digest>>,
    waiting: BTreeMap<Digest, BTreeMap<RequestId, Option<ParentOf>>>,
    /// Contents up to this height are gone from memory.
    cleared: CommitIndex,
}

impl Payloads {
    pub fn new(unasked_max: usize) -> Self {
        Self {
            unasked_max,
            stored: BTreeMap::new(),
            heights: BTreeSet::new(),
            arrived: BTreeMap::new(),
            arrived_from: BTreeMap::new(),
            waiting: BTreeMap::new(),
            cleared: CommitIndex(0),
        }
    }

    /// A payload that is, or is about to be, in the store. True if it may still be ordered.
    pub fn on_stored(&mut self, digest: Digest, content: Content) -> bool {
        let header = content.payload.header;
        self.heights.insert((header.height, digest));
        // Of what is ordered already, the content is needed no more.
        let is_open = header.height > self.cleared;
        let optimistic = !content.payload.content.optimistic.is_empty();
        let content = is_open.then_some(content);
        self.stored.insert(digest, Stored { header, optimistic, content });
        self.take_arrived(&digest);
        is_open
    }

    /// Keeps a payload that nobody asked about; the oldest of the same peer makes room.
    pub fn on_arrived(&mut self, from: Author, digest: Digest, arrived: Arrived) {
        if let Some((_, known)) = self.arrived.get_mut(&digest) {
            *known = arrived;
            return;
        }
        self.arrived.insert(digest, (from, arrived));
        let queue = self.arrived_from.entry(from).or_default();
        queue.push_back(digest);
        while queue.len() > self.unasked_max {
            if let Some(oldest) = queue.pop_front() {
                self.arrived.remove(&oldest);
            }
        }
    }

    /// A payload that arrived and is not stored.
    pub fn take_arrived(&mut self, digest: &Digest) -> Option<Arrived> {
        let (from, arrived) = self.arrived.remove(digest)?;
        if let Some(queue) = self.arrived_from.get_mut(&from) {
            queue.retain(|queued| queued != digest);
        }
        Some(arrived)
    }

    /// A payload in the store.
    pub fn stored(&self, digest: &Digest) -> Option<&Stored> {
        self.stored.get(digest)
    }

    /// The host waits for a payload that is not here.
    pub fn wait(&mut self, digest: Digest, id: RequestId, parent: Option<ParentOf>) {
        self.waiting.entry(digest).or_default().insert(id, parent);
    }

    /// True if the host waits for it.
    pub fn is_waited_for(&self, digest: &Digest) -> bool {
        self.waiting.contains_key(digest)
    }

    /// Payloads that the host waits for.
    pub fn waited_for(&self) -> Vec<Digest> {
        self.waiting.keys().copied().collect()
    }

    /// Those who wait for a payload.
    pub fn take_waiting(&mut self, digest: &Digest) -> BTreeMap<RequestId, Option<ParentOf>> {
        self.waiting.remove(digest).unwrap_or_default()
    }

    /// The host no longer waits. Returns the payload if nobody else does.
    pub fn on_cancel(&mut self, id: RequestId) -> Option<Digest> {
        let digest = *self.waiting.iter().find(|(_, ids)| ids.contains_key(&id))?.0;
        let ids = self.waiting.get_mut(&digest)?;
        ids.remove(&id);
        if !ids.is_empty() {
            return None;
        }
        self.waiting.remove(&digest);
        Some(digest)
    }

    /// A commit is applied: contents at its height go from memory, old headers altogether. Returns
    /// whose content went.
    pub fn on_applied(&mut self, index: CommitIndex) -> Vec<Digest> {
        let mut over = Vec::new();
        let cleared = (self.cleared.next(), Digest::default());
        let end = (index.next(), Digest::default());
        for (_, digest) in self.heights.range(cleared..end) {
            if let Some(stored) = self.stored.get_mut(digest)
                && stored.content.take().is_some()
            {
                over.push(*digest);
            }
        }
        self.cleared = index;
        while let Some(&(height, digest)) = self.heights.first() {
            if height.0.saturating_add(HEIGHTS_KEPT) >= index.0 {
                break;
            }
            self.heights.remove(&(height, digest));
            self.stored.remove(&digest);
        }
        over
    }

    /// The payloads from `parent` down to, not including, what is applied.
    pub fn ancestors(
        &self,
        parent: Digest,
        applied: (CommitIndex, Digest),
    ) -> Result<BTreeSet<Digest>, PullError> {
        let mut ancestors = BTreeSet::new();
        let mut at = parent;
        let mut above = None;
        while at != applied.1 {
            let Some(stored) = self.stored.get(&at) else {
                return Err(PullError::UnknownAncestor(at));
            };
            // A height is its proposer's word; the walk ends because it falls with every step.
            let height = stored.header.height;
            if above.is_some_and(|above| height >= above) {
                return Err(PullError::Parent);
            }
            above = Some(height);
            if stored.header.height <= applied.0 {
                return Err(PullError::Stale(stored.header.height));
            }
            if stored.content.is_none() {
                return Err(PullError::UnknownAncestor(at));
            }
            ancestors.insert(at);
            at = stored.header.parent;
        }
        Ok(ancestors)
    }

    /// Payloads stored and not ordered yet.
    pub fn open(&self) -> usize {
        self.stored.values().filter(|stored| stored.content.is_some()).count()
    }
}

/// Checks a payload against the block it was proposed on.
pub(super) fn check_parent(
    header: &PayloadHeader,
    parent: Option<ParentOf>,
) -> Result<(), InvalidPayload> {
    let Some(parent) = parent else { return Ok(()) };
    // At the end of the range nothing follows.
    let follows = header.height > parent.height && header.height == parent.height.next();
    if header.parent != parent.digest || !follows {
        return Err(InvalidPayload::Parent);
    }
    if header.block_timestamp < parent.block_timestamp {
        return Err(InvalidPayload::TimeWentBack);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
