//! What became of one transaction of a request, as its client is told.

use std::time::Duration;

use axum::http::StatusCode;
use quorum_store::sequencer::port::LeaseRefusal;
use serde_json::json;

use crate::transaction::TransactionId;

/// What became of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Durable here in a batch.
    Accepted(TransactionId),
    /// Not taken.
    Refused {
        /// Status of HTTP.
        status: StatusCode,
        /// Names it in answers and metrics.
        reason: &'static str,
        /// When trying again may help.
        retry_after: Option<Duration>,
        /// The lowest gas bucket that is accepted now, where that is what it is about.
        lowest_gas_bucket: Option<u64>,
        /// Why the lease that it named did not help.
        lease: Option<LeaseRefusal>,
    },
}

impl Answer {
    pub(super) const fn refused(status: StatusCode, reason: &'static str) -> Self {
        Self::Refused { status, reason, retry_after: None, lowest_gas_bucket: None, lease: None }
    }

    pub(super) const fn busy(reason: &'static str, retry_after: Duration) -> Self {
        Self::priced(reason, retry_after, None, None)
    }

    pub(super) const fn priced(
        reason: &'static str,
        retry_after: Duration,
        lowest_gas_bucket: Option<u64>,
        lease: Option<LeaseRefusal>,
    ) -> Self {
        let (status, retry_after) = (StatusCode::TOO_MANY_REQUESTS, Some(retry_after));
        Self::Refused { status, reason, retry_after, lowest_gas_bucket, lease }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Accepted(_) => StatusCode::ACCEPTED,
            Self::Refused { status, .. } => *status,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Accepted(_) => None,
            Self::Refused { retry_after, .. } => *retry_after,
        }
    }

    pub(super) fn value(&self) -> serde_json::Value {
        match self {
            Self::Accepted(id) => json!({ "status": 202, "id": hex::encode(id) }),
            Self::Refused { status, reason, retry_after: None, .. } => {
                json!({ "status": status.as_u16(), "reason": reason })
            }
            Self::Refused {
                status,
                reason,
                retry_after: Some(after),
                lowest_gas_bucket,
                lease,
            } => {
                let mut value = json!({
                    "status": status.as_u16(),
                    "reason": reason,
                    "lowest_gas_bucket": lowest_gas_bucket,
                    "retry_after_ms": after.as_millis() as u64,
                });
                if let Some(lease) = lease {
                    value["lease"] = lease.to_string().into();
                }
                value
            }
        }
    }
}

/// A JSON array of answers.
pub(super) fn array(answers: &[Answer]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + answers.len() * 96);
    text.push('[');
    for (position, answer) in answers.iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        // Writing to a string cannot fail. Most answers are this one.
        let _ = match answer {
            Answer::Accepted(id) => {
                write!(text, "{{\"status\":202,\"id\":\"{}\"}}", hex::encode(id))
            }
            refused @ Answer::Refused { .. } => write!(text, "{}", refused.value()),
        };
    }
    text.push(']');
    text
}
