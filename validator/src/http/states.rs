//! `POST /transactions/states`: where many transactions stand, in one request.
//!
//! For clients of a validator that was started again: it has forgotten what it had accepted, but
//! remembers what was executed until that expires.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::json;

use super::ingress::wants_octets;
use super::{Service, error, json as respond, octets};
use crate::transaction::TransactionId;

/// Most ids of one question.
const IDS_MAX: usize = 8192;

/// The byte of a transaction that is not known; [`crate::tracker::Stage::code`] has the others.
const UNKNOWN: u8 = 0;

/// The body is ids of 32 bytes, one after the other. Compact, the answer is the timestamp of the
/// last executed block (microseconds, u64, little-endian) and one byte per id; else JSON.
pub async fn states(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let read = axum::body::to_bytes(body, IDS_MAX * 32);
    let Ok(Ok(body)) = tokio::time::timeout(service.limits.config.body_timeout, read).await else {
        return error(StatusCode::BAD_REQUEST, "the body did not arrive, or holds too many ids");
    };
    let (ids, rest) = body.as_chunks::<32>();
    if !rest.is_empty() {
        return error(StatusCode::BAD_REQUEST, "ids have 32 bytes each");
    }
    // Read first: every block up to it has left its mark in what is looked at below.
    let time = service.progress.borrow().block_timestamp.0;
    if wants_octets(&headers) {
        let codes = ids.iter().map(|id| stage(&service, id).map_or(UNKNOWN, |(code, _)| code));
        return octets(time.to_le_bytes().into_iter().chain(codes).collect::<Vec<u8>>());
    }
    let names: Vec<&str> =
        ids.iter().map(|id| stage(&service, id).map_or("unknown", |(_, name)| name)).collect();
    respond(StatusCode::OK, &json!({ "block_timestamp_micros": time, "states": names }))
}

/// Execution knows better than the tracker, which has forgotten former lives.
fn stage(service: &Service, id: &TransactionId) -> Option<(u8, &'static str)> {
    use crate::tracker::Stage;
    let stage = match service.archive.height_of(id) {
        Some(_) => Stage::Executed,
        None => service.tracker.lookup(id)?.stage,
    };
    Some((stage.code(), stage.name()))
}
