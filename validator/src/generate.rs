//! `validator generate`: keys, genesis, configs and data directories of a new chain.
//!
//! ```text
//! DIR/genesis.toml
//! DIR/validator-<i>.toml    DIR/validator-<i>.key (0600)    DIR/validator-<i>/  (data)
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorum_store::crypto::{Ed25519Signer, Signer as _};
use quorum_store::store::journal::JournalConfig;
use quorum_store::types::committee::Member;
use quorum_store::types::{Author, ChainParameters, Committee, Digest, Genesis};
use serde::Serialize;

use crate::config::PeerConfig;
use crate::config::genesis::GenesisFile;
use crate::executor::Identity;
use crate::exit::Failure;
use crate::keys::{self, Seed};
use crate::setup::DataDirectory;

/// Whether validators that are generated propose batches before those have a proof.
pub const OPTIMISTIC: bool = false;
/// Least time between two blocks of validators that are generated, while much waits to be ordered.
pub const BLOCK_INTERVAL: Duration = Duration::from_millis(50);

/// The same while little does.
const BLOCK_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Segments of 32 MiB.
const SEGMENTS_MAX: u32 = 512;

/// How old a batch is that is proposed without a proof, between machines.
const AGE_MIN: Duration = Duration::from_millis(50);
/// Most validators that are generated at once.
const VALIDATORS_MAX: u32 = 256;

/// Arguments of `validator generate`.
#[derive(Debug, clap::Args)]
pub struct GenerateArguments {
    /// Number of validators
    #[arg(long, value_name = "N", default_value_t = 4)]
    validators: u32,
    /// Directory that everything is written to; made if missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Address that all validators listen on, or one for each, in order
    #[arg(long, value_name = "IP", value_delimiter = ',', default_value = "127.0.0.1")]
    listen: Vec<IpAddr>,
    /// First port: validator I gets P + 2I (UDP and TCP, for validators) and the one above (HTTP);
    /// without it free ports of this machine are chosen
    #[arg(long, value_name = "P")]
    port: Option<u16>,
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Number of validators.
    pub validators: u32,
    /// How many of them, the last ones, are not in the first committee.
    pub spares: u32,
    /// Whether they propose batches before those have a proof.
    pub optimistic: bool,
    /// Least time between two blocks.
    pub block_interval: Duration,
    /// Where.
    pub directory: PathBuf,
}

/// A validator that was generated.
#[derive(Clone, Debug)]
pub struct GeneratedValidator {
    /// Its config.
    pub config: PathBuf,
    /// Where it will serve clients.
    pub http: SocketAddr,
    /// What others know of it.
    pub peer: PeerConfig,
}

/// Runs the command.
pub fn run(arguments: &GenerateArguments) -> Result<(), Failure> {
    let directory = arguments.dir.clone();
    let options = GenerateOptions {
        validators: arguments.validators,
        spares: 0,
        optimistic: OPTIMISTIC,
        block_interval: BLOCK_INTERVAL,
        directory,
    };
    for validator in generate_at(&options, &arguments.listen, arguments.port)? {
        println!("{} serves http://{}", validator.config.display(), validator.http);
    }
    Ok(())
}

/// Makes everything a new chain needs, of validators that listen on loopback.
pub fn generate(options: &GenerateOptions) -> Result<Vec<GeneratedValidator>, Failure> {
    generate_at(options, &[IpAddr::V4(Ipv4Addr::LOCALHOST)], None)
}

