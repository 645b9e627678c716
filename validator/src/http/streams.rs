//! `GET /outcomes?from=N`: lines as they come, until the client leaves or the validator ends. Text,
//! or the compact form to who accepts `application/octet-stream`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::ingress::wants_octets;
use super::{Service, error};
use crate::outcomes::{self, Outcomes};

/// Bytes of lines that are sent at once.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Arguments of the route.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    /// The first line wanted; without it, lines that come from now on.
    from: Option<u64>,
}

/// The stream.
pub async fn outcomes(
    State(service): State<Arc<Service>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Response {
    let Ok(permit) = service.limits.streams.clone().try_acquire_owned() else {
        return error(StatusCode::TOO_MANY_REQUESTS, "too many streams of outcomes");
    };
    let outcomes = service.tracker.outcomes().clone();
    let newer = outcomes.newer();
    let life = outcomes.life().to_string();
    let next = wanted.from.unwrap_or_else(|| *newer.borrow());
    let stop = service.stop.clone();
    let compact = wants_octets(&headers);
    let follower = Follower { outcomes, newer, next, compact, stop, _permit: permit };
    let lines = stream::unfold(follower, |mut follower| async move {
        let chunk = follower.chunk().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), follower))
    });
    let form = if compact { "application/octet-stream" } else { "application/x-ndjson" };
    let headers = [(header::CONTENT_TYPE, form)];
    (headers, [("outcomes-life", life)], Body::from_stream(lines)).into_response()
}

struct Follower {
    outcomes: Arc<Outcomes>,
    newer: watch::Receiver<u64>,
    next: u64,
    compact: bool,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The next lines, as soon as there are some; `None` at the end.
    async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            // Marked as seen before the lines are read, so that none between is slept through.
            self.newer.borrow_and_update();
            let read = self.outcomes.read(self.next, CHUNK_BYTES_MAX);
            self.next = read.next;
            if !read.lines.is_empty() {
                let lines = read.lines;
                let text = |line: &Bytes| outcomes::text(line);
                let lines = if self.compact { lines } else { lines.iter().map(text).collect() };
                return Some(join(lines));
            }
            let changed = self.stop.run_until_cancelled(self.newer.changed()).await;
            if !matches!(changed, Some(Ok(()))) {
                return None;
            }
        }
    }
}

fn join(mut lines: Vec<Bytes>) -> Bytes {
    if lines.len() == 1
        && let Some(line) = lines.pop()
    {
        return line;
    }
    let mut chunk = BytesMut::with_capacity(lines.iter().map(Bytes::len).sum());
    for line in &lines {
        chunk.extend_from_slice(line);
    }
    chunk.freeze()
}
