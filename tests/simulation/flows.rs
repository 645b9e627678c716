//! A crash before every step of one validator, in every kind of tear, and again while it recovers.
//!
//! The flow takes a batch through everything: authored, received and signed, certified, pulled,
//! voted for, committed, fetched, deleted. The steps are counted from a run without crashes, so
//! that a new step of the code is covered the day it is written.

use std::time::Duration;

use quorum_store::testkit::{self, Cluster, CrashPoint, Options, Tear};

/// Long enough for batches to be deleted.
fn flow(seed: u64) -> Options {
    let mut options = Options::calm(seed, 4);
    options.duration = Duration::from_secs(34);
    options.quiet = Duration::from_secs(33);
    options.parameters.batch_lifetime_micros = 1_000_000;
    options.parameters.grace_micros = 2_000_000;
    options.parameters.clock_allowance_micros = 500_000;
    options.submit_interval = Duration::from_secs(1);
    options.block_interval = Duration::from_secs(1);
    options.delay_max = Duration::from_millis(5);
    options
}

fn crash(points: &[CrashPoint], seed: u64) {
    let mut cluster = Cluster::new(flow(seed));
    cluster.crash_at(points.to_vec());
    testkit::finish(&mut cluster).unwrap_or_else(|failure| panic!("{points:?}: {failure:#?}"));
}

/// Steps of one validator until a batch has gone all the way, deletion included.
fn steps(seed: u64) -> u64 {
    let mut cluster = Cluster::new(flow(seed));
    cluster.run_until(Duration::from_secs(7));
    assert_eq!(cluster.checker().violation(), None);
    assert!(cluster.checker().executed() > 0);
    cluster.steps(0)
}

#[test]
fn a_crash_before_every_step() {
    let steps = steps(1);
    assert!(steps > 100, "the flow has only {steps} steps");
    for tear in Tear::ALL {
        for step in 1..=steps {
            crash(&[CrashPoint { node: 0, step, tear }], 1);
        }
    }
}

#[test]
fn a_second_crash_before_every_step_of_the_recovery() {
    let steps = steps(2);
    for first in (1..=steps).step_by(7) {
        for after in 1..=12 {
            let tear = Tear::ALL[(first + after) as usize % 4];
            let second = CrashPoint { node: 0, step: first + after, tear: Tear::Kept };
            crash(&[CrashPoint { node: 0, step: first, tear }, second], 2);
        }
    }
}

#[test]
fn everybody_crashes_at_the_same_step() {
    for step in (1..=steps(3)).step_by(3) {
        let points: Vec<_> =
            (0..4).map(|node| CrashPoint { node, step, tear: Tear::ALL[node] }).collect();
        crash(&points, 3);
    }
}
