//! What consensus ordered, on its way through the core: each commit is applied to all four
//! components within one step, or to none.
//!
//! Time is that of the commit which is applied, not of the newest one logged: while a payload is
//! missing, nothing is deleted or batched again that a logged commit may still name.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sequencer;
use super::outbox::Clock;
use super::payloads::Content;
use super::port::{Effect, Measurement, Now, Reply, RequestId};
use crate::types::{
    Ack, Author, BatchInfo, Commit, CommitIndex, CommitReceipt, Component, Digest, PayloadHeader,
    Timestamp,
};

/// Payloads fetched ahead of the next one to apply.
const LOOKED_AHEAD: usize = 256;

impl Sequencer {
    /// The host tells of a finalised block.
    pub(super) fn on_commit(&mut self, now: Now, id: RequestId, commit: Commit) {
        if commit.index > self.commits.logged()
            && let Err(error) = self.check_epoch(&commit)
        {
            return self.outbox.reply_now(id, Reply::Committed(Err(error)));
        }
        let outbox = &mut self.outbox;
        if let Some(digest) = self.commits.on_commit(outbox, now.monotonic, id, commit) {
            self.retention.on_ordered(digest, None, commit.index);
            self.look_at_logged(now, commit.index);
            self.apply_commits(now);
        }
    }

    /// Applies logged commits in order, each to all components in one step, as far as their
    /// payloads are here; the first one that is missing is fetched.
    pub(super) fn apply_commits(&mut self, now: Now) {
        while let Some((commit, digest)) = self.commits.next_to_apply() {
            self.store_arrived(digest);
            let content = self.payloads.stored(&digest).and_then(|stored| stored.content.clone());
            let skipped = self.commits.rewrites.skips(&digest, commit.index);
            let content = content.filter(|_| !skipped);
            if skipped {
                // Whatever it ordered is gone: nobody executes it, wherever it may still be.
                let receipt = self.apply(now, &commit.header, &[], 0);
                self.commits.on_applied(&mut self.outbox, now.monotonic, receipt, 0);
                self.payloads_over(commit.index);
                continue;
            }
            let Some(content) = content else {
                self.fetcher.on_named_need(digest, commit.index, now.monotonic);
                self.tick_fetcher(&self.clock(now));
                break;
            };
            self.note_evidence(&commit, &content);
            let infos = content.payload.content.batches().copied();
            let ordered: Vec<(Digest, BatchInfo)> =
                content.batches.iter().copied().zip(infos).collect();
            self.measure_kinds(&content);
            self.measure_authors(&ordered);
            self.judge_proposals(commit.index, &digest);
            let outside = content.payload.content.outside();
            let receipt = self.apply(now, &commit.header, &ordered, outside);
            let bytes = ordered.iter().map(|(_, info)| info.charge()).sum();
            self.commits.on_applied(&mut self.outbox, now.monotonic, receipt, bytes);
            self.payloads_over(commit.index);
            self.refetch_ordered(&content, now.monotonic);
        }
        self.commits.on_cursors(&mut self.outbox, &mut self.retention);
        self.absences.keep_from(&mut self.outbox, self.commits.kept_from());
        self.commits.on_time(&mut self.outbox, &mut self.retention, now.monotonic);
        self.end_epoch_if_due(&self.clock(now));
        self.forget_former();
    }

    /// Payloads of logged commits that are not applied yet are looked at for evidence, and fetched:
    /// the evidence that lets the chain go on may be in a later one.
    pub(super) fn look_at_logged(&mut self, now: Now, from: CommitIndex) {
        for (commit, digest) in self.commits.unapplied(from, LOOKED_AHEAD) {
            self.store_arrived(digest);
            let content = self.payloads.stored(&digest).and_then(|stored| stored.content.clone());
            match content {
                Some(content) => self.note_evidence(&commit, &content),
                None => self.fetcher.on_named_need(digest, commit.index, now.monotonic),
            }
        }
    }

    fn apply(
        &mut self,
        now: Now,
        header: &PayloadHeader,
        ordered: &[(Digest, BatchInfo)],
        outside: usize,
    ) -> CommitReceipt {
        for (digest, info) in &ordered[..outside] {
            self.retention.on_ordered(*digest, Some(*info), header.height);
        }
        let own = ordered.iter().filter(|(_, info)| info.author == self.author);
        let age = |(digest, _): &(Digest, BatchInfo)| self.proofs.age(digest, now.monotonic);
        let ages: Vec<Duration> = own.filter_map(age).collect();
        self.note_commit_time(&ages);
        for age in ages {
            self.outbox.effect(Effect::Measured(Measurement::Ordered(age)));
        }
        self.advance(now, header, ordered, outside)
    }

