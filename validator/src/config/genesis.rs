//! `genesis.toml`: what a chain starts from, in a form that people read.
//!
//! The chain id is the hash of the values in it and not of the file, so comments and formatting
//! are free. It names keys and powers; addresses are each operator's own matter.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use quorum_store::types::committee::Member;
use quorum_store::types::ids::micros;
use quorum_store::types::{Author, ChainParameters, Committee, Digest, Genesis};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::units::Size;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisFile {
    /// Random: two chains of the same validators are still two chains.
    #[serde(with = "hex_digest")]
    pub nonce: Digest,
    /// The chain's parameters.
    #[serde(default)]
    pub parameters: ParametersFile,
    /// The committee of epoch 0.
    pub validators: Vec<MemberFile>,
}

/// A member of the committee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberFile {
    /// Its public key.
    #[serde(with = "hex_author")]
    pub key: Author,
    /// Its voting power.
    pub power: u64,
}

/// The chain's parameters with their units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParametersFile {
    /// How long a batch may wait to be ordered.
    #[serde(with = "humantime_serde")]
    pub batch_lifetime: Duration,
    /// How long content is kept after it expired.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How far clocks may differ.
    #[serde(with = "humantime_serde")]
    pub clock_allowance: Duration,
    /// Largest transaction, wrapped.
    pub transaction_bytes_max: Size,
    /// Most transactions in a batch.
    pub batch_transactions_max: u32,
    /// Largest batch body.
    pub batch_bytes_max: Size,
    /// Largest encoded payload.
    pub payload_bytes_max: Size,
    /// Longest life of a transaction.
    #[serde(with = "humantime_serde")]
    pub transaction_life_max: Duration,
}

impl Default for ParametersFile {
    fn default() -> Self {
        Self::from(ChainParameters::default())
    }
}

impl From<ChainParameters> for ParametersFile {
    fn from(parameters: ChainParameters) -> Self {
        Self {
            batch_lifetime: parameters.batch_lifetime(),
            grace: parameters.grace(),
            clock_allowance: parameters.clock_allowance(),
            transaction_bytes_max: Size(u64::from(parameters.transaction_bytes_max)),
            batch_transactions_max: parameters.batch_transactions_max,
            batch_bytes_max: Size(u64::from(parameters.batch_bytes_max)),
            payload_bytes_max: Size(u64::from(parameters.payload_bytes_max)),
            transaction_life_max: parameters.transaction_life_max(),
        }
    }
}

impl ParametersFile {
    /// As the library knows them; bounds are the library's to check.
    pub fn parameters(&self) -> ChainParameters {
        // A size beyond 32 bits is beyond every bound, and stays so when it saturates.
        let bytes = |size: Size| u32::try_from(size.0).unwrap_or(u32::MAX);
        ChainParameters {
            batch_lifetime_micros: micros(self.batch_lifetime),
            grace_micros: micros(self.grace),
            clock_allowance_micros: micros(self.clock_allowance),
            transaction_bytes_max: bytes(self.transaction_bytes_max),
            batch_transactions_max: self.batch_transactions_max,
            batch_bytes_max: bytes(self.batch_bytes_max),
            payload_bytes_max: bytes(self.payload_bytes_max),
            transaction_life_max_micros: micros(self.transaction_life_max),
        }
    }
}

impl GenesisFile {
    /// Describes a genesis.
    pub fn describe(genesis: &Genesis) -> Self {
        let members = genesis.committee.members().iter();
        Self {
            nonce: genesis.nonce,
            parameters: ParametersFile::from(genesis.parameters),
            validators: members.map(|m| MemberFile { key: m.author, power: m.power }).collect(),
        }
    }

    /// The text of the file.
    pub fn text(&self) -> Result<String, Failure> {
        let body = toml::to_string(self)
            .map_err(|error| Failure::other(format!("cannot write the genesis: {error}")))?;
        let mut text = String::from(
            "# What the chain starts from: equal at every validator, covered by the chain id.\n",
        );
        // Writing to a string cannot fail.
        let _ = write!(text, "# `validator config` explains each parameter.\n\n{body}");
        Ok(text)
    }

    /// The genesis, if it is one that this validator can run.
    pub fn genesis(&self) -> Result<Genesis, Failure> {
        let parameters = self.parameters.parameters();
        parameters.validate().map_err(|error| Failure::usage(format!("genesis: {error}")))?;
        let members = self.validators.iter();
        let members = members.map(|m| Member { author: m.key, power: m.power }).collect();
        let committee =
            Committee::new(members).map_err(|error| Failure::usage(format!("genesis: {error}")))?;
        check_powers(&committee)
            .map_err(|problem| Failure::usage(format!("genesis: {problem}")))?;
        Ok(Genesis { nonce: self.nonce, parameters, committee })
    }

    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Genesis, Failure> {
        super::read_toml::<Self>(path)?.genesis()
    }
}

/// The ordering engine counts validators and the quorum store counts power: whoever is enough for
/// the one must be enough for the other, or a block could be final that no quorum has stored.
pub fn check_powers(committee: &Committee) -> Result<(), String> {
    let mut powers: Vec<u64> = committee.members().iter().map(|member| member.power).collect();
    powers.sort_unstable();
    let enough = powers.len() - (powers.len() - 1) / 3;
    if committee.is_quorum(powers[..enough].iter().sum()) {
        return Ok(());
    }
    Err(format!(
        "the ordering engine needs any {enough} of {} validators, and the weakest {enough} hold no \
         quorum of power; make the powers more equal",
        powers.len()
    ))
}

/// Declares a serde module for a 32-byte name that files write as 64 hex digits.
macro_rules! hex32 {
    ($module:ident, $name:ty) => {
        /// 64 hex digits.
        pub mod $module {
            use serde::{Deserialize, Deserializer, Serializer, de};

            /// Writes 64 hex digits.
            pub fn serialize<S: Serializer>(value: &$name, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(value)
            }

            /// Reads 64 hex digits.
            pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                let text = String::deserialize(from)?;
                <$name>::from_hex(&text)
                    .ok_or_else(|| de::Error::custom(format!("{text:?} is not 64 hex digits")))
            }
        }
    };
}

hex32!(hex_digest, quorum_store::types::Digest);
hex32!(hex_author, quorum_store::types::Author);
