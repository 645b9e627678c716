//! What is known of one batch.

use std::sync::Arc;
use std::time::Duration;

use crate::types::{BatchInfo, Digest, ProofOfStore};

/// Order of arrival here.
pub(super) type Arrival = u64;

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub state: State,
    /// Open payloads that name it.
    pub names: Vec<Digest>,
}

/// How far it has come.
#[derive(Debug, Default)]
pub(super) enum State {
    /// A payload named it, and nothing else is known; or it has expired since.
    #[default]
    Unknown,
    /// Held here in its author's slot; no proof is known.
    Unproven { info: Box<BatchInfo>, arrival: Arrival, since: Duration, ripe: bool },
    /// Can be proposed: `since` it was in its slot or had a proof, `proven` since it had one.
    Queued { proof: Arc<ProofOfStore>, arrival: Arrival, since: Duration, proven: Duration },
    /// Ordered by a commit; whether a proof of it is on record here.
    Ordered { proven: bool },
}

impl From<State> for Entry {
    fn from(state: State) -> Self {
        Self { state, names: Vec::new() }
    }
}

impl Entry {
    pub fn is_named(&self) -> bool {
        !self.names.is_empty()
    }

    /// True if there is nothing to remember.
    pub fn is_void(&self) -> bool {
        matches!(self.state, State::Unknown) && !self.is_named()
    }
}

impl State {
    /// True if a proof of it is on record here.
    pub fn is_proven(&self) -> bool {
        matches!(self, Self::Queued { .. } | Self::Ordered { proven: true })
    }

    /// What waits to be ordered.
    pub fn waiting(&self) -> Option<&BatchInfo> {
        match self {
            Self::Unproven { info, .. } => Some(info),
            Self::Queued { proof, .. } => Some(&proof.info),
            Self::Unknown | Self::Ordered { .. } => None,
        }
    }
}
