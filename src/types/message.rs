//! What validators say to each other, and how it is framed.
//!
//! A frame is a version byte, a kind byte, and the kind's body. Most kinds are plain BCS; a batch
//! is its fixed-length info followed by its body, so that neither side copies transactions.
//! Decoding never trusts a count: the frame's length is bounded by the transport, each kind has a
//! bound of its own, and [`Message::decode`] re-encodes to the same bytes or fails.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::absence::AbsenceAnswer;
use super::batch::{Batch, BatchInfo};
use super::chunk::{Chunk, ChunkId, chunks_of};
use super::codec::{self, DecodeError};
use super::genesis::BATCH_BYTES_LIMIT;
use super::ids::{ChainId, CommitIndex, CommitteeHash, Digest, Epoch, Timestamp};
use super::payload::Payload;
use super::proof::{ProofOfStore, Signature};

/// Version of the wire format. A hello of another version refuses the link.
pub const WIRE_VERSION: u8 = 1;
/// Largest frame of the control class in bytes; the hello, votes, proofs, payloads and requests.
pub const CONTROL_FRAME_BYTES_MAX: usize = 5 << 20;
/// Largest frame of the bulk class in bytes; batches and fetched content.
pub const BULK_FRAME_BYTES_MAX: usize = 5 << 20;
/// Most digests in one fetch request.
pub const FETCH_DIGESTS_MAX: usize = 256;
/// Most votes in one message.
pub const VOTES_MAX: usize = 4096;
/// Most proofs in one message.
pub const PROOFS_MAX: usize = 1024;
/// Largest hello in bytes.
pub const HELLO_BYTES_MAX: usize = 1024;

/// How much of one author a validator stores: bytes (see `BatchInfo::charge`) and batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes, overhead included.
    pub bytes: u64,
    /// Batches.
    pub batches: u64,
}

impl Usage {
    /// True if `charge` more bytes and one more batch still lie within `window`.
    pub fn has_room(&self, charge: u64, window: &Self) -> bool {
        self.bytes.saturating_add(charge) <= window.bytes && self.batches < window.batches
    }

    /// Counts one batch of `charge` bytes.
    pub fn add(&mut self, charge: u64) {
        self.bytes = self.bytes.saturating_add(charge);
        self.batches += 1;
    }

    /// What of this is more than the other.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            batches: self.batches.saturating_sub(other.batches),
        }
    }

    /// Counts one batch of `charge` bytes no more.
    pub fn remove(&mut self, charge: u64) {
        assert!(self.bytes >= charge && self.batches > 0, "usage below zero: {self:?} - {charge}");
        self.bytes -= charge;
        self.batches -= 1;
    }
}

/// What a validator grants to each author, and what it no longer counts (design section 7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The fixed window per author.
    pub window: Usage,
    /// Everything whose expiration plus grace lies below this counts no more.
    pub released: Timestamp,
}

/// The first message of a link: who is not on the same chain and committee is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The chain.
    pub chain: ChainId,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// Its committee.
    pub committee: CommitteeHash,
    /// What the sender grants.
    pub announcement: Announcement,
    /// What the sender holds of the receiver.
    pub holds: Usage,
}

impl Hello {
    /// Version byte and BCS.
    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![WIRE_VERSION];
        bytes.extend_from_slice(&codec::encode(self));
        bytes.into()
    }

    /// Reads a hello from outside.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (version, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        check_version(*version)?;
        codec::decode("hello", rest, HELLO_BYTES_MAX)
    }
}

/// A signed batch info without its signer: on a link, the signer is the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The batch.
    pub digest: Digest,
    /// The peer's signature.
    pub signature: Signature,
}

/// Why a peer does not send what was asked for. Proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AbsentReason {
    /// It does not hold it, or not durably yet.
    NotHeld,
    /// It holds it and cannot read it.
    Unreadable,
}

/// Content that was asked for, or why it is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedContent {
    /// The sender does not have it.
    Absent(AbsentReason),
    /// The sender has too much to do: ask it again after so many milliseconds.
    Busy(u32),
    /// A part of a large batch.
    Chunk(Box<Chunk>),
    /// A batch.
    Batch(Batch),
    /// A payload.
    Payload(Box<Payload>),
}

