//! Offers transactions to validators, at a fixed rate or as fast as they take them, and follows each to its outcome.
//!
//! ```text
//!              due by the clock                    GET /outcomes
//!   source ---> sender ---> POST batch ---> target -------------> follower
//!                  |  sent, answered                                 |  outcomes
//!                  +----------------> books of the target <----------+
//! ```
//!
//! A sender and a follower per target, and one book between them. Latencies are the validators'
//! own, from the arrival of a transaction; they count for transactions sent inside the window,
//! however late they are resolved, so that a slow tail is not cut off. Throughput counts what was
//! executed inside the window, whenever it was sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{Client, Target};
use super::follower;
use super::latency::{Latencies, LatencyQuantiles};
use super::sender::{self, Schedule, unix_micros};
use super::source::{Content, Source};
use super::states;
use super::target::TargetState;
use super::tracker::{Counts, Tracker, Window};
use super::units::Rate;
use crate::report::details::LatencyCurve;

/// How long tasks that were told to stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// What to offer to whom.
pub struct LoadPlan {
    /// The validators.
    pub targets: Vec<Target>,
    /// Transactions per second, of all targets together.
    pub rate: Rate,
    /// Load that does not count, before the window.
    pub warm_up: Duration,
    /// Length of the window.
    pub duration: Duration,
    /// What to send.
    pub content: Content,
    /// Targets may lose their disks while it runs.
    pub disks_may_be_lost: bool,
}

/// How a load stands.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Since its start.
    pub elapsed: Duration,
    /// Of all targets.
    pub counts: Counts,
}

/// What a load came to.
pub struct LoadResult {
    /// Of all targets; `unresolved` are those that were accepted and have no outcome.
    pub counts: Counts,
    /// Of transactions sent inside the window.
    pub latency: LatencyQuantiles,
    /// Length of the window.
    pub duration: Duration,
    /// Targets with an error, and the last one of each.
    pub errors: Vec<(Target, String)>,
}

impl LoadResult {
    /// Transactions offered per second of the window.
    pub fn offered_tps(&self) -> f64 {
        self.counts.sent_in_window as f64 / self.duration.as_secs_f64()
    }

    /// Transactions executed per second of the window.
    pub fn executed_tps(&self) -> f64 {
        self.counts.executed_in_window as f64 / self.duration.as_secs_f64()
    }
}

/// A load under way. `finish` joins its tasks; dropping it aborts them.
pub struct LoadHandle {
    targets: Vec<Arc<TargetState>>,
    senders: JoinSet<()>,
    followers: JoinSet<()>,
    drivers: TaskTracker,
    stop_sending: CancellationToken,
    stop: CancellationToken,
    start: Instant,
    window_start: Instant,
    window_end: Instant,
}

/// Starts the load, on the current runtime.
pub fn start(plan: LoadPlan) -> LoadHandle {
    let (start, start_micros) = (Instant::now(), unix_micros());
    let window_start = start + plan.warm_up;
    let window_end = window_start + plan.duration;
    let micros = |at: Instant| start_micros + (at - start).as_micros() as u64;
    let window = Window { start_micros: micros(window_start), end_micros: micros(window_end) };
    let mut load = LoadHandle {
        targets: Vec::new(),
        senders: JoinSet::new(),
        followers: JoinSet::new(),
        drivers: TaskTracker::new(),
        stop_sending: CancellationToken::new(),
        stop: CancellationToken::new(),
        start,
        window_start,
        window_end,
    };
    let targets = plan.targets.len() as u32;
    let aside = Arc::default();
    for (index, target) in (0..).zip(plan.targets) {
        let client = Client::new(target, load.drivers.clone(), load.stop.clone());
        let tracker = Tracker::new(window, plan.disks_may_be_lost);
        let target = Arc::new(TargetState::new(client, tracker));
        let schedule = Schedule { rate: plan.rate, targets, index, start, end: window_end };
        let source = Source::new(plan.content.clone(), index);
        let stop_sending = load.stop_sending.clone();
        let (target_sent, aside) = (Arc::clone(&target), Arc::clone(&aside));
        load.senders.spawn(sender::run(target_sent, schedule, source, aside, stop_sending));
        load.followers.spawn(follower::run(Arc::clone(&target), load.stop.clone()));
        load.followers.spawn(states::run(Arc::clone(&target), load.stop.clone()));
        load.targets.push(target);
    }
    load
}

impl LoadHandle {
    /// When the window begins.
    pub fn window_start(&self) -> Instant {
        self.window_start
    }

    /// When the window, and the sending, ends.
    pub fn window_end(&self) -> Instant {
        self.window_end
    }

    /// How it stands.
    pub fn snapshot(&self) -> Snapshot {
        let mut counts = Counts::default();
        for target in &self.targets {
            counts.add(&target.tracker().counts());
        }
        Snapshot { elapsed: self.start.elapsed(), counts }
    }

    /// The latencies so far.
    pub fn latency(&self) -> LatencyQuantiles {
        let mut latencies = Latencies::new();
        for target in &self.targets {
            latencies.add(target.tracker().latencies());
        }
        latencies.quantiles()
    }

    /// The distributions of the latencies so far.
    pub fn latency_curves(&self) -> Vec<(&'static str, LatencyCurve)> {
        let mut latencies = Latencies::new();
        for target in &self.targets {
            latencies.add(target.tracker().latencies());
        }
        latencies.curves()
    }

    /// A target has lost its disk, and is not up again yet.
    pub fn disk_lost(&self, index: usize) {
        if let Some(target) = self.targets.get(index) {
            target.tracker().on_disk_lost();
        }
    }

    /// Sends nothing new; requests under way keep their deadline.
    pub fn stop_sending(&self) {
        self.stop_sending.cancel();
    }

    /// Waits until everything was sent and answered, or has given up. Cancel-safe.
    pub async fn sent(&mut self) {
        join(&mut self.senders).await;
    }

    /// Waits until everything was sent and every accepted transaction has its outcome. Has no
    /// deadline of its own. Cancel-safe.
    pub async fn settled(&mut self) {
        self.sent().await;
        for target in &self.targets {
            loop {
                let settled = target.settled.notified();
                tokio::pin!(settled);
                // Registered before the books are read, so that no notification falls between.
                settled.as_mut().enable();
                if target.tracker().counts().unresolved == 0 {
                    break;
                }
                settled.await;
            }
        }
    }

    /// Ends all tasks, whatever is still open, and says what the load came to.
    pub async fn finish(mut self) -> LoadResult {
        self.stop_sending.cancel();
        self.stop.cancel();
        self.drivers.close();
        let (senders, followers, drivers) = (&mut self.senders, &mut self.followers, &self.drivers);
        let ended = async {
            join(senders).await;
            join(followers).await;
            drivers.wait().await;
        };
        // All of them wait on the token that was cancelled; dropping the sets aborts a straggler.
        let _ = timeout(STOP_DEADLINE, ended).await;
        self.result()
    }

    fn result(&self) -> LoadResult {
        let mut errors = Vec::new();
        for target in &self.targets {
            if let Some(error) = target.last_error() {
                errors.push((target.client.target().clone(), error));
            }
        }
        LoadResult {
            counts: self.snapshot().counts,
            latency: self.latency(),
            duration: self.window_end - self.window_start,
            errors,
        }
    }
}

/// Joins all; a panic in one of them is passed on, since the books would be wrong.
async fn join(tasks: &mut JoinSet<()>) {
    while let Some(finished) = tasks.join_next().await {
        if let Err(error) = finished
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
