//! Serve: reads durable content for peers, and our own batches that are sent again.
//!
//! Requests wait in a bounded queue; `readers` of them read the disk at once. What is not here, or
//! not durable yet, is answered `Missing`, which proves nothing.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use super::egress::Sender;
use super::error::Part;
use super::faults::Faults;
use super::shared::Shared;
use crate::store::StoreError;
use crate::transport::ReceivePermit;
use crate::types::{Author, Batch, Digest, FetchedContent, Message};

/// Something to read and send.
pub(super) enum Job {
    /// A peer asks for content.
    Serve {
        peer: Author,
        digests: Vec<Digest>,
        /// Counts the request against its peer until it is answered.
        permit: Option<Arc<ReceivePermit>>,
    },
    /// One of our batches goes to silent validators again.
    Resend { to: Vec<Author>, digest: Digest },
}

/// Serves until cancelled; ends when every read under way has ended.
pub(super) async fn run(
    sender: Sender,
    mut jobs: mpsc::Receiver<Job>,
    readers: usize,
    faults: Arc<Faults>,
) {
    let permits = Arc::new(Semaphore::new(readers));
    let reads = TaskTracker::new();
    loop {
        let job = tokio::select! {
            biased;
            () = faults.stop.cancelled() => break,
            job = jobs.recv() => job,
        };
        let Some(job) = job else { break };
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        let (sender, faults) = (sender.clone(), Arc::clone(&faults));
        reads.spawn_blocking(move || {
            faults.guard(Part::Serve, || {
                faults.tripwire.at("serve", "job");
                handle(&sender, job);
            });
            drop(permit);
        });
    }
    reads.close();
    reads.wait().await;
}

fn handle(sender: &Sender, job: Job) {
    match job {
        Job::Serve { peer, digests, permit } => {
            for digest in digests {
                let began = Instant::now();
                let content = find(&sender.shared, &digest);
                let found = !matches!(content, FetchedContent::Missing);
                sender.send([peer], &Message::FetchReply { digest, content });
                sender.shared.metrics.messages.served(found, began);
            }
            drop(permit);
        }
        Job::Resend { to, digest } => {
            if let Some(batch) = find_batch(&sender.shared, &digest) {
                sender.send(to, &Message::Batch(batch));
            }
        }
    }
}

fn find(shared: &Shared, digest: &Digest) -> FetchedContent {
    if let Some(batch) = find_batch(shared, digest) {
        return FetchedContent::Batch(batch);
    }
    let payload = shared.cached_payload(digest).map(|payload| (*payload).clone());
    match payload.or_else(|| note(shared, shared.reader.payload(digest))) {
        Some(payload) => FetchedContent::Payload(Box::new(payload)),
        None => FetchedContent::Missing,
    }
}

/// From memory or disk. The cache may hold what is not durable: bytes promise nothing.
pub(super) fn find_batch(shared: &Shared, digest: &Digest) -> Option<Batch> {
    shared.cached_batch(digest).or_else(|| note(shared, shared.reader.batch(digest)))
}

fn note<T>(shared: &Shared, read: Result<Option<T>, StoreError>) -> Option<T> {
    read.unwrap_or_else(|error| {
        tracing::error!(%error, "reading content failed");
        shared.metrics.messages.invalid("read_failed");
        None
    })
}
