//! What the system knows of a process: processor time and memory.

/// Units of processor time in `/proc`: fixed at 100 per second towards user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Of one process; absent where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// Processor time, user and system.
    pub cpu_seconds: Option<f64>,
    /// Largest resident size.
    pub rss_bytes_max: Option<u64>,
    /// Resident size.
    pub rss_bytes: Option<u64>,
    /// How often it was killed and started again.
    pub restarts: u64,
    /// Processor time of the lives before this one.
    pub former_cpu_seconds: f64,
}

impl ProcessUsage {
    /// Another process follows; what this one used stays counted.
    pub fn on_restart(&mut self) {
        self.restarts += 1;
        self.former_cpu_seconds = self.cpu_seconds.unwrap_or_default();
    }

    /// Reads it anew; what cannot be read any more stays as it was.
    pub fn update(&mut self, id: u32) {
        let read = |file| std::fs::read_to_string(format!("/proc/{id}/{file}")).ok();
        if let Some(seconds) = read("stat").as_deref().and_then(cpu_seconds) {
            self.cpu_seconds = Some(self.former_cpu_seconds + seconds);
        }
        if let Some(status) = read("status") {
            self.rss_bytes_max = self.rss_bytes_max.max(kilobytes(&status, "VmHWM:"));
            self.rss_bytes = kilobytes(&status, "VmRSS:").or(self.rss_bytes);
        }
    }
}

/// From `/proc/<id>/stat`: fields 14 and 15. The name before them may hold anything, so fields are
/// counted from its closing parenthesis.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

/// From `/proc/<id>/status`: a size, in units of 1024 bytes.
fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_a_hostile_name() {
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("12 (a) S 1 2"), None);
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t1 kB\n";
        assert_eq!(kilobytes(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(kilobytes(status, "VmRSS:"), Some(1 << 10));
        assert_eq!(kilobytes("Name:\tx\n", "VmHWM:"), None);
    }

    #[test]
    fn a_running_process_is_measured_and_a_gone_one_keeps_its_last_values() {
        let mut usage = ProcessUsage::default();
        usage.update(std::process::id());
        assert!(usage.cpu_seconds.is_some() && usage.rss_bytes_max > Some(1 << 16), "{usage:?}");
        assert!(usage.rss_bytes > Some(1 << 16), "{usage:?}");
        let before = usage;
        usage.update(u32::MAX);
        assert_eq!(usage, before);
    }

    #[test]
    fn what_a_former_life_used_stays_counted() {
        let mut usage = ProcessUsage { cpu_seconds: Some(1e6), ..ProcessUsage::default() };
        usage.on_restart();
        usage.update(std::process::id());
        assert!(usage.cpu_seconds >= Some(1e6), "{usage:?}");
        assert_eq!(usage.restarts, 1);
    }
}
