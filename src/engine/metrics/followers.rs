//! Who follows the commits: how far behind, what that costs, what was delivered again.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::instruments::{Register, set};
use crate::sequencer::status::Status;

pub(in crate::engine) struct Followers {
    cursors: IntGaugeVec,
    lag: IntGaugeVec,
    lag_bytes: IntGaugeVec,
    lag_seconds: GaugeVec,
    attached: IntGaugeVec,
    lagged: IntGaugeVec,
    held_bytes: IntGauge,
    deliveries: IntCounterVec,
    redeliveries: IntCounterVec,
    /// Names that have series: those of subscribers that are gone are taken away.
    shown: Mutex<BTreeSet<String>>,
}

impl Followers {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        let by = &["subscriber"];
        Ok(Self {
            cursors: make.gauges(
                "subscriber_cursor",
                "The next commit that each subscriber needs.",
                by,
            )?,
            lag: make.gauges(
                "subscriber_lag",
                "Applied commits that a subscriber has not acknowledged.",
                by,
            )?,
            lag_bytes: make.gauges(
                "subscriber_lag_bytes",
                "Bytes of batches in applied commits that a subscriber has not acknowledged.",
                by,
            )?,
            lag_seconds: make.reals(
                "subscriber_lag_seconds",
                "Time since the oldest commit was applied that a subscriber has not acknowledged.",
                "subscriber",
            )?,
            attached: make.gauges(
                "subscriber_attached",
                "1 while a subscriber is attached.",
                by,
            )?,
            lagged: make.gauges(
                "subscriber_lagged",
                "1 once a subscriber was detached because it held too much for too long.",
                by,
            )?,
            held_bytes: make.gauge(
                "subscribers_held_bytes",
                "Bytes of batches kept beyond their time because a subscriber needs them.",
            )?,
            deliveries: make.counters_by(
                "deliveries_total",
                "Commits and jumps delivered to a subscriber.",
                by,
            )?,
            redeliveries: make.counters_by(
                "redeliveries_total",
                "Of those, delivered before in this life of the process.",
                by,
            )?,
            shown: Mutex::default(),
        })
    }

    /// A commit is on its way to a subscriber.
    pub fn delivered(&self, name: &str, again: bool) {
        self.deliveries.with_label_values(&[name]).inc();
        let redeliveries = self.redeliveries.with_label_values(&[name]);
        redeliveries.inc_by(u64::from(again));
    }

    pub fn observe(&self, status: &Status) {
        set(&self.held_bytes, status.held_bytes);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let names: BTreeSet<_> = status.subscribers.iter().map(|s| s.name.clone()).collect();
        for gone in shown.difference(&names) {
            let by = &[gone.as_str()];
            for gauges in [&self.cursors, &self.lag, &self.lag_bytes, &self.attached, &self.lagged]
            {
                let _ = gauges.remove_label_values(by);
            }
            let _ = self.lag_seconds.remove_label_values(by);
        }
        *shown = names;
        for subscriber in &status.subscribers {
            let by = &[subscriber.name.as_str()];
            set(&self.cursors.with_label_values(by), subscriber.next.0);
            set(&self.lag.with_label_values(by), subscriber.lag_commits);
            set(&self.lag_bytes.with_label_values(by), subscriber.lag_bytes);
            self.lag_seconds.with_label_values(by).set(subscriber.lag_seconds);
            set(&self.attached.with_label_values(by), u64::from(subscriber.attached));
            set(&self.lagged.with_label_values(by), u64::from(subscriber.lagged));
        }
    }
}
