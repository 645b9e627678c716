//! Losses beyond a crash: a disk, content that is gone everywhere, and evidence that comes too late.

use std::time::Duration;

use quorum_store::testkit::{self, Cluster, Lie, Options, Outcome};

/// Calm, with batches that are gone soon.
fn calm(seed: u64, validators: usize) -> Options {
    let mut options = Options::calm(seed, validators);
    options.duration = Duration::from_secs(75);
    options.quiet = Duration::from_mins(1);
    options.parameters.batch_lifetime_micros = 8_000_000;
    options
}

fn finish(mut cluster: Cluster, what: &str) -> Outcome {
    testkit::finish(&mut cluster).unwrap_or_else(|failure| panic!("{what}: {failure:#?}"))
}

fn fired(outcome: &Outcome, kind: &str) -> u64 {
    outcome.counts.get(kind).copied().unwrap_or_default()
}

/// Runs until commits wait for execution.
fn with_commits_to_execute(options: Options) -> Cluster {
    let mut cluster = Cluster::new(options);
    cluster.run_until(Duration::from_secs(10));
    cluster.hold_execution(true);
    cluster.run_until(Duration::from_secs(14));
    cluster
}

#[test]
fn a_chain_that_lost_every_copy_of_ordered_batches_goes_on() {
    for (seed, validators) in [(1, 4), (2, 4), (3, 4), (4, 7)] {
        let mut cluster = with_commits_to_execute(calm(seed, validators));
        let lost = cluster.lose_batches();
        assert!(lost > 0, "seed {seed}: there was something to lose");
        cluster.hold_execution(false);
        cluster.run_until(Duration::from_secs(40));
        let skipped = cluster.skipped(0);
        assert_eq!(skipped.len(), lost, "seed {seed}: {skipped:?}");
        for node in 1..validators {
            assert_eq!(cluster.skipped(node), skipped, "seed {seed}, node {node}");
        }
        let outcome = finish(cluster, "all batches of a commit");
        assert!(fired(&outcome, "batches are skipped by evidence") >= validators as u64);
        assert!(fired(&outcome, "absence signed") > 0);
    }
}

#[test]
fn a_chain_that_lost_every_copy_of_an_ordered_payload_goes_on() {
    for seed in 1..4 {
        let mut cluster = with_commits_to_execute(calm(seed, 4));
        assert!(cluster.lose_payload(), "seed {seed}");
        cluster.hold_execution(false);
        let outcome = finish(cluster, "a payload");
        assert_eq!(fired(&outcome, "a payload is skipped by evidence"), 4, "{outcome:#?}");
    }
}

/// One validator keeps what the others lost: it is a quarter of four, so a quorum says that the
/// batches are gone, and whether it executes before or after the evidence is committed, all end with
/// the same state.
#[test]
fn whoever_executed_what_is_gone_rebuilds_and_all_agree() {
    let (mut rebuilt, mut arrived) = (0, 0);
    for seed in 1..9 {
        let mut cluster = with_commits_to_execute(calm(seed, 4));
        cluster.isolate(0, true);
        let lost = cluster.lose_batches_but_at(0);
        assert!(lost > 0, "seed {seed}");
        cluster.hold_execution(false);
        let back = 15_000 + 700 * seed;
        cluster.run_until(Duration::from_millis(back));
        cluster.isolate(0, false);
        let outcome = finish(cluster, "lost but at one");
        rebuilt += fired(&outcome, "an executor rebuilds its state");
        arrived += fired(&outcome, "content arrived for execution");
    }
    assert!(rebuilt > 0, "the keeper had executed it in some run");
    assert!(arrived > 0, "it came back in time in some other");
}

/// Executors that stop for several times as long as content lives, grace included, find all of it.
#[test]
fn what_slow_executors_still_need_is_kept_beyond_its_time() {
    for seed in 1..4 {
        let mut options = calm(seed, 4);
        options.parameters.batch_lifetime_micros = 1_000_000;
        options.parameters.grace_micros = 2_000_000;
        options.parameters.clock_allowance_micros = 500_000;
        let mut cluster = with_commits_to_execute(options);
        cluster.run_until(Duration::from_secs(24));
        let gone = (0..4).map(|node| cluster.checker().records(node, "drop_batch")).min();
        cluster.hold_execution(false);
        let outcome = finish(cluster, "slow executors");
        assert!(outcome.executed > 50, "{outcome:#?}");
        for kind in ["batches are skipped by evidence", "a payload is skipped by evidence"] {
            assert_eq!(fired(&outcome, kind), 0, "seed {seed}: {kind}");
        }
        assert!(gone > Some(0), "seed {seed}: what had been executed was deleted meanwhile");
    }
}

#[test]
fn a_validator_that_lost_its_disk_is_silent_for_a_while_and_nothing_certified_is_lost() {
    for seed in 1..4 {
        let mut cluster = Cluster::new(calm(seed, 4));
        cluster.run_until(Duration::from_secs(12));
        cluster.lose_disk(1);
        cluster.run_until(Duration::from_secs(14));
        assert!(cluster.silent_until(1).is_some(), "seed {seed}");
        // A second restart does not forget it.
        cluster.restart(1);
        cluster.run_until(Duration::from_secs(16));
        assert!(cluster.silent_until(1).is_some(), "seed {seed}");
        cluster.run_until(Duration::from_secs(40));
        assert_eq!(cluster.silent_until(1), None, "seed {seed}: it signs again");
        let outcome = finish(cluster, "a lost disk");
        assert!(fired(&outcome, "content arrived for execution") + outcome.executed as u64 > 50);
        assert_eq!(fired(&outcome, "a fetch ended with evidence"), 0);
    }
}

/// Whatever at most f liars do, and whoever crashes, nobody gets evidence that content is gone.
#[test]
fn no_liars_within_the_bound_bring_about_evidence() {
    let kinds = [
        vec![Lie::Absent],
        vec![Lie::Withhold],
        vec![Lie::FetchLiar],
        vec![Lie::Absent, Lie::Absent],
        vec![Lie::Absent, Lie::Withhold],
    ];
    for (at, liars) in kinds.into_iter().enumerate() {
        for seed in 0..4 {
            let validators = 3 * liars.len() + 1;
            let mut options = calm(100 + seed + 10 * at as u64, validators);
            options.duration = Duration::from_secs(90);
            options.quiet = Duration::from_secs(45);
            options.fault_interval = Duration::from_secs(3);
            options.liars.clone_from(&liars);
            let mut cluster = Cluster::new(options);
            for second in 1..90 {
                cluster.run_until(Duration::from_secs(second));
                for node in 0..validators {
                    assert_eq!(cluster.evidence(node), 0, "{liars:?}, seed {seed}, node {node}");
                }
            }
            let outcome = finish(cluster, "liars");
            assert_eq!(fired(&outcome, "batches are skipped by evidence"), 0);
        }
    }
}
