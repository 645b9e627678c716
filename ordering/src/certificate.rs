//! Certificates of final digests: reading, checking, reporting.

use crate::{
    CertificateError, Finalized,
    committee::{Digest, Finality, committee, key_bytes, namespaces},
};
use bytes::Bytes;
use commonware_codec::{Decode as _, Encode as _};
use commonware_consensus::simplex::scheme::ed25519::Scheme;
use commonware_cryptography::ed25519::PublicKey;
use commonware_parallel::Sequential;
use commonware_utils::{
    ordered::{Quorum as _, Set},
    sys_rng,
};

/// Checks a certificate that somebody handed over, and returns what it proves.
///
/// `participants` are the public keys of the committee of `epoch`, in any order. What is returned
/// is final in that epoch if at most a third of that committee is faulty; whether this is the
/// committee of the epoch is for the caller to know.
pub fn verify_finalization(
    chain_id: &[u8; 32],
    epoch: u64,
    participants: &[[u8; 32]],
    certificate: &Bytes,
) -> Result<Finalized, CertificateError> {
    let committee = committee(participants)?;
    let namespace = namespaces(chain_id, epoch, &committee).consensus;
    let scheme = Scheme::verifier(&namespace, committee.clone());
    let finality = check(&scheme, epoch, committee.len(), certificate)?;
    Ok(report(&finality, &committee))
}

/// Reads a certificate and checks it against a committee.
pub(crate) fn check(
    scheme: &Scheme,
    epoch: u64,
    participants: usize,
    certificate: &Bytes,
) -> Result<Finality, CertificateError> {
    let finality = Finality::decode_cfg(certificate.clone(), &participants)
        .map_err(|_| CertificateError::Malformed)?;
    let found = finality.proposal.round.epoch().get();
    if found != epoch {
        return Err(CertificateError::Epoch { expected: epoch, found });
    }
    // View 0 is the start of the epoch: it is final by definition and nobody votes for it.
    if finality.proposal.round.view().is_zero()
        || !finality.verify(&mut sys_rng(), scheme, &Sequential)
    {
        return Err(CertificateError::Invalid);
    }
    Ok(finality)
}

/// Turns a checked certificate into what the application is told.
pub(crate) fn report(finality: &Finality, committee: &Set<PublicKey>) -> Finalized {
    let proposal = &finality.proposal;
    let Digest(digest) = proposal.payload;
    Finalized {
        epoch: proposal.round.epoch().get(),
        view: proposal.round.view().get(),
        digest,
        parent_view: proposal.parent.get(),
        certificate: finality.encode(),
        signers: finality
            .certificate
            .signers
            .iter()
            .filter_map(|index| committee.key(index).map(key_bytes))
            .collect(),
    }
}
