//! One step of the sequencer, and a look at everything that it brought about.

use std::time::Duration;

use quorum_store::sequencer::port::{
    Content, Effect, Event, FetchError, Input, Promise, Reply, RequestId, TransactionKey,
};
use quorum_store::store::Released;
use quorum_store::testkit::fuzzing;
use quorum_store::types::{Author, Component, Digest, Epoch, Message, Timestamp};

use super::model::{Asked, Model};
use super::{ME, Run};
use crate::world;
use crate::world::chain;

impl Run {
    pub(super) fn request(&mut self, asked: Asked, input: impl FnOnce(RequestId) -> Input) {
        let id = RequestId(self.requests);
        self.requests += 1;
        self.model.asked.insert(id, asked);
        self.step(input(id));
    }

    pub(super) fn step(&mut self, input: Input) {
        self.refused = None;
        self.sequencer.step(self.now, input);
        self.observe();
    }

    /// Looks at everything that a step brought about.
    pub(super) fn observe(&mut self) {
        let status = self.sequencer.status();
        assert_eq!(status.consensus_time, self.model.consensus(), "consensus time");
        self.model.on_applied(status.applied.0);
        self.model.on_cursors(status.subscribers);
        while let Some(effect) = self.sequencer.poll_effect() {
            self.on_effect(effect);
        }
        let announced = self.sequencer.announcement();
        for member in 0..world::MEMBERS {
            let author = world::author(member);
            self.model.check_stored(&author, self.sequencer.stored_of(&author), announced);
        }
        if self.eager {
            self.take();
        }
    }

