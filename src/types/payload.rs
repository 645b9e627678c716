//! What a block orders: a header that the ordering engine agrees on, and the content it names.
//!
//! The digest is the header's hash, so the chain of headers can be walked, and commits logged,
//! although a content is lost. The content is kept, fetched, served and deleted like a batch.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::absence::{InvalidEvidence, UnavailabilityProof};
use super::batch::{Batch, BatchInfo};
use super::codec;
use super::genesis::ChainParameters;
use super::ids::{ChainId, CommitIndex, Digest, Epoch, Timestamp};
use super::proof::ProofOfStore;

const HEADER_DOMAIN: &str = "quorum-store/v1/payload";
const CONTENT_DOMAIN: &str = "quorum-store/v1/payload-content";

/// Most evidence in one payload: each is told to every subscriber.
pub const EVIDENCE_MAX: usize = 16;

/// The part of a payload that is agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadHeader {
    /// Epoch of the block and of every batch in it.
    pub epoch: Epoch,
    /// Height of the block: the index of its commit.
    pub height: CommitIndex,
    /// Digest of the payload below; the chain id for genesis.
    pub parent: Digest,
    /// Consensus time once this is committed; not below the parent's.
    pub block_timestamp: Timestamp,
    /// Hash of the content.
    pub content_root: Digest,
}

impl PayloadHeader {
    /// What a digest-ordering engine agrees on.
    pub fn digest(&self, chain: &ChainId) -> Digest {
        Digest(codec::hash(HEADER_DOMAIN, &(chain, self)))
    }
}

/// The part of a payload that can be lost without losing the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadContent {
    /// Batches with a proof of store.
    pub proofs: Vec<ProofOfStore>,
    /// Batches without a proof that every voter must hold durably before it votes.
    pub optimistic: Vec<BatchInfo>,
    /// Small batches that travel inside the payload.
    pub inline: Vec<Batch>,
    /// Evidence that content of earlier commits is gone: once this is committed, everybody skips it.
    pub unavailable: Vec<UnavailabilityProof>,
}

impl PayloadContent {
    /// The hash that the header carries.
    pub fn root(&self) -> Digest {
        Digest(codec::hash(CONTENT_DOMAIN, self))
    }

    /// Every batch in the order of execution: proofs, then optimistic, then inline.
    pub fn batches(&self) -> impl Iterator<Item = &BatchInfo> {
        let proofs = self.proofs.iter().map(|proof| &proof.info);
        proofs.chain(&self.optimistic).chain(self.inline.iter().map(|batch| &batch.info))
    }

    /// True if it orders nothing.
    pub fn is_empty(&self) -> bool {
        self.proofs.is_empty()
            && self.optimistic.is_empty()
            && self.inline.is_empty()
            && self.unavailable.is_empty()
    }
}

/// A header with its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// What is agreed on.
    pub header: PayloadHeader,
    /// What it names.
    pub content: PayloadContent,
}

impl Payload {
    /// The header's digest.
    pub fn digest(&self, chain: &ChainId) -> Digest {
        self.header.digest(chain)
    }

    /// Its canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Everything about it that does not depend on where or when it was proposed, as a list of
    /// checks in order; the content root has been checked already. `verify_proof` checks a proof of
    /// store completely, `verify_evidence` does the same for evidence.
    pub fn verify(
        &self,
        chain: &ChainId,
        parameters: &ChainParameters,
        epoch: Epoch,
        mut verify_proof: impl FnMut(&ProofOfStore) -> Result<(), super::proof::InvalidProof>,
        mut verify_evidence: impl FnMut(&UnavailabilityProof) -> Result<(), InvalidEvidence>,
    ) -> Result<(), InvalidPayload> {
        let length = self.encode().len();
        if length > parameters.payload_bytes_max as usize {
            return Err(InvalidPayload::TooLarge(length));
        }
        let found = self.header.epoch;
        if found != epoch {
            return Err(InvalidPayload::Epoch { found, expected: epoch });
        }
        let content = &self.content;
        if !content.optimistic.is_empty() {
            return Err(InvalidPayload::Unsupported("optimistic batches"));
        }
        if !content.inline.is_empty() {
            return Err(InvalidPayload::Unsupported("inline batches"));
        }
        if content.unavailable.len() > EVIDENCE_MAX {
            return Err(InvalidPayload::TooMuchEvidence(content.unavailable.len()));
        }
        let mut named = BTreeSet::new();
        for evidence in &content.unavailable {
            if !named.insert((evidence.digest, evidence.index)) {
                return Err(InvalidPayload::Duplicate(evidence.digest));
            }
            if evidence.index >= self.header.height {
                return Err(InvalidEvidence::Index(evidence.index).into());
            }
            verify_evidence(evidence)?;
        }
        let mut seen = BTreeSet::new();
        for proof in &content.proofs {
            let digest = proof.info.digest(chain);
            if !seen.insert(digest) {
                return Err(InvalidPayload::Duplicate(digest));
            }
            if proof.info.expiration < self.header.block_timestamp {
                return Err(InvalidPayload::ExpiredBatch(digest));
            }
            proof.info.verify_limits(parameters)?;
            verify_proof(proof)?;
        }
        Ok(())
    }

    /// When its content may go, before the grace: the later of its own lifetime and its last
    /// batch's expiration.
    pub fn expiration(&self, parameters: &ChainParameters) -> Timestamp {
        let own = self.header.block_timestamp.saturating_add(parameters.batch_lifetime());
        self.content.batches().map(|info| info.expiration).fold(own, Ord::max)
    }
}

/// Why a payload can never be valid, whoever looks at it and whenever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPayload {
    /// The content is not what the header names.
    #[error("the content's root differs from its header")]
    ContentRoot,
    /// Larger than the chain allows.
    #[error("{0} bytes are more than the chain allows for a payload")]
    TooLarge(usize),
    /// Of another epoch.
    #[error("payload or batch of epoch {found:?} in epoch {expected:?}")]
    Epoch {
        /// As stated.
        found: Epoch,
        /// Where it was proposed.
        expected: Epoch,
    },
    /// Above the last block of its epoch.
    #[error("the epoch ends with block {}", final_index.0)]
    EpochOver {
        /// The last block of the epoch.
        final_index: CommitIndex,
    },
    /// Not built on the parent it was proposed on.
    #[error("the parent or height is not that of the proposal")]
    Parent,
    /// Time would go back.
    #[error("block timestamp below its parent's")]
    TimeWentBack,
    /// A batch appears twice.
    #[error("batch {0:?} appears twice")]
    Duplicate(Digest),
    /// A batch that no block with this timestamp may order.
    #[error("batch {0:?} is expired at the block's timestamp")]
    ExpiredBatch(Digest),
    /// A proof in it is invalid.
    #[error("an invalid proof: {0}")]
    Proof(#[from] super::proof::InvalidProof),
    /// Evidence in it is invalid.
    #[error("invalid evidence: {0}")]
    Evidence(#[from] InvalidEvidence),
    /// More evidence than a payload may carry.
    #[error("{0} pieces of evidence are more than a payload may carry")]
    TooMuchEvidence(usize),
    /// An inline batch is invalid.
    #[error("an invalid inline batch: {0}")]
    Inline(#[from] super::batch::InvalidBatch),
    /// A kind of content that this release does not order yet.
    #[error("{0} are not part of payloads in this release")]
    Unsupported(&'static str),
}
