//! Admission alone: each bound at its last good and its first bad value.

use super::*;
use crate::sequencer::port::Now;
use crate::types::{Member, samples};

const LIFETIME: u64 = 1000;
const ALLOWANCE: u64 = 50;

struct World {
    coordinator: BatchCoordinator,
    retention: Retention,
    outbox: Outbox,
    clock: Clock,
}

fn world(window: Usage) -> World {
    let member = |byte| Member { author: Author([byte; 32]), power: 1 };
    let committee = Committee::new((1..=4).map(member).collect()).unwrap();
    let limits = AdmissionLimits {
        window,
        batch_lifetime: Duration::from_micros(LIFETIME),
        clock_allowance: Duration::from_micros(ALLOWANCE),
    };
    let now = Now { monotonic: Duration::ZERO, wall: Timestamp(100) };
    World {
        coordinator: BatchCoordinator::new(Epoch(1), &committee, limits),
        retention: Retention::new(Duration::ZERO),
        outbox: Outbox::default(),
        clock: Clock { now, consensus: Timestamp(80) },
    }
}

const PLENTY: Usage = Usage { bytes: 1 << 30, batches: 1000 };

fn batch(incarnation: u64, counter: u64, expiration: u64) -> Batch {
    let mut batch = samples::batch(2, counter, &[b"one"]);
    batch.info.batch_id.incarnation = Incarnation(incarnation);
    (batch.info.epoch, batch.info.expiration) = (Epoch(1), Timestamp(expiration));
    batch
}

impl World {
    fn give_from(&mut self, from: u8, batch: &Batch) -> Result<bool, Refusal> {
        let digest = Digest(*blake3::hash(&bcs::to_bytes(&batch.info).unwrap()).as_bytes());
        let Self { coordinator, retention, outbox, clock } = self;
        coordinator.on_batch(outbox, clock, retention, Author([from; 32]), digest, batch)
    }

    fn give(&mut self, incarnation: u64, counter: u64, expiration: u64) -> Result<bool, Refusal> {
        self.give_from(2, &batch(incarnation, counter, expiration))
    }
}

#[test]
fn a_batch_expires_after_consensus_time_and_no_later_than_a_lifetime_and_an_allowance_from_now() {
    let mut world = world(PLENTY);
    assert_eq!(world.give(1, 1, 80), Err(Refusal::Expired));
    assert_eq!(world.give(1, 1, 81), Ok(true));
    let latest = 100 + LIFETIME + ALLOWANCE;
    assert_eq!(world.give(1, 2, latest + 1), Err(Refusal::ExpiresTooLate));
    assert_eq!(world.give(1, 2, latest), Ok(true));
    // Consensus time may be ahead of the clock on the wall.
    world.clock.consensus = Timestamp(200);
    assert_eq!(world.give(1, 3, 200 + LIFETIME + ALLOWANCE), Ok(true));
}

#[test]
fn it_comes_from_its_author_who_is_a_member_in_this_epoch() {
    let mut world = world(PLENTY);
    let good = batch(1, 1, 500);
    assert_eq!(world.give_from(3, &good), Err(Refusal::NotFromAuthor));
    let mut other = good.clone();
    other.info.epoch = Epoch(2);
    assert_eq!(world.give_from(2, &other), Err(Refusal::NotYet));
    other.info.epoch = Epoch(0);
    assert_eq!(world.give_from(2, &other), Err(Refusal::EpochOver));
    let mut stranger = good.clone();
    stranger.info.author = Author([9; 32]);
    assert_eq!(world.give_from(9, &stranger), Err(Refusal::NotAMember));
    world.coordinator.admits = false;
    assert_eq!(world.give_from(2, &good), Err(Refusal::DiskNearlyFull));
    world.coordinator.admits = true;
    assert_eq!(world.give_from(2, &good), Ok(true));
    world.coordinator.on_fence();
    assert_eq!(world.give(1, 2, 500), Err(Refusal::EpochOver));
}

#[test]
fn later_counters_of_one_incarnation_expire_no_earlier() {
    let mut world = world(PLENTY);
    assert_eq!(world.give(1, 10, 500), Ok(true));
    assert_eq!(world.give(1, 12, 600), Ok(true));
    assert_eq!(world.give(1, 11, 499), Err(Refusal::ExpirationOrder));
    assert_eq!(world.give(1, 11, 601), Err(Refusal::ExpirationOrder));
    assert_eq!(world.give(1, 11, 500), Ok(true), "at the same moment");
    assert_eq!(world.give(1, 13, 600), Ok(true));
    assert_eq!(world.give(1, 9, 501), Err(Refusal::ExpirationOrder));
    // Another incarnation is another order.
    assert_eq!(world.give(2, 1, 100), Ok(true));
    assert_eq!(world.give(0, 99, 900), Ok(true));
    assert_eq!(world.give(1, 10, 501), Err(Refusal::Equivocation));
    assert_eq!(world.give(1, 10, 500), Ok(false), "the same again");
}

#[test]
fn nothing_at_or_below_a_floor_and_no_more_than_so_many_incarnations() {
    let mut world = world(PLENTY);
    let slot = |incarnation, counter| batch(incarnation, counter, 1).info.slot();
    world.coordinator.on_recovered_floor(slot(1, 5));
    world.coordinator.on_recovered_floor(slot(1, 3));
    let of_another_epoch = Slot { epoch: Epoch(0), ..slot(1, 50) };
    world.coordinator.on_recovered_floor(of_another_epoch);
    assert_eq!([4, 5].map(|counter| world.give(1, counter, 500)), [Err(Refusal::BelowFloor); 2]);
    assert_eq!(world.give(1, 6, 500), Ok(true));
    for incarnation in 2..=INCARNATIONS_MAX as u64 {
        assert_eq!(world.give(incarnation, 1, 500), Ok(true));
    }
    let one_more = INCARNATIONS_MAX as u64 + 1;
    assert_eq!(world.give(one_more, 1, 500), Err(Refusal::TooManyIncarnations));
    assert_eq!(world.give(1, 7, 500), Ok(true), "those that are known go on");
}

