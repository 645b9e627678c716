//! One random list of groups, cut before every operation, on the real store and on the model of it
//! that simulation trusts: what the real one has left must be one of the states the model allows,
//! which are all groups that were acknowledged, and perhaps the one in flight, whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use quorum_store::sequencer::port::{BatchRecord, Record, TransactionMeta};
use quorum_store::store::memory::MemoryStore;
use quorum_store::store::{Store, StoreReader};
use quorum_store::types::{
    Ack, Author, BatchBody, BatchId, BatchInfo, Commit, CommitIndex, CommitReceipt, Component,
    Digest, Epoch, Incarnation, Payload, PayloadContent, PayloadHeader, ProofOfStore, Slot,
    Timestamp,
};

use super::enumeration::{LANES, empty, told};
use super::fs::{Disk, Draw, Variant};
use super::harness::Context;
use super::town::{create, identity, open};

const GROUPS: usize = 14;

/// Makes groups that fit what the ones before have left.
struct Maker {
    draw: Draw,
    counter: u64,
    /// What can be referred to or dropped: batches and payloads.
    batches: Vec<BatchInfo>,
    payloads: Vec<(Digest, Timestamp)>,
    last: Option<Payload>,
    committed: u64,
}

impl Maker {
    fn new(seed: u64) -> Self {
        Self {
            draw: Draw::new(seed),
            counter: 0,
            batches: Vec::new(),
            payloads: Vec::new(),
            last: None,
            committed: 0,
        }
    }

    fn groups(mut self) -> Vec<Vec<Record>> {
        (0..GROUPS).map(|_| self.group()).collect()
    }

    fn group(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        for _ in 0..=self.draw.below(4) {
            match self.draw.below(9) {
                0..=2 => records.push(self.batch()),
                3 => records.extend(self.proof()),
                4 => records.push(self.payload()),
                5 => records.extend(self.commit()),
                6 => records.push(Record::Reserved { until: self.draw.next() % 1000 }),
                7 => {
                    let next = CommitIndex(self.draw.next() % 9);
                    records.push(Record::Cursor { subscriber: "executor".into(), next });
                }
                _ => records.extend(self.drop_one()),
            }
        }
        records
    }

    fn batch(&mut self) -> Record {
        self.counter += 1;
        // Often so large that segments fill.
        let length = if self.draw.below(2) == 0 { 180 << 10 } else { self.draw.below(3000) + 4 };
        let body = BatchBody::new(Bytes::from(vec![self.counter as u8; length]));
        let own = self.draw.below(3) == 0;
        let author = if own { identity().author } else { Author([7; 32]) };
        let info = BatchInfo {
            author,
            batch_id: BatchId { incarnation: Incarnation(3), counter: self.counter },
            epoch: Epoch(0),
            expiration: Timestamp(1000 + self.draw.next() % 1000),
            count: 1,
            bytes: length as u32,
            gas_bucket_start: 0,
            root: body.root(),
        };
        self.batches.push(info);
        let meta = TransactionMeta { gas_unit_price: 1, expiration: Timestamp(9) };
        let own = own.then(|| Arc::from([meta].as_slice()));
        let (digest, body) = (digest_of(&info), body.bytes().clone());
        Record::Batch(BatchRecord { digest, info, body, claims_slot: true, own })
    }

    fn proof(&mut self) -> Option<Record> {
        let info = self.any_batch()?;
        let proof = Arc::new(ProofOfStore { info, signatures: Vec::new() });
        Some(Record::Proof { digest: digest_of(&info), proof })
    }

    fn any_batch(&mut self) -> Option<BatchInfo> {
        let count = self.batches.len();
        (count > 0).then(|| self.batches[self.draw.below(count)])
    }

    fn payload(&mut self) -> Record {
        let infos: Vec<_> = self.any_batch().into_iter().collect();
        let proof = |info: &BatchInfo| ProofOfStore { info: *info, signatures: Vec::new() };
        let proofs = infos.iter().map(proof).collect();
        let content = PayloadContent { proofs, ..PayloadContent::default() };
        let header = PayloadHeader {
            epoch: Epoch(0),
            height: CommitIndex(self.committed + 1),
            parent: Digest([self.draw.next() as u8; 32]),
            block_timestamp: Timestamp(100 + self.committed),
            content_root: content.root(),
        };
        let payload = Payload { header, content };
        let (digest, expiration) = (payload.digest(&identity().chain), Timestamp(3000));
        self.payloads.push((digest, expiration));
        self.last = Some(payload.clone());
        let batches = infos.iter().map(digest_of).collect();
        Record::Payload { digest, payload: Arc::new(payload), batches, expiration }
    }

    /// The commit of the newest payload, and its receipt.
    fn commit(&mut self) -> Vec<Record> {
        let Some(payload) = self.last.take() else { return Vec::new() };
        self.committed += 1;
        let index = CommitIndex(self.committed);
        let acks = Component::ALL.map(|component| Ack { component, freed: 0, watermark: index });
        let block_timestamp = payload.header.block_timestamp;
        vec![
            Record::Commit(Commit { index, round: index.0, header: payload.header }),
            Record::Applied(CommitReceipt { index, block_timestamp, acks }),
        ]
    }

