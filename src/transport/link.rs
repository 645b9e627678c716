//! One link, as both transports see it: its queues, what carries it, and how it ended.
//!
//! A link ends through [`Link::end`] and nothing else. The first reason counts.

use std::{sync::OnceLock, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Class, Limits, LinkDown, PerClass, queue::SendQueue};

/// What carries a link: a connection, or the other end in memory.
pub(super) trait Path: Send + Sync {
    /// The link has ended at this end. Called once. What cannot tell the other end here does so
    /// when its tasks see [`Link::ended`].
    fn ended(&self, reason: &LinkDown);

    fn report(&self) -> PathReport;
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PathReport {
    pub(super) rtt: Option<Duration>,
    pub(super) current_mtu: u16,
    pub(super) black_holes: u64,
    /// Grows with whatever the other end sends, keep-alives included.
    #[cfg_attr(not(feature = "quic"), expect(dead_code, reason = "memory has no second links"))]
    pub(super) datagrams_received: u64,
}

/// One link: its queues, its path, and how it ended.
pub(super) struct Link {
    queues: PerClass<SendQueue>,
    path: Box<dyn Path>,
    reason: OnceLock<LinkDown>,
    ended: CancellationToken,
}

impl Link {
    pub(super) fn new(limits: &Limits, path: Box<dyn Path>) -> Self {
        Self {
            queues: PerClass::of(|class| SendQueue::new(*limits.send_queue_bytes.get(class))),
            path,
            reason: OnceLock::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Ends the link. Only the first call counts.
    pub(super) fn end(&self, reason: LinkDown) {
        let mut first = false;
        let reason = self.reason.get_or_init(|| {
            first = true;
            reason
        });
        if first {
            self.path.ended(reason);
            for class in Class::ALL {
                self.queue(class).close();
            }
            self.ended.cancel();
        }
    }

    /// Waits until the link has ended.
    pub(super) async fn ended(&self) -> LinkDown {
        self.ended.cancelled().await;
        self.reason.get().cloned().unwrap_or(LinkDown::Closed)
    }

    pub(super) fn queue(&self, class: Class) -> &SendQueue {
        self.queues.get(class)
    }

    pub(super) fn report(&self) -> PathReport {
        self.path.report()
    }
}
