//! Creating is not opening, and every crash point of creating.

use super::super::tests::OWN;
use super::*;

fn create(path: &Path) -> Result<DataDirectory, StoreError> {
    let fill = |database: &Path, _: &Meta| {
        fs::write(database.join("file"), "x").unwrap();
        Ok(())
    };
    DataDirectory::create(path, OWN, fill).map(|(directory, ())| directory)
}

#[test]
fn what_was_created_opens_again_with_the_same_incarnation() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("some/data");
    let created = *create(&path).unwrap().meta();
    let opened = DataDirectory::open_own(&path, &OWN).unwrap();
    assert_eq!(opened.meta(), &created);
    assert_eq!((opened.path(), opened.database()), (&*path, path.join(DATABASE)));
    assert!(opened.free_bytes().unwrap() > 1 << 16, "bytes, not blocks");
    let other = create(&temporary.path().join("other")).unwrap();
    assert_ne!(other.meta().incarnation, created.incarnation);
}

#[test]
fn opening_makes_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    assert!(matches!(DataDirectory::open(&path), Err(StoreError::Missing(_))));
    assert!(!path.exists());
    fs::create_dir(&path).unwrap();
    assert!(matches!(DataDirectory::open(&path), Err(StoreError::Missing(_))));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}

#[test]
fn one_process_at_a_time_and_never_created_twice() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let first = create(&path).unwrap();
    assert!(matches!(DataDirectory::open(&path), Err(StoreError::InUse(_))));
    assert!(matches!(create(&path), Err(StoreError::Exists(_))));
    drop(first);
    assert!(matches!(create(&path), Err(StoreError::Exists(_))));
    DataDirectory::open(&path).unwrap();
}

#[test]
fn a_lock_that_is_no_file_is_not_taken_for_one() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    drop(create(&path).unwrap());
    fs::remove_file(path.join(LOCK)).unwrap();
    fs::create_dir(path.join(LOCK)).unwrap();
    assert!(matches!(DataDirectory::open(&path), Err(StoreError::Io { .. })));
}

#[test]
fn of_another_validator_or_chain_or_version_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    drop(create(&path).unwrap());
    let other_author = StoreIdentity { author: Author([9; 32]), ..OWN };
    let other_chain = StoreIdentity { chain: ChainId([9; 32]), ..OWN };
    for identity in [other_author, other_chain] {
        let opened = DataDirectory::open_own(&path, &identity);
        assert!(matches!(opened, Err(StoreError::Foreign { .. })));
    }
    let text = fs::read_to_string(path.join(FORMAT)).unwrap();
    let (ours, newer) = (format!("quorum-store {FORMAT_VERSION}\n"), FORMAT_VERSION + 1);
    assert!(text.starts_with(&ours));
    // That of RocksDB, and one of the future.
    let future = format!("quorum-store {newer}\nmore\n");
    for (version, first_line) in [(1, "quorum-store 1\n"), (newer, &future)] {
        fs::write(path.join(FORMAT), text.replace(&ours, first_line)).unwrap();
        let error = DataDirectory::open(&path).unwrap_err();
        let refused = matches!(error, StoreError::Format { expected: FORMAT_VERSION, .. });
        assert!(refused, "{error}");
        let said = error.to_string();
        assert!(
            said.contains(&format!("format {version}")) && said.contains("replace it"),
            "{said}"
        );
    }
}

