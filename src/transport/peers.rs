//! The table of peers, and the life of a link in it: what both transports share.
//!
//! A [`PeerSlot`] exists for as long as its key is in the set. Links come and go in it, one at a
//! time: [`PeerSlot::live`] holds the slot's turn from before `Up` until after `Down`, so the
//! events of successive links cannot interleave.
//!
//! Locks are held for a few instructions, never across an await, and never one inside another.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    Class, Frame, Limits, LinkDown, LinkEvent, LinkStatus, Peer, PerClass, Refusal, SendError,
    events::Events, limits::cost, link::Link, sync::lock,
};
use crate::types::Author;

/// A peer of the set.
pub(super) struct PeerSlot {
    key: Author,
    address: Mutex<SocketAddr>,
    budgets: PerClass<Arc<Semaphore>>,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    state: Mutex<SlotState>,
    turn: tokio::sync::Mutex<()>,
    readdressed: Notify,
    stop: CancellationToken,
}

#[derive(Default)]
struct SlotState {
    link: Option<Arc<Link>>,
    /// Cancels the attempt that is not a link yet. A newer attempt takes its place.
    candidate: Option<CancellationToken>,
    last_down: Option<LinkDown>,
    ups: u64,
    second_links: u64,
}

impl PeerSlot {
    fn new(peer: &Peer, limits: &Limits, stop: CancellationToken) -> Self {
        Self {
            key: peer.key,
            address: Mutex::new(peer.address),
            budgets: PerClass::of(|class| {
                Arc::new(Semaphore::new(*limits.receive_budget_bytes.get(class)))
            }),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
            readdressed: Notify::new(),
            stop,
        }
    }

    pub(super) fn key(&self) -> Author {
        self.key
    }

    pub(super) fn address(&self) -> SocketAddr {
        *lock(&self.address)
    }

    /// Wakes when the address changed.
    pub(super) async fn readdressed(&self) {
        self.readdressed.notified().await;
    }

    /// Wakes when the peer was removed or the transport shuts down.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The present link.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        lock(&self.state).link.clone()
    }

    pub(super) fn count_sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_received(&self, bytes: u64) {
        self.bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Waits for room for a frame of this length in the peer's receive budget.
    pub(super) async fn receive_permit(
        &self,
        class: Class,
        frame_bytes: usize,
    ) -> Option<OwnedSemaphorePermit> {
        let charged = u32::try_from(cost(frame_bytes)).ok()?;
        Arc::clone(self.budgets.get(class)).acquire_many_owned(charged).await.ok()
    }

    /// Records why an attempt failed before it was a link.
    pub(super) fn note_down(&self, reason: LinkDown) {
        let mut state = lock(&self.state);
        state.second_links += u64::from(reason == LinkDown::RefusedByUs(Refusal::SecondLink));
        state.last_down = Some(reason);
    }

    /// Registers an attempt, and cancels an older one that is not a link yet: an attempt without
    /// a link has no value, and the older end may be a process that was killed.
    pub(super) fn candidate(&self) -> CancellationToken {
        let token = CancellationToken::new();
        if let Some(older) = lock(&self.state).candidate.replace(token.clone()) {
            older.cancel();
        }
        token
    }

    /// Makes an attempt the link of this slot, runs `carry` until the link has ended, and reports
    /// `Up` and `Down`. `carry` must finish soon after [`Link::ended`]. It runs in any case: if the
    /// link has ended before it was up, all it does is to tell the other end.
    pub(super) async fn live(
        &self,
        events: &Events,
        link: &Arc<Link>,
        candidate: &CancellationToken,
        hello: Bytes,
        carry: impl Future<Output = ()>,
    ) -> LinkDown {
        let turn = tokio::select! {
            biased;
            () = candidate.cancelled() => None,
            () = self.stop.cancelled() => None,
            turn = self.turn.lock() => Some(turn),
        };
        if turn.is_none() || !self.promote(link, candidate) {
            let reason = if self.is_stopped() {
                LinkDown::Closed
            } else {
                LinkDown::RefusedByUs(Refusal::SecondLink)
            };
            link.end(reason);
            carry.await;
            let reason = link.ended().await;
            self.note_down(reason.clone());
            return reason;
        }
        // Dropped with this future when tasks are abandoned.
        let _present = Present { slot: self, link };
        let up = tokio::select! {
            biased;
            up = events.emit(LinkEvent::Up { peer: self.key, hello }) => up,
            _ = link.ended() => false,
        };
        let end_at_stop = async {
            tokio::select! {
                () = self.stop.cancelled() => link.end(LinkDown::Closed),
                _ = link.ended() => {}
            }
        };
        if !up {
            link.end(LinkDown::Closed);
        }
        tokio::join!(carry, end_at_stop);
        let reason = link.ended().await;
        self.clear(link);
        self.note_down(reason.clone());
        if up {
            events.emit(LinkEvent::Down { peer: self.key, reason: reason.clone() }).await;
        }
        drop(turn);
        reason
    }

    fn clear(&self, link: &Arc<Link>) {
        let mut state = lock(&self.state);
        if state.link.as_ref().is_some_and(|present| Arc::ptr_eq(present, link)) {
            state.link = None;
        }
    }

    fn promote(&self, link: &Arc<Link>, candidate: &CancellationToken) -> bool {
        let mut state = lock(&self.state);
        if candidate.is_cancelled() || self.is_stopped() {
            return false;
        }
        state.candidate = None;
        state.link = Some(Arc::clone(link));
        state.ups += 1;
        true
    }

    /// The key left the set.
    fn retire(&self) {
        let (link, candidate) = {
            let mut state = lock(&self.state);
            (state.link.clone(), state.candidate.take())
        };
        if let Some(link) = link {
            link.end(LinkDown::RefusedByUs(Refusal::UnknownKey));
        }
        if let Some(candidate) = candidate {
            candidate.cancel();
        }
        self.stop.cancel();
    }

    fn readdress(&self, address: SocketAddr) {
        let mut current = lock(&self.address);
        if *current != address {
            *current = address;
            self.readdressed.notify_one();
        }
    }

    fn status(&self) -> LinkStatus {
        let address = self.address();
        let state = lock(&self.state);
        let link = state.link.clone();
        let (last_down, ups) = (state.last_down.clone(), state.ups);
        let second_links = state.second_links;
        drop(state);
        let report = link.as_ref().map(|link| link.report()).unwrap_or_default();
        LinkStatus {
            peer: self.key,
            address,
            up: link.is_some(),
            last_down,
            ups,
            second_links,
            rtt: report.rtt,
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            queue_bytes: PerClass::of(|class| {
                link.as_ref().map_or(0, |link| link.queue(class).bytes())
            }),
            current_mtu: report.current_mtu,
            black_holes: report.black_holes,
        }
    }
}

