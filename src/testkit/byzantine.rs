//! Named liars. A liar runs a production core, so that it takes part, and lies at its link: what it
//! sends is changed, and now and then it sends what no core would.

use std::sync::Arc;

use bytes::Bytes;

use super::cluster::{Cluster, Event};
use crate::crypto::Signer;
use crate::types::{
    AbsenceAnswer, AbsenceReason, AbsenceStatement, AbsentReason, Announcement, Batch, BatchBody,
    BatchId, BatchInfo, BodyBuilder, ChainId, CommitIndex, Digest, Epoch, FetchedContent,
    Incarnation, Message, Payload, ProofOfStore, ProofSignature, Scope, Signature, Timestamp,
    Usage, Vote,
};

/// Between two lies of its own, in microseconds.
const LIE_INTERVAL: u64 = 400_000;
/// How long somebody signs badly before it signs well again, in microseconds.
const TORN_PERIOD: u64 = 13_000_000;
/// Messages that a replayer remembers.
const REMEMBERED: usize = 256;

/// What a liar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// Sends different batches in one slot to different validators.
    Equivocate,
    /// Sends its batches to the fewest that make a quorum, and answers no fetch.
    Withhold,
    /// Sends batches whose body is not what the info says.
    WrongDigest,
    /// Sends again what it once sent or heard, as it was or for another epoch.
    Replay,
    /// Sends proofs with a doubled signer, an outsider, too little power, or changed contents.
    ForgeProofs,
    /// Signs in another chain's or epoch's name.
    OtherDomain,
    /// Signs so that it does not verify, for a while, and then well for a while.
    TornVotes,
    /// Sends floods of votes, requests and payloads that mean nothing.
    Spam,
    /// Never signs for anybody.
    Silent,
    /// Answers fetches with wrong bytes, and with what nobody asked for, without end.
    FetchLiar,
    /// Sends more than its window.
    QuotaHog,
    /// Proposes payloads that cannot be valid, and different ones to different validators.
    BadLeader,
    /// Grants nothing, everything, or each in turn; releases what is not released.
    BadGranter,
    /// Says that all content is absent, for every commit and digest it hears of, and sends none.
    Absent,
    /// Sends each of its batches to one validator, and answers no fetch.
    OneCopy,
    /// Proposes optimistic batches that nobody has or that never expire, and inline ones with other
    /// bodies or in the names of others.
    Conjure,
}

impl Lie {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::Equivocate,
        Self::Withhold,
        Self::WrongDigest,
        Self::Replay,
        Self::ForgeProofs,
        Self::OtherDomain,
        Self::TornVotes,
        Self::Spam,
        Self::Silent,
        Self::FetchLiar,
        Self::QuotaHog,
        Self::BadLeader,
        Self::BadGranter,
        Self::Absent,
        Self::OneCopy,
        Self::Conjure,
    ];

    /// Its name in counts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equivocate => "lie: equivocation",
            Self::Withhold => "lie: withheld batch",
            Self::WrongDigest => "lie: wrong digest",
            Self::Replay => "lie: replay",
            Self::ForgeProofs => "lie: forged proof",
            Self::OtherDomain => "lie: signature over another domain",
            Self::TornVotes => "lie: torn signature",
            Self::Spam => "lie: spam",
            Self::Silent => "lie: silence",
            Self::FetchLiar => "lie: wrong answer",
            Self::QuotaHog => "lie: beyond the window",
            Self::BadLeader => "lie: invalid payload",
            Self::BadGranter => "lie: false grant",
            Self::Absent => "lie: absence",
            Self::OneCopy => "lie: one copy",
            Self::Conjure => "lie: conjured batches",
        }
    }
}

/// One liar's memory.
#[derive(Debug)]
pub(super) struct Liar {
    lie: Lie,
    remembered: Vec<Message>,
    proofs: Vec<ProofOfStore>,
    counter: u64,
}

impl Liar {
    pub fn new(lie: Lie) -> Self {
        Self { lie, remembered: Vec::new(), proofs: Vec::new(), counter: 0 }
    }
}

