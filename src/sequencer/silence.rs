//! Silence: a store that replaces a lost one does not know what it signed before.
//!
//! It is created with a record: no batch signature before this consensus time. By then every batch
//! that the lost store can have signed has expired, so no slot can be signed twice among batches
//! that may still be ordered. Until then the validator serves, fetches and votes for payloads, and
//! what arrives is stored without a signature; authors send it again. The end of the epoch lifts
//! the silence too: slots do not outlive it. No questions are asked of anybody, and a second restart
//! does not forget.

use std::time::Duration;

use super::Sequencer;
use super::port::Record;
use crate::types::{ChainParameters, Timestamp};

/// When a store that is created now, in place of one that was lost, may sign again: the lost one
/// can have signed for batches that expire a lifetime after the clock of their author, or after
/// consensus time, whichever was ahead.
pub fn silent_until(wall: Timestamp, parameters: &ChainParameters) -> Timestamp {
    let allowance: Duration = 2 * parameters.clock_allowance();
    wall.saturating_add(parameters.batch_lifetime()).saturating_add(allowance)
}

/// See the module docs.
#[derive(Debug, Default)]
pub(super) struct Silence {
    until: Option<Timestamp>,
}

impl Silence {
    /// As the store says.
    pub fn on_recovered(&mut self, until: Option<Timestamp>) {
        self.until = until;
    }

    /// Until which consensus time nothing is signed, if that has not come.
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

impl Sequencer {
    /// Consensus time has moved, or `Timestamp(u64::MAX)` at the end of an epoch.
    pub(super) fn end_silence(&mut self, consensus: Timestamp) {
        if self.silence.until.is_some_and(|until| until <= consensus) {
            self.silence.until = None;
            self.coordinator.silent = false;
            self.outbox.record(Record::Silence { until: None });
            self.decide_all_again(&self.clock_now());
        }
        self.absences.replaced = self.silence.until.is_some();
    }
}
