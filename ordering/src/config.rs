//! Configuration of the runtime and of one engine.

use crate::{
    ConfigError,
    certificate::check,
    committee::{Finality, committee, key_bytes, namespaces, private_key},
};
use bytes::Bytes;
use commonware_consensus::simplex::scheme::ed25519::Scheme;
use commonware_cryptography::{
    Signer as _,
    ed25519::{PrivateKey, PublicKey},
};
use commonware_utils::ordered::Set;
use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};
use zeroize::Zeroizing;

/// A validator of the committee as the ordering engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Participant {
    /// Ed25519 public key.
    pub key: [u8; 32],
    /// Where its ordering engine listens (TCP).
    pub address: SocketAddr,
}

/// What the engines of one process share.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Where journals are kept; made if missing. One process at a time: a second one waits inside
    /// [`run`](crate::run) until the first has ended, so take a lock of your own before if you
    /// would rather be told. The start syncs the whole file system the directory is on.
    pub directory: PathBuf,
    /// Threads that run tasks. At least 1; 2 suffice for one engine.
    pub worker_threads: usize,
}

/// What one engine needs to know: one validator's part in the ordering of one epoch.
#[derive(Clone)]
pub struct EngineConfig {
    /// Names the chain. Every handshake and vote is bound to it.
    pub chain_id: [u8; 32],
    /// Epoch that is ordered. An engine for another epoch is another engine.
    pub epoch: u64,
    /// Ed25519 secret seed of this validator. The key may serve elsewhere: votes are signed under
    /// a namespace that begins with `quorum-store/ordering`, preceded by its length; handshakes
    /// sign a zero byte and the 32-byte hash of what was exchanged.
    pub seed: Zeroizing<[u8; 32]>,
    /// Address to listen on (TCP).
    pub listen: SocketAddr,
    /// The committee, this validator included, in any order. The addresses are dialled; where
    /// links come *from* is not looked at, since the keys decide who may connect.
    pub participants: Vec<Participant>,
    /// Digest the epoch starts from: the parent of the first proposal (view 0). For an epoch after
    /// the first, the last digest of the one before.
    pub genesis: [u8; 32],
    /// Certificate of a final digest of *this* epoch to start from instead of `genesis`. The
    /// journal wins where it is ahead of it. For a validator that lost its journal: views at or
    /// below it are never voted in again. Default: none.
    pub floor: Option<Bytes>,
    /// How long to wait for the leader of a view to propose before voting to skip the view.
    /// Proposers pace themselves below it. Default 1 s.
    pub leader_timeout: Duration,
    /// How long a view may take until its digest is certified, before voting to skip it. Must be
    /// longer than `leader_timeout`. Default 2 s.
    pub certification_timeout: Duration,
    /// How often a vote to skip is sent again while the view does not end. Default 1 s.
    pub timeout_retry: Duration,
    /// A leader from whom nothing was heard for this long is not waited for, as long as a quorum
    /// is heard; without it every view of a dead validator costs a `leader_timeout`. Must be
    /// longer than `certification_timeout` and `timeout_retry`; `None` always waits. Default 5 s.
    pub skip_timeout: Option<Duration>,
    /// How long to wait for an answer to a request for a missed certificate. Default 1 s.
    pub fetch_timeout: Duration,
    /// How long to wait before such a request is made again. Default 100 ms.
    pub fetch_retry_delay: Duration,
    /// Views kept behind the newest final one, in memory and in the journal; about as many
    /// finalisations are reported again after a restart. At least 1, default 10.
    pub view_retention: u64,
    /// Longest wait for links before voting starts; it starts at once with links to all, and soon
    /// after the first quorum. Otherwise the first views are lost to timeouts. Default 5 s.
    pub link_wait: Duration,
    /// How long a peer is refused after it sent what an honest one never sends. Default 10 min.
    pub block_duration: Duration,
    /// Messages waiting per internal queue, at least 1. Default 1024.
    pub mailbox_size: usize,
    /// False if this validator follows what is ordered and signs nothing: its journal is lost, so
    /// it does not know what it signed in this epoch. Default true.
    pub votes: bool,
    /// The journal is `<partition_prefix>-<epoch>` below the runtime's directory, so engines in
    /// one runtime need different prefixes. ASCII letters, digits, `-`, `_`. Default "consensus".
    pub partition_prefix: String,
}

