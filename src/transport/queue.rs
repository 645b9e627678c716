//! The send queue of one link and class: bounded in bytes, one writer takes from it.
//!
//! Frames count from [`SendQueue::push`] until [`SendQueue::release`], which the writer calls when
//! the bytes have been written. So what is being written counts too, and a full queue means that
//! the peer does not take more.

use std::{collections::VecDeque, sync::Mutex};

use tokio::sync::Notify;

use super::{Frame, SendError, limits::cost, sync::lock};

#[derive(Debug)]
pub(super) struct SendQueue {
    state: Mutex<State>,
    ready: Notify,
    limit_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame>,
    /// Charged bytes of `frames` and of what was taken and not released.
    bytes: usize,
    closed: bool,
}

impl SendQueue {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { state: Mutex::default(), ready: Notify::new(), limit_bytes }
    }

    /// Queues a frame, or says why not.
    pub(super) fn push(&self, frame: Frame) -> Result<(), SendError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(SendError::NotConnected);
        }
        let bytes = state.bytes.saturating_add(cost(frame.len()));
        if bytes > self.limit_bytes {
            return Err(SendError::QueueFull);
        }
        state.bytes = bytes;
        state.frames.push_back(frame);
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Waits for frames and moves some to `out`: at least one, and more while they stay within
    /// `bytes_max` together. Returns what to [`release`](Self::release) once they are written.
    ///
    /// There is one taker: a second one could miss its wake-up.
    pub(super) async fn take(&self, out: &mut Vec<Frame>, bytes_max: usize) -> usize {
        loop {
            let charged = self.try_take(out, bytes_max);
            if charged > 0 {
                return charged;
            }
            self.ready.notified().await;
        }
    }

    fn try_take(&self, out: &mut Vec<Frame>, bytes_max: usize) -> usize {
        let mut state = lock(&self.state);
        let mut charged = 0;
        while let Some(frame) = state.frames.front() {
            let more = cost(frame.len());
            if charged > 0 && charged + more > bytes_max {
                break;
            }
            charged += more;
            out.extend(state.frames.pop_front());
        }
        charged
    }

    /// Gives back the room of frames that were written.
    pub(super) fn release(&self, charged: usize) {
        let mut state = lock(&self.state);
        state.bytes = state.bytes.saturating_sub(charged);
    }

    /// Drops what is queued and refuses what comes.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.bytes = 0;
        state.frames = VecDeque::new();
    }

    /// What counts against the limit now.
    pub(super) fn bytes(&self) -> usize {
        lock(&self.state).bytes
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt as _;

    use super::*;
    use crate::transport::FRAME_OVERHEAD_BYTES;

    fn frame(bytes: usize) -> Frame {
        Frame::from(Bytes::from(vec![1; bytes]))
    }

    #[test]
    fn what_is_being_written_counts_until_it_is_released() {
        let queue = SendQueue::new(2 * (100 + FRAME_OVERHEAD_BYTES));
        queue.push(frame(100)).expect("room for the first");
        queue.push(frame(100)).expect("room for the second");
        assert_eq!(queue.push(frame(1)), Err(SendError::QueueFull));
        let mut out = Vec::new();
        let charged = queue.take(&mut out, 1).now_or_never().expect("there are frames");
        assert_eq!(out.len(), 1, "one at least, although it exceeds what was asked");
        assert_eq!(queue.push(frame(1)), Err(SendError::QueueFull), "still counted");
        queue.release(charged);
        queue.push(frame(100)).expect("room again");
        assert_eq!(queue.take(&mut out, 1 << 20).now_or_never(), Some(2 * charged));
        assert!(queue.take(&mut out, 1).now_or_never().is_none(), "empty");
    }

    #[test]
    fn a_closed_queue_holds_nothing_and_takes_nothing() {
        let queue = SendQueue::new(1 << 20);
        queue.push(frame(10)).expect("room");
        queue.close();
        assert_eq!(queue.bytes(), 0);
        assert_eq!(queue.push(frame(10)), Err(SendError::NotConnected));
    }
}
