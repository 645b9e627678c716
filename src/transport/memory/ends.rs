//! The two ends of a link in memory.

use std::sync::{Arc, OnceLock, Weak};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::Node;
use crate::transport::{
    Class, Inbound, Limits, LinkDown, LinkEvent,
    link::{Link, Path, PathReport},
    peers::PeerSlot,
};

/// Frames that are moved from a queue at once.
const MOVE_BYTES: usize = 256 << 10;

/// Two ends that tell each other when one ends.
pub(super) fn linked(limits: &Limits) -> (Arc<Link>, Arc<Link>) {
    let (to_near, to_far) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let near_path = Box::new(MemoryPath { other: Arc::clone(&to_far) });
    let far_path = Box::new(MemoryPath { other: Arc::clone(&to_near) });
    let near = Arc::new(Link::new(limits, near_path));
    let far = Arc::new(Link::new(limits, far_path));
    // Both cells are fresh, so neither call can fail.
    let _ = to_near.set(Arc::downgrade(&near));
    let _ = to_far.set(Arc::downgrade(&far));
    (near, far)
}

struct MemoryPath {
    other: Arc<OnceLock<Weak<Link>>>,
}

impl Path for MemoryPath {
    /// The other end learns of it at once. If it is the one that ended first, nothing happens.
    fn ended(&self, reason: &LinkDown) {
        let there = match reason {
            LinkDown::Lost(_) => reason.clone(),
            _ => LinkDown::by_peer(reason.code()),
        };
        if let Some(other) = self.other.get().and_then(Weak::upgrade) {
            other.end(there);
        }
    }

    fn report(&self) -> PathReport {
        PathReport::default()
    }
}

/// One end of a link: reads what the other end has queued.
pub(super) struct End {
    pub(super) node: Arc<Node>,
    pub(super) slot: Arc<PeerSlot>,
    pub(super) link: Arc<Link>,
    pub(super) other: Arc<Link>,
    pub(super) other_slot: Arc<PeerSlot>,
}

impl End {
    pub(super) async fn live(self, hello: Bytes) {
        let candidate = self.slot.candidate();
        let carry = async {
            tokio::select! {
                biased;
                _ = self.link.ended() => {}
                ((), ()) = futures::future::join(
                    self.read(Class::Control),
                    self.read(Class::Bulk),
                ) => {}
            }
        };
        self.slot.live(&self.node.events, &self.link, &candidate, hello, carry).await;
    }

    /// Moves frames of one class until this end is dropped.
    async fn read(&self, class: Class) {
        let queue = self.other.queue(class);
        let mut frames = Vec::new();
        loop {
            let charged = queue.take(&mut frames, MOVE_BYTES).await;
            for frame in frames.drain(..) {
                let bytes = frame.len();
                let Some(permit) = self.slot.receive_permit(class, bytes).await else { return };
                let mut buffer = BytesMut::with_capacity(bytes);
                buffer.put(frame.head);
                buffer.put(frame.body);
                self.other_slot.count_sent(4 + bytes as u64);
                self.slot.count_received(4 + bytes as u64);
                let inbound = Inbound::new(self.slot.key(), class, buffer.freeze(), permit);
                if !self.node.events.emit(LinkEvent::Frame(inbound)).await {
                    self.link.end(LinkDown::Closed);
                    return;
                }
            }
            queue.release(charged);
        }
    }
}
