//! The fetcher alone, among peers of every temper, on a clock of its own.

use std::collections::BTreeMap;

use super::*;
use crate::sequencer::port::Effect;
use crate::types::{AbsentReason, BodyBuilder, samples};
use crate::types::{ChunkId, Message};

const TRY: Duration = Duration::from_millis(400);

/// How a peer answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Temper {
    /// With content, so many milliseconds later.
    After(u64),
    /// Not at all.
    Silent,
    /// With something else.
    Wrong,
    /// That it has nothing.
    Absent,
    /// That it has too much to do.
    Busy,
}

struct World {
    fetcher: Fetcher,
    outbox: Outbox,
    now: Duration,
    tempers: BTreeMap<Author, Temper>,
    batches: BTreeMap<Digest, Batch>,
    /// Answers on their way.
    wires: BTreeSet<(Duration, u64)>,
    answers: BTreeMap<u64, (Author, PieceId, bool)>,
    /// Who was asked for what, in order.
    asked: Vec<(Duration, Author, PieceId)>,
    found: BTreeMap<RequestId, (Duration, Result<(), FetchError>)>,
    next: u64,
}

fn peer(name: u8) -> Author {
    Author([name; 32])
}

fn limits() -> Limits {
    Limits {
        try_timeout: TRY,
        wants_max: 1000,
        bytes_in_flight_max: 64 << 20,
        asks_per_peer_max: 64,
        unknown_bytes: 1 << 20,
    }
}

impl World {
    fn new(tempers: &[Temper]) -> Self {
        let named = (1_u8..).zip(tempers).map(|(name, temper)| (peer(name), *temper));
        Self {
            fetcher: Fetcher::new(limits()),
            outbox: Outbox::default(),
            now: Duration::from_secs(1),
            tempers: named.collect(),
            batches: BTreeMap::new(),
            wires: BTreeSet::new(),
            answers: BTreeMap::new(),
            asked: Vec::new(),
            found: BTreeMap::new(),
            next: 0,
        }
    }

    fn batch(&mut self, bytes: usize) -> Digest {
        self.next += 1;
        let mut builder = BodyBuilder::new();
        let mut transaction = vec![7; bytes.max(8)];
        transaction[..8].copy_from_slice(&self.next.to_le_bytes());
        builder.push(Bytes::from(transaction));
        let body = builder.finish();
        let mut batch = samples::batch(9, self.next, &[b"one"]);
        batch.info.bytes = body.bytes().len() as u32;
        batch.info.root = body.root();
        batch.body = body;
        let digest = batch.info.digest(&crate::types::ChainId([1; 32]));
        self.batches.insert(digest, batch);
        digest
    }

    fn wanted(&self, digest: Digest, holders: &[u8]) -> Wanted {
        let holders = holders.iter().map(|name| peer(*name)).collect();
        Wanted { digest, info: Some(self.batches[&digest].info), holders, commit: None }
    }

    fn want(&mut self, digest: Digest, holders: &[u8], patience: Duration) -> RequestId {
        self.next += 1;
        let id = RequestId(self.next);
        let wanted = self.wanted(digest, holders);
        self.fetcher.on_request(&mut self.outbox, self.now, id, &wanted, self.now + patience);
        self.tick();
        id
    }

    fn tick(&mut self) {
        let linked = self.tempers.keys().copied().collect();
        self.fetcher.on_tick(&mut self.outbox, self.now, &linked);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.outbox.effects.pop_front() {
            match effect {
                Effect::Send { to, message: Message::FetchRequest(digests) } => {
                    for digest in digests {
                        self.on_ask(to, (digest, 0), false);
                    }
                }
                Effect::Send { to, message: Message::ChunkRequest(chunks) } => {
                    for ChunkId { digest, index } in chunks {
                        self.on_ask(to, (digest, index), true);
                    }
                }
                Effect::Reply { id, reply: Reply::Fetched(result) } => {
                    let twice = self.found.insert(id, (self.now, result.map(drop)));
                    assert!(twice.is_none(), "{id:?} is answered twice");
                }
                other => unreachable!("{other:?}"),
            }
        }
    }

