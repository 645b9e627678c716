//! A file system that forgets: disks in memory, mounted through FUSE, whose power can be cut.
//!
//! One mount holds any number of disks, each a directory of its own with its own room, faults and
//! power. A power cut replaces what lies under the disk's name by what survived; whoever still has
//! files of the old one open gets EIO for ever, so a dying process cannot reach the new one.
//!
//! Not modelled: hard and symbolic links, times, permissions, `mmap` for writing.

mod disk;
mod file;
mod fuse;
mod volume;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption};

pub use disk::{BLOCK_BYTES, Disk, Fault, Kind, Variant};
pub use file::{Draw, SECTOR_BYTES};
use fuse::Fuse;
use volume::{Volume, Volumes, lock};

/// Threads that serve the mount. A held fsync occupies none of them.
const THREADS: usize = 4;

/// The mount; dropping it unmounts.
pub struct Mount {
    point: tempfile::TempDir,
    volumes: Arc<Volumes>,
    session: Option<BackgroundSession>,
}

impl Mount {
    /// Mounts at a fresh temporary directory.
    pub fn new() -> io::Result<Self> {
        let point = tempfile::tempdir()?;
        let volumes = Arc::new(Volumes::default());
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("power-loss".into())];
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let session = fuser::spawn_mount(Fuse(Arc::clone(&volumes)), point.path(), &config)?;
        Ok(Self { point, volumes, session: Some(session) })
    }

    /// An empty disk under this name, in place of one that may be there.
    pub fn disk(&self, name: &str) -> Power {
        self.insert(name, Disk::default())
    }

    /// A disk with this content.
    pub fn insert(&self, name: &str, disk: Disk) -> Power {
        let power = Power {
            name: name.to_owned(),
            path: self.point.path().join(name),
            volumes: Arc::clone(&self.volumes),
        };
        self.volumes.replace(name, disk);
        power
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            // After a failure something may still be open; the mount goes when that does.
            eprintln!("unmounting {}: {error}", self.point.path().display());
            let _ = Command::new("umount").arg("--lazy").arg(self.point.path()).status();
        }
    }
}

/// The switch of one disk: its power, its faults, and what it counts.
#[derive(Clone)]
pub struct Power {
    name: String,
    path: PathBuf,
    volumes: Arc<Volumes>,
}

impl Power {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn volume(&self) -> Arc<Volume> {
        self.volumes.named(&self.name).expect("a disk that was inserted")
    }

    /// Looks at the disk.
    pub fn look<T>(&self, look: impl FnOnce(&Disk) -> T) -> T {
        look(&lock(&self.volume().disk))
    }

    /// Changes faults, room or power.
    pub fn set(&self, set: impl FnOnce(&mut Disk)) {
        set(&mut lock(&self.volume().disk));
    }

    /// The power goes before operation `number`, counted from now.
    pub fn cut_at(&self, number: u64) {
        self.set(|disk| (disk.operations, disk.cut_at) = (0, Some(number)));
    }

    /// An operation fails.
    pub fn fail(&self, fault: Fault) {
        self.set(|disk| (disk.fired, disk.fault) = (0, Some(fault)));
    }

    /// The power goes now, and comes back: what survived is found under the same name.
    pub fn cut(&self, variant: Variant) {
        let surviving = {
            let volume = self.volume();
            let mut disk = lock(&volume.disk);
            disk.dead = true;
            disk.surviving(variant)
        };
        self.volumes.replace(&self.name, surviving);
    }

    /// The process that uses it dies: its files are gone for it, and the next one finds everything
    /// that was written, because the system and its cache live on.
    pub fn kill(&self) {
        let mut left = self.look(Clone::clone);
        left.revive();
        self.volumes.replace(&self.name, left);
    }

    /// The power of all goes at one instant.
    pub fn off(disks: &[Self]) {
        let volumes: Vec<_> = disks.iter().map(Self::volume).collect();
        let mut held: Vec<_> = volumes.iter().map(|volume| lock(&volume.disk)).collect();
        for disk in &mut held {
            disk.dead = true;
        }
    }

    /// From now on an fsync waits until it is let go.
    pub fn hold_fsyncs(&self) {
        lock(&self.volume().held).holds = true;
    }

    /// Waits until an fsync is being held; false if none came in time.
    pub fn wait_held(&self, patience: std::time::Duration) -> bool {
        self.volume().wait_held(patience)
    }

    /// Fsyncs held now.
    pub fn held(&self) -> usize {
        self.volume().waiting()
    }

    /// Completes the first of the fsyncs held; later ones are held again.
    pub fn let_go_of(&self, first: usize) {
        self.volume().let_go(first);
    }

    /// Completes the fsyncs held so far; later ones are held again.
    pub fn let_go(&self) {
        self.let_go_of(usize::MAX);
    }

    /// Completes the fsyncs held so far, and holds no more.
    pub fn hold_no_more(&self) {
        let volume = self.volume();
        {
            let mut held = lock(&volume.held);
            (held.holds, held.refuses) = (false, false);
        }
        volume.let_go(usize::MAX);
    }

    /// Ends the fsyncs held so far without doing them, and every later one until no more are held:
    /// for a process that is being killed in the middle of one.
    pub fn interrupt(&self) {
        self.volume().interrupt();
    }
}

/// Every disk by its name, for the root of the mount.
type Names = BTreeMap<String, u64>;
