//! Transactions of a file, streamed: the file is never in memory as a whole.
//!
//! It is read twice: once when it is named, so that a malformed one is refused, with its place,
//! before anything is sent; and once while it is sent. Equal transactions would be one at a
//! validator anyway if they had one expiration; here they are sent once, as far as memory for two
//! million of them reaches back.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::source::TRANSACTION_BYTES_MAX;

/// A line of hex: the largest transaction, and some room for blanks around it.
const LINE_BYTES_MAX: u64 = 2 * TRANSACTION_BYTES_MAX as u64 + 1024;
/// Transactions that each of two generations remembers, 16 bytes of each.
const REMEMBERED_MAX: usize = 1 << 20;

/// The transactions of a file, shared by all targets.
pub struct Replay {
    count: u64,
    reader: Mutex<Once>,
}

impl Replay {
    /// Opens a file and checks all of it: `.bin` holds u32 little-endian lengths before each
    /// transaction, any other name one hex string a line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut reader = Reader::open(path)?;
        let mut count = 0;
        while reader.next()?.is_some() {
            count += 1;
        }
        if count == 0 {
            return Err(format!("{}: holds no transaction", path.display()));
        }
        let reader = Once { reader: Reader::open(path)?, seen: Seen::default() };
        Ok(Self { count, reader: Mutex::new(reader) })
    }

    /// How many there are, equal ones included.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// The next one. `None` at the end, and if the file has changed since it was checked.
    pub fn take(&self) -> Option<Bytes> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).next()
    }
}

/// Every transaction once.
struct Once {
    reader: Reader,
    seen: Seen,
}

impl Once {
    fn next(&mut self) -> Option<Bytes> {
        loop {
            let transaction = self.reader.next().ok()??;
            if self.seen.insert(&transaction) {
                return Some(transaction.into());
            }
        }
    }
}

/// Two generations of hashes; the older one goes when the younger one is full.
#[derive(Default)]
struct Seen {
    young: HashSet<[u8; 16]>,
    old: HashSet<[u8; 16]>,
}

impl Seen {
    /// True if it was not there.
    fn insert(&mut self, transaction: &[u8]) -> bool {
        let mut name = [0; 16];
        blake3::Hasher::new().update(transaction).finalize_xof().fill(&mut name);
        if self.old.contains(&name) || !self.young.insert(name) {
            return false;
        }
        if self.young.len() >= REMEMBERED_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        true
    }
}

struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    binary: bool,
    /// Lines, or bytes, before the next transaction.
    position: u64,
    number: u64,
}

impl Reader {
    fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let binary = path.extension().is_some_and(|extension| extension == "bin");
        let (path, file) = (path.to_owned(), BufReader::new(file));
        Ok(Self { path, file, binary, position: 0, number: 0 })
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        let next = if self.binary { self.next_binary() } else { self.next_hex() };
        next.map_err(|problem| format!("{}: {problem}", self.path.display()))
    }

    fn next_binary(&mut self) -> Result<Option<Vec<u8>>, String> {
        self.number += 1;
        let (number, offset) = (self.number, self.position);
        let length = self.bytes(4)?;
        if length.is_empty() {
            return Ok(None);
        }
        let Ok(length) = <[u8; 4]>::try_from(length) else {
            return Err(format!("offset {offset}: ends inside the length of transaction {number}"));
        };
        let length = u32::from_le_bytes(length);
        let wrong = || {
            let found = format!("transaction {number} has an impossible length of {length} bytes");
            format!("offset {offset}: {found}")
        };
        if length == 0 || length > TRANSACTION_BYTES_MAX {
            return Err(wrong());
        }
        let transaction = self.bytes(u64::from(length))?;
        if transaction.len() < length as usize {
            return Err(wrong());
        }
        Ok(Some(transaction))
    }

    /// So many bytes, or fewer at the end of the file.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = (&mut self.file).take(count).read_to_end(&mut bytes);
        read.map_err(|error| format!("offset {}: {error}", self.position))?;
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    fn next_hex(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut line = Vec::new();
        loop {
            line.clear();
            self.position += 1;
            let number = self.position;
            let mut file = (&mut self.file).take(LINE_BYTES_MAX);
            let read = file.read_until(b'\n', &mut line);
            if read.map_err(|error| format!("line {number}: {error}"))? == 0 {
                return Ok(None);
            }
            let text = line.trim_ascii();
            if text.len() > 2 * TRANSACTION_BYTES_MAX as usize {
                return Err(format!("line {number}: above {TRANSACTION_BYTES_MAX} bytes"));
            }
            if !text.is_empty() {
                let bytes = hex::decode(text).map_err(|error| format!("line {number}: {error}"))?;
                return Ok(Some(bytes));
            }
        }
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
