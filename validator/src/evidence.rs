//! Evidence that content is gone, as a file: with what is needed to check it anywhere.
//!
//! It holds the genesis, whose hash is the chain that the signatures name, and the committee of the
//! epoch. That of epoch 0 is the genesis' own; a later one is told, and signed for by those who say
//! that the content is gone. Whoever checks it compares chain and committee with what they know.

use std::path::Path;

use quorum_store::crypto::{Ed25519Signer, verify_unavailability};
use quorum_store::types::committee::Member;
use quorum_store::types::{Author, Committee, Epoch, Genesis, Scope, UnavailabilityProof};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::genesis::{GenesisFile, MemberFile};
use crate::exit::Failure;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceFile {
    /// What the chain started from.
    genesis: GenesisFile,
    /// Epoch of the commit.
    epoch: u64,
    /// Its committee.
    committee: Vec<MemberFile>,
    /// The commit that names the content.
    index: u64,
    /// The content, hex.
    digest: String,
    /// The statements, as the library encodes them, hex.
    proof: String,
}

/// What evidence says, once it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    /// What was said.
    pub proof: UnavailabilityProof,
    /// The chain, hex.
    pub chain: String,
    /// Who said so.
    pub signers: Vec<Author>,
}

impl EvidenceFile {
    /// About a proof of this chain.
    pub fn new(genesis: &Genesis, committee: &Committee, proof: &UnavailabilityProof) -> Self {
        let members = committee.members().iter();
        Self {
            genesis: GenesisFile::describe(genesis),
            epoch: proof.epoch.0,
            committee: members.map(|m| MemberFile { key: m.author, power: m.power }).collect(),
            index: proof.index.0,
            digest: proof.digest.to_string(),
            proof: hex::encode(proof.encode()),
        }
    }

    /// Reads a file that somebody gave us.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let fail = |reason: String| Failure::usage(format!("{}: {reason}", path.display()));
        let length = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
        if length > FILE_BYTES_MAX {
            return Err(fail(format!("{length} bytes are no evidence")));
        }
        let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| fail(format!("no evidence: {error}")))
    }

    /// Checks everything in it against the rest; `Err` says what is wrong.
    pub fn check(&self) -> Result<Sound, String> {
        let genesis = self.genesis.genesis().map_err(|failure| failure.to_string())?;
        let members = self.committee.iter();
        let members = members.map(|m| Member { author: m.key, power: m.power }).collect();
        let committee = Committee::new(members).map_err(|error| error.to_string())?;
        if self.epoch == 0 && committee != genesis.committee {
            return Err("the committee of epoch 0 is not that of the genesis".to_owned());
        }
        let proof = hex::decode(&self.proof).map_err(|_| "the proof is not hex")?;
        let proof = UnavailabilityProof::decode(&proof).map_err(|error| error.to_string())?;
        let named = (proof.epoch.0, proof.index.0, proof.digest.to_string());
        if named != (self.epoch, self.index, self.digest.clone()) {
            return Err("the proof is about something else than the file says".to_owned());
        }
        let chain = genesis.chain_id();
        let scope = Scope { chain, epoch: Epoch(self.epoch), committee: committee.hash() };
        // Checking needs no secret.
        let verifier = Ed25519Signer::new(&Zeroizing::new([0; 32]));
        verify_unavailability(&verifier, &scope, &committee, &proof)
            .map_err(|error| error.to_string())?;
        let signers = proof.signatures.iter().filter_map(|part| committee.member(part.signer));
        let signers = signers.map(|member| member.author).collect();
        Ok(Sound { proof, chain: chain.to_string(), signers })
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use quorum_store::types::{
        AbsenceReason, AbsenceSignature, ChainParameters, CommitIndex, Digest, Signature,
    };

    use super::*;

    fn evidence(signers: usize) -> EvidenceFile {
        let keys: Vec<SigningKey> =
            (1..=4).map(|seed| SigningKey::from_bytes(&[seed; 32])).collect();
        let author = |key: &SigningKey| Author(key.verifying_key().to_bytes());
        let members = keys.iter().map(|key| Member { author: author(key), power: 1 }).collect();
        let committee = Committee::new(members).unwrap();
        let parameters = ChainParameters::default();
        let genesis = Genesis { nonce: Digest([1; 32]), parameters, committee };
        let committee = &genesis.committee;
        let scope =
            Scope { chain: genesis.chain_id(), epoch: Epoch(0), committee: committee.hash() };
        let (index, digest) = (CommitIndex(9), Digest([7; 32]));
        let mut proof =
            UnavailabilityProof { epoch: Epoch(0), index, digest, signatures: Vec::new() };
        for (signer, member) in (0..).zip(committee.members()).take(signers) {
            let key = keys.iter().find(|key| author(key) == member.author).unwrap();
            let reason = AbsenceReason::NeverHeld;
            let bytes = scope.absence_bytes(&proof.statement(reason));
            let signature = Signature::from_bytes(&key.sign(&bytes).to_bytes());
            proof.signatures.push(AbsenceSignature { signer, reason, signature });
        }
        EvidenceFile::new(&genesis, committee, &proof)
    }

    #[test]
    fn evidence_is_checked_from_its_file_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evidence.json");
        let file = evidence(3);
        std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
        let read = EvidenceFile::read(&path).unwrap();
        assert_eq!(read, file);
        let sound = read.check().unwrap();
        assert_eq!((sound.proof.index.0, sound.signers.len()), (9, 3));
        assert!(evidence(2).check().unwrap_err().contains("quorum"));
        std::fs::write(&path, b"nonsense").unwrap();
        assert!(matches!(EvidenceFile::read(&path), Err(Failure::Usage(_))));
    }

    #[test]
    fn whatever_is_changed_in_it_is_noticed() {
        type Change = fn(&mut EvidenceFile);
        let changes: [(&str, Change); 6] = [
            ("another chain", |file| file.genesis.nonce.0[0] ^= 1),
            ("another parameter", |file| file.genesis.parameters.batch_transactions_max -= 1),
            ("another committee", |file| file.committee[0].power = 2),
            ("another epoch", |file| file.epoch = 1),
            ("another commit", |file| file.index += 1),
            ("another content", |file| file.digest = Digest([8; 32]).to_string()),
        ];
        for (what, change) in changes {
            let mut file = evidence(4);
            assert!(file.check().is_ok());
            change(&mut file);
            assert!(file.check().is_err(), "{what}");
        }
        let mut file = evidence(4);
        let last = file.proof.pop().unwrap();
        file.proof.push(if last == '0' { '1' } else { '0' });
        assert!(file.check().is_err(), "another signature");
    }
}
