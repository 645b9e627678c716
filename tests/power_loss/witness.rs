//! What the tested validator promised, as the outside saw it, and what it then still has.
//!
//! The book is kept in memory of ours, not on the disk whose power is cut. It shares nothing with
//! the code under test: what left is read off the wire and off the answers to the host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use quorum_store::crypto::Signer as _;
use quorum_store::store::StoreReader;
use quorum_store::transport::memory::MemoryTransport;
use quorum_store::transport::{Class, Frame, LinkStatus, Peer, Refusal, SendError, Transport};
use quorum_store::types::{
    Author, BatchId, BatchInfo, Commit, CommitIndex, CommitReceipt, Digest, Message, Payload,
    Timestamp,
};

use super::town::{TESTED, genesis, signer};

/// The book, shared with who writes it.
#[derive(Clone, Default)]
pub struct Witness(Arc<Mutex<Book>>);

/// See the module docs.
#[derive(Clone, Default)]
pub struct Book {
    /// Batches it signed for, or accepted transactions in.
    batches: BTreeSet<Digest>,
    /// When each batch expires, as far as somebody told.
    expirations: BTreeMap<Digest, Timestamp>,
    /// Batches whose proof it published, or called certified.
    proofs: BTreeSet<Digest>,
    /// Payloads it proposed or called valid, with when they expire.
    payloads: BTreeMap<Digest, Timestamp>,
    receipts: BTreeMap<CommitIndex, CommitReceipt>,
    commits: BTreeMap<CommitIndex, Commit>,
    /// What each commit ordered.
    ordered: BTreeMap<CommitIndex, Vec<Digest>>,
    /// Content of commits from here on is needed, whatever its age.
    cursor: Option<CommitIndex>,
    /// The latest time that consensus may have reached.
    latest: Timestamp,
    /// Its own batch ids, and what it used each for.
    own: BTreeMap<BatchId, Digest>,
    violations: Vec<String>,
}

