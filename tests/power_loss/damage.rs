//! Flipped bits, cut and missing files, in every file of a store: never a panic, never wrong data,
//! and nothing that was promised is missing without being told.
//!
//! One thing cannot be told, and is the named limit of this store: after a crash, rot in the very
//! last frame looks like the torn end of a group that was never promised. These stores were closed,
//! so here nothing may go unnoticed.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use quorum_store::store::check::check;
use quorum_store::store::journal::JournalStore;
use quorum_store::store::{Store as _, StoreError, StoreIdentity};
use quorum_store::types::ChainId;

use super::enumeration::{Start, lived, told};
use super::fs::{Draw, Power, Variant};
use super::harness::Context;
use super::town::{identity, open, storage, store_path};

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit, so far into the file, in thousandths of its length.
    Flip(u64),
    /// Only the first half is left.
    Half,
    Empty,
    Gone,
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn damage(path: &Path, damage: Damage) {
    let open = || OpenOptions::new().read(true).write(true).open(path).unwrap();
    let length = fs::metadata(path).unwrap().len();
    match damage {
        Damage::Flip(place) if length > 0 => {
            let (file, mut byte) = (open(), [0]);
            let at = (length - 1) * place / 1000;
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << (place % 8))], at).unwrap();
        }
        Damage::Flip(_) => {}
        Damage::Half => open().set_len(length / 2).unwrap(),
        Damage::Empty => open().set_len(0).unwrap(),
        Damage::Gone => fs::remove_file(path).unwrap(),
    }
}

/// How it was noticed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Noticed {
    AtOpening,
    WhenRead,
    ByCheck,
    NothingIsMissing,
    Nowhere,
}

/// Every error says what to do, and none is about something else.
fn says_what_to_do(error: &StoreError) {
    let said = error.to_string();
    let advice = ["check the disk", "restore the disk", "create it with", "matching release"];
    assert!(advice.iter().any(|advice| said.contains(advice)), "no advice: {said}");
}

fn notice(disk: &Power, start: &Start) -> Noticed {
    let recovered = open(disk.path()).and_then(|mut store| store.recover().map(|_| store));
    let store = match recovered {
        Ok(store) => store,
        Err(error) => {
            says_what_to_do(&error);
            return Noticed::AtOpening;
        }
    };
    let lost = start.book.lost(&*store.reader());
    drop(store);
    if lost.is_empty() {
        return Noticed::NothingIsMissing;
    }
    if lost.iter().all(|lost| lost.contains("Err(")) {
        return Noticed::WhenRead;
    }
    match check(&store_path(disk.path())) {
        Ok(report) if report.is_sound() => Noticed::Nowhere,
        _ => Noticed::ByCheck,
    }
}

/// A store of two lives.
fn reopened(context: &Context) -> Start {
    let Start { disk, book } = lived(context, "damage");
    let disk = context.mount.insert("damage", disk);
    open(disk.path()).unwrap().recover().unwrap();
    Start { disk: disk.look(|disk| disk.surviving(Variant::Clean)), book }
}

fn damages(context: &Context) -> Vec<Damage> {
    let mut draw = Draw::new(9);
    let flips = context.full_or(12, 2);
    let mut damages = vec![Damage::Half, Damage::Empty, Damage::Gone, Damage::Flip(0)];
    damages.push(Damage::Flip(1000));
    damages.extend((0..flips).map(|_| Damage::Flip(draw.next() % 1000)));
    damages
}

pub fn damage_to_any_file_is_told_before_anything_promised_is_missing(context: &Context) {
    let mut noticed = std::collections::BTreeMap::<_, u32>::new();
    for start in [reopened(context), lived(context, "damage")] {
        let disk = context.mount.insert("damage", start.disk.clone());
        let all = files(disk.path());
        assert!(all.len() > 4, "{all:?}");
        for path in all {
            for kind in damages(context) {
                let disk = context.mount.insert("damage", start.disk.clone());
                let at = format!("{kind:?} in {}", path.display());
                damage(&path, kind);
                // A panic is a failure like any other here, and names the file.
                let found = told(&at, || notice(&disk, &start));
                assert!(found != Noticed::Nowhere, "not noticed: {at}");
                let checked = catch_unwind(AssertUnwindSafe(|| check(&store_path(disk.path()))));
                if let Err(error) = checked.expect("check never panics") {
                    says_what_to_do(&error);
                }
                *noticed.entry(found).or_default() += 1;
            }
        }
    }
    println!("  {noticed:?}");
    assert!(noticed.contains_key(&Noticed::AtOpening) && noticed.contains_key(&Noticed::WhenRead));
}

pub fn a_foreign_or_newer_or_missing_store_is_refused_and_left_alone(context: &Context) {
    let Start { disk, .. } = reopened(context);
    let fresh = || context.mount.insert("damage", disk.clone());
    let refused = |disk: &Power, identity: StoreIdentity| {
        let before: Vec<_> =
            files(disk.path()).iter().map(|path| fs::read(path).unwrap()).collect();
        let error = JournalStore::open(&store_path(disk.path()), identity, &storage()).unwrap_err();
        let after: Vec<_> = files(disk.path()).iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(before == after, "opening what is not ours changed it");
        error
    };
    let other = StoreIdentity { chain: ChainId([9; 32]), ..identity() };
    assert!(matches!(refused(&fresh(), other), StoreError::Foreign { .. }));
    let newer = fresh();
    let format = store_path(newer.path()).join("FORMAT");
    let text = fs::read_to_string(&format).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    fs::write(&format, format!("quorum-store 7\n{rest}")).unwrap();
    let error = refused(&newer, identity());
    assert!(matches!(error, StoreError::Format { found: 7, .. }), "{error}");
    let missing = context.mount.disk("damage");
    assert!(matches!(refused(&missing, identity()), StoreError::Missing(_)));
}
