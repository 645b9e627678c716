//! Subscriptions: how the parts of a host follow the commits.
//!
//! ```text
//!  sequencer ─ Promise::Deliver ─▶ egress ─▶ queue of the subscription ─▶ next()
//!      ▲            (durable)                 (its window: never full)       │
//!      └────────── Input::Delivered ◀────────────── acknowledge(up to) ◀─────┘
//! ```
//!
//! Deliveries are in order, gapless and at least once. A subscriber is a name; what it has done is
//! known to its own store and to nobody else, so it says at each start what it needs next. It is
//! paced by its acks: no more than `subscriber_window` deliveries are under way without one.
//!
//! **Failure.** Dropping the handle detaches the name, at any point, and loses nothing: what was
//! not acknowledged is delivered again to whoever attaches next. When the sequencer is restarted
//! inside the process, the handle attaches again by itself, and yields nothing twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::error::{AcknowledgeError, CallError, StopCause, SubscriptionError};
use super::handle::{QuorumStore, unexpected};
use super::ingress::Inboxed;
use super::metrics::Followers;
use crate::sequencer::port::{Delivery, Input, Reply, RequestId, SubscribeError, SubscriptionEnd};
use crate::types::CommitIndex;
use crate::types::payload::EVIDENCE_MAX;

type Told = Result<Delivery, SubscriptionEnd>;

/// Where deliveries go: the queue of each open subscription.
#[derive(Default)]
pub(super) struct Subscriptions {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    queues: BTreeMap<RequestId, (String, mpsc::Sender<Told>)>,
    /// The highest index each name was given in this process, to tell what is given again.
    highest: BTreeMap<String, CommitIndex>,
}

impl Subscriptions {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it is held; if it did, the maps would still be whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a delivery over; never blocks. False if nobody takes it any more.
    pub fn deliver(&self, subscription: RequestId, delivery: Delivery, count: &Followers) -> bool {
        let mut open = self.lock();
        let Open { queues, highest } = &mut *open;
        let Some((name, queue)) = queues.get(&subscription) else { return false };
        if matches!(delivery, Delivery::Rewritten { .. }) {
            return queue.try_send(Ok(delivery)).is_ok();
        }
        let last = delivery.last();
        let before = highest.get(name).copied();
        count.delivered(name, before.is_some_and(|before| last <= before));
        highest.insert(name.clone(), before.map_or(last, |before| before.max(last)));
        // It has room: the sequencer keeps to the window, and the queue is one larger.
        queue.try_send(Ok(delivery)).is_ok()
    }

    /// Says that nothing follows.
    pub fn end(&self, subscription: RequestId, end: SubscriptionEnd) {
        if let Some((_, queue)) = self.lock().queues.remove(&subscription) {
            // The handle may be gone already: then nobody wants to know.
            let _ = queue.try_send(Err(end));
        }
    }

    /// The sequencer is gone: handles attach again, or learn why it stopped.
    pub fn clear(&self) {
        self.lock().queues.clear();
    }
}

/// One attachment; dropped, it is taken back.
struct Attached {
    store: QuorumStore,
    id: RequestId,
    told: mpsc::Receiver<Told>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.store.shared().subscriptions.lock().queues.remove(&self.id);
        // A full queue only means that the sequencer finds out at the next delivery.
        self.store.tell(Input::Detach { subscription: self.id });
    }
}

/// How far a subscriber has come in this process.
struct Progress {
    /// Of the present attachment.
    id: AtomicU64,
    /// The next index that was not yielded.
    next: AtomicU64,
    /// The next index that was not acknowledged.
    needs: AtomicU64,
}

/// Commits for one subscriber, in order. See the module docs.
pub struct Subscription {
    attached: Option<Attached>,
    acknowledger: Acknowledger,
    ended: Option<SubscriptionEnd>,
}

/// Tells how far a subscriber has come; for a part of it that runs elsewhere.
#[derive(Clone)]
pub struct Acknowledger {
    store: QuorumStore,
    name: Arc<str>,
    progress: Arc<Progress>,
}

impl QuorumStore {
    /// Attaches a subscriber. `next` is the next index that its own store needs; its first word
    /// makes a name known, and from then on commits and content are kept for it, within
    /// `subscriber_lag_max` and `subscriber_lag_bytes_max`. A former subscription of the same name
    /// ends.
    pub async fn subscribe(
        &self,
        name: &str,
        next: CommitIndex,
    ) -> Result<Subscription, CallError<SubscribeError>> {
        let attached = self.attach(name, next).await?;
        let progress = Progress {
            id: AtomicU64::new(attached.id.0),
            next: AtomicU64::new(next.0),
            needs: AtomicU64::new(next.0),
        };
        let (name, progress) = (Arc::from(name), Arc::new(progress));
        let acknowledger = Acknowledger { store: self.clone(), name, progress };
        Ok(Subscription { attached: Some(attached), acknowledger, ended: None })
    }

