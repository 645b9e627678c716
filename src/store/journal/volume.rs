//! The files of a ring: segments of one size, written through once and used again and again.
//!
//! ```text
//! <directory>/RING       secret, bytes of a segment, how many there are; replaced by renaming
//! <directory>/00000000   a segment
//! ```
//!
//! Writing into a segment changes no metadata of the file system, because every block of it has
//! been written before: an fsync then costs one flush. Blocks bypass the page cache where the file
//! system lets them; elsewhere the same calls go through it.
//!
//! **Adding a segment.** It is written through and synced before `RING` counts it; a file that is
//! not counted was never part of the ring, and is made anew. One that is counted and missing, or of
//! another length, is damage. Writing it through takes a while, so a thread does it beforehand once
//! the journal sees that it will need one.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use aligned_vec::{AVec, ConstAlign};
use rustix::fs::{Mode, OFlags, open};

use super::super::StoreError;
use super::super::directory::{sync_directory, write_synced};
use super::frame::Secret;

/// Everything lies on whole blocks of this size.
pub(super) const BLOCK: usize = 4096;
/// Filled at once when a segment is written through.
const FILL_BYTES: usize = 1 << 20;
const RING: &str = "RING";
const RING_NEW: &str = "RING.new";
const MAGIC: &str = "quorum-store ring 1";
/// More than the file needs.
const RING_BYTES_MAX: u64 = 4096;

/// Memory that direct I/O takes: whole blocks, which are also cleared as such, and not byte by byte.
#[derive(Debug)]
pub(super) struct Buffer(AVec<[u8; BLOCK], ConstAlign<BLOCK>>);

/// So many zeros, in whole blocks.
pub(super) fn buffer(bytes: usize) -> Buffer {
    let blocks = bytes.div_ceil(BLOCK);
    let mut buffer = AVec::with_capacity(BLOCK, blocks);
    buffer.resize(blocks, [0; BLOCK]);
    Buffer(buffer)
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_slice().as_flattened()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_flattened_mut()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Segments of one size. Offsets, lengths and memory are whole blocks.
pub(super) trait Volume: std::fmt::Debug + Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> u32;
    /// Length of each.
    fn segment_bytes(&self) -> u64;
    /// Begins what `add` has to do; it will be called soon.
    fn prepare(&self) {}
    /// Adds one; it is durable when this returns.
    fn add(&self) -> io::Result<()>;
    fn read(&self, segment: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    fn write(&self, segment: u32, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns once everything written to it is on stable storage.
    fn sync(&self, segment: u32) -> io::Result<()>;
    /// Bytes that further segments may take.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Segments as files.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    secret: Secret,
    segment_bytes: u64,
    direct: bool,
    segments: RwLock<Vec<Arc<File>>>,
    /// Writes the next segment through.
    preparing: Mutex<Option<JoinHandle<io::Result<File>>>>,
}

impl Files {
    /// Makes a ring of one segment.
    pub fn create(
        directory: &Path,
        secret: Secret,
        segment_bytes: u64,
        direct: bool,
    ) -> io::Result<Self> {
        let directory = directory.to_owned();
        let (segments, preparing) = (RwLock::default(), Mutex::default());
        let files = Self { directory, secret, segment_bytes, direct, segments, preparing };
        files.add()?;
        Ok(files)
    }

    /// Opens a ring that was made.
    pub fn open(directory: &Path, access: Access) -> Result<Self, StoreError> {
        const DOING: &str = "opening the journal";
        let doing = |error: io::Error| StoreError::io(DOING, &error);
        let (secret, segment_bytes, count) = read_ring(directory)?;
        let mut segments = Vec::new();
        for segment in 0..count {
            let path = segment_path(directory, segment);
            let file = match open_file(&path, access) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                other => Some(other.map_err(doing)?),
            };
            let length = match &file {
                Some(file) => file.metadata().map_err(doing)?.len(),
                None => 0,
            };
            let Some(file) = file.filter(|_| length == segment_bytes) else {
                let what = format!("{} has {length} bytes of {segment_bytes}", path.display());
                return Err(StoreError::Damaged { what });
            };
            segments.push(Arc::new(file));
        }
        let (directory, segments) = (directory.to_owned(), RwLock::new(segments));
        let (direct, preparing) = (access == Access::Direct, Mutex::default());
        Ok(Self { directory, secret, segment_bytes, direct, segments, preparing })
    }

    /// Keys the checksums of its frames.
    pub fn secret(&self) -> Secret {
        self.secret
    }

    fn segment(&self, segment: u32) -> io::Result<Arc<File>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.get(segment as usize).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// What makes the next segment, on whatever thread.
    fn filler(&self) -> impl FnOnce() -> io::Result<File> + Send + 'static {
        let path = segment_path(&self.directory, self.count());
        let access = if self.direct { Access::Direct } else { Access::Cached };
        let segment_bytes = self.segment_bytes;
        move || {
            let filled = fill(&path, access, segment_bytes);
            if filled.is_err() {
                // On a full disk, what was made of it is room for others.
                let _ = fs::remove_file(&path);
            }
            filled
        }
    }

    fn prepared(&self) -> Option<File> {
        let mut preparing = self.preparing.lock().unwrap_or_else(PoisonError::into_inner);
        match preparing.take()?.join() {
            Ok(Ok(file)) => Some(file),
            // It is tried again by whoever needs it, who says why it fails.
            Ok(Err(_)) | Err(_) => None,
        }
    }

    fn write_ring(&self, count: u32) -> io::Result<()> {
        let new = self.directory.join(RING_NEW);
        write_synced(&new, ring_text(&self.secret, self.segment_bytes, count).as_bytes())?;
        fs::rename(new, self.directory.join(RING))?;
        sync_directory(&self.directory)
    }
}

