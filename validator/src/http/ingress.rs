//! Transactions from clients: bounded, wrapped, submitted once.
//!
//! ```text
//!  body ─▶ room for its bytes ─▶ entries ─▶ wrapped, named ─▶ known? ─▶ library ─▶ answers
//!             429 if none          400, 413                    202, without another submission
//! ```
//!
//! The answer to an accepted transaction comes once the batch it sits in is durable here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use quorum_store::sequencer::port::UnderLease;
use quorum_store::types::{ChainParameters, Timestamp};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{Answer, array};
use super::submission::Submission;
use super::{Phase, Service, error, json, leases, octets};
use crate::clock;

/// Most transactions of one request.
const ENTRIES_MAX: usize = 65_536;

/// When to come back if it is this validator that has no room.
pub(super) const BUSY_RETRY: Duration = Duration::from_millis(100);

/// As `Retry-After`, which has whole seconds, but in milliseconds.
const RETRY_AFTER_MS: header::HeaderName = header::HeaderName::from_static("retry-after-ms");

const TOO_LONG: &str = "the body is above the bound";

/// What a client says of its transactions beside their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Price of a unit of gas.
    pub gas_unit_price: u64,
    /// When they expire.
    pub expiration: Timestamp,
}

/// `POST /transactions`: the body is one transaction.
pub async fn one(State(service): State<Arc<Service>>, request: Request) -> Response {
    let received = match receive(&service, request).await {
        Ok(received) => received,
        Err(response) => return response,
    };
    let Received { body, terms, lease, permit, .. } = received;
    let of = Of { terms: Some(terms), lease };
    let answers = submit(service, vec![body], of, permit).await;
    let Some(answer) = answers.into_iter().next() else { return not_serving() };
    let mut value = answer.value();
    if let (Answer::Accepted(_), Some(map)) = (&answer, value.as_object_mut()) {
        map.remove("status");
    }
    let mut response = json(answer.status(), &value);
    if let Some(after) = answer.retry_after() {
        add_retry_after(&mut response, after);
    }
    response
}

/// `POST /transactions/batch`: length (u32, little-endian) and bytes, repeated.
pub async fn many(State(service): State<Arc<Service>>, request: Request) -> Response {
    take(service, request, true).await
}

/// `POST /sync/transactions`: the same, of transactions that another validator has wrapped.
pub async fn wrapped(State(service): State<Arc<Service>>, request: Request) -> Response {
    take(service, request, false).await
}

async fn take(service: Arc<Service>, request: Request, is_client: bool) -> Response {
    let received = match receive(&service, request).await {
        Ok(received) => received,
        Err(response) => return response,
    };
    let entries = match split(&received.body) {
        Ok(entries) => entries,
        Err(reason) => return error(StatusCode::BAD_REQUEST, reason),
    };
    let count = entries.len();
    let Received { terms, lease, permit, compact, .. } = received;
    let of =
        if is_client { Of { terms: Some(terms), lease } } else { Of { terms: None, lease: None } };
    let answers = submit(service, entries, of, permit).await;
    if answers.len() != count {
        return not_serving();
    }
    let mut response = if compact {
        let codes = answers.iter().flat_map(|answer| answer.status().as_u16().to_le_bytes());
        octets(codes.collect::<Vec<u8>>())
    } else {
        ([(header::CONTENT_TYPE, "application/json")], array(&answers)).into_response()
    };
    if let Some(after) = answers.iter().filter_map(Answer::retry_after).max() {
        add_retry_after(&mut response, after);
    }
    response
}

/// A request that was let in.
struct Received {
    body: Bytes,
    terms: Terms,
    lease: Option<UnderLease>,
    /// The answer is to be one status per entry.
    compact: bool,
    /// Room for the body's bytes, until the library has them.
    permit: OwnedSemaphorePermit,
}

/// Whose transactions they are: of a client, if it says on which terms.
struct Of {
    terms: Option<Terms>,
    lease: Option<UnderLease>,
}

/// Takes a body, after making sure that there is room for it.
async fn receive(service: &Service, request: Request) -> Result<Received, Response> {
    if *service.phase.borrow() != Phase::Serving || service.leaves_soon(clock::wall()) {
        return Err(not_serving());
    }
    let bad = |reason| error(StatusCode::BAD_REQUEST, reason);
    let lease = leases::named(&request).map_err(bad)?;
    let headers = request.headers();
    let parameters = &service.genesis.parameters;
    let terms = terms(headers, clock::wall(), parameters).map_err(bad)?;
    let compact = wants_octets(headers);
    let bound = service.limits.config.body_bytes_max.get();
    let length = stated_length(headers, bound).map_err(|(status, reason)| error(status, reason))?;
    let permits = u32::try_from(length).unwrap_or(u32::MAX);
    let room = service.limits.ingress_bytes.clone();
    let permit = if lease.as_ref().is_some_and(|lease| service.leases.covers(lease)) {
        // What was quoted waits for its turn instead.
        let patience = service.limits.config.body_timeout;
        tokio::time::timeout(patience, room.acquire_many_owned(permits))
            .await
            .ok()
            .and_then(Result::ok)
    } else {
        room.try_acquire_many_owned(permits).ok()
    };
    let permit = permit.ok_or_else(|| {
        service.metrics.refused.with_label_values(&["ingress"]).inc();
        let answer = Answer::busy("ingress", BUSY_RETRY);
        let mut response = json(answer.status(), &answer.value());
        add_retry_after(&mut response, BUSY_RETRY);
        response
    })?;
    let body = read_body(request.into_body(), length, service.limits.config.body_timeout).await?;
    Ok(Received { body, terms, lease, compact, permit })
}

