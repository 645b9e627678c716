//! What others are told: standing, statements, snapshots, ends of epochs.
//!
//! A snapshot is made when somebody asks for it, and the last few are kept, because whoever asks
//! for its statement comes back for its bytes, and others ask for the same height.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use quorum_store::types::{ChainId, Epoch};

use super::{SignedStatement, Statement};
use crate::executor::{Archive, Boundary, ExecutorError, Rules};

/// Snapshots kept.
const KEPT: usize = 3;

/// The source.
pub struct Source {
    archive: Archive,
    rules: Rules,
    chain: ChainId,
    key: SigningKey,
    made: Mutex<VecDeque<Made>>,
}

/// A snapshot that was made.
#[derive(Clone, Debug)]
pub struct Made {
    height: u64,
    above: u64,
    /// What is said of it.
    pub signed: SignedStatement,
    /// Its bytes.
    pub content: Bytes,
}

impl Source {
    /// Of this validator.
    pub fn new(archive: Archive, rules: Rules, chain: ChainId, seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        Self { archive, rules, chain, key, made: Mutex::default() }
    }

    /// The snapshot of a height, for somebody who executed up to `above`; `None` if that height is
    /// not to be had here. Reads the disk.
    pub fn snapshot(&self, height: u64, above: u64) -> Result<Option<Made>, ExecutorError> {
        // Held meanwhile: those who ask for the same at the same time wait for the first.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let known = made.iter().find(|made| (made.height, made.above) == (height, above));
        if let Some(known) = known {
            return Ok(Some(known.clone()));
        }
        let Some(snapshot) = self.archive.snapshot(&self.rules, height, above)? else {
            return Ok(None);
        };
        let content = Bytes::from(snapshot.encode()?);
        let statement = Statement::of(self.chain, &snapshot, &content);
        let signed = SignedStatement::sign(statement, &self.key);
        let new = Made { height, above, signed, content };
        made.push_back(new.clone());
        if made.len() > KEPT {
            made.pop_front();
        }
        Ok(Some(new))
    }

    /// How an epoch ended. Reads the disk.
    pub fn boundary(&self, epoch: Epoch) -> Result<Option<Boundary>, ExecutorError> {
        self.archive.boundary(epoch)
    }
}
