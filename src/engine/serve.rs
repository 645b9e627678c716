//! Serve: reads durable content for peers, of former epochs too, and our own batches that are sent
//! again.
//!
//! ```text
//!  request ─▶ queue of its peer (bounded) ─▶ one reader after the other, peers in turn ─▶ link
//!                 │ full                          │ beyond its rate, or its link is full
//!                 └───────────── busy, until ─────┘
//! ```
//!
//! `readers` of them read the disk at once, each for one peer; a peer that asks for much waits for
//! itself. What a peer is sent is bounded in bytes a second, and content is not queued behind so
//! much that batches of ours would wait for it. Whoever is refused is told when to ask again. What
//! is not here, or not durable yet, is answered as absent, which proves nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

use super::egress::Sender;
use super::error::Part;
use super::faults::Faults;
use super::shared::Shared;
use crate::store::StoreError;
use crate::transport::ReceivePermit;
use crate::types::{AbsentReason, Author, Batch, Chunk, ChunkId, Digest, FetchedContent, Message};

/// What a peer may have asked for at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Requests that wait, per peer.
    pub queue: usize,
    /// Bytes a second, per peer.
    pub bytes_per_second: u64,
    /// Bytes of bulk on a link beyond which it gets no more content.
    pub link_bytes: usize,
}

/// Content that a peer asks for: whole, or chunks of it.
#[derive(Debug)]
pub(super) struct Asked {
    pub digest: Digest,
    /// Empty for all of it.
    pub chunks: Vec<u16>,
}

impl Asked {
    /// Chunks of one batch together: it is read once.
    pub fn by_digest(chunks: Vec<ChunkId>) -> Vec<Self> {
        let mut by_digest: BTreeMap<Digest, Vec<u16>> = BTreeMap::new();
        for ChunkId { digest, index } in chunks {
            by_digest.entry(digest).or_default().push(index);
        }
        by_digest.into_iter().map(|(digest, chunks)| Self { digest, chunks }).collect()
    }
}

/// Something to read and send.
pub(super) enum Job {
    /// A peer asks for content.
    Serve {
        asked: Vec<Asked>,
        /// Counts the request against its peer until it is answered.
        permit: Option<Arc<ReceivePermit>>,
    },
    /// One of our batches goes to silent validators again.
    Resend { to: Vec<Author>, digest: Digest },
    /// Content goes to those who may have lost it.
    Push { to: Vec<Author>, digest: Digest },
}

/// Jobs that wait, for each peer; our own under our own key.
pub(super) struct Jobs {
    limits: Limits,
    own: Author,
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<Author, Queue>,
    /// Whose turn it is: those with something in their queue that nobody works on.
    turns: VecDeque<Author>,
}

struct Queue {
    jobs: VecDeque<Job>,
    /// True while a reader works for it.
    taken: bool,
    /// Bytes that may be sent now; below zero after a large content.
    budget: i64,
    filled: Instant,
}

