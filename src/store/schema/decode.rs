//! From entries back to values: bounded, canonical, typed errors, never a panic.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{
    ABSENT, APPLIED, BATCH, BatchEntry, CLAIM, CLOSED, COMMIT, CURSOR, EPOCH, FENCE, FLOOR, LAGGED,
    LIFE, META, Meta, PASSED, PAYLOAD, PROOF, RESERVED, REWRITTEN, SILENCE, SKIPPED, VALUE_VERSION,
};
use crate::types::genesis::PAYLOAD_BYTES_LIMIT;
use crate::types::{
    Author, BatchId, Commit, CommitIndex, CommitReceipt, DecodeError, Digest, Epoch, EpochReceipt,
    Incarnation, Membership, Payload, PayloadHeader, ProofOfStore, Slot, Timestamp,
    UnavailabilityProof, codec,
};

/// Bounds of encoded values: twice what the largest chain parameters allow.
const SMALL_BYTES_MAX: usize = 1 << 10;
const CONTENT_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_LIMIT as usize;

/// A control entry, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// What the store says of itself.
    Meta(Meta),
    /// Lives so far.
    Life(u64),
    /// One above the highest own counter that may be in use.
    Reserved(u64),
    /// The highest counter dropped.
    Floor(Slot),
    /// The epoch that is served.
    Epoch(Arc<Membership>),
    /// The last commit of an epoch that was being closed.
    Fence(Epoch, CommitIndex),
    /// How the last epoch ended.
    Closed(EpochReceipt),
    /// A batch.
    Batch {
        /// Its digest.
        digest: Digest,
        /// The rest.
        entry: BatchEntry,
    },
    /// A slot and the only batch that may be signed in it.
    Claim {
        /// The batch.
        digest: Digest,
        /// Its slot.
        slot: Slot,
    },
    /// A proof.
    Proof {
        /// The batch.
        digest: Digest,
        /// Its proof.
        proof: Arc<ProofOfStore>,
    },
    /// A payload.
    Payload {
        /// Its digest.
        digest: Digest,
        /// When it may go.
        expiration: Timestamp,
        /// Its batches, in order of execution.
        batches: Vec<Digest>,
    },
    /// A finalised block.
    Commit(Commit),
    /// A commit that was applied.
    Applied(CommitReceipt),
    /// The next index a subscriber needs.
    Cursor {
        /// Its name.
        subscriber: String,
        /// The next index.
        next: CommitIndex,
    },
    /// A subscriber that held too much for too long.
    Lagged {
        /// Its name.
        subscriber: String,
        /// The next index it needed.
        next: CommitIndex,
    },
    /// Commits that state sync passed over.
    Skipped {
        /// The first one.
        from: CommitIndex,
        /// The last one.
        header: PayloadHeader,
    },
    /// It was said that content is absent.
    Absent {
        /// The commit that names it.
        index: CommitIndex,
        /// The content.
        digest: Digest,
        /// For a batch: its slot, and when it expires.
        slot: Option<(Slot, Timestamp)>,
    },
    /// Commits below this were passed.
    Passed(CommitIndex),
    /// Evidence that a commit carries.
    Rewritten {
        /// The commit.
        by: CommitIndex,
        /// The evidence.
        proof: Arc<UnavailabilityProof>,
    },
    /// Consensus time before which nothing is signed.
    Silence(Timestamp),
}

