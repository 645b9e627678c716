//! Hosts with mempools that gossip: what is pulled, by whom, and what becomes of it. A host with a
//! filter.

use std::time::Duration;

use quorum_store::testkit::{self, Lie, Options};

fn gossiping(seed: u64) -> Options {
    let mut options = Options::calm(seed, 4);
    options.pulled_percent = 75;
    options
}

#[test]
fn what_one_validator_batches_the_others_do_not_pull() {
    for seed in 0..5 {
        let outcome = testkit::simulate(&gossiping(seed)).unwrap();
        let count = |name| outcome.counts.get(name).copied().unwrap_or_default();
        assert!(outcome.executed > 100, "{outcome:#?}");
        assert!(count("pulled transactions batched") > 50, "{outcome:#?}");
        assert!(count("in progress until it was ordered") > 50, "{outcome:#?}");
        assert!(count("source's transaction refused") > 0, "{outcome:#?}");
        // Two hear of one transaction at nearly the same time now and then.
        let twice = count("transaction ordered twice") as usize;
        assert!(twice * 10 < 4 * outcome.executed, "{outcome:#?}");
        // A source that has nothing is left alone: four of them, a minute, four times a second.
        assert!(count("source asked") < 4 * 60 * 5 + 4 * 300, "{outcome:#?}");
    }
}

#[test]
fn a_batch_that_is_never_certified_holds_nothing_for_long() {
    for seed in 0..3 {
        let mut options = gossiping(seed);
        options.duration = Duration::from_secs(80);
        options.fault_interval = Duration::from_secs(4);
        options.parameters.batch_lifetime_micros = 20_000_000;
        options.liars = vec![Lie::Equivocate];
        let outcome = testkit::simulate(&options)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure:#?}"));
        assert!(outcome.counts.contains_key("in progress until it lapsed"), "{outcome:#?}");
        assert!(outcome.executed > 50, "{outcome:#?}");
    }
}

#[test]
fn a_validator_with_a_filter_executes_what_it_does_not_sign_for() {
    for seed in 0..3 {
        let mut options = gossiping(seed);
        options.filters = Some(2);
        options.lost_per_mille = 20;
        let outcome = testkit::simulate(&options)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure:#?}"));
        assert!(outcome.counts["batch filtered"] > 20, "{outcome:#?}");
        assert!(outcome.executed > 100, "{outcome:#?}");
    }
}
