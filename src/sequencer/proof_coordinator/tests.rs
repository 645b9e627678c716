//! Votes alone: when a batch has its proof, who is asked again and when, and what ends it.

use super::*;
use crate::sequencer::port::Now;
use crate::types::{Announcement, ChainId, Epoch, Hello, Member, Usage, samples};

const SECOND: Duration = Duration::from_secs(1);
const ME: Author = Author([1; 32]);

struct World {
    proofs: ProofCoordinator,
    windows: Windows,
    committee: Committee,
    outbox: Outbox,
}

fn digest(number: u8) -> Digest {
    Digest([number; 32])
}

fn clock(now: Duration, consensus: u64) -> Clock {
    let now = Now { monotonic: now, wall: Timestamp(0) };
    Clock { now, consensus: Timestamp(consensus) }
}

impl World {
    fn new() -> Self {
        let member = |byte| Member { author: Author([byte; 32]), power: 1 };
        let committee = Committee::new((1..=4).map(member).collect()).unwrap();
        let mut windows = Windows::new(ME, Epoch(0), &committee, (SECOND, SECOND));
        for peer in 2..=4 {
            let window = Usage { bytes: 1 << 30, batches: 1000 };
            let hello = Hello {
                chain: ChainId([5; 32]),
                epoch: Epoch(0),
                committee: committee.hash(),
                announcement: Announcement { window, released: Timestamp(0) },
                holds: Usage::default(),
            };
            windows.on_link_up(Author([peer; 32]), &hello, Timestamp(0));
        }
        let (proofs, outbox) = (ProofCoordinator::new(SECOND), Outbox::default());
        Self { proofs, windows, committee, outbox }
    }

    /// A batch of ours is sealed now.
    fn seal(&mut self, number: u8, expiration: u64, now: Duration) {
        let mut batch = samples::batch(1, number.into(), &[b"one"]);
        batch.info.expiration = Timestamp(expiration);
        let Self { proofs, windows, outbox, .. } = self;
        proofs.on_own_batch(outbox, &clock(now, 0), windows, digest(number), batch);
    }

    fn vote(&mut self, number: u8, signer: u8, now: Duration) -> Option<Arc<ProofOfStore>> {
        let signature = Signature::from_bytes(&[signer; 64]);
        let (digest, signer) = (digest(number), Author([signer; 32]));
        let vote = SignedBatchInfo { digest, signer, signature };
        self.proofs.on_vote(&mut self.outbox, now, &self.committee, &vote)
    }

    /// What is due until then; when, and who is sent batches again.
    fn resends(&mut self, until: Duration) -> Vec<(Duration, usize)> {
        let mut sent = Vec::new();
        while let Some(due) = self.proofs.next_deadline().filter(|due| *due <= until) {
            self.outbox.effects.clear();
            let Self { proofs, windows, committee, outbox } = self;
            proofs.on_tick(outbox, &clock(due, 0), windows, committee);
            for effect in &outbox.effects {
                let Effect::Resend { to, .. } = effect else { panic!("{effect:?}") };
                sent.push((due, to.len()));
            }
        }
        sent
    }
}

