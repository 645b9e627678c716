//! What an operator can tune. What must be equal at every validator is in the genesis instead.

mod admission;
mod source;

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use self::admission::{LeaseConfig, PressureConfig, PullRateConfig};
pub use self::source::SourceConfig;
use crate::types::payload::INLINE_MAX;
use crate::types::{ChainParameters, Usage};

/// While fewer own batches wait to be ordered, the next is sealed early where that is cheap.
const EARLY_BATCHES: usize = 32;

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// Which.
    pub setting: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl ConfigError {
    /// A setting and what is wrong with it.
    pub fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }
}

/// Settings of the pure core. Durations as `"25ms"`, sizes as `"64MiB"` in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SequencerConfig {
    /// What this validator stores of each author: bytes, overhead included. Default 1 GiB; at
    /// least four of the largest batch.
    pub window_bytes: ByteSize,
    /// What this validator stores of each author: batches. Default 262144; at least 16.
    pub window_batches: u64,
    /// Transactions accepted and not batched yet: bytes. Default 32 MiB; at least the largest
    /// batch.
    pub pool_bytes_max: ByteSize,
    /// Transactions accepted and not batched yet: count. Default 131072; at least 1.
    pub pool_transactions_max: u64,
    /// A batch is sealed at this size: body bytes. Default 1 MiB; at most the largest batch.
    pub batch_bytes_target: ByteSize,
    /// A batch is sealed when its oldest transaction has waited this long. Default 20 ms; 1 ms to
    /// 1 s.
    #[serde(with = "humantime_serde")]
    pub batch_age_max: Duration,
    /// While none of our own batches waits for its proof, one is sealed when its oldest transaction has
    /// waited this long, half of `batch_age_max` after the batch before at the earliest: there is nothing
    /// to gather for. Default 5 ms; 1 ms to 1 s, and no longer than the other age.
    #[serde(with = "humantime_serde")]
    pub batch_age_min: Duration,
    /// Lowest gas unit price of each bucket, rising, the first 0. Default ten buckets.
    pub gas_bucket_starts: Vec<u64>,
    /// Own batches that are not ordered yet: bytes, kept in memory. Default 64 MiB; at least four
    /// times `batch_bytes_target`.
    pub outstanding_bytes_max: ByteSize,
    /// Own batches that are not ordered yet: count. Default 4096; at least 16.
    pub outstanding_batches_max: u64,
    /// Own batch ids are reserved on disk in ranges of this many. Default 65536; 256 to 2^32.
    pub reservation: u64,
    /// A silent validator is asked again after this long, then after twice that, and so on.
    /// Default 1 s; 50 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub resend_interval: Duration,
    /// A group takes no more input beyond this size. Default 8 MiB; at least the largest batch.
    pub group_bytes_max: ByteSize,
    /// Payloads of one peer that nobody asked about are kept up to this many. Default 16; 2 to
    /// 1024.
    pub unasked_payloads_max: usize,
    /// A payload that is asked about is fetched when it has not arrived after this long. Default
    /// 150 ms; 1 ms to 5 s.
    #[serde(with = "humantime_serde")]
    pub payload_patience: Duration,
    /// A fetch goes to the next holder after this long without an answer. Default 400 ms; 10 ms to
    /// 10 s.
    #[serde(with = "humantime_serde")]
    pub fetch_try_timeout: Duration,
    /// Fetches under way at once. Default 4096; at least 1.
    pub fetches_max: usize,
    /// What is asked for and not answered, all peers together: bytes. Default 64 MiB; at least the
    /// largest batch and payload.
    pub fetch_bytes_in_flight_max: ByteSize,
    /// Contents, or chunks of large ones, that one peer is asked for at once. Default 64; 1 to 1024.
    pub fetch_asks_per_peer_max: usize,
    /// Fetched content kept beyond its author's window: bytes. Default 1 GiB.
    pub recovered_bytes_max: ByteSize,
    /// A certified batch that has not arrived is fetched after this long. Default 2 s; 10 ms to 60 s.
    #[serde(with = "humantime_serde")]
    pub refetch_delay: Duration,
    /// Content that nobody waits for yet is fetched at this rate at most: bytes a second. Default
    /// 32 MiB; at least 64 KiB.
    pub refetch_bytes_per_second: ByteSize,
    /// Deliveries to a subscriber that it has not acknowledged. Default 64; 1 to 65536.
    pub subscriber_window: usize,
    /// Bytes of batches kept beyond their time because a subscriber needs them; beyond it the
    /// slowest one is detached. Default 4 GiB; at least 1 MiB.
    pub subscriber_lag_bytes_max: ByteSize,
    /// A subscriber is detached when there is a commit for it and it has not attached or come
    /// further for this long. Default 10 min; 1 s to 24 h.
    #[serde(with = "humantime_serde")]
    pub subscriber_lag_max: Duration,
    /// Batches are proposed before they have a proof: others vote once they hold them. Default no.
    pub optimistic: bool,
    /// A batch is proposed without a proof this long after it arrived. Default 50 ms; 0 to 10 s.
    #[serde(with = "humantime_serde")]
    pub optimistic_age_min: Duration,
    /// A batch that may be ordered without a proof is signed for this long after it arrived, and not
    /// at all if it is ordered by then. Default 100 ms; 0 to half of `resend_interval`.
    #[serde(with = "humantime_serde")]
    pub optimistic_signing_delay: Duration,
    /// Beside `batch_age_max` where batches are proposed before they have a proof, while fewer than
    /// 32 of our own wait to be ordered: what is not certified costs less, so batches may be
    /// smaller. Default 2 ms; 1 ms to 1 s.
    #[serde(with = "humantime_serde")]
    pub optimistic_batch_age_max: Duration,
    /// After a proposal failed, authors of its batches that still have no proof are trusted with
    /// none without for this long. Default 10 s; 100 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub optimistic_blame: Duration,
    /// Small batches of our own that may travel in a proposal of ours: count. Default 4; 0 to 64.
    pub inline_batches_max: usize,
    /// The same in bytes, all together. Default 64 KiB.
    pub inline_bytes_max: ByteSize,
    /// What is granted and released is announced at least this often. Default 500 ms; 10 ms to 1 s.
    #[serde(with = "humantime_serde")]
    pub announce_interval: Duration,
    /// When back-pressure is felt.
    pub pressure: PressureConfig,
    /// How fast transactions leave the pool while it is.
    pub pull_rate: PullRateConfig,
    /// What may be reserved for clients.
    pub leases: LeaseConfig,
    /// Pulling from the host's source of transactions.
    pub source: SourceConfig,
}

