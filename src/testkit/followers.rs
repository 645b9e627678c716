//! Subscribers of each validator: its executor, and indexers that stop, detach, lose their last
//! writes and come back. Each keeps its index on a disk of its own, which governs.

use std::collections::{BTreeMap, VecDeque};

use super::cluster::{Cluster, Event, StopPoint};
use super::host::Pending;
use crate::sequencer::port::{Delivery, Input, RequestId, SubscribeError, SubscriptionEnd};
use crate::types::CommitIndex;

/// Which subscriber: 0 is the executor.
pub(super) type Which = usize;

/// Subscribers of a validator besides its executor.
pub(super) const INDEXERS: usize = 2;

/// What an indexer keeps on its own disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Indexer {
    /// The next index it needs.
    pub next: u64,
    /// Over the headers it took.
    pub hash: u64,
}

/// An indexer, and how it stands.
#[derive(Debug)]
pub(super) struct Follower {
    pub disk: Indexer,
    /// What its disk held some writes ago.
    pub former: Indexer,
    /// Takes nothing for now.
    pub stopped: bool,
}

impl Follower {
    pub const fn new() -> Self {
        let disk = Indexer { next: 1, hash: 0 };
        Self { disk, former: disk, stopped: false }
    }
}

/// What of the subscribers lives in the process.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    by_id: BTreeMap<RequestId, Attachment>,
    current: BTreeMap<Which, RequestId>,
    /// What the executor has been told and not executed.
    pub executor: VecDeque<Delivery>,
}

#[derive(Debug)]
struct Attachment {
    which: Which,
    /// The next index to be told.
    expected: u64,
    /// What an indexer that takes nothing has been told.
    backlog: VecDeque<Delivery>,
    /// True while an ack is on its way.
    acknowledges: bool,
}

/// Adds a header to what an indexer knows.
pub(super) fn fold(hash: u64, index: u64, header: u64) -> u64 {
    (hash ^ index).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) ^ header
}

pub(super) fn name(which: Which) -> String {
    if which == 0 { "executor".to_owned() } else { format!("indexer-{which}") }
}

impl Cluster {
    /// A subscriber attaches with what its own disk needs next.
    pub(super) fn attach(&mut self, node: usize, which: Which) {
        let host = &self.nodes[node].host;
        let next = if which == 0 { host.executed + 1 } else { host.followers[which - 1].disk.next };
        let (subscriber, index) = (name(which), CommitIndex(next));
        let id = self.next_id();
        let Some(running) = &mut self.nodes[node].running else { return };
        let attachment =
            Attachment { which, expected: next, backlog: VecDeque::new(), acknowledges: false };
        running.attachments.by_id.insert(id, attachment);
        running.attachments.current.insert(which, id);
        if which == 0 {
            running.attachments.executor.clear();
        }
        running.pending.insert(id, Pending::Subscribe(which));
        self.input(node, Input::Subscribe { id, subscriber, next: index });
    }

    pub(super) fn on_attach(&mut self, node: usize, life: u64, which: Which) {
        if self.nodes[node].life != life {
            return;
        }
        let Some(running) = &self.nodes[node].running else { return };
        if !running.attachments.current.contains_key(&which) {
            self.attach(node, which);
        }
    }

    pub(super) fn on_subscribed(
        &mut self,
        node: usize,
        which: Which,
        result: Result<(), SubscribeError>,
    ) {
        match result {
            Ok(()) => {}
            Err(SubscribeError::Pruned { first_kept }) => {
                self.trace.count("a subscriber needs what is pruned");
                if let Some(running) = &mut self.nodes[node].running {
                    running.attachments.current.remove(&which);
                }
                if which > 0 {
                    // It takes the state of another one.
                    let hash = self.checker.prefix(first_kept.0 - 1);
                    let follower = &mut self.nodes[node].host.followers[which - 1];
                    follower.disk = Indexer { next: first_kept.0, hash };
                    follower.former = follower.disk;
                } else {
                    self.sync_state(node);
                }
                let life = self.nodes[node].life;
                let micros = self.rng.u64(1000..200_000);
                self.after(micros, Event::Attach { node, life, which });
            }
            Err(error) => {
                self.checker.fail("subscribers attach", format!("node {node}, {which}: {error}"));
            }
        }
    }

