//! The two tables in `RocksDB`: writes, reads and the meaning of its errors.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rocksdb::{
    ColumnFamily, DB, ErrorKind, FlushOptions, IteratorMode, ReadOptions, WriteBatch, WriteOptions,
};

use super::super::entries::{AllEntries, Entries, Visit};
use super::super::schema::{Table, Write};
use super::super::{StoreError, directory};
use super::RocksConfig;

/// Below this much room, an I/O error is a full disk, whatever its text.
const FULL_BELOW_BYTES: u64 = 1 << 20;

/// What the database says where a file of it is gone.
const NO_FILE: &str = "No such file";

/// An open database.
pub(in super::super) struct Database {
    db: DB,
    path: PathBuf,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.path.display())
    }
}

impl Database {
    /// Makes an empty one.
    pub(super) fn create(path: &Path, config: &RocksConfig) -> Result<Self, StoreError> {
        let mut options = config.database_options(path);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_error_if_exists(true);
        let db = DB::open_cf_descriptors(&options, path, config.tables());
        Self::opened(db, path, "creating the database")
    }

    /// Opens one that was made, and replays its log.
    pub(super) fn open(path: &Path, config: &RocksConfig) -> Result<Self, StoreError> {
        let options = config.database_options(path);
        let db = DB::open_cf_descriptors(&options, path, config.tables());
        Self::opened(db, path, "opening the database")
    }

    /// Opens one without changing anything on disk. Locks nothing.
    pub(in super::super) fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let config = RocksConfig::default();
        let options = config.database_options(path);
        let db = DB::open_cf_descriptors_read_only(&options, path, config.tables(), false);
        Self::opened(db, path, "opening the database to read it")
    }

    fn opened(
        db: Result<DB, rocksdb::Error>,
        path: &Path,
        doing: &'static str,
    ) -> Result<Self, StoreError> {
        let path = path.to_owned();
        match db {
            Ok(db) => Ok(Self { db, path }),
            // What it says of a database that is not there, or has other tables.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => {
                Err(StoreError::Damaged { what: format!("{doing}: {error}") })
            }
            Err(error) => Err(classify(&path, doing, &error)),
        }
    }

    /// Adds one change to a group.
    pub(super) fn stage(
        &self,
        batch: &mut WriteBatch,
        write: &Write<'_>,
    ) -> Result<(), StoreError> {
        match write {
            Write::Put { table, key, value } => batch.put_cf(self.table(*table)?, key, value),
            Write::Delete { table, key } => batch.delete_cf(self.table(*table)?, key),
        }
        Ok(())
    }

    /// Returns once the changes are on stable storage: all of them, or none after a crash.
    pub(super) fn write_synced(
        &self,
        batch: WriteBatch,
        doing: &'static str,
    ) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(|error| self.error(doing, &error))
    }

    /// Moves what is only in the log to files of the tables, and waits until they are synced.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        for table in [Table::Content, Table::Control] {
            self.db
                .flush_cf_opt(self.table(table)?, &options)
                .map_err(|error| self.error("flushing the database", &error))?;
        }
        Ok(())
    }

    /// The failure of a background thread, if there was one.
    pub(super) fn background_failure(&self) -> Result<(), StoreError> {
        let errors = self
            .db
            .property_int_value(rocksdb::properties::BACKGROUND_ERRORS)
            .map_err(|error| self.error("asking for background errors", &error))?;
        match errors {
            None | Some(0) => Ok(()),
            Some(_) if is_full(&self.path) => {
                Err(StoreError::DiskFull { doing: "flushing or compacting in the background" })
            }
            Some(count) => Err(StoreError::Io {
                doing: "flushing or compacting in the background",
                reason: format!("{count} errors; the database's LOG names them"),
            }),
        }
    }

    /// Every entry of a table in the order of keys.
    fn scan(&self, table: Table, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        options.fill_cache(false);
        let family = self.table(table)?;
        for entry in self.db.iterator_cf_opt(family, options, IteratorMode::Start) {
            let (key, value) = entry.map_err(|error| self.error("reading a table", &error))?;
            visit(&key, &value)?;
        }
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.db.get_cf(self.table(table)?, key);
        value
            .map(|value| value.map(Bytes::from))
            .map_err(|error| self.error("reading an entry", &error))
    }

    fn table(&self, table: Table) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(table.name()).ok_or_else(|| StoreError::Damaged {
            what: format!("the database has no table {}", table.name()),
        })
    }

    fn error(&self, doing: &'static str, error: &rocksdb::Error) -> StoreError {
        classify(&self.path, doing, error)
    }
}

impl AllEntries for Database {
    fn scan_content(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.scan(Table::Content, visit)
    }
}

impl Entries for Database {
    fn scan_control(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.scan(Table::Control, visit)
    }

    fn control(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get(Table::Control, key)
    }

    fn content(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.get(Table::Content, key) {
            // A blob file that is gone is damage of what lay in it, not of the disk as a whole.
            Err(StoreError::Io { reason, .. }) if reason.contains(NO_FILE) => {
                Err(StoreError::Damaged { what: reason })
            }
            other => other,
        }
    }
}

/// The database says what went wrong in words only; a full disk is asked of the file system first.
fn classify(path: &Path, doing: &'static str, error: &rocksdb::Error) -> StoreError {
    let reason = error.to_string();
    match error.kind() {
        ErrorKind::Corruption => StoreError::Damaged { what: format!("{doing}: {reason}") },
        ErrorKind::IOError if reason.contains("No space left") || is_full(path) => {
            StoreError::DiskFull { doing }
        }
        _ => StoreError::Io { doing, reason },
    }
}

fn is_full(path: &Path) -> bool {
    directory::free_bytes(path).is_ok_and(|free| free < FULL_BELOW_BYTES)
}
