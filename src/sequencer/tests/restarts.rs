//! What a new life makes of own batches that the last one had not seen ordered.

use std::time::Duration;

use super::net::*;
use crate::sequencer::port::*;
use crate::types::*;

/// Node 0 has one batch that nobody else hears of, and knows of a first block without it at `at`.
fn left_out(net: &mut Net, at: impl FnOnce(BatchInfo) -> Timestamp) -> PayloadHeader {
    net.drops = |_, _, _| true;
    let life = net.genesis.parameters.batch_lifetime() + Duration::from_secs(30);
    let expiration = net.now.wall.saturating_add(life);
    let transaction = Transaction { expiration, ..net.transaction("one") };
    let id = net.request(0, |id| Input::Submit { id, transactions: vec![transaction] });
    net.pass(net.config.batch_age_max);
    let digest = net.accepted(0, id)[0].batch;
    let batch = crate::store::Store::reader(&net.nodes[0].store).batch(&digest).unwrap().unwrap();
    let mut request = net.pull_request(1, net.genesis_digest());
    request.block_timestamp = at(batch.info);
    let id = net.request(1, |id| Input::Pull { id, request });
    net.write(1);
    let Some(Reply::Pulled(Ok(payload))) = net.nodes[1].replies.remove(&id) else { panic!() };
    assert_eq!(payload.content.batches().count(), 0);
    net.give_payload(1, 0, &payload);
    payload.header
}

#[test]
fn a_batch_lives_through_the_last_moment_of_its_time_also_over_a_restart() {
    for late in [0, 1] {
        let mut net = Net::new();
        let at = |info: BatchInfo| Timestamp(info.expiration.0 + late);
        let header = left_out(&mut net, at);
        net.commit(0, header);
        while net.write(0) {}
        net.restart(0);
        let status = net.status(0);
        // One microsecond later its transaction waits for another batch.
        assert_eq!(status.outstanding_batches, 1 - late, "{late} late");
        assert_eq!(status.pool_transactions, late, "{late} late");
    }
}

#[test]
fn after_state_sync_and_a_restart_what_expired_meanwhile_is_batched_again() {
    let mut net = Net::new();
    let header = left_out(&mut net, |info| info.expiration.saturating_add(Duration::from_secs(1)));
    // The state of another validator, after a block of which nothing is known here.
    let header = PayloadHeader { height: CommitIndex(9), parent: Digest([8; 32]), ..header };
    net.request(0, |id| Input::SkipTo { id, header });
    while net.write(0) {}
    net.restart(0);
    let status = net.status(0);
    assert_eq!(status.applied, CommitIndex(9));
    assert_eq!((status.outstanding_batches, status.pool_transactions), (0, 1));
}
