//! The words of leases: what a client asks for, what it gets, and why not.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::BusyReason;
use crate::types::Epoch;

/// Longest name of a client in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

/// Names a lease: of one life of the sequencer, which forgets all of them when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    /// The life that granted it: when it began.
    pub life: u64,
    /// Its number in that life.
    pub number: u64,
}

impl fmt::Display for LeaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}-{:x}", self.life, self.number)
    }
}

impl FromStr for LeaseId {
    type Err = InvalidLeaseId;

    fn from_str(text: &str) -> Result<Self, InvalidLeaseId> {
        let number = |digits: &str| {
            let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            let value = u64::from_str_radix(digits, 16).ok().filter(|_| is_plain);
            value.ok_or(InvalidLeaseId)
        };
        let (life, count) = text.split_once('-').ok_or(InvalidLeaseId)?;
        Ok(Self { life: number(life)?, number: number(count)? })
    }
}

/// A text that names no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease is named by two hexadecimal numbers with a hyphen between them")]
pub struct InvalidLeaseId;

/// Room in the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Room {
    /// Bytes of transactions.
    pub bytes: u64,
    /// How many.
    pub transactions: u64,
}

/// What a client wants reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Who: what one client may hold is bounded. 1 to 64 bytes.
    pub client: String,
    /// How much.
    pub room: Room,
    /// For how long; cut to the longest life there is.
    pub life: Duration,
}

/// What is reserved. It is memory of one life of the process: it ends with that life, with the
/// epoch, when it is used up or released, and when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// Room that stays free for it.
    pub room: Room,
    /// Transactions of this gas bucket, and of those above, are taken whatever happens to prices.
    pub lowest_gas_bucket: u64,
    /// It is honoured for so long from now on.
    pub life: Duration,
}

/// A submission under a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderLease {
    /// The client that holds it.
    pub client: String,
    /// Which.
    pub id: LeaseId,
}

/// Why there is no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// A client without a name, or with too long a one.
    #[error("a client's name has 1 to 64 bytes")]
    Client,
    /// No bytes, no transactions or no time.
    #[error("a lease is for at least one byte, one transaction and one millisecond")]
    Empty,
    /// More than a client may ever hold.
    #[error(
        "a client may hold {} bytes and {} transactions at most", most.bytes, most.transactions
    )]
    TooLarge {
        /// The most it may hold.
        most: Room,
    },
    /// The epoch is over and the next one is not open yet.
    #[error("epoch {} is closed; try again once the next one is open", epoch.0)]
    EpochClosed {
        /// Which.
        epoch: Epoch,
    },
    /// This validator is not in the committee: nothing of it can be ordered.
    #[error("this validator is not in the committee; ask one that is")]
    NotAMember,
    /// Not so much now.
    #[error("not now ({limit}); try again in {} ms", retry_after.as_millis())]
    Busy {
        /// What is short.
        limit: LeaseLimit,
        /// What would be granted now.
        room: Room,
        /// The lowest bucket that is accepted now; `None`: none is.
        lowest_gas_bucket: Option<u64>,
        /// When to try again.
        retry_after: Duration,
    },
}

/// What is short when a lease is refused for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseLimit {
    /// What this client may hold.
    #[error("the client's leases")]
    Client,
    /// What all clients together may hold.
    #[error("all leases")]
    Leases,
    /// The same that refuses transactions.
    #[error("{0}")]
    Pressure(BusyReason),
}

/// Why a lease does not cover a transaction. It may still be taken as one without a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseRefusal {
    /// There is no such lease of this client any more.
    #[error(
        "no such lease of this client: it expired, was used up or released, or its epoch ended"
    )]
    Unknown,
    /// Another life of the process granted it.
    #[error("the lease was granted before this validator was started again")]
    FormerLife,
    /// Its price lies below what was quoted.
    #[error("the lease is for transactions from gas unit price {lowest_gas_bucket} on")]
    Price {
        /// What was quoted.
        lowest_gas_bucket: u64,
    },
    /// It does not fit into what is left.
    #[error("{} bytes and {} transactions are left of the lease", left.bytes, left.transactions)]
    Spent {
        /// What is left.
        left: Room,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_reads_as_it_is_written_and_nothing_else_does() {
        let id = LeaseId { life: 0x1f, number: u64::MAX };
        assert_eq!(id.to_string(), "1f-ffffffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in
            ["", "-", "1", "1-", "-1", "+1-2", "1-+2", "1-2-3", "g-1", "1-10000000000000000"]
        {
            assert_eq!(text.parse::<LeaseId>(), Err(InvalidLeaseId), "{text:?}");
        }
    }
}
