//! The driver: one task that owns the sequencer and gives it one input after the other.
//!
//! Completions and loopback are read first, then votes and proofs, then batches and submissions; a
//! full open group stops the last, and a group of twice that size everything but completions.
//! Whenever the writer is free and the open group holds anything, the writer gets it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::egress::{self, Sender};
use super::epochs::View;
use super::error::{Part, StopCause};
use super::faults::{Faults, broken};
use super::ingress::{Inboxed, Inboxes};
use super::metrics::Queued;
use super::serve::{Job, Jobs};
use super::shared::{Cached, Shared};
use super::source::Puller;
use super::writer::Written;
use crate::sequencer::Sequencer;
use crate::sequencer::port::{Effect, Input, Refusal};
use crate::store::Group;
use crate::transport::{Peer, Refusal as LinkRefusal};
use crate::types::message::FETCH_DIGESTS_MAX;
use crate::types::{Author, Digest, Hello, Message};

/// Inputs taken between two looks at the writer.
const INPUTS_PER_TURN: usize = 64;
/// How often gauges and the windows of hellos are brought up to date.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(200);

/// The queues that the driver reads.
pub(super) struct Queues {
    pub written: mpsc::Receiver<Written>,
    pub loopback: mpsc::Receiver<Input>,
    pub control: mpsc::Receiver<Inboxed>,
    pub bulk: mpsc::Receiver<Inboxed>,
}

impl Queues {
    /// The receivers, and the senders of the inboxes.
    pub fn new(
        written: mpsc::Receiver<Written>,
        loopback: mpsc::Receiver<Input>,
        inbox: usize,
    ) -> (Self, Inboxes) {
        let (control_sender, control) = mpsc::channel(inbox);
        let (bulk_sender, bulk) = mpsc::channel(inbox);
        let inboxes = Inboxes { control: control_sender, bulk: bulk_sender };
        (Self { written, loopback, control, bulk }, inboxes)
    }
}

/// What a turn takes from the queues.
enum Turn {
    Written(Written),
    Input(Input),
    Stop,
}

/// See the module docs.
pub(super) struct Driver {
    pub shared: Arc<Shared>,
    pub sender: Sender,
    pub sequencer: Sequencer,
    pub queues: Queues,
    /// Takes one group at a time.
    pub writer: mpsc::Sender<Group>,
    pub jobs: Arc<Jobs>,
    pub puller: Puller,
    /// Counts faults that only the sequencer sees.
    pub offence: Box<dyn Fn(Author) + Send>,
    pub group_bytes_max: u64,
    pub faults: Arc<Faults>,
    /// Taken before anything else: links that are up already.
    pub first: Vec<Input>,
    pub writing: bool,
    pub observed: Option<Instant>,
}

impl Driver {
    /// Runs until told to stop, the store fails or the sequencer breaks.
    pub async fn run(mut self) {
        if let Some(cause) = self.drive().await {
            self.faults.report(cause);
        }
        // The group in flight finishes and its promises leave; the open one is dropped.
        while self.writing {
            match self.queues.written.recv().await {
                Some(written) => self.note(&written),
                None => break,
            }
        }
    }

    /// Why it ends by itself, if it does.
    async fn drive(&mut self) -> Option<StopCause> {
        for input in std::mem::take(&mut self.first) {
            if let Err(cause) = self.step(input) {
                return Some(cause);
            }
        }
        self.flush();
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(timer);
        loop {
            let deadline = self.sequencer.next_deadline().unwrap_or(OBSERVE_INTERVAL);
            timer.as_mut().reset((self.shared.started + deadline).into());
            let (takes_bulk, takes_control) = self.takes();
            let turn = tokio::select! {
                biased;
                () = self.faults.stop.cancelled() => Turn::Stop,
                written = self.queues.written.recv() => written.map_or(Turn::Stop, Turn::Written),
                Some(input) = self.queues.loopback.recv() => Turn::Input(input),
                Some(boxed) = self.queues.control.recv(), if takes_control => {
                    Turn::Input(boxed.input)
                }
                Some(boxed) = self.queues.bulk.recv(), if takes_bulk => Turn::Input(boxed.input),
                () = &mut timer => Turn::Input(Input::Tick),
            };
            let stepped = match turn {
                Turn::Stop => return None,
                Turn::Written(Written::Failed(error)) => {
                    self.note(&Written::Failed(error.clone()));
                    tracing::error!(%error, "the store failed; nothing is signed any more");
                    return Some(StopCause::Storage(error));
                }
                Turn::Written(written) => self.on_written(&written),
                Turn::Input(input) => self.step(input),
            };
            let stepped = stepped.and_then(|()| self.take_ready());
            if let Err(cause) = stepped {
                return Some(cause);
            }
            self.flush();
        }
    }

