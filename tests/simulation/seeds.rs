//! Seeds: everything random at once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorum_store::testkit::{self, Failure, Options, Outcome};

/// Every n-th seed runs twice.
const TWICE: u64 = 20;

/// Each of these fires somewhere in a run of many seeds, or the run proves nothing.
const FAULTS: &[&str] = &[
    "a close was late",
    "a lease is used after the price rose",
    "a lease is used too late",
    "a subscriber detaches",
    "a subscriber lagged",
    "a subscriber loses its last write",
    "a subscriber stops",
    "a subscriber unsubscribes",
    "an executor loses its last writes",
    "batch certified",
    "batch sent again",
    "clock jump",
    "commits skipped",
    "content arrived for execution",
    "crash",
    "crash cuts the group in flight",
    "crash keeps the group in flight",
    "crash loses a sector of the group in flight",
    "crash loses the group in flight",
    "disk failed",
    "disk nearly full",
    "epoch closed",
    "epoch opened",
    "full partition",
    "in progress until it expired",
    "in progress until it lapsed",
    "in progress until it was lost",
    "in progress until it was ordered",
    "input waits for a full group",
    "late vote",
    "lease granted",
    "lease honoured",
    "lease not now",
    "lease refused",
    "lease released",
    "lie: absence",
    "lie: beyond the window",
    "lie: equivocation",
    "lie: false grant",
    "lie: forged proof",
    "lie: invalid payload",
    "lie: replay",
    "lie: signature over another domain",
    "lie: silence",
    "lie: spam",
    "lie: torn signature",
    "lie: withheld batch",
    "lie: wrong answer",
    "lie: wrong digest",
    "link lost",
    "message cut off",
    "message doubled",
    "message lost",
    "one-way partition",
    "power cut everywhere",
    "proof grown",
    "pulled transactions batched",
    "signer demoted",
    "pull rate limited",
    "slow disk",
    "slow link",
    "source's transaction refused",
    "state taken from others",
    "transactions batched again",
    "transactions expired",
    "transactions returned",
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

/// What this thread has had of a core; where nobody says, how long it has been at it.
fn cpu_time(began: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanos.map_or_else(|| began.elapsed(), Duration::from_nanos)
}

fn report(seed: u64, validators: usize, failure: &Failure) -> String {
    let commit = option_env!("SOURCE_COMMIT").unwrap_or("of the working tree");
    let last = failure.last.join("\n  ");
    let testkit::Violation { property, detail } = &failure.violation;
    format!(
        "\nseed {seed} with {validators} validators broke \"{property}\" after {} virtual seconds\n\
         {detail}\ncode {commit}; the last events:\n  {last}\n\
         shrunk: {}\nagain: make simulate SEED={seed} NODES={validators}\n",
        failure.seconds,
        shrink(seed, validators, failure)
    )
}

/// Takes things away as long as the same property breaks.
fn shrink(seed: u64, validators: usize, failure: &Failure) -> String {
    let property = failure.violation.property;
    let mut options = Options::from_seed(seed, validators);
    let mut kept = Vec::new();
    let mut attempt = |name: &'static str, change: fn(&mut Options)| {
        let mut smaller = options.clone();
        change(&mut smaller);
        match testkit::simulate(&smaller) {
            Err(failure) if failure.violation.property == property => options = smaller,
            _ => kept.push(name),
        }
    };
    attempt("liars", |options| options.liars.clear());
    attempt("faults", |options| options.fault_interval = Duration::ZERO);
    attempt("lost messages", |options| options.lost_per_mille = 0);
    attempt("doubled messages", |options| options.doubled_per_mille = 0);
    attempt("wrong clocks", |options| options.skew_max = Duration::ZERO);
    attempt("slow disks", |options| options.write_max = Duration::from_millis(1));
    attempt("slow links", |options| options.delay_max = Duration::from_millis(2));
    if kept.is_empty() { "it needs none of the faults".to_owned() } else { kept.join(", ") }
}

fn run(seed: u64, validators: usize) -> Result<Outcome, String> {
    let options = Options::from_seed(seed, validators);
    let first = testkit::simulate(&options).map_err(|f| report(seed, validators, &f))?;
    if seed.is_multiple_of(TWICE) {
        let second = testkit::simulate(&options).map_err(|f| report(seed, validators, &f))?;
        if first != second {
            return Err(format!("seed {seed} gives {:x} and {:x}", first.hash, second.hash));
        }
    }
    Ok(first)
}

/// Runs seeds on two threads; returns how often each kind of thing fired.
fn run_all(first: u64, seeds: u64, validators: usize) -> BTreeMap<&'static str, u64> {
    let next = AtomicU64::new(first);
    // Virtual seconds and the CPU time they took, with the fast signer.
    let pace = Mutex::new((0, Duration::ZERO));
    let counts = Mutex::new(BTreeMap::<&'static str, u64>::new());
    let failures = Mutex::new(Vec::new());
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || failures.lock().unwrap().len() > 2 {
                        return;
                    }
                    let before = cpu_time(began);
                    match run(seed, validators) {
                        Ok(outcome) => {
                            if !Options::from_seed(seed, validators).real_signatures {
                                let mut pace = pace.lock().unwrap();
                                pace.0 += 120 * if seed.is_multiple_of(TWICE) { 2 } else { 1 };
                                pace.1 += cpu_time(began).saturating_sub(before);
                            }
                            let mut counts = counts.lock().unwrap();
                            for (kind, count) in outcome.counts {
                                *counts.entry(kind).or_default() += count;
                            }
                            *counts.entry("events").or_default() += outcome.events;
                            *counts.entry("transactions executed").or_default() +=
                                outcome.executed as u64;
                        }
                        Err(report) => failures.lock().unwrap().push(report),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let elapsed = began.elapsed().as_secs_f64();
    let (seconds, took) = pace.into_inner().unwrap();
    println!(
        "{seeds} seeds of 120 virtual seconds with {validators} validators: {elapsed:.1} s; with the \
         fast signer {:.0} virtual seconds per CPU second",
        f64::from(seconds) / took.as_secs_f64()
    );
    counts.into_inner().unwrap()
}

#[test]
fn seeds_of_bad_days() {
    let validators = number("NODES", 4) as usize;
    if let Ok(seed) = std::env::var("SEED") {
        let seed = seed.parse().expect("SEED is a number");
        match run(seed, validators) {
            Ok(outcome) => println!("seed {seed}: {outcome:#?}"),
            Err(report) => panic!("{report}"),
        }
        return;
    }
    let seeds = number("SEEDS", 60);
    let counts = run_all(number("FIRST", 1), seeds, validators);
    for (kind, count) in &counts {
        println!("{count:>12} {kind}");
    }
    if seeds >= 500 {
        for kind in FAULTS {
            assert!(counts.get(kind).is_some_and(|count| *count > 0), "\"{kind}\" never fired");
        }
    }
}

#[test]
fn seeds_of_bad_days_with_seven_validators() {
    if std::env::var("SEED").is_err() {
        run_all(number("FIRST", 1), number("SEEDS", 60) / 10, 7);
    }
}
