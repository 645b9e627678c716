//! A steady offer that fills every block, and what leaders make of it.
//!
//! Nobody asks the code under test how long a batch has waited: a batch says when it was sealed,
//! because its expiration is that moment and its lifetime.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::{Cluster, Event, START};
use super::host::Pending;
use crate::sequencer::port::{Input, PayloadLimits, Transaction};
use crate::types::Payload;

/// See the module docs.
#[derive(Clone, Debug)]
pub struct Saturation {
    /// Batches that the clients of each validator offer in a virtual minute.
    pub offers: Vec<u64>,
    /// What they pay: each price is as likely.
    pub prices: Vec<u64>,
    /// Most batches of a block.
    pub batches_max: u64,
}

/// A batch in a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Of the proposal.
    pub height: u64,
    /// When it was made.
    pub at: Duration,
    /// Whose batch it is.
    pub author: usize,
    /// Its gas bucket.
    pub bucket: u64,
    /// Since it was sealed.
    pub age: Duration,
}

impl Cluster {
    /// Every batch that was proposed, in order.
    pub fn proposed(&self) -> &[Proposed] {
        &self.proposed
    }

    pub(super) fn start_offers(&mut self) {
        let count = self.options.saturation.as_ref().map_or(0, |load| load.offers.len());
        for node in 0..count {
            // Everybody is linked by then.
            self.after(1_000_000, Event::Offer { node });
        }
    }

    /// A client of this validator offers as much as fills a batch.
    pub(super) fn on_offer(&mut self, node: usize) {
        let Some(load) = &self.options.saturation else { return };
        let Some(mean) = 60_000_000_u64.checked_div(load.offers[node]) else { return };
        let gas_unit_price = load.prices[self.rng.usize(..load.prices.len())];
        let micros = self.rng.u64(mean / 2..mean * 3 / 2);
        self.after(micros, Event::Offer { node });
        if self.nodes[node].running.is_none() {
            return;
        }
        self.next_transaction += 1;
        let id = self.next_transaction;
        let expiration = self.clock(node).wall.saturating_add(Duration::from_secs(25));
        let mut bytes = vec![0; self.options.transaction_bytes];
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        bytes[8..16].copy_from_slice(&expiration.0.to_le_bytes());
        let transactions =
            vec![Transaction { bytes: Bytes::from(bytes), gas_unit_price, expiration }];
        let pending = Pending::Submit(vec![(id, expiration.0)]);
        self.request(node, pending, |id| Input::Submit { id, transactions });
    }

    /// How large the next block may be.
    pub(super) fn payload_limits(&mut self) -> PayloadLimits {
        if let Some(load) = &self.options.saturation {
            let batches_max = load.batches_max;
            return PayloadLimits {
                transactions_max: u64::MAX,
                batch_bytes_max: u64::MAX,
                batches_max,
            };
        }
        PayloadLimits {
            transactions_max: self.rng.u64(1..200),
            batch_bytes_max: self.rng.u64(..1 << 20),
            batches_max: self.rng.u64(..64),
        }
    }

    pub(super) fn note_proposed(&mut self, height: u64, payload: &Payload) {
        if self.options.saturation.is_none() {
            return;
        }
        let lifetime = self.genesis.parameters.batch_lifetime_micros;
        for info in payload.content.batches() {
            let sealed = info.expiration.0 - lifetime - START;
            let Some(author) = self.index_of(&info.author) else { continue };
            self.proposed.push(Proposed {
                height,
                at: Duration::from_micros(self.now),
                author,
                bucket: info.gas_bucket_start,
                age: Duration::from_micros(self.now - sealed),
            });
        }
    }
}
