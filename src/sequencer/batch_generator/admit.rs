//! What is let into the pool: by room and price, or under a lease.
//!
//! Whatever a lease covers is taken, although the pool is busy, prices rose, windows are spent or
//! the disk lags. What it does not cover is treated like any other transaction: a lease never makes
//! it worse. Only a disk without room, and the end of the epoch, refuse both.

use std::time::Duration;

use super::{BatchGenerator, Submission};
use crate::sequencer::outbox::{Clock, Outbox};
use crate::sequencer::pool::{Pooled, Ticket};
use crate::sequencer::port::{
    Accepted, BusyReason, Lease, LeaseError, LeaseLimit, LeaseRefusal, LeaseRequest, Reply,
    RequestId, Room, SubmitError, Transaction, UnderLease,
};
use crate::sequencer::pressure::{Levels, Measured};
use crate::types::Digest;

/// Longest time that a client is told to wait for the pool.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What holds submissions back, beside the pool.
#[derive(Clone, Copy, Debug)]
pub(in crate::sequencer) struct Conditions {
    /// Nothing is taken.
    pub refused: Option<SubmitError>,
    /// The disk has no room.
    pub disk_full: bool,
    /// What keeps the pool from being emptied.
    pub held: Option<BusyReason>,
    /// What is measured.
    pub measured: Measured,
}

impl BatchGenerator {
    /// Takes transactions into the pool, or says at once why not.
    pub fn on_submit(
        &mut self,
        outbox: &mut Outbox,
        clock: &Clock,
        id: RequestId,
        transactions: Vec<Transaction>,
        lease: Option<&UnderLease>,
        conditions: &Conditions,
    ) {
        let mut submission = Submission { results: Vec::new(), open: 0 };
        // Only the pool changes on the way.
        let levels = self.bounds.levels(self.used(), &conditions.measured);
        for (ordinal, transaction) in transactions.into_iter().enumerate() {
            // Replaced when the batch is sealed; never seen by the host.
            let pending = Accepted { batch: Digest::default(), position: 0 };
            let admitted = self.admit(clock, &transaction, lease, conditions, levels);
            submission.results.push(admitted.map(|()| pending));
            if admitted.is_ok() {
                submission.open += 1;
                let ticket = Ticket::Submitted { id, ordinal };
                self.pool.push(Pooled { transaction, ticket, arrived: clock.now.monotonic });
            }
        }
        if submission.open == 0 {
            outbox.reply_now(id, Reply::Submitted(submission.results));
        } else {
            let known = self.submissions.insert(id, submission);
            assert!(known.is_none(), "request {id:?} was used twice");
        }
    }

