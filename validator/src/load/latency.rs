//! Latencies of a run: from the arrival of a transaction at its validator to each state.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::outcomes::State;
use crate::report::details::LatencyCurve;

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

/// Each range of a histogram ends a fifth above the one before it.
const RANGE_GROWTH: f64 = 1.2;
/// End of the first range.
const RANGE_MICROS_MIN: f64 = 50.0;

impl Distribution {
    /// For charts; empty while nothing was recorded.
    fn curve(&self) -> LatencyCurve {
        let count = self.histogram.len();
        if count == 0 {
            return LatencyCurve::default();
        }
        // Even steps on an axis where each nine takes the same room, as far as there are values.
        let nines = (count as f64).log10().min(5.0);
        let step = |index: u32| 1.0 - 10_f64.powf(-nines * f64::from(index) / 100.0);
        let at = |quantile: f64| {
            let micros = self.histogram.value_at_quantile(quantile).min(self.max_micros);
            (quantile, milliseconds(micros))
        };
        let mut shares = Vec::new();
        let (mut low, mut bound) = (0_u64, RANGE_MICROS_MIN);
        while low <= self.histogram.max() {
            #[allow(clippy::cast_sign_loss, reason = "bounds lie above zero")]
            let high = bound as u64;
            let inside = self.histogram.count_between(low, high.saturating_sub(1));
            shares.push((bound / 1_000.0, inside as f64 / count as f64));
            (low, bound) = (high, bound * RANGE_GROWTH);
        }
        let first = shares.iter().position(|(_, share)| *share > 0.0).unwrap_or(0);
        shares.drain(..first.saturating_sub(1));
        shares.push((bound / 1_000.0, 0.0));
        LatencyCurve { quantiles: (0..=100).map(step).map(at).collect(), shares }
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

    /// Their distributions, by name of the state.
    pub fn curves(&self) -> Vec<(&'static str, LatencyCurve)> {
        let states = [
            ("accepted", &self.accepted),
            ("certified", &self.certified),
            ("executed", &self.executed),
        ];
        states.map(|(name, distribution)| (name, distribution.curve())).into()
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
    fn curves_rise_and_shares_are_those_of_all() {
        let mut latencies = Latencies::new();
        for micros in 1..=10_000_u64 {
            latencies.record(State::Certified, micros * 100);
        }
        let curves = latencies.curves();
        let (name, curve) = &curves[1];
        assert_eq!((*name, curve.quantiles.len()), ("certified", 101));
        assert!(curve.quantiles.is_sorted_by_key(|(_, ms)| *ms));
        let last = curve.quantiles.last().copied().unwrap_or_default();
        assert!((last.0 - 0.9999).abs() < 1e-9 && last.1 > 990.0, "{last:?}");
        let sum: f64 = curve.shares.iter().map(|(_, share)| share).sum();
        assert!((sum - 1.0).abs() < 0.02, "{sum}");
        assert!(curve.shares.len() < 100);
        assert!(curves[0].1.quantiles.is_empty() && curves[2].1.shares.is_empty());
    }

    #[test]
    fn a_latency_beyond_all_bounds_is_kept_as_the_largest() {
        let mut latencies = Latencies::new();
        latencies.record(State::Accepted, u64::MAX / 2);
        latencies.record(State::Accepted, 3_600_000_000);
        assert!(latencies.quantiles().accepted.is_some_and(|found| found.max > 1e12));
    }
}
