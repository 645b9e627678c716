//! What happened: a hash of everything, the last events, and how often each kind of thing fired.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};

/// How many events are kept.
const KEPT: usize = 50;

/// An event as it is kept: words are made when somebody reads them.
#[derive(Clone, Copy, Debug)]
struct Noted {
    at: u64,
    node: usize,
    what: &'static str,
    detail: u64,
}

/// See the module docs.
#[derive(Debug, Default)]
pub struct Trace {
    hash: DefaultHasher,
    last: VecDeque<Noted>,
    counts: BTreeMap<&'static str, u64>,
    events: u64,
}

impl Trace {
    /// Notes an event.
    pub(super) fn event(&mut self, at: u64, node: usize, what: &'static str, detail: u64) {
        self.events += 1;
        self.hash.write_u64(at);
        self.hash.write_usize(node);
        self.hash.write(what.as_bytes());
        self.hash.write_u64(detail);
        if self.last.len() >= KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Noted { at, node, what, detail });
    }

    /// Counts something that fired.
    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// The last events, oldest first.
    pub fn last(&self) -> impl Iterator<Item = String> {
        self.last.iter().map(|Noted { at, node, what, detail }| {
            let (seconds, micros) = (at / 1_000_000, at % 1_000_000);
            format!("{seconds:4}.{micros:06} node {node} {what} {detail:016x}")
        })
    }

    /// How often each kind of thing fired.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// Events in all.
    pub fn events(&self) -> u64 {
        self.events
    }
}
