//! What becomes of own batches: ordered, offered again, or given back.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{BatchGenerator, Outstanding};
use crate::sequencer::outbox::{Clock, Outbox};
use crate::sequencer::pool::{Pooled, Ticket};
use crate::sequencer::port::{Event, ReturnReason, SubmitError, Transaction, TransactionMeta};
use crate::types::{BatchBody, BatchInfo, Digest, Epoch, Timestamp};

impl BatchGenerator {
    /// An own batch of an earlier life that can be ordered no more, in no commit: it is offered
    /// again.
    pub fn on_recovered_unordered(
        &mut self,
        outbox: &mut Outbox,
        clock: &Clock,
        digest: Digest,
        info: BatchInfo,
        metas: Arc<[TransactionMeta]>,
        body: Bytes,
    ) {
        self.last_expiration = self.last_expiration.max(info.expiration);
        self.offer_again(outbox, clock, digest, Outstanding { info, metas, body });
    }

    /// So many transactions of an old batch have found their place, or expired.
    pub(super) fn moved(&mut self, from: &Digest, count: u32) {
        let Some((_, left)) = self.moving.get_mut(from) else {
            unreachable!("{from:?} moved and was not moving")
        };
        *left -= count;
        if *left == 0
            && let Some((info, _)) = self.moving.remove(from)
        {
            self.settled.push((*from, info));
        }
    }

    /// Own batches whose transactions are all elsewhere: recorded by the caller, if still held.
    pub fn take_settled(&mut self) -> Vec<(Digest, BatchInfo)> {
        std::mem::take(&mut self.settled)
    }

    /// Batches that a commit ordered are done with, unless its block came too late for them: what
    /// was skipped is batched again. Returns how many transactions were let go.
    pub fn on_commit(
        &mut self,
        outbox: &mut Outbox,
        clock: &Clock,
        ordered: &[(Digest, BatchInfo)],
        block_timestamp: Timestamp,
    ) -> u64 {
        let mut freed = 0;
        for (digest, info) in ordered {
            if info.author != self.author || info.expiration < block_timestamp {
                continue;
            }
            if let Some(done) = self.let_go(digest) {
                freed += u64::from(done.info.count);
            }
        }
        self.rebatch_expired(outbox, clock);
        freed
    }

    /// What consensus time has passed can never be executed: its transactions are batched again.
    fn rebatch_expired(&mut self, outbox: &mut Outbox, clock: &Clock) {
        while let Some(&(expiration, digest)) = self.outstanding_order.first() {
            if expiration >= clock.consensus {
                break;
            }
            let Some(batch) = self.let_go(&digest) else { break };
            self.offer_again(outbox, clock, digest, batch);
        }
    }

    /// Transactions of a batch that will not be ordered go back to the pool. Returns how many.
    fn offer_again(
        &mut self,
        outbox: &mut Outbox,
        clock: &Clock,
        digest: Digest,
        batch: Outstanding,
    ) -> u64 {
        let body = BatchBody::new(batch.body);
        let mut expired = Vec::new();
        let mut again = 0;
        for (position, (bytes, meta)) in body.transactions().zip(&*batch.metas).enumerate() {
            let position = position as u32;
            if meta.expiration <= clock.latest() {
                expired.push(position);
                continue;
            }
            // Bytes of their own: a slice would keep the whole old body in memory.
            let transaction = Transaction {
                bytes: Bytes::copy_from_slice(&bytes),
                gas_unit_price: meta.gas_unit_price,
                expiration: meta.expiration,
            };
            let ticket = Ticket::Rebatched { from: digest, position };
            self.pool.push(Pooled { transaction, ticket, arrived: clock.now.monotonic });
            again += 1;
        }
        if !expired.is_empty() {
            outbox.event(Event::Expired { batch: digest, positions: expired });
        }
        if again == 0 {
            self.settled.push((digest, batch.info));
        } else {
            self.moving.insert(digest, (batch.info, again));
        }
        u64::from(again)
    }

    /// The epoch is over: whatever of ours is in no commit is offered again in the next one,
    /// certified or not. Returns how many batches and transactions.
    pub fn on_close(&mut self, outbox: &mut Outbox, clock: &Clock) -> (u64, u64) {
        let (mut batches, mut transactions) = (0, 0);
        while let Some((_, digest)) = self.outstanding_order.first().copied()
            && let Some(batch) = self.let_go(&digest)
        {
            batches += 1;
            transactions += self.offer_again(outbox, clock, digest, batch);
        }
        (batches, transactions)
    }

    /// The next epoch begins.
    pub fn on_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// Nothing of ours will be offered again: whoever waits is told.
    pub fn give_back(&mut self, outbox: &mut Outbox, reason: ReturnReason) {
        while let Some((_, digest)) = self.outstanding_order.first().copied()
            && let Some(batch) = self.let_go(&digest)
        {
            let positions = (0..batch.info.count).collect();
            outbox.event(Event::Returned { batch: digest, positions, reason });
            self.settled.push((digest, batch.info));
        }
        if reason != ReturnReason::LeftCommittee {
            return;
        }
        let mut returned: BTreeMap<Digest, Vec<u32>> = BTreeMap::new();
        for pooled in self.pool.drain() {
            match pooled.ticket {
                Ticket::Submitted { id, ordinal } => {
                    self.settle(outbox, id, ordinal, Err(SubmitError::NotAMember));
                }
                Ticket::Rebatched { from, position } => {
                    returned.entry(from).or_default().push(position);
                }
                // It is still in the source.
                Ticket::Pulled { .. } => {}
            }
        }
        for (batch, positions) in returned {
            self.moved(&batch, positions.len() as u32);
            outbox.event(Event::Returned { batch, positions, reason });
        }
    }
}
