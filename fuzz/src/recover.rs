//! What a disk may hold, whoever wrote it.
//!
//! Claims: entries of a store, and records as a store returns them, yield a typed error or a
//! sequencer that takes inputs; never a panic. A store that was recovered once, and written to
//! since, is recovered again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use quorum_store::sequencer::Sequencer;
use quorum_store::sequencer::port::{
    BatchRecord, Effect, Input, Now, PayloadLimits, Promise, PullRequest, Record, Reply, RequestId,
    Transaction, TransactionMeta, VerifyRequest,
};
use quorum_store::store::memory::MemoryStore;
use quorum_store::store::schema::{self, Table, Write};
use quorum_store::store::{Recovered, Released, Store as _};
use quorum_store::testkit::fuzzing;
use quorum_store::types::{
    Ack, Announcement, BatchBody, BatchId, BatchInfo, ChainId, Commit, CommitIndex, CommitReceipt,
    CommitteeHash, Component, Digest, Epoch, Hello, Incarnation, Payload, PayloadContent,
    PayloadHeader, Signature, SignedBatchInfo, Slot, Timestamp, Usage,
};

use crate::{samples, world};

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

impl Made {
    fn batch(&self, of: u8) -> Option<(Digest, BatchInfo)> {
        let length = self.batches.len();
        (length > 0).then(|| self.batches[usize::from(of) % length])
    }

    fn header(&self, case: &HeaderCase, content: &PayloadContent) -> PayloadHeader {
        let parent = match case.parent {
            0..64 => self.genesis,
            64..192 => self.headers.last().map_or(self.genesis, |h| h.digest(&self.chain)),
            _ => Digest([case.parent; 32]),
        };
        PayloadHeader {
            epoch: Epoch(u64::from(case.epoch / 200)),
            height: CommitIndex(number(case.height)),
            parent,
            block_timestamp: instant(case.at),
            content_root: content.root(),
        }
    }

    fn add(&mut self, case: &RecordCase) {
        match case {
            RecordCase::Batch { batch, claims, own, digest } => {
                let (info, body) = made_batch(batch);
                let digest = digest.map_or(info.digest(&self.chain), |byte| Digest([byte; 32]));
                let meta =
                    TransactionMeta { gas_unit_price: 1, expiration: instant(batch.expiration) };
                let own = own.map(|count| vec![meta; usize::from(count % 4)].into());
                self.batches.push((digest, info));
                let record = BatchRecord { digest, info, body, claims_slot: *claims, own };
                self.records.push(Record::Batch(record));
            }
            RecordCase::Claim { of, slot } => {
                let found = self.batch(*of);
                let digest = found.map_or(Digest([*of; 32]), |(digest, _)| digest);
                let slot = match (slot, found) {
                    (Some(slot), _) => made_batch(slot).0.slot(),
                    (None, Some((_, info))) => info.slot(),
                    (None, None) => return,
                };
                self.records.push(Record::Claim { digest, slot });
            }
            RecordCase::Proof { of, signers, digest } => {
                let Some((real, info)) = self.batch(*of) else { return };
                let digest = digest.map_or(real, |byte| Digest([byte; 32]));
                let proof = Arc::new(samples::proof(info, u16::from(signers % 5)));
                self.records.push(Record::Proof { digest, proof });
            }
            RecordCase::Payload { header, proofs, digest, expiration } => {
                let content = self.content(proofs);
                let header = self.header(header, &content);
                self.payload(header, content, *digest, *expiration);
            }
            RecordCase::Commit { index, header } => {
                let header = self.header(header, &PayloadContent::default());
                let index = CommitIndex(number(*index));
                self.headers.push(header);
                self.records.push(Record::Commit(Commit { index, round: 1, header }));
            }
            RecordCase::Receipt { index, at } => {
                self.records.push(receipt(CommitIndex(number(*index)), instant(*at)));
            }
            RecordCase::Chain { from, length, payloads, applied, orders } => {
                self.chain(number(*from), *length % 8, *payloads, *applied, orders);
            }
            RecordCase::Cursor { name, next } => {
                let subscriber = format!("subscriber-{}", name % 3);
                self.records.push(Record::Cursor { subscriber, next: CommitIndex(number(*next)) });
            }
            RecordCase::Reserved(until) => {
                self.records.push(Record::Reserved { until: number(*until) });
            }
            RecordCase::Floor { author, epoch, incarnation, counter } => {
                let slot = Slot {
                    epoch: Epoch(u64::from(epoch / 200)),
                    author: world::author(author % 5),
                    batch_id: BatchId {
                        incarnation: Incarnation(number(*incarnation)),
                        counter: number(*counter),
                    },
                };
                self.records.push(Record::Floor { slot });
            }
            RecordCase::Drop { of } => {
                let Some((digest, info)) = self.batch(*of) else { return };
                self.records.push(Record::DropBatch { digest, expiration: info.expiration });
            }
        }
    }

