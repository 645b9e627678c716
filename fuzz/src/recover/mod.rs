//! What a disk may hold, whoever wrote it.
//!
//! Claims: entries of a store, and records as a store returns them, yield a typed error or a
//! sequencer that takes inputs; never a panic. A store that was recovered once, and written to
//! since, is recovered again.

mod life;
mod records;

use std::collections::BTreeSet;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use quorum_store::sequencer::Sequencer;
use quorum_store::sequencer::port::{Now, Record};
use quorum_store::store::memory::MemoryStore;
use quorum_store::store::schema::{self, Table, Write};
use quorum_store::store::{Recovered, Store as _};
use quorum_store::testkit::fuzzing;
use quorum_store::types::{BatchInfo, ChainId, Digest, Incarnation, PayloadHeader, Timestamp};

use self::life::exercise;
use crate::world;

const INCARNATION: Incarnation = Incarnation(77);

/// What the disk holds.
#[derive(Arbitrary, Debug)]
struct Case {
    /// Through the layout of the store, or straight into the sequencer.
    through_store: bool,
    records: Vec<RecordCase>,
    damage: Vec<Damage>,
    wall: u8,
}

#[derive(Arbitrary, Debug)]
enum RecordCase {
    Batch {
        batch: BatchCase,
        claims: bool,
        own: Option<u8>,
        digest: Option<u8>,
    },
    Claim {
        of: u8,
        slot: Option<BatchCase>,
    },
    Proof {
        of: u8,
        signers: u8,
        digest: Option<u8>,
    },
    Payload {
        header: HeaderCase,
        proofs: Vec<u8>,
        digest: Option<u8>,
        expiration: Option<u8>,
    },
    Commit {
        index: u8,
        header: HeaderCase,
    },
    Receipt {
        index: u8,
        at: u8,
    },
    /// A run of commits as a healthy life leaves it.
    Chain {
        from: u8,
        length: u8,
        payloads: u8,
        applied: u8,
        orders: Vec<u8>,
    },
    Cursor {
        name: u8,
        next: u8,
    },
    Reserved(u8),
    Floor {
        author: u8,
        epoch: u8,
        incarnation: u8,
        counter: u8,
    },
    Drop {
        of: u8,
    },
}

#[derive(Arbitrary, Debug, Clone, Copy)]
struct BatchCase {
    author: u8,
    incarnation: u8,
    counter: u8,
    epoch: u8,
    expiration: u8,
    body: u16,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
struct HeaderCase {
    epoch: u8,
    height: u8,
    parent: u8,
    at: u8,
}

#[derive(Arbitrary, Debug)]
enum Damage {
    Value { entry: u16, offset: u16, xor: u8 },
    Key { entry: u16, offset: u16, xor: u8 },
    Truncate { entry: u16, length: u16 },
    Remove { entry: u16 },
    Add { content: bool, key: Vec<u8>, value: Vec<u8> },
}

/// Instants and numbers close to each other and to the ends of their range.
fn number(choice: u8) -> u64 {
    match choice {
        0..200 => u64::from(choice % 8),
        200..220 => u64::MAX - u64::from(choice - 200),
        _ => (1 << 32) + u64::from(choice),
    }
}

fn instant(choice: u8) -> Timestamp {
    match choice {
        0..200 => Timestamp(world::START - 1_000_000 + 20_000 * u64::from(choice)),
        200..220 => Timestamp(u64::from(choice - 200)),
        _ => Timestamp(u64::MAX - u64::from(choice - 220)),
    }
}

/// What was made so far, to be named again.
struct Made {
    chain: ChainId,
    genesis: Digest,
    batches: Vec<(Digest, BatchInfo)>,
    headers: Vec<PayloadHeader>,
    records: Vec<Record>,
}

/// See the module docs.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary(&mut Unstructured::new(data)) else { return };
    let genesis = world::genesis();
    let chain = world::chain();
    let mut made = Made {
        chain,
        genesis: genesis.header().digest(&chain),
        batches: Vec::new(),
        headers: Vec::new(),
        records: Vec::new(),
    };
    for record in case.records.iter().take(32) {
        made.add(record);
    }
    let now = Now { monotonic: Duration::ZERO, wall: instant(case.wall) };
    let records = std::mem::take(&mut made.records);
    if !case.through_store {
        let recovered = Recovered { incarnation: INCARNATION, records };
        if let Ok(sequencer) = Sequencer::recover(world::setup(), recovered, now) {
            exercise(sequencer, None, now, &made);
        }
        return;
    }
    let mut store = damaged(&records, &case.damage);
    let Ok(recovered) = store.recover() else { return };
    let Ok(sequencer) = Sequencer::recover(world::setup(), recovered, now) else { return };
    exercise(sequencer, Some(&mut store), now, &made);
    let mut store = store.clone_durable();
    let again = store.recover().map(|recovered| Sequencer::recover(world::setup(), recovered, now));
    assert!(matches!(again, Ok(Ok(_))), "recovered once, not twice: {again:?}");
}

/// A store with the entries of these records, spoilt.
fn damaged(records: &[Record], damage: &[Damage]) -> MemoryStore {
    let chain = world::chain();
    let mut store = MemoryStore::new(world::author(0), chain, INCARNATION);
    let mut entries = fuzzing::entries(&store);
    schema::encode(records, &BTreeSet::new(), |write| match write {
        Write::Put { table, key, value } => {
            entries.push((table, key, Bytes::copy_from_slice(value.as_ref())));
        }
        Write::Delete { table, key } => {
            entries.retain(|entry| (entry.0, &entry.1) != (table, &key));
        }
    });
    for damage in damage.iter().take(16) {
        let length = entries.len().max(1);
        let at = |entry: u16| usize::from(entry) % length;
        let flip = |bytes: &mut [u8], offset: u16, xor: u8| {
            let length = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(usize::from(offset) % length) {
                *byte ^= xor;
            }
        };
        match damage {
            Damage::Value { entry, offset, xor } => {
                if let Some((_, _, value)) = entries.get_mut(at(*entry)) {
                    let mut bytes = value.to_vec();
                    flip(&mut bytes, *offset, *xor);
                    *value = bytes.into();
                }
            }
            Damage::Key { entry, offset, xor } => {
                if let Some((_, key, _)) = entries.get_mut(at(*entry)) {
                    flip(key, *offset, *xor);
                }
            }
            Damage::Truncate { entry, length } => {
                if let Some((_, _, value)) = entries.get_mut(at(*entry)) {
                    value.truncate(usize::from(*length));
                }
            }
            Damage::Remove { entry } => {
                if !entries.is_empty() {
                    entries.remove(at(*entry));
                }
            }
            Damage::Add { content, key, value } => {
                let table = if *content { Table::Content } else { Table::Control };
                entries.push((table, key.clone(), Bytes::copy_from_slice(value)));
            }
        }
    }
    for (table, key, value) in entries {
        fuzzing::put_entry(&mut store, table, key, value);
    }
    store
}
