//! The data directory: who may use it, whose it is, and whether it was ever created.
//!
//! ```text
//! <path>/LOCK        locked by the process that uses the directory; never removed
//! <path>/FORMAT      version, incarnation, author, chain, checksum; there once all else is durable
//! <path>/FORMAT.new  the same while the store is being created
//! <path>/database/   the database
//! <path>/RESERVE     room that is given up for opening on a full disk
//! ```
//!
//! **Creating is not opening.** Opening never makes anything: where no `FORMAT` is, there is no
//! store ([`StoreError::Missing`]), and a validator that had one has lost its disk.
//!
//! **Every crash point of creating.** `FORMAT.new` is durable before the database is begun, and is
//! renamed to `FORMAT` after every file, the directory and its parent are synced. So a directory
//! with `FORMAT.new` alone was never a store: creating starts over and clears it. One with a
//! database but neither file lost its `FORMAT` some other way: it is not touched.
//!
//! **The reserve.** Opening writes: what only the log of the database holds goes to files of its
//! tables. So that this works on a full disk, a file without content keeps the room for it; it is
//! removed when room is short, and made again by a later opening that finds room. It is never
//! synced: if a crash loses it, the next opening makes it again.
//!
//! **Assumptions.** Rename is atomic; fsync of a directory makes its names durable; locks are
//! honoured by the file system (they are not on some network mounts) and end with the process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::schema::{FORMAT_VERSION, Meta, StoreIdentity};
use crate::types::{Author, ChainId, Incarnation};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const FORMAT_NEW: &str = "FORMAT.new";
const DATABASE: &str = "database";
#[cfg(feature = "rocksdb")]
const RESERVE: &str = "RESERVE";
const MAGIC: &str = "quorum-store";
/// More than any version of the file needs.
const FORMAT_BYTES_MAX: u64 = 4096;

/// A data directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    meta: Meta,
    _lock: File,
}

impl DataDirectory {
    /// Creates a store: `fill` builds the database in the directory it is given, and what it left
    /// there is durable before the directory counts as a store.
    pub fn create<T>(
        path: &Path,
        identity: StoreIdentity,
        fill: impl FnOnce(&Path, &Meta) -> Result<T, StoreError>,
    ) -> Result<(Self, T), StoreError> {
        const DOING: &str = "creating the data directory";
        let doing = |error: io::Error| StoreError::io(DOING, &error);
        make_directory(path).map_err(doing)?;
        refuse_existing(path)?;
        let lock = lock(path)?;
        refuse_existing(path)?;
        let database = path.join(DATABASE);
        if database.exists() {
            fs::remove_dir_all(&database).map_err(doing)?;
        }
        let meta = Meta { format: FORMAT_VERSION, incarnation: random().map_err(doing)?, identity };
        let marker = path.join(FORMAT_NEW);
        write_synced(&marker, format_text(&meta).as_bytes()).map_err(doing)?;
        sync_directory(path).map_err(doing)?;
        fs::create_dir(&database).map_err(doing)?;
        let filled = fill(&database, &meta)?;
        sync_files(&database).map_err(doing)?;
        sync_with_parent(path).map_err(doing)?;
        fs::rename(&marker, path.join(FORMAT)).map_err(doing)?;
        sync_directory(path).map_err(doing)?;
        Ok((Self { path: path.to_owned(), meta, _lock: lock }, filled))
    }

    /// Opens what was created, of whoever it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.join(FORMAT).is_file() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        let lock = lock(path)?;
        let meta = read_format(path)?;
        if !path.join(DATABASE).is_dir() {
            let what = format!("{} has no database", path.display());
            return Err(StoreError::Damaged { what });
        }
        Ok(Self { path: path.to_owned(), meta, _lock: lock })
    }

    /// The same, if it is this validator's on this chain.
    pub fn open_own(path: &Path, identity: &StoreIdentity) -> Result<Self, StoreError> {
        let directory = Self::open(path)?;
        if directory.meta.identity == *identity {
            Ok(directory)
        } else {
            Err(StoreError::Foreign { path: path.to_owned() })
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its database is.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// What it says of itself.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes that may still be written to its file system.
    pub fn free_bytes(&self) -> io::Result<u64> {
        free_bytes(&self.path)
    }

    /// Gives up the reserve if less than this is free without it.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn make_room(&self, bytes: u64) -> Result<(), StoreError> {
        let doing = |error| StoreError::io("giving up the reserve of the data directory", &error);
        if self.free_bytes().map_err(doing)? >= bytes {
            return Ok(());
        }
        match fs::remove_file(self.path.join(RESERVE)) {
            Ok(()) => tracing::warn!(bytes, "the disk is nearly full: the reserve is given up"),
            // Given up before, or never made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(doing(error)),
        }
        Ok(())
    }

    /// Keeps so much room for an opening on a full disk, if that leaves as much again. Without it
    /// the store works until then, so a failure is only told.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn keep_reserve(&self, bytes: u64) {
        let reserve = self.path.join(RESERVE);
        let has_it = fs::metadata(&reserve).is_ok_and(|found| found.len() == bytes);
        let has_room = || self.free_bytes().is_ok_and(|free| free / 2 >= bytes);
        if has_it || is_in_memory(&self.path) || !has_room() {
            return;
        }
        if let Err(error) = allocate(&reserve, bytes) {
            tracing::warn!(%error, "no room could be reserved for opening on a full disk");
            // What was made of it would only take room.
            let _ = fs::remove_file(&reserve);
        }
    }

    /// Makes the names in it durable, and its own in its parent.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let synced = sync_directory(&self.database()).and_then(|()| sync_with_parent(&self.path));
        synced.map_err(|error| StoreError::io("syncing the data directory", &error))
    }
}

