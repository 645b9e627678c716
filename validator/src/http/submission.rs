//! The way of one request's transactions through tracker and library.

use std::time::Duration;

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use quorum_store::sequencer::port::{self, BusyReason, SubmitError, UnderLease};

use super::Service;
use super::answer::Answer;
use super::ingress::{BUSY_RETRY, Terms};
use crate::clock;
use crate::ids::Named;
use crate::tracker::Admission;
use crate::transaction::{self, TransactionId, WRAPPER_BYTES_MAX};

/// How long a transaction waits for the answer to an equal one.
const EQUAL_PATIENCE: Duration = Duration::from_secs(10);

/// Entries of one request on their way through the library.
pub(super) struct Submission {
    /// One per entry; `None` until it is known.
    answers: Vec<Option<Answer>>,
    /// Position and name of what the library is given.
    submitted: Vec<(usize, Named)>,
    transactions: Vec<port::Transaction>,
    /// Position and name of what somebody else is submitting.
    in_flight: Vec<(usize, Named)>,
}

/// Decides which transactions are new, by their ids and expirations.
type Admit = fn(&Service, &[Named]) -> Vec<Admission>;

/// A transaction that may be taken.
pub(super) struct Arriving {
    id: TransactionId,
    transaction: port::Transaction,
}

impl Submission {
    /// Of transactions of a client: wraps and names them, with one copy.
    pub(super) fn of_client(service: &Service, entries: &[Bytes], terms: Terms) -> Self {
        let bound =
            service.genesis.parameters.transaction_bytes_max.saturating_sub(WRAPPER_BYTES_MAX);
        let checked: Vec<Option<Answer>> =
            entries.iter().map(|entry| check(entry, bound as usize)).collect();
        let valid = checked.iter().enumerate().filter(|(_, answer)| answer.is_none());
        let positions: Vec<usize> = valid.map(|(position, _)| position).collect();
        let wrapped = wrap(entries, &positions, terms);
        let ids = transaction::ids(&wrapped.iter().map(Bytes::as_ref).collect::<Vec<_>>());
        let mut named = wrapped.into_iter().zip(ids);
        let Terms { gas_unit_price, expiration } = terms;
        let arriving = checked.into_iter().map(|answer| match (answer, &mut named) {
            (Some(answer), _) => Err(answer),
            (None, named) => {
                // As many were wrapped as were valid.
                let (bytes, id) = named.next().unwrap_or_default();
                let transaction = port::Transaction { bytes, gas_unit_price, expiration };
                Ok(Arriving { id, transaction })
            }
        });
        Self::prepare(service, arriving, admit)
    }

    /// Of transactions that another validator took from its clients, and wrapped.
    pub(super) fn of_validator(service: &Service, entries: &[Bytes]) -> Self {
        let now = clock::wall();
        let latest = now.saturating_add(service.genesis.parameters.transaction_life_max());
        let wrapped: Vec<&[u8]> = entries.iter().map(Bytes::as_ref).collect();
        let envelopes = transaction::unwrap_each(&wrapped);
        let arriving = entries.iter().zip(envelopes).map(|(entry, envelope)| match envelope {
            Some(envelope) if (now..=latest).contains(&envelope.expiration) => {
                let transaction = port::Transaction {
                    bytes: entry.clone(),
                    gas_unit_price: envelope.gas_unit_price,
                    expiration: envelope.expiration,
                };
                Ok(Arriving { id: envelope.id, transaction })
            }
            Some(_) => Err(Answer::refused(StatusCode::BAD_REQUEST, "expired")),
            None => Err(Answer::refused(StatusCode::BAD_REQUEST, "malformed")),
        });
        Self::prepare(service, arriving, admit_untracked)
    }

