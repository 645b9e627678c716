//! What one run is made of: every choice comes from its seed, also the limits that make rare
//! branches common.

use std::time::Duration;

use bytesize::ByteSize;
use fastrand::Rng;

use super::byzantine::Lie;
use super::saturation::Saturation;
use crate::config::{LeaseConfig, PressureConfig, PullRateConfig, SequencerConfig};
use crate::types::ChainParameters;

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of everything random in the run.
    pub seed: u64,
    /// How many validators; each has power 1 unless [`Self::uneven`].
    pub validators: usize,
    /// Powers 1, 2, 3, 1, 2, 3, ...
    pub uneven: bool,
    /// Virtual time in all.
    pub duration: Duration,
    /// The last part of it, without faults.
    pub quiet: Duration,
    /// ed25519 instead of the fast signer.
    pub real_signatures: bool,
    /// Every message is encoded and decoded on its way.
    pub encodes: bool,
    /// Parameters of the chain.
    pub parameters: ChainParameters,
    /// Settings of every sequencer.
    pub config: SequencerConfig,
    /// Mean time between submissions.
    pub submit_interval: Duration,
    /// Mean time between clients that ask for a lease first; none if zero.
    pub lease_interval: Duration,
    /// Largest transaction of the load.
    pub transaction_bytes: usize,
    /// Time between a block and the next proposal.
    pub block_interval: Duration,
    /// Epochs in all; the last one does not end. Each has a committee of its own.
    pub epochs: u64,
    /// Blocks of each epoch that ends.
    pub epoch_blocks: u64,
    /// Mean time between faults; none if zero.
    pub fault_interval: Duration,
    /// Slowest message without a fault.
    pub delay_max: Duration,
    /// Of a thousand messages, how many are lost.
    pub lost_per_mille: u32,
    /// Of a thousand messages, how many arrive twice.
    pub doubled_per_mille: u32,
    /// Slowest group commit without a fault.
    pub write_max: Duration,
    /// Furthest that a wall clock is off.
    pub skew_max: Duration,
    /// Of a hundred submissions, how many go to mempools of the hosts, which gossip.
    pub pulled_percent: u32,
    /// A steady offer beside the random one, and blocks that it fills.
    pub saturation: Option<Saturation>,
    /// Whose host has a filter: it refuses a third of the batches of others.
    pub filters: Option<usize>,
    /// Who lies, and how: the last validators, in this order.
    pub liars: Vec<Lie>,
}

impl Options {
    /// A quiet network, default settings, no faults, no liars: where a scenario starts.
    pub fn calm(seed: u64, validators: usize) -> Self {
        let config = SequencerConfig {
            window_bytes: ByteSize::mib(8),
            announce_interval: Duration::from_secs(1),
            ..SequencerConfig::default()
        };
        Self {
            seed,
            validators,
            uneven: false,
            duration: Duration::from_mins(1),
            quiet: Duration::from_secs(40),
            real_signatures: false,
            encodes: true,
            parameters: ChainParameters::default(),
            config,
            submit_interval: Duration::from_millis(300),
            lease_interval: Duration::ZERO,
            transaction_bytes: 200,
            block_interval: Duration::from_millis(500),
            epochs: 1,
            epoch_blocks: 20,
            fault_interval: Duration::ZERO,
            delay_max: Duration::from_millis(20),
            lost_per_mille: 0,
            doubled_per_mille: 0,
            write_max: Duration::from_millis(5),
            skew_max: Duration::ZERO,
            pulled_percent: 0,
            saturation: None,
            filters: None,
            liars: Vec::new(),
        }
    }

    /// Bad days: 120 virtual seconds whose settings, faults and liars follow from the seed.
    pub fn from_seed(seed: u64, validators: usize) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x0971_0075);
        let mut options = Self::calm(seed, validators);
        options.duration = Duration::from_mins(2);
        options.quiet = Duration::from_secs(45);
        options.real_signatures = rng.u32(..20) == 0;
        options.encodes = rng.bool();
        options.uneven = rng.u32(..4) == 0;
        options.parameters = parameters(&mut rng);
        options.config = config(&mut rng, &options.parameters);
        options.submit_interval = millis(&mut rng, 150..900);
        options.lease_interval = millis(&mut rng, 300..2000);
        options.transaction_bytes = *pick(&mut rng, &[24, 200, 1500]);
        options.block_interval = millis(&mut rng, 300..1500);
        options.epochs = *pick(&mut rng, &[1, 1, 2, 5]);
        options.epoch_blocks = rng.u64(4..40);
        options.fault_interval = millis(&mut rng, 1500..9000);
        options.delay_max = millis(&mut rng, 2..150);
        options.lost_per_mille = *pick(&mut rng, &[0, 2, 20, 100]);
        options.doubled_per_mille = *pick(&mut rng, &[0, 5, 50]);
        options.write_max = millis(&mut rng, 1..60);
        options.skew_max = millis(&mut rng, 0..200);
        options.pulled_percent = *pick(&mut rng, &[0, 0, 75]);
        if rng.bool() {
            let most = (validators - 1) / 3;
            // An uneven committee is kept honest: the powers decide how many may lie.
            let count = if options.uneven { 0 } else { most };
            options.liars = (0..count).map(|_| *pick(&mut rng, &Lie::ALL)).collect();
        }
        options
    }
}

