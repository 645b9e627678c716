//! Sends to one target, on a fixed schedule or as fast as it takes.
//!
//! On a schedule, what is due follows from the time alone, never from answers. Every 20 ms all that
//! is due leaves in requests of at most 500 transactions. Requests in flight are bounded, and while
//! a target is away or has asked for a pause it is sent nothing; meanwhile what is due waits, at
//! most one second's worth, and the rest is counted as unsent: a target that stands still is shown
//! as such, and gets no flood when it comes back. One that says that it takes no transactions at all,
//! as a validator that is not in the committee does, is only asked again now and then, and the
//! others take its share.
//!
//! As fast as it takes, everything is due at once: the pace is that of the answers. In both cases
//! the bound of requests in flight adapts to refusals.
//!
//! A transaction is sent once. Only if the connection breaks before the answer, the same bytes with
//! the same expiration are sent again, which is the same transaction. What is refused is not
//! offered again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::ACCEPT;
use hyper::{Method, Request, StatusCode};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::ClientError;
use super::source::{Batch, GAS_UNIT_PRICE, Source};
use super::target::{Backoff, TargetState};
use super::units::Rate;

const TICK: Duration = Duration::from_millis(20);
const REQUESTS_IN_FLIGHT_MAX: usize = 16;
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Pause for a target that is away or does not serve yet.
const AWAY_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause that a target is given.
const PAUSE_MAX: Duration = Duration::from_secs(1);
const TOO_MANY: u16 = StatusCode::TOO_MANY_REQUESTS.as_u16();
const BACKLOG: Duration = Duration::from_secs(1);
/// Transactions that a target is asked with whether it takes any again.
const PROBE: u64 = 1;
/// Life of a transaction from when it is sent; below what every chain allows by default (30 s).
const TRANSACTION_LIFE: Duration = Duration::from_secs(25);

/// One target's share of a rate: shares of all targets add up to it at every instant.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Transactions per second of all targets.
    pub rate: Rate,
    /// Number of targets.
    pub targets: u32,
    /// Which of them.
    pub index: u32,
    /// When it begins.
    pub start: Instant,
    /// When it ends.
    pub end: Instant,
}

impl Schedule {
    /// How many are due by now; `None` if as many as are taken.
    fn due(&self, now: Instant) -> Option<u64> {
        let Rate::PerSecond(rate) = self.rate else { return None };
        let elapsed = now.min(self.end).saturating_duration_since(self.start);
        let all = u128::from(rate.get()) * elapsed.as_micros() / 1_000_000;
        Some(((all + u128::from(self.index)) / u128::from(self.targets.max(1))) as u64)
    }

    fn backlog_max(&self) -> u64 {
        let Rate::PerSecond(rate) = self.rate else { return u64::MAX };
        let share = u64::from(rate.get()) / u64::from(self.targets.max(1));
        share * BACKLOG.as_secs() + 1
    }
}

