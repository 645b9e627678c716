//! `BatchGenerator`: transactions of clients become sealed batches of ours.
//!
//! Invariants: a batch id is used only after the group that reserved its range is durable, and
//! never twice; an own transaction is in at most one place (pool or one outstanding batch); every
//! submission is answered exactly once. A submission is accepted by a promise of the group that
//! holds the batch of its last transaction.
//!
//! What ends unordered, because its batch expired or its epoch is over, is offered again while the
//! transactions live: they go back to the pool, and the old batch is settled in the group that
//! holds the last of the new ones. A crash in between offers some of them twice; execution drops
//! the second.
//!
//! Transactions leave the pool as fast as back-pressure lets them ([`PullRate`]), highest bucket
//! first. What is leased to clients ([`Leases`]) counts as used until it is.
//!
//! It does not decide who is sent a batch (windows, proof coordinator) nor whether one may be
//! signed (batch coordinator).

mod admit;
mod handover;
mod pulled;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub(super) use self::admit::Conditions;
use super::digest_map::DigestMap;
use super::leases::Leases;
use super::outbox::{Clock, Outbox};
use super::pool::{Pool, Ticket};
use super::port::{
    Accepted, Effect, Event, Record, Reply, RequestId, SubmitError, TransactionMeta,
};
use super::pressure;
use super::pull_rate::PullRate;
use crate::config::SequencerConfig;
use crate::types::{
    Author, Batch, BatchBody, BatchId, BatchInfo, BodyBuilder, ChainId, ChainParameters, Digest,
    Epoch, Incarnation, Timestamp,
};

/// Answers gathered for one submission.
#[derive(Debug)]
struct Submission {
    results: Vec<Result<Accepted, SubmitError>>,
    /// Transactions in the pool.
    open: usize,
}

/// A batch of ours that is not ordered yet.
#[derive(Debug)]
struct Outstanding {
    info: BatchInfo,
    metas: Arc<[TransactionMeta]>,
    body: Bytes,
}

/// A batch that has just been sealed.
#[derive(Debug)]
pub(super) struct Sealed {
    pub digest: Digest,
    pub batch: Batch,
    pub metas: Arc<[TransactionMeta]>,
}

/// Own batch ids: used only below what is durably reserved.
#[derive(Debug)]
struct Ids {
    next: u64,
    durable_until: u64,
    /// A range asked for, and the group that carries it.
    pending: Option<(u64, u64)>,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct BatchGenerator {
    author: Author,
    chain: ChainId,
    epoch: Epoch,
    incarnation: Incarnation,
    parameters: ChainParameters,
    config: SequencerConfig,
    ids: Ids,
    bounds: pressure::Bounds,
    pool: Pool,
    pub leases: Leases,
    pub rate: PullRate,
    submissions: BTreeMap<RequestId, Submission>,
    outstanding: DigestMap<Outstanding>,
    outstanding_order: BTreeSet<(Timestamp, Digest)>,
    outstanding_bytes: u64,
    outstanding_transactions: u64,
    /// When the last batch was sealed.
    last_sealed: Option<Duration>,
    /// Batches whose transactions are on their way into others, and how many still are.
    moving: BTreeMap<Digest, (BatchInfo, u32)>,
    /// Batches that are done with, and not recorded as such yet.
    settled: Vec<(Digest, BatchInfo)>,
    last_expiration: Timestamp,
}

/// What of the generator cannot change within an epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub author: Author,
    pub chain: ChainId,
    pub epoch: Epoch,
    pub incarnation: Incarnation,
    /// When this life began, on the wall clock: tells its leases from those of other lives.
    pub life: Timestamp,
}

