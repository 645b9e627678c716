//! Payloads on their way through the core: pulled, arrived, asked about, stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Sequencer;
use super::epoch::Phase;
use super::optimistic::Readiness;
use super::outbox::Clock;
use super::payloads::{self, Arrived, Content};
use super::port::{
    self, Effect, Measurement, ParentOf, PullError, PullRequest, Record, Reply, RequestId,
    VerifyRequest,
};
use super::proof_manager::{Optimistic, Taken, Waited, Wanted};
use super::retention::Held;
use crate::types::payload::latest_expiration;
use crate::types::{
    Author, Batch, BatchInfo, CommitIndex, Component, Digest, InvalidPayload, Payload,
    PayloadContent, PayloadHeader, ProofOfStore, Timestamp,
};

impl Sequencer {
    pub(super) fn on_pull(&mut self, clock: &Clock, id: RequestId, request: &PullRequest) {
        if let Ok(ancestors) = self.payloads.ancestors(request.parent, self.commits.applied()) {
            self.note_failures(request.height, &ancestors);
            if request.limits.batches_max > 0 {
                self.seal_for_proposal(clock);
            }
        }
        match self.build_payload(request) {
            Ok((digest, content)) => {
                self.measure_proposal(clock.now.monotonic, &content);
                let payload = Arc::clone(&content.payload);
                self.store_payload(clock, digest, content);
                self.outbox.reply_durably(id, Reply::Pulled(Ok(payload)));
            }
            Err(error) => self.outbox.reply_now(id, Reply::Pulled(Err(error))),
        }
    }

    fn measure_proposal(&mut self, now: Duration, proposed: &Content) {
        let content = &proposed.payload.content;
        for (info, digest) in content.batches().zip(&proposed.batches) {
            if let Some(Waited { age, proven }) = self.manager.waited(digest, now) {
                let measured = Measurement::ProposedBatch { author: info.author, age, proven };
                self.outbox.effect(Effect::Measured(measured));
            }
        }
        if !proposed.batches.is_empty() {
            let sum = |of: fn(&BatchInfo) -> u32| content.batches().map(|i| u64::from(of(i))).sum();
            self.outbox.effect(Effect::Measured(Measurement::Proposed {
                batches: proposed.batches.len() as u64,
                transactions: sum(|info| info.count),
                bytes: sum(|info| info.bytes),
            }));
        }
        let (optimistic, inline) = (content.optimistic.len() as u64, content.inline.len() as u64);
        if optimistic + inline > 0 {
            let measured = Measurement::ProposedUnproven { optimistic, inline };
            self.outbox.effect(Effect::Measured(measured));
        }
    }

    fn build_payload(&self, request: &PullRequest) -> Result<(Digest, Content), PullError> {
        if request.epoch != self.epoch() {
            return Err(PullError::Epoch(request.epoch));
        }
        if self.is_beyond(request.height) {
            return Err(PullError::EpochClosed { epoch: request.epoch });
        }
        let applied = self.commits.applied();
        let ancestors = self.payloads.ancestors(request.parent, applied)?;
        let (height, timestamp) = match self.payloads.stored(&request.parent) {
            Some(parent) => (parent.header.height, parent.header.block_timestamp),
            // Only what is applied needs no stored payload.
            None => (applied.0, self.commits.consensus_time()),
        };
        let follows = request.height > height && request.height == height.next();
        if !follows || request.block_timestamp < timestamp {
            return Err(PullError::Parent);
        }
        // Room for the header and the lists' lengths.
        let mut encoded_max = u64::from(self.parameters.payload_bytes_max).saturating_sub(256);
        let unavailable = self.evidence_to_propose(request.height, &ancestors, &mut encoded_max);
        self.enters(Component::ProofManager);
        let (exclude, blamed) = (request.exclude.iter().copied().collect(), self.optimism.blamed());
        let latest = latest_expiration(request.block_timestamp, &self.parameters);
        let optimistic = self
            .may_be_optimistic(request.height)
            .then_some(Optimistic { blamed: &blamed, latest });
        let wanted = Wanted {
            limits: &request.limits,
            encoded_max,
            block_timestamp: request.block_timestamp,
            ancestors: &ancestors,
            exclude: &exclude,
            optimistic,
        };
        let mut taken = self.manager.pull(&wanted);
        let inline = self.take_inline(&wanted, latest, &mut taken);
        let proofs = taken.proofs.iter().map(|proof| ProofOfStore::clone(proof)).collect();
        let optimistic = taken.optimistic.iter().map(|(_, info)| *info).collect();
        let content = PayloadContent { proofs, optimistic, inline, unavailable };
        let batches = content.batches().map(|info| info.digest(&self.chain)).collect();
        let header = PayloadHeader {
            epoch: request.epoch,
            height: request.height,
            parent: request.parent,
            block_timestamp: request.block_timestamp,
            content_root: content.root(),
        };
        let payload = Arc::new(Payload { header, content });
        Ok((payload.digest(&self.chain), Content { payload, batches }))
    }

