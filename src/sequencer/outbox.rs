//! What one step brings about: effects that leave at once, and the open group.

use std::collections::VecDeque;

use super::port::{Effect, Event, Now, Promise, Record, Refusal, Reply, RequestId};
use crate::types::{Author, BatchInfo, Timestamp};

/// Gathers the outcome of steps until the engine takes it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Sequence of the open group.
    pub group: u64,
    /// What must be on disk.
    pub records: Vec<Record>,
    /// What must wait for it.
    pub promises: Vec<Promise>,
    /// What may leave now.
    pub effects: VecDeque<Effect>,
    /// Size of the open group in bytes, roughly.
    pub bytes: u64,
}

/// Bytes that a record without content weighs in a group, roughly.
const RECORD_BYTES: u64 = 256;

/// What a step knows of the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The argument of the step.
    pub now: Now,
    /// The largest committed block timestamp.
    pub consensus: Timestamp,
}

impl Clock {
    /// The later of the wall clock and consensus time: what expirations are measured from.
    pub fn latest(&self) -> Timestamp {
        self.now.wall.max(self.consensus)
    }
}

impl Outbox {
    /// Adds a record to the open group.
    pub fn record(&mut self, record: Record) {
        self.bytes += RECORD_BYTES
            + match &record {
                Record::Batch(batch) => batch.body.len() as u64,
                Record::Payload { payload, .. } => {
                    let batches = payload.content.batches().count() as u64;
                    batches * (BatchInfo::ENCODED_BYTES as u64 + 256)
                        + payload.content.inline_bytes()
                }
                _ => 0,
            };
        self.records.push(record);
    }

    /// Adds a promise to the open group.
    pub fn promise(&mut self, promise: Promise) {
        self.promises.push(promise);
    }

    /// Lets something leave now.
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// Refuses what a peer sent.
    pub fn refuse(&mut self, peer: Author, reason: Refusal) {
        self.effect(Effect::Refused { peer, reason });
    }

    /// Answers a request without promising anything.
    pub fn reply_now(&mut self, id: RequestId, reply: Reply) {
        self.effect(Effect::Reply { id, reply });
    }

    /// Answers a request once the open group is durable.
    pub fn reply_durably(&mut self, id: RequestId, reply: Reply) {
        self.promise(Promise::Reply { id, reply });
    }

    /// Tells the host once the open group is durable.
    pub fn event(&mut self, event: Event) {
        self.promise(Promise::Event(event));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sequencer::port::BatchRecord;
    use crate::types::{Digest, Payload, PayloadContent, PayloadHeader, samples};

    #[test]
    fn a_group_weighs_what_is_written_with_it_roughly() {
        let weight = |record| {
            let mut outbox = Outbox::default();
            outbox.record(record);
            assert_eq!(outbox.records.len(), 1);
            outbox.bytes
        };
        assert_eq!(weight(Record::Reserved { until: 7 }), 256);
        let batch = samples::batch(2, 1, &[b"some bytes"]);
        let (info, body) = (batch.info, batch.body.bytes().clone());
        let digest = Digest([1; 32]);
        let bytes = body.len() as u64;
        let record = BatchRecord { digest, info, body, claims_slot: true, own: None };
        assert_eq!(weight(Record::Batch(record)), 256 + bytes);
        let content = PayloadContent {
            optimistic: vec![info, info],
            inline: vec![batch],
            ..PayloadContent::default()
        };
        let header = PayloadHeader {
            epoch: info.epoch,
            height: crate::types::CommitIndex(1),
            parent: digest,
            block_timestamp: Timestamp(1),
            content_root: content.root(),
        };
        let inline = content.inline_bytes();
        let payload = Arc::new(Payload { header, content });
        let expiration = Timestamp(9);
        let record = Record::Payload { digest, payload, batches: Vec::new(), expiration };
        let each = BatchInfo::ENCODED_BYTES as u64 + 256;
        assert_eq!(weight(record), 256 + 3 * each + inline);
    }

    #[test]
    fn the_later_clock_counts() {
        for (wall, consensus) in [(5, 3), (3, 5)] {
            let now = Now { monotonic: std::time::Duration::ZERO, wall: Timestamp(wall) };
            let clock = Clock { now, consensus: Timestamp(consensus) };
            assert_eq!(clock.latest(), Timestamp(5));
        }
    }
}
