//! Settings of pulling from the host's source of transactions. Without a source they mean nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// See the module docs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// A source that had nothing, and has not said since that it has, is asked again after this
    /// long. Default 250 ms; 10 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub idle_interval: Duration,
    /// A transaction seen in a batch of another validator is not pulled for this long; once that
    /// batch is certified, until it is ordered or expires. Default 2 s; 10 ms to 60 s.
    #[serde(with = "humantime_serde")]
    pub seen_exclusion: Duration,
    /// Transactions in progress that are remembered, about 100 bytes each. What a validator's
    /// batches hold beyond its share of half of them is not excluded from pulls, and nothing is
    /// pulled beyond all of them. Default 1000000; at least 1000.
    pub in_progress_max: u64,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            idle_interval: Duration::from_millis(250),
            seen_exclusion: Duration::from_secs(2),
            in_progress_max: 1_000_000,
        }
    }
}
