//! Leases: room in the pool and a price, quoted to a client and kept for it until a stated time.
//!
//! Invariants: what is reserved is the sum of what is left of every lease, and comes back exactly
//! once: by use, release, expiry, or the end of the epoch. No client holds more than its share, and
//! all together no more than half of the pool. What was quoted is honoured until the stated time,
//! and for what waits in queues by then a little longer ([`QUEUED`]).
//!
//! Nothing of it is on disk: a lease is memory of one life of the sequencer, and its name says
//! which.
//!
//! It does not decide what is quoted (pressure) nor whether a transaction is well-formed
//! (generator).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::port::{
    CLIENT_NAME_BYTES_MAX, Lease, LeaseError, LeaseId, LeaseLimit, LeaseRefusal, LeaseRequest,
    Room, UnderLease,
};
use crate::config::LeaseConfig;

#[cfg(test)]
mod tests;

/// Room is kept this much longer than stated: what was sent in time may wait in queues.
pub(super) const QUEUED: Duration = Duration::from_secs(1);

/// Leases looked at to find out when there is room again.
const LOOKED_AT_MAX: usize = 64;

impl Room {
    pub(super) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.transactions += other.transactions;
    }

    pub(super) fn remove(&mut self, other: Self) {
        self.bytes -= other.bytes;
        self.transactions -= other.transactions;
    }

    pub(super) fn fits(&self, other: &Self) -> bool {
        self.bytes <= other.bytes && self.transactions <= other.transactions
    }

    /// What of it is left beside `used`.
    pub(super) fn beside(&self, used: &Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(used.bytes),
            transactions: self.transactions.saturating_sub(used.transactions),
        }
    }

    fn least(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.min(other.bytes),
            transactions: self.transactions.min(other.transactions),
        }
    }
}

/// What is left of one lease.
#[derive(Debug)]
struct Held {
    client: String,
    left: Room,
    lowest_gas_bucket: u64,
    /// When its room is taken back.
    until: Duration,
}

/// What one client holds.
#[derive(Debug, Default)]
struct Client {
    room: Room,
    leases: BTreeSet<(Duration, u64)>,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct Leases {
    life: u64,
    next: u64,
    life_max: Duration,
    per_client: Room,
    in_all: Room,
    client_most: usize,
    most: usize,
    held: BTreeMap<u64, Held>,
    clients: BTreeMap<String, Client>,
    expirations: BTreeSet<(Duration, u64)>,
    reserved: Room,
}

impl Leases {
    /// Of a pool of this size. `life` tells this life of the sequencer from others.
    pub fn new(config: &LeaseConfig, pool: Room, life: u64) -> Self {
        let in_all = Room { bytes: pool.bytes / 2, transactions: pool.transactions / 2 };
        let client = Room {
            bytes: config.client_bytes_max.as_u64(),
            transactions: config.client_transactions_max,
        };
        Self {
            life,
            next: 1,
            life_max: config.life_max,
            per_client: client.least(in_all),
            in_all,
            client_most: config.client_leases_max,
            most: config.leases_max,
            held: BTreeMap::new(),
            clients: BTreeMap::new(),
            expirations: BTreeSet::new(),
            reserved: Room::default(),
        }
    }

    /// Reserves room at this price, if it is `free` and within everybody's share.
    pub fn grant(
        &mut self,
        now: Duration,
        request: &LeaseRequest,
        free: Room,
        lowest_gas_bucket: u64,
    ) -> Result<Lease, LeaseError> {
        self.check(request)?;
        let LeaseRequest { client, room, life } = request;
        let held = self.clients.get(client);
        let of_client = held.map_or(self.per_client, |held| self.per_client.beside(&held.room));
        let of_all = self.in_all.beside(&self.reserved);
        let busy = |limit, room, retry_after| {
            let lowest_gas_bucket = Some(lowest_gas_bucket);
            Err(LeaseError::Busy { limit, room, lowest_gas_bucket, retry_after })
        };
        let offered = of_client.least(of_all).least(free);
        if let Some(held) = held
            && (!room.fits(&of_client) || held.leases.len() >= self.client_most)
        {
            let after = self.time_until(now, &held.leases, room, of_client);
            let none = held.leases.len() >= self.client_most;
            let offered = if none { Room::default() } else { offered };
            return busy(LeaseLimit::Client, offered, after);
        }
        if !room.fits(&of_all) || self.held.len() >= self.most {
            let after = self.time_until(now, &self.expirations, room, of_all);
            let none = self.held.len() >= self.most;
            let offered = if none { Room::default() } else { offered };
            return busy(LeaseLimit::Leases, offered, after);
        }
        if !room.fits(&free) {
            // The caller knows when the pool moves on.
            let limit = LeaseLimit::Pressure(super::port::BusyReason::Pool);
            return busy(limit, offered, Duration::ZERO);
        }
        let (number, life) = (self.next, (*life).min(self.life_max));
        self.next += 1;
        let until = now + life + QUEUED;
        let client = client.clone();
        let of_client = self.clients.entry(client.clone()).or_default();
        of_client.room.add(*room);
        of_client.leases.insert((until, number));
        self.reserved.add(*room);
        self.expirations.insert((until, number));
        self.held.insert(number, Held { client, left: *room, lowest_gas_bucket, until });
        let id = LeaseId { life: self.life, number };
        Ok(Lease { id, room: *room, lowest_gas_bucket, life })
    }