/// Everything that follows the hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A batch, from its author.
    Batch(Batch),
    /// Signatures for batches of the receiver, with what the sender grants now.
    Votes {
        /// What the sender grants.
        announcement: Announcement,
        /// At most [`VOTES_MAX`].
        votes: Vec<Vote>,
    },
    /// Proofs of store; at most [`PROOFS_MAX`].
    Proofs(Vec<ProofOfStore>),
    /// A payload that is, or will be, proposed.
    Payload(Box<Payload>),
    /// What the sender grants now; at least once a second.
    Announce(Announcement),
    /// Asks for content by digest; at most [`FETCH_DIGESTS_MAX`].
    FetchRequest(Vec<Digest>),
    /// Asks for parts of large batches; at most [`FETCH_DIGESTS_MAX`].
    ChunkRequest(Vec<ChunkId>),
    /// One answer to a request.
    FetchReply {
        /// What was asked for.
        digest: Digest,
        /// The answer.
        content: FetchedContent,
    },
    /// The epoch that the sender serves: told when it opens one, and the answer to a message of
    /// an epoch that it has not reached.
    Serving(Epoch),
    /// Asks whether content that a commit names is absent.
    AbsenceRequest {
        /// The commit.
        index: CommitIndex,
        /// The content.
        digest: Digest,
    },
    /// The answer.
    Absence {
        /// The commit.
        index: CommitIndex,
        /// The content.
        digest: Digest,
        /// What the sender says.
        answer: AbsenceAnswer,
    },
}

mod kind {
    pub const BATCH: u8 = 1;
    pub const VOTES: u8 = 2;
    pub const PROOFS: u8 = 3;
    pub const PAYLOAD: u8 = 4;
    pub const ANNOUNCE: u8 = 5;
    pub const FETCH_REQUEST: u8 = 6;
    pub const FETCH_ABSENT: u8 = 7;
    pub const FETCH_BATCH: u8 = 8;
    pub const FETCH_PAYLOAD: u8 = 9;
    pub const SERVING: u8 = 10;
    pub const CHUNK_REQUEST: u8 = 11;
    pub const FETCH_CHUNK: u8 = 12;
    pub const FETCH_BUSY: u8 = 13;
    pub const ABSENCE_REQUEST: u8 = 14;
    pub const ABSENCE: u8 = 15;
}

/// An encoded message: a head of its own, and a body that is shared, not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Version, kind and everything small.
    pub head: Bytes,
    /// The body of a batch; empty for the other kinds.
    pub body: Bytes,
}

impl Encoded {
    /// Head and body in one buffer, as they arrive.
    pub fn to_bytes(&self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.head.len() + self.body.len());
        all.put_slice(&self.head);
        all.put_slice(&self.body);
        all.freeze()
    }
}

