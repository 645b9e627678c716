//! What happened: a hash of everything, the last events in words, and how often each kind of
//! thing fired.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};

/// How many events are kept in words.
const KEPT: usize = 50;

/// See the module docs.
#[derive(Debug, Default)]
pub struct Trace {
    hash: DefaultHasher,
    last: VecDeque<String>,
    counts: BTreeMap<&'static str, u64>,
    events: u64,
}

impl Trace {
    /// Notes an event. `words` is called for every event: formatting is kept to what is shown.
    pub(super) fn event(&mut self, at: u64, node: usize, what: &'static str, detail: u64) {
        self.events += 1;
        self.hash.write_u64(at);
        self.hash.write_usize(node);
        self.hash.write(what.as_bytes());
        self.hash.write_u64(detail);
        self.note(at, node, what, detail);
    }

    fn note(&mut self, at: u64, node: usize, what: &'static str, detail: u64) {
        let mut line = if self.last.len() < KEPT {
            String::new()
        } else {
            self.last.pop_front().unwrap_or_default()
        };
        line.clear();
        // The buffer of the oldest line is used again: no allocation per event.
        let seconds = at / 1_000_000;
        let micros = at % 1_000_000;
        let written = std::fmt::write(
            &mut line,
            format_args!("{seconds:4}.{micros:06} node {node} {what} {detail:016x}"),
        );
        if written.is_ok() {
            self.last.push_back(line);
        }
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
    pub fn last(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
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