/// Why bytes on disk are not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A kind that this release does not know.
    #[error("unknown kind of entry")]
    Kind,
    /// A key of the wrong length, or a name that is no text.
    #[error("malformed key of a {0}")]
    Key(&'static str),
    /// The value does not decode.
    #[error(transparent)]
    Value(#[from] DecodeError),
    /// Key and value contradict each other.
    #[error("key and value of a {0} name different things")]
    Contradiction(&'static str),
}

impl Entry {
    /// Decodes an entry of the control table: bounded, canonical, never panics.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, EntryError> {
        let (kind, rest) = key.split_first().ok_or(EntryError::Kind)?;
        let mut key = KeyReader { kind: kind_name(*kind).ok_or(EntryError::Kind)?, rest };
        let entry = match *kind {
            META => Self::Meta(small(key.kind, value)?),
            LIFE => Self::Life(small(key.kind, value)?),
            RESERVED => Self::Reserved(small(key.kind, value)?),
            FLOOR => {
                let (epoch, author) = (Epoch(key.integer()?), Author(key.bytes32()?));
                let incarnation = Incarnation(key.integer()?);
                let batch_id = BatchId { incarnation, counter: small(key.kind, value)? };
                Self::Floor(Slot { epoch, author, batch_id })
            }
            EPOCH => Self::Epoch(Arc::new(large(key.kind, value)?)),
            FENCE => {
                let (epoch, final_index) = small(key.kind, value)?;
                Self::Fence(epoch, final_index)
            }
            CLOSED => Self::Closed(large(key.kind, value)?),
            BATCH => {
                let (expiration, digest) = key.content()?;
                let entry: BatchEntry = large(key.kind, value)?;
                key.agrees(entry.info.expiration == expiration)?;
                Self::Batch { digest, entry }
            }
            CLAIM => Self::Claim { digest: Digest(key.bytes32()?), slot: small(key.kind, value)? },
            PROOF => {
                let (expiration, digest) = key.content()?;
                let proof: ProofOfStore = large(key.kind, value)?;
                key.agrees(proof.info.expiration == expiration)?;
                Self::Proof { digest, proof: Arc::new(proof) }
            }
            PAYLOAD => {
                let (expiration, digest) = key.content()?;
                Self::Payload { digest, expiration, batches: large(key.kind, value)? }
            }
            COMMIT => {
                let commit: Commit = small(key.kind, value)?;
                let index = key.integer()?;
                key.agrees(commit.index.0 == index)?;
                Self::Commit(commit)
            }
            APPLIED => {
                let receipt: CommitReceipt = small(key.kind, value)?;
                let index = key.integer()?;
                key.agrees(receipt.index.0 == index)?;
                Self::Applied(receipt)
            }
            CURSOR => Self::Cursor { subscriber: key.name()?, next: small(key.kind, value)? },
            LAGGED => Self::Lagged { subscriber: key.name()?, next: small(key.kind, value)? },
            SKIPPED => {
                let (from, header) = small(key.kind, value)?;
                Self::Skipped { from, header }
            }
            ABSENT => {
                let (index, digest) = (CommitIndex(key.integer()?), Digest(key.bytes32()?));
                Self::Absent { index, digest, slot: small(key.kind, value)? }
            }
            PASSED => Self::Passed(small(key.kind, value)?),
            REWRITTEN => {
                let by = CommitIndex(key.integer()?);
                let digest = Digest(key.bytes32()?);
                let index = CommitIndex(key.integer()?);
                let proof: UnavailabilityProof = large(key.kind, value)?;
                key.agrees(proof.digest == digest && proof.index == index)?;
                Self::Rewritten { by, proof: Arc::new(proof) }
            }
            SILENCE => Self::Silence(small(key.kind, value)?),
            _ => return Err(EntryError::Kind),
        };
        if key.rest.is_empty() { Ok(entry) } else { Err(EntryError::Key(key.kind)) }
    }

    /// The name of its kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Meta(_) => "meta",
            Self::Life(_) => "life",
            Self::Reserved(_) => "reservation",
            Self::Floor(_) => "floor",
            Self::Epoch(_) => "epoch",
            Self::Fence(..) => "fence",
            Self::Closed(_) => "closed",
            Self::Batch { .. } => "batch",
            Self::Claim { .. } => "claim",
            Self::Proof { .. } => "proof",
            Self::Payload { .. } => "payload",
            Self::Commit(_) => "commit",
            Self::Applied(_) => "applied",
            Self::Cursor { .. } => "cursor",
            Self::Lagged { .. } => "lagged",
            Self::Skipped { .. } => "skipped",
            Self::Absent { .. } => "absent",
            Self::Passed(_) => "passed",
            Self::Rewritten { .. } => "rewritten",
            Self::Silence(_) => "silence",
        }
    }
}

