//! The order in which batches can be proposed: by gas bucket, then by author, then by arrival.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::entry::{Arrival, State};
use crate::types::{Author, BatchInfo, Digest};

/// What of one gas bucket can be proposed, by author.
type Bucket = BTreeMap<Author, BTreeMap<Arrival, Digest>>;

/// What can be proposed; the highest bucket first.
pub(super) type Buckets = BTreeMap<Reverse<u64>, Bucket>;

/// What has a proof, and what has none and is ripe.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub proven: Buckets,
    pub unproven: Buckets,
}

impl Lines {
    /// What is in this state stands in its line, if there is one for it.
    pub fn enter(&mut self, digest: Digest, state: &State) {
        if let Some((line, info, arrival)) = self.of(state) {
            let bucket = line.entry(Reverse(info.gas_bucket_start)).or_default();
            bucket.entry(info.author).or_default().insert(arrival, digest);
        }
    }

    /// What is in this state stands in line no more.
    pub fn leave(&mut self, state: &State) {
        let Some((line, info, arrival)) = self.of(state) else { return };
        let at = Reverse(info.gas_bucket_start);
        let Some(bucket) = line.get_mut(&at) else { return };
        let Some(queue) = bucket.get_mut(&info.author) else { return };
        queue.remove(&arrival);
        if queue.is_empty() {
            bucket.remove(&info.author);
            if bucket.is_empty() {
                line.remove(&at);
            }
        }
    }

    fn of<'s>(&mut self, state: &'s State) -> Option<(&mut Buckets, &'s BatchInfo, Arrival)> {
        match state {
            State::Queued { proof, arrival, .. } => Some((&mut self.proven, &proof.info, *arrival)),
            State::Unproven { info, arrival, ripe: true, .. } => {
                Some((&mut self.unproven, info, *arrival))
            }
            _ => None,
        }
    }
}