/// Makes everything a new chain needs. Refuses a directory that holds a genesis already.
///
/// `listen` is one address for all validators, or one for each. With a `port` nothing is bound, so
/// the addresses may be those of other machines.
pub fn generate_at(
    options: &GenerateOptions,
    listen: &[IpAddr],
    port: Option<u16>,
) -> Result<Vec<GeneratedValidator>, Failure> {
    if !(1..=VALIDATORS_MAX).contains(&options.validators) {
        return Err(Failure::usage(format!(
            "--validators {} must lie between 1 and {VALIDATORS_MAX}",
            options.validators
        )));
    }
    let listen = match *listen {
        [one] => vec![one; options.validators as usize],
        _ if listen.len() == options.validators as usize => listen.to_vec(),
        _ => {
            return Err(Failure::usage(format!(
                "--listen names {} addresses for {} validators: give one for all, or one for each",
                listen.len(),
                options.validators
            )));
        }
    };
    let directory = &options.directory;
    if directory.join("genesis.toml").exists() {
        return Err(Failure::usage(format!(
            "{} holds a chain already, and it is never overwritten: choose another directory",
            directory.display()
        )));
    }
    let what = format!("directory {}", directory.display());
    let plans = match port {
        Some(first) => fixed_plan(&listen, first)?,
        None => plan(&listen)?,
    };
    fs::create_dir_all(directory).map_err(|error| Failure::write(&what, &error))?;
    let first = &plans[..plans.len().saturating_sub(options.spares as usize)];
    let members = first.iter().map(|plan| Member { author: plan.author, power: 1 }).collect();
    let genesis = Genesis {
        nonce: Digest(*keys::random()?),
        parameters: ChainParameters::default(),
        committee: Committee::new(members).map_err(|error| Failure::other(error.to_string()))?,
    };
    write_new(&directory.join("genesis.toml"), &GenesisFile::describe(&genesis).text()?)?;
    let peers: Vec<PeerConfig> = first.iter().map(Plan::peer).collect();
    let loopback = listen.iter().all(IpAddr::is_loopback);
    let chain = genesis.chain_id();
    let mut generated = Vec::with_capacity(plans.len());
    for (index, plan) in plans.iter().enumerate() {
        let name = format!("validator-{index}");
        keys::create(&directory.join(format!("{name}.key")), &plan.seed)?;
        let config = directory.join(format!("{name}.toml"));
        write_new(&config, &plan.config_text(options, &name, loopback, &peers)?)?;
        let data_directory = directory.join(&name);
        let identity = Identity { author: plan.author, chain };
        let storage = JournalConfig::default();
        DataDirectory::new(&data_directory).create(identity, genesis.header(), &storage)?;
        generated.push(GeneratedValidator { config, http: plan.http, peer: plan.peer() });
    }
    sync(directory)?;
    Ok(generated)
}

/// One validator before anything is written.
struct Plan {
    seed: Seed,
    author: Author,
    transport: SocketAddr,
    ordering: SocketAddr,
    http: SocketAddr,
}

/// The part of a config that has no default.
#[derive(Serialize)]
struct ConfigFile<'a> {
    genesis: &'a str,
    key_file: String,
    data_dir: &'a str,
    network: NetworkSection,
    proposal: ProposalSection,
    sequencer: SequencerSection,
    http: HttpSection,
    storage: StorageSection,
    peers: Vec<&'a PeerConfig>,
}

/// Smaller than the defaults: validators that share a machine share its memory and its disk, and
/// what queues here is latency. Together they still hold a second of the most that is executed.
#[derive(Serialize)]
struct ProposalSection {
    #[serde(with = "humantime_serde")]
    block_interval: Duration,
    #[serde(with = "humantime_serde")]
    block_interval_min: Duration,
    /// A block of this size is executed within the interval of a block.
    batch_bytes_max: &'static str,
    transactions_max: u64,
}

#[derive(Serialize)]
struct SequencerSection {
    /// Transactions that wait for their batch: a quarter of a second of the most that arrives.
    pool_bytes_max: &'static str,
    /// Batches that wait to be ordered: about ten times what the three rounds of a block need.
    outstanding_bytes_max: &'static str,
    /// What an author may have stored: a minute of the most that it sends, as far as the journal
    /// holds that of all.
    window_bytes: String,
    optimistic: bool,
    /// On one machine a batch is everywhere before a proposal that names it.
    #[serde(with = "humantime_serde")]
    optimistic_age_min: Duration,
}

#[derive(Serialize)]
struct HttpSection {
    /// Bodies of requests that wait for their answers.
    ingress_bytes_max: &'static str,
    /// Outcomes for streams that read late: three seconds of the most there are.
    outcomes_bytes_max: &'static str,
}

#[derive(Serialize)]
struct StorageSection {
    /// The disk that the journal takes at most: 16 GiB.
    segments_max: u32,
}

#[derive(Serialize)]
struct NetworkSection {
    transport_listen: SocketAddr,
    ordering_listen: SocketAddr,
    http_listen: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    sync_listen: Option<SocketAddr>,
    loopback: bool,
}

impl Plan {
    fn peer(&self) -> PeerConfig {
        let Self { author, transport, ordering, .. } = *self;
        PeerConfig { key: author, transport, ordering, sync: self.sync() }
    }

    /// Where others ask for our state: where clients are served, if others reach that.
    fn sync(&self) -> SocketAddr {
        SocketAddr::new(self.transport.ip(), self.http.port())
    }

