//! The host's source of transactions: asked once at a time, and told what is in progress.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use quorum_store::sequencer::port::{
    Input, SourceLimits, SubmitError, Transaction, TransactionKey,
};

use super::{Run, pick};
use crate::world;

/// What the source of this life heard.
#[derive(Default)]
pub(super) struct Source {
    is_there: bool,
    /// Asked, and has not answered.
    asked: Option<SourceLimits>,
    excluded: BTreeSet<TransactionKey>,
}

impl Source {
    pub fn on_asked(&mut self, limits: SourceLimits, admits: bool) {
        assert!(self.is_there, "there is no source");
        assert!(admits, "asked while the disk is nearly full");
        assert!(limits.transactions_max > 0 && limits.bytes_max > 0, "{limits:?}");
        assert_eq!(self.asked.replace(limits), None, "one pull at a time");
    }

    pub fn on_progress(&mut self, entered: &[TransactionKey], left: &[TransactionKey]) {
        assert!(self.is_there, "there is no source");
        for key in entered {
            assert!(self.excluded.insert(*key), "{key:?} enters twice");
        }
        for key in left {
            assert!(self.excluded.remove(key), "{key:?} leaves twice");
        }
    }

    pub fn on_refused(&self, refused: &[(TransactionKey, SubmitError)]) {
        assert!(self.is_there, "there is no source");
        for (key, error) in refused {
            let lasts = matches!(
                error,
                SubmitError::Empty | SubmitError::TooLarge { .. } | SubmitError::Expired
            );
            assert!(lasts, "{key:?} is refused for now only: {error}");
        }
    }
}

impl Run {
    pub(super) fn source_ready(&mut self) {
        self.source.is_there = true;
        self.step(Input::SourceReady);
        let status = self.sequencer.status();
        assert_eq!(status.in_progress, self.source.excluded.len() as u64);
    }

    /// Some of it does not keep to the limits, is excluded, or can never be batched.
    pub(super) fn source_answers(&mut self, count: u8, size: u8, price: u8, life: u8) {
        if self.source.asked.take().is_none() {
            return;
        }
        let length = usize::from(size) + usize::from(size > 250) * 4096;
        let transaction = |at: u8| Transaction {
            bytes: Bytes::from(vec![at ^ price; length]),
            gas_unit_price: u64::from(price),
            expiration: self.now.wall.saturating_add(Duration::from_millis(u64::from(life) * 16)),
        };
        let transactions = (0..count % 24).map(transaction).collect();
        self.step(Input::Transactions(transactions));
    }

    /// What a batch holds; it may have been refused, or be our own.
    pub(super) fn seen(&mut self, which: u8) {
        let Some(digest) = pick(&self.batches, which) else { return };
        let batch = &self.model.batches[&digest];
        let keys = batch.body.transactions().map(|bytes| TransactionKey::of(&bytes)).collect();
        let own = batch.info.author == world::author(super::ME);
        let before = self.source.excluded.len();
        self.step(Input::Seen { digest, keys });
        assert!(!own || self.source.excluded.len() <= before, "own batches are held already");
    }
}
