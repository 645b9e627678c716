//! One event queue, one virtual clock, one seed: N production sequencers and everything around
//! them.
//!
//! ```text
//!  queue ─▶ event ─▶ node: step ─▶ effects ─▶ network (delay, loss, cuts) ─▶ queue
//!                      │                      host (clients, votes, execution)
//!                      └─▶ group ─▶ disk (slow, torn, failing) ─▶ promises ─▶ network, host
//! ```
//!
//! Every boundary of an honest core passes by the [`Checker`]. A run ends at the first violation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;

use super::byzantine::Liar;
use super::checker::{Bounds, Checker, Violation};
use super::epochs::Plan;
use super::followers::Which;
use super::host::Ordering;
use super::keys::Keys;
use super::leasing::Quote;
use super::network::Network;
use super::node::Node;
use super::options::Options;
use super::store::{CrashStore, Tear};
use super::trace::Trace;
use crate::crypto::Signer;
use crate::sequencer::port::{Now, RequestId, SourceLimits, Transaction};
use crate::store::memory::MemoryStore;
use crate::types::{
    Author, ChainId, Digest, Epoch, Genesis, Hello, Incarnation, Message, Timestamp,
};

/// Where wall clocks start: one hour after the Unix epoch, in microseconds.
pub(super) const START: u64 = 3_600_000_000;
/// Time for batches of the last moment to be certified and ordered.
const LAST_BATCHES: Duration = Duration::from_secs(10);
/// Time for what liars batched in the last moment to expire: nobody can make them end it earlier.
const LAST_OF_LIARS: Duration = Duration::from_secs(16);

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Event {
    Connect { low: usize, high: usize },
    Up { node: usize, peer: usize, link: u64, hello: Box<Hello> },
    Down { node: usize, peer: usize, link: u64 },
    Deliver { from: usize, to: usize, link: u64, message: Box<Message> },
    Written { node: usize, life: u64 },
    Tick { node: usize, life: u64 },
    Submit,
    Lease,
    UseLease { node: usize, life: u64, quote: Box<Quote> },
    Propose { height: u64, attempt: u64 },
    Proposal { node: usize, life: u64, height: u64, attempt: u64, leader: usize, digest: Digest },
    Told { node: usize, life: u64 },
    Execute { node: usize, life: u64 },
    Open { node: usize, life: u64, epoch: Epoch },
    Attach { node: usize, life: u64, which: Which },
    Acknowledge { node: usize, life: u64, id: RequestId },
    Gossip { node: usize, transaction: Transaction },
    SourceAnswers { node: usize, life: u64, limits: SourceLimits },
    Lie { node: usize },
    Fault,
    Heal { what: super::faults::Healing },
    Restart { node: usize },
}

/// What is looked at for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Only {
    /// What has taken too long already.
    Late,
    /// Beside it, own batches and transactions.
    Own,
    /// Beside those, what was seen in batches of others.
    Everything,
}

/// An event in the queue, in order of time, then of insertion.
struct Queued {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Where to crash a validator on purpose: before its step with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPoint {
    /// Which validator.
    pub node: usize,
    /// Before which of its steps, counted over all its lives.
    pub step: u64,
    /// What the crash leaves of the group in flight.
    pub tear: Tear,
}

/// When to stop subscribers on purpose: before this step of their validator, for some seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopPoint {
    /// Which validator.
    pub node: usize,
    /// Before which of its steps, counted over all its lives.
    pub step: u64,
    /// Which subscribers: bit 0 is the executor, 1 and 2 are the indexers.
    pub subscribers: u8,
}

/// See the module docs.
pub struct Cluster {
    pub(super) options: Options,
    pub(super) rng: Rng,
    /// Virtual microseconds since the start.
    pub(super) now: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    pub(super) genesis: Genesis,
    pub(super) chain: ChainId,
    pub(super) plan: Plan,
    pub(super) nodes: Vec<Node>,
    pub(super) liars: Vec<Option<Liar>>,
    pub(super) network: Network,
    pub(super) ordering: Ordering,
    pub(super) checker: Checker,
    pub(super) trace: Trace,
    pub(super) bounds: Bounds,
    /// Deliberate crashes still to come.
    pub(super) crash_points: Vec<CrashPoint>,
    /// Deliberate stops still to come.
    pub(super) stop_points: Vec<StopPoint>,
    pub(super) next_transaction: u64,
    pub(super) next_request: u64,
    /// While true, nobody executes.
    pub(super) holds_execution: bool,
    /// Who keeps what everybody else loses.
    pub(super) keeper: Option<usize>,
    /// How long fetches took.
    pub(super) fetch_times: Vec<Duration>,
}

