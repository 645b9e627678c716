//! A BFT validator that embeds `quorum-store` through its public API.
//!
//! Reading order: [`node`] wires everything; [`application`] answers the ordering engine; [`chain`]
//! and [`execution`] follow what it finalised into the [`executor`]; [`http`] serves clients, with
//! the [`tracker`] and the [`outcomes`] behind it. [`setup`], [`config`], [`keys`] and
//! [`generate`] are what a validator starts from.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod application;
mod chain;
mod check;
mod clock;
mod config;
mod evidence;
mod execution;
mod executor;
mod exit;
mod generate;
mod hashing;
mod headers;
mod http;
mod ids;
mod init;
mod keys;
mod load;
mod metrics;
mod node;
mod outcomes;
mod pages;
mod process;
mod replaced;
mod report;
mod setup;
mod status;
mod sync;
mod testnet;
mod tracker;
mod transaction;
mod units;
mod waiting;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// Under load sets of ids grow and go every second. What glibc's allocator keeps of such memory
/// grew for as long as anybody watched; this one gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A BFT validator on quorum-store: nothing is signed before it is on disk
#[derive(Debug, Parser)]
#[command(name = "validator", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run N validators on this machine under load, and check what they did
    Testnet(testnet::TestnetArguments),
    /// Make keys, genesis, configs and data directories of a new chain
    Generate(generate::GenerateArguments),
    /// Make one data directory: for a new validator, or on purpose after its disk was lost
    Init(init::InitArguments),
    /// Print every option with unit, default and bound
    Config,
    /// Run one validator until SIGTERM or SIGINT
    Run(node::RunArguments),
    /// Send transactions and follow them to execution
    Load(load::LoadArguments),
    /// Print what validators say of themselves
    Status(status::StatusArguments),
    /// Check a data directory, or evidence, offline
    Check(check::CheckArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    match dispatch(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("validator: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Testnet(arguments) => testnet::run(arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Config => {
            print!("{}", config::options::describe());
            Ok(())
        }
        Command::Run(arguments) => node::run(&arguments),
        Command::Load(arguments) => load::run(arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command in the shell blocks of a document.
    fn shown(document: &'static str) -> Vec<&'static str> {
        let blocks = document.split("```sh\n").skip(1);
        let lines = blocks.filter_map(|block| block.split("```").next()).flat_map(str::lines);
        lines.filter(|line| line.starts_with("validator ")).collect()
    }

    #[test]
    fn commands_in_the_documents_are_taken_and_are_the_same_everywhere() {
        let chapter = shown(include_str!("../../docs/operators.md"));
        assert!(chapter.len() >= 6);
        for line in &chapter {
            Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(shown(include_str!("../../README.md")), chapter[..5]);
    }
}