#[test]
fn a_window_is_full_to_its_last_byte_and_batch() {
    let charge = batch(1, 1, 500).info.charge();
    for (bytes, batches, fit) in [(2 * charge, 9, 2), (2 * charge - 1, 9, 1), (9 * charge, 2, 2)] {
        let mut world = world(Usage { bytes, batches });
        let results: Vec<_> = (1..=3).map(|counter| world.give(1, counter, 500)).collect();
        let expected = (0..3).map(|at| if at < fit { Ok(true) } else { Err(Refusal::WindowSpent) });
        assert!(results.iter().copied().eq(expected), "{results:?}");
        assert_eq!(world.coordinator.stored(&Author([2; 32])).batches, fit);
        assert_eq!(world.coordinator.on_close(), fit);
    }
}

#[test]
fn what_goes_frees_its_window_and_raises_the_floor_to_the_highest_that_went() {
    let mut world = world(PLENTY);
    let batches = [3, 1, 2].map(|counter| batch(1, counter, 500));
    for batch in &batches {
        assert_eq!(world.give_from(2, batch), Ok(true));
    }
    let overdue = |batch: &Batch, frees_window, deleted| {
        let digest = Digest(*blake3::hash(&bcs::to_bytes(&batch.info).unwrap()).as_bytes());
        Overdue { digest, info: batch.info, in_slot: true, frees_window, deleted }
    };
    let mut outbox = Outbox::default();
    // The first goes, the second is kept a while for a subscriber.
    let [three, one, two] = &batches;
    let gone = [overdue(two, true, true), overdue(one, true, true), overdue(three, true, false)];
    assert_eq!(world.coordinator.on_overdue(&mut outbox, &gone), 2);
    assert_eq!(world.coordinator.stored(&Author([2; 32])), Usage::default());
    let floors: Vec<_> = outbox
        .records
        .iter()
        .map(|record| match record {
            Record::Floor { slot } => slot.batch_id.counter,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(floors, [2]);
    assert_eq!(world.give(1, 3, 500), Ok(false), "it is still there");
    assert_eq!(world.give(1, 2, 500), Err(Refusal::BelowFloor));
    let later = [overdue(three, false, true)];
    assert_eq!(world.coordinator.on_overdue(&mut Outbox::default(), &later), 1);
    assert_eq!(world.give(1, 3, 500), Err(Refusal::BelowFloor));
}

#[test]
fn what_is_stored_counts_beyond_its_epoch_and_floors_go_with_it() {
    let mut world = world(PLENTY);
    world.coordinator.on_recovered_floor(batch(1, 5, 1).info.slot());
    assert_eq!(world.give(1, 6, 500), Ok(true));
    assert_eq!(world.give(2, 1, 500), Ok(true));
    world.coordinator.admits = false;
    world.coordinator.on_fence();
    let (author, mut outbox) = (Author([2; 32]), Outbox::default());
    let stored = world.coordinator.stored(&author);
    let member = |byte| Member { author: Author([byte; 32]), power: 1 };
    let committee = Committee::new((2..=5).map(member).collect()).unwrap();
    world.coordinator.on_epoch(&mut outbox, Epoch(2), &committee);
    let [Record::DropFloors { epoch: Epoch(1), floors }] = &outbox.records[..] else {
        panic!("{:?}", outbox.records)
    };
    assert_eq!(floors[..], [(author, Incarnation(1))]);
    assert_eq!((stored.batches, world.coordinator.stored(&author)), (2, stored));
    let mut next = batch(1, 1, 500);
    next.info.epoch = Epoch(2);
    assert_eq!(world.give_from(2, &next), Err(Refusal::DiskNearlyFull));
    world.coordinator.admits = true;
    assert_eq!(world.give_from(2, &next), Ok(true));
}

#[test]
fn claims_of_an_earlier_life_occupy_their_slots_in_each_incarnation() {
    let mut world = world(PLENTY);
    let infos: Vec<BatchInfo> = (1..=INCARNATIONS_MAX as u64)
        .flat_map(|incarnation| [2, 1].map(|counter| batch(incarnation, counter, 500).info))
        .collect();
    let digest = Digest([1; 32]);
    let recover = |world: &mut World, infos: &[BatchInfo]| {
        world.coordinator.on_recovered_claims(infos.iter().map(|info| (&digest, info)))
    };
    assert_eq!(recover(&mut world, &infos), Ok(()));
    assert_eq!(world.coordinator.on_close(), infos.len() as u64);
    assert_eq!(world.coordinator.stored(&Author([2; 32])).batches, infos.len() as u64);
    assert_eq!(world.give(99, 1, 500), Err(Refusal::TooManyIncarnations));
    assert_eq!(world.give(1, 1, 500), Err(Refusal::Equivocation), "it is taken");
    assert_eq!(world.give(1, 3, 500), Ok(true));
    let twice = [infos[0], infos[1], infos[0]];
    assert_eq!(recover(&mut self::world(PLENTY), &twice), Err(infos[0].slot()));
    // Of another epoch they only count.
    let mut world = self::world(PLENTY);
    assert_eq!(recover(&mut world, &[BatchInfo { epoch: Epoch(0), ..infos[0] }]), Ok(()));
    assert_eq!(world.coordinator.stored(&Author([2; 32])).batches, 1);
    assert_eq!(world.coordinator.on_close(), 0);
}
