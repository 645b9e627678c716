//! The epoch as the shell sees it: scopes of signatures, committees, who is talked to.
//!
//! The sequencer owns it. Whenever its membership changes, the driver shows the new one to the
//! threads that check and send, and tells the transport whom to keep links with. A message that was
//! checked just before against the former one is judged by the sequencer once more.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::error::CallError;
use super::handle::{QuorumStore, unexpected};
use crate::sequencer::Sequencer;
use crate::sequencer::port::{CloseError, Input, OpenError, Reply};
use crate::transport::Peer;
use crate::types::{
    Author, ChainId, CommitIndex, Committee, Epoch, EpochReceipt, Hello, Membership, Scope,
};

/// What ingress, egress and serving look at.
#[derive(Debug)]
pub(super) struct View {
    pub membership: Arc<Membership>,
    /// Of the epoch that is served.
    pub scope: Scope,
    /// Of former ones, newest last.
    former: Vec<Scope>,
    /// Everybody that is talked to.
    pub peers: Vec<Author>,
    /// Of those, the members of the epoch that is served.
    pub members: Vec<Author>,
}

impl View {
    pub fn new(
        chain: ChainId,
        membership: &Arc<Membership>,
        peers: impl Iterator<Item = Author>,
    ) -> Self {
        let scope =
            |epoch, committee: &Committee| Scope { chain, epoch, committee: committee.hash() };
        let former = membership.former.iter().map(|f| scope(f.epoch, &f.committee)).collect();
        let peers: Vec<_> = peers.collect();
        let is_member = |peer: &&Author| membership.committee.index_of(peer).is_some();
        Self {
            scope: scope(membership.epoch, &membership.committee),
            former,
            members: peers.iter().filter(is_member).copied().collect(),
            peers,
            membership: Arc::clone(membership),
        }
    }

    pub fn of(chain: ChainId, sequencer: &Sequencer) -> Self {
        Self::new(chain, sequencer.membership(), sequencer.peers())
    }

    pub fn epoch(&self) -> Epoch {
        self.membership.epoch
    }

    /// The scope of an epoch that is served or was.
    pub fn scope_of(&self, epoch: Epoch) -> Option<Scope> {
        let of = |scope: &&Scope| scope.epoch == epoch;
        std::iter::once(&self.scope).chain(&self.former).find(of).copied()
    }

    /// Scopes of former epochs, the newest first.
    pub fn former(&self) -> impl Iterator<Item = &Scope> {
        self.former.iter().rev()
    }

    /// The committee of an epoch that is served or was.
    pub fn committee_of(&self, epoch: Epoch) -> Option<&Committee> {
        if epoch == self.membership.epoch {
            return Some(&self.membership.committee);
        }
        let former = self.membership.former.iter().find(|former| former.epoch == epoch)?;
        Some(&former.committee)
    }

    /// True if a peer's committee does not contradict ours. It may be an epoch ahead or behind.
    pub fn agrees(&self, hello: &Hello) -> bool {
        self.scope_of(hello.epoch).is_none_or(|scope| scope.committee == hello.committee)
    }
}

impl QuorumStore {
    /// Ends an epoch with this commit. From now on, durably, nothing is signed or admitted for it;
    /// commits, and proposals up to the last one, go on. Completes once the last commit is applied.
    ///
    /// After `deadline` it says who is late; the fence stays, and calling it again waits again.
    /// Calling it twice waits for the same end; dropping the future changes nothing.
    pub async fn close(
        &self,
        epoch: Epoch,
        final_index: CommitIndex,
        deadline: Duration,
    ) -> Result<EpochReceipt, CallError<CloseError>> {
        let began = Instant::now();
        let deadline = self.shared().started.elapsed() + deadline;
        match self.control(|id| Input::Close { id, epoch, final_index, deadline }).await? {
            Reply::Closed(result) => {
                self.shared().metrics.epochs.closed(began, &result);
                result.map_err(CallError::Refused)
            }
            other => unexpected(&other),
        }
    }

    /// Starts the epoch after the one that is closed; repeating it changes nothing. Transactions
    /// that were in no commit are offered again, unless this validator is not in the committee.
    ///
    /// `peers` are the addresses of its members, ourselves included or not. Links of members that
    /// stay go on; members of the epoch before may fetch until its content is no longer served.
    pub async fn open_epoch(
        &self,
        epoch: Epoch,
        committee: Committee,
        peers: Vec<Peer>,
    ) -> Result<(), CallError<OpenError>> {
        {
            let mut addresses = self.shared().addresses();
            addresses.extend(peers.into_iter().map(|peer| (peer.key, peer.address)));
        }
        let input = |id| Input::OpenEpoch { id, epoch, committee: committee.clone() };
        match self.control(input).await? {
            Reply::Opened(result) => result.map_err(CallError::Refused),
            other => unexpected(&other),
        }
    }

    /// The epoch that is served, its committee, and former ones that still matter.
    pub fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.shared().view().membership)
    }
}

/// Addresses of validators, as the host told us.
pub(super) type Addresses = BTreeMap<Author, std::net::SocketAddr>;

impl super::shared::Shared {
    /// What is served now.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows a new epoch to everybody.
    pub fn show(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    pub fn hellos(&self) -> std::sync::MutexGuard<'_, BTreeMap<Author, Hello>> {
        self.hellos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn addresses(&self) -> std::sync::MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
