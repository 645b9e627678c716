//! Whole runs: scripts stand in for the processes, servers in this process for their HTTP.

use hyper::StatusCode;
use serde_json::json;

use super::super::cluster::tests::Scripts;
use super::*;
use crate::load::fake::{Behaviour, FakeValidator};
use std::num::NonZeroU32;

/// Ends with its input; its check finds nothing.
const SOUND: &str = "[ \"$1\" = check ] || cat > /dev/null";

async fn run(script: &str, behaviours: Vec<Behaviour>) -> Result<Report, Failure> {
    run_with(script, behaviours, |_| {}).await
}

async fn run_with(
    script: &str,
    behaviours: Vec<Behaviour>,
    change: fn(&mut Session),
) -> Result<Report, Failure> {
    let mut fakes = Vec::new();
    for behaviour in behaviours {
        fakes.push(FakeValidator::start(behaviour).await);
    }
    let scripts = Scripts::new(script, fakes.iter().map(|fake| fake.target.clone()).collect());
    let mut session = Session {
        binary: scripts.binary,
        members: scripts.members,
        rate: Rate::PerSecond(NonZeroU32::new(200).expect("above zero")),
        duration: Duration::from_millis(500),
        content: Content::Random { transaction_bytes: 64, seed: 1 },
        seed: 1,
        kill_interval: None,
        rotation: None,
        disaster: None,
    };
    change(&mut session);
    let report = session.run().await;
    scripts.workspace.remove().expect("temporary");
    report
}

#[tokio::test]
async fn a_good_run_has_a_report_without_violations() {
    let status_document = json!({ "epoch": 3, "statistics": { "fsyncs": 5 } });
    let behaviour = Behaviour { status_document, ..Behaviour::default() };
    let report = run(SOUND, vec![behaviour; 2]).await.expect("judged");
    assert_eq!(report.violations, Vec::<String>::new());
    assert_eq!((report.validators, report.agreement, report.blocks), (2, true, Some(7)));
    assert_eq!((report.executed_transactions, report.lost_transactions), (500, 0));
    assert!(report.executed_tps > 100.0 && report.executed_tps <= 220.0, "{report:?}");
    assert!((report.offered_tps - 200.0).abs() < 20.0, "{report:?}");
    assert_eq!(report.epochs, Some(1));
    assert!(report.latency_ms.executed.is_some() && report.cpu_us_per_transaction.is_some());
    for validator in &report.per_validator {
        assert_eq!(validator.fsyncs, Some(5));
        assert!(validator.cpu_s.is_some() && validator.rss_bytes_max.is_some());
    }
}

#[tokio::test]
async fn killed_validators_are_started_again_and_counted() {
    let chaos = |session: &mut Session| {
        session.kill_interval = Some(Duration::from_secs(1));
        session.duration = Duration::from_millis(2_500);
    };
    let script = "[ \"$1\" = check ] || { echo started; exec cat > /dev/null; }";
    let report = run_with(script, vec![Behaviour::default(); 2], chaos).await.expect("judged");
    assert_eq!(report.violations, Vec::<String>::new());
    let restarts: u64 = report.per_validator.iter().map(|validator| validator.restarts).sum();
    assert_eq!(restarts, 2);
}

#[tokio::test]
async fn an_unsound_store_is_a_violation_with_its_problems() {
    let script = "[ \"$1\" = check ] || exec cat > /dev/null
        [ \"$2 $4\" = '--data-dir --json' ] || exit 9
        case \"$3\" in *-1) echo '{\"problems\":[\"batch 7 is torn\"]}'; exit 14;; esac";
    let report = run(script, vec![Behaviour::default(); 2]).await.expect("judged");
    let expected = "the store of validator 1: the check failed (exit status: 14): batch 7 is torn";
    assert_eq!(report.violations, [expected]);
}

#[tokio::test]
async fn a_validator_that_fails_under_load_ends_the_run_with_a_violation() {
    let script = "[ \"$1\" = check ] && exit 0
        case \"$3\" in *-1.toml) sleep 1; echo broken; exit 10;; *) exec cat > /dev/null;; esac";
    let report = run(script, vec![Behaviour::default(); 2]).await.expect("judged");
    let told = |words| report.violations.iter().filter(|found| found.contains(words)).count();
    assert_eq!(told("validator 1 failed (exit status: 10)"), 1, "{:?}", report.violations);
    assert_eq!(told("broken"), 1, "{:?}", report.violations);
}

#[tokio::test]
async fn a_validator_that_never_starts_is_an_error_with_its_log() {
    let behaviour = Behaviour { ready: StatusCode::SERVICE_UNAVAILABLE, ..Behaviour::default() };
    let script = "echo 'address in use' >&2; exit 2";
    let failure = run(script, vec![behaviour]).await.expect_err("not judged");
    assert!(failure.to_string().contains("address in use"), "{failure}");
}

#[test]
fn settled_means_equal_heights_and_equal_states() {
    let status = |height: u64, state: &str| {
        Some(Status::new(json!({ "height": height, "state_digest": state })))
    };
    assert!(settled(&[status(5, "a"), status(5, "a")]));
    assert!(!settled(&[status(5, "a"), status(6, "a")]));
    assert!(!settled(&[status(5, "a"), status(5, "b")]));
    assert!(!settled(&[status(5, "a"), None]));
    assert!(!settled(&[None, None]) && !settled(&[]));
    assert_eq!(common_height(&[status(5, "a"), status(4, "b")]), Some(4));
    assert_eq!(common_height(&[status(5, "a"), None]), None);
}
