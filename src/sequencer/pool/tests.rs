//! The pool alone: prices, order, and what it holds.

use bytes::Bytes;

use super::*;
use crate::types::{Timestamp, samples};

fn pool() -> Pool {
    Pool::new(vec![0, 10, 100])
}

fn push(pool: &mut Pool, gas_unit_price: u64, text: &'static str, seconds: u64) {
    let bytes = Bytes::from_static(text.as_bytes());
    let transaction = Transaction { bytes, gas_unit_price, expiration: Timestamp(1) };
    let (from, position) = (Digest([1; 32]), 0);
    let ticket = Ticket::Rebatched { from, position };
    pool.push(Pooled { transaction, ticket, arrived: Duration::from_secs(seconds) });
}

#[test]
fn a_price_belongs_to_the_highest_bucket_that_starts_at_or_below_it() {
    let buckets = [0, 9, 10, 99, 100, u64::MAX].map(|price| pool().bucket_of(price));
    assert_eq!(buckets, [0, 0, 10, 10, 100, 100]);
}

#[test]
fn the_oldest_of_a_bucket_comes_first_and_what_is_left_is_counted() {
    let mut pool = pool();
    for (price, text, seconds) in [(10, "four", 4), (15, "three", 2), (0, "nine", 3)] {
        push(&mut pool, price, text, seconds);
    }
    assert_eq!((pool.bytes(), pool.count(), pool.oldest()), (13, 3, Some(Duration::from_secs(3))));
    assert!(pool.front(100).is_none() && pool.pop(100).is_none());
    assert_eq!(pool.front(10).unwrap().transaction.bytes, "four");
    assert_eq!(pool.pop(10).unwrap().transaction.bytes, "four");
    assert_eq!((pool.bytes(), pool.count(), pool.oldest()), (9, 2, Some(Duration::from_secs(2))));
    assert_eq!(pool.pop(10).unwrap().transaction.bytes, "three");
    assert!(pool.pop(10).is_none());
    let drained: Vec<_> = pool.drain().into_iter().map(|p| p.transaction.bytes).collect();
    assert_eq!((drained, pool.bytes(), pool.count()), (vec![Bytes::from("nine")], 0, 0));
    assert_eq!(pool.oldest(), None);
}

#[test]
fn the_highest_bucket_is_due_when_there_is_enough_else_the_highest_that_has_waited() {
    let mut pool = pool();
    assert_eq!(pool.due_bucket(0, |_| true), None);
    for (price, seconds) in [(0, 1), (10, 2), (100, 3)] {
        push(&mut pool, price, "four", seconds);
    }
    let due = |target, by| pool.due_bucket(target, |arrived| arrived <= Duration::from_secs(by));
    assert_eq!([12, 13].map(|target| due(target, 0)), [Some(100), None]);
    assert_eq!([1, 2, 3].map(|by| due(13, by)), [Some(0), Some(10), Some(100)]);
}

#[test]
fn what_left_the_pool_is_in_progress_as_long_as_its_batch_or_not_at_all() {
    let mut pool = pool();
    push(&mut pool, 0, "one", 1);
    pool.track();
    push(&mut pool, 0, "two", 1);
    push(&mut pool, 0, "three", 1);
    let held = |pool: &Pool| {
        let set = pool.in_progress.as_ref().unwrap();
        ["one", "two", "three"].map(|text| set.contains(&TransactionKey::of(text.as_bytes())))
    };
    assert_eq!(held(&pool), [true; 3]);
    pool.pop(0);
    pool.on_sealed(None);
    assert_eq!(held(&pool), [false, true, true], "in no batch");
    pool.pop(0);
    assert_eq!(held(&pool), [false, true, true]);
    let info = samples::batch(1, 1, &[b"two"]).info;
    pool.on_sealed(Some((Digest([3; 32]), &info)));
    assert_eq!(held(&pool), [false, true, true], "in a batch");
    assert_eq!(pool.in_progress.as_ref().unwrap().held_by(&info.author), 1);
    pool.drain();
    assert_eq!(held(&pool), [false, true, false]);
}
