//! `validator init`: makes one data directory, on purpose.

use std::path::PathBuf;

use crate::exit::Failure;
use crate::setup::Setup;

/// Arguments of `validator init`.
#[derive(Debug, clap::Args)]
pub struct InitArguments {
    /// Config of the validator whose data directory is made
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Makes the data directory. An existing one is never touched.
pub fn run(arguments: &InitArguments) -> Result<(), Failure> {
    let setup = Setup::read(&arguments.config)?;
    let storage = &setup.config.storage;
    setup.data.create(setup.identity(), setup.genesis.header(), storage)?;
    println!("created {} for validator {}", setup.data.path().display(), setup.author);
    eprintln!(
        "It is for a validator that never ran: one that did must not start on it, because an empty \
         store does not know what was signed with this key."
    );
    Ok(())
}
