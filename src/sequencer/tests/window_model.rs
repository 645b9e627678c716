//! An author's count of a peer's room against what that peer really stores, over random lives of
//! both: loss, resends, late announcements, restarts, clocks that stand apart. What is granted is
//! never refused for room, and what is counted is what a naive recount says.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::net::*;
use crate::crypto::Signer as _;
use crate::sequencer::windows::Windows;
use crate::store::Store as _;
use crate::types::*;

const GRACE: Duration = Duration::from_secs(10);
const TIMES: (Duration, Duration) = (Duration::from_secs(LIFETIME), GRACE);
const LIFETIME: u64 = 30;
const WINDOW: Usage = Usage { bytes: 60_000, batches: 12 };

/// What both know of a batch.
type Batches = BTreeMap<Digest, BatchInfo>;

/// What lasts of an author, and what one life of it knows.
struct Sender {
    windows: Windows,
    /// Stored here, its own.
    held: Batches,
    consensus: Timestamp,
    /// The naive count: what this life must count at the receiver.
    counted: Batches,
    /// The latest time released that this life has heard of.
    heard: Timestamp,
    sealed: u64,
}

/// The other side: what it stores is the truth.
#[derive(Default)]
struct Receiver {
    stored: Batches,
    /// Its consensus time; what is over by it is deleted, and announced later.
    consensus: Timestamp,
    released: Timestamp,
}

impl Receiver {
    fn usage(&self) -> Usage {
        usage(&self.stored)
    }

    fn announcement(&self) -> Announcement {
        Announcement { window: WINDOW, released: self.released }
    }

    /// Takes a batch as the batch coordinator does.
    fn receive(&mut self, digest: Digest, info: BatchInfo) {
        if info.expiration <= self.consensus || self.stored.contains_key(&digest) {
            return;
        }
        let usage = self.usage();
        assert!(usage.has_room(info.charge(), &WINDOW), "refused for room: {usage:?} and {info:?}");
        self.stored.insert(digest, info);
    }
}

fn usage(batches: &Batches) -> Usage {
    let mut usage = Usage::default();
    for info in batches.values() {
        usage.add(info.charge());
    }
    usage
}

fn is_over(info: &BatchInfo, released: Timestamp) -> bool {
    info.expiration.saturating_add(GRACE) < released
}

struct World {
    me: Author,
    peer: Author,
    rng: fastrand::Rng,
    committee: Committee,
    template: BatchInfo,
    sender: Sender,
    receiver: Receiver,
    linked: bool,
    /// On their way.
    batches: VecDeque<(Digest, BatchInfo)>,
    announcements: VecDeque<Announcement>,
    /// The newest block anywhere.
    chain: Timestamp,
    granted: u64,
    refused: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut net = Net::new();
        let digest = net.batch(0, "one");
        let template = net.nodes[0].store.reader().batch(&digest).unwrap().unwrap().info;
        let committee = committee(0..4);
        let windows = Windows::new(signer(0).author(), Epoch(0), &committee, TIMES);
        let chain = Timestamp(1_000_000_000);
        let (held, counted) = (Batches::new(), Batches::new());
        let heard = Timestamp(0);
        let sender = Sender { windows, held, consensus: chain, counted, heard, sealed: 0 };
        let receiver = Receiver { consensus: chain, released: chain, ..Receiver::default() };
        let (me, peer) = (signer(0).author(), signer(1).author());
        Self {
            me,
            peer,
            rng: fastrand::Rng::with_seed(seed),
            committee,
            template,
            sender,
            receiver,
            linked: false,
            batches: VecDeque::new(),
            announcements: VecDeque::new(),
            chain,
            granted: 0,
            refused: 0,
        }
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..30 => self.seal(),
            30..40 => self.resend(),
            40..60 => self.deliver_batch(),
            60..70 => self.receiver.released = self.receiver.consensus,
            70..75 => self.announcements.push_back(self.receiver.announcement()),
            75..82 => self.deliver_announcement(),
            82..88 => {
                let seconds = self.rng.u64(1..=LIFETIME / 3);
                self.chain = self.chain.saturating_add(Duration::from_secs(seconds));
            }
            88..92 => self.sender_commits(),
            92..96 => self.receiver_commits(),
            96 => self.link_down(),
            97 | 98 => self.link_up(),
            _ => self.restart(),
        }
        self.check();
    }

    fn seal(&mut self) {
        self.sender.sealed += 1;
        let mut info = self.template;
        info.batch_id.counter = self.sender.sealed;
        info.bytes = self.rng.u32(1..20_000);
        let life = Duration::from_secs(self.rng.u64(1..=LIFETIME));
        info.expiration = self.sender.consensus.saturating_add(life);
        let digest = Digest(blake3::hash(&self.sender.sealed.to_le_bytes()).into());
        self.sender.held.insert(digest, info);
        self.offer(digest, info);
    }

    fn resend(&mut self) {
        let place = self.rng.usize(..self.sender.held.len().max(1));
        if let Some((digest, info)) = self.sender.held.iter().nth(place) {
            self.offer(*digest, *info);
        }
    }

    fn offer(&mut self, digest: Digest, info: BatchInfo) {
        let granted = self.sender.windows.grant([self.peer].into_iter(), digest, &info);
        if granted.is_empty() {
            self.refused += 1;
            return;
        }
        assert!(self.linked, "sent without a link");
        self.granted += 1;
        self.sender.counted.insert(digest, info);
        self.batches.push_back((digest, info));
    }

    fn deliver_batch(&mut self) {
        let Some((digest, info)) = self.batches.pop_front() else { return };
        // Some are lost although the link stays up: the peer drops what its queue cannot hold.
        if self.rng.u32(..10) > 0 {
            self.receiver.receive(digest, info);
        }
    }

    /// In any order: an old announcement frees nothing again and takes nothing back.
    fn deliver_announcement(&mut self) {
        let place = self.rng.usize(..self.announcements.len().max(1));
        let Some(announcement) = self.announcements.remove(place) else { return };
        self.sender.windows.on_announcement(self.peer, announcement);
        self.hears(announcement.released);
    }

    /// The naive side: what was ever released counts no more.
    fn hears(&mut self, released: Timestamp) {
        self.sender.heard = self.sender.heard.max(released);
        let heard = self.sender.heard;
        self.sender.counted.retain(|_, info| !is_over(info, heard));
    }

    fn sender_commits(&mut self) {
        self.sender.consensus = self.chain;
        let consensus = self.sender.consensus;
        self.sender.held.retain(|_, info| !is_over(info, consensus));
    }

    /// What is over is deleted, and announced some time later.
    fn receiver_commits(&mut self) {
        let behind = self.chain.0 - self.receiver.consensus.0;
        self.receiver.consensus.0 += self.rng.u64(..=behind);
        let consensus = self.receiver.consensus;
        self.receiver.stored.retain(|_, info| !is_over(info, consensus));
    }

    fn link_down(&mut self) {
        self.linked = false;
        self.sender.windows.on_link_down(self.peer);
        // What the peer has received by then it may still take.
        while self.rng.bool() && !self.batches.is_empty() {
            self.deliver_batch();
        }
        self.batches.clear();
        self.announcements.clear();
    }

    fn link_up(&mut self) {
        if self.linked {
            return;
        }
        self.linked = true;
        let hello = Hello {
            chain: ChainId([7; 32]),
            epoch: Epoch(0),
            committee: self.committee.hash(),
            announcement: self.receiver.announcement(),
            holds: self.receiver.usage(),
        };
        self.sender.windows.on_link_up(self.peer, &hello, self.sender.consensus);
        self.hears(hello.announcement.released);
    }

    fn restart(&mut self) {
        self.link_down();
        if self.rng.bool() {
            // The receiver: a group that was not written is gone.
            let place = self.rng.usize(..self.receiver.stored.len().max(1));
            let last = self.receiver.stored.keys().nth(place).copied();
            last.map(|digest| self.receiver.stored.remove(&digest));
            return;
        }
        self.sender.windows = Windows::new(self.me, Epoch(0), &self.committee, TIMES);
        for (digest, info) in &self.sender.held {
            self.sender.windows.on_recovered_batch(*digest, info);
        }
        self.sender.counted = self.sender.held.clone();
        self.sender.heard = Timestamp(0);
    }

    fn check(&self) {
        let status = self.sender.windows.status(|_| Usage::default());
        let peer = status.into_iter().find(|row| row.peer == self.peer).unwrap();
        assert_eq!(peer.used, usage(&self.sender.counted));
    }
}

