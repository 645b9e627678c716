//! The books of one target: what was sent to it, what it said, what is still open.
//!
//! A transaction is entered before its bytes leave, so an outcome that overtakes the answer finds
//! it, and leaves the books once it is resolved or refused: memory follows what is open, not what
//! was sent. An answer for what is not in the books any more is one that was overtaken. Nothing
//! here waits or does I/O.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use serde::Serialize;

use super::latency::Latencies;
use super::outcomes::{Outcome, State};
use super::states::Standing;

/// A transaction's id: what its validator calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub [u8; 32]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut word = [0; 8];
        word.copy_from_slice(&self.0[..8]);
        state.write_u64(u64::from_le_bytes(word));
    }
}

/// Keys are hashes of our own transactions, so they need no second hash.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// The part of a run that counts, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// Its first microsecond.
    pub start_micros: u64,
    /// The first microsecond after it.
    pub end_micros: u64,
}

impl Window {
    fn contains(self, time_micros: u64) -> bool {
        (self.start_micros..self.end_micros).contains(&time_micros)
    }
}

/// What was found executed by asking is remembered for so long beyond its expiration.
const ASKED_KEPT_SECS: u64 = 60;

/// Transactions that were answered with something else than 202, by HTTP status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// 400.
    pub malformed: u64,
    /// 413.
    pub too_large: u64,
    /// 429.
    pub back_pressure: u64,
    /// 503.
    pub not_serving: u64,
    /// Any other status.
    pub other: u64,
}

impl Refused {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.malformed + self.too_large + self.back_pressure + self.not_serving + self.other
    }

    fn count(&mut self, status: u16) {
        let counter = match status {
            400 => &mut self.malformed,
            413 => &mut self.too_large,
            429 => &mut self.back_pressure,
            503 => &mut self.not_serving,
            _ => &mut self.other,
        };
        *counter += 1;
    }
}

/// Transactions, unless a field says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to a connection.
    pub sent: u64,
    /// Of those, inside the window.
    pub sent_in_window: u64,
    /// Came due and were not sent, because the requests in flight were at their bound.
    pub unsent: u64,
    /// Sent a second time, because the connection broke before the answer.
    pub resent: u64,
    /// Answered 202.
    pub accepted: u64,
    /// Answered otherwise.
    pub refused: Refused,
    /// Never answered.
    pub unanswered: u64,
    /// Resolved by asking, because the target had forgotten them in a restart.
    pub asked: u64,
    /// Executed.
    pub executed: u64,
    /// Of those, executed inside the window.
    pub executed_in_window: u64,
    /// Reported expired.
    pub expired: u64,
    /// In a batch that was skipped by evidence.
    pub skipped: u64,
    /// Reported executed although nothing of ours was waiting for it.
    pub repeated: u64,
    /// Lines of outcomes that the target no longer had when they were asked for.
    pub outcomes_lost: u64,
    /// Lines of outcomes that could not be read.
    pub outcomes_malformed: u64,
    /// Accepted and without an outcome now.
    pub unresolved: u64,
    /// Accepted, not certified when the disk of their target was destroyed, and not executed.
    pub lost_with_disk: u64,
}

impl Counts {
    /// Adds the counts of another target.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.sent_in_window += other.sent_in_window;
        self.unsent += other.unsent;
        self.resent += other.resent;
        self.accepted += other.accepted;
        self.refused.malformed += other.refused.malformed;
        self.refused.too_large += other.refused.too_large;
        self.refused.back_pressure += other.refused.back_pressure;
        self.refused.not_serving += other.refused.not_serving;
        self.refused.other += other.refused.other;
        self.unanswered += other.unanswered;
        self.asked += other.asked;
        self.executed += other.executed;
        self.executed_in_window += other.executed_in_window;
        self.expired += other.expired;
        self.skipped += other.skipped;
        self.repeated += other.repeated;
        self.outcomes_lost += other.outcomes_lost;
        self.outcomes_malformed += other.outcomes_malformed;
        self.unresolved += other.unresolved;
        self.lost_with_disk += other.lost_with_disk;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// On its way; no answer yet.
    Sent,
    /// Answered 202; its outcome is open.
    Accepted,
    /// No answer will come; it may be executed all the same.
    Unanswered,
    /// Accepted by a target that lost its disk before a quorum had it: it may be executed all the
    /// same, and nothing is owed.
    Lost,
}

#[derive(Clone, Copy)]
struct Entry {
    phase: Phase,
    certified: bool,
    measured: bool,
    sent_micros: u64,
    expiration_unix_secs: u64,
}

/// The books.
pub struct Tracker {
    window: Window,
    /// The target may lose its disk, and what a quorum had by then is owed all the same.
    follows_certificates: bool,
    open: HashMap<Key, Entry, BuildHasherDefault<KeyHasher>>,
    /// Found executed by asking, by the second of their expiration: the stream may say so as well.
    asked: HashMap<Key, u64, BuildHasherDefault<KeyHasher>>,
    counts: Counts,
    latencies: Latencies,
}

impl Tracker {
    /// Empty books; latencies are those of transactions sent inside the window.
    pub fn new(window: Window, follows_certificates: bool) -> Self {
        Self {
            window,
            follows_certificates,
            open: HashMap::default(),
            asked: HashMap::default(),
            counts: Counts::default(),
            latencies: Latencies::new(),
        }
    }

