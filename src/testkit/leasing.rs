//! Clients that ask before they submit: a lease, some time, then its use. Whatever happens in
//! between, what was quoted is honoured.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::{Cluster, Event};
use super::host::{Pending, TRANSACTION_HEAD};
use crate::sequencer::port::{
    Accepted, BusyReason, Input, Lease, LeaseError, LeaseRequest, Room, SubmitError, Transaction,
    UnderLease,
};
use crate::sequencer::status::Status;
use crate::types::Epoch;

/// Room may be kept this much longer than quoted, in microseconds.
const KEPT_MAX: u64 = 1_000_000;
/// Nobody asks for a lease, or uses one, so shortly before the end, in microseconds: what is taken
/// then might wait in the pool until the end, at the rate of a bad day.
const LAST: u64 = 30_000_000;

/// A quote, as its client remembers it.
#[derive(Clone, Debug)]
pub(super) struct Quote {
    lease: UnderLease,
    room: Room,
    lowest_gas_bucket: u64,
    epoch: Epoch,
    /// When it ends, in virtual microseconds.
    until: u64,
}

impl Cluster {
    /// A client wants a quote.
    pub(super) fn on_lease_due(&mut self) {
        let end = self.options.duration.as_micros() as u64;
        if self.now + LAST < end {
            let mean = self.options.lease_interval.as_micros() as u64;
            let micros = self.rng.u64(1..mean * 2);
            self.after(micros, Event::Lease);
        }
        let node = self.rng.usize(..self.nodes.len());
        let client = format!("client {}", self.rng.u32(..3));
        let transactions = self.rng.u64(1..4);
        let largest = self.options.transaction_bytes.max(TRANSACTION_HEAD) as u64;
        let room = Room { bytes: transactions * largest, transactions };
        let life = Duration::from_millis(self.rng.u64(1..8000));
        let request = LeaseRequest { client: client.clone(), room, life };
        self.request(node, Pending::Lease(client), |id| Input::Lease { id, request });
    }

    pub(super) fn on_leased(
        &mut self,
        node: usize,
        client: String,
        result: Result<Lease, LeaseError>,
    ) {
        let Some(running) = &self.nodes[node].running else { return };
        let epoch = running.sequencer.epoch();
        let lease = match result {
            Ok(lease) => lease,
            Err(LeaseError::Busy { .. }) => return self.trace.count("lease not now"),
            Err(_) => return self.trace.count("lease refused"),
        };
        self.trace.count("lease granted");
        let Lease { id, room, lowest_gas_bucket, life } = lease;
        let micros = life.as_micros() as u64;
        let until = self.now + micros;
        let quote =
            Quote { lease: UnderLease { client, id }, room, lowest_gas_bucket, epoch, until };
        if self.liars[node].is_none() {
            self.checker.on_leased(node, id.number, room, until + KEPT_MAX);
        }
        // Sometimes a little late; sometimes never.
        if self.rng.u32(..8) > 0 {
            let wait = self.rng.u64(..=(micros + micros / 4));
            let life = self.nodes[node].life;
            self.after(wait, Event::UseLease { node, life, quote: Box::new(quote) });
        }
    }

    /// A client submits what it has a quote for, at the price it was quoted.
    pub(super) fn on_use_lease(&mut self, node: usize, life: u64, quote: &Quote) {
        let end = self.options.duration.as_micros() as u64;
        if self.now + LAST >= end {
            return;
        }
        let wall = self.clock(node).wall;
        let Some(running) = &self.nodes[node].running else { return };
        let pressure = running.sequencer.pressure();
        let in_time = self.nodes[node].life == life
            && self.now <= quote.until
            && running.sequencer.epoch() == quote.epoch
            && !running.waits();
        let risen = pressure.lowest_gas_bucket.is_none_or(|now| now > quote.lowest_gas_bucket);
        if in_time && risen && pressure.serving {
            self.trace.count("a lease is used after the price rose");
        }
        if !in_time {
            self.trace.count("a lease is used too late");
        }
        let expiration = wall.saturating_add(Duration::from_secs(25));
        let most = quote.room.bytes / quote.room.transactions;
        let (mut ids, mut transactions) = (Vec::new(), Vec::new());
        for _ in 0..quote.room.transactions {
            self.next_transaction += 1;
            ids.push((self.next_transaction, expiration.0));
            let mut bytes = vec![0; self.rng.usize(TRANSACTION_HEAD..=most as usize)];
            bytes[..8].copy_from_slice(&self.next_transaction.to_le_bytes());
            bytes[8..16].copy_from_slice(&expiration.0.to_le_bytes());
            let gas_unit_price = quote.lowest_gas_bucket;
            transactions.push(Transaction {
                bytes: Bytes::from(bytes),
                gas_unit_price,
                expiration,
            });
        }
        if self.rng.u32(..6) == 0 {
            // Somebody changed their mind; what they submit now is nothing special.
            let lease = quote.lease.clone();
            self.request(node, Pending::Release, |id| Input::Release { id, lease });
        } else {
            let (lease, honoured) = (quote.lease.clone(), in_time);
            let pending = Pending::SubmitUnder { ids, honoured };
            self.request(node, pending, |id| Input::SubmitUnder { id, lease, transactions });
        }
    }

    /// What was quoted is honoured: only a full disk, the end of the epoch, or the end of the
    /// transaction's own life may come between.
    pub(super) fn check_honoured(
        &mut self,
        node: usize,
        results: &[Result<Accepted, SubmitError>],
        honoured: bool,
    ) {
        if !honoured || self.liars[node].is_some() {
            return;
        }
        for result in results {
            let broken = match result {
                Ok(_) => {
                    self.trace.count("lease honoured");
                    false
                }
                Err(SubmitError::Busy { reason, .. }) => *reason != BusyReason::Disk,
                Err(error) => !matches!(
                    error,
                    SubmitError::Expired
                        | SubmitError::EpochClosed { .. }
                        | SubmitError::NotAMember
                ),
            };
            if broken {
                self.checker.fail("what is leased is honoured", format!("{node}: {results:?}"));
            }
        }
    }
}

impl super::Checker {
    /// A quote was given, by a life of this validator that will end it at the latest then.
    fn on_leased(&mut self, node: usize, number: u64, room: Room, ends: u64) {
        self.leases.insert((node, number), (room, ends));
    }

    /// A validator starts again: leases are memory of one life.
    pub(super) fn on_boot(&mut self, node: usize) {
        self.leases.retain(|(of, _), _| *of != node);
    }

    /// What is reserved was quoted to somebody and is not over.
    pub(super) fn check_leased(&mut self, node: usize, now: u64, status: &Status) {
        self.leases.retain(|_, (_, ends)| *ends >= now);
        let mut quoted = Room::default();
        for ((_, _), (room, _)) in self.leases.iter().filter(|((of, _), _)| *of == node) {
            quoted.bytes += room.bytes;
            quoted.transactions += room.transactions;
        }
        let leased = status.pressure.leased;
        let covered = leased.bytes <= quoted.bytes && leased.transactions <= quoted.transactions;
        self.require(covered, "leased room comes back", || {
            format!("node {node}: {leased:?} leased, {quoted:?} quoted")
        });
    }
}
