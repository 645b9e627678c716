//! Losses beyond a crash: a disk that is gone, and content that is gone everywhere.
//!
//! A scenario asks for them; no seed does by itself, because a lost disk counts as a fault, and
//! content that everybody lost is beyond what the chain promises to survive without a trace.

use std::sync::Arc;

use crate::crypto::Signer as _;
use crate::sequencer::port::Record;
use crate::sequencer::silent_until;
use crate::store::memory::MemoryStore;
use crate::types::{CommitIndex, Digest, Incarnation, Timestamp};

use super::cluster::{Cluster, Event};
use super::execution::State;
use super::store::{CrashStore, Tear};

impl Cluster {
    /// While held, no executor takes anything, so that commits wait for execution.
    pub fn hold_execution(&mut self, held: bool) {
        self.holds_execution = held;
        for node in 0..self.nodes.len() {
            self.execute_after(node, 0);
        }
    }

    /// The highest commit that any honest executor has executed.
    fn executed_most(&self) -> u64 {
        let honest = (0..self.nodes.len()).filter(|node| self.is_honest(*node));
        honest.map(|node| self.nodes[node].host.executed).max().unwrap_or_default()
    }

    /// Every copy of the batches of one commit that nobody has executed is gone, at every validator;
    /// the power goes with them. Returns how many were lost.
    pub fn lose_batches(&mut self) -> usize {
        let from = self.executed_most();
        let commits = self.checker.finalised().iter().skip(from as usize);
        let mut lost = Vec::new();
        for commit in commits {
            let digest = commit.header.digest(&self.chain);
            let Some(payload) = self.checker.content(&digest) else { continue };
            // What travels in the payload goes with the payload.
            let outside = payload.content.batches().take(payload.content.outside());
            let live = outside.filter(|info| info.expiration >= commit.header.block_timestamp);
            lost = live
                .map(|info| {
                    let digest = info.digest(&self.chain);
                    Record::DropBatch { digest, expiration: info.expiration }
                })
                .collect();
            if !lost.is_empty() {
                break;
            }
        }
        self.erase(&lost);
        lost.len()
    }

    /// The content of the newest payload that nobody has executed is gone at every validator.
    pub fn lose_payload(&mut self) -> bool {
        let Some(commit) = self.checker.finalised().last().copied() else { return false };
        if commit.index.0 <= self.executed_most() {
            return false;
        }
        let digest = commit.header.digest(&self.chain);
        let Some(payload) = self.checker.content(&digest) else { return false };
        let expiration = payload.expiration(&self.genesis.parameters);
        self.erase(&[Record::DropPayload { digest, expiration }]);
        true
    }

    /// The same batches are gone, but at one validator, which is cut off and comes back later.
    pub fn lose_batches_but_at(&mut self, keeper: usize) -> usize {
        self.keeper = Some(keeper);
        let lost = self.lose_batches();
        self.keeper = None;
        lost
    }

    fn erase(&mut self, records: &[Record]) {
        let keeper = self.keeper;
        for node in (0..self.nodes.len()).filter(|node| keeper != Some(*node)) {
            self.crash(node, Tear::Kept);
            if let Some(store) = &mut self.nodes[node].store {
                store.erase(records);
            }
            self.checker.on_lost(node, records);
            self.after(50_000, Event::Restart { node });
        }
    }

    /// One validator loses its disk: it starts again with a store that replaces it.
    pub fn lose_disk(&mut self, node: usize) {
        self.crash(node, Tear::Lost);
        self.trace.count("a disk is lost");
        let state = &self.nodes[node];
        let incarnation = Incarnation(5000 + node as u64 + 10 * state.life);
        let wall = self.clock(node).wall;
        let until = silent_until(wall, &self.genesis.parameters);
        let memory = MemoryStore::replacement(state.keys.author(), self.chain, incarnation, until);
        self.nodes[node].store = Some(CrashStore::new(memory));
        self.checker.on_disk_lost(node, until);
        self.after(50_000, Event::Restart { node });
    }

    /// A validator's process ends and starts again.
    pub fn restart(&mut self, node: usize) {
        self.crash(node, Tear::Kept);
        self.after(50_000, Event::Restart { node });
    }

    /// Nothing passes between a validator and the others, or everything again.
    pub fn isolate(&mut self, node: usize, cut: bool) {
        let peers: Vec<_> = self.network.peers(node).collect();
        for peer in peers {
            for path in [(node, peer), (peer, node)] {
                if cut {
                    self.network.cut.insert(path);
                } else {
                    self.network.cut.remove(&path);
                }
            }
        }
    }

    /// Evidence that a validator has and that is not committed.
    pub fn evidence(&self, node: usize) -> u64 {
        let running = self.nodes[node].running.as_ref();
        running.map_or(0, |running| running.sequencer.status().evidence)
    }

    /// Until when a validator signs for no batch.
    pub fn silent_until(&self, node: usize) -> Option<Timestamp> {
        self.nodes[node].running.as_ref()?.sequencer.status().silent_until
    }

    /// What a validator skips because committed evidence says that it is gone.
    pub fn skipped(&self, node: usize) -> Vec<(CommitIndex, Digest)> {
        let running = self.nodes[node].running.as_ref();
        running.map(|running| running.sequencer.status().skipped).unwrap_or_default()
    }

    /// A commit carries evidence that content of an earlier one is gone: who executed it goes back
    /// to below that commit. True if this one has to.
    pub(super) fn rewrite(&mut self, node: usize, index: CommitIndex, digest: &Digest) -> bool {
        let host = &mut self.nodes[node].host;
        let took = host.executed >= index.0 && host.state.took(index.0, digest);
        if !took {
            return false;
        }
        self.trace.count("an executor rebuilds its state");
        while let Some((executed, state)) = host.history.pop_back() {
            let state = Arc::unwrap_or_clone(state);
            if executed < index.0 {
                (host.executed, host.state) = (executed, state);
                host.former.clear();
                self.attach(node, 0);
                return true;
            }
        }
        host.executed = 0;
        host.state = State::default();
        self.attach(node, 0);
        true
    }
}
