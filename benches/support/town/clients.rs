//! Closed-loop clients of the validators of a [`Town`](super::Town).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use quorum_store::sequencer::port::SubmitError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Validator, transaction};

/// What clients saw.
#[derive(Default)]
pub struct Times {
    pub executed: u64,
    /// From submission: one of each batch of each submission.
    pub until_certified: Vec<Duration>,
    pub until_executed: Vec<Duration>,
}

/// Clients at work.
pub struct Load {
    pub stop: watch::Sender<bool>,
    pub times: Arc<Mutex<Times>>,
    pub clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// What was seen since the last time.
    pub fn take(&self) -> Times {
        std::mem::take(&mut self.times.lock().unwrap())
    }

    /// Ends once everything that was submitted has been executed.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        try_join_all(self.clients).await.unwrap();
    }
}

/// Submits, waits until all of it was executed, and submits again.
pub struct Client {
    pub validator: Arc<Validator>,
    pub noise: Bytes,
    pub bytes: usize,
    pub next: Arc<AtomicU64>,
    /// In one submission.
    pub transactions: usize,
    pub times: Arc<Mutex<Times>>,
    pub stopped: watch::Receiver<bool>,
}

impl Client {
    pub async fn run(self) {
        while !*self.stopped.borrow() {
            let transactions = (0..self.transactions)
                .map(|_| transaction(&self.noise, self.bytes, &self.next))
                .collect();
            let began = Instant::now();
            let results = self.validator.node.submit(transactions).await.unwrap();
            let mut batches = BTreeMap::<_, u64>::new();
            let mut pause = Duration::ZERO;
            for result in results {
                match result {
                    Ok(accepted) => *batches.entry(accepted.batch).or_default() += 1,
                    // Back-pressure: what was refused is not counted, and the client slows down.
                    Err(SubmitError::Busy { retry_after, .. }) => pause = pause.max(retry_after),
                    Err(refused) => panic!("{refused}"),
                }
            }
            for (batch, transactions) in batches {
                let (certified, executed) = self.validator.executed(batch).await;
                let mut times = self.times.lock().unwrap();
                times.executed += transactions;
                times.until_executed.push(executed - began);
                times.until_certified.extend(certified.map(|certified| certified - began));
            }
            tokio::time::sleep(pause).await;
        }
    }
}