    /// Asks which of them are new.
    fn prepare(
        service: &Service,
        arriving: impl Iterator<Item = Result<Arriving, Answer>>,
        admit: Admit,
    ) -> Self {
        let mut answers = Vec::new();
        let mut valid = Vec::new();
        for (position, arriving) in arriving.enumerate() {
            match arriving {
                Ok(arriving) => {
                    valid.push((position, arriving));
                    answers.push(None);
                }
                Err(answer) => answers.push(Some(answer)),
            }
        }
        let names: Vec<Named> =
            valid.iter().map(|(_, new)| (new.id, new.transaction.expiration)).collect();
        let admissions = admit(service, &names);
        let mut submitted = Vec::new();
        let mut transactions = Vec::new();
        let mut in_flight = Vec::new();
        for ((position, Arriving { id, transaction }), admission) in
            valid.into_iter().zip(admissions)
        {
            match admission {
                Admission::New => {
                    submitted.push((position, (id, transaction.expiration)));
                    transactions.push(transaction);
                }
                Admission::InFlight => in_flight.push((position, (id, transaction.expiration))),
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
    pub(super) async fn run(mut self, service: &Service, lease: Option<UnderLease>) -> Vec<Answer> {
        let mut answered = Vec::with_capacity(self.submitted.len());
        let mut stopped = None;
        if !self.transactions.is_empty() {
            let transactions = std::mem::take(&mut self.transactions);
            let results = match lease {
                Some(lease) => service.store.submit_under(lease, transactions).await,
                None => service.store.submit(transactions).await,
            };
            match results {
                Ok(results) => {
                    for ((position, named), result) in self.submitted.iter().zip(results) {
                        answered.push((*named, result.ok()));
                        self.answers[*position] = Some(match result {
                            Ok(_) => Answer::Accepted(named.0),
                            Err(error) => refusal(&error),
                        });
                    }
                }
                Err(cause) => stopped = Some(cause),
            }
        }
        // Whatever the library left without an answer is forgotten, so that it may come again.
        let left = self.submitted.iter().skip(answered.len()).map(|(_, named)| (*named, None));
        answered.extend(left.collect::<Vec<_>>());
        service.tracker.answered(&answered);
        if let Some(cause) = stopped {
            tracing::debug!(%cause, "a submission met a stopped store");
            return Vec::new();
        }
        for (position, named) in &self.in_flight {
            let accepted = service.tracker.accepted(named, EQUAL_PATIENCE).await;
            if accepted {
                service.metrics.known.inc();
            }
            let busy = Answer::busy("equal transaction refused", BUSY_RETRY);
            self.answers[*position] = Some(if accepted { Answer::Accepted(named.0) } else { busy });
        }
        let unanswered = Answer::refused(StatusCode::SERVICE_UNAVAILABLE, "not serving");
        self.answers.into_iter().map(|a| a.unwrap_or_else(|| unanswered.clone())).collect()
    }
}

/// Asks which are new. What a block has executed already is not batched again: it would be refused
/// there as a duplicate, and its client would only hear that it expired.
fn admit(service: &Service, arriving: &[Named]) -> Vec<Admission> {
    let mut admissions = service.tracker.begin(arriving);
    // Looked up only after they are followed: a block in between is seen here or by the tracker.
    let mut executed = Vec::new();
    for (position, height) in service.archive.heights_of(arriving) {
        if admissions[position] == Admission::New {
            admissions[position] = Admission::Accepted;
            executed.push((arriving[position], height));
        }
    }
    service.tracker.executed_before(&executed);
    admissions
}

/// The same, of transactions that somebody else follows: none of our clients waits for them.
fn admit_untracked(service: &Service, arriving: &[Named]) -> Vec<Admission> {
    let known = |named: &Named| service.tracker.knows(named);
    let admission = |named| if known(named) { Admission::Accepted } else { Admission::New };
    let mut admissions: Vec<Admission> = arriving.iter().map(admission).collect();
    for (position, _) in service.archive.heights_of(arriving) {
        admissions[position] = Admission::Accepted;
    }
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

/// What is short, in words that also name it in metrics.
pub(super) const fn reason_of(reason: BusyReason) -> &'static str {
    match reason {
        BusyReason::Pool => "pool full",
        BusyReason::Commits => "commits lag",
        BusyReason::Windows => "windows spent",
        BusyReason::Disk => "disk nearly full",
        BusyReason::Votes => "votes lag",
        BusyReason::DiskLag => "disk lags",
        _ => "busy",
    }
}

fn refusal(error: &SubmitError) -> Answer {
    match error {
        SubmitError::Empty => Answer::refused(StatusCode::BAD_REQUEST, "empty"),
        SubmitError::TooLarge { .. } => Answer::refused(StatusCode::PAYLOAD_TOO_LARGE, "too large"),
        SubmitError::Expired => Answer::refused(StatusCode::BAD_REQUEST, "expired"),
        SubmitError::Busy { reason, lowest_gas_bucket, lease, retry_after } => {
            Answer::priced(reason_of(*reason), *retry_after, *lowest_gas_bucket, *lease)
        }
        SubmitError::EpochClosed { .. } => Answer::busy("epoch ends", BUSY_RETRY),
        SubmitError::NotAMember => {
            Answer::refused(StatusCode::SERVICE_UNAVAILABLE, "not in the committee")
        }
        SubmitError::Filtered { reason } => Answer::refused(StatusCode::BAD_REQUEST, reason),
        _ => Answer::refused(StatusCode::BAD_REQUEST, "refused"),
    }
}
