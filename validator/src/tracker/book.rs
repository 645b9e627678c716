//! The tracker's book: entries, and where to find them. Pure: time is an argument.
//!
//! Entries lie by the second of their expiration: they end together, and go together.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use quorum_store::sequencer::port::Accepted;
use quorum_store::types::{Digest, Timestamp};
use slab::Slab;

use super::second::{Entry, Second};
use super::{Admission, Stage, Tracked};
use crate::ids::{IdKeys, Named, of_one_second, second_of};
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
    keys: IdKeys,
    seconds: BTreeMap<u64, Second>,
    count: usize,
    /// Entries that are not final.
    open_count: usize,
    batches: Slab<Roll>,
    handles: HashMap<Digest, u32>,
    early: EarlyCertificates,
    /// Answered only after their second was over: second and number.
    late: Vec<(u64, u32)>,
}

/// The transactions of one batch.
#[derive(Debug)]
struct Roll {
    digest: Digest,
    /// One whose entry names another batch is stale.
    members: Vec<Member>,
    /// How many are not stale.
    live: u32,
}

impl Roll {
    fn join(&mut self, member: Member) {
        self.members.push(member);
        self.live += 1;
    }
}

/// A transaction in a batch.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// Of its expiration: in 32 bits, which last until 2106.
    second: u32,
    number: u32,
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
            entries_max,
            retention,
            keys: IdKeys::default(),
            seconds: BTreeMap::new(),
            count: 0,
            open_count: 0,
            batches: Slab::new(),
            handles: HashMap::new(),
            early: EarlyCertificates::default(),
            late: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Batches that are followed.
    #[cfg(test)]
    pub(super) fn batches(&self) -> usize {
        assert_eq!(self.batches.len(), self.handles.len());
        self.batches.len()
    }

    /// Entries that are not final.
    pub(super) fn open_count(&self) -> usize {
        self.open_count
    }

    /// Entries that are not final, each with a time in the second of its expiration.
    pub(super) fn open(&self) -> Vec<Named> {
        let mut open = Vec::new();
        for (second, entries) in &self.seconds {
            let found = entries.entries().filter(|(_, entry)| entry.is_open());
            let time = Timestamp(second * SECOND);
            open.extend(found.map(|(number, _)| (*entries.id(number), time)));
        }
        open
    }

    /// Looks in every second.
    pub(super) fn lookup(&self, id: &TransactionId) -> Option<Tracked> {
        let entry = self.seconds.values().find_map(|second| second.get(&self.keys, id))?;
        Some(self.tracked(entry))
    }

    /// Looks where it has to be.
    pub(super) fn lookup_named(&self, (id, expiration): &Named) -> Option<Tracked> {
        let entry = self.seconds.get(&second_of(*expiration))?.get(&self.keys, id)?;
        Some(self.tracked(entry))
    }

    fn tracked(&self, entry: &Entry) -> Tracked {
        let place = entry.place().and_then(|(handle, position)| {
            let batch = self.batches.get(handle as usize)?.digest;
            Some(Accepted { batch, position })
        });
        let height = (entry.height > 0).then_some(entry.height);
        Tracked { stage: entry.stage, place, height }
    }

    pub(super) fn begin(&mut self, arriving: &[Named], now: u64) -> Vec<Admission> {
        let mut admissions = Vec::with_capacity(arriving.len());
        for together in of_one_second(arriving) {
            while self.count + together.len() > self.entries_max && self.drop_oldest(u64::MAX) {}
            let second = second_of(together[0].1);
            let room = self.entries_max.saturating_sub(self.count);
            let keys = self.keys;
            let entries = self.second(second);
            let before = entries.len();
            admissions.extend(together.iter().map(|(id, _)| {
                let is_full = entries.len() - before >= room;
                let known = if is_full {
                    entries.get(&keys, id).map(|entry| entry.stage)
                } else {
                    entries.arrive(&keys, id, now)
                };
                match known {
                    None if is_full => Admission::Full,
                    None => Admission::New,
                    Some(Stage::Pending) => Admission::InFlight,
                    Some(_) => Admission::Accepted,
                }
            }));
            let new = entries.len() - before;
            self.count += new;
            self.open_count += new;
        }
        admissions
    }

    /// A second to enter something in. The one before it says how much to expect.
    fn second(&mut self, second: u64) -> &mut Second {
        let before = self.seconds.range(..second).next_back().map_or(0, |(_, s)| s.len());
        self.seconds.entry(second).or_insert_with(|| Second::with_room(before))
    }

    pub(super) fn answered(
        &mut self,
        answers: &[(Named, Option<Accepted>)],
        now: u64,
        accepted: &mut Group,
        certified: &mut Group,
    ) {
        // Those of one request are in few batches, one after the other.
        let batch = |place: &Option<Accepted>| place.map(|place| place.batch);
        for together in answers.chunk_by(|one, other| {
            second_of(one.0.1) == second_of(other.0.1) && batch(&one.1) == batch(&other.1)
        }) {
            let second = second_of(together[0].0.1);
            if self.seconds.contains_key(&second) {
                match batch(&together[0].1) {
                    Some(batch) => self.entered(second, batch, together, now, accepted, certified),
                    None => self.refused(second, together),
                }
            }
        }
    }

    /// These of one second are forgotten, unless a block has executed them.
    fn refused(&mut self, second: u64, answers: &[(Named, Option<Accepted>)]) {
        let Some(entries) = self.seconds.get_mut(&second) else { return };
        for ((id, _), _) in answers {
            let Some(number) = entries.number(&self.keys, id) else { continue };
            entries.pending = entries.pending.saturating_sub(1);
            if entries.get_mut(number).is_some_and(|entry| entry.stage == Stage::Pending) {
                entries.remove(&self.keys, number);
                self.count -= 1;
                self.open_count -= 1;
            }
        }
    }

    /// These of one second are in a batch.
    fn entered(
        &mut self,
        second: u64,
        batch: Digest,
        answers: &[(Named, Option<Accepted>)],
        now: u64,
        accepted: &mut Group,
        certified: &mut Group,
    ) {
        let handle = self.handle(&batch);
        let is_certified = self.early.digests.contains(&batch);
        let Some(entries) = self.seconds.get_mut(&second) else { return };
        let Some(roll) = self.batches.get_mut(handle as usize) else { return };
        // A batch is filled by a few requests: no more is in reserve than they bring.
        roll.members.reserve_exact(answers.len());
        for ((id, _), place) in answers {
            let (Some(place), Some(number)) = (place, entries.number(&self.keys, id)) else {
                continue;
            };
            entries.pending = entries.pending.saturating_sub(1);
            let is_over = entries.is_over;
            let Some(entry) = entries.get_mut(number) else { continue };
            accepted.push(*id, entry.age(now));
            entry.put((handle, place.position));
            // A block may have executed it before its answer came this far.
            if entry.stage == Stage::Pending {
                entry.stage = Stage::Batched;
                if is_certified {
                    entry.stage = Stage::Certified;
                    certified.push(*id, entry.age(now));
                }
                if is_over {
                    self.late.push((second, number));
                }
            }
            roll.join(Member { second: second as u32, number });
        }
        // Nobody here follows what others handed over.
        if roll.live == 0 {
            self.forget(handle);
        }
    }

    /// The handle of a batch, which is new or not.
    fn handle(&mut self, digest: &Digest) -> u32 {
        let Self { batches, handles, .. } = self;
        *handles.entry(*digest).or_insert_with(|| {
            let roll = Roll { digest: *digest, members: Vec::new(), live: 0 };
            // Proof of the cast: there are fewer batches than entries, and those are in memory.
            batches.insert(roll) as u32
        })
    }

    fn leave(&mut self, handle: u32) {
        let Some(batch) = self.batches.get_mut(handle as usize) else { return };
        batch.live = batch.live.saturating_sub(1);
        if batch.live == 0 {
            self.forget(handle);
        }
    }

    fn forget(&mut self, handle: u32) {
        let gone = self.batches.remove(handle as usize);
        self.handles.remove(&gone.digest);
    }

    /// Applies a change to every entry that is in a batch now.
    fn for_each_member(
        &mut self,
        batch: &Digest,
        mut change: impl FnMut(&TransactionId, &mut Entry),
    ) {
        let Some(handle) = self.handles.get(batch).copied() else { return };
        let Some(batch) = self.batches.get(handle as usize) else { return };
        for together in batch.members.chunk_by(|one, other| one.second == other.second) {
            let second = u64::from(together[0].second);
            let Some(entries) = self.seconds.get_mut(&second) else { continue };
            for member in together {
                if let Some((id, entry)) = entries.named_mut(member.number)
                    && entry.is_in(handle)
                {
                    change(id, entry);
                }
            }
        }
    }

    pub(super) fn certified(&mut self, batch: &Digest, now: u64) -> Group {
        let mut group = Group::default();
        // Also when the batch is known: more of its transactions may be answered later.
        self.early.insert(*batch);
        self.for_each_member(batch, |id, entry| {
            if entry.stage < Stage::Certified {
                entry.stage = Stage::Certified;
                group.push(*id, entry.age(now));
            }
        });
        group
    }

    pub(super) fn rebatched(&mut self, from: &Digest, moved: &[(u32, Accepted)]) {
        let Some(handle) = self.handles.get(from).copied() else { return };
        let Some(batch) = self.batches.get(handle as usize) else { return };
        let targets: HashMap<u32, Accepted> = moved.iter().copied().collect();
        for member in batch.members.clone() {
            let second = u64::from(member.second);
            let Some(entries) = self.seconds.get_mut(&second) else { continue };
            let Some(entry) = entries.get_mut(member.number) else { continue };
            let place = entry.place().filter(|(batch, _)| *batch == handle);
            let target = place.and_then(|(_, position)| targets.get(&position));
            let Some(target) = target.filter(|_| entry.stage < Stage::Ordered) else { continue };
            entry.stage = Stage::Batched;
            let to = self.handle(&target.batch);
            if let Some(entries) = self.seconds.get_mut(&second)
                && let Some(entry) = entries.get_mut(member.number)
            {
                entry.put((to, target.position));
            }
            if let Some(roll) = self.batches.get_mut(to as usize) {
                roll.join(member);
            }
            self.leave(handle);
        }
    }

    pub(super) fn ordered(&mut self, batch: &Digest, height: u64) {
        self.for_each_member(batch, |_, entry| {
            if entry.stage < Stage::Ordered {
                entry.stage = Stage::Ordered;
                entry.height = height;
            }
        });
    }

    /// A block executed these, which may be unknown here.
    pub(super) fn executed(
        &mut self,
        executed: &[Named],
        height: u64,
        now: u64,
        group: &mut Group,
    ) {
        for together in of_one_second(executed) {
            let second = second_of(together[0].1);
            let Some(entries) = self.seconds.get_mut(&second) else { continue };
            for (id, _) in together {
                let number = entries.number(&self.keys, id);
                if let Some(entry) = number.and_then(|number| entries.get_mut(number))
                    && entry.stage < Stage::Executed
                {
                    self.open_count -= usize::from(entry.stage < Stage::Expired);
                    entry.stage = Stage::Executed;
                    entry.height = height;
                    group.push(*id, entry.age(now));
                }
            }
        }
    }

    /// It was executed before it arrived here, and nobody will be asked for an answer.
    pub(super) fn executed_before(
        &mut self,
        named: &Named,
        height: u64,
        now: u64,
        group: &mut Group,
    ) {
        self.executed(std::slice::from_ref(named), height, now, group);
        if let Some(entries) = self.seconds.get_mut(&second_of(named.1)) {
            entries.pending = entries.pending.saturating_sub(1);
        }
    }

    pub(super) fn skipped(&mut self, batch: &Digest, height: u64, now: u64, group: &mut Group) {
        let mut ended = 0;
        self.for_each_member(batch, |id, entry| {
            if entry.stage < Stage::Skipped {
                ended += usize::from(entry.stage < Stage::Expired);
                entry.stage = Stage::Skipped;
                entry.height = height;
                group.push(*id, entry.age(now));
            }
        });
        self.open_count -= ended;
    }

    /// Consensus time is `time` now.
    pub(super) fn on_time(&mut self, time: Timestamp, now: u64, expired: &mut Group) {
        for (second, number) in std::mem::take(&mut self.late) {
            if let Some(entries) = self.seconds.get_mut(&second) {
                self.open_count -= usize::from(expire(entries, number, now, expired));
            }
        }
        // A second has passed as a whole once its last microsecond lies below the time.
        let passed = second_of(time);
        for entries in self.seconds.range_mut(..passed).map(|(_, entries)| entries) {
            if entries.is_over {
                continue;
            }
            entries.is_over = true;
            // What has no answer yet ends after it.
            let answered = |(_, entry): &(u32, &Entry)| entry.stage > Stage::Pending;
            let open = entries.entries().filter(answered).filter(|(_, entry)| entry.is_open());
            for number in open.map(|(number, _)| number).collect::<Vec<_>>() {
                self.open_count -= usize::from(expire(entries, number, now, expired));
            }
        }
        let kept_from = second_of(time.saturating_sub(self.retention));
        while self.drop_oldest(kept_from) {}
    }

    /// Drops the oldest second that is over, below a bound. False if there is none.
    fn drop_oldest(&mut self, below: u64) -> bool {
        // What waits for its answer is waited for.
        let droppable = |(_, entries): &(&u64, &Second)| entries.is_over && entries.pending == 0;
        let Some(second) = self.seconds.range(..below).find(droppable).map(|(s, _)| *s) else {
            return false;
        };
        let Some(entries) = self.seconds.remove(&second) else { return false };
        self.count -= entries.len();
        self.open_count -= entries.entries().filter(|(_, entry)| entry.is_open()).count();
        for (handle, _) in entries.entries().filter_map(|(_, entry)| entry.place()) {
            self.leave(handle);
        }
        true
    }
}

/// It can never be executed any more. False if it had ended already.
fn expire(entries: &mut Second, number: u32, now: u64, expired: &mut Group) -> bool {
    let found = entries.named_mut(number).filter(|(_, entry)| entry.is_open());
    let Some((id, entry)) = found else { return false };
    entry.stage = Stage::Expired;
    expired.push(*id, entry.age(now));
    true
}
