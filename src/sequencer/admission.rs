//! Admission as a whole: what the sequencer measures, what follows from it, and leases.

use std::time::Duration;

use super::Sequencer;
use super::batch_generator::Conditions;
use super::outbox::Clock;
use super::port::{LeaseRequest, Reply, RequestId, Room, Transaction, UnderLease};
use super::pressure::{Measured, Pressure};

impl Sequencer {
    /// How much is accepted now, from which gas bucket on, and why.
    pub fn pressure(&self) -> Pressure {
        let measured = self.measured(self.stepped);
        let levels = self.generator.levels(&measured);
        let serving = self.closed_to_clients().is_none();
        let disk_full = !self.coordinator.admits;
        let lowest_gas_bucket = self.generator.lowest_gas_bucket(disk_full, levels);
        let lowest_gas_bucket = lowest_gas_bucket.filter(|_| serving);
        let takes = lowest_gas_bucket.is_some();
        let has_windows = self.has_windows();
        let (transactions, bytes) = self.generator.pool();
        Pressure {
            serving,
            accepted: if takes { self.generator.free() } else { Room::default() },
            lowest_gas_bucket,
            reasons: self.generator.bounds().reasons(levels, has_windows, !disk_full),
            levels,
            pull_rate: self.generator.rate.limit(),
            pooled: Room { bytes, transactions },
            leased: self.generator.leases.reserved(),
            leases: self.generator.leases.len() as u64,
        }
    }

    /// How many transactions may leave the pool, or a source, at the time of this step.
    pub fn pull_allowance(&mut self) -> u64 {
        self.generator.rate.allowance(self.stepped)
    }

    fn measured(&self, now: Duration) -> Measured {
        let (outstanding_batches, outstanding_bytes) = self.generator.outstanding();
        Measured {
            outstanding_bytes,
            outstanding_batches,
            outstanding_transactions: self.generator.outstanding_transactions(),
            uncertified_batches: self.proofs.uncertified(),
            proofs: self.proposable(),
            // Of a time when something was ordered: without anything to order it is over.
            commit_time: if outstanding_batches == 0 { Duration::ZERO } else { self.commit_time },
            disk_lag: self.disk_lag.get(now),
        }
    }

    fn conditions(&self, clock: &Clock) -> Conditions {
        Conditions {
            refused: self.closed_to_clients(),
            disk_full: !self.coordinator.admits,
            held: self.busy(),
            measured: self.measured(clock.now.monotonic),
        }
    }

    pub(super) fn on_submit(
        &mut self,
        clock: &Clock,
        id: RequestId,
        transactions: Vec<Transaction>,
        lease: Option<&UnderLease>,
    ) {
        let conditions = self.conditions(clock);
        let (generator, outbox) = (&mut self.generator, &mut self.outbox);
        generator.on_submit(outbox, clock, id, transactions, lease, &conditions);
    }

    pub(super) fn on_lease(&mut self, clock: &Clock, id: RequestId, request: &LeaseRequest) {
        let conditions = self.conditions(clock);
        let lease = self.generator.on_lease(request, clock.now.monotonic, &conditions);
        self.outbox.reply_now(id, Reply::Leased(lease));
    }

    pub(super) fn on_release(&mut self, id: RequestId, lease: &UnderLease) {
        let released = self.generator.leases.release(lease);
        self.outbox.reply_now(id, Reply::Released(released));
    }

    /// The pull rate follows what is measured at this step.
    pub(super) fn follow_pressure(&mut self, now: Duration) {
        let bounds = self.generator.bounds();
        let pressed = bounds.is_felt(bounds.pull_level(&self.measured(now)));
        self.generator.rate.on_pressure(now, pressed);
    }

    /// Notes how long the newest of our batches in a commit waited for it. Not the oldest: one that
    /// was late for a reason of its own says nothing about the next.
    pub(super) fn note_commit_time(&mut self, ages: &[Duration]) {
        if let Some(age) = ages.iter().min() {
            self.commit_time = *age;
        }
    }
}
