//! What an author may count as free, and what its receivers count.

use std::time::Duration;

use super::net::*;
use crate::sequencer::port::*;
use crate::sequencer::windows::Windows;
use crate::store::Store as _;
use crate::types::*;

/// Beyond the lifetime of a batch and its grace.
const AGES: Duration = Duration::from_mins(3);

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn an_author_hears_of_room_only_once_the_deletion_is_on_disk() {
    let mut net = Net::new();
    let author = net.nodes[1].author;
    let batch = net.batch(1, "in the way");
    let (parent, _) = net.block(1, net.genesis_digest());
    net.pass(AGES);
    let before = net.nodes[0].sequencer.announcement().released;
    let payload = net.pull(0, 2, parent);
    net.commit(0, payload.header);
    // Taken and not on disk: nobody hears of it yet.
    let mut heard = Vec::new();
    while let Some(group) = net.nodes[0].sequencer.take_group() {
        heard.push(net.nodes[0].sequencer.announcement().released > before);
        let persisted = group.persist(&mut net.nodes[0].store).unwrap();
        net.input(0, Input::Durable { sequence: persisted.sequence });
        let gone = net.nodes[0].store.reader().batch(&batch).unwrap().is_none();
        let released = net.nodes[0].sequencer.announcement().released;
        assert_eq!(released > before, gone, "on disk");
    }
    assert!(heard.iter().all(|heard| !heard), "{heard:?}");
    assert!(net.nodes[0].store.reader().batch(&batch).unwrap().is_none(), "its time is over");
    assert_eq!(net.nodes[0].sequencer.stored_of(&author), Usage::default());
}

#[cfg_attr(miri, ignore = "minutes for an interpreter")]
#[test]
fn what_only_a_subscriber_still_needs_takes_no_room_of_its_author_also_after_a_crash() {
    let mut net = Net::new();
    let author = net.nodes[1].author;
    let subscriber = "indexer".to_owned();
    net.request(0, |id| Input::Subscribe { id, subscriber, next: CommitIndex(1) });
    let batch = net.batch(1, "needed");
    let (parent, _) = net.block(1, net.genesis_digest());
    assert_ne!(net.nodes[0].sequencer.stored_of(&author), Usage::default());
    net.pass(AGES);
    net.block(2, parent);
    for life in 0..2 {
        assert!(net.nodes[0].store.reader().batch(&batch).unwrap().is_some(), "life {life}");
        assert_eq!(net.nodes[0].sequencer.stored_of(&author), Usage::default(), "life {life}");
        net.restart(0);
    }
}

#[test]
fn after_a_restart_what_a_peer_may_not_have_goes_to_it_only_if_everything_fits() {
    let net = Net::new();
    let (me, peer) = (net.nodes[0].author, net.nodes[1].author);
    let chain = net.genesis.chain_id();
    let times = (Duration::from_mins(1), Duration::from_secs(30));
    let mut windows = Windows::new(me, Epoch(0), &committee(0..4), times);
    // Three that may have been sent to a peer that has room for two.
    let lifetime = |index| Duration::from_secs(10 + index);
    let recovered: Vec<_> = (0..3)
        .map(|index| {
            let info = net.forge(0, index, "text", lifetime(index)).info;
            (info.digest(&chain), info)
        })
        .collect();
    for (digest, info) in &recovered {
        windows.on_recovered_batch(*digest, info);
    }
    let window = Usage { bytes: 1 << 20, batches: 2 };
    let mut announcement = Announcement { window, released: Timestamp(0) };
    let (epoch, holds) = (Epoch(0), Usage::default());
    let hello = Hello { chain, epoch, committee: committee(0..4).hash(), announcement, holds };
    windows.on_link_up(peer, &hello, Timestamp(0));
    let (digest, info) = recovered[2];
    let grant = |windows: &mut Windows| windows.grant([peer].into_iter(), digest, &info);
    assert_eq!(grant(&mut windows), [], "the peer may hold two others");
    // The first one is over.
    let released = recovered[0].1.expiration.saturating_add(Duration::from_millis(30_001));
    announcement.released = released;
    windows.on_announcement(peer, announcement);
    assert_eq!(grant(&mut windows), [peer], "both fit");
    assert_eq!(grant(&mut windows), [peer], "and it may be sent again");
}

/// Batches leave their author while they are written: a crash may take what others hold then.
#[test]
fn what_a_crash_took_counts_at_whoever_holds_it_until_it_must_be_gone() {
    let net = Net::new();
    let (me, peer) = (net.nodes[0].author, net.nodes[1].author);
    let chain = net.genesis.chain_id();
    let (lifetime, grace) = (Duration::from_mins(1), Duration::from_secs(30));
    let mut windows = Windows::new(me, Epoch(0), &committee(0..4), (lifetime, grace));
    let durable = net.forge(0, 0, "durable", lifetime).info;
    windows.on_recovered_batch(durable.digest(&chain), &durable);
    // Of two that the peer holds, one is known; it has room for one more.
    let charge = durable.charge();
    let holds = Usage { bytes: 2 * charge, batches: 2 };
    let window = Usage { bytes: 1 << 20, batches: 3 };
    let restart = Timestamp(1_000_000_000);
    let mut announcement = Announcement { window, released: restart };
    let epoch = Epoch(0);
    let hello = Hello { chain, epoch, committee: committee(0..4).hash(), announcement, holds };
    windows.on_link_up(peer, &hello, restart);
    let grant = |windows: &mut Windows, index| {
        let info = net.forge(0, index, "new", lifetime * 4).info;
        windows.grant([peer].into_iter(), info.digest(&chain), &info)
    };
    assert_eq!(grant(&mut windows, 1), [peer], "two and one fit");
    assert_eq!(grant(&mut windows, 2), [], "the peer would refuse a fourth");
    // Whatever that was has expired, and its grace is over.
    announcement.released = restart.saturating_add(lifetime + grace);
    windows.on_announcement(peer, announcement);
    assert_eq!(grant(&mut windows, 2), [peer]);
}
