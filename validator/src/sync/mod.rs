//! State sync: how a validator that cannot execute what it missed takes over the state of others.
//!
//! ```text
//!  behind                                          others
//!    ├── standing? ─────────────────────────────▶  height, epoch
//!    ├── statement of that height? ─────────────▶  signed: header, state, digest of the snapshot
//!    │        equal ones of more than f power: at least one of them is honest
//!    ├── snapshot? ─────────────────────────────▶  bytes, checked against that digest
//!    └── how did that epoch end? ───────────────▶  the certificate of its last block
//! ```
//!
//! What is trusted is what members of the epoch's committee signed, and certificates; the transport
//! is plain HTTP, and whoever answers falsely is found out. A snapshot is taken over with the index
//! it belongs to in one write ([`crate::executor::snapshot`]), and only then is the library told to
//! go on above it.
//!
//! **What it is not.** It says nothing of what is between the height it ends at and the newest one:
//! that is followed as by everybody else.

pub mod client;
pub mod source;

use std::collections::BTreeSet;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use quorum_store::types::{Author, ChainId, Committee, Digest, PayloadHeader};
use serde::{Deserialize, Serialize};

use crate::executor::Counters;
use crate::executor::snapshot::Snapshot;

/// Leads what is signed.
const DOMAIN: &[u8] = b"quorum-store/validator/v1/snapshot";

/// Longest encoded statement that is read.
const STATEMENT_BYTES_MAX: usize = 4 << 10;

/// Longest encoded end of an epoch that is read: a certificate of the largest committee.
const BOUNDARY_BYTES_MAX: usize = 256 << 10;

/// Largest snapshot that is read: two minutes of a hundred thousand transactions a second.
const SNAPSHOT_BYTES_MAX: usize = 512 << 20;

/// How far a validator got: a hint, not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The last executed block.
    pub height: u64,
}

/// What a validator says of its state after one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Which chain.
    pub chain: ChainId,
    /// Of the block.
    pub header: PayloadHeader,
    /// The state digest after it.
    pub state_digest: Digest,
    /// What was executed up to it.
    pub counters: Counters,
    /// The lowest block of the snapshot.
    pub from: u64,
    /// Digest of the snapshot's bytes.
    pub content: Digest,
    /// How many they are.
    pub bytes: u64,
}

/// A statement and who made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedStatement {
    /// What was said.
    pub statement: Statement,
    /// By whom.
    pub author: Author,
    /// Ed25519, 64 bytes.
    signature: Vec<u8>,
}

impl Statement {
    /// About a snapshot and its bytes.
    fn of(chain: ChainId, snapshot: &Snapshot, bytes: &[u8]) -> Self {
        let last = snapshot.last();
        Self {
            chain,
            header: last.header,
            state_digest: last.state_digest,
            counters: last.counters,
            from: snapshot.from(),
            content: Digest(*blake3::hash(bytes).as_bytes()),
            bytes: bytes.len() as u64,
        }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = DOMAIN.to_vec();
        // Proof: fixed fields of known length.
        #[allow(clippy::expect_used, reason = "a value of fixed fields has an encoding")]
        bytes.extend(bcs::to_bytes(self).expect("encodes"));
        bytes
    }

    /// Reads the snapshot it is about. `None` if these are other bytes, or say something else.
    fn read(&self, bytes: &[u8]) -> Option<Snapshot> {
        if Digest(*blake3::hash(bytes).as_bytes()) != self.content {
            return None;
        }
        let snapshot = Snapshot::decode(&self.chain, bytes).ok()?;
        (Self::of(self.chain, &snapshot, bytes) == *self).then_some(snapshot)
    }
}

impl SignedStatement {
    fn sign(statement: Statement, key: &SigningKey) -> Self {
        let signature = key.sign(&statement.signed_bytes()).to_bytes().to_vec();
        Self { statement, author: Author(key.verifying_key().to_bytes()), signature }
    }

    /// True if its author made it.
    fn is_valid(&self) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.author.0) else { return false };
        let Ok(signature) = Signature::from_slice(&self.signature) else { return false };
        key.verify_strict(&self.statement.signed_bytes(), &signature).is_ok()
    }
}

/// The statement that members of more than f power agree on, if there is one. Each member is
/// counted once, whatever it said.
pub fn agreed(committee: &Committee, said: &[SignedStatement]) -> Option<Statement> {
    let power = |statement: &Statement| -> u64 {
        let agreeing = said.iter().filter(|signed| signed.statement == *statement);
        let authors: BTreeSet<Author> = agreeing.map(|signed| signed.author).collect();
        authors.iter().map(|author| committee.power_of(author)).sum()
    };
    let found = said.iter().find(|signed| committee.is_above_faults(power(&signed.statement)));
    found.map(|signed| signed.statement)
}

#[cfg(test)]
mod tests;
