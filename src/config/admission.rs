//! What an operator can tune of admission: back-pressure, leases, and how fast the pool is emptied.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// When back-pressure is felt: the bounds of what it is measured by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PressureConfig {
    /// Below this share of its bound nothing counts as pressure, and every gas bucket is accepted.
    /// From there to the bound the lowest accepted bucket rises. Default 75 %; 10 to 100.
    pub threshold_percent: u8,
    /// Transactions in own batches that are not ordered yet. Default 262144; at least 1.
    pub outstanding_transactions_max: u64,
    /// Own batches that wait for votes. Default 2048; at least 1.
    pub uncertified_batches_max: u64,
    /// Proofs that could be proposed. Default 65536; at least 1.
    pub proofs_max: u64,
    /// From sealing an own batch to the commit that orders it. Default 15 s; 100 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub commit_time_max: Duration,
    /// How long a group may take to become durable. Default 4 s; 10 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub disk_lag_max: Duration,
}

impl Default for PressureConfig {
    fn default() -> Self {
        Self {
            threshold_percent: 75,
            outstanding_transactions_max: 262_144,
            uncertified_batches_max: 2048,
            proofs_max: 65_536,
            commit_time_max: Duration::from_secs(15),
            disk_lag_max: Duration::from_secs(4),
        }
    }
}

/// How fast transactions leave the pool while there is pressure: additive increase, multiplicative
/// decrease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullRateConfig {
    /// Never fewer than this: transactions a second. Default 500; at least 1.
    pub min: u64,
    /// From here on nothing is limited: transactions a second. Default 200000; above `min`, at most
    /// 10^9.
    pub max: u64,
    /// Added after each interval without pressure: transactions a second. Default 20000; 1 to 10^9.
    pub increase: u64,
    /// What is left of the rate after an interval with pressure: percent. Default 50; 1 to 99.
    pub decrease_percent: u8,
    /// The rate changes at most this often: about as long as a change takes to show. Default 1 s;
    /// 10 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for PullRateConfig {
    fn default() -> Self {
        Self {
            min: 500,
            max: 200_000,
            increase: 20_000,
            decrease_percent: 50,
            interval: Duration::from_secs(1),
        }
    }
}

/// What may be reserved for clients. All leases together hold at most half of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseConfig {
    /// Longest life of a lease. Default 10 s; 10 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub life_max: Duration,
    /// Reserved for one client: bytes. Default 4 MiB; at least 1, and never more than half of the
    /// pool.
    pub client_bytes_max: ByteSize,
    /// Reserved for one client: transactions. Default 16384; at least 1, and never more than half of
    /// the pool.
    pub client_transactions_max: u64,
    /// Leases of one client at once. Default 64; at least 1.
    pub client_leases_max: usize,
    /// Leases of all clients at once. Default 4096; at least `client_leases_max`.
    pub leases_max: usize,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            life_max: Duration::from_secs(10),
            client_bytes_max: ByteSize::mib(4),
            client_transactions_max: 16_384,
            client_leases_max: 64,
            leases_max: 4096,
        }
    }
}

fn refuse(setting: &'static str, problem: &str) -> Result<(), ConfigError> {
    Err(ConfigError::new(setting, problem))
}

fn within(value: Duration, shortest_ms: u64, longest_ms: u64) -> bool {
    (Duration::from_millis(shortest_ms)..=Duration::from_millis(longest_ms)).contains(&value)
}

impl PressureConfig {
    /// Checks every bound.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(10..=100).contains(&self.threshold_percent) {
            return refuse("pressure.threshold_percent", "must lie between 10 and 100");
        }
        for (setting, value) in [
            ("pressure.outstanding_transactions_max", self.outstanding_transactions_max),
            ("pressure.uncertified_batches_max", self.uncertified_batches_max),
            ("pressure.proofs_max", self.proofs_max),
        ] {
            if value == 0 {
                return refuse(setting, "must be at least 1");
            }
        }
        if !within(self.commit_time_max, 100, 600_000) {
            return refuse("pressure.commit_time_max", "must lie between 100 ms and 10 min");
        }
        if !within(self.disk_lag_max, 10, 600_000) {
            return refuse("pressure.disk_lag_max", "must lie between 10 ms and 10 min");
        }
        Ok(())
    }
}

