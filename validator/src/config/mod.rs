//! The config of one validator: `validator-<i>.toml`. What must be equal everywhere is in
//! `genesis.toml` instead ([`genesis`]).
//!
//! Paths are relative to the directory of the config. Durations are written as `"50ms"`, sizes as
//! `"64MiB"`. An unknown key is an error, so that a typo never silently leaves a default in force.

pub mod epochs;
pub mod genesis;
pub mod options;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorum_store::config::SequencerConfig;
use quorum_store::engine::EngineConfig;
use quorum_store::store::journal::JournalConfig;
use quorum_store::types::{Author, ChainParameters, Committee};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::units::Size;

/// The largest config or genesis file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// How much earlier than the leader's timeout an empty block must be proposed.
const LEADER_MARGIN: Duration = Duration::from_millis(200);

/// Everything one validator is told. [`options::OPTIONS`] says unit, default and bound of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidatorConfig {
    /// The genesis file.
    pub genesis: PathBuf,
    /// The file of later committees; may be missing.
    #[serde(default = "default_epochs")]
    pub epochs: PathBuf,
    /// The file with the secret seed.
    pub key_file: PathBuf,
    /// Where this validator keeps its data.
    pub data_dir: PathBuf,
    /// Threads that run tasks.
    #[serde(default = "default_worker_threads")]
    pub worker_threads: usize,
    /// How long a shutdown may take.
    #[serde(default = "default_drain_timeout", with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Addresses.
    pub network: NetworkConfig,
    /// Blocks that this validator proposes.
    #[serde(default)]
    pub proposal: ProposalConfig,
    /// The ordering engine.
    #[serde(default)]
    pub ordering: OrderingConfig,
    /// Execution.
    #[serde(default)]
    pub execution: ExecutionConfig,
    /// Clients.
    #[serde(default)]
    pub http: HttpConfig,
    /// The pure core of the library.
    #[serde(default)]
    pub sequencer: SequencerConfig,
    /// The shell of the library.
    #[serde(default)]
    pub engine: EngineConfig,
    /// The store of the library.
    #[serde(default)]
    pub storage: JournalConfig,
    /// Where the members of the committee listen; may include this validator.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
}

/// Where this validator listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Links of the quorum store.
    pub transport_listen: SocketAddr,
    /// The ordering engine.
    pub ordering_listen: SocketAddr,
    /// Clients, operators and dashboards.
    pub http_listen: SocketAddr,
    /// Other validators that want our state; without it they ask where clients do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_listen: Option<SocketAddr>,
    /// All validators are on this machine.
    #[serde(default)]
    pub loopback: bool,
    /// How long to wait for links to a quorum before ordering starts anyway.
    #[serde(default = "default_link_wait", with = "humantime_serde")]
    pub link_wait: Duration,
}

/// Where another validator listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Its public key.
    #[serde(with = "genesis::hex_author")]
    pub key: Author,
    /// Its links of the quorum store.
    pub transport: SocketAddr,
    /// Its ordering engine.
    pub ordering: SocketAddr,
    /// Its state, for other validators.
    pub sync: SocketAddr,
}

/// What this validator proposes when it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProposalConfig {
    /// Least time between two blocks while much waits to be ordered.
    #[serde(with = "humantime_serde")]
    pub block_interval: Duration,
    /// The same while little does: few bytes mean that there is time for more blocks, and whoever
    /// sent them has the outcome sooner.
    #[serde(with = "humantime_serde")]
    pub block_interval_min: Duration,
    /// With nothing to order, an empty block is proposed after this long.
    #[serde(with = "humantime_serde")]
    pub empty_block_interval: Duration,
    /// Most transactions of a block.
    pub transactions_max: u64,
    /// Most bytes of batches that a block orders.
    pub batch_bytes_max: Size,
    /// Most batches of a block.
    pub batches_max: u64,
}

impl Default for ProposalConfig {
    fn default() -> Self {
        Self {
            block_interval: Duration::from_millis(50),
            block_interval_min: Duration::from_millis(10),
            empty_block_interval: Duration::from_millis(500),
            transactions_max: 65_536,
            batch_bytes_max: Size::mib(32),
            batches_max: 1024,
        }
    }
}

/// Timeouts of the ordering engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OrderingConfig {
    /// How long a leader is waited for.
    #[serde(with = "humantime_serde")]
    pub leader_timeout: Duration,
    /// How long a view may take.
    #[serde(with = "humantime_serde")]
    pub certification_timeout: Duration,
    /// How often a vote to skip a view is repeated.
    #[serde(with = "humantime_serde")]
    pub timeout_retry: Duration,
    /// A leader that was silent for this long is not waited for.
    #[serde(with = "humantime_serde")]
    pub skip_timeout: Duration,
}

