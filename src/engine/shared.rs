//! What several parts of the shell look at: the epoch, caches, waiting requests.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use tokio::sync::{broadcast, oneshot, watch};

use super::epochs::{Addresses, View};
use super::error::StopCause;
use super::hooks::Hooks;
use super::metrics::Metrics;
use super::source::Exclusions;
use super::subscription::Subscriptions;
use crate::crypto::Signer;
use crate::sequencer::Skips;
use crate::sequencer::port::{Event, Now, Reply, RequestId};
use crate::sequencer::pressure::Pressure;
use crate::store::StoreReader;
use crate::types::{
    Announcement, Author, Batch, ChainId, ChainParameters, Digest, Hello, Payload, Timestamp, Usage,
};

/// A batch or payload in memory.
#[derive(Clone)]
pub(super) enum Cached {
    /// Its body matches its info.
    Batch(Batch),
    /// Its content matches its header.
    Payload(Arc<Payload>),
}

/// Weighs cached content by its bytes.
#[derive(Clone)]
pub(super) struct ByBytes;

impl Weighter<Digest, Cached> for ByBytes {
    fn weight(&self, _: &Digest, content: &Cached) -> u64 {
        match content {
            Cached::Batch(batch) => batch.info.charge(),
            Cached::Payload(payload) => {
                512 * (1 + payload.content.outside() as u64) + payload.content.inline_bytes()
            }
        }
    }
}

/// Batches and payloads for execution and serving. Nearly all are written once and read once, a
/// second or so later: most of the room is for those that were not read yet. What is read more often
/// keeps a part, and does not push them out.
pub(super) fn contents(bytes: u64) -> Cache<Digest, Cached, ByBytes> {
    const READ_OFTEN: f64 = 0.2;
    // About one entry per 32 KiB, but never too few for small batches.
    let entries = (bytes as usize / (32 << 10)).max(1024);
    let mut options = OptionsBuilder::new();
    options.weight_capacity(bytes).estimated_items_capacity(entries).hot_allocation(READ_OFTEN);
    let Ok(options) = options.build() else { unreachable!("both capacities are set") };
    Cache::with_options(
        options,
        ByBytes,
        DefaultHashBuilder::default(),
        DefaultLifecycle::default(),
    )
}

/// What changes with each step and is read elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    pub announcement: Announcement,
    pub stored: BTreeMap<Author, Usage>,
}

/// See the module docs.
pub(super) struct Shared {
    pub author: Author,
    pub chain: ChainId,
    pub parameters: ChainParameters,
    pub view: RwLock<Arc<View>>,
    pub addresses: Mutex<Addresses>,
    /// What the peers whose links are up said first.
    pub hellos: Mutex<BTreeMap<Author, Hello>>,
    /// Lives of the sequencer before the present one, in this process.
    pub lives: AtomicU64,
    pub signer: Arc<dyn Signer>,
    pub reader: Arc<dyn StoreReader>,
    /// What everybody skips: see [`Skips`].
    pub skips: watch::Sender<Arc<Skips>>,
    pub contents: Cache<Digest, Cached, ByBytes>,
    /// Proofs that verified, by the hash of all their bytes and of the scope.
    pub proofs: Cache<[u8; 32], ()>,
    pub grants: RwLock<Grants>,
    /// What the host brought.
    pub hooks: Hooks,
    /// What must not be pulled from its source.
    pub excluded: Exclusions,
    pub replies: Replies,
    pub subscriptions: Subscriptions,
    pub events: broadcast::Sender<Event>,
    pub proposable: watch::Sender<u64>,
    pub proposable_bytes: watch::Sender<u64>,
    pub pressure: watch::Sender<Pressure>,
    pub stop: watch::Sender<Option<StopCause>>,
    pub metrics: Metrics,
    pub started: Instant,
}

