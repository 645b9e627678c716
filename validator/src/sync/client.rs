//! Asks the others.
//!
//! Every question goes to everybody who is or was a member, at once, and has a deadline; whoever
//! does not answer, or answers falsely, does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::join_all;
use hyper::header::ACCEPT;
use hyper::{Method, Request, StatusCode};
use quorum_store::types::{Author, ChainId, Digest, Epoch};
use quorum_store_ordering::{Finalized, verify_finalization};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{
    BOUNDARY_BYTES_MAX, SNAPSHOT_BYTES_MAX, STATEMENT_BYTES_MAX, SignedStatement, Standing,
    Statement, agreed,
};
use crate::config::epochs::Plan;
use crate::executor::Boundary;
use crate::executor::snapshot::Snapshot;
use crate::load::client::{Client, Target};

/// For small answers.
const DEADLINE: Duration = Duration::from_secs(3);
/// For a snapshot, and for the statement that it has to be made for.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(30);
/// Heights that are tried, the highest first.
const HEIGHTS_TRIED: usize = 4;

/// The others.
pub struct Others {
    own: Author,
    chain: ChainId,
    plan: watch::Receiver<Arc<Plan>>,
    clients: Mutex<BTreeMap<SocketAddr, Arc<Client>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Others {
    /// Nobody is connected to yet. Connections end with `stop`, in `tasks`.
    pub fn new(
        own: Author,
        chain: ChainId,
        plan: watch::Receiver<Arc<Plan>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { own, chain, plan, clients: Mutex::default(), tasks, stop }
    }

    /// Everybody else, by key.
    fn everybody(&self) -> Vec<(Author, Arc<Client>)> {
        let plan = self.plan.borrow().clone();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let others = plan.everybody().into_iter().filter(|(author, _)| *author != self.own);
        let client = |(author, peer): (Author, &crate::config::PeerConfig)| {
            let target = Target::parse(&peer.sync.to_string()).ok()?;
            let client = clients.entry(peer.sync).or_insert_with(|| {
                let client = Client::new(target, self.tasks.clone(), self.stop.clone());
                Arc::new(client)
            });
            Some((author, client.clone()))
        };
        others.filter_map(client).collect()
    }

    /// Who answers, and how far each says it got.
    async fn standings(&self) -> Vec<(Author, Arc<Client>, u64)> {
        let standings = self.everybody().into_iter().map(|(author, client)| async move {
            let standing: Standing = client.get_json("/sync/standing", DEADLINE).await.ok()?;
            Some((author, client, standing.height))
        });
        join_all(standings).await.into_iter().flatten().collect()
    }

    /// How far the others say they got. A hint.
    pub async fn height(&self) -> u64 {
        self.standings().await.into_iter().map(|(_, _, height)| height).max().unwrap_or(0)
    }

    /// The state of the greatest height above what is executed here that members of more than f
    /// power agree on. `None` if there is none.
    pub async fn newest_state(&self, executed: u64) -> Option<(Statement, Snapshot)> {
        let standings = self.standings().await;
        let heights: BTreeSet<u64> = standings.iter().map(|(_, _, height)| *height).collect();
        let ahead = heights.into_iter().rev().filter(|height| *height > executed);
        for height in ahead.take(HEIGHTS_TRIED) {
            let there = standings.iter().filter(|(_, _, reached)| *reached >= height);
            let path = format!("/sync/snapshots/{height}?above={executed}");
            let statements = there.map(|(author, client, _)| {
                let path = &path;
                async move { self.statement(*author, client, path).await }
            });
            let said: Vec<_> = join_all(statements).await.into_iter().flatten().collect();
            if let Some(statement) = self.agreed(height, &said)
                && let Some(snapshot) = snapshot(&statement, executed, &standings).await
            {
                return Some((statement, snapshot));
            }
        }
        None
    }

    async fn statement(
        &self,
        author: Author,
        client: &Client,
        path: &str,
    ) -> Option<SignedStatement> {
        let answer = client.get_bounded(path, SNAPSHOT_DEADLINE, STATEMENT_BYTES_MAX);
        let answer = answer.await.ok()?;
        let signed: SignedStatement = bcs::from_bytes(&answer).ok()?;
        let fits = signed.author == author && signed.statement.chain == self.chain;
        (fits && signed.is_valid()).then_some(signed)
    }

    /// Judged by the committee of the block that they are about.
    fn agreed(&self, height: u64, said: &[SignedStatement]) -> Option<Statement> {
        let plan = self.plan.borrow().clone();
        let epochs: BTreeSet<Epoch> =
            said.iter().map(|signed| signed.statement.header.epoch).collect();
        let of = |epoch: Epoch| {
            let mut said = said.to_vec();
            said.retain(|signed| {
                let header = &signed.statement.header;
                header.epoch == epoch && header.height.0 == height
            });
            agreed(plan.committee(epoch)?, &said)
        };
        epochs.into_iter().find_map(of)
    }

    /// Gives transactions, as they were wrapped here, to somebody who takes them. Returns the
    /// positions of those that nobody took.
    pub async fn hand_over(&self, transactions: &[Bytes]) -> Vec<usize> {
        let mut left: Vec<usize> = (0..transactions.len()).collect();
        for (_, client) in self.everybody() {
            let mut body = BytesMut::new();
            for position in &left {
                let transaction = &transactions[*position];
                body.put_u32_le(transaction.len() as u32);
                body.extend_from_slice(transaction);
            }
            let request = Request::builder()
                .method(Method::POST)
                .uri("/sync/transactions")
                .header(ACCEPT, "application/octet-stream");
            let Ok(answer) = client.send(request, body.freeze(), DEADLINE).await else { continue };
            let (statuses, _) = answer.body.as_chunks::<2>();
            if answer.status == StatusCode::OK && statuses.len() == left.len() {
                let mut taken = statuses.iter().map(|status| u16::from_le_bytes(*status) == 202);
                left.retain(|_| !taken.next().unwrap_or(false));
            }
            if left.is_empty() {
                break;
            }
        }
        left
    }

    /// How an epoch ended, and the certificate that says so, if anybody knows.
    pub async fn boundary(&self, epoch: Epoch) -> Option<(Boundary, Finalized)> {
        let path = format!("/sync/boundaries/{}", epoch.0);
        let everybody = self.everybody();
        let answers = everybody
            .iter()
            .map(|(_, client)| client.get_bounded(&path, DEADLINE, BOUNDARY_BYTES_MAX));
        let answers = join_all(answers).await;
        let plan = self.plan.borrow().clone();
        answers.into_iter().flatten().find_map(|answer| self.check(&plan, epoch, &answer))
    }

    fn check(&self, plan: &Plan, epoch: Epoch, answer: &[u8]) -> Option<(Boundary, Finalized)> {
        let boundary: Boundary = bcs::from_bytes(answer).ok()?;
        let finalized = finalized(&self.chain, plan, &boundary)?;
        if boundary.header.epoch != epoch {
            return None;
        }
        if !plan.is_last(&boundary.header) {
            tracing::error!(
                epoch = epoch.0,
                height = boundary.header.height.0,
                "the others ended this epoch, and the plan of epochs here does not say so: give \
                 this validator the same file, and SIGHUP"
            );
            return None;
        }
        Some((boundary, finalized))
    }
}

/// The snapshot that was agreed on, from whoever has it.
async fn snapshot(
    statement: &Statement,
    executed: u64,
    from: &[(Author, Arc<Client>, u64)],
) -> Option<Snapshot> {
    let height = statement.header.height.0;
    let path = format!("/sync/snapshots/{height}/content?above={executed}");
    let bytes_max = usize::try_from(statement.bytes).unwrap_or(usize::MAX).min(SNAPSHOT_BYTES_MAX);
    for (_, client, _) in from {
        let answer = client.get_bounded(&path, SNAPSHOT_DEADLINE, bytes_max);
        let Ok(bytes) = answer.await else { continue };
        if let Some(snapshot) = statement.read(&bytes) {
            return Some(snapshot);
        }
    }
    None
}

/// What the end of an epoch proves, if it is one.
pub fn verify(chain: &ChainId, plan: &Plan, boundary: &Boundary) -> Option<Finalized> {
    finalized(chain, plan, boundary).filter(|_| plan.is_last(&boundary.header))
}

/// What the certificate of a block proves, if it is one.
fn finalized(chain: &ChainId, plan: &Plan, boundary: &Boundary) -> Option<Finalized> {
    let Boundary { header, certificate } = boundary;
    let epoch = header.epoch;
    let members = plan.committee(epoch)?.members();
    let keys: Vec<[u8; 32]> = members.iter().map(|member| member.author.0).collect();
    let certificate = Bytes::from(certificate.clone());
    let finalized = verify_finalization(&chain.0, epoch.0, &keys, &certificate).ok()?;
    (Digest(finalized.digest) == header.digest(chain)).then_some(finalized)
}
