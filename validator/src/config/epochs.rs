//! `epochs.toml`: who orders after the first committee, and from when on.
//!
//! An epoch ends with its first block at or after a time: that is a property of the block's header,
//! so every validator that has the file knows the same last block. Like the genesis, the file is
//! equal everywhere; it reaches every validator well before the time that it names. It may grow
//! while validators run (SIGHUP reads it again), and what it said before stays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use quorum_store::transport::Peer;
use quorum_store::types::committee::Member;
use quorum_store::types::ids::micros;
use quorum_store::types::{Author, Committee, Epoch, PayloadHeader, Timestamp};
use serde::{Deserialize, Serialize};

use super::PeerConfig;
use super::genesis::{check_powers, hex_author};
use crate::exit::Failure;

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochsFile {
    /// From epoch 1 on, in order.
    #[serde(default)]
    pub epochs: Vec<EpochFile>,
}

/// One epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochFile {
    /// Which.
    pub number: u64,
    /// The epoch before ends with its first block at or after this time.
    #[serde(with = "humantime_serde")]
    pub after: SystemTime,
    /// Its committee.
    pub validators: Vec<EpochMemberFile>,
}

/// A member of a committee, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochMemberFile {
    /// Its public key.
    #[serde(with = "hex_author")]
    pub key: Author,
    /// Its voting power.
    pub power: u64,
    /// Its links of the quorum store.
    pub transport: SocketAddr,
    /// Its ordering engine.
    pub ordering: SocketAddr,
    /// Its state, for other validators.
    pub sync: SocketAddr,
}

/// Every epoch that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// From epoch 0 on.
    epochs: Vec<Planned>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Planned {
    /// Zero for epoch 0.
    after: Timestamp,
    committee: Committee,
    peers: Vec<PeerConfig>,
}

impl Plan {
    /// Starts with the committee of the genesis and the addresses of the config; what follows is in
    /// the file, if there is one.
    pub fn read(first: Committee, peers: &[PeerConfig], path: &Path) -> Result<Self, Failure> {
        let file = if path.exists() { super::read_toml(path)? } else { EpochsFile::default() };
        Self::new(first, peers, &file)
            .map_err(|problem| Failure::usage(format!("{}: {problem}", path.display())))
    }

    fn new(first: Committee, peers: &[PeerConfig], file: &EpochsFile) -> Result<Self, String> {
        let first = Planned { after: Timestamp(0), committee: first, peers: peers.to_vec() };
        let mut epochs = vec![first];
        for (epoch, expected) in file.epochs.iter().zip(1..) {
            let number = epoch.number;
            if number != expected {
                return Err(format!("epoch {expected} is missing before epoch {number}"));
            }
            let since = epoch.after.duration_since(UNIX_EPOCH).unwrap_or_default();
            let after = Timestamp(micros(since));
            if epochs.last().is_some_and(|before| before.after >= after) {
                return Err(format!("epoch {number} does not begin after the one before"));
            }
            let members = epoch.validators.iter();
            let members = members.map(|m| Member { author: m.key, power: m.power }).collect();
            let committee =
                Committee::new(members).map_err(|error| format!("epoch {number}: {error}"))?;
            check_powers(&committee).map_err(|problem| format!("epoch {number}: {problem}"))?;
            let peers = epoch.validators.iter().map(EpochMemberFile::peer).collect();
            epochs.push(Planned { after, committee, peers });
        }
        Ok(Self { epochs })
    }

    /// True if this plan says what another one said, and perhaps more.
    pub fn extends(&self, known: &Self) -> bool {
        self.epochs.starts_with(&known.epochs)
    }

    fn get(&self, epoch: Epoch) -> Option<&Planned> {
        self.epochs.get(usize::try_from(epoch.0).ok()?)
    }

    /// The committee of an epoch.
    pub fn committee(&self, epoch: Epoch) -> Option<&Committee> {
        self.get(epoch).map(|planned| &planned.committee)
    }

    /// Where the members of an epoch listen; without ourselves in epoch 0.
    pub fn peers(&self, epoch: Epoch) -> &[PeerConfig] {
        self.get(epoch).map_or(&[], |planned| &planned.peers)
    }

    /// The epoch before this one ends with its first block at or after this time.
    pub fn starts_after(&self, epoch: Epoch) -> Timestamp {
        self.get(epoch).map_or(Timestamp(u64::MAX), |planned| planned.after)
    }

    /// True for the last block of its epoch.
    pub fn is_last(&self, header: &PayloadHeader) -> bool {
        let next = self.get(Epoch(header.epoch.0 + 1));
        next.is_some_and(|next| header.block_timestamp >= next.after)
    }

    /// The first epoch from this one on that a validator is a member of.
    pub fn next_epoch_of(&self, author: &Author, from: Epoch) -> Option<Epoch> {
        let mut epochs = (0..).zip(&self.epochs).skip_while(|(number, _)| *number < from.0);
        let member = epochs.find(|(_, planned)| planned.committee.index_of(author).is_some());
        member.map(|(number, _)| Epoch(number))
    }

