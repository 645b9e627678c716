//! Follows the transactions that clients handed to this validator, from arrival to their end.
//!
//! It is memory of one process life and needed for no decision of consensus: it answers clients,
//! and it keeps a transaction that is sent twice from being batched twice. Its sources:
//!
//! ```text
//!  submit ─▶ pending ─▶ batched ─▶ certified ─▶ ordered ─▶ executed
//!                 \ refused: forgotten     \                 / or, by executed blocks alone,
//!                                           `──────────────▶  expired, skipped
//! ```
//!
//! - **Executed blocks decide the end.** A transaction is `expired` when a block with a later
//!   timestamp than its expiration was executed without it: no later block can execute it.
//! - **Events of the library** only add the milestones between, and may be lost without harm.
//! - **Bounded**: entries lie by the second of their expiration and are dropped one longest life
//!   after it in consensus time, or earlier if room is needed; when there is none left, new
//!   transactions are refused.

mod admission;
mod book;
pub mod follow;
mod second;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorum_store::sequencer::port::{Accepted, Event};
use quorum_store::types::{Digest, Timestamp};
use tokio::sync::watch;

use admission::Bound;
use book::Book;

use crate::clock::Clock;
use crate::executor::{Archive, BlockOutcome};
use crate::ids::Named;
use crate::outcomes::{Group, Milestone, Outcomes};
use crate::transaction::TransactionId;

/// Where a transaction stands. The order is that of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Submitted, not durable yet.
    Pending,
    /// In a batch that is durable here.
    Batched,
    /// In a batch that is durable at a quorum.
    Certified,
    /// In a finalised block.
    Ordered,
    /// Cannot be executed any more.
    Expired,
    /// In a batch that was skipped.
    Skipped,
    /// Executed.
    Executed,
}

impl Stage {
    /// Its name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Batched => "batched",
            Self::Certified => "certified",
            Self::Ordered => "ordered",
            Self::Expired => "expired",
            Self::Skipped => "skipped",
            Self::Executed => "executed",
        }
    }

    /// Its byte in compact answers; 0 means that a transaction is not known.
    pub const fn code(self) -> u8 {
        match self {
            Self::Pending => 1,
            Self::Batched => 2,
            Self::Certified => 3,
            Self::Ordered => 4,
            Self::Expired => 5,
            Self::Skipped => 6,
            Self::Executed => 7,
        }
    }
}

/// What a client may know of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Where it stands.
    pub stage: Stage,
    /// Its batch and its position in it.
    pub place: Option<Accepted>,
    /// The block that ordered or executed it.
    pub height: Option<u64>,
}

/// What to do with a transaction that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Unknown until now, followed from now on: submit it.
    New,
    /// An equal one is being submitted: wait for its answer.
    InFlight,
    /// An equal one was accepted.
    Accepted,
    /// There is no room to follow it.
    Full,
}

/// The tracker.
#[derive(Debug)]
pub struct Tracker {
    book: Mutex<Book>,
    /// Follows the latency of execution.
    bound: Mutex<Bound>,
    outcomes: Arc<Outcomes>,
    clock: Clock,
    /// Counts answers, for those who wait for the answer to an equal transaction.
    answers: watch::Sender<u64>,
}

impl Tracker {
    /// Follows at most `entries_max` transactions.
    pub fn new(
        entries_max: usize,
        retention: Duration,
        clock: Clock,
        outcomes: Arc<Outcomes>,
    ) -> Self {
        let book = Mutex::new(Book::new(entries_max, retention));
        let bound = Mutex::new(Bound::new());
        Self { book, bound, outcomes, clock, answers: watch::Sender::new(0) }
    }

    /// Transactions that are followed now.
    pub fn len(&self) -> usize {
        self.book().len()
    }

    /// False while so much is on its way to execution that more would only wait longer.
    pub fn has_room(&self) -> bool {
        self.book().open_count() < self.bound().open_max()
    }

    /// The streams' source.
    pub fn outcomes(&self) -> &Arc<Outcomes> {
        &self.outcomes
    }

    /// Transactions arrive. Whoever gets [`Admission::New`] owes [`Tracker::answered`].
    pub fn begin(&self, arriving: &[Named]) -> Vec<Admission> {
        let now = self.clock.micros();
        self.book().begin(arriving, now)
    }

