//! The generator alone: ids, when a batch is due, and what becomes of it.

use super::*;
use crate::sequencer::pool::Pooled;
use crate::sequencer::port::{Event, Now, Promise, Transaction, TransactionKey};

const MS: Duration = Duration::from_millis(1);
const AGE: Duration = Duration::from_millis(20);
/// An id for each of a few batches.
const RESERVED: u64 = 10;
/// Whether no batch of ours waits for its proof.
const BUSY: bool = false;
const IDLE: bool = true;

fn generator(change: impl FnOnce(&mut SequencerConfig)) -> BatchGenerator {
    let identity = Identity {
        author: Author([1; 32]),
        chain: ChainId([5; 32]),
        epoch: Epoch(0),
        incarnation: Incarnation(3),
        life: Timestamp(1),
    };
    let mut config = SequencerConfig::default();
    (config.batch_age_max, config.reservation) = (AGE, 256);
    change(&mut config);
    BatchGenerator::new(&identity, ChainParameters::default(), config, RESERVED)
}

/// The same, with ids.
fn ready(change: impl FnOnce(&mut SequencerConfig)) -> BatchGenerator {
    let (mut generator, mut outbox) = (generator(change), Outbox::default());
    generator.reserve_ids(&mut outbox);
    generator.on_durable(outbox.group);
    generator
}

fn clock(millis: u64, consensus: u64) -> Clock {
    let now = Now { monotonic: MS * millis as u32, wall: Timestamp(1000) };
    Clock { now, consensus: Timestamp(consensus) }
}

fn pool(generator: &mut BatchGenerator, length: usize, millis: u64) {
    let bytes = bytes::Bytes::from(vec![7; length]);
    let ticket = Ticket::Pulled { key: TransactionKey::of(&bytes) };
    let expiration = Timestamp(u64::MAX / 2);
    let transaction = Transaction { bytes, gas_unit_price: 5, expiration };
    generator.pool.push(Pooled { transaction, ticket, arrived: MS * millis as u32 });
}

fn seal(generator: &mut BatchGenerator, millis: u64) -> Option<Sealed> {
    generator.seal(&mut Outbox::default(), &clock(millis, 0), BUSY)
}

#[test]
fn ids_are_used_once_they_are_reserved_on_disk_and_asked_for_before_half_are_left() {
    let mut generator = generator(|_| {});
    pool(&mut generator, 100, 0);
    let due = |generator: &mut BatchGenerator| {
        (generator.is_due(AGE, BUSY), generator.next_deadline(BUSY).is_some())
    };
    assert_eq!(due(&mut generator), (false, false));
    assert!(seal(&mut generator, 20).is_none());
    let mut outbox = Outbox { group: 4, ..Outbox::default() };
    generator.reserve_ids(&mut outbox);
    generator.reserve_ids(&mut outbox);
    assert!(matches!(outbox.records[..], [Record::Reserved { until: 266 }]), "asked for once");
    generator.on_durable(3);
    assert_eq!(due(&mut generator), (false, false), "not on disk yet");
    generator.on_durable(4);
    assert_eq!(due(&mut generator), (true, true));
    assert_eq!(seal(&mut generator, 20).unwrap().batch.info.batch_id.counter, RESERVED);
    for (next, asks) in [(137, false), (138, true)] {
        let mut outbox = Outbox::default();
        generator.ids.next = next;
        generator.reserve_ids(&mut outbox);
        assert_eq!(outbox.records.len(), usize::from(asks), "{next}");
    }
    generator.ids.next = 266;
    pool(&mut generator, 100, 0);
    assert_eq!(due(&mut generator), (false, false), "used up");
}

#[test]
fn a_batch_is_due_when_its_oldest_transaction_is_old_or_when_it_is_full() {
    let mut generator = ready(|config| config.batch_bytes_target = bytesize::ByteSize(1000));
    assert_eq!(generator.next_deadline(BUSY), None, "the pool is empty");
    pool(&mut generator, 100, 5);
    pool(&mut generator, 100, 9);
    assert_eq!(generator.next_deadline(BUSY), Some(25 * MS));
    assert!(
        !generator.is_due(Duration::from_nanos(24_999_999), BUSY)
            && generator.is_due(25 * MS, BUSY)
    );
    pool(&mut generator, 799, 9);
    assert!(!generator.is_due(9 * MS, BUSY), "a byte is missing");
    pool(&mut generator, 1, 9);
    assert!(generator.is_due(9 * MS, BUSY));
}

