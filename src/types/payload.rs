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
/// Most optimistic batches in one payload: every voter looks for each of them.
pub const OPTIMISTIC_MAX: usize = 1024;
/// Most inline batches in one payload.
pub const INLINE_MAX: usize = 64;

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

    /// How many batches come before the inline ones in [`Self::batches`]: those whose content lies
    /// outside the payload.
    pub fn outside(&self) -> usize {
        self.proofs.len() + self.optimistic.len()
    }

    /// Bytes of the bodies that travel in it.
    pub fn inline_bytes(&self) -> u64 {
        self.inline.iter().map(|batch| batch.body.bytes().len() as u64).sum()
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
        let unproven = content.optimistic.len();
        if unproven > OPTIMISTIC_MAX || content.inline.len() > INLINE_MAX {
            return Err(InvalidPayload::TooManyUnproven(unproven, content.inline.len()));
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
        for info in content.batches() {
            let digest = info.digest(chain);
            if !seen.insert(digest) {
                return Err(InvalidPayload::Duplicate(digest));
            }
            if info.expiration < self.header.block_timestamp {
                return Err(InvalidPayload::ExpiredBatch(digest));
            }
            info.verify_limits(parameters)?;
        }
        let latest = self.latest_expiration(parameters);
        for info in content.batches().skip(content.proofs.len()) {
            // A proof says as much for the others: whoever signed has checked it.
            if info.epoch != epoch {
                return Err(InvalidPayload::ForeignBatch(info.digest(chain)));
            }
            if info.expiration > latest {
                return Err(InvalidPayload::LateBatch(info.digest(chain)));
            }
        }
        for batch in &content.inline {
            batch.body.verify(&batch.info, parameters)?;
        }
        for proof in &content.proofs {
            verify_proof(proof)?;
        }
        Ok(())
    }

    /// A batch without a proof may not expire later: whoever admits one has a clock close to the
    /// proposer's, and content that never expires would be held for ever.
    pub fn latest_expiration(&self, parameters: &ChainParameters) -> Timestamp {
        latest_expiration(self.header.block_timestamp, parameters)
    }

    /// When its content may go, before the grace: the later of its own lifetime and its last
    /// batch's expiration.
    pub fn expiration(&self, parameters: &ChainParameters) -> Timestamp {
        let own = self.header.block_timestamp.saturating_add(parameters.batch_lifetime());
        self.content.batches().map(|info| info.expiration).fold(own, Ord::max)
    }
}

/// The latest expiration of a batch without a proof in a block with this timestamp.
pub(crate) fn latest_expiration(block: Timestamp, parameters: &ChainParameters) -> Timestamp {
    block.saturating_add(parameters.batch_lifetime()).saturating_add(parameters.clock_allowance())
}