impl Default for OrderingConfig {
    fn default() -> Self {
        Self {
            leader_timeout: Duration::from_secs(1),
            certification_timeout: Duration::from_secs(2),
            timeout_retry: Duration::from_secs(1),
            skip_timeout: Duration::from_secs(5),
        }
    }
}

/// How finalised blocks are executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecutionConfig {
    /// Content that is missing for this long is reported; it is waited for all the same.
    #[serde(with = "humantime_serde")]
    pub materialize_deadline: Duration,
    /// Summaries of this many blocks are kept.
    pub blocks_kept: u64,
}

impl Default for ExecutionConfig {
    fn default() -> Self {
        Self { materialize_deadline: Duration::from_secs(5), blocks_kept: 100_000 }
    }
}

/// How clients are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Connections at once.
    pub connections_max: usize,
    /// Largest request body.
    pub body_bytes_max: Size,
    /// Bytes of request bodies held at once.
    pub ingress_bytes_max: Size,
    /// How long a request body may take to arrive.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// Reads of the store at once.
    pub reads_max: usize,
    /// Transactions that are followed at once.
    pub tracked_transactions_max: usize,
    /// Bytes of outcomes kept for streams that read later.
    pub outcomes_bytes_max: Size,
    /// Streams of outcomes at once.
    pub outcome_streams_max: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            connections_max: 256,
            body_bytes_max: Size::mib(4),
            ingress_bytes_max: Size::mib(64),
            body_timeout: Duration::from_secs(10),
            reads_max: 16,
            tracked_transactions_max: 1_500_000,
            outcomes_bytes_max: Size::mib(32),
            outcome_streams_max: 16,
        }
    }
}

fn default_epochs() -> PathBuf {
    PathBuf::from("epochs.toml")
}

fn default_worker_threads() -> usize {
    2
}

fn default_drain_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_link_wait() -> Duration {
    Duration::from_secs(5)
}

