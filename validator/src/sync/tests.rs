use quorum_store::types::committee::Member;
use quorum_store::types::{CommitIndex, Epoch, Timestamp};

use super::*;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn author(seed: u8) -> Author {
    Author(key(seed).verifying_key().to_bytes())
}

fn committee(powers: &[u64]) -> Committee {
    let member = |(seed, power): (u8, &u64)| Member { author: author(seed), power: *power };
    Committee::new((1..).zip(powers).map(member).collect()).unwrap()
}

fn statement(state: u8) -> Statement {
    Statement {
        chain: ChainId([9; 32]),
        header: PayloadHeader {
            epoch: Epoch(3),
            height: CommitIndex(70),
            parent: Digest::default(),
            block_timestamp: Timestamp(5),
            content_root: Digest::default(),
        },
        state_digest: Digest([state; 32]),
        counters: Counters::default(),
        from: 60,
        content: Digest::default(),
        bytes: 0,
    }
}

fn said(by: u8, state: u8) -> SignedStatement {
    SignedStatement::sign(statement(state), &key(by))
}

#[test]
fn a_state_counts_once_members_of_more_than_f_power_say_it() {
    let equal = committee(&[1, 1, 1, 1]);
    assert_eq!(agreed(&equal, &[]), None);
    assert_eq!(agreed(&equal, &[said(1, 1)]), None, "one of four may be faulty");
    assert_eq!(agreed(&equal, &[said(1, 1), said(1, 1), said(1, 1)]), None, "one counts once");
    assert_eq!(agreed(&equal, &[said(1, 1), said(2, 2)]), None, "they disagree");
    assert_eq!(agreed(&equal, &[said(1, 1), said(9, 1)]), None, "not a member");
    let found = agreed(&equal, &[said(4, 2), said(1, 1), said(2, 1)]);
    assert_eq!(found, Some(statement(1)));
    let uneven = committee(&[5, 5, 5, 2]);
    assert_eq!(agreed(&uneven, &[said(3, 1), said(4, 1)]), Some(statement(1)));
    assert_eq!(agreed(&uneven, &[said(3, 1)]), None, "5 of 17 may be faulty");
    assert_eq!(agreed(&committee(&[1]), &[said(1, 1)]), Some(statement(1)));
}

#[test]
fn a_signature_is_of_its_author_and_of_every_field() {
    let good = said(1, 1);
    assert!(good.is_valid());
    let wrong = |change: fn(&mut SignedStatement)| {
        let mut bad = good.clone();
        change(&mut bad);
        !bad.is_valid()
    };
    assert!(wrong(|s| s.author = author(2)));
    assert!(wrong(|s| s.author = Author([0xff; 32])));
    assert!(wrong(|s| s.signature[3] ^= 1));
    assert!(wrong(|s| s.signature.clear()));
    assert!(wrong(|s| s.statement.chain.0[0] ^= 1));
    assert!(wrong(|s| s.statement.header.height.0 += 1));
    assert!(wrong(|s| s.statement.state_digest.0[0] ^= 1));
    assert!(wrong(|s| s.statement.counters.expired += 1));
    assert!(wrong(|s| s.statement.from += 1));
    assert!(wrong(|s| s.statement.content.0[0] ^= 1));
    assert!(wrong(|s| s.statement.bytes += 1));
    let bytes = bcs::to_bytes(&good).unwrap();
    assert!(bytes.len() < STATEMENT_BYTES_MAX);
    assert_eq!(bcs::from_bytes::<SignedStatement>(&bytes).unwrap(), good);
}