impl Cluster {
    /// What a liar sends instead of what its core wants to send.
    pub(super) fn send_lie(&mut self, from: usize, to: usize, message: &Message) {
        self.remember(from, message);
        let Some(liar) = &self.liars[from] else { return };
        let lie = liar.lie;
        // Now this one, now that one, to the same validator too.
        let parity = self.rng.bool();
        match (lie, message) {
            (Lie::Equivocate, Message::Batch(batch)) if parity => {
                self.trace.count(lie.name());
                let twin = twin(batch);
                self.transmit(from, to, &Message::Batch(twin));
            }
            (Lie::Withhold, Message::Batch(_)) if to == 0 => self.trace.count(lie.name()),
            (Lie::Withhold, Message::FetchReply { digest, .. }) => {
                self.trace.count(lie.name());
                let content = FetchedContent::Absent(AbsentReason::NotHeld);
                self.transmit(from, to, &Message::FetchReply { digest: *digest, content });
            }
            (Lie::WrongDigest, Message::Batch(batch)) if parity => {
                self.trace.count(lie.name());
                let body = twin(batch).body;
                self.transmit(from, to, &Message::Batch(Batch { info: batch.info, body }));
            }
            (Lie::OtherDomain, Message::Votes { announcement, votes }) => {
                self.trace.count(lie.name());
                let votes = votes.iter().map(|vote| self.other_domain(from, vote)).collect();
                self.transmit(from, to, &Message::Votes { announcement: *announcement, votes });
            }
            (Lie::TornVotes, Message::Votes { announcement, votes })
                if (self.now / TORN_PERIOD).is_multiple_of(2) =>
            {
                self.trace.count(lie.name());
                let torn = Signature::from_bytes(&[self.rng.u8(..); 64]);
                let mut votes = votes.clone();
                for vote in &mut votes {
                    vote.signature = torn;
                }
                self.transmit(from, to, &Message::Votes { announcement: *announcement, votes });
            }
            (Lie::Silent, Message::Votes { .. }) => self.trace.count(lie.name()),
            (Lie::FetchLiar, Message::FetchReply { digest, content }) => {
                self.trace.count(lie.name());
                let content = wrong(content);
                for _ in 0..4 {
                    let content = content.clone();
                    self.transmit(from, to, &Message::FetchReply { digest: *digest, content });
                }
            }
            (Lie::OneCopy, Message::Batch(batch))
                if to as u64 != batch.info.batch_id.counter % self.nodes.len() as u64 =>
            {
                self.trace.count(lie.name());
            }
            (Lie::Absent | Lie::OneCopy, Message::FetchReply { digest, .. }) => {
                self.trace.count(lie.name());
                let content = FetchedContent::Absent(AbsentReason::NotHeld);
                self.transmit(from, to, &Message::FetchReply { digest: *digest, content });
            }
            (Lie::Absent, Message::Absence { index, digest, .. }) => {
                self.trace.count(lie.name());
                let message = self.false_absence(from, *index, *digest);
                self.transmit(from, to, &message);
            }
            (Lie::BadGranter, Message::Announce(_)) => {
                self.trace.count(lie.name());
                let announcement = self.false_grant();
                self.transmit(from, to, &Message::Announce(announcement));
            }
            (Lie::BadGranter, Message::Votes { votes, .. }) => {
                let announcement = self.false_grant();
                self.transmit(from, to, &Message::Votes { announcement, votes: votes.clone() });
            }
            _ => self.transmit(from, to, message),
        }
    }

    fn remember(&mut self, node: usize, message: &Message) {
        let at = self.rng.usize(..REMEMBERED);
        let Some(liar) = &mut self.liars[node] else { return };
        if let Message::Proofs(proofs) = message {
            liar.proofs.clone_from(proofs);
        }
        if liar.remembered.len() < REMEMBERED {
            liar.remembered.push(message.clone());
        } else {
            liar.remembered[at] = message.clone();
        }
    }