    /// These are about to be sent, to expire at a second.
    pub fn on_sent(&mut self, keys: &[Key], now_micros: u64, expiration_unix_secs: u64) {
        let measured = self.window.contains(now_micros);
        for key in keys {
            let entry = Entry {
                phase: Phase::Sent,
                certified: false,
                measured,
                sent_micros: now_micros,
                expiration_unix_secs,
            };
            self.open.insert(*key, entry);
        }
        self.counts.sent += keys.len() as u64;
        if measured {
            self.counts.sent_in_window += keys.len() as u64;
        }
    }

    /// These came due and could not be sent.
    pub fn on_unsent(&mut self, transactions: u64) {
        self.counts.unsent += transactions;
    }

    /// These are being sent once more.
    pub fn on_resent(&mut self, keys: &[Key]) {
        self.counts.resent += keys.len() as u64;
    }

    /// The target answered, one HTTP status per key.
    pub fn on_answer(&mut self, keys: &[Key], statuses: impl Iterator<Item = u16>) {
        for (key, status) in keys.iter().zip(statuses) {
            if status != 202 {
                self.counts.refused.count(status);
                self.open.remove(key);
                continue;
            }
            self.counts.accepted += 1;
            if let Some(entry) = self.open.get_mut(key)
                && entry.phase != Phase::Accepted
            {
                self.counts.lost_with_disk -= u64::from(entry.phase == Phase::Lost);
                entry.phase = Phase::Accepted;
                self.counts.unresolved += 1;
            }
        }
    }

    /// No answer will come for these.
    pub fn on_unanswered(&mut self, keys: &[Key]) {
        self.counts.unanswered += keys.len() as u64;
        for key in keys {
            if let Some(entry) = self.open.get_mut(key) {
                entry.phase = Phase::Unanswered;
            }
        }
    }

    /// The target has lost its disk: "accepted" promised no more than a batch that is durable there.
    pub fn on_disk_lost(&mut self) {
        for entry in self.open.values_mut() {
            if entry.phase == Phase::Accepted && !entry.certified {
                entry.phase = Phase::Lost;
                self.counts.unresolved -= 1;
                self.counts.lost_with_disk += 1;
            }
        }
    }

    /// The target reported a group of transactions.
    pub fn on_outcome(&mut self, outcome: &Outcome<'_>) {
        let in_window = self.window.contains(outcome.time_micros);
        match outcome.state {
            State::Gap => self.counts.outcomes_lost += outcome.lost,
            State::Accepted | State::Certified => {
                // Looking each of them up would cost more than everything else done with them.
                for (key, latency_micros) in outcome.transactions() {
                    let arrival = outcome.time_micros.saturating_sub(latency_micros);
                    if self.window.contains(arrival) {
                        self.latencies.record(outcome.state, latency_micros);
                    }
                    if self.follows_certificates
                        && outcome.state == State::Certified
                        && let Some(entry) = self.open.get_mut(&key)
                    {
                        entry.certified = true;
                    }
                }
            }
            State::Executed | State::Expired | State::Skipped => {
                for (key, latency_micros) in outcome.transactions() {
                    self.resolve(key, outcome.state, in_window, latency_micros);
                }
            }
        }
    }

    /// What was sent before an instant, has its answer or will get none, and has no outcome.
    pub fn open_before(&mut self, micros: u64) -> Vec<Key> {
        let now = micros / 1_000_000;
        self.asked.retain(|_, expiration| *expiration + ASKED_KEPT_SECS > now);
        let asked_for =
            |(_, entry): &(&Key, &Entry)| entry.phase != Phase::Sent && entry.sent_micros < micros;
        self.open.iter().filter(asked_for).map(|(key, _)| *key).collect()
    }

    /// The target was asked about a transaction, when blocks up to a time were executed there.
    ///
    /// When it was executed is not known any more: it counts as executed now. It has no latency.
    pub fn on_standing(
        &mut self,
        key: Key,
        standing: Standing,
        block_micros: u64,
        now_micros: u64,
    ) {
        let Some(entry) = self.open.get(&key).copied() else { return };
        // What no block up to its expiration executed, none ever will.
        let over = entry.expiration_unix_secs.saturating_mul(1_000_000) < block_micros;
        let state = match standing {
            Standing::Executed => State::Executed,
            Standing::Skipped => State::Skipped,
            Standing::Expired => State::Expired,
            Standing::Unknown if over => State::Expired,
            Standing::Unknown | Standing::Open => return,
        };
        if state == State::Executed {
            self.asked.insert(key, entry.expiration_unix_secs);
        }
        if state == State::Expired && entry.phase == Phase::Unanswered {
            // It was never accepted, so nothing was promised.
            self.open.remove(&key);
            return;
        }
        if let Some(entry) = self.open.get_mut(&key) {
            entry.measured = false;
        }
        self.counts.asked += 1;
        self.resolve(key, state, self.window.contains(now_micros), 0);
    }

    /// A line could not be read.
    pub fn on_malformed_outcome(&mut self) {
        self.counts.outcomes_malformed += 1;
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The latencies so far.
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    fn resolve(&mut self, key: Key, state: State, in_window: bool, latency_micros: u64) {
        let Some(entry) = self.open.remove(&key) else {
            let asked = self.asked.remove(&key).is_some();
            self.counts.repeated += u64::from(state == State::Executed && !asked);
            return;
        };
        self.counts.unresolved -= u64::from(entry.phase == Phase::Accepted);
        if entry.phase == Phase::Lost {
            if state == State::Expired {
                return;
            }
            self.counts.lost_with_disk -= 1;
        }
        match state {
            State::Executed => {
                self.counts.executed += 1;
                self.counts.executed_in_window += u64::from(in_window);
                if entry.measured {
                    self.latencies.record(state, latency_micros);
                }
            }
            State::Skipped => self.counts.skipped += 1,
            _ => self.counts.expired += 1,
        }
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
