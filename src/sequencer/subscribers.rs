//! `Subscribers`: who follows the commits, and how far each has come.
//!
//! A subscriber is a name. It attaches with the next index that *its own store* needs, which
//! governs; our cursor is a copy that only bounds how long commits and their content are kept.
//!
//! ```text
//!            attach(next)          acknowledge(up to)
//!   known ────────────────▶ attached ──────┐
//!     ▲ ◀────────────────────┘ ▲  ◀────────┘   at most `window` deliveries without an ack
//!     │        detach          │
//!     └── attach ── lagged ◀───┘ held too much for too long: holds nothing any more
//! ```
//!
//! Invariants: deliveries of an attachment are in order and without a gap, except that what state
//! sync passed over is one delivery that says so; each is a promise of a group at or after the one
//! that holds the commit; commits at or above the lowest cursor of those that do not lag are kept,
//! and so is their content. A subscriber never holds up a commit, and what it can hold on the disk
//! is bounded.
//!
//! Cursors join the next group that is written anyway: an ack costs no group commit of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::commit_log::CommitLog;
use super::outbox::Outbox;
use super::port::{Delivery, Promise, Record, Reply, RequestId, SubscribeError, SubscriptionEnd};
use super::retention::Retention;
use super::status::SubscriberStatus;
use crate::types::CommitIndex;

/// Most subscribers, attached or not: their names come from the host's code, not from outside.
pub const SUBSCRIBERS_MAX: usize = 64;
/// Longest name of a subscriber in bytes.
pub const SUBSCRIBER_NAME_BYTES_MAX: usize = 64;

/// What a subscriber may hold back, and how far deliveries run ahead of its acks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub window: usize,
    pub lag_bytes_max: u64,
    pub lag_max: Duration,
}

#[derive(Debug)]
struct Subscriber {
    /// The next commit it needs, as far as it told us.
    cursor: CommitIndex,
    /// When it last attached or came further. Whoever comes back with much to catch up is given
    /// as long as anybody else.
    moved_at: Duration,
    lagged: bool,
    attachment: Option<Attachment>,
}

#[derive(Debug)]
struct Attachment {
    subscription: RequestId,
    /// The next commit to deliver.
    next: CommitIndex,
    /// Of what that commit rewrites, how much was delivered.
    told: usize,
    /// The last index of each delivery without an ack.
    unacknowledged: VecDeque<CommitIndex>,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct Subscribers {
    bounds: Bounds,
    by_name: BTreeMap<String, Subscriber>,
    by_subscription: BTreeMap<RequestId, String>,
    /// Cursors that are not on their way to the disk yet.
    moved: BTreeSet<String>,
    /// Every commit below this was passed: for a while, at least, no subscriber pinned what it named.
    passed: CommitIndex,
    passed_moved: bool,
}

impl Subscribers {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            by_name: BTreeMap::new(),
            by_subscription: BTreeMap::new(),
            moved: BTreeSet::new(),
            passed: CommitIndex(0),
            passed_moved: false,
        }
    }

    /// Every commit below this was passed, also if a cursor falls again.
    pub fn passed(&self) -> CommitIndex {
        self.passed
    }

    /// Commits below this are passed.
    pub fn pass(&mut self, below: CommitIndex) {
        if below > self.passed {
            (self.passed, self.passed_moved) = (below, true);
        }
    }

    /// As an earlier life knew.
    pub fn on_recovered_passed(&mut self, below: CommitIndex) {
        self.passed = self.passed.max(below);
    }

    /// Where a subscriber of an earlier life stood.
    pub fn on_recovered(&mut self, now: Duration, name: String, cursor: CommitIndex, lagged: bool) {
        let subscriber = Subscriber { cursor, moved_at: now, lagged, attachment: None };
        self.by_name.insert(name, subscriber);
    }

    /// The lowest index that somebody needs: everything from there on is kept.
    pub fn lowest(&self) -> Option<CommitIndex> {
        self.holding().map(|(_, subscriber)| subscriber.cursor).min()
    }

    fn holding(&self) -> impl Iterator<Item = (&String, &Subscriber)> {
        self.by_name.iter().filter(|(_, subscriber)| !subscriber.lagged)
    }

    fn check(&self, name: &str) -> Result<(), SubscribeError> {
        if name.is_empty() || name.len() > SUBSCRIBER_NAME_BYTES_MAX {
            return Err(SubscribeError::Name);
        }
        if self.by_name.len() >= SUBSCRIBERS_MAX && !self.by_name.contains_key(name) {
            return Err(SubscribeError::TooMany);
        }
        Ok(())
    }

    /// Ends the attachment of a name, if there is one.
    fn end(&mut self, outbox: &mut Outbox, name: &str, end: SubscriptionEnd) {
        let attachment = self.by_name.get_mut(name).and_then(|s| s.attachment.take());
        if let Some(Attachment { subscription, .. }) = attachment {
            self.by_subscription.remove(&subscription);
            outbox.promise(Promise::EndSubscription { subscription, end });
        }
    }

    /// The host dropped the handle. Its cursor stays.
    pub fn on_detach(&mut self, subscription: RequestId) {
        if let Some(name) = self.by_subscription.remove(&subscription)
            && let Some(subscriber) = self.by_name.get_mut(&name)
        {
            subscriber.attachment = None;
        }
    }

    /// Adds the cursors that moved to a group that is written anyway.
    pub fn flush(&mut self, records: &mut Vec<Record>) {
        if std::mem::take(&mut self.passed_moved) {
            records.push(Record::Passed { below: self.passed });
        }
        for name in std::mem::take(&mut self.moved) {
            if let Some(subscriber) = self.by_name.get(&name).filter(|s| !s.lagged) {
                records.push(Record::Cursor { subscriber: name, next: subscriber.cursor });
            }
        }
    }
}

