//! The control: on a disk that only says it synced, promises must be found lost. If they are not,
//! the rest of this suite proves nothing.

use super::enumeration::{Start, empty, live, lived, runtime};
use super::flows::Script;
use super::fs::{Kind, Variant};
use super::harness::Context;
use super::town::{Town, create, open};
use super::witness::Witness;
use quorum_store::store::Store as _;

/// Cuts every so many operations.
const STRIDE: usize = 7;

/// How the disk lies, and what a cut leaves of it.
struct Case {
    what: &'static str,
    start: Start,
    lies: &'static [Kind],
    variant: Variant,
}

/// True if after a cut before operation `number` something promised is gone, or all is.
fn loses(context: &Context, case: &Case, number: u64) -> bool {
    let Case { start, lies, variant, .. } = case;
    let disk = context.mount.insert("control", start.disk.clone());
    let witness = Witness::going_on(&start.book);
    let before = witness.book().promises();
    disk.set(|disk| disk.lies = *lies);
    disk.cut_at(number);
    runtime().block_on(async {
        let town = Town::start().await;
        let script = Script { bulk: true, delete: false };
        // It may die or not: what it promised until then is in the book.
        drop(live(&town, &disk, &witness, script).await);
        town.stop().await;
    });
    let promised = witness.book().promises() > before;
    disk.cut(*variant);
    let Ok(mut store) = open(disk.path()) else { return true };
    if store.recover().is_err() {
        return true;
    }
    let lost = !witness.book().lost(&*store.reader()).is_empty();
    assert!(promised || !lost, "nothing was promised on the lying disk, and something is gone");
    lost
}

/// Whatever the kind of lie, some cut must show it.
pub fn a_disk_that_lies_about_syncs_loses_promises(context: &Context) {
    let case = |what, start, lies, variant| Case { what, start, lies, variant };
    let (later, first) = (lived(context, "control"), empty(context, "control"));
    let cases = [
        case("a later life, no sync at all", later.clone(), &Kind::SYNCS, Variant::Clean),
        case("a first life, no sync of files", first, &[Kind::Fsync], Variant::Clean),
        case("a later life, no sync of names", later, &[Kind::FsyncDirectory], Variant::NamesLost),
    ];
    let stride = context.full_or(STRIDE, 3 * STRIDE);
    for case in cases {
        let numbers: Vec<u64> = (0..150).step_by(stride).collect();
        let lost = numbers.iter().filter(|number| loses(context, &case, **number)).count();
        println!("  {}: lost at {lost} of {} cuts", case.what, numbers.len());
        assert!(lost > 0, "{}: nothing was lost: the harness is blind", case.what);
    }
}

/// The parent directory too: without its sync, the whole store is gone.
pub fn a_store_whose_parent_was_never_synced_is_gone(context: &Context) {
    for (lies, kept) in [(&[][..], true), (&[Kind::FsyncDirectory][..], false)] {
        let disk = context.mount.disk("control");
        disk.set(|disk| disk.lies = lies);
        create(disk.path()).unwrap();
        disk.cut(Variant::NamesLost);
        let found = open(disk.path()).and_then(|mut store| store.recover());
        assert_eq!(found.is_ok(), kept, "{found:?}");
    }
}
