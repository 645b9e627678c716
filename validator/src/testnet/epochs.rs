//! Which committee orders in which part of a run. Pure, but for the file.
//!
//! All but one of the validators are in the committee of each epoch. With each epoch one leaves,
//! the one that was out joins, and the powers change. Which epoch begins when is known only once
//! the first committee is ready, so the file is written then, and everybody is told to read it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::PeerConfig;
use crate::config::epochs::{EpochFile, EpochMemberFile, EpochsFile};
use crate::exit::Failure;

/// An epoch shorter than this ends before it has begun everywhere.
pub const EPOCH_MIN: Duration = Duration::from_secs(2);

/// Powers are this, but for one member in each epoch whose power is one less: as unequal as an
/// ordering engine that counts heads can bear for any number of them.
const POWER: u64 = 3;

/// The epochs of a run.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// How many there are.
    pub epochs: u32,
    /// Every validator, in the order of their numbers.
    pub validators: Vec<PeerConfig>,
    /// The file that all of them read.
    pub path: PathBuf,
}

impl Rotation {
    /// Who is out in the first epoch.
    pub fn last(&self) -> usize {
        self.validators.len() - 1
    }

    /// Who is out in an epoch.
    fn out(&self, epoch: u32) -> usize {
        (epoch as usize + self.last()) % self.validators.len()
    }

    /// The plan of a window.
    fn plan(&self, start: SystemTime, duration: Duration) -> EpochsFile {
        let epochs = (1..self.epochs).map(|number| EpochFile {
            number: u64::from(number),
            after: start + duration * number / self.epochs,
            validators: self.members(number),
        });
        EpochsFile { epochs: epochs.collect() }
    }

    fn members(&self, epoch: u32) -> Vec<EpochMemberFile> {
        let out = self.out(epoch);
        let weak = (out + 1 + epoch as usize) % self.validators.len();
        let weak = if weak == out { (weak + 1) % self.validators.len() } else { weak };
        let members = self.validators.iter().enumerate().filter(|(index, _)| *index != out);
        let member = |(index, peer): (usize, &PeerConfig)| EpochMemberFile {
            key: peer.key,
            power: POWER - u64::from(index == weak),
            transport: peer.transport,
            ordering: peer.ordering,
            sync: peer.sync,
        };
        members.map(member).collect()
    }

    /// Writes the plan of a window that begins at a time.
    pub fn write(&self, start: SystemTime, duration: Duration) -> Result<(), Failure> {
        let text = toml::to_string(&self.plan(start, duration))
            .map_err(|error| Failure::other(format!("cannot write the epochs: {error}")))?;
        let new = self.path.with_extension("new");
        // Renamed into place, so that nobody reads half of it.
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &self.path))
            .map_err(|error| Failure::write(&self.path.display().to_string(), &error))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use quorum_store::types::Author;

    use super::*;

    fn rotation(validators: u8, epochs: u32) -> Rotation {
        let address = "127.0.0.1:1".parse().expect("an address");
        let (transport, ordering, sync) = (address, address, address);
        let peer = |key| PeerConfig { key: Author([key; 32]), transport, ordering, sync };
        let validators = (0..validators).map(peer).collect();
        Rotation { epochs, validators, path: PathBuf::new() }
    }

    #[test]
    fn with_each_epoch_one_leaves_one_joins_and_powers_change() {
        let rotation = rotation(5, 9);
        let plan = rotation.plan(SystemTime::UNIX_EPOCH, Duration::from_secs(90));
        assert_eq!(plan.epochs.len(), 8);
        let all: BTreeSet<Author> = rotation.validators.iter().map(|peer| peer.key).collect();
        let first = rotation.validators[..4].iter().map(|peer| (peer.key, 1)).collect();
        let mut before: BTreeSet<(Author, u64)> = first;
        for (epoch, number) in plan.epochs.iter().zip(1..) {
            assert_eq!(epoch.number, number);
            assert_eq!(epoch.after, SystemTime::UNIX_EPOCH + Duration::from_secs(number * 10));
            let now: BTreeSet<_> = epoch.validators.iter().map(|m| (m.key, m.power)).collect();
            let keys = |set: &BTreeSet<(Author, u64)>| -> BTreeSet<Author> {
                set.iter().map(|(key, _)| *key).collect()
            };
            let (old, new) = (keys(&before), keys(&now));
            assert_eq!((new.len(), old.difference(&new).count()), (4, 1));
            let joined: Vec<_> = new.difference(&old).collect();
            assert_eq!(joined, all.difference(&old).collect::<Vec<_>>());
            let stayed = |(key, power): &(Author, u64)| {
                old.contains(key) && !before.contains(&(*key, *power))
            };
            assert!(now.iter().any(stayed), "epoch {number}");
            before = now;
        }
    }

    #[test]
    fn every_committee_is_one_that_the_ordering_engine_can_count() {
        use quorum_store::types::Committee;
        use quorum_store::types::committee::Member;
        for validators in 2..=64 {
            let rotation = rotation(validators, 4);
            for epoch in 1..4 {
                let members = rotation.members(epoch);
                let members = members.iter().map(|m| Member { author: m.key, power: m.power });
                let committee = Committee::new(members.collect()).expect("a committee");
                crate::config::genesis::check_powers(&committee).expect("equal enough");
            }
        }
    }
}