impl Witness {
    /// Goes on with what another life had promised.
    pub fn going_on(book: &Book) -> Self {
        Self(Arc::new(Mutex::new(book.clone())))
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// It signed for a batch, or said that one with our transaction is durable.
    pub fn batch(&mut self, digest: Digest) {
        self.batches.insert(digest);
    }

    /// A batch has been seen whole.
    pub fn info(&mut self, digest: Digest, info: &BatchInfo) {
        self.expirations.insert(digest, info.expiration);
        if info.author == signer(TESTED).author() {
            let used = self.own.insert(info.batch_id, digest);
            if used.is_some_and(|used| used != digest) {
                self.violations.push(format!("{:?} was used twice", info.batch_id));
            }
        }
    }

    pub fn proof(&mut self, digest: Digest) {
        self.batches.insert(digest);
        self.proofs.insert(digest);
    }

    pub fn payload(&mut self, payload: &Payload) {
        let lifetime = genesis().parameters.batch_lifetime();
        let expiration = payload.header.block_timestamp.saturating_add(lifetime);
        self.payloads.insert(payload.digest(&genesis().chain_id()), expiration);
    }

    /// The host is about to tell of a commit: time may have moved from now on.
    pub fn telling(&mut self, commit: &Commit, payload: &Payload) {
        self.latest = self.latest.max(commit.header.block_timestamp);
        let chain = genesis().chain_id();
        let batches = payload.content.proofs.iter().map(|proof| proof.info.digest(&chain));
        self.ordered.insert(commit.index, batches.collect());
        self.commits.insert(commit.index, *commit);
    }

    /// The latest time that consensus may have reached.
    pub fn latest(&self) -> Timestamp {
        self.latest
    }

    pub fn receipt(&mut self, receipt: CommitReceipt) {
        self.receipts.insert(receipt.index, receipt);
    }

    /// The host is about to say that it needs nothing below this: from now on that may go.
    pub fn acknowledging(&mut self, next: CommitIndex) {
        self.cursor = self.cursor.map(|_| next);
    }

    /// A promise followed that, so it is durable: what is above is kept from now on.
    pub fn acknowledged(&mut self, next: CommitIndex) {
        self.cursor = Some(next);
    }

    /// The highest block it gave a receipt for.
    pub fn last(&self) -> Option<Commit> {
        let (index, _) = self.receipts.last_key_value()?;
        self.commits.get(index).copied()
    }

    /// Commits that it was told of, with their receipts if it gave one.
    pub fn told_commits(&self) -> Vec<(Commit, Option<CommitReceipt>)> {
        let receipt = |index| self.receipts.get(index).copied();
        self.commits.iter().map(|(index, commit)| (*commit, receipt(index))).collect()
    }

    /// How much it promised.
    pub fn promises(&self) -> u64 {
        let counts =
            [self.batches.len(), self.proofs.len(), self.payloads.len(), self.receipts.len()];
        counts.iter().sum::<usize>() as u64
    }

    /// True if it signed for this batch.
    pub fn has_signed(&self, digest: &Digest) -> bool {
        self.batches.contains(digest)
    }

    /// Everything that was promised, is still owed, and is not there.
    pub fn lost(&self, reader: &dyn StoreReader) -> Vec<String> {
        let mut lost = self.violations.clone();
        let pinned = self.pinned();
        for digest in &self.batches {
            let expiration = self.expirations.get(digest).copied();
            if self.is_owed(digest, expiration, &pinned) {
                match reader.batch(digest) {
                    Ok(Some(batch)) if batch.info.digest(&genesis().chain_id()) == *digest => {}
                    other => lost.push(format!("batch {digest}: {:?}", other.map(|_| "none"))),
                }
            }
        }
        for digest in &self.proofs {
            let expiration = self.expirations.get(digest).copied();
            let found = reader.proof(digest);
            if self.is_owed(digest, expiration, &pinned) && !matches!(found, Ok(Some(_))) {
                lost.push(format!("proof of {digest}: {:?}", found.map(|_| "none")));
            }
        }
        for (digest, expiration) in &self.payloads {
            let found = reader.payload(digest);
            if self.is_owed(digest, Some(*expiration), &pinned) && !matches!(found, Ok(Some(_))) {
                lost.push(format!("payload {digest}: {:?}", found.map(|_| "none")));
            }
        }
        for (index, receipt) in &self.receipts {
            let found = reader.receipt(*index);
            if !matches!(&found, Ok(Some(found)) if found == receipt) {
                lost.push(format!("receipt {index:?}: {found:?}"));
            }
        }
        lost
    }

    /// Content is kept until its expiration and the grace are over, and longer while it is pinned.
    fn is_owed(&self, digest: &Digest, at: Option<Timestamp>, pinned: &BTreeSet<Digest>) -> bool {
        let grace = genesis().parameters.grace();
        let is_over = at.is_some_and(|at| at.saturating_add(grace) < self.latest);
        !is_over || pinned.contains(digest)
    }

    fn pinned(&self) -> BTreeSet<Digest> {
        let Some(cursor) = self.cursor else { return BTreeSet::new() };
        let chain = genesis().chain_id();
        let commits = self.commits.range(cursor..);
        let payloads = commits.map(|(_, commit)| commit.header.digest(&chain));
        let batches = self.ordered.range(cursor..).flat_map(|(_, batches)| batches.iter().copied());
        payloads.chain(batches).collect()
    }

    /// What left over a link.
    fn sent(&mut self, message: &Message) {
        match message {
            Message::Votes { votes, .. } => {
                for vote in votes {
                    self.batch(vote.digest);
                }
            }
            Message::Proofs(proofs) => {
                for proof in proofs {
                    let digest = proof.info.digest(&genesis().chain_id());
                    self.info(digest, &proof.info);
                    self.proof(digest);
                }
            }
            Message::Batch(batch) => {
                self.info(batch.info.digest(&genesis().chain_id()), &batch.info);
            }
            _ => {}
        }
    }
}

fn whole(frame: &Frame) -> Bytes {
    [&frame.head[..], &frame.body[..]].concat().into()
}

/// A transport that shows the witness everything that leaves.
pub struct Recorder {
    inner: MemoryTransport,
    witness: Witness,
}

impl Recorder {
    pub fn new(inner: MemoryTransport, witness: Witness) -> Self {
        Self { inner, witness }
    }
}

impl Transport for Recorder {
    fn send(&self, to: Author, class: Class, frame: Frame) -> Result<(), SendError> {
        let message = Message::decode(&whole(&frame)).expect("what it sends decodes");
        self.witness.book().sent(&message);
        self.inner.send(to, class, frame)
    }

    fn refuse(&self, peer: Author, reason: Refusal) {
        self.inner.refuse(peer, reason);
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.inner.links()
    }

    fn set_peers(&self, peers: Vec<Peer>) {
        self.inner.set_peers(peers);
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        self.inner.shutdown()
    }
}
