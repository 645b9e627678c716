//! The steps between epochs, and to the state of others. Each may be repeated, in the next life too.

use quorum_store::engine::CallError;
use quorum_store::sequencer::port::{CloseError, SkipError};
use quorum_store::transport::Transport as _;
use quorum_store::types::{Author, CommitIndex, Committee, Epoch, PayloadHeader};

use super::epochs::{CLOSE_DEADLINE, Epochs};
use crate::execution;
use crate::executor::{Boundary, Executor};
use crate::exit::Failure;

impl Epochs {
    /// Ends an epoch whose last block is told, and begins the next one.
    pub(super) async fn next_epoch(&self, boundary: &Boundary) -> Result<(), Failure> {
        let PayloadHeader { epoch, height, .. } = boundary.header;
        loop {
            match self.store.close(epoch, height, CLOSE_DEADLINE).await {
                Ok(receipt) => {
                    tracing::info!(
                        epoch = epoch.0,
                        height = height.0,
                        handed_over = receipt.handed_over_transactions,
                        "the epoch is over"
                    );
                    break;
                }
                Err(CallError::Refused(late @ CloseError::Late { .. })) => {
                    tracing::warn!(epoch = epoch.0, "the end of the epoch is {late}");
                    if self.stop.is_cancelled() {
                        return Ok(());
                    }
                }
                Err(CallError::Refused(reason)) => {
                    return Err(Failure::other(format!("epoch {}: {reason}", epoch.0)));
                }
                Err(CallError::Stopped(cause)) => return Err(cause.into()),
            }
        }
        self.open(Epoch(epoch.0 + 1)).await
    }

    async fn open(&self, epoch: Epoch) -> Result<(), Failure> {
        let plan = self.plan.borrow().clone();
        let Some(committee) = plan.committee(epoch) else {
            let path = self.setup.config.epochs.display();
            return Err(Failure::usage(format!("{path}: epoch {} is missing", epoch.0)));
        };
        match self.store.open_epoch(epoch, committee.clone(), plan.addresses()).await {
            Ok(()) => {
                self.link();
                Ok(())
            }
            Err(CallError::Refused(reason)) => {
                Err(Failure::other(format!("epoch {}: {reason}", epoch.0)))
            }
            Err(CallError::Stopped(cause)) => Err(cause.into()),
        }
    }

    /// Takes over the state of the others, if they have one that lies ahead; the executor comes back.
    pub(super) async fn take_over(&self, mut executor: Executor) -> Result<Executor, Failure> {
        let executed = executor.progress().height();
        let asked = self.stop.run_until_cancelled(self.others.newest_state(executed)).await;
        let Some(Some((statement, snapshot))) = asked else { return Ok(executor) };
        let adopting = tokio::task::spawn_blocking(move || {
            let adopted = executor.adopt(&snapshot);
            (executor, adopted)
        });
        let (executor, adopted) =
            adopting.await.map_err(|_| Failure::other("the executor panicked: see the log"))?;
        adopted?;
        let progress = executor.progress();
        let (from, height) = (executed + 1, progress.height());
        tracing::info!(
            from,
            height,
            whole = statement.from > from,
            "took over the state of others"
        );
        self.service.metrics.state_taken_over(&progress);
        self.service.tracker.adopted(&self.service.archive, progress.block_timestamp);
        self.execution.progress.send_replace(progress);
        self.execution.waiting.over();
        self.chain_waiting.over();
        self.align(&statement.header).await?;
        // Below that nothing is kept for execution, also while it does not follow the commits.
        self.store.acknowledge(execution::SUBSCRIBER, CommitIndex(progress.next_index)).await?;
        Ok(executor)
    }

    /// Brings the library up to what the executor holds. Changes nothing if it is there already.
    pub(super) async fn align(&self, header: &PayloadHeader) -> Result<(), Failure> {
        if header.height > self.store.status().await?.applied {
            match self.store.skip_to(*header).await {
                Ok(_) | Err(CallError::Refused(SkipError::Behind { .. })) => {}
                Err(CallError::Refused(reason)) => {
                    return Err(Failure::other(format!("the state of others: {reason}")));
                }
                Err(CallError::Stopped(cause)) => return Err(cause.into()),
            }
        }
        if header.epoch > self.store.membership().epoch {
            self.open(header.epoch).await?;
        }
        let is_last = self.plan.borrow().is_last(header);
        if is_last && header.epoch == self.store.membership().epoch {
            // Without its certificate nobody could be shown that the epoch is over.
            if let Some(boundary) = self.find_boundary(header.epoch).await? {
                self.next_epoch(&boundary).await?;
            }
        }
        Ok(())
    }

    /// Keeps links with those who keep them with us: members of the epoch that is served, and of
    /// those before it whose content is, if we are one of them.
    pub(super) fn link(&self) {
        let membership = self.store.membership();
        let former = membership.former.iter().map(|former| &former.committee);
        let committees: Vec<&Committee> = former.chain([&membership.committee]).collect();
        let knows = |key: &Author| committees.iter().any(|known| known.index_of(key).is_some());
        let mut peers = self.plan.borrow().addresses();
        let linked = knows(&self.setup.author);
        peers.retain(|peer| linked && knows(&peer.key));
        self.links.set_peers(peers);
    }

    /// How an epoch ended, as far as that is noted here.
    pub(super) async fn boundary(&self, epoch: Epoch) -> Result<Option<Boundary>, Failure> {
        let archive = self.service.archive.clone();
        let read = tokio::task::spawn_blocking(move || archive.boundary(epoch)).await;
        Ok(read.map_err(|_| Failure::other("a read panicked: see the log"))??)
    }

    /// The same; whoever does not know it asks the others, and notes it.
    pub(super) async fn find_boundary(&self, epoch: Epoch) -> Result<Option<Boundary>, Failure> {
        if let Some(boundary) = self.boundary(epoch).await? {
            return Ok(Some(boundary));
        }
        let asked = self.stop.run_until_cancelled(self.others.boundary(epoch)).await;
        let Some(Some((boundary, _))) = asked else { return Ok(None) };
        let (archive, noted) = (self.service.archive.clone(), boundary.clone());
        let noting = tokio::task::spawn_blocking(move || archive.note_boundary(&noted)).await;
        noting.map_err(|_| Failure::other("a write panicked: see the log"))??;
        Ok(Some(boundary))
    }
}
