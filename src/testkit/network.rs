//! Links between validators: they come up with a hello, go down at each end by itself, and lose,
//! delay, double and reorder what they carry.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Cluster, Event};
use super::ingress::{Ingress, Judged};
use crate::sequencer::port::Input;
use crate::types::{
    AbsentReason, Author, Chunk, Digest, FetchedContent, Hello, Membership, Message,
};

/// Between two tries to connect, in microseconds.
const REDIAL: u64 = 500_000;

/// Who is linked with whom.
#[derive(Debug)]
pub(super) struct Network {
    /// The link that (node, peer) sees, by its number.
    up: BTreeMap<(usize, usize), u64>,
    /// Pairs that wait for the next try.
    dialling: BTreeSet<(usize, usize)>,
    /// Directions in which nothing passes.
    pub cut: BTreeSet<(usize, usize)>,
    /// Validators whose messages take this much longer, in microseconds.
    pub slow: BTreeMap<usize, u64>,
    links: u64,
    count: usize,
}

impl Network {
    pub fn new(count: usize) -> Self {
        Self {
            up: BTreeMap::new(),
            dialling: BTreeSet::new(),
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            links: 0,
            count,
        }
    }

    pub fn peers(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.count).filter(move |peer| *peer != node)
    }

    fn passes(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }
}

impl Cluster {
    /// Tries to connect two validators, now and until it works.
    pub(super) fn dial(&mut self, a: usize, b: usize, micros: u64) {
        let (low, high) = (a.min(b), a.max(b));
        if self.network.dialling.insert((low, high)) {
            self.after(micros, Event::Connect { low, high });
        }
    }

    pub(super) fn on_connect(&mut self, low: usize, high: usize) {
        self.network.dialling.remove(&(low, high));
        let agree = self.agree(low, high);
        let passes = self.network.passes(low, high) && self.network.passes(high, low);
        if !agree || !passes {
            self.dial(low, high, REDIAL);
            return;
        }
        self.network.links += 1;
        let link = self.network.links;
        for (node, peer) in [(low, high), (high, low)] {
            let Some(hello) = self.hello(peer, node) else { continue };
            let micros = 1000 + self.rng.u64(..2000);
            let hello = Box::new(hello);
            self.after(micros, Event::Up { node, peer, link, hello });
        }
    }

    /// What `from` tells `to` when their link comes up.
    fn hello(&self, from: usize, to: usize) -> Option<Hello> {
        let running = self.nodes[from].running.as_ref()?;
        let Membership { epoch, committee, .. } = &**running.sequencer.membership();
        Some(Hello {
            chain: self.chain,
            epoch: *epoch,
            committee: committee.hash(),
            announcement: running.sequencer.announcement(),
            holds: running.sequencer.stored_of(&self.nodes[to].author),
        })
    }

    pub(super) fn on_up(&mut self, node: usize, peer: usize, link: u64, hello: Hello) {
        if self.nodes[node].running.is_none() {
            return;
        }
        self.network.up.insert((node, peer), link);
        let peer = self.nodes[peer].author;
        self.input(node, Input::LinkUp { peer, hello });
    }

    pub(super) fn on_down(&mut self, node: usize, peer: usize, link: u64) {
        if self.network.up.get(&(node, peer)) != Some(&link) {
            return;
        }
        self.network.up.remove(&(node, peer));
        let author = self.nodes[peer].author;
        self.input(node, Input::LinkDown { peer: author });
        // The other end notices sooner or later.
        if self.network.up.get(&(peer, node)) == Some(&link) {
            let micros = self.rng.u64(..1_000_000);
            self.after(micros, Event::Down { node: peer, peer: node, link });
        }
        self.dial(node, peer, REDIAL);
    }

    /// Both ends lose their link, each at its own time.
    pub(super) fn break_link(&mut self, a: usize, b: usize, within: u64) {
        for (node, peer) in [(a, b), (b, a)] {
            if let Some(link) = self.network.up.get(&(node, peer)).copied() {
                let micros = self.rng.u64(..within.max(1));
                self.after(micros, Event::Down { node, peer, link });
            }
        }
    }

    /// The process of a validator is gone: it sees no link any more, its peers notice.
    pub(super) fn on_gone(&mut self, node: usize) {
        for peer in self.network.peers(node) {
            self.network.up.remove(&(node, peer));
            self.break_link(node, peer, 400_000);
            self.dial(node, peer, REDIAL);
        }
    }

