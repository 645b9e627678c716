//! The words between the core and the host's source of transactions.

use std::fmt;

/// Names a transaction among those in progress: half of the BLAKE3 of its bytes. It decides only
/// what is not pulled twice at one time; content goes by digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionKey(pub [u8; 16]);

impl TransactionKey {
    /// Of the bytes as they are submitted, pulled and batched.
    pub fn of(transaction: &[u8]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(transaction).as_bytes()[..16]);
        Self(key)
    }
}

impl fmt::Debug for TransactionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionKey({:08x})", u128::from_be_bytes(self.0) >> 96)
    }
}

/// How much may be pulled at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Most transactions.
    pub transactions_max: u64,
    /// Most bytes of them.
    pub bytes_max: u64,
}

/// Why a batch holds its transactions no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ReleaseReason {
    /// It was ordered, and every subscriber has passed the commit.
    Ordered,
    /// Its time is over.
    Expired,
    /// It was seen, and not certified in time.
    Lapsed,
    /// It will not be ordered: its epoch ended, or its transactions went elsewhere.
    Lost,
}

impl ReleaseReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ordered, Self::Expired, Self::Lapsed, Self::Lost];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Expired => "expired",
            Self::Lapsed => "lapsed",
            Self::Lost => "lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let names = ReleaseReason::ALL.map(ReleaseReason::name);
        assert_eq!(names, ["ordered", "expired", "lapsed", "lost"]);
    }

    #[test]
    fn a_key_is_read_by_its_first_digits() {
        let key = TransactionKey([0xab, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        assert_eq!(format!("{key:?}"), "TransactionKey(abcd0102)");
        assert_ne!(TransactionKey::of(b"one"), TransactionKey::of(b"two"));
    }
}