/// The body's length as stated, or the most there may be.
fn stated_length(headers: &HeaderMap, bound: usize) -> Result<usize, (StatusCode, &'static str)> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(bound) };
    let length = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    match length {
        None => Err((StatusCode::BAD_REQUEST, "content-length is not a number")),
        Some(length) if length > bound as u64 => Err((StatusCode::PAYLOAD_TOO_LARGE, TOO_LONG)),
        Some(length) => Ok(length as usize),
    }
}

pub(super) async fn read_body(
    body: Body,
    bound: usize,
    patience: Duration,
) -> Result<Bytes, Response> {
    match tokio::time::timeout(patience, axum::body::to_bytes(body, bound)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(cause)) if is_too_long(&cause) => {
            Err(error(StatusCode::PAYLOAD_TOO_LARGE, TOO_LONG))
        }
        Ok(Err(_)) => Err(error(StatusCode::BAD_REQUEST, "the body did not arrive whole")),
        Err(_) => Err(error(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive")),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Reads what a client says of its transactions.
pub fn terms(
    headers: &HeaderMap,
    now: Timestamp,
    parameters: &ChainParameters,
) -> Result<Terms, &'static str> {
    let number = |name: &str, what: &'static str| match headers.get(name) {
        None => Ok(None),
        Some(value) => {
            value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).map(Some).ok_or(what)
        }
    };
    let gas_unit_price =
        number("gas-unit-price", "gas-unit-price is not a whole number")?.unwrap_or(1);
    let life = parameters.transaction_life_max();
    let stated = number("expiration-unix-secs", "expiration-unix-secs is not a whole number")?;
    let Some(seconds) = stated else {
        // The block that orders it may have the timestamp of a validator whose clock is behind.
        let life = life.saturating_sub(parameters.clock_allowance());
        return Ok(Terms { gas_unit_price, expiration: now.saturating_add(life) });
    };
    let expiration = Timestamp(seconds.saturating_mul(1_000_000));
    if expiration < now {
        return Err("expired");
    }
    if expiration > now.saturating_add(life) {
        return Err("expires later than the longest life of a transaction");
    }
    Ok(Terms { gas_unit_price, expiration })
}

pub(super) fn wants_octets(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|value| value == "application/octet-stream")
}

/// Splits a body into its entries, each a slice of it.
pub fn split(body: &Bytes) -> Result<Vec<Bytes>, &'static str> {
    let mut entries = Vec::new();
    let mut rest = body.clone();
    while !rest.is_empty() {
        if entries.len() == ENTRIES_MAX {
            return Err("more than 65536 transactions in one request");
        }
        let Some(length) = rest.first_chunk::<4>() else { return Err("a length is cut off") };
        let length = u32::from_le_bytes(*length) as usize;
        let entry = rest.split_off(4);
        if entry.len() < length {
            return Err("a transaction is cut off");
        }
        entries.push(entry.slice(..length));
        rest = entry.slice(length..);
    }
    Ok(entries)
}

/// Submits transactions; one answer per entry, or none at all if the library stopped.
///
/// In a task of its own: a client that goes away must not leave transactions of which nobody
/// knows whether the library took them.
async fn submit(
    service: Arc<Service>,
    entries: Vec<Bytes>,
    of: Of,
    permit: OwnedSemaphorePermit,
) -> Vec<Answer> {
    let tasks = service.tasks.clone();
    let submission = tasks.spawn(async move {
        let answers = answer(&service, &entries, of).await;
        drop((entries, permit));
        for answer in &answers {
            match answer {
                Answer::Accepted(_) => service.metrics.accepted.inc(),
                Answer::Refused { reason, .. } => {
                    service.metrics.refused.with_label_values(&[reason]).inc();
                }
            }
        }
        answers
    });
    submission.await.unwrap_or_default()
}

async fn answer(service: &Service, entries: &[Bytes], of: Of) -> Vec<Answer> {
    let Of { terms, lease } = of;
    let covered = lease.as_ref().map_or(0, |lease| service.leases.take(lease, entries.len()));
    // What nothing covers is refused before it is copied or hashed while execution lags: refusing
    // must cost less than accepting.
    let taken = if service.tracker.has_room() { entries.len() } else { covered };
    let submission = match terms {
        _ if taken == 0 => None,
        Some(terms) => Some(Submission::of_client(service, &entries[..taken], terms)),
        None => Some(Submission::of_validator(service, &entries[..taken])),
    };
    let mut answers = match submission {
        Some(submission) => submission.run(service, lease.clone()).await,
        None => Vec::new(),
    };
    if let Some(lease) = &lease {
        let accepted = answers.iter().filter(|answer| matches!(answer, Answer::Accepted(_)));
        service.leases.give_back(lease, covered.saturating_sub(accepted.count()));
    }
    if answers.len() == taken {
        answers.resize(entries.len(), Answer::busy("execution lags", BUSY_RETRY));
    }
    answers
}

pub(super) fn not_serving() -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, "not serving: see /ready")
}

pub(super) fn add_retry_after(response: &mut Response, after: Duration) {
    // The header has whole seconds.
    let seconds = after.as_millis().div_ceil(1000).max(1);
    if let Ok(value) = seconds.to_string().parse() {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    if let Ok(value) = after.as_millis().to_string().parse() {
        response.headers_mut().insert(RETRY_AFTER_MS, value);
    }
}
