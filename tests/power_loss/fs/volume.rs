//! The disks of a mount by number: a number names one life of one disk, for ever.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fuser::{Errno, ReplyEmpty};

use super::Names;
use super::disk::Disk;

/// Inode numbers: the life of a disk above, the node in it below.
const NODE_BITS: u32 = 32;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one fsync waits with.
pub struct Waiting {
    node: u64,
    directory: bool,
    reply: ReplyEmpty,
}

/// Fsyncs that wait.
#[derive(Default)]
pub struct Held {
    pub holds: bool,
    /// They fail at once: whoever asks is being killed.
    pub refuses: bool,
    waiting: Vec<Waiting>,
}

/// One life of one disk.
#[derive(Default)]
pub struct Volume {
    pub disk: Mutex<Disk>,
    pub held: Mutex<Held>,
    changed: Condvar,
}

impl Volume {
    /// Does the fsync, or keeps it waiting.
    pub fn fsync(&self, node: u64, directory: bool, reply: ReplyEmpty) {
        let waiting = Waiting { node, directory, reply };
        let mut held = lock(&self.held);
        if held.refuses {
            waiting.reply.error(Errno::EIO);
        } else if held.holds {
            held.waiting.push(waiting);
            self.changed.notify_all();
        } else {
            drop(held);
            self.complete(waiting);
        }
    }

    fn complete(&self, Waiting { node, directory, reply }: Waiting) {
        let mut disk = lock(&self.disk);
        let done = if directory { disk.fsync_directory(node) } else { disk.fsync(node) };
        drop(disk);
        answer(reply, done);
    }

    pub fn waiting(&self) -> usize {
        lock(&self.held).waiting.len()
    }

    pub fn let_go(&self, first: usize) {
        let mut held = lock(&self.held);
        let first = first.min(held.waiting.len());
        let waiting: Vec<_> = held.waiting.drain(..first).collect();
        drop(held);
        for waiting in waiting {
            self.complete(waiting);
        }
    }

    pub fn wait_held(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut held = lock(&self.held);
        while held.waiting.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            let waited = self.changed.wait_timeout(held, left);
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Nothing waits for a disk that is gone.
    fn abandon(&self) {
        lock(&self.disk).dead = true;
        self.interrupt();
    }

    pub fn interrupt(&self) {
        let mut held = lock(&self.held);
        held.refuses = true;
        for waiting in std::mem::take(&mut held.waiting) {
            waiting.reply.error(Errno::EIO);
        }
    }
}

/// What FUSE is told of an operation without a result.
pub fn answer(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

/// All of them.
#[derive(Default)]
pub struct Volumes(Mutex<Table>);

#[derive(Default)]
struct Table {
    names: Names,
    volumes: BTreeMap<u64, Arc<Volume>>,
    next: u64,
}

impl Volumes {
    /// Puts a disk under a name; the one before is gone.
    pub fn replace(&self, name: &str, disk: Disk) {
        let mut table = lock(&self.0);
        table.next += 1;
        let number = table.next;
        let volume = Arc::new(Volume { disk: Mutex::new(disk), ..Volume::default() });
        table.volumes.insert(number, volume);
        let before = table.names.insert(name.to_owned(), number);
        if let Some(volume) = before.and_then(|before| table.volumes.remove(&before)) {
            volume.abandon();
        }
    }

    pub fn named(&self, name: &str) -> Option<Arc<Volume>> {
        let table = lock(&self.0);
        table.names.get(name).and_then(|number| table.volumes.get(number)).cloned()
    }

    /// The names in the root, with their inodes.
    pub fn roots(&self) -> Vec<(String, u64)> {
        let root = |number: u64| inode(number, super::disk::ROOT);
        lock(&self.0).names.iter().map(|(name, number)| (name.clone(), root(*number))).collect()
    }

    /// The disk and node of an inode. A disk whose power is gone fails everything with EIO.
    pub fn find(&self, inode: u64) -> Result<(u64, Arc<Volume>, u64), Errno> {
        let number = inode >> NODE_BITS;
        let volume = lock(&self.0).volumes.get(&number).cloned().ok_or(Errno::EIO)?;
        Ok((number, volume, inode & ((1 << NODE_BITS) - 1)))
    }
}

/// The inode of a node in a life of a disk.
pub fn inode(volume: u64, node: u64) -> u64 {
    (volume << NODE_BITS) | node
}
