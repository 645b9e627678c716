//! Leases over HTTP: room and a price, quoted to a client and kept for it.
//!
//! `POST /leases` with `{"transactions", "bytes", "life_ms"}` answers 201 with a name; submissions
//! that carry it in the header `lease` are taken under it. `DELETE /leases/{lease}` gives back what
//! is left. Whose lease it is, the header `client` says, or else the address of the connection:
//! what one client may hold is bounded by that name, and all together by half of the pool.
//!
//! Bytes are those of the client's transactions: what wrapping adds is reserved beside them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::serve::IncomingStream;
use quorum_store::engine::CallError;
use quorum_store::sequencer::port::{
    CLIENT_NAME_BYTES_MAX, Lease, LeaseError, LeaseId, LeaseLimit, LeaseRequest, Room, UnderLease,
};
use serde::Deserialize;
use serde_json::json;

use super::ingress::{add_retry_after, not_serving, read_body};
use super::listener::BoundedListener;
use super::submission::reason_of;
use super::{Phase, Service, error, json as respond};
use crate::clock;
use crate::transaction::WRAPPER_BYTES_MAX;

/// Longest request for a lease.
const REQUEST_BYTES_MAX: usize = 1024;
/// Life of a lease that states none; cut to what the library allows.
const LIFE: Duration = Duration::from_secs(10);

/// Leases remembered here: twice as many as the library grants at once by default. The oldest is
/// forgotten first, and only loses its way past what stands in front of the library.
const REMEMBERED_MAX: usize = 8192;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin(SocketAddr);

impl Connected<IncomingStream<'_, BoundedListener>> for Origin {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// What a client asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    transactions: u64,
    bytes: u64,
    life_ms: Option<u64>,
}

impl Wanted {
    /// With what wrapping adds.
    fn room(&self) -> Room {
        let wrapped = self.transactions.saturating_mul(u64::from(WRAPPER_BYTES_MAX));
        Room { bytes: self.bytes.saturating_add(wrapped), transactions: self.transactions }
    }
}

/// Room as a client counts it: without what wrapping adds.
fn shown(room: Room) -> Room {
    let wrapped = room.transactions.saturating_mul(u64::from(WRAPPER_BYTES_MAX));
    Room { bytes: room.bytes.saturating_sub(wrapped), ..room }
}

/// `POST /leases`.
pub async fn lease(State(service): State<Arc<Service>>, request: Request) -> Response {
    if *service.phase.borrow() != Phase::Serving || service.leaves_soon(clock::wall()) {
        return not_serving();
    }
    let client = match client(&request) {
        Ok(client) => client,
        Err(reason) => return error(StatusCode::BAD_REQUEST, reason),
    };
    let patience = service.limits.config.body_timeout;
    let body = match read_body(request.into_body(), REQUEST_BYTES_MAX, patience).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let wanted: Wanted = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(failed) => {
            let reason = format!("expected {{\"transactions\", \"bytes\", \"life_ms\"}}: {failed}");
            return error(StatusCode::BAD_REQUEST, &reason);
        }
    };
    let life = wanted.life_ms.map_or(LIFE, Duration::from_millis);
    let request = LeaseRequest { client: client.clone(), room: wanted.room(), life };
    match service.store.lease(request).await {
        Ok(lease) => {
            service.leases.on_granted(&client, &lease);
            let expires = clock::wall().saturating_add(lease.life).0 / 1000;
            let room = shown(lease.room);
            let value = json!({
                "lease": lease.id.to_string(),
                "transactions": room.transactions,
                "bytes": room.bytes,
                "lowest_gas_bucket": lease.lowest_gas_bucket,
                "expires_in_ms": lease.life.as_millis() as u64,
                "expires_unix_ms": expires,
            });
            respond(StatusCode::CREATED, &value)
        }
        Err(CallError::Refused(refused)) => refusal(&refused),
        Err(CallError::Stopped(_)) => not_serving(),
    }
}

fn refusal(refused: &LeaseError) -> Response {
    match refused {
        LeaseError::TooLarge { most } => {
            let most = shown(*most);
            let value = json!({
                "reason": "more than a client may hold",
                "transactions_max": most.transactions,
                "bytes_max": most.bytes,
            });
            respond(StatusCode::PAYLOAD_TOO_LARGE, &value)
        }
        LeaseError::Busy { limit, room, lowest_gas_bucket, retry_after } => {
            let reason = match limit {
                LeaseLimit::Pressure(reason) => reason_of(*reason).to_owned(),
                other => other.to_string(),
            };
            let room = shown(*room);
            let value = json!({
                "reason": reason,
                "lowest_gas_bucket": lowest_gas_bucket,
                "retry_after_ms": retry_after.as_millis() as u64,
                "transactions": room.transactions,
                "bytes": room.bytes,
            });
            let mut response = respond(StatusCode::TOO_MANY_REQUESTS, &value);
            add_retry_after(&mut response, *retry_after);
            response
        }
        LeaseError::EpochClosed { .. } => {
            let mut response = error(StatusCode::TOO_MANY_REQUESTS, "epoch ends");
            add_retry_after(&mut response, super::ingress::BUSY_RETRY);
            response
        }
        LeaseError::NotAMember => error(StatusCode::SERVICE_UNAVAILABLE, "not in the committee"),
        other => error(StatusCode::BAD_REQUEST, &other.to_string()),
    }
}

