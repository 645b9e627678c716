//! Materialise: the transactions of a block, in the order of execution.
//!
//! Local first: memory, then disk; what is missing is fetched from the proof's signers, then from
//! everybody else, until the deadline. Whether a batch is skipped is decided by the block alone:
//! its timestamp is beyond the batch's expiration.

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use futures::{StreamExt as _, stream};

use super::error::{CallError, StopCause};
use super::handle::QuorumStore;
use super::serve;
use crate::sequencer::port::{Content, Wanted};
use crate::types::{Author, BatchBody, BatchInfo, Commit, Digest, Payload};

/// Batches fetched at once for one block.
const FETCHES_AT_ONCE: usize = 64;

/// One batch of a block.
#[derive(Clone, Debug)]
pub struct MaterializedBatch {
    /// Its digest.
    pub digest: Digest,
    /// Its info.
    pub info: BatchInfo,
    /// Its transactions; `None` if it expired before the block's timestamp and is skipped by
    /// everybody.
    pub body: Option<BatchBody>,
}

/// How materialising ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Materialized {
    /// Everything is here, in the order of execution.
    Ready(Vec<MaterializedBatch>),
    /// No decision: call again.
    TimedOut {
        /// What is still missing.
        missing: Vec<Digest>,
    },
}

impl QuorumStore {
    /// The batches of a committed block, in the order of execution, at the latest after `deadline`.
    pub async fn materialize(
        &self,
        commit: &Commit,
        deadline: Duration,
    ) -> Result<Materialized, StopCause> {
        let began = std::time::Instant::now();
        let end = tokio::time::Instant::now() + deadline;
        let digest = commit.header.digest(&self.shared().chain);
        let everyone: Vec<Author> = self.shared().view().peers.clone();
        let payload = match self.payload(digest, everyone.clone(), deadline).await {
            Ok(payload) => payload,
            Err(CallError::Stopped(cause)) => return Err(cause),
            Err(CallError::Refused(_)) => {
                return Ok(Materialized::TimedOut { missing: vec![digest] });
            }
        };
        let mut batches = self.read_local(&payload).await?;
        let wanted: Vec<usize> = batches
            .iter()
            .enumerate()
            .filter(|(_, batch)| {
                batch.body.is_none() && batch.info.expiration >= commit.header.block_timestamp
            })
            .map(|(position, _)| position)
            .collect();
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        let requests = wanted.into_iter().map(|position| {
            let digest = batches[position].digest;
            let holders = self.holders(&payload, position, &everyone);
            let info = Some(batches[position].info);
            let wanted = Wanted { digest, info, holders, commit: Some(commit.index) };
            async move { (position, self.fetch(wanted, left).await) }
        });
        let fetched: Vec<_> = stream::iter(requests.collect::<Vec<_>>())
            .buffer_unordered(FETCHES_AT_ONCE)
            .collect()
            .await;
        let mut missing = Vec::new();
        for (position, result) in fetched {
            match result {
                Ok(Content::Batch(batch)) => batches[position].body = Some(batch.body),
                Ok(Content::Payload(_)) | Err(CallError::Refused(_)) => {
                    missing.push(batches[position].digest);
                }
                Err(CallError::Stopped(cause)) => return Err(cause),
            }
        }
        self.called("materialize", began);
        if missing.is_empty() {
            Ok(Materialized::Ready(batches))
        } else {
            Ok(Materialized::TimedOut { missing })
        }
    }

    /// Signers of the proof first, then everybody else.
    fn holders(&self, payload: &Payload, position: usize, everyone: &[Author]) -> Vec<Author> {
        let shared = self.shared();
        let view = shared.view();
        let signers = payload.content.proofs.get(position).and_then(|proof| {
            let committee = view.committee_of(proof.info.epoch)?;
            Some(proof.signers(committee).collect())
        });
        let mut holders: Vec<Author> = signers.unwrap_or_default();
        holders.retain(|holder| *holder != shared.author);
        let rest = everyone.iter().filter(|peer| !holders.contains(peer)).copied();
        let rest: Vec<_> = rest.collect();
        holders.extend(rest);
        holders
    }

    /// What memory and disk have of a block; skipped batches stay without a body.
    async fn read_local(
        &self,
        payload: &Arc<Payload>,
    ) -> Result<Vec<MaterializedBatch>, StopCause> {
        let shared = self.shared();
        let timestamp = payload.header.block_timestamp;
        let mut batches = Vec::new();
        let mut reads = Vec::new();
        for (position, info) in payload.content.batches().enumerate() {
            let digest = info.digest(&shared.chain);
            let mut batch = MaterializedBatch { digest, info: *info, body: None };
            if info.expiration >= timestamp {
                match shared.cached_batch(&digest) {
                    Some(found) => batch.body = Some(found.body),
                    None => reads.push((position, digest)),
                }
            }
            batches.push(batch);
        }
        let chunks = reads.chunks(8).map(|chunk| {
            let (chunk, shared) = (chunk.to_vec(), Arc::clone(shared));
            tokio::task::spawn_blocking(move || {
                let read = |(position, digest)| {
                    let batch = serve::find_batch(&shared, &digest).ok().flatten();
                    batch.map(|batch| (position, batch.body))
                };
                chunk.into_iter().filter_map(read).collect::<Vec<_>>()
            })
        });
        let found = try_join_all(chunks).await;
        let found = found.map_err(|error| self.reader_broke(&error))?;
        for (position, body) in found.into_iter().flatten() {
            batches[position].body = Some(body);
        }
        Ok(batches)
    }
}
