//! Whole lives of a validator that is a committee of its own: real store, real ordering engine,
//! real sockets.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::generate::{GenerateOptions, generate};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

fn chain_of_one() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let directory_path = directory.path().to_owned();
    let options = GenerateOptions {
        validators: 1,
        spares: 0,
        optimistic: false,
        block_interval: Duration::from_millis(50),
        directory: directory_path,
    };
    let config = generate(&options).unwrap().remove(0).config;
    (directory, config)
}

/// One life: started, used by a client, drained.
fn live<T, F>(config: &Path, client: impl FnOnce(SocketAddr) -> F) -> T
where
    F: Future<Output = T>,
{
    let setup = Setup::read(config).unwrap();
    let address = setup.config.network.http_listen;
    let (store, executor) = setup.open().unwrap();
    let directory = setup.data.consensus();
    let runtime = RuntimeConfig { directory, worker_threads: 2 };
    quorum_store_ordering::run(runtime, |runtime| async move {
        let end = CancellationToken::new();
        let ending = Ending::when(end.clone()).unwrap();
        let client = async {
            let result = tokio::time::timeout(PATIENCE, client(address)).await.unwrap();
            end.cancel();
            result
        };
        let (ended, result) = tokio::join!(serve(setup, store, executor, runtime, ending), client);
        ended.unwrap();
        result
    })
    .unwrap()
}

/// One request on a connection of its own. The head is method and path, and may go on with one
/// header after a line break.
async fn request(address: SocketAddr, head: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    let (line, header) = head.split_once('\n').unwrap_or((head, "x: y"));
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let status = String::from_utf8_lossy(&answer[..end]).split(' ').nth(1).unwrap().parse();
    Ok((status.unwrap(), answer[end + 4..].to_vec()))
}

