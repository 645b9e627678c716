//! Any list of inputs to the production sequencer, beside a naive model.
//!
//! Claims, whatever peers and the host do, and wherever the validator dies: no panic; a batch is
//! admitted if and only if the model admits it; at most one digest per slot is ever signed, and
//! only while it is on disk; windows hold on both sides; own ids are reserved durably and used
//! once; proofs hold votes of a quorum, each real and once; commits and receipts are gapless and as
//! the model judges them; content that a subscriber needs stays; every request is answered at most
//! once, truthfully and after its records, and what can be answered is; a source is asked once at a
//! time and only with room, and what is in progress enters and leaves in turns.

mod disk;
mod ledger;
mod making;
mod model;
mod operations;
mod source;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary as _, Unstructured};
use bytes::Bytes;
use quorum_store::sequencer::Sequencer;
use quorum_store::sequencer::port::{
    Input, NoContent, Now, ParentOf, PayloadLimits, PullRequest, Refusal, RequestId, Transaction,
    VerifyRequest, Wanted,
};
use quorum_store::store::memory::MemoryStore;
use quorum_store::store::{Group, Store as _};
use quorum_store::testkit::fuzzing;
use quorum_store::types::{
    AbsentReason, Announcement, Author, Batch, Commit, CommitIndex, CommitteeHash, Digest, Epoch,
    Hello, Incarnation, InvalidPayload, PayloadHeader, Signature, SignedBatchInfo, Timestamp,
    Usage,
};

use self::model::{Asked, Known, Model, Peer, Verdict};
use self::operations::{Case, Operation};
use self::source::Source;
use crate::world::chain;
use crate::{samples, world};

const ME: u8 = 0;

/// See the module docs.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary(&mut Unstructured::new(data)) else { return };
    let mut run = Run::new(case.eager);
    if case.warm {
        for peer in 1..world::MEMBERS {
            run.operate(&Operation::LinkUp { peer: peer - 1, window: 255 });
        }
        run.settle();
    }
    for operation in case.operations.iter().take(200) {
        run.operate(operation);
    }
    run.drain();
}

struct Run {
    eager: bool,
    sequencer: Sequencer,
    store: MemoryStore,
    now: Now,
    /// Taken and not written, oldest first; more than one only if eager.
    in_flight: Vec<Group>,
    requests: u64,
    model: Model,
    source: Source,
    /// In the order in which they were seen.
    batches: Vec<Digest>,
    headers: Vec<PayloadHeader>,
    /// What the last step refused.
    refused: Option<Refusal>,
}

impl Run {
    fn new(eager: bool) -> Self {
        let genesis = world::genesis();
        let mut store = MemoryStore::new(world::author(ME), chain(), Incarnation(7));
        let now = world::start();
        let sequencer = recover(&mut store, now);
        let peers = (1..world::MEMBERS).map(|peer| (world::author(peer), Peer::default()));
        let model = Model { admits: true, peers: peers.collect(), ..Model::default() };
        let headers = vec![genesis.header()];
        let (in_flight, batches) = (Vec::new(), Vec::new());
        let (requests, refused) = (0, None);
        let mut run = Self {
            eager,
            sequencer,
            store,
            now,
            in_flight,
            requests,
            model,
            source: Source::default(),
            batches,
            headers,
            refused,
        };
        run.settle();
        run
    }

    // ---- operations ----------------------------------------------------------------------------

