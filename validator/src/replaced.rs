//! A validator that lost its disk comes back: what it must not sign, and until when.
//!
//! | lost | what it does not know | so |
//! |---|---|---|
//! | the store | which batches it signed | its new store signs for none until all of those have expired; the library sees to it |
//! | the ordering journal | what it voted for | it follows and does not vote, in epochs that may have begun before the loss |
//!
//! The second is a file in the data directory with the time of the loss; a restart does not forget
//! it. It is written before the new store is, so there is no store without it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use quorum_store::types::{Epoch, Timestamp};

use crate::config::epochs::Plan;
use crate::exit::Failure;

/// Since when a validator has a new ordering journal in place of one that it lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLost {
    at: Timestamp,
}

impl JournalLost {
    /// Now, by this validator's clock.
    pub fn new(at: Timestamp) -> Self {
        Self { at }
    }

    /// Durable when this returns.
    pub fn write(self, path: &Path) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let mut file = File::create(path)?;
            writeln!(file, "{}", self.at.0)?;
            file.sync_all()?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|error| Failure::write(&path.display().to_string(), &error))
    }

    /// What is on record; `None` if nothing was lost.
    pub fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::Storage(format!("cannot read {}: {error}", path.display())));
            }
        };
        // Whatever is not a time is not forgotten either.
        let at = text.trim().parse().map_or(Timestamp(u64::MAX), Timestamp);
        Ok(Some(Self { at }))
    }

    /// True if this epoch had not begun when the journal was lost, so that nothing can have been
    /// signed in it. Clocks may differ.
    pub fn may_vote(self, plan: &Plan, epoch: Epoch, clock_allowance: Duration) -> bool {
        plan.committee(epoch).is_some()
            && plan.starts_after(epoch) > self.at.saturating_add(2 * clock_allowance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_does_not_forget_and_what_cannot_be_read_is_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lost");
        assert_eq!(JournalLost::read(&path).unwrap(), None);
        let lost = JournalLost::new(Timestamp(17));
        lost.write(&path).unwrap();
        assert_eq!(JournalLost::read(&path).unwrap(), Some(lost));
        fs::write(&path, "").unwrap();
        let torn = JournalLost::read(&path).unwrap().unwrap();
        assert_eq!(torn, JournalLost::new(Timestamp(u64::MAX)));
    }
}