impl EngineConfig {
    /// Returns the configuration with the given identity and defaults for everything else.
    pub fn new(
        chain_id: [u8; 32],
        epoch: u64,
        seed: Zeroizing<[u8; 32]>,
        listen: SocketAddr,
        participants: Vec<Participant>,
        genesis: [u8; 32],
    ) -> Self {
        Self {
            chain_id,
            epoch,
            seed,
            listen,
            participants,
            genesis,
            floor: None,
            leader_timeout: Duration::from_secs(1),
            certification_timeout: Duration::from_secs(2),
            timeout_retry: Duration::from_secs(1),
            skip_timeout: Some(Duration::from_secs(5)),
            fetch_timeout: Duration::from_secs(1),
            fetch_retry_delay: Duration::from_millis(100),
            view_retention: 10,
            link_wait: Duration::from_secs(5),
            block_duration: Duration::from_mins(10),
            mailbox_size: 1024,
            votes: true,
            partition_prefix: String::from("consensus"),
        }
    }

    /// Checks each field and how the fields relate. [`Runtime::start`](crate::Runtime::start) does
    /// the same; this is for telling an operator before anything runs.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check().map(|_| ())
    }

    /// Name of the journal.
    pub(crate) fn partition(&self) -> String {
        format!("{}-{}", self.partition_prefix, self.epoch)
    }

    /// Checks the configuration and returns what was decoded on the way.
    pub(crate) fn check(&self) -> Result<Identity, ConfigError> {
        self.check_durations()?;
        let prefix = &self.partition_prefix;
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if prefix.is_empty() || !prefix.chars().all(allowed) {
            return Err(ConfigError::PartitionPrefix { prefix: prefix.clone() });
        }

        let committee = committee(self.participants.iter().map(|participant| &participant.key))?;
        let namespace = namespaces(&self.chain_id, self.epoch, &committee).consensus;
        let key = private_key(&self.seed);
        let own = key.public_key();
        let signer = Scheme::signer(&namespace, committee.clone(), key.clone())
            .ok_or_else(|| ConfigError::NotParticipant { key: key_bytes(&own) })?;
        let follower = || Scheme::verifier(&namespace, committee.clone());
        let scheme = if self.votes { signer } else { follower() };
        let floor = self
            .floor
            .as_ref()
            .map(|certificate| check(&scheme, self.epoch, committee.len(), certificate))
            .transpose()?;
        Ok(Identity { key, committee, scheme, floor })
    }

    /// Checks that durations and counts are positive and in order.
    fn check_durations(&self) -> Result<(), ConfigError> {
        let positive = [
            ("leader_timeout", self.leader_timeout.is_zero()),
            ("timeout_retry", self.timeout_retry.is_zero()),
            ("fetch_timeout", self.fetch_timeout.is_zero()),
            ("block_duration", self.block_duration.is_zero()),
            ("view_retention", self.view_retention == 0),
            ("mailbox_size", self.mailbox_size == 0),
        ];
        if let Some((name, _)) = positive.into_iter().find(|(_, zero)| *zero) {
            return Err(ConfigError::Zero { name });
        }
        if self.certification_timeout <= self.leader_timeout {
            return Err(ConfigError::Order {
                longer: "certification_timeout",
                shorter: "leader_timeout",
            });
        }
        let Some(skip) = self.skip_timeout else {
            return Ok(());
        };
        for (shorter, duration) in [
            ("certification_timeout", self.certification_timeout),
            ("timeout_retry", self.timeout_retry),
        ] {
            if skip <= duration {
                return Err(ConfigError::Order { longer: "skip_timeout", shorter });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for EngineConfig {
    /// Leaves out the seed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineConfig")
            .field("epoch", &self.epoch)
            .field("listen", &self.listen)
            .field("participants", &self.participants.len())
            .field("partition", &self.partition())
            .finish_non_exhaustive()
    }
}

/// What a checked configuration decodes to.
pub(crate) struct Identity {
    /// Signing key of this validator.
    pub(crate) key: PrivateKey,
    /// Keys of the committee, in order.
    pub(crate) committee: Set<PublicKey>,
    /// Signs and checks votes.
    pub(crate) scheme: Scheme,
    /// Checked finalisation to start from.
    pub(crate) floor: Option<Finality>,
}
