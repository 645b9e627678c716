//! One life of the tested validator: everything it can promise, asked for once.
//!
//! A life ends early, and that is fine, when its store fails; what it may not do is get stuck.

use std::sync::Arc;
use std::time::Duration;

use quorum_store::crypto::Signer as _;
use quorum_store::engine::{CallError, QuorumStore, StopCause};
use quorum_store::sequencer::port::{
    Accepted, Event, ParentOf, PayloadLimits, PullRequest, VerifyRequest,
};
use quorum_store::types::{
    Commit, CommitIndex, Digest, Epoch, Payload, PayloadContent, PayloadHeader, Timestamp,
};

use super::town::{Town, genesis, now, signer, transaction, within};
use super::witness::Witness;

/// A subscriber whose cursor pins content.
const SUBSCRIBER: &str = "executor";
/// Enough that several segments of the smallest journal are written.
const BULK_TRANSACTIONS: usize = 22;
const BULK_BYTES: usize = 60 << 10;

/// What a life does beside the common flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Script {
    /// Fills segments, so that others are added or used again.
    pub bulk: bool,
    /// Lets consensus time jump, so that content is deleted.
    pub delete: bool,
}

/// The tested validator among its peers.
pub struct Life<'a> {
    pub town: &'a Town,
    pub node: &'a QuorumStore,
    pub witness: &'a Witness,
}

