//! Egress: what leaves. Effects leave when the driver says so; promises only from here, in the
//! order of groups, once their group is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::epochs::View;
use super::faults::Faults;
use super::shared::{Cached, Shared};
use super::verify;
use crate::sequencer::port::{Event, Input, Promise, Reply};
use crate::store::{Durable, Persisted, Released};
use crate::transport::{Class, Frame, Transport};
use crate::types::message::{PROOFS_MAX, VOTES_MAX};
use crate::types::{AbsenceAnswer, AbsenceStatement, Author, Message, ProofOfStore, Vote};

/// Encodes and sends; counts what a full queue or a missing link drops.
#[derive(Clone)]
pub(super) struct Sender {
    pub shared: Arc<Shared>,
    pub transport: Arc<dyn Transport>,
}

impl Sender {
    /// Sends one message to each, encoded once. What cannot be sent is counted: batches are sent
    /// again to silent validators, proofs at the next link, requests to the next holder.
    pub fn send(&self, to: impl IntoIterator<Item = Author>, message: &Message) {
        let encoded = message.encode();
        let class = if message.is_bulk() { Class::Bulk } else { Class::Control };
        let kind = message.kind_name();
        for peer in to {
            let frame = Frame { head: encoded.head.clone(), body: encoded.body.clone() };
            let bytes = frame.len();
            match self.transport.send(peer, class, frame) {
                Ok(()) => self.shared.metrics.messages.sent(kind, bytes),
                Err(error) => self.shared.metrics.messages.not_sent(kind, &error),
            }
        }
    }
}

/// Handles durable groups until the writer ends.
pub(super) async fn run(
    sender: Sender,
    faults: Arc<Faults>,
    mut groups: mpsc::Receiver<Persisted>,
    loopback: mpsc::Sender<Input>,
) {
    while let Some(group) = groups.recv().await {
        faults.tripwire.at("egress", "group");
        let mut votes: BTreeMap<Author, Vec<Vote>> = BTreeMap::new();
        let mut own = Vec::new();
        let view = sender.shared.view();
        let mut proofs = Vec::new();
        let mut said = Vec::new();
        // Subscriptions that nobody holds any more, and that the sequencer does not know of.
        let mut gone = BTreeSet::new();
        for promise in group.promises {
            match promise.release() {
                Released::Sign(batch) => {
                    let shared = &sender.shared;
                    shared.metrics.messages.votes_signed.inc();
                    let Some(scope) = view.scope_of(batch.get().epoch) else {
                        // Of an epoch that was over long before this group: nobody needs it.
                        continue;
                    };
                    let signed = shared.signer.sign_batch(&scope, &batch);
                    let author = batch.get().author;
                    if author == shared.author {
                        own.push(signed);
                    } else {
                        let vote = Vote { digest: signed.digest, signature: signed.signature };
                        votes.entry(author).or_default().push(vote);
                    }
                }
                Released::SignAbsence(absence, to) => {
                    if let Some(input) = say_absent(&sender, &view, &absence, to) {
                        said.push(input);
                    }
                }
                Released::Other(Promise::Publish(proof)) => proofs.push(proof),
                Released::Other(Promise::Deliver { subscription, delivery }) => {
                    let Shared { subscriptions, metrics, .. } = &*sender.shared;
                    if !subscriptions.deliver(subscription, delivery, &metrics.followers) {
                        gone.insert(subscription);
                    }
                }
                Released::Other(other) => tell_host(&sender.shared, other),
            }
        }
        send_votes(&sender, votes);
        send_proofs(&sender, &proofs);
        let detach = |subscription| Input::Detach { subscription };
        let inputs =
            own.into_iter().map(Input::Vote).chain(gone.into_iter().map(detach)).chain(said);
        for input in inputs {
            if loopback.send(input).await.is_err() {
                return;
            }
        }
    }
}

/// Signs that content is absent here, for a peer or, looped back, for ourselves.
fn say_absent(
    sender: &Sender,
    view: &View,
    absence: &Durable<AbsenceStatement>,
    to: Author,
) -> Option<Input> {
    let shared = &sender.shared;
    let AbsenceStatement { epoch, index, digest, reason } = *absence.get();
    // Of an epoch that was over long before this group: nobody asks any more.
    let scope = view.scope_of(epoch)?;
    shared.metrics.fetching.absences.inc();
    let signature = shared.signer.sign_absence(&scope, absence).signature;
    let answer = AbsenceAnswer::Signed { epoch, reason, signature };
    if to == shared.author {
        return Some(Input::Absence { from: to, index, digest, answer });
    }
    sender.send([to], &Message::Absence { index, digest, answer });
    None
}

fn send_votes(sender: &Sender, votes: BTreeMap<Author, Vec<Vote>>) {
    let announcement = sender.shared.announcement();
    for (author, votes) in votes {
        for chunk in votes.chunks(VOTES_MAX) {
            let message = Message::Votes { announcement, votes: chunk.to_vec() };
            sender.send([author], &message);
        }
    }
}

fn send_proofs(sender: &Sender, proofs: &[Arc<ProofOfStore>]) {
    sender.shared.metrics.messages.proofs_published.inc_by(proofs.len() as u64);
    let view = sender.shared.view();
    for proof in proofs.iter().filter(|proof| proof.info.epoch == view.epoch()) {
        // It comes back in payloads of others.
        verify::trust(&sender.shared, &view, proof);
    }
    for chunk in proofs.chunks(PROOFS_MAX) {
        let proofs = chunk.iter().map(|proof| ProofOfStore::clone(proof)).collect();
        sender.send(view.members.clone(), &Message::Proofs(proofs));
    }
}

fn tell_host(shared: &Shared, promise: Promise) {
    match promise {
        Promise::Reply { id, reply } => {
            if let Reply::Pulled(Ok(payload)) = &reply {
                let digest = payload.digest(&shared.chain);
                shared.contents.insert(digest, Cached::Payload(Arc::clone(payload)));
            }
            shared.replies.answer(id, reply);
        }
        Promise::Event(event) => publish(shared, event),
        Promise::EndSubscription { subscription, end } => {
            shared.subscriptions.end(subscription, end);
        }
        // Handled by the caller.
        Promise::Sign(_)
        | Promise::SignAbsence { .. }
        | Promise::Publish(_)
        | Promise::Deliver { .. } => {}
    }
}

/// Tells whoever of the host listens.
pub(super) fn publish(shared: &Shared, event: Event) {
    shared.metrics.host.event(&event);
    // Nobody listening is fine.
    let _ = shared.events.send(event);
}
