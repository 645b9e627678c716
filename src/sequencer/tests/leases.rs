//! Leases, prices and the pull rate, as clients of a whole core meet them.

use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use fastrand::Rng;

use super::net::*;
use crate::config::SequencerConfig;
use crate::sequencer::Sequencer;
use crate::sequencer::port::*;
use crate::sequencer::pressure::Pressure;
use crate::types::*;

const SECOND: Duration = Duration::from_secs(1);
const STARTS: [u64; 3] = [0, 10, 100];

/// A pool so small that prices move.
fn small() -> SequencerConfig {
    let mut config = SequencerConfig {
        pool_transactions_max: 40,
        gas_bucket_starts: STARTS.to_vec(),
        batch_age_max: Duration::from_millis(500),
        batch_age_min: Duration::from_millis(500),
        ..SequencerConfig::default()
    };
    config.leases.client_transactions_max = 12;
    config
}

fn ask(net: &mut Net, client: &str, transactions: u64) -> Result<Lease, LeaseError> {
    let room = Room { bytes: 1000, transactions };
    let request = LeaseRequest { client: client.to_owned(), room, life: 5 * SECOND };
    let id = net.request(0, |id| Input::Lease { id, request });
    match net.nodes[0].replies.remove(&id) {
        Some(Reply::Leased(result)) => result,
        other => panic!("no answer: {other:?}"),
    }
}

fn under(client: &str, lease: &Lease) -> UnderLease {
    UnderLease { client: client.to_owned(), id: lease.id }
}

fn priced(net: &Net, gas_unit_price: u64, count: usize) -> Vec<Transaction> {
    let one = |index| Transaction { gas_unit_price, ..net.transaction(&format!("t{index}")) };
    (0..count).map(one).collect()
}

fn submit(net: &mut Net, transactions: Vec<Transaction>, lease: Option<UnderLease>) -> RequestId {
    net.request(0, |id| match lease {
        Some(lease) => Input::SubmitUnder { id, lease, transactions },
        None => Input::Submit { id, transactions },
    })
}

/// Why each of a refused submission's transactions was refused.
fn refusals(net: &mut Net, id: RequestId) -> Vec<Option<SubmitError>> {
    match net.nodes[0].replies.remove(&id) {
        Some(Reply::Submitted(results)) => results.into_iter().map(Result::err).collect(),
        None => panic!("not answered at once: something of it was taken"),
        other => panic!("{other:?}"),
    }
}

fn pressure(net: &Net) -> Pressure {
    net.nodes[0].sequencer.pressure()
}

#[test]
fn the_stale_quote_conditions_change_between_quote_and_use_and_the_quote_does_not() {
    let mut net = Net::with(small());
    let lease = ask(&mut net, "a", 5).unwrap();
    assert_eq!((lease.lowest_gas_bucket, lease.life), (0, 5 * SECOND));
    // Somebody else fills the pool; the price rises to the top, then nothing is taken at all.
    net.nodes[0].holds = true;
    let dear = priced(&net, 1000, 35);
    submit(&mut net, dear, None);
    let now = pressure(&net);
    assert_eq!((now.lowest_gas_bucket, now.accepted), (None, Room::default()));
    assert_eq!(now.leased.transactions, 5);
    let dearest = priced(&net, 1000, 1);
    let id = submit(&mut net, dearest, None);
    let told = refusals(&mut net, id);
    let full = matches!(
        told[0],
        Some(SubmitError::Busy { reason: BusyReason::Pool, lowest_gas_bucket: None, .. })
    );
    assert!(full, "without a lease: {told:?}");
    // Whoever was advised is served as advised, at the price and for the room it was told.
    let cheap = priced(&net, 0, 5);
    let honoured = submit(&mut net, cheap, Some(under("a", &lease)));
    net.nodes[0].holds = false;
    net.pass(SECOND);
    assert_eq!(net.accepted(0, honoured).len(), 5);
    let after = pressure(&net);
    assert_eq!((after.leased, after.leases), (Room::default(), 0));
    assert_eq!(after.lowest_gas_bucket, Some(0), "the pool is empty again");
}

