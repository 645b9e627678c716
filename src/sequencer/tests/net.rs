//! Four sequencers, their stores and the messages between them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use zeroize::Zeroizing;

use crate::config::SequencerConfig;
#[cfg(not(miri))]
use crate::crypto::Ed25519Signer;
use crate::crypto::Signer;
use crate::sequencer::port::*;
use crate::sequencer::status::Status;
use crate::sequencer::{Sequencer, Setup};
use crate::store::memory::MemoryStore;
#[cfg(miri)]
use crate::store::{Durable, StoredBatch};
use crate::store::{Released, Store};
use crate::types::*;

/// Where the wall clock of the tests starts: one hour after the Unix epoch.
pub const START: u64 = 3_600_000_000;

pub struct Node {
    pub author: Author,
    pub sequencer: Sequencer,
    pub store: MemoryStore,
    pub signer: TestSigner,
    /// While true, no group of this node is written.
    pub holds: bool,
    pub replies: BTreeMap<RequestId, Reply>,
    /// What subscribers were told, in order, and not looked at yet.
    pub deliveries: VecDeque<(RequestId, Delivery)>,
    pub ended: BTreeMap<RequestId, SubscriptionEnd>,
    pub events: Vec<Event>,
    pub refusals: Vec<Refusal>,
    /// What its source was asked for, told and must not give.
    pub source: Source,
    /// Every batch signature that left.
    pub signed: Vec<Digest>,
    pub measured: Vec<Measurement>,
}

/// What the source of a node heard.
#[derive(Default)]
pub struct Source {
    /// True if there is one.
    pub is_there: bool,
    pub pulls: Vec<SourceLimits>,
    pub refused: Vec<SubmitError>,
    pub excluded: BTreeSet<TransactionKey>,
}

pub struct Net {
    pub genesis: Genesis,
    /// Of epoch 0; hashed once.
    scope: Scope,
    pub config: SequencerConfig,
    pub nodes: Vec<Node>,
    pub now: Now,
    pub wires: VecDeque<(usize, usize, Message)>,
    /// What does not arrive.
    pub drops: fn(usize, usize, &Message) -> bool,
    /// Of each epoch.
    pub committees: BTreeMap<Epoch, Committee>,
    /// The epoch that an empty store starts with.
    pub starts_at: Epoch,
    next_request: u64,
}

#[cfg(not(miri))]
pub type TestSigner = Ed25519Signer;
/// An interpreter needs a minute for the signatures of one scenario; these tests are about what is
/// signed and when, not about curves.
#[cfg(miri)]
pub type TestSigner = FastSigner;

/// Signs by hashing its own public name: nobody is kept from doing the same.
#[cfg(miri)]
#[derive(Debug)]
pub struct FastSigner(Author);

#[cfg(miri)]
impl FastSigner {
    pub fn new(seed: &Zeroizing<[u8; 32]>) -> Self {
        Self(Author(**seed))
    }

    fn signature(signer: &Author, said: Vec<u8>) -> Signature {
        let (mut bytes, all) = ([0_u8; 64], signer.0.into_iter().chain(said));
        for (at, byte) in all.enumerate() {
            bytes[at % 64] = bytes[at % 64].rotate_left(1) ^ byte;
        }
        Signature::from_bytes(&bytes)
    }
}

#[cfg(miri)]
impl Signer for FastSigner {
    fn author(&self) -> Author {
        self.0
    }

    fn sign_batch(&self, scope: &Scope, batch: &Durable<StoredBatch>) -> SignedBatchInfo {
        let digest = batch.get().digest;
        let signature = Self::signature(&self.0, scope.batch_stored_bytes(&digest));
        SignedBatchInfo { digest, signer: self.0, signature }
    }

    fn verify_batch(&self, scope: &Scope, signed: &SignedBatchInfo) -> bool {
        let said = scope.batch_stored_bytes(&signed.digest);
        Self::signature(&signed.signer, said) == signed.signature
    }