    /// These arrived as new, but a block had executed them already: for another validator, or in a
    /// former life. They end here, and nothing is owed for them.
    pub fn executed_before(&self, found: &[(Named, u64)]) {
        if found.is_empty() {
            return;
        }
        let now = self.clock.micros();
        let mut group = Group::default();
        {
            let mut book = self.book();
            for (named, height) in found {
                book.executed_before(named, *height, now, &mut group);
            }
        }
        self.outcomes.publish(Milestone::Executed, None, &group);
        self.answers.send_modify(|count| *count += 1);
    }

    /// The library answered a submission: with a place, or with a refusal, which is forgotten so
    /// that the client may try again.
    pub fn answered(&self, answers: &[(Named, Option<Accepted>)]) {
        let now = self.clock.micros();
        let mut accepted = Group::default();
        let mut certified = Group::default();
        self.book().answered(answers, now, &mut accepted, &mut certified);
        self.outcomes.publish(Milestone::Accepted, None, &accepted);
        self.outcomes.publish(Milestone::Certified, None, &certified);
        self.answers.send_modify(|count| *count += 1);
    }

    /// Waits until the submission of an equal transaction was answered. True if it was accepted;
    /// false if it was refused, or the wait took too long.
    pub async fn accepted(&self, named: &Named, patience: Duration) -> bool {
        let mut answers = self.answers.subscribe();
        let settled = async {
            loop {
                match self.book().lookup_named(named) {
                    None => return false,
                    Some(tracked) if tracked.stage > Stage::Pending => return true,
                    Some(_) => {}
                }
                if answers.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(patience, settled).await.unwrap_or(false)
    }

    /// Where a transaction stands, if it came to this validator in this life and is recent.
    pub fn lookup(&self, id: &TransactionId) -> Option<Tracked> {
        self.book().lookup(id)
    }

    /// The same, for whoever knows when it expires.
    pub fn knows(&self, named: &Named) -> bool {
        self.book().lookup_named(named).is_some()
    }

    /// The library tells of batches of ours.
    pub fn on_event(&self, event: &Event) {
        match event {
            Event::Certified { digest } => {
                let now = self.clock.micros();
                let certified = self.book().certified(digest, now);
                self.outcomes.publish(Milestone::Certified, None, &certified);
            }
            Event::Rebatched { from, moved } => self.book().rebatched(from, moved),
            // Nothing is pulled here: transactions are submitted.
            Event::Batched { .. } => {}
            // The end is decided by executed blocks alone.
            Event::Expired { .. } | Event::Returned { .. } => {}
        }
    }

    /// A finalised block orders these batches.
    pub fn ordered(&self, height: u64, batches: impl Iterator<Item = Digest>) {
        let mut book = self.book();
        for batch in batches {
            book.ordered(&batch, height);
        }
    }

    /// A block was executed.
    pub fn executed(&self, height: u64, block_timestamp: Timestamp, outcome: &BlockOutcome) {
        let now = self.clock.micros();
        let mut executed = Group::default();
        let mut skipped = Group::default();
        let mut expired = Group::default();
        {
            let mut book = self.book();
            book.executed(&outcome.executed, height, now, &mut executed);
            for batch in &outcome.skipped {
                book.skipped(batch, height, now, &mut skipped);
            }
            book.on_time(block_timestamp, now, &mut expired);
            if let Some(oldest) = executed.latency_micros.iter().max() {
                self.bound().on_executed(*oldest, book.open_count(), now);
            }
        }
        self.outcomes.publish(Milestone::Executed, Some(height), &executed);
        self.outcomes.publish(Milestone::Skipped, Some(height), &skipped);
        self.outcomes.publish(Milestone::Expired, Some(height), &expired);
    }

    /// The state of others was taken over: what they executed meanwhile is known by its ids alone.
    pub fn adopted(&self, archive: &Archive, block_timestamp: Timestamp) {
        let now = self.clock.micros();
        let mut executed: BTreeMap<u64, Group> = BTreeMap::new();
        let mut expired = Group::default();
        let open = self.book().open();
        let found = archive.heights_of(&open);
        {
            let mut book = self.book();
            for (position, height) in found {
                let group = executed.entry(height).or_default();
                book.executed(&open[position..=position], height, now, group);
            }
            book.on_time(block_timestamp, now, &mut expired);
        }
        for (height, group) in executed {
            self.outcomes.publish(Milestone::Executed, Some(height), &group);
        }
        self.outcomes.publish(Milestone::Expired, None, &expired);
    }

    fn bound(&self) -> MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // It answers clients and decides nothing: after a panic elsewhere it is still good enough.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
