//! Asks a target that was started again about what it has forgotten.
//!
//! A validator follows clients' transactions in memory only. After a restart its stream says
//! nothing of those it had accepted before, although it keeps its promise. So, from the first sign
//! of a new life on, every transaction that is open for longer than a second is asked about, at
//! most once a second, until it was executed, or can never be.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::header::ACCEPT;
use hyper::{Method, Request, StatusCode};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::client::ClientError;
use super::sender::unix_micros;
use super::target::TargetState;
use super::tracker::Key;

/// How often what is open is asked about.
const INTERVAL: Duration = Duration::from_secs(1);
/// Younger transactions are left to the stream.
const AGE_MIN: Duration = Duration::from_secs(1);
/// Most ids of one question.
const IDS_MAX: usize = 4096;
const DEADLINE: Duration = Duration::from_secs(5);

/// Where a transaction stands, as far as its books need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The target does not know it (any more, or yet).
    Unknown,
    /// On its way.
    Open,
    /// Will not be executed any more.
    Expired,
    /// Was in a batch that evidence removed.
    Skipped,
    /// Executed.
    Executed,
}

impl Standing {
    /// From the compact answer's byte; see [`crate::http`].
    fn read(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Unknown),
            1..=4 => Some(Self::Open),
            5 => Some(Self::Expired),
            6 => Some(Self::Skipped),
            7 => Some(Self::Executed),
            _ => None,
        }
    }
}

/// Asks until `stop`.
pub async fn run(target: Arc<TargetState>, stop: CancellationToken) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if !target.has_restarted() {
            continue;
        }
        let before = unix_micros().saturating_sub(AGE_MIN.as_micros() as u64);
        let open = target.tracker().open_before(before);
        for keys in open.chunks(IDS_MAX) {
            match ask(&target, keys).await {
                Ok(()) => {}
                Err(ClientError::Stopped) => return,
                Err(error) => {
                    // Away again: the next round asks again.
                    target.note(&error);
                    break;
                }
            }
        }
        if !open.is_empty() && target.tracker().counts().unresolved == 0 {
            target.settled.notify_waiters();
        }
    }
}

async fn ask(target: &TargetState, keys: &[Key]) -> Result<(), ClientError> {
    let mut body = BytesMut::with_capacity(keys.len() * 32);
    for key in keys {
        body.extend_from_slice(&key.0);
    }
    let request = Request::builder()
        .method(Method::POST)
        .uri("/transactions/states")
        .header(ACCEPT, "application/octet-stream");
    let answer = target.client.send(request, body.freeze(), DEADLINE).await?;
    if answer.status != StatusCode::OK {
        return Err(ClientError::Status(answer.status));
    }
    let (block_micros, standings) = read(&answer.body, keys.len())?;
    let now = unix_micros();
    let mut tracker = target.tracker();
    for (key, standing) in keys.iter().zip(standings) {
        tracker.on_standing(*key, standing, block_micros, now);
    }
    Ok(())
}

/// Consensus time there (u64, little-endian), then one byte per id.
fn read(body: &Bytes, count: usize) -> Result<(u64, Vec<Standing>), ClientError> {
    let parts = body.split_first_chunk::<8>().filter(|(_, codes)| codes.len() == count);
    let standings = parts.and_then(|(time, codes)| {
        let standings: Option<Vec<_>> = codes.iter().map(|code| Standing::read(*code)).collect();
        Some((u64::from_le_bytes(*time), standings?))
    });
    let form = || ClientError::Form(format!("{} bytes of states for {count} ids", body.len()));
    standings.ok_or_else(form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::Stage;

    #[test]
    fn an_answer_is_a_time_and_one_known_code_per_id() {
        let body = Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0, 7, 0]);
        let (time, standings) = read(&body, 2).expect("well formed");
        assert_eq!((time, standings), (1, vec![Standing::Executed, Standing::Unknown]));
        for (wrong, count) in [(&body[..], 1), (&body[..], 3), (&body[..7], 0)] {
            assert!(read(&Bytes::copy_from_slice(wrong), count).is_err());
        }
        assert!(read(&Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 8]), 1).is_err());
    }

    #[test]
    fn the_codes_are_those_of_the_validator() {
        let read = |stage: Stage| Standing::read(stage.code());
        for open in [Stage::Pending, Stage::Batched, Stage::Certified, Stage::Ordered] {
            assert_eq!(read(open), Some(Standing::Open));
        }
        assert_eq!(read(Stage::Expired), Some(Standing::Expired));
        assert_eq!(read(Stage::Skipped), Some(Standing::Skipped));
        assert_eq!(read(Stage::Executed), Some(Standing::Executed));
    }
}
