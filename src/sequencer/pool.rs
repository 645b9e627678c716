//! The pool: transactions that are in no batch yet, by gas bucket, oldest first.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::port::{RequestId, Transaction};
use crate::types::Digest;

/// Where a pooled transaction came from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ticket {
    /// Position in a submission that waits for it.
    Submitted { id: RequestId, ordinal: usize },
    /// Position in an own batch that expired, or whose epoch ended, without being ordered.
    Rebatched { from: Digest, position: u32 },
}

#[derive(Debug)]
pub(super) struct Pooled {
    pub transaction: Transaction,
    pub ticket: Ticket,
    pub arrived: Duration,
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
}

impl Pool {
    pub fn new(starts: Vec<u64>) -> Self {
        Self { starts, buckets: BTreeMap::new(), bytes: 0, count: 0 }
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
        std::mem::take(&mut self.buckets).into_values().flatten().collect()
    }
}