    fn operate(&mut self, operation: &Operation) {
        match *operation {
            Operation::LinkUp { peer, window } => self.link_up(peer_of(peer), window),
            Operation::LinkDown { peer } => {
                let peer = peer_of(peer);
                self.peer(peer).linked = false;
                self.step(Input::LinkDown { peer });
            }
            Operation::Announce { peer, window, released } => {
                let released = Timestamp(world::START + 50_000 * u64::from(released));
                let announcement = Announcement { window: granted(window), released };
                let from = peer_of(peer);
                self.announced(from, announcement);
                self.step(Input::Announce { from, announcement });
            }
            Operation::Batch { from, batch } => {
                let batch = self.make_batch(batch);
                // Mostly over its author's link.
                let from = if from < 230 { batch.info.author } else { peer_of(from) };
                self.give_batch(from, &batch);
            }
            Operation::BatchAgain { from, which } => {
                let Some(digest) = pick(&self.batches, which) else { return };
                let batch = self.model.batches[&digest].clone();
                let from = if from < 230 { batch.info.author } else { peer_of(from) };
                self.give_batch(from, &batch);
            }
            Operation::Vote { signer, which } => {
                let digest = self.own_batch(which).unwrap_or(Digest([which; 32]));
                self.vote(signer % world::MEMBERS, digest);
            }
            Operation::Proof { which } => {
                let Some(digest) = pick(&self.batches, which) else { return };
                let proof = Arc::new(samples::proof(self.model.batches[&digest].info, 3));
                self.step(Input::Proof { digest, proof });
            }
            Operation::Payload { from, ref payload } => {
                let digest = self.make_payload(payload);
                // Some exist and have not arrived.
                if from < 160 {
                    self.give_payload(peer_of(from), digest);
                }
            }
            Operation::PayloadAgain { from, which } => {
                let digest = self.header(which).digest(&chain());
                self.give_payload(peer_of(from), digest);
            }
            Operation::FetchedBatch { from, which } => {
                let Some(digest) = pick(&self.batches, which) else { return };
                let batch = self.model.batches[&digest].clone();
                let mut asked = self.model.asked.values();
                let wanted = asked.any(|asked| matches!(asked, Asked::Fetch(d, _) if *d == digest));
                let wanted = wanted && !self.is_cancelled_fetch(digest);
                self.step(Input::FetchedBatch { from: peer_of(from), digest, batch });
                // What was asked for and is wanted no more is late, and no offence either.
                let unasked = self.refused == Some(Refusal::Unasked);
                assert!(!wanted || !unasked, "asked for {digest:?}");
            }
            Operation::FetchMissing { from, which } => {
                let Some(digest) = pick(&self.batches, which) else { return };
                let answer = match from % 3 {
                    0 => NoContent::Absent(AbsentReason::NotHeld),
                    1 => NoContent::Busy(Duration::from_millis(u64::from(from))),
                    _ => NoContent::Wrong,
                };
                self.step(Input::NoContent { from: peer_of(from), digest, answer });
            }
            Operation::Submit { count, size, price, life } => self.submit(count, size, price, life),
            Operation::Pull { parent, height, later, limit, exclude } => {
                self.pull(self.header(parent), height, later, limit, exclude);
            }
            Operation::Verify { which, parent } => self.verify(which, parent),
            Operation::Commit { which, wrong } => {
                let mut header = self.header(which);
                let mut index = header.height;
                match wrong {
                    250 => index.0 = index.0.wrapping_add(1),
                    251 => header.block_timestamp.0 /= 2,
                    252 => header.parent.0[0] ^= 1,
                    253 => (header.height.0, index.0) = (u64::MAX, u64::MAX),
                    _ => {}
                }
                self.commit(Commit { index, round: u64::from(wrong), header });
            }
            Operation::OwnBatch { size, votes } => self.own_certified(size, votes),
            Operation::Block { later } => self.block(later),
            Operation::Fetch { which, deadline } => {
                let Some(digest) = pick(&self.batches, which) else { return };
                let deadline = self.now.monotonic + Duration::from_millis(u64::from(deadline) * 8);
                let holders = (1..world::MEMBERS).map(world::author).collect();
                let wanted = Wanted { digest, info: None, holders, commit: None };
                let asked = Asked::Fetch(digest, deadline);
                self.request(asked, |id| Input::Fetch { id, wanted, deadline });
            }
            Operation::Acknowledge { subscriber, next } => {
                let subscriber = name_of(subscriber);
                let next = CommitIndex(if next > 250 { u64::MAX } else { u64::from(next % 32) });
                self.step(Input::Acknowledge { subscriber, next });
            }
            Operation::Subscribe { subscriber, back } => {
                let next = self.model.applied.saturating_add(1).saturating_sub(u64::from(back % 8));
                self.subscribe(name_of(subscriber), CommitIndex(next));
            }
            Operation::Delivered { which, back } => {
                let Some(subscription) = self.subscription(which) else { return };
                let told = self.model.attached[&subscription].1.0;
                let next = match back {
                    0..240 => told.saturating_sub(u64::from(back % 4)),
                    _ => u64::MAX,
                };
                self.step(Input::Delivered { subscription, next: CommitIndex(next) });
            }
            Operation::Detach { which } => {
                let Some(subscription) = self.subscription(which) else { return };
                self.model.attached.remove(&subscription);
                self.model.detached.insert(subscription);
                self.step(Input::Detach { subscription });
            }
            Operation::Unsubscribe { subscriber } => {
                let subscriber = name_of(subscriber);
                self.request(Asked::Unsubscribe, |id| Input::Unsubscribe { id, subscriber });
            }
            Operation::Cancel { which } => {
                let ids: Vec<_> = self.model.asked.keys().copied().collect();
                let id = pick(&ids, which).unwrap_or(RequestId(u64::from(which)));
                self.model.cancelled.insert(id);
                self.step(Input::Cancel(id));
            }
            Operation::Write => self.take(),
            Operation::Written => self.written(),
            Operation::Crash { written } => self.crash(written),
            Operation::Space { admits } => {
                self.model.admits = admits;
                self.step(Input::Space { admits });
            }
            Operation::Status => self.request(Asked::Status, Input::Status),
            Operation::Advance { by } => self.advance(Duration::from_millis(u64::from(by) * 4)),
            Operation::WallJump { by } => {
                let micros = i64::from(by) * 20_000;
                self.now.wall = Timestamp(self.now.wall.0.saturating_add_signed(micros));
            }
            Operation::SourceReady => self.source_ready(),
            Operation::Transactions { count, size, price, life } => {
                self.source_answers(count, size, price, life);
            }
            Operation::Seen { which } => self.seen(which),
            Operation::BadVote { peer } => self.step(Input::BadVote { from: peer_of(peer) }),
        }
    }

