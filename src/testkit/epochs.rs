//! Epochs: which committee serves which blocks, how a host ends one epoch and begins the next, and
//! how it takes the state of others where it cannot follow the commits any more.

use std::sync::Arc;

use super::cluster::{Cluster, Event, START};
use super::host::Pending;
use super::keys::Keys;
use super::options::Options;
use crate::crypto::Signer;
use crate::sequencer::port::{CloseError, Input, OpenError, SkipError};
use crate::types::{
    Author, ChainId, CommitIndex, CommitReceipt, Committee, Epoch, EpochReceipt, Member, Scope,
    Timestamp,
};

/// No progress for so long, in microseconds, although content can be had no more.
const STUCK: u64 = 8_000_000;
/// Time that a validator has to catch up once it takes part, in microseconds.
const JOINING: u64 = 20_000_000;

/// One epoch.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub committee: Committee,
    pub scope: Scope,
}

/// All of them, known from the start: the ordering engine decides, not the code under test.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Blocks of every epoch but the last, which does not end.
    blocks: u64,
    epochs: Vec<Planned>,
}

impl Plan {
    pub fn new(options: &Options, keys: &[Keys], genesis: &Committee, chain: ChainId) -> Self {
        let committees = (0..options.epochs.max(1)).map(|epoch| {
            let later = || committee(options, keys, epoch);
            let committee = if epoch == 0 { genesis.clone() } else { later() };
            let scope = Scope { chain, epoch: Epoch(epoch), committee: committee.hash() };
            Planned { committee, scope }
        });
        Self { blocks: options.epoch_blocks.max(1), epochs: committees.collect() }
    }

    /// The epoch of a block.
    pub fn at(&self, height: u64) -> Epoch {
        Epoch(((height - 1) / self.blocks).min(self.epochs.len() as u64 - 1))
    }

    /// The last block of an epoch, if it ends.
    pub fn last(&self, epoch: Epoch) -> Option<u64> {
        (epoch.0 + 1 < self.epochs.len() as u64).then(|| (epoch.0 + 1) * self.blocks)
    }

    pub fn of(&self, epoch: Epoch) -> &Planned {
        &self.epochs[epoch.0 as usize]
    }

    /// `None` beyond the last one: a liar may name any epoch.
    pub fn get(&self, epoch: Epoch) -> Option<&Planned> {
        self.epochs.get(usize::try_from(epoch.0).ok()?)
    }

    pub fn is_member(&self, epoch: Epoch, author: &Author) -> bool {
        self.of(epoch).committee.index_of(author).is_some()
    }

    /// True for a block that this validator orders, and for the epoch after it left.
    pub fn follows(&self, height: u64, author: &Author) -> bool {
        let epoch = self.at(height);
        let before = Epoch(epoch.0.saturating_sub(1));
        self.is_member(epoch, author) || self.is_member(before, author)
    }
}

/// Validators with these powers: the genesis, and what later epochs start from.
pub(super) fn members(
    options: &Options,
    keys: &[Keys],
    epoch: u64,
    leaver: Option<usize>,
) -> Committee {
    let power = |index: u64| if options.uneven { (index + epoch) % 3 + 1 } else { 1 };
    let members = keys.iter().enumerate().filter(|(index, _)| Some(*index) != leaver);
    let member = |(index, keys): (usize, &Keys)| Member {
        author: keys.author(),
        power: power(index as u64),
    };
    match Committee::new(members.map(member).collect()) {
        Ok(committee) => committee,
        Err(error) => unreachable!("keys of distinct validators: {error}"),
    }
}

/// An honest validator leaves, if the liars are few enough for those who stay.
fn committee(options: &Options, keys: &[Keys], epoch: u64) -> Committee {
    let honest = (options.validators - options.liars.len()) as u64;
    let tolerated = options.validators.saturating_sub(2) / 3;
    let may_leave = options.validators > 1 && options.liars.len() <= tolerated;
    // Now and then nobody does.
    let leaver = (options.seed + epoch * 3) % (honest + 1);
    let leaver = (may_leave && leaver < honest).then_some(leaver as usize);
    members(options, keys, epoch, leaver)
}

