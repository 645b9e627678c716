//! What every command that touches a validator's data starts from.

use std::path::{Path, PathBuf};

use quorum_store::crypto::{Ed25519Signer, Signer as _};
use quorum_store::sequencer::silent_until;
use quorum_store::store::journal::{JournalConfig, JournalStore};
use quorum_store::store::schema::StoreIdentity;
use quorum_store::types::{Author, ChainId, Digest, Epoch, Genesis, PayloadHeader};

use crate::clock;
use crate::config::ValidatorConfig;
use crate::config::epochs::Plan;
use crate::config::genesis::GenesisFile;
use crate::executor::{Executor, ExecutorError, Identity, Rules};
use crate::exit::Failure;
use crate::keys::{self, Seed};
use crate::replaced::JournalLost;

/// A data directory: the store, the execution state, the consensus journal, and what was chosen at
/// the last start.
#[derive(Clone, Debug)]
pub struct DataDirectory(PathBuf);

impl DataDirectory {
    /// Names a directory; touches nothing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The library's store. Its lock is the lock of the whole directory.
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// The executor's state.
    pub fn execution(&self) -> PathBuf {
        self.0.join("execution")
    }

    /// The journal of the ordering engine.
    pub fn consensus(&self) -> PathBuf {
        self.0.join("consensus")
    }

    /// Says that the journal of the ordering engine was lost, and when; see [`crate::replaced`].
    pub fn journal_lost(&self) -> PathBuf {
        self.0.join("journal-lost")
    }

    /// The addresses that this validator listens on.
    pub fn addresses(&self) -> PathBuf {
        self.0.join("addresses.json")
    }

    /// Makes the directory, durable up to its own entry, with a store and an execution state.
    ///
    /// The store comes last: a directory without it is not a data directory yet, so an interrupted
    /// creation may be repeated, and a complete one is never overwritten.
    pub fn create(
        &self,
        identity: Identity,
        genesis: PayloadHeader,
        storage: &JournalConfig,
    ) -> Result<(), Failure> {
        self.make(|| {
            Executor::create(&self.execution(), identity, genesis)?;
            let store = StoreIdentity { author: identity.author, chain: identity.chain };
            drop(JournalStore::create(&self.store(), store, storage)?);
            Ok(())
        })
    }

    /// The same in place of what this validator lost, of which nobody knows what it had signed.
    /// What was not lost stays.
    pub fn replace(&self, setup: &Setup) -> Result<(), Failure> {
        let identity = setup.identity();
        let now = clock::wall();
        self.make(|| {
            if !self.consensus().exists() {
                JournalLost::new(now).write(&self.journal_lost())?;
            }
            match Executor::create(&self.execution(), identity, setup.genesis.header()) {
                Ok(()) => {}
                Err(ExecutorError::Exists(_)) if !self.store().exists() => {
                    drop(Executor::open(&self.execution(), identity, setup.rules())?);
                }
                Err(error) => return Err(error.into()),
            }
            let store = StoreIdentity { author: identity.author, chain: identity.chain };
            let until = silent_until(now, &setup.genesis.parameters);
            let storage = &setup.config.storage;
            drop(JournalStore::replace(&self.store(), store, storage, until)?);
            Ok(())
        })
    }

    fn make(&self, fill: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let what = format!("data directory {}", self.0.display());
        std::fs::create_dir_all(&self.0).map_err(|error| Failure::write(&what, &error))?;
        fill()?;
        for directory in [&self.0, self.0.parent().unwrap_or(Path::new("."))] {
            let directory =
                if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            std::fs::File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|error| Failure::write(&what, &error))?;
        }
        Ok(())
    }
}

/// A config with everything it names, checked.
#[derive(Debug)]
pub struct Setup {
    /// The config.
    pub config: ValidatorConfig,
    /// The genesis.
    pub genesis: Genesis,
    /// Every epoch that was known at the start.
    pub plan: Plan,
    /// The secret seed.
    pub seed: Seed,
    /// Who this validator is.
    pub author: Author,
    /// The chain.
    pub chain: ChainId,
    /// Its data directory.
    pub data: DataDirectory,
    /// While this file exists, only empty payloads are proposed.
    pub hold_proposals: Option<PathBuf>,
}

impl Setup {
    /// Reads a config, its genesis and its key, and checks that they fit each other.
    pub fn read(config: &Path) -> Result<Self, Failure> {
        let config = ValidatorConfig::read(config)?;
        let genesis = GenesisFile::read(&config.genesis)?;
        let seed = keys::read(&config.key_file)?;
        let author = Ed25519Signer::new(&seed).author();
        let plan = Plan::read(genesis.committee.clone(), &config.peers, &config.epochs)?;
        if plan.next_epoch_of(&author, Epoch(0)).is_none() {
            return Err(Failure::usage(format!(
                "the key in {} is that of {author}, which is not in the committee of {} and in \
                 none of {}",
                config.key_file.display(),
                config.genesis.display(),
                config.epochs.display()
            )));
        }
        config.validate(&genesis.parameters, &genesis.committee, &author)?;
        let chain = genesis.chain_id();
        let data = DataDirectory::new(&config.data_dir);
        Ok(Self { config, genesis, plan, seed, author, chain, data, hold_proposals: None })
    }

    /// Whom the data directory belongs to.
    pub fn identity(&self) -> Identity {
        Identity { author: self.author, chain: self.chain }
    }

    /// The digest of block 0.
    pub fn genesis_digest(&self) -> Digest {
        self.genesis.header().digest(&self.chain)
    }

    /// What execution needs to know of the chain.
    pub fn rules(&self) -> Rules {
        Rules {
            transaction_life_max: self.genesis.parameters.transaction_life_max(),
            blocks_kept: self.config.execution.blocks_kept,
        }
    }

    /// False in an epoch in which this validator may have voted before it lost its journal.
    pub fn may_vote(&self, plan: &Plan, epoch: Epoch) -> Result<bool, Failure> {
        let lost = JournalLost::read(&self.data.journal_lost())?;
        let allowance = self.genesis.parameters.clock_allowance();
        Ok(lost.is_none_or(|lost| lost.may_vote(plan, epoch, allowance)))
    }

    /// Takes the lock of the data directory and opens what is in it.
    pub fn open(&self) -> Result<(JournalStore, Executor), Failure> {
        let identity = StoreIdentity { author: self.author, chain: self.chain };
        let store = JournalStore::open(&self.data.store(), identity, &self.config.storage)?;
        let executor = Executor::open(&self.data.execution(), self.identity(), self.rules())?;
        Ok((store, executor))
    }
}
