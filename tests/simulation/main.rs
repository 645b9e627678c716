//! The core through bad days: seeds, crashes at every step, liars by name.
//!
//! `SEEDS=n` sets how many seeds run (default 60), `FIRST=s` where they start, `SEED=s` runs one
//! and prints its last events, `NODES=n` is the size of the cluster for either (default 4).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod fairness;
mod fetches;
mod flows;
mod liars;
mod losses;
mod seeds;
mod sources;