impl Volume for Files {
    fn count(&self) -> u32 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        // Proof: `add` refuses more than a `u32` counts.
        segments.len() as u32
    }

    fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    fn prepare(&self) {
        let mut preparing = self.preparing.lock().unwrap_or_else(PoisonError::into_inner);
        if preparing.is_none() {
            let thread = std::thread::Builder::new().name("journal-segment".into());
            // Without a thread, adding does all of it.
            *preparing = thread.spawn(self.filler()).ok();
        }
    }

    fn add(&self) -> io::Result<()> {
        let count = self.count().checked_add(1).ok_or(io::ErrorKind::StorageFull)?;
        let file = match self.prepared() {
            Some(file) => file,
            None => self.filler()()?,
        };
        sync_directory(&self.directory)?;
        self.write_ring(count)?;
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.push(Arc::new(file));
        Ok(())
    }

    fn read(&self, segment: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.segment(segment)?.read_exact_at(buffer, offset)
    }

    fn write(&self, segment: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.segment(segment)?.write_all_at(bytes, offset)
    }

    fn sync(&self, segment: u32) -> io::Result<()> {
        self.segment(segment)?.sync_data()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        super::super::directory::free_bytes(&self.directory)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.prepared().is_some() {
            let _ = fs::remove_file(segment_path(&self.directory, self.count()));
        }
    }
}

fn fill(path: &Path, access: Access, segment_bytes: u64) -> io::Result<File> {
    File::create(path)?;
    let file = open_file(path, access)?;
    let zeros = buffer(FILL_BYTES.min(segment_bytes as usize));
    let mut offset = 0;
    while offset < segment_bytes {
        let length = (segment_bytes - offset).min(zeros.len() as u64);
        file.write_all_at(&zeros[..length as usize], offset)?;
        offset += length;
    }
    file.sync_all()?;
    Ok(file)
}

fn segment_path(directory: &Path, segment: u32) -> PathBuf {
    directory.join(format!("{segment:08}"))
}

/// How files are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Past the page cache, if that is possible.
    Direct,
    /// Through it.
    Cached,
    /// Only to be looked at.
    Read,
}

fn open_file(path: &Path, access: Access) -> io::Result<File> {
    let mode = if access == Access::Read { OFlags::RDONLY } else { OFlags::RDWR };
    let flags = mode | OFlags::CLOEXEC;
    if access == Access::Direct {
        match open(path, flags | OFlags::DIRECT, Mode::empty()) {
            Err(rustix::io::Errno::INVAL) => {
                tracing::info!("the file system has no direct I/O; the page cache is used");
            }
            other => return Ok(File::from(other?)),
        }
    }
    Ok(File::from(open(path, flags, Mode::empty())?))
}

/// True if there is a ring.
pub(super) fn is_ring(directory: &Path) -> bool {
    directory.join(RING).is_file()
}

fn ring_text(secret: &Secret, segment_bytes: u64, count: u32) -> String {
    let secret = hex::encode(secret);
    let text =
        format!("{MAGIC}\nsecret {secret}\nsegment-bytes {segment_bytes}\nsegments {count}\n");
    let check = blake3::hash(text.as_bytes()).to_hex();
    format!("{text}check {check}\n")
}

fn read_ring(directory: &Path) -> Result<(Secret, u64, u32), StoreError> {
    let path = directory.join(RING);
    let mut text = Vec::new();
    match File::open(&path).map(|file| file.take(RING_BYTES_MAX).read_to_end(&mut text)) {
        Ok(Ok(_)) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = format!("{} is missing: this is no journal", path.display());
            return Err(StoreError::Damaged { what });
        }
        Ok(Err(error)) | Err(error) => {
            return Err(StoreError::io("reading the ring of the journal", &error));
        }
    }
    let text = String::from_utf8_lossy(&text);
    parse_ring(&text)
        .filter(|(secret, bytes, count)| ring_text(secret, *bytes, *count) == text)
        .ok_or(StoreError::Damaged { what: format!("{} is not what was written", path.display()) })
}