    /// The newest addresses of everybody who is or was a member.
    pub fn everybody(&self) -> BTreeMap<Author, &PeerConfig> {
        self.epochs.iter().flat_map(|planned| &planned.peers).map(|peer| (peer.key, peer)).collect()
    }

    /// The same, as the library wants it.
    pub fn addresses(&self) -> Vec<Peer> {
        let peer = |peer: &PeerConfig| Peer { key: peer.key, address: peer.transport };
        self.everybody().into_values().map(peer).collect()
    }
}

impl EpochMemberFile {
    fn peer(&self) -> PeerConfig {
        let Self { key, transport, ordering, sync, .. } = *self;
        PeerConfig { key, transport, ordering, sync }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorum_store::types::{CommitIndex, Digest};

    use super::*;

    fn member(key: u8, power: u64) -> EpochMemberFile {
        let address: SocketAddr = format!("127.0.0.1:{}", 4000 + u16::from(key)).parse().unwrap();
        let (transport, ordering, sync) = (address, address, address);
        EpochMemberFile { key: Author([key; 32]), power, transport, ordering, sync }
    }

    fn epoch(number: u64, seconds: u64, members: &[(u8, u64)]) -> EpochFile {
        let validators = members.iter().map(|(key, power)| member(*key, *power)).collect();
        EpochFile { number, after: UNIX_EPOCH + Duration::from_secs(seconds), validators }
    }

    fn committee(keys: &[u8]) -> Committee {
        let member = |key: &u8| Member { author: Author([*key; 32]), power: 1 };
        Committee::new(keys.iter().map(member).collect()).unwrap()
    }

    fn plan(epochs: Vec<EpochFile>) -> Result<Plan, String> {
        Plan::new(committee(&[1, 2, 3, 4]), &[member(2, 1).peer()], &EpochsFile { epochs })
    }

    #[test]
    fn the_first_block_at_or_after_the_time_is_the_last_of_its_epoch() {
        let plan = plan(vec![
            epoch(1, 100, &[(2, 2), (3, 2), (4, 2), (5, 1)]),
            epoch(2, 200, &[(1, 1), (3, 1), (4, 1), (5, 1)]),
        ])
        .unwrap();
        let header = |epoch, seconds: u64| PayloadHeader {
            epoch: Epoch(epoch),
            height: CommitIndex(7),
            parent: Digest::default(),
            block_timestamp: Timestamp(seconds * 1_000_000),
            content_root: Digest::default(),
        };
        let last = [(0, 99), (0, 100), (0, 150), (1, 100), (1, 200), (2, 900)]
            .map(|(epoch, at)| plan.is_last(&header(epoch, at)));
        assert_eq!(last, [false, true, true, false, true, false]);
        let next = |key, from| plan.next_epoch_of(&Author([key; 32]), Epoch(from));
        assert_eq!((next(5, 0), next(2, 1), next(2, 2)), (Some(Epoch(1)), Some(Epoch(1)), None));
        assert_eq!(next(1, 1), Some(Epoch(2)));
        assert_eq!(plan.everybody().len(), 5);
    }

    #[test]
    fn a_file_reads_as_it_was_written_and_may_only_grow() {
        let first = epoch(1, 100, &[(2, 1), (3, 1), (4, 1), (5, 1)]);
        let second = epoch(2, 200, &[(2, 1), (3, 1), (4, 1), (6, 1)]);
        let file = EpochsFile { epochs: vec![first.clone(), second.clone()] };
        let text = toml::to_string(&file).unwrap();
        assert_eq!(toml::from_str::<EpochsFile>(&text).unwrap(), file);
        let (short, long) = (plan(vec![first]).unwrap(), plan(file.epochs).unwrap());
        assert!(long.extends(&short) && long.extends(&long) && !short.extends(&long));
    }

    #[test]
    fn gaps_times_that_go_back_and_powers_that_ordering_cannot_count_are_refused() {
        let four = [(2, 1), (3, 1), (4, 1), (5, 1)];
        assert!(plan(vec![epoch(2, 100, &four)]).unwrap_err().contains("missing"));
        let back = plan(vec![epoch(1, 100, &four), epoch(2, 100, &four)]);
        assert!(back.unwrap_err().contains("after the one before"));
        assert!(plan(vec![epoch(1, 100, &[(2, 1), (2, 1)])]).is_err());
        // Three of four order a block; without the first one they hold no quorum of power.
        let uneven = plan(vec![epoch(1, 100, &[(2, 2), (3, 1), (4, 1), (5, 1)])]);
        assert!(uneven.unwrap_err().contains("quorum"));
        assert!(plan(vec![epoch(1, 100, &[(2, 2), (3, 2), (4, 2), (5, 1)])]).is_ok());
    }
}
