//! Admission: prices, leases, and how fast the pool is emptied.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::instruments::{Register, set};
use crate::sequencer::port::{Lease, LeaseError};
use crate::sequencer::pressure::Pressure;

const OUTCOMES: [&str; 3] = ["granted", "busy", "refused"];

pub(in crate::engine) struct Admission {
    levels: IntGaugeVec,
    accepts: IntGauge,
    lowest_gas_bucket: IntGauge,
    accepted_bytes: IntGauge,
    leases: IntGauge,
    leased_bytes: IntGauge,
    leased_transactions: IntGauge,
    requests: IntCounterVec,
    pull_rate: IntGauge,
}

impl Admission {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Register(registry);
        Ok(Self {
            levels: make.gauges(
                "pressure_level",
                "How near each reason of back-pressure is to its bound; 1000 is the bound.",
                &["reason"],
            )?,
            accepts: make.gauge("accepts", "1 while transactions are taken without a lease.")?,
            lowest_gas_bucket: make.gauge(
                "lowest_gas_bucket",
                "Lowest gas unit price taken without a lease, while any is.",
            )?,
            accepted_bytes: make.gauge("accepted_bytes", "Room in the pool that is not leased.")?,
            leases: make.gauge("leases", "Leases that are open.")?,
            leased_bytes: make.gauge("leased_bytes", "Room leased and not used yet.")?,
            leased_transactions: make
                .gauge("leased_transactions", "Transactions leased and not submitted yet.")?,
            requests: make.counters(
                "lease_requests_total",
                "Leases asked for, by outcome.",
                "outcome",
                &OUTCOMES,
            )?,
            pull_rate: make.gauge(
                "pull_rate",
                "Transactions a second that leave the pool at most; 0 while nothing is limited.",
            )?,
        })
    }

    /// A request for a lease was answered.
    pub fn leased(&self, result: &Result<Lease, LeaseError>) {
        let outcome = match result {
            Ok(_) => OUTCOMES[0],
            Err(LeaseError::Busy { .. }) => OUTCOMES[1],
            Err(_) => OUTCOMES[2],
        };
        self.requests.with_label_values(&[outcome]).inc();
    }

    pub fn observe(&self, pressure: &Pressure) {
        let levels = &pressure.levels;
        for (reason, level) in [
            ("pool", levels.pool),
            ("commits", levels.commits),
            ("votes", levels.votes),
            ("disk_lag", levels.disk),
        ] {
            self.levels.with_label_values(&[reason]).set(i64::from(level));
        }
        set(&self.accepts, u64::from(pressure.lowest_gas_bucket.is_some()));
        set(&self.lowest_gas_bucket, pressure.lowest_gas_bucket.unwrap_or_default());
        set(&self.accepted_bytes, pressure.accepted.bytes);
        set(&self.leases, pressure.leases);
        set(&self.leased_bytes, pressure.leased.bytes);
        set(&self.leased_transactions, pressure.leased.transactions);
        set(&self.pull_rate, pressure.pull_rate.unwrap_or_default());
    }
}
