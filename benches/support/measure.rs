//! What every comparison needs: what this process used, settings from the environment, and medians.

#![allow(dead_code, reason = "each benchmark uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on must stop"
)]

use std::time::Duration;

/// Processor time of this process since it began, and bytes it wrote to storage.
pub fn usage() -> (Duration, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    // User and system time, in hundredths of a second.
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    (Duration::from_millis(ticks * 10), written.parse().unwrap())
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// True if the environment picks nothing, or this among others.
pub fn picked(name: &str, value: &str) -> bool {
    std::env::var(name).map_or(true, |wanted| wanted.split(',').any(|wanted| wanted == value))
}

/// True unless this only has to run once, as under `cargo test`.
pub fn in_earnest() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median and the slowest of a hundred.
pub fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |hundredths| times.get(times.len() * hundredths / 100).copied().unwrap_or_default();
    (at(50), at(99))
}

/// Bytes that do not compress, to be cut at different places.
pub fn noise() -> bytes::Bytes {
    const LENGTH: usize = 4 << 20;
    let mut bytes = vec![0; LENGTH];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes.into()
}
