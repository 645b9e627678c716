//! What validators do, counted.

#![allow(dead_code, reason = "each benchmark uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use quorum_store::crypto::{Ed25519Signer, Signer};
use quorum_store::store::{Durable, StoredBatch};
use quorum_store::types::{AbsenceStatement, Author, Scope, SignedAbsence, SignedBatchInfo};

/// What all validators did together since they started.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub signed: u64,
    /// Signatures, one by one.
    pub verified: u64,
    pub certified: u64,
    /// Messages and their bytes, by kind.
    pub sent: BTreeMap<String, (f64, f64)>,
}

/// The signer of the validators: counts, and is real.
pub struct Counting {
    inner: Ed25519Signer,
    pub signed: AtomicU64,
    pub verified: AtomicU64,
}

impl Counting {
    pub fn new(inner: Ed25519Signer) -> Self {
        Self { inner, signed: AtomicU64::new(0), verified: AtomicU64::new(0) }
    }
}

impl Signer for Counting {
    fn author(&self) -> Author {
        self.inner.author()
    }

    fn sign_batch(&self, scope: &Scope, batch: &Durable<StoredBatch>) -> SignedBatchInfo {
        self.signed.fetch_add(1, Ordering::Relaxed);
        self.inner.sign_batch(scope, batch)
    }

    fn verify_batch(&self, scope: &Scope, signed: &SignedBatchInfo) -> bool {
        self.verified.fetch_add(1, Ordering::Relaxed);
        self.inner.verify_batch(scope, signed)
    }

    fn sign_absence(&self, scope: &Scope, absence: &Durable<AbsenceStatement>) -> SignedAbsence {
        self.inner.sign_absence(scope, absence)
    }

    fn verify_absence(&self, scope: &Scope, signed: &SignedAbsence) -> bool {
        self.inner.verify_absence(scope, signed)
    }
}
