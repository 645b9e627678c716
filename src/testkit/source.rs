//! What hosts bring: a mempool at each, and a filter at one.
//!
//! Transactions reach one validator first and the others a little later, and each core pulls from its own. What is executed leaves it, and what its core refuses.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::cluster::{Cluster, Event};
use super::host::head_of;
use crate::sequencer::port::{Input, SourceLimits, Transaction, TransactionKey};
use crate::types::{Batch, Digest, Message};

/// Until the other validators have heard of a transaction, in microseconds.
const GOSSIP: std::ops::Range<u64> = 400_000..1_200_000;
/// The slowest answer of a source, in microseconds.
const ANSWER_MAX: u64 = 30_000;

/// The mempool of one host; it survives its core.
#[derive(Debug, Default)]
pub(super) struct Mempool {
    transactions: BTreeMap<TransactionKey, Transaction>,
    /// What it must not give, as far as the core of the present life said.
    excluded: BTreeSet<TransactionKey>,
}

impl Mempool {
    /// Another core, which knows nothing yet.
    pub fn on_boot(&mut self) {
        self.excluded.clear();
    }

    /// These are executed.
    pub fn on_executed(&mut self, batches: &[Batch]) {
        if self.transactions.is_empty() {
            return;
        }
        for batch in batches {
            for bytes in batch.body.transactions() {
                self.transactions.remove(&TransactionKey::of(&bytes));
            }
        }
    }

    /// Its core told it what is in progress.
    pub fn on_progress(&mut self, entered: &[TransactionKey], left: &[TransactionKey]) -> bool {
        let new = entered.iter().all(|key| self.excluded.insert(*key));
        new && left.iter().all(|key| self.excluded.remove(key))
    }

    pub fn on_refused(&mut self, key: &TransactionKey) {
        self.transactions.remove(key);
    }

    /// The dearest first, as much as fits.
    fn pull(&self, limits: SourceLimits, ignores: bool) -> Vec<Transaction> {
        let open = |key: &TransactionKey| ignores || !self.excluded.contains(key);
        let open = self.transactions.iter().filter(|(key, _)| open(key));
        let mut open: Vec<&Transaction> = open.map(|(_, transaction)| transaction).collect();
        open.sort_by_key(|transaction| std::cmp::Reverse(transaction.gas_unit_price));
        let mut left = limits.bytes_max;
        let fits = |transaction: &&Transaction| {
            let length = transaction.bytes.len() as u64;
            let fits = length <= left;
            left -= if fits { length } else { 0 };
            fits
        };
        open.into_iter().filter(fits).take(limits.transactions_max as usize).cloned().collect()
    }
}

impl Cluster {
    /// Clients hand transactions to the mempool of one host.
    pub(super) fn offer(&mut self, node: usize, transactions: Vec<Transaction>) {
        for transaction in transactions {
            for other in 0..self.nodes.len() {
                let micros = if other == node { 0 } else { self.rng.u64(GOSSIP) };
                let transaction = transaction.clone();
                self.after(micros, Event::Gossip { node: other, transaction });
            }
        }
        if self.rng.u32(..10) == 0 {
            // Nobody can batch this.
            let mut transaction = self.endless();
            transaction.gas_unit_price = 1_000_000;
            self.after(0, Event::Gossip { node, transaction });
        }
    }

    /// A transaction beyond the chain's bound.
    fn endless(&self) -> Transaction {
        let length = self.genesis.parameters.transaction_bytes_max as usize + 1;
        let expiration = self.clock(0).wall.saturating_add(std::time::Duration::from_secs(25));
        let (bytes, gas_unit_price) = (Bytes::from(vec![0xEE; length]), 0);
        Transaction { bytes, gas_unit_price, expiration }
    }

    pub(super) fn on_gossip(&mut self, node: usize, transaction: Transaction) {
        let host = &mut self.nodes[node].host;
        let key = TransactionKey::of(&transaction.bytes);
        if host.state.has_executed(&transaction.bytes) {
            return;
        }
        host.mempool.transactions.insert(key, transaction);
        if self.nodes[node].running.is_some() {
            self.input(node, Input::SourceReady);
        }
    }

    /// The core pulls.
    pub(super) fn ask_source(&mut self, node: usize, limits: SourceLimits) {
        let life = self.nodes[node].life;
        let micros = self.rng.u64(100..ANSWER_MAX);
        self.trace.count("source asked");
        self.after(micros, Event::SourceAnswers { node, life, limits });
    }

    pub(super) fn on_source_answers(&mut self, node: usize, life: u64, limits: SourceLimits) {
        if self.nodes[node].life != life {
            return;
        }
        let wall = self.clock(node).wall;
        let mempool = &mut self.nodes[node].host.mempool;
        mempool.transactions.retain(|_, transaction| transaction.expiration > wall);
        // Now and then a source is late, or careless.
        let (late, careless) = (self.rng.u32(..20) == 0, self.rng.u32(..20) == 0);
        let mempool = &self.nodes[node].host.mempool;
        let pulled = if late { Vec::new() } else { mempool.pull(limits, careless) };
        if !pulled.is_empty() {
            self.trace.count("source gave transactions");
        }
        self.input(node, Input::Transactions(pulled));
    }

    /// Told by the core: what enters was not in progress, what leaves was.
    pub(super) fn on_progress(
        &mut self,
        node: usize,
        entered: &[TransactionKey],
        left: &[TransactionKey],
    ) {
        if !self.nodes[node].host.mempool.on_progress(entered, left) {
            let detail = format!("node {node}: {entered:?} {left:?}");
            self.checker.fail("what enters and leaves progress does so once", detail);
        }
    }

    /// What follows a batch of somebody else where there is a source.
    pub(super) fn seen(&self, input: &Input) -> Option<Input> {
        let Input::Batch { digest, batch, .. } = input else { return None };
        let keys = batch.body.transactions().map(|bytes| TransactionKey::of(&bytes));
        (self.options.pulled_percent > 0)
            .then(|| Input::Seen { digest: *digest, keys: keys.collect() })
    }

    /// What was pulled sits in a durable batch: as good as accepted.
    pub(super) fn on_batched(
        &mut self,
        node: usize,
        batch: &Digest,
        pulled: &[(u32, TransactionKey)],
    ) {
        let mempool = &self.nodes[node].host.mempool;
        // What somebody else had batched too may be executed by now.
        let known = pulled.iter().filter_map(|(_, key)| mempool.transactions.get(key));
        let known: Vec<_> = known.filter_map(|transaction| head_of(&transaction.bytes)).collect();
        for (id, expiration) in known {
            if self.is_honest(node) {
                self.checker.on_accepted(node, id, expiration, batch);
            }
        }
    }

    /// What the filter of a host says of a batch, if it has one.
    pub(super) fn refuses(&self, node: usize, batch: &Digest) -> bool {
        self.options.filters == Some(node) && batch.0[0].is_multiple_of(3)
    }

    pub(super) fn is_filtered(&self, node: usize, message: &Message) -> bool {
        let Message::Batch(batch) = message else { return false };
        self.refuses(node, &batch.info.digest(&self.chain))
    }
}
