//! What the validator says of itself.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prometheus::TextEncoder;
use quorum_store::engine::{Statistics, StopCause};
use quorum_store::sequencer::port::Room;
use quorum_store::sequencer::status::Status;
use quorum_store::transport::{LinkDown, LinkStatus};
use quorum_store::types::{Epoch, Timestamp};
use serde_json::{Value, json};

use super::submission::reason_of;
use super::{Phase, Service, error, json as respond};
use crate::process::process_use;

/// A batch is ordered well within this time, or something is wrong.
const LEAVE_MARGIN: Duration = Duration::from_secs(2);

impl Service {
    /// Voting power that this validator reaches, its own included.
    fn reachable_power(&self) -> u64 {
        let committee = &self.store.membership().committee;
        let own = committee.power_of(&self.identity.author);
        let linked = self.store.links().into_iter().filter(|link| link.up);
        linked.map(|link| committee.power_of(&link.peer)).sum::<u64>() + own
    }

    /// True if links to a quorum are up.
    pub fn reaches_quorum(&self) -> bool {
        self.store.membership().committee.is_quorum(self.reachable_power())
    }

    /// True if this validator is in the committee of the epoch that it serves.
    pub fn is_member(&self) -> bool {
        self.store.membership().committee.index_of(&self.identity.author).is_some()
    }

    /// True shortly before the end of an epoch after which this validator is not in the committee:
    /// what it took now, it could not have ordered any more.
    pub fn leaves_soon(&self, now: Timestamp) -> bool {
        let membership = self.store.membership();
        let plan = self.plan.borrow();
        let next = Epoch(membership.epoch.0 + 1);
        let leaves =
            plan.committee(next).is_some_and(|next| next.index_of(&self.identity.author).is_none());
        leaves && plan.starts_after(next) <= now.saturating_add(LEAVE_MARGIN)
    }

    /// Why this validator is not ready, if it is not.
    async fn unready(&self) -> Option<String> {
        match *self.phase.borrow() {
            Phase::Starting => {
                return Some(format!("starting: links are being made{}", self.refused_links()));
            }
            Phase::Observing => {
                let epoch = self.store.membership().epoch.0;
                return Some(format!("not in the committee of epoch {epoch}"));
            }
            Phase::Draining => return Some("shutting down".into()),
            Phase::Serving => {}
        }
        let status = match self.store.status().await {
            Ok(status) => status,
            Err(cause) => return Some(format!("the store stopped: {cause}")),
        };
        if !self.reaches_quorum() {
            let total = self.store.membership().committee.total_power();
            let power = self.reachable_power();
            let refused = self.refused_links();
            return Some(format!("no quorum reachable: {power} of {total} power{refused}"));
        }
        if let Some(busy) = status.busy.filter(|busy| busy.contains("disk")) {
            return Some(busy);
        }
        self.waits.first()
    }

    /// Links that one end refuses, with the reason; empty if there is none.
    fn refused_links(&self) -> String {
        let refused = |link: &LinkStatus| match &link.last_down {
            Some(reason @ (LinkDown::RefusedByUs(_) | LinkDown::RefusedByPeer(_))) if !link.up => {
                Some(format!("; link to {}: {reason}", link.peer))
            }
            _ => None,
        };
        self.store.links().iter().filter_map(refused).collect()
    }
}

/// `GET /health`: 200 while everything runs.
pub async fn health(State(service): State<Arc<Service>>) -> Response {
    match service.store.status().await {
        Err(cause) => verdict("healthy", Some(format!("the store stopped: {cause}"))),
        Ok(status) => match (service.waits.first(), status.silent_until) {
            (None, Some(until)) => {
                let note = "this store replaces a lost one, and signs for no batch before that";
                let value = json!({ "healthy": true, "silent_until": until.0, "note": note });
                respond(StatusCode::OK, &value)
            }
            (waits, _) => verdict("healthy", waits),
        },
    }
}

/// `GET /ready`: 200 while this validator takes part and takes transactions.
pub async fn ready(State(service): State<Arc<Service>>) -> Response {
    verdict("ready", service.unready().await)
}

fn verdict(name: &str, problem: Option<String>) -> Response {
    match problem {
        None => respond(StatusCode::OK, &json!({ name: true })),
        Some(reason) => {
            respond(StatusCode::SERVICE_UNAVAILABLE, &json!({ name: false, "reason": reason }))
        }
    }
}

/// `GET /pressure`: how much is accepted now, from which gas bucket on, and why.
pub async fn pressure(State(service): State<Arc<Service>>) -> Response {
    let pressure = *service.store.pressure().borrow();
    let serves = *service.phase.borrow() == Phase::Serving;
    let executes = service.tracker.has_room();
    let lowest = pressure.lowest_gas_bucket.filter(|_| serves && executes);
    let mut reasons: Vec<&str> = pressure.reasons.iter().map(reason_of).collect();
    if !executes {
        reasons.push("execution lags");
    }
    if serves && !pressure.serving {
        reasons.push("epoch ends");
    }
    let accepted = if lowest.is_some() { pressure.accepted } else { Room::default() };
    let value = json!({
        "accepting": lowest.is_some(),
        "lowest_gas_bucket": lowest,
        "reason": reasons.first(),
        "reasons": reasons,
        "accepted_transactions": accepted.transactions,
        "accepted_bytes": accepted.bytes,
        "levels": pressure.levels,
        "pull_rate": pressure.pull_rate,
        "pool_transactions": pressure.pooled.transactions,
        "pool_bytes": pressure.pooled.bytes,
        "leases": pressure.leases,
        "leased_transactions": pressure.leased.transactions,
        "leased_bytes": pressure.leased.bytes,
    });
    respond(StatusCode::OK, &value)
}

