//! Values that are hashed, signed, stored and sent.
//!
//! Every value here is plain data with one canonical encoding (BCS), golden vectors that pin it
//! (`golden.rs`), and a `verify` that reads as a list of checks where one is needed. Digests and
//! signed strings are an ASCII domain of their kind and version followed by the BCS of a fixed
//! struct (design section 9). Nothing in this module knows tokio, a clock, a file or a thread.
//!
//! Reading order: [`ids`] → [`committee`] → [`genesis`] → [`batch`] → [`chunk`] → [`proof`] → [`absence`] →
//! [`payload`] →
//! [`commit`] → [`message`].

pub mod absence;
pub mod batch;
pub mod chunk;
pub mod codec;
pub mod commit;
pub mod committee;
pub mod genesis;
pub mod ids;
pub mod message;
pub mod payload;
pub mod proof;
mod words;

#[cfg(test)]
mod golden;
#[cfg(test)]
pub(crate) mod samples;

pub use absence::{
    AbsenceAnswer, AbsenceReason, AbsenceSignature, AbsenceStatement, InvalidEvidence,
    SignedAbsence, UnavailabilityProof,
};
pub use batch::{Batch, BatchBody, BatchInfo, BodyBuilder, InvalidBatch};
pub use chunk::{Chunk, ChunkId, InvalidChunk};
pub use codec::DecodeError;
pub use commit::{Ack, Commit, CommitReceipt, Component, EpochReceipt, FormerEpoch, Membership};
pub use committee::{Committee, CommitteeError, Member};
pub use genesis::{ChainParameters, Genesis, ParameterError};
pub use ids::{
    Author, BatchId, ChainId, CommitIndex, CommitteeHash, Digest, Epoch, Incarnation, Slot,
    Timestamp,
};
pub use message::{
    AbsentReason, Announcement, FetchedContent, Hello, Message, Usage, Vote, WIRE_VERSION,
};
pub use payload::{InvalidPayload, Payload, PayloadContent, PayloadHeader};
pub use proof::{InvalidProof, ProofOfStore, ProofSignature, Scope, Signature, SignedBatchInfo};