    /// A lie of its own, at its own time.
    pub(super) fn on_lie(&mut self, node: usize) {
        let micros = self.rng.u64(1..LIE_INTERVAL * 2);
        self.after(micros, Event::Lie { node });
        // Once time is up it is looked at whether everything has ended: what was never asked for
        // would be there for ever.
        let over = u128::from(self.now) > self.options.duration.as_micros();
        if over || self.nodes[node].running.is_none() {
            return;
        }
        let Some(lie) = self.liars[node].as_ref().map(|liar| liar.lie) else { return };
        let messages = match lie {
            Lie::Replay => self.replayed(node),
            Lie::ForgeProofs => self.forged(node),
            Lie::Spam => self.spam(node),
            Lie::QuotaHog => self.hog(node),
            Lie::Absent => self.absences(node),
            _ => return,
        };
        for message in messages {
            self.trace.count(lie.name());
            for peer in self.network.peers(node) {
                self.transmit(node, peer, &message);
            }
        }
    }

    fn replayed(&mut self, node: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        for _ in 0..3 {
            let Some(liar) = &self.liars[node] else { break };
            if liar.remembered.is_empty() {
                break;
            }
            let mut message = liar.remembered[self.rng.usize(..liar.remembered.len())].clone();
            if self.rng.bool() {
                match &mut message {
                    Message::Batch(batch) => batch.info.epoch = Epoch(self.rng.u64(..3)),
                    Message::Proofs(proofs) => {
                        for proof in proofs {
                            proof.info.epoch = Epoch(1);
                        }
                    }
                    _ => {}
                }
            }
            messages.push(message);
        }
        messages
    }

    fn forged(&mut self, node: usize) -> Vec<Message> {
        let Some(liar) = &self.liars[node] else { return Vec::new() };
        let Some(real) = liar.proofs.first().cloned() else { return Vec::new() };
        let mut doubled = real.clone();
        if let Some(first) = doubled.signatures.first().copied() {
            doubled.signatures.truncate(1);
            doubled.signatures.resize(real.signatures.len(), first);
        }
        let mut outsider = real.clone();
        outsider.signatures.iter_mut().for_each(|part| part.signer += 90);
        let mut weak = real.clone();
        weak.signatures.truncate(self.nodes.len() / 3);
        let mut changed = real.clone();
        changed.info.expiration = changed.info.expiration.saturating_add(LIFE);
        let mut torn = real.clone();
        if let Some(part) = torn.signatures.last_mut() {
            part.signature = Signature::from_bytes(&[self.rng.u8(..); 64]);
        }
        // All by itself: its own signature under everybody's index.
        let mut alone = real;
        let digest = alone.info.digest(&self.chain);
        let own = self.nodes[node]
            .keys
            .sign(&self.plan.of(self.epoch_now()).scope.batch_stored_bytes(&digest));
        let every =
            (0..self.nodes.len() as u16).map(|signer| ProofSignature { signer, signature: own });
        alone.signatures = every.collect();
        [doubled, outsider, weak, changed, torn, alone]
            .into_iter()
            .map(|proof| Message::Proofs(vec![proof]))
            .collect()
    }

    fn spam(&mut self, node: usize) -> Vec<Message> {
        let digest = Digest(std::array::from_fn(|_| self.rng.u8(..)));
        let signature = self.nodes[node]
            .keys
            .sign(&self.plan.of(self.epoch_now()).scope.batch_stored_bytes(&digest));
        let announcement = self.false_grant();
        let header = self.genesis.header();
        let content = crate::types::PayloadContent::default();
        let block_timestamp = Timestamp(self.rng.u64(..));
        let header = crate::types::PayloadHeader {
            block_timestamp,
            content_root: content.root(),
            height: crate::types::CommitIndex(self.rng.u64(..)),
            ..header
        };
        let payload = Payload { header, content };
        // The most that a request may ask for, now and then: each is answered, to a core that asked
        // for none of it.
        let asked = if self.rng.u32(..16) == 0 { 64 } else { 2 };
        let unasked = FetchedContent::Payload(Box::new(payload.clone()));
        let unasked_digest = payload.digest(&self.chain);
        vec![
            Message::Votes { announcement, votes: vec![Vote { digest, signature }; 3] },
            Message::FetchRequest(vec![digest; asked]),
            Message::Payload(Box::new(payload)),
            Message::FetchReply { digest: unasked_digest, content: unasked },
            Message::FetchReply { digest, content: FetchedContent::Absent(AbsentReason::NotHeld) },
            Message::FetchRequest(Vec::new()),
        ]
    }