    fn link_up(&mut self, peer: Author, window: u8) {
        let announcement = Announcement { window: granted(window), released: Timestamp(0) };
        self.announced(peer, announcement);
        self.peer(peer).linked = true;
        let (chain, committee) = (chain(), CommitteeHash::default());
        let holds = Usage::default();
        let hello = Hello { chain, epoch: Epoch(0), committee, announcement, holds };
        self.step(Input::LinkUp { peer, hello });
    }

    fn announced(&mut self, peer: Author, announcement: Announcement) {
        let peer = self.peer(peer);
        peer.window = announcement.window;
        peer.released = peer.released.max(announcement.released);
    }

    fn give_batch(&mut self, from: Author, batch: &Batch) {
        if from == world::author(ME) {
            // The transport links a validator with others only.
            return;
        }
        let digest = batch.info.digest(&chain());
        let stored = self.sequencer.stored_of(&batch.info.author);
        let verdict = self.model.admits(self.now, from, digest, &batch.info, stored);
        let batch = batch.clone();
        let info = batch.info;
        if verdict == Verdict::Admitted {
            self.model.claim(digest, &info);
        }
        if verdict != Verdict::Refused {
            self.model.unsigned.insert(digest);
        }
        self.step(Input::Batch { from, digest, batch });
        let refused = self.refused.is_some_and(model::is_of_batch);
        assert_eq!(refused, verdict == Verdict::Refused, "{info:?}: {:?}", self.refused);
    }

    fn vote(&mut self, signer: u8, digest: Digest) {
        let signature = Signature::from_bytes(&[signer; 64]);
        let signer = world::author(signer);
        self.model.votes.entry(digest).or_default().insert(signer);
        self.step(Input::Vote(SignedBatchInfo { digest, signer, signature }));
    }

