//! What stands around each core: clients that submit, and an ordering engine that finalises one
//! payload per height once a quorum of power has it durably.
//!
//! The ordering engine is one for all and beyond suspicion; who proposes, votes and executes is
//! not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::cluster::{Cluster, Event};
use super::execution::State;
use super::followers::{Follower, INDEXERS, Which};
use super::source::Mempool;
use crate::sequencer::port::{
    Accepted, CommitError, Input, ParentOf, PullRequest, Reply, RequestId, SubmitError,
    Transaction, VerifyRequest,
};
use crate::types::{Commit, CommitIndex, Digest, Epoch, Message, Payload, PayloadHeader};

/// A proposal that no quorum votes for is followed by another one after this long.
const ATTEMPT: u64 = 2_000_000;
/// Identifier and expiration of a transaction of the load.
pub(super) const TRANSACTION_HEAD: usize = 16;

/// What a request of the host was about.
#[derive(Debug)]
pub(super) enum Pending {
    Submit(Vec<(u64, u64)>),
    SubmitUnder { ids: Vec<(u64, u64)>, honoured: bool },
    Lease(String),
    Release,
    Pull { height: u64, attempt: u64 },
    Verify { height: u64, digest: Digest },
    Commit,
    Fetch { digest: Digest, deadline: Duration },
    Subscribe(Which),
    Unsubscribe,
    Close,
    Open(Epoch),
    Skip(u64),
}

/// What a host keeps on its own disk.
#[derive(Debug)]
pub(super) struct Host {
    /// Commits executed.
    pub executed: u64,
    pub state: State,
    /// What its disk held some writes ago, oldest first.
    pub former: VecDeque<(u64, Arc<State>)>,
    /// What it keeps to rebuild from, when what it executed turns out to be gone everywhere.
    pub history: VecDeque<(u64, Arc<State>)>,
    pub followers: [Follower; INDEXERS],
    pub mempool: Mempool,
    /// True while the executor takes nothing.
    pub stopped: bool,
}

impl Host {
    pub fn new() -> Self {
        let followers = std::array::from_fn(|_| Follower::new());
        let (former, history) = (VecDeque::new(), VecDeque::new());
        let state = State::default();
        let mempool = Mempool::default();
        Self { executed: 0, state, former, history, followers, mempool, stopped: false }
    }
}

/// The ordering engine.
#[derive(Debug, Default)]
pub(super) struct Ordering {
    /// Votes for each payload proposed at the height that is open.
    votes: BTreeMap<Digest, BTreeSet<usize>>,
    payloads: BTreeMap<Digest, Arc<Payload>>,
}

impl Cluster {
    // ---- clients -------------------------------------------------------------------------------

    pub(super) fn on_submit(&mut self) {
        let end = self.options.duration.as_micros() as u64;
        if self.now + 30_000_000 < end || self.is_stormy() {
            let mean = self.options.submit_interval.as_micros() as u64;
            let micros = self.rng.u64(1..mean * 2);
            self.after(micros, Event::Submit);
        }
        let node = self.rng.usize(..self.nodes.len());
        if self.nodes[node].running.is_none() {
            return;
        }
        let wall = self.clock(node).wall;
        let life = *[1, 25, 25, 25].get(self.rng.usize(..4)).unwrap_or(&25);
        let expiration = wall.saturating_add(Duration::from_secs(life));
        let count = self.rng.usize(1..4);
        let mut ids = Vec::new();
        let transactions = (0..count).map(|_| {
            self.next_transaction += 1;
            ids.push((self.next_transaction, expiration.0));
            let length = self.rng.usize(TRANSACTION_HEAD..=self.options.transaction_bytes);
            let mut bytes = vec![0; length];
            bytes[..8].copy_from_slice(&self.next_transaction.to_le_bytes());
            bytes[8..16].copy_from_slice(&expiration.0.to_le_bytes());
            let gas_unit_price = self.rng.u64(..200);
            Transaction { bytes: Bytes::from(bytes), gas_unit_price, expiration }
        });
        let transactions: Vec<Transaction> = transactions.collect();
        let percent = self.options.pulled_percent;
        if percent > 0 && self.rng.u32(..100) < percent {
            return self.offer(node, transactions);
        }
        self.request(node, Pending::Submit(ids), |id| Input::Submit { id, transactions });
    }

    // ---- ordering ------------------------------------------------------------------------------

    fn tip(&self) -> ParentOf {
        let last = self.checker.finalised().last();
        let header = last.map_or_else(|| self.genesis.header(), |last| last.header);
        ParentOf {
            digest: header.digest(&self.chain),
            height: header.height,
            block_timestamp: header.block_timestamp,
        }
    }

