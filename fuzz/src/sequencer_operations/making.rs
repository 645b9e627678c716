//! Batches and payloads of others, from choices.

use std::sync::Arc;
use std::time::Duration;

use quorum_store::types::{
    Author, Batch, BatchId, Digest, Epoch, Incarnation, Payload, PayloadHeader, Timestamp,
};

use super::model::{Asked, Known, Peer};
use super::operations::{BatchCase, PayloadCase};
use super::{Run, pick};
use crate::world::chain;
use crate::{samples, world};

impl Run {
    pub(super) fn make_batch(&mut self, case: BatchCase) -> Batch {
        let id = BatchId {
            incarnation: Incarnation(u64::from(case.incarnation / 25)),
            counter: u64::from(case.counter % 24),
        };
        let latest = self.now.wall.max(self.model.consensus());
        let longest = latest.saturating_add(world::LIFETIME + world::ALLOWANCE);
        // Mostly admissible; sometimes a little too late, or long over.
        let expiration = Timestamp(longest.0 + 20_000 - 10_000 * u64::from(case.expiration));
        let transaction = vec![case.size; usize::from(case.size) + 1];
        let author = world::author(1 + case.author % world::MEMBERS);
        let mut batch = samples::batch(author, id, expiration, &[&transaction]);
        batch.info.epoch = Epoch(u64::from(case.epoch / 250));
        batch.info.gas_bucket_start = u64::from(case.size % 3);
        let digest = batch.info.digest(&chain());
        if self.model.batches.insert(digest, batch.clone()).is_none() {
            self.batches.push(digest);
        }
        batch
    }

    pub(super) fn make_payload(&mut self, case: &PayloadCase) -> Digest {
        let on = self.header(case.parent);
        let later = Duration::from_millis(u64::from(case.later) * 8);
        let at = on.block_timestamp.max(Timestamp(world::START)).saturating_add(later);
        let height = match case.height {
            0..230 => on.height.0.saturating_add(1),
            230..250 => u64::from(case.height),
            _ => u64::MAX - u64::from(case.height % 2),
        };
        let picked: Vec<_> =
            case.batches.iter().take(4).filter_map(|which| pick(&self.batches, *which)).collect();
        let infos = picked.iter().map(|digest| self.model.batches[digest].info);
        let proofs: Vec<_> = infos.map(|info| samples::proof(info, 3)).collect();
        let mut distinct = picked.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let valid = !case.invalid
            && distinct.len() == picked.len()
            && proofs.iter().all(|p| p.info.expiration >= at && p.info.epoch == Epoch(0));
        let payload = samples::payload(on.digest(&chain()), height, at, proofs);
        self.know(Arc::new(payload), valid)
    }

    pub(super) fn know(&mut self, payload: Arc<Payload>, valid: bool) -> Digest {
        let digest = payload.digest(&chain());
        let batches = payload.content.batches().map(|info| info.digest(&chain())).collect();
        if !self.model.payloads.contains_key(&digest) {
            self.headers.push(payload.header);
            self.model.payloads.insert(digest, Known { payload, batches, valid });
        }
        digest
    }

    /// A payload's header; small numbers count from the last one.
    pub(super) fn header(&self, which: u8) -> PayloadHeader {
        let length = self.headers.len();
        self.headers[length - 1 - usize::from(which) % length.min(16)]
    }

    pub(super) fn own_batch(&self, which: u8) -> Option<Digest> {
        let own: Vec<_> = self.model.own.values().copied().collect();
        pick(&own, which).filter(|_| which < 250)
    }

    pub(super) fn is_cancelled_fetch(&self, digest: Digest) -> bool {
        let of = |asked: &Asked| matches!(asked, Asked::Fetch(d, _) if *d == digest);
        let mut ids = self.model.asked.iter().filter(|(_, asked)| of(asked)).map(|(id, _)| id);
        ids.all(|id| self.model.cancelled.contains(id))
    }

    pub(super) fn peer(&mut self, peer: Author) -> &mut Peer {
        self.model.peers.entry(peer).or_default()
    }
}