    /// Takes what is ready, without waiting, so that a group gathers what arrived together.
    fn take_ready(&mut self) -> Result<(), StopCause> {
        for _ in 0..INPUTS_PER_TURN {
            let (takes_bulk, takes_control) = self.takes();
            if let Ok(input) = self.queues.loopback.try_recv() {
                self.step(input)?;
            } else if takes_control && let Ok(boxed) = self.queues.control.try_recv() {
                self.step(boxed.input)?;
            } else if takes_bulk && let Ok(boxed) = self.queues.bulk.try_recv() {
                self.step(boxed.input)?;
            } else {
                break;
            }
        }
        Ok(())
    }

    /// Whether batches, and whether votes and proofs, are taken now.
    fn takes(&self) -> (bool, bool) {
        (!self.sequencer.is_full(), self.sequencer.open_bytes() < 2 * self.group_bytes_max)
    }

    fn on_written(&mut self, written: &Written) -> Result<(), StopCause> {
        self.note(written);
        match written {
            Written::Durable { sequence, .. } => self.step(Input::Durable { sequence: *sequence }),
            Written::Failed(_) => Ok(()),
        }
    }

    fn note(&mut self, written: &Written) {
        self.writing = false;
        self.shared.metrics.groups.written(written);
    }

    /// One step; a broken invariant ends the sequencer as a whole, and the host sees the cause.
    fn step(&mut self, input: Input) -> Result<(), StopCause> {
        let now = self.shared.now();
        let sequencer = &mut self.sequencer;
        let name = input.name();
        catch_unwind(AssertUnwindSafe(|| sequencer.step(now, input))).map_err(|panic| {
            tracing::error!(input = name, "the sequencer broke an invariant");
            broken(Part::Sequencer, &*panic)
        })
    }

    /// Hands out what the steps brought about.
    fn flush(&mut self) {
        if !self.writing
            && let Some(group) = self.sequencer.take_group()
        {
            // The writer holds one group at most and told us that it is free; if it is gone, its
            // failure is in the queue of what was written.
            self.writing = self.writer.try_send(group).is_ok();
        }
        self.follow_epoch();
        self.follow_evidence();
        let mut wanted = BTreeMap::new();
        while let Some(effect) = self.sequencer.poll_effect() {
            match effect {
                Effect::Send { to, message: Message::FetchRequest(digests) } => {
                    self.request(to, digests, &mut wanted);
                }
                other => self.carry_out(other),
            }
        }
        for (to, digests) in wanted {
            self.sender.send([to], &Message::FetchRequest(digests));
        }
        // The bytes first: whoever wakes for the count looks at them.
        show(&self.shared.proposable_bytes, self.sequencer.proposable_bytes());
        show(&self.shared.proposable, self.sequencer.proposable());
        show(&self.shared.pressure, self.sequencer.pressure());
        self.observe();
    }

    /// Asks a peer for content, together with what the other steps of this turn ask it for.
    fn request(
        &self,
        to: Author,
        digests: Vec<Digest>,
        wanted: &mut BTreeMap<Author, Vec<Digest>>,
    ) {
        self.shared.metrics.fetching.requests.inc_by(digests.len() as u64);
        let together = wanted.entry(to).or_default();
        if together.len() + digests.len() > FETCH_DIGESTS_MAX {
            let full = std::mem::take(together);
            self.sender.send([to], &Message::FetchRequest(full));
        }
        together.extend(digests);
    }

    /// Shows what is skipped from now on to whoever executes, before any answer of the step that
    /// brought it about.
    fn follow_evidence(&mut self) {
        let skips = self.sequencer.skips();
        if !Arc::ptr_eq(&self.shared.skips(), skips) {
            tracing::warn!(contents = skips.len(), "evidence is committed that content is gone");
            self.shared.skips.send_replace(Arc::clone(skips));
        }
    }

