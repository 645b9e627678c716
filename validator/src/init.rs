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
    /// This key never ran: the validator signs from its first moment on. Without it the directory
    /// replaces one that was lost
    #[arg(long)]
    never_ran: bool,
}

/// Makes the data directory. An existing one is never touched.
pub fn run(arguments: &InitArguments) -> Result<(), Failure> {
    let setup = Setup::read(&arguments.config)?;
    let path = setup.data.path().display();
    if arguments.never_ran {
        let storage = &setup.config.storage;
        setup.data.create(setup.identity(), setup.genesis.header(), storage)?;
        println!("created {path} for validator {}", setup.author);
        return Ok(());
    }
    setup.data.replace(&setup)?;
    println!("created {path} for validator {}, in place of one that was lost", setup.author);
    let parameters = &setup.genesis.parameters;
    let wait = parameters.batch_lifetime() + 2 * parameters.clock_allowance();
    eprintln!(
        "It signs for no batch for {} s, because nobody knows what was signed with this key{}.",
        wait.as_secs(),
        if setup.data.journal_lost().exists() {
            ", and does not vote for blocks before an epoch that begins later than now"
        } else {
            ""
        }
    );
    Ok(())
}
