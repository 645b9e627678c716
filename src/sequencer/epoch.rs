//! The end of an epoch and the start of the next.
//!
//! ```text
//!          close(final index)         final commit applied          open(epoch + 1, committee)
//!   Open ─────────────────────▶ Closing ───────────────▶ Closed ─────────────────────────▶ Open
//!     │                          fence: nothing signed      │   own transactions in no commit
//!     └──── state sync beyond the end of the epoch ─────────┘   wait in the pool
//! ```
//!
//! **Epoch-scoped**, and made anew: slots and admission, votes, what can be proposed; a payload
//! orders batches of its own epoch only. **Node-scoped**, and untouched: the commit log with its
//! global index, subscribers, retention, windows, fetching and serving.
//!
//! **The fence** is a record of the group that is open when `close` is called. Signatures that wait
//! in that group are dropped, so none leaves after it; those of earlier groups have left before it.
//!
//! **What ends unordered** is offered again, certified or not: a batch of a closed epoch can be in
//! no later payload, so no transaction can come twice from here.
//!
//! **Failure.** Fence, receipt and epoch are records: a restart in any phase goes on in it. Closing
//! again, with the same last commit, waits for the same end, or gets the same receipt. A deadline
//! changes nothing but what the caller knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Sequencer;
use super::outbox::Clock;
use super::port::{
    CloseError, CommitError, Effect, OpenError, Promise, Record, Reply, RequestId, ReturnReason,
    SubmitError,
};
use crate::types::{
    Ack, Author, Commit, CommitIndex, Committee, Component, Epoch, EpochReceipt, FormerEpoch,
    InvalidPayload, Membership, Message, PayloadHeader, Timestamp,
};

/// Most former epochs that are remembered: more only if they are far shorter than retention.
const FORMER_MAX: usize = 8;

/// Where the present epoch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is served.
    Open,
    /// Fenced; its last commit is not applied yet.
    Closing { final_index: CommitIndex },
    /// Over; the next one is not open yet.
    Closed,
}

/// What the sequencer knows of the ends of epochs.
#[derive(Debug)]
pub(super) struct Ends {
    pub phase: Phase,
    /// Of the last epoch that was closed.
    pub receipt: Option<EpochReceipt>,
    /// Who waits for the end, until when.
    waiting: BTreeMap<RequestId, Duration>,
}

impl Ends {
    pub fn new() -> Self {
        Self { phase: Phase::Open, receipt: None, waiting: BTreeMap::new() }
    }

    /// The host no longer waits.
    pub fn on_cancel(&mut self, id: RequestId) {
        self.waiting.remove(&id);
    }

    /// When somebody has waited long enough.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.waiting.values().min().copied()
    }
}

impl Sequencer {
    pub(super) fn on_close(
        &mut self,
        clock: &Clock,
        id: RequestId,
        epoch: Epoch,
        final_index: CommitIndex,
        deadline: Duration,
    ) {
        if let Some(receipt) = self.ends.receipt.as_ref().filter(|r| r.epoch == epoch) {
            let known = receipt.final_index;
            let result =
                if known == final_index { Ok(receipt.clone()) } else { Err(conflict(known)) };
            return self.outbox.reply_durably(id, Reply::Closed(result));
        }
        let error = match (&self.ends.phase, self.epoch()) {
            (_, open) if epoch < open => Some(CloseError::EpochClosed { epoch }),
            (_, open) if epoch > open => Some(CloseError::NotOpen { epoch, open }),
            (Phase::Closing { final_index: known }, _) if *known != final_index => {
                Some(conflict(*known))
            }
            (Phase::Open, _) if final_index < self.commits.logged() => {
                Some(CloseError::Passed { logged: self.commits.logged() })
            }
            _ => None,
        };
        if let Some(error) = error {
            return self.outbox.reply_now(id, Reply::Closed(Err(error)));
        }
        if self.ends.phase == Phase::Open {
            self.outbox.promises.retain(|promise| !matches!(promise, Promise::Sign(_)));
            self.outbox.record(Record::Fence { epoch, final_index });
            self.coordinator.on_fence();
            self.generator.leases.end_all();
            self.ends.phase = Phase::Closing { final_index };
        }
        self.ends.waiting.insert(id, deadline);
        self.end_epoch_if_due(clock);
        self.tick_ends(clock.now.monotonic);
    }

    /// Ends the epoch once its last commit is applied.
    pub(super) fn end_epoch_if_due(&mut self, clock: &Clock) {
        let Phase::Closing { final_index } = self.ends.phase else { return };
        if self.commits.applied().0 < final_index {
            return;
        }
        self.enters(Component::BatchGenerator);
        let (batches, transactions) = self.generator.on_close(&mut self.outbox, clock);
        self.record_settled();
        self.end_epoch(final_index, batches, transactions);
    }

