//! The processes of a run: started, watched, stopped.
//!
//! A validator ends when its standard input closes; ours holds the other end. Signals from the
//! terminal do not reach it, because it leads a process group of its own. Whoever does not end in
//! time is killed, and that is a violation.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, timeout, timeout_at};

use super::process::ProcessUsage;
use super::workspace::Member;
use crate::exit::Failure;

/// A validator drains within 10 s by default; a little more, before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
const KILL_DEADLINE: Duration = Duration::from_secs(5);
const LOG_LINES: usize = 20;
const LOG_BYTES: u64 = 64 << 10;

struct Process {
    member: Member,
    child: Child,
    stdin: Option<ChildStdin>,
    usage: ProcessUsage,
    /// Its failure was told already.
    reported: bool,
}

/// The processes.
pub struct Cluster {
    processes: Vec<Process>,
    /// While this file exists, nothing is proposed.
    hold: Option<PathBuf>,
}

impl Cluster {
    /// Starts `binary run` for every member. Those already started are killed if one cannot be.
    pub fn start(
        binary: &Path,
        members: &[Member],
        hold: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let started = members.iter().map(|member| {
            Process::start(binary, member, hold.as_deref()).map_err(|error| {
                Failure::other(format!("cannot start validator {}: {error}", member.index))
            })
        });
        let processes = started.collect::<Result<_, _>>()?;
        Ok(Self { processes, hold })
    }

    /// Starts one more.
    pub fn add(&mut self, binary: &Path, member: &Member) -> Result<(), Failure> {
        let started = Process::start(binary, member, self.hold.as_deref()).map_err(|error| {
            Failure::other(format!("cannot start validator {}: {error}", member.index))
        });
        self.processes.push(started?);
        Ok(())
    }

    /// Tells everybody to read the plan of epochs again.
    pub fn reload(&self) -> Result<(), Failure> {
        for process in &self.processes {
            let id = process.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            // One that has ended is told of elsewhere.
            let Some(id) = id else { continue };
            kill_process(id, Signal::HUP)
                .map_err(|error| Failure::other(format!("cannot send a signal: {error}")))?;
        }
        Ok(())
    }

    /// Those that ended although nobody asked them to, with the end of their logs; each is told
    /// once.
    pub fn failures(&mut self) -> Vec<String> {
        let ended = |process: &mut Process| {
            let failure = match process.child.try_wait() {
                Ok(None) => return None,
                Ok(Some(status)) => process.describe_failure(status),
                Err(error) => format!("validator {} is gone: {error}", process.member.index),
            };
            process.reported = true;
            Some(failure)
        };
        self.processes.iter_mut().filter(|process| !process.reported).filter_map(ended).collect()
    }

    /// Kills a validator as a power cut of its process would, and starts it again.
    pub async fn restart(&mut self, binary: &Path, index: usize) -> Result<(), Failure> {
        self.kill(index).await;
        self.start_again(binary, index)
    }

    /// Kills a validator, to be started again.
    pub async fn kill(&mut self, index: usize) {
        let Some(process) = self.processes.get_mut(index) else { return };
        if process.reported {
            return;
        }
        if let Some(id) = process.child.id() {
            process.usage.update(id);
        }
        process.kill().await;
    }

    /// Starts a validator that was killed.
    pub fn start_again(&mut self, binary: &Path, index: usize) -> Result<(), Failure> {
        let hold = self.hold.clone();
        let Some(process) = self.processes.get_mut(index) else { return Ok(()) };
        if process.reported {
            return Ok(());
        }
        let mut usage = process.usage;
        usage.on_restart();
        let started =
            Process::start(binary, &process.member, hold.as_deref()).map_err(|error| {
                Failure::other(format!("cannot start validator {index} again: {error}"))
            })?;
        *process = Process { usage, ..started };
        Ok(())
    }

    /// Measures every process.
    pub fn measure(&mut self) {
        for process in &mut self.processes {
            if let Some(id) = process.child.id() {
                process.usage.update(id);
            }
        }
    }

    /// As last measured.
    pub fn usages(&self) -> Vec<ProcessUsage> {
        self.processes.iter().map(|process| process.usage).collect()
    }

    /// Processor time of all, as last measured.
    pub fn cpu_seconds(&self) -> Option<f64> {
        self.processes.iter().map(|process| process.usage.cpu_seconds).sum()
    }

    /// The last lines of a validator's log.
    pub fn log_tail(&self, index: usize) -> String {
        let process = self.processes.get(index);
        process.map(|process| log_tail(&process.member.log)).unwrap_or_default()
    }

    /// Closes the standard inputs and waits; kills who does not end in time, or all once `insisted`
    /// completes. Returns what went wrong and was not told before.
    pub async fn stop(&mut self, insisted: impl Future<Output = ()>) -> Vec<String> {
        for process in &mut self.processes {
            drop(process.stdin.take());
        }
        let mut violations = Vec::new();
        let deadline = Instant::now() + STOP_DEADLINE;
        tokio::pin!(insisted);
        let mut patient = true;
        for process in &mut self.processes {
            let ended = tokio::select! {
                ended = timeout_at(deadline, process.child.wait()), if patient => Some(ended),
                () = &mut insisted, if patient => None,
                else => None,
            };
            patient &= ended.is_some();
            let index = process.member.index;
            match ended {
                _ if process.reported => {}
                Some(Ok(Ok(status))) if status.success() => {}
                Some(Ok(Ok(status))) => violations.push(process.describe_failure(status)),
                Some(Ok(Err(error))) => {
                    violations.push(format!("validator {index} is gone: {error}"));
                }
                Some(Err(_)) | None => {
                    process.kill().await;
                    violations.push(format!("validator {index} did not stop and was killed"));
                }
            }
        }
        violations
    }
}

impl Process {
    fn start(binary: &Path, member: &Member, hold: Option<&Path>) -> std::io::Result<Self> {
        // A validator that is started again goes on with its log.
        let log = OpenOptions::new().create(true).append(true).open(&member.log)?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(&member.config).arg("--end-with-stdin");
        if let Some(file) = hold {
            command.arg("--hold-proposals").arg(file);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        Ok(Self {
            member: member.clone(),
            child,
            stdin,
            usage: ProcessUsage::default(),
            reported: false,
        })
    }

    async fn kill(&mut self) {
        // It may have ended meanwhile; dropping it kills it as well.
        let _ = timeout(KILL_DEADLINE, self.child.kill()).await;
    }

    fn describe_failure(&self, status: ExitStatus) -> String {
        let (index, tail) = (self.member.index, log_tail(&self.member.log));
        format!("validator {index} failed ({status}); the end of its log:\n{tail}")
    }
}

/// The last lines of a file, whatever its size and content.
fn log_tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(LOG_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
        }
        Err(error) => format!("(cannot be read: {error})"),
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
pub(super) mod tests;