    fn drop_one(&mut self) -> Vec<Record> {
        if self.batches.is_empty() {
            return Vec::new();
        }
        let info = self.batches.remove(self.draw.below(self.batches.len()));
        let Slot { epoch, author, batch_id } = info.slot();
        let batch_id = BatchId { counter: batch_id.counter.min(1), ..batch_id };
        vec![
            Record::DropBatch { digest: digest_of(&info), expiration: info.expiration },
            Record::Floor { slot: Slot { epoch, author, batch_id } },
        ]
    }
}

fn digest_of(info: &BatchInfo) -> Digest {
    info.digest(&identity().chain)
}

/// Everything a store gives back, so that two can be compared.
fn state(store: &mut dyn Store, groups: &[Vec<Record>]) -> String {
    let recovered = store.recover().unwrap();
    let mut state = format!("{:#?}\n", recovered.records);
    let reader: Arc<dyn StoreReader> = store.reader();
    for record in groups.iter().flatten() {
        let given = match record {
            Record::Batch(batch) => format!("{:?}", reader.batch(&batch.digest).unwrap()),
            Record::Proof { digest, .. } => format!("{:?}", reader.proof(digest).unwrap()),
            Record::Payload { digest, .. } => format!("{:?}", reader.payload(digest).unwrap()),
            Record::Applied(receipt) => format!("{:?}", reader.receipt(receipt.index).unwrap()),
            _ => continue,
        };
        state.push_str(&given);
        state.push('\n');
    }
    state
}

/// The states after 0, 1, ... groups, as the model has them.
fn model(groups: &[Vec<Record>]) -> Vec<String> {
    let mut store = MemoryStore::new(identity().author, identity().chain, Incarnation(1));
    let mut states = vec![state(&mut store.clone_durable(), groups)];
    for group in groups {
        store.commit(group).unwrap();
        states.push(state(&mut store.clone_durable(), groups));
    }
    states
}

/// Cuts before operation `number`, goes on with what is left, and so on to the end of the list.
/// Returns how often the power went.
fn run(context: &Context, lane: usize, start: &Disk, seed: u64, number: u64) -> u64 {
    let groups = Maker::new(seed).groups();
    let states = model(&groups);
    let disk = context.mount.insert(&format!("differential-{lane}"), start.clone());
    let (mut at, mut cuts) = (0, 0);
    disk.cut_at(number);
    loop {
        let acknowledged = at + acknowledged(&disk, &groups[at..]);
        let died = disk.look(|disk| disk.dead);
        assert!(died || acknowledged == groups.len(), "failed without a cut");
        let variant = [Variant::Clean, Variant::NamesLost, Variant::Torn(number)];
        disk.cut(variant[(number + cuts) as usize % 3]);
        cuts += 1;
        let mut store = open(disk.path()).unwrap();
        let found = state(&mut store, &groups);
        let allowed = acknowledged..=(acknowledged + 1).min(groups.len());
        let is_now = allowed.clone().find(|groups| states[*groups] == found);
        let Some(is_now) = is_now else {
            panic!(
                "after {acknowledged} acknowledged groups, not what the model allows:\n{found}\n\
                 instead of\n{}",
                states[acknowledged]
            );
        };
        if !died {
            return cuts;
        }
        at = is_now;
        // Later ones fall elsewhere, and rarer, so that the list comes to its end.
        disk.cut_at(number / 2 + 20 * cuts);
    }
}

/// Opens, commits the groups, and counts those that returned.
fn acknowledged(disk: &super::fs::Power, groups: &[Vec<Record>]) -> usize {
    let Ok(mut store) = open(disk.path()) else { return 0 };
    if store.recover().is_err() {
        return 0;
    }
    groups.iter().take_while(|group| store.commit(group).is_ok()).count()
}

pub fn the_real_store_leaves_what_the_model_of_it_allows(context: &Context) {
    let disk = context.mount.disk("differential");
    create(disk.path()).unwrap();
    let start = empty(context, "differential").disk;
    for seed in 0..context.full_or(10, 1) {
        let (next, cuts) = (AtomicU64::new(0), AtomicU64::new(0));
        // More than a run over the whole list has.
        let (stride, last) = (context.full_or(1, 5), 140);
        thread::scope(|scope| {
            for lane in 0..LANES {
                let (next, cuts, start) = (&next, &cuts, &start);
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(stride, Ordering::Relaxed);
                        if number > last {
                            return;
                        }
                        let at = format!("seed {seed}, before operation {number}");
                        let went = told(&at, || run(context, lane, start, seed, number));
                        (0..went).for_each(|_| context.survived(0));
                        cuts.fetch_add(went, Ordering::Relaxed);
                    }
                });
            }
        });
        println!("  seed {seed}: {} cuts", cuts.load(Ordering::Relaxed));
    }
}
