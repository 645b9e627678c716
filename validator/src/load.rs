//! `validator load`: sends transactions to running validators and follows them to execution.
//!
//! The engine under it (`engine`) is also what `validator testnet` offers load with.

pub mod client;
pub mod engine;
#[cfg(test)]
pub mod fake;
mod follower;
pub mod interrupt;
pub mod latency;
mod outcomes;
mod replay;
mod sender;
pub mod source;
mod states;
mod target;
pub mod tracker;
pub mod units;

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::client::Target;
use self::engine::{LoadHandle, LoadPlan, LoadResult};
use self::interrupt::Interrupt;
use self::latency::{LatencyQuantiles, Quantiles};
use self::replay::Replay;
use self::source::{Content, TRANSACTION_BYTES_MAX, TRANSACTION_BYTES_MIN};
use self::tracker::Refused;
use self::units::{Rate, parse_duration, parse_rate};
use crate::exit::Failure;

/// After the last transaction: a little more than the life of one, so that each has an outcome.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Options of `validator load`.
#[derive(Args, Clone, Debug)]
pub struct LoadArguments {
    /// HTTP address of a validator, such as `http://127.0.0.1:8080`; several share the load.
    #[arg(long, required = true, num_args = 1.., value_name = "URL", value_parser = Target::parse)]
    pub target: Vec<Target>,
    /// Transactions per second, all targets together.
    #[arg(long, default_value = "1000", value_name = "R", value_parser = parse_rate)]
    pub rate: Rate,
    /// How long to send.
    #[arg(long, default_value = "30s", value_name = "D", value_parser = parse_duration)]
    pub duration: Duration,
    /// Bytes of each made-up transaction.
    #[arg(long, default_value_t = 512, value_name = "B",
        value_parser = clap::value_parser!(u32).range(transaction_bytes()))]
    pub transaction_bytes: u32,
    /// Sends the transactions of this file instead, each once: one hex string a line, or, in a
    /// `.bin`, u32 little-endian lengths before each.
    #[arg(long, value_name = "FILE", conflicts_with = "transaction_bytes")]
    pub transactions: Option<PathBuf>,
    /// Prints the summary as one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// What the command line takes as the size of a made-up transaction.
pub fn transaction_bytes() -> std::ops::RangeInclusive<i64> {
    i64::from(TRANSACTION_BYTES_MIN)..=i64::from(TRANSACTION_BYTES_MAX)
}

/// A seed that differs from run to run.
pub fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// The runtime of a command: one thread, since it shares the machine with what it measures.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start the runtime: {error}")))
}

/// Runs the command. Blocks; not to be called inside a runtime.
pub fn run(arguments: LoadArguments) -> Result<(), Failure> {
    let rate = arguments.rate;
    let path = arguments.transactions.as_deref();
    let content = content(path, arguments.transaction_bytes, fresh_seed())?;
    let plan = LoadPlan {
        targets: arguments.target,
        rate,
        warm_up: Duration::ZERO,
        duration: duration(arguments.duration, rate, &content),
        content,
        disks_may_be_lost: false,
    };
    let result = runtime()?.block_on(drive(plan))?;
    let summary = Summary::new(&result);
    print(&if arguments.json { summary.json()? } else { summary.text(&result) })?;
    verdict(&result)
}

/// What to send: the transactions of a file, or made-up ones. A malformed file is refused.
pub fn content(path: Option<&Path>, transaction_bytes: u32, seed: u64) -> Result<Content, Failure> {
    let Some(path) = path else { return Ok(Content::Random { transaction_bytes, seed }) };
    Ok(Content::Replay(Arc::new(Replay::read(path).map_err(Failure::usage)?)))
}

/// A file that is sent sooner than `duration` ends the load.
pub fn duration(duration: Duration, rate: Rate, content: &Content) -> Duration {
    match (content, rate) {
        (Content::Replay(replay), Rate::PerSecond(rate)) => {
            let seconds = replay.len() / u64::from(rate.get()) + 1;
            duration.min(Duration::from_secs(seconds))
        }
        _ => duration,
    }
}

/// Writes to standard output, whose reader may have gone.
pub fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{text}")
        .and_then(|()| output.flush())
        .map_err(|error| Failure::other(format!("cannot write to standard output: {error}")))
}

async fn drive(plan: LoadPlan) -> Result<LoadResult, Failure> {
    let interrupt = Interrupt::listen()?;
    let duration = plan.duration;
    let mut load = engine::start(plan);
    let progress = Progress::new(duration);
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = load.sent() => break,
            () = interrupt.requested() => break,
            _ = ticks.tick() => progress.show(&load),
        }
    }
    progress.say("waiting for the outcomes of what was accepted");
    load.stop_sending();
    // A signal gives up the wait for outcomes, not the summary.
    tokio::select! {
        // What is open after the deadline is in the summary, as lost.
        _ = timeout(DRAIN_DEADLINE, load.settled()) => {}
        () = interrupt.requested() => {}
    }
    progress.clear();
    let result = load.finish().await;
    interrupt.end().await;
    Ok(result)
}

