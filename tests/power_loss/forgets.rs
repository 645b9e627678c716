//! Proves that the file system forgets what it should, and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use fuser::Errno;
use rustix::fs::{FallocateFlags, OFlags, fallocate, statvfs};

use super::fs::{BLOCK_BYTES, Fault, Kind, Power, SECTOR_BYTES, Variant};
use super::harness::Context;

const PATIENCE: Duration = Duration::from_secs(10);

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

/// A disk with a file whose bytes and name are durable.
fn with_file(context: &Context, bytes: &[u8]) -> (Power, std::path::PathBuf) {
    let disk = context.mount.disk("forgets");
    let path = disk.path().join("file");
    write(&path, bytes);
    sync(&path);
    sync(disk.path());
    (disk, path)
}

pub fn what_was_not_synced_is_gone(context: &Context) {
    let (disk, path) = with_file(context, b"synced");
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b" and not synced").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"synced and not synced");
    disk.cut(Variant::Clean);
    assert_eq!(fs::read(&path).unwrap(), b"synced");
    // Overwritten and cut short in place, too.
    write(&path, b"SYN");
    disk.cut(Variant::Clean);
    assert_eq!(fs::read(&path).unwrap(), b"synced");
    write(&path, b"SYN");
    sync(&path);
    disk.cut(Variant::Clean);
    assert_eq!(fs::read(&path).unwrap(), b"SYN");
}

pub fn names_are_gone_unless_their_directory_was_synced(context: &Context) {
    let disk = context.mount.disk("forgets");
    let files = |disk: &Power| {
        let names = fs::read_dir(disk.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let fill = || {
        fs::create_dir(disk.path().join("lost")).unwrap();
        write(&disk.path().join("lost/inside"), b"x");
        sync(&disk.path().join("lost/inside"));
        sync(&disk.path().join("lost"));
        write(&disk.path().join("unsynced"), b"x");
    };
    fill();
    disk.cut(Variant::NamesLost);
    assert_eq!(files(&disk), Vec::<String>::new(), "a parent that was never synced loses all");
    fill();
    // A file's fsync journals the names that came before it, in the kinder variant.
    disk.cut(Variant::Clean);
    assert_eq!(files(&disk), ["lost"]);
    assert_eq!(fs::read(disk.path().join("lost/inside")).unwrap(), b"x");
    write(&disk.path().join("unsynced"), b"x");
    sync(disk.path());
    fs::remove_file(disk.path().join("unsynced")).unwrap();
    disk.cut(Variant::Clean);
    assert_eq!(files(&disk), ["lost", "unsynced"], "removal is a change of names as well");
    assert_eq!(fs::read(disk.path().join("unsynced")).unwrap(), b"", "a name without its bytes");
}

pub fn a_rename_is_whole_and_lost_or_kept(context: &Context) {
    let names = |disk: &Power| {
        ["old", "new"].map(|name| fs::read_to_string(disk.path().join(name)).unwrap_or_default())
    };
    let fill = || {
        let disk = context.mount.disk("forgets");
        for name in ["old", "new"] {
            write(&disk.path().join(name), name.as_bytes());
            sync(&disk.path().join(name));
        }
        sync(disk.path());
        fs::rename(disk.path().join("old"), disk.path().join("new")).unwrap();
        disk
    };
    let disk = fill();
    disk.cut(Variant::Clean);
    assert_eq!(names(&disk), ["old", "new"]);
    let disk = fill();
    sync(disk.path());
    disk.cut(Variant::NamesLost);
    assert_eq!(names(&disk), ["", "old"]);
    let mut seen = [false; 2];
    for seed in 0..50 {
        let disk = fill();
        disk.cut(Variant::Torn(seed));
        let found = names(&disk);
        let kept = found == ["", "old"];
        assert!(kept || found == ["old", "new"], "half a rename: {found:?}");
        seen[usize::from(kept)] = true;
    }
    assert_eq!(seen, [true; 2]);
}

pub fn a_torn_tail_keeps_any_sectors_and_only_whole_ones(context: &Context) {
    const SECTORS: usize = 8;
    let mut shapes = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let (disk, path) = with_file(context, &[1; SECTORS * SECTOR_BYTES]);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[2; SECTORS * SECTOR_BYTES], 0).unwrap();
        drop(file);
        disk.cut(Variant::Torn(seed));
        let found = fs::read(&path).unwrap();
        let sectors: Vec<u8> = found
            .chunks(SECTOR_BYTES)
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "half a sector");
                sector[0]
            })
            .collect();
        shapes.insert(sectors);
    }
    let any = |shape: &dyn Fn(&[u8]) -> bool| shapes.iter().any(|sectors| shape(sectors));
    assert!(any(&|s| s[0] == 2 && s[SECTORS - 1] == 1), "later sectors lost, earlier kept");
    assert!(any(&|s| s[0] == 1 && s[SECTORS - 1] == 2), "earlier sectors lost, later kept");
    assert!(any(&|s| s.iter().all(|b| *b == 1)) && any(&|s| s.iter().all(|b| *b == 2)));
    assert!(shapes.len() > 20, "only {} ways to tear", shapes.len());
}

