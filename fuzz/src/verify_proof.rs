//! Proofs of store that somebody spoiled.
//!
//! Claim: a proof is accepted if and only if it is of the epoch and its author a member, its
//! signers are distinct members in order, each signature was made by that member's key over exactly
//! this batch in exactly this scope and not altered since, and the signers' power is a quorum.
//!
//! The oracle never verifies a signature: it knows how each was made. It writes digests and signed
//! strings byte by byte, from the documentation of the format.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};
use ed25519_dalek::{Signer as _, SigningKey};
use quorum_store::crypto::{self, Ed25519Signer};
use quorum_store::types::{
    Author, BatchId, BatchInfo, ChainId, Committee, CommitteeHash, Digest, Epoch, Incarnation,
    Member, ProofOfStore, ProofSignature, Scope, Signature, Timestamp,
};

const KEYS: usize = 8;
/// The order of the group of ed25519, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Everything that an attacker chooses.
#[derive(Arbitrary, Debug)]
struct Case {
    /// (key, power) of each member.
    members: Vec<(u8, Power)>,
    /// Which members sign properly to begin with, one bit each.
    honest: u8,
    author: u8,
    info: InfoCase,
    mutations: Vec<Mutation>,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Power {
    Small(u8),
    Any(u64),
}

#[derive(Arbitrary, Debug)]
struct InfoCase {
    epoch: u8,
    counter: u8,
    count: u32,
    bytes: u32,
    root: u8,
}

/// What a signature is over, and whose it is.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum Over {
    /// What it should be over.
    Batch,
    OtherDomain,
    OtherChain,
    OtherEpoch(u8),
    OtherCommittee,
    OtherBatch,
    /// The digest without domain and scope.
    BareDigest,
}

/// What happens to a signature after it was made.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum After {
    Nothing,
    Flip(u16),
    Zero,
    /// The other S of the same equation: accepted by a verifier that is not strict.
    AddOrder,
}

#[derive(Arbitrary, Debug)]
enum Mutation {
    Insert {
        at: u8,
        position: u16,
        key: u8,
        over: Over,
        after: After,
    },
    Replace {
        at: u8,
        key: u8,
        over: Over,
        after: After,
    },
    Duplicate {
        at: u8,
    },
    Remove {
        at: u8,
    },
    Swap {
        at: u8,
        with: u8,
    },
    Retarget {
        at: u8,
        position: u16,
    },
    /// The proof is checked in another scope than it was made in.
    CheckedInEpoch(u8),
    CheckedOnChain(u8),
    /// The info changes after everybody signed.
    InfoAfterwards {
        field: u8,
        by: u8,
    },
}

/// A signature and how it came to be.
#[derive(Clone, Debug)]
struct Made {
    key: usize,
    message: Vec<u8>,
    bytes: [u8; 64],
    altered: bool,
}

/// See the module docs.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary(&mut Unstructured::new(data)) else { return };
    let Some((committee, owners)) = committee(&case) else { return };
    let mut scope = Scope {
        chain: ChainId([1; 32]),
        epoch: Epoch(u64::from(case.info.epoch)),
        committee: CommitteeHash(committee_hash(committee.members())),
    };
    assert_eq!(committee.hash(), scope.committee, "the committee's hash");
    let mut info = BatchInfo {
        author: Author(keys()[usize::from(case.author) % KEYS].verifying_key().to_bytes()),
        batch_id: BatchId { incarnation: Incarnation(7), counter: u64::from(case.info.counter) },
        epoch: scope.epoch,
        expiration: Timestamp(30_000_000),
        count: case.info.count,
        bytes: case.info.bytes,
        gas_bucket_start: 0,
        root: Digest([case.info.root; 32]),
    };
    let mut signatures: Vec<(u16, Made)> = owners
        .iter()
        .enumerate()
        .filter(|(position, _)| case.honest >> position & 1 == 1)
        .map(|(position, key)| {
            (position as u16, make(*key, Over::Batch, After::Nothing, &scope, &info))
        })
        .collect();
    for mutation in case.mutations.iter().take(16) {
        mutate(mutation, &mut signatures, &mut scope, &mut info);
    }
    let proof = ProofOfStore {
        info,
        signatures: signatures
            .iter()
            .map(|(signer, made)| ProofSignature {
                signer: *signer,
                signature: Signature::from_bytes(&made.bytes),
            })
            .collect(),
    };
    let verdict = crypto::verify_proof(verifier(), &scope, &committee, &proof);
    let expected = is_proof(&signatures, &scope, committee.members(), &owners, &info);
    assert_eq!(verdict.is_ok(), expected, "{verdict:?} for {case:?}");
}

