//! 32 bytes, encoded as two words of 16: the same bytes, in two steps instead of 32.
//!
//! BCS writes an array as its elements and nothing else, and a `u128` as 16 bytes, the lowest
//! first. Digests and keys are most of what is hashed, signed, stored and sent, and an encoder that
//! takes them byte by byte spends a fifth of the core's time there. Where people read it, it stays
//! a list of bytes.

use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        return bytes.serialize(serializer);
    }
    let (mut low, mut high) = ([0; 16], [0; 16]);
    low.copy_from_slice(&bytes[..16]);
    high.copy_from_slice(&bytes[16..]);
    (u128::from_le_bytes(low), u128::from_le_bytes(high)).serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    if deserializer.is_human_readable() {
        return <[u8; 32]>::deserialize(deserializer);
    }
    let (low, high) = <(u128, u128)>::deserialize(deserializer)?;
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&low.to_le_bytes());
    bytes[16..].copy_from_slice(&high.to_le_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::ids::Digest;

    #[test]
    fn the_bytes_are_those_of_the_array() {
        let bytes: [u8; 32] = std::array::from_fn(|at| at as u8 ^ 0xa5);
        let encoded = bcs::to_bytes(&Digest(bytes)).unwrap();
        assert_eq!(encoded, bytes);
        assert_eq!(bcs::from_bytes::<Digest>(&encoded), Ok(Digest(bytes)));
        assert!(bcs::from_bytes::<Digest>(&encoded[..31]).is_err());
    }

    #[test]
    fn people_read_bytes() {
        let digest = Digest([7; 32]);
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(text, serde_json::to_string(&[7_u8; 32]).unwrap());
        assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
    }
}
