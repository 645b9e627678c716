//! Making, registering and reading instruments.

use prometheus::core::{Collector, Metric as _};
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};
use serde::Serialize;

type Result<T> = std::result::Result<T, prometheus::Error>;

/// Registers instruments under one prefix.
pub(super) struct Register<'a>(pub &'a Registry);

impl Register<'_> {
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.add(IntCounter::new(full(name), help)?)
    }

    /// With every value of its first label that is known, so that each is there as zero.
    pub fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        known: &[&str],
    ) -> Result<IntCounterVec> {
        let counters = self.add(IntCounterVec::new(Opts::new(full(name), help), &[label])?)?;
        for value in known {
            counters.with_label_values(&[*value]);
        }
        Ok(counters)
    }

    pub fn counters_by(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(full(name), help), labels)?)
    }

    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.add(IntGauge::new(full(name), help)?)
    }

    pub fn real(&self, name: &str, help: &str) -> Result<Gauge> {
        self.add(Gauge::new(full(name), help)?)
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(full(name), help), labels)?)
    }

    pub fn reals(&self, name: &str, help: &str, label: &str) -> Result<prometheus::GaugeVec> {
        self.add(prometheus::GaugeVec::new(Opts::new(full(name), help), &[label])?)
    }

    pub fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram> {
        let options = HistogramOpts::new(full(name), help).buckets(buckets);
        self.add(Histogram::with_opts(options)?)
    }

    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
        label: &str,
        known: &[&str],
    ) -> Result<HistogramVec> {
        let options = HistogramOpts::new(full(name), help).buckets(buckets);
        let histograms = self.add(HistogramVec::new(options, &[label])?)?;
        for value in known {
            histograms.with_label_values(&[*value]);
        }
        Ok(histograms)
    }

    fn add<C: Collector + Clone + 'static>(&self, instrument: C) -> Result<C> {
        self.0.register(Box::new(instrument.clone()))?;
        Ok(instrument)
    }
}

fn full(name: &str) -> String {
    format!("quorum_store_{name}")
}

/// Sets a gauge to a count; what is unbounded shows as the largest value.
pub(super) fn set(gauge: &IntGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Brings a counter up to a total that is counted elsewhere.
pub(super) fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// How often each range of values was observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Upper bounds of the ranges, rising; what lies above the last one has none.
    pub bounds: Vec<f64>,
    /// Observations in each range, and at the end those above the last bound.
    pub counts: Vec<u64>,
    /// All observed values together.
    pub sum: f64,
}

impl Distribution {
    pub(super) fn of(histogram: &Histogram) -> Self {
        let metric = histogram.metric();
        let data = metric.get_histogram();
        let (mut bounds, mut counts, mut below) = (Vec::new(), Vec::new(), 0);
        for bucket in data.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
            bounds.push(bucket.upper_bound());
            counts.push(bucket.cumulative_count() - below);
            below = bucket.cumulative_count();
        }
        counts.push(data.get_sample_count() - below);
        Self { bounds, counts, sum: data.get_sample_sum() }
    }

    /// A quantile, interpolated inside its range; 0 while nothing was observed.
    pub fn quantile(&self, quantile: f64) -> f64 {
        let rank = quantile * self.counts.iter().sum::<u64>() as f64;
        let (mut lower, mut below) = (0.0, 0_u64);
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            if *count > 0 && (below + count) as f64 >= rank {
                let share = (rank - below as f64) / *count as f64;
                return lower + share * (bound - lower);
            }
            below += count;
            lower = *bound;
        }
        // Above the last bound nothing more is known; of nothing, the quantile is zero.
        if below == 0 && self.counts.last().is_none_or(|above| *above == 0) { 0.0 } else { lower }
    }
}

/// Each label value with its count, but for those that never happened.
pub(super) fn by_label(counters: &IntCounterVec) -> Vec<(String, u64)> {
    let families = counters.collect();
    let metrics = families.iter().flat_map(MetricFamily::get_metric);
    metrics
        .map(|metric| {
            let label = metric.get_label().first().map(|pair| pair.value().to_owned());
            (label.unwrap_or_default(), count(metric.get_counter().get_value()))
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// A counter's value: the library keeps whole numbers as floats.
#[allow(clippy::cast_sign_loss, reason = "a counter never falls below zero")]
fn count(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram() -> Histogram {
        let buckets = prometheus::exponential_buckets(0.000_05, 1.25, 52).unwrap();
        Register(&Registry::new()).histogram("seconds", "help", buckets).unwrap()
    }

    #[test]
    fn quantiles_lie_in_the_right_range() {
        let histogram = histogram();
        assert!(Distribution::of(&histogram).quantile(0.5).abs() < f64::EPSILON);
        for _ in 0..99 {
            histogram.observe(0.001);
        }
        histogram.observe(1.0);
        let distribution = Distribution::of(&histogram);
        let median = distribution.quantile(0.5);
        assert!((0.0007..0.0014).contains(&median), "{median}");
        let last = distribution.quantile(0.999);
        assert!(last > 0.7, "{last}");
        assert_eq!(distribution.counts.iter().sum::<u64>(), 100);
        assert!((distribution.sum - 1.099).abs() < 1e-9);
    }

    #[test]
    fn what_lies_above_the_last_bound_is_kept() {
        let histogram = histogram();
        histogram.observe(1e9);
        let distribution = Distribution::of(&histogram);
        assert_eq!(distribution.counts.last(), Some(&1));
        let last = distribution.bounds.last().copied().unwrap();
        assert!((distribution.quantile(0.5) - last).abs() < f64::EPSILON);
    }

    #[test]
    fn a_counter_follows_a_total_and_never_falls() {
        let counter = IntCounter::new("c", "help").unwrap();
        raise(&counter, 5);
        raise(&counter, 3);
        raise(&counter, 9);
        assert_eq!(counter.get(), 9);
    }
}