/// The committee, and which key each position holds; `None` if there is no such committee.
fn committee(case: &Case) -> Option<(Committee, Vec<usize>)> {
    let listed: Vec<(usize, u64)> = case
        .members
        .iter()
        .take(KEYS)
        .map(|(key, power)| {
            let power = match power {
                Power::Small(power) => u64::from(*power),
                Power::Any(power) => *power,
            };
            (usize::from(*key) % KEYS, power)
        })
        .collect();
    let member = |(key, power): &(usize, u64)| Member {
        author: Author(keys()[*key].verifying_key().to_bytes()),
        power: *power,
    };
    let made = Committee::new(listed.iter().map(member).collect());
    let powers: BTreeMap<[u8; 32], (usize, u64)> = listed
        .iter()
        .map(|(key, power)| (keys()[*key].verifying_key().to_bytes(), (*key, *power)))
        .collect();
    let total: u128 = listed.iter().map(|(_, power)| u128::from(*power)).sum();
    let valid = !listed.is_empty()
        && powers.len() == listed.len()
        && listed.iter().all(|(_, power)| *power > 0)
        && total <= u128::from(u64::MAX);
    assert_eq!(made.is_ok(), valid, "{made:?} of {listed:?}");
    Some((made.ok()?, powers.into_values().map(|(key, _)| key).collect()))
}

fn mutate(
    mutation: &Mutation,
    signatures: &mut Vec<(u16, Made)>,
    scope: &mut Scope,
    info: &mut BatchInfo,
) {
    let length = signatures.len();
    let index = |at: u8| (length > 0).then(|| usize::from(at) % length);
    match *mutation {
        Mutation::Insert { at, position, key, over, after } => {
            let made = make(usize::from(key) % KEYS, over, after, scope, info);
            signatures.insert(usize::from(at) % (length + 1), (position % 1100, made));
        }
        Mutation::Replace { at, key, over, after } => {
            if let Some(index) = index(at) {
                signatures[index].1 = make(usize::from(key) % KEYS, over, after, scope, info);
            }
        }
        Mutation::Duplicate { at } => {
            if let Some(index) = index(at) {
                signatures.insert(index, signatures[index].clone());
            }
        }
        Mutation::Remove { at } => {
            if let Some(index) = index(at) {
                signatures.remove(index);
            }
        }
        Mutation::Swap { at, with } => {
            if let (Some(one), Some(other)) = (index(at), index(with)) {
                signatures.swap(one, other);
            }
        }
        Mutation::Retarget { at, position } => {
            if let Some(index) = index(at) {
                signatures[index].0 = position;
            }
        }
        Mutation::CheckedInEpoch(epoch) => scope.epoch = Epoch(u64::from(epoch)),
        Mutation::CheckedOnChain(chain) => scope.chain = ChainId([chain; 32]),
        Mutation::InfoAfterwards { field, by } => match field % 8 {
            0 => info.author.0[31] ^= by,
            1 => info.batch_id.counter ^= u64::from(by),
            2 => info.epoch.0 ^= u64::from(by),
            3 => info.expiration.0 ^= u64::from(by),
            4 => info.count ^= u32::from(by),
            5 => info.bytes ^= u32::from(by),
            6 => info.gas_bucket_start ^= u64::from(by),
            _ => info.root.0[0] ^= by,
        },
    }
}

