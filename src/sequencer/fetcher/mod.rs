//! Fetcher: asks holders for content until it is here or nobody waits.
//!
//! ```text
//!            round                                        next round, after a pause that doubles
//!   ┌──────────────────────────────────────────────────┐
//!   holders, best first ──▶ everybody else ──▶ nobody left ──▶ (a named content: absences)
//!      │   no answer within its patience: 1, then 2, then 4 more are asked as well
//!      └── absent, busy, wrong: the next one at once
//! ```
//!
//! A large batch is wanted in pieces, its chunks, each from whoever has least to do; anything else
//! is one piece. Whoever waits for one digest shares one fetch. Asks are bounded in bytes over all
//! peers and in number per peer, so a slow peer holds up nothing but its own asks; needs of our
//! own take at most half of the bytes, so that execution goes first.
//!
//! Content is checked against its digest by ingress, and whoever sends something else is named
//! here ([`NoContent::Wrong`]). Every wait of the host has a deadline; a wait of our own (a commit
//! whose payload is missing, a proposal) ends when the content arrives or is no longer wanted.

mod asking;
mod peers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

pub(super) use self::peers::Standing;
use self::peers::{Peers, PieceId};
use super::outbox::Outbox;
use super::port::{Content, FetchError, NoContent, Reply, RequestId, Wanted};
use crate::types::chunk::{CHUNK_BYTES, chunks_of};
use crate::types::{Author, Batch, BatchBody, BatchInfo, Chunk, CommitIndex, Digest};

/// Rounds back off up to this many doublings.
const BACKOFF_DOUBLINGS_MAX: u32 = 3;
/// Most peers asked at once for one piece, when those before them do not answer.
const FAN_OUT_MAX: usize = 8;
/// Pieces that are looked at again when there may be room: more than one answer makes room for.
const WOKEN: usize = 64;

/// Bounds of the fetcher.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Before anything was measured, a peer is waited for this long.
    pub try_timeout: Duration,
    pub wants_max: usize,
    pub bytes_in_flight_max: u64,
    pub asks_per_peer_max: usize,
    /// What content of unknown length counts for.
    pub unknown_bytes: u64,
}

#[derive(Debug)]
struct Piece {
    /// When somebody is asked next; `None` once it is here.
    due: Option<Duration>,
    /// While it waits for room in flight instead: whether only we need it.
    stalled: Option<bool>,
    /// Asked in this round.
    tried: BTreeSet<Author>,
    fan_out: usize,
    rounds: u32,
    bytes: Option<Bytes>,
}

#[derive(Debug)]
struct Want {
    info: Option<BatchInfo>,
    holders: Vec<Author>,
    /// Requests of the host, with their deadlines.
    waiters: BTreeMap<RequestId, Duration>,
    /// True while the sequencer itself needs it.
    internal: bool,
    pieces: Vec<Piece>,
    asked: u32,
    /// The commits that name it and are waited for.
    named: BTreeSet<CommitIndex>,
}

impl Want {
    fn piece_bytes(&self, index: u16, unknown: u64) -> u64 {
        match self.info {
            None => unknown,
            Some(info) if self.pieces.len() == 1 => u64::from(info.bytes),
            Some(info) => {
                let from = usize::from(index) * CHUNK_BYTES;
                (info.bytes as usize).saturating_sub(from).min(CHUNK_BYTES) as u64
            }
        }
    }
}

/// See the module docs.
#[derive(Debug)]
pub(super) struct Fetcher {
    limits: Limits,
    wants: BTreeMap<Digest, Want>,
    /// Pieces by when somebody is asked for them.
    due: BTreeSet<(Duration, PieceId)>,
    /// Pieces that wait for room in flight, those of the host first.
    stalled: BTreeSet<(bool, PieceId)>,
    /// True if there may be room now.
    has_room: bool,
    deadlines: BTreeSet<(Duration, RequestId, Digest)>,
    peers: Peers,
    /// Contents that a whole round did not find, with a commit that names each.
    exhausted: BTreeSet<(Digest, CommitIndex)>,
}