/// Sends until the schedule ends, the source is empty or `stop`; returns when every request has
/// its answer or has given up. `aside` counts what other targets should be sent and take nothing.
pub async fn run(
    target: Arc<TargetState>,
    schedule: Schedule,
    mut source: Source,
    aside: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    // The targets' ticks are spread over the interval, so that their requests do not collide.
    let offset = TICK * schedule.index / schedule.targets.max(1);
    let mut ticks = interval_at(schedule.start + offset, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut requests = JoinSet::new();
    let mut width = Width::new();
    let (mut accounted, mut extra) = (0, 0);
    let mut more = true;
    let closed = schedule.rate == Rate::Max;
    while more {
        let last = tokio::select! {
            () = stop.cancelled() => break,
            now = ticks.tick() => now >= schedule.end,
            // What is due comes with the clock; what is taken, with the answers.
            Some(finished) = requests.join_next(), if closed => {
                width.on_finished(finished);
                false
            }
        };
        while let Some(finished) = requests.try_join_next() {
            width.on_finished(finished);
        }
        let now = Instant::now();
        let mut due = schedule.due(now).map_or(u64::MAX, |due| due + extra - accounted);
        if closed && now >= schedule.end {
            break;
        }
        let paused = target.paused_until().is_some();
        if !closed && !last && !target.serves() {
            let given = due.saturating_sub(PROBE);
            aside.fetch_add(given, Ordering::Relaxed);
            (due, accounted) = (due - given, accounted + given);
        } else if !closed && !paused {
            let taken = aside.swap(0, Ordering::Relaxed);
            (due, extra) = (due + taken, extra + taken);
        }
        while due > 0 && more && !paused && requests.len() < width.requests() {
            let expiration = expiration_unix_secs();
            let Some(batch) = source.batch(due, expiration) else {
                more = false;
                break;
            };
            let sent = batch.keys.len() as u64;
            (due, accounted) = (due - sent, accounted + sent);
            target.tracker().on_sent(&batch.keys, unix_micros(), expiration);
            requests.spawn(send(Arc::clone(&target), batch, expiration));
        }
        let bound = if last { 0 } else { schedule.backlog_max() };
        if more && !closed && due > bound {
            target.tracker().on_unsent(due - bound);
            accounted += due - bound;
        }
        more &= !last;
    }
    // Whoever ends last finds what nobody took.
    target.tracker().on_unsent(aside.swap(0, Ordering::Relaxed));
    while let Some(finished) = requests.join_next().await {
        propagate(finished);
    }
}

/// What a request came to, for the pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Everything was taken, or refused for what it is.
    Taken,
    /// Something was refused for lack of room.
    NoRoom,
    /// No answer.
    Unanswered,
}

/// How many requests may be in flight: one more after four rounds that were taken, a third less
/// after a refusal, so that few of them are refused. So a target that is full is asked by few requests and not by all.
/// In thousandths.
#[derive(Debug)]
struct Width(usize);

impl Width {
    fn new() -> Self {
        Self(REQUESTS_IN_FLIGHT_MAX * 1_000)
    }

    fn requests(&self) -> usize {
        self.0 / 1_000
    }

    fn on_finished(&mut self, finished: Result<Verdict, tokio::task::JoinError>) {
        match propagate(finished) {
            Some(Verdict::Taken) => self.0 += 250_000 / self.0,
            Some(Verdict::NoRoom) => self.0 -= self.0 / 3,
            Some(Verdict::Unanswered) | None => {}
        }
        self.0 = self.0.clamp(1_000, REQUESTS_IN_FLIGHT_MAX * 1_000);
    }
}

