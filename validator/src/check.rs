//! `validator check`: is what lies in a data directory sound, or what a file of evidence says?
//!
//! Offline: a directory in use is refused, because a live store changes under the check.

use std::path::{Path, PathBuf};

use quorum_store::store::check::check as check_store;
use quorum_store::types::AbsenceReason;
use serde_json::json;

use crate::evidence::{EvidenceFile, Sound};
use crate::executor::check::check as check_execution;
use crate::exit::Failure;
use crate::setup::DataDirectory;

/// Problems that are printed; the JSON has all.
const PRINTED_MAX: usize = 20;

/// Arguments of `validator check`.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct CheckArguments {
    /// Data directory to check; its validator must not run
    #[arg(long, value_name = "DIR", required_unless_present = "evidence")]
    data_dir: Option<PathBuf>,
    /// Evidence to check
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_dir", "json"])]
    evidence: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Checks evidence from its file alone, and prints what it proves.
fn check_evidence(path: &Path) -> Result<(), Failure> {
    let file = EvidenceFile::read(path)?;
    let Sound { proof, chain, signers } = file.check().map_err(|reason| {
        Failure::checks(format!("{} is no evidence: {reason}", path.display()))
    })?;
    println!(
        "{}: sound. On chain {chain}, in epoch {}, a quorum of power says that content {} of \
         commit {} is gone:",
        path.display(),
        proof.epoch.0,
        proof.digest,
        proof.index.0
    );
    for (signer, part) in signers.iter().zip(&proof.signatures) {
        let reason = match part.reason {
            AbsenceReason::NeverHeld => "it never held it, as far as its store knows",
            AbsenceReason::StoreReplaced => "its store replaces one that was lost",
        };
        println!("  {signer}: {reason}");
    }
    Ok(())
}

/// Checks, prints a report, and fails if it is not clean.
pub fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    if let Some(path) = &arguments.evidence {
        return check_evidence(path);
    }
    let Some(path) = &arguments.data_dir else {
        return Err(Failure::usage("name a data directory with --data-dir"));
    };
    let data = DataDirectory::new(path);
    // First the store: it finds out whether somebody uses the directory.
    let store = check_store(&data.store())?;
    let execution = check_execution(&data.execution())?;
    let sound = store.is_sound() && execution.is_sound();
    let store_problems =
        store.problems.iter().map(|problem| format!("store: {} {}", problem.what, problem.key));
    let execution_problems =
        execution.problems.iter().map(|problem| format!("execution: {problem}"));
    let problems: Vec<String> = store_problems.chain(execution_problems).collect();
    if arguments.json {
        let report = json!({
            "sound": sound,
            "problems": problems,
            "store": store,
            "execution": execution,
        });
        println!("{report}");
    } else {
        for problem in problems.iter().take(PRINTED_MAX) {
            println!("{problem}");
        }
        if problems.len() > PRINTED_MAX {
            println!("... and {} more: see --json", problems.len() - PRINTED_MAX);
        }
        let verdict = if sound { "sound" } else { "NOT sound" };
        println!(
            "{}: {verdict}, height {}, state {}",
            path.display(),
            execution.height,
            execution.state_digest
        );
    }
    if sound {
        return Ok(());
    }
    Err(Failure::checks(format!(
        "{} is not sound: keep a copy, and see docs/operators.md before this validator is started \
         on another directory",
        path.display()
    )))
}
