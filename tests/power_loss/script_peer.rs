//! A member of the committee that does one thing: it sends a batch, and waits for the signature.
//!
//! Its batch is a function of its expiration alone, so another process can send the same one again.

use std::sync::Arc;

use bytes::Bytes;
use quorum_store::crypto::Signer as _;
use quorum_store::transport::memory::{MemoryNetwork, MemoryTransport};
use quorum_store::transport::{Class, Frame, Handshake, LinkEvent, Refusal, Transport as _};
use quorum_store::types::{
    Announcement, Author, Batch, BatchBody, BatchId, BatchInfo, Digest, Epoch, Hello, Incarnation,
    Message, Timestamp, Usage,
};
use tokio::sync::mpsc;

use super::town::{TESTED, genesis, peers, signer};

const PEER: u8 = 1;

/// The batch that expires then.
pub fn batch(expiration: Timestamp) -> Batch {
    // One transaction of one byte.
    let body = BatchBody::new(Bytes::from_static(&[1, 1, 0, 0, 0, 7]));
    let info = BatchInfo {
        author: signer(PEER).author(),
        batch_id: BatchId { incarnation: Incarnation(1), counter: 1 },
        epoch: Epoch(0),
        expiration,
        count: 1,
        bytes: 6,
        gas_bucket_start: 0,
        root: body.root(),
    };
    Batch { info, body }
}

struct Agreeable(Bytes);

impl Handshake for Agreeable {
    fn hello(&self, _: Author) -> Bytes {
        self.0.clone()
    }

    fn judge(&self, _: Author, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }
}

/// See the module docs.
pub struct ScriptPeer {
    transport: MemoryTransport,
    events: mpsc::Receiver<LinkEvent>,
}

impl ScriptPeer {
    /// Joins, and waits for the link to the tested validator.
    pub async fn join(network: &MemoryNetwork) -> Self {
        let genesis = genesis();
        let hello = Hello {
            chain: genesis.chain_id(),
            epoch: Epoch(0),
            committee: genesis.committee.hash(),
            announcement: Announcement::default(),
            holds: Usage::default(),
        };
        let (sender, mut events) = mpsc::channel(64);
        let handshake = Arc::new(Agreeable(hello.encode()));
        let transport = network.join(signer(PEER).author(), handshake, &peers(), sender);
        while !matches!(events.recv().await, Some(LinkEvent::Up { .. })) {}
        Self { transport, events }
    }

    /// Sends the batch.
    pub fn send(&self, batch: &Batch) {
        let encoded = Message::Batch(batch.clone()).encode();
        let frame = Frame { head: encoded.head, body: encoded.body };
        self.transport.send(signer(TESTED).author(), Class::Bulk, frame).unwrap();
    }

    /// Waits for the signature for a batch; false if the link ends before.
    pub async fn signature(&mut self, digest: Digest) -> bool {
        loop {
            match self.events.recv().await {
                Some(LinkEvent::Frame(frame)) => match Message::decode(&frame.bytes) {
                    Ok(Message::Votes { votes, .. })
                        if votes.iter().any(|vote| vote.digest == digest) =>
                    {
                        return true;
                    }
                    _ => {}
                },
                Some(LinkEvent::Up { .. }) => {}
                Some(LinkEvent::Down { .. }) | None => return false,
            }
        }
    }
}