    fn give_payload(&mut self, from: Author, digest: Digest) {
        let Some(Known { payload, batches, valid }) = self.model.payloads.get(&digest).cloned()
        else {
            return;
        };
        let verdict = if valid { Ok(()) } else { Err(InvalidPayload::TooLarge(1 << 30)) };
        self.step(Input::Payload { from, digest, payload, batches, verdict });
        let next = self.model.log_digests.get(self.model.applied as usize);
        assert_ne!(next, Some(&digest), "the next commit's content is here and not applied");
        self.check_undecided(digest);
    }

    /// A payload that is here leaves nobody waiting, but for the disk.
    fn check_undecided(&mut self, digest: Digest) {
        let waits = |asked: &Asked| matches!(asked, Asked::Verify(v) if v.digest == digest);
        let before: Vec<_> =
            self.model.asked.iter().filter(|(_, a)| waits(a)).map(|(id, _)| *id).collect();
        if before.is_empty() {
            return;
        }
        self.settle();
        let left = before
            .iter()
            .find(|id| self.model.asked.contains_key(id) && !self.model.cancelled.contains(id));
        assert_eq!(left, None, "{digest:?} is here, and whoever asked about it waits");
    }

    fn submit(&mut self, count: u8, size: u8, price: u8, life: u8) {
        let count = count % 6;
        let length = usize::from(size) + usize::from(size > 250);
        let bytes = |at: u8| vec![at ^ price; length];
        let transaction = |at| Transaction {
            bytes: Bytes::from(bytes(at)),
            gas_unit_price: u64::from(price),
            expiration: self.now.wall.saturating_add(Duration::from_millis(u64::from(life) * 16)),
        };
        let transactions = (0..count).map(transaction).collect();
        let asked = Asked::Submit((0..count).map(bytes).collect());
        self.request(asked, |id| Input::Submit { id, transactions });
    }

    fn pull(&mut self, on: PayloadHeader, height: u8, later: u8, limit: u8, exclude: u8) {
        let parent = on.digest(&chain());
        let height = CommitIndex(match height {
            0..240 => on.height.0.saturating_add(1),
            _ => u64::from(height),
        });
        let later = Duration::from_millis(u64::from(later) * 2);
        let limits = PayloadLimits {
            transactions_max: u64::from(limit),
            batch_bytes_max: u64::from(limit) * 64,
            batches_max: u64::from(limit / 8),
        };
        let exclude = pick(&self.batches, exclude).filter(|_| exclude & 1 == 1);
        let mut forbidden = self.model.ordered_below(parent);
        forbidden.extend(exclude);
        let request = PullRequest {
            epoch: Epoch(u64::from(limit == 255)),
            height,
            parent,
            block_timestamp: on.block_timestamp.max(self.now.wall).saturating_add(later),
            limits,
            exclude: exclude.into_iter().collect(),
        };
        let asked = Asked::Pull(request.clone(), forbidden);
        self.request(asked, |id| Input::Pull { id, request });
    }

    fn verify(&mut self, which: u8, parent: u8) {
        let header = self.header(which);
        let digest = header.digest(&chain());
        if header.height.0 == 0 {
            return;
        }
        let on = self.headers.iter().find(|on| on.digest(&chain()) == header.parent).copied();
        let parent = match parent {
            0..100 => None,
            100..220 => on,
            _ => Some(self.header(parent)),
        };
        let parent = parent.map(|on| ParentOf {
            digest: on.digest(&chain()),
            height: on.height,
            block_timestamp: on.block_timestamp,
        });
        let responders = vec![world::author(1), world::author(2)];
        let request = VerifyRequest { digest, parent, responders };
        let asked = Asked::Verify(request.clone());
        self.request(asked, |id| Input::Verify { id, request });
    }

