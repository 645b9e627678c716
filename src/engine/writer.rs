//! The writer: one thread, one group after the other, one fsync each.
//!
//! The first error is final: it is handed on, and nothing is written any more.

use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::store::{CommitStats, Group, Persisted, Store, StoreError};

/// What the driver learns of a group.
#[derive(Debug)]
pub(super) enum Written {
    /// It, and all before it, are durable.
    Durable { sequence: u64, stats: CommitStats, batches: u64, records: u64 },
    /// The store failed.
    Failed(StoreError),
}

/// Starts the writer thread. It ends when `groups` closes, or after the first failure.
pub(super) fn start(
    mut store: Box<dyn Store>,
    mut groups: mpsc::Receiver<Group>,
    written: mpsc::Sender<Written>,
    persisted: mpsc::Sender<Persisted>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("qs-writer".into()).spawn(move || {
        while let Some(group) = groups.blocking_recv() {
            let records = group.records().len() as u64;
            let is_batch = |record: &&_| matches!(record, crate::sequencer::port::Record::Batch(_));
            let batches = group.records().iter().filter(is_batch).count() as u64;
            match group.persist(&mut *store) {
                Ok(group) => {
                    let (sequence, stats) = (group.sequence, group.stats);
                    // Egress first, so that signatures leave before the next group is made up. A
                    // closed channel means that the engine is being dropped.
                    let sent = persisted.blocking_send(group).is_ok();
                    let durable = Written::Durable { sequence, stats, batches, records };
                    if !sent || written.blocking_send(durable).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let _ = written.blocking_send(Written::Failed(error));
                    return;
                }
            }
        }
    })
}
