//! A sequencer at work after its recovery.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorum_store::sequencer::Sequencer;
use quorum_store::sequencer::port::{
    Effect, Input, Now, PayloadLimits, Promise, PullRequest, Reply, RequestId, Transaction,
    VerifyRequest,
};
use quorum_store::store::Released;
use quorum_store::store::memory::MemoryStore;
use quorum_store::testkit::fuzzing;
use quorum_store::types::{
    Announcement, Commit, CommitIndex, CommitteeHash, Epoch, Hello, PayloadHeader, Signature,
    SignedBatchInfo, Timestamp, Usage,
};

use super::Made;
use crate::{samples, world};

/// One input of every kind, with time passing, as a host and its peers would send them.
pub(super) fn exercise(
    mut sequencer: Sequencer,
    store: Option<&mut MemoryStore>,
    now: Now,
    made: &Made,
) {
    let mut life = Life { sequencer: &mut sequencer, store, now, requests: 0, pulled: Vec::new() };
    life.input(Input::Tick);
    let window = Usage { bytes: 1 << 20, batches: 1 << 10 };
    let announcement = Announcement { window, released: Timestamp(0) };
    for peer in 1..world::MEMBERS {
        let (chain, committee) = (made.chain, CommitteeHash::default());
        let holds = Usage::default();
        let hello = Hello { chain, epoch: Epoch(0), committee, announcement, holds };
        life.input(Input::LinkUp { peer: world::author(peer), hello });
    }
    life.write();
    let transaction = Transaction {
        bytes: Bytes::from_static(b"transaction"),
        gas_unit_price: 5,
        expiration: life.now.wall.saturating_add(Duration::from_secs(1)),
    };
    life.request(|id| Input::Submit { id, transactions: vec![transaction] });
    life.pass(Duration::from_millis(30));
    for (digest, info) in &made.batches {
        let signer = world::author(1);
        let signature = Signature::from_bytes(&[1; 64]);
        life.input(Input::Vote(SignedBatchInfo { digest: *digest, signer, signature }));
        // Ingress names a proof by what its info says.
        let (digest, proof) = (info.digest(&made.chain), Arc::new(samples::proof(*info, 3)));
        life.input(Input::Proof { digest, proof });
    }
    let mut parents = vec![made.genesis];
    parents.extend(made.headers.iter().map(|header| header.digest(&made.chain)));
    for parent in parents {
        let height = made.headers.iter().find(|header| header.digest(&made.chain) == parent);
        let height = height.map_or(0, |header| header.height.0).saturating_add(1);
        let limits = PayloadLimits { transactions_max: 9, batch_bytes_max: 9999, batches_max: 9 };
        let request = PullRequest {
            epoch: Epoch(0),
            height: CommitIndex(height),
            parent,
            block_timestamp: life.now.wall,
            limits,
            exclude: Vec::new(),
        };
        life.request(|id| Input::Pull { id, request });
        let request = VerifyRequest { digest: parent, parent: None, responders: Vec::new() };
        life.request(|id| Input::Verify { id, request });
    }
    life.write();
    let pulled = std::mem::take(&mut life.pulled);
    for header in pulled.into_iter().chain(made.headers.iter().copied()) {
        let commit = Commit { index: header.height, round: 1, header };
        life.request(|id| Input::Commit { id, commit });
    }
    life.input(Input::Acknowledge {
        subscriber: "subscriber-0".into(),
        next: CommitIndex(u64::MAX),
    });
    life.write();
    for _ in 0..4 {
        life.pass(Duration::from_millis(700));
    }
    life.request(Input::Status);
    life.write();
}

/// A sequencer at work.
struct Life<'a> {
    sequencer: &'a mut Sequencer,
    store: Option<&'a mut MemoryStore>,
    now: Now,
    requests: u64,
    /// Headers of payloads that it proposed.
    pulled: Vec<PayloadHeader>,
}

impl Life<'_> {
    fn input(&mut self, input: Input) {
        self.sequencer.step(self.now, input);
        while let Some(effect) = self.sequencer.poll_effect() {
            if let Effect::Reply { reply: Reply::Pulled(Ok(payload)), .. } = effect {
                unreachable!("{payload:?} is not durable");
            }
        }
    }

    fn request(&mut self, input: impl FnOnce(RequestId) -> Input) {
        self.requests += 1;
        self.input(input(RequestId(self.requests)));
    }

    fn pass(&mut self, duration: Duration) {
        self.now.monotonic += duration;
        self.now.wall = self.now.wall.saturating_add(duration);
        self.input(Input::Tick);
        self.write();
    }

    fn write(&mut self) {
        while let Some(group) = self.sequencer.take_group() {
            let sequence = group.sequence();
            // Without a store the promises are lost with the group: that is allowed.
            if let Some(store) = &mut self.store {
                let persisted = fuzzing::persist(group, store);
                let Ok(persisted) = persisted else { unreachable!("in memory: {persisted:?}") };
                for promise in persisted.promises {
                    if let Released::Other(Promise::Reply {
                        reply: Reply::Pulled(Ok(payload)),
                        ..
                    }) = promise.release()
                    {
                        self.pulled.push(payload.header);
                    }
                }
            }
            self.input(Input::Durable { sequence });
        }
    }
}
