//! Four sequencers, their stores and the messages between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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
    /// Every batch signature that left.
    pub signed: Vec<Digest>,
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

    fn signature(scope: &Scope, signer: &Author, digest: &Digest) -> Signature {
        let said = scope.batch_stored_bytes(digest);
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
        let signature = Self::signature(scope, &self.0, &digest);
        SignedBatchInfo { digest, signer: self.0, signature }
    }

    fn verify_batch(&self, scope: &Scope, signed: &SignedBatchInfo) -> bool {
        Self::signature(scope, &signed.signer, &signed.digest) == signed.signature
    }
}

pub fn signer(index: usize) -> TestSigner {
    TestSigner::new(&Zeroizing::new([index as u8 + 1; 32]))
}

impl Net {
    pub fn new() -> Self {
        Self::with(SequencerConfig::default())
    }

    pub fn with(config: SequencerConfig) -> Self {
        let members = (0..4).map(|i| Member { author: signer(i).author(), power: 1 }).collect();
        let genesis = Genesis {
            nonce: Digest([1; 32]),
            parameters: ChainParameters::default(),
            committee: Committee::new(members).unwrap(),
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
            next_request: 0,
        };
        for index in 0..4 {
            let author = signer(index).author();
            let incarnation = Incarnation(100 + index as u64);
            let store = MemoryStore::new(author, net.scope.chain, incarnation);
            let node = net.boot(index, store);
            net.nodes.push(node);
        }
        for index in 0..4 {
            net.link_all(index);
        }
        net.settle();
        net
    }

    fn boot(&self, index: usize, mut store: MemoryStore) -> Node {
        let signer = signer(index);
        let setup = Setup {
            author: signer.author(),
            genesis: self.genesis.clone(),
            epoch: Epoch(0),
            committee: self.genesis.committee.clone(),
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
            signed: Vec::new(),
        }
    }

    /// The process of a node dies; what was not written is gone. It is started again.
    pub fn restart(&mut self, index: usize) {
        let store = self.nodes[index].store.clone_durable();
        self.nodes[index] = self.boot(index, store);
        self.wires.retain(|(from, to, _)| *from != index && *to != index);
        for other in 0..4 {
            if other != index {
                self.link(other, index);
            }
        }
        self.link_all(index);
    }

    fn link_all(&mut self, index: usize) {
        for other in 0..4 {
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
            epoch: Epoch(0),
            committee: self.scope.committee,
            announcement: peer.sequencer.announcement(),
            holds: peer.sequencer.stored_of(&self.nodes[index].author),
        };
        let peer = peer.author;
        self.input(index, Input::LinkUp { peer, hello });
    }

    pub fn scope(&self) -> Scope {
        self.scope
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
                Effect::Reply { id, reply } => {
                    self.nodes[index].replies.insert(id, reply);
                }
                Effect::Event(event) => self.nodes[index].events.push(event),
                Effect::Measured(_) => {}
                Effect::Refused { reason, .. } => self.nodes[index].refusals.push(reason),
            }
        }
    }

    fn send(&mut self, from: usize, to: &[Author], message: &Message) {
        for author in to {
            let to = self.nodes.iter().position(|node| node.author == *author).unwrap();
            if !(self.drops)(from, to, message) {
                self.wires.push_back((from, to, message.clone()));
            }
        }
    }

    /// Writes the open group of a node, if there is one, and lets its promises go.
    pub fn write(&mut self, index: usize) -> bool {
        let Some(group) = self.nodes[index].sequencer.take_group() else { return false };
        let persisted = group.persist(&mut self.nodes[index].store).unwrap();
        self.input(index, Input::Durable { sequence: persisted.sequence });
        for promise in persisted.promises {
            let scope = self.scope();
            match promise.release() {
                Released::Sign(batch) => {
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
                Released::Other(Promise::Sign(_)) => unreachable!(),
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
                self.input(to, Input::Batch { from: peer, digest, batch });
            }
            Message::Votes { announcement, votes } => {
                self.input(to, Input::Announce { from: peer, announcement });
                for Vote { digest, signature } in votes {
                    let vote = SignedBatchInfo { digest, signer: peer, signature };
                    assert!(self.nodes[to].signer.verify_batch(&self.scope(), &vote));
                    self.input(to, Input::Vote(vote));
                }
            }
            Message::Proofs(proofs) => {
                for proof in proofs {
                    let committee = &self.genesis.committee;
                    let signer = &self.nodes[to].signer;
                    crate::crypto::verify_proof(signer, &self.scope(), committee, &proof).unwrap();
                    let digest = proof.info.digest(&chain);
                    self.input(to, Input::Proof { digest, proof: Arc::new(proof) });
                }
            }
            Message::Payload(payload) => self.give_payload(from, to, &Arc::new(*payload)),
            Message::Announce(announcement) => {
                self.input(to, Input::Announce { from: peer, announcement });
            }
            Message::FetchRequest(digests) => {
                for digest in digests {
                    let reader = self.nodes[to].store.reader();
                    let batch = reader.batch(&digest).unwrap().map(FetchedContent::Batch);
                    let payload = reader.payload(&digest).unwrap();
                    let payload = payload.map(|p| FetchedContent::Payload(Box::new(p)));
                    let content = batch.or(payload).unwrap_or(FetchedContent::Missing);
                    self.send(to, &[peer], &Message::FetchReply { digest, content });
                }
            }
            Message::FetchReply { digest, content } => match content {
                FetchedContent::Missing => {
                    self.input(to, Input::FetchMissing { from: peer, digest });
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
        self.input(to, Input::Payload { from, digest, payload, batches, verdict: Ok(()) });
    }

    /// Delivers and writes until nothing moves.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            while self.deliver() {
                moved = true;
            }
            for index in 0..4 {
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
            for index in 0..4 {
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
            epoch: Epoch(0),
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
            epoch: Epoch(0),
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

    /// Proposes at node 0, verifies and commits everywhere. Returns the digest.
    pub fn block(&mut self, height: u64, parent: Digest) -> (Digest, Arc<Payload>) {
        let payload = self.pull(0, height, parent);
        let digest = payload.digest(&self.scope.chain);
        for index in 1..4 {
            self.give_payload(0, index, &payload);
            self.verify(index, digest, None);
        }
        self.settle();
        for index in 0..4 {
            let id = self.commit(index, payload.header);
            self.settle();
            assert!(self.receipt(index, id).is_some());
        }
        (digest, payload)
    }
}
