//! Golden vectors: a change of any of these is a change of the wire or disk format.

use super::*;

fn short(bytes: &[u8]) -> String {
    let hash = blake3::hash(bytes);
    format!("{}:{}", bytes.len(), hex::encode(&hash.as_bytes()[..8]))
}

#[test]
fn the_formats_are_pinned() {
    let chain = ChainId([1; 32]);
    let members = (1..=4).map(|key| Member { author: Author([key; 32]), power: 10 }).collect();
    let committee = Committee::new(members).unwrap();
    let genesis = Genesis {
        nonce: Digest([5; 32]),
        parameters: ChainParameters::default(),
        committee: committee.clone(),
    };
    let scope = Scope { chain, epoch: Epoch(2), committee: committee.hash() };
    let batch = samples::batch(1, 1, &[b"one", b"two"]);
    let hello = Hello {
        chain,
        epoch: Epoch(2),
        committee: committee.hash(),
        announcement: Announcement::default(),
        holds: Usage { bytes: 5, batches: 6 },
    };
    let mut lines = vec![
        format!("committee {}", committee.hash()),
        format!("chain {}", genesis.chain_id()),
        format!("genesis-header {}", genesis.header().digest(&genesis.chain_id())),
        format!("batch {}", batch.info.digest(&chain)),
        format!("body {}", hex::encode(batch.body.bytes())),
        format!("payload {}", samples::payload().digest(&chain)),
        format!("content {}", samples::payload().content.root()),
        format!("signed {}", short(&scope.batch_stored_bytes(&Digest([6; 32])))),
        format!("hello {}", short(&hello.encode())),
    ];
    for message in samples::messages() {
        lines.push(format!("{} {}", message.kind_name(), short(&message.encode().to_bytes())));
    }
    let golden = include_str!("golden.txt");
    assert_eq!(lines.join("\n"), golden.trim_end(), "the format changed");
}
