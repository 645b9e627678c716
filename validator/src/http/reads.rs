//! What is stored, by its name. Local only: these routes never make a validator fetch.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use quorum_store::types::{CommitIndex, CommitReceipt, Digest};
use serde_json::{Value, json};

use super::{ReadError, Service, error, json as respond, octets};
use crate::executor::BlockSummary;
use crate::transaction::TransactionId;

/// Most ids of one question.
const STATES_MAX: usize = 4096;

/// `GET /transactions/{id}`: what the tracker knows, else what was executed.
pub async fn transaction(State(service): State<Arc<Service>>, Path(id): Path<String>) -> Response {
    let Some(id) = Digest::from_hex(&id) else { return bad_name() };
    if let Some(tracked) = service.tracker.lookup(&id.0) {
        let value = json!({
            "state": tracked.stage.name(),
            "batch": tracked.place.map(|place| place.batch.to_string()),
            "height": tracked.height,
            "position": tracked.place.map(|place| place.position),
        });
        return respond(StatusCode::OK, &value);
    }
    // Submitted to another validator, or here in a former life.
    match service.archive.height_of(&id.0) {
        Some(height) => {
            let value =
                json!({ "state": "executed", "batch": null, "height": height, "position": null });
            respond(StatusCode::OK, &value)
        }
        None => respond(StatusCode::NOT_FOUND, &json!({ "state": "unknown" })),
    }
}

/// `POST /transactions/states`: 32-byte ids, one after the other; a state and a height for each, in
/// order. For who was cut off from the outcomes and has many to ask for.
pub async fn states(State(service): State<Arc<Service>>, request: Request) -> Response {
    let body = tokio::time::timeout(
        service.limits.config.body_timeout,
        axum::body::to_bytes(request.into_body(), 32 * STATES_MAX),
    );
    let Ok(Ok(body)) = body.await else {
        return error(StatusCode::BAD_REQUEST, "expected at most 4096 ids of 32 bytes");
    };
    let (ids, rest) = body.as_chunks::<32>();
    if !rest.is_empty() {
        return error(StatusCode::BAD_REQUEST, "an id has 32 bytes");
    }
    let state = |id: &TransactionId| match service.tracker.lookup(id) {
        Some(tracked) => json!({ "state": tracked.stage.name(), "height": tracked.height }),
        None => match service.archive.height_of(id) {
            Some(height) => json!({ "state": "executed", "height": height }),
            None => json!({ "state": "unknown", "height": null }),
        },
    };
    respond(StatusCode::OK, &ids.iter().map(state).collect())
}

/// `GET /batches/{digest}`: the body.
pub async fn batch(State(service): State<Arc<Service>>, Path(digest): Path<String>) -> Response {
    let Some(digest) = Digest::from_hex(&digest) else { return bad_name() };
    let found = service.read(move |reader, _| Ok(reader.batch(&digest)?)).await;
    found.map_or_else(|refused| refused, |batch| octets(batch.body.bytes().clone()))
}

/// `GET /batches/{digest}/proof`: the BCS of the proof of store.
pub async fn proof(State(service): State<Arc<Service>>, Path(digest): Path<String>) -> Response {
    let Some(digest) = Digest::from_hex(&digest) else { return bad_name() };
    let encode = |proof| bcs::to_bytes(&proof).map_err(|error| ReadError(error.to_string()));
    let found = service.read(move |reader, _| reader.proof(&digest)?.map(encode).transpose()).await;
    found.map_or_else(|refused| refused, octets)
}

/// `GET /commits/{index}`: the receipt.
pub async fn commit(State(service): State<Arc<Service>>, Path(index): Path<u64>) -> Response {
    let found = service.read(move |reader, _| Ok(reader.receipt(CommitIndex(index))?)).await;
    found.map_or_else(|refused| refused, |receipt| respond(StatusCode::OK, &describe(&receipt)))
}

/// `GET /blocks/{height}`: the summary.
pub async fn block(State(service): State<Arc<Service>>, Path(height): Path<u64>) -> Response {
    let found = service.read(move |_, archive| Ok(archive.block(height)?)).await;
    found.map_or_else(|refused| refused, |block| respond(StatusCode::OK, &summary(&block)))
}

/// `GET /blocks/{height}/transactions`: the ids executed in it, 32 bytes each, in order; 404 once
/// all of them have expired.
pub async fn block_transactions(
    State(service): State<Arc<Service>>,
    Path(height): Path<u64>,
) -> Response {
    let found = service
        .read(move |_, archive| {
            let Some(block) = archive.block(height)? else { return Ok(None) };
            let ids = archive.transactions(height)?;
            Ok(ids.or_else(|| (block.transactions == 0).then(Vec::new)))
        })
        .await;
    found.map_or_else(|refused| refused, octets)
}

fn describe(receipt: &CommitReceipt) -> Value {
    let acks = receipt.acks.iter().map(|ack| {
        json!({
            "component": ack.component.name(),
            "freed": ack.freed,
            "watermark": ack.watermark.0,
        })
    });
    json!({
        "index": receipt.index.0,
        "block_timestamp": receipt.block_timestamp.0,
        "acks": acks.collect::<Vec<_>>(),
    })
}

fn summary(block: &BlockSummary) -> Value {
    json!({
        "height": block.height,
        "digest": block.digest.to_string(),
        "batches": block.batches,
        "transactions": block.transactions,
        "state_digest": block.state_digest.to_string(),
        "block_timestamp": block.block_timestamp.0,
    })
}

fn bad_name() -> Response {
    error(StatusCode::BAD_REQUEST, "a name has 64 hex digits")
}