fn parameters(rng: &mut Rng) -> ChainParameters {
    const SECOND: u64 = 1_000_000;
    ChainParameters {
        batch_lifetime_micros: *pick(rng, &[3, 8, 20]) * SECOND,
        // Longer than any outage here: who is away for longer needs state sync.
        grace_micros: *pick(rng, &[30, 40]) * SECOND,
        transaction_bytes_max: 2048,
        batch_bytes_max: *pick(rng, &[4096, 64 << 10]),
        batch_transactions_max: *pick(rng, &[2, 8192]),
        payload_bytes_max: *pick(rng, &[4096, 64 << 10]),
        ..ChainParameters::default()
    }
}

/// Limits so small that the load meets them.
fn config(rng: &mut Rng, parameters: &ChainParameters) -> SequencerConfig {
    let largest = u64::from(parameters.batch_bytes_max);
    let target = rng.u64(64..=largest);
    SequencerConfig {
        window_bytes: ByteSize(4 * largest * *pick(rng, &[1, 4, 100])),
        window_batches: *pick(rng, &[16, 64, 10_000]),
        pool_bytes_max: ByteSize(largest * *pick(rng, &[1, 8])),
        pool_transactions_max: *pick(rng, &[4, 64, 10_000]),
        batch_bytes_target: ByteSize(target),
        batch_age_max: millis(rng, 1..200),
        batch_age_min: millis(rng, 1..50),
        gas_bucket_starts: vec![0, 10, 100],
        outstanding_bytes_max: ByteSize(4 * target * *pick(rng, &[1, 16])),
        outstanding_batches_max: *pick(rng, &[16, 256]),
        reservation: *pick(rng, &[256, 1024]),
        resend_interval: millis(rng, 100..1500),
        // The least allowed is groups of one large batch, the most is never reached.
        group_bytes_max: ByteSize(largest * *pick(rng, &[1, 64])),
        unasked_payloads_max: *pick(rng, &[2, 16]),
        payload_patience: millis(rng, 1..300),
        fetch_try_timeout: millis(rng, 20..600),
        fetches_max: *pick(rng, &[2, 4096]),
        recovered_bytes_max: ByteSize(largest * *pick(rng, &[1, 1000])),
        announce_interval: millis(rng, 500..1000),
        pressure: PressureConfig {
            threshold_percent: *pick(rng, &[10, 75, 75, 100]),
            outstanding_transactions_max: *pick(rng, &[16, 10_000]),
            uncertified_batches_max: *pick(rng, &[2, 2048]),
            proofs_max: *pick(rng, &[16, 10_000]),
            commit_time_max: millis(rng, 500..30_000),
            disk_lag_max: millis(rng, 10..4000),
        },
        pull_rate: PullRateConfig {
            min: *pick(rng, &[1, 3, 500]),
            max: *pick(rng, &[501, 2000, 200_000]),
            increase: *pick(rng, &[1, 20_000]),
            interval: millis(rng, 100..2000),
            ..PullRateConfig::default()
        },
        leases: LeaseConfig {
            life_max: millis(rng, 100..10_000),
            client_transactions_max: *pick(rng, &[1, 8, 10_000]),
            client_leases_max: *pick(rng, &[1, 8]),
            leases_max: *pick(rng, &[8, 4096]),
            ..LeaseConfig::default()
        },
        subscriber_window: *pick(rng, &[1, 4, 64]),
        subscriber_lag_max: *pick(rng, &[Duration::from_secs(3), Duration::from_mins(10)]),
        optimistic: rng.bool(),
        optimistic_age_min: Duration::from_millis(*pick(rng, &[0, 30, 400])),
        optimistic_signing_delay: Duration::from_millis(*pick(rng, &[0, 50])),
        optimistic_batch_age_max: millis(rng, 1..100),
        optimistic_blame: millis(rng, 200..20_000),
        inline_batches_max: *pick(rng, &[0, 1, 8]),
        inline_bytes_max: ByteSize(*pick(rng, &[256, 64 << 10])),
        ..SequencerConfig::default()
    }
}

fn pick<'a, T>(rng: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.usize(..choices.len())]
}

fn millis(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}