    /// Every component takes one step of consensus time. The content of batches from `outside` on
    /// lies in the payload.
    fn advance(
        &mut self,
        now: Now,
        header: &PayloadHeader,
        ordered: &[(Digest, BatchInfo)],
        outside: usize,
    ) -> CommitReceipt {
        let PayloadHeader { height: index, block_timestamp, .. } = *header;
        let clock = Clock { now, consensus: block_timestamp };
        self.enters(Component::BatchGenerator);
        let outbox = &mut self.outbox;
        let transactions = self.generator.on_commit(outbox, &clock, ordered, block_timestamp);
        self.ordered_in_progress(index, block_timestamp, ordered);
        let overdue = self.retention.collect(&mut self.outbox, &clock);
        self.enters(Component::BatchCoordinator);
        let deleted = self.coordinator.on_overdue(&mut self.outbox, &overdue);
        self.enters(Component::ProofCoordinator);
        let own = ordered.iter().filter(|(_, info)| info.author == self.author);
        let votes = self.proofs.on_commit(&clock, own.map(|(digest, _)| digest));
        self.enters(Component::ProofManager);
        let (outside, inline) = ordered.split_at(outside);
        let queued = self.manager.on_inline_commit(inline, clock.consensus)
            + self.manager.on_commit(outside, clock.consensus);
        self.record_settled();
        self.drop_unheld_proofs();
        self.absences.on_time(clock.consensus);
        self.drop_refetches(&clock);
        self.end_silence(clock.consensus);
        let ack = |component, freed| Ack { component, freed, watermark: index };
        let acks = [
            ack(Component::BatchGenerator, transactions),
            ack(Component::BatchCoordinator, deleted),
            ack(Component::ProofCoordinator, votes),
            ack(Component::ProofManager, queued),
        ];
        CommitReceipt { index, block_timestamp, acks }
    }

    /// State sync: the log goes on above this block. Its components see the time that has passed
    /// and no batches; own batches that the skipped commits ordered expire, or are ordered again
    /// and dropped at execution.
    pub(super) fn on_skip(&mut self, now: Now, id: RequestId, header: &PayloadHeader) {
        let needless = match self.commits.on_skip(&mut self.outbox, header) {
            Ok(needless) => needless,
            Err(error) => return self.outbox.reply_now(id, Reply::SkippedTo(Err(error))),
        };
        for digest in needless.iter().flatten() {
            self.fetcher.on_needless(digest);
        }
        self.commits.subscribers.pass(header.height.next());
        let receipt = self.advance(now, header, &[], 0);
        self.payloads_over(header.height);
        self.end_epoch_by_skip(header);
        self.outbox.reply_durably(id, Reply::SkippedTo(Ok(receipt)));
        self.apply_commits(now);
    }

    /// Payloads up to this height are ordered, or came to nothing.
    fn payloads_over(&mut self, index: CommitIndex) {
        self.optimism.on_passed(index);
        for payload in self.payloads.on_applied(index) {
            self.manager.on_payload_over(&payload);
            self.withdraw_ballot(&payload);
        }
    }

    /// What an applied commit ordered is neither collected nor proposed again.
    pub(super) fn settle_ordered(&mut self, ordered: &[(Digest, BatchInfo)], outside: usize) {
        let (outside, inline) = ordered.split_at(outside);
        self.manager.on_inline_commit(inline, Timestamp(0));
        self.manager.on_commit(outside, Timestamp(0));
    }

    /// How much of each member was ordered, for metrics. Who brings a batch along in a payload says
    /// whose it is: only members are told apart.
    fn measure_authors(&mut self, ordered: &[(Digest, BatchInfo)]) {
        let mut authors: BTreeMap<Author, (u64, u64)> = BTreeMap::new();
        for (_, info) in ordered {
            let (batches, transactions) = authors.entry(info.author).or_default();
            *batches += 1;
            *transactions += u64::from(info.count);
        }
        let committee = &self.membership.committee;
        for (author, (batches, transactions)) in authors {
            if committee.index_of(&author).is_some() {
                let measured = Measurement::OrderedOf { author, batches, transactions };
                self.outbox.effect(Effect::Measured(measured));
            }
        }
    }

    /// How many batches were ordered without a proof, for metrics.
    fn measure_kinds(&mut self, content: &Content) {
        let content = &content.payload.content;
        let (optimistic, inline) = (content.optimistic.len() as u64, content.inline.len() as u64);
        if optimistic + inline > 0 {
            let measured = Measurement::OrderedUnproven { optimistic, inline };
            self.outbox.effect(Effect::Measured(measured));
        }
    }
}
