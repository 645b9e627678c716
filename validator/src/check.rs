//! `validator check`: is what lies in a data directory sound?
//!
//! Offline: a directory in use is refused, because a live store changes under the check.

use std::path::PathBuf;

use quorum_store::store::check::check as check_store;
use serde_json::json;

use crate::executor::check::check as check_execution;
use crate::exit::Failure;
use crate::setup::DataDirectory;

/// Problems that are printed; the JSON has all.
const PRINTED_MAX: usize = 20;

/// Arguments of `validator check`.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub struct CheckArguments {
    /// Data directory to check; its validator must not run
    #[arg(long, value_name = "DIR", group = "what")]
    data_dir: Option<PathBuf>,
    /// Evidence to check
    #[arg(long, value_name = "FILE", group = "what")]
    evidence: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Checks, prints a report, and fails if it is not clean.
pub fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    if arguments.evidence.is_some() {
        return Err(Failure::usage("evidence cannot be checked yet: this release makes none"));
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
        "{} is not sound: keep a copy, then replace the data directory on purpose with `init`",
        path.display()
    )))
}