pub fn the_power_goes_before_the_operation_of_that_number(context: &Context) {
    for number in 0..4 {
        let disk = context.mount.disk("forgets");
        disk.cut_at(number);
        let path = disk.path().join("file");
        let done = [
            File::create(&path).is_ok(),
            OpenOptions::new().write(true).open(&path).is_ok_and(|mut f| f.write_all(b"x").is_ok()),
            File::open(&path).is_ok_and(|file| file.sync_all().is_ok()),
            File::open(disk.path()).is_ok_and(|directory| directory.sync_all().is_ok()),
        ];
        let expected = [0, 1, 2, 3].map(|operation| operation < number);
        assert_eq!(done, expected);
        let kinds = [Kind::Create, Kind::Write, Kind::Fsync, Kind::FsyncDirectory];
        assert_eq!(disk.look(|disk| disk.died_at), Some((number, kinds[number as usize])));
        assert!(fs::read(&path).is_err() && fs::read_dir(disk.path()).is_err());
    }
}

pub fn whoever_has_files_of_a_dead_disk_reaches_nothing(context: &Context) {
    let (disk, path) = with_file(context, b"synced");
    let mut old = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    disk.cut(Variant::Clean);
    let mut new = File::open(&path).unwrap();
    assert!(old.write_all(b"from the dead").is_err());
    assert!(old.sync_all().is_err());
    assert!(old.read(&mut [0; 8]).is_err());
    let mut found = Vec::new();
    new.read_to_end(&mut found).unwrap();
    assert_eq!(found, b"synced");
}

pub fn each_fault_fires_on_its_kind_and_number(context: &Context) {
    let disk = context.mount.disk("forgets");
    let (a, b) = (disk.path().join("a"), disk.path().join("b"));
    let act = |kind: Kind| -> std::io::Result<()> {
        match kind {
            Kind::Create => File::create(&b).map(drop),
            Kind::MakeDirectory => fs::create_dir(disk.path().join("c")),
            Kind::Rename => fs::rename(&a, &b),
            Kind::Remove => fs::remove_file(&a),
            Kind::Fsync => File::open(&a)?.sync_all(),
            Kind::FsyncDirectory => File::open(disk.path())?.sync_all(),
            Kind::Write => OpenOptions::new().write(true).open(&a)?.write_all(b"x"),
            Kind::Truncate => OpenOptions::new().write(true).open(&a)?.set_len(1),
            Kind::Allocate => {
                let file = OpenOptions::new().write(true).open(&a)?;
                Ok(fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 10)?)
            }
        }
    };
    for kind in Kind::ALL {
        for (errno, expected) in [(Errno::EIO, 5), (Errno::ENOSPC, 28)] {
            disk.set(|disk| disk.fault = None);
            drop(fs::remove_file(&b));
            drop(fs::remove_dir(disk.path().join("c")));
            write(&a, b"abc");
            disk.fail(Fault { kind, errno, after: 0, lasts: false, partly: false });
            let failed = act(kind).expect_err("the fault fires");
            assert_eq!(failed.raw_os_error(), Some(expected), "{kind:?}");
            assert_eq!(disk.look(|disk| disk.fired), 1);
            act(kind).unwrap_or_else(|error| panic!("{kind:?} again: {error}"));
        }
    }
    write(&a, b"");
    let after =
        Fault { kind: Kind::Write, errno: Errno::EIO, after: 2, lasts: true, partly: false };
    disk.fail(after);
    let results = [(); 4].map(|()| act(Kind::Write).is_ok());
    assert_eq!(results, [true, true, false, false]);
    disk.fail(Fault { after: 0, lasts: false, partly: true, ..after });
    let file = OpenOptions::new().write(true).open(&a).unwrap();
    assert_eq!(file.write_at(b"12345678", 0).unwrap(), 4, "a write that takes half");
}

