//! Payloads alone: which are kept, for how long, and what builds on what.

use super::*;
use crate::types::{Epoch, PayloadContent, Timestamp};

fn digest(number: u64) -> Digest {
    Digest(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn content(height: u64, parent: Digest) -> Content {
    let content = PayloadContent::default();
    let header = PayloadHeader {
        epoch: Epoch(0),
        height: CommitIndex(height),
        parent,
        block_timestamp: Timestamp(height),
        content_root: content.root(),
    };
    Content { payload: Arc::new(Payload { header, content }), batches: Vec::new() }
}

/// Payloads named by their heights, on the one below.
fn store(payloads: &mut Payloads, heights: impl Iterator<Item = u64>) {
    for height in heights {
        payloads.on_stored(digest(height), content(height, digest(height - 1)));
    }
}

fn applied(index: u64) -> (CommitIndex, Digest) {
    (CommitIndex(index), digest(index))
}

#[test]
fn ancestors_are_those_above_what_is_applied() {
    let mut payloads = Payloads::new(2);
    store(&mut payloads, 1..=5);
    let set = |heights: &[u64]| Ok(heights.iter().map(|height| digest(*height)).collect());
    assert_eq!(payloads.ancestors(digest(5), applied(2)), set(&[3, 4, 5]));
    assert_eq!(payloads.ancestors(digest(2), applied(2)), set(&[]));
    let stale = Err(PullError::Stale(CommitIndex(2)));
    let other_at_two = (CommitIndex(2), digest(99));
    assert_eq!(payloads.ancestors(digest(5), other_at_two), stale);
    assert_eq!(payloads.ancestors(digest(1), applied(2)), Err(PullError::Stale(CommitIndex(1))));
    let unknown = |number| Err(PullError::UnknownAncestor(digest(number)));
    assert_eq!(payloads.ancestors(digest(7), applied(2)), unknown(7));
    payloads.on_stored(digest(9), content(9, digest(8)));
    assert_eq!(payloads.ancestors(digest(9), applied(2)), unknown(8), "one between");
    // Heights are words of proposers: one that does not fall leads nowhere.
    payloads.on_stored(digest(10), content(5, digest(5)));
    assert_eq!(payloads.ancestors(digest(10), applied(2)), Err(PullError::Parent));
}

#[test]
fn contents_go_with_their_height_and_headers_a_thousand_heights_later() {
    let mut payloads = Payloads::new(2);
    store(&mut payloads, 1..=4);
    payloads.on_stored(digest(40), content(2, digest(1)));
    assert_eq!(payloads.open(), 5);
    let over = |payloads: &mut Payloads, index| {
        payloads.on_applied(CommitIndex(index)).into_iter().collect::<BTreeSet<_>>()
    };
    assert_eq!(over(&mut payloads, 1), [digest(1)].into());
    assert_eq!(over(&mut payloads, 3), [digest(2), digest(40), digest(3)].into());
    assert_eq!((over(&mut payloads, 3), payloads.open()), (BTreeSet::new(), 1));
    assert!(payloads.stored(&digest(1)).is_some_and(|stored| stored.content.is_none()));
    // What comes late is remembered without its content.
    assert!(!payloads.on_stored(digest(30), content(3, digest(2))));
    assert!(payloads.on_stored(digest(41), content(4, digest(3))));
    payloads.on_applied(CommitIndex(1 + HEIGHTS_KEPT));
    assert!(payloads.stored(&digest(1)).is_some());
    payloads.on_applied(CommitIndex(2 + HEIGHTS_KEPT));
    assert!(payloads.stored(&digest(1)).is_none() && payloads.stored(&digest(2)).is_some());
}

#[test]
fn of_each_peer_the_newest_that_nobody_asked_for_are_kept() {
    let mut payloads = Payloads::new(2);
    let arrive = |payloads: &mut Payloads, peer, number| {
        let arrived = Arrived { content: content(1, digest(0)), verdict: Ok(()) };
        payloads.on_arrived(Author([peer; 32]), digest(number), arrived);
    };
    for (peer, number) in [(1, 1), (1, 2), (2, 3), (1, 1), (1, 4)] {
        arrive(&mut payloads, peer, number);
    }
    let kept = [1, 2, 3, 4].map(|number| payloads.take_arrived(&digest(number)).is_some());
    assert_eq!(kept, [false, true, true, true]);
    // What was taken makes room.
    for number in [5, 6] {
        arrive(&mut payloads, 1, number);
    }
    payloads.on_stored(digest(6), content(1, digest(0)));
    assert!(payloads.take_arrived(&digest(6)).is_none(), "it is stored");
    arrive(&mut payloads, 1, 7);
    assert!([5, 7].iter().all(|number| payloads.take_arrived(&digest(*number)).is_some()));
}

#[test]
fn a_wait_ends_for_everybody_when_it_is_over_and_for_one_when_that_one_gives_up() {
    let mut payloads = Payloads::new(2);
    for (number, id) in [(1, 1), (1, 2), (2, 3)] {
        payloads.wait(digest(number), RequestId(id), None);
    }
    assert_eq!(payloads.waited_for().len(), 2);
    assert_eq!(payloads.on_cancel(RequestId(1)), None, "somebody else waits");
    assert_eq!(payloads.on_cancel(RequestId(2)), Some(digest(1)));
    assert_eq!(payloads.on_cancel(RequestId(2)), None);
    assert!(!payloads.is_waited_for(&digest(1)) && payloads.is_waited_for(&digest(2)));
    assert!(payloads.take_waiting(&digest(2)).into_keys().eq([RequestId(3)]));
    assert!(!payloads.is_waited_for(&digest(2)));
}

#[test]
fn a_payload_follows_its_parent_at_the_next_height_and_not_earlier() {
    let parent =
        ParentOf { digest: digest(4), height: CommitIndex(4), block_timestamp: Timestamp(10) };
    let header = |height, parent, block_timestamp| {
        let block_timestamp = Timestamp(block_timestamp);
        PayloadHeader { block_timestamp, ..content(height, parent).payload.header }
    };
    let check = |header: &PayloadHeader| check_parent(header, Some(parent));
    assert_eq!(check(&header(5, digest(4), 10)), Ok(()));
    assert_eq!(check(&header(5, digest(4), 9)), Err(InvalidPayload::TimeWentBack));
    assert_eq!(check(&header(5, digest(3), 10)), Err(InvalidPayload::Parent));
    for height in [3, 4, 6] {
        assert_eq!(check(&header(height, digest(4), 10)), Err(InvalidPayload::Parent), "{height}");
    }
    assert_eq!(check_parent(&header(9, digest(3), 0), None), Ok(()));
    let last = ParentOf { height: CommitIndex(u64::MAX), ..parent };
    let after = check_parent(&header(u64::MAX, digest(4), 10), Some(last));
    assert_eq!(after, Err(InvalidPayload::Parent), "nothing follows the last height");
}