    /// Batches without end, each valid by itself.
    fn hog(&mut self, node: usize) -> Vec<Message> {
        let expiration =
            self.clock(node).wall.saturating_add(self.genesis.parameters.batch_lifetime());
        let author = self.nodes[node].keys.author();
        let epoch = self.epoch_now();
        let Some(liar) = &mut self.liars[node] else { return Vec::new() };
        let mut messages = Vec::new();
        for _ in 0..8 {
            liar.counter += 1;
            let mut builder = BodyBuilder::new();
            builder.push(Bytes::from(vec![0xAB; 900]));
            let body = builder.finish();
            let info = BatchInfo {
                author,
                batch_id: BatchId { incarnation: Incarnation(666), counter: liar.counter },
                epoch,
                expiration,
                count: 1,
                bytes: body.bytes().len() as u32,
                gas_bucket_start: u64::MAX,
                root: body.root(),
            };
            messages.push(Message::Batch(Batch { info, body }));
        }
        messages
    }

    fn false_grant(&mut self) -> Announcement {
        let window = match self.rng.u32(..3) {
            0 => Usage::default(),
            1 => Usage { bytes: u64::MAX, batches: u64::MAX },
            _ => Usage { bytes: 4096, batches: 1 },
        };
        let released = if self.rng.bool() { Timestamp(u64::MAX) } else { Timestamp(0) };
        Announcement { window, released }
    }

    /// Absence of anything, signed.
    fn false_absence(&mut self, node: usize, index: CommitIndex, digest: Digest) -> Message {
        let epoch = if index.0 == 0 { Epoch(0) } else { self.plan.at(index.0) };
        let reason = AbsenceReason::NeverHeld;
        let statement = AbsenceStatement { epoch, index, digest, reason };
        let scope = self.plan.of(epoch).scope;
        let signature = self.nodes[node].keys.sign(&scope.absence_bytes(&statement));
        let answer = AbsenceAnswer::Signed { epoch, reason, signature };
        Message::Absence { index, digest, answer }
    }

    /// Absence of whatever was finalised last, before anybody asks, and of what it is not named in.
    fn absences(&mut self, node: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        let last = self.checker.finalised().iter().rev().take(3).copied().collect::<Vec<_>>();
        for commit in last {
            let digest = commit.header.digest(&self.chain);
            let payload = self.checker.content(&digest).cloned();
            let batches = payload.iter().flat_map(|payload| payload.content.batches());
            let batches: Vec<_> = batches.map(|info| info.digest(&self.chain)).collect();
            for digest in batches.into_iter().chain([digest]).take(8) {
                messages.push(self.false_absence(node, commit.index, digest));
                let other = CommitIndex(self.rng.u64(1..=commit.index.0));
                messages.push(self.false_absence(node, other, digest));
                messages.push(Message::AbsenceRequest { index: other, digest });
                messages.push(Message::AbsenceRequest { index: commit.index, digest });
            }
        }
        messages
    }

    fn other_domain(&mut self, node: usize, vote: &Vote) -> Vote {
        let mut scope: Scope = self.plan.of(self.epoch_now()).scope;
        if self.rng.bool() {
            scope.epoch = Epoch(scope.epoch.0 + 7);
        } else {
            scope.chain = ChainId([9; 32]);
        }
        let signature = self.nodes[node].keys.sign(&scope.batch_stored_bytes(&vote.digest));
        Vote { digest: vote.digest, signature }
    }

