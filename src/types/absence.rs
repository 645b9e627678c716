//! Evidence that content which a commit names is gone.
//!
//! A validator signs an [`AbsenceStatement`] only if it has the commit in its own log and finds the
//! content named in it, if it holds the content neither durably nor in a group being written, and
//! if it has never passed that commit. An [`UnavailabilityProof`] is such statements of a quorum of
//! power of the committee of the commit's epoch, about one content and one commit.
//!
//! **When it can exist, and why not otherwise.** Content that a commit names was durable at a
//! quorum of power before the commit was: a batch's proof of store says so, and so do the votes for
//! a payload. Whoever held it then keeps it until it has passed the commit, and does not sign after
//! that. So a quorum of statements and the quorum that stored it share, beyond f, a validator that
//! did both: it is Byzantine, or its disk lost what it had promised. A proof is therefore evidence
//! that more than f of the power is one or the other *with regard to this content*, however long
//! ago it was lost, and it names who signed both ways.
//!
//! **What it does.** Nothing, until a payload carries it and a commit orders that payload. From then
//! on everybody skips the content in the commit it names and in every later one.

use serde::{Deserialize, Serialize};

use super::codec;
use super::committee::Committee;
use super::ids::{Author, CommitIndex, Digest, Epoch};
use super::proof::{Scope, Signature};

const DOMAIN: &str = "quorum-store/v1/content-absent";

/// Why a validator does not hold content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AbsenceReason {
    /// As far as its store knows, it never did.
    NeverHeld,
    /// Its store replaces one that was lost.
    StoreReplaced,
}

/// What a validator says about content that it does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AbsenceStatement {
    /// Epoch of the commit: the scope of the signature.
    pub epoch: Epoch,
    /// The commit that names the content.
    pub index: CommitIndex,
    /// The content: a batch, or the commit's payload.
    pub digest: Digest,
    /// Why.
    pub reason: AbsenceReason,
}

impl Scope {
    /// The bytes that say "this commit is in my log, I have not passed it, and I do not hold this".
    pub fn absence_bytes(&self, statement: &AbsenceStatement) -> Vec<u8> {
        codec::signed_bytes(DOMAIN, &(self, statement))
    }
}

/// A statement with its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedAbsence {
    /// What is said.
    pub statement: AbsenceStatement,
    /// Who says so.
    pub signer: Author,
    /// Over [`Scope::absence_bytes`].
    pub signature: Signature,
}

/// One signature inside a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AbsenceSignature {
    /// Position of the signer in the committee.
    pub signer: u16,
    /// Why it does not hold the content.
    pub reason: AbsenceReason,
    /// Over [`Scope::absence_bytes`].
    pub signature: Signature,
}

/// A quorum's word that content is gone. See the module docs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnavailabilityProof {
    /// Epoch of the commit.
    pub epoch: Epoch,
    /// The commit.
    pub index: CommitIndex,
    /// The content.
    pub digest: Digest,
    /// In the order of the committee, each signer once.
    pub signatures: Vec<AbsenceSignature>,
}

/// Why evidence proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEvidence {
    /// Of an epoch whose committee is not known, or of another than it was checked against.
    #[error("evidence of epoch {0:?}, whose committee is not known here")]
    Epoch(Epoch),
    /// About a commit that the block which carries it cannot have below it.
    #[error("evidence about commit {0:?} at or above the block that carries it")]
    Index(CommitIndex),
    /// Signers are not strictly ascending: one of them appears twice.
    #[error("signer {0} is repeated or out of order")]
    SignerOrder(u16),
    /// A position beyond the committee.
    #[error("signer {0} is not in the committee")]
    UnknownSigner(u16),
    /// The signers are no quorum.
    #[error("power {0} is not a quorum")]
    NoQuorum(u64),
    /// A signature does not verify.
    #[error("the signature of signer {0} does not verify")]
    Signature(u16),
}

impl UnavailabilityProof {
    /// What a signer of it said.
    pub fn statement(&self, reason: AbsenceReason) -> AbsenceStatement {
        let Self { epoch, index, digest, .. } = *self;
        AbsenceStatement { epoch, index, digest, reason }
    }

    /// Checks everything but the signatures themselves.
    pub fn verify_shape(&self, committee: &Committee, epoch: Epoch) -> Result<(), InvalidEvidence> {
        if self.epoch != epoch {
            return Err(InvalidEvidence::Epoch(self.epoch));
        }
        let mut power = 0_u64;
        let mut last = None;
        for AbsenceSignature { signer, .. } in &self.signatures {
            if last.is_some_and(|last| last >= *signer) {
                return Err(InvalidEvidence::SignerOrder(*signer));
            }
            let member =
                committee.member(*signer).ok_or(InvalidEvidence::UnknownSigner(*signer))?;
            // Distinct members of one committee: their sum cannot exceed its checked total.
            power += member.power;
            last = Some(*signer);
        }
        if committee.is_quorum(power) { Ok(()) } else { Err(InvalidEvidence::NoQuorum(power)) }
    }

    /// Its canonical bytes: what an evidence file holds.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads evidence from outside; bounded by the largest committee.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::DecodeError> {
        codec::decode("evidence", bytes, EVIDENCE_BYTES_MAX)
    }
}

/// Largest evidence: a signature of every member of the largest committee.
pub const EVIDENCE_BYTES_MAX: usize = 64 + 67 * (u16::MAX as usize + 1);

/// What a validator answers when it is asked whether content is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AbsenceAnswer {
    /// It signs that it is.
    Signed {
        /// Epoch of the commit.
        epoch: Epoch,
        /// Why.
        reason: AbsenceReason,
        /// Over [`Scope::absence_bytes`].
        signature: Signature,
    },
    /// It has passed that commit, and may have deleted the content rightly. Proves nothing.
    Passed,
    /// It holds the content, or is about to. Proves nothing.
    Held,
    /// The commit is not in its log, or does not name the content. Proves nothing.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::super::Member;
    use super::*;

    #[test]
    fn a_proof_needs_distinct_members_with_the_power_of_a_quorum() {
        let members = (1..=4).map(|key| Member { author: Author([key; 32]), power: 1 }).collect();
        let committee = Committee::new(members).unwrap();
        let signature = Signature::from_bytes(&[1; 64]);
        let of = |signers: &[u16]| UnavailabilityProof {
            epoch: Epoch(2),
            index: CommitIndex(5),
            digest: Digest([1; 32]),
            signatures: signers
                .iter()
                .map(|signer| AbsenceSignature {
                    signer: *signer,
                    reason: AbsenceReason::NeverHeld,
                    signature,
                })
                .collect(),
        };
        let check = |signers| of(signers).verify_shape(&committee, Epoch(2));
        assert_eq!(check(&[0, 1, 3]), Ok(()));
        assert_eq!(check(&[0, 1]), Err(InvalidEvidence::NoQuorum(2)));
        assert_eq!(check(&[0, 1, 1]), Err(InvalidEvidence::SignerOrder(1)));
        assert_eq!(check(&[1, 0, 2]), Err(InvalidEvidence::SignerOrder(0)));
        assert_eq!(check(&[0, 1, 4]), Err(InvalidEvidence::UnknownSigner(4)));
        assert_eq!(check(&[]), Err(InvalidEvidence::NoQuorum(0)));
        let other = of(&[0, 1, 3]).verify_shape(&committee, Epoch(3));
        assert_eq!(other, Err(InvalidEvidence::Epoch(Epoch(2))));
        let proof = of(&[0, 1, 3]);
        assert_eq!(UnavailabilityProof::decode(&proof.encode()), Ok(proof));
    }
}
