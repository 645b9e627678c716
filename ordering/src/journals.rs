//! Which journals of the process are in use, so that two engines never open one.
//!
//! An aborted voter is dropped by the thread that runs it, a moment after the abort. A new one
//! that opens the journal before that would take it for a failure and stop; one that opens it
//! beside a live voter could damage it. So each engine holds a [`Lease`] of its journal until its
//! voter is gone, and the next one waits for it.

use crate::OrderingError;
use commonware_runtime::{Error, Storage as _, tokio::Context};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long an address or a journal may still be held by an engine that was aborted just before.
pub(crate) const RELEASE_WAIT_MAX: Duration = Duration::from_secs(3);

/// How often a held address or file is tried again.
pub(crate) const RELEASE_POLL_INTERVAL: Duration = Duration::from_millis(10);

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The journals of one runtime that are in use or wanted.
#[derive(Default)]
pub(crate) struct Journals {
    locks: Mutex<HashMap<String, Lock>>,
}

impl Journals {
    /// Returns the journal of a partition, not yet leased.
    pub(crate) fn journal(&self, partition: String) -> Journal {
        // The map is never left half changed, so a panic elsewhere does not matter to it.
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of former epochs, which nobody holds or waits for.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        let lock = locks.entry(partition.clone()).or_default().clone();
        Journal { partition, lock }
    }
}

/// A journal that an engine wants to open.
pub(crate) struct Journal {
    partition: String,
    lock: Lock,
}

/// The right to use a journal, and the sign that an engine still exists.
pub(crate) struct Lease {
    _journal: OwnedMutexGuard<()>,
    _token: TaskTrackerToken,
}

impl Journal {
    /// Waits until no engine of this process uses the journal, for a while.
    pub(crate) async fn lease(
        self,
        context: &Context,
        token: TaskTrackerToken,
    ) -> Result<Lease, OrderingError> {
        let Ok(guard) = timeout(RELEASE_WAIT_MAX, self.lock.lock_owned()).await else {
            let reason = String::from("another engine of this process uses it");
            return Err(OrderingError::Journal { partition: self.partition, reason });
        };
        wait_until_closed(context, &self.partition).await.map_err(|error| {
            let reason = error.to_string();
            OrderingError::Journal { partition: self.partition, reason }
        })?;
        Ok(Lease { _journal: guard, _token: token })
    }
}

/// Waits until the files of a journal are closed. Its voter lets go of the lease at the beginning
/// of being dropped, and of the files at the end.
async fn wait_until_closed(context: &Context, partition: &str) -> Result<(), Error> {
    let deadline = Instant::now() + RELEASE_WAIT_MAX;
    let names = match context.scan(partition).await {
        Ok(names) => names,
        Err(Error::PartitionMissing(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names {
        while let Err(error) = context.open(partition, &name).await {
            let held = matches!(error, Error::BlobAlreadyOpen(..));
            if !held || Instant::now() >= deadline {
                return Err(error);
            }
            sleep(RELEASE_POLL_INTERVAL).await;
        }
    }
    Ok(())
}
