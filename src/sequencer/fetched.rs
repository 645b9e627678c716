//! Content on its way through the core that somebody asked for: waits of the host, answers of
//! peers, and what is kept of them.
//!
//! What was fetched goes to whoever waits first. It is stored outside its author's window, within a
//! bound of its own, and its slot is not claimed: only a batch from its author's own link claims
//! one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Sequencer;
use super::outbox::Clock;
use super::port::{self, BatchRecord, FetchError, Record, Refusal, Reply, RequestId, Wanted};
use super::retention::Held;
use super::status::FetchPeerStatus;
use crate::types::{Author, Batch, Chunk, CommitIndex, Digest};

impl Sequencer {
    /// The host needs content that is not in the store.
    pub(super) fn on_fetch(
        &mut self,
        clock: &Clock,
        id: RequestId,
        wanted: &Wanted,
        deadline: Duration,
    ) {
        let now = clock.now.monotonic;
        if let Some(verdict) = wanted.commit.and_then(|at| self.verdict(&wanted.digest, at)) {
            return self.outbox.reply_now(id, Reply::Fetched(Err(verdict)));
        }
        self.fetcher.on_request(&mut self.outbox, now, id, wanted, deadline);
        self.tick_fetcher(clock);
    }

    /// What this node knows by itself about content of a commit.
    fn verdict(&self, digest: &Digest, at: CommitIndex) -> Option<FetchError> {
        if self.commits.rewrites.skips(digest, at) {
            return Some(FetchError::Rewritten);
        }
        (at < self.commits.kept_from()).then_some(FetchError::Pruned)
    }

    /// A batch from its author in a slot that is never signed, because its batch was said to be
    /// absent here. If it is that batch, it is kept all the same: somebody may need it.
    pub(super) fn on_declared_absent(
        &mut self,
        clock: &Clock,
        from: Author,
        digest: Digest,
        batch: &Batch,
    ) {
        self.outbox.refuse(from, Refusal::DeclaredAbsent);
        if self.absences.was_said(&digest) {
            self.keep_fetched(clock, None, digest, batch);
        }
    }

    pub(super) fn on_fetched_chunk(
        &mut self,
        clock: &Clock,
        from: Author,
        digest: Digest,
        chunk: &Chunk,
    ) {
        let now = clock.now.monotonic;
        if !self.fetcher.on_chunk(now, from, &digest, chunk) {
            self.on_unasked(clock, from);
        }
        if let Some(batch) = self.fetcher.assembled(&digest) {
            // Its root is right. Whether its inside is, its author decided: honest validators
            // signed for no other, so there is nobody left to ask.
            if batch.body.verify_layout(&batch.info, &self.parameters).is_ok() {
                self.keep_fetched(clock, None, digest, &batch);
            } else {
                self.fetcher.on_needless(&digest);
            }
        }
        self.tick_fetcher(clock);
    }

    pub(super) fn on_fetched_batch(
        &mut self,
        clock: &Clock,
        from: Author,
        digest: Digest,
        batch: &Batch,
    ) {
        if self.claims_slot(from, &digest, batch) {
            self.on_batch(clock, from, digest, batch);
        }
        self.keep_fetched(clock, Some(from), digest, batch);
        self.tick_fetcher(clock);
    }

    fn keep_fetched(&mut self, clock: &Clock, from: Option<Author>, digest: Digest, batch: &Batch) {
        let content = port::Content::Batch(batch.clone());
        // Content that was said to be absent is taken from whoever pushes it.
        let lost = self.absences.was_said(&digest);
        let from = from.filter(|from| !lost || self.fetcher.was_asked(from, &digest));
        let wanted = lost || self.fetcher.is_wanted(&digest);
        let now = clock.now.monotonic;
        let asked = self.fetcher.on_content(&mut self.outbox, now, from, &digest, &content);
        if !wanted {
            // Asked for, and another peer was faster: no reproach, and nothing to keep.
            if let Some(from) = from.filter(|_| !asked) {
                self.on_unasked(clock, from);
            }
            return;
        }
        self.store_recovered(clock, digest, batch);
        self.refetched(&digest);
        self.on_vouched(clock, digest, &batch.info.slot());
    }

    /// Stores a batch outside its author's window, if there is room for it.
    fn store_recovered(&mut self, clock: &Clock, digest: Digest, batch: &Batch) {
        let info = batch.info;
        let room = self.retention.recovered_bytes() + info.charge()
            <= self.config.recovered_bytes_max.as_u64();
        let over = self.retention.is_over(info.expiration, clock);
        if over || !room || self.retention.get(&digest).is_some() {
            return;
        }
        let body = batch.body.bytes().clone();
        let record = BatchRecord { digest, info, body, claims_slot: false, own: None };
        self.outbox.record(Record::Batch(record));
        let held = Held::Batch { info, in_slot: false };
        self.retention.insert(digest, held, self.outbox.group);
        self.unsay(&digest);
    }

    /// A peer sent what it was not asked for.
    pub(super) fn on_unasked(&mut self, clock: &Clock, from: Author) {
        let floods = self.fetcher.floods(&from, clock.now.monotonic);
        let reason = if floods { Refusal::UnaskedFlood } else { Refusal::Unasked };
        self.outbox.refuse(from, reason);
    }

    pub(super) fn fetch_peers(&self) -> Vec<FetchPeerStatus> {
        let mut standings = self.fetcher.standings(self.stepped);
        let status = |peer| {
            let standing = standings.remove(&peer).unwrap_or_default();
            FetchPeerStatus {
                peer,
                latency_seconds: standing.latency.map(|latency| latency.as_secs_f64()),
                penalty: standing.penalty,
                asked: standing.asked as u64,
                answered: standing.answered,
                failed: standing.failed,
            }
        };
        self.windows.peers().map(status).collect()
    }

    pub(super) fn tick_fetcher(&mut self, clock: &Clock) {
        if !self.fetcher.is_due(clock.now.monotonic) {
            return;
        }
        let linked: BTreeSet<Author> = self.windows.linked().collect();
        self.fetcher.on_tick(&mut self.outbox, clock.now.monotonic, &linked);
        self.ask_for_absences(clock);
    }
}
