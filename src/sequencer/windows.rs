//! Windows between validators, the author's side: what each peer grants us and what we used of it.
//!
//! An own batch is counted once per peer, whatever the resends, until the peer's `released` covers
//! its expiration plus grace. The peer counts only what it stores, which is never more, so a batch
//! sent within the window is never refused for room. Nothing is cumulative: loss, restart and
//! epoch change need no repair (design section 7).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::status::WindowStatus;
use crate::types::{
    Announcement, Author, BatchInfo, Committee, Digest, Epoch, Hello, Timestamp, Usage,
};

/// A peer is told of our epoch at most this often, whatever it sends.
const ANSWER_INTERVAL: Duration = Duration::from_millis(100);

/// One peer's window for us.
#[derive(Debug, Default)]
struct Peer {
    linked: bool,
    /// False for members of a former epoch: they fetch and are fetched from.
    member: bool,
    /// In the present epoch.
    power: u64,
    /// The epoch it serves, as far as it told us.
    epoch: Option<Epoch>,
    /// When it was last told of ours.
    answered: Option<Duration>,
    announcement: Announcement,
    used: Usage,
    /// What is counted: (expiration, digest, charge), in the order in which it is released.
    sent: BTreeSet<(Timestamp, Digest, u64)>,
    /// Of those, batches of an earlier life: nobody knows whether the peer was sent them.
    uncertain: BTreeSet<Digest>,
    /// Batches of an earlier life that the peer counts although they are not here: at most this, until
    /// its `released` says that they are gone there too.
    former: Option<(Usage, Timestamp)>,
    /// True once its link was up in this life.
    met: bool,
}

/// The windows of all peers.
#[derive(Debug)]
pub(super) struct Windows {
    me: Author,
    epoch: Epoch,
    peers: BTreeMap<Author, Peer>,
    own_power: u64,
    grace: Duration,
    /// Content is gone so long after it was made.
    kept: Duration,
}

impl Windows {
    /// Batches expire a `lifetime` after they were made, and are kept for a `grace` beyond that.
    pub fn new(
        me: Author,
        epoch: Epoch,
        committee: &Committee,
        (lifetime, grace): (Duration, Duration),
    ) -> Self {
        let (peers, own_power, kept) = (BTreeMap::new(), 0, lifetime + grace);
        let mut windows = Self { me, epoch, peers, own_power, grace, kept };
        windows.on_epoch(epoch, committee, std::iter::empty());
        windows
    }