#[test]
fn as_the_pool_fills_the_lowest_bucket_rises_and_refusals_say_so() {
    let mut net = Net::with(small());
    let mut seen = Vec::new();
    for _ in 0..40 {
        let lowest = pressure(&net).lowest_gas_bucket.unwrap();
        seen.push(lowest);
        if lowest > 0 {
            let cheap = priced(&net, 0, 1);
            let id = submit(&mut net, cheap, None);
            let told = refusals(&mut net, id);
            let Some(SubmitError::Busy { reason, lowest_gas_bucket, lease, retry_after }) = told[0]
            else {
                panic!("{told:?}")
            };
            assert_eq!((reason, lowest_gas_bucket), (BusyReason::Pool, Some(lowest)));
            assert_eq!(lease, None);
            assert!(retry_after > Duration::ZERO);
        }
        let dear = priced(&net, lowest, 1);
        submit(&mut net, dear, None);
    }
    let first = |bucket| seen.iter().position(|seen| *seen == bucket);
    assert_eq!([0, 10, 100].map(first), [Some(0), Some(30), Some(35)], "{seen:?}");
    assert!(seen.is_sorted());
    assert_eq!(pressure(&net).lowest_gas_bucket, None, "full");
    assert!(pressure(&net).reasons.contains(BusyReason::Pool));
}

