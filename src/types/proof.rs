//! Signatures that a batch is durable, and the quorum of them that is a proof of store.

use serde::{Deserialize, Serialize};

use super::batch::BatchInfo;
use super::codec;
use super::committee::Committee;
use super::ids::{Author, ChainId, CommitteeHash, Digest, Epoch};

const DOMAIN: &str = "quorum-store/v1/batch-stored";

/// An ed25519 signature, as its two halves (so that its BCS is 64 bytes and nothing else).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Signature {
    #[serde(with = "super::words")]
    r: [u8; 32],
    #[serde(with = "super::words")]
    s: [u8; 32],
}

impl Signature {
    /// From the 64 bytes of RFC 8032.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let (mut r, mut s) = ([0; 32], [0; 32]);
        r.copy_from_slice(&bytes[..32]);
        s.copy_from_slice(&bytes[32..]);
        Self { r, s }
    }

    /// The 64 bytes of RFC 8032.
    pub fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.r);
        bytes[32..].copy_from_slice(&self.s);
        bytes
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signature({})", hex::encode(&self.r[..4]))
    }
}

/// What every signed string is tied to: a signature made in one scope means nothing in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The chain.
    pub chain: ChainId,
    /// The epoch.
    pub epoch: Epoch,
    /// Its committee.
    pub committee: CommitteeHash,
}

impl Scope {
    /// The bytes that say "I hold the batch with this digest durably".
    pub fn batch_stored_bytes(&self, digest: &Digest) -> Vec<u8> {
        codec::signed_bytes(DOMAIN, &(self, digest))
    }
}

/// One validator's signature that it stores a batch durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBatchInfo {
    /// The batch.
    pub digest: Digest,
    /// Who stores it.
    pub signer: Author,
    /// Over [`Scope::batch_stored_bytes`].
    pub signature: Signature,
}

/// One signature inside a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProofSignature {
    /// Position of the signer in the committee.
    pub signer: u16,
    /// Over [`Scope::batch_stored_bytes`].
    pub signature: Signature,
}

/// A quorum's word that a batch is durable at each of its signers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofOfStore {
    /// The batch.
    pub info: BatchInfo,
    /// In the order of the committee, each signer once.
    pub signatures: Vec<ProofSignature>,
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProof {
    /// Of another epoch than the committee it was checked against.
    #[error("proof of epoch {found:?}, checked in epoch {expected:?}")]
    Epoch {
        /// As stated by the batch.
        found: Epoch,
        /// Of the committee.
        expected: Epoch,
    },
    /// The batch's author is not a member.
    #[error("author {0} is not in the committee")]
    Author(Author),
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

impl ProofOfStore {
    /// Checks everything but the signatures themselves.
    pub fn verify_shape(&self, committee: &Committee, epoch: Epoch) -> Result<(), InvalidProof> {
        if self.info.epoch != epoch {
            return Err(InvalidProof::Epoch { found: self.info.epoch, expected: epoch });
        }
        if committee.index_of(&self.info.author).is_none() {
            return Err(InvalidProof::Author(self.info.author));
        }
        let mut power = 0_u64;
        let mut last = None;
        for ProofSignature { signer, .. } in &self.signatures {
            if last.is_some_and(|last| last >= *signer) {
                return Err(InvalidProof::SignerOrder(*signer));
            }
            let member = committee.member(*signer).ok_or(InvalidProof::UnknownSigner(*signer))?;
            // Distinct members of one committee: their sum cannot exceed its checked total.
            power += member.power;
            last = Some(*signer);
        }
        if committee.is_quorum(power) { Ok(()) } else { Err(InvalidProof::NoQuorum(power)) }
    }

    /// The validators that signed.
    pub fn signers<'a>(&'a self, committee: &'a Committee) -> impl Iterator<Item = Author> + 'a {
        self.signatures
            .iter()
            .filter_map(|signature| committee.member(signature.signer))
            .map(|member| member.author)
    }
}