    fn config_text(
        &self,
        options: &GenerateOptions,
        name: &str,
        loopback: bool,
        peers: &[PeerConfig],
    ) -> Result<String, Failure> {
        let file = ConfigFile {
            genesis: "genesis.toml",
            key_file: format!("{name}.key"),
            data_dir: name,
            network: NetworkSection {
                transport_listen: self.transport,
                ordering_listen: self.ordering,
                http_listen: self.http,
                sync_listen: Some(self.sync()).filter(|sync| *sync != self.http),
                loopback,
            },
            proposal: ProposalSection {
                block_interval: options.block_interval,
                block_interval_min: options.block_interval.min(BLOCK_INTERVAL_MIN),
                batch_bytes_max: "16MiB",
                transactions_max: 32_768,
            },
            sequencer: SequencerSection {
                pool_bytes_max: "4MiB",
                outstanding_bytes_max: "16MiB",
                window_bytes: format!("{}MiB", window_mib(peers.len())),
                optimistic: options.optimistic,
                optimistic_age_min: if loopback { Duration::ZERO } else { AGE_MIN },
            },
            http: HttpSection { ingress_bytes_max: "16MiB", outcomes_bytes_max: "16MiB" },
            storage: StorageSection { segments_max: SEGMENTS_MAX },
            peers: peers.iter().filter(|peer| peer.key != self.author).collect(),
        };
        let body = toml::to_string(&file)
            .map_err(|error| Failure::other(format!("cannot write a config: {error}")))?;
        Ok(format!(
            "# Validator {}.\n# `validator config` lists every option.\n\n{body}",
            self.author
        ))
    }
}

/// The windows of all authors together leave an eighth of the journal to everything else.
const fn window_mib(authors: usize) -> usize {
    let journal = SEGMENTS_MAX as usize * 32;
    let share = journal / 8 * 7 / if authors == 0 { 1 } else { authors };
    if share > 2048 { 2048 } else { share }
}

/// Where clients are served: there is no access control, so never beyond the machine by default.
fn http_address(listen: IpAddr) -> IpAddr {
    if listen.is_loopback() { listen } else { IpAddr::V4(Ipv4Addr::LOCALHOST) }
}

/// Chooses keys, and free ports of this machine. All ports are held until the last one is chosen,
/// so that no two are equal; between now and the start of the validators somebody else may take
/// one, and then `run` says so.
fn plan(listen: &[IpAddr]) -> Result<Vec<Plan>, Failure> {
    let mut held_udp = Vec::new();
    let mut held_tcp = Vec::new();
    let mut plans = Vec::new();
    let mut ports = FreePorts::new()?;
    for &listen in listen {
        let seed = keys::random()?;
        let udp = ports.take(listen, UdpSocket::bind)?;
        let ordering = ports.take(listen, TcpListener::bind)?;
        let http = ports.take(http_address(listen), TcpListener::bind)?;
        let failed = |error| FreePorts::failed(listen, &error);
        plans.push(Plan {
            author: Ed25519Signer::new(&seed).author(),
            seed,
            transport: udp.local_addr().map_err(failed)?,
            ordering: ordering.local_addr().map_err(failed)?,
            http: http.local_addr().map_err(failed)?,
        });
        held_udp.push(udp);
        held_tcp.extend([ordering, http]);
    }
    Ok(plans)
}

/// Free ports that the system does not hand out by itself: while a validator is down, a port of
/// that range could become the local end of anybody's connection, and the validator could not be
/// started again. Any port if there is none.
struct FreePorts {
    /// The next one to try.
    next: u16,
    /// How many are left to try.
    left: u16,
    /// One above the last one.
    end: u16,
}

/// Where to begin: below are the well-known ones.
const PORTS_BEGIN: u16 = 10_000;

impl FreePorts {
    fn new() -> Result<Self, Failure> {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let first = range.ok().and_then(|range| range.split_whitespace().next()?.parse().ok());
        // Where the usual range of this system begins.
        let end = first.unwrap_or(32_768).max(PORTS_BEGIN);
        let left = end - PORTS_BEGIN;
        let random = keys::random()?;
        let offset = u16::from_le_bytes([random[0], random[1]]) % left.max(1);
        Ok(Self { next: PORTS_BEGIN + offset, left, end })
    }

    fn take<S>(
        &mut self,
        listen: IpAddr,
        bind: impl Fn(SocketAddr) -> io::Result<S>,
    ) -> Result<S, Failure> {
        while self.left > 0 {
            let port = self.next;
            self.left -= 1;
            self.next = if port + 1 < self.end { port + 1 } else { PORTS_BEGIN };
            match bind(SocketAddr::new(listen, port)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                bound => return bound.map_err(|error| Self::failed(listen, &error)),
            }
        }
        bind(SocketAddr::new(listen, 0)).map_err(|error| Self::failed(listen, &error))
    }