#[test]
fn a_pool_that_is_full_to_its_last_byte_takes_nothing_although_it_may_hold_more_transactions() {
    let (pool_bytes_max, pool_transactions_max) = (ByteSize::mib(1), 1000);
    let mut net = Net::with(SequencerConfig { pool_bytes_max, pool_transactions_max, ..small() });
    // Nothing leaves it while nobody is there to take a batch.
    let peers = [1, 2, 3].map(|index: usize| net.nodes[index].author);
    for peer in peers {
        net.input(0, Input::LinkDown { peer });
    }
    let bytes = Bytes::from(vec![7; 64 << 10]);
    let large = Transaction { bytes, gas_unit_price: 100, ..net.transaction("") };
    submit(&mut net, vec![large; 16], None);
    let now = pressure(&net);
    assert_eq!(now.pooled, Room { bytes: 1 << 20, transactions: 16 });
    assert_eq!((now.lowest_gas_bucket, now.accepted), (None, Room::default()));
    let refused = ask(&mut net, "a", 1).unwrap_err();
    let LeaseError::Busy { limit, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(limit, LeaseLimit::Pressure(BusyReason::Pool));
}

#[test]
fn room_comes_back_by_use_release_expiry_and_the_end_of_the_epoch_each_once() {
    let mut net = Net::with(small());
    let leases: Vec<_> = ["used", "released", "expires"]
        .into_iter()
        .map(|client| ask(&mut net, client, 3).unwrap())
        .collect();
    assert_eq!(pressure(&net).leased.transactions, 9);
    assert_eq!(pressure(&net).accepted.transactions, 31);
    let three = priced(&net, 0, 3);
    submit(&mut net, three, Some(under("used", &leases[0])));
    assert_eq!(pressure(&net).leased.transactions, 6);
    assert_eq!(pressure(&net).accepted.transactions, 31, "leased or pooled, it is one place");
    for expected in [Ok(leases[1].room), Err(LeaseRefusal::Unknown)] {
        let lease = under("released", &leases[1]);
        let id = net.request(0, |id| Input::Release { id, lease });
        let Some(Reply::Released(result)) = net.nodes[0].replies.remove(&id) else { panic!() };
        assert_eq!(result, expected);
    }
    assert_eq!(pressure(&net).leased.transactions, 3);
    net.pass(6 * SECOND);
    let now = pressure(&net);
    assert_eq!((now.leased, now.leases), (Room::default(), 0), "without anybody asking");
    assert_eq!(now.accepted.transactions, 40);
    let last = ask(&mut net, "late", 4).unwrap();
    net.close_all(0, 0);
    let now = pressure(&net);
    assert_eq!((now.serving, now.leased, now.lowest_gas_bucket), (false, Room::default(), None));
    assert_eq!(ask(&mut net, "late", 4), Err(LeaseError::EpochClosed { epoch: Epoch(0) }));
    let one = priced(&net, 0, 1);
    let id = submit(&mut net, one, Some(under("late", &last)));
    let closed = Some(SubmitError::EpochClosed { epoch: Epoch(0) });
    assert_eq!(refusals(&mut net, id), [closed], "typed, and not silently");
}

#[test]
fn what_a_lease_does_not_cover_is_treated_as_if_there_were_none() {
    let mut net = Net::with(small());
    let lease = ask(&mut net, "a", 2).unwrap();
    let stranger = UnderLease { client: "b".to_owned(), ..under("a", &lease) };
    let former = UnderLease { id: LeaseId { life: 1, ..lease.id }, ..under("a", &lease) };
    // There is room: nobody is worse off for having named a lease.
    for useless in [stranger.clone(), former.clone()] {
        let one = priced(&net, 0, 1);
        let id = submit(&mut net, one, Some(useless));
        assert!(!net.nodes[0].replies.contains_key(&id), "taken");
    }
    assert_eq!(pressure(&net).leased.transactions, 2, "and nobody else's lease is used up");
    let dear = priced(&net, 100, 34);
    submit(&mut net, dear, None);
    let told = |net: &mut Net, lease: UnderLease| {
        let cheap = priced(net, 0, 1);
        let id = submit(net, cheap, Some(lease));
        match refusals(net, id)[0] {
            Some(SubmitError::Busy { lease, .. }) => lease.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told(&mut net, stranger), LeaseRefusal::Unknown);
    assert_eq!(told(&mut net, former), LeaseRefusal::FormerLife);
    net.pass(Duration::from_millis(10));
    net.restart(0);
    let dear = priced(&net, 100, 34);
    submit(&mut net, dear, None);
    assert_eq!(told(&mut net, under("a", &lease)), LeaseRefusal::FormerLife, "memory of one life");
}

#[test]
fn a_lease_beyond_its_price_or_room_says_what_is_left() {
    let mut net = Net::with(small());
    // The price is up when the lease is taken: it is quoted with it.
    let dear = priced(&net, 1000, 31);
    submit(&mut net, dear, None);
    let lease = ask(&mut net, "a", 4).unwrap();
    assert_eq!(lease.lowest_gas_bucket, 10);
    let more = priced(&net, 1000, 5);
    submit(&mut net, more, None);
    let mut mixed = priced(&net, 0, 1);
    mixed.extend(priced(&net, 10, 5));
    let id = submit(&mut net, mixed, Some(under("a", &lease)));
    net.pass(SECOND);
    let Some(Reply::Submitted(results)) = net.nodes[0].replies.remove(&id) else { panic!() };
    let why = |result: &Result<Accepted, SubmitError>| match result {
        Err(SubmitError::Busy { lease, .. }) => *lease,
        _ => None,
    };
    let price = LeaseRefusal::Price { lowest_gas_bucket: 10 };
    assert_eq!(why(&results[0]), Some(price), "{results:?}");
    assert!(results[1..5].iter().all(Result::is_ok), "{results:?}");
    assert_eq!(why(&results[5]), Some(LeaseRefusal::Unknown), "used up");
}

#[test]
fn only_a_disk_without_room_refuses_what_is_leased_and_the_lease_stays() {
    let mut net = Net::with(small());
    let lease = ask(&mut net, "a", 2).unwrap();
    net.input(0, Input::Space { admits: false });
    let now = pressure(&net);
    assert_eq!(now.lowest_gas_bucket, None);
    assert!(now.reasons.contains(BusyReason::Disk));
    assert_eq!(net.status(0).busy.as_deref(), Some("disk nearly full"));
    let refused = ask(&mut net, "b", 2).unwrap_err();
    let LeaseError::Busy { limit, lowest_gas_bucket: None, .. } = refused else { panic!() };
    assert_eq!(limit, LeaseLimit::Pressure(BusyReason::Disk));
    let one = priced(&net, 0, 1);
    let id = submit(&mut net, one, Some(under("a", &lease)));
    let told = refusals(&mut net, id);
    assert!(matches!(told[0], Some(SubmitError::Busy { reason: BusyReason::Disk, .. })));
    assert_eq!(pressure(&net).leased, lease.room);
    net.input(0, Input::Space { admits: true });
    assert_eq!(net.status(0).busy, None);
    let one = priced(&net, 0, 1);
    let id = submit(&mut net, one, Some(under("a", &lease)));
    net.pass(SECOND);
    net.accepted(0, id);
}

#[test]
fn votes_that_do_not_come_and_a_slow_disk_raise_the_price_and_are_named() {
    let mut config = small();
    config.batch_age_max = Duration::from_millis(10);
    config.pressure.uncertified_batches_max = 4;
    config.pressure.disk_lag_max = SECOND;
    let mut net = Net::with(config);
    net.drops = |_, _, message| matches!(message, Message::Batch(_));
    for text in ["one", "two", "three"] {
        net.batch(0, text);
    }
    let now = pressure(&net);
    assert_eq!(now.reasons.iter().collect::<Vec<_>>(), [BusyReason::Votes]);
    assert_eq!((now.levels.votes, now.lowest_gas_bucket), (750, Some(10)));
    net.drops = |_, _, _| false;
    net.pass(5 * SECOND);
    assert!(pressure(&net).reasons.is_empty(), "{:?}", pressure(&net));
    // A group is taken and does not come back.
    let one = priced(&net, 0, 1);
    submit(&mut net, one, None);
    net.now.monotonic += Duration::from_millis(20);
    net.input(0, Input::Tick);
    let group = net.nodes[0].sequencer.take_group().unwrap();
    net.now.monotonic += Duration::from_millis(900);
    net.input(0, Input::Tick);
    let now = pressure(&net);
    assert_eq!(now.reasons.iter().collect::<Vec<_>>(), [BusyReason::DiskLag]);
    assert_eq!((now.levels.disk, now.lowest_gas_bucket), (900, Some(100)));
    let persisted = group.persist(&mut net.nodes[0].store).unwrap();
    net.input(0, Input::Durable { sequence: persisted.sequence });
    assert_eq!(pressure(&net).levels.disk, 0);
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn under_pressure_the_pool_empties_at_the_rate_that_is_left_and_nothing_is_stuck() {
    let mut config = SequencerConfig {
        batch_bytes_target: ByteSize(400),
        batch_age_max: Duration::from_millis(20),
        ..SequencerConfig::default()
    };
    config.pressure.uncertified_batches_max = 4;
    config.pull_rate.min = 50;
    config.pull_rate.max = 60;
    config.pull_rate.increase = 5;
    let mut net = Net::with(config);
    net.drops = |_, _, message| matches!(message, Message::Batch(_));
    let many = priced(&net, 1000, 300);
    submit(&mut net, many, None);
    net.settle();
    let before = net.status(0);
    assert!(before.pool_transactions < 200 && before.uncertified_batches == 3, "{before:?}");
    let now = pressure(&net);
    assert!(now.pull_rate.is_some(), "{now:?}");
    // Who is refused is told when what is there will have left.
    let cheap = priced(&net, 0, 1);
    let id = submit(&mut net, cheap, None);
    let told = refusals(&mut net, id);
    let Some(SubmitError::Busy { retry_after, .. }) = told[0] else { panic!("{told:?}") };
    let expected = before.pool_transactions * 1000 / now.pull_rate.unwrap();
    assert_eq!(retry_after, Duration::from_millis(expected));
    // What waits longer waits in the source.
    net.input(0, Input::SourceReady);
    assert!(net.nodes[0].source.pulls.is_empty());
    // A second of the least rate.
    let (mut left, mut seconds) = (before.pool_transactions, Vec::new());
    for _ in 0..2 {
        net.pass(SECOND);
        let now = net.status(0).pool_transactions;
        seconds.push(left - now);
        left = now;
    }
    assert!(seconds.iter().all(|pulled| (44..=60).contains(pulled)), "{seconds:?}");
    // The votes come, the rate rises step by step, and then nothing is limited.
    net.drops = |_, _, _| false;
    net.pass(20 * SECOND);
    let now = pressure(&net);
    assert_eq!((now.pull_rate, net.status(0).pool_transactions), (None, 0));
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn a_limited_core_is_woken_only_when_something_may_leave_and_never_for_an_empty_pool() {
    let mut config = SequencerConfig {
        batch_bytes_target: ByteSize(100),
        batch_age_max: Duration::from_millis(20),
        resend_interval: 10 * SECOND,
        ..SequencerConfig::default()
    };
    config.pressure.uncertified_batches_max = 1;
    (config.pull_rate.min, config.pull_rate.max) = (50, 60);
    let mut net = Net::with(config);
    net.drops = |_, _, _| true;
    let many = priced(&net, 1000, 200);
    submit(&mut net, many, None);
    // Time goes from deadline to deadline, as in the engine.
    let woken = |net: &mut Net, time: Duration| {
        let (end, mut count) = (net.now.monotonic + time, 0);
        while let Some(due) = net.nodes[0].sequencer.next_deadline().filter(|due| *due <= end) {
            net.now.monotonic = net.now.monotonic.max(due);
            net.input(0, Input::Tick);
            while net.write(0) {}
            count += 1;
            assert!(count < 10_000, "it spins at {due:?}");
        }
        net.now.monotonic = end;
        count
    };
    let waiting = net.status(0).pool_transactions;
    assert!(waiting > 150, "{waiting}");
    let times = woken(&mut net, 2 * SECOND);
    let left = waiting - net.status(0).pool_transactions;
    assert!((90..=110).contains(&left), "{left} left");
    assert!(times < 150, "woken {times} times for {left}");
    woken(&mut net, 4 * SECOND);
    assert_eq!(net.status(0).pool_transactions, 0);
    assert!(pressure(&net).pull_rate.is_some());
    let times = woken(&mut net, 10 * SECOND);
    // Announcements twice a second; for each batch, silent validators are asked again once.
    let expected = net.status(0).uncertified_batches + 40;
    assert!(times < expected, "woken {times} times, {expected} at most");
}

// ---- interleavings -----------------------------------------------------------------------------

/// One core without peers: whatever is taken stays in the pool, or in batches that nobody signs.
struct Lone {
    net: Net,
    rng: Rng,
    next: u64,
    /// The group that is on its way to the disk.
    writing: Option<crate::store::Group>,
}

impl Lone {
    fn new(seed: u64) -> Self {
        let mut config = small();
        config.pressure.disk_lag_max = SECOND;
        let mut net = Net::with(config);
        net.drops = |_, _, _| true;
        Self { net, rng: Rng::with_seed(seed), next: 0, writing: None }
    }

    fn core(&mut self) -> &mut Sequencer {
        &mut self.net.nodes[0].sequencer
    }

    fn step(&mut self, input: impl FnOnce(RequestId) -> Input) -> Option<Reply> {
        self.next += 1;
        let id = RequestId(1 << 40 | self.next);
        let now = self.net.now;
        self.core().step(now, input(id));
        let mut answer = None;
        while let Some(effect) = self.core().poll_effect() {
            if let Effect::Reply { id: of, reply } = effect
                && of == id
            {
                answer = Some(reply);
            }
        }
        answer
    }

    fn transactions(&mut self, price: u64, count: u64) -> Vec<Transaction> {
        let expiration = self.net.now.wall.saturating_add(20 * SECOND);
        let one = |_| Transaction {
            bytes: Bytes::from_static(b"ten bytes!"),
            gas_unit_price: price,
            expiration,
        };
        (0..count).map(one).collect()
    }

    fn submit(&mut self, price: u64, count: u64) {
        let transactions = self.transactions(price, count);
        self.step(|id| Input::Submit { id, transactions });
    }

    fn lease(&mut self, client: u64) -> Option<Lease> {
        let room = Room { bytes: 80, transactions: self.rng.u64(1..5) };
        let life = Duration::from_millis(self.rng.u64(500..4000));
        let request = LeaseRequest { client: format!("client {client}"), room, life };
        match self.step(|id| Input::Lease { id, request }) {
            Some(Reply::Leased(result)) => result.ok(),
            other => panic!("{other:?}"),
        }
    }

    /// Hands out a group, or makes the one that is under way durable.
    fn write(&mut self) {
        match self.writing.take() {
            None => self.writing = self.core().take_group(),
            Some(group) => {
                let persisted = group.persist(&mut self.net.nodes[0].store).unwrap();
                self.step(|_| Input::Durable { sequence: persisted.sequence });
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.net.now.monotonic += time;
        self.net.now.wall = self.net.now.wall.saturating_add(time);
        self.step(|_| Input::Tick);
    }

    /// Something else happens.
    fn disturb(&mut self, until: Duration) {
        match self.rng.u32(..9) {
            0 | 1 => {
                let (price, count) = (self.rng.u64(..200), self.rng.u64(1..20));
                self.submit(price, count);
            }
            2 => drop(self.lease(1)),
            3 => {
                let admits = self.rng.bool();
                self.step(|_| Input::Space { admits });
            }
            4 => self.write(),
            5 => {
                let peer = self.net.nodes[self.rng.usize(1..4)].author;
                self.step(|_| Input::LinkDown { peer });
            }
            6 | 7 => {
                let left = until.saturating_sub(self.net.now.monotonic).as_micros() as u64;
                if left > 0 {
                    let time = Duration::from_micros(self.rng.u64(1..=left));
                    self.wait(time);
                }
            }
            _ => drop(self.step(|_| Input::Tick)),
        }
    }

    /// Brings everything back to where a price can rise.
    fn recover(&mut self) {
        self.step(|_| Input::Space { admits: false });
        self.step(|_| Input::Space { admits: true });
        self.wait(6 * SECOND);
        for _ in 0..4 {
            self.write();
        }
        for index in 1..4 {
            self.net.link(0, index);
        }
    }

    /// From a quote to its use. True if there was a quote.
    fn interleave(&mut self) -> bool {
        self.recover();
        let before = self.core().pressure().lowest_gas_bucket;
        let Some(lease) = self.lease(0) else { return false };
        assert_eq!(before, Some(lease.lowest_gas_bucket));
        let until = self.net.now.monotonic + lease.life;
        for _ in 0..self.rng.usize(..8) {
            self.disturb(until);
        }
        self.step(|_| Input::Space { admits: true });
        // The dearest go on until the price has risen.
        while self.core().pressure().lowest_gas_bucket.is_some_and(|b| b <= lease.lowest_gas_bucket)
        {
            self.submit(1000, 1);
        }
        let risen = self.core().pressure().lowest_gas_bucket;
        assert!(risen.is_none_or(|bucket| bucket > lease.lowest_gas_bucket));
        let cheap = self.transactions(lease.lowest_gas_bucket, lease.room.transactions);
        let leased = self.core().pressure().leased;
        let lease_of = UnderLease { client: "client 0".to_owned(), id: lease.id };
        let answer =
            self.step(|id| Input::SubmitUnder { id, lease: lease_of, transactions: cheap });
        assert!(answer.is_none(), "refused under its lease: {answer:?}, price {risen:?}");
        let now = self.core().pressure().leased;
        assert_eq!(leased.transactions - now.transactions, lease.room.transactions);
        true
    }
}

#[test]
fn a_lease_taken_before_a_price_rise_is_honoured_in_every_interleaving() {
    let wanted = if cfg!(miri) { 10 } else { 100_000 };
    let mut honoured = 0;
    let mut seed = 0;
    while honoured < wanted {
        // A new core now and then: its batches are never ordered.
        seed += 1;
        let mut lone = Lone::new(seed);
        for _ in 0..if cfg!(miri) { 10 } else { 100 } {
            honoured += u64::from(lone.interleave());
        }
        assert!(honoured > seed, "prices do not come down any more: {:?}", lone.core().pressure());
    }
}
