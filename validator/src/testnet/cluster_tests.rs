//! Processes that stand in for validators: scripts of the shell.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::super::workspace::Workspace;
use super::*;
use crate::load::client::Target;

/// A run of `count` processes that execute `script`.
pub(in crate::testnet) struct Scripts {
    pub workspace: Workspace,
    pub binary: PathBuf,
    pub members: Vec<Member>,
}

impl Scripts {
    /// The script is written by another process: a descriptor that is open for writing here could
    /// be inherited by a process that a parallel test starts, and the script could not be run.
    pub(in crate::testnet) fn new(script: &str, targets: Vec<Target>) -> Self {
        let workspace = Workspace::prepare(None).expect("a temporary directory");
        let binary = workspace.path().join("binary");
        let written = std::process::Command::new("/bin/sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 700 \"$1\"", "sh"])
            .arg(&binary)
            .arg(script)
            .status();
        assert!(written.expect("a shell").success());
        let mode = std::fs::metadata(&binary).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let member = |(index, target)| Member {
            index,
            config: workspace.path().join(format!("validator-{index}.toml")),
            data_directory: workspace.path().join(format!("data-{index}")),
            log: workspace.path().join(format!("validator-{index}.log")),
            target,
        };
        let members = targets.into_iter().enumerate().map(member).collect();
        Self { workspace, binary, members }
    }
}

fn scripts(script: &str, count: usize) -> Scripts {
    let target = Target::parse("127.0.0.1:1").expect("an address");
    Scripts::new(script, vec![target; count])
}

async fn failed(cluster: &mut Cluster) -> Vec<String> {
    let failures = async {
        loop {
            let failures = cluster.failures();
            if !failures.is_empty() {
                return failures;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), failures).await.expect("it ends by itself")
}

#[tokio::test]
async fn processes_end_cleanly_when_their_input_closes() {
    let run = scripts("cat > /dev/null", 3);
    let mut cluster = Cluster::start(&run.binary, &run.members, None).expect("three processes");
    assert_eq!(cluster.failures(), Vec::<String>::new());
    cluster.measure();
    assert!(cluster.cpu_seconds().is_some());
    assert_eq!(cluster.stop(std::future::pending()).await, Vec::<String>::new());
    run.workspace.remove().expect("temporary");
}

#[tokio::test]
async fn a_process_gets_the_documented_arguments() {
    let run = scripts("echo \"$@\"; cat > /dev/null", 1);
    let mut cluster = Cluster::start(&run.binary, &run.members, None).expect("a process");
    assert_eq!(cluster.stop(std::future::pending()).await, Vec::<String>::new());
    let config = run.members[0].config.display();
    assert_eq!(cluster.log_tail(0), format!("run --config {config} --end-with-stdin"));
    run.workspace.remove().expect("temporary");
}

#[tokio::test]
async fn a_process_that_fails_is_shown_with_the_last_lines_of_its_log() {
    let run = scripts("seq 1 100; echo 'the reason' >&2; exit 11", 1);
    let mut cluster = Cluster::start(&run.binary, &run.members, None).expect("a process");
    let failures = failed(&mut cluster).await;
    assert!(failures[0].starts_with("validator 0 failed (exit status: 11)"), "{failures:?}");
    let log: Vec<&str> = failures[0].lines().skip(1).collect();
    assert_eq!((log.len(), log[0], log[19]), (20, "82", "the reason"));
    assert_eq!(cluster.stop(std::future::pending()).await, Vec::<String>::new());
    run.workspace.remove().expect("temporary");
}

#[tokio::test]
async fn a_process_that_does_not_end_is_killed_when_the_user_insists() {
    let run = scripts("exec sleep 600", 2);
    let mut cluster = Cluster::start(&run.binary, &run.members, None).expect("two processes");
    let violations = cluster.stop(std::future::ready(())).await;
    assert_eq!(violations.len(), 2, "{violations:?}");
    run.workspace.remove().expect("temporary");
}

#[tokio::test]
async fn a_binary_that_is_not_there_is_an_error() {
    let run = scripts("true", 1);
    let missing = run.workspace.path().join("missing");
    let error = Cluster::start(&missing, &run.members, None).err().expect("cannot start");
    assert!(error.to_string().starts_with("cannot start validator 0"), "{error}");
    run.workspace.remove().expect("temporary");
}
