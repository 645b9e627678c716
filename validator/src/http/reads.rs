//! What is stored, by its name. Local only: these routes never make a validator fetch.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use quorum_store::types::{CommitIndex, CommitReceipt, Digest};
use serde_json::{Value, json};

use super::{ReadError, Service, error, json as respond, octets};
use crate::evidence::EvidenceFile;
use crate::executor::BlockSummary;

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

/// `GET /evidence/{index}/{digest}`: committed evidence that this content of this commit is gone, as
/// `check --evidence` reads it.
pub async fn evidence(
    State(service): State<Arc<Service>>,
    Path((index, digest)): Path<(u64, String)>,
) -> Response {
    let Some(digest) = Digest::from_hex(&digest) else { return bad_name() };
    let status = match service.store.status().await {
        Ok(status) => status,
        Err(cause) => return error(StatusCode::SERVICE_UNAVAILABLE, &cause.to_string()),
    };
    let mut evidence = status.committed_evidence.iter();
    let found = evidence.find(|proof| (proof.index, proof.digest) == (CommitIndex(index), digest));
    let plan = service.plan.borrow().clone();
    let file = found.and_then(|proof| {
        Some(EvidenceFile::new(&service.genesis, plan.committee(proof.epoch)?, proof))
    });
    match file.map(serde_json::to_value) {
        Some(Ok(value)) => respond(StatusCode::OK, &value),
        Some(Err(failed)) => error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
        None => error(StatusCode::NOT_FOUND, "not here"),
    }
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
        "block_timestamp": block.header.block_timestamp.0,
    })
}

fn bad_name() -> Response {
    error(StatusCode::BAD_REQUEST, "a name has 64 hex digits")
}
