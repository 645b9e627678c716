//! One disk in memory: what a reader sees, what a power cut leaves, and the faults in between.
//!
//! ```text
//!  write, truncate ──> live bytes ──fsync──> safe bytes
//!  create, rename  ──> live names ──fsync of the directory──> safe names
//!                                 └─ a file's fsync journals them, as common file systems do
//! ```
//!
//! Every operation that changes something is counted, so that the power can go before operation N
//! for every N. Once it is gone every operation fails, reads included; what survives is a new disk
//! ([`Disk::surviving`]), and nothing that still holds the old one can reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use fuser::Errno;

use super::file::{Bytes, Draw};

/// The root directory of every disk.
pub const ROOT: u64 = 1;
/// Room is counted in blocks of this size, as `statvfs` reports it.
pub const BLOCK_BYTES: u64 = 4096;

/// Operations that change something, or promise that it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Write,
    Create,
    MakeDirectory,
    Rename,
    Remove,
    Truncate,
    Allocate,
    Fsync,
    FsyncDirectory,
}

impl Kind {
    /// What makes something durable.
    pub const SYNCS: [Self; 2] = [Self::Fsync, Self::FsyncDirectory];
    pub const ALL: [Self; 9] = [
        Self::Write,
        Self::Create,
        Self::MakeDirectory,
        Self::Rename,
        Self::Remove,
        Self::Truncate,
        Self::Allocate,
        Self::Fsync,
        Self::FsyncDirectory,
    ];
}

/// What of the unsynced a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// No unsynced byte. Names that some fsync has journaled stay, also without one of their
    /// directory.
    Clean,
    /// Every byte that was written, and only the names whose own directory was synced.
    NamesLost,
    /// Sectors and names as chance has it, by this seed: a prefix, a suffix or any of them.
    Torn(u64),
}

/// An operation of this kind fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub errno: Errno,
    /// So many of its kind succeed before.
    pub after: u64,
    /// All that follow fail too.
    pub lasts: bool,
    /// A write first takes this many of its bytes.
    pub partly: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub directory: bool,
    pub bytes: Bytes,
    pub names: BTreeMap<OsString, u64>,
    safe_names: BTreeMap<OsString, u64>,
    pub parent: u64,
    opened: u64,
}

impl Node {
    pub(super) fn new(directory: bool, parent: u64) -> Self {
        Self { directory, parent, ..Self::default() }
    }
}

/// Changes of names that happen together; `None` removes.
#[derive(Clone, Debug)]
struct Renaming {
    entries: Vec<(u64, OsString, Option<u64>)>,
    journaled: bool,
}

/// See the module docs.
#[derive(Clone, Debug)]
pub struct Disk {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Not synced yet by their directory, in order.
    renamings: Vec<Renaming>,
    /// Without a name, and kept only while something still needs them.
    unnamed: BTreeSet<u64>,
    pub operations: u64,
    pub fsyncs: u64,
    /// The power goes before the operation of this number.
    pub cut_at: Option<u64>,
    pub dead: bool,
    pub died_at: Option<(u64, Kind)>,
    pub fault: Option<Fault>,
    pub fired: u64,
    pub capacity: Option<u64>,
    /// Of these, fsync or fsync of a directory, each says it is done and does nothing.
    pub lies: &'static [Kind],
}

impl Default for Disk {
    fn default() -> Self {
        let root = Node::new(true, ROOT);
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            renamings: Vec::new(),
            unnamed: BTreeSet::new(),
            operations: 0,
            fsyncs: 0,
            cut_at: None,
            dead: false,
            died_at: None,
            fault: None,
            fired: 0,
            capacity: None,
            lies: &[],
        }
    }
}

impl Disk {
    /// Counts one operation; fails it if the power is gone or a fault is due.
    fn operation(&mut self, kind: Kind) -> Result<(), Errno> {
        if !self.dead && self.cut_at == Some(self.operations) {
            self.dead = true;
            self.died_at = Some((self.operations, kind));
        }
        self.alive()?;
        self.operations += 1;
        let Some(fault) = self.fault.as_mut().filter(|fault| fault.kind == kind) else {
            return Ok(());
        };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let errno = fault.errno;
        if !fault.lasts {
            self.fault = None;
        }
        self.fired += 1;
        Err(errno)
    }

    fn alive(&self) -> Result<(), Errno> {
        if self.dead { Err(Errno::EIO) } else { Ok(()) }
    }

    pub(super) fn node(&self, id: u64) -> Result<&Node, Errno> {
        self.alive()?;
        self.nodes.get(&id).ok_or(Errno::ENOENT)
    }

