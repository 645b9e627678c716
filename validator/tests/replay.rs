//! Four real validators: each distinct transaction is executed exactly once, however often and
//! wherever it is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const BINARY: &str = env!("CARGO_BIN_EXE_validator");
const PATIENCE: Duration = Duration::from_mins(1);
/// 64 KiB, less what wrapping adds.
const LARGEST: usize = (64 << 10) - 19;

/// Ends when it is dropped, however the test ends.
struct Validator(Child);

impl Drop for Validator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The addresses of four validators, and their processes.
fn network(directory: &Path) -> (Vec<String>, Vec<Validator>) {
    let made = Command::new(BINARY).arg("generate").arg("--dir").arg(directory).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let text = String::from_utf8(made.stdout).unwrap();
    let mut addresses = Vec::new();
    let mut validators = Vec::new();
    for line in text.lines() {
        let (config, address) = line.split_once(" serves http://").unwrap();
        addresses.push(address.to_owned());
        let mut run = Command::new(BINARY);
        run.args(["run", "--end-with-stdin", "--config", config]);
        run.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        validators.push(Validator(run.spawn().unwrap()));
    }
    (addresses, validators)
}

/// Status and body of the answer.
fn ask(address: &str, head: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let length = body.len();
    let head =
        format!("{head}\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let status = std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    Some((status, answer.split_off(end)))
}

/// Asks again until the answer is as wanted.
fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !wanted() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn executed(address: &str) -> Option<u64> {
    let (_, body) = ask(address, "GET /status HTTP/1.1", &[])?;
    let status: serde_json::Value = serde_json::from_slice(&body).ok()?;
    status.pointer("/executor/executed_transactions")?.as_u64()
}

/// Length and bytes of each.
fn framed(transactions: &[Vec<u8>]) -> Vec<u8> {
    let frame = |transaction: &Vec<u8>| {
        let length = u32::try_from(transaction.len()).unwrap();
        [&length.to_le_bytes()[..], transaction].concat()
    };
    transactions.iter().flat_map(frame).collect()
}

#[test]
fn each_distinct_transaction_is_executed_once_wherever_it_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let (addresses, _validators) = network(&directory.path().join("net"));
    for address in &addresses {
        let ready =
            || ask(address, "GET /ready HTTP/1.1", &[]).is_some_and(|(code, _)| code == 200);
        until("every validator is ready", ready);
    }
    // One byte, the largest, and one that comes three times: four distinct ones.
    let transactions =
        vec![vec![7], vec![9; LARGEST], vec![1; 512], vec![1; 512], vec![2; 100], vec![1; 512]];
    let body = framed(&transactions);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let head = format!(
        "POST /transactions/batch HTTP/1.1\r\naccept: application/octet-stream\r\n\
         gas-unit-price: 1\r\nexpiration-unix-secs: {}",
        // Earlier than what `load` states, or both would send the same transactions.
        now + 20
    );
    for address in addresses.iter().chain(&addresses) {
        let (status, codes) = ask(address, &head, &body).expect("an answer");
        assert_eq!((status, codes), (200, [202_u16.to_le_bytes(); 6].concat()));
    }
    // From a file: the same bytes with another expiration are other transactions.
    let file = directory.path().join("transactions.bin");
    std::fs::write(&file, &body).unwrap();
    let mut load = Command::new(BINARY);
    load.args(["load", "--json", "--rate", "max", "--transactions"]).arg(&file).arg("--target");
    let summary = load.args(&addresses).output().unwrap();
    assert!(summary.status.success(), "{summary:?}");
    let summary: serde_json::Value = serde_json::from_slice(&summary.stdout).unwrap();
    assert_eq!((&summary["executed"], &summary["lost"]), (&4.into(), &0.into()), "{summary}");
    for address in &addresses {
        until("all are executed everywhere", || executed(address) == Some(8));
    }
    // Whatever is still on its way would be executed by now: heights go on.
    for address in &addresses {
        let height = || {
            let (_, body) = ask(address, "GET /status HTTP/1.1", &[])?;
            serde_json::from_slice::<serde_json::Value>(&body).ok()?["height"].as_u64()
        };
        let goal = height().unwrap() + 3;
        until("blocks go on", || height().is_some_and(|height| height >= goal));
        assert_eq!(executed(address), Some(8));
    }
}
