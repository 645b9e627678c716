//! Why the engine did not start, why it stopped, and why a call ended without an answer.

use super::config::ConfigError;
use crate::sequencer::RecoverError;
use crate::sequencer::port::{SubscribeError, SubscriptionEnd};
use crate::store::StoreError;
use crate::types::{Author, CommitIndex};

/// Why the engine stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopCause {
    /// The host asked for it.
    #[error("shut down")]
    Shutdown,
    /// The store failed: nothing is signed any more in this life of the process.
    #[error(transparent)]
    Storage(#[from] StoreError),
    /// A part panicked: an invariant of the crate broke. The sequencer is rebuilt from its store,
    /// unless that has happened too often; then this is why it stopped.
    #[error("an invariant broke in {part}: {message}; please report it, with the log")]
    Broken {
        /// Where.
        part: Part,
        /// What the panic said.
        message: String,
    },
}

/// The parts of the engine that share one fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Part {
    /// The sequencer with its four components, or the driver around it.
    #[error("sequencer")]
    Sequencer,
    /// What writes groups.
    #[error("writer")]
    Writer,
    /// What signs, sends and answers.
    #[error("egress")]
    Egress,
    /// What decodes, hashes and verifies.
    #[error("ingress")]
    Ingress,
    /// What reads for peers.
    #[error("serve")]
    Serve,
    /// What watches free space.
    #[error("space")]
    Space,
    /// What reads for the host.
    #[error("reader")]
    Reader,
    /// What pulls from the host's source.
    #[error("source")]
    Source,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Sequencer,
        Self::Writer,
        Self::Egress,
        Self::Ingress,
        Self::Serve,
        Self::Space,
        Self::Reader,
        Self::Source,
    ];
}

/// Why a call ended without what was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError<E: std::error::Error + 'static> {
    /// The engine stopped.
    #[error(transparent)]
    Stopped(#[from] StopCause),
    /// The answer is no.
    #[error("{0}")]
    Refused(E),
}

/// Why a subscription yields nothing more.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// It was detached.
    #[error(transparent)]
    Ended(#[from] SubscriptionEnd),
    /// After a restart of the sequencer it could not attach again.
    #[error(transparent)]
    Refused(SubscribeError),
    /// The engine stopped.
    #[error(transparent)]
    Stopped(StopCause),
}

/// Why an ack was not taken.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcknowledgeError {
    /// Nobody can have stored what was not delivered yet.
    #[error("commit {} was not delivered yet", up_to.0)]
    NotDelivered {
        /// What was to be acknowledged.
        up_to: CommitIndex,
    },
    /// The engine stopped.
    #[error(transparent)]
    Stopped(#[from] StopCause),
}

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot work.
    #[error("config: {0}")]
    Config(#[from] ConfigError),
    /// The signer's key is not in the committee.
    #[error("key {0} is not in the committee of this epoch; check the key file and the genesis")]
    NotAMember(Author),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the store held contradicts itself.
    #[error("{0}; the store is damaged")]
    Recover(#[from] RecoverError),
    /// The transport did not start.
    #[error("transport: {0}")]
    Transport(Box<dyn std::error::Error + Send + Sync>),
    /// A thread could not be started.
    #[error("starting a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// An instrument is registered already: one registry per node.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}
