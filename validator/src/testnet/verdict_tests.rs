//! Each thing that must hold, broken once.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::load::client::Target;
use crate::load::latency::LatencyQuantiles;
use crate::load::tracker::Counts;

fn block(state: &str) -> Block {
    Block { digest: "block".to_owned(), state_digest: state.to_owned() }
}

fn status(executed: u64) -> Status {
    Status::new(json!({
        "height": 9,
        "state_digest": "a",
        "executor": { "executed_transactions": executed },
        "consensus": { "fsyncs": 40 },
        "statistics": {
            "fsyncs": 30,
            "groups": 20,
            "batches_per_group_mean": 2.5,
            "group_commit_seconds": { "p50": 0.002, "p99": 0.004 },
            "content_bytes": 2_000,
            "fetch": { "requests": 3, "misses": 2, "timed_out": 1 },
        },
        "process": { "bytes_written": 3_000 },
    }))
}

fn usage() -> ProcessUsage {
    ProcessUsage { cpu_seconds: Some(1.5), rss_bytes_max: Some(7), ..ProcessUsage::default() }
}

fn good() -> Evidence {
    let counts = Counts {
        sent: 100,
        sent_in_window: 80,
        accepted: 100,
        executed: 100,
        executed_in_window: 50,
        ..Counts::default()
    };
    Evidence {
        load: LoadResult {
            counts,
            latency: LatencyQuantiles::default(),
            duration: Duration::from_secs(2),
            errors: Vec::new(),
        },
        drained: Some(true),
        height: Some(9),
        blocks: vec![Ok(block("a")), Ok(block("a"))],
        statuses: vec![Some(status(100)), Some(status(100))],
        epochs: Some(1),
        epochs_due: None,
        window_cpu_seconds: Some(0.001),
        usages: vec![usage(); 2],
        failures: Vec::new(),
        wiped: false,
        skipped: None,
        skipped_after: None,
    }
}

#[test]
fn what_a_run_destroyed_is_in_its_report() {
    let mut evidence = good();
    evidence.wiped = true;
    evidence.load.counts.lost_with_disk = 7;
    let skipped =
        SkippedBatch { digest: "ab".into(), index: 3, evidence_file: "evidence-3".into() };
    evidence.skipped = Some(vec![skipped]);
    let report = evidence.report();
    assert!(report.violations.is_empty(), "{:?}", report.violations);
    assert_eq!(report.lost_with_disk, Some(7));
    let text = report.text();
    assert!(text.contains("7 accepted and not certified"), "{text}");
    assert!(text.contains("skipped   ab of commit 3: evidence-3"), "{text}");
    let report = good().report();
    assert!(report.lost_with_disk.is_none() && report.skipped_batches.is_none());
}

fn violations(change: impl FnOnce(&mut Evidence)) -> Vec<String> {
    let mut evidence = good();
    change(&mut evidence);
    evidence.report().violations
}

#[test]
fn a_good_run_is_reported_with_every_number() {
    let report = good().report();
    assert_eq!((report.violations.len(), report.agreement), (0, true));
    assert_eq!((report.offered_tps, report.executed_tps), (40.0, 25.0));
    assert_eq!(report.cpu_us_per_transaction, Some(20.0));
    assert_eq!(report.fetch, Some(FetchReport { requests: 6, misses: 4, timed_out: 2 }));
    let validator = &report.per_validator[1];
    assert_eq!((validator.fsyncs, validator.consensus_fsyncs), (Some(30), Some(40)));
    assert_eq!((validator.groups, validator.batches_per_group_mean), (Some(20), Some(2.5)));
    assert_eq!(validator.group_commit_ms_p50, Some(2.0));
    assert_eq!(validator.group_commit_ms_p99, Some(4.0));
    assert_eq!((validator.bytes_written, validator.payload_bytes), (Some(3_000), Some(2_000)));
    assert_eq!(validator.write_amplification, Some(1.5));
    assert_eq!((validator.cpu_s, validator.rss_bytes_max), (Some(1.5), Some(7)));
}

#[test]
fn what_a_validator_does_not_say_is_absent() {
    let mut evidence = good();
    evidence.statuses[0] = Some(Status::new(json!({ "height": 9, "state_digest": "a" })));
    evidence.window_cpu_seconds = None;
    let report = evidence.report();
    assert_eq!((report.fetch, report.cpu_us_per_transaction), (None, None));
    assert_eq!((report.per_validator[0].fsyncs, report.per_validator[0].cpu_s), (None, Some(1.5)));
}

#[test]
fn each_broken_promise_is_a_violation() {
    type Change = fn(&mut Evidence);
    let cases: [(Change, &str); 12] = [
        (
            |run| run.blocks[1] = Ok(block("b")),
            "validators 0 and 1 differ at height 9: state a and b",
        ),
        (|run| run.blocks[0] = Err("gone".to_owned()), "validator 0 does not say block 9: gone"),
        (|run| run.blocks.clear(), "agreement is unknown"),
        (|run| run.height = None, "agreement is unknown"),
        (|run| run.drained = Some(false), "30 s after the load"),
        (|run| run.load.counts.unresolved = 3, "3 accepted transactions have no outcome"),
        (|run| run.load.counts.repeated = 4, "4 transactions were reported executed a second"),
        (|run| run.load.counts.outcomes_lost = 5, "5 lines of outcomes were dropped"),
        (|run| run.load.counts.outcomes_malformed = 6, "6 lines of outcomes could not be read"),
        (|run| run.statuses[1] = Some(status(101)), "validator 1 executed 101 transactions of 100"),
        (|run| run.failures.push("validator 0 failed".to_owned()), "validator 0 failed"),
        (
            |run| {
                run.load.counts.executed = 0;
                run.statuses = vec![Some(status(0)), Some(status(0))];
                let target = Target::parse("a:1").expect("a target");
                run.load.errors.push((target, "reset".to_owned()));
            },
            "no transaction was executed; http://a:1: reset",
        ),
    ];
    for (change, words) in cases {
        let found = violations(change);
        assert_eq!(found.len(), 1, "{words}: {found:?}");
        assert!(found[0].contains(words), "{words}: {found:?}");
    }
}

#[test]
fn disagreement_is_also_said_as_such() {
    let mut evidence = good();
    evidence.blocks[1] = Ok(block("b"));
    assert!(!evidence.report().agreement);
}

#[test]
fn what_was_sent_twice_may_be_executed_without_our_knowing() {
    let found = violations(|run| {
        run.load.counts.resent = 4;
        run.load.counts.repeated = 4;
        run.statuses[0] = Some(status(104));
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn an_undrained_run_does_not_judge_what_was_executed() {
    let found = violations(|run| {
        run.drained = None;
        run.statuses[0] = Some(status(500));
    });
    assert_eq!(found, Vec::<String>::new());
}
