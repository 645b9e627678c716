//! t
/// t
pub fn run(_: &[u8]) {}
