//! What the engine is told: who we are, and how large its queues are.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use crate::config::ConfigError;
use crate::config::SequencerConfig;
use crate::store::StoreLimits;
use crate::types::{Committee, Epoch, Genesis};

/// Everything a node needs beside its store, key and transport.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The chain.
    pub genesis: Genesis,
    /// The epoch to serve if the store has served none yet; its own record governs.
    pub epoch: Epoch,
    /// Its committee.
    pub committee: Committee,
    /// Settings of the core.
    pub sequencer: SequencerConfig,
    /// Settings of the shell.
    pub engine: EngineConfig,
}

impl NodeConfig {
    /// Checks every bound and the relations between the settings.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let parameters = &self.genesis.parameters;
        parameters.validate().map_err(|error| ConfigError::new("genesis", error.to_string()))?;
        self.sequencer.validate(parameters)?;
        self.engine.validate()
    }

    /// Checks that the store takes whatever ends up in one group, and has room beyond the reserve.
    ///
    /// The sequencer gets no more input once twice `group_bytes_max` is open, and the last input may
    /// be as large as a group.
    pub(super) fn validate_for(&self, store: &StoreLimits) -> Result<(), ConfigError> {
        let StoreLimits { group_bytes_max, capacity_bytes } = *store;
        if self.sequencer.group_bytes_max.as_u64().saturating_mul(3) > group_bytes_max {
            let problem = format!(
                "three times this must be at most {group_bytes_max} bytes, the length of a segment \
                 of this store; choose smaller groups, or longer segments when it is created"
            );
            return Err(ConfigError::new("group_bytes_max", problem));
        }
        if self.engine.disk_reserve.as_u64().saturating_mul(2) > capacity_bytes {
            let problem = format!(
                "twice this must be at most {capacity_bytes} bytes, which is all that this store \
                 holds; choose a smaller reserve, or more segments"
            );
            return Err(ConfigError::new("disk_reserve", problem));
        }
        Ok(())
    }
}

/// Settings of the shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Threads that decode, hash and verify what arrives. Default 2; 1 to 64.
    pub ingress_workers: usize,
    /// Messages between transport and ingress, beside their byte budgets. Default 1024; at least
    /// 16.
    pub link_queue: usize,
    /// Inputs between ingress and the sequencer, per class; their bytes are bounded by the links'
    /// budgets. Default 65536; at least 64.
    pub inbox: usize,
    /// Requests of the host waiting for the sequencer. Default 4096; at least 16.
    pub host_queue: usize,
    /// Transactions of the host waiting for the sequencer, in bytes. Default 32 MiB; at least
    /// 1 MiB.
    pub submit_queue_bytes: ByteSize,
    /// Batches and payloads kept in memory for execution and serving. Default 64 MiB; at least
    /// 1 MiB.
    pub cache_bytes: ByteSize,
    /// Verified proofs remembered. Default 16384; at least 64.
    pub proof_cache: usize,
    /// Requests of one peer waiting to be served; beyond it the peer is told to ask later. Default
    /// 256; at least 4.
    pub serve_queue: usize,
    /// Content sent to one peer that asks for it, a second. Default 64 MiB; at least 1 MiB.
    pub serve_bytes_per_second: ByteSize,
    /// A link on which more bulk waits gets no content: batches of ours must find room. Default
    /// 8 MiB; at least 64 KiB, at most half of what may wait on a link.
    pub serve_link_bytes: ByteSize,
    /// Reads on the disk at once, for serving and execution. Default 2; 1 to 64.
    pub readers: usize,
    /// Below this much free space no batches are admitted; commits, payloads and deletions go on.
    /// Default 1 GiB; at least 16 MiB.
    pub disk_reserve: ByteSize,
    /// How often free space is looked at. Default 1 s; 10 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub disk_check_interval: Duration,
    /// Invalid messages of one peer within a minute that close its link. Default 100; at least 1.
    pub invalid_per_minute_max: u32,
    /// Pause before the sequencer is rebuilt inside the process after a part of it panicked; it
    /// doubles with each failure within a minute, and the third one is final. Default 100 ms; 1 ms
    /// to 10 s.
    #[serde(with = "humantime_serde")]
    pub restart_backoff: Duration,
    /// A host's source that has not answered after this long has given nothing. Default 1 s; 10 ms to
    /// 60 s.
    #[serde(with = "humantime_serde")]
    pub source_pull_timeout: Duration,
    /// Events kept for a slow listener of the host. Default 65536; at least 16.
    pub event_queue: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            ingress_workers: 2,
            link_queue: 1024,
            inbox: 65_536,
            host_queue: 4096,
            submit_queue_bytes: ByteSize::mib(32),
            cache_bytes: ByteSize::mib(64),
            proof_cache: 16_384,
            serve_queue: 256,
            serve_bytes_per_second: ByteSize::mib(64),
            serve_link_bytes: ByteSize::mib(8),
            readers: 2,
            disk_reserve: ByteSize::gib(1),
            disk_check_interval: Duration::from_secs(1),
            invalid_per_minute_max: 100,
            restart_backoff: Duration::from_millis(100),
            source_pull_timeout: Duration::from_secs(1),
            event_queue: 65_536,
        }
    }
}

