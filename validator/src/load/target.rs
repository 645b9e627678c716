//! One target of a load: its connections, its books, its last error; shared by sender and follower.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::Client;
use super::tracker::Tracker;

/// What sender and follower of one target share.
pub struct TargetState {
    /// Its connections.
    pub client: Client,
    /// Told whenever the last open transaction was resolved.
    pub settled: Notify,
    tracker: Mutex<Tracker>,
    last_error: Mutex<Option<String>>,
    restarted: AtomicBool,
    serves: AtomicBool,
    paused_until: Mutex<Option<Instant>>,
}

impl TargetState {
    /// A target with empty books.
    pub fn new(client: Client, tracker: Tracker) -> Self {
        let (tracker, last_error) = (Mutex::new(tracker), Mutex::new(None));
        Self {
            client,
            settled: Notify::new(),
            tracker,
            last_error,
            restarted: AtomicBool::new(false),
            serves: AtomicBool::new(true),
            paused_until: Mutex::new(None),
        }
    }

    /// The books. Never held across an await.
    pub fn tracker(&self) -> MutexGuard<'_, Tracker> {
        lock(&self.tracker)
    }

    /// It began a new life, in which it knows nothing of what it had accepted.
    pub fn on_restart(&self) {
        self.restarted.store(true, Ordering::Relaxed);
    }

    /// True if it began a new life since the load began.
    pub fn has_restarted(&self) -> bool {
        self.restarted.load(Ordering::Relaxed)
    }

    /// It answered: whether it takes transactions at all.
    pub fn on_serving(&self, serves: bool) {
        self.serves.store(serves, Ordering::Relaxed);
    }

    /// False while it takes no transactions, such as one that is not in the committee.
    pub fn serves(&self) -> bool {
        self.serves.load(Ordering::Relaxed)
    }

    /// Nothing new is sent to it for this long: it said so, or is away.
    pub fn pause(&self, duration: Duration) {
        let until = Instant::now() + duration;
        let mut paused = lock(&self.paused_until);
        *paused = Some(paused.map_or(until, |earlier| earlier.max(until)));
    }

    /// Until when nothing new is sent to it.
    pub fn paused_until(&self) -> Option<Instant> {
        lock(&self.paused_until).filter(|until| *until > Instant::now())
    }

    /// Keeps an error for the summary; the last one is the one that is shown.
    pub fn note(&self, error: &dyn std::fmt::Display) {
        *lock(&self.last_error) = Some(error.to_string());
    }

    /// The last error.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }
}

/// A lock whose holders do not panic; if one did, its task's panic is reported where it is joined.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits between attempts: doubling, bounded.
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LAST: Duration = Duration::from_secs(1);

    /// The first wait is 50 ms, the longest 1 s.
    pub fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The attempt went well.
    pub fn reset(&mut self) {
        self.next = Self::FIRST;
    }

    /// When to try again.
    pub fn next_attempt(&mut self) -> Instant {
        let wait = self.next;
        self.next = (wait * 2).min(Self::LAST);
        Instant::now() + wait
    }
}
