//! What the fetcher knows of each peer: how fast it answers, how often it does not, what it was
//! asked for.
//!
//! A wait for a peer follows its measured latency, as a sender's does in RFC 6298: smoothed, plus
//! four times its deviation. Failures are a penalty that halves every few seconds, so whoever is
//! well again is asked again. How much a peer is asked for at once grows with its answers and is
//! halved when it lets one expire.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::types::{Author, Digest};

/// A penalty is halved after this long.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// What failures cost.
const EXPIRED: u32 = 4;
const WRONG: u32 = 16;
const UNASKED: u32 = 1;
/// From here on a peer is asked only after all others.
const AVOIDED: u32 = 4;
/// So much that it takes a minute to be forgotten; more is not counted.
const PENALTY_MAX: u32 = 1 << 14;
/// Asked for at once before anything was answered.
const WINDOW_START: usize = 8;
/// A peer that says it is busy is believed for at most this long.
const BUSY_MAX: Duration = Duration::from_secs(2);
/// No wait is shorter than this part of the one for a peer that was never measured,
const WAIT_MIN: u32 = 16;
/// or longer than this multiple of it.
const WAIT_MAX: u32 = 4;

/// One piece of content: a digest, and which chunk of it.
pub(super) type PieceId = (Digest, u16);

#[derive(Clone, Copy, Debug)]
struct Ask {
    sent: Duration,
    expires: Duration,
    bytes: u64,
}

#[derive(Debug)]
struct Peer {
    /// Smoothed latency and its deviation.
    latency: Option<(Duration, Duration)>,
    penalty: u32,
    penalised: Duration,
    /// What it sent without being asked; halved like a penalty.
    unasked: u32,
    unasked_at: Duration,
    /// How many pieces it is asked for at once.
    window: usize,
    busy_until: Duration,
    asks: BTreeMap<PieceId, Ask>,
    /// Answers with content.
    answered: u64,
    /// Asks that expired and answers that were wrong.
    failed: u64,
}

impl Peer {
    fn new() -> Self {
        Self {
            latency: None,
            penalty: 0,
            penalised: Duration::ZERO,
            unasked: 0,
            unasked_at: Duration::ZERO,
            window: WINDOW_START,
            busy_until: Duration::ZERO,
            asks: BTreeMap::new(),
            answered: 0,
            failed: 0,
        }
    }

    fn penalty(&self, now: Duration) -> u32 {
        halved(self.penalty, self.penalised, now)
    }

    fn penalise(&mut self, now: Duration, cost: u32) {
        self.penalty = (self.penalty(now) + cost).min(PENALTY_MAX);
        self.penalised = now;
    }

    fn measured(&mut self, sample: Duration) {
        self.latency = Some(match self.latency {
            None => (sample, sample / 2),
            Some((mean, deviation)) => {
                let off = sample.abs_diff(mean);
                ((mean * 7 + sample) / 8, (deviation * 3 + off) / 4)
            }
        });
    }
}

/// What is left of a value after a while.
fn halved(value: u32, at: Duration, now: Duration) -> u32 {
    let age = now.saturating_sub(at);
    let halvings = (age.as_micros() / HALF_LIFE.as_micros()).min(31) as u32;
    value >> halvings
}

/// How a peer stands, for status pages.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::sequencer) struct Standing {
    pub latency: Option<Duration>,
    pub penalty: u32,
    pub asked: usize,
    pub answered: u64,
    pub failed: u64,
}

/// All peers.
#[derive(Debug)]
pub(super) struct Peers {
    /// Before anything was measured.
    try_timeout: Duration,
    window_max: usize,
    by_author: BTreeMap<Author, Peer>,
    /// Over all peers: what a good answer takes.
    usual: Option<Duration>,
    expiries: BTreeSet<(Duration, Author, PieceId)>,
    bytes: u64,
}

