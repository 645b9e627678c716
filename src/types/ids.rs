//! Identifiers and instants: newtypes, so that no two of them can be confused.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Declares a 32-byte identifier that prints as hex.
macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
        )]
        pub struct $name(#[serde(with = "super::words")] pub [u8; 32]);

        impl $name {
            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Reads 64 hex digits.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).ok()?;
                Some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(&self.0[..4]))
            }
        }
    };
}

bytes32! {
    /// A validator: its ed25519 public key.
    Author
}
bytes32! {
    /// The name of exactly one content: a batch or a payload.
    Digest
}
bytes32! {
    /// BLAKE3 of the genesis: what tells one chain from another.
    ChainId
}
bytes32! {
    /// BLAKE3 of a committee: its keys, powers and order.
    CommitteeHash
}

/// A period with one committee.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// One life of a data directory: random, chosen when the store is created.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Incarnation(pub u64);

/// The height of a block: global, gapless, also across epochs; genesis is 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct CommitIndex(pub u64);

impl CommitIndex {
    /// The index after this one; saturates, so that hostile heights cannot overflow. No chain gets
    /// to the end of the range.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Which batch of its author: unique within (epoch, author) for ever.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct BatchId {
    /// The author's store that numbered it.
    pub incarnation: Incarnation,
    /// Rises by at least one with each batch of the incarnation; gaps are allowed, reuse is not.
    pub counter: u64,
}

/// The place that at most one batch may ever be signed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// Epoch of the batch.
    pub epoch: Epoch,
    /// Its author.
    pub author: Author,
    /// Its number.
    pub batch_id: BatchId,
}

/// Microseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The instant `duration` later; saturates, so that hostile values cannot overflow.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// The instant `duration` earlier; saturates at the Unix epoch.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }
}

/// Whole microseconds of a duration, saturating.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