/// Decodes the content of a payload, checked against nothing yet.
pub fn decode_payload(value: &[u8]) -> Result<Payload, EntryError> {
    large("payload content", value)
}

/// Splits a key of the content table into kind, expiration and digest.
pub fn decode_content_key(key: &[u8]) -> Result<(ContentKind, Timestamp, Digest), EntryError> {
    let (kind, rest) = key.split_first().ok_or(EntryError::Kind)?;
    let kind = match *kind {
        BATCH => ContentKind::Batch,
        PAYLOAD => ContentKind::Payload,
        _ => return Err(EntryError::Kind),
    };
    let mut key = KeyReader { kind: kind.name(), rest };
    let (expiration, digest) = key.content()?;
    if key.rest.is_empty() {
        Ok((kind, expiration, digest))
    } else {
        Err(EntryError::Key(key.kind))
    }
}

/// The two kinds of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContentKind {
    /// The body of a batch.
    Batch,
    /// A payload.
    Payload,
}

impl ContentKind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch content",
            Self::Payload => "payload content",
        }
    }
}

fn kind_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        META => "meta",
        LIFE => "life",
        RESERVED => "reservation",
        FLOOR => "floor",
        EPOCH => "epoch",
        FENCE => "fence",
        CLOSED => "closed",
        BATCH => "batch",
        CLAIM => "claim",
        PROOF => "proof",
        PAYLOAD => "payload",
        COMMIT => "commit",
        APPLIED => "applied",
        CURSOR => "cursor",
        LAGGED => "lagged",
        SKIPPED => "skipped",
        ABSENT => "absent",
        PASSED => "passed",
        REWRITTEN => "rewritten",
        SILENCE => "silence",
        _ => return None,
    })
}

struct KeyReader<'a> {
    kind: &'static str,
    rest: &'a [u8],
}

impl KeyReader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], EntryError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(EntryError::Key(self.kind))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn integer(&mut self) -> Result<u64, EntryError> {
        self.take().map(u64::from_be_bytes)
    }

    fn bytes32(&mut self) -> Result<[u8; 32], EntryError> {
        self.take()
    }

    fn name(&mut self) -> Result<String, EntryError> {
        let name = std::str::from_utf8(std::mem::take(&mut self.rest));
        name.map(str::to_owned).map_err(|_| EntryError::Key(self.kind))
    }

    fn content(&mut self) -> Result<(Timestamp, Digest), EntryError> {
        Ok((Timestamp(self.integer()?), Digest(self.bytes32()?)))
    }

    fn agrees(&self, agrees: bool) -> Result<(), EntryError> {
        if agrees { Ok(()) } else { Err(EntryError::Contradiction(self.kind)) }
    }
}

fn small<T: DeserializeOwned>(kind: &'static str, value: &[u8]) -> Result<T, EntryError> {
    decode_value(kind, value, SMALL_BYTES_MAX)
}

fn large<T: DeserializeOwned>(kind: &'static str, value: &[u8]) -> Result<T, EntryError> {
    decode_value(kind, value, CONTENT_BYTES_MAX)
}

fn decode_value<T: DeserializeOwned>(
    kind: &'static str,
    value: &[u8],
    bound: usize,
) -> Result<T, EntryError> {
    let (version, value) = value.split_first().ok_or(DecodeError::Empty)?;
    if *version != VALUE_VERSION {
        return Err(DecodeError::Version { found: *version, expected: VALUE_VERSION }.into());
    }
    Ok(codec::decode(kind, value, bound)?)
}