/// What a valid signature is over.
fn message(scope: &Scope, digest: &[u8; 32]) -> Vec<u8> {
    let mut message = b"quorum-store/v1/batch-stored".to_vec();
    message.extend_from_slice(&scope.chain.0);
    message.extend_from_slice(&scope.epoch.0.to_le_bytes());
    message.extend_from_slice(&scope.committee.0);
    message.extend_from_slice(digest);
    message
}

fn make(key: usize, over: Over, after: After, scope: &Scope, info: &BatchInfo) -> Made {
    let mut scope = *scope;
    let mut info = *info;
    match over {
        Over::OtherChain => scope.chain.0[0] ^= 1,
        Over::OtherEpoch(by) => scope.epoch.0 = scope.epoch.0.wrapping_add(u64::from(by)),
        Over::OtherCommittee => scope.committee.0[0] ^= 1,
        Over::OtherBatch => info.root.0[0] ^= 1,
        Over::Batch | Over::OtherDomain | Over::BareDigest => {}
    }
    let digest = batch_digest(&scope.chain, &info);
    let message = match over {
        Over::OtherDomain => {
            let mut message = message(&scope, &digest);
            message[15] ^= 1;
            message
        }
        Over::BareDigest => digest.to_vec(),
        _ => message(&scope, &digest),
    };
    let bytes = keys()[key].sign(&message).to_bytes();
    let mut spoiled = bytes;
    match after {
        After::Nothing => {}
        After::Flip(bit) => spoiled[usize::from(bit) / 8 % 64] ^= 1 << (bit % 8),
        After::Zero => spoiled = [0; 64],
        After::AddOrder => add_order(&mut spoiled),
    }
    Made { key, message, bytes: spoiled, altered: spoiled != bytes }
}

fn add_order(signature: &mut [u8; 64]) {
    let mut carry = 0_u16;
    for (byte, order) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = (sum & 0xff) as u8;
        carry = sum >> 8;
    }
}

/// The oracle.
fn is_proof(
    signatures: &[(u16, Made)],
    scope: &Scope,
    members: &[Member],
    owners: &[usize],
    info: &BatchInfo,
) -> bool {
    let expected = message(scope, &batch_digest(&scope.chain, info));
    let ascending = signatures.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let real = signatures.iter().all(|(position, made)| {
        owners.get(usize::from(*position)) == Some(&made.key)
            && made.message == expected
            && !made.altered
    });
    if !ascending || !real {
        return false;
    }
    let powers = signatures.iter().map(|(position, _)| members[usize::from(*position)].power);
    let power: u128 = powers.map(u128::from).sum();
    let total: u128 = members.iter().map(|member| u128::from(member.power)).sum();
    info.epoch == scope.epoch
        && members.iter().any(|member| member.author == info.author)
        && power > total * 2 / 3
}

fn batch_digest(chain: &ChainId, info: &BatchInfo) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"quorum-store/v1/batch");
    hasher.update(&chain.0);
    hasher.update(&info.author.0);
    for integer in [info.batch_id.incarnation.0, info.batch_id.counter, info.epoch.0] {
        hasher.update(&integer.to_le_bytes());
    }
    hasher.update(&info.expiration.0.to_le_bytes());
    hasher.update(&info.count.to_le_bytes());
    hasher.update(&info.bytes.to_le_bytes());
    hasher.update(&info.gas_bucket_start.to_le_bytes());
    hasher.update(&info.root.0);
    *hasher.finalize().as_bytes()
}

fn committee_hash(members: &[Member]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"quorum-store/v1/committee");
    // At most eight members: the length is one byte.
    hasher.update(&[members.len() as u8]);
    for member in members {
        hasher.update(&member.author.0);
        hasher.update(&member.power.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

fn keys() -> &'static [SigningKey; KEYS] {
    static KEYS_MADE: OnceLock<[SigningKey; KEYS]> = OnceLock::new();
    KEYS_MADE.get_or_init(|| std::array::from_fn(|i| SigningKey::from_bytes(&[i as u8 + 1; 32])))
}

fn verifier() -> &'static Ed25519Signer {
    static VERIFIER: OnceLock<Ed25519Signer> = OnceLock::new();
    VERIFIER.get_or_init(|| Ed25519Signer::new(&[1; 32].into()))
}
