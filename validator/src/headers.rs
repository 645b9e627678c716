//! Headers of payloads by digest: what a proposal is checked against, and what the walk from a
//! finalised block to its ancestors goes by.
//!
//! Looked for in memory, then in the local store, then at the other validators. What comes from
//! there is durable here before it is returned, because the library verifies it on the way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorum_store::engine::{CallError, QuorumStore, StopCause};
use quorum_store::sequencer::port::VerifyRequest;
use quorum_store::types::{Author, Committee, Digest, PayloadHeader};

/// How long one search for a payload lasts.
const FETCH_DEADLINE: Duration = Duration::from_secs(2);

/// Pause between two searches.
const FETCH_PAUSE: Duration = Duration::from_millis(100);

/// Headers kept in memory: a few minutes of blocks.
const CACHE_HEADERS_MAX: usize = 4096;

/// The headers.
pub struct Headers {
    store: QuorumStore,
    author: Author,
    cache: Mutex<Cache>,
}

struct Cache {
    /// What the epoch that is served starts from: always known, although its payload need not be
    /// here.
    root: (Digest, PayloadHeader),
    headers: HashMap<Digest, PayloadHeader>,
    order: VecDeque<Digest>,
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Headers").field("author", &self.author).finish_non_exhaustive()
    }
}

impl Headers {
    /// Knows the genesis, which the first epoch starts from.
    pub fn new(store: QuorumStore, author: Author, genesis: (Digest, PayloadHeader)) -> Self {
        let cache = Cache { root: genesis, headers: HashMap::new(), order: VecDeque::new() };
        Self { store, author, cache: Mutex::new(cache) }
    }

    /// An epoch starts from this block.
    pub fn start_from(&self, digest: Digest, header: PayloadHeader) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).root = (digest, header);
    }

    /// Remembers a header that was verified or proposed here.
    pub fn remember(&self, digest: Digest, header: PayloadHeader) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.headers.insert(digest, header).is_none() {
            cache.order.push_back(digest);
        }
        if cache.order.len() > CACHE_HEADERS_MAX
            && let Some(oldest) = cache.order.pop_front()
        {
            cache.headers.remove(&oldest);
        }
    }

    /// The others, best first: those named, then every other member of the epoch that is served,
    /// then those of former ones.
    pub fn responders(&self, first: &[Author]) -> Vec<Author> {
        let membership = self.store.membership();
        let former = membership.former.iter().rev().map(|former| &former.committee);
        let committees = std::iter::once(&membership.committee).chain(former);
        let members = committees.flat_map(Committee::members).map(|member| &member.author);
        let mut responders: Vec<Author> = Vec::new();
        for author in first.iter().chain(members) {
            if *author != self.author && !responders.contains(author) {
                responders.push(*author);
            }
        }
        responders
    }

    /// The header of a payload that a quorum holds. Waits for as long as it takes: drop the future
    /// to give up.
    pub async fn header(
        &self,
        digest: Digest,
        first: &[Author],
    ) -> Result<PayloadHeader, StopCause> {
        if let Some(header) = self.cached(&digest) {
            return Ok(header);
        }
        let header = match self.stored(digest).await {
            Some(header) => header,
            None => self.fetched(digest, first).await?,
        };
        self.remember(digest, header);
        Ok(header)
    }

    /// Makes sure that a payload is durable here, and returns its header. For what was ordered or
    /// built upon a while ago: nobody will send it unasked, so it is asked for at once.
    pub async fn fetched(
        &self,
        digest: Digest,
        first: &[Author],
    ) -> Result<PayloadHeader, StopCause> {
        loop {
            let responders = self.responders(first);
            match self.store.payload(digest, responders, FETCH_DEADLINE).await {
                // It has just arrived, so this finds it at once, and makes it durable.
                Ok(_) => return self.durable(digest, first).await,
                Err(CallError::Stopped(cause)) => return Err(cause),
                Err(CallError::Refused(_)) => tokio::time::sleep(FETCH_PAUSE).await,
            }
        }
    }

    /// Waits until a payload is durable here, and returns its header. For what is being proposed:
    /// it is on its way, and is asked for only if it does not arrive.
    pub async fn durable(
        &self,
        digest: Digest,
        first: &[Author],
    ) -> Result<PayloadHeader, StopCause> {
        let responders = self.responders(first);
        match self.store.verify(VerifyRequest { digest, parent: None, responders }).await {
            Ok(header) => Ok(header),
            Err(CallError::Stopped(cause)) => Err(cause),
            Err(CallError::Refused(reason)) => {
                // Only asked for what a quorum has voted for, so at least one honest validator
                // holds it to be valid. Saying "false" here would only split the committee.
                tracing::error!(%digest, %reason, "a payload of a quorum is refused here");
                std::future::pending().await
            }
        }
    }

    fn cached(&self, digest: &Digest) -> Option<PayloadHeader> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.root.0 == *digest {
            return Some(cache.root.1);
        }
        cache.headers.get(digest).copied()
    }

    /// From the local store. A failed read counts as a miss here: whatever made it fail stops the
    /// store itself, which says so.
    async fn stored(&self, digest: Digest) -> Option<PayloadHeader> {
        let reader = self.store.reader();
        let read = tokio::task::spawn_blocking(move || reader.payload(&digest)).await;
        match read {
            Ok(Ok(payload)) => payload.map(|payload| payload.header),
            Ok(Err(error)) => {
                tracing::warn!(%digest, %error, "a payload could not be read");
                None
            }
            Err(_) => None,
        }
    }
}
