//! Nothing to see: the work is in `build.rs`.