impl Shared {
    /// The time, read once per step.
    pub fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall = since_epoch.map_or(0, crate::types::ids::micros);
        Now { monotonic: self.started.elapsed(), wall: Timestamp(wall) }
    }

    /// What we say first on a link.
    pub fn hello(&self, to: Author) -> Hello {
        let view = self.view();
        let grants = self.grants.read().unwrap_or_else(PoisonError::into_inner);
        Hello {
            chain: self.chain,
            epoch: view.epoch(),
            committee: view.scope.committee,
            announcement: grants.announcement,
            holds: grants.stored.get(&to).copied().unwrap_or_default(),
        }
    }

    /// How often the sequencer was rebuilt in this process.
    pub fn lives(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// It is rebuilt once more.
    pub fn count_life(&self) {
        self.lives.fetch_add(1, Ordering::Relaxed);
    }

    /// What we grant now.
    pub fn announcement(&self) -> Announcement {
        self.grants.read().unwrap_or_else(PoisonError::into_inner).announcement
    }

    /// What committed evidence says is gone.
    pub fn skips(&self) -> Arc<Skips> {
        Arc::clone(&self.skips.borrow())
    }

    /// A batch in memory.
    pub fn cached_batch(&self, digest: &Digest) -> Option<Batch> {
        match self.contents.get(digest)? {
            Cached::Batch(batch) => Some(batch),
            Cached::Payload(_) => None,
        }
    }

    /// A payload in memory.
    pub fn cached_payload(&self, digest: &Digest) -> Option<Arc<Payload>> {
        match self.contents.get(digest)? {
            Cached::Payload(payload) => Some(payload),
            Cached::Batch(_) => None,
        }
    }

    /// Notes why everything stops; the first cause stays.
    pub fn stop_with(&self, cause: StopCause) {
        self.stop.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(cause);
            }
            first
        });
    }
}

/// Requests of the host that wait for their reply.
#[derive(Default)]
pub(super) struct Replies {
    next: AtomicU64,
    waiting: Mutex<HashMap<RequestId, oneshot::Sender<Reply>>>,
}

impl Replies {
    /// A new request.
    pub fn open(&self) -> (RequestId, oneshot::Receiver<Reply>) {
        let id = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(id, sender);
        (id, receiver)
    }

    /// Answers a request; without effect if the host no longer waits.
    pub fn answer(&self, id: RequestId, reply: Reply) {
        if let Some(sender) = self.lock().remove(&id) {
            // The receiver may be gone already: then nobody wants the answer.
            let _ = sender.send(reply);
        }
    }

    /// The host no longer waits. True if it had not been answered.
    pub fn forget(&self, id: RequestId) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// Ends every wait: the engine has stopped.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, oneshot::Sender<Reply>>> {
        // Nothing panics while it is held; if it did, the map would still be whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{BatchBody, BatchId, BatchInfo, Epoch, Incarnation, Timestamp};

    fn batch(counter: u64) -> (Digest, Batch) {
        let body = BatchBody::new(Bytes::from(vec![0; 100_000]));
        let info = BatchInfo {
            author: Author([1; 32]),
            batch_id: BatchId { incarnation: Incarnation(1), counter },
            epoch: Epoch(0),
            expiration: Timestamp(1),
            count: 1,
            bytes: 100_000,
            gas_bucket_start: 0,
            root: body.root(),
        };
        (Digest(*blake3::hash(&counter.to_le_bytes()).as_bytes()), Batch { info, body })
    }

    /// What is executed was read once. It once stayed, and pushed out what was still to be executed.
    #[test]
    fn batches_wait_for_execution_in_memory_however_many_were_executed() {
        let cache = contents(64 << 20);
        let (waiting, mut missed) = (300, 0);
        for counter in 0..10_000 {
            let (digest, new) = batch(counter);
            cache.insert(digest, Cached::Batch(new));
            if let Some(due) = counter.checked_sub(waiting) {
                missed += u32::from(cache.get(&batch(due).0).is_none());
            }
        }
        assert!(missed < 100, "{missed} batches were read from the disk");
    }
}
