//! The validators of one epoch and their voting power.
//!
//! *Quorum* is power above two thirds, of distinct members, in integer arithmetic without
//! rounding; *f* is the largest power below one third (design section 12).

use serde::{Deserialize, Serialize};

use super::codec;
use super::ids::{Author, CommitteeHash};

const DOMAIN: &str = "quorum-store/v1/committee";

/// Most members a committee may have; keeps a signer's index in 16 bits and proofs bounded.
pub const COMMITTEE_MEMBERS_MAX: usize = 1024;

/// One validator of a committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Its public key.
    pub author: Author,
    /// Its voting power; never zero.
    pub power: u64,
}

/// The validators of one epoch, ordered by key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Member>", into = "Vec<Member>")]
pub struct Committee {
    members: Vec<Member>,
    total: u64,
}

/// Why a list of members is not a committee.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitteeError {
    /// No members.
    #[error("a committee needs at least one member")]
    Empty,
    /// Too many members.
    #[error("{0} members are more than {COMMITTEE_MEMBERS_MAX}")]
    TooMany(usize),
    /// Two entries of one key, or not in the order of keys.
    #[error("members must be distinct and ordered by key; {0} is not")]
    Order(Author),
    /// A member without power.
    #[error("member {0} has no voting power; leave it out")]
    NoPower(Author),
    /// The sum of powers does not fit.
    #[error("the sum of voting powers exceeds 2^64 - 1")]
    PowerOverflow,
}

impl Committee {
    /// Orders the members by key and checks them.
    pub fn new(mut members: Vec<Member>) -> Result<Self, CommitteeError> {
        members.sort_unstable();
        Self::try_from(members)
    }

    /// The members, ordered by key.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Never true; a committee has a member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The position of a key in the order of keys.
    pub fn index_of(&self, author: &Author) -> Option<u16> {
        let index = self.members.binary_search_by_key(author, |member| member.author).ok()?;
        u16::try_from(index).ok()
    }

    /// The member at a position.
    pub fn member(&self, index: u16) -> Option<&Member> {
        self.members.get(usize::from(index))
    }

    /// The power of a key; zero for an outsider.
    pub fn power_of(&self, author: &Author) -> u64 {
        self.index_of(author).and_then(|index| self.member(index)).map_or(0, |m| m.power)
    }

    /// The sum of all powers.
    pub fn total_power(&self) -> u64 {
        self.total
    }

    /// True if this much power of distinct members is a quorum: above two thirds.
    pub fn is_quorum(&self, power: u64) -> bool {
        u128::from(power) * 3 > u128::from(self.total) * 2
    }

    /// True if this much power is above f: at least one of its holders is not faulty.
    pub fn is_above_faults(&self, power: u64) -> bool {
        u128::from(power) * 3 >= u128::from(self.total)
    }

    /// The hash that scopes signatures and hellos: keys, powers, order.
    pub fn hash(&self) -> CommitteeHash {
        CommitteeHash(codec::hash(DOMAIN, &self.members))
    }
}

impl TryFrom<Vec<Member>> for Committee {
    type Error = CommitteeError;

    fn try_from(members: Vec<Member>) -> Result<Self, CommitteeError> {
        if members.is_empty() {
            return Err(CommitteeError::Empty);
        }
        if members.len() > COMMITTEE_MEMBERS_MAX {
            return Err(CommitteeError::TooMany(members.len()));
        }
        if let Some(pair) = members.windows(2).find(|pair| pair[0].author >= pair[1].author) {
            return Err(CommitteeError::Order(pair[1].author));
        }
        let mut total = 0_u64;
        for member in &members {
            if member.power == 0 {
                return Err(CommitteeError::NoPower(member.author));
            }
            total = total.checked_add(member.power).ok_or(CommitteeError::PowerOverflow)?;
        }
        Ok(Self { members, total })
    }
}

impl From<Committee> for Vec<Member> {
    fn from(committee: Committee) -> Self {
        committee.members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(key: u8, power: u64) -> Member {
        Member { author: Author([key; 32]), power }
    }

    #[test]
    fn quorum_is_strictly_above_two_thirds() {
        for total in 1_u64..=40 {
            let members = (0..total).map(|i| member(i as u8, 1)).collect();
            let committee = Committee::new(members).unwrap();
            for power in 0..=total {
                // Written with division on purpose: another way to say it than the code's.
                let quorum = power > total * 2 / 3;
                assert_eq!(committee.is_quorum(power), quorum, "power {power} of {total}");
                let f = (total - 1) / 3;
                assert_eq!(committee.is_above_faults(power), power > f, "{power} of {total}");
            }
        }
    }

    #[test]
    fn extreme_powers_do_not_overflow() {
        let committee = Committee::new(vec![member(1, u64::MAX - 1), member(2, 1)]).unwrap();
        assert!(committee.is_quorum(u64::MAX - 1));
        assert!(!committee.is_quorum(1));
        let error = Committee::new(vec![member(1, u64::MAX), member(2, 1)]).unwrap_err();
        assert_eq!(error, CommitteeError::PowerOverflow);
    }

    #[test]
    fn what_is_not_a_committee_is_refused_also_when_decoded() {
        assert_eq!(Committee::new(vec![]), Err(CommitteeError::Empty));
        assert_eq!(
            Committee::new(vec![member(1, 0)]),
            Err(CommitteeError::NoPower(Author([1; 32])))
        );
        assert_eq!(
            Committee::new(vec![member(1, 1), member(1, 2)]),
            Err(CommitteeError::Order(Author([1; 32])))
        );
        let unordered = bcs::to_bytes(&vec![member(2, 1), member(1, 1)]).unwrap();
        assert!(bcs::from_bytes::<Committee>(&unordered).is_err());
    }
}