    pub(super) fn on_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.on_send(&[to], &message),
            Effect::Multicast { to, message } => self.on_send(&to, &message),
            Effect::Resend { to, digest } => self.model.on_sent(&to, digest),
            Effect::Push { digest, .. } => panic!("{digest:?} is pushed without evidence"),
            Effect::Reply { id, reply } => self.on_reply(id, reply, false),
            Effect::Event(event) => panic!("{event:?} is told before it is durable"),
            Effect::Refused { reason, .. } => self.refused = Some(reason),
            Effect::Measured(_) => {}
            Effect::PullTransactions(limits) => self.source.on_asked(limits, self.model.admits),
            Effect::InProgress { entered, left } => self.source.on_progress(&entered, &left),
            Effect::SourceRefused(refused) => self.source.on_refused(&refused),
        }
    }

    pub(super) fn on_send(&mut self, to: &[Author], message: &Message) {
        match message {
            Message::Batch(batch) => {
                let digest = batch.info.digest(&chain());
                self.model.on_own_batch(digest, batch);
                self.batches.push(digest);
                self.model.on_sent(to, digest);
            }
            Message::Proofs(proofs) => {
                for proof in proofs {
                    let digest = proof.info.digest(&chain());
                    let durable = self.model.disk.proofs.contains(&digest);
                    assert!(durable, "the proof of {digest:?} leaves before it is durable");
                }
            }
            Message::FetchRequest(digests) => {
                assert!((1..=256).contains(&digests.len()));
                let linked = to.iter().all(|to| self.model.peers[to].linked);
                assert!(linked, "asked without a link");
            }
            Message::AbsenceRequest { index, digest } => {
                let logged = self.model.log_digests.get((index.0 as usize).wrapping_sub(1));
                assert_eq!(logged, Some(digest), "{index:?} names no such payload");
            }
            Message::Announce(announcement) => {
                assert_eq!(*announcement, self.sequencer.announcement());
            }
            Message::Serving(epoch) => assert_eq!(*epoch, Epoch(0), "nobody opened an epoch"),
            other => panic!("{other:?} is nothing that leaves as an effect"),
        }
    }

    /// Takes the open group; the records of an eager run are of the last step.
    pub(super) fn take(&mut self) {
        if !self.eager && !self.in_flight.is_empty() {
            return;
        }
        let Some(group) = self.sequencer.take_group() else { return };
        if self.eager {
            group.records().iter().for_each(|record| self.model.check_drop(record));
        }
        self.in_flight.push(group);
    }

    /// The oldest group is on disk.
    pub(super) fn written(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let group = self.in_flight.remove(0);
        self.model.disk.write(group.records());
        let persisted = fuzzing::persist(group, &mut self.store);
        let Ok(persisted) = persisted else { unreachable!("in memory: {persisted:?}") };
        let mut votes = Vec::new();
        for promise in persisted.promises {
            match promise.release() {
                Released::Sign(token) => {
                    let (digest, author) = (token.get().digest, token.get().author);
                    self.on_signed(digest, author);
                    if author == world::author(ME) {
                        votes.push(digest);
                    }
                }
                Released::SignAbsence(statement, _) => {
                    let statement = statement.get();
                    let said = (statement.index, statement.digest);
                    assert!(self.model.disk.absent.contains(&said), "{said:?} is not on record");
                }
                Released::Other(Promise::Publish(proof)) => self.model.on_published(&proof),
                Released::Other(Promise::Reply { id, reply }) => self.on_reply(id, reply, true),
                Released::Other(Promise::Event(event)) => self.on_event(event),
                Released::Other(Promise::Deliver { subscription, delivery }) => {
                    self.model.on_delivered(subscription, delivery);
                }
                Released::Other(Promise::EndSubscription { subscription, .. }) => {
                    self.model.attached.remove(&subscription);
                }
                Released::Other(Promise::Sign(batch)) => panic!("{batch:?} without a token"),
                Released::Other(Promise::SignAbsence { statement, .. }) => {
                    panic!("{statement:?} without a token")
                }
            }
        }
        self.step(Input::Durable { sequence: persisted.sequence });
        for digest in votes {
            self.vote(ME, digest);
        }
    }

    pub(super) fn on_signed(&mut self, digest: Digest, author: Author) {
        let info = self.model.batches[&digest].info;
        assert_eq!(info.author, author, "the signature goes to somebody else");
        let before = self.model.signed.insert(info.slot(), digest);
        assert!(before.is_none_or(|before| before == digest), "{:?} is signed twice", info.slot());
        assert_eq!(self.model.disk.claims.get(&info.slot()), Some(&digest), "without a claim");
        let stored = self.model.disk.batches.contains_key(&digest);
        assert!(stored || self.model.is_over(info.expiration), "{digest:?} is not on disk");
        self.model.unsigned.remove(&digest);
    }

    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Certified { digest } => {
                assert!(self.model.published.contains_key(&digest), "{digest:?} has no proof");
            }
            Event::Batched { batch, pulled } => {
                let batch = &self.model.batches[&batch];
                for (position, key) in pulled {
                    let found = batch.body.transactions().nth(position as usize);
                    let found = found.map(|bytes| TransactionKey::of(&bytes));
                    assert_eq!(found, Some(key), "another transaction");
                }
            }
            Event::Rebatched { from, moved } => {
                for (_, accepted) in &moved {
                    assert!(self.model.batches.contains_key(&accepted.batch));
                }
                self.model.on_moved(from, moved.iter().map(|(position, _)| *position));
            }
            Event::Returned { .. } => panic!("{event:?}: nobody left, nobody skipped"),
            Event::Expired { batch, positions } => {
                self.model.on_moved(batch, positions.iter().copied());
            }
        }
    }

    pub(super) fn on_reply(&mut self, id: RequestId, reply: Reply, durable: bool) {
        let asked = self.model.answer(id);
        match (asked, reply) {
            (Asked::Submit(transactions), Reply::Submitted(results)) => {
                assert_eq!(transactions.len(), results.len());
                for (bytes, result) in transactions.iter().zip(results) {
                    let Ok(accepted) = result else { continue };
                    assert!(durable, "accepted before it is durable");
                    let batch = &self.model.batches[&accepted.batch];
                    let stored = self.model.disk.batches.contains_key(&accepted.batch);
                    assert!(stored || self.model.is_over(batch.info.expiration));
                    let found = batch.body.transactions().nth(accepted.position as usize);
                    assert_eq!(found.as_deref(), Some(&bytes[..]), "another transaction");
                }
            }
            (Asked::Pull(request, forbidden), Reply::Pulled(Ok(payload))) => {
                let digest = payload.digest(&chain());
                self.check_stored_payload(digest, durable);
                Model::check_proposal(&request, &forbidden, &payload);
                self.model.proposed.insert(digest);
                self.know(payload, true);
            }
            (Asked::Pull(..), Reply::Pulled(Err(_))) => assert!(!durable),
            (Asked::Verify(request), Reply::Verified(Ok(header))) => {
                assert_eq!(header.digest(&chain()), request.digest);
                self.check_stored_payload(request.digest, durable);
                assert!(self.model.may_verify(&request), "{request:?} is not valid");
            }
            (Asked::Verify(request), Reply::Verified(Err(error))) => {
                assert!(!self.model.may_verify(&request), "{request:?} is valid: {error}");
            }
            (Asked::Commit(index), Reply::Committed(Ok(receipt))) => {
                assert!(durable, "a receipt before it is durable");
                assert_eq!(receipt.index, index);
                assert_eq!(self.model.disk.receipts.get(&index), Some(&receipt));
                let commit = &self.model.log[index.0 as usize - 1];
                assert_eq!(receipt.block_timestamp, commit.header.block_timestamp);
                for (ack, component) in receipt.acks.iter().zip(Component::ALL) {
                    assert_eq!((ack.component, ack.watermark), (component, index));
                }
            }
            (Asked::Commit(index), Reply::Committed(Err(error))) => {
                assert!(!durable);
                let known = index.0 >= 1 && index.0 <= self.model.applied;
                assert!(
                    !known
                        || !matches!(error, quorum_store::sequencer::port::CommitError::Gap { .. })
                );
            }
            (Asked::Fetch(digest, _), Reply::Fetched(Ok(content))) => {
                let found = match content {
                    Content::Batch(batch) => batch.info.digest(&chain()),
                    Content::Payload(payload) => payload.digest(&chain()),
                };
                assert_eq!(found, digest, "another content");
            }
            (Asked::Fetch(_, deadline), Reply::Fetched(Err(FetchError::TimedOut { .. }))) => {
                assert!(deadline <= self.now.monotonic, "gave up too early");
            }
            (Asked::Fetch(..), Reply::Fetched(Err(_))) => {
                assert!(self.sequencer.status().fetches >= 3, "busy with nothing");
            }
            (Asked::Subscribe(name, next), Reply::Subscribed(Ok(()))) => {
                assert!(durable, "attached before it is durable");
                self.model.attached.insert(id, (name, next));
            }
            (Asked::Subscribe(..), Reply::Subscribed(Err(_))) => assert!(!durable),
            (Asked::Unsubscribe, Reply::Unsubscribed) => assert!(durable),
            (Asked::Status, Reply::Status(_)) => {}
            (asked, reply) => panic!("{asked:?} is answered by {reply:?}"),
        }
    }

    pub(super) fn check_stored_payload(&self, digest: Digest, durable: bool) {
        assert!(durable, "{digest:?} is promised before it is durable");
        let stored = self.model.disk.payloads.contains_key(&digest);
        assert!(stored || self.model.consensus() > Timestamp(0), "{digest:?} is not on disk");
    }

    /// Writes until nothing moves.
    pub(super) fn settle(&mut self) {
        loop {
            self.take();
            if self.in_flight.is_empty() {
                return;
            }
            self.written();
        }
    }

    /// Time passes until every deadline is over: what can be answered has been.
    pub(super) fn drain(&mut self) {
        for _ in 0..24 {
            self.settle();
            self.advance(Duration::from_millis(100));
        }
        self.settle();
        assert!(self.model.unsigned.is_empty(), "not signed: {:?}", self.model.unsigned);
        let busy = self.sequencer.status().busy.is_some();
        for (id, asked) in &self.model.asked {
            let late = match asked {
                Asked::Submit(_) => !busy,
                Asked::Commit(index) => index.0 <= self.model.applied,
                Asked::Verify(_) => false,
                Asked::Pull(..)
                | Asked::Fetch(..)
                | Asked::Subscribe(..)
                | Asked::Unsubscribe
                | Asked::Status => true,
            };
            assert!(!late || self.model.cancelled.contains(id), "{id:?} {asked:?} has no answer");
        }
        self.crash(false);
    }
}
