//! What a run of `validator testnet` measured: `report.json`, the same with charts for people as
//! `report.html`, and its summary as text.
//!
//! The names are fixed: scripts and dashboards read them. What was not measured is absent, never
//! zero.

mod chart;
mod charts;
pub mod details;
mod html;

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::exit::Failure;
use crate::load::latency::LatencyQuantiles;
use crate::load::latency_text;
use crate::load::tracker::{Counts, Refused};

/// A whole run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many validators ran.
    pub validators: u32,
    /// Length of the window that counts: load without warm-up.
    pub duration_s: f64,
    /// Transactions sent inside the window, by its length.
    pub offered_tps: f64,
    /// Distinct transactions executed inside the window, by its length.
    pub executed_tps: f64,
    /// Distinct transactions executed, warm-up and drain included.
    pub executed_transactions: u64,
    /// Accepted, and without any outcome in the end.
    pub lost_transactions: u64,
    /// Accepted and not certified at a validator whose disk the run destroyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_with_disk: Option<u64>,
    /// Every validator has the same state at the highest height that all have.
    pub agreement: bool,
    /// That height.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<u64>,
    /// Epochs that the run went through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// From the arrival of a transaction at a validator.
    pub latency_ms: LatencyQuantiles,
    /// In the order of the validators.
    pub per_validator: Vec<ValidatorReport>,
    /// Processor time of all validators inside the window, by transaction executed in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_transaction: Option<f64>,
    /// Content that had to be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetch: Option<FetchReport>,
    /// Batches removed by evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_batches: Option<Vec<SkippedBatch>>,
    /// From when every validator was started again until the last of them was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_after_s: Option<f64>,
    /// What should have held and did not; empty for a good run.
    pub violations: Vec<String>,
    /// What the load did, in transactions.
    pub load: LoadReport,
    /// What the load saw, for the summary.
    #[serde(skip)]
    pub counts: Counts,
    /// Over time and as distributions, for the page.
    #[serde(skip)]
    pub details: details::Details,
}

/// What became of the load on its way, in transactions; warm-up included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Handed to a connection.
    pub sent: u64,
    /// Came due and not sent: the target was away, asked for a pause, or had enough in flight.
    pub unsent: u64,
    /// Sent a second time, because the connection broke before the answer.
    pub resent: u64,
    /// Answered 202.
    pub accepted: u64,
    /// Answered otherwise, by reason.
    pub refused: Refused,
    /// Never answered.
    pub unanswered: u64,
    /// Reported expired.
    pub expired: u64,
    /// Resolved by asking a validator that was started again.
    pub asked: u64,
}

impl LoadReport {
    /// From the counts of a load.
    pub fn new(counts: &Counts) -> Self {
        Self {
            sent: counts.sent,
            unsent: counts.unsent,
            resent: counts.resent,
            accepted: counts.accepted,
            refused: counts.refused,
            unanswered: counts.unanswered,
            expired: counts.expired,
            asked: counts.asked,
        }
    }
}

/// One validator.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ValidatorReport {
    /// Of its quorum store; those of the ordering engine are apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsyncs: Option<u64>,
    /// Of the ordering engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consensus_fsyncs: Option<u64>,
    /// Groups committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<u64>,
    /// Batches in a group, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches_per_group_mean: Option<f64>,
    /// Duration of a group commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_commit_ms_p50: Option<f64>,
    /// Duration of a group commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_commit_ms_p99: Option<f64>,
    /// Written to disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_written: Option<u64>,
    /// Of batches and payloads stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<u64>,
    /// The former by the latter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_amplification: Option<f64>,
    /// Processor time, the whole life of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<f64>,
    /// Largest resident size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes_max: Option<u64>,
    /// By the run, after it was killed.
    pub restarts: u64,
}

/// Fetches of all validators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FetchReport {
    /// Requests sent.
    pub requests: u64,
    /// Answers without the content.
    pub misses: u64,
    /// Requests without an answer.
    pub timed_out: u64,
}

/// A batch removed by evidence.
#[derive(Clone, Debug, Serialize)]
pub struct SkippedBatch {
    /// Its digest, hex.
    pub digest: String,
    /// The commit that ordered it.
    pub index: u64,
    /// Where the evidence was written.
    pub evidence_file: String,
}

impl Report {
    /// The document.
    pub fn json(&self) -> Result<String, Failure> {
        serde_json::to_string_pretty(self)
            .map_err(|error| Failure::other(format!("cannot write the report: {error}")))
    }

    /// Writes `report.json` and `report.html` into `directory`, which is made if it is missing.
    pub fn write(&self, directory: &Path) -> Result<(), Failure> {
        let files = [("report.json", self.json()? + "\n"), ("report.html", html::page(self))];
        for (name, content) in files {
            let path = directory.join(name);
            std::fs::create_dir_all(directory)
                .and_then(|()| std::fs::write(&path, content))
                .map_err(|error| {
                    Failure::other(format!("cannot write {}: {error}", path.display()))
                })?;
        }
        Ok(())
    }

