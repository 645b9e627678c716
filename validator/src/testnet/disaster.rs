//! What a run destroys half way: the disk of one validator, or content at all of them.
//!
//! **Wipe.** A validator is killed, its data directory removed, another one made by `init`, as an
//! operator would, and started. What it had accepted and no quorum had is lost with its disk.
//!
//! **Lose.** Proposals are held until enough certified batches wait. Then all validators are
//! killed, those batches are deleted from every store, their proofs stay, and all are started
//! again: the batches are ordered, nobody has them, and the chain goes on without them by
//! evidence, which is gathered and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use quorum_store::sequencer::port::Record;
use quorum_store::store::journal::JournalStore;
use quorum_store::store::{Store as _, StoreIdentity};
use quorum_store::types::{BatchInfo, Digest, ProofOfStore};
use tokio::process::Command;
use tokio::time::Instant;

use super::workspace::Member;
use crate::evidence::EvidenceFile;
use crate::exit::Failure;
use crate::report::SkippedBatch;
use crate::setup::Setup;

/// How long certified batches may take to gather while proposals are held.
pub const HOLD_DEADLINE: Duration = Duration::from_secs(10);
/// A store that replaces a lost one signs again after a lifetime and a second; a run whose second
/// half is longer than this sees it.
pub const SILENCE_MAX: Duration = Duration::from_secs(40);
/// After one deadline of a wait for content, the chain goes on without what is gone within this.
pub const VERDICT_MAX: Duration = Duration::from_secs(5);

/// What to destroy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The data directory of this validator.
    Wipe(usize),
    /// The content of so many certified, unordered batches, at every validator.
    Lose(usize),
}

/// What to destroy, and what comes of it.
#[derive(Clone, Debug)]
pub struct Disaster {
    /// What.
    pub kind: Kind,
    /// While this file exists, nothing is proposed.
    pub hold: PathBuf,
    /// Where evidence is written.
    pub directory: PathBuf,
    /// How long a validator waits for content before it says so.
    pub deadline: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Aftermath {
    /// When everybody runs again.
    pub since: Option<Instant>,
    /// How long after that everything that was lost was skipped.
    pub took: Option<Duration>,
    /// What was lost everywhere.
    pub lost: BTreeSet<String>,
    /// Evidence that was gathered, by commit and content.
    pub skipped: BTreeMap<(u64, String), SkippedBatch>,
    /// What should have held and did not.
    pub violations: Vec<String>,
}

impl Aftermath {
    /// True once there is evidence for everything that was lost.
    pub fn is_complete(&self) -> bool {
        let found: BTreeSet<&String> = self.skipped.keys().map(|(_, digest)| digest).collect();
        self.lost.iter().all(|digest| found.contains(digest))
    }

    /// Keeps evidence as a file, and checks it as anybody would.
    pub fn keep(&mut self, directory: &Path, index: u64, digest: &str, file: &[u8]) {
        let name = format!("evidence-{index}-{}.json", digest.get(..16).unwrap_or(digest));
        let path = directory.join(&name);
        let written = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&path, file));
        if let Err(error) = written {
            self.violations.push(format!("cannot write {}: {error}", path.display()));
        }
        let checked = EvidenceFile::read(&path)
            .map_err(|failure| failure.to_string())
            .and_then(|file| file.check());
        match checked {
            Ok(sound) if sound.proof.digest.to_string() == digest => {}
            Ok(_) => self.violations.push(format!("{name} is about another content")),
            Err(reason) => self.violations.push(format!("{name} is no evidence: {reason}")),
        }
        let batch = SkippedBatch {
            digest: digest.to_owned(),
            index,
            evidence_file: path.display().to_string(),
        };
        self.skipped.insert((index, digest.to_owned()), batch);
    }

    /// What is wrong with what came of it. The chain may wait for content for a `deadline`, and
    /// then for evidence.
    pub fn judge(&self, deadline: Duration) -> Vec<String> {
        let mut found = self.violations.clone();
        if let Some(took) = self.took.filter(|took| *took > deadline + VERDICT_MAX) {
            let (took, most) = (took.as_secs_f64(), (deadline + VERDICT_MAX).as_secs());
            found.push(format!("the chain moved on after {took:.1} s instead of {most} s"));
        }
        let missing = |digest: &&String| self.skipped.keys().all(|(_, skipped)| skipped != *digest);
        let missing = self.lost.iter().filter(missing).count();
        if missing > 0 {
            found.push(format!("{missing} lost batches are not skipped by evidence"));
        }
        let more = self.skipped.keys().filter(|(_, digest)| !self.lost.contains(digest)).count();
        if more > 0 {
            found.push(format!("{more} contents are skipped that nobody destroyed"));
        }
        found
    }
}