impl Message {
    /// Its name in metrics.
    pub const fn kind_name(&self) -> &'static str {
        match self {
            Self::Batch(_) => "batch",
            Self::Votes { .. } => "votes",
            Self::Proofs(_) => "proofs",
            Self::Payload(_) => "payload",
            Self::Announce(_) => "announce",
            Self::FetchRequest(_) => "fetch_request",
            Self::ChunkRequest(_) => "chunk_request",
            Self::FetchReply { .. } => "fetch_reply",
            Self::Serving(_) => "serving",
            Self::AbsenceRequest { .. } => "absence_request",
            Self::Absence { .. } => "absence",
        }
    }

    /// True for kinds that may wait behind votes and proofs.
    pub const fn is_bulk(&self) -> bool {
        matches!(self, Self::Batch(_) | Self::FetchReply { .. })
    }

    /// Its frame.
    pub fn encode(&self) -> Encoded {
        match self {
            Self::Batch(batch) => head_and_body(kind::BATCH, &batch.info, batch.body.bytes()),
            Self::Votes { announcement, votes } => head(kind::VOTES, &(announcement, votes)),
            Self::Proofs(proofs) => head(kind::PROOFS, proofs),
            Self::Payload(payload) => head(kind::PAYLOAD, payload),
            Self::Announce(announcement) => head(kind::ANNOUNCE, announcement),
            Self::FetchRequest(digests) => head(kind::FETCH_REQUEST, digests),
            Self::ChunkRequest(chunks) => head(kind::CHUNK_REQUEST, chunks),
            Self::Serving(epoch) => head(kind::SERVING, epoch),
            Self::AbsenceRequest { index, digest } => head(kind::ABSENCE_REQUEST, &(index, digest)),
            Self::Absence { index, digest, answer } => {
                head(kind::ABSENCE, &(index, digest, answer))
            }
            Self::FetchReply { digest, content } => match content {
                FetchedContent::Absent(reason) => head(kind::FETCH_ABSENT, &(digest, reason)),
                FetchedContent::Busy(millis) => head(kind::FETCH_BUSY, &(digest, millis)),
                FetchedContent::Chunk(chunk) => {
                    let Chunk { info, index, outline, bytes } = &**chunk;
                    head_and_body(kind::FETCH_CHUNK, &(digest, info, index, outline), bytes)
                }
                FetchedContent::Batch(batch) => {
                    head_and_body(kind::FETCH_BATCH, &(digest, batch.info), batch.body.bytes())
                }
                FetchedContent::Payload(payload) => head(kind::FETCH_PAYLOAD, &(digest, payload)),
            },
        }
    }

    /// Reads a frame from outside. The body of a batch stays a slice of `frame`.
    pub fn decode(frame: &Bytes) -> Result<Self, DecodeError> {
        let [version, kind, ..] = frame[..] else {
            return Err(if frame.is_empty() {
                DecodeError::Empty
            } else {
                DecodeError::Truncated { kind: "frame" }
            });
        };
        check_version(version)?;
        let rest = frame.slice(2..);
        match kind {
            kind::BATCH => Ok(Self::Batch(Batch::split(&rest)?)),
            kind::VOTES => {
                let (announcement, votes): (_, Vec<Vote>) =
                    codec::decode("votes", &rest, 256 + VOTES_MAX * 96)?;
                within("votes", votes.len(), VOTES_MAX)?;
                Ok(Self::Votes { announcement, votes })
            }
            kind::PROOFS => {
                let proofs: Vec<_> = codec::decode("proofs", &rest, CONTROL_FRAME_BYTES_MAX)?;
                within("proofs", proofs.len(), PROOFS_MAX)?;
                Ok(Self::Proofs(proofs))
            }
            kind::PAYLOAD => {
                Ok(Self::Payload(codec::decode("payload", &rest, CONTROL_FRAME_BYTES_MAX)?))
            }
            kind::ANNOUNCE => Ok(Self::Announce(codec::decode("announcement", &rest, 64)?)),
            kind::FETCH_REQUEST => {
                let digests: Vec<_> =
                    codec::decode("fetch request", &rest, 8 + FETCH_DIGESTS_MAX * 32)?;
                within("fetch request", digests.len(), FETCH_DIGESTS_MAX)?;
                Ok(Self::FetchRequest(digests))
            }
            kind::CHUNK_REQUEST => {
                let bound = 8 + FETCH_DIGESTS_MAX * 34;
                let chunks: Vec<_> = codec::decode("chunk request", &rest, bound)?;
                within("chunk request", chunks.len(), FETCH_DIGESTS_MAX)?;
                Ok(Self::ChunkRequest(chunks))
            }
            kind::FETCH_ABSENT => {
                let (digest, reason) = codec::decode("fetch reply", &rest, 33)?;
                Ok(Self::FetchReply { digest, content: FetchedContent::Absent(reason) })
            }
            kind::FETCH_BUSY => {
                let (digest, millis) = codec::decode("fetch reply", &rest, 36)?;
                Ok(Self::FetchReply { digest, content: FetchedContent::Busy(millis) })
            }
            kind::FETCH_CHUNK => decode_chunk(&rest),
            kind::FETCH_BATCH => {
                if rest.len() < 32 + BatchInfo::ENCODED_BYTES {
                    return Err(DecodeError::Truncated { kind: "fetch reply" });
                }
                let digest = codec::decode("fetch reply", &rest[..32], 32)?;
                let content = FetchedContent::Batch(Batch::split(&rest.slice(32..))?);
                Ok(Self::FetchReply { digest, content })
            }
            kind::FETCH_PAYLOAD => {
                let (digest, payload) = codec::decode("fetch reply", &rest, BULK_FRAME_BYTES_MAX)?;
                Ok(Self::FetchReply { digest, content: FetchedContent::Payload(payload) })
            }
            kind::ABSENCE_REQUEST => {
                let (index, digest) = codec::decode("absence request", &rest, 40)?;
                Ok(Self::AbsenceRequest { index, digest })
            }
            kind::ABSENCE => {
                let (index, digest, answer) = codec::decode("absence", &rest, 128)?;
                Ok(Self::Absence { index, digest, answer })
            }
            kind::SERVING => Ok(Self::Serving(codec::decode("serving", &rest, 8)?)),
            unknown => Err(DecodeError::Kind(unknown)),
        }
    }
}