impl Life<'_> {
    /// The whole script, or until the store fails.
    pub async fn run(&self, script: Script) -> Result<(), StopCause> {
        tokio::select! {
            result = within("a life of the validator", self.script(script)) => result,
            cause = self.node.stopped() => Err(cause),
        }
    }

    async fn script(&self, script: Script) -> Result<(), StopCause> {
        let own = self.author().await?;
        let theirs = self.receive_and_sign().await?;
        self.certified(self.node, own).await?;
        self.witness.book().proof(own);
        let cursor = self.vote_and_commit(theirs).await?;
        self.witness.book().acknowledging(cursor.next());
        self.node.acknowledge(SUBSCRIBER, cursor.next()).await?;
        self.propose_and_commit(now()).await?;
        self.witness.book().acknowledged(cursor.next());
        if script.bulk {
            self.fill(BULK_TRANSACTIONS).await?;
        }
        if script.delete {
            self.delete().await?;
        }
        Ok(())
    }

    /// A transaction of a client, until its batch is durable here.
    pub async fn author(&self) -> Result<Digest, StopCause> {
        let text = format!("of a client at {:?}", now());
        Ok(self.accepted(vec![text.into_bytes()]).await?[0].batch)
    }

    /// Submits until there is room; the batches are written into the book.
    async fn accepted(&self, bytes: Vec<Vec<u8>>) -> Result<Vec<Accepted>, StopCause> {
        loop {
            let at = now().max(self.witness.book().latest());
            let transactions = bytes.iter().map(|bytes| transaction(bytes.clone(), at)).collect();
            let results = self.node.submit(transactions).await?;
            let accepted: Vec<_> = results.iter().filter_map(|result| (*result).ok()).collect();
            for Accepted { batch, .. } in &accepted {
                self.witness.book().batch(*batch);
                // What was accepted can be read, unless the disk is gone by now.
                if let Ok(Some(found)) = self.node.reader().batch(batch) {
                    self.witness.book().info(*batch, &found.info);
                }
            }
            if accepted.len() == bytes.len() {
                return Ok(accepted);
            }
            // Links may still be coming up.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A batch of a peer, until the peer has our signature and made a proof.
    pub async fn receive_and_sign(&self) -> Result<Digest, StopCause> {
        let peer = &self.town.peers[0];
        let digest = loop {
            let text = format!("of a peer at {:?}", now());
            let results = peer.submit(vec![transaction(text, now())]).await?;
            if let Ok(accepted) = results[0] {
                break accepted.batch;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let batch = peer.reader().batch(&digest)?.expect("what a peer accepted");
        self.witness.book().info(digest, &batch.info);
        self.certified(peer, digest).await?;
        assert!(self.witness.book().has_signed(&digest), "a quorum without the tested validator");
        Ok(digest)
    }

    /// Waits for the proof of a batch, at whoever made the batch.
    async fn certified(&self, at: &QuorumStore, digest: Digest) -> Result<(), StopCause> {
        let mut events = at.events();
        while at.reader().proof(&digest)?.is_none() {
            match events.recv().await {
                Ok(Event::Certified { digest: found }) if found == digest => break,
                Ok(_) => {}
                Err(_) => return Err(StopCause::Shutdown),
            }
        }
        Ok(())
    }

    /// The block to build on.
    fn parent(&self) -> ParentOf {
        let chain = genesis().chain_id();
        let header = self.witness.book().last().map_or(genesis().header(), |last| last.header);
        let PayloadHeader { height, block_timestamp, .. } = header;
        ParentOf { digest: header.digest(&chain), height, block_timestamp }
    }

    /// A peer proposes its batch, we vote, and it is ordered.
    async fn vote_and_commit(&self, batch: Digest) -> Result<CommitIndex, StopCause> {
        let peer = &self.town.peers[0];
        let proof = peer.reader().proof(&batch)?.expect("a proof at its author");
        let content = PayloadContent { proofs: vec![proof], ..PayloadContent::default() };
        let parent = self.parent();
        let header = PayloadHeader {
            epoch: Epoch(0),
            height: parent.height.next(),
            parent: parent.digest,
            block_timestamp: now().max(parent.block_timestamp),
            content_root: content.root(),
        };
        let payload = Arc::new(Payload { header, content });
        let digest = payload.digest(&genesis().chain_id());
        peer.announce(&payload);
        let responders = vec![signer(1).author()];
        let request = VerifyRequest { digest, parent: Some(parent), responders };
        let verified = loop {
            // A peer that announced before the link was up has nothing to serve it from.
            let asked = self.node.verify(request.clone());
            match tokio::time::timeout(Duration::from_secs(1), asked).await {
                Ok(verified) => break answered(verified)?,
                Err(_) => peer.announce(&payload),
            }
        };
        assert_eq!(verified, header);
        self.witness.book().payload(&payload);
        self.commit(&payload).await
    }

    /// We propose, and it is ordered.
    pub async fn propose_and_commit(&self, at: Timestamp) -> Result<CommitIndex, StopCause> {
        let parent = self.parent();
        let limits =
            PayloadLimits { transactions_max: 10_000, batch_bytes_max: 8 << 20, batches_max: 100 };
        let request = PullRequest {
            epoch: Epoch(0),
            height: parent.height.next(),
            parent: parent.digest,
            block_timestamp: at.max(parent.block_timestamp),
            limits,
            exclude: Vec::new(),
        };
        let payload = answered(self.node.pull(request).await)?;
        self.witness.book().payload(&payload);
        self.commit(&payload).await
    }

    async fn commit(&self, payload: &Payload) -> Result<CommitIndex, StopCause> {
        let PayloadHeader { height, .. } = payload.header;
        let commit = Commit { index: height, round: height.0, header: payload.header };
        self.witness.book().telling(&commit, payload);
        let receipt = answered(self.node.notify_commit(commit).await)?;
        assert_eq!(receipt.index, height);
        self.witness.book().receipt(receipt);
        Ok(height)
    }

    /// So many large transactions.
    pub async fn fill(&self, transactions: usize) -> Result<(), StopCause> {
        let fill = |number: usize| vec![number as u8 + 1; BULK_BYTES];
        self.accepted((0..transactions).map(fill).collect()).await.map(drop)
    }

    /// Tells again of every commit it was told of: a receipt that was given is given again.
    pub async fn repeat(&self) -> Result<(), StopCause> {
        let commits = self.witness.book().told_commits();
        for (commit, receipt) in commits {
            let found = answered(self.node.notify_commit(commit).await)?;
            assert!(receipt.is_none_or(|receipt| receipt == found), "another receipt");
            self.witness.book().receipt(found);
        }
        Ok(())
    }

    /// An empty block far ahead: by its time, everything before has expired and its grace is over.
    async fn delete(&self) -> Result<(), StopCause> {
        let parameters = genesis().parameters;
        let later = parameters.batch_lifetime() + parameters.grace() + Duration::from_secs(5);
        self.propose_and_commit(now().saturating_add(later)).await?;
        // What follows comes after the deletion, which is a step of its own.
        self.author().await.map(drop)
    }
}

/// A refusal is none of what these flows bring about.
fn answered<T, E: std::error::Error>(result: Result<T, CallError<E>>) -> Result<T, StopCause> {
    match result {
        Ok(answer) => Ok(answer),
        Err(CallError::Stopped(cause)) => Err(cause),
        Err(refused) => panic!("refused: {refused}"),
    }
}
