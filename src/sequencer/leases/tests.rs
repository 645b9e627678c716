//! Leased room never leaks: a naive recount after each of a million random operations.

use bytesize::ByteSize;
use fastrand::Rng;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn config() -> LeaseConfig {
    LeaseConfig {
        client_bytes_max: ByteSize(400),
        client_transactions_max: 40,
        client_leases_max: 5,
        leases_max: 9,
        ..LeaseConfig::default()
    }
}

fn room(bytes: u64, transactions: u64) -> Room {
    Room { bytes, transactions }
}

/// As asked for, or always the same.
fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(8);
    println!("SEED={seed}");
    seed
}

const POOL: Room = Room { bytes: 2000, transactions: 160 };

fn leases() -> Leases {
    Leases::new(&config(), POOL, 7)
}

fn request(client: &str, room: Room, life: Duration) -> LeaseRequest {
    LeaseRequest { client: client.to_owned(), room, life }
}

/// One lease as the naive book has it.
#[derive(Clone, Debug)]
struct Entry {
    id: LeaseId,
    client: String,
    left: Room,
    bucket: u64,
    until: Duration,
}

/// What leases are, without an index or a sum.
#[derive(Default)]
struct Naive {
    entries: Vec<Entry>,
    granted: Room,
    drawn: Room,
    returned: Room,
}

impl Naive {
    fn sum(&self, client: Option<&str>) -> Room {
        let mut sum = Room::default();
        let of = self.entries.iter().filter(|e| client.is_none_or(|client| e.client == client));
        of.for_each(|entry| sum.add(entry.left));
        sum
    }

    fn end(&mut self, is_over: impl Fn(&Entry) -> bool) {
        for entry in &self.entries {
            if is_over(entry) {
                self.returned.add(entry.left);
            }
        }
        self.entries.retain(|entry| !is_over(entry));
    }
}

fn grant(leases: &mut Leases, naive: &mut Naive, rng: &mut Rng, now: Duration) {
    let client = ["a", "b", "c", "d"][rng.usize(..4)];
    let wanted = room(rng.u64(..450), rng.u64(..45));
    let life = Duration::from_millis(rng.u64(..20_000));
    let free = room(rng.u64(..1500), rng.u64(..150));
    let bucket = rng.u64(..4) * 10;
    let (all, own) = (naive.sum(None), naive.sum(Some(client)));
    let of_client = naive.entries.iter().filter(|entry| entry.client == client).count();
    let fits = |used: Room, bytes, transactions| {
        used.bytes + wanted.bytes <= bytes
            && used.transactions + wanted.transactions <= transactions
    };
    let expected = wanted.bytes > 0
        && wanted.transactions > 0
        && life.as_millis() > 0
        && fits(own, 400, 40)
        && fits(all, 1000, 80)
        && fits(Room::default(), free.bytes, free.transactions)
        && of_client < 5
        && naive.entries.len() < 9;
    match leases.grant(now, &request(client, wanted, life), free, bucket) {
        Ok(lease) => {
            assert!(expected, "granted beyond a bound: {wanted:?}");
            assert_eq!((lease.room, lease.lowest_gas_bucket), (wanted, bucket));
            assert_eq!(lease.life, life.min(10 * SECOND));
            naive.granted.add(wanted);
            let until = now + lease.life + QUEUED;
            let client = client.to_owned();
            naive.entries.push(Entry { id: lease.id, client, left: wanted, bucket, until });
        }
        Err(error) => {
            assert!(!expected, "refused {wanted:?}: {error}");
            if let LeaseError::Busy { room: offered, limit, .. } = error {
                assert!(!wanted.fits(&offered) || offered == Room::default(), "{limit:?}");
            }
        }
    }
}

