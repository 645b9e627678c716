//! The host's filter: what this validator does not batch, and for whose batches it does not sign.
//!
//! It is this validator's opinion and no rule of the chain. A transaction that it refuses gets a
//! typed answer, and the others beside it go on. A batch of another validator that it refuses is
//! not stored and not signed for here; a quorum of others may certify it all the same, and then it
//! is fetched, executed and served like any other. So a filter never splits the chain: it only
//! keeps this validator from helping.
//!
//! A filter is asked where bodies are verified, in parallel, and where the host submits; never on
//! the sequencer's thread. What it let pass once is not asked about again, also when it is batched
//! anew after its batch expired.
//!
//! **Failure.** A filter that panics has refused.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sequencer::port::{Accepted, SubmitError, Transaction};
use crate::types::Batch;

/// Why a filter refuses: a few words for answers and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filtered(pub &'static str);

/// The host's opinion; called from many threads at once. It must not block.
pub trait Filter: Send + Sync + 'static {
    /// A transaction that is submitted here, or was pulled from the host's source.
    fn transaction(&self, transaction: &Transaction) -> Result<(), Filtered>;

    /// A batch of another validator: its body matches its info.
    fn batch(&self, batch: &Batch) -> Result<(), Filtered>;
}

/// Why it panicked, in the words of an answer.
const PANICKED: Filtered = Filtered("the filter failed");

/// What the filter says of one transaction.
pub(super) fn transaction(
    filter: &dyn Filter,
    transaction: &Transaction,
) -> Result<(), SubmitError> {
    let judged = catch_unwind(AssertUnwindSafe(|| filter.transaction(transaction)));
    judged.unwrap_or(Err(PANICKED)).map_err(|Filtered(reason)| SubmitError::Filtered { reason })
}

/// What the filter says of a batch of another validator.
pub(super) fn batch(filter: &dyn Filter, batch: &Batch) -> Result<(), Filtered> {
    catch_unwind(AssertUnwindSafe(|| filter.batch(batch))).unwrap_or(Err(PANICKED))
}

/// What the filter says of each transaction of a submission; empty without a filter.
pub(super) struct Verdicts(Vec<Result<(), SubmitError>>);

/// Takes out of a submission what the filter refuses.
pub(super) fn sift(
    filter: Option<&dyn Filter>,
    transactions: Vec<Transaction>,
) -> (Vec<Transaction>, Verdicts) {
    let Some(filter) = filter else { return (transactions, Verdicts(Vec::new())) };
    let verdicts: Vec<_> = transactions.iter().map(|one| transaction(filter, one)).collect();
    let judged = transactions.into_iter().zip(&verdicts);
    let passed = judged.filter(|(_, verdict)| verdict.is_ok()).map(|(one, _)| one).collect();
    (passed, Verdicts(verdicts))
}

impl Verdicts {
    /// One result for each that was submitted, in order, from those of what went on.
    pub fn join(
        self,
        passed: Vec<Result<Accepted, SubmitError>>,
    ) -> Vec<Result<Accepted, SubmitError>> {
        if self.0.is_empty() {
            return passed;
        }
        let mut passed = passed.into_iter();
        let result = |verdict: Result<(), SubmitError>| match verdict {
            Ok(()) => passed.next(),
            Err(error) => Some(Err(error)),
        };
        self.0.into_iter().filter_map(result).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{Digest, Timestamp};

    /// Refuses what begins with `x`, and falls over what begins with `!`.
    struct NoX;

    impl Filter for NoX {
        fn transaction(&self, transaction: &Transaction) -> Result<(), Filtered> {
            match transaction.bytes.first() {
                Some(b'x') => Err(Filtered("an x")),
                Some(b'!') => panic!("a bug of the host"),
                _ => Ok(()),
            }
        }

        fn batch(&self, _: &Batch) -> Result<(), Filtered> {
            Ok(())
        }
    }

    fn submitted(texts: &[&'static str]) -> Vec<Transaction> {
        let transaction = |text: &&'static str| Transaction {
            bytes: Bytes::from_static(text.as_bytes()),
            gas_unit_price: 0,
            expiration: Timestamp(0),
        };
        texts.iter().map(transaction).collect()
    }

    #[test]
    fn each_transaction_gets_its_own_answer_in_its_own_place() {
        let all = submitted(&["x1", "good", "!", "late", "x2"]);
        let (passed, verdicts) = sift(Some(&NoX), all);
        assert_eq!(passed, submitted(&["good", "late"]));
        let accepted = Accepted { batch: Digest([1; 32]), position: 3 };
        let results = verdicts.join(vec![Ok(accepted), Err(SubmitError::Expired)]);
        let an_x = Err(SubmitError::Filtered { reason: "an x" });
        let failed = Err(SubmitError::Filtered { reason: "the filter failed" });
        assert_eq!(results, [an_x, Ok(accepted), failed, Err(SubmitError::Expired), an_x]);
    }

    #[test]
    fn without_a_filter_everything_goes_on() {
        let (passed, verdicts) = sift(None, submitted(&["x1", "good"]));
        assert_eq!(passed.len(), 2);
        let results = vec![Err(SubmitError::Expired), Err(SubmitError::Empty)];
        assert_eq!(verdicts.join(results.clone()), results);
    }
}
