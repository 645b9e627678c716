//! Ingress: bytes from outside become inputs, in parallel, or are refused and counted.
//!
//! Worker threads take turns at the transport's events. Each frame is decoded, hashed and has its
//! signatures checked here, so the sequencer sees only what is what it says it is. What cannot be
//! decoded closes the link; what decodes and is invalid is counted, and closes the link after
//! `invalid_per_minute_max` in a minute. The frame's receive budget is held until the sequencer
//! has taken the input.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::egress::Sender;
use super::error::Part;
use super::faults::Faults;
use super::filter::{self, Filtered};
use super::serve::{self, Asked, Job, Jobs};
use super::shared::{Cached, Shared};
use super::signers::Signers;
use super::verify;
use crate::sequencer::port::{Input, NoContent, Refusal as CoreRefusal, TransactionKey};
use crate::transport::{
    Handshake, Inbound, LinkDown, LinkEvent, ReceivePermit, Refusal, Transport,
};
use crate::types::{
    AbsenceAnswer, AbsenceStatement, Announcement, Author, Batch, CommitIndex, DecodeError, Digest,
    FetchedContent, Hello, InvalidPayload, Message, Payload, ProofOfStore, Scope, SignedAbsence,
    SignedBatchInfo, Vote,
};

/// An input with the receive budget that it occupies until the sequencer has taken it.
#[derive(Debug)]
pub(super) struct Inboxed {
    pub input: Input,
    #[expect(dead_code, reason = "held for its drop")]
    pub permit: Option<Arc<ReceivePermit>>,
}

impl Inboxed {
    /// An input of the host.
    pub fn of_host(input: Input) -> Self {
        Self { input, permit: None }
    }
}

/// The two inboxes of the sequencer: votes and proofs never wait behind batches. Content that was
/// asked for goes with them: it is bounded by what is in flight, and whoever executes waits for it.
#[derive(Clone)]
pub(super) struct Inboxes {
    pub control: mpsc::Sender<Inboxed>,
    pub bulk: mpsc::Sender<Inboxed>,
}

/// The handshake of the engine: same chain, same version, and for an epoch that both know the same
/// committee. A peer may be an epoch ahead or behind: links live through an epoch's end.
pub(super) struct Judge {
    pub shared: Arc<Shared>,
}

impl Handshake for Judge {
    fn hello(&self, to: Author) -> Bytes {
        self.shared.hello(to).encode()
    }

    fn judge(&self, peer: Author, hello: &[u8]) -> Result<(), Refusal> {
        let verdict = self.check(peer, hello);
        if let Err(reason) = verdict {
            self.shared.metrics.links.refused(&peer, true, reason);
        }
        verdict
    }
}

impl Judge {
    fn check(&self, peer: Author, hello: &[u8]) -> Result<(), Refusal> {
        let hello = Hello::decode(hello).map_err(|error| refusal_of(&error))?;
        if hello.chain != self.shared.chain {
            tracing::warn!(%peer, "link refused: the peer is on another chain");
            return Err(Refusal::ChainMismatch);
        }
        if !self.shared.view().agrees(&hello) {
            tracing::warn!(%peer, "link refused: the peer has another committee");
            return Err(Refusal::CommitteeMismatch);
        }
        Ok(())
    }
}

fn refusal_of(error: &DecodeError) -> Refusal {
    match error {
        DecodeError::Version { .. } => Refusal::Version,
        DecodeError::Oversized { .. } => Refusal::Oversized,
        _ => Refusal::Malformed,
    }
}

/// Invalid messages per peer, in the current minute of each.
#[derive(Default)]
struct Offences {
    peers: HashMap<Author, (Instant, u32)>,
}

impl Offences {
    /// Counts one; true if it is one too many.
    fn count(&mut self, peer: Author, bound: u32) -> bool {
        let now = Instant::now();
        let entry = self.peers.entry(peer).or_insert((now, 0));
        if now.duration_since(entry.0) > Duration::from_mins(1) {
            *entry = (now, 0);
        }
        entry.1 += 1;
        if entry.1 > bound {
            *entry = (now, 0);
            return true;
        }
        false
    }
}

/// What every worker needs.
pub(super) struct Ingress {
    pub shared: Arc<Shared>,
    pub transport: Arc<dyn Transport>,
    pub inboxes: Inboxes,
    pub jobs: Arc<Jobs>,
    sender: Sender,
    pub invalid_per_minute_max: u32,
    faults: Arc<Faults>,
    offences: Mutex<Offences>,
    signers: Mutex<Signers>,
}