    fn content(&self, proofs: &[u8]) -> PayloadContent {
        let infos = proofs.iter().take(4).filter_map(|of| self.batch(*of));
        let proofs = infos.map(|(_, info)| samples::proof(info, 3)).collect();
        PayloadContent { proofs, ..PayloadContent::default() }
    }

    fn payload(
        &mut self,
        header: PayloadHeader,
        content: PayloadContent,
        digest: Option<u8>,
        expiration: Option<u8>,
    ) {
        let batches = content.batches().map(|info| info.digest(&self.chain)).collect();
        let payload = Payload { header, content };
        let parameters = world::genesis().parameters;
        let expiration = expiration.map_or(payload.expiration(&parameters), instant);
        let digest = digest.map_or(payload.digest(&self.chain), |byte| Digest([byte; 32]));
        self.headers.push(header);
        let payload = Arc::new(payload);
        self.records.push(Record::Payload { digest, payload, batches, expiration });
    }

    fn chain(&mut self, from: u64, length: u8, payloads: u8, applied: u8, orders: &[u8]) {
        let mut parent = self.genesis;
        for step in 0..u64::from(length) {
            let Some(index) = from.checked_add(step).map(CommitIndex) else { return };
            let at = Timestamp(world::START + 200_000 * step);
            let order = orders.get(step as usize).map(std::slice::from_ref).unwrap_or_default();
            let content = self.content(order);
            let header = PayloadHeader {
                epoch: Epoch(0),
                height: index,
                parent,
                block_timestamp: at,
                content_root: content.root(),
            };
            parent = header.digest(&self.chain);
            if payloads >> step & 1 == 1 {
                self.payload(header, content, None, None);
            }
            self.headers.push(header);
            self.records.push(Record::Commit(Commit { index, round: step, header }));
            if step < u64::from(applied % 9) {
                self.records.push(receipt(index, at));
            }
        }
    }
}

fn made_batch(case: &BatchCase) -> (BatchInfo, Bytes) {
    let id = BatchId {
        incarnation: if case.author % 5 == 0 {
            INCARNATION
        } else {
            Incarnation(number(case.incarnation))
        },
        counter: number(case.counter),
    };
    let expiration = instant(case.expiration);
    let length = usize::from(case.body % 300) + 1;
    let transactions = vec![vec![case.counter; length]; usize::from(case.body / 300 % 4)];
    let slices: Vec<&[u8]> = transactions.iter().map(Vec::as_slice).collect();
    let mut batch = samples::batch(world::author(case.author % 5), id, expiration, &slices);
    batch.info.epoch = Epoch(u64::from(case.epoch / 200));
    if case.body > 60_000 {
        // A body that is no list of transactions.
        batch.body = BatchBody::new(Bytes::from(vec![0xff; usize::from(case.body % 64)]));
        batch.info.bytes = batch.body.bytes().len() as u32;
        batch.info.root = batch.body.root();
    }
    (batch.info, batch.body.bytes().clone())
}

fn receipt(index: CommitIndex, block_timestamp: Timestamp) -> Record {
    let ack = |component| Ack { component, freed: 0, watermark: index };
    Record::Applied(CommitReceipt { index, block_timestamp, acks: Component::ALL.map(ack) })
}