    /// The next commit for a subscriber.
    pub(super) fn on_delivery(&mut self, node: usize, id: RequestId, delivery: Delivery) {
        let Some(running) = &mut self.nodes[node].running else { return };
        let attachments = &mut running.attachments;
        let Some(attachment) = attachments.by_id.get_mut(&id) else { return };
        let (which, expected) = (attachment.which, attachment.expected);
        let follows = match delivery {
            Delivery::Commit(commit) => commit.index.0 == expected,
            Delivery::Skipped { from, to } => from.0 <= expected && to.0 >= expected,
            Delivery::Rewritten { by, .. } => by.0 == expected,
        };
        attachment.expected = delivery.last().0 + 1;
        let current = attachments.current.get(&which) == Some(&id);
        if which == 0 && current {
            attachments.executor.push_back(delivery);
            self.execute_after(node, 0);
        } else if current {
            attachment.backlog.push_back(delivery);
            self.follow(node, id);
        }
        if !follows {
            let detail = format!("node {node}, {}: {delivery:?} at {expected}", name(which));
            self.checker.fail("subscribers get every commit, in order", detail);
        }
    }

    /// An indexer takes what it has been told, unless it is stopped, and says so a little later.
    fn follow(&mut self, node: usize, id: RequestId) {
        let life = self.nodes[node].life;
        let state = &mut self.nodes[node];
        let Some(running) = &mut state.running else { return };
        let Some(attachment) = running.attachments.by_id.get_mut(&id) else { return };
        let follower = &mut state.host.followers[attachment.which - 1];
        if follower.stopped {
            return;
        }
        for delivery in attachment.backlog.drain(..) {
            if delivery.last().0 < follower.disk.next {
                continue;
            }
            follower.former = follower.disk;
            let next = delivery.last().0 + 1;
            let hash = match delivery {
                Delivery::Commit(commit) => {
                    let header = self.checker.header_hash(&commit.header);
                    fold(follower.disk.hash, commit.index.0, header)
                }
                Delivery::Skipped { to, .. } => self.checker.prefix(to.0),
                // An indexer of headers rewrites nothing.
                Delivery::Rewritten { .. } => continue,
            };
            follower.disk = Indexer { next, hash };
        }
        if !attachment.acknowledges {
            attachment.acknowledges = true;
            let micros = self.rng.u64(..200_000);
            self.after(micros, Event::Acknowledge { node, life, id });
        }
    }

    pub(super) fn on_acknowledge(&mut self, node: usize, life: u64, id: RequestId) {
        let state = &mut self.nodes[node];
        let current = state.life == life;
        let Some(running) = state.running.as_mut().filter(|_| current) else { return };
        let Some(attachment) = running.attachments.by_id.get_mut(&id) else { return };
        attachment.acknowledges = false;
        let next = CommitIndex(state.host.followers[attachment.which - 1].disk.next);
        self.input(node, Input::Delivered { subscription: id, next });
    }

    /// The executor has executed, or passed over, everything below `next`.
    pub(super) fn acknowledge_executed(&mut self, node: usize) {
        let next = CommitIndex(self.nodes[node].host.executed + 1);
        let Some(running) = &self.nodes[node].running else { return };
        if let Some(subscription) = running.attachments.current.get(&0).copied() {
            self.input(node, Input::Delivered { subscription, next });
        }
    }