#[test]
fn a_changed_format_file_is_damage() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    drop(create(&path).unwrap());
    let text = fs::read(path.join(FORMAT)).unwrap();
    for length in 0..text.len() {
        fs::write(path.join(FORMAT), &text[..length]).unwrap();
        assert!(matches!(DataDirectory::open(&path), Err(StoreError::Damaged { .. })), "{length}");
    }
    for position in "quorum-store 1\n".len()..text.len() {
        let mut other = text.clone();
        other[position] ^= 1;
        fs::write(path.join(FORMAT), &other).unwrap();
        assert!(
            matches!(DataDirectory::open(&path), Err(StoreError::Damaged { .. })),
            "{position}"
        );
    }
    fs::write(path.join(FORMAT), &text).unwrap();
    fs::remove_dir_all(path.join(DATABASE)).unwrap();
    assert!(matches!(DataDirectory::open(&path), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_crash_at_every_point_of_creating_leaves_no_store_and_creating_finishes() {
    let temporary = tempfile::tempdir().unwrap();
    let leave: [fn(&Path); 5] = [
        |_| (),
        |path| drop(File::create(path.join(LOCK)).unwrap()),
        |path| fs::write(path.join(FORMAT_NEW), "torn").unwrap(),
        |path| {
            fs::write(path.join(FORMAT_NEW), "torn").unwrap();
            fs::create_dir(path.join(DATABASE)).unwrap();
        },
        |path| {
            fs::write(path.join(FORMAT_NEW), "whole").unwrap();
            fs::create_dir(path.join(DATABASE)).unwrap();
            fs::write(path.join(DATABASE).join("left over"), "x").unwrap();
        },
    ];
    for (point, leave) in leave.into_iter().enumerate() {
        let path = temporary.path().join(point.to_string());
        fs::create_dir(&path).unwrap();
        leave(&path);
        assert!(matches!(DataDirectory::open(&path), Err(StoreError::Missing(_))), "{point}");
        drop(create(&path).unwrap());
        assert!(!path.join(DATABASE).join("left over").exists());
        DataDirectory::open(&path).unwrap();
    }
    let path = temporary.path().join("failed");
    let fail = |_: &Path, _: &Meta| -> Result<(), StoreError> {
        Err(StoreError::DiskFull { doing: "testing" })
    };
    let failed = DataDirectory::create(&path, OWN, fail);
    assert!(matches!(failed, Err(StoreError::DiskFull { .. })));
    create(&path).unwrap();
}

#[test]
fn what_cannot_be_made_durable_is_no_store() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    let vanish = |database: &Path, _: &Meta| {
        fs::remove_dir(database).unwrap();
        Ok(())
    };
    let created = DataDirectory::create(&path, OWN, vanish);
    assert!(matches!(created, Err(StoreError::Io { .. })), "{created:?}");
    assert!(matches!(DataDirectory::open(&path), Err(StoreError::Missing(_))));
    let nowhere = temporary.path().join("nowhere");
    assert!(sync_directory(&nowhere).is_err());
    assert!(sync_with_parent(&nowhere).is_err());
    assert!(write_synced(&nowhere.join("file"), b"x").is_err());
}

#[test]
fn a_file_in_the_way_of_a_directory_is_left_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("file");
    fs::write(&path, "kept").unwrap();
    for path in [path.clone(), path.join("data")] {
        assert!(matches!(create(&path), Err(StoreError::Io { .. })));
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
}

#[test]
fn a_directory_that_several_make_at_once_is_made() {
    const THREADS: usize = 4;
    let temporary = tempfile::tempdir().unwrap();
    for round in 0..25 {
        let path = temporary.path().join(format!("{round}/some/more/data"));
        let start = std::sync::Barrier::new(THREADS);
        let make = || {
            start.wait();
            make_directory(&path)
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(make)).collect();
            for thread in threads {
                thread.join().unwrap().unwrap();
            }
        });
        assert!(path.is_dir());
    }
}

#[test]
fn the_parent_of_a_name_alone_is_where_the_process_is() {
    for (path, expected) in [("data", "."), ("some/data", "some"), ("/data", "/"), ("/", "/")] {
        assert_eq!(parent(Path::new(path)), Path::new(expected), "{path}");
    }
}

#[test]
fn a_database_that_lost_its_format_is_not_touched() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    drop(create(&path).unwrap());
    fs::remove_file(path.join(FORMAT)).unwrap();
    assert!(matches!(DataDirectory::open(&path), Err(StoreError::Missing(_))));
    assert!(matches!(create(&path), Err(StoreError::Exists(_))));
    assert!(path.join(DATABASE).join("file").exists());
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_reserve_is_kept_given_up_when_room_is_short_and_made_again() {
    const BYTES: u64 = 1 << 20;
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("store");
    let (directory, ()) = DataDirectory::create(&path, OWN, |_, _| Ok(())).unwrap();
    let reserved = || fs::metadata(path.join(RESERVE)).map_or(0, |found| found.len());
    // In memory, room is memory.
    let expected = if is_in_memory(&path) { 0 } else { BYTES };
    directory.keep_reserve(BYTES);
    assert_eq!(reserved(), expected);
    directory.make_room(BYTES).unwrap();
    assert_eq!(reserved(), expected, "there is room without it");
    directory.make_room(u64::MAX).unwrap();
    assert_eq!(reserved(), 0);
    directory.make_room(u64::MAX).unwrap();
    directory.keep_reserve(u64::MAX);
    assert_eq!(reserved(), 0, "no room for it");
    directory.keep_reserve(BYTES);
    directory.keep_reserve(BYTES / 2);
    assert_eq!(reserved(), expected / 2, "the size follows the settings");
}
