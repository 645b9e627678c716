//! Going back: blocks whose content a later commit says is gone are executed again without it.
//!
//! ```text
//!  executed   1 … 7 8 9 10            a commit carries evidence about content of block 8
//!  state      ──────▶ 7               the state after 7 is on disk: its summary and the ids
//!  again              8' 9' 10'       as everybody executes them
//! ```
//!
//! One synced write leads back, so a crash leaves the state of before or that of below. Whoever
//! crashes between going back and coming to the evidence again goes back once more: whether a
//! block was executed without the content is remembered by this process only, and going back for
//! nothing is harmless.

use quorum_store::types::{CommitIndex, Digest};
use rocksdb::WriteBatch;

use super::schema::{self, ExecutorError, StateRecord};
use super::{Executor, SERVED_SPAN};

/// Skipped batches that are remembered; the oldest go first.
const SKIPPED_KEPT: usize = 4096;

impl Executor {
    /// Batches of a block were skipped.
    pub(super) fn note_skipped(&mut self, height: u64, batches: &[Digest]) {
        self.skipped.extend(batches.iter().map(|digest| (height, *digest)));
        while self.skipped.len() > SKIPPED_KEPT {
            self.skipped.pop_first();
        }
    }

    /// True if this block was executed, perhaps with this content: its payload's, or a batch's.
    pub fn took(&self, index: CommitIndex, content: &Digest) -> Result<bool, ExecutorError> {
        let height = index.0;
        if height >= self.state.next_index {
            return Ok(false);
        }
        let Some(summary) = schema::read_summary(&self.db, height)? else { return Ok(true) };
        if summary.digest == *content {
            // Without its payload it is executed as one that orders nothing.
            return Ok(summary.batches > 0);
        }
        Ok(!self.skipped.contains(&(height, *content)))
    }

    /// Back to the state below this block. Durable when this returns.
    pub fn revert(&mut self, index: CommitIndex) -> Result<(), ExecutorError> {
        let next = self.state.next_index;
        let gone = || ExecutorError::NotKept(index.0);
        let below = index.0.checked_sub(1).ok_or_else(gone)?;
        let summary = schema::read_summary(&self.db, below)?.ok_or_else(gone)?;
        let time = summary.header.block_timestamp;
        // Ids that may still be met again at that time must be on disk.
        let kept = time.saturating_add(SERVED_SPAN) >= self.state.header.block_timestamp;
        if below < self.state.adopted || !kept {
            return Err(gone());
        }
        let state = StateRecord {
            next_index: index.0,
            head: summary.digest,
            header: summary.header,
            state_digest: summary.state_digest,
            counters: summary.counters,
            ..self.state
        };
        let mut batch = WriteBatch::default();
        batch.put(schema::STATE_KEY, schema::encode(&state)?);
        for height in index.0..next {
            batch.delete(schema::summary_key(height));
            batch.delete(schema::ids_key(height));
        }
        schema::write(&self.db, batch)?;
        self.state = state;
        self.remember_again()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fresh, gone, open, simple, with_batches};
    use super::*;

    #[test]
    fn who_executed_what_is_gone_ends_where_those_end_who_never_had_it() {
        let (_kept, path) = fresh();
        let (_other, other) = fresh();
        let (mut executor, mut without) = (open(&path), open(&other));
        let block = simple(3, &[30, 31]);
        let content = block.batches[0].digest;
        for executor in [&mut executor, &mut without] {
            executor.execute(&simple(1, &[1])).unwrap();
            executor.execute(&simple(2, &[2, 30])).unwrap();
        }
        executor.execute(&block).unwrap();
        executor.execute(&simple(4, &[4, 31])).unwrap();
        assert!(executor.took(CommitIndex(3), &content).unwrap());
        assert!(!executor.took(CommitIndex(5), &content).unwrap(), "not executed yet");
        executor.revert(CommitIndex(3)).unwrap();
        assert_eq!(executor.progress(), without.progress());
        let mut executor = {
            drop(executor);
            open(&path)
        };
        assert_eq!(executor.progress(), without.progress(), "it was durable");
        for executor in [&mut executor, &mut without] {
            let skipped = executor.execute(&gone(&block)).unwrap().skipped;
            assert_eq!(skipped, [content]);
            // What was executed above only, and below, is told from what never was.
            let outcome = executor.execute(&simple(4, &[4, 31, 2])).unwrap();
            assert_eq!((outcome.executed.len(), outcome.duplicates), (2, 1));
        }
        assert_eq!(executor.progress(), without.progress());
        assert!(!executor.took(CommitIndex(3), &content).unwrap(), "it goes back only once");
    }

    #[test]
    fn the_content_of_a_payload_counts_if_it_ordered_something() {
        let (_kept, path) = fresh();
        let mut executor = open(&path);
        let (full, empty) = (simple(1, &[1]), simple(2, &[]));
        executor.execute(&full).unwrap();
        executor.execute(&empty).unwrap();
        assert!(executor.took(CommitIndex(1), &full.digest).unwrap());
        assert!(!executor.took(CommitIndex(2), &empty.digest).unwrap());
    }

    #[test]
    fn what_is_not_kept_is_told_and_changes_nothing() {
        let (_kept, path) = fresh();
        let mut executor = open(&path);
        for height in 1..=20 {
            executor.execute(&with_batches(height)).unwrap();
        }
        let before = executor.progress();
        // Ids are kept for ten seconds longer than they matter, and blocks are a second apart.
        assert_eq!(executor.revert(CommitIndex(9)), Err(ExecutorError::NotKept(9)));
        assert_eq!(executor.revert(CommitIndex(1)), Err(ExecutorError::NotKept(1)));
        assert_eq!(executor.progress(), before);
        assert_eq!(executor.revert(CommitIndex(11)), Ok(()));
        assert_eq!(executor.progress().height(), 10);
    }
}