    pub(super) fn on_subscription_end(&mut self, node: usize, id: RequestId, end: SubscriptionEnd) {
        let life = self.nodes[node].life;
        let Some(running) = &mut self.nodes[node].running else { return };
        let Some(Attachment { which, .. }) = running.attachments.by_id.remove(&id) else { return };
        if running.attachments.current.get(&which) != Some(&id) {
            return;
        }
        running.attachments.current.remove(&which);
        if end == SubscriptionEnd::Lagged {
            self.trace.count("a subscriber lagged");
            running.may_miss |= which == 0;
            if which == 0 {
                running.attachments.executor.clear();
            }
            let micros = if which == 0 { 1000 } else { self.rng.u64(1000..5_000_000) };
            self.after(micros, Event::Attach { node, life, which });
        }
    }

    /// Something goes wrong with an indexer.
    pub(super) fn fault_follower(&mut self, node: usize) {
        let which = self.rng.usize(1..=INDEXERS);
        let life = self.nodes[node].life;
        let micros = self.rng.u64(100_000..8_000_000);
        let kind = self.rng.u32(..4);
        let state = &mut self.nodes[node];
        let follower = &mut state.host.followers[which - 1];
        if kind == 0 {
            self.trace.count("a subscriber stops");
            follower.stopped = true;
            self.after(micros, Event::Heal { what: super::faults::Healing::Follower(node, which) });
            return;
        }
        let Some(running) = &mut state.running else { return };
        let Some(id) = running.attachments.current.remove(&which) else { return };
        running.attachments.by_id.remove(&id);
        match kind {
            1 => {
                self.trace.count("a subscriber loses its last write");
                follower.disk = follower.former;
                self.input(node, Input::Detach { subscription: id });
            }
            2 => {
                self.trace.count("a subscriber detaches");
                self.input(node, Input::Detach { subscription: id });
            }
            _ => {
                self.trace.count("a subscriber unsubscribes");
                let subscriber = name(which);
                self.request(node, Pending::Unsubscribe, |id| Input::Unsubscribe {
                    id,
                    subscriber,
                });
            }
        }
        self.after(micros, Event::Attach { node, life, which });
    }

    /// Stops some on purpose.
    pub(super) fn stop_subscribers(&mut self, point: &StopPoint) {
        let StopPoint { node, subscribers, .. } = *point;
        for which in (0..=INDEXERS).filter(|which| subscribers & (1 << which) != 0) {
            self.trace.count("a subscriber stops at a chosen step");
            let host = &mut self.nodes[node].host;
            match which {
                0 => host.stopped = true,
                _ => host.followers[which - 1].stopped = true,
            }
            let what = super::faults::Healing::Follower(node, which);
            self.after(3_000_000, Event::Heal { what });
        }
    }

    /// A stopped subscriber goes on.
    pub(super) fn resume(&mut self, node: usize, which: Which) {
        if which == 0 {
            self.nodes[node].host.stopped = false;
            return self.execute_after(node, 0);
        }
        self.nodes[node].host.followers[which - 1].stopped = false;
        let Some(running) = &self.nodes[node].running else { return };
        if let Some(id) = running.attachments.current.get(&which).copied() {
            self.follow(node, id);
        }
    }

    /// What is wrong with a validator's indexers at the end, if anything.
    pub(super) fn indexers_behind(&self, node: usize) -> Option<String> {
        let finalised = self.checker.finalised().len() as u64;
        self.nodes[node].host.followers.iter().enumerate().find_map(|(which, follower)| {
            let Indexer { next, hash } = follower.disk;
            let late = finalised + 1 > next + 8;
            let wrong = hash != self.checker.prefix(next - 1);
            (late || wrong).then(|| {
                let running = self.nodes[node].running.as_ref();
                let status = running.map(|running| running.sequencer.status().subscribers);
                let stopped = follower.stopped;
                format!(
                    "indexer {} is at {next}, wrong: {wrong}, stopped: {stopped}, {status:?}",
                    which + 1
                )
            })
        })
    }
}