impl Cluster {
    /// Validators that have just started; nothing has happened yet.
    pub fn new(options: Options) -> Self {
        let count = options.validators;
        let keys = Keys::of_cluster(options.real_signatures, options.seed, count);
        let committee = super::epochs::members(&options, &keys, 0, None);
        let nonce = Digest([7; 32]);
        let parameters = options.parameters;
        let genesis = Genesis { nonce, parameters, committee: committee.clone() };
        let chain = genesis.chain_id();
        let plan = Plan::new(&options, &keys, &committee, chain);
        let first_liar = count - options.liars.len();
        let honest: Vec<bool> = (0..count).map(|index| index < first_liar).collect();
        let checker = Checker::new(genesis.clone(), plan.clone(), &keys, honest);
        let mut rng = Rng::with_seed(options.seed);
        let skew = options.skew_max.as_micros() as i64;
        let nodes = keys.into_iter().enumerate().map(|(index, keys)| {
            let incarnation = Incarnation(1000 + index as u64);
            let store = CrashStore::new(MemoryStore::new(keys.author(), chain, incarnation));
            Node::new(keys, store, rng.i64(-skew..=skew))
        });
        let nodes = nodes.collect();
        let liars = (0..count).map(|index| {
            let lie = *options.liars.get(index.checked_sub(first_liar)?)?;
            Some(Liar::new(lie))
        });
        let config = &options.config;
        let bounds = Bounds {
            window_bytes: config.window_bytes.as_u64(),
            window_batches: config.window_batches,
            pool_bytes: config.pool_bytes_max.as_u64(),
            outstanding_bytes: config.outstanding_bytes_max.as_u64(),
            batch_bytes: u64::from(parameters.batch_bytes_max),
        };
        let mut cluster = Self {
            liars: liars.collect(),
            rng,
            now: 0,
            queue: BinaryHeap::new(),
            order: 0,
            chain,
            plan,
            nodes,
            network: Network::new(count),
            ordering: Ordering::default(),
            checker,
            trace: Trace::default(),
            bounds,
            crash_points: Vec::new(),
            stop_points: Vec::new(),
            next_transaction: 0,
            next_request: 0,
            holds_execution: false,
            keeper: None,
            fetch_times: Vec::new(),
            genesis,
            options,
        };
        cluster.start();
        cluster
    }

    fn start(&mut self) {
        for node in 0..self.nodes.len() {
            self.boot(node);
            if self.liars[node].is_some() {
                self.after(200_000, Event::Lie { node });
            }
        }
        self.after(1000, Event::Submit);
        if !self.options.lease_interval.is_zero() {
            self.after(2000, Event::Lease);
        }
        self.after(300_000, Event::Propose { height: 1, attempt: 0 });
        if !self.options.fault_interval.is_zero() {
            self.after(5_000_000, Event::Fault);
        }
    }

    /// Crashes validators at these steps, beside what the options ask for.
    pub fn crash_at(&mut self, points: Vec<CrashPoint>) {
        self.crash_points = points;
    }

    /// Stops subscribers at these steps, beside what the options ask for.
    pub fn stop_at(&mut self, points: Vec<StopPoint>) {
        self.stop_points = points;
    }

    /// Lets virtual time pass, until `until` or the first violation.
    pub fn run_until(&mut self, until: Duration) {
        let until = until.as_micros() as u64;
        while self.checker.violation().is_none() {
            match self.queue.peek() {
                Some(Reverse(next)) if next.at <= until => {}
                _ => break,
            }
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now = next.at;
            self.handle(next.event);
        }
        self.now = self.now.max(until);
    }