impl BatchGenerator {
    /// `reserved` is one above the highest counter that an earlier life may have used.
    pub fn new(
        identity: &Identity,
        parameters: ChainParameters,
        config: SequencerConfig,
        reserved: u64,
    ) -> Self {
        let Identity { author, chain, epoch, incarnation, life } = *identity;
        let bounds = pressure::Bounds::new(&config);
        Self {
            author,
            chain,
            epoch,
            incarnation,
            parameters,
            ids: Ids { next: reserved, durable_until: reserved, pending: None },
            bounds,
            pool: Pool::new(config.gas_bucket_starts.clone()),
            leases: Leases::new(&config.leases, bounds.pool, life.0),
            rate: PullRate::new(config.pull_rate.clone(), config.batch_age_max),
            config,
            submissions: BTreeMap::new(),
            last_sealed: None,
            outstanding: DigestMap::default(),
            outstanding_order: BTreeSet::new(),
            outstanding_bytes: 0,
            outstanding_transactions: 0,
            moving: BTreeMap::new(),
            settled: Vec::new(),
            last_expiration: Timestamp(0),
        }
    }

    /// Any own batch of an earlier life, ordered or not: later ones must not expire before it,
    /// although the clock on the wall was set back meanwhile.
    pub fn on_recovered_own(&mut self, info: &BatchInfo) {
        if info.epoch == self.epoch && info.batch_id.incarnation == self.incarnation {
            self.last_expiration = self.last_expiration.max(info.expiration);
        }
    }

    /// An own batch of an earlier life that is not ordered yet.
    pub fn on_recovered(
        &mut self,
        digest: Digest,
        info: BatchInfo,
        metas: Arc<[TransactionMeta]>,
        body: Bytes,
    ) {
        self.keep_outstanding(digest, Outstanding { info, metas, body });
    }

    /// Asks for the next range of ids before the current one runs out.
    pub fn reserve_ids(&mut self, outbox: &mut Outbox) {
        let low_water = self.config.reservation / 2;
        if self.ids.pending.is_some() || self.ids.next + low_water < self.ids.durable_until {
            return;
        }
        let until = self.ids.durable_until + self.config.reservation;
        outbox.record(Record::Reserved { until });
        self.ids.pending = Some((until, outbox.group));
    }

    /// A group is durable.
    pub fn on_durable(&mut self, sequence: u64) {
        if let Some((until, group)) = self.ids.pending
            && group <= sequence
        {
            self.ids.durable_until = until;
            self.ids.pending = None;
        }
    }

    /// Seals one batch if one is due; the caller decides whether there is room for it. `idle` while
    /// none of ours waits for its proof.
    pub fn seal(&mut self, outbox: &mut Outbox, clock: &Clock, idle: bool) -> Option<Sealed> {
        let bucket = self.due_bucket(clock.now.monotonic, idle)?;
        self.seal_from(outbox, clock, bucket)
    }

    /// The same of what is in the pool, due or not, if it is this small.
    pub fn seal_early(
        &mut self,
        outbox: &mut Outbox,
        clock: &Clock,
        bytes_max: u64,
    ) -> Option<Sealed> {
        let bucket = self.pool.due_bucket(0, |_| true)?;
        if self.pool.bytes() > bytes_max {
            return None;
        }
        self.seal_from(outbox, clock, bucket)
    }

    fn seal_from(&mut self, outbox: &mut Outbox, clock: &Clock, bucket: u64) -> Option<Sealed> {
        if self.ids.next >= self.ids.durable_until || self.is_lagging() {
            return None;
        }
        let (builder, metas, tickets) = self.cut(clock, bucket, outbox);
        if tickets.is_empty() {
            self.pool.on_sealed(None);
            return None;
        }
        let count = builder.count();
        let body = builder.finish();
        let expiration = clock.latest().saturating_add(self.parameters.batch_lifetime());
        self.last_expiration = self.last_expiration.max(expiration);
        let info = BatchInfo {
            author: self.author,
            batch_id: BatchId { incarnation: self.incarnation, counter: self.ids.next },
            epoch: self.epoch,
            expiration: self.last_expiration,
            count,
            bytes: body.bytes().len() as u32,
            gas_bucket_start: bucket,
            root: body.root(),
        };
        self.rate.on_pulled(clock.now.monotonic, u64::from(count));
        self.last_sealed = Some(clock.now.monotonic);
        self.ids.next += 1;
        let digest = info.digest(&self.chain);
        self.pool.on_sealed(Some((digest, &info)));
        let metas: Arc<[TransactionMeta]> = metas.into();
        let kept = Outstanding { info, metas: Arc::clone(&metas), body: body.bytes().clone() };
        self.keep_outstanding(digest, kept);
        self.answer(outbox, digest, &tickets);
        Some(Sealed { digest, batch: Batch { info, body }, metas })
    }