pub fn bytes_of_a_failed_fsync_are_read_and_never_written(context: &Context) {
    let (disk, path) = with_file(context, b"old");
    write(&path, b"new");
    let (kind, errno) = (Kind::Fsync, Errno::EIO);
    disk.fail(Fault { kind, errno, after: 0, lasts: false, partly: false });
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    assert!(file.sync_all().is_err());
    // Retrying says that all is well, and a later reader sees the bytes.
    file.sync_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    disk.cut(Variant::Clean);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

pub fn a_full_disk_says_so_and_room_comes_back(context: &Context) {
    let (disk, path) = with_file(context, b"x");
    let free = || {
        let room = statvfs(disk.path()).unwrap();
        room.f_bavail * room.f_frsize
    };
    disk.set(|disk| disk.capacity = Some(4 * BLOCK_BYTES));
    assert_eq!(free(), 3 * BLOCK_BYTES);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[1; 4 * BLOCK_BYTES as usize], 0).unwrap();
    assert_eq!(free(), 0);
    let full = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
    };
    full(file.write_all_at(b"x", 4 * BLOCK_BYTES));
    full(File::create(disk.path().join("another")).map(drop));
    full(fs::create_dir(disk.path().join("directory")));
    full(fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 5 * BLOCK_BYTES).map_err(Into::into));
    file.write_all_at(b"in place", 0).unwrap();
    file.set_len(1).unwrap();
    file.write_all_at(b"x", BLOCK_BYTES).unwrap();
}

pub fn only_the_held_fsync_waits(context: &Context) {
    let (disk, path) = with_file(context, b"old");
    write(&path, b"new");
    disk.hold_fsyncs();
    let (sender, returned) = mpsc::channel();
    let held = std::thread::spawn({
        let path = path.clone();
        move || {
            sync(&path);
            sender.send(()).unwrap();
        }
    });
    assert!(disk.wait_held(PATIENCE));
    // Everything else goes on meanwhile, reads of that file included.
    write(&disk.path().join("another"), b"x");
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert!(returned.try_recv().is_err(), "still held");
    disk.let_go();
    returned.recv_timeout(PATIENCE).unwrap();
    held.join().unwrap();
    // A held fsync has done nothing when the power goes, and fails.
    write(&path, b"newer");
    let held = std::thread::spawn({
        let path = path.clone();
        move || File::open(path).unwrap().sync_all()
    });
    assert!(disk.wait_held(PATIENCE));
    disk.cut(Variant::Clean);
    assert!(held.join().unwrap().is_err());
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

pub fn a_lying_disk_loses_what_it_said_was_synced(context: &Context) {
    let (disk, path) = with_file(context, b"old");
    disk.set(|disk| disk.lies = &Kind::SYNCS);
    write(&path, b"new");
    sync(&path);
    write(&disk.path().join("another"), b"x");
    sync(disk.path());
    disk.cut(Variant::Clean);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert!(!disk.path().join("another").exists());
}

pub fn direct_writes_and_reserved_room_work(context: &Context) {
    let disk = context.mount.disk("forgets");
    let path = disk.path().join("direct");
    let flags = OFlags::DIRECT.bits().cast_signed();
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.custom_flags(flags).open(&path).unwrap()
    };
    let file = open();
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    // Aligned memory without unsafe code: any aligned block inside a larger buffer.
    let buffer = vec![7; 3 * BLOCK_BYTES as usize];
    let start = buffer.as_ptr().align_offset(BLOCK_BYTES as usize);
    let block = &buffer[start..start + BLOCK_BYTES as usize];
    file.write_all_at(block, BLOCK_BYTES).unwrap();
    file.sync_data().unwrap();
    sync(disk.path());
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, BLOCK_BYTES, 512)
        .unwrap();
    let found = fs::read(&path).unwrap();
    assert_eq!((found[BLOCK_BYTES as usize], found.len()), (0, 2 * BLOCK_BYTES as usize));
    disk.cut(Variant::Clean);
    let found = fs::read(&path).unwrap();
    assert_eq!((found[0], found[BLOCK_BYTES as usize]), (0, 7));
}
