//! The bodies of the fuzz targets: plain functions from bytes to nothing that panic when a claim
//! does not hold.
//!
//! A fuzzer calls them with bytes of its own (`fuzz_targets/`); `tests/corpus.rs` calls them with
//! the committed corpus on the stable compiler, so that the corpus is a regression test; and each
//! binary, built without a fuzzer, runs the files that it is given, which reproduces a crash under
//! a debugger. See `README.md` for what each claims.

#![forbid(unsafe_code)]

pub mod decode_message;
pub mod recover;
pub mod samples;
pub mod sequencer_operations;
pub mod verify_proof;
pub mod world;

/// Runs a target on the files named on the command line.
///
/// # Errors
///
/// If one cannot be read.
pub fn run_files(target: fn(&[u8])) -> std::io::Result<()> {
    for path in std::env::args_os().skip(1) {
        target(&std::fs::read(&path)?);
        println!("{}: ok", path.display());
    }
    Ok(())
}