    /// True if too much of ours waits to be ordered.
    pub fn is_lagging(&self) -> bool {
        self.outstanding_bytes >= self.config.outstanding_bytes_max.as_u64()
            || self.outstanding.len() as u64 >= self.config.outstanding_batches_max
    }

    /// When a batch is sealed whose oldest transaction arrived then. While a batch is on its way to its
    /// proof, more is gathered for the next one, so that a busy network has few batches; while none is,
    /// that would be waiting for nothing.
    fn sealing_time(&self, arrived: Duration, idle: bool) -> Duration {
        let latest = arrived + self.config.sealing_age(self.outstanding.len());
        if !idle {
            return latest;
        }
        // Many validators that are nearly idle would make too many batches together.
        let gap = self.config.batch_age_max / 2;
        let earliest = self.last_sealed.map_or(Duration::ZERO, |last| last + gap);
        (arrived + self.config.batch_age_min).max(earliest).min(latest)
    }

    fn due_bucket(&self, now: Duration, idle: bool) -> Option<u64> {
        let due = |arrived| self.sealing_time(arrived, idle) <= now;
        self.pool.due_bucket(self.config.batch_bytes_target.as_u64(), due)
    }

    /// Takes from one bucket, oldest first, as much as fits into one batch.
    fn cut(
        &mut self,
        clock: &Clock,
        bucket: u64,
        outbox: &mut Outbox,
    ) -> (BodyBuilder, Vec<TransactionMeta>, Vec<Ticket>) {
        let mut builder = BodyBuilder::new();
        let (mut metas, mut tickets) = (Vec::new(), Vec::new());
        // One transaction above the target is taken whole: the chain's bound still holds.
        let target = self.config.batch_bytes_target.as_u64() as usize;
        let bound = self.parameters.batch_bytes_max as usize;
        let allowed = self.rate.allowance(clock.now.monotonic);
        let most = u64::from(self.parameters.batch_transactions_max).min(allowed);
        while let Some(front) = self.pool.front(bucket) {
            let size = builder.bytes_with(front.transaction.bytes.len());
            let fits = size <= bound && (size <= target || builder.count() == 0);
            if !fits || u64::from(builder.count()) >= most {
                break;
            }
            let Some(pooled) = self.pool.pop(bucket) else { break };
            if pooled.transaction.expiration <= clock.latest() {
                self.give_up(outbox, &pooled.ticket);
                continue;
            }
            metas.push(TransactionMeta {
                gas_unit_price: pooled.transaction.gas_unit_price,
                expiration: pooled.transaction.expiration,
            });
            tickets.push(pooled.ticket);
            builder.push(pooled.transaction.bytes);
        }
        (builder, metas, tickets)
    }

    /// Tells everyone whose transaction sits in the new batch.
    fn answer(&mut self, outbox: &mut Outbox, batch: Digest, tickets: &[Ticket]) {
        let mut moved: BTreeMap<Digest, Vec<(u32, Accepted)>> = BTreeMap::new();
        let mut pulled = Vec::new();
        for (position, ticket) in tickets.iter().enumerate() {
            let accepted = Accepted { batch, position: position as u32 };
            match *ticket {
                Ticket::Submitted { id, ordinal } => self.settle(outbox, id, ordinal, Ok(accepted)),
                Ticket::Rebatched { from, position } => {
                    moved.entry(from).or_default().push((position, accepted));
                }
                Ticket::Pulled { key } => pulled.push((position as u32, key)),
            }
        }
        if !pulled.is_empty() {
            outbox.event(Event::Batched { batch, pulled });
        }
        for (from, moved) in moved {
            self.moved(&from, moved.len() as u32);
            outbox.event(Event::Rebatched { from, moved });
        }
    }

