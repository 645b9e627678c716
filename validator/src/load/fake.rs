//! A validator as clients see it, in this process: takes batches, streams outcomes, says where it
//! stands. Only for tests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::Target;
use crate::transaction::Transaction;

/// What the fake does with what it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Executes it, and says so before it answers.
    Execute,
    /// Executes it twice.
    ExecuteTwice,
    /// Reports it expired.
    Expire,
    /// Forgets it.
    Forget,
    /// Executes it, but says so only to who asks for its state.
    TellIfAsked,
}

/// How it behaves.
#[derive(Clone)]
pub struct Behaviour {
    /// What happens to accepted transactions.
    pub fate: Fate,
    /// The HTTP status of the n-th transaction.
    pub status: fn(u64) -> u16,
    /// Every stream of outcomes ends after so many lines.
    pub stream_lines: usize,
    /// A line that comes before all others.
    pub first_line: Option<String>,
    /// The state it claims.
    pub state_digest: &'static str,
    /// What `/ready` says.
    pub ready: StatusCode,
    /// More fields of `/status`.
    pub status_document: Value,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            fate: Fate::Execute,
            status: |_| 202,
            stream_lines: usize::MAX,
            first_line: None,
            state_digest: "aa",
            ready: StatusCode::OK,
            status_document: json!({}),
        }
    }
}

/// What it has seen and done.
#[derive(Default)]
pub struct Books {
    /// Transactions seen so far.
    pub seen: u64,
    /// Requests, by number of transactions.
    pub requests: Vec<usize>,
    /// How often each id was executed.
    pub executed: HashMap<[u8; 32], u64>,
    /// Connections taken.
    pub connections: usize,
    /// Streams of outcomes opened, by their `from`.
    pub streams: Vec<u64>,
    lines: Vec<String>,
    life: u64,
}

struct Shared {
    behaviour: Behaviour,
    books: Mutex<Books>,
    /// The life, and how many lines it has.
    lines: watch::Sender<(u64, usize)>,
}

/// The fake; its server ends when it is dropped.
pub struct FakeValidator {
    /// Where it listens.
    pub target: Target,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for FakeValidator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeValidator {
    /// Listens on a free port.
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address: SocketAddr = listener.local_addr().expect("bound");
        let mut books = Books::default();
        books.lines.extend(behaviour.first_line.clone());
        let lines = watch::Sender::new((0, books.lines.len()));
        let shared = Arc::new(Shared { behaviour, books: Mutex::new(books), lines });
        let router = Router::new()
            .route("/transactions/batch", post(submit))
            .route("/transactions/states", post(states))
            .route("/outcomes", get(outcomes))
            .route("/status", get(status))
            .route("/ready", get(|State(fake): Fake| async move { fake.behaviour.ready }))
            .route("/blocks/{height}", get(block))
            .with_state(Arc::clone(&shared));
        let books = Arc::clone(&shared);
        let listener = listener.tap_io(move |_| {
            books.books.lock().expect("no panic while it is held").connections += 1;
        });
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serves until it is aborted");
        });
        let target = Target::parse(&address.to_string()).expect("an address");
        Self { target, shared, server }
    }

    /// Begins a new life: connections stay, but its stream begins again, from nothing.
    pub fn restart(&self) {
        let mut books = self.shared.books.lock().expect("no panic while it is held");
        books.life += 1;
        books.lines.clear();
        self.shared.lines.send_replace((books.life, 0));
    }

    /// Looks into its books.
    pub fn books<T>(&self, look: impl FnOnce(&Books) -> T) -> T {
        look(&self.shared.books.lock().expect("no panic while it is held"))
    }
}

type Fake = State<Arc<Shared>>;

async fn submit(State(fake): Fake, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    let number = |name| headers[name].to_str().expect("text").parse::<u64>().expect("a number");
    assert_eq!(headers["accept"], "application/octet-stream");
    let (gas_unit_price, seconds) = (number("gas-unit-price"), number("expiration-unix-secs"));
    let mut books = fake.books.lock().expect("no panic while it is held");
    let (mut statuses, mut accepted) = (Vec::new(), Vec::new());
    let mut rest = body;
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        let bytes = rest.slice(4..4 + length);
        rest = rest.slice(4 + length..);
        let expiration_micros = seconds * 1_000_000;
        let status = (fake.behaviour.status)(books.seen);
        books.seen += 1;
        statuses.extend(status.to_le_bytes());
        if status == 202 {
            accepted.push(Transaction { gas_unit_price, expiration_micros, bytes }.id());
        }
    }
    books.requests.push(statuses.len() / 2);
    let states: &[&str] = match fake.behaviour.fate {
        Fate::Execute => &["accepted", "certified", "executed"],
        Fate::ExecuteTwice => &["accepted", "executed", "executed"],
        Fate::Expire => &["accepted", "expired"],
        Fate::Forget | Fate::TellIfAsked => &["accepted"],
    };
    if !accepted.is_empty() {
        for state in states {
            books.report(state, &accepted);
        }
    }
    fake.lines.send_replace((books.life, books.lines.len()));
    statuses
}

impl Books {
    fn report(&mut self, state: &str, ids: &[[u8; 32]]) {
        let time_micros = super::sender::unix_micros();
        let digits: String = ids.iter().map(hex::encode).collect();
        let line = json!({
            "seq": self.lines.len(),
            "state": state,
            "height": null,
            "time_micros": time_micros,
            "ids": digits,
            "latency_micros": vec![1_500; ids.len()],
        });
        self.lines.push(line.to_string());
        if state == "executed" {
            for id in ids {
                *self.executed.entry(*id).or_default() += 1;
            }
        }
    }
}

async fn states(State(fake): Fake, body: Bytes) -> Vec<u8> {
    let code = if fake.behaviour.fate == Fate::TellIfAsked { 7 } else { 0 };
    let mut answer = vec![0; 8];
    answer.extend(vec![code; body.len() / 32]);
    answer
}

async fn outcomes(State(fake): Fake, uri: Uri) -> ([(&'static str, String); 1], Body) {
    let from = uri.query().and_then(|query| query.strip_prefix("from=")).expect("from");
    let from: u64 = from.parse().expect("a number");
    fake.books.lock().expect("no panic while it is held").streams.push(from);
    let lines = fake.lines.subscribe();
    let current = lines.borrow().0;
    let start = from as usize;
    let stream =
        futures::stream::unfold((start, lines, fake), move |(next, mut lines, fake)| async move {
            if next - start >= fake.behaviour.stream_lines {
                return None;
            }
            let wanted = |(now, count): &(u64, usize)| *now != current || *count > next;
            let (now, _) = *lines.wait_for(wanted).await.ok()?;
            if now != current {
                return None;
            }
            let books = fake.books.lock().expect("no panic while it is held");
            let line = books.lines[next].clone() + "\n";
            drop(books);
            Some((Ok::<_, std::convert::Infallible>(line), (next + 1, lines, fake)))
        });
    ([("outcomes-life", current.to_string())], Body::from_stream(stream))
}

async fn status(State(fake): Fake) -> String {
    let mut document = fake.behaviour.status_document.clone();
    document["height"] = json!(7);
    document["state_digest"] = json!(fake.behaviour.state_digest);
    document.to_string()
}

async fn block(State(fake): Fake, Path(height): Path<u64>) -> String {
    let state_digest = fake.behaviour.state_digest;
    json!({ "height": height, "digest": "bb", "state_digest": state_digest }).to_string()
}
