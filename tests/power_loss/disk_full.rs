//! A disk that fills up: told before it is full, survived when it is, and no reason not to start.

use std::time::Duration;

use quorum_store::engine::{QuorumStore, StopCause};
use quorum_store::sequencer::port::{BusyReason, SubmitError};
use quorum_store::store::StoreError;
use quorum_store::types::Digest;

use super::enumeration::{checked, hold_to, lived, runtime};
use super::flows::Life;
use super::fs::Power;
use super::harness::Context;
use super::town::{Town, now, open, released, start, transaction, within};
use super::witness::Witness;

/// Half of the reserve below which nothing is admitted.
const NEARLY_FULL: u64 = 8 << 20;

/// Leaves so much room.
fn leave(disk: &Power, bytes: u64) {
    disk.set(|disk| {
        disk.capacity = None;
        let used = (1 << 40) - disk.free_bytes();
        disk.capacity = Some(used + bytes);
    });
}

/// Submits until the answer is what it should become.
async fn submits(node: &QuorumStore, witness: &Witness, until: impl Fn(&Answer) -> bool) {
    let waiting = async {
        loop {
            let at = now().max(witness.book().latest());
            let text = format!("on a full disk at {:?}", now());
            let results = node.submit(vec![transaction(text, at)]).await.unwrap();
            let answer = results[0].map(|accepted| accepted.batch);
            if let Ok(digest) = answer {
                witness.book().batch(digest);
            }
            if until(&answer) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("another answer to a submission", waiting).await;
}

type Answer = Result<Digest, SubmitError>;

fn is_disk(answer: &Answer) -> bool {
    matches!(answer, Err(SubmitError::Busy { reason: BusyReason::Disk, .. }))
}

/// The low-water mark: batches are refused with the reason, everything else goes on, and admission
/// comes back with the room.
pub fn a_nearly_full_disk_refuses_batches_and_nothing_else(context: &Context) {
    let base = lived(context, "nearly");
    let (disk, witness) =
        (context.mount.insert("nearly", base.disk), Witness::going_on(&base.book));
    runtime().block_on(async {
        let town = Town::start().await;
        let node = start(&town.network, open(disk.path()).unwrap(), &witness).await.unwrap();
        let life = Life { town: &town, node: &node, witness: &witness };
        submits(&node, &witness, Result::is_ok).await;
        leave(&disk, NEARLY_FULL);
        submits(&node, &witness, is_disk).await;
        assert_eq!(node.status().await.unwrap().busy.as_deref(), Some("disk nearly full"));
        // A peer's batch waits for the room and is signed then; a block is ordered meanwhile.
        let signed = async {
            within("a signature once there is room", life.receive_and_sign()).await.unwrap();
            disk.look(|disk| disk.capacity)
        };
        let meanwhile = async {
            let block = life.propose_and_commit(now());
            within("a block on a nearly full disk", block).await.unwrap();
            disk.set(|disk| disk.capacity = None);
            submits(&node, &witness, Result::is_ok).await;
        };
        let (room, ()) = tokio::join!(signed, meanwhile);
        assert_eq!(room, None, "signed on a nearly full disk");
        within("the engine stops", node.shutdown()).await;
        drop(node);
        released(disk.path()).await;
        town.stop().await;
    });
}

/// Full while it runs: the typed cause, and nothing promised is lost; full when it starts: it
/// starts, keeps what it promised, orders blocks, and admits batches once there is room.
pub fn a_full_disk_stops_the_engine_and_it_starts_on_it_again(context: &Context) {
    let base = lived(context, "full");
    let (disk, witness) = (context.mount.insert("full", base.disk), Witness::going_on(&base.book));
    runtime().block_on(async {
        let town = Town::start().await;
        let node = start(&town.network, open(disk.path()).unwrap(), &witness).await.unwrap();
        let life = Life { town: &town, node: &node, witness: &witness };
        submits(&node, &witness, Result::is_ok).await;
        life.fill(20).await.unwrap();
        leave(&disk, 0);
        // Commits need room too, and there is none.
        let blocks = async {
            loop {
                if let Err(cause) = life.propose_and_commit(now()).await {
                    return cause;
                }
            }
        };
        let cause = within("a full disk stops it", blocks).await;
        let typed = matches!(cause, StopCause::Storage(StoreError::DiskFull { .. }));
        assert!(typed, "{cause:?}");
        within("the engine stops", node.shutdown()).await;
        drop(node);
        released(disk.path()).await;

        for start_number in 1..=3 {
            assert!(disk.look(super::fs::Disk::free_bytes) < NEARLY_FULL || start_number > 1);
            let opened = open(disk.path());
            let store = opened.unwrap_or_else(|error| panic!("start {start_number}: {error}"));
            let node = start(&town.network, store, &witness).await.unwrap();
            let lost = witness.book().lost(&*node.reader());
            assert!(lost.is_empty(), "LOST: {lost:#?}");
            let life = Life { town: &town, node: &node, witness: &witness };
            life.repeat().await.unwrap();
            within("a block", life.propose_and_commit(now())).await.unwrap();
            within("the engine stops", node.shutdown()).await;
            drop(node);
            released(disk.path()).await;
        }
        disk.set(|disk| disk.capacity = None);
        hold_to(&town, &disk, &witness).await.unwrap();
        checked(&disk);
        town.stop().await;
    });
}
