//! `validator testnet`: a network of real processes on this machine, under load, held to account.
//!
//! ```text
//! generate -> start -> ready -> warm-up -> window -> drain -> compare -> stop -> check -> report
//! ```
//!
//! Each validator is this binary in a process of its own, with its own data directory, and ends
//! when its standard input closes: none outlives this command, however it ends. The command
//! succeeds only if all of this held:
//!
//! - every validator has the same state at the highest height that all have,
//! - every accepted transaction was executed exactly once, or was reported expired or skipped,
//! - no validator failed,
//! - the run went through as many epochs as it should have,
//! - what a run destroyed on purpose is skipped by evidence that anybody can check, or was not
//!   certified yet; and nothing else is,
//! - the store check of each data directory is clean,
//! - and something was executed, or the rest would prove nothing.

mod chaos;
mod cluster;
mod destruction;
mod disaster;
mod epochs;
mod observer;
mod process;
mod series;
mod session;
mod verdict;
mod workspace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use self::chaos::parse_chaos;
use self::disaster::{Disaster, Kind};
use self::epochs::{EPOCH_MIN, Rotation};
use self::session::Session;
use self::workspace::Workspace;
use crate::config::ExecutionConfig;
use crate::exit::Failure;
use crate::generate::{GenerateOptions, OPTIMISTIC, generate};
use crate::load::source::Content;
use crate::load::units::{Rate, parse_duration, parse_rate};
use crate::load::{content, duration, fresh_seed, print, runtime, transaction_bytes};

/// Shorter runs have no half in which anything could be seen to go on.
const DISASTER_MIN: Duration = Duration::from_secs(10);

/// Options of `validator testnet`.
#[derive(Args, Clone, Debug)]
pub struct TestnetArguments {
    /// How many validators run.
    #[arg(long, default_value_t = 4, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=64))]
    pub validators: u32,
    /// How long the load counts; two seconds of warm-up come before it.
    #[arg(long, default_value = "30s", value_name = "D", value_parser = parse_duration)]
    pub duration: Duration,
    /// Transactions per second, all validators together; `max`: as many as are accepted.
    #[arg(long, default_value = "20000", value_name = "R", value_parser = parse_rate)]
    pub rate: Rate,
    /// Bytes of each made-up transaction.
    #[arg(long, default_value_t = 512, value_name = "B",
        value_parser = clap::value_parser!(u32).range(transaction_bytes()))]
    pub transaction_bytes: u32,
    /// Sends the transactions of this file instead.
    #[arg(long, value_name = "FILE", conflicts_with = "transaction_bytes")]
    pub transactions: Option<PathBuf>,
    /// Where keys, configs, data and logs go; empty or missing, and kept. Default: a fresh
    /// temporary directory, removed after a good run.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keeps the temporary directory.
    #[arg(long)]
    pub keep: bool,
    /// Where `report.json` and `report.html` are written.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub report: PathBuf,
    /// Makes up the same transactions again. Default: a fresh one, shown in the summary.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Prints the report as one JSON document instead of the summary.
    #[arg(long)]
    pub json: bool,
    /// Kills a random validator at this interval and starts it again, such as `kill=10s`.
    #[arg(long, value_name = "kill=D", value_parser = parse_chaos)]
    pub chaos: Option<Duration>,
    /// Goes through so many epochs: with each, one validator leaves the committee, another joins
    /// it, and powers change. One validator of N is always out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub epochs: Option<u32>,
    /// This validator loses its data directory half way.
    #[arg(long, value_name = "I")]
    pub wipe: Option<u32>,
    /// Half way all validators lose the content of so many certified, unordered batches.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=32))]
    pub lose: Option<u32>,
    /// Orders batches before they have a proof.
    #[arg(long, value_name = "on/off", value_enum, default_value_t = Switch::of(OPTIMISTIC))]
    pub optimistic: Switch,
    /// Least time between two blocks while much waits to be ordered; 10 ms at most while little does.
    #[arg(
        long,
        value_name = "D",
        value_parser = parse_duration,
        default_value = "50ms"
    )]
    pub block_interval: Duration,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

