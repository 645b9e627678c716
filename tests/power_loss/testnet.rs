//! The power of a whole network goes at one instant: every batch that any validator had signed for
//! is in that validator's store, every finalised payload is at a quorum, and the chain goes on.
//!
//! What was signed is read off every proof that any validator had seen when the power went, synced
//! or not: a signature in it had left its signer by then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuser::Errno;
use quorum_store::sequencer::port::Record;
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::{Store as _, StoreIdentity, StoreReader};
use quorum_store::types::{Author, ChainId, Digest, Timestamp};

use super::fs::{Draw, Fault, Kind, Variant};
use super::harness::Context;
use super::http::{Client, get};
use super::network::{Network, Validator, until};
use super::town::genesis;

const VALIDATORS: usize = 4;
/// Connections that load each validator.
const CONNECTIONS: usize = 3;
const TRANSACTION_BYTES: usize = 2000;
/// How long a network may take until it has executed what it accepted.
const PATIENCE: Duration = Duration::from_secs(40);

/// What the network had seen when the power went.
#[derive(Default)]
struct Seen {
    /// Per signer, the batches it signed for, and when each expires.
    signed: BTreeMap<Author, BTreeMap<Digest, Timestamp>>,
    /// Finalised payloads, and when each expires.
    finalised: BTreeMap<Digest, Timestamp>,
    /// The latest timestamp of a finalised block.
    consensus_time: Timestamp,
}

fn identity(store: &Path) -> StoreIdentity {
    let text = fs::read_to_string(store.join("FORMAT")).unwrap();
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let author = Author::from_hex(field("author ")).unwrap();
    StoreIdentity { author, chain: ChainId::from_hex(field("chain ")).unwrap() }
}

fn opened(store: &Path) -> (JournalStore, Vec<Record>) {
    let mut opened = JournalStore::open(store, identity(store), &JournalConfig::default()).unwrap();
    let records = opened.recover().unwrap().records;
    (opened, records)
}

impl Seen {
    /// Adds what one validator had in its cache or on its disk.
    fn add(&mut self, records: &[Record], committee: &[Author], chain: &ChainId) {
        for record in records {
            match record {
                Record::Proof { digest, proof } => {
                    for signature in &proof.signatures {
                        let signer = committee[usize::from(signature.signer)];
                        let promised = self.signed.entry(signer).or_default();
                        promised.insert(*digest, proof.info.expiration);
                    }
                }
                Record::Commit(commit) => {
                    let at = commit.header.block_timestamp;
                    let expiration = at.saturating_add(genesis().parameters.batch_lifetime());
                    self.finalised.insert(commit.header.digest(chain), expiration);
                    self.consensus_time = self.consensus_time.max(at);
                }
                _ => {}
            }
        }
    }

    /// Content may go once its expiration and the grace are over.
    fn is_over(&self, expiration: Timestamp) -> bool {
        expiration.saturating_add(genesis().parameters.grace()) < self.consensus_time
    }

    /// How many promises are held to.
    fn promises(&self) -> u64 {
        let signed: usize = self.signed.values().map(BTreeMap::len).sum();
        (signed + self.finalised.len()) as u64
    }
}

/// Looks at what everybody had seen, cuts, and holds every validator to it.
fn cut(context: &Context, network: &Network, variant: Variant) {
    let mut committee = Vec::new();
    let mut seen = Seen::default();
    for Validator { disk, .. } in &network.validators {
        // Looked at as the next process would, on a copy.
        let copy = context.mount.insert("seen", disk.look(Clone::clone));
        copy.kill();
        committee.push((identity(&copy.path().join("data/store")), copy.look(Clone::clone)));
    }
    let mut authors: Vec<Author> = committee.iter().map(|(identity, _)| identity.author).collect();
    authors.sort_unstable();
    for (identity, disk) in committee {
        let copy = context.mount.insert("seen", disk);
        let (_store, records) = opened(&copy.path().join("data/store"));
        seen.add(&records, &authors, &identity.chain);
    }
    assert!(seen.promises() > 0, "nothing was signed before the cut");
    let mut copies: BTreeMap<Digest, usize> = BTreeMap::new();
    for validator in &network.validators {
        validator.disk.cut(variant);
        let (store, _) = opened(&validator.store());
        let reader = store.reader();
        held_to(&seen, identity(&validator.store()).author, &*reader);
        for payload in seen.finalised.keys() {
            if matches!(reader.payload(payload), Ok(Some(_))) {
                *copies.entry(*payload).or_default() += 1;
            }
        }
        drop((reader, store));
        validator.check();
        context.survived(0);
    }
    for (payload, expiration) in &seen.finalised {
        let copies = copies.get(payload).copied().unwrap_or_default();
        assert!(
            copies >= 3 || seen.is_over(*expiration),
            "LOST: finalised payload {payload} is at {copies} validators"
        );
    }
    context.promised(seen.promises());
}

fn held_to(seen: &Seen, author: Author, reader: &dyn StoreReader) {
    for (batch, expiration) in seen.signed.get(&author).into_iter().flatten() {
        let found = reader.batch(batch);
        let is_there = matches!(found, Ok(Some(_)));
        assert!(is_there || seen.is_over(*expiration), "LOST: {author} signed {batch}: {found:?}");
    }
}

/// Transactions that some validator said it holds, by their names.
type Accepted = Mutex<BTreeSet<String>>;

