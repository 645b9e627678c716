//! How a run stands, about once a second: what the charts of its report are drawn from.

use std::time::Duration;

use super::process::ProcessUsage;
use crate::load::engine::Snapshot;
use crate::report::details::{ProcessSample, Sample};

const INTERVAL: Duration = Duration::from_secs(1);
/// Beyond them, every second sample is dropped and the interval doubled: memory does not follow the
/// length of a run.
const SAMPLES_MAX: usize = 2_048;

/// The samples so far.
#[derive(Debug)]
pub struct Series {
    samples: Vec<Sample>,
    interval: Duration,
    due: Duration,
}

impl Default for Series {
    fn default() -> Self {
        Self::new()
    }
}

impl Series {
    /// Empty; the first sample is due at once.
    pub fn new() -> Self {
        Self { samples: Vec::new(), interval: INTERVAL, due: Duration::ZERO }
    }

    /// True if it is time for another sample.
    pub fn is_due(&self, elapsed: Duration) -> bool {
        elapsed >= self.due
    }

    /// Adds a sample.
    pub fn push(&mut self, load: &Snapshot, usages: &[ProcessUsage]) {
        let process = |usage: &ProcessUsage| ProcessSample {
            cpu_seconds: usage.cpu_seconds,
            rss_bytes: usage.rss_bytes,
        };
        self.samples.push(Sample {
            at: load.elapsed.as_secs_f64(),
            offered: load.counts.sent,
            accepted: load.counts.accepted,
            executed: load.counts.executed,
            processes: usages.iter().map(process).collect(),
        });
        if self.samples.len() > SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.interval *= 2;
        }
        // A late sample does not make the next ones late; half a tick early is better than late.
        self.due = load.elapsed + self.interval * 9 / 10;
    }

    /// All of them, in order.
    pub fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tracker::Counts;

    #[test]
    fn samples_are_bounded_whatever_the_length_of_the_run() {
        let mut series = Series::new();
        let mut taken = 0;
        for second in 0..100_000 {
            let elapsed = Duration::from_secs(second);
            if series.is_due(elapsed) {
                let counts = Counts { sent: second, ..Counts::default() };
                series.push(&Snapshot { elapsed, counts }, &[ProcessUsage::default()]);
                taken += 1;
            }
            assert!(series.samples.len() <= SAMPLES_MAX);
        }
        assert!(taken > SAMPLES_MAX);
        let samples = series.into_samples();
        assert!(samples.len() > SAMPLES_MAX / 4 && samples.is_sorted_by_key(|s| s.offered));
    }
}
