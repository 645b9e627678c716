//! Checks of proofs and payloads that need signatures, cached and free of the sequencer's state.

use super::epochs::View;
use super::shared::Shared;
use crate::crypto;
use crate::types::{
    InvalidEvidence, InvalidPayload, InvalidProof, Payload, ProofOfStore, UnavailabilityProof,
    codec,
};

/// Checks a proof, or remembers that it was checked: keyed by the hash of all its bytes and of the
/// scope, so that a hit on anything less is a miss.
pub(super) fn proof(
    shared: &Shared,
    view: &View,
    proof: &ProofOfStore,
) -> Result<(), InvalidProof> {
    let key = key(view, proof);
    if shared.proofs.get(&key).is_some() {
        return Ok(());
    }
    crypto::verify_proof(&*shared.signer, &view.scope, &view.membership.committee, proof)?;
    shared.proofs.insert(key, ());
    Ok(())
}

/// A proof that was made here, of signatures that were checked one by one.
pub(super) fn trust(shared: &Shared, view: &View, proof: &ProofOfStore) {
    shared.proofs.insert(key(view, proof), ());
}

fn key(view: &View, proof: &ProofOfStore) -> [u8; 32] {
    codec::hash("quorum-store/v1/proof-cache", &(&view.scope, proof))
}

/// Checks evidence of an epoch that is served or was, or remembers that it was checked.
fn evidence(
    shared: &Shared,
    view: &View,
    evidence: &UnavailabilityProof,
) -> Result<(), InvalidEvidence> {
    let epoch = evidence.epoch;
    let (Some(scope), Some(committee)) = (view.scope_of(epoch), view.committee_of(epoch)) else {
        return Err(InvalidEvidence::Epoch(epoch));
    };
    let key = codec::hash("quorum-store/v1/evidence-cache", &(&scope, evidence));
    if shared.proofs.get(&key).is_some() {
        return Ok(());
    }
    crypto::verify_unavailability(&*shared.signer, &scope, committee, evidence)?;
    shared.proofs.insert(key, ());
    Ok(())
}

/// Checks everything about a payload that does not depend on where or when it was proposed.
pub(super) fn payload(
    shared: &Shared,
    view: &View,
    payload: &Payload,
) -> Result<(), InvalidPayload> {
    let proofs = |part: &ProofOfStore| proof(shared, view, part);
    let evidence = |part: &UnavailabilityProof| evidence(shared, view, part);
    payload.verify(&shared.chain, &shared.parameters, view.epoch(), proofs, evidence)
}