    /// State sync led past the end of the epoch: which of our batches were ordered is not known.
    pub(super) fn end_epoch_by_skip(&mut self, header: &PayloadHeader) {
        if header.epoch <= self.epoch() || self.ends.phase == Phase::Closed {
            return;
        }
        self.outbox.promises.retain(|promise| !matches!(promise, Promise::Sign(_)));
        self.coordinator.on_fence();
        self.generator.leases.end_all();
        self.generator.give_back(&mut self.outbox, ReturnReason::Unknown);
        self.record_settled();
        self.end_epoch(header.height, 0, 0);
    }

    fn end_epoch(&mut self, final_index: CommitIndex, batches: u64, transactions: u64) {
        let epoch = self.epoch();
        let ack = |component, freed| Ack { component, freed, watermark: final_index };
        self.enters(Component::BatchCoordinator);
        let slots = self.coordinator.on_close();
        self.enters(Component::ProofCoordinator);
        let votes = self.proofs.on_close();
        self.enters(Component::ProofManager);
        let acks = [
            ack(Component::BatchGenerator, batches),
            ack(Component::BatchCoordinator, slots),
            ack(Component::ProofCoordinator, votes),
            ack(Component::ProofManager, self.manager.on_close()),
        ];
        self.drop_unheld_proofs();
        let receipt = EpochReceipt {
            epoch,
            final_index,
            block_timestamp: self.commits.consensus_time(),
            acks,
            handed_over_batches: batches,
            handed_over_transactions: transactions,
            served_until: self.served_until(epoch),
            behind: self.commits.behind(final_index),
        };
        self.outbox.record(Record::Closed(receipt.clone()));
        for (id, _) in std::mem::take(&mut self.ends.waiting) {
            self.outbox.reply_durably(id, Reply::Closed(Ok(receipt.clone())));
        }
        self.ends.receipt = Some(receipt);
        self.ends.phase = Phase::Closed;
    }

    /// The last of its batches, or the payload of its last block, whichever is kept longer.
    fn served_until(&self, epoch: Epoch) -> Timestamp {
        let kept = self.parameters.batch_lifetime() + self.parameters.grace();
        let payloads = self.commits.consensus_time().saturating_add(kept);
        self.retention.kept_until(epoch).map_or(payloads, |batches| batches.max(payloads))
    }

    pub(super) fn on_open(&mut self, id: RequestId, epoch: Epoch, committee: Committee) {
        let open = self.epoch();
        let error = if epoch == open && committee == self.membership.committee {
            // Opened before.
            return self.outbox.reply_durably(id, Reply::Opened(Ok(())));
        } else if epoch <= open {
            Some(OpenError::Conflict { epoch })
        } else if self.ends.phase == Phase::Closed {
            None
        } else {
            Some(OpenError::NotClosed { open })
        };
        if let Some(error) = error {
            return self.outbox.reply_now(id, Reply::Opened(Err(error)));
        }
        self.open_epoch(epoch, committee);
        self.outbox.reply_durably(id, Reply::Opened(Ok(())));
    }

    fn open_epoch(&mut self, epoch: Epoch, committee: Committee) {
        let Membership { epoch: last, committee: former, former: mut formers } =
            Membership::clone(&self.membership);
        let served_until = match &self.ends.receipt {
            Some(receipt) if receipt.epoch == last => receipt.served_until,
            _ => unreachable!("{last:?} is closed and has no receipt"),
        };
        formers.push(FormerEpoch { epoch: last, committee: former, served_until });
        let time = self.commits.consensus_time();
        formers.retain(|former| former.served_until >= time);
        formers.drain(..formers.len().saturating_sub(FORMER_MAX));
        self.ends.phase = Phase::Open;
        self.enters(Component::BatchCoordinator);
        self.coordinator.on_epoch(&mut self.outbox, epoch, &committee);
        // Whatever the lost store signed, it signed for another epoch.
        self.end_silence(Timestamp(u64::MAX));
        self.enters(Component::BatchGenerator);
        self.generator.on_epoch(epoch);
        if committee.index_of(&self.author).is_none() {
            self.generator.give_back(&mut self.outbox, ReturnReason::LeftCommittee);
            self.record_settled();
        }
        self.set_membership(Membership { epoch, committee, former: formers });
        let to = self.windows.linked().collect();
        self.outbox.effect(Effect::Multicast { to, message: Message::Serving(epoch) });
    }

