//! Keys and signatures: ed25519, strict verification only.
//!
//! [`Signer`] is one of the crate's four seams: production uses [`Ed25519Signer`], simulation may
//! use a fast one. It can sign for a batch only with a [`Durable`] token, which nothing but a
//! completed group commit yields: "durable before signed" is a matter of types.
//!
//! `verify_strict` everywhere: the batch check of the library accepts signatures that the strict
//! one refuses, so honest validators could split on one proof.

use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

use crate::store::{Durable, StoredBatch};
use crate::types::{
    AbsenceStatement, Author, Committee, InvalidEvidence, InvalidProof, ProofOfStore, Scope,
    Signature, SignedAbsence, SignedBatchInfo, UnavailabilityProof,
};

/// Signs for this validator and checks the signatures of others.
pub trait Signer: Send + Sync + 'static {
    /// Whose key it holds.
    fn author(&self) -> Author;

    /// Says that this validator holds the batch durably. The token proves it.
    fn sign_batch(&self, scope: &Scope, batch: &Durable<StoredBatch>) -> SignedBatchInfo;

    /// Checks that `signed.signer` said so in this scope.
    fn verify_batch(&self, scope: &Scope, signed: &SignedBatchInfo) -> bool;

    /// Says that this validator does not hold content. The token proves that it is on record, so
    /// that it never says the contrary afterwards.
    fn sign_absence(&self, scope: &Scope, absence: &Durable<AbsenceStatement>) -> SignedAbsence;

    /// Checks that `signed.signer` said so in this scope.
    fn verify_absence(&self, scope: &Scope, signed: &SignedAbsence) -> bool;
}

/// Checks evidence completely: shape, quorum, every signature.
pub fn verify_unavailability(
    signer: &dyn Signer,
    scope: &Scope,
    committee: &Committee,
    proof: &UnavailabilityProof,
) -> Result<(), InvalidEvidence> {
    proof.verify_shape(committee, scope.epoch)?;
    for part in &proof.signatures {
        let Some(member) = committee.member(part.signer) else {
            return Err(InvalidEvidence::UnknownSigner(part.signer));
        };
        let statement = proof.statement(part.reason);
        let absence = SignedAbsence { statement, signer: member.author, signature: part.signature };
        if !signer.verify_absence(scope, &absence) {
            return Err(InvalidEvidence::Signature(part.signer));
        }
    }
    Ok(())
}

/// Checks a proof of store completely: shape, quorum, every signature.
pub fn verify_proof(
    signer: &dyn Signer,
    scope: &Scope,
    committee: &Committee,
    proof: &ProofOfStore,
) -> Result<(), InvalidProof> {
    proof.verify_shape(committee, scope.epoch)?;
    let digest = proof.info.digest(&scope.chain);
    for part in &proof.signatures {
        let Some(member) = committee.member(part.signer) else {
            return Err(InvalidProof::UnknownSigner(part.signer));
        };
        let vote = SignedBatchInfo { digest, signer: member.author, signature: part.signature };
        if !signer.verify_batch(scope, &vote) {
            return Err(InvalidProof::Signature(part.signer));
        }
    }
    Ok(())
}

/// The production signer.
pub struct Ed25519Signer {
    key: ed25519_dalek::SigningKey,
}

impl Ed25519Signer {
    /// From the 32-byte secret seed; the key is zeroed when dropped.
    pub fn new(seed: &Zeroizing<[u8; 32]>) -> Self {
        Self { key: ed25519_dalek::SigningKey::from_bytes(seed) }
    }

    fn sign(&self, bytes: &[u8]) -> Signature {
        Signature::from_bytes(&self.key.sign(bytes).to_bytes())
    }
}

impl std::fmt::Debug for Ed25519Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ed25519Signer({:?})", self.author())
    }
}

impl Signer for Ed25519Signer {
    fn author(&self) -> Author {
        Author(self.key.verifying_key().to_bytes())
    }

    fn sign_batch(&self, scope: &Scope, batch: &Durable<StoredBatch>) -> SignedBatchInfo {
        let digest = batch.get().digest;
        let signature = self.sign(&scope.batch_stored_bytes(&digest));
        SignedBatchInfo { digest, signer: self.author(), signature }
    }

    fn verify_batch(&self, scope: &Scope, signed: &SignedBatchInfo) -> bool {
        verifies(&signed.signer, &scope.batch_stored_bytes(&signed.digest), &signed.signature)
    }

    fn sign_absence(&self, scope: &Scope, absence: &Durable<AbsenceStatement>) -> SignedAbsence {
        let statement = *absence.get();
        let signature = self.sign(&scope.absence_bytes(&statement));
        SignedAbsence { statement, signer: self.author(), signature }
    }

    fn verify_absence(&self, scope: &Scope, signed: &SignedAbsence) -> bool {
        verifies(&signed.signer, &scope.absence_bytes(&signed.statement), &signed.signature)
    }
}

fn verifies(signer: &Author, bytes: &[u8], signature: &Signature) -> bool {
    let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(signer.as_bytes()) else {
        return false;
    };
    let signature = ed25519_dalek::Signature::from_bytes(&signature.to_bytes());
    key.verify_strict(bytes, &signature).is_ok()
}
