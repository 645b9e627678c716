//! What can go wrong, at each of the three boundaries: configuration, certificates, running.

use std::{io, net::SocketAddr, path::PathBuf};
use thiserror::Error;

/// An [`EngineConfig`](crate::EngineConfig) that cannot be run.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// There is nobody to vote.
    #[error("participants are empty: name at least this validator")]
    NoParticipants,
    /// Two participants have one key.
    #[error("participant {} is listed twice: keys must differ", hex(.key))]
    DuplicateParticipant {
        /// The key in question.
        key: [u8; 32],
    },
    /// A key is not a point of the curve.
    #[error("participant key {} is not an ed25519 public key", hex(.key))]
    InvalidKey {
        /// The key in question.
        key: [u8; 32],
    },
    /// The seed does not belong to any participant.
    #[error("own key {} is not among the participants: check the seed or the committee", hex(.key))]
    NotParticipant {
        /// Public key of the seed.
        key: [u8; 32],
    },
    /// A duration or count that must be positive is zero.
    #[error("{name} is zero: it must be positive")]
    Zero {
        /// Field of [`EngineConfig`](crate::EngineConfig).
        name: &'static str,
    },
    /// Two durations have the wrong order.
    #[error("{longer} must be longer than {shorter}")]
    Order {
        /// Field that must be longer.
        longer: &'static str,
        /// Field that must be shorter.
        shorter: &'static str,
    },
    /// The partition prefix would not make a directory name.
    #[error("partition_prefix {prefix:?} may hold only ASCII letters, digits, '-' and '_'")]
    PartitionPrefix {
        /// The prefix in question.
        prefix: String,
    },
    /// The finalisation to start from does not hold.
    #[error("floor: {0}")]
    Floor(#[from] CertificateError),
}

/// A certificate that proves nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CertificateError {
    /// The committee it should be checked against has a key that is none, or one twice.
    #[error("the committee to check the finalisation against is not one of distinct ed25519 keys")]
    Committee,
    /// The bytes are not a certificate for a committee of this size.
    #[error("the bytes are not a finalisation for a committee of this size")]
    Malformed,
    /// It is of another epoch.
    #[error("the finalisation is of epoch {found}, not {expected}")]
    Epoch {
        /// Epoch it was checked for.
        expected: u64,
        /// Epoch it names.
        found: u64,
    },
    /// Signatures are wrong, too few, of another chain, or of another committee.
    #[error("the finalisation does not carry valid votes of a quorum of this committee")]
    Invalid,
}

/// Why ordering cannot start or has stopped.
#[derive(Debug, Error)]
pub enum OrderingError {
    /// The directory for the journals cannot be made.
    #[error("cannot create {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// [`run`](crate::run) was called inside a tokio runtime.
    #[error("run was called inside an asynchronous runtime: call it on a thread of its own")]
    NestedRuntime,
    /// The runtime could not be set up (threads, lock or sync of the directory).
    #[error("the runtime could not start: {reason}")]
    RuntimeStart {
        /// What the runtime said.
        reason: String,
    },
    /// The configuration cannot be run.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The journal cannot be opened.
    #[error("cannot open the journal {partition}: {reason}")]
    Journal {
        /// Directory of the journal below [`RuntimeConfig::directory`](crate::RuntimeConfig).
        partition: String,
        /// What the storage said.
        reason: String,
    },
    /// The links to the peers ended by themselves; the log says why.
    #[error("the network of the ordering engine stopped: see the log for the cause")]
    NetworkStopped,
    /// The voter ended by itself, usually on a failed write of its journal; the log says why.
    #[error("the ordering engine stopped: see the log for the cause")]
    EngineStopped,
    /// The application panicked while it served the engine.
    #[error("the application panicked: {message}")]
    ApplicationPanicked {
        /// What it panicked with.
        message: String,
    },
    /// The engine was stopped from outside: [`Engine::abort`](crate::Engine::abort), or the
    /// runtime ends.
    #[error("the ordering engine was stopped")]
    Stopped,
}

/// Returns the hexadecimal digits of a key or digest.
pub(crate) fn hex(key: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    key.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