    /// Former epochs whose time is over need no links any more.
    pub(super) fn forget_former(&mut self) {
        let time = self.commits.consensus_time();
        let over = |former: &FormerEpoch| former.served_until < time;
        if self.membership.former.iter().any(over) {
            let mut membership = Membership::clone(&self.membership);
            membership.former.retain(|former| !over(former));
            self.set_membership(membership);
        }
    }

    pub(super) fn set_membership(&mut self, membership: Membership) {
        let former = membership.former.iter().map(|former| &former.committee);
        self.windows.on_epoch(membership.epoch, &membership.committee, former);
        let peers: BTreeSet<_> = self.windows.peers().collect();
        self.fetcher.on_epoch(|author| peers.contains(author));
        self.membership = Arc::new(membership);
        self.outbox.record(Record::Epoch(Arc::clone(&self.membership)));
    }

    /// Whoever waited for the end until now is told who is late.
    pub(super) fn tick_ends(&mut self, now: Duration) {
        let Phase::Closing { final_index } = self.ends.phase else { return };
        let missing = self.commits.next_to_apply().map(|(_, digest)| digest);
        let late = CloseError::Late {
            final_index,
            logged: self.commits.logged(),
            applied: self.commits.applied().0,
            missing,
        };
        let over = |(_, deadline): &(&RequestId, &Duration)| **deadline <= now;
        let ids: Vec<_> = self.ends.waiting.iter().filter(over).map(|(id, _)| *id).collect();
        for id in ids {
            self.ends.waiting.remove(&id);
            self.outbox.reply_now(id, Reply::Closed(Err(late.clone())));
        }
    }

    /// Batches whose transactions are elsewhere are not offered again by a later life.
    pub(super) fn record_settled(&mut self) {
        for (digest, info) in self.generator.take_settled() {
            self.lost_in_progress(&digest);
            if self.retention.get(&digest).is_some() {
                self.outbox.record(Record::Settled { digest, info });
            }
        }
    }

    /// A peer serves this epoch now: if it is ours, it may have missed our batches and proofs.
    pub(super) fn on_serving(&mut self, clock: &Clock, from: Author, epoch: Epoch) {
        if self.windows.on_serving(from, epoch) {
            self.proofs.on_link_up(&mut self.outbox, clock, from);
        }
    }

    /// Tells a peer that is ahead where we are.
    pub(super) fn on_ahead(&mut self, clock: &Clock, from: Author) {
        if self.windows.may_answer(from, clock.now.monotonic) {
            let message = Message::Serving(self.epoch());
            self.outbox.effect(Effect::Send { to: from, message });
        }
    }

    /// Why a new commit does not belong to the epoch that is open.
    pub(super) fn check_epoch(&self, commit: &Commit) -> Result<(), CommitError> {
        let (epoch, open) = (commit.header.epoch, self.epoch());
        if epoch > open {
            return Err(CommitError::EpochNotOpen { epoch });
        }
        if epoch < open || self.is_beyond(commit.index) {
            return Err(CommitError::EpochClosed { epoch });
        }
        Ok(())
    }

    /// True for heights above the last one of the epoch, as far as that is known.
    pub(super) fn is_beyond(&self, index: CommitIndex) -> bool {
        match self.ends.phase {
            Phase::Open => false,
            Phase::Closing { final_index } => index > final_index,
            Phase::Closed => true,
        }
    }

    pub(super) fn check_header(&self, header: &PayloadHeader) -> Result<(), InvalidPayload> {
        let (found, expected) = (header.epoch, self.epoch());
        if found != expected {
            return Err(InvalidPayload::Epoch { found, expected });
        }
        let last = match (&self.ends.phase, &self.ends.receipt) {
            (Phase::Closing { final_index }, _) => Some(*final_index),
            (Phase::Closed, Some(receipt)) => Some(receipt.final_index),
            _ => None,
        };
        match last {
            Some(final_index) if header.height > final_index => {
                Err(InvalidPayload::EpochOver { final_index })
            }
            _ => Ok(()),
        }
    }

    /// Why nothing is submitted here now.
    pub(super) fn closed_to_clients(&self) -> Option<SubmitError> {
        if self.ends.phase != Phase::Open {
            return Some(SubmitError::EpochClosed { epoch: self.epoch() });
        }
        (!self.is_member()).then_some(SubmitError::NotAMember)
    }

    /// True if this validator takes part in the epoch.
    pub(super) fn is_member(&self) -> bool {
        self.membership.committee.index_of(&self.author).is_some()
    }
}

fn conflict(known: CommitIndex) -> CloseError {
    CloseError::Conflict { known }
}
