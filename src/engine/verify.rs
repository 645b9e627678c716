//! Checks of proofs and payloads that need signatures, cached and free of the sequencer's state.

use std::collections::BTreeSet;

use super::shared::Shared;
use crate::crypto;
use crate::types::{InvalidPayload, InvalidProof, Payload, ProofOfStore, codec};

/// Checks a proof, or remembers that it was checked: keyed by the hash of all its bytes and of the
/// scope, so that a hit on anything less is a miss.
pub(super) fn proof(shared: &Shared, proof: &ProofOfStore) -> Result<(), InvalidProof> {
    let key = codec::hash("quorum-store/v1/proof-cache", &(&shared.scope, proof));
    if shared.proofs.get(&key).is_some() {
        return Ok(());
    }
    crypto::verify_proof(&*shared.signer, &shared.scope, &shared.committee, proof)?;
    shared.proofs.insert(key, ());
    Ok(())
}

/// Checks everything about a payload that does not depend on where or when it was proposed. The
/// content root has been checked already.
pub(super) fn payload(shared: &Shared, payload: &Payload) -> Result<(), InvalidPayload> {
    let length = payload.encode().len();
    if length > shared.parameters.payload_bytes_max as usize {
        return Err(InvalidPayload::TooLarge(length));
    }
    let epoch = payload.header.epoch;
    if epoch != shared.epoch {
        return Err(InvalidPayload::Epoch { found: epoch, expected: shared.epoch });
    }
    let content = &payload.content;
    if !content.optimistic.is_empty() {
        return Err(InvalidPayload::Unsupported("optimistic batches"));
    }
    if !content.inline.is_empty() {
        return Err(InvalidPayload::Unsupported("inline batches"));
    }
    if !content.unavailable.is_empty() {
        return Err(InvalidPayload::Unsupported("evidence"));
    }
    let mut seen = BTreeSet::new();
    for part in &content.proofs {
        let digest = part.info.digest(&shared.chain);
        if !seen.insert(digest) {
            return Err(InvalidPayload::Duplicate(digest));
        }
        if part.info.expiration < payload.header.block_timestamp {
            return Err(InvalidPayload::ExpiredBatch(digest));
        }
        part.info.verify_limits(&shared.parameters)?;
        proof(shared, part)?;
    }
    Ok(())
}
