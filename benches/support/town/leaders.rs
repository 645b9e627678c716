//! Ordering without consensus.

#![allow(dead_code, reason = "each benchmark uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::time::Duration;

use futures::future::join_all;
use quorum_store::engine::QuorumStore;
use quorum_store::sequencer::port::{ParentOf, PayloadLimits, PullRequest, VerifyRequest};
use quorum_store::types::{Author, Commit, CommitIndex, Epoch, Genesis, Timestamp};
use tokio::sync::{mpsc, watch};

use super::now;

/// Leaders take turns, and everybody agrees.
pub struct Leaders {
    pub nodes: Vec<QuorumStore>,
    pub authors: Vec<Author>,
    pub genesis: Genesis,
    pub decided: Vec<mpsc::Sender<Commit>>,
    pub stopped: watch::Receiver<bool>,
}

impl Leaders {
    /// Orders until it is told to stop and nothing is left; returns the highest block.
    pub async fn run(self) -> CommitIndex {
        let chain = self.genesis.chain_id();
        let mut parent = ParentOf {
            digest: self.genesis.header().digest(&chain),
            height: CommitIndex(0),
            block_timestamp: Timestamp(0),
        };
        let mut proposable: Vec<_> = self.nodes.iter().map(QuorumStore::proposable).collect();
        loop {
            let leader = parent.height.0 as usize % self.nodes.len();
            let some = proposable[leader].wait_for(|proofs| *proofs > 0);
            let idle = tokio::time::timeout(Duration::from_millis(50), some).await.is_err();
            if idle && *self.stopped.borrow() {
                return parent.height;
            }
            if !idle {
                parent = self.block(leader, parent).await;
            }
        }
    }

    async fn block(&self, leader: usize, parent: ParentOf) -> ParentOf {
        let limits = PayloadLimits {
            transactions_max: 100_000,
            batch_bytes_max: 32 << 20,
            batches_max: 256,
        };
        let request = PullRequest {
            epoch: Epoch(0),
            height: parent.height.next(),
            parent: parent.digest,
            block_timestamp: now().max(parent.block_timestamp),
            limits,
            exclude: Vec::new(),
        };
        let payload = self.nodes[leader].pull(request).await.unwrap();
        self.nodes[leader].announce(&payload);
        let digest = payload.digest(&self.genesis.chain_id());
        let responders = vec![self.authors[leader]];
        let verifying = self.nodes.iter().enumerate().filter(|(index, _)| *index != leader);
        let verifying = verifying.map(|(_, node)| {
            let responders = responders.clone();
            node.verify(VerifyRequest { digest, parent: Some(parent), responders })
        });
        for header in join_all(verifying).await {
            assert_eq!(header.unwrap(), payload.header);
        }
        let header = payload.header;
        let commit = Commit { index: header.height, round: 1, header };
        for receipt in join_all(self.nodes.iter().map(|node| node.notify_commit(commit))).await {
            assert_eq!(receipt.unwrap().acks.len(), 4);
        }
        // Whoever executes too slowly holds the chain up.
        for executor in &self.decided {
            executor.send(commit).await.unwrap();
        }
        ParentOf { digest, height: header.height, block_timestamp: header.block_timestamp }
    }
}
