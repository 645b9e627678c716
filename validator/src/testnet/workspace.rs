//! The directory of a run: keys, configs, data directories and logs.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::config::ValidatorConfig;
use crate::exit::Failure;
use crate::load::client::Target;
use crate::load::fresh_seed;

/// One validator of the run.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number, from 0 in the order of the configs.
    pub index: usize,
    /// Its config.
    pub config: PathBuf,
    /// Its data directory.
    pub data_directory: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// Its HTTP address.
    pub target: Target,
}

/// The directory.
pub struct Workspace {
    path: PathBuf,
    temporary: bool,
}

impl Workspace {
    /// Takes a directory that is empty or missing, or makes a temporary one that only this user
    /// can read: it will hold secret keys.
    pub fn prepare(given: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = given else { return Self::temporary() };
        let fail = |error| Failure::usage(format!("cannot use {}: {error}", path.display()));
        match std::fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let path = path.display();
                    return Err(Failure::usage(format!("{path} is not empty; name a new one")));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(path)
                    .map_err(fail)?;
            }
            Err(error) => return Err(fail(error)),
        }
        // Absolute, so that it means the same to the validators.
        let path = path.canonicalize().map_err(fail)?;
        Ok(Self { path, temporary: false })
    }

    fn temporary() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("quorum-store-{:016x}", fresh_seed()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::other(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self { path, temporary: true })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The validators that were generated here, in the order of their numbers.
    pub fn members(&self, validators: u32) -> Result<Vec<Member>, Failure> {
        let fail = |error| Failure::other(format!("cannot read {}: {error}", self.path.display()));
        let mut configs = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            configs.extend(config_number(&path).map(|number| (number, path)));
        }
        configs.sort();
        if configs.len() != validators as usize {
            let found = configs.len();
            return Err(Failure::other(format!("{found} configs instead of {validators}")));
        }
        let numbered = configs.into_iter().enumerate();
        numbered.map(|(index, (_, config))| self.member(index, config)).collect()
    }

    fn member(&self, index: usize, path: PathBuf) -> Result<Member, Failure> {
        let config = ValidatorConfig::read(&path)?;
        let target = Target::parse(&config.network.http_listen.to_string());
        Ok(Member {
            index,
            config: path,
            data_directory: config.data_dir,
            log: self.path.join(format!("validator-{index}.log")),
            target: target.map_err(Failure::other)?,
        })
    }

    /// Removes it if it is temporary; a directory that was given stays.
    pub fn remove(self) -> Result<(), Failure> {
        if !self.temporary {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.path).map_err(|error| {
            Failure::other(format!("cannot remove {}: {error}", self.path.display()))
        })
    }
}

/// The number in `validator-<number>.toml`.
fn config_number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix("validator-")?.strip_suffix(".toml")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_or_missing_directory_is_taken_and_never_removed() {
        let outer = Workspace::temporary().expect("a temporary directory");
        let inner = outer.path().join("deep/er");
        let taken = Workspace::prepare(Some(&inner)).expect("missing");
        taken.remove().expect("kept");
        assert!(Workspace::prepare(Some(&inner)).is_ok(), "still there, and empty");
        std::fs::write(inner.join("file"), b"x").expect("a file");
        assert!(Workspace::prepare(Some(&inner)).is_err());
        let path = outer.path().to_owned();
        outer.remove().expect("temporary");
        assert!(!path.exists());
    }

    #[test]
    fn configs_are_found_by_their_number() {
        assert_eq!(config_number(Path::new("a/validator-12.toml")), Some(12));
        for other in ["validator-.toml", "validator-1.log", "genesis.toml", "validator-a.toml"] {
            assert_eq!(config_number(Path::new(other)), None, "{other}");
        }
    }
}
