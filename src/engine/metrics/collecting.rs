//! Vote collection: late votes, proofs that grow, signers that are demoted.

use prometheus::{IntCounter, IntGauge, Registry};

use super::instruments::{Register, set};
use crate::sequencer::port::Measurement;
use crate::sequencer::status::Status;

pub(in crate::engine) struct Collecting {
    late_votes: IntCounter,
    grown: IntCounter,
    demotions: IntCounter,
    demoted: IntGauge,
    /// Signatures of demoted signers that nobody looked at.
    pub unread: IntCounter,
}

impl Collecting {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        Ok(Self {
            late_votes: make.counter(
                "late_votes_total",
                "Votes for own batches that were certified already and not ordered yet.",
            )?,
            grown: make.counter(
                "proofs_grown_total",
                "Own proofs published again because more validators had signed meanwhile.",
            )?,
            demotions: make.counter(
                "signer_demotions_total",
                "Times that a validator in good standing sent a signature that does not verify.",
            )?,
            demoted: make.gauge(
                "signers_demoted",
                "Validators that sent signatures which do not verify, and are not forgiven yet.",
            )?,
            unread: make.counter(
                "votes_unread_total",
                "Votes of demoted signers that were not looked at.",
            )?,
        })
    }

    /// The sequencer measured something.
    pub fn measured(&self, measurement: Measurement) {
        match measurement {
            Measurement::LateVote => self.late_votes.inc(),
            Measurement::Grown => self.grown.inc(),
            Measurement::Demoted => self.demotions.inc(),
            _ => {}
        }
    }

    pub fn observe(&self, status: &Status) {
        set(&self.demoted, status.demoted.len() as u64);
    }
}
