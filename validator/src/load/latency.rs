//! Latencies of a run: from the arrival of a transaction at its validator to each state.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::outcomes::State;

/// Quantiles saturate here: an hour, far beyond the longest transaction life. The maximum is exact.
const MICROS_MAX: u64 = 3_600_000_000;

/// p50, p99 and maximum in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half are at or below it.
    pub p50: f64,
    /// 99 of 100 are at or below it.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// The quantiles of each state; absent where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencyQuantiles {
    /// Durable in a batch of its validator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Quantiles>,
    /// Its batch has a proof of store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certified: Option<Quantiles>,
    /// Executed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executed: Option<Quantiles>,
}

/// Microseconds with three significant digits, and the exact largest.
#[derive(Clone)]
struct Distribution {
    histogram: Histogram<u64>,
    max_micros: u64,
}

impl Distribution {
    fn new() -> Self {
        // The constructor refuses a maximum below 2 and more than 5 digits, nothing else.
        #[allow(clippy::expect_used)]
        let histogram = Histogram::new_with_max(MICROS_MAX, 3).expect("bounds are constant");
        Self { histogram, max_micros: 0 }
    }

    fn record(&mut self, micros: u64) {
        self.histogram.saturating_record(micros);
        self.max_micros = self.max_micros.max(micros);
    }

    fn add(&mut self, other: &Self) {
        // Cannot fail: both have the same bounds and precision.
        let _ = self.histogram.add(&other.histogram);
        self.max_micros = self.max_micros.max(other.max_micros);
    }

    fn quantiles(&self) -> Option<Quantiles> {
        let at = |quantile| {
            let micros = self.histogram.value_at_quantile(quantile).min(self.max_micros);
            milliseconds(micros)
        };
        (!self.histogram.is_empty()).then(|| Quantiles {
            p50: at(0.5),
            p99: at(0.99),
            max: milliseconds(self.max_micros),
        })
    }
}

fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

/// One distribution per state.
#[derive(Clone)]
pub struct Latencies {
    accepted: Distribution,
    certified: Distribution,
    executed: Distribution,
}

impl Latencies {
    /// Empty.
    pub fn new() -> Self {
        let (accepted, certified) = (Distribution::new(), Distribution::new());
        Self { accepted, certified, executed: Distribution::new() }
    }

    /// One transaction reached a state; states without a latency are ignored.
    pub fn record(&mut self, state: State, micros: u64) {
        match state {
            State::Accepted => self.accepted.record(micros),
            State::Certified => self.certified.record(micros),
            State::Executed => self.executed.record(micros),
            State::Expired | State::Skipped | State::Gap => {}
        }
    }

    /// Adds those of another target.
    pub fn add(&mut self, other: &Self) {
        self.accepted.add(&other.accepted);
        self.certified.add(&other.certified);
        self.executed.add(&other.executed);
    }

    /// What the report shows.
    pub fn quantiles(&self) -> LatencyQuantiles {
        LatencyQuantiles {
            accepted: self.accepted.quantiles(),
            certified: self.certified.quantiles(),
            executed: self.executed.quantiles(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_recorded_values_across_targets() {
        let (mut odd, mut even) = (Latencies::new(), Latencies::new());
        for micros in 1..=10_000_u64 {
            let side = if micros % 2 == 0 { &mut even } else { &mut odd };
            side.record(State::Executed, micros * 10);
        }
        odd.add(&even);
        let quantiles = odd.quantiles();
        assert_eq!(quantiles.accepted, None);
        let executed = quantiles.executed.expect("recorded");
        assert!((executed.p50 - 50.0).abs() < 0.1, "{executed:?}");
        assert!((executed.p99 - 99.0).abs() < 0.2, "{executed:?}");
        assert!((executed.max - 100.0).abs() < f64::EPSILON, "{executed:?}");
    }

    #[test]
    fn a_latency_beyond_all_bounds_is_kept_as_the_largest() {
        let mut latencies = Latencies::new();
        latencies.record(State::Accepted, u64::MAX / 2);
        latencies.record(State::Accepted, 3_600_000_000);
        assert!(latencies.quantiles().accepted.is_some_and(|found| found.max > 1e12));
    }
}
