//! The way of one request's transactions through tracker and library.

use std::time::Duration;

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use quorum_store::sequencer::port::{self, BusyReason, SubmitError};
use quorum_store::types::Timestamp;

use super::Service;
use super::ingress::{Answer, BUSY_RETRY, Terms};
use crate::tracker::Admission;
use crate::transaction::{self, TransactionId, WRAPPER_BYTES_MAX};

/// How long a transaction waits for the answer to an equal one.
const EQUAL_PATIENCE: Duration = Duration::from_secs(10);

/// Entries of one request on their way through the library.
pub(super) struct Submission {
    /// One per entry; `None` until it is known.
    answers: Vec<Option<Answer>>,
    /// Position and id of what the library is given.
    submitted: Vec<(usize, TransactionId)>,
    transactions: Vec<port::Transaction>,
    /// Position and id of what somebody else is submitting.
    in_flight: Vec<(usize, TransactionId)>,
}

impl Submission {
    /// Wraps and names all entries, with one copy, and asks which of them are new.
    pub(super) fn prepare(service: &Service, entries: &[Bytes], terms: Terms) -> Self {
        let bound =
            service.genesis.parameters.transaction_bytes_max.saturating_sub(WRAPPER_BYTES_MAX);
        let mut answers: Vec<Option<Answer>> =
            entries.iter().map(|entry| check(entry, bound as usize)).collect();
        let valid = || answers.iter().enumerate().filter(|(_, answer)| answer.is_none());
        let positions: Vec<usize> = valid().map(|(position, _)| position).collect();
        let wrapped = wrap(entries, &positions, terms);
        let arriving: Vec<(TransactionId, Timestamp)> =
            wrapped.iter().map(|bytes| (transaction::id(bytes), terms.expiration)).collect();
        let admissions = admit(service, &arriving);
        let mut submitted = Vec::new();
        let mut transactions = Vec::new();
        let mut in_flight = Vec::new();
        for (((position, bytes), (id, _)), admission) in
            positions.into_iter().zip(wrapped).zip(arriving).zip(admissions)
        {
            match admission {
                Admission::New => {
                    submitted.push((position, id));
                    let Terms { gas_unit_price, expiration } = terms;
                    transactions.push(port::Transaction { bytes, gas_unit_price, expiration });
                }
                Admission::InFlight => in_flight.push((position, id)),
                Admission::Accepted => {
                    service.metrics.known.inc();
                    answers[position] = Some(Answer::Accepted(id));
                }
                Admission::Full => answers[position] = Some(Answer::busy("tracker", BUSY_RETRY)),
            }
        }
        Self { answers, submitted, transactions, in_flight }
    }

    /// Hands what is new to the library, then waits for what others are submitting.
    pub(super) async fn run(mut self, service: &Service) -> Vec<Answer> {
        let mut answered = Vec::with_capacity(self.submitted.len());
        let mut stopped = None;
        if !self.transactions.is_empty() {
            match service.store.submit(std::mem::take(&mut self.transactions)).await {
                Ok(results) => {
                    for ((position, id), result) in self.submitted.iter().zip(results) {
                        answered.push((*id, result.ok()));
                        self.answers[*position] = Some(match result {
                            Ok(_) => Answer::Accepted(*id),
                            Err(error) => refusal(&error),
                        });
                    }
                }
                Err(cause) => stopped = Some(cause),
            }
        }
        // Whatever the library left without an answer is forgotten, so that it may come again.
        let left = self.submitted.iter().skip(answered.len()).map(|(_, id)| (*id, None));
        answered.extend(left.collect::<Vec<_>>());
        service.tracker.answered(&answered);
        if let Some(cause) = stopped {
            tracing::debug!(%cause, "a submission met a stopped store");
            return Vec::new();
        }
        for (position, id) in &self.in_flight {
            let accepted = service.tracker.accepted(id, EQUAL_PATIENCE).await;
            if accepted {
                service.metrics.known.inc();
            }
            let busy = Answer::busy("equal transaction refused", BUSY_RETRY);
            self.answers[*position] = Some(if accepted { Answer::Accepted(*id) } else { busy });
        }
        let unanswered = Answer::refused(StatusCode::SERVICE_UNAVAILABLE, "not serving");
        self.answers.into_iter().map(|a| a.unwrap_or_else(|| unanswered.clone())).collect()
    }
}

/// Asks which are new. What a block has executed already is not batched again: it would be refused
/// there as a duplicate, and its client would only hear that it expired.
fn admit(service: &Service, arriving: &[(TransactionId, Timestamp)]) -> Vec<Admission> {
    let mut admissions = service.tracker.begin(arriving);
    // Looked up only after they are followed: a block in between is seen here or by the tracker.
    let mut executed = Vec::new();
    for (position, height) in service.archive.heights_of(arriving.iter().map(|(id, _)| id)) {
        if admissions[position] == Admission::New {
            admissions[position] = Admission::Accepted;
            executed.push((arriving[position].0, height));
        }
    }
    service.tracker.executed_before(&executed);
    admissions
}

/// What can be said of an entry by its length.
fn check(entry: &Bytes, bound: usize) -> Option<Answer> {
    if entry.is_empty() {
        return Some(Answer::refused(StatusCode::BAD_REQUEST, "empty"));
    }
    (entry.len() > bound).then(|| Answer::refused(StatusCode::PAYLOAD_TOO_LARGE, "too large"))
}

/// Wraps the entries at these positions into one buffer; each result is a slice of it.
fn wrap(entries: &[Bytes], positions: &[usize], terms: Terms) -> Vec<Bytes> {
    let lengths = positions.iter().map(|position| entries[*position].len());
    let total = lengths.map(transaction::wrapped_bytes).sum();
    let mut buffer = BytesMut::with_capacity(total);
    positions
        .iter()
        .map(|position| {
            let Terms { gas_unit_price, expiration } = terms;
            transaction::wrap(&mut buffer, gas_unit_price, expiration.0, &entries[*position]);
            buffer.split().freeze()
        })
        .collect()
}

fn refusal(error: &SubmitError) -> Answer {
    match error {
        SubmitError::Empty => Answer::refused(StatusCode::BAD_REQUEST, "empty"),
        SubmitError::TooLarge { .. } => Answer::refused(StatusCode::PAYLOAD_TOO_LARGE, "too large"),
        SubmitError::Expired => Answer::refused(StatusCode::BAD_REQUEST, "expired"),
        SubmitError::Busy { reason, retry_after } => {
            let reason = match reason {
                BusyReason::Pool => "pool full",
                BusyReason::Commits => "commits lag",
                BusyReason::Windows => "windows spent",
                BusyReason::Disk => "disk nearly full",
                _ => "busy",
            };
            Answer::busy(reason, *retry_after)
        }
        _ => Answer::refused(StatusCode::BAD_REQUEST, "refused"),
    }
}