fn draw(leases: &mut Leases, naive: &mut Naive, rng: &mut Rng) {
    let Some(at) = (!naive.entries.is_empty()).then(|| rng.usize(..naive.entries.len())) else {
        return;
    };
    let entry = &mut naive.entries[at];
    let (bucket, bytes) = (rng.u64(..4) * 10, rng.u64(1..120));
    let under = UnderLease { client: entry.client.clone(), id: entry.id };
    let result = leases.draw(&under, bucket, bytes);
    if bucket < entry.bucket {
        let lowest_gas_bucket = entry.bucket;
        assert_eq!(result, Err(LeaseRefusal::Price { lowest_gas_bucket }));
    } else if bytes > entry.left.bytes {
        assert_eq!(result, Err(LeaseRefusal::Spent { left: entry.left }));
    } else {
        assert_eq!(result, Ok(()));
        entry.left.remove(room(bytes, 1));
        naive.drawn.add(room(bytes, 1));
        let id = entry.id;
        naive.end(|e| e.id == id && (e.left.bytes == 0 || e.left.transactions == 0));
    }
}

fn release(leases: &mut Leases, naive: &mut Naive, rng: &mut Rng) {
    let Some(at) = (!naive.entries.is_empty()).then(|| rng.usize(..naive.entries.len())) else {
        return;
    };
    let entry = naive.entries[at].clone();
    let under = UnderLease { client: entry.client.clone(), id: entry.id };
    let stranger = UnderLease { client: "stranger".to_owned(), ..under.clone() };
    assert_eq!(leases.release(&stranger), Err(LeaseRefusal::Unknown));
    assert_eq!(leases.release(&under), Ok(entry.left));
    assert_eq!(leases.release(&under), Err(LeaseRefusal::Unknown), "it comes back once");
    assert_eq!(leases.draw(&under, 100, 1), Err(LeaseRefusal::Unknown));
    naive.end(|e| e.id == entry.id);
}

#[test]
fn leased_room_never_leaks_over_a_million_operations() {
    let operations = if cfg!(miri) { 300 } else { 1_000_000 };
    let mut rng = Rng::with_seed(seed());
    let (mut leases, mut naive) = (leases(), Naive::default());
    let mut now = Duration::ZERO;
    let mut ended = 0;
    for step in 0..operations {
        match rng.u32(..100) {
            0..=39 => grant(&mut leases, &mut naive, &mut rng, now),
            40..=84 => draw(&mut leases, &mut naive, &mut rng),
            85..=89 => release(&mut leases, &mut naive, &mut rng),
            90..=98 => now += Duration::from_millis(rng.u64(..1500)),
            _ => {
                leases.end_all();
                naive.end(|_| true);
                ended += 1;
            }
        }
        leases.on_time(now);
        naive.end(|entry| entry.until <= now);
        // Recounted from nothing.
        let open = naive.sum(None);
        assert_eq!(leases.reserved(), open, "step {step}");
        assert_eq!(leases.len(), naive.entries.len(), "step {step}");
        let clients: BTreeSet<_> = naive.entries.iter().map(|entry| &entry.client).collect();
        assert!(leases.clients.keys().eq(clients.iter().copied()), "step {step}");
        for (name, client) in &leases.clients {
            assert_eq!(client.room, naive.sum(Some(name)), "step {step}");
        }
        let first = naive.entries.iter().map(|entry| entry.until).min();
        assert_eq!(leases.next_deadline(), first, "step {step}");
        let mut accounted = open;
        accounted.add(naive.drawn);
        accounted.add(naive.returned);
        assert_eq!(accounted, naive.granted, "step {step}: every byte went one way");
    }
    assert!(ended > 0 && naive.drawn.transactions > 0 && naive.returned.bytes > 0);
    leases.on_time(now + 12 * SECOND);
    assert_eq!((leases.reserved(), leases.len()), (Room::default(), 0));
    assert!(leases.clients.is_empty() && leases.next_deadline().is_none());
}