    /// What a leader proposes: what its core gave it, or, from a liar, something else.
    pub(super) fn lead(&mut self, leader: usize, payload: &Arc<Payload>) -> Arc<Payload> {
        match self.liars[leader].as_ref().map(|liar| liar.lie) {
            Some(Lie::BadLeader) => {}
            Some(Lie::Conjure) => return self.conjure(payload),
            _ => return Arc::clone(payload),
        }
        self.trace.count(Lie::BadLeader.name());
        let mut bad = Payload::clone(payload);
        match self.rng.u32(..5) {
            0 => bad.header.block_timestamp = Timestamp(u64::MAX),
            1 => bad.header.parent = Digest([3; 32]),
            2 => {
                let again = bad.content.proofs.clone();
                bad.content.proofs.extend(again);
            }
            3 => bad.content.proofs.iter_mut().for_each(|proof| proof.signatures.truncate(1)),
            _ => bad.header.block_timestamp = Timestamp(0),
        }
        bad.header.content_root = bad.content.root();
        Arc::new(bad)
    }
}

impl Cluster {
    /// A payload with batches that do not come from where they seem to.
    fn conjure(&mut self, payload: &Arc<Payload>) -> Arc<Payload> {
        self.trace.count(Lie::Conjure.name());
        let mut bad = Payload::clone(payload);
        let author = self.nodes[self.rng.usize(..self.nodes.len())].author;
        let mut builder = BodyBuilder::new();
        builder.push(Bytes::from(vec![0xCD; 40]));
        let body = builder.finish();
        let lifetime = self.genesis.parameters.batch_lifetime();
        let info = BatchInfo {
            author,
            batch_id: BatchId { incarnation: Incarnation(1000), counter: self.rng.u64(..300) },
            epoch: bad.header.epoch,
            expiration: bad.header.block_timestamp.saturating_add(lifetime),
            count: 1,
            bytes: body.bytes().len() as u32,
            gas_bucket_start: 0,
            root: body.root(),
        };
        match self.rng.u32(..4) {
            0 => bad.content.optimistic.push(info),
            1 => {
                let expiration = Timestamp(u64::MAX);
                bad.content.optimistic.push(BatchInfo { expiration, ..info });
            }
            2 => {
                let info = BatchInfo { root: Digest([5; 32]), ..info };
                bad.content.inline.push(Batch { info, body });
            }
            // As good as any other: its transactions speak for themselves.
            _ => bad.content.inline.push(Batch { info, body }),
        }
        bad.header.content_root = bad.content.root();
        Arc::new(bad)
    }
}

/// What a forged expiration is off by.
const LIFE: std::time::Duration = std::time::Duration::from_secs(1);

/// Another batch in the same slot.
fn twin(batch: &Batch) -> Batch {
    let mut builder = BodyBuilder::new();
    for transaction in batch.body.transactions() {
        let mut bytes = transaction.to_vec();
        if let Some(last) = bytes.last_mut() {
            *last ^= 0xFF;
        }
        builder.push(Bytes::from(bytes));
    }
    let body = builder.finish();
    Batch { info: BatchInfo { root: body.root(), ..batch.info }, body }
}

/// Content that is not what was asked for.
fn wrong(content: &FetchedContent) -> FetchedContent {
    match content {
        FetchedContent::Absent(_) => FetchedContent::Absent(AbsentReason::Unreadable),
        FetchedContent::Busy(_) => FetchedContent::Busy(u32::MAX),
        FetchedContent::Chunk(chunk) => {
            let mut chunk = chunk.clone();
            chunk.index ^= 1;
            FetchedContent::Chunk(chunk)
        }
        FetchedContent::Batch(batch) => {
            let mut bytes = batch.body.bytes().to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            let body = BatchBody::new(Bytes::from(bytes));
            FetchedContent::Batch(Batch { info: batch.info, body })
        }
        FetchedContent::Payload(payload) => {
            let mut payload = payload.clone();
            payload.header.block_timestamp = Timestamp(payload.header.block_timestamp.0 + 1);
            FetchedContent::Payload(payload)
        }
    }
}
