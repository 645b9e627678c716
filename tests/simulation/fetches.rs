//! Fetches with and without liars among those who are asked.

use std::time::Duration;

use quorum_store::testkit::{self, Cluster, Lie, Options};

/// Sorted times of fetches that ended with content; one message in eight does not arrive, so there
/// is much to fetch, and answers to it get lost too.
fn times(validators: usize, lie: Option<Lie>) -> Vec<Duration> {
    let mut times = Vec::new();
    for seed in 0..48 {
        let mut options = Options::calm(900 + seed, validators);
        options.duration = Duration::from_mins(1);
        options.quiet = Duration::from_secs(30);
        options.lost_per_mille = 125;
        options.parameters.batch_lifetime_micros = 8_000_000;
        options.liars = lie.into_iter().cycle().take((validators - 1) / 3).collect();
        let mut cluster = Cluster::new(options);
        let outcome = testkit::finish(&mut cluster)
            .unwrap_or_else(|failure| panic!("{lie:?}, seed {seed}: {failure:#?}"));
        assert!(lie.is_none_or(|lie| outcome.counts.contains_key(lie.name())), "{lie:?} lies");
        times.extend_from_slice(cluster.fetch_times());
    }
    times.sort_unstable();
    times
}

/// With f liars that answer wrongly, say that nothing is there, or nothing at all, the slowest
/// hundredth of fetches takes at most three times as long as without.
#[test]
fn f_liars_among_those_who_answer_slow_fetches_down_by_no_more_than_three() {
    for validators in [4, 7] {
        let honest = times(validators, None);
        let p99 = |times: &[Duration]| times[times.len() * 99 / 100];
        assert!(honest.len() >= 200, "only {} fetches", honest.len());
        for lie in [Lie::FetchLiar, Lie::Withhold, Lie::Absent] {
            let lied = times(validators, Some(lie));
            assert!(lied.len() >= 100, "only {} fetches, {lie:?}", lied.len());
            let (with, without) = (p99(&lied), p99(&honest));
            println!("{validators} validators, {lie:?}: p99 {with:?}, without {without:?}");
            assert!(with <= 3 * without, "{lie:?}: {with:?} against {without:?}");
        }
    }
}
