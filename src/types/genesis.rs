//! What a chain starts from, equal at every validator and covered by the chain id.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::codec;
use super::committee::Committee;
use super::ids::{ChainId, CommitIndex, Digest, Epoch, Timestamp};
use super::payload::{PayloadContent, PayloadHeader};

const DOMAIN: &str = "quorum-store/v1/genesis";

/// Largest transaction any chain may allow, in bytes.
pub const TRANSACTION_BYTES_LIMIT: u32 = 1 << 20;
/// Largest batch body any chain may allow, in bytes.
pub const BATCH_BYTES_LIMIT: u32 = 4 << 20;
/// Most transactions of a batch that a chain may allow.
pub const BATCH_TRANSACTIONS_LIMIT: u32 = 65_536;
/// Largest encoded payload any chain may allow, in bytes.
pub const PAYLOAD_BYTES_LIMIT: u32 = 4 << 20;

/// Parameters of a chain (design section 4). Times in microseconds, sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainParameters {
    /// How long a batch may wait to be ordered: microseconds, default 30 s, 1 s to 1 h.
    pub batch_lifetime_micros: u64,
    /// How long content is kept after it expired: microseconds, default 30 s, 1 s to 1 h.
    pub grace_micros: u64,
    /// How far clocks may differ: microseconds, default 500 ms, at most the lifetime.
    pub clock_allowance_micros: u64,
    /// Largest transaction: bytes, default 64 KiB, 1 to 1 MiB, at most the largest batch.
    pub transaction_bytes_max: u32,
    /// Most transactions in a batch: default 8192, 1 to 65536.
    pub batch_transactions_max: u32,
    /// Largest batch body: bytes, default 1 MiB, at most 4 MiB.
    pub batch_bytes_max: u32,
    /// Largest encoded payload: bytes, default 1 MiB - 64 KiB, 4 KiB to 4 MiB.
    pub payload_bytes_max: u32,
    /// Longest life of a transaction: microseconds, default 30 s, 1 s to 120 s.
    pub transaction_life_max_micros: u64,
}

impl Default for ChainParameters {
    fn default() -> Self {
        Self {
            batch_lifetime_micros: 30_000_000,
            grace_micros: 30_000_000,
            clock_allowance_micros: 500_000,
            transaction_bytes_max: 64 << 10,
            batch_transactions_max: 8192,
            batch_bytes_max: 1 << 20,
            payload_bytes_max: (1 << 20) - (64 << 10),
            transaction_life_max_micros: 30_000_000,
        }
    }
}

/// A chain parameter outside its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chain parameter {name} = {value} must lie between {minimum} and {maximum}")]
pub struct ParameterError {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// The least allowed.
    pub minimum: u64,
    /// The most allowed.
    pub maximum: u64,
}

impl ChainParameters {
    /// Checks every bound and the relations between the parameters.
    pub fn validate(&self) -> Result<(), ParameterError> {
        const SECOND: u64 = 1_000_000;
        let within = |name, value, minimum, maximum| {
            if (minimum..=maximum).contains(&value) {
                Ok(())
            } else {
                Err(ParameterError { name, value, minimum, maximum })
            }
        };
        let lifetime = self.batch_lifetime_micros;
        within("batch_lifetime_micros", lifetime, SECOND, 3600 * SECOND)?;
        within("grace_micros", self.grace_micros, SECOND, 3600 * SECOND)?;
        within("clock_allowance_micros", self.clock_allowance_micros, 1000, lifetime)?;
        let batch = u64::from(self.batch_bytes_max);
        within("batch_bytes_max", batch, 1, u64::from(BATCH_BYTES_LIMIT))?;
        let transaction_max = batch.min(u64::from(TRANSACTION_BYTES_LIMIT));
        let transaction = u64::from(self.transaction_bytes_max);
        // A batch must hold the largest transaction and its length field.
        within("transaction_bytes_max", transaction, 1, transaction_max.saturating_sub(16))?;
        let transactions = u64::from(self.batch_transactions_max);
        within("batch_transactions_max", transactions, 1, u64::from(BATCH_TRANSACTIONS_LIMIT))?;
        let payload = u64::from(self.payload_bytes_max);
        within("payload_bytes_max", payload, 4096, u64::from(PAYLOAD_BYTES_LIMIT))?;
        let life = self.transaction_life_max_micros;
        within("transaction_life_max_micros", life, SECOND, 120 * SECOND)
    }

    /// How long a batch may wait to be ordered.
    pub fn batch_lifetime(&self) -> Duration {
        Duration::from_micros(self.batch_lifetime_micros)
    }

    /// How long content is kept after it expired.
    pub fn grace(&self) -> Duration {
        Duration::from_micros(self.grace_micros)
    }

    /// How far clocks may differ.
    pub fn clock_allowance(&self) -> Duration {
        Duration::from_micros(self.clock_allowance_micros)
    }

    /// Longest life of a transaction.
    pub fn transaction_life_max(&self) -> Duration {
        Duration::from_micros(self.transaction_life_max_micros)
    }
}

/// The first committee and the parameters of a chain, with a nonce that makes it unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Random: two chains of the same validators are still two chains.
    pub nonce: Digest,
    /// The parameters.
    pub parameters: ChainParameters,
    /// The committee of epoch 0.
    pub committee: Committee,
}

impl Genesis {
    /// BLAKE3 of the genesis: scopes every digest, signature and link.
    pub fn chain_id(&self) -> ChainId {
        ChainId(codec::hash(DOMAIN, self))
    }

    /// The header of block 0, which every chain of payloads starts from.
    pub fn header(&self) -> PayloadHeader {
        PayloadHeader {
            epoch: Epoch(0),
            height: CommitIndex(0),
            parent: Digest(self.chain_id().0),
            block_timestamp: Timestamp(0),
            content_root: PayloadContent::default().root(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_contradictions_are_named() {
        let good = ChainParameters::default();
        good.validate().unwrap();
        let bad = ChainParameters { transaction_bytes_max: good.batch_bytes_max, ..good };
        assert_eq!(bad.validate().unwrap_err().name, "transaction_bytes_max");
        let bad = ChainParameters { clock_allowance_micros: u64::MAX, ..good };
        assert_eq!(bad.validate().unwrap_err().name, "clock_allowance_micros");
        let bad = ChainParameters { batch_lifetime_micros: 0, ..good };
        assert_eq!(bad.validate().unwrap_err().name, "batch_lifetime_micros");
    }
}
