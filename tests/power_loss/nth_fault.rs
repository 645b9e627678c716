//! The Nth operation of each kind fails, for every N until none does: the engine stops with a typed
//! cause or is not concerned, promises nothing it does not keep, and starts again on the same disk.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fuser::Errno;
use quorum_store::engine::{StartError, StopCause};
use quorum_store::store::StoreError;
use tokio::runtime::Runtime;

use super::enumeration::{Failed, LANES, Start, checked, hold_to, live, lived, runtime, told};
use super::flows::Script;
use super::fs::{Fault, Kind, Variant};
use super::harness::Context;
use super::town::Town;
use super::witness::Witness;

/// Fails with this.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    errno: Errno,
    partly: bool,
    lasts: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        for errno in [Errno::EIO, Errno::ENOSPC] {
            cases.push(Case { kind, errno, partly: false, lasts: false });
        }
    }
    cases.push(Case { kind: Kind::Write, errno: Errno::EIO, partly: true, lasts: false });
    cases.push(Case { kind: Kind::Write, errno: Errno::ENOSPC, partly: false, lasts: true });
    cases.push(Case { kind: Kind::Fsync, errno: Errno::EIO, partly: false, lasts: true });
    cases
}

/// A cause that says that the storage failed, and nothing else.
fn is_typed(failed: &Failed) -> bool {
    let error = match failed {
        Failed::Open(error)
        | Failed::Start(StartError::Store(error))
        | Failed::Live(StopCause::Storage(error)) => error,
        Failed::Start(_) | Failed::Live(_) => return false,
    };
    matches!(error, StoreError::Io { .. } | StoreError::DiskFull { .. })
}

/// What one fault did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    NoneFired,
    NotConcerned,
    Stopped,
}

async fn one(context: &Context, start: &Start, lane: usize, case: Case, after: u64) -> Outcome {
    let disk = context.mount.insert(&format!("fault-{lane}"), start.disk.clone());
    let (town, witness) = (Town::start().await, Witness::going_on(&start.book));
    let Case { kind, errno, partly, lasts } = case;
    disk.fail(Fault { kind, errno, after, lasts, partly });
    let script = Script { bulk: true, delete: true };
    let lived = live(&town, &disk, &witness, script).await;
    let fired = disk.look(|disk| disk.fired) > 0;
    if let Err(failed) = &lived {
        assert!(fired, "failed without a fault: {failed:?}");
        assert!(is_typed(failed), "not a failure of the storage: {failed:?}");
    }
    // The process ends; another one finds what was written, and promises on top of it.
    disk.kill();
    let held = hold_to(&town, &disk, &witness).await;
    held.unwrap_or_else(|error| panic!("no clean restart: {error:?}"));
    disk.cut(Variant::Clean);
    let held = hold_to(&town, &disk, &witness).await;
    held.unwrap_or_else(|error| panic!("cannot go on after the cut: {error:?}"));
    checked(&disk);
    town.stop().await;
    context.survived(witness.book().promises());
    match (fired, lived) {
        (false, _) => Outcome::NoneFired,
        (true, Ok(())) => Outcome::NotConcerned,
        (true, Err(_)) => Outcome::Stopped,
    }
}

pub fn the_nth_fault_stops_the_engine_or_does_not_concern_it(context: &Context) {
    let start = lived(context, "fault");
    let stride = context.full_or(1, 9);
    let mut outcomes = BTreeSet::new();
    for case in cases() {
        let (next, over) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        let found = Mutex::new(Vec::new());
        let lane = |lane: usize| {
            let runtime: Runtime = runtime();
            while over.load(Ordering::Relaxed) == u64::MAX {
                let after = next.fetch_add(1, Ordering::Relaxed) * stride;
                let outcome = told(&format!("{case:?} after {after}"), || {
                    runtime.block_on(one(context, &start, lane, case, after))
                });
                found.lock().unwrap().push(outcome);
                if outcome == Outcome::NoneFired {
                    over.fetch_min(after, Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| {
            let lane = &lane;
            (0..LANES).for_each(|number| drop(scope.spawn(move || lane(number))));
        });
        let found = found.into_inner().unwrap();
        let count = |wanted| found.iter().filter(|outcome| **outcome == wanted).count();
        let (stopped, passed) = (count(Outcome::Stopped), count(Outcome::NotConcerned));
        println!("  {case:?}: stopped {stopped} times, not concerned {passed} times");
        outcomes.extend(found.iter().map(|outcome| (case.kind, *outcome)));
    }
    for kind in [Kind::Write, Kind::Fsync] {
        assert!(outcomes.contains(&(kind, Outcome::Stopped)), "no {kind:?} ever stopped it");
    }
}