/// One input of every kind, with time passing, as a host and its peers would send them.
fn exercise(mut sequencer: Sequencer, store: Option<&mut MemoryStore>, now: Now, made: &Made) {
    let mut life = Life { sequencer: &mut sequencer, store, now, requests: 0, pulled: Vec::new() };
    life.input(Input::Tick);
    let window = Usage { bytes: 1 << 20, batches: 1 << 10 };
    let announcement = Announcement { window, released: Timestamp(0) };
    for peer in 1..world::MEMBERS {
        let (chain, committee) = (made.chain, CommitteeHash::default());
        let holds = Usage::default();
        let hello = Hello { chain, epoch: Epoch(0), committee, announcement, holds };
        life.input(Input::LinkUp { peer: world::author(peer), hello });
    }
    life.write();
    let transaction = Transaction {
        bytes: Bytes::from_static(b"transaction"),
        gas_unit_price: 5,
        expiration: life.now.wall.saturating_add(Duration::from_secs(1)),
    };
    life.request(|id| Input::Submit { id, transactions: vec![transaction] });
    life.pass(Duration::from_millis(30));
    for (digest, info) in &made.batches {
        let signer = world::author(1);
        let signature = Signature::from_bytes(&[1; 64]);
        life.input(Input::Vote(SignedBatchInfo { digest: *digest, signer, signature }));
        // Ingress names a proof by what its info says.
        let (digest, proof) = (info.digest(&made.chain), Arc::new(samples::proof(*info, 3)));
        life.input(Input::Proof { digest, proof });
    }
    let mut parents = vec![made.genesis];
    parents.extend(made.headers.iter().map(|header| header.digest(&made.chain)));
    for parent in parents {
        let height = made.headers.iter().find(|header| header.digest(&made.chain) == parent);
        let height = height.map_or(0, |header| header.height.0).saturating_add(1);
        let limits = PayloadLimits { transactions_max: 9, batch_bytes_max: 9999, batches_max: 9 };
        let request = PullRequest {
            epoch: Epoch(0),
            height: CommitIndex(height),
            parent,
            block_timestamp: life.now.wall,
            limits,
            exclude: Vec::new(),
        };
        life.request(|id| Input::Pull { id, request });
        let request = VerifyRequest { digest: parent, parent: None, responders: Vec::new() };
        life.request(|id| Input::Verify { id, request });
    }
    life.write();
    let pulled = std::mem::take(&mut life.pulled);
    for header in pulled.into_iter().chain(made.headers.iter().copied()) {
        let commit = Commit { index: header.height, round: 1, header };
        life.request(|id| Input::Commit { id, commit });
    }
    life.input(Input::Acknowledge {
        subscriber: "subscriber-0".into(),
        next: CommitIndex(u64::MAX),
    });
    life.write();
    for _ in 0..4 {
        life.pass(Duration::from_millis(700));
    }
    life.request(Input::Status);
    life.write();
}

/// A sequencer at work.
struct Life<'a> {
    sequencer: &'a mut Sequencer,
    store: Option<&'a mut MemoryStore>,
    now: Now,
    requests: u64,
    /// Headers of payloads that it proposed.
    pulled: Vec<PayloadHeader>,
}

impl Life<'_> {
    fn input(&mut self, input: Input) {
        self.sequencer.step(self.now, input);
        while let Some(effect) = self.sequencer.poll_effect() {
            if let Effect::Reply { reply: Reply::Pulled(Ok(payload)), .. } = effect {
                unreachable!("{payload:?} is not durable");
            }
        }
    }

    fn request(&mut self, input: impl FnOnce(RequestId) -> Input) {
        self.requests += 1;
        self.input(input(RequestId(self.requests)));
    }

    fn pass(&mut self, duration: Duration) {
        self.now.monotonic += duration;
        self.now.wall = self.now.wall.saturating_add(duration);
        self.input(Input::Tick);
        self.write();
    }

    fn write(&mut self) {
        while let Some(group) = self.sequencer.take_group() {
            let sequence = group.sequence();
            // Without a store the promises are lost with the group: that is allowed.
            if let Some(store) = &mut self.store {
                let persisted = fuzzing::persist(group, store);
                let Ok(persisted) = persisted else { unreachable!("in memory: {persisted:?}") };
                for promise in persisted.promises {
                    if let Released::Other(Promise::Reply {
                        reply: Reply::Pulled(Ok(payload)),
                        ..
                    }) = promise.release()
                    {
                        self.pulled.push(payload.header);
                    }
                }
            }
            self.input(Input::Durable { sequence });
        }
    }
}