    fn on_ask(&mut self, to: Author, piece: PieceId, chunked: bool) {
        self.asked.push((self.now, to, piece));
        let millis = match self.tempers[&to] {
            Temper::After(millis) => millis,
            Temper::Silent => return,
            Temper::Wrong | Temper::Absent | Temper::Busy => 5,
        };
        self.next += 1;
        self.wires.insert((self.now + Duration::from_millis(millis), self.next));
        self.answers.insert(self.next, (to, piece, chunked));
    }

    /// Lets time pass from one event to the next.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let answer = self.wires.first().map(|(at, _)| *at);
            let due = self.fetcher.next_deadline();
            let Some(next) = answer.into_iter().chain(due).min().filter(|at| *at <= end) else {
                break;
            };
            assert!(next >= self.now || due.is_some(), "time goes on");
            self.now = self.now.max(next);
            if answer == Some(next)
                && let Some((_, id)) = self.wires.pop_first()
            {
                self.on_answer(id);
            }
            self.tick();
        }
        self.now = end;
    }

    fn on_answer(&mut self, id: u64) {
        let (from, (digest, index), chunked) = self.answers.remove(&id).unwrap();
        let (now, batch) = (self.now, self.batches[&digest].clone());
        match self.tempers[&from] {
            Temper::Wrong => drop(self.no(from, &digest, NoContent::Wrong)),
            Temper::Absent => {
                self.no(from, &digest, NoContent::Absent(AbsentReason::NotHeld));
            }
            Temper::Busy => drop(self.no(from, &digest, NoContent::Busy(TRY))),
            _ if chunked => {
                let chunk = Chunk::of(batch.info, &batch.body, index).unwrap();
                self.fetcher.on_chunk(now, from, &digest, &chunk);
                if let Some(whole) = self.fetcher.assembled(&digest) {
                    assert_eq!(whole, batch);
                    let content = Content::Batch(whole);
                    self.fetcher.on_content(&mut self.outbox, now, None, &digest, &content);
                }
            }
            _ => {
                let content = Content::Batch(batch);
                self.fetcher.on_content(&mut self.outbox, now, Some(from), &digest, &content);
            }
        }
        self.carry_out();
    }

    fn no(&mut self, from: Author, digest: &Digest, answer: NoContent) -> bool {
        self.fetcher.on_no_content(self.now, from, digest, answer)
    }

    /// How long each of so many fetches takes, one after the other.
    fn latencies(&mut self, count: usize, holders: &[u8]) -> Vec<Duration> {
        let mut latencies = Vec::new();
        for _ in 0..count {
            let digest = self.batch(1000);
            let began = self.now;
            let id = self.want(digest, holders, Duration::from_mins(1));
            while !self.found.contains_key(&id) {
                self.pass(Duration::from_millis(1));
            }
            latencies.push(self.found[&id].0.saturating_sub(began));
            self.pass(Duration::from_millis(20));
        }
        latencies.sort_unstable();
        latencies
    }
}

#[test]
fn holders_are_asked_first_then_the_rest_and_a_fetch_is_shared() {
    let mut world = World::new(&[Temper::After(10), Temper::Absent, Temper::Absent]);
    let digest = world.batch(100);
    let first = world.want(digest, &[2, 3], Duration::from_secs(5));
    let second = world.want(digest, &[], Duration::from_secs(5));
    world.pass(Duration::from_millis(100));
    let order: Vec<u8> = world.asked.iter().map(|(_, to, _)| to.0[0]).collect();
    assert_eq!(order, [2, 3, 1], "each once");
    assert_eq!(world.found[&first].1, Ok(()));
    assert_eq!(world.found[&second].1, Ok(()));
    assert_eq!(world.fetcher.len(), 0);
}

