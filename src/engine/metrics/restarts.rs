//! Failures of parts of the engine, each of which ends a life of the sequencer.

use prometheus::{IntCounterVec, Registry};

use super::instruments::Register;
use crate::engine::error::Part;

pub(in crate::engine) struct Restarts {
    failures: IntCounterVec,
}

impl Restarts {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let parts = Part::ALL.map(|part| part.to_string());
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        let failures = Register(registry).counters(
            "sequencer_failures_total",
            "Panics that ended a life of the sequencer, by the part they were in.",
            "part",
            &parts,
        )?;
        Ok(Self { failures })
    }

    /// A part panicked.
    pub fn failed(&self, part: Part) {
        self.failures.with_label_values(&[&part.to_string()]).inc();
    }
}
