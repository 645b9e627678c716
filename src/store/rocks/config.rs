//! What can be set about the database, and what is fixed because a measurement decided it.

use std::path::Path;

use rocksdb::{ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel, Options};
use serde::{Deserialize, Serialize};

use super::super::schema::Table;
use super::super::{StoreError, directory};

/// Write buffer of the control table: its entries are a thousandth of the content's bytes.
const CONTROL_BUFFER_BYTES: usize = 16 << 20;
/// What opening may write beside the buffers: a manifest, logs, ends of files.
const OPENING_BYTES: u64 = 16 << 20;
/// Log files kept for reuse: writing into them again changes no metadata of the file system.
const RECYCLED_LOGS: usize = 4;
/// The database's own information log: this many files of this size.
const INFO_LOG_FILES: usize = 2;
const INFO_LOG_BYTES: usize = 1 << 20;

/// Settings of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RocksConfig {
    /// One write buffer of the content table: bytes of memory, default 64 MiB, 1 MiB to 1 GiB.
    /// Larger buffers stall less (the fastest measured was 256 MiB).
    pub write_buffer_bytes: u64,
    /// Write buffers of the content table, full ones included: default 4, 2 to 16.
    pub write_buffers: u32,
    /// Bodies and payloads from this size go to blob files, which compaction does not rewrite:
    /// bytes, default 1 KiB, 0 to 1 MiB.
    pub min_blob_bytes: u64,
    /// Largest blob file: bytes, default 256 MiB, 1 MiB to 4 GiB.
    pub blob_file_bytes: u64,
    /// The oldest share of blob files that garbage collection may rewrite: percent, default 25, 0
    /// to 100.
    pub blob_gc_age_percent: u32,
    /// Threads for flush and compaction: default 2, 1 to 16.
    pub background_jobs: u32,
    /// Flush and compaction bypass the page cache where the file system allows it: default true.
    pub direct_io: bool,
}

impl Default for RocksConfig {
    fn default() -> Self {
        Self {
            write_buffer_bytes: 64 << 20,
            write_buffers: 4,
            min_blob_bytes: 1 << 10,
            blob_file_bytes: 256 << 20,
            blob_gc_age_percent: 25,
            background_jobs: 2,
            direct_io: true,
        }
    }
}

impl RocksConfig {
    /// Checks every bound.
    pub fn validate(&self) -> Result<(), StoreError> {
        let within = |name, value, minimum, maximum| {
            if (minimum..=maximum).contains(&value) {
                Ok(())
            } else {
                Err(StoreError::Setting { name, value, minimum, maximum })
            }
        };
        within("write_buffer_bytes", self.write_buffer_bytes, 1 << 20, 1 << 30)?;
        within("write_buffers", u64::from(self.write_buffers), 2, 16)?;
        within("min_blob_bytes", self.min_blob_bytes, 0, 1 << 20)?;
        within("blob_file_bytes", self.blob_file_bytes, 1 << 20, 4 << 30)?;
        within("blob_gc_age_percent", u64::from(self.blob_gc_age_percent), 0, 100)?;
        within("background_jobs", u64::from(self.background_jobs), 1, 16)
    }

    /// The most that opening may have to write: everything that is only in the log.
    pub(super) fn opening_bytes(&self) -> u64 {
        let buffers = self.write_buffer_bytes * u64::from(self.write_buffers);
        buffers + CONTROL_BUFFER_BYTES as u64 + OPENING_BYTES
    }

    /// Options of the database as a whole. Pipelined and unordered writes, a WAL synced by bytes
    /// and manual WAL flushes gain nothing with one writer that syncs every group.
    pub(super) fn database_options(&self, directory: &Path) -> Options {
        let mut options = Options::default();
        options.set_paranoid_checks(true);
        options.set_allow_mmap_reads(false);
        options.set_allow_mmap_writes(false);
        // A torn tail is what an unacknowledged group leaves; recycled logs need this mode.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_recycle_log_file_num(RECYCLED_LOGS);
        // Both tables are flushed together: the control table fills slowly and would hold back
        // every log since its last flush, and only a log that is let go can be recycled.
        options.set_atomic_flush(true);
        options.set_max_background_jobs(i32::try_from(self.background_jobs).unwrap_or(i32::MAX));
        let direct_io = self.direct_io && directory::has_direct_io(directory);
        if self.direct_io && !direct_io {
            tracing::info!("the file system has no direct I/O; flushes go through the page cache");
        }
        options.set_use_direct_io_for_flush_and_compaction(direct_io);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(INFO_LOG_FILES);
        options.set_max_log_file_size(INFO_LOG_BYTES);
        options.set_stats_dump_period_sec(0);
        options
    }

    /// Both tables.
    pub(super) fn tables(&self) -> [ColumnFamilyDescriptor; 2] {
        let mut content = Options::default();
        content.set_compression_type(DBCompressionType::None);
        content.set_write_buffer_size(self.write_buffer_bytes as usize);
        content.set_max_write_buffer_number(i32::try_from(self.write_buffers).unwrap_or(i32::MAX));
        content.set_enable_blob_files(true);
        content.set_min_blob_size(self.min_blob_bytes);
        content.set_blob_file_size(self.blob_file_bytes);
        content.set_blob_compression_type(DBCompressionType::None);
        content.set_enable_blob_gc(true);
        content.set_blob_gc_age_cutoff(f64::from(self.blob_gc_age_percent) / 100.0);
        let mut control = Options::default();
        control.set_compression_type(DBCompressionType::None);
        control.set_write_buffer_size(CONTROL_BUFFER_BYTES);
        [
            ColumnFamilyDescriptor::new(Table::Content.name(), content),
            ColumnFamilyDescriptor::new(Table::Control.name(), control),
        ]
    }
}