impl Fetcher {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            wants: BTreeMap::new(),
            due: BTreeSet::new(),
            stalled: BTreeSet::new(),
            has_room: false,
            deadlines: BTreeSet::new(),
            peers: Peers::new(limits.try_timeout, limits.asks_per_peer_max),
            exhausted: BTreeSet::new(),
        }
    }

    // ---- wants ---------------------------------------------------------------------------------

    /// The host waits for content until `deadline`.
    pub fn on_request(
        &mut self,
        outbox: &mut Outbox,
        now: Duration,
        id: RequestId,
        wanted: &Wanted,
        deadline: Duration,
    ) {
        let digest = wanted.digest;
        if self.wants.len() >= self.limits.wants_max && !self.wants.contains_key(&digest) {
            outbox.reply_now(id, Reply::Fetched(Err(FetchError::Busy)));
            return;
        }
        let want = self.want(digest, wanted.info, &wanted.holders, now);
        want.waiters.insert(id, deadline);
        want.named.extend(wanted.commit);
        // Whoever waits with a deadline does not share the patience of a need that began before.
        let idle = want.asked == 0;
        self.deadlines.insert((deadline, id, digest));
        if idle {
            self.hurry(digest, now, None);
        }
    }

    /// The sequencer itself needs content, not before `due`.
    pub fn on_need(
        &mut self,
        digest: Digest,
        info: Option<BatchInfo>,
        holders: &[Author],
        due: Duration,
    ) {
        self.want(digest, info, holders, due).internal = true;
    }

    /// A payload that a logged commit names.
    pub fn on_named_need(&mut self, digest: Digest, index: CommitIndex, due: Duration) {
        let want = self.want(digest, None, &[], due);
        want.internal = true;
        want.named.insert(index);
    }

    fn want(
        &mut self,
        digest: Digest,
        info: Option<BatchInfo>,
        holders: &[Author],
        due: Duration,
    ) -> &mut Want {
        let queue = &mut self.due;
        let want = self.wants.entry(digest).or_insert_with(|| {
            let count = info.map_or(1, |info| chunks_of(info.bytes));
            let piece = |index| {
                queue.insert((due, (digest, index)));
                Piece {
                    due: Some(due),
                    stalled: None,
                    tried: BTreeSet::new(),
                    fan_out: 1,
                    rounds: 0,
                    bytes: None,
                }
            };
            Want {
                info,
                holders: Vec::new(),
                waiters: BTreeMap::new(),
                internal: false,
                pieces: (0..count).map(piece).collect(),
                asked: 0,
                named: BTreeSet::new(),
            }
        });
        for holder in holders {
            if !want.holders.contains(holder) {
                want.holders.push(*holder);
            }
        }
        want
    }

    /// True if somebody waits for it.
    pub fn is_wanted(&self, digest: &Digest) -> bool {
        self.wants.contains_key(digest)
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

    /// There is a verdict instead of content: whoever waits for it for a commit is told.
    pub fn on_verdict(&mut self, outbox: &mut Outbox, digest: &Digest, verdict: &FetchError) {
        let Some(want) = self.wants.get_mut(digest) else { return };
        for (id, deadline) in std::mem::take(&mut want.waiters) {
            self.deadlines.remove(&(deadline, id, *digest));
            outbox.reply_now(id, Reply::Fetched(Err(verdict.clone())));
        }
        self.forget_if_idle(digest);
    }

    // ---- answers -------------------------------------------------------------------------------

    /// Content is here, whole: whoever waits gets it at once. `from` is the peer that sent it as an
    /// answer. True if it was asked for or wanted.
    pub fn on_content(
        &mut self,
        outbox: &mut Outbox,
        now: Duration,
        from: Option<Author>,
        digest: &Digest,
        content: &Content,
    ) -> bool {
        let asked = from.is_some_and(|from| self.peers.on_content(from, &(*digest, 0), now));
        self.has_room = true;
        let Some(want) = self.remove(digest) else { return asked };
        for id in want.waiters.into_keys() {
            outbox.reply_now(id, Reply::Fetched(Ok(content.clone())));
        }
        true
    }

    /// A payload came that may be an answer, or what its proposer sent by itself.
    pub fn was_asked(&self, from: &Author, digest: &Digest) -> bool {
        self.peers.is_asked(from, &(*digest, 0))
    }

    /// A chunk that is one of its batch. False if it was neither asked for nor wanted.
    pub fn on_chunk(
        &mut self,
        now: Duration,
        from: Author,
        digest: &Digest,
        chunk: &Chunk,
    ) -> bool {
        let asked = self.peers.on_content(from, &(*digest, chunk.index), now);
        self.has_room = true;
        let Some(want) = self.wants.get_mut(digest) else { return asked };
        let Some(piece) = want.pieces.get_mut(usize::from(chunk.index)) else { return asked };
        if want.info.is_some() && piece.bytes.is_none() {
            piece.bytes = Some(chunk.bytes.clone());
            self.unqueue(digest, chunk.index);
        }
        true
    }

    /// The batch, once all of its chunks are here.
    pub fn assembled(&self, digest: &Digest) -> Option<Batch> {
        let want = self.wants.get(digest)?;
        let info = want.info?;
        let parts: Option<Vec<&Bytes>> = want.pieces.iter().map(|p| p.bytes.as_ref()).collect();
        let mut body = BytesMut::with_capacity(info.bytes as usize);
        parts?.into_iter().for_each(|part| body.extend_from_slice(part));
        Some(Batch { info, body: BatchBody::new(body.freeze()) })
    }

    /// A peer answers without content: the next one is asked at once. False if nobody asked it.
    pub fn on_no_content(
        &mut self,
        now: Duration,
        from: Author,
        digest: &Digest,
        answer: NoContent,
    ) -> bool {
        let asked = match answer {
            NoContent::Absent(_) => self.peers.on_absent(from, digest, now),
            NoContent::Busy(pause) => self.peers.on_busy(from, digest, pause, now),
            NoContent::Wrong => {
                self.peers.on_wrong(from, digest, now);
                true
            }
        };
        self.has_room = true;
        if asked {
            self.hurry(*digest, now, Some(&from));
        }
        asked
    }

    /// A peer says that it has it.
    pub fn on_holder(&mut self, now: Duration, from: Author, digest: &Digest) {
        let Some(want) = self.wants.get_mut(digest) else { return };
        if !want.holders.contains(&from) {
            want.holders.insert(0, from);
        }
        for piece in &mut want.pieces {
            piece.tried.remove(&from);
        }
        self.hurry(*digest, now, None);
    }

    /// True if a peer sends more of what nobody asked for than any accident explains.
    pub fn floods(&self, from: &Author, now: Duration) -> bool {
        self.peers.floods(from, now)
    }

    /// The link is down: what was asked over it is asked elsewhere.
    pub fn on_link_down(&mut self, now: Duration, peer: &Author) {
        let pieces = self.peers.on_link_down(peer);
        self.has_room |= !pieces.is_empty();
        for (digest, _) in pieces {
            self.hurry(digest, now, Some(peer));
        }
    }

    /// Former members need not be remembered.
    pub fn on_epoch(&mut self, keep: impl Fn(&Author) -> bool) {
        self.peers.retain(keep);
    }

    /// Somebody is asked now for the pieces that nobody is asked for, or that `instead_of` was.
    fn hurry(&mut self, digest: Digest, now: Duration, instead_of: Option<&Author>) {
        let Some(want) = self.wants.get_mut(&digest) else { return };
        for (index, piece) in want.pieces.iter_mut().enumerate() {
            let Some(due) = piece.due.filter(|due| *due > now) else { continue };
            // Between two rounds nothing hurries: everybody has answered.
            if instead_of.is_some_and(|peer| !piece.tried.contains(peer)) {
                continue;
            }
            let id = (digest, index as u16);
            self.due.remove(&(due, id));
            self.due.insert((now, id));
            piece.due = Some(now);
            piece.fan_out = 1;
        }
    }

    /// Contents that nobody who was asked has, each with a commit that names it.
    pub fn take_exhausted(&mut self) -> BTreeSet<(Digest, CommitIndex)> {
        std::mem::take(&mut self.exhausted)
    }

    /// Fetches under way.
    pub fn len(&self) -> usize {
        self.wants.len()
    }

    /// Bytes asked for and not answered.
    pub fn bytes_in_flight(&self) -> u64 {
        self.peers.bytes()
    }

    /// How peers stand, for status pages.
    pub fn standings(&self, now: Duration) -> BTreeMap<Author, Standing> {
        self.peers.standings(now)
    }

    // ---- helpers -------------------------------------------------------------------------------

    fn forget_if_idle(&mut self, digest: &Digest) {
        let idle = self.wants.get(digest).is_some_and(|w| w.waiters.is_empty() && !w.internal);
        if idle {
            self.remove(digest);
        }
    }

    fn remove(&mut self, digest: &Digest) -> Option<Want> {
        let count = self.wants.get(digest)?.pieces.len() as u16;
        for index in 0..count {
            self.unqueue(digest, index);
        }
        let want = self.wants.remove(digest)?;
        for (id, deadline) in &want.waiters {
            self.deadlines.remove(&(*deadline, *id, *digest));
        }
        Some(want)
    }

    /// Nobody is asked for this piece any more.
    fn unqueue(&mut self, digest: &Digest, index: u16) {
        let Some(want) = self.wants.get_mut(digest) else { return };
        let piece = &mut want.pieces[usize::from(index)];
        if let Some(due) = piece.due.take() {
            self.due.remove(&(due, (*digest, index)));
        }
        if let Some(internal) = piece.stalled.take() {
            self.stalled.remove(&(internal, (*digest, index)));
        }
    }
}
