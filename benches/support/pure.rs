//! The pure core with peers that are linked and have room: what a benchmark feeds it is decided by
//! the benchmark, and what it wants to send is thrown away.

#![allow(dead_code, reason = "each benchmark uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use quorum_store::config::SequencerConfig;
use quorum_store::sequencer::port::{Effect, Input, Now, Record, RequestId, Transaction};
use quorum_store::sequencer::{Sequencer, Setup};
use quorum_store::store::{Recovered, StoreIdentity};
use quorum_store::types::{
    Announcement, Author, Batch, BatchId, BatchInfo, BodyBuilder, ChainId, ChainParameters,
    Committee, Digest, Epoch, Genesis, Hello, Incarnation, Member, Message, ProofOfStore,
    ProofSignature, Signature, SignedBatchInfo, Timestamp, Usage,
};

/// We.
pub const US: Author = Author([1; 32]);
const START: u64 = 3_600_000_000;
/// More than any benchmark uses.
const MUCH: u64 = 1 << 40;

/// One of the others, from 1 on.
pub fn peer(index: u8) -> Author {
    Author([index + 1; 32])
}

/// A sequencer of a committee with one power each.
pub struct Core {
    pub sequencer: Sequencer,
    pub chain: ChainId,
    pub parameters: ChainParameters,
    pub now: Now,
    validators: u8,
    requests: u64,
}

/// Settings under which nothing is ever short.
pub fn unbounded() -> SequencerConfig {
    let mut config = SequencerConfig {
        window_bytes: ByteSize(MUCH),
        window_batches: MUCH,
        pool_bytes_max: ByteSize(MUCH),
        pool_transactions_max: MUCH,
        outstanding_bytes_max: ByteSize(MUCH),
        outstanding_batches_max: MUCH,
        reservation: 1 << 24,
        group_bytes_max: ByteSize::mib(64),
        ..SequencerConfig::default()
    };
    config.pressure.outstanding_transactions_max = MUCH;
    config.pressure.uncertified_batches_max = MUCH;
    config.pressure.proofs_max = MUCH;
    config
}

pub fn genesis(validators: u8) -> Genesis {
    let member = |index| Member { author: Author([index + 1; 32]), power: 1 };
    Genesis {
        nonce: Digest([7; 32]),
        parameters: ChainParameters {
            batch_lifetime_micros: 3_600_000_000,
            batch_bytes_max: 4 << 20,
            ..ChainParameters::default()
        },
        committee: Committee::new((0..validators).map(member).collect()).unwrap(),
    }
}

pub fn identity(genesis: &Genesis) -> StoreIdentity {
    StoreIdentity { author: US, chain: genesis.chain_id() }
}

impl Core {
    /// Everybody is linked, and the first ids are reserved.
    pub fn new(validators: u8, config: SequencerConfig) -> Self {
        let genesis = genesis(validators);
        let (chain, parameters) = (genesis.chain_id(), genesis.parameters);
        let setup = Setup {
            author: US,
            epoch: Epoch(0),
            committee: genesis.committee.clone(),
            config,
            genesis,
        };
        let recovered = Recovered { incarnation: Incarnation(1), records: Vec::new() };
        let now = Now { monotonic: Duration::ZERO, wall: Timestamp(START) };
        let committee = setup.committee.hash();
        let sequencer = Sequencer::recover(setup, recovered, now).unwrap();
        let mut core = Self { sequencer, chain, parameters, now, validators, requests: 0 };
        let window = Usage { bytes: MUCH, batches: MUCH };
        let announcement = Announcement { window, released: Timestamp(0) };
        let hello =
            Hello { chain, epoch: Epoch(0), committee, announcement, holds: Usage::default() };
        for index in 1..validators {
            core.step(Input::LinkUp { peer: peer(index), hello });
        }
        core.step(Input::Tick);
        core.settle(|_| ());
        core
    }

    pub fn step(&mut self, input: Input) {
        self.sequencer.step(self.now, input);
    }

    /// A name for the next request.
    pub fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// What is on its way to the disk is written, and arrives; what was to be sent is returned.
    pub fn settle(&mut self, mut write: impl FnMut(&[Record])) -> Vec<Message> {
        let mut sent = Vec::new();
        loop {
            while let Some(effect) = self.sequencer.poll_effect() {
                match effect {
                    Effect::Send { message, .. } | Effect::Multicast { message, .. } => {
                        sent.push(message);
                    }
                    Effect::Refused { reason, .. } => panic!("refused: {reason:?}"),
                    _ => {}
                }
            }
            let Some(group) = self.sequencer.take_group() else { return sent };
            if !group.records().is_empty() {
                write(group.records());
            }
            self.step(Input::Durable { sequence: group.sequence() });
        }
    }

    /// A valid batch of somebody, of so many transactions of so many bytes.
    pub fn batch(
        &self,
        author: Author,
        counter: u64,
        (count, bytes): (usize, usize),
        noise: &Bytes,
    ) -> (Digest, Batch) {
        let mut builder = BodyBuilder::new();
        for index in 0..count {
            builder.push(cut(noise, counter as usize * count + index, bytes));
        }
        let body = builder.finish();
        let info = BatchInfo {
            author,
            batch_id: BatchId { incarnation: Incarnation(9), counter },
            epoch: Epoch(0),
            expiration: Timestamp(START + 3_000_000_000 + counter),
            count: count as u32,
            bytes: body.bytes().len() as u32,
            gas_bucket_start: 0,
            root: body.root(),
        };
        (info.digest(&self.chain), Batch { info, body })
    }

    /// So many transactions, whose bytes are not copied.
    pub fn transactions(
        &self,
        from: usize,
        count: usize,
        bytes: usize,
        noise: &Bytes,
    ) -> Vec<Transaction> {
        let transaction = |index| Transaction {
            bytes: cut(noise, from + index, bytes),
            gas_unit_price: 1,
            expiration: self.now.wall.saturating_add(Duration::from_secs(25)),
        };
        (0..count).map(transaction).collect()
    }

    /// Signatures of a quorum that nobody has checked.
    pub fn votes(&self, digest: Digest) -> impl Iterator<Item = Input> + use<> {
        let quorum = self.validators * 2 / 3 + 1;
        (0..quorum).map(move |index| {
            let (signer, signature) = (peer(index), Signature::from_bytes(&[1; 64]));
            Input::Vote(SignedBatchInfo { digest, signer, signature })
        })
    }

    /// The same, put together by the batch's author.
    pub fn proof(&self, digest: Digest, info: BatchInfo) -> Input {
        let quorum = u16::from(self.validators) * 2 / 3 + 1;
        let signature = Signature::from_bytes(&[1; 64]);
        let signatures = (0..quorum).map(|signer| ProofSignature { signer, signature }).collect();
        Input::Proof { digest, proof: Arc::new(ProofOfStore { info, signatures }) }
    }
}

fn cut(noise: &Bytes, number: usize, bytes: usize) -> Bytes {
    let offset = number * 977 % (noise.len() - bytes);
    noise.slice(offset..offset + bytes)
}
