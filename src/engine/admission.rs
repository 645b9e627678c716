//! The handle's calls about admission: leases, and what is accepted now.

use std::time::Instant;

use tokio::sync::watch;

use super::error::{CallError, StopCause};
use super::handle::{QuorumStore, unexpected};
use super::life::Life;
use crate::sequencer::port::{
    Accepted, Input, Lease, LeaseError, LeaseRefusal, LeaseRequest, Reply, Room, SubmitError,
    Transaction, UnderLease,
};
use crate::sequencer::pressure::Pressure;

impl QuorumStore {
    /// Submits transactions under a lease. What it covers is taken although prices rose or the pool
    /// is busy; what it does not is treated as by [`Self::submit`].
    pub async fn submit_under(
        &self,
        lease: UnderLease,
        transactions: Vec<Transaction>,
    ) -> Result<Vec<Result<Accepted, SubmitError>>, StopCause> {
        let queue = |life: &Life| life.inboxes.control.clone();
        let input = |id, transactions| Input::SubmitUnder { id, lease, transactions };
        self.submit_as(transactions, self.leased_bytes(), queue, input).await
    }

    /// Quotes room and the lowest gas bucket accepted, and keeps both until the lease ends: by use,
    /// release, expiry, the end of the epoch, or of this life of the process, for it is memory. If
    /// this future is dropped, what it may have reserved comes back when it expires.
    pub async fn lease(&self, request: LeaseRequest) -> Result<Lease, CallError<LeaseError>> {
        let began = Instant::now();
        match self.control(|id| Input::Lease { id, request: request.clone() }).await? {
            Reply::Leased(result) => {
                self.called("lease", began);
                self.shared().metrics.admission.leased(&result);
                result.map_err(CallError::Refused)
            }
            other => unexpected(&other),
        }
    }

    /// Gives back what is left of a lease; returns it.
    pub async fn release(&self, lease: UnderLease) -> Result<Room, CallError<LeaseRefusal>> {
        match self.control(|id| Input::Release { id, lease: lease.clone() }).await? {
            Reply::Released(result) => result.map_err(CallError::Refused),
            other => unexpected(&other),
        }
    }

    /// How much is accepted, from which gas bucket on, and why: now, and as it changes.
    pub fn pressure(&self) -> watch::Receiver<Pressure> {
        self.shared().pressure.subscribe()
    }
}
