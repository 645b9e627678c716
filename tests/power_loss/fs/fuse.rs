//! What the kernel asks, answered from the disks. Nothing is cached there by name or attribute,
//! so that a disk is gone for everybody at the instant its power is.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::disk::{BLOCK_BYTES, Disk, Node};
use super::volume::{Volumes, answer, inode, lock};

const UNCACHED: Duration = Duration::ZERO;
/// The directory of all disks.
const TOP: u64 = 1;
/// `fallocate` keeps the length; and makes a hole. From the system's headers.
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
/// What an unlimited disk says of itself, in blocks.
const MANY_BLOCKS: u64 = 1 << 28;

/// The mounted file system.
pub struct Fuse(pub Arc<Volumes>);

impl Fuse {
    /// Does something with the node of an inode.
    fn at<T>(
        &self,
        ino: INodeNo,
        act: impl FnOnce(&mut Disk, u64) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (_, volume, node) = self.0.find(ino.0)?;
        act(&mut lock(&volume.disk), node)
    }

    /// The attributes of what `find` names beside or below this inode.
    fn attributes(
        &self,
        ino: INodeNo,
        find: impl FnOnce(&mut Disk, u64) -> Result<u64, Errno>,
    ) -> Result<FileAttr, Errno> {
        let (number, volume, node) = self.0.find(ino.0)?;
        let mut disk = lock(&volume.disk);
        let found = find(&mut disk, node)?;
        Ok(attributes(inode(number, found), disk.node(found)?))
    }

    fn top_entry(&self, name: &OsStr) -> Result<FileAttr, Errno> {
        let roots = self.0.roots();
        let (_, ino) = roots.iter().find(|(root, _)| name == root.as_str()).ok_or(Errno::ENOENT)?;
        self.attributes(INodeNo(*ino), |_, node| Ok(node))
    }
}

fn attributes(ino: u64, node: &Node) -> FileAttr {
    let (kind, perm, nlink) = if node.directory {
        (FileType::Directory, 0o755, 2)
    } else {
        (FileType::RegularFile, 0o644, 1)
    };
    let at = UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(ino),
        size: node.bytes.len(),
        blocks: node.bytes.len().div_ceil(512),
        atime: at,
        mtime: at,
        ctime: at,
        crtime: at,
        kind,
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES as u32,
        flags: 0,
    }
}

fn entry(reply: ReplyEntry, found: Result<FileAttr, Errno>) {
    match found {
        Ok(attributes) => reply.entry(&UNCACHED, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn attribute(reply: ReplyAttr, found: Result<FileAttr, Errno>) {
    match found {
        Ok(attributes) => reply.attr(&UNCACHED, &attributes),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Fuse {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = if parent.0 == TOP {
            self.top_entry(name)
        } else {
            self.attributes(parent, |disk, node| disk.child(node, name))
        };
        entry(reply, found);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = if ino.0 == TOP {
            Ok(attributes(TOP, &Node::new(true, TOP)))
        } else {
            self.attributes(ino, |_, node| Ok(node))
        };
        attribute(reply, found);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let found = self.attributes(ino, |disk, node| {
            size.map_or(Ok(()), |size| disk.truncate(node, size)).map(|()| node)
        });
        attribute(reply, found);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        entry(reply, self.attributes(parent, |disk, node| disk.add(node, name, true)));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let created = self.attributes(parent, |disk, node| {
            let created = disk.add(node, name, false)?;
            disk.open(created).map(|()| created)
        });
        match created {
            Ok(file) => {
                let (handle, flags) = (FileHandle(0), FopenFlags::empty());
                reply.created(&UNCACHED, &file, Generation(0), handle, flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.at(parent, |disk, node| disk.remove(node, name)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.at(parent, |disk, node| disk.remove(node, name)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let renamed = self.0.find(new_parent.0).and_then(|(target, _, to)| {
            let (number, volume, from) = self.0.find(parent.0)?;
            if number != target {
                return Err(Errno::EXDEV);
            }
            lock(&volume.disk).rename((from, name), (to, new_name))
        });
        answer(reply, renamed);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.at(ino, Disk::open) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        answer(
            reply,
            self.at(ino, |disk, node| {
                disk.close(node);
                Ok(())
            }),
        );
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.at(ino, |disk, node| {
            let bytes = &disk.node(node)?.bytes;
            Ok(bytes.read(offset as usize, size as usize).to_vec())
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.at(ino, |disk, node| disk.write(node, offset, data)) {
            Ok(taken) => reply.written(taken as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (keeps_size, punches) = (mode & KEEP_SIZE != 0, mode & PUNCH_HOLE != 0);
        let range = offset..offset.saturating_add(length);
        let allocate = |disk: &mut Disk, node| disk.allocate(node, range, keeps_size, punches);
        answer(reply, self.at(ino, allocate));
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.0.find(ino.0) {
            Ok((_, volume, node)) => volume.fsync(node, false, reply),
            Err(error) => reply.error(error),
        }
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if ino.0 == TOP {
            // The names of the disks themselves are never lost.
            return reply.ok();
        }
        match self.0.find(ino.0) {
            Ok((_, volume, node)) => volume.fsync(node, true, reply),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let found = if ino.0 == TOP {
            let named = |(name, ino): (String, u64)| (name.into(), ino, true);
            Ok(self.0.roots().into_iter().map(named).collect::<Vec<_>>())
        } else {
            self.0.find(ino.0).and_then(|(number, volume, node)| {
                let disk = lock(&volume.disk);
                let names = &disk.node(node)?.names;
                let listed = |(name, id): (&std::ffi::OsString, &u64)| {
                    let directory = disk.node(*id).is_ok_and(|node| node.directory);
                    (name.clone(), inode(number, *id), directory)
                };
                Ok(names.iter().map(listed).collect())
            })
        };
        let entries = match found {
            Ok(entries) => entries,
            Err(error) => return reply.error(error),
        };
        let dots = [(".".into(), ino.0, true), ("..".into(), TOP, true)];
        let all = dots.into_iter().chain(entries).enumerate().skip(offset as usize);
        for (index, (name, ino, directory)) in all {
            let kind = if directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(ino), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let room = |disk: &mut Disk, _| {
            let free = disk.free_bytes() / BLOCK_BYTES;
            Ok((disk.capacity.map_or(MANY_BLOCKS, |bytes| bytes / BLOCK_BYTES), free))
        };
        let (blocks, free) = self.at(ino, room).unwrap_or((MANY_BLOCKS, MANY_BLOCKS));
        reply.statfs(
            blocks,
            free,
            free,
            1 << 20,
            1 << 20,
            BLOCK_BYTES as u32,
            255,
            BLOCK_BYTES as u32,
        );
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // The kernel asks once and then no more: closing promises nothing.
        reply.error(Errno::ENOSYS);
    }
}
