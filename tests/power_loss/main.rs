//! Nothing that was promised is ever lost: the real engine on the real store, on a disk whose power
//! can be cut. See `README.md` beside this file; `make power-loss` runs all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[cfg(target_os = "linux")]
#[path = "suite.rs"]
mod suite;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    suite::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("power loss: no FUSE on this system, nothing was cut; run it on Linux as root");
}
