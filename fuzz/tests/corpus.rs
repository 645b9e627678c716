//! The committed corpus as a regression test, without a fuzzer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fs;
use std::path::Path;

use quorum_store_fuzz::{decode_message, recover, sequencer_operations, verify_proof};

/// A name, and what runs one input.
type Target = (&'static str, fn(&[u8]));

/// One after the other, because `decode_message` measures what the process allocates.
#[test]
fn every_file_of_the_corpus_passes_its_target() {
    let targets: [Target; 4] = [
        ("decode_message", decode_message::run),
        ("verify_proof", verify_proof::run),
        ("sequencer_operations", sequencer_operations::run),
        ("recover", recover::run),
    ];
    for (name, run) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 10, "only {} files in {}", files.len(), folder.display());
        for file in files {
            // Shown when the test fails: the input that broke the claim.
            println!("{}", file.display());
            run(&fs::read(&file).unwrap());
        }
    }
}