/// Removes the data directory of a validator that does not run, and makes another one.
pub async fn wipe(binary: &Path, member: &Member) -> Result<(), Failure> {
    let fail = |what: String| Failure::other(format!("wiping validator {}: {what}", member.index));
    std::fs::remove_dir_all(&member.data_directory).map_err(|error| fail(error.to_string()))?;
    let init = Command::new(binary)
        .arg("init")
        .arg("--config")
        .arg(&member.config)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = init.await.map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// A batch that no payload orders, and the proof that a quorum stored it.
type Unordered = BTreeMap<Digest, Arc<ProofOfStore>>;

/// Deletes the content of so many certified, unordered batches from every store; their proofs are
/// everywhere afterwards. The validators do not run. Returns what is gone.
pub fn lose(members: &[Member], count: usize) -> Result<BTreeSet<String>, Failure> {
    let mut stores = Vec::new();
    let (mut certified, mut ordered) = (Unordered::new(), BTreeSet::new());
    for member in members {
        let mut store = open(member)?;
        let recovered = store.recover()?;
        for record in &recovered.records {
            match record {
                Record::Proof { digest, proof } => {
                    certified.insert(*digest, Arc::clone(proof));
                }
                Record::Payload { batches, .. } => ordered.extend(batches.iter().copied()),
                _ => {}
            }
        }
        let held = recovered.records.into_iter().filter_map(|record| match record {
            Record::Batch(batch) => Some((batch.digest, batch.info)),
            _ => None,
        });
        stores.push((store, held.collect::<BTreeMap<Digest, BatchInfo>>()));
    }
    certified.retain(|digest, _| !ordered.contains(digest));
    // Those that can be ordered for the longest time.
    let mut chosen: Vec<_> = certified.into_iter().collect();
    chosen.sort_by_key(|(digest, proof)| (std::cmp::Reverse(proof.info.expiration), *digest));
    chosen.truncate(count);
    if chosen.len() < count {
        let found = chosen.len();
        return Err(Failure::other(format!(
            "only {found} batches were certified and unordered; {count} were to be lost"
        )));
    }
    for (store, held) in &mut stores {
        let gone = chosen.iter().filter(|(digest, _)| held.contains_key(digest));
        let gone: Vec<Record> = gone
            .map(|(digest, proof)| Record::DropBatch {
                digest: *digest,
                expiration: proof.info.expiration,
            })
            .collect();
        store.commit(&gone)?;
        let proofs = chosen.iter();
        let proofs: Vec<Record> = proofs
            .map(|(digest, proof)| Record::Proof { digest: *digest, proof: Arc::clone(proof) })
            .collect();
        store.commit(&proofs)?;
    }
    Ok(chosen.into_iter().map(|(digest, _)| digest.to_string()).collect())
}

fn open(member: &Member) -> Result<JournalStore, Failure> {
    let setup = Setup::read(&member.config)?;
    let identity = StoreIdentity { author: setup.author, chain: setup.chain };
    Ok(JournalStore::open(&setup.data.store(), identity, &setup.config.storage)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[test]
    fn what_was_destroyed_and_what_is_skipped_must_be_the_same() {
        let mut aftermath = Aftermath::default();
        assert!(aftermath.is_complete() && aftermath.judge(DEADLINE).is_empty());
        aftermath.lost.insert("aa".to_owned());
        assert!(!aftermath.is_complete());
        assert_eq!(aftermath.judge(DEADLINE), ["1 lost batches are not skipped by evidence"]);
        let directory = tempfile::tempdir().expect("a directory");
        aftermath.keep(directory.path(), 4, "aa", b"nonsense");
        assert!(aftermath.is_complete());
        assert!(aftermath.judge(DEADLINE)[0].contains("evidence-4-aa.json is no evidence"));
        aftermath.violations.clear();
        aftermath.keep(directory.path(), 5, "bb", b"nonsense");
        aftermath.violations.clear();
        assert_eq!(aftermath.judge(DEADLINE), ["1 contents are skipped that nobody destroyed"]);
        aftermath.skipped.retain(|(index, _), _| *index == 4);
        aftermath.took = Some(DEADLINE + VERDICT_MAX);
        assert!(aftermath.judge(DEADLINE).is_empty());
        aftermath.took = Some(DEADLINE + VERDICT_MAX + Duration::from_secs(1));
        assert_eq!(aftermath.judge(DEADLINE), ["the chain moved on after 11.0 s instead of 10 s"]);
    }
}
