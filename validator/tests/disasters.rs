//! Disks that are destroyed under load, as real processes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Runs a network that destroys something half way. It judges itself: what comes back is its
/// report.
fn testnet(arguments: &[&str]) -> (TempDir, Value) {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().to_str().unwrap();
    let fixed = ["testnet", "--rate", "500", "--duration", "10s", "--json", "--report", report];
    let output = Command::new(env!("CARGO_BIN_EXE_validator"))
        .args(fixed)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    let report = serde_json::from_slice(&output.stdout).unwrap();
    (directory, report)
}

fn check(evidence: &str) -> (Option<i32>, String) {
    let check = ["check", "--evidence", evidence];
    let output = Command::new(env!("CARGO_BIN_EXE_validator")).args(check).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_chain_whose_disks_all_lost_certified_batches_goes_on_and_shows_the_evidence() {
    let (_directory, report) = testnet(&["--lose", "3"]);
    let skipped = report["skipped_batches"].as_array().unwrap();
    assert_eq!(skipped.len(), 3, "{report:#}");
    assert_eq!((&report["agreement"], &report["lost_transactions"]), (&true.into(), &0.into()));
    let file = skipped[0]["evidence_file"].as_str().unwrap();
    let (code, said) = check(file);
    assert_eq!(code, Some(0), "{said}");
    let digest = skipped[0]["digest"].as_str().unwrap();
    assert!(said.contains("sound") && said.contains(digest), "{said}");
    // Whatever is changed in it, it is no evidence any more.
    let text = fs::read_to_string(file).unwrap();
    let changed = text.replacen(digest, &"0".repeat(64), 1);
    assert_ne!(text, changed);
    fs::write(file, changed).unwrap();
    let (code, said) = check(file);
    assert_eq!(code, Some(14), "{said}");
    fs::write(file, "{}").unwrap();
    assert_eq!(check(file).0, Some(2));
}

#[test]
fn a_validator_whose_disk_is_destroyed_under_load_comes_back_and_nothing_certified_is_lost() {
    let (_directory, report) = testnet(&["--wipe", "1"]);
    assert!(report["lost_with_disk"].is_u64(), "{report:#}");
    assert_eq!((&report["agreement"], &report["lost_transactions"]), (&true.into(), &0.into()));
    assert_eq!(report["per_validator"][1]["restarts"], 1);
    assert_eq!(report["skipped_batches"], Value::Array(Vec::new()));
}
