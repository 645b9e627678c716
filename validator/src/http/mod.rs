//! What clients, operators and dashboards see: the routes, and what they share.
//!
//! | module | routes |
//! |---|---|
//! | [`ingress`] | `POST /transactions`, `POST /transactions/batch` |
//! | [`leases`] | `POST /leases`, `DELETE /leases/{lease}` |
//! | [`streams`] | `GET /outcomes` |
//! | [`states`] | `POST /transactions/states` |
//! | [`reads`] | transactions, batches, proofs, commits, evidence, blocks |
//! | [`state`] | status, health, readiness, pressure, metrics |
//! | [`sync`] | what other validators ask: standing, snapshots, ends of epochs |
//!
//! Everything a client can use up is bounded: connections ([`listener`]), bytes of request bodies,
//! reads of the disk, streams, and transactions that are followed. A request that waits for one of
//! them is given up when its client goes away; a submission is not, because the library may have
//! accepted it already.

mod answer;
pub mod ingress;
pub mod leases;
pub mod listener;
mod reads;
mod state;
mod states;
mod streams;
mod submission;
mod sync;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use prometheus::Registry;
use quorum_store::engine::QuorumStore;
use quorum_store::store::{StoreError, StoreReader};
use quorum_store::types::Genesis;
use quorum_store_ordering::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::application::Newest;
use crate::config::HttpConfig;
use crate::config::epochs::Plan;
use crate::executor::{Archive, Identity, Progress};
use crate::exit::Failure;
use crate::metrics::Metrics;
use crate::sync::source::Source;
use crate::tracker::Tracker;
use crate::waiting::Waits;

/// What the validator does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Links are being made.
    Starting,
    /// Not in the committee: keeps its state up to date, and takes no transactions.
    Observing,
    /// Takes part, and takes transactions.
    Serving,
    /// Ends.
    Draining,
}

/// What every request may use.
pub struct Service {
    /// The quorum store.
    pub store: QuorumStore,
    /// The ordering engine's runtime, for what it counts.
    pub runtime: Runtime,
    /// Clients' transactions.
    pub tracker: Arc<Tracker>,
    /// Leases of clients.
    pub leases: leases::Leases,
    /// Executed blocks.
    pub archive: Archive,
    /// The same, for other validators.
    pub sync: Arc<Source>,
    /// How far execution got.
    pub progress: watch::Receiver<Progress>,
    /// The newest finalised block.
    pub newest: watch::Receiver<Newest>,
    /// What parts of the validator wait for.
    pub waits: Waits,
    /// What the validator does at the moment.
    pub phase: watch::Receiver<Phase>,
    /// All metrics.
    pub registry: Registry,
    /// The validator's own metrics.
    pub metrics: Arc<Metrics>,
    /// Who this is.
    pub identity: Identity,
    /// The chain.
    pub genesis: Genesis,
    /// Every epoch that is known.
    pub plan: watch::Receiver<Arc<Plan>>,
    /// Bounds.
    pub limits: Limits,
    /// Submissions under way.
    pub tasks: TaskTracker,
    /// Ends streams and the server.
    pub stop: CancellationToken,
}

/// What clients may use at once.
pub struct Limits {
    /// As configured.
    pub config: HttpConfig,
    /// Bytes of request bodies.
    pub ingress_bytes: Arc<Semaphore>,
    /// Reads of the disk.
    pub reads: Arc<Semaphore>,
    /// Streams of outcomes.
    pub streams: Arc<Semaphore>,
}

impl Limits {
    /// Nothing is used yet.
    pub fn new(config: HttpConfig) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            ingress_bytes: semaphore(config.ingress_bytes_max.get()),
            reads: semaphore(config.reads_max),
            streams: semaphore(config.outcome_streams_max),
            config,
        }
    }
}

/// What other validators ask.
fn sync_routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/sync/standing", get(sync::standing))
        .route("/sync/snapshots/{height}", get(sync::statement))
        .route("/sync/snapshots/{height}/content", get(sync::content))
        .route("/sync/boundaries/{epoch}", get(sync::boundary))
        .route("/sync/transactions", post(ingress::wrapped))
}

/// The routes for other validators alone.
pub fn sync_router(service: Arc<Service>) -> Router {
    sync_routes().with_state(service)
}

/// The routes.
pub fn router(service: Arc<Service>) -> Router {
    sync_routes()
        .route("/transactions", post(ingress::one))
        .route("/transactions/batch", post(ingress::many))
        .route("/transactions/states", post(states::states))
        .route("/transactions/{id}", get(reads::transaction))
        .route("/outcomes", get(streams::outcomes))
        .route("/batches/{digest}", get(reads::batch))
        .route("/batches/{digest}/proof", get(reads::proof))
        .route("/commits/{index}", get(reads::commit))
        .route("/evidence/{index}/{digest}", get(reads::evidence))
        .route("/blocks/{height}", get(reads::block))
        .route("/blocks/{height}/transactions", get(reads::block_transactions))
        .route("/leases", post(leases::lease))
        .route("/leases/{lease}", delete(leases::release))
        .route("/pressure", get(state::pressure))
        .route("/status", get(state::status))
        .route("/health", get(state::health))
        .route("/ready", get(state::ready))
        .route("/metrics", get(state::metrics))
        .with_state(service)
}

/// Serves these routes until `stop`, and until every answer under way is sent.
pub async fn serve(
    listener: listener::BoundedListener,
    router: Router,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let service = router.into_make_service_with_connect_info::<leases::Origin>();
    axum::serve(listener, service)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(|error| Failure::other(format!("serving HTTP failed: {error}")))
}

impl Service {
    /// Reads the store where that may block, not more at once than is allowed.
    async fn read<T, F>(&self, read: F) -> Result<T, Response>
    where
        T: Send + 'static,
        F: FnOnce(&dyn StoreReader, &Archive) -> Result<Option<T>, ReadError> + Send + 'static,
    {
        let permit = self.limits.reads.clone().acquire_owned().await;
        let (reader, archive) = (self.store.reader(), self.archive.clone());
        let read = tokio::task::spawn_blocking(move || {
            let found = read(&*reader, &archive);
            drop(permit);
            found
        });
        match read.await {
            Ok(Ok(Some(found))) => Ok(found),
            Ok(Ok(None)) => Err(error(StatusCode::NOT_FOUND, "not here")),
            Ok(Err(ReadError(reason))) => {
                tracing::error!(%reason, "a read for a client failed");
                Err(error(StatusCode::INTERNAL_SERVER_ERROR, &reason))
            }
            Err(_) => Err(error(StatusCode::INTERNAL_SERVER_ERROR, "the read was given up")),
        }
    }
}

/// Why a read failed, for the log and the client.
struct ReadError(String);

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

impl From<crate::executor::ExecutorError> for ReadError {
    fn from(error: crate::executor::ExecutorError) -> Self {
        Self(error.to_string())
    }
}

/// A JSON answer.
fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (status, headers, value.to_string()).into_response()
}

/// A refusal with its reason.
fn error(status: StatusCode, reason: &str) -> Response {
    json(status, &serde_json::json!({ "reason": reason }))
}

/// Raw bytes.
fn octets(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], body.into()).into_response()
}