impl Ingress {
    pub fn new(
        inboxes: Inboxes,
        jobs: Arc<Jobs>,
        sender: Sender,
        invalid_per_minute_max: u32,
        faults: Arc<Faults>,
    ) -> Self {
        let (offences, signers) = (Mutex::default(), Mutex::default());
        let (shared, transport) = (Arc::clone(&sender.shared), Arc::clone(&sender.transport));
        Self {
            shared,
            transport,
            inboxes,
            jobs,
            sender,
            invalid_per_minute_max,
            faults,
            offences,
            signers,
        }
    }

    /// Starts the workers, inside a tokio runtime. They end when told to stop, or when the
    /// transport's events end.
    pub fn start(
        this: &Arc<Self>,
        workers: usize,
        events: &Arc<Mutex<mpsc::Receiver<LinkEvent>>>,
    ) -> std::io::Result<Vec<JoinHandle<()>>> {
        let runtime = Handle::current();
        let worker = |index| {
            let (ingress, events) = (Arc::clone(this), Arc::clone(events));
            let runtime = runtime.clone();
            std::thread::Builder::new().name(format!("qs-ingress-{index}")).spawn(move || {
                ingress.faults.guard(Part::Ingress, || ingress.work(&runtime, &events));
            })
        };
        (0..workers).map(worker).collect()
    }

