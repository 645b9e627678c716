//! The executor of each validator: it takes commits in order from its subscription, fetches what is
//! missing, and keeps state and index on a disk of its own, which may lose its last write.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Cluster, Event};
use super::host::{Pending, head_of};
use crate::sequencer::port::{Content, Delivery, FetchError, Input, Wanted};
use crate::types::{Batch, BatchInfo, Commit, Digest};

/// How long a fetch for execution may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);
/// How much later than its deadline a wait may end.
const TICK: Duration = Duration::from_millis(100);
/// States that a host's disk can fall back to.
const FORMER: usize = 3;
/// States that a host keeps to rebuild from.
const HISTORY: usize = 128;

/// What execution depends on and changes.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    value: u64,
    /// Identifiers executed, until they expire; shared with former states while nothing changes.
    recent: Arc<BTreeMap<u64, u64>>,
    /// Batches that were executed in the last commits, by rising index.
    taken: VecDeque<(u64, Arc<BTreeSet<Digest>>)>,
    /// Changes with everything that was skipped because of evidence.
    version: u64,
}

impl State {
    /// True if this transaction was executed and has not expired since.
    pub fn has_executed(&self, transaction: &[u8]) -> bool {
        head_of(transaction).is_some_and(|(id, _)| self.recent.contains_key(&id))
    }

    /// True if the commit at this index was executed with this content.
    pub fn took(&self, index: u64, digest: &Digest) -> bool {
        let at = self.taken.binary_search_by_key(&index, |(at, _)| *at);
        at.is_ok_and(|at| self.taken[at].1.contains(digest))
    }
}

impl Cluster {
    pub(super) fn on_execute(&mut self, node: usize, life: u64) {
        if self.nodes[node].life != life || !self.is_honest(node) {
            return;
        }
        let now = self.now;
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.execute_at != Some(now) {
            return;
        }
        running.execute_at = None;
        if self.holds_execution {
            return;
        }
        while self.execute_next(node) {}
    }

    /// Tries to execute so many microseconds from now, unless it will anyway: one try is enough for
    /// all content that is missing.
    pub(super) fn execute_after(&mut self, node: usize, micros: u64) {
        let (at, life) = (self.now + micros, self.nodes[node].life);
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.execute_at.is_none_or(|planned| at < planned) {
            running.execute_at = Some(at);
            self.after(micros, Event::Execute { node, life });
        }
    }

    /// Takes the next delivery. False if there is none, or its content is missing.
    fn execute_next(&mut self, node: usize) -> bool {
        let executed = self.nodes[node].host.executed;
        if self.nodes[node].host.stopped {
            return false;
        }
        let Some(running) = &mut self.nodes[node].running else { return false };
        let Some(delivery) = running.attachments.executor.front().copied() else { return false };
        let rewritten = matches!(delivery, Delivery::Rewritten { .. });
        let done = delivery.last().0 <= executed && !rewritten;
        let done = done
            || match delivery {
                Delivery::Rewritten { index, digest, .. } => {
                    if self.rewrite(node, index, &digest) {
                        return false;
                    }
                    true
                }
                Delivery::Commit(commit) => self.execute_commit(node, &commit),
                Delivery::Skipped { .. } => {
                    // What was skipped here, others have executed.
                    self.sync_state(node);
                    return false;
                }
            };
        if done && let Some(running) = &mut self.nodes[node].running {
            running.attachments.executor.pop_front();
            self.acknowledge_executed(node);
        }
        done
    }

    fn execute_commit(&mut self, node: usize, commit: &Commit) -> bool {
        let digest = commit.header.digest(&self.chain);
        let Some(payload) = self.checker.content(&digest).cloned() else { return false };
        let held = self.reader(node).and_then(|reader| reader.payload(&digest).ok().flatten());
        let Some(running) = &self.nodes[node].running else { return false };
        let held = held.is_some() || running.fetched_payloads.contains(&digest);
        let skips = Arc::clone(running.sequencer.skips());
        let skipped = |digest: &Digest| skips.get(digest).is_some_and(|from| *from <= commit.index);
        let mut gone = Vec::new();
        if skipped(&digest) {
            self.trace.count("a payload is skipped by evidence");
            self.execute(node, commit, digest, &[], &[digest]);
            return true;
        }
        if !held {
            let (holders, commit) = (Vec::new(), Some(commit.index));
            self.fetch(node, Wanted { digest, info: None, holders, commit });
            return false;
        }
        let mut batches = Vec::new();
        let mut missing = Vec::new();
        for (at, info) in payload.content.batches().enumerate() {
            if info.expiration < commit.header.block_timestamp {
                continue;
            }
            let name = info.digest(&self.chain);
            if skipped(&name) {
                gone.push(name);
                continue;
            }
            let inline = at.checked_sub(payload.content.outside());
            let brought = inline.map(|at| payload.content.inline[at].clone());
            match brought.or_else(|| self.batch(node, info)) {
                Some(batch) => batches.push(batch),
                None => missing.push((*info, payload.content.proofs.get(at))),
            }
        }
        if !missing.is_empty() {
            self.trace.count("content fetched for execution");
            for (info, proof) in missing {
                let digest = info.digest(&self.chain);
                let committee = &self.plan.of(info.epoch).committee;
                let mut holders: Vec<_> =
                    proof.map_or(vec![info.author], |proof| proof.signers(committee).collect());
                self.rng.shuffle(&mut holders);
                let (info, commit) = (Some(info), Some(commit.index));
                self.fetch(node, Wanted { digest, info, holders, commit });
            }
            return false;
        }
        if !gone.is_empty() {
            self.trace.count("batches are skipped by evidence");
        }
        self.execute(node, commit, digest, &batches, &gone);
        true
    }