/// A chunk is split from its head by the length that its info implies.
fn decode_chunk(rest: &Bytes) -> Result<Message, DecodeError> {
    const KIND: &str = "chunk";
    const FIXED: usize = 32 + BatchInfo::ENCODED_BYTES;
    let truncated = DecodeError::Truncated { kind: KIND };
    let fixed = rest.get(..FIXED).ok_or(truncated.clone())?;
    let (digest, info): (Digest, BatchInfo) = codec::decode(KIND, fixed, FIXED)?;
    let (length, bound) = (info.bytes as usize, BATCH_BYTES_LIMIT as usize);
    within(KIND, length, bound)?;
    // The index, a length of one byte, and the outline.
    let head = 3 + 32 * usize::from(chunks_of(info.bytes));
    let more = rest.get(FIXED..FIXED + head).ok_or(truncated)?;
    let (index, outline) = codec::decode(KIND, more, head)?;
    let bytes = rest.slice(FIXED + head..);
    let chunk = Chunk { info, index, outline, bytes };
    Ok(Message::FetchReply { digest, content: FetchedContent::Chunk(Box::new(chunk)) })
}

fn check_version(found: u8) -> Result<(), DecodeError> {
    if found == WIRE_VERSION {
        Ok(())
    } else {
        Err(DecodeError::Version { found, expected: WIRE_VERSION })
    }
}

fn within(kind: &'static str, length: usize, bound: usize) -> Result<(), DecodeError> {
    if length <= bound { Ok(()) } else { Err(DecodeError::Oversized { kind, length, bound }) }
}

fn head<T: Serialize>(kind: u8, value: &T) -> Encoded {
    head_and_body(kind, value, &Bytes::new())
}

fn head_and_body<T: Serialize>(kind: u8, value: &T, body: &Bytes) -> Encoded {
    let mut head = vec![WIRE_VERSION, kind];
    head.extend_from_slice(&codec::encode(value));
    Encoded { head: head.into(), body: body.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_itself_and_back_to_the_same_bytes() {
        for message in samples::messages() {
            let frame = message.encode().to_bytes();
            let decoded = Message::decode(&frame).unwrap();
            assert_eq!(decoded, message);
            assert_eq!(decoded.encode().to_bytes(), frame);
        }
    }

    #[test]
    fn bad_frames_are_typed_errors() {
        assert_eq!(Message::decode(&Bytes::new()), Err(DecodeError::Empty));
        assert_eq!(
            Message::decode(&Bytes::from_static(&[WIRE_VERSION])),
            Err(DecodeError::Truncated { kind: "frame" })
        );
        assert_eq!(
            Message::decode(&Bytes::from_static(&[WIRE_VERSION, 99])),
            Err(DecodeError::Kind(99))
        );
        for message in samples::messages() {
            let frame = message.encode().to_bytes();
            let mut other_version = frame.to_vec();
            other_version[0] = 77;
            assert!(matches!(
                Message::decode(&other_version.into()),
                Err(DecodeError::Version { found: 77, .. })
            ));
            for length in 0..frame.len().min(300) {
                // A truncated batch body is caught later, by the info's length and root.
                let decoded = Message::decode(&frame.slice(..length));
                if let Ok(decoded) = decoded {
                    assert!(decoded.is_bulk(), "{} truncated to {length}", message.kind_name());
                }
            }
            if !message.is_bulk() {
                let mut longer = frame.to_vec();
                longer.push(0);
                assert!(Message::decode(&longer.into()).is_err(), "{}", message.kind_name());
            }
        }
    }

    #[test]
    fn a_claimed_length_allocates_nothing_and_a_long_length_is_not_canonical() {
        // 2^31 - 1 proofs claimed in five bytes.
        let bomb = [WIRE_VERSION, kind::PROOFS, 0xff, 0xff, 0xff, 0xff, 0x07];
        assert!(Message::decode(&Bytes::copy_from_slice(&bomb)).is_err());
        let long_zero = [WIRE_VERSION, kind::PROOFS, 0x80, 0x00];
        assert!(Message::decode(&Bytes::copy_from_slice(&long_zero)).is_err());
        let zero = [WIRE_VERSION, kind::PROOFS, 0x00];
        assert_eq!(Message::decode(&Bytes::copy_from_slice(&zero)), Ok(Message::Proofs(vec![])));
    }

    #[test]
    fn too_many_entries_are_refused() {
        let digests = vec![Digest([1; 32]); FETCH_DIGESTS_MAX + 1];
        let frame = Message::FetchRequest(digests).encode().to_bytes();
        assert!(matches!(Message::decode(&frame), Err(DecodeError::Oversized { .. })));
    }
}