    /// What can never be granted.
    pub fn check(&self, request: &LeaseRequest) -> Result<(), LeaseError> {
        let LeaseRequest { client, room, life } = request;
        if client.is_empty() || client.len() > CLIENT_NAME_BYTES_MAX {
            return Err(LeaseError::Client);
        }
        if room.bytes == 0 || room.transactions == 0 || *life < Duration::from_millis(1) {
            return Err(LeaseError::Empty);
        }
        if !room.fits(&self.per_client) {
            return Err(LeaseError::TooLarge { most: self.per_client });
        }
        Ok(())
    }

    /// When enough of these leases have expired for so much room, at the latest.
    fn time_until(
        &self,
        now: Duration,
        leases: &BTreeSet<(Duration, u64)>,
        room: &Room,
        mut left: Room,
    ) -> Duration {
        let mut after = Duration::ZERO;
        for (until, number) in leases.iter().take(LOOKED_AT_MAX) {
            after = until.saturating_sub(now);
            if let Some(held) = self.held.get(number) {
                left.add(held.left);
            }
            if room.fits(&left) {
                break;
            }
        }
        after
    }

    /// Takes room for one transaction out of a lease; from then on the pool counts it.
    pub fn draw(
        &mut self,
        under: &UnderLease,
        bucket: u64,
        bytes: u64,
    ) -> Result<(), LeaseRefusal> {
        let held = self.find(under)?;
        let lowest_gas_bucket = held.lowest_gas_bucket;
        if bucket < lowest_gas_bucket {
            return Err(LeaseRefusal::Price { lowest_gas_bucket });
        }
        let (left, drawn) = (held.left, Room { bytes, transactions: 1 });
        if !drawn.fits(&left) {
            return Err(LeaseRefusal::Spent { left });
        }
        let number = under.id.number;
        if let Some(held) = self.held.get_mut(&number) {
            held.left.remove(drawn);
        }
        self.reserved.remove(drawn);
        if let Some(client) = self.clients.get_mut(&under.client) {
            client.room.remove(drawn);
        }
        let left = left.beside(&drawn);
        if left.bytes == 0 || left.transactions == 0 {
            // Nothing more fits: what is left of the other dimension is of no use.
            self.end(number);
        }
        Ok(())
    }

    /// The client needs it no more. Returns what comes back.
    pub fn release(&mut self, under: &UnderLease) -> Result<Room, LeaseRefusal> {
        self.find(under)?;
        Ok(self.end(under.id.number))
    }

    /// What has expired comes back.
    pub fn on_time(&mut self, now: Duration) {
        while let Some(&(until, number)) = self.expirations.first() {
            if until > now {
                break;
            }
            self.end(number);
        }
    }

    /// The epoch is over: what was quoted was quoted for it.
    pub fn end_all(&mut self) {
        self.held.clear();
        self.clients.clear();
        self.expirations.clear();
        self.reserved = Room::default();
    }

    fn find(&self, under: &UnderLease) -> Result<&Held, LeaseRefusal> {
        if under.id.life != self.life {
            return Err(LeaseRefusal::FormerLife);
        }
        let held = self.held.get(&under.id.number);
        held.filter(|held| held.client == under.client).ok_or(LeaseRefusal::Unknown)
    }

    /// The one place where a lease ends and its room comes back.
    fn end(&mut self, number: u64) -> Room {
        let Some(held) = self.held.remove(&number) else { return Room::default() };
        self.expirations.remove(&(held.until, number));
        self.reserved.remove(held.left);
        if let Some(client) = self.clients.get_mut(&held.client) {
            client.room.remove(held.left);
            client.leases.remove(&(held.until, number));
            if client.leases.is_empty() {
                self.clients.remove(&held.client);
            }
        }
        held.left
    }

    /// What is reserved and not used yet.
    pub fn reserved(&self) -> Room {
        self.reserved
    }

    /// Leases that are open.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// When the next one expires.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.expirations.first().map(|(until, _)| *until)
    }
}