    fn node_mut(&mut self, id: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&id).ok_or(Errno::ENOENT)
    }

    pub(super) fn child(&self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        self.node(parent)?.names.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub(super) fn add(&mut self, parent: u64, name: &OsStr, dir: bool) -> Result<u64, Errno> {
        match self.child(parent, name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(error) if error.code() != Errno::ENOENT.code() => return Err(error),
            Err(_) => {}
        }
        self.operation(if dir { Kind::MakeDirectory } else { Kind::Create })?;
        if self.free_bytes() < BLOCK_BYTES {
            return Err(Errno::ENOSPC);
        }
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Node::new(dir, parent));
        self.rename_all(vec![(parent, name.to_owned(), Some(id))])?;
        Ok(id)
    }

    pub(super) fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let id = self.child(parent, name)?;
        if !self.node(id)?.names.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.operation(Kind::Remove)?;
        self.rename_all(vec![(parent, name.to_owned(), None)])
    }

    pub(super) fn rename(
        &mut self,
        (from, name): (u64, &OsStr),
        (to, new_name): (u64, &OsStr),
    ) -> Result<(), Errno> {
        let id = self.child(from, name)?;
        self.operation(Kind::Rename)?;
        self.node_mut(id)?.parent = to;
        let entries = vec![(from, name.to_owned(), None), (to, new_name.to_owned(), Some(id))];
        self.rename_all(entries)
    }

    /// Changes live names, and remembers it until a sync.
    fn rename_all(&mut self, entries: Vec<(u64, OsString, Option<u64>)>) -> Result<(), Errno> {
        for (directory, name, id) in &entries {
            let names = &mut self.node_mut(*directory)?.names;
            let before = match id {
                Some(id) => names.insert(name.clone(), *id),
                None => names.remove(name),
            };
            self.unnamed.extend(before);
        }
        self.renamings.push(Renaming { entries, journaled: false });
        self.forget_unnamed();
        Ok(())
    }

    pub(super) fn write(&mut self, id: u64, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let partly = self.fault.is_some_and(|fault| fault.partly);
        let taken = match self.operation(Kind::Write) {
            Ok(()) => data.len(),
            Err(_) if partly && data.len() > 1 => data.len() / 2,
            Err(error) => return Err(error),
        };
        let end = offset + taken as u64;
        let length = self.node(id)?.bytes.len();
        let growth = blocks(end.max(length)) - blocks(length);
        if growth * BLOCK_BYTES > self.free_bytes() {
            return Err(Errno::ENOSPC);
        }
        self.node_mut(id)?.bytes.write(offset as usize, &data[..taken]);
        Ok(taken)
    }

    pub(super) fn truncate(&mut self, id: u64, length: u64) -> Result<(), Errno> {
        self.operation(Kind::Truncate)?;
        self.node_mut(id)?.bytes.truncate(length as usize);
        Ok(())
    }

    /// Reserving room is counted and changes nothing; a hole that is punched reads as zeros.
    pub(super) fn allocate(
        &mut self,
        id: u64,
        range: std::ops::Range<u64>,
        keeps_size: bool,
        punches: bool,
    ) -> Result<(), Errno> {
        self.operation(Kind::Allocate)?;
        let length = self.node(id)?.bytes.len();
        if punches && range.start < length {
            let hole = vec![0; (range.end.min(length) - range.start) as usize];
            self.node_mut(id)?.bytes.write(range.start as usize, &hole);
        } else if !punches && blocks(range.end) > blocks(length) {
            if (blocks(range.end) - blocks(length)) * BLOCK_BYTES > self.free_bytes() {
                return Err(Errno::ENOSPC);
            }
            if !keeps_size {
                self.node_mut(id)?.bytes.extend(range.end as usize);
            }
        }
        Ok(())
    }

    pub(super) fn fsync(&mut self, id: u64) -> Result<(), Errno> {
        if let Err(error) = self.operation(Kind::Fsync) {
            // The bytes stay readable, count as clean, and no later fsync writes them.
            if !self.dead
                && let Some(node) = self.nodes.get_mut(&id)
            {
                node.bytes.forget_dirt();
            }
            return Err(error);
        }
        self.fsyncs += 1;
        if !self.lies.contains(&Kind::Fsync) {
            self.node_mut(id)?.bytes.sync();
            self.renamings.iter_mut().for_each(|renaming| renaming.journaled = true);
        }
        Ok(())
    }

    pub(super) fn fsync_directory(&mut self, id: u64) -> Result<(), Errno> {
        self.operation(Kind::FsyncDirectory)?;
        self.fsyncs += 1;
        if !self.lies.contains(&Kind::FsyncDirectory) {
            let renamings = std::mem::take(&mut self.renamings);
            let here = |renaming: &Renaming| renaming.entries.iter().any(|(dir, ..)| *dir == id);
            let (synced, rest) = renamings.into_iter().partition(here);
            self.renamings = rest;
            self.make_safe(&synced);
            self.forget_unnamed();
        }
        Ok(())
    }

    fn make_safe(&mut self, renamings: &[Renaming]) {
        for (directory, name, id) in renamings.iter().flat_map(|renaming| &renaming.entries) {
            let Some(node) = self.nodes.get_mut(directory) else { continue };
            match id {
                Some(id) => drop(node.safe_names.insert(name.clone(), *id)),
                None => drop(node.safe_names.remove(name)),
            }
        }
    }

    pub(super) fn open(&mut self, id: u64) -> Result<(), Errno> {
        self.alive()?;
        self.node_mut(id)?.opened += 1;
        Ok(())
    }

    pub(super) fn close(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.opened = node.opened.saturating_sub(1);
            self.forget_unnamed();
        }
    }

    /// Lets go of what has no name in either image and is not open.
    fn forget_unnamed(&mut self) {
        if self.unnamed.is_empty() {
            return;
        }
        let mut needed = BTreeSet::new();
        for node in self.nodes.values() {
            needed.extend(node.names.values().chain(node.safe_names.values()));
        }
        let pending = self.renamings.iter().flat_map(|renaming| &renaming.entries);
        needed.extend(pending.filter_map(|(_, _, id)| *id));
        let unnamed = std::mem::take(&mut self.unnamed);
        for id in unnamed {
            let opened = self.nodes.get(&id).is_some_and(|node| node.opened > 0);
            if opened || needed.contains(&id) {
                self.unnamed.insert(id);
            } else {
                self.nodes.remove(&id);
            }
        }
    }

    /// Bytes that may still be written.
    pub fn free_bytes(&self) -> u64 {
        // What is kept only for the platter takes no room: nobody could make any.
        let counts = |(id, node): &(&u64, &Node)| node.opened > 0 || !self.unnamed.contains(id);
        let counted = self.nodes.iter().filter(counts);
        let used: u64 = counted.map(|(_, node)| blocks(node.bytes.len())).sum();
        self.capacity.unwrap_or(1 << 40).saturating_sub(used * BLOCK_BYTES)
    }

    /// Makes everything durable as it is: for a directory whose owner relies on `syncfs`, which
    /// does not reach a file system of this kind.
    pub fn persist(&mut self) {
        self.nodes.values_mut().for_each(|node| node.bytes.sync());
        let renamings = std::mem::take(&mut self.renamings);
        self.make_safe(&renamings);
        self.forget_unnamed();
    }

    /// Nobody has anything open any more; faults and counts start anew.
    pub fn revive(&mut self) {
        self.nodes.values_mut().for_each(|node| node.opened = 0);
        let Self { nodes, next, renamings, unnamed, capacity, .. } = std::mem::take(self);
        *self = Self { nodes, next, renamings, unnamed, capacity, ..Self::default() };
    }

    /// The disk that is found after the power comes back.
    pub fn surviving(&self, variant: Variant) -> Self {
        let mut found = self.clone();
        let mut draw = Draw::new(match variant {
            Variant::Torn(seed) => seed,
            Variant::Clean | Variant::NamesLost => 0,
        });
        let renamings = std::mem::take(&mut found.renamings);
        let journaled = renamings.iter().rposition(|renaming| renaming.journaled);
        let kept = match variant {
            Variant::Clean => journaled.map_or(0, |last| last + 1),
            Variant::NamesLost => 0,
            Variant::Torn(_) => draw.below(renamings.len() + 1),
        };
        found.make_safe(&renamings[..kept]);
        for node in found.nodes.values_mut() {
            node.names = node.safe_names.clone();
            node.opened = 0;
            match variant {
                Variant::Clean => node.bytes.lose(),
                Variant::NamesLost => node.bytes.sync(),
                Variant::Torn(_) => node.bytes.tear(&mut draw),
            }
        }
        let mut reached = BTreeSet::from([ROOT]);
        let mut queue = vec![ROOT];
        while let Some(id) = queue.pop() {
            let names = found.nodes.get(&id).map(|node| node.names.clone()).unwrap_or_default();
            queue.extend(names.into_values().filter(|id| reached.insert(*id)));
        }
        found.nodes.retain(|id, _| reached.contains(id));
        let Self { nodes, next, capacity, .. } = found;
        Self { nodes, next, capacity, ..Self::default() }
    }
}

fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES)
}