impl PullRateConfig {
    /// Checks every bound.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const MOST: u64 = 1_000_000_000;
        if self.min == 0 {
            return refuse(
                "pull_rate.min",
                "must be at least 1: at 0 nothing would leave the pool",
            );
        }
        if self.max <= self.min || self.max > MOST {
            return refuse("pull_rate.max", "must lie above `min`, and not above 10^9");
        }
        if !(1..=MOST).contains(&self.increase) {
            return refuse("pull_rate.increase", "must lie between 1 and 10^9");
        }
        if !(1..=99).contains(&self.decrease_percent) {
            return refuse("pull_rate.decrease_percent", "must lie between 1 and 99");
        }
        if !within(self.interval, 10, 60_000) {
            return refuse("pull_rate.interval", "must lie between 10 ms and 1 min");
        }
        Ok(())
    }
}

impl LeaseConfig {
    /// Checks every bound.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !within(self.life_max, 10, 60_000) {
            return refuse("leases.life_max", "must lie between 10 ms and 1 min");
        }
        if self.client_bytes_max.as_u64() == 0 {
            return refuse("leases.client_bytes_max", "must be at least 1");
        }
        if self.client_transactions_max == 0 {
            return refuse("leases.client_transactions_max", "must be at least 1");
        }
        if self.client_leases_max == 0 {
            return refuse("leases.client_leases_max", "must be at least 1");
        }
        if self.leases_max < self.client_leases_max {
            return refuse("leases.leases_max", "must be at least `client_leases_max`");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_contradiction_names_its_setting() {
        LeaseConfig::default().validate().unwrap();
        let lease = |change: fn(&mut LeaseConfig)| {
            let mut config = LeaseConfig::default();
            change(&mut config);
            config.validate().unwrap_err().setting
        };
        assert_eq!(lease(|c| c.life_max = Duration::from_hours(1)), "leases.life_max");
        assert_eq!(lease(|c| c.client_bytes_max = ByteSize(0)), "leases.client_bytes_max");
        let setting = "leases.client_transactions_max";
        assert_eq!(lease(|c| c.client_transactions_max = 0), setting);
        assert_eq!(lease(|c| c.client_leases_max = 0), "leases.client_leases_max");
        assert_eq!(lease(|c| c.leases_max = 63), "leases.leases_max");

        PullRateConfig::default().validate().unwrap();
        let rate = |change: fn(&mut PullRateConfig)| {
            let mut config = PullRateConfig::default();
            change(&mut config);
            config.validate().unwrap_err().setting
        };
        assert_eq!(rate(|c| c.min = 0), "pull_rate.min");
        assert_eq!(rate(|c| c.max = c.min), "pull_rate.max");
        assert_eq!(rate(|c| c.max = u64::MAX), "pull_rate.max");
        assert_eq!(rate(|c| c.increase = 0), "pull_rate.increase");
        assert_eq!(rate(|c| c.decrease_percent = 100), "pull_rate.decrease_percent");
        assert_eq!(rate(|c| c.decrease_percent = 0), "pull_rate.decrease_percent");
        assert_eq!(rate(|c| c.interval = Duration::ZERO), "pull_rate.interval");

        PressureConfig::default().validate().unwrap();
        let pressure = |change: fn(&mut PressureConfig)| {
            let mut config = PressureConfig::default();
            change(&mut config);
            config.validate().unwrap_err().setting
        };
        assert_eq!(pressure(|c| c.threshold_percent = 101), "pressure.threshold_percent");
        assert_eq!(pressure(|c| c.threshold_percent = 0), "pressure.threshold_percent");
        assert_eq!(pressure(|c| c.uncertified_batches_max = 0), "pressure.uncertified_batches_max");
        assert_eq!(pressure(|c| c.proofs_max = 0), "pressure.proofs_max");
        assert_eq!(pressure(|c| c.commit_time_max = Duration::ZERO), "pressure.commit_time_max");
        assert_eq!(pressure(|c| c.disk_lag_max = Duration::MAX), "pressure.disk_lag_max");
    }
}