#[test]
fn what_an_author_counts_covers_what_its_peer_stores_whatever_happens() {
    let (seeds, steps) = if cfg!(miri) { (1, 60) } else { (50, 4_000) };
    let (mut granted, mut refused) = (0, 0);
    for seed in 0..seeds {
        let mut world = World::new(seed);
        world.link_up();
        for _ in 0..steps {
            world.step();
        }
        granted += world.granted;
        refused += world.refused;
    }
    if !cfg!(miri) {
        assert!(granted > 5_000 && refused > 5_000, "{granted} granted, {refused} refused");
    }
}

#[test]
fn liars_among_the_granters_neither_stop_an_author_nor_free_what_others_count() {
    let committee = committee(0..4);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut net = Net::new();
    let digest = net.batch(0, "one");
    let info = net.nodes[0].store.reader().batch(&digest).unwrap().unwrap().info;
    let mut windows = Windows::new(signer(0).author(), Epoch(0), &committee, TIMES);
    let released = Timestamp(1);
    // It harms nobody but itself: it is sent nothing.
    let everything = Usage { bytes: u64::MAX, batches: u64::MAX };
    for peer in 1..4 {
        let announcement = Announcement { window: WINDOW, released };
        let hello = Hello {
            chain: ChainId([7; 32]),
            epoch: Epoch(0),
            committee: committee.hash(),
            announcement,
            holds: if peer == 3 { everything } else { Usage::default() },
        };
        windows.on_link_up(signer(peer).author(), &hello, released);
    }
    let liar = signer(3).author();
    for count in 0..WINDOW.batches {
        // Zero, huge, and anything between, of room and of time.
        let huge = [0, rng.u64(..), u64::MAX];
        let any = |rng: &mut fastrand::Rng| huge[rng.usize(..3)];
        let window = Usage { bytes: any(&mut rng), batches: any(&mut rng) };
        windows.on_announcement(liar, Announcement { window, released: Timestamp(any(&mut rng)) });
        assert!(windows.quorum_has_room(&committee, info.charge()), "stopped by a liar at {count}");
        let mut later = info;
        later.batch_id.counter = count;
        let digest = Digest(blake3::hash(&count.to_le_bytes()).into());
        let honest = [signer(1).author(), signer(2).author()];
        let granted = windows.grant(honest.into_iter().chain([liar]), digest, &later);
        assert!(honest.iter().all(|author| granted.contains(author)));
    }
    // Both honest ones are full: the liar's word alone is no quorum.
    let window = Usage { bytes: u64::MAX, batches: u64::MAX };
    windows.on_announcement(liar, Announcement { window, released: Timestamp(u64::MAX) });
    assert!(!windows.quorum_has_room(&committee, info.charge()));
}