fn parse_ring(text: &str) -> Option<(Secret, u64, u32)> {
    let mut lines = text.lines().skip(1);
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let mut secret = [0; 32];
    hex::decode_to_slice(field("secret")?, &mut secret).ok()?;
    let segment_bytes = field("segment-bytes")?.parse().ok()?;
    let count = field("segments")?.parse().ok()?;
    Some((secret, segment_bytes, count))
}

/// A new secret.
pub(super) fn random_secret() -> io::Result<Secret> {
    let mut secret = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    Ok(secret)
}

/// Only for tests of what is on disk.
#[cfg(test)]
pub(super) fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_segment_is_made_ahead_and_whoever_ends_before_it_is_added_takes_it_along() {
        const BYTES: u64 = 64 << 10;
        let directory = tempfile::tempdir().unwrap();
        let files = Files::create(directory.path(), [9; 32], BYTES, false).unwrap();
        files.prepare();
        let made = files.prepared().expect("on a thread of its own");
        assert_eq!((made.metadata().unwrap().len(), files.count()), (BYTES, 1));
        files.prepare();
        files.add().unwrap();
        assert_eq!(files.count(), 2);
        files.prepare();
        drop(files);
        let files = Files::open(directory.path(), Access::Cached).unwrap();
        assert_eq!(files.count(), 2);
        assert!(!segment_path(directory.path(), 2).exists());
    }

    #[test]
    fn what_was_made_of_a_segment_on_a_full_disk_is_room_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::create(directory.path(), [9; 32], 64 << 10, false).unwrap();
        let second = segment_path(directory.path(), 1);
        let fill_the_disk = || std::os::unix::fs::symlink("/dev/full", &second).unwrap();
        fill_the_disk();
        files.prepare();
        assert!(files.prepared().is_none());
        assert!(fs::symlink_metadata(&second).is_err(), "made ahead");
        fill_the_disk();
        let error = StoreError::io("testing", &files.add().unwrap_err());
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
        assert!(fs::symlink_metadata(&second).is_err(), "made when it was needed");
        assert_eq!(files.count(), 1);
        files.add().unwrap();
        assert_eq!((files.count(), second.metadata().unwrap().len()), (2, 64 << 10));
    }

    #[test]
    fn a_segment_is_as_long_as_it_was_asked_for_also_where_it_is_no_whole_number_of_writes() {
        let directory = tempfile::tempdir().unwrap();
        let length = (FILL_BYTES + BLOCK) as u64;
        drop(Files::create(directory.path(), [9; 32], length, false).unwrap());
        let path = segment_path(directory.path(), 0);
        assert_eq!(path.metadata().unwrap().len(), length);
        assert!(Files::open(directory.path(), Access::Cached).is_ok());
    }

    #[test]
    fn only_direct_access_goes_past_the_page_cache_and_whoever_looks_does_not_write() {
        let flags = |file: &File| rustix::fs::fcntl_getfl(file).unwrap();
        let directory = tempfile::tempdir().unwrap();
        drop(Files::create(directory.path(), [9; 32], 64 << 10, true).unwrap());
        let path = segment_path(directory.path(), 0);
        let can_be_direct = open(&path, OFlags::RDWR | OFlags::DIRECT, Mode::empty()).is_ok();
        for access in [Access::Direct, Access::Cached, Access::Read] {
            let flags = flags(&open_file(&path, access).unwrap());
            let is_direct = flags.contains(OFlags::DIRECT);
            assert_eq!(is_direct, can_be_direct && access == Access::Direct, "{access:?}");
            let mode = if access == Access::Read { OFlags::RDONLY } else { OFlags::RDWR };
            assert_eq!(flags & OFlags::ACCMODE, mode, "{access:?}");
            let files = Files::open(directory.path(), access).unwrap();
            let written = files.write(0, 0, &buffer(BLOCK));
            assert_eq!(written.is_ok(), access != Access::Read, "{access:?}");
        }
    }

    #[test]
    fn a_segment_that_is_not_there_is_an_error_whatever_is_asked_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::create(directory.path(), [9; 32], 64 << 10, false).unwrap();
        let mut block = buffer(BLOCK);
        assert!(files.read(1, 0, &mut block).is_err());
        assert!(files.write(1, 0, &block).is_err());
        assert!(files.sync(1).is_err());
        assert!(files.free_bytes().unwrap() > 1 << 16);
        drop(directory);
        assert!(files.free_bytes().is_err());
    }

    #[test]
    fn memory_for_blocks_is_whole_blocks_of_zeros_on_a_boundary() {
        for (bytes, length) in [(1, BLOCK), (BLOCK, BLOCK), (BLOCK + 1, 2 * BLOCK)] {
            let buffer = buffer(bytes);
            assert_eq!((buffer.len(), buffer.as_ptr().addr() % BLOCK), (length, 0));
            assert!(buffer.iter().all(|byte| *byte == 0));
        }
    }
}
