//! From what a run observed to its report: what holds, and what is violated. Pure.

use std::time::Duration;

use super::observer::{Block, Status};
use super::process::ProcessUsage;
use crate::load::engine::LoadResult;
use crate::report::details::Details;
use crate::report::{FetchReport, LoadReport, Report, SkippedBatch, ValidatorReport};

/// What was observed.
pub struct Evidence {
    /// What the load came to.
    pub load: LoadResult,
    /// All heights and states were equal, and every outcome known, in time; `None` if that was not
    /// waited for, because a validator had failed.
    pub drained: Option<bool>,
    /// The highest height that all have.
    pub height: Option<u64>,
    /// The block there, by validator.
    pub blocks: Vec<Result<Block, String>>,
    /// After the load, by validator.
    pub statuses: Vec<Option<Status>>,
    /// Epochs that the run went through.
    pub epochs: Option<u64>,
    /// Epochs that it should have gone through.
    pub epochs_due: Option<u64>,
    /// Processor time of all validators between both ends of the window.
    pub window_cpu_seconds: Option<f64>,
    /// Of the processes, by validator.
    pub usages: Vec<ProcessUsage>,
    /// Validators that failed or did not stop, stores that are not sound.
    pub failures: Vec<String>,
    /// The run destroyed the disk of a validator.
    pub wiped: bool,
    /// What was skipped by evidence; `None` if nobody looked.
    pub skipped: Option<Vec<SkippedBatch>>,
    /// How long that took.
    pub skipped_after: Option<Duration>,
}

impl Evidence {
    /// The report.
    pub fn report(&self) -> Report {
        let counts = &self.load.counts;
        let mut violations = self.failures.clone();
        violations.extend(self.disagreement());
        violations.extend(self.broken_promises());
        if let Some(due) = self.epochs_due.filter(|due| self.epochs < Some(*due)) {
            let epochs = self.epochs.unwrap_or(0);
            violations.push(format!("the run went through {epochs} epochs instead of {due}"));
        }
        Report {
            validators: self.statuses.len() as u32,
            duration_s: self.load.duration.as_secs_f64(),
            offered_tps: self.load.offered_tps(),
            executed_tps: self.load.executed_tps(),
            executed_transactions: counts.executed,
            lost_transactions: counts.unresolved,
            lost_with_disk: self.wiped.then_some(counts.lost_with_disk),
            agreement: self.disagreement().is_empty(),
            blocks: self.height,
            epochs: self.epochs,
            latency_ms: self.load.latency,
            per_validator: self.per_validator(),
            cpu_us_per_transaction: self.cpu_us_per_transaction(),
            fetch: self.fetch(),
            skipped_batches: self.skipped.clone(),
            skipped_after_s: self.skipped_after.map(|after| after.as_secs_f64()),
            violations,
            load: LoadReport::new(counts),
            counts: *counts,
            // Over time: whoever ran it knows.
            details: Details::default(),
        }
    }

    /// Why the validators do not have the same state; empty if they have.
    fn disagreement(&self) -> Vec<String> {
        let Some(height) = self.height else {
            return vec!["agreement is unknown: not every validator says its height".to_owned()];
        };
        let mut found = Vec::new();
        let mut first: Option<(usize, &Block)> = None;
        for (index, block) in self.blocks.iter().enumerate() {
            match (block, first) {
                (Err(error), _) => found.push(format!(
                    "agreement is unknown: validator {index} does not say block {height}: {error}"
                )),
                (Ok(block), None) => first = Some((index, block)),
                (Ok(block), Some((other, expected))) if block != expected => {
                    found.push(format!(
                        "validators {other} and {index} differ at height {height}: state {} and {}",
                        expected.state_digest, block.state_digest
                    ));
                }
                (Ok(_), Some(_)) => {}
            }
        }
        if found.is_empty() && first.is_none() {
            found.push("agreement is unknown: nobody was asked".to_owned());
        }
        found
    }

    /// Transactions that did not get what "accepted" promised.
    fn broken_promises(&self) -> Vec<String> {
        let counts = &self.load.counts;
        let mut found = Vec::new();
        if self.drained == Some(false) {
            found.push(
                "heights and states were not equal, or outcomes missing, 30 s after the load"
                    .to_owned(),
            );
        }
        if counts.unresolved > 0 {
            found.push(format!("{} accepted transactions have no outcome", counts.unresolved));
        }
        if counts.executed == 0 {
            let errors = &self.load.errors;
            let last = errors.iter().map(|(target, error)| format!("; {target}: {error}"));
            found.push(format!("no transaction was executed{}", last.collect::<String>()));
        }
        // What was sent twice may be answered twice, so it is not held against anybody.
        if counts.repeated > counts.resent {
            let repeated = counts.repeated - counts.resent;
            found.push(format!("{repeated} transactions were reported executed a second time"));
        }
        if counts.outcomes_lost > 0 {
            let lost = counts.outcomes_lost;
            found.push(format!("{lost} lines of outcomes were dropped before they were read"));
        }
        if counts.outcomes_malformed > 0 {
            let malformed = counts.outcomes_malformed;
            found.push(format!("{malformed} lines of outcomes could not be read"));
        }
        found.extend(self.executed_too_often());
        found
    }

    /// Whoever executed more than there was, executed something twice. Only after a drain without
    /// a lost outcome do we know how much there was, but for what broke on its way: that may have
    /// been executed without our knowing.
    fn executed_too_often(&self) -> Vec<String> {
        let counts = &self.load.counts;
        if self.drained != Some(true) || counts.outcomes_lost + counts.outcomes_malformed > 0 {
            return Vec::new();
        }
        let executed_max =
            counts.executed + counts.resent + counts.unanswered + counts.lost_with_disk;
        let executed = |status: &Option<Status>| status.as_ref()?.executed_transactions();
        let by_validator = self.statuses.iter().map(executed).enumerate();
        by_validator
            .filter_map(|(index, executed)| {
                let executed = executed.filter(|executed| *executed > executed_max)?;
                let known = counts.executed;
                Some(format!("validator {index} executed {executed} transactions of {known}"))
            })
            .collect()
    }

    fn per_validator(&self) -> Vec<ValidatorReport> {
        let usages = self.usages.iter().copied().chain(std::iter::repeat(ProcessUsage::default()));
        let each = self.statuses.iter().zip(usages).map(|(status, usage)| ValidatorReport {
            cpu_s: usage.cpu_seconds,
            rss_bytes_max: usage.rss_bytes_max,
            restarts: usage.restarts,
            ..status.as_ref().map(Status::report).unwrap_or_default()
        });
        each.collect()
    }

    fn cpu_us_per_transaction(&self) -> Option<f64> {
        let executed = self.load.counts.executed_in_window;
        let micros = self.window_cpu_seconds? * 1e6;
        (executed > 0).then(|| micros / executed as f64)
    }

    /// Absent unless every validator says it.
    fn fetch(&self) -> Option<FetchReport> {
        let each: Option<Vec<_>> =
            self.statuses.iter().map(|status| status.as_ref()?.fetch()).collect();
        each.map(|each| {
            each.into_iter().fold(FetchReport::default(), |sum, one| FetchReport {
                requests: sum.requests + one.requests,
                misses: sum.misses + one.misses,
                timed_out: sum.timed_out + one.timed_out,
            })
        })
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