/// Sends transactions until told to stop, or until the power goes.
fn load(address: &str, seed: u64, stop: &AtomicBool, accepted: &Accepted) {
    let mut draw = Draw::new(seed);
    let Ok(mut client) = Client::connect(address) else { return };
    while !stop.load(Ordering::Relaxed) {
        let mut bytes = vec![7; TRANSACTION_BYTES];
        bytes[..8].copy_from_slice(&draw.next().to_le_bytes());
        match client.request("POST", "/transactions", &bytes) {
            Ok((202, body)) => {
                let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
                accepted.lock().unwrap().insert(answer["id"].as_str().unwrap().to_owned());
            }
            // Back-pressure: another transaction, a little later.
            Ok(_) => std::thread::sleep(Duration::from_millis(10)),
            Err(_) => return,
        }
    }
}

/// Loads all validators for a while, then cuts the power in the middle of it.
fn loaded(network: &mut Network, seed: u64, accepted: &Accepted) {
    let stop = AtomicBool::new(false);
    let addresses: Vec<String> =
        network.validators.iter().map(|validator| validator.address.clone()).collect();
    std::thread::scope(|scope| {
        for (validator, address) in addresses.iter().enumerate() {
            for connection in 0..CONNECTIONS {
                let seed = seed * 1000 + (validator * CONNECTIONS + connection) as u64;
                let stop = &stop;
                scope.spawn(move || load(address, seed, stop, accepted));
            }
        }
        let time = Duration::from_millis(800 + Draw::new(seed).next() % 1500);
        std::thread::sleep(time);
        network.power_off();
        stop.store(true, Ordering::Relaxed);
    });
}

fn height(validator: &Validator) -> u64 {
    get(&validator.address, "/status").and_then(|status| status["height"].as_u64()).unwrap_or(0)
}

/// All agree, and what was accepted before the cut is executed after it.
fn goes_on(network: &Network, before: u64, accepted: &BTreeSet<String>) {
    let lowest = || network.validators.iter().map(height).min().unwrap();
    until("the chain goes on", PATIENCE, || lowest() > before + 2);
    let first = &network.validators[0];
    let mut missing: Vec<&String> = accepted.iter().collect();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !missing.is_empty() && std::time::Instant::now() < deadline {
        missing.retain(|id| {
            let state = get(&first.address, &format!("/transactions/{id}"));
            !state.is_some_and(|state| state["state"] == "executed")
        });
    }
    let total = accepted.len();
    assert!(missing.is_empty(), "LOST: {} of {total} accepted: {missing:?}", missing.len());
    let common = lowest();
    let digests = network.validators.iter().map(|validator| {
        let block = get(&validator.address, &format!("/blocks/{common}"));
        block.map(|block| block["state_digest"].to_string())
    });
    let digests: BTreeSet<_> = digests.collect();
    assert_eq!(digests.len(), 1, "executed states differ at height {common}: {digests:?}");
}

pub fn a_network_whose_power_goes_at_once_loses_nothing_and_goes_on(context: &Context) {
    let mut network = Network::generate(&context.mount, "network", VALIDATORS);
    let rounds = context.full_or(10, 2);
    let variants = [Variant::Clean, Variant::NamesLost, Variant::Torn(1), Variant::Torn(2)];
    network.start();
    let result = catch_unwind(AssertUnwindSafe(|| {
        for round in 0..rounds {
            let before = network.validators.iter().map(height).max().unwrap();
            let accepted = Accepted::default();
            loaded(&mut network, round, &accepted);
            cut(context, &network, variants[round as usize % variants.len()]);
            network.start();
            let accepted = accepted.into_inner().unwrap();
            println!("  round {round}: {} accepted before the cut", accepted.len());
            assert!(!accepted.is_empty(), "nothing was accepted");
            goes_on(&network, before, &accepted);
        }
    }));
    if let Err(panic) = result {
        for validator in &network.validators {
            eprintln!("{}\n", validator.log());
        }
        network.power_off();
        eprintln!("configs and logs are in {}", network.keep().display());
        std::panic::resume_unwind(panic);
    }
    network.power_off();
}

/// The control: on disks that only say they synced, a cut of all must show.
pub fn a_network_on_disks_that_lie_is_found_out(context: &Context) {
    let mut network = Network::generate(&context.mount, "liars", VALIDATORS);
    network.start();
    for validator in &network.validators {
        validator.disk.set(|disk| disk.lies = &Kind::SYNCS);
    }
    loaded(&mut network, 1, &Accepted::default());
    let found = catch_unwind(AssertUnwindSafe(|| cut(context, &network, Variant::Clean)));
    assert!(found.is_err(), "nothing was lost: the harness is blind");
}

/// A failing disk ends the process with the code that operators are told of, and it starts again.
pub fn a_validator_on_a_failing_disk_ends_with_its_exit_code(context: &Context) {
    let mut network = Network::generate(&context.mount, "alone", 1);
    let cases = [(Kind::Fsync, Errno::EIO, 10), (Kind::Write, Errno::EIO, 10)];
    for (kind, errno, code) in cases.into_iter().chain([(Kind::Write, Errno::ENOSPC, 11)]) {
        network.start();
        let validator = &mut network.validators[0];
        validator.disk.fail(Fault { kind, errno, after: 0, lasts: true, partly: false });
        let ended = validator.wait();
        assert_eq!(ended.code(), Some(code), "{kind:?} {errno:?}: {}", validator.log());
        validator.disk.kill();
    }
    network.start();
    let before = height(&network.validators[0]);
    until("the chain goes on", PATIENCE, || height(&network.validators[0]) > before);
    network.power_off();
}
