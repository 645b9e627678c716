//! Who is asked next, and when: hedged asks, rounds, and the ends of waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::outbox::Outbox;
use super::super::port::{Effect, FetchError, Reply};
use super::peers::PieceId;
use super::{BACKOFF_DOUBLINGS_MAX, FAN_OUT_MAX, Fetcher, Limits, WOKEN, Want};
use crate::types::message::FETCH_DIGESTS_MAX;
use crate::types::{Author, ChunkId, Digest, Message};

impl Fetcher {
    /// Ends waits that are over; asks the next holders.
    pub fn on_tick(&mut self, outbox: &mut Outbox, now: Duration, linked: &BTreeSet<Author>) {
        self.end_waits(outbox, now);
        if self.peers.expire(now) {
            self.has_room = true;
        }
        if std::mem::take(&mut self.has_room) {
            for _ in 0..WOKEN {
                let Some((_, (digest, index))) = self.stalled.pop_first() else { break };
                let Some(want) = self.wants.get_mut(&digest) else { continue };
                let piece = &mut want.pieces[usize::from(index)];
                (piece.stalled, piece.due) = (None, Some(now));
                self.due.insert((now, (digest, index)));
            }
        }
        let mut asks: BTreeMap<Author, Vec<(PieceId, bool)>> = BTreeMap::new();
        // Waits of the host first, our own needs with what room they leave.
        let ready = self.due.range(..=(now, (Digest([0xff; 32]), u16::MAX)));
        let waits = |id: &PieceId| self.wants.get(&id.0).is_some_and(|w| !w.waiters.is_empty());
        let mut ready: Vec<(bool, Duration, PieceId)> =
            ready.map(|(due, id)| (!waits(id), *due, *id)).collect();
        ready.sort_unstable();
        for (_, due, id) in ready {
            self.due.remove(&(due, id));
            self.ask(now, id, linked, &mut asks);
        }
        for (to, pieces) in asks {
            send(outbox, to, &pieces);
        }
    }

    fn end_waits(&mut self, outbox: &mut Outbox, now: Duration) {
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
    }

    /// Asks the next peers for one piece, and says when it is looked at again.
    fn ask(
        &mut self,
        now: Duration,
        id: PieceId,
        linked: &BTreeSet<Author>,
        asks: &mut BTreeMap<Author, Vec<(PieceId, bool)>>,
    ) {
        let (digest, index) = id;
        let Limits { bytes_in_flight_max, unknown_bytes, try_timeout, .. } = self.limits;
        let Some(want) = self.wants.get_mut(&digest) else {
            unreachable!("{digest:?} is due and not wanted")
        };
        let bytes = want.piece_bytes(index, unknown_bytes);
        let share = if want.waiters.is_empty() { 2 } else { 1 };
        let chunked = want.pieces.len() > 1;
        let Want { holders, pieces, asked, named, .. } = want;
        let piece = &mut pieces[usize::from(index)];
        let mut patience = None;
        for _ in 0..piece.fan_out {
            let in_flight = self.peers.bytes();
            if in_flight > 0 && in_flight + bytes > bytes_in_flight_max / share {
                break;
            }
            let untried = linked
                .iter()
                .filter(|peer| !piece.tried.contains(*peer) && !self.peers.is_asked(peer, &id));
            let cost = |peer: &Author| self.peers.cost(peer, holders.contains(peer), now);
            let best = untried.filter_map(|peer| Some((cost(peer)?, *peer))).min();
            let Some((_, peer)) = best else { break };
            piece.tried.insert(peer);
            *asked += 1;
            let own = self.peers.on_ask(peer, id, bytes, now);
            patience = Some(patience.map_or(own, |longest: Duration| longest.max(own)));
            asks.entry(peer).or_default().push((id, chunked));
        }
        let due = if let Some(patience) = patience {
            piece.fan_out = (piece.fan_out * 2).min(FAN_OUT_MAX);
            now + patience
        } else if linked.iter().any(|peer| !piece.tried.contains(peer)) {
            // Somebody is left, and busy or asked for as much as it takes, or there is no room.
            let busy = linked.iter().filter(|peer| !piece.tried.contains(*peer));
            let until = busy.filter_map(|peer| self.peers.busy_until(peer)).filter(|at| *at > now);
            let until = until.min();
            if until.is_none() && self.peers.bytes() > 0 {
                (piece.stalled, piece.due) = (Some(share == 2), None);
                self.stalled.insert((share == 2, id));
                return;
            }
            until.unwrap_or(now + try_timeout)
        } else {
            self.exhausted.extend(named.iter().map(|index| (digest, *index)));
            piece.tried.clear();
            piece.fan_out = 1;
            let doublings = piece.rounds.min(BACKOFF_DOUBLINGS_MAX);
            piece.rounds += 1;
            now + try_timeout * 2_u32.pow(doublings)
        };
        piece.due = Some(due);
        self.due.insert((due, id));
    }

    /// True if [`Self::on_tick`] has something to do, or what it found was not taken yet.
    pub fn is_due(&self, now: Duration) -> bool {
        let due = self.next_deadline().is_some_and(|due| due <= now);
        due || self.has_room || !self.exhausted.is_empty()
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Option<Duration> {
        let due = self.due.first().map(|(due, _)| *due);
        let deadline = self.deadlines.first().map(|(deadline, _, _)| *deadline);
        due.into_iter().chain(deadline).chain(self.peers.next_expiry()).min()
    }
}

/// Several digests in one request, chunks in another.
fn send(outbox: &mut Outbox, to: Author, pieces: &[(PieceId, bool)]) {
    let of = |chunked: bool| pieces.iter().filter(move |piece| piece.1 == chunked);
    let whole: Vec<Digest> = of(false).map(|((digest, _), _)| *digest).collect();
    let chunks = of(true).map(|((digest, index), _)| ChunkId { digest: *digest, index: *index });
    let chunks: Vec<ChunkId> = chunks.collect();
    for digests in whole.chunks(FETCH_DIGESTS_MAX) {
        outbox.effect(Effect::Send { to, message: Message::FetchRequest(digests.to_vec()) });
    }
    for chunks in chunks.chunks(FETCH_DIGESTS_MAX) {
        outbox.effect(Effect::Send { to, message: Message::ChunkRequest(chunks.to_vec()) });
    }
}