/// One line on standard error, rewritten in place; silent unless that is a terminal.
pub struct Progress {
    terminal: bool,
    duration: Duration,
}

impl Progress {
    /// For a load of this length.
    pub fn new(duration: Duration) -> Self {
        Self { terminal: std::io::stderr().is_terminal(), duration }
    }

    /// How the load stands.
    pub fn show(&self, load: &LoadHandle) {
        if !self.terminal {
            return;
        }
        let snapshot = load.snapshot();
        let (counts, elapsed) = (snapshot.counts, snapshot.elapsed.as_secs_f64());
        let executed = load.latency().executed.map_or_else(String::new, |found| {
            format!("  latency p50 {:.0} ms p99 {:.0} ms", found.p50, found.p99)
        });
        self.say(&format!(
            "{elapsed:.0} s of {:.0} s  sent {}  accepted {}  refused {}  executed {}{executed}",
            self.duration.as_secs_f64(),
            counts.sent,
            counts.accepted,
            counts.refused.total(),
            counts.executed,
        ));
    }

    /// Any other line.
    pub fn say(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[2K{text}");
        }
    }

    /// Removes the line.
    pub fn clear(&self) {
        self.say("");
    }
}

/// What `load` prints; transactions, unless a field says otherwise.
#[derive(Serialize)]
struct Summary {
    duration_s: f64,
    offered_tps: f64,
    executed_tps: f64,
    sent: u64,
    unsent: u64,
    accepted: u64,
    refused: Refused,
    unanswered: u64,
    resent: u64,
    asked: u64,
    executed: u64,
    expired: u64,
    skipped: u64,
    lost: u64,
    latency_ms: LatencyQuantiles,
}

impl Summary {
    fn new(result: &LoadResult) -> Self {
        let counts = &result.counts;
        Self {
            duration_s: result.duration.as_secs_f64(),
            offered_tps: result.offered_tps(),
            executed_tps: result.executed_tps(),
            sent: counts.sent,
            unsent: counts.unsent,
            accepted: counts.accepted,
            refused: counts.refused,
            unanswered: counts.unanswered,
            resent: counts.resent,
            asked: counts.asked,
            executed: counts.executed,
            expired: counts.expired,
            skipped: counts.skipped,
            lost: counts.unresolved,
            latency_ms: result.latency,
        }
    }

    fn json(&self) -> Result<String, Failure> {
        serde_json::to_string_pretty(self)
            .map_err(|error| Failure::other(format!("cannot write the summary: {error}")))
    }

    fn text(&self, result: &LoadResult) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "offered   {:>10.0} transactions/s for {:.1} s ({} sent, {} unsent)\n\
             executed  {:>10.0} transactions/s\n\
             accepted  {:>10}   refused {} (back-pressure {})   unanswered {}\n\
             executed  {:>10}   expired {}   skipped {}   lost {}\n",
            self.offered_tps,
            self.duration_s,
            self.sent,
            self.unsent,
            self.executed_tps,
            self.accepted,
            result.counts.refused.total(),
            self.refused.back_pressure,
            self.unanswered,
            self.executed,
            self.expired,
            self.skipped,
            self.lost,
        );
        text.push_str(&latency_text(&self.latency_ms));
        for (target, error) in &result.errors {
            let _ = writeln!(text, "{target}: last error: {error}");
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// The latencies as lines of text.
pub fn latency_text(latency: &LatencyQuantiles) -> String {
    let line = |name, quantiles: Option<Quantiles>| {
        quantiles.map_or_else(String::new, |found| {
            let Quantiles { p50, p99, max } = found;
            format!("{name:<10}{p50:>10.1} ms p50 {p99:>10.1} ms p99 {max:>10.1} ms max\n")
        })
    };
    let lines = [
        line("accepted", latency.accepted),
        line("certified", latency.certified),
        line("executed", latency.executed),
    ];
    lines.concat()
}

fn verdict(result: &LoadResult) -> Result<(), Failure> {
    let counts = &result.counts;
    if counts.unresolved > 0 {
        let lost = counts.unresolved;
        return Err(Failure::other(format!("{lost} accepted transactions have no outcome")));
    }
    if counts.accepted == 0 {
        let cause = result.errors.first().map_or_else(
            || "every transaction was refused".to_owned(),
            |(target, error)| format!("{target}: {error}"),
        );
        return Err(Failure::other(format!("no transaction was accepted: {cause}")));
    }
    Ok(())
}

#[cfg(test)]
#[path = "load/load_tests.rs"]
mod tests;
