//! What clients send, wrapped in what every validator needs to know of it.
//!
//! The library carries opaque bytes. To the validators they are the BCS of
//! `{ gas_unit_price, expiration, bytes }`, and the id of a transaction is the BLAKE3 of that,
//! filled up with zeros to a multiple of 64 bytes, so that they are named many at a time
//! ([`hashing`]). A client that sends the same bytes with the same price and expiration to a second
//! validator sends the same transaction.
//!
//! [`wrap`] writes what serde would, so that a request of thousands of transactions is wrapped in
//! one buffer with one copy; [`unwrap_each`] reads only the fixed fields and checks the rest,
//! without a copy.

#[cfg(test)]
use bytes::Bytes;
use bytes::{BufMut, BytesMut};
use quorum_store::types::Timestamp;
#[cfg(test)]
use serde::{Deserialize, Serialize};

use crate::hashing;

/// What names a transaction.
pub type TransactionId = [u8; 32];

/// Most bytes that wrapping adds: two `u64` and the length of at most 1 MiB.
pub const WRAPPER_BYTES_MAX: u32 = 8 + 8 + 3;

/// A client's transaction, as serde sees it: what the hand-written forms are held against.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// What the client pays per unit of gas: decides the bucket.
    pub gas_unit_price: u64,
    /// The last block timestamp at which it may be executed, microseconds since the Unix epoch.
    pub expiration_micros: u64,
    /// What the client sent.
    pub bytes: Bytes,
}

#[cfg(test)]
impl Transaction {
    /// Its BCS.
    pub fn encode(&self) -> Vec<u8> {
        let mut buffer = BytesMut::with_capacity(wrapped_bytes(self.bytes.len()));
        wrap(&mut buffer, self.gas_unit_price, self.expiration_micros, &self.bytes);
        buffer.into()
    }

    /// Its name.
    pub fn id(&self) -> TransactionId {
        ids(&[&self.encode()])[0]
    }
}

/// The part of a transaction that execution looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// See [`ids`].
    pub id: TransactionId,
    /// What the client pays per unit of gas.
    pub gas_unit_price: u64,
    /// The last block timestamp at which it may be executed.
    pub expiration: Timestamp,
}

/// The names of wrapped transactions, in their order. What is wrapped says its own length, so no two
/// have the same bytes once they are filled up.
pub fn ids(wrapped: &[&[u8]]) -> Vec<TransactionId> {
    hashing::hash_each(wrapped)
}

/// Length of a transaction of `length` bytes once it is wrapped.
pub fn wrapped_bytes(length: usize) -> usize {
    let mut bytes = 8 + 8 + 1 + length;
    let mut rest = length >> 7;
    while rest > 0 {
        bytes += 1;
        rest >>= 7;
    }
    bytes
}

/// Appends the BCS of a transaction.
pub fn wrap(buffer: &mut BytesMut, gas_unit_price: u64, expiration_micros: u64, bytes: &[u8]) {
    buffer.put_u64_le(gas_unit_price);
    buffer.put_u64_le(expiration_micros);
    let mut rest = bytes.len();
    while rest >= 0x80 {
        buffer.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    buffer.put_u8(rest as u8);
    buffer.extend_from_slice(bytes);
}

/// Reads what a batch holds. `None` for what is not the canonical BCS of a transaction: whoever
/// batched it did not take it from a client of a correct validator, and all validators agree.
pub fn unwrap_each(wrapped: &[&[u8]]) -> impl Iterator<Item = Option<Envelope>> {
    wrapped.iter().zip(ids(wrapped)).map(|(wrapped, id)| {
        let (gas_unit_price, expiration) = unwrap(wrapped)?;
        Some(Envelope { id, gas_unit_price, expiration })
    })
}

/// Price and expiration, without naming it.
pub fn unwrap(wrapped: &[u8]) -> Option<(u64, Timestamp)> {
    let gas_unit_price = u64::from_le_bytes(wrapped.get(..8)?.try_into().ok()?);
    let expiration = u64::from_le_bytes(wrapped.get(8..16)?.try_into().ok()?);
    let rest = wrapped.get(16..)?;
    let mut length = 0_u64;
    for (position, byte) in rest.iter().take(5).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 != 0 {
            continue;
        }
        let canonical = *byte != 0 || position == 0;
        let exact = rest.len() as u64 - position as u64 - 1 == length;
        return (canonical && exact).then_some((gas_unit_price, Timestamp(expiration)));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(length: usize) -> Transaction {
        Transaction {
            gas_unit_price: 7,
            expiration_micros: 1_700_000_000_000_000,
            bytes: vec![0xab; length].into(),
        }
    }

    #[test]
    fn the_format_is_pinned() {
        let transaction = Transaction {
            gas_unit_price: 100,
            expiration_micros: 1_700_000_000_000_000,
            bytes: Bytes::from_static(b"transfer 5"),
        };
        let encoded = "640000000000000000401e18240a06000a7472616e736665722035";
        assert_eq!(hex::encode(transaction.encode()), encoded);
        let id = "f8e7807f99c36fecf8ecb622f1804bfaa60f3fc3eb1697e11dc3a5dd6d56f8f4";
        assert_eq!(hex::encode(transaction.id()), id);
    }

    #[test]
    fn wrapping_by_hand_is_what_bcs_says() {
        for length in [0, 1, 127, 128, 512, 16_383, 16_384, 70_000] {
            let transaction = sample(length);
            let encoded = transaction.encode();
            assert_eq!(encoded, bcs::to_bytes(&transaction).unwrap(), "{length} bytes");
            assert_eq!(encoded.len(), wrapped_bytes(length));
            assert!(encoded.len() - length <= WRAPPER_BYTES_MAX as usize);
            let envelope = unwrap_each(&[&encoded]).next().unwrap().unwrap();
            assert_eq!(envelope.id, transaction.id());
            assert_eq!(envelope.expiration, Timestamp(transaction.expiration_micros));
            assert_eq!(envelope.gas_unit_price, transaction.gas_unit_price);
        }
    }

    #[test]
    fn unwrapping_accepts_exactly_what_bcs_accepts() {
        let good = sample(200).encode();
        let mut cases: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
        cases.push(good.iter().copied().chain([0]).collect());
        // 0x80 0x00 also says zero, 0x85 0x00 five; neither is the shortest way.
        cases.push([&good[..16], &[0x80, 0x00]].concat());
        cases.push([&good[..16], &[0x85, 0x00, 1, 2, 3, 4, 5]].concat());
        cases.push([&good[..16], &[0xff, 0xff, 0xff, 0xff, 0x7f]].concat());
        cases.push([&good[..16], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x01]].concat());
        for case in cases {
            let expected = bcs::from_bytes::<Transaction>(&case).ok();
            assert_eq!(unwrap(&case).is_some(), expected.is_some(), "{}", hex::encode(&case));
        }
        assert!(unwrap(&good).is_some());
    }
}