    fn admit(
        &mut self,
        clock: &Clock,
        transaction: &Transaction,
        lease: Option<&UnderLease>,
        conditions: &Conditions,
        levels: Levels,
    ) -> Result<(), SubmitError> {
        if let Some(error) = conditions.refused {
            return Err(error);
        }
        let length = transaction.bytes.len();
        if length == 0 {
            return Err(SubmitError::Empty);
        }
        let bound = self.parameters.transaction_bytes_max;
        if length > bound as usize {
            return Err(SubmitError::TooLarge { length, bound });
        }
        if transaction.expiration <= clock.latest() {
            return Err(SubmitError::Expired);
        }
        if conditions.disk_full {
            return Err(self.busy_error(BusyReason::Disk));
        }
        let bucket = self.pool.bucket_of(transaction.gas_unit_price);
        let uncovered = match lease.map(|lease| self.leases.draw(lease, bucket, length as u64)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(refusal)) => Some(refusal),
            None => None,
        };
        self.admit_at_present(bucket, length as u64, uncovered, conditions, levels)
    }

    /// Without a lease, or beyond it.
    fn admit_at_present(
        &self,
        bucket: u64,
        length: u64,
        lease: Option<LeaseRefusal>,
        conditions: &Conditions,
        levels: Levels,
    ) -> Result<(), SubmitError> {
        let used = self.used();
        let levels = Levels { pool: self.bounds.pool_level(used), ..levels };
        let (level, reason) = levels.worst();
        let room = Room { bytes: length, transactions: 1 };
        if !room.fits(&self.bounds.pool.beside(&used)) {
            let reason = conditions.held.unwrap_or(BusyReason::Pool);
            let retry_after = self.retry_after();
            return Err(SubmitError::Busy { reason, lowest_gas_bucket: None, lease, retry_after });
        }
        let lowest = self.bounds.lowest_bucket(self.pool.starts(), level);
        if bucket < lowest {
            let (lowest_gas_bucket, retry_after) = (Some(lowest), self.retry_after());
            return Err(SubmitError::Busy { reason, lowest_gas_bucket, lease, retry_after });
        }
        Ok(())
    }

    /// Quotes room and price, and keeps both.
    pub fn on_lease(
        &mut self,
        request: &LeaseRequest,
        now: Duration,
        conditions: &Conditions,
    ) -> Result<Lease, LeaseError> {
        match conditions.refused {
            Some(SubmitError::EpochClosed { epoch }) => {
                return Err(LeaseError::EpochClosed { epoch });
            }
            Some(_) => return Err(LeaseError::NotAMember),
            None => {}
        }
        self.leases.check(request)?;
        let levels = self.bounds.levels(self.used(), &conditions.measured);
        let after = self.retry_after();
        let Some(lowest) = self.lowest_gas_bucket(conditions.disk_full, levels) else {
            let reason = if conditions.disk_full { BusyReason::Disk } else { BusyReason::Pool };
            return Err(LeaseError::Busy {
                limit: LeaseLimit::Pressure(reason),
                room: Room::default(),
                lowest_gas_bucket: None,
                retry_after: after,
            });
        };
        self.leases.grant(now, request, self.free(), lowest).map_err(|error| match error {
            LeaseError::Busy { limit, room, lowest_gas_bucket, retry_after } => {
                let retry_after = retry_after.max(after);
                LeaseError::Busy { limit, room, lowest_gas_bucket, retry_after }
            }
            other => other,
        })
    }

    /// From which bucket on transactions are taken without a lease; `None`: none is.
    pub fn lowest_gas_bucket(&self, disk_full: bool, levels: Levels) -> Option<u64> {
        let free = self.free();
        let takes = !disk_full && free.bytes > 0 && free.transactions > 0;
        takes.then(|| self.bounds.lowest_bucket(self.pool.starts(), levels.worst().0))
    }

    /// What of the pool is used, or leased.
    fn used(&self) -> Room {
        let mut used = self.leases.reserved();
        used.add(Room { bytes: self.pool.bytes(), transactions: self.pool.count() });
        used
    }

    /// Room in the pool that is not leased.
    pub fn free(&self) -> Room {
        self.bounds.pool.beside(&self.used())
    }

    /// How near everything is to its bound.
    pub fn levels(&self, measured: &Measured) -> Levels {
        self.bounds.levels(self.used(), measured)
    }

    /// Bounds, and where pressure begins.
    pub fn bounds(&self) -> &crate::sequencer::pressure::Bounds {
        &self.bounds
    }

    /// Answers everyone who waits for a batch; what is batched again stays.
    pub fn refuse_pooled(&mut self, outbox: &mut Outbox, reason: BusyReason) {
        for pooled in self.pool.drain() {
            match pooled.ticket {
                Ticket::Submitted { id, ordinal } => {
                    self.settle(outbox, id, ordinal, Err(self.busy_error(reason)));
                }
                Ticket::Rebatched { .. } => self.pool.push(pooled),
                // It is still in the source.
                Ticket::Pulled { .. } => {}
            }
        }
    }

    fn busy_error(&self, reason: BusyReason) -> SubmitError {
        let retry_after = self.retry_after();
        SubmitError::Busy { reason, lowest_gas_bucket: None, lease: None, retry_after }
    }

    /// Long enough for the pool to move on by some batches, at the rate that there is.
    fn retry_after(&self) -> Duration {
        let batches = self.config.batch_age_max * 8;
        let Some(limit) = self.rate.limit() else { return batches };
        let millis = self.pool.count().saturating_mul(1000) / limit;
        Duration::from_millis(millis).clamp(batches, RETRY_MAX)
    }
}