impl Jobs {
    pub fn new(own: Author, limits: Limits) -> Self {
        Self { limits, own, state: Mutex::default(), ready: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if it did, the queues would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job of a peer, or gives it back if too many wait.
    pub fn push(&self, peer: Author, job: Job) -> Result<(), Job> {
        let mut state = self.lock();
        let State { queues, turns } = &mut *state;
        let full = i64::try_from(self.limits.bytes_per_second).unwrap_or(i64::MAX);
        let queue = queues.entry(peer).or_insert_with(|| Queue {
            jobs: VecDeque::new(),
            taken: false,
            budget: full,
            filled: Instant::now(),
        });
        if queue.jobs.len() >= self.limits.queue {
            return Err(job);
        }
        queue.jobs.push_back(job);
        if !queue.taken && queue.jobs.len() == 1 {
            turns.push_back(peer);
        }
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Queues a job of our own.
    pub fn push_own(&self, job: Job) -> Result<(), Job> {
        self.push(self.own, job)
    }

    /// The next job, peers in turn; nobody else works for this peer until [`Self::done`].
    async fn next(&self) -> (Author, Job) {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.ready.notified().await;
        }
    }

    fn take(&self) -> Option<(Author, Job)> {
        let mut state = self.lock();
        let State { queues, turns } = &mut *state;
        let peer = turns.pop_front()?;
        let queue = queues.get_mut(&peer)?;
        queue.taken = true;
        Some((peer, queue.jobs.pop_front()?))
    }

    fn done(&self, peer: Author) {
        let mut state = self.lock();
        let State { queues, turns } = &mut *state;
        let Some(queue) = queues.get_mut(&peer) else { return };
        queue.taken = false;
        if !queue.jobs.is_empty() {
            turns.push_back(peer);
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Takes bytes from a peer's budget; or says how long until there are some.
    fn spend(&self, peer: &Author, bytes: usize) -> Result<(), Duration> {
        let rate = self.limits.bytes_per_second;
        let mut state = self.lock();
        let Some(queue) = state.queues.get_mut(peer) else { return Ok(()) };
        let now = Instant::now();
        let passed = now.duration_since(queue.filled).as_micros();
        let gained = i64::try_from(passed * u128::from(rate) / 1_000_000).unwrap_or(i64::MAX);
        if gained > 0 {
            queue.filled = now;
            // At most one second's worth is saved up.
            let most = i64::try_from(rate).unwrap_or(i64::MAX);
            queue.budget = queue.budget.saturating_add(gained).min(most);
        }
        if queue.budget <= 0 {
            let missing = u128::from(queue.budget.unsigned_abs() + 1) * 1_000_000;
            let micros = missing.div_ceil(u128::from(rate.max(1)));
            return Err(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)));
        }
        queue.budget -= i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(())
    }
}

/// Serves until cancelled; ends when every read under way has ended.
pub(super) async fn run(sender: Sender, jobs: Arc<Jobs>, readers: usize, faults: Arc<Faults>) {
    let permits = Arc::new(Semaphore::new(readers));
    let reads = TaskTracker::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        let (peer, job) = tokio::select! {
            biased;
            () = faults.stop.cancelled() => break,
            next = jobs.next() => next,
        };
        let (sender, faults, jobs) = (sender.clone(), Arc::clone(&faults), Arc::clone(&jobs));
        reads.spawn_blocking(move || {
            faults.guard(Part::Serve, || {
                faults.tripwire.at("serve", "job");
                handle(&sender, &jobs, peer, job);
            });
            jobs.done(peer);
            drop(permit);
        });
    }
    reads.close();
    reads.wait().await;
}

fn handle(sender: &Sender, jobs: &Jobs, peer: Author, job: Job) {
    match job {
        Job::Serve { asked, permit } => {
            for asked in asked {
                serve(sender, jobs, peer, &asked);
            }
            drop(permit);
        }
        Job::Resend { to, digest } => {
            if let Ok(Some(batch)) = find_batch(&sender.shared, &digest) {
                sender.send(to, &Message::Batch(batch));
            }
        }
        Job::Push { to, digest } => {
            let content = find(&sender.shared, &digest);
            if !matches!(content, FetchedContent::Absent(_)) {
                sender.send(to, &Message::FetchReply { digest, content });
            }
        }
    }
}

fn serve(sender: &Sender, jobs: &Jobs, peer: Author, asked: &Asked) {
    let began = Instant::now();
    let metrics = &sender.shared.metrics.messages;
    let digest = asked.digest;
    let reply = |content| sender.send([peer], &Message::FetchReply { digest, content });
    if let Some(pause) = link_is_full(sender, jobs, &peer) {
        metrics.served("busy", began);
        return reply(busy(pause));
    }
    let content = find(&sender.shared, &digest);
    let parts = match (&content, asked.chunks.is_empty()) {
        (FetchedContent::Batch(batch), false) => {
            let chunks = Chunk::cut(batch.info, &batch.body, &asked.chunks);
            chunks.into_iter().map(Box::new).map(FetchedContent::Chunk).collect()
        }
        _ => vec![content],
    };
    for part in parts {
        let bytes = bytes_of(&part);
        match jobs.spend(&peer, bytes) {
            Ok(()) => {
                let result = if bytes > 0 { "found" } else { "missing" };
                metrics.served_bytes.inc_by(bytes as u64);
                reply(part);
                metrics.served(result, began);
            }
            Err(pause) => {
                metrics.served("busy", began);
                return reply(busy(pause));
            }
        }
    }
}

/// Content shares the bulk queue of a link with batches, which must find room in it.
fn link_is_full(sender: &Sender, jobs: &Jobs, peer: &Author) -> Option<Duration> {
    let links = sender.transport.links();
    let link = links.iter().find(|link| link.peer == *peer)?;
    let full = link.queue_bytes.bulk > jobs.limits.link_bytes;
    full.then(|| link.rtt.unwrap_or_default().clamp(BUSY_MIN, BUSY_MAX))
}

/// How long a peer is sent away at least, and when its link is full at most.
const BUSY_MIN: Duration = Duration::from_millis(10);
const BUSY_MAX: Duration = Duration::from_millis(500);

fn busy(pause: Duration) -> FetchedContent {
    let millis = pause.max(BUSY_MIN).as_millis();
    FetchedContent::Busy(u32::try_from(millis).unwrap_or(u32::MAX))
}

/// Tells a peer whose queue is full to ask again.
pub(super) fn refuse(sender: &Sender, peer: Author, asked: &[Asked]) {
    for Asked { digest, .. } in asked {
        sender.shared.metrics.messages.served("busy", Instant::now());
        let (digest, content) = (*digest, busy(BUSY_MAX));
        sender.send([peer], &Message::FetchReply { digest, content });
    }
}

fn bytes_of(content: &FetchedContent) -> usize {
    match content {
        FetchedContent::Absent(_) | FetchedContent::Busy(_) => 0,
        FetchedContent::Batch(batch) => batch.body.bytes().len(),
        FetchedContent::Chunk(chunk) => chunk.bytes.len(),
        FetchedContent::Payload(payload) => {
            512 * (1 + payload.content.outside()) + payload.content.inline_bytes() as usize
        }
    }
}

fn find(shared: &Shared, digest: &Digest) -> FetchedContent {
    let mut reason = AbsentReason::NotHeld;
    match find_batch(shared, digest) {
        Ok(Some(batch)) => return FetchedContent::Batch(batch),
        Ok(None) => {}
        Err(_) => reason = AbsentReason::Unreadable,
    }
    let cached = shared.cached_payload(digest).map(|payload| (*payload).clone());
    let payload =
        cached.map_or_else(|| note(shared, shared.reader.payload(digest)), |p| Ok(Some(p)));
    match payload {
        Ok(Some(payload)) => FetchedContent::Payload(Box::new(payload)),
        Ok(None) => FetchedContent::Absent(reason),
        Err(_) => FetchedContent::Absent(AbsentReason::Unreadable),
    }
}

/// From memory or disk. The cache may hold what is not durable: bytes promise nothing.
pub(super) fn find_batch(shared: &Shared, digest: &Digest) -> Result<Option<Batch>, StoreError> {
    match shared.cached_batch(digest) {
        Some(batch) => Ok(Some(batch)),
        None => note(shared, shared.reader.batch(digest)),
    }
}

fn note<T>(shared: &Shared, read: Result<T, StoreError>) -> Result<T, StoreError> {
    read.inspect_err(|error| {
        tracing::error!(%error, "reading content failed");
        shared.metrics.messages.invalid("read_failed");
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: u8) -> Job {
        Job::Resend { to: Vec::new(), digest: Digest([name; 32]) }
    }

    fn jobs(queue: usize, bytes_per_second: u64) -> Jobs {
        let limits = Limits { queue, bytes_per_second, link_bytes: 1 };
        Jobs::new(Author([0; 32]), limits)
    }

    fn next(jobs: &Jobs) -> Option<(u8, u8)> {
        let (peer, job) = jobs.take()?;
        let Job::Resend { digest, .. } = job else { unreachable!() };
        Some((peer.0[0], digest.0[0]))
    }

    #[test]
    fn peers_take_turns_and_who_asks_for_much_waits_for_itself() {
        let jobs = jobs(3, 1);
        for name in 1..=3 {
            assert!(jobs.push(Author([1; 32]), job(name)).is_ok());
        }
        assert!(jobs.push(Author([1; 32]), job(4)).is_err(), "its queue is full");
        assert!(jobs.push(Author([2; 32]), job(9)).is_ok());
        assert_eq!(next(&jobs), Some((1, 1)));
        assert_eq!(next(&jobs), Some((2, 9)));
        assert_eq!(next(&jobs), None, "one reader for each peer");
        jobs.done(Author([2; 32]));
        assert_eq!(next(&jobs), None);
        jobs.done(Author([1; 32]));
        assert_eq!(next(&jobs), Some((1, 2)));
        jobs.done(Author([1; 32]));
        assert_eq!(next(&jobs), Some((1, 3)));
        jobs.done(Author([1; 32]));
        assert_eq!(next(&jobs), None);
    }

    #[test]
    fn bytes_are_bounded_by_the_second_and_the_pause_is_told() {
        let jobs = jobs(3, 1000);
        let peer = Author([1; 32]);
        assert!(jobs.push(peer, job(1)).is_ok());
        assert_eq!(jobs.spend(&peer, 5000), Ok(()), "one content may be larger than the rate");
        let pause = jobs.spend(&peer, 1).unwrap_err();
        assert!(pause > Duration::from_secs(3) && pause < Duration::from_secs(5), "{pause:?}");
    }
}