/// `GET /metrics`: text of Prometheus.
pub async fn metrics(State(service): State<Arc<Service>>) -> Response {
    service.metrics.tracked.set(i64::try_from(service.tracker.len()).unwrap_or(i64::MAX));
    let view = service.newest.borrow().as_ref().map_or(0, |newest| newest.view);
    service.metrics.view.set(i64::try_from(view).unwrap_or(i64::MAX));
    let looked_at = &service.metrics.looked_at;
    looked_at.ready.set(i64::from(service.unready().await.is_none()));
    looked_at.reaches_quorum.set(i64::from(service.reaches_quorum()));
    looked_at.waiting.set(i64::from(service.waits.first().is_some()));
    let fsyncs = storage_syncs(&service.runtime.metrics()).unwrap_or(0);
    let process = process_use();
    looked_at.raise(fsyncs, process.cpu_seconds.unwrap_or(0.0));
    looked_at.resident.set(process.rss_bytes.unwrap_or(0).cast_signed());
    match TextEncoder::new().encode_to_string(&service.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(failed) => error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
    }
}

/// `GET /status`.
pub async fn status(State(service): State<Arc<Service>>) -> Response {
    match service.store.status().await {
        Ok(status) => respond(StatusCode::OK, &describe(&service, &status)),
        Err(cause) => stopped(&cause),
    }
}

fn stopped(cause: &StopCause) -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, &format!("the store stopped: {cause}"))
}

fn describe(service: &Service, status: &Status) -> Value {
    let progress = *service.progress.borrow();
    let counters = progress.counters;
    let view = service.newest.borrow().as_ref().map(|newest| newest.view);
    let links: Vec<Value> = service.store.links().iter().map(link).collect();
    let space = service.store.reader().space();
    json!({
        "validator": {
            "key": service.identity.author.to_string(),
            "chain": service.identity.chain.to_string(),
            "phase": format!("{:?}", *service.phase.borrow()).to_lowercase(),
            "version": env!("CARGO_PKG_VERSION"),
        },
        "epoch": status.epoch.0,
        "member": service.is_member(),
        "height": progress.height(),
        "state_digest": progress.state_digest.to_string(),
        "block_timestamp": progress.block_timestamp.0,
        "status": readable(serde_json::to_value(status).unwrap_or_default()),
        "statistics": statistics(&service.store.statistics()),
        "links": links,
        "reaches_quorum": service.reaches_quorum(),
        "waiting": service.waits.first(),
        "executor": {
            "executed_transactions": counters.executed_transactions,
            "duplicates": counters.duplicates,
            "expired": counters.expired,
            "malformed": counters.malformed,
            "skipped": counters.skipped,
        },
        "store": {
            "content_bytes": space.content_bytes,
            "contents": space.contents,
            "free_bytes": space.free_bytes,
        },
        "process": process_use(),
        "consensus": { "view": view, "fsyncs": storage_syncs(&service.runtime.metrics()) },
        "accepted_transactions": service.metrics.accepted.get(),
        "known_transactions": service.metrics.known.get(),
        "tracked_transactions": service.tracker.len(),
        "refused": service.metrics.refused_by_reason(),
    })
}

/// The library's statistics, with what belongs together in one place.
fn statistics(statistics: &Statistics) -> Value {
    let mut value = serde_json::to_value(statistics).unwrap_or_default();
    value["group_commit_seconds"] = json!({
        "p50": statistics.group_commit_seconds_p50,
        "p99": statistics.group_commit_seconds_p99,
    });
    value["fetch"] = json!({
        "requests": statistics.fetch_requests,
        "misses": statistics.fetch_requests.saturating_sub(statistics.fetch_found),
        "timed_out": statistics.fetch_timed_out,
    });
    value
}

fn link(link: &LinkStatus) -> Value {
    json!({
        "peer": link.peer.to_string(),
        "address": link.address,
        "up": link.up,
        "last_down": link.last_down.as_ref().map(ToString::to_string),
        "ups": link.ups,
        "second_links": link.second_links,
        "rtt_micros": link.rtt.map(|rtt| rtt.as_micros() as u64),
        "bytes_sent": link.bytes_sent,
        "bytes_received": link.bytes_received,
        "mtu": link.current_mtu,
        "black_holes": link.black_holes,
    })
}

/// How often the ordering engine synced its journal, from its metrics as text.
pub(super) fn storage_syncs(text: &str) -> Option<u64> {
    let is_sample = |line: &&str| !line.starts_with('#') && line.contains("storage_syncs");
    text.lines().find(is_sample)?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Names of 32 bytes as hex digits instead of lists of numbers.
pub(super) fn readable(value: Value) -> Value {
    match value {
        Value::Array(values) => {
            let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
            let bytes: Option<Vec<u8>> =
                if values.len() == 32 { values.iter().map(byte).collect() } else { None };
            match bytes {
                Some(bytes) => Value::String(hex::encode(bytes)),
                None => Value::Array(values.into_iter().map(readable).collect()),
            }
        }
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(name, value)| (name, readable(value))).collect())
        }
        other => other,
    }
}