impl Cluster {
    /// The epoch that the next block belongs to.
    pub(super) fn epoch_now(&self) -> Epoch {
        self.plan.at(self.checker.finalised().len() as u64 + 1)
    }

    /// True if this validator takes part in ordering the next block.
    pub(super) fn takes_part(&self, node: usize) -> bool {
        self.plan.is_member(self.epoch_now(), &self.nodes[node].author)
    }

    /// True if it has taken part for so long that whatever it missed before must be made good.
    pub(super) fn has_joined(&self, node: usize) -> bool {
        let before = Timestamp(START + self.now.saturating_sub(JOINING));
        let finalised = self.checker.finalised();
        let height = finalised.partition_point(|commit| commit.header.block_timestamp <= before);
        let epoch = self.plan.at(height as u64 + 1);
        self.takes_part(node) && self.plan.is_member(epoch, &self.nodes[node].author)
    }

    /// A host ends its epoch: some know the last block a little earlier than others.
    pub(super) fn close_if_due(&mut self, node: usize) {
        let lead = (self.options.seed + node as u64) % 4;
        let finalised = self.checker.finalised().len() as u64;
        let Some(running) = &mut self.nodes[node].running else { return };
        let epoch = running.sequencer.epoch();
        let Some(last) = self.plan.last(epoch).filter(|_| !running.ending) else { return };
        if running.told + lead < last || finalised + lead < last {
            return;
        }
        running.ending = true;
        let deadline = std::time::Duration::from_micros(self.rng.u64(50_000..5_000_000));
        let deadline = self.clock(node).monotonic + deadline;
        let final_index = CommitIndex(last);
        self.trace.count("epoch closed");
        self.request(node, Pending::Close, |id| Input::Close { id, epoch, final_index, deadline });
    }

    pub(super) fn on_closed(&mut self, node: usize, result: Result<EpochReceipt, CloseError>) {
        let life = self.nodes[node].life;
        match result {
            Ok(receipt) => {
                let last = self.plan.last(receipt.epoch);
                self.checker.on_epoch_receipt(node, &receipt, last);
                let micros = self.rng.u64(..300_000);
                let epoch = self.plan.at(receipt.final_index.0 + 1);
                self.after(micros, Event::Open { node, life, epoch });
            }
            // State sync led beyond the last commit, in this life or the one before.
            Err(CloseError::Conflict { known }) if self.checker.was_skipped_to(node, known.0) => {
                let epoch = self.plan.at(known.0 + 1);
                self.after(1000, Event::Open { node, life, epoch });
            }
            Err(CloseError::Late { .. }) => {
                self.trace.count("a close was late");
                self.close_again(node);
            }
            // State sync led beyond it.
            Err(CloseError::EpochClosed { .. }) => self.close_again(node),
            Err(error) => {
                self.checker.fail("epochs end where they end", format!("node {node}: {error}"));
            }
        }
    }

    fn close_again(&mut self, node: usize) {
        let life = self.nodes[node].life;
        if let Some(running) = &mut self.nodes[node].running {
            running.ending = false;
            self.after(200_000, Event::Told { node, life });
        }
    }

    pub(super) fn on_open(&mut self, node: usize, life: u64, epoch: Epoch) {
        if self.nodes[node].life == life {
            let committee = self.plan.of(epoch).committee.clone();
            let pending = Pending::Open(epoch);
            self.request(node, pending, |id| Input::OpenEpoch { id, epoch, committee });
        }
    }

    pub(super) fn on_opened(&mut self, node: usize, epoch: Epoch, result: Result<(), OpenError>) {
        let life = self.nodes[node].life;
        let Some(running) = &mut self.nodes[node].running else { return };
        let open = running.sequencer.epoch();
        running.ending = false;
        if result.is_err() && open < epoch {
            self.checker.fail("a closed epoch has a next one", format!("{node}: {result:?}"));
        }
        self.trace.count("epoch opened");
        self.after(0, Event::Told { node, life });
    }

