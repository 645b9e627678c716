//! What was pulled from the host's source, on its way into the pool.

use crate::sequencer::batch_generator::BatchGenerator;
use crate::sequencer::in_progress::InProgress;
use crate::sequencer::outbox::{Clock, Outbox};
use crate::sequencer::pool::{Pooled, Ticket};
use crate::sequencer::port::{Effect, SubmitError, Transaction, TransactionKey};
use crate::types::BatchBody;

impl BatchGenerator {
    /// Takes what was pulled into the pool. What can never be batched is reported to the source;
    /// what is in progress already, or finds no room any more, is left where it is. Returns how
    /// many were taken.
    pub fn on_pulled(
        &mut self,
        outbox: &mut Outbox,
        clock: &Clock,
        transactions: Vec<Transaction>,
    ) -> u64 {
        let (mut taken, mut refused) = (0, Vec::new());
        for transaction in transactions {
            let key = TransactionKey::of(&transaction.bytes);
            if let Err(error) = self.check_pulled(clock, &transaction) {
                refused.push((key, error));
                continue;
            }
            let length = transaction.bytes.len() as u64;
            // Beside what is leased.
            let free = self.free();
            let fits = length <= free.bytes && free.transactions > 0;
            let known = self.progress().is_none_or(|set| set.contains(&key));
            if fits && !known {
                let ticket = Ticket::Pulled { key };
                self.pool.push(Pooled { transaction, ticket, arrived: clock.now.monotonic });
                taken += 1;
            }
        }
        if !refused.is_empty() {
            outbox.effect(Effect::SourceRefused(refused));
        }
        taken
    }

    fn check_pulled(&self, clock: &Clock, transaction: &Transaction) -> Result<(), SubmitError> {
        let (length, bound) = (transaction.bytes.len(), self.parameters.transaction_bytes_max);
        if length == 0 {
            return Err(SubmitError::Empty);
        }
        if length > bound as usize {
            return Err(SubmitError::TooLarge { length, bound });
        }
        if transaction.expiration <= clock.latest() {
            return Err(SubmitError::Expired);
        }
        Ok(())
    }

    /// There is a source: from now on it is known what is in progress, own batches of an earlier
    /// life included.
    pub fn track_progress(&mut self) {
        self.pool.track();
        let Some(set) = &mut self.pool.in_progress else { return };
        for (digest, batch) in self.outstanding.iter() {
            let body = BatchBody::new(batch.body.clone());
            let keys = body.slices().map(TransactionKey::of).collect();
            set.hold(*digest, self.author, keys, batch.info.expiration, None);
        }
    }

    /// What is in progress, if there is a source.
    pub fn in_progress(&mut self) -> Option<&mut InProgress> {
        self.pool.in_progress.as_mut()
    }

    /// The same, to look at.
    pub fn progress(&self) -> Option<&InProgress> {
        self.pool.in_progress.as_ref()
    }
}
