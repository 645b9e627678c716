//! Every order in which a host, a subscriber and a disk can take turns, for a short life: commits
//! are fanned out, acknowledged, an epoch is closed and the next one opened, and the process dies
//! once. Fan-out and close are the core's, whose steps are atomic, so an order of steps is all that
//! a scheduler could choose.

use std::collections::VecDeque;

use super::net::*;
use crate::sequencer::port::*;
use crate::store::{Released, Store as _};
use crate::types::*;

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The host makes its next call.
    Host,
    /// The subscriber takes what it was told, and says so.
    Subscriber,
    /// The open group is written.
    Disk,
    /// The process dies with what is not written, and starts again.
    Crash,
}

const TURNS: [Turn; 4] = [Turn::Host, Turn::Subscriber, Turn::Disk, Turn::Crash];

/// One validator alone, so that nothing but the turns decides.
struct World {
    net: Net,
    payloads: Vec<std::sync::Arc<Payload>>,
    /// What the host has been told is done: the number of its calls that were answered.
    done: usize,
    /// The call under way.
    asked: Option<RequestId>,
    subscription: RequestId,
    told: VecDeque<Delivery>,
    /// The subscriber's own store: what it needs next.
    next: u64,
    crashes: u32,
    receipt: Option<EpochReceipt>,
}

impl World {
    fn new(mut net: Net, payloads: &[std::sync::Arc<Payload>]) -> Self {
        net.nodes[0].holds = true;
        let mut world = Self {
            net,
            payloads: payloads.to_vec(),
            done: 0,
            asked: None,
            subscription: RequestId(0),
            told: VecDeque::new(),
            next: 1,
            crashes: 0,
            receipt: None,
        };
        world.attach();
        world
    }

    fn attach(&mut self) {
        let (subscriber, next) = ("executor".to_owned(), CommitIndex(self.next));
        self.subscription = self.net.request(0, |id| Input::Subscribe { id, subscriber, next });
    }

    /// The host's calls, one after the other, each until it is answered; then nothing.
    fn call(&mut self) {
        let call = self.done;
        self.asked = match call {
            0 | 1 => {
                let payload = std::sync::Arc::clone(&self.payloads[call]);
                self.net.give_payload(1, 0, &payload);
                Some(self.net.commit(0, payload.header))
            }
            2 => Some(self.net.close(0, 0, 2, std::time::Duration::from_secs(9))),
            3 => {
                let (epoch, committee) = (Epoch(1), committee(0..4));
                Some(self.net.request(0, |id| Input::OpenEpoch { id, epoch, committee }))
            }
            _ => None,
        };
    }

    fn can(&self, turn: Turn) -> bool {
        match turn {
            Turn::Host => self.asked.is_none() && self.done < 4,
            Turn::Subscriber => !self.told.is_empty(),
            Turn::Disk => self.net.nodes[0].sequencer.open_bytes() > 0 || self.asked.is_some(),
            Turn::Crash => self.crashes == 0 && self.done < 4,
        }
    }

    fn take(&mut self, turn: Turn) {
        match turn {
            Turn::Host => self.call(),
            Turn::Subscriber => {
                let Some(delivery) = self.told.pop_front() else { return };
                let Delivery::Commit(commit) = delivery else { panic!("{delivery:?}") };
                assert!(commit.index.0 <= self.next, "{commit:?} leaves a gap at {}", self.next);
                self.next = self.next.max(commit.index.0 + 1);
                let (subscription, next) = (self.subscription, CommitIndex(self.next));
                self.net.input(0, Input::Delivered { subscription, next });
            }
            Turn::Disk => self.write(),
            Turn::Crash => {
                self.crashes += 1;
                self.asked = None;
                self.told.clear();
                self.net.restart(0);
                self.net.nodes[0].holds = true;
                self.attach();
            }
        }
        self.answers();
        self.check();
    }

    fn write(&mut self) {
        let fenced = self.net.nodes[0].sequencer.status().epoch_phase != "open";
        let Some(group) = self.net.nodes[0].sequencer.take_group() else { return };
        let persisted = group.persist(&mut self.net.nodes[0].store).unwrap();
        self.net.input(0, Input::Durable { sequence: persisted.sequence });
        for promise in persisted.promises {
            match promise.release() {
                Released::Sign(_) => assert!(!fenced, "signed after the fence"),
                Released::SignAbsence(..) => unreachable!("nothing is absent"),
                Released::Other(Promise::Reply { id, reply }) => {
                    self.net.nodes[0].replies.insert(id, reply);
                }
                Released::Other(Promise::Deliver { subscription, delivery }) => {
                    assert_eq!(subscription, self.subscription);
                    self.told.push_back(delivery);
                }
                Released::Other(_) => {}
            }
        }
    }

    fn answers(&mut self) {
        let reply = self.asked.and_then(|id| self.net.nodes[0].replies.remove(&id));
        let Some(reply) = reply else { return };
        match reply {
            Reply::Committed(Ok(receipt)) => {
                assert!(receipt.acks.iter().all(|ack| ack.watermark == receipt.index));
            }
            Reply::Closed(Ok(receipt)) => {
                assert!(self.receipt.replace(receipt.clone()).is_none_or(|r| r == receipt));
            }
            Reply::Opened(Ok(())) => {}
            other => panic!("{other:?}"),
        }
        self.asked = None;
        self.done += 1;
    }

    /// What was promised is on the disk, now and in whatever life comes next.
    fn check(&self) {
        let reader = self.net.nodes[0].store.reader();
        for index in 1..=self.done.min(2) as u64 {
            let receipt = reader.receipt(CommitIndex(index)).unwrap().expect("promised");
            assert!(receipt.acks.iter().all(|ack| ack.watermark == CommitIndex(index)));
        }
        assert!(self.next <= self.net.nodes[0].sequencer.status().applied.0 + 1);
    }

    /// Everybody takes turns until nobody can: the end is the same, whatever came before.
    fn finish(mut self) {
        while let Some(turn) = TURNS[..3].iter().find(|turn| self.can(**turn)) {
            self.take(*turn);
        }
        let status = self.net.nodes[0].sequencer.status();
        assert_eq!((self.done, self.next), (4, 3), "{status:?}");
        assert_eq!((status.epoch, status.epoch_phase), (Epoch(1), "open"));
        assert_eq!(self.receipt.unwrap().final_index, CommitIndex(2));
    }
}

#[test]
fn in_every_order_of_host_subscriber_disk_and_crash_the_end_is_the_same() {
    // The two blocks are made once; each order begins with a node that knows neither.
    let mut maker = Net::new();
    let first = maker.pull(0, 1, maker.genesis_digest());
    let second = maker.pull(0, 2, first.digest(&maker.genesis.chain_id()));
    let payloads = [first, second];
    let depth = if cfg!(miri) { 2 } else { 9 };
    let mut orders = vec![Vec::new()];
    let mut finished = 0;
    while let Some(order) = orders.pop() {
        let mut world = World::new(Net::new(), &payloads);
        for turn in &order {
            world.take(*turn);
        }
        if order.len() < depth {
            for turn in TURNS.into_iter().filter(|turn| world.can(*turn)) {
                orders.push([&order[..], &[turn]].concat());
            }
        }
        world.finish();
        finished += 1;
    }
    assert!(finished > if cfg!(miri) { 3 } else { 500 }, "only {finished} orders");
}