    /// The sequencer talks to others than before, or to these in another way.
    pub(super) fn on_membership(&mut self, node: usize) {
        let Some(running) = &mut self.nodes[node].running else { return };
        if Arc::ptr_eq(&running.membership, running.sequencer.membership()) {
            return;
        }
        running.membership = Arc::clone(running.sequencer.membership());
        let wanted: Vec<Author> = running.sequencer.peers().collect();
        for peer in self.network.peers(node) {
            if wanted.contains(&self.nodes[peer].author) {
                self.dial(node, peer, 1000);
            } else {
                self.break_link(node, peer, 1);
            }
        }
    }

    /// True if both talk to each other, and neither knows another committee than the other's.
    pub(super) fn agree(&self, a: usize, b: usize) -> bool {
        [(a, b), (b, a)].into_iter().all(|(node, peer)| {
            let author = self.nodes[peer].author;
            let running = self.nodes[node].running.as_ref();
            running.is_some_and(|r| r.sequencer.peers().any(|wanted| wanted == author))
        })
    }

    // ---- state sync ----------------------------------------------------------------------------

    /// A host that was away for longer than content is kept takes the state of another one.
    pub(super) fn sync_if_stuck(&mut self, node: usize) {
        let finalised = self.checker.finalised().len() as u64;
        let executed = self.nodes[node].host.executed;
        let (now, takes_part) = (self.now, self.takes_part(node));
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.progress.0 != executed
            || !takes_part
            || self.liars[node].is_some()
            || executed == finalised
        {
            running.progress = (executed, now);
            return;
        }
        let was_away = (running.sequencer.epoch().0..=self.plan.at(finalised.max(1)).0)
            .any(|epoch| !self.plan.is_member(Epoch(epoch), &self.nodes[node].author));
        let is_over = self.checker.is_over_everywhere(executed + 1);
        let Some(running) = &mut self.nodes[node].running else { return };
        if now >= running.progress.1 + STUCK && (was_away || running.may_miss || is_over) {
            running.progress.1 = now;
            self.sync_state(node);
        }
    }

    /// Takes the state that the furthest honest validator has now. More than f agree on it: every
    /// state that was ever executed is compared with the others'.
    pub(super) fn sync_state(&mut self, node: usize) {
        let honest = (0..self.nodes.len()).filter(|peer| self.is_honest(*peer) && *peer != node);
        let Some(source) = honest.max_by_key(|peer| self.nodes[*peer].host.executed) else {
            return;
        };
        let state = self.nodes[source].host.state.clone();
        let index = self.nodes[source].host.executed;
        if index <= self.nodes[node].host.executed {
            return;
        }
        self.trace.count("state taken from others");
        let host = &mut self.nodes[node].host;
        host.state = state;
        host.executed = index;
        host.former.clear();
        self.checker.on_excused(node);
        self.skip_if_behind(node);
        self.attach(node, 0);
    }

    /// The host has a state that the sequencer knows no commits of.
    pub(super) fn skip_if_behind(&mut self, node: usize) {
        let index = self.nodes[node].host.executed;
        if index <= self.checker.applied(node) {
            return;
        }
        let Some(commit) = self.checker.finalised().get(index as usize - 1) else { return };
        let header = commit.header;
        self.request(node, Pending::Skip(index), |id| Input::SkipTo { id, header });
    }

    pub(super) fn on_skipped(
        &mut self,
        node: usize,
        index: u64,
        result: Result<CommitReceipt, SkipError>,
    ) {
        let life = self.nodes[node].life;
        match result {
            Ok(_) => {
                self.trace.count("commits skipped");
                let Some(running) = &mut self.nodes[node].running else { return };
                running.told = running.told.max(index);
                let (epoch, open) = (self.plan.at(index + 1), running.sequencer.epoch());
                running.ending = epoch > open;
                if epoch > open {
                    self.after(1000, Event::Open { node, life, epoch });
                }
                self.after(0, Event::Told { node, life });
            }
            Err(SkipError::Behind { .. }) => {}
            Err(error) => {
                self.checker.fail("a state of this chain fits", format!("node {node}: {error}"));
            }
        }
    }
}
