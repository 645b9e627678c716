//! `validator status`: what each validator says of itself, as a table.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde_json::Value;

use crate::exit::Failure;

/// How long one validator may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Pause between two tables.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Arguments of `validator status`.
#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    /// HTTP address of a validator, such as `http://127.0.0.1:8080`; may be repeated
    #[arg(long, value_name = "URL", required = true, num_args = 1..)]
    target: Vec<String>,
    /// Print again every second, until interrupted
    #[arg(long)]
    watch: bool,
}

/// Prints the table; fails if a validator did not answer.
pub fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    loop {
        let answers: Vec<(String, Result<Value, String>)> = std::thread::scope(|scope| {
            let asked: Vec<_> = arguments
                .target
                .iter()
                .map(|target| (target, scope.spawn(|| ask(target))))
                .collect();
            let answer = |asked: std::thread::ScopedJoinHandle<'_, Result<Value, String>>| {
                asked.join().unwrap_or_else(|_| Err("the question failed".to_owned()))
            };
            asked.into_iter().map(|(target, asked)| (target.clone(), answer(asked))).collect()
        });
        let mut output = std::io::stdout().lock();
        let clear = arguments.watch && output.is_terminal();
        let text = format!("{}{}", if clear { "\x1b[2J\x1b[H" } else { "" }, table(&answers));
        let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
        written.map_err(|error| Failure::other(format!("cannot print: {error}")))?;
        if !arguments.watch {
            let silent = answers.iter().filter(|(_, answer)| answer.is_err()).count();
            return if silent == 0 {
                Ok(())
            } else {
                Err(Failure::other(format!("{silent} of {} did not answer", answers.len())))
            };
        }
        drop(output);
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// The host and port of a target: `http://host:port`, a slash at the end or not.
fn authority(target: &str) -> Result<&str, String> {
    let rest = match target.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return Err("only http:// is served".to_owned()),
        None => target,
    };
    let host = rest.trim_end_matches('/');
    if host.is_empty() || host.contains('/') {
        return Err("expected http://host:port".to_owned());
    }
    Ok(host)
}

fn ask(target: &str) -> Result<Value, String> {
    let host = authority(target)?;
    let address: SocketAddr =
        host.to_socket_addrs().map_err(|error| format!("{error}"))?.next().ok_or("no address")?;
    let exchange = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET /status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    body(&exchange().map_err(|error| error.to_string())?)
}

/// The JSON of an answer of known length, as our own server sends it.
fn body(answer: &[u8]) -> Result<Value, String> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("cut off")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let line = head.lines().next().unwrap_or_default();
    let value: Value =
        serde_json::from_slice(&answer[end + 4..]).map_err(|_| format!("no JSON: {line}"))?;
    if line.split(' ').nth(1) == Some("200") {
        return Ok(value);
    }
    Err(value["reason"].as_str().unwrap_or(line).to_owned())
}

const COLUMNS: [(&str, usize); 10] = [
    ("validator", 10),
    ("phase", 9),
    ("epoch", 5),
    ("height", 8),
    ("state", 10),
    ("executed", 11),
    ("links", 5),
    ("proofs", 6),
    ("pool", 7),
    ("RSS MiB", 7),
];

fn table(answers: &[(String, Result<Value, String>)]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (name, width) in COLUMNS {
        let _ = write!(text, "{name:>width$}  ");
    }
    text.push_str("busy\n");
    for (target, answer) in answers {
        match answer {
            Ok(status) => row(&mut text, status),
            Err(reason) => {
                let _ = writeln!(text, "{target}: {reason}");
            }
        }
    }
    text
}

fn row(text: &mut String, status: &Value) {
    let prefix = |value: &Value| value.as_str().unwrap_or("-").chars().take(8).collect::<String>();
    let number = |value: &Value| value.as_u64().map_or("-".to_owned(), |number| number.to_string());
    let links = status["links"].as_array();
    let up = links.map_or(0, |links| links.iter().filter(|link| link["up"] == true).count());
    let cells = [
        prefix(&status["validator"]["key"]),
        status["validator"]["phase"].as_str().unwrap_or("-").to_owned(),
        number(&status["epoch"]),
        number(&status["height"]),
        prefix(&status["state_digest"]),
        number(&status["executor"]["executed_transactions"]),
        format!("{up}/{}", links.map_or(0, Vec::len)),
        number(&status["status"]["proofs"]),
        number(&status["status"]["pool_transactions"]),
        number(&Value::from(status["process"]["rss_bytes"].as_u64().map(|bytes| bytes >> 20))),
    ];
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let _ = write!(text, "{cell:>width$}  ");
    }
    let _ = writeln!(text, "{}", status["status"]["busy"].as_str().unwrap_or("-"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets_name_a_host_and_a_port() {
        for target in ["http://127.0.0.1:80", "http://127.0.0.1:80/", "127.0.0.1:80"] {
            assert_eq!(authority(target), Ok("127.0.0.1:80"));
        }
        for target in ["https://127.0.0.1:80", "http://", "http://a:1/b"] {
            assert!(authority(target).is_err(), "{target}");
        }
    }

    #[test]
    fn answers_are_read_and_refusals_say_why() {
        let good = b"HTTP/1.1 200 OK\r\na: b\r\n\r\n{\"height\":5}";
        assert_eq!(body(good), Ok(json!({ "height": 5 })));
        let refused = b"HTTP/1.1 503 Service Unavailable\r\n\r\n{\"reason\":\"stopped\"}";
        assert_eq!(body(refused), Err("stopped".to_owned()));
        assert!(body(b"HTTP/1.1 200 OK\r\n\r\nnonsense").is_err());
        assert!(body(b"garbage").is_err());
    }

    #[test]
    fn a_table_has_a_row_for_everybody() {
        let status = json!({
            "validator": { "key": "ab".repeat(32), "phase": "serving" },
            "epoch": 0, "height": 7, "state_digest": "cd".repeat(32),
            "executor": { "executed_transactions": 9 },
            "links": [{ "up": true }, { "up": false }],
            "status": { "proofs": 1, "pool_transactions": 2, "busy": "pool full" },
            "process": { "rss_bytes": 10 << 20 },
        });
        let answers = [("a".to_owned(), Ok(status)), ("b".to_owned(), Err("refused".to_owned()))];
        let text = table(&answers);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        for part in ["abababab", "serving", "7", "cdcdcdcd", "9", "1/2", "10", "pool full"] {
            assert!(lines[1].contains(part), "{part} in {}", lines[1]);
        }
        assert_eq!(lines[2], "b: refused");
    }
}