    /// Few and small batches of our own travel in the payload, where nothing better fills it.
    fn take_inline(&self, wanted: &Wanted<'_>, latest: Timestamp, taken: &mut Taken) -> Vec<Batch> {
        let open = self.optimism.is_enabled() && self.ends.phase == Phase::Open;
        if !open || self.config.inline_batches_max == 0 || !self.coordinator.admits {
            return Vec::new();
        }
        let listed = taken.optimistic.iter().map(|(digest, _)| *digest).collect();
        let mut room = self.config.inline_bytes_max.as_u64();
        let mut inline = Vec::new();
        for (_, batch) in self.inline_candidates(wanted.ancestors, wanted.exclude, &listed) {
            let bytes = u64::from(batch.info.bytes);
            let fits = inline.len() < self.config.inline_batches_max
                && bytes <= room
                && batch.info.expiration <= latest;
            if fits && taken.offer_inline(wanted, &batch.info) {
                room -= bytes;
                inline.push(batch);
            }
        }
        inline
    }

    pub(super) fn on_payload(
        &mut self,
        clock: &Clock,
        from: Author,
        digest: Digest,
        arrived: Arrived,
    ) {
        let known = self.payloads.stored(&digest).is_some();
        if known && !self.fetcher.is_wanted(&digest) {
            return;
        }
        let content = port::Content::Payload(Arc::clone(&arrived.content.payload));
        let now = clock.now.monotonic;
        // What its proposer sends by itself is no answer.
        let answers = self.fetcher.was_asked(&from, &digest).then_some(from);
        self.fetcher.on_content(&mut self.outbox, now, answers, &digest, &content);
        if known {
            return;
        }
        let awaited = self.commits.awaits(&digest);
        if self.is_stale(&arrived) && !awaited {
            if self.payloads.is_waited_for(&digest) {
                let now = clock.now.monotonic;
                self.fetcher.on_need(digest, None, &[], now);
            }
            return;
        }
        let waiting = self.payloads.take_waiting(&digest);
        self.payloads.on_arrived(from, digest, arrived);
        if awaited {
            self.look_at_logged(clock.now, CommitIndex(0));
            // Consensus ordered it: whatever anybody thinks of it, this is the content.
            self.store_arrived(digest);
            self.apply_commits(clock.now);
        }
        for (id, parent) in waiting {
            self.decide(id, digest, parent);
        }
        self.ask_for_awaited(&digest, &[from]);
    }

    pub(super) fn on_verify(&mut self, clock: &Clock, id: RequestId, request: &VerifyRequest) {
        let VerifyRequest { digest, parent, responders } = request;
        if !self.decide(id, *digest, *parent) {
            self.payloads.wait(*digest, id, *parent);
            let now = clock.now.monotonic;
            let due = now + self.config.payload_patience;
            self.fetcher.on_need(*digest, None, responders, due);
        }
        self.ask_for_awaited(digest, responders);
    }

    /// True if a payload of this epoch was judged before the epoch was opened.
    fn is_stale(&self, arrived: &Arrived) -> bool {
        matches!(arrived.verdict, Err(InvalidPayload::Epoch { .. }))
            && arrived.content.payload.header.epoch == self.epoch()
    }