impl ValidatorConfig {
    /// Reads and checks a config; its paths become relative to the working directory.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let mut config: Self = read_toml(path)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let Self { genesis, epochs, key_file, data_dir, .. } = &mut config;
        for path in [genesis, epochs, key_file, data_dir] {
            *path = base.join(&*path);
        }
        Ok(config)
    }

    /// Checks every bound, and how the settings relate to each other and to the chain.
    pub fn validate(
        &self,
        chain: &ChainParameters,
        committee: &Committee,
        own: &Author,
    ) -> Result<(), Failure> {
        self.validate_alone()?;
        let proposal = &self.proposal;
        let transactions = u64::from(chain.batch_transactions_max);
        at_least("proposal.transactions_max", proposal.transactions_max, transactions)?;
        let batch = u64::from(chain.batch_bytes_max);
        at_least("proposal.batch_bytes_max", proposal.batch_bytes_max.0, batch)?;
        let transaction = u64::from(chain.transaction_bytes_max) + 4;
        at_least("http.body_bytes_max", self.http.body_bytes_max.0, transaction)?;
        let sequencer = self.sequencer.validate(chain);
        sequencer.map_err(|error| Failure::usage(format!("sequencer.{error}")))?;
        let engine = self.engine.validate();
        engine.map_err(|error| Failure::usage(format!("engine.{error}")))?;
        self.storage.validate()?;
        self.validate_peers(committee, own)
    }

    /// Bounds and relations that need nothing but the config.
    fn validate_alone(&self) -> Result<(), Failure> {
        within("worker_threads", self.worker_threads as u64, 1, 64)?;
        lasts("drain_timeout", self.drain_timeout, 100, 120_000)?;
        lasts("network.link_wait", self.network.link_wait, 0, 60_000)?;
        let ordering = &self.ordering;
        lasts("ordering.leader_timeout", ordering.leader_timeout, 300, 60_000)?;
        above(
            ("ordering.certification_timeout", ordering.certification_timeout),
            ("ordering.leader_timeout", ordering.leader_timeout),
        )?;
        lasts("ordering.timeout_retry", ordering.timeout_retry, 10, 60_000)?;
        for shorter in [
            ("ordering.certification_timeout", ordering.certification_timeout),
            ("ordering.timeout_retry", ordering.timeout_retry),
        ] {
            above(("ordering.skip_timeout", ordering.skip_timeout), shorter)?;
        }
        let proposal = &self.proposal;
        lasts("proposal.block_interval", proposal.block_interval, 1, 10_000)?;
        lasts("proposal.block_interval_min", proposal.block_interval_min, 1, 10_000)?;
        if proposal.block_interval_min > proposal.block_interval {
            return Err(Failure::usage(
                "proposal.block_interval_min must not be above proposal.block_interval",
            ));
        }
        if proposal.empty_block_interval < proposal.block_interval {
            return Err(Failure::usage(
                "proposal.empty_block_interval must not be below proposal.block_interval",
            ));
        }
        if proposal.empty_block_interval + LEADER_MARGIN > ordering.leader_timeout {
            return Err(Failure::usage(format!(
                "proposal.empty_block_interval must end {LEADER_MARGIN:?} before \
                 ordering.leader_timeout, or every idle view is lost to the timeout"
            )));
        }
        within("proposal.batches_max", proposal.batches_max, 1, 65_536)?;
        self.validate_bounds()
    }

    /// Bounds of queues and of what clients may use.
    fn validate_bounds(&self) -> Result<(), Failure> {
        let execution = &self.execution;
        lasts("execution.materialize_deadline", execution.materialize_deadline, 100, 60_000)?;
        within("execution.blocks_kept", execution.blocks_kept, 1000, 100_000_000)?;
        let http = &self.http;
        within("http.connections_max", http.connections_max as u64, 1, 65_536)?;
        within("http.body_bytes_max", http.body_bytes_max.0, 1 << 10, 64 << 20)?;
        let ingress = http.ingress_bytes_max.0;
        within("http.ingress_bytes_max", ingress, http.body_bytes_max.0, 1 << 31)?;
        lasts("http.body_timeout", http.body_timeout, 100, 600_000)?;
        within("http.reads_max", http.reads_max as u64, 1, 1024)?;
        let tracked = http.tracked_transactions_max as u64;
        within("http.tracked_transactions_max", tracked, 1000, 100_000_000)?;
        within("http.outcomes_bytes_max", http.outcomes_bytes_max.0, 1 << 16, 1 << 32)?;
        within("http.outcome_streams_max", http.outcome_streams_max as u64, 1, 1024)
    }

    /// Every other member has exactly one address, and nobody else has one.
    fn validate_peers(&self, committee: &Committee, own: &Author) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        for peer in &self.peers {
            if committee.index_of(&peer.key).is_none() {
                return Err(Failure::usage(format!(
                    "peers: {} is not in the genesis committee; remove it or use its genesis",
                    peer.key
                )));
            }
            if !seen.insert(peer.key) {
                return Err(Failure::usage(format!("peers: {} is listed twice", peer.key)));
            }
        }
        let missing = |member: &Author| member != own && !seen.contains(member);
        match committee.members().iter().find(|member| missing(&member.author)) {
            None => Ok(()),
            Some(member) => Err(Failure::usage(format!(
                "peers: the addresses of validator {} are missing",
                member.author
            ))),
        }
    }
}

/// Reads a TOML file of bounded size.
fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    use std::io::Read;
    let shown = path.display();
    let unreadable = |error| Failure::usage(format!("cannot read {shown}: {error}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::usage(format!("{shown} is larger than {FILE_BYTES_MAX} bytes")));
    }
    toml::from_str(&text).map_err(|error| {
        Failure::usage(format!("{shown}: {error}; `validator config` lists every option"))
    })
}

fn within(option: &str, value: u64, minimum: u64, maximum: u64) -> Result<(), Failure> {
    if (minimum..=maximum).contains(&value) {
        return Ok(());
    }
    Err(Failure::usage(format!("{option} = {value} must lie between {minimum} and {maximum}")))
}

fn at_least(option: &str, value: u64, minimum: u64) -> Result<(), Failure> {
    if value >= minimum {
        return Ok(());
    }
    Err(Failure::usage(format!("{option} = {value}: this chain needs at least {minimum}")))
}

fn lasts(option: &str, value: Duration, minimum_ms: u64, maximum_ms: u64) -> Result<(), Failure> {
    let minimum = Duration::from_millis(minimum_ms);
    let maximum = Duration::from_millis(maximum_ms);
    if (minimum..=maximum).contains(&value) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{option} = {value:?} must lie between {minimum:?} and {maximum:?}"
    )))
}

fn above(longer: (&str, Duration), shorter: (&str, Duration)) -> Result<(), Failure> {
    if longer.1 > shorter.1 {
        return Ok(());
    }
    Err(Failure::usage(format!("{} must be longer than {}", longer.0, shorter.0)))
}