    fn sign_absence(&self, scope: &Scope, absence: &Durable<AbsenceStatement>) -> SignedAbsence {
        let statement = *absence.get();
        let signature = Self::signature(&self.0, scope.absence_bytes(&statement));
        SignedAbsence { statement, signer: self.0, signature }
    }

    fn verify_absence(&self, scope: &Scope, signed: &SignedAbsence) -> bool {
        let said = scope.absence_bytes(&signed.statement);
        Self::signature(&signed.signer, said) == signed.signature
    }
}

/// The committee of these nodes.
pub fn committee(indices: impl IntoIterator<Item = usize>) -> Committee {
    let member = |index| Member { author: signer(index).author(), power: 1 };
    Committee::new(indices.into_iter().map(member).collect()).unwrap()
}

/// Content of unknown length that these should have.
pub fn wanted(digest: Digest, holders: Vec<Author>) -> Wanted {
    Wanted { digest, info: None, holders, commit: None }
}

pub fn signer(index: usize) -> TestSigner {
    TestSigner::new(&Zeroizing::new([index as u8 + 1; 32]))
}

impl Net {
    pub fn new() -> Self {
        // Small, so that a few transactions fill a batch.
        let batch_bytes_target = ByteSize::kib(256);
        Self::with(SequencerConfig { batch_bytes_target, ..SequencerConfig::default() })
    }

    pub fn with(config: SequencerConfig) -> Self {
        let genesis = Genesis {
            nonce: Digest([1; 32]),
            parameters: ChainParameters::default(),
            committee: committee(0..4),
        };
        config.validate(&genesis.parameters).unwrap();
        let now = Now { monotonic: Duration::ZERO, wall: Timestamp(START) };
        let (chain, committee) = (genesis.chain_id(), genesis.committee.hash());
        let mut net = Self {
            scope: Scope { chain, epoch: Epoch(0), committee },
            genesis,
            config,
            nodes: Vec::new(),
            now,
            wires: VecDeque::new(),
            drops: |_, _, _| false,
            committees: BTreeMap::new(),
            starts_at: Epoch(0),
            next_request: 0,
        };
        net.committees.insert(Epoch(0), net.genesis.committee.clone());
        for _ in 0..4 {
            net.add_node();
        }
        for index in 0..4 {
            net.link_all(index);
        }
        net.settle();
        net
    }

    /// One more, with an empty store and no links.
    pub fn add_node(&mut self) -> usize {
        let index = self.nodes.len();
        let author = signer(index).author();
        let incarnation = Incarnation(100 + index as u64);
        let store = MemoryStore::new(author, self.scope.chain, incarnation);
        let node = self.boot(index, store);
        self.nodes.push(node);
        index
    }

    fn boot(&self, index: usize, mut store: MemoryStore) -> Node {
        let signer = signer(index);
        let setup = Setup {
            author: signer.author(),
            genesis: self.genesis.clone(),
            epoch: self.starts_at,
            committee: self.committees[&self.starts_at].clone(),
            config: self.config.clone(),
        };
        let recovered = store.recover().unwrap();
        Node {
            author: signer.author(),
            sequencer: Sequencer::recover(setup, recovered, self.now).unwrap(),
            store,
            signer,
            holds: false,
            replies: BTreeMap::new(),
            deliveries: VecDeque::new(),
            ended: BTreeMap::new(),
            events: Vec::new(),
            refusals: Vec::new(),
            source: Source::default(),
            signed: Vec::new(),
            measured: Vec::new(),
        }
    }

    /// The process of a node dies; what was not written is gone. It is started again.
    pub fn restart(&mut self, index: usize) {
        let store = self.nodes[index].store.clone_durable();
        self.nodes[index] = self.boot(index, store);
        self.wires.retain(|(from, to, _)| *from != index && *to != index);
        self.link_both(index);
    }

