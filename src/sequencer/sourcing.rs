//! Pulling from the host's source of transactions, beside the built-in pool.
//!
//! ```text
//!   idle ── "ready", or a while later ──▶ asked ── all that was asked for ──▶ asked again at once
//!    ▲                                      │
//!    └────── less, or nothing of use ───────┘
//! ```
//!
//! One pull is under way at a time, and none without room for a batch: what is not batched yet waits
//! in the source, where the host sorts it by price, and not in the pool. So back-pressure reaches
//! the source as it is: no room in windows, on the disk or in the pool, no pull.
//!
//! **No livelock.** A pull that brings nothing of use is followed by another only when the source
//! says that it is ready, or after `idle_interval`; a source that says so and brings nothing again is
//! asked at intervals that double up to that. What can never be batched is reported to the source,
//! and counted.
//!
//! **Failure.** The engine answers every pull, with nothing if the source is late. What was pulled
//! and is not in a batch yet is lost with a life of the process: it is still in the source.

use std::sync::Arc;
use std::time::Duration;

use super::Sequencer;
use super::in_progress::InProgress;
use super::outbox::Clock;
use super::port::{Effect, Measurement, ReleaseReason, SourceLimits, Transaction, TransactionKey};
use super::retention::Held;
use crate::types::{BatchInfo, CommitIndex, Digest, Timestamp};

/// Pulls that bring little are at least this part of `batch_age_max` apart.
const PULLS_PER_BATCH_AGE: u32 = 4;
/// Intervals after empty pulls double up to this many times.
const DOUBLINGS_MAX: u32 = 16;

/// What is known of the source.
#[derive(Debug)]
struct Source {
    /// It said that it has something, or gave all that was asked for.
    ready: bool,
    /// The pull under way.
    pulling: Option<SourceLimits>,
    /// Not asked before.
    not_before: Duration,
    /// Asked again then, ready or not.
    look_at: Duration,
    /// Pulls in a row that brought nothing of use.
    empty: u32,
}

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct Sourcing {
    source: Option<Source>,
}

impl Sourcing {
    /// When it is asked next, as far as time decides.
    fn due(&self) -> Option<Duration> {
        let source = self.source.as_ref().filter(|source| source.pulling.is_none())?;
        Some(if source.ready { source.not_before } else { source.look_at })
    }
}

impl Sequencer {
    /// There is a source, and it has something.
    pub(super) fn on_source_ready(&mut self, clock: &Clock) {
        let now = clock.now.monotonic;
        if let Some(source) = &mut self.sourcing.source {
            source.ready = true;
            return;
        }
        self.generator.track_progress();
        let (not_before, look_at) = (now, now);
        let first = Source { ready: true, pulling: None, not_before, look_at, empty: 0 };
        self.sourcing.source = Some(first);
    }

    /// What the source had.
    pub(super) fn on_transactions(&mut self, clock: &Clock, transactions: Vec<Transaction>) {
        let now = clock.now.monotonic;
        let Some(source) = &mut self.sourcing.source else { return };
        let Some(limits) = source.pulling.take() else { return };
        let count = transactions.len() as u64;
        let bytes: u64 = transactions.iter().map(|t| t.bytes.len() as u64).sum();
        let taken = self.generator.on_pulled(&mut self.outbox, clock, transactions);
        self.outbox.effect(Effect::Measured(Measurement::Pulled {
            transactions: taken,
            refused: count - taken,
        }));
        let interval = self.config.batch_age_max / PULLS_PER_BATCH_AGE;
        let idle = self.config.source.idle_interval;
        source.look_at = now + idle;
        if taken == 0 {
            let doublings = source.empty.min(DOUBLINGS_MAX);
            source.not_before = now + (interval * 2_u32.pow(doublings)).min(idle);
            source.empty += 1;
            return;
        }
        source.empty = 0;
        // As much as it may give: as good as sure that there is more.
        let largest = u64::from(self.parameters.transaction_bytes_max);
        let full = count >= limits.transactions_max || bytes + largest > limits.bytes_max;
        source.ready |= full;
        source.not_before = if full { now } else { now + interval };
    }

