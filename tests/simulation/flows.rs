//! A crash before every step of one validator, in every kind of tear, and again while it recovers;
//! subscribers that stop at every step, in every combination.
//!
//! The flow takes batches through everything: authored, received and signed, certified, pulled,
//! voted for, committed, fetched, executed, deleted, and over the end of an epoch. The steps are
//! counted from a run without crashes, so that a new step of the code is covered the day it is
//! written.

use std::time::Duration;

use quorum_store::testkit::{self, Cluster, CrashPoint, Options, StopPoint, Tear};

/// How long something happens: long enough for content to be deleted and for an epoch to end.
const EVENTFUL: Duration = Duration::from_secs(8);
/// How long everything has to end.
const QUIET: Duration = Duration::from_secs(30);

/// What validator 0 writes in it.
const RECORDS: &[&str] = &[
    "applied",
    "batch",
    "closed",
    "commit",
    "cursor",
    "drop_batch",
    "drop_payload",
    "epoch",
    "fence",
    "floor",
    "payload",
    "proof",
    "reserved",
];

/// With this seed validator 0 stays in the committee.
const STAYS: u64 = 1;
/// With this one it leaves with the end of the first epoch.
const LEAVES: u64 = 2;

fn flow(seed: u64) -> Options {
    let mut options = Options::calm(seed, 4);
    options.duration = EVENTFUL + QUIET;
    options.quiet = QUIET;
    options.parameters.batch_lifetime_micros = 1_000_000;
    options.parameters.grace_micros = 2_000_000;
    options.parameters.clock_allowance_micros = 500_000;
    options.submit_interval = Duration::from_millis(700);
    options.block_interval = Duration::from_secs(1);
    options.delay_max = Duration::from_millis(5);
    // So that content has to be fetched.
    options.lost_per_mille = 150;
    options.config.resend_interval = Duration::from_millis(600);
    options.epochs = 2;
    options.epoch_blocks = 4;
    options
}

/// The same, ordering batches before they have a proof.
fn optimistic_flow(seed: u64) -> Options {
    let mut options = flow(seed);
    options.config.optimistic = true;
    options.config.optimistic_age_min = Duration::ZERO;
    options.config.optimistic_blame = Duration::from_secs(1);
    // Large ones are optimistic, small ones travel in the payload.
    options.config.inline_batches_max = 1;
    options.config.inline_bytes_max = bytesize::ByteSize(256);
    // Certified so late that most are ordered first.
    options.delay_max = Duration::from_millis(60);
    options.block_interval = Duration::from_millis(300);
    options.epoch_blocks = 8;
    options
}

fn run(cluster: &mut Cluster, points: &dyn std::fmt::Debug) {
    testkit::finish(cluster).unwrap_or_else(|failure| panic!("{points:?}: {failure:#?}"));
}

fn crash(points: &[CrashPoint], seed: u64) {
    let mut cluster = Cluster::new(flow(seed));
    cluster.crash_at(points.to_vec());
    run(&mut cluster, &points);
}

/// Steps of one validator in the eventful part, of which nothing may be missing.
fn steps(seed: u64) -> u64 {
    let mut cluster = Cluster::new(flow(seed));
    cluster.run_until(EVENTFUL);
    assert_eq!(cluster.checker().violation(), None);
    for kind in RECORDS {
        assert!(cluster.checker().records(0, kind) > 0, "seed {seed}: no {kind:?} was written");
    }
    let counts = cluster.trace().counts();
    for kind in ["content arrived for execution", "epoch opened"] {
        assert!(counts.contains_key(kind), "seed {seed}: {kind:?} is missing");
    }
    cluster.steps(0)
}

#[test]
fn a_crash_before_every_step() {
    for tear in Tear::ALL {
        for step in 1..=steps(STAYS) {
            crash(&[CrashPoint { node: 0, step, tear }], STAYS);
        }
    }
}

#[test]
fn a_crash_before_every_step_of_a_validator_that_leaves() {
    for step in 1..=steps(LEAVES) {
        let tear = Tear::ALL[step as usize % 4];
        crash(&[CrashPoint { node: 0, step, tear }], LEAVES);
    }
}

#[test]
fn a_crash_before_every_step_with_optimistic_batches() {
    // The first one in which votes wait; which one that is changes with every message.
    let eventful = (STAYS..=100).find_map(|seed| {
        let mut cluster = Cluster::new(optimistic_flow(seed));
        cluster.run_until(EVENTFUL);
        assert_eq!(cluster.checker().violation(), None);
        let counts = cluster.trace().counts();
        let all = ["optimistic batches ordered", "a vote waited for optimistic batches"];
        all.iter().all(|kind| counts.contains_key(kind)).then(|| (seed, cluster.steps(0)))
    });
    let (seed, steps) = eventful.expect("one in a hundred runs has a vote that waits");
    for step in 1..=steps {
        let tear = Tear::ALL[step as usize % 4];
        let mut cluster = Cluster::new(optimistic_flow(seed));
        let points = vec![CrashPoint { node: 0, step, tear }];
        cluster.crash_at(points.clone());
        run(&mut cluster, &points);
    }
}

#[test]
fn everybody_crashes_at_the_same_step_with_optimistic_batches() {
    let mut cluster = Cluster::new(optimistic_flow(LEAVES));
    cluster.run_until(EVENTFUL);
    for step in (1..=cluster.steps(0)).step_by(2) {
        let mut cluster = Cluster::new(optimistic_flow(LEAVES));
        let points: Vec<_> =
            (0..4).map(|node| CrashPoint { node, step, tear: Tear::ALL[node] }).collect();
        cluster.crash_at(points.clone());
        run(&mut cluster, &points);
    }
}

#[test]
fn a_second_crash_before_every_step_of_the_recovery() {
    for first in (1..=steps(STAYS)).step_by(5) {
        for after in 1..=12 {
            let tear = Tear::ALL[(first + after) as usize % 4];
            let second = CrashPoint { node: 0, step: first + after, tear: Tear::Kept };
            crash(&[CrashPoint { node: 0, step: first, tear }, second], STAYS);
        }
    }
}

#[test]
fn everybody_crashes_at_the_same_step() {
    for step in 1..=steps(STAYS) {
        let points: Vec<_> =
            (0..4).map(|node| CrashPoint { node, step, tear: Tear::ALL[node] }).collect();
        crash(&points, STAYS);
    }
}

#[test]
fn any_subscribers_stop_at_any_step() {
    for step in 1..=steps(STAYS) {
        for subscribers in 1..8 {
            // Every third combination at each step; all of them within three steps.
            if (step + u64::from(subscribers)).is_multiple_of(3) {
                let point = StopPoint { node: 0, step, subscribers };
                let mut cluster = Cluster::new(flow(STAYS));
                cluster.stop_at(vec![point]);
                run(&mut cluster, &point);
            }
        }
    }
}

#[test]
fn subscribers_stop_and_their_validator_crashes() {
    let steps = steps(STAYS);
    for step in (1..=steps).step_by(4) {
        for after in [1, 7, 40] {
            let stop = StopPoint { node: 0, step, subscribers: 1 + (step % 7) as u8 };
            let point = CrashPoint { node: 0, step: step + after, tear: Tear::Lost };
            let mut cluster = Cluster::new(flow(STAYS));
            cluster.stop_at(vec![stop]);
            cluster.crash_at(vec![point]);
            run(&mut cluster, &(stop, point));
        }
    }
}