    /// An epoch opens, or the last one that still mattered is over. What was sent to those who stay
    /// is still counted: they still store it.
    pub fn on_epoch<'a>(
        &mut self,
        epoch: Epoch,
        committee: &Committee,
        former: impl Iterator<Item = &'a Committee>,
    ) {
        self.epoch = epoch;
        self.own_power = committee.power_of(&self.me);
        let of = |committee: &Committee| -> Vec<Author> {
            committee.members().iter().map(|member| member.author).collect()
        };
        let stay: BTreeSet<_> = former.flat_map(of).chain(of(committee)).collect();
        self.peers.retain(|author, _| stay.contains(author));
        for author in stay.into_iter().filter(|author| *author != self.me) {
            let peer = self.peers.entry(author).or_default();
            peer.member = committee.index_of(&author).is_some();
            peer.power = committee.power_of(&author);
        }
    }

    /// A peer says which epoch it serves. True if it has come to ours just now.
    pub fn on_serving(&mut self, author: Author, epoch: Epoch) -> bool {
        let Some(peer) = self.peers.get_mut(&author) else { return false };
        let before = peer.epoch.replace(epoch);
        peer.member && epoch == self.epoch && before != Some(epoch)
    }

    /// True if a peer may be told of our epoch again.
    pub fn may_answer(&mut self, author: Author, now: Duration) -> bool {
        let Some(peer) = self.peers.get_mut(&author) else { return false };
        let may = peer.answered.is_none_or(|last| last + ANSWER_INTERVAL <= now);
        if may {
            peer.answered = Some(now);
        }
        may
    }

    /// True if it takes part in the present epoch.
    pub fn is_member(&self, author: &Author) -> bool {
        self.peers.get(author).is_some_and(|peer| peer.member)
    }

    /// After a restart: nobody knows who was sent what, so everyone counts as having it.
    pub fn on_recovered_batch(&mut self, digest: Digest, info: &BatchInfo) {
        for peer in self.peers.values_mut() {
            count(peer, digest, info);
            peer.uncertain.insert(digest);
        }
    }

    /// A link is up. What this life sent is counted exactly; of what an earlier life sent, only
    /// batches that are durable here and not deleted are known. A peer that is behind has deleted
    /// fewer: what it holds counts until it has caught up. One that is not, and holds more than is
    /// known, was sent batches that the crash took: they leave the author while they are written.
    pub fn on_link_up(&mut self, author: Author, hello: &Hello, consensus: Timestamp) {
        if let Some(peer) = self.peers.get_mut(&author) {
            peer.linked = true;
            peer.epoch = Some(hello.epoch);
            let behind = hello.announcement.released < consensus;
            let unknown = hello.holds.beyond(&peer.used);
            if !peer.met && behind && hello.holds != Usage::default() {
                peer.former = Some((hello.holds, consensus));
            } else if !peer.met && unknown != Usage::default() {
                let now = consensus.max(hello.announcement.released);
                peer.former = Some((unknown, now.saturating_add(self.kept)));
            }
            peer.met = true;
        }
        self.on_announcement(author, hello.announcement);
    }

    pub fn on_link_down(&mut self, author: Author) {
        if let Some(peer) = self.peers.get_mut(&author) {
            peer.linked = false;
        }
    }

    pub fn on_announcement(&mut self, author: Author, announcement: Announcement) {
        let Some(peer) = self.peers.get_mut(&author) else { return };
        // A peer's released time never falls; an old message must not bring back what was freed.
        let released = peer.announcement.released.max(announcement.released);
        peer.announcement = Announcement { released, ..announcement };
        peer.former.take_if(|(_, until)| *until <= released);
        while let Some(&(expiration, digest, charge)) = peer.sent.first() {
            if expiration.saturating_add(self.grace) >= released {
                break;
            }
            peer.sent.remove(&(expiration, digest, charge));
            peer.uncertain.remove(&digest);
            peer.used.remove(charge);
        }
    }

    /// True if validators of a quorum of power, ourselves included, have room for one more batch.
    pub fn quorum_has_room(&self, committee: &Committee, charge: u64) -> bool {
        let with_room = self.peers.values().filter(|peer| has_room(peer, self.epoch, charge));
        let power: u64 = with_room.map(|peer| peer.power).sum();
        committee.is_quorum(power + self.own_power)
    }

    /// Of `candidates`, those that may be sent this batch now; counts it for them.
    pub fn grant(
        &mut self,
        candidates: impl Iterator<Item = Author>,
        digest: Digest,
        info: &BatchInfo,
    ) -> Vec<Author> {
        let key = (info.expiration, digest, info.charge());
        let mut granted = Vec::new();
        for author in candidates {
            let Some(peer) = self.peers.get_mut(&author) else { continue };
            if !takes_part(peer, self.epoch) {
                continue;
            }
            if !peer.sent.contains(&key) {
                if !has_room(peer, self.epoch, info.charge()) {
                    continue;
                }
                count(peer, digest, info);
            } else if peer.uncertain.contains(&digest) {
                // Counted, but perhaps new to the peer: it may go only if all that is counted fits.
                let all = all_used(peer);
                let window = &peer.announcement.window;
                if all.bytes > window.bytes || all.batches > window.batches {
                    continue;
                }
                peer.uncertain.remove(&digest);
            }
            granted.push(author);
        }
        granted
    }

    /// True if a peer takes part and was not sent this batch, as far as this life knows.
    pub fn lacks(&self, author: &Author, digest: Digest, info: &BatchInfo) -> bool {
        let Some(peer) = self.peers.get(author) else { return false };
        let sent = peer.sent.contains(&(info.expiration, digest, info.charge()));
        takes_part(peer, self.epoch) && (!sent || peer.uncertain.contains(&digest))
    }

    /// A peer signed for a batch of ours: it counts it, although we may not have sent it there.
    pub fn on_stored(&mut self, author: &Author, digest: Digest, info: &BatchInfo) {
        if let Some(peer) = self.peers.get_mut(author) {
            count(peer, digest, info);
        }
    }

    /// Every other validator, those of former epochs included.
    pub fn peers(&self) -> impl Iterator<Item = Author> + '_ {
        self.peers.keys().copied()
    }

    /// Of those, the ones whose link is up.
    pub fn linked(&self) -> impl Iterator<Item = Author> + '_ {
        self.peers.iter().filter(|(_, peer)| peer.linked).map(|(author, _)| *author)
    }

    /// For status pages; `stored` says what we hold of a peer.
    pub fn status(&self, stored: impl Fn(&Author) -> Usage) -> Vec<WindowStatus> {
        let row = |(author, peer): (&Author, &Peer)| WindowStatus {
            peer: *author,
            linked: peer.linked,
            member: peer.member,
            epoch: peer.epoch,
            granted: peer.announcement.window,
            used: peer.used,
            stored: stored(author),
            released: peer.announcement.released,
        };
        self.peers.iter().map(row).collect()
    }
}

/// Whoever serves another epoch would not sign.
fn takes_part(peer: &Peer, epoch: Epoch) -> bool {
    peer.linked && peer.member && peer.epoch == Some(epoch)
}

fn has_room(peer: &Peer, epoch: Epoch, charge: u64) -> bool {
    takes_part(peer, epoch) && all_used(peer).has_room(charge, &peer.announcement.window)
}

/// What a peer may count of ours, at most.
fn all_used(peer: &Peer) -> Usage {
    let former = peer.former.map_or(Usage::default(), |(usage, _)| usage);
    Usage {
        bytes: peer.used.bytes.saturating_add(former.bytes),
        batches: peer.used.batches.saturating_add(former.batches),
    }
}

fn count(peer: &mut Peer, digest: Digest, info: &BatchInfo) {
    if peer.sent.insert((info.expiration, digest, info.charge())) {
        peer.used.add(info.charge());
    }
}

#[cfg(test)]
mod tests;
