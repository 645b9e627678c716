//! Sends to one target on a fixed schedule.
//!
//! Open loop: what is due follows from the time alone, never from answers. Every 20 ms all that is
//! due leaves in requests of at most 500 transactions. Requests in flight are bounded; while they
//! are at the bound, what is due waits, at most one second's worth, and the rest is counted as
//! unsent: a target that stands still is shown as such, and gets no flood when it comes back.
//!
//! A transaction is sent once. Only if the connection breaks before the answer, the same bytes with
//! the same expiration are sent again, which is the same transaction. What is refused is not
//! offered again.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::ACCEPT;
use hyper::{Method, Request, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::ClientError;
use super::source::{Batch, GAS_UNIT_PRICE, Source};
use super::target::{Backoff, TargetState};

const TICK: Duration = Duration::from_millis(20);
const REQUESTS_IN_FLIGHT_MAX: usize = 16;
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
const BACKLOG: Duration = Duration::from_secs(1);
/// Life of a transaction from when it is sent; below what every chain allows by default (30 s).
const TRANSACTION_LIFE: Duration = Duration::from_secs(25);

/// One target's share of a rate: shares of all targets add up to it at every instant.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Transactions per second of all targets.
    pub rate: NonZeroU32,
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
    fn due(&self, now: Instant) -> u64 {
        let elapsed = now.min(self.end).saturating_duration_since(self.start);
        let all = u128::from(self.rate.get()) * elapsed.as_micros() / 1_000_000;
        ((all + u128::from(self.index)) / u128::from(self.targets.max(1))) as u64
    }

    fn backlog_max(&self) -> u64 {
        let share = u64::from(self.rate.get()) / u64::from(self.targets.max(1));
        share * BACKLOG.as_secs() + 1
    }
}

/// Sends until the schedule ends, the source is empty or `stop`; returns when every request has
/// its answer or has given up.
pub async fn run(
    target: Arc<TargetState>,
    schedule: Schedule,
    mut source: Source,
    stop: CancellationToken,
) {
    // The targets' ticks are spread over the interval, so that their requests do not collide.
    let offset = TICK * schedule.index / schedule.targets.max(1);
    let mut ticks = interval_at(schedule.start + offset, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let permits = Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX));
    let mut requests = JoinSet::new();
    let mut accounted = 0;
    let mut more = true;
    while more {
        let last = tokio::select! {
            () = stop.cancelled() => break,
            now = ticks.tick() => now >= schedule.end,
        };
        let mut due = schedule.due(Instant::now()) - accounted;
        while due > 0 && more {
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { break };
            let expiration = expiration_unix_secs();
            let Some(batch) = source.batch(due, expiration) else {
                more = false;
                break;
            };
            let sent = batch.keys.len() as u64;
            (due, accounted) = (due - sent, accounted + sent);
            target.tracker().on_sent(&batch.keys, unix_micros());
            requests.spawn(send(Arc::clone(&target), batch, expiration, permit));
        }
        let bound = if last { 0 } else { schedule.backlog_max() };
        if more && due > bound {
            target.tracker().on_unsent(due - bound);
            accounted += due - bound;
        }
        while let Some(finished) = requests.try_join_next() {
            propagate(finished);
        }
        more &= !last;
    }
    while let Some(finished) = requests.join_next().await {
        propagate(finished);
    }
}

/// A panic in a request is a panic of the sender: its books would be wrong.
fn propagate(finished: Result<(), tokio::task::JoinError>) {
    if let Err(error) = finished
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

async fn send(
    target: Arc<TargetState>,
    batch: Batch,
    expiration_unix_secs: u64,
    _permit: OwnedSemaphorePermit,
) {
    let give_up = Instant::now() + REQUEST_DEADLINE;
    let mut backoff = Backoff::new();
    let mut resent = false;
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        let error = match exchange(&target, &batch, expiration_unix_secs, left).await {
            Ok(statuses) => {
                target.tracker().on_answer(&batch.keys, statuses.into_iter());
                return;
            }
            Err(error) => error,
        };
        if !matches!(error, ClientError::Stopped) {
            target.note(&error);
        }
        let next = backoff.next_attempt();
        let broke = error.broke_connection();
        let again = matches!(error, ClientError::Connect(_)) || (broke && !resent);
        if !again || next >= give_up {
            break;
        }
        if broke {
            resent = true;
            target.tracker().on_resent(&batch.keys);
        }
        sleep_until(next).await;
    }
    target.tracker().on_unanswered(&batch.keys);
}

/// One HTTP status per transaction.
async fn exchange(
    target: &TargetState,
    batch: &Batch,
    expiration_unix_secs: u64,
    deadline: Duration,
) -> Result<Vec<u16>, ClientError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/transactions/batch")
        .header(ACCEPT, "application/octet-stream")
        .header("gas-unit-price", GAS_UNIT_PRICE)
        .header("expiration-unix-secs", expiration_unix_secs);
    let answer = target.client.send(request, batch.body.clone(), deadline).await?;
    if answer.status != StatusCode::OK {
        return Ok(vec![answer.status.as_u16(); batch.keys.len()]);
    }
    if answer.body.len() != 2 * batch.keys.len() {
        let (found, wanted) = (answer.body.len(), 2 * batch.keys.len());
        let message = format!("{found} bytes of statuses instead of {wanted}");
        return Err(ClientError::Form(message));
    }
    let statuses = answer.body.as_chunks::<2>().0.iter();
    Ok(statuses.map(|status| u16::from_le_bytes(*status)).collect())
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

    #[test]
    fn the_shares_of_the_targets_add_up_to_the_rate() {
        let start = Instant::now();
        for (rate, targets, milliseconds) in
            [(1, 4, 1_000), (7, 3, 999), (20_000, 4, 1_234), (1_000_000, 7, 86_400_000)]
        {
            let rate = NonZeroU32::new(rate).expect("above zero");
            let now = start + Duration::from_millis(milliseconds);
            let share = |index| Schedule { rate, targets, index, start, end: now }.due(now);
            let total: u64 = (0..targets).map(share).sum();
            assert_eq!(total, u64::from(rate.get()) * milliseconds / 1_000);
        }
    }

    #[tokio::test]
    async fn nothing_comes_due_before_the_start_or_after_the_end() {
        let start = Instant::now() + Duration::from_secs(5);
        let end = start + Duration::from_secs(1);
        let rate = NonZeroU32::new(100).expect("above zero");
        let schedule = Schedule { rate, targets: 1, index: 0, start, end };
        assert_eq!(schedule.due(start - Duration::from_secs(1)), 0);
        assert_eq!(schedule.due(end), 100);
        assert_eq!(schedule.due(end + Duration::from_secs(9)), 100);
    }
}