#[test]
fn while_no_batch_waits_for_its_proof_the_next_one_is_sealed_early_but_not_often() {
    let mut generator = ready(|config| {
        (config.batch_age_max, config.batch_age_min) = (20 * MS, 5 * MS);
    });
    pool(&mut generator, 100, 40);
    let due = |generator: &BatchGenerator| [IDLE, BUSY].map(|idle| generator.next_deadline(idle));
    assert_eq!(due(&generator), [45, 60].map(|due| Some(MS * due)));
    let early = |generator: &mut BatchGenerator, millis, idle| {
        generator.seal(&mut Outbox::default(), &clock(millis, 0), idle).is_some()
    };
    assert!(!early(&mut generator, 44, IDLE) && !early(&mut generator, 45, BUSY));
    assert!(generator.is_due(45 * MS, IDLE) && early(&mut generator, 45, IDLE));
    // Half of the other age later at the earliest.
    pool(&mut generator, 100, 46);
    assert_eq!(due(&generator), [55, 66].map(|due| Some(MS * due)));
    assert!(!early(&mut generator, 54, IDLE) && early(&mut generator, 55, IDLE));
    // Where batches may not be old at all, they are not older.
    let mut generator = ready(|config| {
        (config.batch_age_max, config.batch_age_min) = (2 * MS, 5 * MS);
    });
    pool(&mut generator, 100, 40);
    assert_eq!(due(&generator), [42, 42].map(|due| Some(MS * due)));
}

#[test]
fn under_pressure_the_rate_decides_too() {
    let config = |config: &mut SequencerConfig| {
        config.batch_bytes_target = bytesize::ByteSize(1000);
        (config.pull_rate.min, config.pull_rate.max) = (10, 20);
    };
    let mut generator = ready(config);
    generator.rate.on_pressure(Duration::ZERO, true);
    assert_eq!(generator.rate.limit(), Some(10));
    pool(&mut generator, 100, 0);
    // One transaction in a tenth of a second, however old it is.
    assert_eq!(generator.next_deadline(BUSY), Some(100 * MS));
    assert!(!generator.is_due(99 * MS, BUSY) && generator.is_due(100 * MS, BUSY));
    // One that is young waits for its age, if not for a full batch.
    let mut generator = ready(config);
    generator.rate.on_pressure(Duration::ZERO, true);
    pool(&mut generator, 100, 90);
    assert_eq!(generator.next_deadline(BUSY), Some(110 * MS));
    pool(&mut generator, 900, 90);
    assert_eq!(generator.next_deadline(BUSY), Some(100 * MS));
}

#[test]
fn batches_that_wait_are_counted_and_too_many_of_them_stop_sealing() {
    let mut first = ready(|_| {});
    pool(&mut first, 100, 0);
    let charge = seal(&mut first, 20).unwrap().batch.info.charge();
    for (bytes, batches, fit) in [(u64::MAX, 2, 2), (2 * charge, 9, 2), (2 * charge + 1, 9, 3)] {
        let mut generator = ready(|config| {
            config.outstanding_bytes_max = bytesize::ByteSize(bytes);
            config.outstanding_batches_max = batches;
        });
        let mut newest = Vec::new();
        for number in 0..4 {
            pool(&mut generator, 100, number);
            assert_eq!(generator.is_lagging(), number >= fit, "{number} of {fit}");
            let sealed = seal(&mut generator, 50 + number);
            assert_eq!(sealed.is_some(), number < fit);
            newest.extend(sealed.map(|sealed| sealed.batch.info));
        }
        let charge: u64 = newest.iter().map(BatchInfo::charge).sum();
        assert_eq!(generator.outstanding(), (fit, charge));
        assert_eq!(generator.outstanding_transactions(), fit);
        assert_eq!(generator.newest().count() as u64, fit);
    }
}

#[test]
fn what_a_block_orders_in_time_is_done_with_and_what_it_orders_too_late_goes_back() {
    for (late, freed) in [(0, 1), (1, 0)] {
        let mut generator = ready(|_| {});
        pool(&mut generator, 100, 0);
        let Sealed { digest, batch, .. } = seal(&mut generator, 20).unwrap();
        let block = batch.info.expiration.0 + late;
        let mut outbox = Outbox::default();
        let ordered = [(digest, batch.info)];
        let clock = clock(30, block);
        let done = generator.on_commit(&mut outbox, &clock, &ordered, Timestamp(block));
        assert_eq!(done, freed, "{late} late");
        assert_eq!((generator.outstanding().0, generator.pool().0), (0, late));
        assert_eq!(generator.take_settled(), []);
        if late == 0 {
            continue;
        }
        // It goes with another one, and then the first is settled.
        assert!(generator.seal(&mut outbox, &clock, BUSY).is_none(), "not old enough");
        let again = generator.seal(&mut outbox, &self::clock(50, block), BUSY).unwrap();
        assert_eq!(generator.take_settled(), [(digest, batch.info)]);
        let told = outbox.promises.iter().find_map(|promise| match promise {
            Promise::Event(Event::Rebatched { from, moved }) => Some((*from, moved.clone())),
            _ => None,
        });
        let accepted = Accepted { batch: again.digest, position: 0 };
        assert_eq!(told, Some((digest, vec![(0, accepted)])));
    }
    // Of another author, whatever it says.
    let mut generator = ready(|_| {});
    pool(&mut generator, 100, 0);
    let Sealed { digest, batch, .. } = seal(&mut generator, 20).unwrap();
    let info = BatchInfo { author: Author([2; 32]), ..batch.info };
    let ordered = [(digest, info)];
    let mut outbox = Outbox::default();
    assert_eq!(generator.on_commit(&mut outbox, &clock(30, 0), &ordered, Timestamp(0)), 0);
    assert_eq!(generator.outstanding().0, 1);
}