#[test]
fn several_digests_travel_in_one_request() {
    let mut world = World::new(&[Temper::After(10)]);
    let digests: Vec<Digest> = (0..5).map(|_| world.batch(100)).collect();
    for (id, digest) in (9000..).zip(&digests) {
        let wanted = world.wanted(*digest, &[]);
        let deadline = world.now + TRY;
        world.fetcher.on_request(&mut world.outbox, world.now, RequestId(id), &wanted, deadline);
    }
    let linked = world.tempers.keys().copied().collect();
    world.fetcher.on_tick(&mut world.outbox, world.now, &linked);
    let requests: Vec<_> = world.outbox.effects.iter().collect();
    assert!(
        matches!(&requests[..], [Effect::Send { message: Message::FetchRequest(all), .. }] if all.len() == 5),
        "{requests:?}"
    );
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_large_batch_comes_in_chunks_from_several_peers_at_once() {
    let mut world = World::new(&[Temper::After(10); 4]);
    let digest = world.batch(1_000_000);
    let id = world.want(digest, &[], Duration::from_secs(5));
    world.pass(Duration::from_millis(15));
    assert_eq!(world.found[&id].1, Ok(()), "all in one round trip");
    let mut by_peer: BTreeMap<Author, u32> = BTreeMap::new();
    for (_, to, _) in &world.asked {
        *by_peer.entry(*to).or_default() += 1;
    }
    assert_eq!(by_peer.values().copied().collect::<Vec<_>>(), [4; 4], "16 chunks, evenly");
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn chunks_on_their_way_count_with_their_bytes_and_the_last_one_is_shorter() {
    let mut world = World::new(&[Temper::Silent; 4]);
    let digest = world.batch(150_000);
    world.want(digest, &[], Duration::from_secs(5));
    assert_eq!(world.asked.len(), 3);
    assert_eq!(world.fetcher.bytes_in_flight(), u64::from(world.batches[&digest].info.bytes));
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn wrong_silent_absent_and_busy_peers_do_not_keep_a_fetch_from_its_end() {
    for temper in [Temper::Wrong, Temper::Silent, Temper::Absent, Temper::Busy] {
        for size in [100, 1_000_000] {
            let mut world = World::new(&[temper, Temper::After(20), temper]);
            let digest = world.batch(size);
            let id = world.want(digest, &[1, 3], Duration::from_secs(10));
            world.pass(Duration::from_secs(10));
            assert_eq!(world.found[&id].1, Ok(()), "{temper:?}, {size} bytes");
        }
    }
}

/// The 99th percentile with a third of liars, against the one without.
#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_third_of_liars_triples_the_latency_at_most() {
    let honest = [Temper::After(10), Temper::After(14), Temper::After(12), Temper::After(11)];
    let p99 = |latencies: &[Duration]| latencies[latencies.len() * 99 / 100];
    let mut calm = World::new(&honest);
    let calm = p99(&calm.latencies(1000, &[1, 2, 3, 4]));
    for lie in [Temper::Wrong, Temper::Silent, Temper::Absent, Temper::Busy] {
        let mut world = World::new(&[&honest[..], &[lie, lie]].concat());
        let with = world.latencies(1000, &[1, 2, 3, 4, 5, 6]);
        assert!(p99(&with) <= calm * 3, "{lie:?}: {:?}, without: {calm:?}", p99(&with));
    }
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_slow_peer_holds_up_nothing_but_its_own_asks() {
    let mut world = World::new(&[Temper::After(3000), Temper::After(10)]);
    let ids: Vec<RequestId> = (0..200)
        .map(|_| {
            let digest = world.batch(1000);
            world.want(digest, &[1, 2], Duration::from_secs(30))
        })
        .collect();
    world.pass(Duration::from_secs(3));
    let last = ids.iter().map(|id| world.found[id].0).max().unwrap();
    assert!(last < Duration::from_millis(2900), "{last:?}");
}

#[test]
fn scores_recover() {
    let mut world = World::new(&[Temper::Wrong, Temper::After(50)]);
    world.latencies(3, &[1, 2]);
    let penalty = |world: &World| world.fetcher.standings(world.now)[&peer(1)].penalty;
    assert!(penalty(&world) >= 4);
    let before = world.asked.iter().filter(|(_, to, _)| *to == peer(1)).count();
    world.tempers.insert(peer(1), Temper::After(5));
    world.pass(Duration::from_secs(30));
    assert_eq!(penalty(&world), 0);
    world.latencies(5, &[1, 2]);
    let after = world.asked.iter().filter(|(_, to, _)| *to == peer(1)).count();
    assert!(after >= before + 4, "it is asked again, and is the faster one");
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn bytes_and_asks_in_flight_are_bounded_and_everything_arrives() {
    let mut world = World::new(&[Temper::After(10), Temper::After(30), Temper::After(5)]);
    world.fetcher.limits.bytes_in_flight_max = 20_000;
    let digests: Vec<Digest> = (0..500).map(|_| world.batch(2000)).collect();
    let ids: Vec<RequestId> =
        digests.iter().map(|d| world.want(*d, &[], Duration::from_mins(1))).collect();
    for _ in 0..3000 {
        assert!(world.fetcher.bytes_in_flight() <= 20_000 + 2010);
        for standing in world.fetcher.standings(world.now).values() {
            assert!(standing.asked <= 64);
        }
        world.pass(Duration::from_millis(2));
    }
    assert!(ids.iter().all(|id| world.found.get(id).is_some_and(|(_, found)| found.is_ok())));
    assert_eq!(world.fetcher.bytes_in_flight(), 0);
}

#[test]
fn own_needs_leave_room_for_whoever_executes() {
    let mut world = World::new(&[Temper::After(10)]);
    world.fetcher.limits.bytes_in_flight_max = 20_000;
    for _ in 0..20 {
        let digest = world.batch(2000);
        let info = world.batches[&digest].info;
        world.fetcher.on_need(digest, Some(info), &[], world.now);
    }
    world.tick();
    assert!(world.fetcher.bytes_in_flight() <= 10_000);
    let digest = world.batch(2000);
    world.want(digest, &[], Duration::from_secs(1));
    assert_eq!(world.asked.last().unwrap().2.0, digest, "it is asked for at once");
}

#[test]
fn what_is_due_at_the_same_time_is_asked_for_whoever_executes_first() {
    // Whichever of the two digests is the lower one.
    for swapped in [false, true] {
        let mut world = World::new(&[Temper::Silent]);
        world.fetcher.limits.bytes_in_flight_max = 3000;
        let mut digests = [world.batch(2000), world.batch(2000)];
        digests.sort();
        let [own, host] = if swapped { [digests[1], digests[0]] } else { digests };
        let info = world.batches[&own].info;
        world.fetcher.on_need(own, Some(info), &[], world.now);
        world.want(host, &[], Duration::from_secs(1));
        let asked: Vec<Digest> = world.asked.iter().map(|(_, _, piece)| piece.0).collect();
        assert_eq!(asked, [host], "there is room for one");
    }
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn every_wait_ends_by_its_deadline_and_what_nobody_waits_for_is_forgotten() {
    let mut world = World::new(&[Temper::Silent, Temper::Absent, Temper::Busy, Temper::Wrong]);
    let digest = world.batch(1_000_000);
    let id = world.want(digest, &[1], Duration::from_millis(1234));
    let began = world.now;
    world.pass(Duration::from_secs(2));
    assert!(
        matches!(world.found[&id], (at, Err(FetchError::TimedOut { .. })) if at == began + Duration::from_millis(1234))
    );
    assert_eq!(world.fetcher.len(), 0);
    let other = world.want(digest, &[1], Duration::from_mins(1));
    world.fetcher.on_cancel(other);
    assert_eq!(world.fetcher.len(), 0);
    world.pass(Duration::from_mins(1));
    assert!(!world.found.contains_key(&other));
    assert_eq!(world.fetcher.bytes_in_flight(), 0, "what nobody answered has expired");
    assert_eq!(world.fetcher.next_deadline(), None);
}

#[test]
fn nobody_is_asked_in_a_loop_while_all_say_no() {
    let mut world = World::new(&[Temper::Absent; 4]);
    let digest = world.batch(100);
    world.want(digest, &[1], Duration::from_secs(10));
    world.pass(Duration::from_secs(10));
    let rounds = world.asked.len() / 4;
    assert!((3..=6).contains(&rounds), "{rounds} rounds in ten seconds");
}

#[test]
fn what_was_not_asked_for_costs_and_a_flood_of_it_is_told_from_an_accident() {
    let mut world = World::new(&[Temper::After(1), Temper::After(1)]);
    let digest = world.batch(100);
    let absent = NoContent::Absent(AbsentReason::NotHeld);
    for _ in 0..400 {
        assert!(!world.no(peer(1), &digest, absent));
    }
    assert!(!world.fetcher.floods(&peer(1), world.now), "a restart may explain so many");
    for _ in 0..400 {
        world.no(peer(1), &digest, absent);
    }
    assert!(world.fetcher.floods(&peer(1), world.now));
    world.want(digest, &[1, 2], TRY);
    assert_eq!(world.asked[0].1, peer(2), "and it is asked last");
    world.now += Duration::from_mins(1);
    assert!(!world.fetcher.floods(&peer(1), world.now));
}

#[test]
fn a_link_that_goes_down_is_nobody_s_fault_and_its_asks_go_elsewhere() {
    let mut world = World::new(&[Temper::Silent, Temper::After(10)]);
    let digest = world.batch(100);
    let id = world.want(digest, &[1], Duration::from_secs(5));
    assert_eq!(world.asked[0].1, peer(1));
    world.tempers.remove(&peer(1));
    world.fetcher.on_link_down(world.now, &peer(1));
    world.tick();
    world.pass(Duration::from_millis(15));
    assert_eq!(world.found[&id].1, Ok(()));
    assert_eq!(world.fetcher.standings(world.now)[&peer(1)].penalty, 0);
}

#[test]
fn a_batch_that_is_fetched_whole_counts_whole() {
    let mut world = World::new(&[Temper::Silent]);
    let digest = world.batch(crate::types::chunk::WHOLE_BYTES_MAX - 100);
    world.want(digest, &[1], Duration::from_secs(5));
    assert_eq!(world.asked.len(), 1);
    assert_eq!(world.fetcher.bytes_in_flight(), u64::from(world.batches[&digest].info.bytes));
}

#[test]
fn who_was_asked_is_known_until_it_answers_or_its_time_is_over() {
    let mut world = World::new(&[Temper::After(10), Temper::Silent]);
    assert!(!world.fetcher.is_due(world.now) && world.fetcher.next_deadline().is_none());
    let digest = world.batch(100);
    world.want(digest, &[1], Duration::from_secs(5));
    let asked = |world: &World, name| world.fetcher.was_asked(&peer(name), &digest);
    assert!(asked(&world, 1) && !asked(&world, 2));
    let due = world.fetcher.next_deadline().unwrap();
    assert!(!world.fetcher.is_due(world.now) && world.fetcher.is_due(due));
    world.pass(Duration::from_millis(10));
    assert!(!asked(&world, 1));
    let other = world.batch(100);
    world.want(other, &[2], Duration::from_secs(5));
    assert!(world.fetcher.was_asked(&peer(2), &other));
}

#[test]
fn a_link_that_goes_down_makes_room_for_what_waits_for_it_and_only_if_it_held_some() {
    let mut world = World::new(&[Temper::Silent, Temper::Silent]);
    world.fetcher.limits.bytes_in_flight_max = 3000;
    let (first, second) = (world.batch(2000), world.batch(2000));
    let abandoned = world.want(first, &[1], Duration::from_mins(1));
    world.fetcher.on_cancel(abandoned);
    world.want(second, &[2], Duration::from_mins(1));
    assert_eq!(world.asked.len(), 1, "there is no room");
    world.fetcher.on_link_down(world.now, &peer(2));
    assert!(!world.fetcher.is_due(world.now), "nothing was asked over it");
    world.fetcher.on_link_down(world.now, &peer(1));
    assert!(world.fetcher.is_due(world.now));
    world.tick();
    assert_eq!(world.asked.last(), Some(&(world.now, peer(2), (second, 0))));
}

#[test]
fn no_more_is_wanted_at_once_than_the_bound_but_what_is_wanted_may_be_shared() {
    let mut world = World::new(&[Temper::Silent]);
    world.fetcher.limits.wants_max = 2;
    let digests = [world.batch(100), world.batch(100), world.batch(100)];
    let ids = digests.map(|digest| world.want(digest, &[], Duration::from_mins(1)));
    let shared = world.want(digests[0], &[], Duration::from_mins(1));
    assert_eq!(world.found.get(&ids[2]), Some(&(world.now, Err(FetchError::Busy))));
    assert!([ids[0], ids[1], shared].iter().all(|id| !world.found.contains_key(id)));
    assert_eq!(world.fetcher.len(), 2);
}

#[test]
fn each_round_waits_twice_as_long_as_the_one_before_up_to_eight_times() {
    let mut world = World::new(&[Temper::Absent]);
    let digest = world.batch(100);
    world.want(digest, &[1], Duration::from_mins(1));
    world.pass(Duration::from_secs(20));
    let times: Vec<Duration> = world.asked.iter().map(|(at, _, _)| *at).collect();
    let gaps: Vec<Duration> =
        times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    let answer = Duration::from_millis(5);
    let expected = [1, 2, 4, 8, 8].map(|tries| TRY * tries + answer);
    assert_eq!(gaps[..5], expected);
}

#[test]
fn while_nobody_answers_twice_as_many_are_asked_each_time() {
    let mut world = World::new(&[Temper::Silent; 16]);
    let digest = world.batch(100);
    world.want(digest, &[], Duration::from_mins(1));
    world.pass(TRY * 3);
    let mut asked: BTreeMap<Duration, usize> = BTreeMap::new();
    for (at, _, _) in &world.asked {
        *asked.entry(*at).or_default() += 1;
    }
    assert!(asked.into_values().eq([1, 2, 4, 8]), "{:?}", world.asked);
}

#[test]
fn a_busy_peer_that_is_left_is_asked_when_it_said_although_others_have_much_to_do() {
    let mut world = World::new(&[Temper::Silent]);
    let elsewhere = world.batch(100);
    world.want(elsewhere, &[1], Duration::from_mins(1));
    // From now on there is only one other, and it is busy.
    world.tempers = BTreeMap::from([(peer(2), Temper::Busy)]);
    let first = world.batch(100);
    world.want(first, &[2], Duration::from_mins(1));
    world.pass(Duration::from_millis(10));
    let second = world.batch(100);
    world.want(second, &[2], Duration::from_mins(1));
    let free = world.fetcher.peers.busy_until(&peer(2)).unwrap();
    assert!(free > world.now && world.asked.iter().all(|(_, _, piece)| piece.0 != second));
    world.pass(free.saturating_sub(world.now));
    assert!(world.asked.contains(&(free, peer(2), (second, 0))));
}

#[test]
fn whoever_says_that_it_has_it_is_asked_at_once_also_between_two_rounds() {
    let mut world = World::new(&[Temper::Absent, Temper::Absent]);
    let digest = world.batch(100);
    world.want(digest, &[], Duration::from_mins(1));
    world.pass(Duration::from_millis(50));
    assert_eq!(world.asked.len(), 2, "both have answered");
    world.tempers.insert(peer(2), Temper::After(10));
    world.fetcher.on_holder(world.now, peer(2), &digest);
    world.tick();
    assert_eq!(world.asked[2..], [(world.now, peer(2), (digest, 0))]);
    world.fetcher.on_holder(world.now, peer(1), &Digest([9; 32]));
    world.tick();
    assert_eq!(world.asked.len(), 3, "of what nobody wants, nobody is asked");
}
