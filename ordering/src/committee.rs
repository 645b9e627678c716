//! Keys, committees and the names that signatures are bound to.

use crate::{CertificateError, ConfigError, error::hex};
use commonware_codec::{Copying, DecodeExt as _};
use commonware_consensus::simplex::{scheme::ed25519::Scheme, types::Finalization};
use commonware_cryptography::{
    Hasher as _, Sha256, Signer as _,
    ed25519::{PrivateKey, PublicKey},
};
use commonware_utils::ordered::Set;

/// What is ordered. The engine treats it as 32 opaque bytes, whichever function made them.
pub(crate) use commonware_cryptography::sha256::Digest;

/// Proof that a digest is final.
pub(crate) type Finality = Finalization<Scheme, Digest>;

/// Leads every signed string of this crate; a change of what is signed changes the number.
const DOMAIN: &str = "quorum-store/ordering/v1";

/// Returns the ed25519 public key of a secret seed.
///
/// ```
/// let key = quorum_store_ordering::public_key(&[7; 32]);
/// assert_eq!(key, quorum_store_ordering::public_key(&[7; 32]));
/// ```
pub fn public_key(seed: &[u8; 32]) -> [u8; 32] {
    key_bytes(&private_key(seed).public_key())
}

/// Returns the signing key of a seed.
pub(crate) fn private_key(seed: &[u8; 32]) -> PrivateKey {
    // Proof: decoding fails only for a wrong length, and any 32 bytes are a seed.
    #[allow(clippy::expect_used, reason = "any 32 bytes are an ed25519 seed")]
    PrivateKey::decode(Copying(seed)).expect("32 bytes are a seed")
}

/// Returns the bytes of a key.
pub(crate) fn key_bytes(key: &PublicKey) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(key.as_ref());
    bytes
}

/// Returns the key that the bytes encode.
pub(crate) fn decode_key(key: &[u8; 32]) -> Result<PublicKey, ConfigError> {
    PublicKey::decode(Copying(key)).map_err(|_| ConfigError::InvalidKey { key: *key })
}

/// Returns the committee of the keys, in the order that indices in certificates refer to: by key.
pub(crate) fn committee<'a>(
    keys: impl IntoIterator<Item = &'a [u8; 32]>,
) -> Result<Set<PublicKey>, ConfigError> {
    let mut decoded = keys.into_iter().map(decode_key).collect::<Result<Vec<_>, _>>()?;
    decoded.sort_unstable();
    if let Some(twice) = decoded.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| &pair[0]) {
        return Err(ConfigError::DuplicateParticipant { key: key_bytes(twice) });
    }
    if decoded.is_empty() {
        return Err(ConfigError::NoParticipants);
    }
    Ok(Set::from_iter_dedup(decoded))
}

/// Returns the names of one epoch of one chain and its committee: for links and for votes.
///
/// Epoch and committee are in the name of the links because a vote that does not verify makes its
/// receiver refuse the sender for a long time. With them, validators that could only misunderstand
/// each other do not even connect.
pub(crate) fn namespaces(
    chain_id: &[u8; 32],
    epoch: u64,
    committee: &Set<PublicKey>,
) -> Namespaces {
    let keys: Vec<&[u8]> = committee.iter().map(AsRef::as_ref).collect();
    let base = format!("{DOMAIN}/{}/{epoch}/{}", hex(chain_id), hex(&Sha256::hash(&keys).0));
    Namespaces {
        network: format!("{base}/network").into_bytes(),
        consensus: format!("{base}/consensus").into_bytes(),
    }
}

/// The names that handshakes and votes are bound to.
pub(crate) struct Namespaces {
    /// For handshakes.
    pub(crate) network: Vec<u8>,
    /// For votes.
    pub(crate) consensus: Vec<u8>,
}

impl From<ConfigError> for CertificateError {
    /// Of all a configuration can be refused for, only its keys matter to a certificate.
    fn from(_: ConfigError) -> Self {
        Self::Committee
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn names_differ_by_chain_epoch_committee_and_kind() {
        let three = committee(&[1, 2, 3].map(|seed| public_key(&[seed; 32]))).unwrap();
        let two = committee(&[1, 2].map(|seed| public_key(&[seed; 32]))).unwrap();
        let names = [
            namespaces(&[1; 32], 2, &three),
            namespaces(&[1; 32], 3, &three),
            namespaces(&[2; 32], 2, &three),
            namespaces(&[1; 32], 2, &two),
        ];
        let mut all: Vec<_> =
            names.into_iter().flat_map(|name| [name.network, name.consensus]).collect();
        assert!(all.iter().all(|name| name.starts_with(b"quorum-store/ordering/v1/")));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn a_committee_is_ordered_by_key_and_has_no_duplicates() {
        let keys: Vec<_> = (1..=4).map(|seed| public_key(&[seed; 32])).collect();
        let forward = committee(&keys).unwrap();
        let backward = committee(keys.iter().rev()).unwrap();
        assert_eq!(forward, backward);
        assert!(forward.iter().map(key_bytes).is_sorted());
        let twice = [keys[0], keys[1], keys[0]];
        assert_eq!(committee(&twice), Err(ConfigError::DuplicateParticipant { key: keys[0] }));
        assert_eq!(committee(&[]), Err(ConfigError::NoParticipants));
    }
}