impl Default for SequencerConfig {
    fn default() -> Self {
        Self {
            window_bytes: ByteSize::gib(1),
            window_batches: 262_144,
            pool_bytes_max: ByteSize::mib(32),
            pool_transactions_max: 131_072,
            batch_bytes_target: ByteSize::mib(1),
            batch_age_max: Duration::from_millis(20),
            batch_age_min: Duration::from_millis(5),
            gas_bucket_starts: vec![0, 150, 300, 500, 1000, 3000, 5000, 10_000, 100_000, 1_000_000],
            outstanding_bytes_max: ByteSize::mib(64),
            outstanding_batches_max: 4096,
            reservation: 65_536,
            resend_interval: Duration::from_secs(1),
            group_bytes_max: ByteSize::mib(8),
            unasked_payloads_max: 16,
            payload_patience: Duration::from_millis(150),
            fetch_try_timeout: Duration::from_millis(400),
            fetches_max: 4096,
            fetch_bytes_in_flight_max: ByteSize::mib(64),
            fetch_asks_per_peer_max: 64,
            recovered_bytes_max: ByteSize::gib(1),
            refetch_delay: Duration::from_secs(2),
            refetch_bytes_per_second: ByteSize::mib(32),
            subscriber_window: 64,
            subscriber_lag_bytes_max: ByteSize::gib(4),
            subscriber_lag_max: Duration::from_mins(10),
            optimistic: false,
            optimistic_age_min: Duration::from_millis(50),
            optimistic_signing_delay: Duration::from_millis(100),
            optimistic_batch_age_max: Duration::from_millis(2),
            optimistic_blame: Duration::from_secs(10),
            inline_batches_max: 4,
            inline_bytes_max: ByteSize::kib(64),
            announce_interval: Duration::from_millis(500),
            pressure: PressureConfig::default(),
            pull_rate: PullRateConfig::default(),
            leases: LeaseConfig::default(),
            source: SourceConfig::default(),
        }
    }
}

impl SequencerConfig {
    /// The window granted to each author.
    pub fn window(&self) -> Usage {
        Usage { bytes: self.window_bytes.as_u64(), batches: self.window_batches }
    }

    /// A batch is sealed when its oldest transaction has waited this long, while so many own
    /// batches wait to be ordered.
    pub fn sealing_age(&self, outstanding: usize) -> Duration {
        let early = self.optimistic && outstanding < EARLY_BATCHES;
        if early {
            self.batch_age_max.min(self.optimistic_batch_age_max)
        } else {
            self.batch_age_max
        }
    }