impl Switch {
    const fn of(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

/// Runs the command. Blocks; not to be called inside a runtime.
#[allow(clippy::needless_pass_by_value, reason = "a command consumes its arguments")]
pub fn run(arguments: TestnetArguments) -> Result<(), Failure> {
    supported(&arguments)?;
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    let content = content(arguments.transactions.as_deref(), arguments.transaction_bytes, seed)?;
    let runtime = runtime()?;
    let workspace = Workspace::prepare(arguments.dir.as_deref())?;
    let outcome = start(&arguments, &workspace, content, seed).and_then(|session| {
        let report = runtime.block_on(session.run())?;
        report.write(&arguments.report)?;
        let text = if arguments.json {
            report.json()?
        } else {
            format!("{}\nseed      {seed:>10}", report.text())
        };
        print(&text)?;
        match report.violations.len() {
            0 => Ok(()),
            count => {
                let all = report.violations.join("; ");
                Err(Failure::checks(format!("{count} violated: {all}")))
            }
        }
    });
    if outcome.is_ok() && !arguments.keep {
        return workspace.remove();
    }
    eprintln!("data and logs are in {}", workspace.path().display());
    outcome
}

/// Refuses options that ask for what is not built yet.
fn supported(arguments: &TestnetArguments) -> Result<(), Failure> {
    supported_disaster(arguments)?;
    let epochs = epochs_of(arguments);
    if epochs > 1 && arguments.validators < 2 {
        return Err(Failure::usage("--epochs needs two validators: one is always out"));
    }
    if epochs > 1 && arguments.duration < EPOCH_MIN * epochs {
        return Err(Failure::usage(format!(
            "--epochs {epochs} needs a --duration of {:?} or more",
            EPOCH_MIN * epochs
        )));
    }
    Ok(())
}

fn supported_disaster(arguments: &TestnetArguments) -> Result<(), Failure> {
    let disturbances = [
        arguments.chaos.is_some(),
        arguments.epochs.is_some(),
        arguments.wipe.is_some(),
        arguments.lose.is_some(),
    ];
    let disaster = arguments.wipe.is_some() || arguments.lose.is_some();
    if disaster && disturbances.iter().filter(|given| **given).count() > 1 {
        return Err(Failure::usage("--wipe and --lose go with no other of --chaos and --epochs"));
    }
    if let Some(index) = arguments.wipe {
        if index >= arguments.validators {
            return Err(Failure::usage(format!("--wipe {index}: there is no such validator")));
        }
        if arguments.validators < 4 {
            return Err(Failure::usage(
                "--wipe needs four validators: the others order without the one that lost its \
                 journal",
            ));
        }
    }
    if disaster && arguments.duration < DISASTER_MIN {
        let least = DISASTER_MIN.as_secs();
        return Err(Failure::usage(format!("--wipe and --lose need --duration {least}s or more")));
    }
    Ok(())
}

fn disaster_of(arguments: &TestnetArguments, workspace: &Path) -> Option<Disaster> {
    let wipe = arguments.wipe.map(|index| Kind::Wipe(index as usize));
    let kind = wipe.or(arguments.lose.map(|count| Kind::Lose(count as usize)))?;
    let hold = workspace.join("hold-proposals");
    // The workspace leaves it at its default.
    let deadline = ExecutionConfig::default().materialize_deadline;
    Some(Disaster { kind, hold, directory: arguments.report.clone(), deadline })
}

fn epochs_of(arguments: &TestnetArguments) -> u32 {
    arguments.epochs.unwrap_or(1)
}

fn start(
    arguments: &TestnetArguments,
    workspace: &Workspace,
    content: Content,
    seed: u64,
) -> Result<Session, Failure> {
    let binary = std::env::current_exe()
        .map_err(|error| Failure::other(format!("cannot find this binary: {error}")))?;
    let directory = workspace.path().to_owned();
    let epochs = epochs_of(arguments);
    let path = directory.join("epochs.toml");
    let spares = u32::from(epochs > 1);
    let optimistic = arguments.optimistic == Switch::On;
    let options = GenerateOptions {
        validators: arguments.validators,
        spares,
        optimistic,
        block_interval: arguments.block_interval,
        directory,
    };
    let validators = generate(&options)?.into_iter().map(|generated| generated.peer).collect();
    Ok(Session {
        binary,
        members: workspace.members(arguments.validators)?,
        rate: arguments.rate,
        duration: duration(arguments.duration, arguments.rate, &content),
        content,
        seed,
        kill_interval: arguments.chaos,
        disaster: disaster_of(arguments, workspace.path()),
        rotation: (epochs > 1).then_some(Rotation { epochs, validators, path }),
    })
}

#[cfg(test)]
#[path = "testnet/testnet_tests.rs"]
mod tests;
