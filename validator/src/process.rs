//! What the system says about this process.

use std::fs;

/// Ticks per second of the times in `/proc`: fixed by Linux for user space on every platform that
/// this builds for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Use of the machine; a field is absent where the system does not tell.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct ProcessUse {
    /// Processor time of all threads, user and system.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
    /// The most there was of it.
    pub rss_bytes_max: Option<u64>,
    /// Bytes that this process caused to be written to storage: its logs, flushes, compactions,
    /// the ordering engine's journal and the executor's state included.
    pub bytes_written: Option<u64>,
}

/// Asks the system.
pub fn process_use() -> ProcessUse {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    ProcessUse {
        bytes_written: bytes(&io, "write_bytes:"),
        cpu_seconds: cpu_seconds(&stat),
        rss_bytes: kilobytes(&status, "VmRSS:"),
        rss_bytes_max: kilobytes(&status, "VmHWM:"),
    }
}

/// From `/proc/<id>/stat`: fields 14 and 15. The name before them may hold anything, so fields are
/// counted from its closing parenthesis.
pub fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

fn bytes(io: &str, name: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// From `/proc/<id>/status`: a size, in units of 1024 bytes.
pub fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_whatever_the_name_of_the_process() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("garbage"), None);
        let io = "wchar: 9\nread_bytes: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 2\n";
        assert_eq!(bytes(io, "write_bytes:"), Some(4096));
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(kilobytes(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(kilobytes(status, "Absent:"), None);
    }
}