    /// A batch of somebody else is stored: what it holds is not pulled.
    pub(super) fn on_seen(&mut self, clock: &Clock, digest: Digest, keys: Arc<[TransactionKey]>) {
        // Only what was admitted: a batch that was refused excludes nothing.
        let Some(Held::Batch { info, .. }) = self.retention.get(&digest) else { return };
        let info = *info;
        let others = self.membership.committee.len().saturating_sub(1).max(1) as u64;
        let share = self.config.source.in_progress_max / 2 / others;
        let known = self.manager.knows(&digest);
        let lapses = (!known).then_some(clock.now.monotonic + self.config.source.seen_exclusion);
        let Some(set) = self.generator.in_progress() else { return };
        let fits = set.held_by(&info.author) + keys.len() as u64 <= share;
        if fits && info.author != self.author && !self.manager.is_ordered(&digest) {
            set.hold(digest, info.author, keys, info.expiration, lapses);
        }
    }

    /// A batch has a proof.
    pub(super) fn certified_in_progress(&mut self, digest: &Digest) {
        if let Some(set) = self.generator.in_progress() {
            set.on_certified(digest);
        }
    }

    /// A commit is applied: what it orders in time is done with once every subscriber has passed it.
    pub(super) fn ordered_in_progress(
        &mut self,
        index: CommitIndex,
        block_timestamp: Timestamp,
        ordered: &[(Digest, BatchInfo)],
    ) {
        let Some(set) = self.generator.in_progress() else { return };
        let in_time = ordered.iter().filter(|(_, info)| info.expiration >= block_timestamp);
        in_time.for_each(|(digest, _)| set.on_ordered(digest, index));
        set.on_consensus_time(block_timestamp);
    }

    /// An own batch will not be ordered.
    pub(super) fn lost_in_progress(&mut self, digest: &Digest) {
        if let Some(set) = self.generator.in_progress() {
            set.release(digest, ReleaseReason::Lost);
        }
    }

    /// Ends a step: tells what may be pulled now, and pulls if something may be.
    pub(super) fn pull_transactions(&mut self, clock: &Clock) {
        let now = clock.now.monotonic;
        let Some(set) = self.generator.in_progress() else { return };
        set.on_time(now);
        set.on_passed(self.commits.subscribers.lowest());
        let (changes, released) = (set.take_changes(), set.take_released());
        if !changes.entered.is_empty() || !changes.left.is_empty() {
            let (entered, left) = (changes.entered, changes.left);
            self.outbox.effect(Effect::InProgress { entered, left });
        }
        for (reason, transactions) in released {
            self.outbox.effect(Effect::Measured(Measurement::Released { reason, transactions }));
        }
        if self.sourcing.due().is_none_or(|due| due > now) {
            return;
        }
        let Some(limits) = self.room_for_pulls() else { return };
        if let Some(source) = &mut self.sourcing.source {
            source.ready = false;
            source.pulling = Some(limits);
            self.outbox.effect(Effect::PullTransactions(limits));
        }
    }

    /// How much may be pulled now. Whoever limits the rate of pulls further does it here.
    fn room_for_pulls(&self) -> Option<SourceLimits> {
        if !self.may_seal() {
            return None;
        }
        let (count, bytes) = self.generator.pool();
        let target = self.config.batch_bytes_target.as_u64();
        let most = u64::from(self.parameters.batch_transactions_max);
        // One batch that can be sealed, and one that gathers: what waits longer waits in the source.
        if bytes >= target || count >= most {
            return None;
        }
        let free = self.generator.free();
        let held = self.generator.progress().map_or(0, InProgress::len);
        let transactions_max = (2 * most - count)
            .min(free.transactions)
            .min(self.config.source.in_progress_max.saturating_sub(held));
        // At least the largest transaction, or it would never be pulled.
        let largest = u64::from(self.parameters.transaction_bytes_max);
        let bytes_max = (2 * target - bytes).max(largest).min(free.bytes);
        (transactions_max > 0 && bytes_max >= largest)
            .then_some(SourceLimits { transactions_max, bytes_max })
    }

    /// When the source is asked next, or something lapses.
    pub(super) fn sourcing_deadline(&self) -> Option<Duration> {
        let pull = self.sourcing.due().filter(|_| self.room_for_pulls().is_some());
        let lapse = self.generator.progress().and_then(InProgress::next_deadline);
        [pull, lapse].into_iter().flatten().min()
    }
}
