//! Decoding of bytes from outside: bounded before it allocates, canonical, with typed errors.
//!
//! BCS itself refuses non-minimal lengths and trailing bytes, and reserves memory for a claimed
//! length only up to a small bound; here the input's length is checked first, so a decoded value
//! is never larger than a small multiple of the bytes that were received.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes from outside are not a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Nothing to decode.
    #[error("empty input")]
    Empty,
    /// More bytes than the bound of this kind.
    #[error("{length} bytes are more than the {bound} allowed for {kind}")]
    Oversized {
        /// What was being decoded.
        kind: &'static str,
        /// Bytes received.
        length: usize,
        /// Bytes allowed.
        bound: usize,
    },
    /// Another version of the format.
    #[error("version {found} is not {expected}; the other side runs another release")]
    Version {
        /// Version byte received.
        found: u8,
        /// Version this build speaks.
        expected: u8,
    },
    /// A kind this build does not know.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// Shorter than the fixed part of its kind.
    #[error("truncated {kind}")]
    Truncated {
        /// What was being decoded.
        kind: &'static str,
    },
    /// Not canonical BCS of the kind: wrong length, trailing bytes, non-minimal length, bad value.
    #[error("malformed {kind}: {reason}")]
    Malformed {
        /// What was being decoded.
        kind: &'static str,
        /// What BCS said.
        reason: String,
    },
}

/// Encodes a value of ours.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(384);
    encode_into(&mut bytes, value);
    bytes
}

fn encode_into<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    // Proof: BCS fails only for sequences beyond 2^31 - 1 entries, maps and floats; our types
    // hold neither maps nor floats, and every sequence is bounded by a chain parameter below 2^31.
    #[allow(clippy::expect_used)]
    bcs::serialize_into(bytes, value).expect("values of this crate are encodable");
}

/// Decodes a value from outside that may have at most `bound` bytes.
pub(crate) fn decode<T: DeserializeOwned>(
    kind: &'static str,
    bytes: &[u8],
    bound: usize,
) -> Result<T, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() > bound {
        return Err(DecodeError::Oversized { kind, length: bytes.len(), bound });
    }
    bcs::from_bytes(bytes)
        .map_err(|error| DecodeError::Malformed { kind, reason: error.to_string() })
}

/// BLAKE3 over an ASCII domain followed by the BCS of a fixed struct.
pub(crate) fn hash<T: Serialize>(domain: &'static str, value: &T) -> [u8; 32] {
    *blake3::hash(&signed_bytes(domain, value)).as_bytes()
}

/// The bytes that are signed: an ASCII domain followed by the BCS of a fixed struct.
pub(crate) fn signed_bytes<T: Serialize>(domain: &'static str, value: &T) -> Vec<u8> {
    // Enough for most: a buffer that grows costs more than the hash.
    let mut bytes = Vec::with_capacity(384);
    bytes.extend_from_slice(domain.as_bytes());
    encode_into(&mut bytes, value);
    bytes
}