    /// The whole run. Bounds are looked at once a virtual second, liveness at the end.
    pub(super) fn run_to_end(&mut self) -> Option<Violation> {
        let seconds = self.options.duration.as_secs();
        for second in 1..=seconds {
            self.run_until(Duration::from_secs(second));
            for node in 0..self.nodes.len() {
                let status = self.nodes[node].running.as_ref().map(|r| r.sequencer.status());
                if let Some(status) = status.filter(|_| self.is_honest(node)) {
                    self.checker.on_status(node, &status, &self.bounds);
                    self.checker.check_leased(node, self.now, &status);
                    if status.pressure.pull_rate.is_some() {
                        self.trace.count("pull rate limited");
                    }
                    self.check_deadlines(node);
                }
            }
            if self.checker.violation().is_some() {
                break;
            }
        }
        let violation = self.checker.violation().cloned().or_else(|| self.late(Only::Late));
        if violation.is_some() || self.unfinished().is_none() {
            return violation;
        }
        // What was batched again in the last moment is certified and ordered a moment later.
        self.run_until(self.options.duration + LAST_BATCHES);
        if self.options.liars.is_empty() || self.unfinished().is_none() {
            return self.checker.violation().cloned().or_else(|| self.unfinished());
        }
        let violation = self.checker.violation().cloned().or_else(|| self.late(Only::Own));
        if violation.is_some() {
            return violation;
        }
        self.run_until(self.options.duration + LAST_BATCHES + LAST_OF_LIARS);
        self.checker.violation().cloned().or_else(|| self.unfinished())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connect { low, high } => self.on_connect(low, high),
            Event::Up { node, peer, link, hello } => self.on_up(node, peer, link, *hello),
            Event::Down { node, peer, link } => self.on_down(node, peer, link),
            Event::Deliver { from, to, link, message } => self.on_deliver(from, to, link, *message),
            Event::Written { node, life } => self.on_written(node, life),
            Event::Tick { node, life } => self.on_tick(node, life),
            Event::Submit => self.on_submit(),
            Event::Lease => self.on_lease_due(),
            Event::UseLease { node, life, quote } => self.on_use_lease(node, life, &quote),
            Event::Propose { height, attempt } => self.on_propose(height, attempt),
            Event::Proposal { node, life, height, attempt, leader, digest } => {
                self.on_proposal(node, life, (height, attempt), leader, digest);
            }
            Event::Told { node, life } => self.on_told(node, life),
            Event::Execute { node, life } => self.on_execute(node, life),
            Event::Open { node, life, epoch } => self.on_open(node, life, epoch),
            Event::Attach { node, life, which } => self.on_attach(node, life, which),
            Event::Acknowledge { node, life, id } => self.on_acknowledge(node, life, id),
            Event::Gossip { node, transaction } => self.on_gossip(node, transaction),
            Event::SourceAnswers { node, life, limits } => {
                self.on_source_answers(node, life, limits);
            }
            Event::Lie { node } => self.on_lie(node),
            Event::Fault => self.on_fault(),
            Event::Heal { what } => self.on_heal(&what),
            Event::Restart { node } => self.boot(node),
        }
    }

    /// Something happens so many microseconds from now.
    pub(super) fn after(&mut self, micros: u64, event: Event) {
        self.order += 1;
        let at = self.now + micros;
        self.queue.push(Reverse(Queued { at, order: self.order, event }));
    }

    /// The time as a validator sees it.
    pub(super) fn clock(&self, node: usize) -> Now {
        let wall = (START + self.now).saturating_add_signed(self.nodes[node].skew);
        Now { monotonic: Duration::from_micros(self.now), wall: Timestamp(wall) }
    }

    /// True while faults may happen.
    pub(super) fn is_stormy(&self) -> bool {
        let calm = self.options.duration.saturating_sub(self.options.quiet);
        self.now < calm.as_micros() as u64
    }

    pub(super) fn index_of(&self, author: &Author) -> Option<usize> {
        self.nodes.iter().position(|node| node.author == *author)
    }

    pub(super) fn is_honest(&self, node: usize) -> bool {
        self.liars[node].is_none()
    }

    /// How far the run is.
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// What happened so far.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The books of the run.
    pub fn checker(&self) -> &Checker {
        &self.checker
    }

    /// Steps that a validator's cores have taken, over all its lives.
    pub fn steps(&self, node: usize) -> u64 {
        self.nodes[node].steps
    }

    /// Liveness, after the quiet part: `None` if all is well.
    pub fn unfinished(&self) -> Option<Violation> {
        self.late(Only::Everything)
    }

    /// What should have ended by now.
    fn late(&self, only: Only) -> Option<Violation> {
        let finalised = self.checker.finalised().len() as u64;
        // Whoever left may follow no longer than content is kept, and has to catch up when it joins.
        let bound = |index: &usize| self.is_honest(*index) && self.has_joined(*index);
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| bound(index)) {
            let found = match &node.running {
                None => Some("it is down".to_owned()),
                Some(running) => {
                    let status = running.sequencer.status();
                    let behind = finalised - node.host.executed;
                    let late = behind > 8;
                    let stuck = self.checker.stuck(index, self.now);
                    // Tiny windows of peers that keep batches for long open only after that.
                    let largest = self.bounds.batch_bytes;
                    let waits = status.windows.iter().any(|window| {
                        window.used.bytes + largest > window.granted.bytes
                            || window.used.batches >= window.granted.batches
                    });
                    let stuck = if waits { 0 } else { stuck };
                    let own = status.proofs + status.outstanding_batches + status.pool_transactions;
                    let left = only >= Only::Own && !waits && own > 0;
                    let left = left || only == Only::Everything && !waits && status.in_progress > 0;
                    let found = (late || left || stuck > 0).then(|| {
                        format!(
                            "{behind} commits behind, {} fetches, {} proofs, {} own batches, \
                             {} transactions in progress, \
                             {stuck} of them stuck, busy {:?}, epoch {:?} {}",
                            status.fetches,
                            status.proofs,
                            status.outstanding_batches,
                            status.in_progress,
                            status.busy,
                            status.epoch,
                            status.epoch_phase
                        )
                    });
                    found.or_else(|| self.indexers_behind(index))
                }
            };
            if let Some(detail) = found {
                let detail = format!("node {index}: {detail}");
                return Some(Violation { property: "everything ends once faults stop", detail });
            }
        }
        if self.checker.versions_differ() {
            let detail = format!("{:?}", self.checker.last_states);
            return Some(Violation { property: "everybody skips the same", detail });
        }
        let forgotten = self.checker.forgotten();
        (!forgotten.is_empty()).then(|| Violation {
            property: "accepted transactions are executed or expire",
            detail: format!("{forgotten:?}"),
        })
    }
}
