//! How much memory a peer can use, and the largest frames.
//!
//! The same numbers bound both transports. They are per peer, so the memory that links can use is
//! the sum of all fields times the number of peers (beside what the network layer itself buffers).

use super::Class;

/// What each frame is charged beside its length, in queues and budgets: its share of the queue,
/// of the events channel and of the allocator. Without it a peer could fill memory with frames of
/// one byte.
pub const FRAME_OVERHEAD_BYTES: usize = 128;

/// Largest hello in bytes.
pub const HELLO_BYTES_MAX: usize = 64 << 10;

/// Largest value of any limit here: what a semaphore hands out at once.
const LIMIT_BYTES_MAX: u64 = u32::MAX as u64;

/// One value for each [`Class`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerClass<T> {
    /// For [`Class::Control`].
    pub control: T,
    /// For [`Class::Bulk`].
    pub bulk: T,
}

impl<T> PerClass<T> {
    /// The value of one class.
    pub const fn get(&self, class: Class) -> &T {
        match class {
            Class::Control => &self.control,
            Class::Bulk => &self.bulk,
        }
    }

    /// One value for each class.
    pub fn of(mut value: impl FnMut(Class) -> T) -> Self {
        Self { control: value(Class::Control), bulk: value(Class::Bulk) }
    }
}

/// Bounds in bytes per peer and class. [`Limits::validate`] relates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest frame (head and body) in bytes. A larger one is not sent, and closes the link of
    /// the peer that sends one. All validators of a chain must agree on it.
    /// Default: control 1 MiB, bulk 8 MiB. Bound: at least 1 KiB, and within both limits below.
    pub frame_bytes_max: PerClass<usize>,
    /// Bytes of a peer's frames that the host may hold before reading from that peer stops.
    /// Default: control 4 MiB, bulk 32 MiB.
    /// Bound: at least one largest frame with [`FRAME_OVERHEAD_BYTES`], at most 4 GiB - 1.
    pub receive_budget_bytes: PerClass<usize>,
    /// Bytes that wait to be written to a peer before `send` answers `QueueFull`.
    /// Default: control 4 MiB, bulk 32 MiB.
    /// Bound: at least one largest frame with [`FRAME_OVERHEAD_BYTES`], at most 4 GiB - 1.
    pub send_queue_bytes: PerClass<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: PerClass { control: 1 << 20, bulk: 8 << 20 },
            receive_budget_bytes: PerClass { control: 4 << 20, bulk: 32 << 20 },
            send_queue_bytes: PerClass { control: 4 << 20, bulk: 32 << 20 },
        }
    }
}

/// Limits that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Too small for any message.
    #[error("frame_bytes_max of {class} is {bytes}: at least 1024 is needed")]
    FrameTooSmall {
        /// Which class.
        class: Class,
        /// What was configured.
        bytes: usize,
    },
    /// A frame that is allowed would never fit.
    #[error("{field} of {class} is {bytes}: it must hold one largest frame, so at least {least}")]
    HoldsNoFrame {
        /// The field that is too small.
        field: &'static str,
        /// Which class.
        class: Class,
        /// What was configured.
        bytes: usize,
        /// The smallest value that works.
        least: usize,
    },
    /// Beyond what is counted in 32 bits.
    #[error("{field} of {class} is {bytes}: at most 4294967295 is possible")]
    TooLarge {
        /// The field that is too large.
        field: &'static str,
        /// Which class.
        class: Class,
        /// What was configured.
        bytes: usize,
    },
}

impl Limits {
    /// Checks every bound and relation that the fields state.
    pub fn validate(&self) -> Result<(), LimitsError> {
        for class in Class::ALL {
            let frame = *self.frame_bytes_max.get(class);
            if frame < 1024 {
                return Err(LimitsError::FrameTooSmall { class, bytes: frame });
            }
            let least = frame.saturating_add(FRAME_OVERHEAD_BYTES);
            for (field, value) in [
                ("receive_budget_bytes", &self.receive_budget_bytes),
                ("send_queue_bytes", &self.send_queue_bytes),
            ] {
                let bytes = *value.get(class);
                if bytes < least {
                    return Err(LimitsError::HoldsNoFrame { field, class, bytes, least });
                }
                if bytes as u64 > LIMIT_BYTES_MAX {
                    return Err(LimitsError::TooLarge { field, class, bytes });
                }
            }
        }
        Ok(())
    }
}

/// What a frame of this length is charged.
pub(super) const fn cost(frame_bytes: usize) -> usize {
    frame_bytes.saturating_add(FRAME_OVERHEAD_BYTES)
}