    pub(super) fn on_propose(&mut self, height: u64, attempt: u64) {
        let tip = self.tip();
        if height != tip.height.0 + 1 {
            return;
        }
        self.after(ATTEMPT, Event::Propose { height, attempt: attempt + 1 });
        if attempt > 0 {
            self.trace.count("a proposal failed");
        }
        let epoch = self.plan.at(height);
        let is_member = |node: &usize| self.plan.is_member(epoch, &self.nodes[*node].author);
        let members: Vec<usize> = (0..self.nodes.len()).filter(is_member).collect();
        let leader = members[(height + attempt) as usize % members.len()];
        let request = PullRequest {
            epoch,
            height: CommitIndex(height),
            parent: tip.digest,
            block_timestamp: self.clock(leader).wall.max(tip.block_timestamp),
            limits: self.payload_limits(),
            exclude: Vec::new(),
        };
        let pending = Pending::Pull { height, attempt };
        self.request(leader, pending, |id| Input::Pull { id, request });
    }

    fn on_pulled(&mut self, leader: usize, height: u64, attempt: u64, payload: &Arc<Payload>) {
        self.note_proposed(height, payload);
        let payload = &self.lead(leader, payload);
        let digest = payload.digest(&self.chain);
        self.ordering.payloads.insert(digest, Arc::clone(payload));
        let peers: Vec<_> = self.network.peers(leader).collect();
        for peer in peers {
            let message = Message::Payload(Box::new(Payload::clone(payload)));
            self.transmit(leader, peer, &message);
            let life = self.nodes[peer].life;
            let micros = self.rng.u64(2000..60_000);
            let node = peer;
            self.after(micros, Event::Proposal { node, life, height, attempt, leader, digest });
        }
        self.vote(leader, height, digest);
    }

    pub(super) fn on_proposal(
        &mut self,
        node: usize,
        life: u64,
        (height, _attempt): (u64, u64),
        leader: usize,
        digest: Digest,
    ) {
        let tip = self.tip();
        if self.nodes[node].life != life || height != tip.height.0 + 1 || !self.takes_part(node) {
            return;
        }
        let mut responders = vec![self.nodes[leader].author];
        responders.extend(self.nodes.iter().map(|node| node.author));
        let request = VerifyRequest { digest, parent: Some(tip), responders };
        let pending = Pending::Verify { height, digest };
        self.request(node, pending, |id| Input::Verify { id, request });
    }

    fn on_verified(&mut self, node: usize, height: u64, digest: Digest, header: &PayloadHeader) {
        let latest =
            self.clock(node).wall.saturating_add(self.genesis.parameters.clock_allowance());
        if header.block_timestamp > latest {
            self.trace.count("a block from the future");
            return;
        }
        self.vote(node, height, digest);
    }

    fn vote(&mut self, node: usize, height: u64, digest: Digest) {
        let tip = self.tip();
        if height != tip.height.0 + 1 {
            return;
        }
        let voters = self.ordering.votes.entry(digest).or_default();
        voters.insert(node);
        let committee = &self.plan.of(self.plan.at(height)).committee;
        let power: u64 = voters.iter().map(|v| committee.power_of(&self.nodes[*v].author)).sum();
        if power * 3 <= committee.total_power() * 2 {
            return;
        }
        let voters: Vec<usize> = voters.iter().copied().collect();
        let Some(payload) = self.ordering.payloads.get(&digest).cloned() else { return };
        self.ordering.votes.clear();
        self.ordering.payloads.clear();
        let commit = Commit { index: CommitIndex(height), round: height, header: payload.header };
        self.trace.event(self.now, node, "finalised", height);
        self.checker.on_finalised(commit, payload, &voters);
        for node in 0..self.nodes.len() {
            let micros = if self.rng.u32(..20) == 0 { 3_000_000 } else { 100_000 };
            let micros = self.rng.u64(1000..micros);
            let life = self.nodes[node].life;
            self.after(micros, Event::Told { node, life });
        }
        let micros = self.options.block_interval.as_micros() as u64;
        self.after(micros, Event::Propose { height: height + 1, attempt: 0 });
    }

    /// A validator hears of what is finalised.
    pub(super) fn on_told(&mut self, node: usize, life: u64) {
        let current = self.nodes[node].life == life;
        if !current {
            return;
        }
        self.withdraw(node);
        self.sync_if_stuck(node);
        let author = self.nodes[node].author;
        while let Some(running) = &mut self.nodes[node].running {
            let next = running.told + 1;
            let Some(commit) = self.checker.finalised().get(next as usize - 1).copied() else {
                break;
            };
            let is_open = self.plan.at(next) <= running.sequencer.epoch();
            if !is_open || !self.plan.follows(next, &author) {
                break;
            }
            running.told = next;
            // Hosts repeat themselves.
            let times = if self.rng.u32(..20) == 0 { 2 } else { 1 };
            for _ in 0..times {
                self.request(node, Pending::Commit, |id| Input::Commit { id, commit });
            }
        }
        self.close_if_due(node);
    }