/// Sees to it that a slot does not keep a link whose task was dropped.
struct Present<'a> {
    slot: &'a PeerSlot,
    link: &'a Arc<Link>,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.link.end(LinkDown::Closed);
        self.slot.clear(self.link);
    }
}

/// The set of peers, by key. It is also the allow list that the handshake asks.
pub(super) struct PeerTable {
    own: Author,
    limits: Limits,
    stop: CancellationToken,
    slots: RwLock<BTreeMap<Author, Arc<PeerSlot>>>,
}

impl PeerTable {
    pub(super) fn new(own: Author, limits: Limits, stop: CancellationToken) -> Self {
        Self { own, limits, stop, slots: RwLock::default() }
    }

    pub(super) fn own(&self) -> Author {
        self.own
    }

    pub(super) fn get(&self, key: &Author) -> Option<Arc<PeerSlot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Replaces the set and returns the slots that are new. After shutdown it does nothing.
    pub(super) fn replace(&self, peers: &[Peer]) -> Vec<Arc<PeerSlot>> {
        if self.stop.is_cancelled() {
            return Vec::new();
        }
        let mut added = Vec::new();
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let mut old = std::mem::take(&mut *slots);
        for peer in peers.iter().filter(|peer| peer.key != self.own) {
            let slot = old.remove(&peer.key).or_else(|| slots.get(&peer.key).cloned());
            let slot = slot.unwrap_or_else(|| {
                let slot = PeerSlot::new(peer, &self.limits, self.stop.child_token());
                let slot = Arc::new(slot);
                added.push(Arc::clone(&slot));
                slot
            });
            slot.readdress(peer.address);
            slots.insert(peer.key, slot);
        }
        drop(slots);
        for slot in old.values() {
            slot.retire();
        }
        added
    }

    pub(super) fn send(&self, to: Author, class: Class, frame: Frame) -> Result<(), SendError> {
        let (bytes, max) = (frame.len(), *self.limits.frame_bytes_max.get(class));
        if bytes == 0 {
            return Err(SendError::Empty);
        }
        if bytes > max {
            return Err(SendError::TooLarge { bytes, max, class });
        }
        let link = self.get(&to).and_then(|slot| slot.link()).ok_or(SendError::NotConnected)?;
        link.queue(class).push(frame)
    }

    pub(super) fn refuse(&self, peer: Author, reason: Refusal) {
        if let Some(link) = self.get(&peer).and_then(|slot| slot.link()) {
            link.end(LinkDown::RefusedByUs(reason));
        }
    }

    pub(super) fn links(&self) -> Vec<LinkStatus> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slots: Vec<_> = slots.values().cloned().collect();
        slots.iter().map(|slot| slot.status()).collect()
    }
}
