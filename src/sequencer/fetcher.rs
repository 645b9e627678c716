//! Fetcher: asks holders for content, one after the other, until it is here or nobody waits.
//!
//! A wrong answer never gets here: ingress checks content against the digest that was asked for.
//! Every wait of the host has a deadline; a wait of our own (a commit whose payload is missing, a
//! proposal) ends when the content arrives or is no longer wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::outbox::Outbox;
use super::port::{Content, Effect, FetchError, Reply, RequestId};
use crate::types::message::FETCH_DIGESTS_MAX;
use crate::types::{Author, Digest, Message};

/// Tries back off up to this many doublings, counted in rounds over all holders.
const BACKOFF_DOUBLINGS_MAX: u32 = 3;

#[derive(Debug)]
struct Want {
    responders: Vec<Author>,
    /// Which responder is next.
    next: usize,
    asked: u32,
    due: Duration,
    /// Requests of the host, with their deadlines.
    waiters: BTreeMap<RequestId, Duration>,
    /// True while the sequencer itself needs it.
    internal: bool,
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct Fetcher {
    try_timeout: Duration,
    wants_max: usize,
    wants: BTreeMap<Digest, Want>,
    due: BTreeSet<(Duration, Digest)>,
    deadlines: BTreeSet<(Duration, RequestId, Digest)>,
}

impl Fetcher {
    pub fn new(try_timeout: Duration, wants_max: usize) -> Self {
        Self {
            try_timeout,
            wants_max,
            wants: BTreeMap::new(),
            due: BTreeSet::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// The host waits for content until `deadline`.
    pub fn on_request(
        &mut self,
        outbox: &mut Outbox,
        now: Duration,
        id: RequestId,
        digest: Digest,
        responders: &[Author],
        deadline: Duration,
    ) {
        if self.wants.len() >= self.wants_max && !self.wants.contains_key(&digest) {
            outbox.reply_now(id, Reply::Fetched(Err(FetchError::Busy)));
            return;
        }
        let want = self.want(digest, responders, now);
        want.waiters.insert(id, deadline);
        // Whoever waits with a deadline does not share the patience of a need that began before.
        let patient = (want.asked == 0 && want.due > now).then_some(want.due);
        if let Some(due) = patient {
            want.due = now;
            self.due.remove(&(due, digest));
            self.due.insert((now, digest));
        }
        self.deadlines.insert((deadline, id, digest));
    }

    /// The sequencer itself needs content, not before `due`.
    pub fn on_need(&mut self, digest: Digest, responders: &[Author], due: Duration) {
        self.want(digest, responders, due).internal = true;
    }

    fn want(&mut self, digest: Digest, responders: &[Author], due: Duration) -> &mut Want {
        let queue = &mut self.due;
        let want = self.wants.entry(digest).or_insert_with(|| {
            queue.insert((due, digest));
            let (responders, waiters) = (Vec::new(), BTreeMap::new());
            Want { responders, next: 0, asked: 0, due, waiters, internal: false }
        });
        for responder in responders {
            if !want.responders.contains(responder) {
                want.responders.push(*responder);
            }
        }
        want
    }

    /// True if somebody waits for it.
    pub fn is_wanted(&self, digest: &Digest) -> bool {
        self.wants.contains_key(digest)
    }

    /// Content is here: whoever waits gets it at once.
    pub fn on_content(&mut self, outbox: &mut Outbox, digest: &Digest, content: &Content) {
        let Some(want) = self.remove(digest) else { return };
        for id in want.waiters.into_keys() {
            outbox.reply_now(id, Reply::Fetched(Ok(content.clone())));
        }
    }

    /// A peer does not have it: the next one is asked at once.
    pub fn on_missing(&mut self, now: Duration, digest: &Digest) {
        if let Some(want) = self.wants.get_mut(digest)
            && want.asked < want.responders.len() as u32
        {
            self.due.remove(&(want.due, *digest));
            want.due = now;
            self.due.insert((now, *digest));
        }
    }

    /// The sequencer no longer needs it.
    pub fn on_needless(&mut self, digest: &Digest) {
        if let Some(want) = self.wants.get_mut(digest) {
            want.internal = false;
            self.forget_if_idle(digest);
        }
    }

    /// The host no longer waits.
    pub fn on_cancel(&mut self, id: RequestId) {
        let found = self.deadlines.iter().find(|(_, waiter, _)| *waiter == id).copied();
        if let Some((deadline, _, digest)) = found {
            self.deadlines.remove(&(deadline, id, digest));
            if let Some(want) = self.wants.get_mut(&digest) {
                want.waiters.remove(&id);
            }
            self.forget_if_idle(&digest);
        }
    }

    /// Ends waits that are over; asks the next holders.
    pub fn on_tick(&mut self, outbox: &mut Outbox, now: Duration, linked: &BTreeSet<Author>) {
        while let Some(&(deadline, id, digest)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.remove(&(deadline, id, digest));
            let Some(want) = self.wants.get_mut(&digest) else { continue };
            want.waiters.remove(&id);
            let asked = want.asked;
            outbox.reply_now(id, Reply::Fetched(Err(FetchError::TimedOut { asked })));
            self.forget_if_idle(&digest);
        }
        let mut requests: BTreeMap<Author, Vec<Digest>> = BTreeMap::new();
        while let Some(&(due, digest)) = self.due.first() {
            if due > now {
                break;
            }
            self.due.remove(&(due, digest));
            let Some(want) = self.wants.get_mut(&digest) else {
                unreachable!("{digest:?} is due and not wanted")
            };
            if let Some(responder) = next_responder(want, linked) {
                requests.entry(responder).or_default().push(digest);
            }
            let rounds = want.asked / (want.responders.len().max(1) as u32);
            let doublings = rounds.min(BACKOFF_DOUBLINGS_MAX);
            want.due = now + self.try_timeout * 2_u32.pow(doublings);
            self.due.insert((want.due, digest));
        }
        for (to, digests) in requests {
            for chunk in digests.chunks(FETCH_DIGESTS_MAX) {
                let message = Message::FetchRequest(chunk.to_vec());
                outbox.effect(Effect::Send { to, message });
            }
        }
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Option<Duration> {
        let due = self.due.first().map(|(due, _)| *due);
        let deadline = self.deadlines.first().map(|(deadline, _, _)| *deadline);
        due.into_iter().chain(deadline).min()
    }

    /// Fetches under way.
    pub fn len(&self) -> usize {
        self.wants.len()
    }

    fn forget_if_idle(&mut self, digest: &Digest) {
        let idle = self.wants.get(digest).is_some_and(|w| w.waiters.is_empty() && !w.internal);
        if idle {
            self.remove(digest);
        }
    }

    fn remove(&mut self, digest: &Digest) -> Option<Want> {
        let want = self.wants.remove(digest)?;
        self.due.remove(&(want.due, *digest));
        for (id, deadline) in &want.waiters {
            self.deadlines.remove(&(*deadline, *id, *digest));
        }
        Some(want)
    }
}

/// The next holder whose link is up.
fn next_responder(want: &mut Want, linked: &BTreeSet<Author>) -> Option<Author> {
    for _ in 0..want.responders.len() {
        let responder = want.responders[want.next % want.responders.len()];
        want.next += 1;
        if linked.contains(&responder) {
            want.asked += 1;
            return Some(responder);
        }
    }
    None
}
