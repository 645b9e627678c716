//! The tracker's book: entries, and where to find them. Pure: time is an argument.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use quorum_store::sequencer::port::Accepted;
use quorum_store::types::{Digest, Timestamp};
use slab::Slab;

use super::{Admission, Stage, Tracked};
use crate::id_map::IdMap;
use crate::outcomes::Group;
use crate::transaction::TransactionId;

/// Certificates that may arrive before the answer that names their batch.
const EARLY_CERTIFICATES_MAX: usize = 4096;

/// Microseconds.
const SECOND: u64 = 1_000_000;

/// See the module docs.
#[derive(Debug)]
pub(super) struct Book {
    /// Most entries.
    entries_max: usize,
    /// How long an entry is kept after its expiration, in consensus time.
    retention: Duration,
    entries: Slab<Entry>,
    by_id: IdMap<u32>,
    /// Entries that are not final.
    open_count: usize,
    batches: HashMap<Digest, Members>,
    early: EarlyCertificates,
    /// Keys of answered entries that may still change, by the second of their expiration.
    open: BTreeMap<u64, Vec<u32>>,
    /// Keys of entries that are final, likewise.
    ended: BTreeMap<u64, Vec<u32>>,
}

#[derive(Debug)]
struct Entry {
    id: TransactionId,
    arrival_micros: u64,
    /// The second of its expiration.
    second: u64,
    height: u64,
    place: Option<Accepted>,
    stage: Stage,
}

impl Entry {
    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.arrival_micros)
    }
}

/// The transactions of one batch.
#[derive(Debug, Default)]
struct Members {
    /// Position in the batch, and key. A key whose entry names another batch is stale.
    keys: Vec<(u32, u32)>,
    /// How many are not stale.
    live: u32,
}

/// Batches whose certificate came before the answer to their submission.
#[derive(Debug, Default)]
struct EarlyCertificates {
    digests: HashSet<Digest>,
    order: VecDeque<Digest>,
}

impl EarlyCertificates {
    fn insert(&mut self, digest: Digest) {
        if self.digests.insert(digest) {
            self.order.push_back(digest);
        }
        if self.order.len() > EARLY_CERTIFICATES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.digests.remove(&oldest);
        }
    }
}

