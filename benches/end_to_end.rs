//! From `submit` to the transactions in order: N real engines in one process, on links in memory,
//! with real signatures, on journals in a temporary directory or on stores in memory.
//!
//! ```text
//!  clients ─submit─▶ batches ─▶ N copies durable ─▶ proofs ─pull─▶ payload ─verify, N times─▶ commit
//!     ▲                                                                                        │
//!     └────────────────────────── executed at their validator ◀──materialize, N times──────────┘
//! ```
//!
//! Closed loop: a client waits until its transactions were executed at the validator that it gave them
//! to before it submits the next. Leaders take turns; a block is pulled, verified and committed by
//! everybody before the next one is pulled, which is what an ordering engine costs at the least.
//!
//! `transaction` is the time of a single transaction in an idle network. The table at the end has what
//! is sustained under load: transactions executed by everybody, processor time over all N validators
//! and the clients, and latencies from submission. Everything is on one machine, so N validators share
//! its processors and its disk: throughput falls as N grows, and `us cpu/tx, each` says what one would
//! use. Bytes written are those of all N, twice as many while the rings of the journals still grow, because
//! a segment is written through before its first use. The store in memory keeps every body, in new pages,
//! so it can be slower than the journal.
//!
//! It fails if a transaction that was accepted does not come back in time, comes back twice, or if two
//! validators executed different batches or another order.
//!
//! `SECONDS` (default 3) after `WARM_SECONDS` (default 1); `VALIDATORS`, `STORE` (`memory`, `journal`)
//! and `CLIENTS` pick rows; `TRANSACTION_BYTES` (default 512), `TRANSACTIONS` in a submission (default
//! 200).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::time::{Duration, Instant};

use criterion::Criterion;
use measure::{in_earnest, percentiles, picked, setting, usage};
use tokio::runtime::Runtime;
use town::{StoreKind, Town};

#[path = "support/measure.rs"]
mod measure;
#[path = "support/town/mod.rs"]
mod town;

const VALIDATORS: [usize; 3] = [4, 10, 25];
const STORES: [StoreKind; 2] = [StoreKind::Memory, StoreKind::Journal];
/// Clients of all validators together: a light load, and more than the machine can take.
const CLIENTS: [usize; 2] = [8, 96];

/// What was sustained.
struct Row {
    executed: u64,
    elapsed: Duration,
    cpu: Duration,
    written: u64,
    certified: Vec<Duration>,
    done: Vec<Duration>,
}

impl Row {
    async fn measure(town: &Town, clients: usize) -> Self {
        let per_submission = setting("TRANSACTIONS", 200) as usize;
        let load = town.load(clients, per_submission);
        tokio::time::sleep(Duration::from_secs(setting("WARM_SECONDS", 1))).await;
        load.take();
        let ((cpu, written), began) = (usage(), Instant::now());
        tokio::time::sleep(Duration::from_secs(setting("SECONDS", 3))).await;
        let (times, elapsed, after) = (load.take(), began.elapsed(), usage());
        load.stop().await;
        Self {
            executed: times.executed,
            elapsed,
            cpu: after.0.saturating_sub(cpu),
            written: after.1 - written,
            certified: times.until_certified,
            done: times.until_executed,
        }
    }

    fn print(self, validators: usize, store: StoreKind, clients: usize, bytes: usize) {
        let executed = self.executed.max(1) as f64;
        let rate = executed / self.elapsed.as_secs_f64();
        let cpu = self.cpu.as_secs_f64() * 1e6 / executed;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let (certified, done) = (percentiles(self.certified), percentiles(self.done));
        println!(
            "{validators:<12}{:<9}{clients:<9}{rate:<10.0}{:<8.1}{cpu:<16.2}{:<18.2}{:<15.2}\
             {:>5.0} / {:<10.0}{:>5.0} / {:.0}",
            store.name(),
            rate * bytes as f64 / 1e6,
            cpu / validators as f64,
            self.written as f64 / (executed * bytes as f64),
            millis(certified.0),
            millis(certified.1),
            millis(done.0),
            millis(done.1),
        );
    }
}

fn table(runtime: &Runtime) {
    let bytes = setting("TRANSACTION_BYTES", 512) as usize;
    println!(
        "\nvalidators  store    clients  tx/s      MB/s    us cpu/tx, all  us cpu/tx, each   \
         written/byte   ms to certified    ms to executed (p50 / p99)"
    );
    for validators in VALIDATORS {
        for store in STORES {
            if !picked("VALIDATORS", &validators.to_string()) || !picked("STORE", store.name()) {
                continue;
            }
            runtime.block_on(async {
                let town = Town::start(validators, store, bytes).await;
                for clients in CLIENTS {
                    if picked("CLIENTS", &clients.to_string()) {
                        let row = Row::measure(&town, clients).await;
                        row.print(validators, store, clients, bytes);
                    }
                }
                town.stop().await;
            });
        }
    }
}

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("end_to_end");
    for validators in VALIDATORS {
        for store in STORES {
            let name = format!("transaction/validators={validators}/store={}", store.name());
            // Only for those that a filter leaves over.
            let mut town = None;
            group.bench_function(name, |bencher| {
                let town = town
                    .get_or_insert_with(|| runtime.block_on(Town::start(validators, store, 512)));
                bencher.iter(|| runtime.block_on(town.single()));
            });
            if let Some(town) = town {
                runtime.block_on(town.stop());
            }
        }
    }
    group.finish();
    criterion.final_summary();
    // Under `cargo test` every benchmark only has to run once.
    if in_earnest() {
        table(&runtime);
    }
}
