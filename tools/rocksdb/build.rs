//! Copies the freshly built `librocksdb.a` to `$ROCKSDB_ONCE_OUT`.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=ROCKSDB_ONCE_OUT");
    let built = env::var_os("DEP_ROCKSDB_OUT_DIR").expect("librocksdb-sys prints cargo:out_dir");
    let out = env::var_os("ROCKSDB_ONCE_OUT").expect("set ROCKSDB_ONCE_OUT to a directory");
    let library = PathBuf::from(built).join("librocksdb.a");
    let out = PathBuf::from(out);
    fs::create_dir_all(&out).expect("create ROCKSDB_ONCE_OUT");
    // Rename last, so that a half-written library is never taken for a whole one.
    let partial = out.join("librocksdb.a.partial");
    fs::copy(&library, &partial).expect("copy librocksdb.a");
    fs::rename(&partial, out.join("librocksdb.a")).expect("rename librocksdb.a");
}
