//! The pool: transactions that are in no batch yet, by gas bucket, oldest first.
//!
//! With a source of the host it also knows what is in progress: whatever enters is held, and what
//! leaves is held by the batch that is sealed next, or not at all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::in_progress::InProgress;
use super::port::{RequestId, Transaction, TransactionKey};
use crate::types::{BatchInfo, Digest};

/// Where a pooled transaction came from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ticket {
    /// Position in a submission that waits for it.
    Submitted { id: RequestId, ordinal: usize },
    /// Position in an own batch that expired, or whose epoch ended, without being ordered.
    Rebatched { from: Digest, position: u32 },
    /// Pulled from the host's source, where it still is.
    Pulled { key: TransactionKey },
}

#[derive(Debug)]
pub(super) struct Pooled {
    pub transaction: Transaction,
    pub ticket: Ticket,
    pub arrived: Duration,
}

impl Pooled {
    fn key(&self) -> TransactionKey {
        match self.ticket {
            Ticket::Pulled { key } => key,
            _ => TransactionKey::of(&self.transaction.bytes),
        }
    }
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct Pool {
    /// Lowest price of each bucket, rising, the first 0.
    starts: Vec<u64>,
    /// By start of the gas bucket; never empty.
    buckets: BTreeMap<u64, VecDeque<Pooled>>,
    bytes: u64,
    count: u64,
    /// With a source of the host only.
    pub in_progress: Option<InProgress>,
    /// Out of the pool, and in no batch yet.
    leaving: Vec<TransactionKey>,
}

impl Pool {
    pub fn new(starts: Vec<u64>) -> Self {
        let (buckets, leaving) = (BTreeMap::new(), Vec::new());
        Self { starts, buckets, bytes: 0, count: 0, in_progress: None, leaving }
    }

    /// The bucket of a gas unit price.
    pub fn bucket_of(&self, price: u64) -> u64 {
        let index = self.starts.partition_point(|start| *start <= price);
        // Proof: the first start is 0 (checked by `validate`), so the index is at least 1.
        self.starts[index.max(1) - 1]
    }

    /// Lowest price of each bucket, rising.
    pub fn starts(&self) -> &[u64] {
        &self.starts
    }

    pub fn push(&mut self, pooled: Pooled) {
        let bucket = self.bucket_of(pooled.transaction.gas_unit_price);
        if let Some(set) = &mut self.in_progress {
            set.hold_one(pooled.key());
        }
        self.bytes += pooled.transaction.bytes.len() as u64;
        self.count += 1;
        self.buckets.entry(bucket).or_default().push_back(pooled);
    }

    pub fn pop(&mut self, bucket: u64) -> Option<Pooled> {
        let queue = self.buckets.get_mut(&bucket)?;
        let pooled = queue.pop_front()?;
        if queue.is_empty() {
            self.buckets.remove(&bucket);
        }
        self.bytes -= pooled.transaction.bytes.len() as u64;
        self.count -= 1;
        if self.in_progress.is_some() {
            self.leaving.push(pooled.key());
        }
        Some(pooled)
    }

    /// The oldest of a bucket.
    pub fn front(&self, bucket: u64) -> Option<&Pooled> {
        self.buckets.get(&bucket).and_then(VecDeque::front)
    }

    /// The highest bucket if `target` bytes are there, else the highest whose oldest transaction
    /// arrived at or before `due`.
    pub fn due_bucket(&self, target: u64, due: impl Fn(Duration) -> bool) -> Option<u64> {
        let highest = *self.buckets.keys().next_back()?;
        if self.bytes >= target {
            return Some(highest);
        }
        let is_due = |queue: &VecDeque<Pooled>| queue.front().is_some_and(|p| due(p.arrived));
        self.buckets.iter().rev().find(|(_, queue)| is_due(queue)).map(|(bucket, _)| *bucket)
    }

    /// When the oldest transaction arrived.
    pub fn oldest(&self) -> Option<Duration> {
        self.buckets.values().filter_map(VecDeque::front).map(|p| p.arrived).min()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes everything, oldest first inside a bucket.
    pub fn drain(&mut self) -> Vec<Pooled> {
        (self.bytes, self.count) = (0, 0);
        let drained: Vec<_> = std::mem::take(&mut self.buckets).into_values().flatten().collect();
        if let Some(set) = &mut self.in_progress {
            for pooled in &drained {
                set.release_one(&pooled.key());
            }
        }
        drained
    }

    /// From now on it is known what is in progress.
    pub fn track(&mut self) {
        let mut set = InProgress::default();
        let pooled = self.buckets.values().flatten();
        pooled.for_each(|pooled| set.hold_one(pooled.key()));
        self.in_progress = Some(set);
    }

    /// What left the pool is in this batch; without one, it is in no batch.
    pub fn on_sealed(&mut self, sealed: Option<(Digest, &BatchInfo)>) {
        let left = std::mem::take(&mut self.leaving);
        let Some(set) = &mut self.in_progress else { return };
        let keys: Arc<[TransactionKey]> = left.into();
        if let Some((digest, info)) = sealed {
            set.hold(digest, info.author, Arc::clone(&keys), info.expiration, None);
        }
        keys.iter().for_each(|key| set.release_one(key));
    }
}

#[cfg(test)]
mod tests;
