//! Records from choices.

use std::sync::Arc;

use bytes::Bytes;
use quorum_store::sequencer::port::{BatchRecord, Record, TransactionMeta};
use quorum_store::types::{
    Ack, BatchBody, BatchId, BatchInfo, Commit, CommitIndex, CommitReceipt, Component, Digest,
    Epoch, Incarnation, Payload, PayloadContent, PayloadHeader, Slot, Timestamp,
};

use super::{BatchCase, HeaderCase, INCARNATION, Made, RecordCase, instant, number};
use crate::{samples, world};

impl Made {
    pub(super) fn batch(&self, of: u8) -> Option<(Digest, BatchInfo)> {
        let length = self.batches.len();
        (length > 0).then(|| self.batches[usize::from(of) % length])
    }

    pub(super) fn header(&self, case: HeaderCase, content: &PayloadContent) -> PayloadHeader {
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

    pub(super) fn add(&mut self, case: &RecordCase) {
        match case {
            RecordCase::Batch { batch, claims, own, digest } => {
                let (info, body) = made_batch(*batch);
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
                    (Some(slot), _) => made_batch(*slot).0.slot(),
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
                let header = self.header(*header, &content);
                self.payload(header, content, *digest, *expiration);
            }
            RecordCase::Commit { index, header } => {
                let header = self.header(*header, &PayloadContent::default());
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

    pub(super) fn content(&self, proofs: &[u8]) -> PayloadContent {
        let infos = proofs.iter().take(4).filter_map(|of| self.batch(*of));
        let proofs = infos.map(|(_, info)| samples::proof(info, 3)).collect();
        PayloadContent { proofs, ..PayloadContent::default() }
    }

    pub(super) fn payload(
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

    pub(super) fn chain(
        &mut self,
        from: u64,
        length: u8,
        payloads: u8,
        applied: u8,
        orders: &[u8],
    ) {
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

fn made_batch(case: BatchCase) -> (BatchInfo, Bytes) {
    let id = BatchId {
        incarnation: if case.author.is_multiple_of(5) {
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
