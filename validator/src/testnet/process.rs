//! What the system knows of a process: processor time and memory.

use crate::process::{cpu_seconds, kilobytes};

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

#[cfg(test)]
mod tests {
    use super::*;

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
