//! Each fsync takes three seconds: nothing that waits for one leaves before it, and everything
//! else answers as if nothing was.

use std::time::{Duration, Instant};

use quorum_store::engine::{CallError, QuorumStore};
use quorum_store::sequencer::port::{PayloadLimits, PullError, PullRequest};
use quorum_store::store::Store as _;
use quorum_store::transport::memory::MemoryNetwork;
use quorum_store::types::{Batch, CommitIndex, Digest, Epoch, PayloadHeader};

use super::enumeration::{empty, runtime};
use super::fs::Power;
use super::harness::Context;
use super::script_peer::{ScriptPeer, batch};
use super::town::{PATIENCE, genesis, now, open, start, within};
use super::witness::Witness;

const HELD: Duration = Duration::from_secs(3);
/// How soon everything else answers.
const ANSWER: Duration = Duration::from_millis(100);
/// Pauses between looks while an fsync is held.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Answers in time, or the test fails.
async fn soon<T>(what: &str, answer: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answered = within(what, answer).await;
    let took = began.elapsed();
    assert!(took <= ANSWER, "{what} took {took:?} while an fsync was held");
    answered
}

/// Everything that does not wait for the disk.
async fn answers(node: &QuorumStore, durable: &Digest) {
    let status = soon("status", node.status()).await.unwrap();
    assert_eq!(status.epoch, Epoch(0));
    let (reader, durable) = (node.reader(), *durable);
    let read = tokio::task::spawn_blocking(move || reader.batch(&durable).unwrap().is_some());
    assert!(soon("a read of what is durable", read).await.unwrap());
    let mut request = pull_request(&genesis().header());
    request.height = CommitIndex(9);
    let refused = soon("a pull", node.pull(request)).await;
    assert!(matches!(refused, Err(CallError::Refused(PullError::Parent))), "{refused:?}");
    // Health is whether it has stopped.
    assert!(futures::FutureExt::now_or_never(node.stopped()).is_none());
    let _ = soon("links and counters", async { (node.links(), node.statistics()) }).await;
}

/// Holds the fsync that comes next for three seconds.
async fn hold(disk: &Power, node: &QuorumStore, durable: &Digest, left: impl Fn() -> bool) {
    let waiting = disk.clone();
    let came = tokio::task::spawn_blocking(move || waiting.wait_held(PATIENCE)).await.unwrap();
    assert!(came, "an fsync comes");
    let began = Instant::now();
    while began.elapsed() < HELD {
        assert!(!left(), "a promise left before its fsync returned");
        answers(node, durable).await;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    assert!(!left(), "a promise left before its fsync returned");
}

async fn receive_and_sign(disk: &Power) {
    let (network, witness) = (MemoryNetwork::new(), Witness::default());
    let expiration = now().saturating_add(genesis().parameters.batch_lifetime());
    let digest = |batch: &Batch| batch.info.digest(&genesis().chain_id());
    let first = batch(expiration);
    let node = start(&network, open(disk.path()).unwrap(), &witness).await.unwrap();
    let mut peer = within("the link", ScriptPeer::join(&network)).await;
    peer.send(&first);
    assert!(within("a signature", peer.signature(digest(&first))).await);

    // Another author's batch in the same place of the flow, with every fsync held.
    disk.hold_fsyncs();
    let mut second = batch(expiration);
    second.info.batch_id.counter = 2;
    peer.send(&second);
    hold(disk, &node, &digest(&first), || witness.book().has_signed(&digest(&second))).await;
    disk.let_go();
    assert!(within("the signature", peer.signature(digest(&second))).await);

    // A payload to propose is a promise: it waits for the group that holds it.
    let header = genesis().header();
    let request = pull_request(&header);
    let pulling = tokio::spawn({
        let node = node.clone();
        async move { node.pull(request).await }
    });
    hold(disk, &node, &digest(&first), || pulling.is_finished()).await;
    disk.let_go();
    within("the pull", pulling).await.unwrap().unwrap();
    disk.hold_no_more();
    within("the engine stops", node.shutdown()).await;
}

fn pull_request(parent: &PayloadHeader) -> PullRequest {
    let limits = PayloadLimits { transactions_max: 100, batch_bytes_max: 1 << 20, batches_max: 10 };
    PullRequest {
        epoch: Epoch(0),
        height: CommitIndex(1),
        parent: parent.digest(&genesis().chain_id()),
        block_timestamp: now(),
        limits,
        exclude: Vec::new(),
    }
}

/// No signature, and no payload to propose, before the fsync; reads, health and status meanwhile.
pub fn no_promise_leaves_before_its_fsync_and_reads_go_on(context: &Context) {
    let disk = context.mount.insert("held", empty(context, "held").disk);
    runtime().block_on(receive_and_sign(&disk));
    let reopened = open(disk.path()).unwrap().recover().unwrap();
    assert!(!reopened.records.is_empty());
}
