//! What a run measured beside its summary: over time, and as distributions. For `report.html`.

/// All of it; empty where nothing was measured.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// What was run: name and value.
    pub conditions: Vec<(&'static str, String)>,
    /// The window that counts, in seconds since the load began.
    pub window: Option<(f64, f64)>,
    /// About one a second, in order.
    pub samples: Vec<Sample>,
    /// By state: name, and its latencies.
    pub latencies: Vec<(&'static str, LatencyCurve)>,
    /// By validator; `None` for who did not say.
    pub groups: Vec<Option<GroupDistributions>>,
}

/// How a run stood at one moment; counts are since the start.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Seconds since the load began.
    pub at: f64,
    /// Transactions sent.
    pub offered: u64,
    /// Transactions accepted.
    pub accepted: u64,
    /// Transactions executed.
    pub executed: u64,
    /// By validator.
    pub processes: Vec<ProcessSample>,
}

/// One process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessSample {
    /// Processor time since its start.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
}

/// Latencies of one state.
#[derive(Clone, Debug, Default)]
pub struct LatencyCurve {
    /// Quantile, from 0 to 1, and the latency in milliseconds there.
    pub quantiles: Vec<(f64, f64)>,
    /// Upper bound of a range in milliseconds, and the share of transactions in it.
    pub shares: Vec<(f64, f64)>,
}

/// What a validator says of its groups.
#[derive(Clone, Debug, Default)]
pub struct GroupDistributions {
    /// Seconds to make a group durable.
    pub commit_seconds: Counted,
    /// Bytes of a group.
    pub bytes: Counted,
    /// Batches in a group.
    pub batches: Counted,
}

/// Observations by range.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct Counted {
    /// Upper bounds, rising.
    pub bounds: Vec<f64>,
    /// Observations in each range, and at the end those above.
    pub counts: Vec<u64>,
}

impl Counted {
    /// Upper bound of each range with its share of all observations, between the first and the last
    /// range that has any.
    pub fn shares(&self) -> Vec<(f64, f64)> {
        let total = self.counts.iter().sum::<u64>().max(1) as f64;
        let first = self.counts.iter().position(|count| *count > 0).unwrap_or(0);
        let last = self.counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        // An empty range on both sides, so that a peak has feet.
        let range = first.saturating_sub(1)..=last + 1;
        let ranges = self.bounds.iter().zip(&self.counts).enumerate();
        let inside = ranges.filter(|(index, (_, count))| {
            range.contains(index) && (first < last || **count > 0 || last > 0)
        });
        inside.map(|(_, (bound, count))| (*bound, *count as f64 / total)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_all_and_keep_to_where_something_is() {
        let counted =
            Counted { bounds: vec![1.0, 2.0, 4.0, 8.0, 16.0], counts: vec![0, 0, 1, 3, 0, 0] };
        let expected = [(2.0, 0.0), (4.0, 0.25), (8.0, 0.75), (16.0, 0.0)];
        assert_eq!(counted.shares(), expected);
        assert_eq!(Counted::default().shares(), []);
    }
}