/// Why there is no vote for a payload: it can never be valid, whoever looks at it and whenever; or,
/// with [`Self::SlotTaken`], it contradicts what this validator has promised to hold.
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
    /// More batches without a proof than a payload may carry.
    #[error("{0} optimistic and {1} inline batches are more than a payload may carry")]
    TooManyUnproven(usize, usize),
    /// A batch without a proof, of another epoch.
    #[error("batch {0:?} is of another epoch than its payload")]
    ForeignBatch(Digest),
    /// A batch without a proof that would have to be held for too long.
    #[error("batch {0:?} expires later than any batch of this block may")]
    LateBatch(Digest),
    /// An optimistic batch whose slot holds another batch of the same author here.
    #[error("the slot of batch {0:?} holds another batch here: its author equivocates")]
    SlotTaken(Digest),
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::batch::{BatchBody, InvalidBatch};
    use super::super::ids::Author;
    use super::super::samples;
    use super::*;

    const CHAIN: ChainId = ChainId([1; 32]);

    /// Checked as if every proof were right.
    fn verdict(content: PayloadContent) -> Result<(), InvalidPayload> {
        let epoch = samples::batch(1, 1, &[b"one"]).info.epoch;
        let block_timestamp = samples::batch(1, 1, &[b"one"]).info.expiration;
        let header = PayloadHeader {
            epoch,
            height: CommitIndex(1),
            parent: Digest::default(),
            block_timestamp,
            content_root: content.root(),
        };
        let parameters = ChainParameters::default();
        let payload = Payload { header, content };
        payload.verify(&CHAIN, &parameters, epoch, |_| Ok(()), |_| Ok(()))
    }

    #[test]
    fn a_batch_counts_once_over_proofs_optimistic_and_inline_alike() {
        let (one, two) = (samples::batch(1, 1, &[b"one"]), samples::batch(1, 2, &[b"two"]));
        let proof = ProofOfStore { info: one.info, signatures: Vec::new() };
        let content = PayloadContent {
            proofs: vec![proof],
            optimistic: vec![two.info],
            inline: vec![samples::batch(1, 3, &[b"three"])],
            unavailable: Vec::new(),
        };
        assert_eq!(verdict(content.clone()), Ok(()));
        for repeat in [one.clone(), two.clone(), content.inline[0].clone()] {
            let again = Err(InvalidPayload::Duplicate(repeat.info.digest(&CHAIN)));
            let mut optimistic = content.clone();
            optimistic.optimistic.push(repeat.info);
            assert_eq!(verdict(optimistic), again);
            let mut inline = content.clone();
            inline.inline.push(repeat);
            assert_eq!(verdict(inline), again);
        }
    }

    #[test]
    fn batches_without_a_proof_are_bounded_in_number_time_and_epoch() {
        let good = samples::batch(1, 1, &[b"one"]);
        let with = |change: fn(&mut BatchInfo)| {
            let mut info = good.info;
            change(&mut info);
            let optimistic = PayloadContent { optimistic: vec![info], ..PayloadContent::default() };
            let batch = Batch { info, body: good.body.clone() };
            let inline = PayloadContent { inline: vec![batch], ..PayloadContent::default() };
            let (optimistic, inline) = (verdict(optimistic), verdict(inline));
            assert_eq!(optimistic, inline);
            (optimistic, info.digest(&CHAIN))
        };
        let (found, digest) = with(|info| info.epoch.0 += 1);
        assert_eq!(found, Err(InvalidPayload::ForeignBatch(digest)));
        let (found, digest) = with(|info| info.expiration.0 += 31_000_000);
        assert_eq!(found, Err(InvalidPayload::LateBatch(digest)));
        assert_eq!(with(|info| info.expiration.0 += 30_400_000).0, Ok(()));
        let (found, digest) = with(|info| info.expiration.0 -= 1);
        assert_eq!(found, Err(InvalidPayload::ExpiredBatch(digest)));
        let (found, _) = with(|info| info.count = 0);
        assert_eq!(found, Err(InvalidPayload::Inline(InvalidBatch::Empty)));
        let many = vec![good.info; OPTIMISTIC_MAX + 1];
        let content = PayloadContent { optimistic: many, ..PayloadContent::default() };
        assert_eq!(verdict(content), Err(InvalidPayload::TooManyUnproven(OPTIMISTIC_MAX + 1, 0)));
        let content =
            PayloadContent { inline: vec![good; INLINE_MAX + 1], ..PayloadContent::default() };
        assert_eq!(verdict(content), Err(InvalidPayload::TooManyUnproven(0, INLINE_MAX + 1)));
    }

    #[test]
    fn the_body_of_an_inline_batch_is_checked() {
        let good = samples::batch(1, 1, &[b"one"]);
        let body = BatchBody::new(Bytes::from(vec![7; good.info.bytes as usize]));
        let inline = vec![Batch { info: good.info, body }];
        let content = PayloadContent { inline, ..PayloadContent::default() };
        let expected = InvalidPayload::Inline(InvalidBatch::RootMismatch);
        assert_eq!(verdict(content), Err(expected));
        let info = BatchInfo { author: Author([9; 32]), ..good.info };
        let inline = vec![Batch { info, body: good.body }];
        // Whoever is named as its author: the transactions speak for themselves.
        assert_eq!(verdict(PayloadContent { inline, ..PayloadContent::default() }), Ok(()));
    }
}