    fn failed(listen: IpAddr, error: &io::Error) -> Failure {
        Failure::usage(format!(
            "cannot choose a free port on {listen}: {error}; name a --port if the address is \
             another machine's"
        ))
    }
}

/// Chooses keys; the ports follow from the first one.
fn fixed_plan(listen: &[IpAddr], first: u16) -> Result<Vec<Plan>, Failure> {
    let port = |offset: usize| {
        let port = usize::from(first) + offset;
        u16::try_from(port).ok().filter(|port| first > 0 && *port > 0).ok_or_else(|| {
            Failure::usage(format!(
                "--port {first} is no first port for {} validators: two each, from 1 to 65535",
                listen.len()
            ))
        })
    };
    let plan = |(index, &listen): (usize, &IpAddr)| {
        let (peers, clients) = (port(2 * index)?, port(2 * index + 1)?);
        let seed = keys::random()?;
        Ok(Plan {
            author: Ed25519Signer::new(&seed).author(),
            seed,
            transport: SocketAddr::new(listen, peers),
            ordering: SocketAddr::new(listen, peers),
            http: SocketAddr::new(http_address(listen), clients),
        })
    };
    listen.iter().enumerate().map(plan).collect()
}

/// Writes a file that must not exist, and syncs it.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| Failure::write(&path.display().to_string(), &error))
}

fn sync(directory: &Path) -> Result<(), Failure> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Failure::write(&directory.display().to_string(), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ValidatorConfig;
    use std::collections::BTreeSet;

    #[test]
    fn plans_have_distinct_keys_and_ports_and_their_configs_are_valid() {
        let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let plans = plan(&[listen; 4]).unwrap();
        let keys: BTreeSet<_> = plans.iter().map(|plan| plan.author).collect();
        let tcp: BTreeSet<_> = plans.iter().flat_map(|plan| [plan.ordering, plan.http]).collect();
        assert_eq!((keys.len(), tcp.len()), (4, 8));
        let members = keys.iter().map(|key| Member { author: *key, power: 1 }).collect();
        let committee = Committee::new(members).unwrap();
        let peers: Vec<PeerConfig> = plans.iter().map(Plan::peer).collect();
        for plan in &plans {
            let options = GenerateOptions {
                validators: 4,
                spares: 0,
                optimistic: true,
                block_interval: BLOCK_INTERVAL,
                directory: PathBuf::new(),
            };
            let text = plan.config_text(&options, "validator-0", true, &peers).unwrap();
            let config: ValidatorConfig = toml::from_str(&text).unwrap();
            config.validate(&ChainParameters::default(), &committee, &plan.author).unwrap();
            assert!(config.network.loopback);
        }
    }

    #[test]
    fn a_first_port_decides_all_others_and_clients_stay_on_the_machine() {
        let listen = ["10.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()];
        let plans = fixed_plan(&listen, 7000).unwrap();
        let addresses =
            |plan: &Plan| [plan.transport, plan.ordering, plan.http].map(|a| a.to_string());
        assert_eq!(addresses(&plans[0]), ["10.0.0.1:7000", "10.0.0.1:7000", "127.0.0.1:7001"]);
        assert_eq!(addresses(&plans[1]), ["127.0.0.2:7002", "127.0.0.2:7002", "127.0.0.2:7003"]);
        assert_eq!(fixed_plan(&listen, 65_533).err().map(|failure| failure.code()), Some(2));
        assert_eq!(fixed_plan(&listen, 0).err().map(|failure| failure.code()), Some(2));
        assert!(fixed_plan(&listen, 65_532).is_ok());
    }

    #[test]
    fn a_directory_that_holds_a_chain_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("genesis.toml"), "old").unwrap();
        let options = |validators| {
            let directory = directory.path().to_owned();
            GenerateOptions {
                validators,
                spares: 0,
                optimistic: OPTIMISTIC,
                block_interval: BLOCK_INTERVAL,
                directory,
            }
        };
        let failure = generate(&options(1)).unwrap_err();
        assert_eq!(failure.code(), 2);
        let kept = std::fs::read_to_string(directory.path().join("genesis.toml")).unwrap();
        assert_eq!(kept, "old");
        assert_eq!(generate(&options(VALIDATORS_MAX + 1)).unwrap_err().code(), 2);
    }
}