    fn work(&self, runtime: &Handle, events: &Mutex<mpsc::Receiver<LinkEvent>>) {
        loop {
            let event = {
                let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = self.faults.stop.cancelled() => None,
                        event = events.recv() => event,
                    }
                })
            };
            let kind = match &event {
                Some(LinkEvent::Frame(_)) => "frame",
                Some(LinkEvent::Up { .. }) => "up",
                _ => "down",
            };
            if event.is_some() {
                self.faults.tripwire.at("ingress", kind);
            }
            match event {
                None => return,
                Some(LinkEvent::Frame(frame)) => self.on_frame(frame),
                Some(LinkEvent::Up { peer, hello }) => match Hello::decode(&hello) {
                    Ok(hello) => {
                        self.shared.hellos().insert(peer, hello);
                        self.control(Input::LinkUp { peer, hello }, None);
                    }
                    Err(error) => self.refuse(peer, refusal_of(&error)),
                },
                Some(LinkEvent::Down { peer, reason }) => {
                    tracing::info!(%peer, %reason, "link down");
                    if let LinkDown::RefusedByPeer(reason) = reason {
                        self.shared.metrics.links.refused(&peer, false, reason);
                    }
                    self.shared.hellos().remove(&peer);
                    self.control(Input::LinkDown { peer }, None);
                }
            }
        }
    }

    fn on_frame(&self, frame: Inbound) {
        let peer = frame.peer;
        let (bytes, permit) = frame.into_parts();
        let message = match Message::decode(&bytes) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%peer, %error, "link closed: a message that cannot be decoded");
                self.shared.metrics.messages.invalid("decode");
                self.refuse(peer, refusal_of(&error));
                return;
            }
        };
        let kind = message.kind_name();
        self.shared.metrics.messages.received(kind, bytes.len());
        let permit = Some(Arc::new(permit));
        let valid = match message {
            Message::Batch(batch) => self.on_batch(peer, batch, permit),
            Message::Votes { announcement, votes } => {
                self.on_votes(peer, announcement, &votes, permit.as_ref())
            }
            Message::Proofs(proofs) => self.on_proofs(peer, proofs, permit.as_ref()),
            Message::Payload(payload) => self.on_proposal(peer, *payload, permit),
            Message::Serving(epoch) => {
                self.control(Input::Serving { from: peer, epoch }, permit);
                true
            }
            Message::Announce(announcement) => {
                self.control(Input::Announce { from: peer, announcement }, permit);
                true
            }
            Message::FetchRequest(digests) => {
                let asked = digests.into_iter().map(|digest| Asked { digest, chunks: Vec::new() });
                self.on_request(peer, asked.collect(), permit);
                true
            }
            Message::ChunkRequest(chunks) => {
                self.on_request(peer, Asked::by_digest(chunks), permit);
                true
            }
            Message::AbsenceRequest { index, digest } => {
                self.control(Input::AbsenceRequest { from: peer, index, digest }, permit);
                true
            }
            Message::Absence { index, digest, answer } => {
                self.on_absence(peer, index, digest, answer, permit)
            }
            Message::FetchReply { digest, content } => self.on_reply(peer, digest, content, permit),
        };
        if !valid {
            self.shared.metrics.messages.invalid(kind);
            self.offence(peer);
        }
    }

    /// Counts an invalid message against a peer.
    pub fn offence(&self, peer: Author) {
        let mut offences = self.offences.lock().unwrap_or_else(PoisonError::into_inner);
        if offences.count(peer, self.invalid_per_minute_max) {
            tracing::warn!(%peer, "link closed: too many invalid messages");
            self.refuse(peer, Refusal::Abuse);
        }
    }

    fn refuse(&self, peer: Author, reason: Refusal) {
        self.shared.metrics.links.refused(&peer, true, reason);
        self.transport.refuse(peer, reason);
    }

    fn signers(&self) -> MutexGuard<'_, Signers> {
        self.signers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a check and notes how long it took.
    fn timed<T>(&self, kind: &str, check: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let found = check();
        self.shared.metrics.messages.verified(kind, began);
        found
    }

    fn on_batch(&self, from: Author, batch: Batch, permit: Option<Arc<ReceivePermit>>) -> bool {
        if batch.info.author != from || !self.is_valid(&batch) {
            return false;
        }
        let digest = batch.info.digest(&self.shared.chain);
        if batch.info.epoch == self.shared.view().epoch() {
            self.shared.contents.insert(digest, Cached::Batch(batch.clone()));
        }
        if let Some(filter) = &self.shared.hooks.filter
            && let Err(Filtered(reason)) = filter::batch(&**filter, &batch)
        {
            tracing::debug!(peer = %from, reason, "not signed for: the host's filter refuses it");
            self.shared.metrics.messages.refused(&CoreRefusal::Filtered.to_string());
            return true;
        }
        let keys = self.shared.hooks.source.as_ref().map(|_| {
            let keys = batch.body.slices().map(TransactionKey::of);
            keys.collect()
        });
        self.bulk(Input::Batch { from, digest, batch }, permit.clone());
        if let Some(keys) = keys {
            self.bulk(Input::Seen { digest, keys }, permit);
        }
        true
    }

    fn is_valid(&self, batch: &Batch) -> bool {
        self.timed("batch", || batch.body.verify(&batch.info, &self.shared.parameters).is_ok())
    }

    fn on_votes(
        &self,
        peer: Author,
        announcement: Announcement,
        votes: &[Vote],
        permit: Option<&Arc<ReceivePermit>>,
    ) -> bool {
        self.control(Input::Announce { from: peer, announcement }, permit.cloned());
        let view = self.shared.view();
        for (at, vote) in votes.iter().enumerate() {
            if !self.signers().may_look(&peer, self.shared.started.elapsed()) {
                // Nothing is lost for good: who has not signed is asked again.
                let unread = (votes.len() - at) as u64;
                self.shared.metrics.collecting.unread.inc_by(unread);
                return true;
            }
            let Vote { digest, signature } = *vote;
            let signed = SignedBatchInfo { digest, signer: peer, signature };
            let verifies = |scope: &Scope| self.shared.signer.verify_batch(scope, &signed);
            if self.timed("votes", || verifies(&view.scope)) {
                self.control(Input::Vote(signed), permit.cloned());
            } else if !view.former().any(verifies) {
                self.signers().on_bad_signature(peer, self.shared.started.elapsed());
                self.control(Input::BadVote { from: peer }, permit.cloned());
                return false;
            }
            // Else a vote for a batch of a former epoch, on its way when that ended.
        }
        true
    }

    fn on_proofs(
        &self,
        from: Author,
        proofs: Vec<ProofOfStore>,
        permit: Option<&Arc<ReceivePermit>>,
    ) -> bool {
        let view = self.shared.view();
        for proof in proofs {
            match proof.info.epoch.cmp(&view.epoch()) {
                Ordering::Equal => {}
                // Of a former epoch: it can be proposed no more.
                Ordering::Less => continue,
                Ordering::Greater => {
                    self.control(Input::Ahead { from }, permit.cloned());
                    return true;
                }
            }
            if self.timed("proofs", || verify::proof(&self.shared, &view, &proof)).is_err() {
                return false;
            }
            let digest = proof.info.digest(&self.shared.chain);
            let input = Input::Proof { digest, proof: Arc::new(proof) };
            self.control(input, permit.cloned());
        }
        true
    }

    /// A payload that nobody asked for.
    fn on_proposal(
        &self,
        from: Author,
        payload: Payload,
        permit: Option<Arc<ReceivePermit>>,
    ) -> bool {
        if payload.header.epoch > self.shared.view().epoch() {
            self.control(Input::Ahead { from }, permit);
            return true;
        }
        self.on_payload(from, payload, permit)
    }

    fn on_payload(
        &self,
        from: Author,
        payload: Payload,
        permit: Option<Arc<ReceivePermit>>,
    ) -> bool {
        let digest = payload.digest(&self.shared.chain);
        if payload.content.root() != payload.header.content_root {
            return false;
        }
        let view = self.shared.view();
        let verdict = self.timed("payload", || verify::payload(&self.shared, &view, &payload));
        let valid = verdict.is_ok();
        // One of another epoch is no offence: it may have been asked for, or be late.
        let offends = !valid && !matches!(verdict, Err(InvalidPayload::Epoch { .. }));
        let batches = payload.content.batches().map(|info| info.digest(&self.shared.chain));
        let batches = batches.collect();
        let payload = Arc::new(payload);
        if valid {
            self.shared.contents.insert(digest, Cached::Payload(Arc::clone(&payload)));
        }
        self.control(Input::Payload { from, digest, payload, batches, verdict }, permit);
        !offends
    }

    fn on_absence(
        &self,
        from: Author,
        index: CommitIndex,
        digest: Digest,
        answer: AbsenceAnswer,
        permit: Option<Arc<ReceivePermit>>,
    ) -> bool {
        if let AbsenceAnswer::Signed { epoch, reason, signature } = answer {
            // Of an epoch that is not known here: late, or from a validator ahead.
            let Some(scope) = self.shared.view().scope_of(epoch) else { return true };
            let statement = AbsenceStatement { epoch, index, digest, reason };
            let signed = SignedAbsence { statement, signer: from, signature };
            let verifies = || self.shared.signer.verify_absence(&scope, &signed);
            if !self.timed("absence", verifies) {
                return false;
            }
        }
        self.control(Input::Absence { from, index, digest, answer }, permit);
        true
    }

    fn on_reply(
        &self,
        from: Author,
        digest: Digest,
        content: FetchedContent,
        permit: Option<Arc<ReceivePermit>>,
    ) -> bool {
        let held = permit.clone();
        let valid = match content {
            FetchedContent::Absent(reason) => {
                self.shared.metrics.fetching.absent.inc();
                let answer = NoContent::Absent(reason);
                self.control(Input::NoContent { from, digest, answer }, permit);
                true
            }
            FetchedContent::Busy(millis) => {
                self.shared.metrics.fetching.busy.inc();
                let answer = NoContent::Busy(Duration::from_millis(millis.into()));
                self.control(Input::NoContent { from, digest, answer }, permit);
                true
            }
            FetchedContent::Batch(batch) => {
                let valid =
                    batch.info.digest(&self.shared.chain) == digest && self.is_valid(&batch);
                if valid {
                    self.shared.metrics.fetching.bytes.inc_by(u64::from(batch.info.bytes));
                    self.control(Input::FetchedBatch { from, digest, batch }, permit);
                }
                valid
            }
            FetchedContent::Chunk(chunk) => {
                let valid = chunk.info.digest(&self.shared.chain) == digest
                    && self.timed("chunk", || chunk.verify().is_ok());
                if valid {
                    self.shared.metrics.fetching.bytes.inc_by(chunk.bytes.len() as u64);
                    self.control(Input::FetchedChunk { from, digest, chunk }, permit);
                }
                valid
            }
            FetchedContent::Payload(payload) => {
                payload.digest(&self.shared.chain) == digest
                    && self.on_payload(from, *payload, permit)
            }
        };
        if !valid {
            self.shared.metrics.fetching.wrong.inc();
            self.control(Input::NoContent { from, digest, answer: NoContent::Wrong }, held);
        }
        valid
    }

    fn on_request(&self, peer: Author, asked: Vec<Asked>, permit: Option<Arc<ReceivePermit>>) {
        if let Err(Job::Serve { asked, .. }) = self.jobs.push(peer, Job::Serve { asked, permit }) {
            serve::refuse(&self.sender, peer, &asked);
        }
    }

    fn control(&self, input: Input, permit: Option<Arc<ReceivePermit>>) {
        // Closed means that the engine is stopping: nothing is lost that anybody waits for.
        let _ = self.inboxes.control.blocking_send(Inboxed { input, permit });
    }

    /// A full bulk inbox means that the sequencer waits for the disk; the batch is dropped and
    /// counted, and its author sends it again. Blocking here would hold up votes.
    fn bulk(&self, input: Input, permit: Option<Arc<ReceivePermit>>) {
        if self.inboxes.bulk.try_send(Inboxed { input, permit }).is_err() {
            self.shared.metrics.messages.refused("inbox_full");
        }
    }
}