    /// The links of a node come up, at both ends.
    pub fn link_both(&mut self, index: usize) {
        for other in 0..self.nodes.len() {
            if other != index {
                self.link(other, index);
            }
        }
        self.link_all(index);
    }

    fn link_all(&mut self, index: usize) {
        for other in 0..self.nodes.len() {
            if other != index {
                self.link(index, other);
            }
        }
    }

    /// `index` sees its link to `other` come up.
    pub fn link(&mut self, index: usize, other: usize) {
        let peer = &self.nodes[other];
        let hello = Hello {
            chain: self.scope.chain,
            epoch: peer.sequencer.epoch(),
            committee: peer.sequencer.membership().committee.hash(),
            announcement: peer.sequencer.announcement(),
            holds: peer.sequencer.stored_of(&self.nodes[index].author),
        };
        let peer = peer.author;
        self.input(index, Input::LinkUp { peer, hello });
    }

    pub fn scope(&self, epoch: Epoch) -> Scope {
        if epoch == self.scope.epoch {
            return self.scope;
        }
        let committee = self.committees[&epoch].hash();
        Scope { epoch, committee, ..self.scope }
    }

    pub fn input(&mut self, index: usize, input: Input) {
        let now = self.now;
        self.nodes[index].sequencer.step(now, input);
        self.effects(index);
    }

    pub fn status(&self, index: usize) -> Status {
        self.nodes[index].sequencer.status()
    }