#[test]
fn a_lease_is_honoured_until_the_stated_time_and_a_moment_longer_then_never() {
    let mut leases = leases();
    let wanted = room(100, 10);
    let lease = leases.grant(SECOND, &request("a", wanted, 5 * SECOND), POOL, 30).unwrap();
    assert_eq!(lease.life, 5 * SECOND);
    let under = UnderLease { client: "a".to_owned(), id: lease.id };
    leases.on_time(SECOND + lease.life);
    assert_eq!(leases.draw(&under, 30, 10), Ok(()), "at the stated time");
    let before = QUEUED.saturating_sub(Duration::from_nanos(1));
    leases.on_time(SECOND + lease.life + before);
    assert_eq!(leases.draw(&under, 30, 10), Ok(()), "it waited in a queue");
    leases.on_time(SECOND + lease.life + QUEUED);
    assert_eq!(leases.draw(&under, 30, 10), Err(LeaseRefusal::Unknown));
    assert_eq!(leases.reserved(), Room::default());
}

#[test]
fn what_can_never_be_granted_is_told_from_what_cannot_be_granted_now() {
    let mut leases = leases();
    let ask = |leases: &mut Leases, client: &str, wanted, life| {
        leases.grant(Duration::ZERO, &request(client, wanted, life), POOL, 0)
    };
    let long = "x".repeat(65);
    assert_eq!(ask(&mut leases, "", room(1, 1), SECOND), Err(LeaseError::Client));
    assert_eq!(ask(&mut leases, &long, room(1, 1), SECOND), Err(LeaseError::Client));
    assert_eq!(ask(&mut leases, "a", room(0, 1), SECOND), Err(LeaseError::Empty));
    assert_eq!(ask(&mut leases, "a", room(1, 0), SECOND), Err(LeaseError::Empty));
    assert_eq!(ask(&mut leases, "a", room(1, 1), Duration::ZERO), Err(LeaseError::Empty));
    let most = room(400, 40);
    let error = LeaseError::TooLarge { most };
    assert_eq!(ask(&mut leases, "a", room(401, 1), SECOND), Err(error));
    assert_eq!(ask(&mut leases, "a", room(1, 41), SECOND), Err(error));
    ask(&mut leases, "a", room(300, 1), SECOND).unwrap();
    ask(&mut leases, "a", room(90, 1), 3 * SECOND).unwrap();
    let error = ask(&mut leases, "a", room(100, 1), SECOND).unwrap_err();
    let expected = LeaseError::Busy {
        limit: LeaseLimit::Client,
        room: room(10, 38),
        lowest_gas_bucket: Some(0),
        retry_after: SECOND + QUEUED,
    };
    assert_eq!(error, expected, "the first one to expire is enough");
    let error = ask(&mut leases, "a", room(320, 1), SECOND).unwrap_err();
    let LeaseError::Busy { retry_after, .. } = error else { panic!("{error:?}") };
    assert_eq!(retry_after, 3 * SECOND + QUEUED, "it takes both");
    ask(&mut leases, "b", room(400, 1), 2 * SECOND).unwrap();
    let error = ask(&mut leases, "c", room(211, 1), SECOND).unwrap_err();
    let expected = LeaseError::Busy {
        limit: LeaseLimit::Leases,
        room: room(210, 40),
        lowest_gas_bucket: Some(0),
        retry_after: SECOND + QUEUED,
    };
    assert_eq!(error, expected, "half of the pool stays for everybody else");
}

#[test]
fn a_name_of_another_life_is_known_as_such() {
    let mut former = Leases::new(&config(), POOL, 6);
    let lease = former.grant(SECOND, &request("a", room(1, 1), SECOND), POOL, 0).unwrap();
    let under = UnderLease { client: "a".to_owned(), id: lease.id };
    let mut leases = leases();
    leases.grant(SECOND, &request("a", room(1, 1), SECOND), POOL, 0).unwrap();
    assert_eq!(leases.draw(&under, 0, 1), Err(LeaseRefusal::FormerLife));
    assert_eq!(leases.release(&under), Err(LeaseRefusal::FormerLife));
    assert_eq!(leases.reserved(), room(1, 1), "the one of the same number is another one");
}
