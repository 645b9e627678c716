//! What can go wrong with a store, and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why a store cannot be opened, read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Reading or writing failed. Final for this life of the process.
    #[error("storage failed while {doing}: {reason}; check the disk, then start again")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        reason: String,
    },
    /// No space left. Final for this life of the process.
    #[error("disk full while {doing}; free space on the file system, then start again")]
    DiskFull {
        /// What was being done.
        doing: &'static str,
    },
    /// Another process has the directory open.
    #[error("{0} is in use by another process; stop it first")]
    InUse(PathBuf),
    /// There is no store.
    #[error(
        "no store found in {0}: if this validator never ran, create it with `init`; if it did, its \
         disk is lost, and signing again with an empty store would break its promises"
    )]
    Missing(PathBuf),
    /// A store is there already.
    #[error("{0} already holds a store; it is never overwritten")]
    Exists(PathBuf),
    /// Written by another version.
    #[error(
        "{path} has format {found}, this release reads {expected}; use a matching release, or move \
         the store away and replace it on purpose"
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Of another validator or chain.
    #[error("{path} belongs to another validator or chain; check the config's data directory")]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// A setting of the store outside its bounds.
    #[error("store setting {name} = {value} must lie between {minimum} and {maximum}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        minimum: u64,
        /// The most allowed.
        maximum: u64,
    },
    /// What is there cannot be right.
    #[error("the store is damaged: {what}; restore the disk, or replace the store on purpose")]
    Damaged {
        /// What and where.
        what: String,
    },
}

impl StoreError {
    /// From an I/O error while doing something.
    pub fn io(doing: &'static str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull {
            Self::DiskFull { doing }
        } else {
            Self::Io { doing, reason: error.to_string() }
        }
    }
}
