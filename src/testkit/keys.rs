//! Keys of simulated validators: real ed25519, or a keyed hash that is two hundred times faster.
//!
//! A liar signs what it likes: [`Keys::sign`] needs no token of durability, which is why it stays
//! inside this module tree.
//!
//! Every simulated validator checks every signature with the real function, as a process of its own
//! would; but the function has no state, so its answer to a question that another one has asked
//! before is taken from a table. A question is all that the function sees: signer, bytes, signature.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

use crate::crypto::{Ed25519Signer, Signer};
use crate::store::{Durable, StoredBatch};
use crate::types::{AbsenceStatement, Author, Scope, Signature, SignedAbsence, SignedBatchInfo};

/// One validator's keys. Never use the fast kind where signatures count: whoever holds the
/// cluster's secret signs for everybody.
#[derive(Clone)]
pub struct Keys(Kind);

#[derive(Clone)]
enum Kind {
    Fast {
        secret: [u8; 32],
        author: Author,
    },
    /// The key, to sign anything; the signer, to verify without deriving the key again.
    Real(Box<ed25519_dalek::SigningKey>, Arc<Ed25519Signer>, Arc<Answers>),
}

/// Answers of the real verification that are kept, at most.
const ANSWERS_MAX: usize = 1 << 16;

/// What the real verification answered, in one cluster.
#[derive(Default)]
struct Answers(Mutex<HashMap<Question, bool>>);

type Question = (Author, Vec<u8>, [u8; 64]);

impl Answers {
    fn of(&self, question: Question, answer: impl FnOnce() -> bool) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = known.get(&question) {
            return *answer;
        }
        if known.len() >= ANSWERS_MAX {
            known.clear();
        }
        let answer = answer();
        known.insert(question, answer);
        answer
    }
}

impl Keys {
    /// The keys of so many validators; the same for the same arguments.
    pub fn of_cluster(real: bool, seed: u64, count: usize) -> Vec<Self> {
        let answers = Arc::default();
        (0..count).map(|index| Self::new(real, seed, index, &answers)).collect()
    }

    fn new(real: bool, seed: u64, index: usize, answers: &Arc<Answers>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("quorum-store/testkit/keys");
        hasher.update(&seed.to_le_bytes());
        let secret = *hasher.finalize().as_bytes();
        hasher.update(&(index as u64).to_le_bytes());
        let own = *hasher.finalize().as_bytes();
        if real {
            let key = Box::new(ed25519_dalek::SigningKey::from_bytes(&own));
            let signer = Arc::new(Ed25519Signer::new(&Zeroizing::new(own)));
            return Self(Kind::Real(key, signer, Arc::clone(answers)));
        }
        Self(Kind::Fast { secret, author: Author(own) })
    }

    /// Signs anything, durable or not.
    pub(super) fn sign(&self, bytes: &[u8]) -> Signature {
        match &self.0 {
            Kind::Fast { secret, author } => fast(secret, author, bytes.to_vec()),
            Kind::Real(key, ..) => Signature::from_bytes(&key.sign(bytes).to_bytes()),
        }
    }
}

fn fast(secret: &[u8; 32], author: &Author, mut bytes: Vec<u8>) -> Signature {
    // In one piece: a hasher that is fed in parts costs more to set up than this takes.
    bytes.extend_from_slice(author.as_bytes());
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(blake3::keyed_hash(secret, &bytes).as_bytes());
    Signature::from_bytes(&signature)
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({:?})", self.author())
    }
}

impl Signer for Keys {
    fn author(&self) -> Author {
        match &self.0 {
            Kind::Fast { author, .. } => *author,
            Kind::Real(_, own, _) => own.author(),
        }
    }

    fn sign_batch(&self, scope: &Scope, batch: &Durable<StoredBatch>) -> SignedBatchInfo {
        let digest = batch.get().digest;
        let signature = self.sign(&scope.batch_stored_bytes(&digest));
        SignedBatchInfo { digest, signer: self.author(), signature }
    }

    fn verify_batch(&self, scope: &Scope, signed: &SignedBatchInfo) -> bool {
        match &self.0 {
            Kind::Fast { secret, .. } => {
                let bytes = scope.batch_stored_bytes(&signed.digest);
                fast(secret, &signed.signer, bytes) == signed.signature
            }
            Kind::Real(_, own, answers) => {
                let bytes = scope.batch_stored_bytes(&signed.digest);
                let question = (signed.signer, bytes, signed.signature.to_bytes());
                answers.of(question, || own.verify_batch(scope, signed))
            }
        }
    }

    fn sign_absence(&self, scope: &Scope, absence: &Durable<AbsenceStatement>) -> SignedAbsence {
        let statement = *absence.get();
        let signature = self.sign(&scope.absence_bytes(&statement));
        SignedAbsence { statement, signer: self.author(), signature }
    }

    fn verify_absence(&self, scope: &Scope, signed: &SignedAbsence) -> bool {
        match &self.0 {
            Kind::Fast { secret, .. } => {
                let bytes = scope.absence_bytes(&signed.statement);
                fast(secret, &signed.signer, bytes) == signed.signature
            }
            Kind::Real(_, own, answers) => {
                let bytes = scope.absence_bytes(&signed.statement);
                let question = (signed.signer, bytes, signed.signature.to_bytes());
                answers.of(question, || own.verify_absence(scope, signed))
            }
        }
    }
}
