//! Writes the seeds of the corpus that are encoded values: `cargo run --example seed`.

use std::fs;
use std::path::Path;

use quorum_store_fuzz::samples;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folder = corpus.join("decode_message");
    fs::create_dir_all(&folder)?;
    for (name, frame) in samples::frames() {
        fs::write(folder.join(format!("seed-{name}")), frame)?;
    }
    Ok(())
}