    pub fn request(&mut self, index: usize, input: impl FnOnce(RequestId) -> Input) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.input(index, input(id));
        id
    }

    fn effects(&mut self, index: usize) {
        while let Some(effect) = self.nodes[index].sequencer.poll_effect() {
            match effect {
                Effect::Send { to, message } => self.send(index, &[to], &message),
                Effect::Multicast { to, message } => self.send(index, &to, &message),
                Effect::Resend { to, digest } => {
                    let batch = self.nodes[index].store.reader().batch(&digest).unwrap();
                    if let Some(batch) = batch {
                        self.send(index, &to, &Message::Batch(batch));
                    }
                }
                Effect::Push { to, digest } => {
                    let reader = self.nodes[index].store.reader();
                    let batch = reader.batch(&digest).unwrap().map(FetchedContent::Batch);
                    let payload = reader.payload(&digest).unwrap();
                    let payload = payload.map(|p| FetchedContent::Payload(Box::new(p)));
                    if let Some(content) = batch.or(payload) {
                        self.send(index, &to, &Message::FetchReply { digest, content });
                    }
                }
                Effect::Reply { id, reply } => {
                    self.nodes[index].replies.insert(id, reply);
                }
                Effect::Event(event) => self.nodes[index].events.push(event),
                Effect::Measured(measured) => self.nodes[index].measured.push(measured),
                Effect::PullTransactions(limits) => self.nodes[index].source.pulls.push(limits),
                Effect::SourceRefused(refused) => {
                    let errors = refused.into_iter().map(|(_, error)| error);
                    self.nodes[index].source.refused.extend(errors);
                }
                Effect::InProgress { entered, left } => {
                    let excluded = &mut self.nodes[index].source.excluded;
                    for key in entered {
                        assert!(excluded.insert(key), "{key:?} entered twice");
                    }
                    for key in &left {
                        assert!(excluded.remove(key), "{key:?} left twice");
                    }
                }
                Effect::Refused { reason, .. } => self.nodes[index].refusals.push(reason),
            }
        }
    }

    fn send(&mut self, from: usize, to: &[Author], message: &Message) {
        for author in to {
            // Somebody who has not been started yet.
            let to = self.nodes.iter().position(|node| node.author == *author);
            let Some(to) = to else { continue };
            if !(self.drops)(from, to, message) {
                self.wires.push_back((from, to, message.clone()));
            }
        }
    }

    /// Writes the open group of a node, if there is one, and lets its promises go.
    pub fn write(&mut self, index: usize) -> bool {
        let Some(group) = self.nodes[index].sequencer.take_group() else { return false };
        let index_of = index;
        let persisted = group.persist(&mut self.nodes[index].store).unwrap();
        self.input(index, Input::Durable { sequence: persisted.sequence });
        for promise in persisted.promises {
            match promise.release() {
                Released::Sign(batch) => {
                    let scope = self.scope(batch.get().epoch);
                    let author = batch.get().author;
                    let node = &mut self.nodes[index];
                    let signed = node.signer.sign_batch(&scope, &batch);
                    node.signed.push(signed.digest);
                    if author == node.author {
                        self.input(index, Input::Vote(signed));
                    } else {
                        let announcement = node.sequencer.announcement();
                        let vote = Vote { digest: signed.digest, signature: signed.signature };
                        let message = Message::Votes { announcement, votes: vec![vote] };
                        self.send(index, &[author], &message);
                    }
                }
                Released::Other(Promise::Publish(proof)) => {
                    let me = self.nodes[index].author;
                    let others: Vec<_> =
                        self.nodes.iter().map(|n| n.author).filter(|a| *a != me).collect();
                    self.send(index, &others, &Message::Proofs(vec![(*proof).clone()]));
                }
                Released::Other(Promise::Reply { id, reply }) => {
                    self.nodes[index].replies.insert(id, reply);
                }
                Released::Other(Promise::Event(event)) => self.nodes[index].events.push(event),
                Released::Other(Promise::Deliver { subscription, delivery }) => {
                    self.nodes[index].deliveries.push_back((subscription, delivery));
                }
                Released::Other(Promise::EndSubscription { subscription, end }) => {
                    self.nodes[index].ended.insert(subscription, end);
                }
                Released::SignAbsence(token, to) => {
                    let AbsenceStatement { epoch, index, digest, reason } = *token.get();
                    let scope = self.scope(epoch);
                    let node = &mut self.nodes[index_of];
                    let signature = node.signer.sign_absence(&scope, &token).signature;
                    let answer = AbsenceAnswer::Signed { epoch, reason, signature };
                    let from = node.author;
                    if to == from {
                        self.input(index_of, Input::Absence { from, index, digest, answer });
                    } else {
                        self.send(index_of, &[to], &Message::Absence { index, digest, answer });
                    }
                }
                Released::Other(Promise::Sign(_) | Promise::SignAbsence { .. }) => unreachable!(),
            }
        }
        true
    }

    /// Delivers one message, as ingress would.
    pub fn deliver(&mut self) -> bool {
        let Some((from, to, message)) = self.wires.pop_front() else { return false };
        let peer = self.nodes[from].author;
        let chain = self.scope.chain;
        match message {
            Message::Batch(batch) => {
                batch.body.verify(&batch.info, &self.genesis.parameters).unwrap();
                let digest = batch.info.digest(&chain);
                let keys = batch.body.transactions().map(|bytes| TransactionKey::of(&bytes));
                let keys = keys.collect();
                self.input(to, Input::Batch { from: peer, digest, batch });
                if self.nodes[to].source.is_there {
                    self.input(to, Input::Seen { digest, keys });
                }
            }
            Message::Votes { announcement, votes } => {
                self.input(to, Input::Announce { from: peer, announcement });
                for Vote { digest, signature } in votes {
                    let vote = SignedBatchInfo { digest, signer: peer, signature };
                    // A vote of a former epoch is no offence.
                    let node = &self.nodes[to];
                    let now = node.sequencer.epoch();
                    let scopes = self.committees.keys().filter(|epoch| **epoch <= now);
                    let signed = |epoch: &Epoch| {
                        node.signer.verify_batch(&self.scope(*epoch), &vote).then_some(*epoch)
                    };
                    let epoch = scopes.copied().find_map(|epoch| signed(&epoch));
                    if epoch.expect("a signature of some epoch") == now {
                        self.input(to, Input::Vote(vote));
                    }
                }
            }
            Message::Proofs(proofs) => {
                for proof in proofs {
                    let (epoch, now) = (proof.info.epoch, self.nodes[to].sequencer.epoch());
                    if epoch > now {
                        self.input(to, Input::Ahead { from: peer });
                        continue;
                    }
                    let committee = &self.committees[&epoch];
                    let scope = self.scope(epoch);
                    let signer = &self.nodes[to].signer;
                    crate::crypto::verify_proof(signer, &scope, committee, &proof).unwrap();
                    let digest = proof.info.digest(&chain);
                    self.input(to, Input::Proof { digest, proof: Arc::new(proof) });
                }
            }
            Message::Payload(payload) => self.give_payload(from, to, &Arc::new(*payload)),
            Message::Announce(announcement) => {
                self.input(to, Input::Announce { from: peer, announcement });
            }
            Message::Serving(epoch) => self.input(to, Input::Serving { from: peer, epoch }),
            Message::AbsenceRequest { index, digest } => {
                self.input(to, Input::AbsenceRequest { from: peer, index, digest });
            }
            Message::Absence { index, digest, answer } => {
                if let AbsenceAnswer::Signed { epoch, reason, signature } = answer {
                    let statement = AbsenceStatement { epoch, index, digest, reason };
                    let signed = SignedAbsence { statement, signer: peer, signature };
                    let scope = self.scope(epoch);
                    assert!(self.nodes[to].signer.verify_absence(&scope, &signed));
                }
                self.input(to, Input::Absence { from: peer, index, digest, answer });
            }
            Message::FetchRequest(digests) => {
                for digest in digests {
                    let reader = self.nodes[to].store.reader();
                    let batch = reader.batch(&digest).unwrap().map(FetchedContent::Batch);
                    let payload = reader.payload(&digest).unwrap();
                    let payload = payload.map(|p| FetchedContent::Payload(Box::new(p)));
                    let content = batch.or(payload);
                    let absent = FetchedContent::Absent(AbsentReason::NotHeld);
                    let content = content.unwrap_or(absent);
                    self.send(to, &[peer], &Message::FetchReply { digest, content });
                }
            }
            Message::ChunkRequest(chunks) => {
                for ChunkId { digest, index } in chunks {
                    let batch = self.nodes[to].store.reader().batch(&digest).unwrap();
                    let chunk = batch.and_then(|b| Chunk::of(b.info, &b.body, index));
                    let absent = FetchedContent::Absent(AbsentReason::NotHeld);
                    let content = chunk.map_or(absent, |c| FetchedContent::Chunk(Box::new(c)));
                    self.send(to, &[peer], &Message::FetchReply { digest, content });
                }
            }
            Message::FetchReply { digest, content } => match content {
                FetchedContent::Absent(reason) => {
                    let answer = NoContent::Absent(reason);
                    self.input(to, Input::NoContent { from: peer, digest, answer });
                }
                FetchedContent::Busy(millis) => {
                    let answer = NoContent::Busy(Duration::from_millis(millis.into()));
                    self.input(to, Input::NoContent { from: peer, digest, answer });
                }
                FetchedContent::Chunk(chunk) => {
                    chunk.verify().unwrap();
                    self.input(to, Input::FetchedChunk { from: peer, digest, chunk });
                }
                FetchedContent::Batch(batch) => {
                    self.input(to, Input::FetchedBatch { from: peer, digest, batch });
                }
                FetchedContent::Payload(payload) => {
                    self.give_payload(from, to, &Arc::new(*payload));
                }
            },
        }
        true
    }

    pub fn give_payload(&mut self, from: usize, to: usize, payload: &Arc<Payload>) {
        let chain = self.scope.chain;
        let batches = payload.content.batches().map(|info| info.digest(&chain)).collect();
        let digest = payload.digest(&chain);
        let from = self.nodes[from].author;
        let payload = Arc::clone(payload);
        let (found, expected) = (payload.header.epoch, self.nodes[to].sequencer.epoch());
        let verdict = match found.cmp(&expected) {
            Ordering::Equal => Ok(()),
            Ordering::Less => Err(InvalidPayload::Epoch { found, expected }),
            Ordering::Greater => return self.input(to, Input::Ahead { from }),
        };
        self.input(to, Input::Payload { from, digest, payload, batches, verdict });
    }

    /// Delivers and writes until nothing moves.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            while self.deliver() {
                moved = true;
            }
            for index in 0..self.nodes.len() {
                moved |= !self.nodes[index].holds && self.write(index);
            }
            if !moved {
                return;
            }
        }
    }

    /// Ten milliseconds; an interpreter goes on to where something is due.
    fn step_length(&self) -> Duration {
        let shortest = Duration::from_millis(10);
        if !cfg!(miri) {
            return shortest;
        }
        let due = self.nodes.iter().filter_map(|node| node.sequencer.next_deadline()).min();
        let wait = due.map_or(shortest, |due| due.saturating_sub(self.now.monotonic));
        wait.max(shortest)
    }

    /// Lets time pass in steps of ten milliseconds.
    pub fn pass(&mut self, duration: Duration) {
        let mut left = duration;
        while !left.is_zero() {
            let step = left.min(self.step_length());
            left -= step;
            self.now.monotonic += step;
            self.now.wall = self.now.wall.saturating_add(step);
            for index in 0..self.nodes.len() {
                let due = self.nodes[index].sequencer.next_deadline();
                if due.is_some_and(|due| due <= self.now.monotonic) {
                    self.input(index, Input::Tick);
                }
            }
            self.settle();
        }
    }

    pub fn transaction(&self, text: &str) -> Transaction {
        Transaction {
            bytes: Bytes::copy_from_slice(text.as_bytes()),
            gas_unit_price: 1,
            expiration: self.now.wall.saturating_add(Duration::from_secs(25)),
        }
    }

    pub fn submit(&mut self, index: usize, texts: &[&str]) -> RequestId {
        let transactions = texts.iter().map(|text| self.transaction(text)).collect();
        self.request(index, |id| Input::Submit { id, transactions })
    }

    /// Where the transactions of a submission sit.
    pub fn accepted(&self, index: usize, id: RequestId) -> Vec<Accepted> {
        match self.nodes[index].replies.get(&id) {
            Some(Reply::Submitted(results)) => results.iter().map(|r| r.unwrap()).collect(),
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Submits one transaction and has its batch sealed, spread and certified.
    pub fn batch(&mut self, index: usize, text: &str) -> Digest {
        let id = self.submit(index, &[text]);
        self.pass(self.config.batch_age_max);
        self.accepted(index, id)[0].batch
    }

    /// The batch as its author sent it, or would.
    pub fn forge(&self, author: usize, counter: u64, text: &str, lifetime: Duration) -> Batch {
        let mut builder = BodyBuilder::new();
        builder.push(Bytes::copy_from_slice(text.as_bytes()));
        let body = builder.finish();
        let info = BatchInfo {
            author: self.nodes[author].author,
            batch_id: BatchId { incarnation: Incarnation(77), counter },
            epoch: self.nodes[author].sequencer.epoch(),
            expiration: self.now.wall.saturating_add(lifetime),
            count: 1,
            bytes: body.bytes().len() as u32,
            gas_bucket_start: 0,
            root: body.root(),
        };
        Batch { info, body }
    }

    pub fn give_batch(&mut self, from: usize, to: usize, batch: &Batch) -> Digest {
        let digest = batch.info.digest(&self.scope.chain);
        let from = self.nodes[from].author;
        self.input(to, Input::Batch { from, digest, batch: batch.clone() });
        digest
    }

    pub fn pull_request(&self, height: u64, parent: Digest) -> PullRequest {
        PullRequest {
            epoch: self.nodes[0].sequencer.epoch(),
            height: CommitIndex(height),
            parent,
            block_timestamp: self.now.wall,
            limits: PayloadLimits {
                transactions_max: 1000,
                batch_bytes_max: 1 << 20,
                batches_max: 100,
            },
            exclude: Vec::new(),
        }
    }

    pub fn pull(&mut self, index: usize, height: u64, parent: Digest) -> Arc<Payload> {
        let request = self.pull_request(height, parent);
        let id = self.request(index, |id| Input::Pull { id, request });
        self.settle();
        match self.nodes[index].replies.remove(&id) {
            Some(Reply::Pulled(Ok(payload))) => payload,
            other => panic!("no payload: {other:?}"),
        }
    }

    pub fn verify(&mut self, index: usize, digest: Digest, parent: Option<ParentOf>) -> RequestId {
        let responders = self.nodes.iter().map(|node| node.author).collect();
        let request = VerifyRequest { digest, parent, responders };
        self.request(index, |id| Input::Verify { id, request })
    }

    pub fn commit(&mut self, index: usize, header: PayloadHeader) -> RequestId {
        let commit = Commit { index: header.height, round: 1, header };
        self.request(index, |id| Input::Commit { id, commit })
    }

    pub fn receipt(&self, index: usize, id: RequestId) -> Option<CommitReceipt> {
        match self.nodes[index].replies.get(&id)? {
            Reply::Committed(result) => Some(result.clone().unwrap()),
            other => panic!("not committed: {other:?}"),
        }
    }

    pub fn genesis_digest(&self) -> Digest {
        self.genesis.header().digest(&self.scope.chain)
    }

    /// Asks a node to close its epoch.
    pub fn close(&mut self, index: usize, epoch: u64, last: u64, patience: Duration) -> RequestId {
        let (epoch, final_index) = (Epoch(epoch), CommitIndex(last));
        let deadline = self.now.monotonic + patience;
        self.request(index, |id| Input::Close { id, epoch, final_index, deadline })
    }

    pub fn closed(&mut self, index: usize, id: RequestId) -> Result<EpochReceipt, CloseError> {
        match self.nodes[index].replies.remove(&id) {
            Some(Reply::Closed(result)) => result,
            other => panic!("not closed: {other:?}"),
        }
    }

    /// Opens an epoch at a node.
    pub fn open(&mut self, index: usize, epoch: u64, committee: &Committee) {
        self.committees.insert(Epoch(epoch), committee.clone());
        let (epoch, committee) = (Epoch(epoch), committee.clone());
        let id = self.request(index, |id| Input::OpenEpoch { id, epoch, committee });
        self.settle();
        match self.nodes[index].replies.remove(&id) {
            Some(Reply::Opened(Ok(()))) => {}
            other => panic!("not opened: {other:?}"),
        }
    }

    /// Every node closes its epoch with this commit, which is applied.
    pub fn close_all(&mut self, epoch: u64, last: u64) -> Vec<EpochReceipt> {
        let patience = Duration::from_secs(1);
        let all = 0..self.nodes.len();
        let ids: Vec<_> = all.clone().map(|i| self.close(i, epoch, last, patience)).collect();
        self.settle();
        all.zip(ids).map(|(index, id)| self.closed(index, id).unwrap()).collect()
    }

    /// Proposes at node 0, verifies and commits everywhere. Returns the digest.
    pub fn block(&mut self, height: u64, parent: Digest) -> (Digest, Arc<Payload>) {
        let payload = self.pull(0, height, parent);
        let digest = payload.digest(&self.scope.chain);
        for index in 1..self.nodes.len() {
            self.give_payload(0, index, &payload);
            self.verify(index, digest, None);
        }
        self.settle();
        for index in 0..self.nodes.len() {
            let id = self.commit(index, payload.header);
            self.settle();
            assert!(self.receipt(index, id).is_some());
        }
        (digest, payload)
    }
}
