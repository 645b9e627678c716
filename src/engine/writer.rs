//! The writer: one thread, one group after the other, one fsync each.
//!
//! The first error is final: it is handed on, and nothing is written any more.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::error::Part;
use super::faults::Faults;
use crate::sequencer::port::Record;
use crate::store::{CommitStats, Group, Persisted, Store, StoreError};

/// What the driver learns of a group.
#[derive(Debug)]
pub(super) enum Written {
    /// It, and all before it, are durable.
    Durable { sequence: u64, stats: CommitStats, contents: Contents },
    /// The store failed.
    Failed(StoreError),
}

/// What a group held, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contents {
    pub records: u64,
    pub batches: u64,
    pub deleted_batches: u64,
    pub deleted_payloads: u64,
}

impl Contents {
    fn of(group: &Group) -> Self {
        let mut contents = Self::default();
        for record in group.records() {
            contents.records += 1;
            match record {
                Record::Batch(_) => contents.batches += 1,
                Record::DropBatch { .. } => contents.deleted_batches += 1,
                Record::DropPayload { .. } => contents.deleted_payloads += 1,
                _ => {}
            }
        }
        contents
    }
}

/// Starts the writer thread. It ends when `groups` closes, after the first failure, or after a
/// panic, and gives the store back.
pub(super) fn start(
    mut store: Box<dyn Store>,
    faults: Arc<Faults>,
    mut groups: mpsc::Receiver<Group>,
    written: mpsc::Sender<Written>,
    persisted: mpsc::Sender<Persisted>,
) -> std::io::Result<JoinHandle<Box<dyn Store>>> {
    std::thread::Builder::new().name("qs-writer".into()).spawn(move || {
        faults.guard(Part::Writer, || {
            while let Some(group) = groups.blocking_recv() {
                faults.tripwire.at("writer", "before");
                if !write(&mut *store, group, &written, &persisted) {
                    return;
                }
                faults.tripwire.at("writer", "after");
            }
        });
        store
    })
}

/// Makes one group durable and hands its promises on. False if it was the last one.
fn write(
    store: &mut dyn Store,
    group: Group,
    written: &mpsc::Sender<Written>,
    persisted: &mpsc::Sender<Persisted>,
) -> bool {
    let contents = Contents::of(&group);
    match group.persist(store) {
        Ok(group) => {
            let (sequence, stats) = (group.sequence, group.stats);
            // Egress first, so that signatures leave before the next group is made up. A closed
            // channel means that this life is ending.
            let sent = persisted.blocking_send(group).is_ok();
            let durable = Written::Durable { sequence, stats, contents };
            sent && written.blocking_send(durable).is_ok()
        }
        Err(error) => {
            let _ = written.blocking_send(Written::Failed(error));
            false
        }
    }
}
