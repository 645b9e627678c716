//! Validators as real processes, each with everything on a disk of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::fs::{Mount, Power};
use super::http::get;

/// A start, with links and a first block, takes no longer on any machine.
const READY_PATIENCE: Duration = Duration::from_mins(1);
/// Nobody tells us when a process is ready, so it is asked this often.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// The validator that is built beside this suite.
pub fn binary() -> PathBuf {
    let suite = std::env::current_exe().unwrap();
    let binary = suite.parent().and_then(Path::parent).unwrap().join("validator");
    assert!(binary.exists(), "{} is missing: run `make power-loss`", binary.display());
    binary
}

/// Asks until it holds.
pub fn until(what: &str, patience: Duration, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "stuck: {what}");
        std::thread::sleep(ASK_INTERVAL);
    }
}

/// One validator: its config, its disk, and its process while it runs.
pub struct Validator {
    pub disk: Power,
    pub address: String,
    config: PathBuf,
    log: PathBuf,
    process: Option<(Child, ChildStdin)>,
}

/// A generated network.
pub struct Network {
    pub validators: Vec<Validator>,
    directory: tempfile::TempDir,
}

impl Network {
    /// Generates the configs, and moves each data directory to a disk of its own.
    pub fn generate(mount: &Mount, name: &str, validators: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let net = directory.path().join("net");
        let mut generate = Command::new(binary());
        generate.args(["generate", "--validators", &validators.to_string(), "--dir"]).arg(&net);
        let generated = generate.output().unwrap();
        assert!(generated.status.success(), "{generated:?}");
        let one = |index| {
            let data = net.join(format!("validator-{index}"));
            let disk = mount.disk(&format!("{name}-{index}"));
            copy(&data, &disk.path().join("data"));
            disk.set(super::fs::Disk::persist);
            let config = net.join(format!("validator-{index}.toml"));
            let address = configure(&config, &disk.path().join("data"));
            let log = net.join(format!("validator-{index}.log"));
            Validator { disk, address, config, log, process: None }
        };
        let validators = (0..validators).map(one).collect();
        Self { validators, directory }
    }

    pub fn start(&mut self) {
        self.validators.iter_mut().for_each(Validator::start);
        for validator in &self.validators {
            let is_ready = || get(&validator.address, "/ready").is_some();
            let ready = std::panic::AssertUnwindSafe(|| until("ready", READY_PATIENCE, is_ready));
            let is_up = std::panic::catch_unwind(ready).is_ok();
            assert!(is_up, "a validator is not ready; its log:\n{}", validator.log());
        }
    }

    /// The power of all goes at one instant; the processes end of it, or are ended.
    pub fn power_off(&mut self) {
        let disks: Vec<_> =
            self.validators.iter().map(|validator| validator.disk.clone()).collect();
        Power::off(&disks);
        self.validators.iter_mut().for_each(Validator::kill);
    }

    /// Keeps configs and logs for whoever looks into a failure.
    pub fn keep(self) -> PathBuf {
        self.directory.keep()
    }
}

/// The data directory is on the disk; says where clients connect.
fn configure(config: &Path, data: &Path) -> String {
    let text = fs::read_to_string(config).unwrap();
    let lines = text.lines().map(|line| match line.split(' ').next() {
        Some("data_dir") => format!("data_dir = {:?}", data.to_str().unwrap()),
        _ => line.to_owned(),
    });
    let changed: Vec<String> = lines.collect();
    fs::write(config, changed.join("\n")).unwrap();
    let listen = text.lines().find(|line| line.starts_with("http_listen")).unwrap();
    listen.split('"').nth(1).unwrap().to_owned()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Validator {
    pub fn start(&mut self) {
        // The ordering engine relies on `syncfs` at start, which does not reach this file system.
        self.disk.set(super::fs::Disk::persist);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut child = Command::new(binary())
            .args(["run", "--end-with-stdin", "--config"])
            .arg(&self.config)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        self.process = Some((child, input));
    }

    fn kill(&mut self) {
        if let Some((mut child, _input)) = self.process.take() {
            // It may have ended of the cut already.
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// Waits for the end of the process, however it came.
    pub fn wait(&mut self) -> ExitStatus {
        let (mut child, _input) = self.process.take().unwrap();
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() >= deadline {
                let _ = child.kill();
                panic!("it does not end; its log:\n{}", self.log());
            }
            std::thread::sleep(ASK_INTERVAL);
        }
    }

    /// The end of what it said.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub fn store(&self) -> PathBuf {
        self.disk.path().join("data/store")
    }

    /// `validator check` of its data directory.
    pub fn check(&self) {
        let data = self.disk.path().join("data");
        let checked = Command::new(binary())
            .args(["check", "--json", "--data-dir"])
            .arg(data)
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "not sound: {}",
            String::from_utf8_lossy(&checked.stdout)
        );
    }
}

impl Drop for Validator {
    fn drop(&mut self) {
        self.kill();
    }
}