impl CommitLog {
    /// A subscriber attaches, with the next index that its own store needs.
    pub fn on_subscribe(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        now: Duration,
        id: RequestId,
        name: String,
        next: CommitIndex,
    ) {
        let first_kept = self.kept_from();
        let refused = match self.subscribers.check(&name) {
            Err(error) => Some(error),
            Ok(()) if next < first_kept => Some(SubscribeError::Pruned { first_kept }),
            Ok(()) => None,
        };
        if let Some(error) = refused {
            return outbox.reply_now(id, Reply::Subscribed(Err(error)));
        }
        let subscribers = &mut self.subscribers;
        subscribers.end(outbox, &name, SubscriptionEnd::Replaced);
        let unacknowledged = VecDeque::new();
        let attachment = Some(Attachment { subscription: id, next, told: 0, unacknowledged });
        subscribers.by_subscription.insert(id, name.clone());
        let subscriber = Subscriber { cursor: next, moved_at: now, lagged: false, attachment };
        subscribers.by_name.insert(name.clone(), subscriber);
        // At once: a name that is not on disk yet would hold nothing after a crash.
        subscribers.moved.remove(&name);
        outbox.record(Record::Cursor { subscriber: name, next });
        outbox.reply_durably(id, Reply::Subscribed(Ok(())));
        self.on_cursors(outbox, retention);
    }

    /// A subscriber is gone for good: it holds nothing, and its name is free.
    pub fn on_unsubscribe(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        id: RequestId,
        name: &str,
    ) {
        self.subscribers.end(outbox, name, SubscriptionEnd::Unsubscribed);
        self.subscribers.moved.remove(name);
        if self.subscribers.by_name.remove(name).is_some() {
            outbox.record(Record::Unsubscribed { subscriber: name.to_owned() });
            self.on_cursors(outbox, retention);
        }
        outbox.reply_durably(id, Reply::Unsubscribed);
    }

    /// What was delivered up to, not including, `next` is in the subscriber's own store.
    pub fn on_delivered(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        now: Duration,
        subscription: RequestId,
        next: CommitIndex,
    ) {
        // Acks of an attachment that was replaced say nothing about the present one.
        let Some(name) = self.subscribers.by_subscription.get(&subscription).cloned() else {
            return;
        };
        self.move_cursor(outbox, retention, now, &name, next);
    }

    /// A subscriber that is not attached needs no commit below `next`; its first word makes it one.
    pub fn on_acknowledge(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        now: Duration,
        name: &str,
        next: CommitIndex,
    ) {
        if self.subscribers.check(name).is_err() {
            return;
        }
        let fresh = || Subscriber {
            cursor: CommitIndex(0),
            moved_at: now,
            lagged: false,
            attachment: None,
        };
        self.subscribers.by_name.entry(name.to_owned()).or_insert_with(fresh);
        self.move_cursor(outbox, retention, now, name, next);
    }

    /// Cursors of attachments only rise, and never beyond what was delivered.
    fn move_cursor(
        &mut self,
        outbox: &mut Outbox,
        retention: &mut Retention,
        now: Duration,
        name: &str,
        next: CommitIndex,
    ) {
        let applied = self.applied().0.next();
        let Some(subscriber) = self.subscribers.by_name.get_mut(name) else { return };
        let known = subscriber.attachment.as_ref().map_or(applied, |attached| attached.next);
        let next = next.min(known);
        if subscriber.lagged || next <= subscriber.cursor {
            return;
        }
        subscriber.cursor = next;
        subscriber.moved_at = now;
        if let Some(attachment) = &mut subscriber.attachment {
            let open = &mut attachment.unacknowledged;
            while open.front().is_some_and(|last| *last < next) {
                open.pop_front();
            }
        }
        self.subscribers.moved.insert(name.to_owned());
        self.on_cursors(outbox, retention);
    }