impl Book {
    pub(super) fn new(entries_max: usize, retention: Duration) -> Self {
        Self {
            // Keys have 32 bits.
            entries_max: entries_max.min(u32::MAX as usize),
            retention,
            entries: Slab::new(),
            by_id: IdMap::default(),
            open_count: 0,
            batches: HashMap::new(),
            early: EarlyCertificates::default(),
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entries that are not final.
    pub(super) fn open_count(&self) -> usize {
        self.open_count
    }

    /// Ids of entries that are not final.
    pub(super) fn open_ids(&self) -> Vec<TransactionId> {
        let open = self.entries.iter().filter(|(_, entry)| entry.stage < Stage::Expired);
        open.map(|(_, entry)| entry.id).collect()
    }

    pub(super) fn lookup(&self, id: &TransactionId) -> Option<Tracked> {
        let entry = self.entries.get(*self.by_id.get(id)? as usize)?;
        let height = (entry.height > 0).then_some(entry.height);
        Some(Tracked { stage: entry.stage, place: entry.place, height })
    }

    pub(super) fn begin(
        &mut self,
        id: TransactionId,
        expiration: Timestamp,
        now: u64,
    ) -> Admission {
        if let Some(entry) = self.by_id.get(&id).and_then(|key| self.entries.get(*key as usize)) {
            let pending = entry.stage == Stage::Pending;
            return if pending { Admission::InFlight } else { Admission::Accepted };
        }
        while self.entries.len() >= self.entries_max {
            let Some((_, keys)) = self.ended.pop_first() else { return Admission::Full };
            self.drop_entries(&keys);
        }
        let second = expiration.0 / SECOND;
        let stage = Stage::Pending;
        let entry = Entry { id, arrival_micros: now, second, height: 0, place: None, stage };
        let key = self.entries.insert(entry) as u32;
        self.by_id.insert(id, key);
        self.open_count += 1;
        Admission::New
    }

    pub(super) fn answered(
        &mut self,
        id: &TransactionId,
        place: Option<Accepted>,
        now: u64,
        accepted: &mut Group,
        certified: &mut Group,
    ) {
        let Some(key) = self.by_id.get(id).copied() else { return };
        let Some(entry) = self.entries.get_mut(key as usize) else { return };
        if place.is_none() && entry.stage == Stage::Pending {
            self.remove(key);
            self.open_count -= 1;
            return;
        }
        // From here on time ends it. Before its answer nothing may: its key would be used again.
        self.open.entry(entry.second).or_default().push(key);
        let Some(place) = place else { return };
        accepted.push(*id, entry.age(now));
        entry.place = Some(place);
        // A block may have executed it before its answer came this far.
        if entry.stage == Stage::Pending {
            entry.stage = Stage::Batched;
            if self.early.digests.contains(&place.batch) {
                entry.stage = Stage::Certified;
                certified.push(*id, entry.age(now));
            }
        }
        self.join(place, key);
    }

    fn join(&mut self, place: Accepted, key: u32) {
        let members = self.batches.entry(place.batch).or_default();
        members.keys.push((place.position, key));
        members.live += 1;
    }

    fn leave(&mut self, batch: &Digest) {
        if let Some(members) = self.batches.get_mut(batch) {
            members.live = members.live.saturating_sub(1);
            if members.live == 0 {
                self.batches.remove(batch);
            }
        }
    }

    /// Applies a change to every entry that is in a batch now.
    fn for_each_member(&mut self, batch: &Digest, mut change: impl FnMut(&mut Entry)) {
        let Some(members) = self.batches.get(batch) else { return };
        for (_, key) in &members.keys {
            if let Some(entry) = self.entries.get_mut(*key as usize)
                && entry.place.is_some_and(|place| place.batch == *batch)
            {
                change(entry);
            }
        }
    }

    pub(super) fn certified(&mut self, batch: &Digest, now: u64) -> Group {
        let mut group = Group::default();
        // Also when the batch is known: more of its transactions may be answered later.
        self.early.insert(*batch);
        self.for_each_member(batch, |entry| {
            if entry.stage < Stage::Certified {
                entry.stage = Stage::Certified;
                group.push(entry.id, entry.age(now));
            }
        });
        group
    }

    pub(super) fn rebatched(&mut self, from: &Digest, moved: &[(u32, Accepted)]) {
        let Some(members) = self.batches.get(from) else { return };
        let targets: HashMap<u32, Accepted> = moved.iter().copied().collect();
        let target = |(position, key): &(u32, u32)| Some((*key, *targets.get(position)?));
        let moving: Vec<(u32, Accepted)> = members.keys.iter().filter_map(target).collect();
        for (key, target) in moving {
            let Some(entry) = self.entries.get_mut(key as usize) else { continue };
            let here = entry.place.is_some_and(|place| place.batch == *from);
            if here && entry.stage < Stage::Ordered {
                entry.place = Some(target);
                entry.stage = Stage::Batched;
                self.join(target, key);
                self.leave(from);
            }
        }
    }

    pub(super) fn ordered(&mut self, batch: &Digest, height: u64) {
        self.for_each_member(batch, |entry| {
            if entry.stage < Stage::Ordered {
                entry.stage = Stage::Ordered;
                entry.height = height;
            }
        });
    }

    pub(super) fn executed(
        &mut self,
        id: &TransactionId,
        height: u64,
        now: u64,
        group: &mut Group,
    ) {
        let Some(key) = self.by_id.get(id) else { return };
        if let Some(entry) = self.entries.get_mut(*key as usize)
            && entry.stage < Stage::Executed
        {
            self.open_count -= usize::from(entry.stage < Stage::Expired);
            entry.stage = Stage::Executed;
            entry.height = height;
            group.push(*id, entry.age(now));
        }
    }

    /// It was executed before it arrived here. Time ends its entry as that of any other.
    pub(super) fn executed_before(
        &mut self,
        id: &TransactionId,
        height: u64,
        now: u64,
        group: &mut Group,
    ) {
        self.executed(id, height, now, group);
        let Some(key) = self.by_id.get(id).copied() else { return };
        if let Some(entry) = self.entries.get(key as usize) {
            self.open.entry(entry.second).or_default().push(key);
        }
    }

    pub(super) fn skipped(&mut self, batch: &Digest, height: u64, now: u64, group: &mut Group) {
        let mut ended = 0;
        self.for_each_member(batch, |entry| {
            if entry.stage < Stage::Skipped {
                ended += usize::from(entry.stage < Stage::Expired);
                entry.stage = Stage::Skipped;
                entry.height = height;
                group.push(entry.id, entry.age(now));
            }
        });
        self.open_count -= ended;
    }

    /// Consensus time is `time` now.
    pub(super) fn on_time(&mut self, time: Timestamp, now: u64, expired: &mut Group) {
        // A second has passed as a whole once its last microsecond lies below the time.
        let passed = time.0 / SECOND;
        while let Some((second, keys)) = pop_below(&mut self.open, passed) {
            for key in &keys {
                if let Some(entry) = self.entries.get_mut(*key as usize)
                    && entry.stage < Stage::Expired
                {
                    self.open_count -= 1;
                    entry.stage = Stage::Expired;
                    expired.push(entry.id, entry.age(now));
                }
            }
            self.ended.entry(second).or_default().extend(keys);
        }
        let kept_from = time.saturating_sub(self.retention).0 / SECOND;
        while let Some((_, keys)) = pop_below(&mut self.ended, kept_from) {
            self.drop_entries(&keys);
        }
    }

    fn drop_entries(&mut self, keys: &[u32]) {
        for key in keys {
            self.remove(*key);
        }
        if self.by_id.capacity() > 1 << 16 && self.by_id.len() < self.by_id.capacity() / 8 {
            self.by_id.shrink_to(self.by_id.len() * 2);
            self.entries.shrink_to_fit();
        }
    }

    fn remove(&mut self, key: u32) {
        let Some(entry) = self.entries.try_remove(key as usize) else { return };
        self.by_id.remove(&entry.id);
        if let Some(place) = entry.place {
            self.leave(&place.batch);
        }
    }
}

/// Takes the first entry whose key lies below a bound.
fn pop_below(map: &mut BTreeMap<u64, Vec<u32>>, bound: u64) -> Option<(u64, Vec<u32>)> {
    let first = map.first_entry()?;
    (*first.key() < bound).then(|| first.remove_entry())
}
