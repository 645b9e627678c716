//! Follows the outcomes of one target.
//!
//! One stream, from the first outcome on; when it breaks it is opened again at the next place, so
//! no outcome is read twice. It ends with `stop` and not before: a target that is away may return.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use thiserror::Error;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::client::ClientError;
use super::outcomes::{InvalidOutcome, Lines, Outcome, State};
use super::target::{Backoff, TargetState};

const OPEN_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
enum StreamError {
    #[error("outcomes: {0}")]
    Client(#[from] ClientError),
    #[error("outcomes: {0}")]
    Broken(#[from] hyper::Error),
    #[error(transparent)]
    Invalid(#[from] InvalidOutcome),
}

/// Where the next stream begins.
struct Cursor {
    next: u64,
    /// Nothing was read yet: a gap here is from before this load.
    fresh: bool,
    /// Names the life of the target that the places belong to.
    life: Option<HeaderValue>,
}

/// Follows until `stop`.
pub async fn run(target: Arc<TargetState>, stop: CancellationToken) {
    let mut cursor = Cursor { next: 0, fresh: true, life: None };
    let mut backoff = Backoff::new();
    while !stop.is_cancelled() {
        let before = cursor.next;
        tokio::select! {
            () = stop.cancelled() => return,
            ended = follow(&target, &mut cursor) => match ended {
                Ok(()) | Err(StreamError::Client(ClientError::Stopped)) => {}
                Err(error) => target.note(&error),
            }
        }
        if cursor.next != before {
            backoff.reset();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until(backoff.next_attempt()) => {}
        }
    }
}

async fn follow(target: &TargetState, cursor: &mut Cursor) -> Result<(), StreamError> {
    let path = format!("/outcomes?from={}", cursor.next);
    let response = target.client.stream(&path, OPEN_DEADLINE).await?;
    if began_again(cursor, response.headers().get("outcomes-life")) {
        target.on_restart();
        // This stream may begin in the middle of the new life; the next one begins at its start.
        return Ok(());
    }
    let form = response.headers().get(CONTENT_TYPE);
    let compact = form.is_some_and(|form| form == "application/octet-stream");
    let mut body = response.into_body();
    let mut lines = Lines::new(compact);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        lines.push(&data);
        while let Some(line) = lines.next_line()? {
            let outcome = if compact { Outcome::read_compact(&line) } else { Outcome::read(&line) };
            read(target, cursor, outcome);
        }
        if target.tracker().counts().unresolved == 0 {
            target.settled.notify_waiters();
        }
    }
    Ok(())
}

/// Notes the life of the target; true if it is another one than before.
fn began_again(cursor: &mut Cursor, life: Option<&HeaderValue>) -> bool {
    let known = cursor.life.replace(life.cloned().unwrap_or(HeaderValue::from_static("")));
    let again = known.is_some() && known != cursor.life;
    if again {
        cursor.next = 0;
    }
    again
}

fn read(target: &TargetState, cursor: &mut Cursor, outcome: Result<Outcome<'_>, InvalidOutcome>) {
    match outcome {
        Ok(outcome) => {
            let before_this_load = cursor.fresh && outcome.state == State::Gap;
            if !before_this_load {
                target.tracker().on_outcome(&outcome);
            }
            // A gap only stands for lines; the line after it says where the stream really is, which
            // is earlier than before if the target began a new life.
            if outcome.state != State::Gap {
                cursor.next = outcome.seq.saturating_add(1);
            }
            cursor.fresh = false;
        }
        Err(error) => {
            target.tracker().on_malformed_outcome();
            target.note(&error);
        }
    }
}
