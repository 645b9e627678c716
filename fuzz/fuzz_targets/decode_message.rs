//! See `quorum_store_fuzz::decode_message`.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| quorum_store_fuzz::decode_message::run(data));

/// Without a fuzzer: runs the files that are named.
#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    quorum_store_fuzz::run_files(quorum_store_fuzz::decode_message::run)
}