    /// Checks every bound and the relations between the settings and the chain's parameters.
    pub fn validate(&self, chain: &ChainParameters) -> Result<(), ConfigError> {
        let largest = u64::from(chain.batch_bytes_max);
        let at_least = |setting, value: u64, minimum: u64| {
            if value >= minimum {
                return Ok(());
            }
            Err(ConfigError::new(setting, format!("{value} is below the minimum of {minimum}")))
        };
        let within = |setting, value: Duration, minimum_ms: u64, maximum_ms: u64| {
            let range = Duration::from_millis(minimum_ms)..=Duration::from_millis(maximum_ms);
            if range.contains(&value) {
                return Ok(());
            }
            let problem = format!("{value:?} must lie between {minimum_ms} and {maximum_ms} ms");
            Err(ConfigError::new(setting, problem))
        };
        at_least("window_bytes", self.window_bytes.as_u64(), 4 * largest)?;
        at_least("window_batches", self.window_batches, 16)?;
        at_least("pool_bytes_max", self.pool_bytes_max.as_u64(), largest)?;
        at_least("pool_transactions_max", self.pool_transactions_max, 1)?;
        let target = self.batch_bytes_target.as_u64();
        at_least("batch_bytes_target", target, 1)?;
        if target > largest {
            let problem = format!("{target} is above the chain's largest batch of {largest}");
            return Err(ConfigError::new("batch_bytes_target", problem));
        }
        within("batch_age_max", self.batch_age_max, 1, 1000)?;
        within("batch_age_min", self.batch_age_min, 1, 1000)?;
        let starts = &self.gas_bucket_starts;
        if starts.first() != Some(&0) || starts.windows(2).any(|pair| pair[0] >= pair[1]) {
            let problem = "must rise strictly and start with 0";
            return Err(ConfigError::new("gas_bucket_starts", problem));
        }
        at_least("outstanding_bytes_max", self.outstanding_bytes_max.as_u64(), 4 * target)?;
        at_least("outstanding_batches_max", self.outstanding_batches_max, 16)?;
        at_least("reservation", self.reservation, 256)?;
        if self.reservation > 1 << 32 {
            return Err(ConfigError::new("reservation", "must not be above 2^32"));
        }
        within("resend_interval", self.resend_interval, 50, 10_000)?;
        at_least("group_bytes_max", self.group_bytes_max.as_u64(), largest)?;
        if !(2..=1024).contains(&self.unasked_payloads_max) {
            return Err(ConfigError::new("unasked_payloads_max", "must lie between 2 and 1024"));
        }
        within("payload_patience", self.payload_patience, 1, 5000)?;
        within("fetch_try_timeout", self.fetch_try_timeout, 10, 10_000)?;
        at_least("fetches_max", self.fetches_max as u64, 1)?;
        let in_flight = self.fetch_bytes_in_flight_max.as_u64();
        let payload = u64::from(chain.payload_bytes_max);
        at_least("fetch_bytes_in_flight_max", in_flight, largest.max(payload))?;
        if !(1..=1024).contains(&self.fetch_asks_per_peer_max) {
            return Err(ConfigError::new("fetch_asks_per_peer_max", "must lie between 1 and 1024"));
        }
        within("refetch_delay", self.refetch_delay, 10, 60_000)?;
        let rate = self.refetch_bytes_per_second.as_u64();
        at_least("refetch_bytes_per_second", rate, 64 << 10)?;
        if !(1..=65_536).contains(&self.subscriber_window) {
            return Err(ConfigError::new("subscriber_window", "must lie between 1 and 65536"));
        }
        let held = self.subscriber_lag_bytes_max.as_u64();
        at_least("subscriber_lag_bytes_max", held, 1 << 20)?;
        within("subscriber_lag_max", self.subscriber_lag_max, 1000, 86_400_000)?;
        within("optimistic_age_min", self.optimistic_age_min, 0, 10_000)?;
        let delay_max = self.resend_interval.as_millis() as u64 / 2;
        if self.optimistic {
            within("optimistic_signing_delay", self.optimistic_signing_delay, 0, delay_max)?;
        }
        within("optimistic_batch_age_max", self.optimistic_batch_age_max, 1, 1000)?;
        within("optimistic_blame", self.optimistic_blame, 100, 600_000)?;
        if self.inline_batches_max > INLINE_MAX {
            let problem = format!("must not be above {INLINE_MAX}");
            return Err(ConfigError::new("inline_batches_max", problem));
        }
        within("announce_interval", self.announce_interval, 10, 1000)?;
        within("source.idle_interval", self.source.idle_interval, 10, 10_000)?;
        within("source.seen_exclusion", self.source.seen_exclusion, 10, 60_000)?;
        at_least("source.in_progress_max", self.source.in_progress_max, 1000)?;
        self.pressure.validate()?;
        self.pull_rate.validate()?;
        self.leases.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_each_contradiction_names_its_setting() {
        let chain = ChainParameters::default();
        SequencerConfig::default().validate(&chain).unwrap();
        let wrong = |change: fn(&mut SequencerConfig)| {
            let mut config = SequencerConfig::default();
            change(&mut config);
            config.validate(&chain).unwrap_err().setting
        };
        assert_eq!(wrong(|c| c.window_bytes = ByteSize(1)), "window_bytes");
        assert_eq!(wrong(|c| c.batch_bytes_target = ByteSize::mib(2)), "batch_bytes_target");
        assert_eq!(wrong(|c| c.batch_age_max = Duration::ZERO), "batch_age_max");
        assert_eq!(wrong(|c| c.gas_bucket_starts = vec![1, 2]), "gas_bucket_starts");
        assert_eq!(wrong(|c| c.gas_bucket_starts = vec![0, 2, 2]), "gas_bucket_starts");
        assert_eq!(wrong(|c| c.reservation = u64::MAX), "reservation");
        assert_eq!(wrong(|c| c.group_bytes_max = ByteSize(7)), "group_bytes_max");
    }
}