    /// Answers one question about a payload, or keeps it, if it is here.
    pub(super) fn decide(
        &mut self,
        id: RequestId,
        digest: Digest,
        parent: Option<ParentOf>,
    ) -> bool {
        if self.payloads.stored(&digest).is_some() {
            self.decide_stored(id, digest, parent);
            return true;
        }
        let Some(arrived) = self.payloads.take_arrived(&digest) else { return false };
        if self.is_stale(&arrived) {
            return false;
        }
        let header = arrived.content.payload.header;
        let checked = arrived
            .verdict
            .clone()
            .and_then(|()| self.check_header(&header))
            .and_then(|()| payloads::check_parent(&header, parent));
        match checked {
            // What it says is gone is here: no vote, whatever a quorum says.
            Ok(()) if self.contradicts(&arrived.content) || self.has_no_room(&arrived, parent) => {
                self.payloads.on_arrived(self.author, digest, arrived);
                self.payloads.wait(digest, id, parent);
            }
            Ok(()) => {
                self.store_content(digest, arrived.content);
                self.decide_stored(id, digest, parent);
            }
            Err(error) => {
                // Kept, so that the next question gets the same answer.
                self.payloads.on_arrived(self.author, digest, arrived);
                self.outbox.reply_now(id, Reply::Verified(Err(error)));
            }
        }
        true
    }

    /// Answers one question about a payload that is stored, or is about to be. Whoever only wants
    /// it stored is answered at once: it is certified, so a quorum holds what it names.
    fn decide_stored(&mut self, id: RequestId, digest: Digest, parent: Option<ParentOf>) {
        let Some(stored) = self.payloads.stored(&digest) else { return };
        let header = stored.header;
        if let Some(content) = stored.content.clone().filter(|_| stored.optimistic) {
            self.claim_vouched(&content);
        }
        let Some(stored) = self.payloads.stored(&digest) else { return };
        if let Err(error) = payloads::check_parent(&header, parent) {
            return self.outbox.reply_now(id, Reply::Verified(Err(error)));
        }
        let readiness = match &stored.content {
            _ if parent.is_none() || !stored.optimistic => Readiness::Ready,
            Some(content) => self.readiness(content),
            None if self.commits.names(&digest, header.height) => Readiness::Ready,
            // Another block was ordered at its height: nobody may vote for this one.
            None => Readiness::Missing(BTreeMap::new()),
        };
        match readiness {
            Readiness::Ready => self.outbox.reply_durably(id, Reply::Verified(Ok(header))),
            Readiness::Refused(error) => {
                self.outbox.reply_now(id, Reply::Verified(Err(error)));
            }
            Readiness::Missing(missing) => {
                self.payloads.wait(digest, id, parent);
                self.await_batches(digest, missing);
            }
        }
    }

    /// Nearly full disks take no payloads with batches in them, unless a quorum has them anyway.
    fn has_no_room(&self, arrived: &Arrived, parent: Option<ParentOf>) -> bool {
        let inline = &arrived.content.payload.content.inline;
        !self.coordinator.admits && parent.is_some() && !inline.is_empty()
    }

    pub(super) fn store_arrived(&mut self, digest: Digest) {
        if let Some(arrived) = self.payloads.take_arrived(&digest) {
            self.store_content(digest, arrived.content);
        }
    }

    fn store_payload(&mut self, clock: &Clock, digest: Digest, content: Content) {
        self.store_content(digest, content);
        self.apply_commits(clock.now);
    }

    /// Records a payload, unless it is on disk already.
    fn store_content(&mut self, digest: Digest, content: Content) {
        if self.retention.get(&digest).is_none() {
            let payload = Arc::clone(&content.payload);
            let expiration = payload.expiration(&self.parameters);
            let batches = content.batches.clone();
            self.outbox.record(Record::Payload { digest, payload, batches, expiration });
            self.retention.insert(digest, Held::Payload { expiration }, self.outbox.group);
            self.unsay(&digest);
        }
        // On sight of it: execution will want what it orders.
        let due = self.stepped + self.config.payload_patience;
        self.refetch_batches(&content, due);
        let batches = content.batches.clone();
        let header = content.payload.header;
        let optimistic = !content.payload.content.optimistic.is_empty();
        if self.payloads.on_stored(digest, content) {
            self.manager.on_payload(digest, &batches);
            if optimistic {
                self.optimism.on_payload(header.height, digest);
            }
        }
        self.fetcher.on_needless(&digest);
    }
}
