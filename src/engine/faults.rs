//! Shared fate: a panic in any part of the engine ends all parts of this life, once, with a cause.
//!
//! Every thread and task runs inside [`Faults::guard`] or [`Faults::guard_task`]. The first failure
//! is kept, and tells the others to end; what follows from it is only logged. The supervisor looks
//! at the cause when all of them have ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::error::{Part, StopCause};
use crate::tripwire::Tripwire;

/// What became of one life.
#[derive(Debug)]
pub(super) struct Faults {
    first: Mutex<Option<StopCause>>,
    /// Tells every part to end.
    pub stop: CancellationToken,
    /// Where tests make a part panic.
    pub tripwire: Tripwire,
}

impl Faults {
    /// `stop` is that of this life.
    pub fn new(stop: CancellationToken, tripwire: Tripwire) -> Arc<Self> {
        Arc::new(Self { first: Mutex::default(), stop, tripwire })
    }

    /// Ends this life; the first cause stays.
    pub fn report(&self, cause: StopCause) {
        tracing::error!(%cause, "the sequencer stops as a whole");
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(cause);
        drop(first);
        self.stop.cancel();
    }

    /// Why this life ended.
    pub fn cause(&self) -> StopCause {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.clone().unwrap_or(StopCause::Shutdown)
    }

    /// Runs a part on this thread; a panic of it is reported.
    pub fn guard<T>(&self, part: Part, work: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(work));
        done.map_err(|panic| self.report(broken(part, &*panic))).ok()
    }

    /// Runs a part as a task; a panic of it is reported.
    pub async fn guard_task<T>(self: Arc<Self>, part: Part, work: impl Future<Output = T>) {
        if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
            self.report(broken(part, &*panic));
        }
    }
}

/// What a panic said.
pub(super) fn broken(part: Part, panic: &(dyn std::any::Any + Send)) -> StopCause {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    StopCause::Broken { part, message: text.unwrap_or_else(|| "a panic without a text".into()) }
}
