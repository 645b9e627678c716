//! How a command ends: one exit code per kind of failure, and a message that says what to do.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | fine |
//! | 1 | anything else |
//! | 2 | usage or config; a missing key, a wrong file mode, an address in use, a foreign directory |
//! | 10 | storage failed |
//! | 11 | disk full |
//! | 12 | store missing, or damaged beyond what peers can repair |
//! | 13 | data directory in use |
//! | 14 | the checks of `testnet` or `check` failed |

use std::io;
use std::net::SocketAddr;

use quorum_store::engine::{StartError, StopCause};
use quorum_store::store::StoreError;
use quorum_store_ordering::OrderingError;

/// What helps when an address is in use.
const CHANGE_OR_STOP: &str = "in the config, and that no other process listens there";

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Anything without a code of its own.
    #[error("{0}")]
    Other(String),
    /// The command line, a config, a key or a data directory is not what it has to be.
    #[error("{0}")]
    Usage(String),
    /// Reading or writing failed.
    #[error("{0}")]
    Storage(String),
    /// No space left.
    #[error("{0}")]
    DiskFull(String),
    /// The store is lost, or damaged beyond what peers can repair.
    #[error("{0}")]
    Damaged(String),
    /// Another process has the data directory.
    #[error("{0}")]
    InUse(String),
    /// What was checked is not sound.
    #[error("{0}")]
    Checks(String),
}

impl Failure {
    /// The exit code of the process.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Other(_) => 1,
            Self::Usage(_) => 2,
            Self::Storage(_) => 10,
            Self::DiskFull(_) => 11,
            Self::Damaged(_) => 12,
            Self::InUse(_) => 13,
            Self::Checks(_) => 14,
        }
    }

    /// Without a code of its own.
    pub fn other(message: impl Into<String>) -> Self {
        Self::Other(message.into())
    }

    /// Usage or config.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Unsound.
    pub fn checks(message: impl Into<String>) -> Self {
        Self::Checks(message.into())
    }

    /// A file that this validator writes could not be written.
    pub fn write(what: &str, error: &io::Error) -> Self {
        let message = format!("cannot write {what}: {error}");
        match error.kind() {
            io::ErrorKind::StorageFull => Self::DiskFull(message),
            io::ErrorKind::AlreadyExists | io::ErrorKind::PermissionDenied => Self::Usage(message),
            _ => Self::Storage(message),
        }
    }

    /// An address could not be listened on.
    pub fn listen(what: &str, address: SocketAddr, error: &io::Error) -> Self {
        Self::Usage(format!(
            "cannot listen on {address} for {what}: {error}; is another validator running with \
             this config?"
        ))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Io { .. } => Self::Storage(message),
            StoreError::DiskFull { .. } => Self::DiskFull(message),
            StoreError::InUse(_) => Self::InUse(message),
            StoreError::Missing(_) | StoreError::Damaged { .. } => Self::Damaged(message),
            StoreError::Exists(_)
            | StoreError::Format { .. }
            | StoreError::Foreign { .. }
            | StoreError::Setting { .. } => Self::Usage(message),
            _ => Self::Other(message),
        }
    }
}

impl From<StopCause> for Failure {
    fn from(cause: StopCause) -> Self {
        match cause {
            StopCause::Storage(error) => error.into(),
            other => Self::Other(format!("the quorum store stopped: {other}")),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        match error {
            StartError::Store(error) => error.into(),
            StartError::Recover(_) => Self::Damaged(message),
            StartError::Config(_) | StartError::NotAMember(_) => Self::Usage(message),
            // A transport fails to start because of its address or its settings.
            StartError::Transport(_) => {
                Self::Usage(format!("{message}; check `network.transport_listen` {CHANGE_OR_STOP}"))
            }
            _ => Self::Other(message),
        }
    }
}

impl From<OrderingError> for Failure {
    fn from(error: OrderingError) -> Self {
        let message = format!("ordering: {error}");
        match error {
            OrderingError::Config(_) => Self::Usage(message),
            OrderingError::Listen { .. } => {
                Self::Usage(format!("{message}; check `network.ordering_listen` {CHANGE_OR_STOP}"))
            }
            OrderingError::Directory { .. }
            | OrderingError::RuntimeStart { .. }
            | OrderingError::Journal { .. } => Self::Storage(message),
            _ => Self::Other(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_store_error_has_the_documented_code() {
        let path = std::path::PathBuf::from("data");
        let cases = [
            (StoreError::Io { doing: "x", reason: "y".into() }, 10),
            (StoreError::DiskFull { doing: "x" }, 11),
            (StoreError::Missing(path.clone()), 12),
            (StoreError::Damaged { what: "x".into() }, 12),
            (StoreError::InUse(path.clone()), 13),
            (StoreError::Exists(path.clone()), 2),
            (StoreError::Format { path: path.clone(), found: 2, expected: 1 }, 2),
            (StoreError::Foreign { path }, 2),
        ];
        for (error, code) in cases {
            let message = error.to_string();
            let failure = Failure::from(error);
            assert_eq!(failure.code(), code, "{message}");
            assert_eq!(failure.to_string(), message);
        }
        assert_eq!(Failure::checks("x").code(), 14);
        assert_eq!(Failure::other("x").code(), 1);
    }
}
