//! The two clocks: latencies use the first, expirations and block timestamps the second.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use quorum_store::types::Timestamp;
use quorum_store::types::ids::micros;

/// Counts microseconds since the process started; never goes back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts to count.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Microseconds since then.
    pub fn micros(&self) -> u64 {
        micros(self.origin.elapsed())
    }
}

/// The clock on the wall; may jump.
pub fn wall() -> Timestamp {
    // A clock before 1970 reads as 1970: blocks then keep their parent's timestamp.
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros))
}