/// A panic in a request is a panic of the sender: its books would be wrong.
fn propagate<T>(finished: Result<T, tokio::task::JoinError>) -> Option<T> {
    match finished {
        Ok(value) => Some(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

async fn send(target: Arc<TargetState>, batch: Batch, expiration_unix_secs: u64) -> Verdict {
    let give_up = Instant::now() + REQUEST_DEADLINE;
    let mut backoff = Backoff::new();
    let (mut resent, mut waited) = (false, false);
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        let again = match exchange(&target, &batch, expiration_unix_secs, left).await {
            // Not yet: it was away a moment ago, and takes nothing before it is in step again.
            Ok(answer) if waited && answer.not_serving() => {
                target.on_serving(false);
                true
            }
            // It may have been taken in a former life, which a refusal for lack of room hides.
            Ok(answer) if resent && answer.statuses.contains(&TOO_MANY) => true,
            Ok(answer) => return settle(&target, &batch, answer),
            Err(error) => {
                if !matches!(error, ClientError::Stopped) {
                    target.note(&error);
                }
                let away = matches!(error, ClientError::Connect(_));
                let broke = error.broke_connection();
                if away || broke {
                    target.pause(AWAY_PAUSE);
                }
                let again = away || (broke && !resent);
                if again && broke {
                    resent = true;
                    target.tracker().on_resent(&batch.keys);
                }
                again
            }
        };
        let next = backoff.next_attempt();
        if !again || next >= give_up {
            break;
        }
        waited = true;
        sleep_until(next).await;
    }
    target.tracker().on_unanswered(&batch.keys);
    Verdict::Unanswered
}

/// Enters an answer into the books, and keeps the pause that it asks for.
fn settle(target: &TargetState, batch: &Batch, answer: Statuses) -> Verdict {
    let no_room = answer.statuses.contains(&TOO_MANY);
    target.on_serving(!answer.not_serving());
    if no_room {
        target.pause(answer.retry_after.unwrap_or(AWAY_PAUSE).min(PAUSE_MAX));
    } else if answer.not_serving() {
        target.pause(AWAY_PAUSE);
    }
    target.tracker().on_answer(&batch.keys, answer.statuses.into_iter());
    if no_room { Verdict::NoRoom } else { Verdict::Taken }
}

/// An answer.
struct Statuses {
    /// One HTTP status per transaction.
    statuses: Vec<u16>,
    retry_after: Option<Duration>,
}

impl Statuses {
    fn not_serving(&self) -> bool {
        self.statuses.first() == Some(&StatusCode::SERVICE_UNAVAILABLE.as_u16())
    }
}

async fn exchange(
    target: &TargetState,
    batch: &Batch,
    expiration_unix_secs: u64,
    deadline: Duration,
) -> Result<Statuses, ClientError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/transactions/batch")
        .header(ACCEPT, "application/octet-stream")
        .header("gas-unit-price", GAS_UNIT_PRICE)
        .header("expiration-unix-secs", expiration_unix_secs);
    let answer = target.client.send(request, batch.body.clone(), deadline).await?;
    let retry_after = answer.retry_after;
    if answer.status != StatusCode::OK {
        let statuses = vec![answer.status.as_u16(); batch.keys.len()];
        return Ok(Statuses { statuses, retry_after });
    }
    if answer.body.len() != 2 * batch.keys.len() {
        let (found, wanted) = (answer.body.len(), 2 * batch.keys.len());
        let message = format!("{found} bytes of statuses instead of {wanted}");
        return Err(ClientError::Form(message));
    }
    let statuses = answer.body.as_chunks::<2>().0.iter();
    let statuses = statuses.map(|status| u16::from_le_bytes(*status)).collect();
    Ok(Statuses { statuses, retry_after })
}

/// Microseconds since the Unix epoch.
pub fn unix_micros() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

fn expiration_unix_secs() -> u64 {
    unix_micros() / 1_000_000 + TRANSACTION_LIFE.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn the_width_follows_refusals_down_and_answers_up_within_its_bounds() {
        let mut width = Width::new();
        for _ in 0..100 {
            width.on_finished(Ok(Verdict::NoRoom));
        }
        assert_eq!(width.requests(), 1);
        width.on_finished(Ok(Verdict::Unanswered));
        assert_eq!(width.requests(), 1);
        for _ in 0..1_000 {
            width.on_finished(Ok(Verdict::Taken));
        }
        assert_eq!(width.requests(), REQUESTS_IN_FLIGHT_MAX);
    }

    #[test]
    fn the_shares_of_the_targets_add_up_to_the_rate() {
        let start = Instant::now();
        for (rate, targets, milliseconds) in
            [(1, 4, 1_000), (7, 3, 999), (20_000, 4, 1_234), (1_000_000, 7, 86_400_000)]
        {
            let rate = NonZeroU32::new(rate).expect("above zero");
            let schedule = Rate::PerSecond(rate);
            let now = start + Duration::from_millis(milliseconds);
            let share = |index| {
                let rate = schedule;
                Schedule { rate, targets, index, start, end: now }.due(now)
            };
            let total: u64 = (0..targets).filter_map(share).sum();
            assert_eq!(total, u64::from(rate.get()) * milliseconds / 1_000);
        }
    }

    #[tokio::test]
    async fn nothing_comes_due_before_the_start_or_after_the_end() {
        let start = Instant::now() + Duration::from_secs(5);
        let end = start + Duration::from_secs(1);
        let rate = Rate::PerSecond(NonZeroU32::new(100).expect("above zero"));
        let schedule = Schedule { rate, targets: 1, index: 0, start, end };
        assert_eq!(schedule.due(start - Duration::from_secs(1)), Some(0));
        assert_eq!(schedule.due(end), Some(100));
        assert_eq!(schedule.due(end + Duration::from_secs(9)), Some(100));
    }
}