    fn batch(&self, node: usize, info: &BatchInfo) -> Option<Batch> {
        let digest = info.digest(&self.chain);
        let fetched = self.nodes[node].running.as_ref()?.fetched.get(&digest);
        fetched.cloned().or_else(|| self.reader(node)?.batch(&digest).ok().flatten())
    }

    fn fetch(&mut self, node: usize, wanted: Wanted) {
        let digest = wanted.digest;
        let Some(running) = &self.nodes[node].running else { return };
        let is_this = |p: &Pending| matches!(p, Pending::Fetch { digest: of, .. } if *of == digest);
        if running.pending.values().any(is_this) {
            return;
        }
        let deadline = self.clock(node).monotonic + FETCH_DEADLINE;
        let pending = Pending::Fetch { digest, deadline };
        self.request(node, pending, |id| Input::Fetch { id, wanted, deadline });
    }

    pub(super) fn on_fetched(
        &mut self,
        node: usize,
        digest: Digest,
        deadline: Duration,
        result: Result<Content, FetchError>,
    ) {
        if result.is_ok() {
            let left = deadline.saturating_sub(self.clock(node).monotonic);
            self.fetch_times.push(FETCH_DEADLINE.saturating_sub(left));
        }
        let Some(running) = &mut self.nodes[node].running else { return };
        let wait = match result {
            Ok(Content::Batch(batch)) => {
                running.fetched.insert(digest, batch);
                self.trace.count("content arrived for execution");
                0
            }
            Ok(Content::Payload(_)) => {
                running.fetched_payloads.insert(digest);
                self.trace.count("a payload arrived for execution");
                0
            }
            Err(FetchError::Busy) => 200_000,
            Err(FetchError::Rewritten) => 0,
            Err(FetchError::Unavailable(_)) => {
                self.trace.count("a fetch ended with evidence");
                200_000
            }
            Err(FetchError::Pruned) => {
                self.trace.count("a fetch ended with pruned");
                500_000
            }
            Err(_) => {
                self.trace.count("a fetch ended without content");
                100_000
            }
        };
        self.execute_after(node, wait);
    }

    fn execute(
        &mut self,
        node: usize,
        commit: &Commit,
        payload: Digest,
        batches: &[Batch],
        gone: &[Digest],
    ) {
        let (index, block_timestamp) = (commit.index.0, commit.header.block_timestamp);
        let chain = self.chain;
        let host = &mut self.nodes[node].host;
        host.mempool.on_executed(batches);
        let before = Arc::new(host.state.clone());
        host.former.push_back((host.executed, Arc::clone(&before)));
        if host.former.len() > FORMER {
            host.former.pop_front();
        }
        host.history.push_back((host.executed, before));
        if host.history.len() > HISTORY {
            host.history.pop_front();
        }
        let State { value, recent, taken, version } = &mut host.state;
        let digests = batches.iter().map(|batch| batch.info.digest(&chain));
        let here = digests.chain([payload].into_iter().filter(|p| !gone.contains(p)));
        taken.push_back((index, Arc::new(here.collect())));
        if taken.len() > HISTORY {
            taken.pop_front();
        }
        for digest in gone {
            let part = u64::from_le_bytes(std::array::from_fn(|at| digest.0[at]));
            *version = (*version ^ part ^ index).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        let version = *version;
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(*value);
        let mut ids = Vec::new();
        for batch in batches {
            for transaction in batch.body.transactions() {
                let Some((id, expiration)) = head_of(&transaction) else { continue };
                if recent.contains_key(&id) {
                    self.trace.count("transaction ordered twice");
                    continue;
                }
                if expiration < block_timestamp.0 {
                    continue;
                }
                Arc::make_mut(recent).insert(id, expiration);
                hasher.write_u64(id);
                ids.push(id);
            }
        }
        let over = |expiration: &u64| *expiration < block_timestamp.0;
        if recent.values().any(over) {
            Arc::make_mut(recent).retain(|_, expiration| !over(expiration));
        }
        *value = hasher.finish();
        host.executed = index;
        let value = *value;
        self.trace.event(self.now, node, "executed", index);
        self.checker.on_executed(node, (index, version), value, &ids);
        if let Some(running) = &mut self.nodes[node].running {
            running.fetched.clear();
            running.fetched_payloads.clear();
        }
    }

    /// How long fetches for execution took that ended with content, in the order of their ends.
    pub fn fetch_times(&self) -> &[Duration] {
        &self.fetch_times
    }

    /// No wait is longer than its deadline, but for the tick that ends it.
    pub(super) fn check_deadlines(&mut self, node: usize) {
        let now = self.clock(node).monotonic;
        let Some(running) = &self.nodes[node].running else { return };
        let is_late = |pending: &&Pending| matches!(pending, Pending::Fetch { deadline, .. } if *deadline + TICK < now);
        if let Some(late) = running.pending.values().find(is_late) {
            let detail = format!("node {node} at {now:?}: {late:?}");
            self.checker.fail("every fetch ends by its deadline", detail);
        }
    }

    /// The executor's disk loses its last writes, acknowledged or not: what it needs again may be
    /// gone everywhere. Returns whether there were any.
    pub(super) fn lose_executed(&mut self, node: usize) -> bool {
        let host = &mut self.nodes[node].host;
        if let Some((executed, state)) = host.former.pop_front() {
            let state = Arc::unwrap_or_clone(state);
            self.trace.count("an executor loses its last writes");
            host.former.clear();
            (host.executed, host.state) = (executed, state);
            return true;
        }
        false
    }
}