/// `DELETE /leases/{lease}`.
pub async fn release(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let lease = match (client(&request), name.parse()) {
        (Ok(client), Ok(id)) => UnderLease { client, id },
        (Err(reason), _) => return error(StatusCode::BAD_REQUEST, reason),
        (_, Err(invalid)) => return error(StatusCode::BAD_REQUEST, &invalid.to_string()),
    };
    service.leases.on_released(&lease);
    match service.store.release(lease).await {
        Ok(room) => {
            let room = shown(room);
            let value = json!({ "transactions": room.transactions, "bytes": room.bytes });
            respond(StatusCode::OK, &value)
        }
        Err(CallError::Refused(refused)) => error(StatusCode::NOT_FOUND, &refused.to_string()),
        Err(CallError::Stopped(_)) => not_serving(),
    }
}

/// The lease that a submission names, if it names one.
pub(super) fn named(request: &Request) -> Result<Option<UnderLease>, &'static str> {
    let Some(value) = request.headers().get("lease") else { return Ok(None) };
    let id: Option<LeaseId> = value.to_str().ok().and_then(|text| text.parse().ok());
    let id = id.ok_or("the header lease names no lease")?;
    Ok(Some(UnderLease { client: client(request)?, id }))
}

/// Who asks.
fn client(request: &Request) -> Result<String, &'static str> {
    if let Some(name) = stated(request.headers())? {
        return Ok(name);
    }
    let origin = request.extensions().get::<ConnectInfo<Origin>>();
    Ok(origin.map_or_else(|| "unknown".to_owned(), |origin| origin.0.0.ip().to_string()))
}

fn stated(headers: &HeaderMap) -> Result<Option<String>, &'static str> {
    let Some(value) = headers.get("client") else { return Ok(None) };
    match value.to_str() {
        Ok(name) if (1..=CLIENT_NAME_BYTES_MAX).contains(&name.len()) => Ok(Some(name.to_owned())),
        _ => Err("the header client has 1 to 64 visible characters"),
    }
}

/// What is known here of leases, so that nothing in front of the library refuses what was quoted.
#[derive(Debug, Default)]
pub struct Leases(Mutex<BTreeMap<LeaseId, Granted>>);

#[derive(Debug)]
struct Granted {
    client: String,
    transactions: u64,
    until: Instant,
}

impl Leases {
    fn on_granted(&self, client: &str, lease: &Lease) {
        let now = Instant::now();
        let mut leases = self.lock();
        leases.retain(|_, granted| granted.until > now);
        while leases.len() >= REMEMBERED_MAX {
            leases.pop_first();
        }
        let granted = Granted {
            client: client.to_owned(),
            transactions: lease.room.transactions,
            until: now + lease.life,
        };
        leases.insert(lease.id, granted);
    }

    fn on_released(&self, lease: &UnderLease) {
        let mut leases = self.lock();
        if leases.get(&lease.id).is_some_and(|granted| granted.client == lease.client) {
            leases.remove(&lease.id);
        }
    }

    /// How many of so many transactions it covers, as far as is known here; they count as used.
    pub(super) fn take(&self, lease: &UnderLease, wanted: usize) -> usize {
        let mut leases = self.lock();
        let Some(granted) = leases.get_mut(&lease.id) else { return 0 };
        if granted.client != lease.client || granted.until < Instant::now() {
            return 0;
        }
        let taken = granted.transactions.min(wanted as u64);
        granted.transactions -= taken;
        taken as usize
    }

    /// So many of those were not accepted.
    pub(super) fn give_back(&self, lease: &UnderLease, unused: usize) {
        if let Some(granted) = self.lock().get_mut(&lease.id) {
            granted.transactions += unused as u64;
        }
    }

    /// True if it covers anything.
    pub(super) fn covers(&self, lease: &UnderLease) -> bool {
        let known = |granted: &Granted| {
            granted.client == lease.client
                && granted.transactions > 0
                && granted.until >= Instant::now()
        };
        self.lock().get(&lease.id).is_some_and(known)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Granted>> {
        // Nothing panics while it is held; if it did, the map would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