    fn commit(&mut self, commit: Commit) {
        let judged = self.model.judge(&commit);
        if judged.is_ok() {
            self.model.on_logged(commit);
        }
        let id = RequestId(self.requests);
        self.request(Asked::Commit(commit.index), |id| Input::Commit { id, commit });
        let answered = !self.model.asked.contains_key(&id);
        assert_eq!(answered, judged.is_err(), "{commit:?}: {judged:?}");
    }

    /// A batch of ours is sealed, written, and signed by some.
    fn own_certified(&mut self, size: u8, votes: u8) {
        let seen = self.batches.len();
        self.submit(1, size, 0, 255);
        self.settle();
        self.advance(Duration::from_millis(20));
        self.settle();
        if let Some(digest) = self.batches.get(seen).copied() {
            (1..=votes % world::MEMBERS).for_each(|signer| self.vote(signer, digest));
        }
    }

    /// A block of this validator on the highest commit, committed at once.
    fn block(&mut self, later: u8) {
        let tip = self.model.log.last().map_or(self.headers[0], |commit| commit.header);
        let seen = self.headers.len();
        self.pull(tip, 0, later, 100, 0);
        self.settle();
        if self.headers.len() > seen {
            let header = self.headers[seen];
            self.commit(Commit { index: header.height, round: 1, header });
        }
    }

    fn subscribe(&mut self, subscriber: String, next: CommitIndex) {
        // Wherever it stood: what it says now governs.
        self.model.cursors.remove(&subscriber);
        let asked = Asked::Subscribe(subscriber.clone(), next);
        self.request(asked, |id| Input::Subscribe { id, subscriber, next });
    }

    fn subscription(&self, which: u8) -> Option<RequestId> {
        let attached: Vec<_> = self.model.attached.keys().copied().collect();
        pick(&attached, which)
    }

    fn advance(&mut self, by: Duration) {
        self.now.monotonic += by;
        self.now.wall = self.now.wall.saturating_add(by);
        // A deadline that stays due would keep the host's thread busy.
        for _ in 0..16 {
            let due = self.sequencer.next_deadline();
            if due.is_none_or(|due| due > self.now.monotonic) {
                return;
            }
            self.step(Input::Tick);
        }
        panic!("still due after 16 ticks: {:?}", self.sequencer.status());
    }

    fn crash(&mut self, written: bool) {
        if written && !self.in_flight.is_empty() {
            let group = self.in_flight.remove(0);
            self.model.disk.write(group.records());
            let persisted = fuzzing::persist(group, &mut self.store);
            assert!(persisted.is_ok(), "in memory");
        }
        self.in_flight.clear();
        self.model.crash();
        self.source = Source::default();
        self.store = self.store.clone_durable();
        self.now.monotonic = Duration::ZERO;
        self.sequencer = recover(&mut self.store, self.now);
        self.observe();
        let status = self.sequencer.status();
        assert_eq!(status.logged.0, self.model.log.len() as u64, "the log after a crash");
    }
}

fn recover(store: &mut MemoryStore, now: Now) -> Sequencer {
    let recovered = store.recover();
    let Ok(recovered) = recovered else { panic!("the store is damaged: {recovered:?}") };
    let sequencer = Sequencer::recover(world::setup(), recovered, now);
    sequencer.unwrap_or_else(|error| panic!("its records contradict each other: {error}"))
}

fn name_of(choice: u8) -> String {
    format!("subscriber-{}", choice % 2)
}

fn peer_of(choice: u8) -> Author {
    world::author(1 + choice % (world::MEMBERS - 1))
}

/// A window: none, a narrow one, or more than enough.
fn granted(choice: u8) -> Usage {
    match choice {
        0..16 => Usage::default(),
        16..100 => Usage { bytes: u64::from(choice) * 64, batches: u64::from(choice % 8) },
        _ => Usage { bytes: 1 << 20, batches: 1 << 10 },
    }
}

fn pick<T: Copy>(from: &[T], which: u8) -> Option<T> {
    (!from.is_empty()).then(|| from[usize::from(which) % from.len()])
}
