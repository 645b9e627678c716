//! A small chain with tight limits, so that every bound is met within a few inputs.

use std::sync::LazyLock;
use std::time::Duration;

use bytesize::ByteSize;
use quorum_store::config::{
    LeaseConfig, PressureConfig, PullRateConfig, SequencerConfig, SourceConfig,
};
use quorum_store::sequencer::Setup;
use quorum_store::sequencer::port::Now;
use quorum_store::types::{
    Author, ChainId, ChainParameters, Committee, Digest, Epoch, Genesis, Member, Timestamp,
};

/// Validators of the chain; the first is the one under test.
pub const MEMBERS: u8 = 4;
/// Where the wall clock starts: one hour after the Unix epoch.
pub const START: u64 = 3_600_000_000;
/// How long a batch may wait, and how long it is kept after that.
pub const LIFETIME: Duration = Duration::from_secs(1);
/// See [`LIFETIME`].
pub const GRACE: Duration = Duration::from_secs(1);
/// How far clocks may differ.
pub const ALLOWANCE: Duration = Duration::from_millis(10);

/// A member, or an outsider from [`MEMBERS`] on. Keys are no points of a curve: nothing in the
/// core verifies a signature.
pub fn author(index: u8) -> Author {
    Author([index + 1; 32])
}

/// The chain.
pub fn genesis() -> &'static Genesis {
    static GENESIS: LazyLock<Genesis> = LazyLock::new(make_genesis);
    &GENESIS
}

/// What scopes its digests.
pub fn chain() -> ChainId {
    static CHAIN: LazyLock<ChainId> = LazyLock::new(|| genesis().chain_id());
    *CHAIN
}

fn make_genesis() -> Genesis {
    let parameters = ChainParameters {
        batch_lifetime_micros: LIFETIME.as_micros() as u64,
        grace_micros: GRACE.as_micros() as u64,
        clock_allowance_micros: ALLOWANCE.as_micros() as u64,
        transaction_bytes_max: 256,
        batch_transactions_max: 8,
        batch_bytes_max: 1024,
        payload_bytes_max: 4096,
        transaction_life_max_micros: 2_000_000,
    };
    assert_eq!(parameters.validate(), Ok(()), "the parameters");
    let member = |index| Member { author: author(index), power: 1 };
    let committee = Committee::new((0..MEMBERS).map(member).collect());
    let Ok(committee) = committee else { unreachable!("four members: {committee:?}") };
    Genesis { nonce: Digest([1; 32]), parameters, committee }
}

/// The settings of the validator under test.
pub fn config() -> &'static SequencerConfig {
    static CONFIG: LazyLock<SequencerConfig> = LazyLock::new(|| make_config(genesis()));
    &CONFIG
}

fn make_config(genesis: &Genesis) -> SequencerConfig {
    let config = SequencerConfig {
        window_bytes: ByteSize(4 << 10),
        window_batches: 16,
        pool_bytes_max: ByteSize(2048),
        pool_transactions_max: 16,
        batch_bytes_target: ByteSize(512),
        batch_age_max: Duration::from_millis(20),
        batch_age_min: Duration::from_millis(5),
        gas_bucket_starts: vec![0, 10, 100],
        outstanding_bytes_max: ByteSize(24 << 10),
        outstanding_batches_max: 16,
        reservation: 256,
        resend_interval: Duration::from_millis(100),
        group_bytes_max: ByteSize(4096),
        unasked_payloads_max: 2,
        payload_patience: Duration::from_millis(50),
        fetch_try_timeout: Duration::from_millis(40),
        fetches_max: 3,
        fetch_bytes_in_flight_max: ByteSize(8 << 10),
        fetch_asks_per_peer_max: 4,
        recovered_bytes_max: ByteSize(4096),
        refetch_delay: Duration::from_millis(100),
        refetch_bytes_per_second: ByteSize::kib(64),
        optimistic: false,
        optimistic_age_min: Duration::from_millis(50),
        optimistic_signing_delay: Duration::ZERO,
        optimistic_batch_age_max: Duration::from_millis(2),
        optimistic_blame: Duration::from_secs(1),
        inline_batches_max: 0,
        inline_bytes_max: ByteSize(256),
        announce_interval: Duration::from_millis(500),
        subscriber_window: 3,
        subscriber_lag_bytes_max: ByteSize(1 << 20),
        subscriber_lag_max: Duration::from_secs(4),
        source: SourceConfig {
            idle_interval: Duration::from_millis(50),
            seen_exclusion: Duration::from_millis(200),
            in_progress_max: 1000,
        },
        pressure: PressureConfig {
            uncertified_batches_max: 4,
            disk_lag_max: Duration::from_secs(1),
            ..PressureConfig::default()
        },
        pull_rate: PullRateConfig { min: 20, max: 100, increase: 20, ..PullRateConfig::default() },
        leases: LeaseConfig::default(),
    };
    assert_eq!(config.validate(&genesis.parameters), Ok(()), "the settings");
    config
}

/// The validator under test.
pub fn setup() -> Setup {
    let (genesis, config) = (genesis().clone(), config().clone());
    let committee = genesis.committee.clone();
    Setup { author: author(0), genesis, epoch: Epoch(0), committee, config }
}

/// The start of a life.
pub fn start() -> Now {
    Now { monotonic: Duration::ZERO, wall: Timestamp(START) }
}