    fn give_up(&mut self, outbox: &mut Outbox, ticket: &Ticket) {
        match *ticket {
            Ticket::Submitted { id, ordinal } => {
                self.settle(outbox, id, ordinal, Err(SubmitError::Expired));
            }
            Ticket::Rebatched { from, position } => {
                self.moved(&from, 1);
                outbox.event(Event::Expired { batch: from, positions: vec![position] });
            }
            Ticket::Pulled { key } => {
                outbox.effect(Effect::SourceRefused(vec![(key, SubmitError::Expired)]));
            }
        }
    }

    /// Notes one result; the last one answers the submission.
    fn settle(
        &mut self,
        outbox: &mut Outbox,
        id: RequestId,
        ordinal: usize,
        result: Result<Accepted, SubmitError>,
    ) {
        let Some(submission) = self.submissions.get_mut(&id) else {
            unreachable!("{id:?} has a pooled transaction and no submission")
        };
        submission.results[ordinal] = result;
        submission.open -= 1;
        if submission.open == 0
            && let Some(submission) = self.submissions.remove(&id)
        {
            outbox.reply_durably(id, Reply::Submitted(submission.results));
        }
    }

    /// True if a batch could be sealed now, as far as the pool and the ids are concerned.
    pub fn is_due(&mut self, now: Duration, idle: bool) -> bool {
        self.ids.next < self.ids.durable_until
            && self.due_bucket(now, idle).is_some()
            && self.rate.is_due(now, self.pool.count())
    }

    /// When the next batch is due. `None` while there is no id to give it: the group that brings
    /// one wakes the sequencer.
    pub fn next_deadline(&self, idle: bool) -> Option<Duration> {
        if self.ids.next >= self.ids.durable_until {
            return None;
        }
        let due = self.sealing_time(self.pool.oldest()?, idle);
        let Some(allowed) = self.rate.next_deadline(self.pool.count()) else { return Some(due) };
        // A full batch waits for nothing but the rate.
        let is_full = self.pool.bytes() >= self.config.batch_bytes_target.as_u64();
        Some(if is_full { allowed } else { due.max(allowed) })
    }

    /// Transactions and bytes in the pool.
    pub fn pool(&self) -> (u64, u64) {
        (self.pool.count(), self.pool.bytes())
    }

    /// Own batches not ordered yet: count and bytes.
    pub fn outstanding(&self) -> (u64, u64) {
        (self.outstanding.len() as u64, self.outstanding_bytes)
    }

    /// Transactions in those.
    pub fn outstanding_transactions(&self) -> u64 {
        self.outstanding_transactions
    }

    /// Own batches not ordered yet, the newest first.
    pub fn newest(&self) -> impl Iterator<Item = (Digest, BatchInfo, BatchBody)> + '_ {
        let newest = self.outstanding_order.iter().rev();
        newest.filter_map(|(_, digest)| {
            let batch = self.outstanding.get(digest)?;
            Some((*digest, batch.info, BatchBody::new(batch.body.clone())))
        })
    }

    fn keep_outstanding(&mut self, digest: Digest, batch: Outstanding) {
        self.outstanding_bytes += batch.info.charge();
        self.outstanding_transactions += u64::from(batch.info.count);
        self.outstanding_order.insert((batch.info.expiration, digest));
        let known = self.outstanding.insert(digest, batch);
        assert!(known.is_none(), "own batch {digest:?} was sealed twice");
    }

    fn let_go(&mut self, digest: &Digest) -> Option<Outstanding> {
        let batch = self.outstanding.remove(digest)?;
        self.outstanding_order.remove(&(batch.info.expiration, *digest));
        self.outstanding_bytes -= batch.info.charge();
        self.outstanding_transactions -= u64::from(batch.info.count);
        Some(batch)
    }
}

#[cfg(test)]
mod tests;