/// Bytes that may still be written to the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(path)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(feature = "rocksdb")]
fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = File::create(path)?;
    Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?)
}

/// True for a file system in memory: reserving there takes memory, and a crash leaves nothing.
#[cfg(all(feature = "rocksdb", target_os = "linux"))]
fn is_in_memory(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::statfs(path).is_ok_and(|system| system.f_type.unsigned_abs() == TMPFS_MAGIC)
}

#[cfg(all(feature = "rocksdb", not(target_os = "linux")))]
fn is_in_memory(_: &Path) -> bool {
    false
}

/// True if files beside this database may bypass the page cache.
#[cfg(feature = "rocksdb")]
pub(crate) fn has_direct_io(database: &Path) -> bool {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    open(database.with_file_name(LOCK), flags, Mode::empty()).is_ok()
}

fn refuse_existing(path: &Path) -> Result<(), StoreError> {
    let unfinished = path.join(FORMAT_NEW).exists();
    let database = path.join(DATABASE).exists();
    if path.join(FORMAT).exists() || (database && !unfinished) {
        Err(StoreError::Exists(path.to_owned()))
    } else {
        Ok(())
    }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let doing = |error: io::Error| StoreError::io("locking the data directory", &error);
    let open = |write| {
        let mut options = OpenOptions::new();
        options.read(true).write(write).create(write).truncate(false).open(path.join(LOCK))
    };
    let file = match open(true) {
        // A suspect disk is mounted read-only before it is looked at; locks work there too.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => open(false),
        other => other,
    };
    let file = file.map_err(doing)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(doing(error)),
    }
}

/// Makes a directory and its parents, each durable in its own parent.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    make_directory(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(parent),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

fn sync_with_parent(path: &Path) -> io::Result<()> {
    sync_directory(path)?;
    sync_directory(parent(path))
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_files(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(directory)
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn random() -> io::Result<Incarnation> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Incarnation(u64::from_be_bytes(bytes)))
}

fn format_text(meta: &Meta) -> String {
    let Meta { format, incarnation, identity: StoreIdentity { author, chain } } = meta;
    let text = format!(
        "{MAGIC} {format}\nincarnation {:016x}\nauthor {author}\nchain {chain}\n",
        incarnation.0
    );
    let check = blake3::hash(text.as_bytes()).to_hex();
    format!("{text}check {check}\n")
}

fn read_format(path: &Path) -> Result<Meta, StoreError> {
    const DOING: &str = "reading the format of the data directory";
    let file = File::open(path.join(FORMAT)).map_err(|error| StoreError::io(DOING, &error))?;
    let mut bytes = Vec::new();
    file.take(FORMAT_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| StoreError::io(DOING, &error))?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let damaged = || StoreError::Damaged { what: format!("{FORMAT} in {}", path.display()) };
    let found = format_version(text).ok_or_else(damaged)?;
    if found != FORMAT_VERSION {
        let (path, expected) = (path.to_owned(), FORMAT_VERSION);
        return Err(StoreError::Format { path, found, expected });
    }
    parse_format(text).filter(|meta| format_text(meta) == text).ok_or_else(damaged)
}

/// The first line is the same in every version.
fn format_version(text: &str) -> Option<u32> {
    text.lines().next()?.strip_prefix(MAGIC)?.strip_prefix(' ')?.parse().ok()
}

fn parse_format(text: &str) -> Option<Meta> {
    let mut lines = text.lines().skip(1);
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let incarnation = Incarnation(u64::from_str_radix(field("incarnation")?, 16).ok()?);
    let author = Author::from_hex(field("author")?)?;
    let chain = ChainId::from_hex(field("chain")?)?;
    Some(Meta { format: FORMAT_VERSION, incarnation, identity: StoreIdentity { author, chain } })
}

#[cfg(test)]
mod tests;
