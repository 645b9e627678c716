//! The check on the files of a database.

use super::super::super::rocks::tests::{Place, place};
use super::super::super::rocks::{RocksConfig, RocksStore};
use super::super::super::tests::OWN;
use super::super::super::{Store, StoreReader};
use super::*;

fn sound() -> Place {
    let place = place();
    place.filled();
    place
}

#[test]
fn a_sound_store_is_sound_whether_in_the_log_or_in_files() {
    let place = sound();
    let counts = check(&place.path).unwrap();
    assert!(counts.is_sound(), "{:?}", counts.problems);
    assert_eq!(counts.counts["batch"], 3);
    assert_eq!(counts.counts["claim"], 3);
    assert_eq!(counts.counts["batch content"], 3);
    assert_eq!(counts.counts["payload content"], 1);
    assert!(!bcs::to_bytes(&counts).unwrap().is_empty());
    // It changed nothing.
    let mut store = RocksStore::open(&place.path, OWN, &RocksConfig::default()).unwrap();
    assert_eq!(store.recover().unwrap().records.len(), 16);
    drop(store);
    assert_eq!(check(&place.path).unwrap(), counts);
}

#[test]
fn a_store_in_use_or_missing_is_not_checked() {
    let place = place();
    assert!(matches!(check(&place.path), Err(StoreError::Missing(_))));
    let store = place.create();
    assert!(matches!(check(&place.path), Err(StoreError::InUse(_))));
    let reader: std::sync::Arc<dyn StoreReader> = store.reader();
    drop((store, reader));
    assert!(check(&place.path).unwrap().is_sound());
}