    async fn attach(
        &self,
        name: &str,
        next: CommitIndex,
    ) -> Result<Attached, CallError<SubscribeError>> {
        let mut attached = None;
        let input = |id| {
            // The window, what each commit in it may rewrite, and one place for what ends it.
            let room = self.subscriber_window() * (1 + EVIDENCE_MAX) + 1;
            let (queue, told) = mpsc::channel(room);
            let subscriptions = &self.shared().subscriptions;
            subscriptions.lock().queues.insert(id, (name.to_owned(), queue));
            attached = Some(Attached { store: self.clone(), id, told });
            Input::Subscribe { id, subscriber: name.to_owned(), next }
        };
        let reply = self.control(input).await?;
        match (reply, attached) {
            (Reply::Subscribed(Ok(())), Some(attached)) => Ok(attached),
            (Reply::Subscribed(Err(error)), _) => Err(CallError::Refused(error)),
            (other, _) => unexpected(&other),
        }
    }

    /// Gives a name up for good: nothing is kept for it any more. An open subscription of it ends.
    pub async fn unsubscribe(&self, name: &str) -> Result<(), StopCause> {
        let subscriber = name.to_owned();
        match self.control(|id| Input::Unsubscribe { id, subscriber: subscriber.clone() }).await? {
            Reply::Unsubscribed => Ok(()),
            other => unexpected(&other),
        }
    }
}

impl Subscription {
    /// The next commit, once it is applied here and durable. Cancel-safe. After an error every
    /// further call returns the same one.
    pub async fn next(&mut self) -> Result<Delivery, SubscriptionError> {
        loop {
            if let Some(end) = self.ended {
                return Err(end.into());
            }
            let Some(attached) = &mut self.attached else {
                self.attach_again().await?;
                continue;
            };
            match attached.told.recv().await {
                Some(Ok(delivery @ Delivery::Rewritten { by, .. })) => {
                    // Until the commit that carries it was yielded, perhaps again.
                    if self.progress().next.load(Ordering::Acquire) <= by.0 {
                        return Ok(delivery);
                    }
                }
                Some(Ok(delivery)) => {
                    let next = delivery.last().next().0;
                    // After attaching again, what was yielded and not acknowledged comes again.
                    if self.progress().next.fetch_max(next, Ordering::AcqRel) < next {
                        return Ok(delivery);
                    }
                }
                Some(Err(end)) => {
                    self.attached = None;
                    self.ended = Some(end);
                }
                None => self.attached = None,
            }
        }
    }

    async fn attach_again(&mut self) -> Result<(), SubscriptionError> {
        let Acknowledger { store, name, progress } = &self.acknowledger;
        let needs = progress.needs.load(Ordering::Acquire);
        let attached =
            store.attach(name, CommitIndex(needs)).await.map_err(|error| match error {
                CallError::Stopped(cause) => SubscriptionError::Stopped(cause),
                CallError::Refused(refused) => SubscriptionError::Refused(refused),
            })?;
        progress.id.store(attached.id.0, Ordering::Release);
        // Acks that were told under the former attachment meanwhile.
        let next = CommitIndex(progress.needs.load(Ordering::Acquire));
        store.tell(Input::Delivered { subscription: attached.id, next });
        self.attached = Some(attached);
        Ok(())
    }

    fn progress(&self) -> &Progress {
        &self.acknowledger.progress
    }

    /// See [`Acknowledger::acknowledge`].
    pub async fn acknowledge(&self, up_to: CommitIndex) -> Result<(), AcknowledgeError> {
        self.acknowledger.acknowledge(up_to).await
    }

    /// For a part of the subscriber that runs elsewhere.
    pub fn acknowledger(&self) -> Acknowledger {
        self.acknowledger.clone()
    }
}

impl Acknowledger {
    /// Everything up to and including this index is in the subscriber's own store, durably. It is
    /// not delivered again while the process lives, and needs not be kept for this subscriber.
    /// Waits only for room in the queue.
    pub async fn acknowledge(&self, up_to: CommitIndex) -> Result<(), AcknowledgeError> {
        let (next, progress) = (up_to.next(), &self.progress);
        let delivered = progress.next.load(Ordering::Acquire);
        if next.0 > delivered {
            return Err(AcknowledgeError::NotDelivered { up_to });
        }
        progress.needs.fetch_max(next.0, Ordering::AcqRel);
        let subscription = RequestId(progress.id.load(Ordering::Acquire));
        let input = Input::Delivered { subscription, next };
        Ok(self.store.tell_in_turn(Inboxed::of_host(input)).await?)
    }
}
