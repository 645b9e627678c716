//! Asks the validators how they stand.

use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::workspace::Member;
use crate::load::client::{Client, ClientError};
use crate::report::details::GroupDistributions;
use crate::report::{FetchReport, ValidatorReport};

const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Shorter, because kills wait for it.
const READY_DEADLINE: Duration = Duration::from_secs(1);
const END_DEADLINE: Duration = Duration::from_secs(5);

/// What a validator says of itself; a field that it does not have was not measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Status(Value);

impl Status {
    /// Wraps the document of `GET /status`.
    pub fn new(document: Value) -> Self {
        Self(document)
    }

    /// The highest block executed.
    pub fn height(&self) -> Option<u64> {
        self.count("/height")
    }

    /// The state there, hex.
    pub fn state_digest(&self) -> Option<&str> {
        self.0.pointer("/state_digest")?.as_str()
    }

    /// The epoch served.
    pub fn epoch(&self) -> Option<u64> {
        self.count("/epoch")
    }

    /// True if it runs and is not in the committee.
    pub fn observes(&self) -> bool {
        self.0.pointer("/validator/phase").is_some_and(|phase| phase == "observing")
    }

    /// Proofs that it could propose.
    pub fn proofs(&self) -> Option<u64> {
        self.count("/status/proofs")
    }

    /// True if it signs for no batch, because its store replaces a lost one.
    pub fn is_silent(&self) -> bool {
        self.count("/status/silent_until").is_some()
    }

    /// What it skips because of committed evidence: commit, and content in hex.
    pub fn skipped(&self) -> Vec<(u64, String)> {
        let skipped = self.0.pointer("/status/skipped").and_then(Value::as_array);
        let pair = |pair: &Value| Some((pair.get(0)?.as_u64()?, pair.get(1)?.as_str()?.to_owned()));
        skipped.into_iter().flatten().filter_map(pair).collect()
    }

    /// Distinct transactions executed.
    pub fn executed_transactions(&self) -> Option<u64> {
        self.count("/executor/executed_transactions")
    }

    /// Fetches of this validator.
    pub fn fetch(&self) -> Option<FetchReport> {
        Some(FetchReport {
            requests: self.count("/statistics/fetch/requests")?,
            misses: self.count("/statistics/fetch/misses")?,
            timed_out: self.count("/statistics/fetch/timed_out")?,
        })
    }

    /// Its part of the report, but for what the system knows of its process.
    pub fn report(&self) -> ValidatorReport {
        let milliseconds = |path| self.number(path).map(|seconds| seconds * 1_000.0);
        // What reached the disk, not what was handed to the store: a log and a flush are two.
        let bytes_written = self.count("/process/bytes_written");
        let payload_bytes = self.count("/statistics/content_bytes");
        let ratio = || {
            let payload_bytes = payload_bytes.filter(|bytes| *bytes > 0)?;
            Some(bytes_written? as f64 / payload_bytes as f64)
        };
        ValidatorReport {
            fsyncs: self.count("/statistics/fsyncs"),
            consensus_fsyncs: self.count("/consensus/fsyncs"),
            groups: self.count("/statistics/groups"),
            batches_per_group_mean: self.number("/statistics/batches_per_group_mean"),
            group_commit_ms_p50: milliseconds("/statistics/group_commit_seconds/p50"),
            group_commit_ms_p99: milliseconds("/statistics/group_commit_seconds/p99"),
            bytes_written,
            payload_bytes,
            write_amplification: ratio(),
            ..ValidatorReport::default()
        }
    }

    /// What its groups were like.
    pub fn groups(&self) -> Option<GroupDistributions> {
        let counted = |name: &str| {
            let value = self.0.pointer("/statistics")?.get(name)?;
            serde_json::from_value(value.clone()).ok()
        };
        Some(GroupDistributions {
            commit_seconds: counted("group_commit_distribution")?,
            bytes: counted("group_bytes_distribution")?,
            batches: counted("group_batches_distribution")?,
        })
    }

    fn count(&self, path: &str) -> Option<u64> {
        self.0.pointer(path)?.as_u64()
    }

    fn number(&self, path: &str) -> Option<f64> {
        self.0.pointer(path)?.as_f64()
    }
}

/// A block as a validator executed it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Block {
    /// Its digest, hex.
    pub digest: String,
    /// The state after it, hex.
    pub state_digest: String,
}

/// Connections to all validators.
pub struct Observer {
    clients: Vec<Client>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Observer {
    /// Connects when it is asked something.
    pub fn new(members: &[Member]) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let client =
            |member: &Member| Client::new(member.target.clone(), tasks.clone(), stop.clone());
        Self { clients: members.iter().map(client).collect(), tasks, stop }
    }

    /// Why each of the first validators is not ready; empty once all are.
    pub async fn unready(&self, first: usize) -> Vec<(usize, String)> {
        let mut unready = Vec::new();
        for (index, client) in self.clients.iter().enumerate().take(first) {
            match client.get("/ready", ANSWER_DEADLINE).await {
                Ok(answer) if answer.status == StatusCode::OK => {}
                Ok(answer) => {
                    unready.push((index, String::from_utf8_lossy(&answer.body).into_owned()));
                }
                Err(error) => unready.push((index, error.to_string())),
            }
        }
        unready
    }

    /// True if this validator is ready, or observes because it is not in the committee.
    pub async fn is_ready(&self, index: usize) -> bool {
        let Some(client) = self.clients.get(index) else { return false };
        let answer = client.get("/ready", READY_DEADLINE).await;
        if answer.is_ok_and(|answer| answer.status == StatusCode::OK) {
            return true;
        }
        let document = client.get_json("/status", READY_DEADLINE).await;
        document.is_ok_and(|document| Status::new(document).observes())
    }

    /// What each validator says, one right after the other, so that heights can be compared.
    pub async fn statuses(&self) -> Vec<Result<Status, ClientError>> {
        let mut statuses = Vec::with_capacity(self.clients.len());
        for client in &self.clients {
            let document = client.get_json("/status", ANSWER_DEADLINE).await;
            statuses.push(document.map(Status::new));
        }
        statuses
    }

    /// What one validator says.
    pub async fn status(&self, index: usize) -> Option<Status> {
        let document = self.clients.get(index)?.get_json("/status", ANSWER_DEADLINE).await;
        document.ok().map(Status::new)
    }

    /// Evidence that one validator has, as the file that anybody can check.
    pub async fn evidence(&self, index: usize, commit: u64, content: &str) -> Option<Vec<u8>> {
        let path = format!("/evidence/{commit}/{content}");
        let answer = self.clients.get(index)?.get(&path, ANSWER_DEADLINE).await.ok()?;
        (answer.status == StatusCode::OK).then(|| answer.body.to_vec())
    }

    /// The block at this height, as each validator executed it.
    pub async fn blocks(&self, height: u64) -> Vec<Result<Block, ClientError>> {
        let path = format!("/blocks/{height}");
        let mut blocks = Vec::with_capacity(self.clients.len());
        for client in &self.clients {
            blocks.push(client.get_json(&path, ANSWER_DEADLINE).await);
        }
        blocks
    }

    /// Closes the connections.
    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        // Drivers wait on the token that was cancelled, so this is immediate.
        let _ = timeout(END_DEADLINE, self.tasks.wait()).await;
    }
}
