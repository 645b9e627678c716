//! Validators that cannot execute what they missed, and epochs, as real processes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Nothing here takes longer, on any machine.
const PATIENCE: Duration = Duration::from_mins(2);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_validator"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn succeed(arguments: &[&str]) -> String {
    let output = command(arguments).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A chain of four whose content is gone two seconds after it was ordered.
struct Net {
    directory: TempDir,
    http: Vec<String>,
    processes: Vec<Option<Child>>,
}

impl Net {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let said = succeed(&["generate", "--validators", "4", "--dir", path]);
        let address = |line: &str| line.rsplit_once("http://").unwrap().1.to_owned();
        let http = said.lines().map(address).collect();
        let genesis = directory.path().join("genesis.toml");
        let text = fs::read_to_string(&genesis).unwrap();
        let short = text
            .replace("batch_lifetime = \"30s\"", "batch_lifetime = \"1s\"")
            .replace("grace = \"30s\"", "grace = \"1s\"");
        assert_ne!(text, short);
        fs::write(&genesis, short).unwrap();
        let net = Self { directory, http, processes: (0..4).map(|_| None).collect() };
        for index in 0..4 {
            net.make_data(index, false);
            // What is in memory is served after it is gone from the disk.
            let config = net.config(index);
            let text = fs::read_to_string(&config).unwrap();
            fs::write(&config, format!("{text}\n[engine]\ncache_bytes = \"1MiB\"\n")).unwrap();
        }
        net
    }

    fn data(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("validator-{index}"))
    }

    fn config(&self, index: usize) -> String {
        self.data(index).with_extension("toml").to_str().unwrap().to_owned()
    }

    /// A directory for a key that never ran, or in place of one that was lost.
    fn make_data(&self, index: usize, lost: bool) {
        fs::remove_dir_all(self.data(index)).unwrap();
        let config = self.config(index);
        let init = ["init", "--config", &config, "--never-ran"];
        succeed(if lost { &init[..3] } else { &init });
    }

    fn start(&mut self, index: usize) {
        let path = self.data(index).with_extension("log");
        let log = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let config = self.config(index);
        let mut run = command(&["run", "--config", &config, "--end-with-stdin"]);
        self.processes[index] = Some(run.stderr(log).spawn().unwrap());
    }

    fn kill(&mut self, index: usize) {
        let mut process = self.processes[index].take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Asks until the answer is as wanted.
    fn until<T>(&self, index: usize, path: &str, wanted: impl Fn(u16, &str) -> Option<T>) -> T {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some((status, body)) = get(&self.http[index], path)
                && let Some(found) = wanted(status, &body)
            {
                return found;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.data(index).with_extension("log")).unwrap();
        panic!("{path} of validator {index} took too long; its log:\n{log}");
    }

    fn ready(&self, index: usize) {
        self.until(index, "/ready", |status, _| (status == 200).then_some(()));
    }

    fn height(&self, index: usize) -> u64 {
        self.until(index, "/sync/standing", |_, body| number(body, "height"))
    }

    fn block(&self, index: usize, height: u64) -> String {
        let path = format!("/blocks/{height}");
        self.until(index, &path, |status, body| (status == 200).then(|| body.to_owned()))
    }

    fn taken_over(&self, index: usize) -> u64 {
        let name = "quorum_store_validator_states_taken_over_total ";
        let value =
            |text: &str| text.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
        self.until(index, "/metrics", |_, text| value(text))
    }

    /// Sends transactions to one validator and waits for their ends.
    fn load(&self, to: usize, seconds: u64) {
        let target = format!("http://{}", self.http[to]);
        let duration = format!("{seconds}s");
        succeed(&["load", "--target", &target, "--rate", "2000", "--duration", &duration]);
    }

    /// Ends everybody in order, and checks what lies on the disks.
    fn finish(mut self) {
        for process in &mut self.processes {
            let mut process = process.take().unwrap();
            drop(process.stdin.take());
            assert!(process.wait().unwrap().success());
        }
        for index in 0..4 {
            succeed(&["check", "--data-dir", self.data(index).to_str().unwrap()]);
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for mut process in self.processes.iter_mut().filter_map(Option::take) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn number(document: &str, name: &str) -> Option<u64> {
    let (_, rest) = document.split_once(&format!("\"{name}\":"))?;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[test]
fn whoever_was_away_for_too_long_or_lost_everything_goes_on_from_the_state_of_the_others() {
    let mut net = Net::new();
    (0..4).for_each(|index| net.start(index));
    (0..4).for_each(|index| net.ready(index));
    net.load(0, 2);
    assert_eq!(net.taken_over(3), 0);
    // Away for longer than content is kept, and then without anything.
    for lost in [false, true] {
        net.kill(3);
        if lost {
            net.make_data(3, true);
        }
        net.load(1, 6);
        net.start(3);
        let reached = net.height(0);
        net.until(3, "/sync/standing", |_, body| (number(body, "height")? > reached).then_some(()));
        net.ready(3);
        assert!(net.taken_over(3) > 0);
        // It takes part again: what it is given is executed, and its state is everybody's.
        net.load(3, 2);
        let height = net.height(3);
        let blocks: Vec<String> = (0..4).map(|index| net.block(index, height)).collect();
        assert!(blocks.iter().all(|block| *block == blocks[0]), "{blocks:#?}");
    }
    net.finish();
}

fn testnet(report: &Path, arguments: &[&str]) -> String {
    let report = report.to_str().unwrap();
    let fixed = ["testnet", "--validators", "5", "--rate", "1000", "--json", "--report", report];
    succeed(&[&fixed[..], arguments].concat())
}

#[test]
fn committees_change_under_load_while_validators_are_killed_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["--epochs", "4", "--duration", "12s", "--chaos", "kill=3s"];
    let report = testnet(directory.path(), &options);
    assert_eq!(number(&report, "epochs"), Some(4));
    assert_eq!(number(&report, "lost_transactions"), Some(0));
    assert!(report.contains("\"agreement\": true"), "{report}");
    assert!(number(&report, "executed_transactions") > Some(5000), "{report}");
}