    /// Cursors, or what they point at, have changed.
    pub fn on_cursors(&mut self, outbox: &mut Outbox, retention: &mut Retention) {
        // What nobody pins any more may go, also if a cursor falls again.
        let known = self.subscribers.by_name.len();
        let none = (known > 0 || self.subscribers.passed.0 > 0).then(|| self.applied().0.next());
        if let Some(below) = self.subscribers.lowest().or(none) {
            self.subscribers.pass(below);
        }
        retention.on_lowest(self.subscribers.lowest());
        self.drop_old(outbox);
        self.deliver(outbox);
    }

    /// Delivers what is applied, to each as far as its window goes.
    fn deliver(&mut self, outbox: &mut Outbox) {
        let window = self.bounds().window;
        // Taken out, because each delivery looks into the log that they are a part of.
        let mut by_name = std::mem::take(&mut self.subscribers.by_name);
        let attached = by_name.values_mut().filter_map(|s| s.attachment.as_mut());
        for Attachment { subscription, next, told, unacknowledged } in attached {
            while unacknowledged.len() < window
                && let Some((delivery, last)) = self.delivery(*next)
            {
                while let Some((index, digest)) = self.rewrites.carried(*next, *told) {
                    *told += 1;
                    let delivery = Delivery::Rewritten { by: *next, index, digest };
                    outbox.promise(Promise::Deliver { subscription: *subscription, delivery });
                }
                *told = 0;
                unacknowledged.push_back(last);
                *next = last.next();
                outbox.promise(Promise::Deliver { subscription: *subscription, delivery });
            }
        }
        self.subscribers.by_name = by_name;
    }

    /// What a subscriber that needs `next` is told, and the last index that this covers.
    fn delivery(&self, next: CommitIndex) -> Option<(Delivery, CommitIndex)> {
        if next > self.applied().0 {
            return None;
        }
        if let Some(commit) = self.applied_commit(next) {
            return Some((Delivery::Commit(commit), next));
        }
        let to = self.skipped_to(next);
        assert!(to.is_some(), "{next:?} is needed, applied, and neither kept nor skipped");
        to.map(|to| (Delivery::Skipped { from: next, to }, to))
    }

    /// Detaches who holds too much, or holds it for too long.
    pub fn on_time(&mut self, outbox: &mut Outbox, retention: &mut Retention, now: Duration) {
        while let Some(name) = self.lagging(retention, now) {
            self.detach_lagging(outbox, &name);
            self.on_cursors(outbox, retention);
        }
    }

    /// The slowest one if too much is held, else whoever has not come further for too long.
    fn lagging(&self, retention: &Retention, now: Duration) -> Option<String> {
        let holding = || self.subscribers.holding();
        let late = holding()
            .find(|(_, subscriber)| self.patience(subscriber).is_some_and(|end| end <= now));
        let too_much = retention.parked_bytes() > self.bounds().lag_bytes_max;
        let behind = holding().filter(|(_, s)| self.applied_at(s.cursor).is_some());
        let slowest = behind.min_by_key(|(_, s)| s.cursor).filter(|_| too_much);
        slowest.or(late).map(|(name, _)| name.clone())
    }

    fn detach_lagging(&mut self, outbox: &mut Outbox, name: &str) {
        self.subscribers.end(outbox, name, SubscriptionEnd::Lagged);
        self.subscribers.moved.remove(name);
        if let Some(subscriber) = self.subscribers.by_name.get_mut(name) {
            subscriber.lagged = true;
            let (subscriber, next) = (name.to_owned(), subscriber.cursor);
            outbox.record(Record::Lagged { subscriber, next });
        }
    }

    /// When somebody will have held commits for too long.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.subscribers.holding().filter_map(|(_, s)| self.patience(s)).min()
    }

    /// Until when a subscriber may hold what it has not acknowledged without coming further.
    fn patience(&self, subscriber: &Subscriber) -> Option<Duration> {
        let applied_at = self.applied_at(subscriber.cursor)?;
        Some(applied_at.max(subscriber.moved_at) + self.bounds().lag_max)
    }

    fn bounds(&self) -> Bounds {
        self.subscribers.bounds
    }

    /// For status pages and metrics.
    pub fn subscriber_status(&self, now: Duration) -> Vec<SubscriberStatus> {
        let applied = self.applied().0;
        let status = |(name, subscriber): (&String, &Subscriber)| SubscriberStatus {
            name: name.clone(),
            next: subscriber.cursor,
            attached: subscriber.attachment.is_some(),
            lagged: subscriber.lagged,
            lag_commits: applied.next().0.saturating_sub(subscriber.cursor.0),
            lag_bytes: self.bytes_from(subscriber.cursor),
            lag_seconds: self
                .applied_at(subscriber.cursor)
                .map_or(0.0, |since| now.saturating_sub(since).as_secs_f64()),
        };
        self.subscribers.by_name.iter().map(status).collect()
    }

    /// Those that have not acknowledged a commit yet.
    pub fn behind(&self, index: CommitIndex) -> Vec<String> {
        let behind = self.subscribers.by_name.iter().filter(|(_, s)| s.cursor <= index);
        behind.map(|(name, _)| name.clone()).collect()
    }
}