/// Asks until the answer is as wanted.
async fn until<T>(address: SocketAddr, path: &str, wanted: impl Fn(u16, &Value) -> Option<T>) -> T {
    loop {
        if let Ok((status, body)) = request(address, &format!("GET {path}"), b"").await {
            let value = serde_json::from_slice(&body).unwrap_or_default();
            if let Some(found) = wanted(status, &value) {
                return found;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ready(address: SocketAddr) {
    until(address, "/ready", |status, _| (status == 200).then_some(())).await;
}

async fn submit(address: SocketAddr, bytes: &[u8], expiration: u64) -> String {
    let head = format!("POST /transactions\nexpiration-unix-secs: {expiration}");
    let (status, body) = request(address, &head, bytes).await.unwrap();
    assert_eq!(status, 202, "{}", String::from_utf8_lossy(&body));
    let value: Value = serde_json::from_slice(&body).unwrap();
    value["id"].as_str().unwrap().to_owned()
}

async fn executed(address: SocketAddr, id: &str) -> u64 {
    let path = format!("/transactions/{id}");
    until(address, &path, |_, value| {
        (value["state"] == "executed").then(|| value["height"].as_u64().unwrap())
    })
    .await
}

async fn block(address: SocketAddr, height: u64) -> Value {
    until(address, &format!("/blocks/{height}"), |status, value| {
        (status == 200).then(|| value.clone())
    })
    .await
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The executor's state is set back to genesis, as if every block since had been logged by the
/// library and not executed: the next life executes them all again, once, with the same result.
#[test]
fn a_validator_resumes_from_its_own_state_whatever_the_library_has_logged() {
    let (directory, config) = chain_of_one();
    let execution = directory.path().join("validator-0/execution");
    let saved = directory.path().join("saved");
    copy(&execution, &saved);
    let expiration = clock_seconds() + 25;

    let (height, before, id) = live(&config, |address| async move {
        ready(address).await;
        let first = submit(address, b"first", expiration).await;
        assert_eq!(submit(address, b"first", expiration).await, first, "the same transaction");
        executed(address, &first).await;
        let second = submit(address, b"second", expiration).await;
        let height = executed(address, &second).await;
        (height, block(address, height).await, second)
    });

    // An ordinary restart goes on above.
    let expected = before["state_digest"].clone();
    live(&config, |address| async move {
        ready(address).await;
        assert_eq!(block(address, height).await["state_digest"], expected);
        block(address, height + 2).await;
    });

    std::fs::remove_dir_all(&execution).unwrap();
    copy(&saved, &execution);
    let after = live(&config, |address| async move {
        ready(address).await;
        let block = block(address, height).await;
        assert_eq!(executed(address, &id).await, height);
        // Known as executed, although this life never saw it submitted: not batched again.
        assert_eq!(submit(address, b"second", expiration).await, id);
        let counted = |_: u16, value: &Value| {
            let counters = &value["executor"];
            Some((counters["executed_transactions"].clone(), counters["duplicates"].clone()))
        };
        let expected = (Value::from(2), Value::from(0));
        assert_eq!(until(address, "/status", counted).await, expected);
        block
    });
    assert_eq!(before, after);
    let data = directory.path().join("validator-0");
    assert!(crate::executor::check::check(&data.join("execution")).unwrap().is_sound());
    assert!(quorum_store::store::check::check(&data.join("store")).unwrap().is_sound());
}

/// What lay on the disk of the executor a moment before the last blocks, as a power cut that takes
/// its last writes back would leave it: the library had been told that they are executed.
#[test]
fn what_the_executor_had_acknowledged_and_lost_is_executed_again() {
    let (directory, config) = chain_of_one();
    let execution = directory.path().join("validator-0/execution");
    let saved = directory.path().join("saved");
    let expiration = clock_seconds() + 25;
    let (kept, height, before) = live(&config, |address| async move {
        ready(address).await;
        let first = submit(address, b"kept", expiration).await;
        let kept = executed(address, &first).await;
        copy(&execution, &saved);
        let mut height = 0;
        for text in [b"lost", b"gone"] {
            let id = submit(address, text, expiration).await;
            height = executed(address, &id).await;
        }
        // The library has heard of it: it need not keep these commits for us any more.
        let acknowledged = |_: u16, value: &Value| {
            let subscribers = value["status"]["subscribers"].as_array()?;
            let executor =
                subscribers.iter().find(|subscriber| subscriber["name"] == "executor")?;
            (executor["next"].as_u64()? > height).then_some(())
        };
        until(address, "/status", acknowledged).await;
        (kept, height, block(address, height).await)
    });
    assert!(kept < height);
    let execution = directory.path().join("validator-0/execution");
    std::fs::remove_dir_all(&execution).unwrap();
    copy(&directory.path().join("saved"), &execution);
    let lost = Setup::read(&config).unwrap().open().unwrap().1.progress();
    assert!((kept..height).contains(&lost.height()), "{lost:?}");

    let after = live(&config, |address| async move {
        ready(address).await;
        block(address, height).await
    });
    assert_eq!(before, after);
    assert!(crate::executor::check::check(&execution).unwrap().is_sound());
}

fn clock_seconds() -> u64 {
    crate::clock::wall().0 / 1_000_000
}

/// What another validator may ask of one that has executed up to a height.
async fn other_validators_are_answered(address: SocketAddr, height: u64) {
    let ask = async |head: String, body: &[u8]| request(address, &head, body).await.unwrap();
    let (_, standing) = ask("GET /sync/standing".to_owned(), b"").await;
    let standing: Value = serde_json::from_slice(&standing).unwrap();
    assert!(standing["height"].as_u64().unwrap() >= height);
    let path = format!("/sync/snapshots/{height}");
    let (status, statement) = ask(format!("GET {path}?above=0"), b"").await;
    assert!(status == 200 && statement.len() > 200);
    let (status, content) = ask(format!("GET {path}/content"), b"").await;
    assert!(status == 200 && !content.is_empty());
    assert_eq!(ask(format!("GET {path}?above={height}"), b"").await.0, 404);
    assert_eq!(ask("GET /sync/snapshots/999999".to_owned(), b"").await.0, 404);
    assert_eq!(ask("GET /sync/boundaries/0".to_owned(), b"").await.0, 404);
    // What it took from its own client comes with the id that it had there.
    let mut wrapped = bytes::BytesMut::new();
    let expiration = (clock_seconds() + 25) * 1_000_000 + 7;
    crate::transaction::wrap(&mut wrapped, 3, expiration, b"handed over");
    let (length, malformed) = ((wrapped.len() as u32).to_le_bytes(), 1_u32.to_le_bytes());
    let body = [&length[..], &wrapped, &malformed, b"x"].concat();
    let (status, answers) = ask("POST /sync/transactions".to_owned(), &body).await;
    let answers: Value = serde_json::from_slice(&answers).unwrap();
    let id = hex::encode(crate::transaction::ids(&[&wrapped])[0]);
    assert_eq!((status, &answers[0]["id"], &answers[1]["status"]), (200, &id.into(), &400.into()));
    executed(address, answers[0]["id"].as_str().unwrap()).await;
}

/// Refusals and reads as a client sees them.
#[test]
fn routes_answer_as_documented() {
    let (_directory, config) = chain_of_one();
    live(&config, |address| async move {
        ready(address).await;
        let ask = |head: &'static str, body: Vec<u8>| async move {
            request(address, head, &body).await.unwrap()
        };
        assert_eq!(ask("POST /transactions", vec![]).await.0, 400);
        assert_eq!(ask("POST /transactions", vec![1; 65_537]).await.0, 413);
        // Refused by what it states, before a byte of it is read.
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "POST /transactions HTTP/1.1\r\nhost: x\r\ncontent-length: 4194305\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
        assert_eq!(ask("POST /transactions/batch", vec![9, 9]).await.0, 400);
        let framed = [&3_u32.to_le_bytes()[..], b"one", &0_u32.to_le_bytes()[..]].concat();
        let (status, body) = ask("POST /transactions/batch", framed).await;
        let answers: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (status, &answers[0]["status"], &answers[1]["status"]),
            (200, &Value::from(202), &Value::from(400))
        );
        assert_eq!(ask("POST /leases", vec![]).await.0, 400);
        assert_eq!(ask("GET /health", vec![]).await.0, 200);
        assert_eq!(ask("GET /pressure", vec![]).await.0, 200);
        assert_eq!(ask("GET /transactions/zz", vec![]).await.0, 400);
        assert_eq!(ask("GET /blocks/999999", vec![]).await.0, 404);
        let id = answers[0]["id"].as_str().unwrap().to_owned();
        let height = executed(address, &id).await;
        let both = [hex::decode(&id).unwrap(), vec![0; 32]].concat();
        let (_, found) = ask("POST /transactions/states", both).await;
        let found: Value = serde_json::from_slice(&found).unwrap();
        assert_eq!(found["states"], serde_json::json!(["executed", "unknown"]));
        let unknown = format!("GET /transactions/{}", "00".repeat(32));
        assert_eq!(request(address, &unknown, b"").await.unwrap().0, 404);
        let head = format!("GET /blocks/{height}/transactions");
        let (_, ids) = request(address, &head, b"").await.unwrap();
        assert_eq!(hex::encode(ids), id);
        let tracked: Value = serde_json::from_slice(
            &request(address, &format!("GET /transactions/{id}"), b"").await.unwrap().1,
        )
        .unwrap();
        let batch = tracked["batch"].as_str().unwrap();
        let body = request(address, &format!("GET /batches/{batch}"), b"").await.unwrap();
        assert!(body.0 == 200 && body.1.ends_with(b"one"));
        let proof = request(address, &format!("GET /batches/{batch}/proof"), b"").await.unwrap();
        assert_eq!(proof.0, 200);
        let receipt = request(address, &format!("GET /commits/{height}"), b"").await.unwrap();
        let receipt: Value = serde_json::from_slice(&receipt.1).unwrap();
        assert_eq!(receipt["acks"].as_array().unwrap().len(), 4);
        other_validators_are_answered(address, height).await;
        let (status, metrics) = request(address, "GET /metrics", b"").await.unwrap();
        let text = String::from_utf8(metrics).unwrap();
        assert!(status == 200 && text.contains("quorum_store_validator_height"));
        let (_, status) = request(address, "GET /status", b"").await.unwrap();
        let status: Value = serde_json::from_slice(&status).unwrap();
        assert!(status["consensus"]["fsyncs"].as_u64().unwrap() > 0, "{status}");
        assert_eq!(status["accepted_transactions"], 2);
        // A stream starts where it is told, and ends with the validator.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /outcomes?from=0 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("\"executed\"") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
        }
    });
}

/// A body of many transactions.
fn framed(entries: &[&str]) -> Vec<u8> {
    let one = |entry: &&str| [&(entry.len() as u32).to_le_bytes()[..], entry.as_bytes()].concat();
    entries.iter().flat_map(one).collect()
}

/// Takes a lease as this client.
async fn lease(address: SocketAddr, client: &str, wanted: &str) -> (u16, Value) {
    let head = format!("POST /leases\nclient: {client}");
    let (status, body) = request(address, &head, wanted.as_bytes()).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

/// The config with another section at its end.
fn amend(config: &Path, section: &str) {
    let text = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, format!("{text}\n{section}\n")).unwrap();
}

/// A quote is kept although the pool fills up and the price rises meanwhile; refusals say from
/// which price on, and when.
#[test]
fn a_lease_is_honoured_over_http_when_everybody_else_is_refused() {
    let (_directory, config) = chain_of_one();
    let text = std::fs::read_to_string(&config).unwrap();
    // Nothing leaves the pool for a second, and eight fit into it.
    let section =
        "[sequencer]\nbatch_age_max = '1s'\nbatch_age_min = '1s'\npool_transactions_max = 8";
    std::fs::write(&config, text.replace("[sequencer]", section)).unwrap();
    live(&config, |address| async move {
        ready(address).await;
        let (status, quote) = lease(address, "a", r#"{"transactions": 3, "bytes": 30}"#).await;
        assert_eq!((status, &quote["lowest_gas_bucket"]), (201, &Value::from(0)), "{quote}");
        assert_eq!((&quote["transactions"], &quote["bytes"]), (&3.into(), &30.into()));
        assert!(quote["expires_in_ms"].as_u64().unwrap() >= 5000, "{quote}");
        // Five others fill what is not leased.
        let fill = framed(&["o1", "o2", "o3", "o4", "o5"]);
        let filling = request(address, "POST /transactions/batch\ngas-unit-price: 2000000", &fill);
        let rest = async {
            let is_full =
                |_: u16, value: &Value| (value["pool_transactions"] == 5).then(|| value.clone());
            let pressure = until(address, "/pressure", is_full).await;
            assert_eq!(
                (&pressure["accepting"], &pressure["reason"]),
                (&false.into(), &"pool full".into())
            );
            assert_eq!(
                (&pressure["leases"], &pressure["leased_transactions"]),
                (&1.into(), &3.into())
            );
            let (status, body) = request(address, "POST /transactions", b"stranger").await.unwrap();
            let refused: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((status, &refused["reason"]), (429, &"pool full".into()), "{refused}");
            assert!(refused["lowest_gas_bucket"].is_null() && refused.get("lease").is_none());
            assert!(refused["retry_after_ms"].as_u64().unwrap() > 0);
            let (status, busy) = lease(address, "b", r#"{"transactions": 1, "bytes": 1}"#).await;
            assert_eq!((status, &busy["reason"]), (429, &"pool full".into()), "{busy}");
            let name = quote["lease"].as_str().unwrap();
            // Of another client, it is none.
            let head = format!("POST /transactions\nclient: b\r\nlease: {name}");
            let (status, body) = request(address, &head, b"thief").await.unwrap();
            let refused: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(status, 429, "{refused}");
            assert!(refused["lease"].as_str().unwrap().contains("no such lease"), "{refused}");
            // One alone, two in a batch; one more than was leased.
            let head = format!("POST /transactions\nclient: a\r\nlease: {name}");
            let one = request(address, &head, b"leased 1");
            let head = format!("POST /transactions/batch\nclient: a\r\nlease: {name}");
            let body = framed(&["leased 2", "leased 3"]);
            let two = request(address, &head, &body);
            let (one, two) = tokio::join!(one, two);
            assert_eq!(one.unwrap().0, 202);
            let two: Value = serde_json::from_slice(&two.unwrap().1).unwrap();
            assert_eq!((&two[0]["status"], &two[1]["status"]), (&202.into(), &202.into()), "{two}");
            two[1]["id"].as_str().unwrap().to_owned()
        };
        let (filled, id) = tokio::join!(filling, rest);
        assert_eq!(filled.unwrap().0, 200);
        executed(address, &id).await;
        let (_, metrics) = request(address, "GET /metrics", b"").await.unwrap();
        let text = String::from_utf8(metrics).unwrap();
        assert!(text.contains("quorum_store_lease_requests_total{outcome=\"granted\"} 1"));
    });
}

#[test]
fn leases_over_http_are_refused_with_what_would_be_granted_and_given_back_once() {
    let (_directory, config) = chain_of_one();
    amend(&config, "[sequencer.leases]\nclient_transactions_max = 10\nlife_max = '1m'");
    live(&config, |address| async move {
        ready(address).await;
        for wrong in ["", "{}", r#"{"transactions": 0, "bytes": 1}"#, r#"{"bytes": 1}"#, "[1]"] {
            assert_eq!(lease(address, "a", wrong).await.0, 400, "{wrong}");
        }
        let wanted =
            |transactions: u64| format!(r#"{{"transactions": {transactions}, "bytes": 90}}"#);
        assert_eq!(lease(address, &"x".repeat(65), &wanted(1)).await.0, 400);
        let (status, most) = lease(address, "a", &wanted(11)).await;
        assert_eq!((status, &most["transactions_max"]), (413, &Value::from(10)));
        let (status, first) = lease(address, "a", &wanted(6)).await;
        assert_eq!(status, 201, "{first}");
        let (status, busy) = lease(address, "a", &wanted(6)).await;
        assert_eq!((status, &busy["transactions"]), (429, &Value::from(4)), "{busy}");
        assert_eq!(
            (&busy["reason"], &busy["lowest_gas_bucket"]),
            (&"the client's leases".into(), &0.into())
        );
        assert!(busy["retry_after_ms"].as_u64().unwrap() > 1000);
        assert_eq!(lease(address, "b", &wanted(6)).await.0, 201, "others are not concerned");
        let name = first["lease"].as_str().unwrap();
        let give_back = |client: &str| format!("DELETE /leases/{name}\nclient: {client}");
        assert_eq!(request(address, &give_back("b"), b"").await.unwrap().0, 404);
        let (status, room) = request(address, &give_back("a"), b"").await.unwrap();
        let room: Value = serde_json::from_slice(&room).unwrap();
        assert_eq!((status, &room["transactions"], &room["bytes"]), (200, &6.into(), &90.into()));
        assert_eq!(request(address, &give_back("a"), b"").await.unwrap().0, 404, "once");
        assert_eq!(lease(address, "a", &wanted(6)).await.0, 201);
        let wrong = request(address, "DELETE /leases/x", b"").await.unwrap();
        assert_eq!(wrong.0, 400);
        let wrong = request(address, "POST /transactions\nlease: x", b"text").await.unwrap();
        assert_eq!(wrong.0, 400, "{}", String::from_utf8_lossy(&wrong.1));
        // There is room: what a lease does not cover is taken all the same.
        let stale = format!("POST /transactions\nlease: {name}");
        assert_eq!(request(address, &stale, b"text").await.unwrap().0, 202);
    });
}

#[test]
fn a_directory_in_use_or_without_a_store_is_told_before_anything_starts() {
    let (directory, config) = chain_of_one();
    let setup = Setup::read(&config).unwrap();
    let held = setup.open().unwrap();
    assert_eq!(run_code(&config), 13);
    drop(held);
    std::fs::remove_dir_all(directory.path().join("validator-0/store")).unwrap();
    assert_eq!(run_code(&config), 12);
}

fn run_code(config: &Path) -> u8 {
    let arguments =
        RunArguments { config: config.to_owned(), end_with_stdin: false, hold_proposals: None };
    run(&arguments).unwrap_err().code()
}

#[test]
fn ordering_that_stops_over_a_failing_journal_is_a_failed_storage() {
    let directory = tempfile::tempdir().unwrap();
    let stopped = |journal: &Path| ordering_failure(OrderingError::EngineStopped, journal).code();
    assert_eq!(stopped(directory.path()), 1, "the disk is fine");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left there");
    assert_eq!(stopped(&directory.path().join("gone")), 10);
    let other = ordering_failure(OrderingError::NetworkStopped, &directory.path().join("gone"));
    assert_eq!(other.code(), 1);
}