    /// What a validator sends; a liar sends something else.
    pub(super) fn send(&mut self, from: usize, to: &[Author], message: &Message) {
        for author in to {
            let Some(to) = self.index_of(author) else { continue };
            if self.liars[from].is_some() {
                self.send_lie(from, to, message);
            } else {
                self.transmit(from, to, message);
            }
        }
    }

    /// Puts a message on the link, if there is one.
    pub(super) fn transmit(&mut self, from: usize, to: usize, message: &Message) {
        let Some(link) = self.network.up.get(&(from, to)).copied() else { return };
        let stormy = self.is_stormy();
        if stormy && self.rng.u32(..1000) < self.options.lost_per_mille {
            self.trace.count("message lost");
            return;
        }
        let doubled = stormy && self.rng.u32(..1000) < self.options.doubled_per_mille;
        if doubled {
            self.trace.count("message doubled");
        }
        let slow = [from, to].iter().filter_map(|node| self.network.slow.get(node)).sum::<u64>();
        for _ in 0..=u8::from(doubled) {
            let most = self.options.delay_max.as_micros() as u64;
            let micros = slow + 500 + self.rng.u64(..most.max(1));
            let message = Box::new(message.clone());
            self.after(micros, Event::Deliver { from, to, link, message });
        }
    }

    pub(super) fn on_deliver(&mut self, from: usize, to: usize, link: u64, message: Message) {
        if self.network.up.get(&(to, from)) != Some(&link) || self.nodes[to].running.is_none() {
            self.trace.count("message of a broken link");
            return;
        }
        if !self.network.passes(from, to) {
            self.trace.count("message cut off");
            return;
        }
        let message = if self.options.encodes {
            match Message::decode(&message.encode().to_bytes()) {
                Ok(message) => message,
                Err(error) => {
                    let honest = self.is_honest(from);
                    let detail = format!("node {from} sent {}: {error}", message.kind_name());
                    if honest {
                        self.checker.fail("what is sent can be decoded", detail);
                    }
                    // As ingress does: the link is closed.
                    self.trace.count("message undecodable");
                    self.break_link(from, to, 1);
                    return;
                }
            }
        } else {
            message
        };
        if self.is_filtered(to, &message) {
            self.trace.count("batch filtered");
            return;
        }
        let peer = self.nodes[from].author;
        let kind = message.kind_name();
        let Some(running) = &self.nodes[to].running else { return };
        let (genesis, plan, membership) = (&self.genesis, &self.plan, &*running.membership);
        let ingress = Ingress { genesis, plan, membership, keys: &self.nodes[to].keys };
        match ingress.judge(peer, message) {
            Judged::Inputs(inputs) => {
                let seen = inputs.first().and_then(|input| self.seen(input));
                inputs.into_iter().chain(seen).for_each(|input| self.input(to, input));
            }
            Judged::Serve(asked) => self.serve(to, peer, &asked),
            judged @ (Judged::Invalid | Judged::Wrong(_)) => {
                if let Judged::Wrong(input) = judged {
                    self.input(to, input);
                }
                self.trace.count("message invalid");
                if self.is_honest(from) {
                    let detail = format!("node {from} sent an invalid {kind} to {to}");
                    self.checker.fail("honest messages are valid", detail);
                }
            }
        }
    }

    /// Answers from what is durable.
    pub(super) fn serve(&mut self, node: usize, peer: Author, asked: &[(Digest, Option<u16>)]) {
        for (digest, chunk) in asked {
            let Some(store) = &self.nodes[node].store else { return };
            let reader = crate::store::Store::reader(store);
            let batch = reader.batch(digest).ok().flatten().map(|batch| {
                let chunk = chunk.and_then(|index| Chunk::of(batch.info, &batch.body, index));
                match chunk {
                    Some(chunk) => {
                        self.trace.count("chunk served");
                        FetchedContent::Chunk(Box::new(chunk))
                    }
                    None => FetchedContent::Batch(batch),
                }
            });
            let content = batch.or_else(|| {
                let payload = reader.payload(digest).ok().flatten()?;
                Some(FetchedContent::Payload(Box::new(payload)))
            });
            let content = content.unwrap_or(FetchedContent::Absent(AbsentReason::NotHeld));
            let message = Message::FetchReply { digest: *digest, content };
            self.send(node, &[peer], &message);
        }
    }
}
