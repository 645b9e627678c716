//! Full blocks: who waits for how long when one author offers ten times as much as the others, and
//! what is paid more leaves first.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use quorum_store::testkit::{Cluster, Options, Proposed, Saturation};

/// Who offers ten times as much as each of the others, or nothing.
const HEAVY: usize = 3;
/// Batches that each of the others offers in a minute.
const OFFER: u64 = 150;
/// Blocks take so many batches; there are at least two blocks in a second.
const BATCHES: u64 = 8;
/// Until queues are as long as they get, nothing is counted.
const WARM: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_mins(2);

fn saturated(seed: u64, heavy: u64, prices: &[u64], optimistic: bool) -> Options {
    let mut options = Options::calm(seed, 4);
    options.duration = END;
    // Nothing but what fills the blocks.
    options.submit_interval = Duration::from_hours(1);
    options.transaction_bytes = 1200;
    // One transaction, one batch.
    options.config.batch_bytes_target = ByteSize(1024);
    options.config.gas_bucket_starts = vec![0, 10, 100];
    options.config.optimistic = optimistic;
    let mut offers = vec![OFFER; 4];
    offers[HEAVY] = heavy;
    options.saturation = Some(Saturation { offers, prices: prices.to_vec(), batches_max: BATCHES });
    options
}

fn proposed(options: Options) -> Vec<Proposed> {
    let mut cluster = Cluster::new(options);
    cluster.run_until(END);
    assert_eq!(cluster.checker().violation(), None);
    cluster.proposed().iter().copied().filter(|proposed| proposed.at > WARM).collect()
}

/// The age at pull that one batch in ten exceeds, by author, in milliseconds.
fn p90(proposed: &[Proposed]) -> BTreeMap<usize, u128> {
    let mut ages: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
    for Proposed { author, age, .. } in proposed {
        ages.entry(*author).or_default().push(*age);
    }
    let slowest = |mut ages: Vec<Duration>| {
        ages.sort_unstable();
        ages[ages.len() * 9 / 10].as_millis()
    };
    ages.into_iter().map(|(author, ages)| (author, slowest(ages))).collect()
}

/// How many of the blocks were full.
fn full(proposed: &[Proposed]) -> (usize, usize) {
    let mut blocks: BTreeMap<u64, u64> = BTreeMap::new();
    for proposed in proposed {
        *blocks.entry(proposed.height).or_default() += 1;
    }
    (blocks.values().filter(|batches| **batches == BATCHES).count(), blocks.len())
}

#[test]
fn one_author_that_offers_ten_times_as_much_does_not_delay_the_others() {
    for (seed, optimistic) in [(1, false), (2, false), (3, true), (4, true)] {
        let alone = p90(&proposed(saturated(seed, 0, &[1], optimistic)));
        let crowded = proposed(saturated(seed, 10 * OFFER, &[1], optimistic));
        let (full, blocks) = full(&crowded);
        assert!(full * 10 > blocks * 9, "{full} of {blocks} blocks were full");
        let crowded = p90(&crowded);
        println!("seed {seed}, optimistic {optimistic}: P90 {crowded:?} ms, without it {alone:?}");
        let others: Vec<u128> = (0..HEAVY).map(|author| crowded[&author]).collect();
        let (least, most) = (others.iter().min().unwrap(), others.iter().max().unwrap());
        assert!(most * 2 <= least * 3, "among each other: {crowded:?} ms");
        for author in 0..HEAVY {
            let (with, without) = (crowded[&author], alone[&author]);
            assert!(with * 2 <= without * 3, "{author}: {with} ms, without the heavy {without} ms");
        }
        // It delays itself: it is not that nobody waits.
        assert!(crowded[&HEAVY] > 4 * most, "{crowded:?} ms");
    }
}

#[test]
fn what_pays_more_always_leaves_first() {
    // For a batch to be certified and to reach the next leader.
    let known = Duration::from_millis(400);
    for seed in 5..8 {
        let proposed = proposed(saturated(seed, 10 * OFFER, &[1, 1, 1, 1, 1, 1, 10, 100], false));
        let (full, blocks) = full(&proposed);
        assert!(full * 10 > blocks * 9, "{full} of {blocks} blocks were full");
        // The cheapest of each block.
        let mut cheapest: BTreeMap<Duration, u64> = BTreeMap::new();
        for Proposed { at, bucket, .. } in &proposed {
            let least = cheapest.entry(*at).or_insert(*bucket);
            *least = (*least).min(*bucket);
        }
        let mut dear = 0;
        for Proposed { at, bucket, age, .. } in &proposed {
            let from = (at.saturating_sub(*age) + known).min(*at);
            let passed_by = cheapest.range(from..*at).find(|(_, cheapest)| *cheapest < bucket);
            assert_eq!(passed_by, None, "of {bucket}, proposed at {at:?}, {age:?} old");
            dear += u32::from(*bucket > 0);
        }
        assert!(dear > 500, "{dear}");
        assert!(cheapest.values().filter(|bucket| **bucket == 0).count() > 50);
    }
}