impl Peers {
    pub fn new(try_timeout: Duration, window_max: usize) -> Self {
        Self {
            try_timeout,
            window_max,
            by_author: BTreeMap::new(),
            usual: None,
            expiries: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Bytes asked for and not answered, all peers together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the next ask expires.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.expiries.first().map(|(at, _, _)| *at)
    }

    fn peer(&mut self, author: Author) -> &mut Peer {
        self.by_author.entry(author).or_insert_with(Peer::new)
    }

    /// How long to wait for a peer before another one is asked as well: as long as its answers
    /// take, but for one that was never measured, or fails, not much longer than others' take.
    pub fn patience(&self, author: &Author, now: Duration) -> Duration {
        let (least, most) = (self.try_timeout / WAIT_MIN, self.try_timeout * WAIT_MAX);
        let usual = self.usual.map_or(self.try_timeout, |usual| usual * 2);
        let own = self.by_author.get(author).filter(|peer| peer.penalty(now) < AVOIDED);
        let own = own.and_then(|peer| peer.latency).map(|(mean, off)| mean + off * 4);
        own.unwrap_or(usual).clamp(least, most)
    }

    /// Lower is better; `None` if it may not be asked for more now.
    pub fn cost(&self, author: &Author, holds: bool, now: Duration) -> Option<(u32, u128)> {
        let Some(peer) = self.by_author.get(author) else {
            let usual = self.usual.unwrap_or(self.try_timeout) / 2;
            return Some((u32::from(!holds), usual.as_micros()));
        };
        if peer.busy_until > now || peer.asks.len() >= peer.window {
            return None;
        }
        let penalty = peer.penalty(now);
        let class = u32::from(!holds) + if penalty >= AVOIDED { 2 } else { 0 };
        // Who was never measured is tried, and then known.
        let usual = self.usual.unwrap_or(self.try_timeout) / 2;
        let mean = peer.latency.map_or(usual, |(mean, _)| mean);
        // Work goes where it is done soonest: what a peer has to do already counts.
        let wait = mean.as_micros().max(100) * (2 + peer.asks.len() as u128) / 2;
        Some((class, wait << penalty.min(16)))
    }

    /// True if it was asked for the piece and has not answered.
    pub fn is_asked(&self, author: &Author, piece: &PieceId) -> bool {
        self.by_author.get(author).is_some_and(|peer| peer.asks.contains_key(piece))
    }

    /// When a busy peer may be asked again.
    pub fn busy_until(&self, author: &Author) -> Option<Duration> {
        self.by_author.get(author).map(|peer| peer.busy_until)
    }

    /// A peer is asked. Returns how long to wait before another one is.
    pub fn on_ask(
        &mut self,
        author: Author,
        piece: PieceId,
        bytes: u64,
        now: Duration,
    ) -> Duration {
        let patience = self.patience(&author, now);
        let expires = now + (patience * 4).max(self.try_timeout * 2);
        self.expiries.insert((expires, author, piece));
        self.bytes += bytes;
        let known = self.peer(author).asks.insert(piece, Ask { sent: now, expires, bytes });
        assert!(known.is_none(), "{author} is asked for {piece:?} twice at once");
        patience
    }

    fn settle(&mut self, author: &Author, piece: &PieceId) -> Option<Ask> {
        let ask = self.by_author.get_mut(author)?.asks.remove(piece)?;
        self.expiries.remove(&(ask.expires, *author, *piece));
        self.bytes -= ask.bytes;
        Some(ask)
    }

    /// Every chunk of this digest that a peer was asked for is answered. The last one, if there was
    /// any.
    fn settle_all(&mut self, author: &Author, digest: &Digest) -> Option<Ask> {
        let range = (*digest, 0)..=(*digest, u16::MAX);
        let asks = self.by_author.get(author)?.asks.range(range).map(|(piece, _)| *piece);
        let pieces: Vec<PieceId> = asks.collect();
        let settled = pieces.iter().filter_map(|piece| self.settle(author, piece));
        // All of them: the last one alone would leave the others asked for.
        settled.fold(None, |_, ask| Some(ask))
    }

    /// The peer sent content. False if it had not been asked: it is late, or abuses.
    pub fn on_content(&mut self, author: Author, piece: &PieceId, now: Duration) -> bool {
        let Some(ask) = self.settle(&author, piece) else {
            self.on_unasked(author, now);
            return false;
        };
        let sample = now.saturating_sub(ask.sent);
        self.usual = Some(self.usual.map_or(sample, |usual| (usual * 15 + sample) / 16));
        let window_max = self.window_max;
        let peer = self.peer(author);
        peer.measured(sample);
        peer.answered += 1;
        peer.window = (peer.window + 1).min(window_max);
        true
    }

    /// It sent what it was not asked for.
    pub fn on_unasked(&mut self, author: Author, now: Duration) {
        let peer = self.peer(author);
        peer.penalise(now, UNASKED);
        peer.unasked = halved(peer.unasked, peer.unasked_at, now).saturating_add(1);
        peer.unasked_at = now;
    }

    /// It does not have it. True if it had been asked.
    pub fn on_absent(&mut self, author: Author, digest: &Digest, now: Duration) -> bool {
        let asked = self.settle_all(&author, digest);
        match asked {
            Some(ask) => self.peer(author).measured(now.saturating_sub(ask.sent)),
            None => self.on_unasked(author, now),
        }
        asked.is_some()
    }

    /// It has too much to do. True if it had been asked.
    pub fn on_busy(
        &mut self,
        author: Author,
        digest: &Digest,
        pause: Duration,
        now: Duration,
    ) -> bool {
        let asked = self.settle_all(&author, digest).is_some();
        if asked {
            let peer = self.peer(author);
            peer.busy_until = now + pause.min(BUSY_MAX);
            peer.window = (peer.window / 2).max(1);
        } else {
            self.on_unasked(author, now);
        }
        asked
    }

    /// It sent something else than what was asked for.
    pub fn on_wrong(&mut self, author: Author, digest: &Digest, now: Duration) {
        self.settle_all(&author, digest);
        let peer = self.peer(author);
        peer.penalise(now, WRONG);
        peer.failed += 1;
        peer.window = (peer.window / 2).max(1);
    }

    /// Asks that nobody answered in time. True if there were any.
    pub fn expire(&mut self, now: Duration) -> bool {
        let mut any = false;
        while let Some(&(at, author, piece)) = self.expiries.first() {
            if at > now {
                break;
            }
            self.settle(&author, &piece);
            let peer = self.peer(author);
            peer.penalise(now, EXPIRED);
            peer.failed += 1;
            peer.window = (peer.window / 2).max(1);
            any = true;
        }
        any
    }

    /// The link is down: what was asked over it is not answered, which is nobody's fault.
    pub fn on_link_down(&mut self, author: &Author) -> Vec<PieceId> {
        let Some(peer) = self.by_author.get(author) else { return Vec::new() };
        let pieces: Vec<PieceId> = peer.asks.keys().copied().collect();
        for piece in &pieces {
            self.settle(author, piece);
        }
        pieces
    }

    /// True if a peer sends more of what nobody asked for than a restart of ours explains.
    pub fn floods(&self, author: &Author, now: Duration) -> bool {
        let bound = 8 * self.window_max as u32;
        self.by_author
            .get(author)
            .is_some_and(|peer| halved(peer.unasked, peer.unasked_at, now) > bound)
    }

    /// For status pages.
    pub fn standings(&self, now: Duration) -> BTreeMap<Author, Standing> {
        let standing = |(author, peer): (&Author, &Peer)| {
            let standing = Standing {
                latency: peer.latency.map(|(mean, _)| mean),
                penalty: peer.penalty(now),
                asked: peer.asks.len(),
                answered: peer.answered,
                failed: peer.failed,
            };
            (*author, standing)
        };
        self.by_author.iter().map(standing).collect()
    }

    /// Only those who are still talked to are remembered.
    pub fn retain(&mut self, keep: impl Fn(&Author) -> bool) {
        let gone: Vec<Author> =
            self.by_author.keys().filter(|author| !keep(author)).copied().collect();
        for author in gone {
            self.on_link_down(&author);
            self.by_author.remove(&author);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Author = Author([1; 32]);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn piece(number: u8) -> PieceId {
        (Digest([number; 32]), 0)
    }

    fn peers() -> Peers {
        Peers::new(Duration::from_secs(1), 16)
    }

    /// Asked at `at`, the peer answers after `latency`.
    fn answer(peers: &mut Peers, at: Duration, latency: Duration) {
        peers.on_ask(PEER, piece(0), 10, at);
        assert!(peers.on_content(PEER, &piece(0), at + latency));
    }

    #[test]
    fn latency_follows_what_is_measured_and_patience_its_deviation() {
        let mut peers = peers();
        assert_eq!(peers.patience(&PEER, Duration::ZERO), Duration::from_secs(1));
        answer(&mut peers, Duration::ZERO, millis(80));
        // The first sample, and half of it for its deviation: 80 + 4 * 40.
        assert_eq!(peers.standings(millis(80))[&PEER].latency, Some(millis(80)));
        assert_eq!(peers.patience(&PEER, millis(80)), millis(240));
        answer(&mut peers, millis(100), millis(160));
        // (7 * 80 + 160) / 8, and (3 * 40 + 80) / 4.
        assert_eq!(peers.standings(millis(260))[&PEER].latency, Some(millis(90)));
        assert_eq!(peers.patience(&PEER, millis(260)), millis(90 + 4 * 50));
    }

    #[test]
    fn who_was_never_measured_is_given_twice_what_others_take_and_nobody_a_moment_or_for_ever() {
        let mut peers = peers();
        answer(&mut peers, Duration::ZERO, millis(80));
        let other = Author([2; 32]);
        assert_eq!(peers.patience(&other, millis(80)), millis(160));
        answer(&mut peers, millis(100), millis(240));
        assert_eq!(peers.patience(&other, millis(340)), millis(180), "(15 * 80 + 240) / 16, twice");
        for round in 1..200 {
            answer(&mut peers, Duration::from_secs(round), Duration::ZERO);
        }
        assert_eq!(peers.patience(&PEER, Duration::from_secs(200)), Duration::from_secs(1) / 16);
        let mut slow = self::peers();
        answer(&mut slow, Duration::ZERO, Duration::from_mins(1));
        assert_eq!(slow.patience(&PEER, Duration::from_mins(1)), Duration::from_secs(4));
    }

    #[test]
    fn a_penalty_is_halved_every_five_seconds_and_who_has_one_is_asked_last() {
        let mut peers = peers();
        answer(&mut peers, Duration::ZERO, millis(80));
        let at = Duration::from_secs(1);
        let cost = |peers: &Peers, holds, now| peers.cost(&PEER, holds, now);
        assert_eq!(cost(&peers, true, at), Some((0, 80_000)));
        assert_eq!(cost(&peers, false, at), Some((1, 80_000)));
        peers.on_wrong(PEER, &piece(1).0, at);
        assert_eq!(peers.standings(at)[&PEER].penalty, WRONG);
        assert_eq!(cost(&peers, true, at), Some((2, 80_000 << 16)));
        assert_eq!(cost(&peers, false, at), Some((3, 80_000 << 16)));
        assert_eq!(peers.patience(&PEER, at), millis(160), "as one that was never measured");
        for (seconds, left) in [(5, 16), (6, 8), (11, 4), (16, 2), (21, 1), (26, 0)] {
            let now = Duration::from_secs(seconds);
            assert_eq!(peers.standings(now)[&PEER].penalty, left, "after {seconds} s");
            let class = if left >= AVOIDED { 2 } else { 0 };
            assert_eq!(cost(&peers, true, now), Some((class, 80_000 << left)));
        }
    }

    #[test]
    fn what_a_peer_is_asked_for_at_once_grows_with_its_answers_and_is_halved_by_failures() {
        let mut peers = peers();
        let window = |peers: &Peers| peers.by_author[&PEER].window;
        let at = Duration::from_secs;
        answer(&mut peers, at(0), millis(1));
        assert_eq!(window(&peers), WINDOW_START + 1);
        for second in 1..20 {
            answer(&mut peers, at(second), millis(1));
        }
        assert_eq!(window(&peers), 16, "the most");
        peers.on_wrong(PEER, &piece(1).0, at(20));
        assert_eq!(window(&peers), 8);
        peers.on_ask(PEER, piece(1), 10, at(21));
        assert!(!peers.expire(at(22)) && peers.expire(at(21 + 60)));
        assert_eq!(window(&peers), 4);
        peers.on_ask(PEER, piece(1), 10, at(100));
        assert!(peers.on_busy(PEER, &piece(1).0, at(1), at(100)));
        assert_eq!(window(&peers), 2);
        let free = |peers: &Peers, now| peers.cost(&PEER, true, now).is_some();
        assert!(!free(&peers, at(100)) && free(&peers, at(101)), "busy for as long as it said");
        for number in 0..2 {
            assert!(free(&peers, at(101)));
            peers.on_ask(PEER, piece(number), 10, at(101));
        }
        assert!(!free(&peers, at(101)));
        assert_eq!(peers.bytes(), 20);
        assert_eq!(peers.on_link_down(&PEER).len(), 2);
        assert_eq!((peers.bytes(), peers.next_expiry()), (0, None));
    }

    #[test]
    fn whoever_has_much_to_do_already_costs_more() {
        let mut peers = peers();
        let fresh = Some((0, 500_000));
        assert_eq!(
            peers.cost(&PEER, true, Duration::ZERO),
            fresh,
            "half of what is waited at first"
        );
        answer(&mut peers, Duration::ZERO, millis(80));
        for (number, cost) in [(0, 80_000), (1, 120_000), (2, 160_000)] {
            assert_eq!(peers.cost(&PEER, true, millis(100)), Some((0, cost)));
            peers.on_ask(PEER, piece(number), 10, millis(100));
        }
    }

    #[test]
    fn what_nobody_asked_for_is_a_flood_beyond_eight_windows_of_it_and_is_forgotten_by_halves() {
        let (mut peers, at) = (peers(), Duration::from_secs(1));
        for _ in 0..8 * 16 {
            assert!(!peers.on_content(PEER, &piece(0), at));
        }
        assert!(!peers.floods(&PEER, at));
        assert!(!peers.on_absent(PEER, &piece(0).0, at));
        assert!(peers.floods(&PEER, at) && !peers.floods(&Author([2; 32]), at));
        assert!(!peers.floods(&PEER, at + HALF_LIFE));
        // A little later it counts on from what is left, not from all of it.
        let later = at + HALF_LIFE;
        for _ in 0..64 {
            assert!(!peers.on_busy(PEER, &piece(0).0, millis(1), later));
        }
        assert!(!peers.floods(&PEER, later));
        peers.on_unasked(PEER, later);
        assert!(peers.floods(&PEER, later));
    }

    #[test]
    fn a_penalty_adds_up_to_what_a_minute_forgets_and_no_further() {
        let (mut peers, at) = (peers(), Duration::from_secs(1));
        let penalty = |peers: &Peers, now| peers.standings(now)[&PEER].penalty;
        peers.on_wrong(PEER, &piece(0).0, at);
        peers.on_wrong(PEER, &piece(0).0, at);
        assert_eq!(penalty(&peers, at), 2 * WRONG);
        peers.on_unasked(PEER, at + HALF_LIFE);
        assert_eq!(penalty(&peers, at + HALF_LIFE), WRONG + UNASKED);
        for _ in 0..2000 {
            peers.on_wrong(PEER, &piece(0).0, at);
        }
        assert_eq!(penalty(&peers, at), PENALTY_MAX);
        assert_eq!(penalty(&peers, at + HALF_LIFE * 14), 1);
        assert_eq!(penalty(&peers, at + HALF_LIFE * 1000), 0);
    }

    #[test]
    fn an_ask_expires_after_four_times_its_patience_and_not_before_two_tries() {
        let (mut peers, at) = (peers(), Duration::from_secs(1));
        assert_eq!(peers.on_ask(PEER, piece(0), 10, at), Duration::from_secs(1));
        let expiry = at + Duration::from_secs(4);
        assert_eq!(peers.next_expiry(), Some(expiry));
        assert!(!peers.expire(expiry.saturating_sub(Duration::from_nanos(1))));
        assert!(peers.is_asked(&PEER, &piece(0)) && peers.expire(expiry));
        assert!(!peers.is_asked(&PEER, &piece(0)));
        let standing = peers.standings(expiry)[&PEER];
        assert_eq!((standing.penalty, standing.failed, standing.answered), (EXPIRED, 1, 0));
        let mut quick = self::peers();
        answer(&mut quick, at, millis(80));
        assert_eq!(quick.on_ask(PEER, piece(0), 10, at), millis(240));
        assert_eq!(quick.next_expiry(), Some(at + Duration::from_secs(2)));
        let standing = quick.standings(at)[&PEER];
        assert_eq!((standing.asked, standing.answered, standing.failed), (1, 1, 0));
    }

    #[test]
    fn an_answer_without_content_ends_every_ask_for_that_digest_and_no_other() {
        let (mut peers, at) = (peers(), Duration::from_secs(1));
        let (digest, other) = (piece(1).0, piece(2).0);
        for piece in [(digest, 0), (digest, 7), (digest, u16::MAX), (other, 0)] {
            peers.on_ask(PEER, piece, 10, at);
        }
        assert!(peers.on_absent(PEER, &digest, at + millis(20)));
        assert_eq!((peers.bytes(), peers.is_asked(&PEER, &(other, 0))), (10, true));
        let standing = peers.standings(at)[&PEER];
        assert_eq!((standing.latency, standing.penalty), (Some(millis(20)), 0));
        assert_eq!((standing.asked, standing.answered, standing.failed), (1, 0, 0));
        peers.on_wrong(PEER, &other, at);
        let standing = peers.standings(at)[&PEER];
        assert_eq!((peers.bytes(), standing.asked, standing.failed), (0, 0, 1));
    }

    #[test]
    fn a_busy_peer_is_believed_for_two_seconds_at_most() {
        let (mut peers, at) = (peers(), Duration::from_secs(1));
        for (pause, until) in [(millis(300), millis(1300)), (Duration::MAX, BUSY_MAX + at)] {
            peers.on_ask(PEER, piece(0), 10, at);
            assert!(peers.on_busy(PEER, &piece(0).0, pause, at));
            assert_eq!(peers.busy_until(&PEER), Some(until));
        }
        assert_eq!(peers.busy_until(&Author([2; 32])), None);
    }

    #[test]
    fn who_is_not_talked_to_any_more_is_forgotten_with_what_it_was_asked_for() {
        let (mut peers, at) = (peers(), Duration::from_secs(1));
        let stays = Author([2; 32]);
        for author in [PEER, stays] {
            peers.on_ask(author, piece(0), 10, at);
        }
        peers.retain(|author| *author == stays);
        assert_eq!((peers.bytes(), peers.standings(at).len()), (10, 1));
        assert!(peers.is_asked(&stays, &piece(0)) && !peers.is_asked(&PEER, &piece(0)));
    }
}