    /// Nobody waits for the verdict on a height that is decided.
    fn withdraw(&mut self, node: usize) {
        let height = self.checker.finalised().len() as u64;
        let Some(running) = &mut self.nodes[node].running else { return };
        let old = running
            .pending
            .iter()
            .filter(|(_, p)| matches!(p, Pending::Verify { height: of, .. } if *of <= height));
        let old: Vec<RequestId> = old.map(|(id, _)| *id).collect();
        for id in old {
            if let Some(running) = &mut self.nodes[node].running {
                running.pending.remove(&id);
                running.cancelled.insert(id);
            }
            self.input(node, Input::Cancel(id));
        }
    }

    fn on_submitted(
        &mut self,
        node: usize,
        ids: Vec<(u64, u64)>,
        results: Vec<Result<Accepted, SubmitError>>,
    ) {
        for ((id, expiration), result) in ids.into_iter().zip(results) {
            match result {
                // What a liar accepts, nobody can hold it to.
                Ok(_) if self.liars[node].is_some() => {}
                Ok(place) => {
                    self.checker.on_accepted(node, id, expiration, &place.batch);
                    self.trace.count("transaction accepted");
                }
                Err(SubmitError::Busy { .. }) => self.trace.count("transaction not now"),
                Err(_) => self.trace.count("transaction refused"),
            }
        }
    }

    // ---- answers -------------------------------------------------------------------------------

    pub(super) fn on_reply(&mut self, node: usize, id: RequestId, reply: Reply) {
        let Some(running) = &mut self.nodes[node].running else { return };
        let Some(pending) = running.pending.remove(&id) else {
            let cancelled = running.cancelled.remove(&id);
            if !cancelled {
                let detail = format!("node {node} answered {id:?} again: {reply:?}");
                self.checker.fail("every request is answered once", detail);
            }
            return;
        };
        match (pending, reply) {
            (Pending::Lease(client), Reply::Leased(result)) => self.on_leased(node, client, result),
            (Pending::Release, Reply::Released(_)) => self.trace.count("lease released"),
            (Pending::SubmitUnder { ids, honoured }, Reply::Submitted(results)) => {
                self.check_honoured(node, &results, honoured);
                self.on_submitted(node, ids, results);
            }
            (Pending::Submit(ids), Reply::Submitted(results)) => {
                self.on_submitted(node, ids, results);
            }
            (Pending::Pull { height, attempt }, Reply::Pulled(Ok(payload))) => {
                self.on_pulled(node, height, attempt, &payload);
            }
            (Pending::Pull { .. }, Reply::Pulled(Err(_))) => self.trace.count("pull refused"),
            (Pending::Verify { height, digest }, Reply::Verified(Ok(header))) => {
                self.on_verified(node, height, digest, &header);
            }
            (Pending::Verify { .. }, Reply::Verified(Err(_))) => {
                self.trace.count("payload refused");
            }
            (Pending::Commit, Reply::Committed(Ok(receipt))) => {
                self.checker.on_receipt(node, &receipt);
            }
            // State sync overtook it.
            (Pending::Commit, Reply::Committed(Err(CommitError::Pruned(index))))
                if index.0 <= self.nodes[node].host.executed => {}
            (Pending::Commit, Reply::Committed(Err(error))) => {
                self.checker.fail("honest hosts' commits are taken", format!("{node}: {error}"));
            }
            (Pending::Fetch { digest, deadline }, Reply::Fetched(result)) => {
                self.on_fetched(node, digest, deadline, result);
            }
            (Pending::Subscribe(which), Reply::Subscribed(result)) => {
                self.on_subscribed(node, which, result);
            }
            (Pending::Unsubscribe, Reply::Unsubscribed) => {}
            (Pending::Close, Reply::Closed(result)) => self.on_closed(node, result),
            (Pending::Open(epoch), Reply::Opened(result)) => self.on_opened(node, epoch, result),
            (Pending::Skip(index), Reply::SkippedTo(result)) => {
                self.on_skipped(node, index, result);
            }
            (pending, reply) => {
                let detail = format!("node {node}: {pending:?} got {reply:?}");
                self.checker.fail("answers fit their questions", detail);
            }
        }
    }
}

pub(super) fn head_of(transaction: &[u8]) -> Option<(u64, u64)> {
    let (id, rest) = transaction.split_first_chunk::<8>()?;
    let (expiration, _) = rest.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*id), u64::from_le_bytes(*expiration)))
}