impl EngineConfig {
    /// Checks every bound.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let within = |setting, value: u64, minimum: u64, maximum: u64| {
            if (minimum..=maximum).contains(&value) {
                return Ok(());
            }
            let problem = format!("{value} must lie between {minimum} and {maximum}");
            Err(ConfigError::new(setting, problem))
        };
        let mib = 1 << 20;
        within("ingress_workers", self.ingress_workers as u64, 1, 64)?;
        within("link_queue", self.link_queue as u64, 16, 1 << 20)?;
        within("inbox", self.inbox as u64, 64, 1 << 24)?;
        within("host_queue", self.host_queue as u64, 16, 1 << 20)?;
        // A semaphore counts these bytes in 32 bits.
        within("submit_queue_bytes", self.submit_queue_bytes.as_u64(), mib, 1 << 31)?;
        within("cache_bytes", self.cache_bytes.as_u64(), mib, 1 << 40)?;
        within("proof_cache", self.proof_cache as u64, 64, 1 << 24)?;
        within("serve_queue", self.serve_queue as u64, 4, 1 << 20)?;
        within("serve_bytes_per_second", self.serve_bytes_per_second.as_u64(), mib, 1 << 40)?;
        within("serve_link_bytes", self.serve_link_bytes.as_u64(), 64 << 10, 1 << 31)?;
        within("readers", self.readers as u64, 1, 64)?;
        within("disk_reserve", self.disk_reserve.as_u64(), 16 * mib, 1 << 50)?;
        let interval = self.disk_check_interval.as_millis() as u64;
        within("disk_check_interval", interval, 10, 10_000)?;
        within("invalid_per_minute_max", u64::from(self.invalid_per_minute_max), 1, 1 << 31)?;
        within("restart_backoff", self.restart_backoff.as_millis() as u64, 1, 10_000)?;
        let timeout = self.source_pull_timeout.as_millis() as u64;
        within("source_pull_timeout", timeout, 10, 60_000)?;
        within("event_queue", self.event_queue as u64, 16, 1 << 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Author, ChainParameters, Digest, Member};

    #[test]
    fn settings_that_do_not_fit_the_store_are_refused() {
        let member = Member { author: Author([1; 32]), power: 1 };
        let committee = Committee::new(vec![member]).unwrap();
        let genesis = Genesis {
            nonce: Digest([1; 32]),
            parameters: ChainParameters::default(),
            committee: committee.clone(),
        };
        let (sequencer, engine) = (SequencerConfig::default(), EngineConfig::default());
        let group = sequencer.group_bytes_max.as_u64();
        let reserve = engine.disk_reserve.as_u64();
        let config = NodeConfig { genesis, epoch: Epoch(0), committee, sequencer, engine };
        let told = |group_bytes_max, capacity_bytes| {
            config.validate_for(&StoreLimits { group_bytes_max, capacity_bytes })
        };
        assert!(told(3 * group, 2 * reserve).is_ok());
        assert_eq!(told(3 * group - 1, 2 * reserve).unwrap_err().setting, "group_bytes_max");
        assert_eq!(told(3 * group, 2 * reserve - 1).unwrap_err().setting, "disk_reserve");
    }
}