    /// Shows a new membership to everybody, and keeps links with those whom it names. Comes before
    /// the effects of the step that brought it about.
    fn follow_epoch(&mut self) {
        let before = self.shared.view();
        if Arc::ptr_eq(&before.membership, self.sequencer.membership()) {
            return;
        }
        let view = View::of(self.shared.chain, &self.sequencer);
        let transport = &self.sender.transport;
        let known: BTreeMap<_, _> =
            transport.links().into_iter().map(|link| (link.peer, link.address)).collect();
        let peers = {
            let told = self.shared.addresses();
            let peer = |key: &Author| {
                let address = told.get(key).or_else(|| known.get(key)).copied()?;
                Some(Peer { key: *key, address })
            };
            view.peers.iter().filter_map(peer).collect()
        };
        tracing::info!(epoch = view.epoch().0, peers = view.peers.len(), "serving");
        let disagrees = |(peer, hello): (&Author, &Hello)| (!view.agrees(hello)).then_some(*peer);
        let refused: Vec<_> = self.shared.hellos().iter().filter_map(disagrees).collect();
        self.shared.metrics.links.know(view.peers.iter().copied());
        self.shared.show(view);
        transport.set_peers(peers);
        for peer in refused {
            tracing::warn!(%peer, "link closed: the peer has another committee for this epoch");
            self.shared.metrics.links.refused(&peer, true, LinkRefusal::CommitteeMismatch);
            transport.refuse(peer, LinkRefusal::CommitteeMismatch);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                let asked = match &message {
                    Message::ChunkRequest(chunks) => chunks.len(),
                    _ => 0,
                };
                self.shared.metrics.fetching.requests.inc_by(asked as u64);
                self.sender.send([to], &message);
            }
            Effect::Multicast { to, message } => {
                if let Message::Batch(batch) = &message {
                    // Execution will want it soon; what arrives from peers is cached by ingress.
                    let digest = batch.info.digest(&self.shared.chain);
                    self.shared.contents.insert(digest, Cached::Batch(batch.clone()));
                }
                self.sender.send(to, &message);
            }
            Effect::Resend { to, digest } => {
                self.shared.metrics.messages.resends.inc_by(to.len() as u64);
                if self.jobs.push_own(Job::Resend { to, digest }).is_err() {
                    self.shared.metrics.messages.refused("serve_queue_full");
                }
            }
            Effect::Push { to, digest } => {
                self.shared.metrics.fetching.pushes.inc();
                if self.jobs.push_own(Job::Push { to, digest }).is_err() {
                    self.shared.metrics.messages.refused("serve_queue_full");
                }
            }
            Effect::Reply { id, reply } => self.shared.replies.answer(id, reply),
            Effect::Measured(measurement) => self.shared.metrics.measured(measurement),
            Effect::Event(event) => egress::publish(&self.shared, event),
            Effect::PullTransactions(limits) => self.puller.pull(limits),
            Effect::InProgress { entered, left } => self.shared.excluded.change(&entered, &left),
            Effect::SourceRefused(refused) => {
                self.shared.metrics.source.refused(&refused);
                self.puller.refused(refused);
            }
            Effect::Refused { peer, reason } => {
                self.shared.metrics.messages.refused(&reason.to_string());
                if reason == Refusal::Equivocation {
                    tracing::warn!(%peer, "a second batch in one slot: its author equivocates");
                }
                if reason.is_fault() {
                    (self.offence)(peer);
                }
            }
        }
    }

    /// Brings what others look at up to date, now and then.
    fn observe(&mut self) {
        let now = Instant::now();
        if self.observed.is_some_and(|last| now.duration_since(last) < OBSERVE_INTERVAL) {
            return;
        }
        self.observed = Some(now);
        let announcement = self.sequencer.announcement();
        let stored = |peer| (peer, self.sequencer.stored_of(&peer));
        let stored = self.sequencer.peers().map(stored).collect();
        *self.shared.grants.write().unwrap_or_else(PoisonError::into_inner) =
            super::shared::Grants { announcement, stored };
        let status = self.sequencer.status();
        let queued = Queued {
            control: self.queues.control.len(),
            bulk: self.queues.bulk.len(),
            loopback: self.queues.loopback.len(),
        };
        let metrics = &self.shared.metrics;
        metrics.state.observe(&status, &queued);
        metrics.admission.observe(&status.pressure);
        metrics.followers.observe(&status);
        metrics.epochs.observe(&status);
        metrics.collecting.observe(&status);
        metrics.source.observe(&status);
        metrics.fetching.observe(&status);
        metrics.optimism.observe(&status);
        metrics.links.observe_windows(&status.windows);
        metrics.links.observe_links(&self.sender.transport.links());
    }
}

/// Wakes whoever follows a value, if it has changed.
fn show<T: PartialEq>(seen: &watch::Sender<T>, value: T) {
    seen.send_if_modified(|current| {
        let changed = *current != value;
        *current = value;
        changed
    });
}
