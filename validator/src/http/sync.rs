//! What other validators ask ([`crate::sync`]).

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use quorum_store::types::Epoch;
use serde::Deserialize;
use serde_json::json;

use super::{ReadError, Service, json as respond, octets};
use crate::sync::source::Made;

/// What whoever asks has executed.
#[derive(Debug, Deserialize)]
pub struct Above {
    #[serde(default)]
    above: u64,
}

/// `GET /sync/standing`: how far this validator got.
pub async fn standing(State(service): State<Arc<Service>>) -> Response {
    let height = service.progress.borrow().height();
    respond(StatusCode::OK, &json!({ "height": height }))
}

/// `GET /sync/snapshots/{height}`: the BCS of a signed statement.
pub async fn statement(
    State(service): State<Arc<Service>>,
    Path(height): Path<u64>,
    Query(Above { above }): Query<Above>,
) -> Response {
    let encode =
        |made: Made| bcs::to_bytes(&made.signed).map_err(|error| ReadError(error.to_string()));
    let source = service.sync.clone();
    let found = service.read(move |_, _| source.snapshot(height, above)?.map(encode).transpose());
    found.await.map_or_else(|refused| refused, octets)
}

/// `GET /sync/snapshots/{height}/content`: its bytes.
pub async fn content(
    State(service): State<Arc<Service>>,
    Path(height): Path<u64>,
    Query(Above { above }): Query<Above>,
) -> Response {
    let source = service.sync.clone();
    let found = service.read(move |_, _| Ok(source.snapshot(height, above)?)).await;
    found.map_or_else(
        |refused| refused,
        |made| {
            service.metrics.snapshots_served.inc();
            octets(made.content)
        },
    )
}

/// `GET /sync/boundaries/{epoch}`: the BCS of how an epoch ended.
pub async fn boundary(State(service): State<Arc<Service>>, Path(epoch): Path<u64>) -> Response {
    let source = service.sync.clone();
    let encode = |boundary| bcs::to_bytes(&boundary).map_err(|error| ReadError(error.to_string()));
    let found =
        service.read(move |_, _| source.boundary(Epoch(epoch))?.map(encode).transpose()).await;
    found.map_or_else(|refused| refused, octets)
}
