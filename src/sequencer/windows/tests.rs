//! One peer's window for us: what counts, since when, and until when.

use super::*;
use crate::types::{ChainId, Member, samples};

const PEER: Author = Author([2; 32]);
const LIFETIME: u64 = 1000;
const GRACE: u64 = 10;

fn committee(bytes: impl Iterator<Item = u8>) -> Committee {
    let member = |byte| Member { author: Author([byte; 32]), power: 1 };
    Committee::new(bytes.map(member).collect()).unwrap()
}

fn windows() -> Windows {
    let times = (Duration::from_micros(LIFETIME), Duration::from_micros(GRACE));
    Windows::new(Author([1; 32]), Epoch(0), &committee(1..=4), times)
}

/// Room for three batches of any size.
fn hello(epoch: u64, released: u64, batches: u64) -> Hello {
    let window = Usage { bytes: 1 << 30, batches: 3 };
    Hello {
        chain: ChainId([5; 32]),
        epoch: Epoch(epoch),
        committee: committee(1..=4).hash(),
        announcement: Announcement { window, released: Timestamp(released) },
        holds: Usage { bytes: 1000 * batches, batches },
    }
}

fn info(counter: u64, expiration: u64) -> (Digest, BatchInfo) {
    let info = samples::batch(1, counter, &[b"one"]).info;
    let digest = Digest(*blake3::hash(&counter.to_le_bytes()).as_bytes());
    (digest, BatchInfo { expiration: Timestamp(expiration), ..info })
}

/// How many batches may be sent now.
fn room(windows: &mut Windows, from: u64) -> u64 {
    let grants = (from..).take_while(|counter| {
        let (digest, info) = info(*counter, 5000);
        windows.grant([PEER].into_iter(), digest, &info) == [PEER]
    });
    grants.count() as u64
}

#[test]
fn a_batch_counts_once_and_until_the_peer_has_released_it() {
    let mut windows = windows();
    let (digest, first) = info(1, 100);
    assert!(windows.grant([PEER].into_iter(), digest, &first).is_empty(), "no link");
    assert!(!windows.lacks(&PEER, digest, &first));
    windows.on_link_up(PEER, &hello(0, 0, 0), Timestamp(0));
    assert!(windows.lacks(&PEER, digest, &first));
    for _ in 0..3 {
        assert_eq!(windows.grant([PEER].into_iter(), digest, &first), [PEER]);
    }
    assert!(!windows.lacks(&PEER, digest, &first));
    // It signs for that one, and for another that it was not sent from here.
    windows.on_stored(&PEER, digest, &first);
    let (other, second) = info(2, 5000);
    windows.on_stored(&PEER, other, &second);
    assert_eq!(room(&mut windows, 10), 1);
    let announce = |windows: &mut Windows, released| {
        let announcement = hello(0, released, 0).announcement;
        windows.on_announcement(PEER, announcement);
        windows.status(|_| Usage::default())[0].used.batches
    };
    assert_eq!(announce(&mut windows, 100 + GRACE), 3, "through its last moment");
    assert_eq!(announce(&mut windows, 101 + GRACE), 2);
    assert_eq!(announce(&mut windows, 1), 2);
    assert_eq!(windows.status(|_| Usage::default())[0].released, Timestamp(101 + GRACE));
    windows.on_link_down(PEER);
    assert_eq!(room(&mut windows, 20), 0);
    assert_eq!(windows.linked().count(), 0);
}

#[test]
fn what_a_peer_holds_and_nobody_here_knows_counts_until_it_must_be_gone() {
    // What it holds, what it has released, consensus time here: what is left, and until when.
    let kept = LIFETIME + GRACE;
    for (holds, released, consensus, left, until) in [
        (0, 50, 100, 3, 0),
        // It is behind: until it has caught up.
        (2, 50, 100, 1, 100),
        // It is not: until whatever was on its way is gone everywhere.
        (2, 100, 100, 1, 100 + kept),
        (1, 150, 100, 2, 150 + kept),
    ] {
        for end in [until.max(1) - 1, until] {
            let mut windows = windows();
            windows.on_link_up(PEER, &hello(0, released, holds), Timestamp(consensus));
            windows.on_announcement(PEER, hello(0, end, 0).announcement);
            let expected = if end.max(released) >= until { 3 } else { left };
            assert_eq!(room(&mut windows, 1), expected, "{holds} held, released {end}");
        }
    }
    // Only of a first meeting: later ones say nothing new.
    let mut windows = windows();
    windows.on_link_up(PEER, &hello(0, 100, 0), Timestamp(100));
    windows.on_link_up(PEER, &hello(0, 100, 3), Timestamp(100));
    assert_eq!(room(&mut windows, 1), 3);
}

#[test]
fn batches_of_an_earlier_life_go_again_only_if_everything_that_is_counted_fits() {
    for (recovered, goes) in [(3, true), (4, false)] {
        let mut windows = windows();
        for counter in 1..=recovered {
            let (digest, info) = info(counter, 5000);
            windows.on_recovered_batch(digest, &info);
        }
        windows.on_link_up(PEER, &hello(0, 100, 0), Timestamp(100));
        let (digest, info) = info(1, 5000);
        assert!(windows.lacks(&PEER, digest, &info), "nobody knows");
        let granted = windows.grant([PEER].into_iter(), digest, &info);
        assert_eq!(granted == [PEER], goes, "{recovered}");
        assert_eq!(windows.lacks(&PEER, digest, &info), !goes);
        assert_eq!(room(&mut windows, 10), 0);
    }
}

#[test]
fn only_members_that_serve_the_same_epoch_take_part_and_each_is_told_of_it_once_in_a_while() {
    let mut windows = windows();
    windows.on_link_up(PEER, &hello(1, 0, 0), Timestamp(0));
    assert_eq!(room(&mut windows, 1), 0, "it serves another epoch");
    assert!(windows.on_serving(PEER, Epoch(0)));
    assert!(!windows.on_serving(PEER, Epoch(0)), "it did before");
    assert!(!windows.on_serving(PEER, Epoch(1)) && !windows.on_serving(Author([9; 32]), Epoch(0)));
    assert!(windows.on_serving(PEER, Epoch(0)));
    assert_eq!(room(&mut windows, 1), 3);
    let millis = Duration::from_millis;
    let told = [0, 99, 100, 199, 200].map(|at| windows.may_answer(PEER, millis(at)));
    assert_eq!(told, [true, false, true, false, true]);
    assert!(!windows.may_answer(Author([9; 32]), millis(0)));
    // It leaves the committee, and stays a peer while the former epoch matters.
    let former = committee(1..=4);
    windows.on_epoch(Epoch(1), &committee(3..=5), std::iter::once(&former));
    assert!(!windows.is_member(&PEER) && windows.is_member(&Author([5; 32])));
    assert_eq!(windows.peers().count(), 4);
    windows.on_epoch(Epoch(1), &committee(3..=5), std::iter::empty());
    assert_eq!(windows.peers().map(|peer| peer.0[0]).collect::<Vec<_>>(), [3, 4, 5]);
}

#[test]
fn a_quorum_has_room_with_our_own_power_and_not_without_one_more() {
    let mut windows = windows();
    let committee = committee(1..=4);
    for (peer, has_room) in [(2, false), (3, true)] {
        windows.on_link_up(Author([peer; 32]), &hello(0, 0, 0), Timestamp(0));
        assert_eq!(windows.quorum_has_room(&committee, 1 << 30), has_room);
    }
    assert!(!windows.quorum_has_room(&committee, (1 << 30) + 1));
}