#[test]
fn a_quorum_of_distinct_members_makes_one_proof() {
    let mut world = World::new();
    world.seal(1, 100, SECOND);
    assert_eq!((world.proofs.uncertified(), world.proofs.info(&digest(2))), (1, None));
    assert_eq!(world.proofs.info(&digest(1)).map(|info| info.expiration), Some(Timestamp(100)));
    assert_eq!(world.proofs.age(&digest(1), 3 * SECOND), Some(2 * SECOND));
    world.outbox.effects.clear();
    for (number, signer, reason) in [(2, 2, Refusal::UnknownBatch), (1, 9, Refusal::NotAMember)] {
        assert!(world.vote(number, signer, SECOND).is_none());
        let refused = world.outbox.effects.pop_front();
        assert!(matches!(refused, Some(Effect::Refused { reason: why, .. }) if why == reason));
    }
    assert!([1, 2, 2].iter().all(|signer| world.vote(1, *signer, SECOND).is_none()));
    assert!(world.outbox.records.is_empty());
    let proof = world.vote(1, 4, SECOND).expect("three of four");
    assert_eq!(proof.signatures.iter().map(|part| part.signer).collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!((world.proofs.uncertified(), world.outbox.records.len()), (0, 1));
    assert!(world.vote(1, 3, SECOND).is_none(), "it grows later");
    let last = world.outbox.effects.pop_back();
    assert!(matches!(last, Some(Effect::Measured(Measurement::LateVote))), "{last:?}");
}

#[test]
fn who_is_silent_is_sent_the_batch_again_after_twice_as_long_each_time_up_to_sixteen() {
    let mut world = World::new();
    world.seal(1, 100, SECOND);
    world.vote(1, 2, SECOND);
    let times: Vec<_> = world.resends(70 * SECOND);
    let seconds = [2, 4, 8, 16, 32, 48, 64];
    let expected = seconds.map(|after| (after * SECOND, 2));
    assert_eq!(times, expected, "the two that did not sign");
    world.vote(1, 1, 70 * SECOND);
    world.vote(1, 3, 70 * SECOND);
    assert_eq!(world.proofs.next_deadline(), None, "it has its proof");
}

#[test]
fn a_proof_grows_after_an_interval_and_then_after_twice_as_long() {
    let mut world = World::new();
    let members = (1..=7).map(|byte| Member { author: Author([byte; 32]), power: 1 });
    world.committee = Committee::new(members.collect()).unwrap();
    world.seal(1, 100, SECOND);
    (1..=5).for_each(|signer| drop(world.vote(1, signer, SECOND)));
    assert_eq!((world.proofs.uncertified(), world.proofs.next_deadline()), (0, None));
    let grown = |world: &mut World, due| {
        let World { proofs, windows, committee, outbox } = world;
        let grown = proofs.on_tick(outbox, &clock(due, 0), windows, committee);
        grown.into_iter().map(|(_, proof)| proof.signatures.len()).collect::<Vec<_>>()
    };
    world.vote(1, 6, SECOND + SECOND / 2);
    assert_eq!(world.proofs.next_deadline(), Some(2 * SECOND));
    assert_eq!(grown(&mut world, Duration::from_millis(1999)), [0; 0]);
    assert_eq!(grown(&mut world, 2 * SECOND), [6]);
    assert_eq!(world.proofs.next_deadline(), None);
    world.vote(1, 7, 2 * SECOND);
    assert_eq!(world.proofs.next_deadline(), Some(3 * SECOND), "two intervals after the quorum");
    assert_eq!(grown(&mut world, 3 * SECOND), [7]);
}

#[test]
fn what_is_ordered_or_expired_is_collected_no_more() {
    let mut world = World::new();
    for (number, expiration) in [(1, 100), (2, 200), (3, 300)] {
        world.seal(number, expiration, SECOND);
    }
    (1..=3).for_each(|signer| drop(world.vote(3, signer, SECOND)));
    assert_eq!(world.proofs.uncertified(), 2);
    let commit = |world: &mut World, consensus, ordered: &[Digest]| {
        let freed = world.proofs.on_commit(&clock(SECOND, consensus), ordered.iter());
        (freed, world.proofs.uncertified())
    };
    assert_eq!(commit(&mut world, 100, &[]), (0, 2), "at its last moment");
    assert_eq!(commit(&mut world, 101, &[]), (1, 1));
    assert_eq!(commit(&mut world, 101, &[digest(3), digest(1)]), (1, 1));
    assert_eq!(commit(&mut world, 101, &[digest(2)]), (1, 0));
    assert_eq!(commit(&mut world, 900, &[]), (0, 0));
    assert_eq!(world.proofs.next_deadline(), None);
    world.seal(4, 900, SECOND);
    assert_eq!((world.proofs.on_close(), world.proofs.uncertified()), (1, 0));
}

#[test]
fn who_links_again_is_sent_proofs_that_are_durable_at_once_and_batches_a_little_later() {
    let mut world = World::new();
    let peer = Author([4; 32]);
    world.seal(1, 100, SECOND);
    world.seal(2, 100, SECOND);
    world.outbox.group = 7;
    (1..=3).for_each(|signer| drop(world.vote(1, signer, SECOND)));
    let link = |world: &mut World| {
        world.outbox.effects.clear();
        world.proofs.on_link_up(&mut world.outbox, &clock(SECOND, 0), peer);
        world.outbox.effects.len()
    };
    world.proofs.on_durable(6);
    assert_eq!(link(&mut world), 0, "it is published once it is durable");
    world.proofs.on_durable(7);
    assert_eq!(link(&mut world), 1);
    let due = SECOND + SECOND / 4;
    assert_eq!(world.proofs.next_deadline(), Some(due));
    assert_eq!(world.resends(due), [(due, 1)], "the one without a proof, to that peer");
}

#[test]
fn a_proof_of_an_earlier_life_needs_no_votes() {
    let mut world = World::new();
    let info = samples::batch(1, 1, &[b"one"]).info;
    let part = |signer| ProofSignature { signer, signature: Signature::from_bytes(&[7; 64]) };
    let proof = Arc::new(ProofOfStore { info, signatures: [0, 1, 2].map(part).into() });
    for (number, proof) in [(1, Some(proof)), (2, None)] {
        let (now, committee) = (clock(SECOND, 0), &world.committee);
        world.proofs.on_recovered(&now, committee, digest(number), info, proof);
    }
    assert_eq!(world.proofs.uncertified(), 1);
    assert!(world.vote(1, 2, SECOND).is_none() && world.outbox.effects.is_empty(), "known");
    assert!(world.vote(1, 4, SECOND).is_none());
    let last = world.outbox.effects.pop_back();
    assert!(matches!(last, Some(Effect::Measured(Measurement::LateVote))), "{last:?}");
}