    /// The summary.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{} validators, {:.1} s\n\
             offered   {:>10.0} transactions/s\n\
             executed  {:>10.0} transactions/s ({} in all, {} lost)\n",
            self.validators,
            self.duration_s,
            self.offered_tps,
            self.executed_tps,
            self.executed_transactions,
            self.lost_transactions,
        );
        let counts = &self.counts;
        let _ = writeln!(
            text,
            "accepted  {:>10}   refused {} (back-pressure {})   unanswered {}   unsent {}   \
             expired {}   skipped {}",
            counts.accepted,
            counts.refused.total(),
            counts.refused.back_pressure,
            counts.unanswered,
            counts.unsent,
            counts.expired,
            counts.skipped,
        );
        text.push_str(&latency_text(&self.latency_ms));
        if let Some(micros) = self.cpu_us_per_transaction {
            let _ = writeln!(text, "cpu       {micros:>10.1} us per transaction, all validators");
        }
        if let Some(blocks) = self.blocks {
            let agreed = if self.agreement { "equal" } else { "DIFFERENT" };
            let _ = writeln!(text, "state     {agreed} at height {blocks}");
        }
        if let Some(lost) = self.lost_with_disk {
            let _ = writeln!(text, "lost      {lost:>10} accepted and not certified, with a disk");
        }
        for SkippedBatch { digest, index, evidence_file } in self.skipped_batches.iter().flatten() {
            let _ = writeln!(text, "skipped   {digest} of commit {index}: {evidence_file}");
        }
        if let Some(seconds) = self.skipped_after_s {
            let _ = writeln!(text, "moved on  {seconds:>10.1} s after everybody was started again");
        }
        for (index, validator) in self.per_validator.iter().enumerate() {
            let _ = writeln!(text, "validator {index}: {}", validator.text());
        }
        for violation in &self.violations {
            let _ = writeln!(text, "violated: {violation}");
        }
        text.truncate(text.trim_end().len());
        text
    }
}

impl ValidatorReport {
    fn text(&self) -> String {
        let mut parts = Vec::new();
        let mut say = |value: Option<String>, unit: &str| {
            parts.extend(value.map(|value| format!("{value}{unit}")));
        };
        say(self.fsyncs.map(|count| count.to_string()), " fsyncs");
        say(self.batches_per_group_mean.map(|mean| format!("{mean:.1}")), " batches/group");
        say(self.group_commit_ms_p50.map(|ms| format!("group commit p50 {ms:.1}")), " ms");
        say(self.group_commit_ms_p99.map(|ms| format!("p99 {ms:.1}")), " ms");
        say(self.write_amplification.map(|ratio| format!("{ratio:.2}")), " x written");
        say(self.cpu_s.map(|seconds| format!("cpu {seconds:.1}")), " s");
        say(self.rss_bytes_max.map(|bytes| format!("{:.0}", bytes as f64 / 1e6)), " MB");
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::load::latency::Quantiles;

    fn full() -> Report {
        let quantiles = Some(Quantiles { p50: 1.0, p99: 2.0, max: 3.0 });
        let skipped = SkippedBatch {
            digest: "00".to_owned(),
            index: 1,
            evidence_file: "evidence-1".to_owned(),
        };
        Report {
            lost_with_disk: Some(0),
            blocks: Some(1),
            epochs: Some(1),
            latency_ms: LatencyQuantiles {
                accepted: quantiles,
                certified: quantiles,
                executed: quantiles,
            },
            per_validator: vec![ValidatorReport {
                fsyncs: Some(1),
                consensus_fsyncs: Some(1),
                groups: Some(1),
                batches_per_group_mean: Some(1.0),
                group_commit_ms_p50: Some(1.0),
                group_commit_ms_p99: Some(1.0),
                bytes_written: Some(1),
                payload_bytes: Some(1),
                write_amplification: Some(1.0),
                cpu_s: Some(1.0),
                rss_bytes_max: Some(1),
                restarts: 0,
            }],
            cpu_us_per_transaction: Some(1.0),
            fetch: Some(FetchReport::default()),
            skipped_batches: Some(vec![skipped]),
            skipped_after_s: Some(1.0),
            ..Report::default()
        }
    }

    fn names(value: &Value) -> BTreeSet<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    #[test]
    fn the_field_names_are_the_fixed_ones() {
        let json = full().json().expect("a document");
        let document: Value = serde_json::from_str(&json).expect("JSON");
        let top = "validators duration_s offered_tps executed_tps executed_transactions \
            lost_transactions lost_with_disk agreement blocks epochs latency_ms per_validator \
            cpu_us_per_transaction fetch skipped_batches skipped_after_s violations load";
        assert_eq!(names(&document), top.split_whitespace().collect());
        let validator = "fsyncs consensus_fsyncs groups batches_per_group_mean \
            group_commit_ms_p50 group_commit_ms_p99 bytes_written payload_bytes \
            write_amplification cpu_s rss_bytes_max restarts";
        let found = names(&document["per_validator"][0]);
        assert_eq!(found, validator.split_whitespace().collect());
        let states = ["accepted", "certified", "executed"];
        assert_eq!(names(&document["latency_ms"]), states.into());
        for state in states {
            assert_eq!(names(&document["latency_ms"][state]), ["p50", "p99", "max"].into());
        }
        assert_eq!(names(&document["fetch"]), ["requests", "misses", "timed_out"].into());
        let skipped = names(&document["skipped_batches"][0]);
        assert_eq!(skipped, ["digest", "index", "evidence_file"].into());
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        let report =
            Report { per_validator: vec![ValidatorReport::default()], ..Report::default() };
        let json = report.json().expect("a document");
        let document: Value = serde_json::from_str(&json).expect("JSON");
        let measured = "validators duration_s offered_tps executed_tps executed_transactions \
            lost_transactions agreement latency_ms per_validator violations load";
        assert_eq!(names(&document), measured.split_whitespace().collect());
        assert_eq!(names(&document["per_validator"][0]), ["restarts"].into());
        assert!(names(&document["latency_ms"]).is_empty());
    }

    #[test]
    fn the_summary_names_every_violation() {
        let report = Report { violations: vec!["one".into(), "two".into()], ..full() };
        let text = report.text();
        assert!(text.contains("violated: one\nviolated: two"), "{text}");
        assert!(text.contains("validator 0: 1 fsyncs, 1.0 batches/group"), "{text}");
    }
}
