//! Wrong use of the real binary: each case ends with its documented exit code, and with a message
//! that says what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

use std::fs::{self, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No command may take longer, on any machine.
const PATIENCE: Duration = Duration::from_mins(1);

const USAGE: i32 = 2;
const STORAGE: i32 = 10;
const DISK_FULL: i32 = 11;
const DAMAGED: i32 = 12;
const IN_USE: i32 = 13;
const UNSOUND: i32 = 14;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_validator"));
    // What is said must be said without a log.
    command.args(arguments).env("RUST_LOG", "off");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end. Its standard input stays open meanwhile and closes with this test.
fn output(arguments: &[&str]) -> Output {
    let mut child = command(arguments).spawn().unwrap();
    let input = child.stdin.take();
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = ended.recv_timeout(PATIENCE).expect("the command ends in time").unwrap();
    drop(input);
    output
}

/// Runs a command that must fail with `code` and say each of `parts`.
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = output(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?} said: {said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}

/// A generated chain of two validators.
struct Chain {
    directory: PathBuf,
    _temporary: Option<TempDir>,
}

impl Chain {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let chain = Self::inside(temporary.path());
        Self { _temporary: Some(temporary), ..chain }
    }

    fn inside(parent: &Path) -> Self {
        let directory = parent.join("net");
        let generated =
            output(&["generate", "--validators", "2", "--dir", directory.to_str().unwrap()]);
        assert!(generated.status.success(), "{generated:?}");
        Self { directory, _temporary: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Replaces a part of the first validator's config.
    fn edit(&self, from: &str, to: &str) {
        let path = self.path("validator-0.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    /// What the first validator's config says an option is.
    fn option(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path("validator-0.toml")).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    }

    fn run_is_refused(&self, code: i32, parts: &[&str]) {
        refused(&["run", "--config", &self.text("validator-0.toml")], code, parts);
    }

    fn check_is_refused(&self, code: i32, parts: &[&str]) {
        refused(&["check", "--data-dir", &self.text("validator-0")], code, parts);
    }
}

/// The first validator of a chain, running.
struct Running {
    child: Child,
    _input: ChildStdin,
}

impl Running {
    fn start(chain: &Chain) -> Self {
        Self::start_one(chain, 0)
    }

    fn start_one(chain: &Chain, index: u32) -> Self {
        let config = chain.text(&format!("validator-{index}.toml"));
        let mut child = command(&["run", "--config", &config, "--end-with-stdin"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut running = Self { child, _input: input };
        let addresses = chain.path(&format!("validator-{index}/addresses.json"));
        let started = Instant::now();
        while !addresses.exists() {
            assert!(running.child.try_wait().unwrap().is_none(), "it ended");
            assert!(started.elapsed() < PATIENCE, "it does not start");
            thread::sleep(Duration::from_millis(10));
        }
        running
    }

    /// Asks it to end, and returns its exit code.
    fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The body of one answer of a validator.
fn get(address: &str, route: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A small file system of its own; unmounted when dropped.
struct Mount(TempDir);

impl Mount {
    /// `None`, with a line that says so, where nothing may be mounted.
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mount = Self(directory);
        let arguments = ["-t", "tmpfs", "-o", "size=192m", "tmpfs"];
        let mounted = Command::new("mount").args(arguments).arg(mount.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(mount),
            other => {
                println!("SKIPPED: mounting a file system needs root: {other:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read_only(&self) {
        let mut remount = Command::new("mount");
        assert!(remount.args(["-o", "remount,ro"]).arg(self.path()).status().unwrap().success());
    }

    fn fill(&self) {
        let file = fs::File::create(self.path().join("filler")).unwrap();
        let (block, mut offset) = ([1; 4096], 0);
        while let Ok(written) = file.write_at(&block, offset) {
            offset += written as u64;
            if written == 0 {
                break;
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Fails if it was never mounted, which is fine.
        let _ = Command::new("umount").arg(self.path()).stderr(Stdio::null()).status();
    }
}

#[test]
fn an_unknown_command_or_option_is_a_matter_of_usage() {
    refused(&["walk"], USAGE, &["walk", "--help"]);
    refused(&["run", "--config", "x", "--fast"], USAGE, &["--fast", "--help"]);
    refused(&["run"], USAGE, &["--config"]);
    refused(&["check"], USAGE, &["--data-dir"]);
}

#[test]
fn a_config_that_is_missing_damaged_or_unknown_in_part_is_named() {
    let chain = Chain::new();
    refused(&["run", "--config", &chain.text("nobody.toml")], USAGE, &["nobody.toml"]);
    chain.edit("[proposal]\n", "[proposal]\nblock_intervall = \"1s\"\n");
    chain.run_is_refused(USAGE, &["block_intervall", "block_interval", "validator config"]);
    fs::write(chain.path("validator-0.toml"), "genesis = = 3").unwrap();
    chain.run_is_refused(USAGE, &["validator-0.toml", "line 1", "validator config"]);
    fs::write(chain.path("validator-0.toml"), [0xff, 0xfe, 0]).unwrap();
    chain.run_is_refused(USAGE, &["validator-0.toml"]);
}

#[test]
fn a_config_that_contradicts_itself_or_the_chain_names_both_sides() {
    let chain = Chain::new();
    chain.edit("[proposal]\n", "[proposal]\nempty_block_interval = \"5s\"\n");
    let parts = ["proposal.empty_block_interval", "ordering.leader_timeout"];
    chain.run_is_refused(USAGE, &parts);
    chain.edit("empty_block_interval = \"5s\"\n", "");
    let block = format!("batch_bytes_max = {:?}", chain.option("batch_bytes_max"));
    chain.edit(&block, "batch_bytes_max = \"1KiB\"");
    chain.run_is_refused(USAGE, &["proposal.batch_bytes_max", "at least"]);
    chain.edit("batch_bytes_max = \"1KiB\"\n", "");
    chain.edit("[sequencer]\n", "[sequencer]\nbatch_age_max = \"1h\"\n");
    chain.run_is_refused(USAGE, &["sequencer.batch_age_max", "between 1 and 1000 ms"]);
}

#[test]
fn peers_must_be_exactly_the_other_members() {
    let (chain, other) = (Chain::new(), Chain::new());
    chain.edit("[[peers]]", "[[peers]]\n#");
    let own = chain.option("key = ");
    chain.edit(&own, &other.option("key = "));
    chain.run_is_refused(USAGE, &["not in the genesis committee"]);
}

#[test]
fn a_key_that_is_missing_malformed_open_or_a_strangers_is_refused() {
    let (chain, other) = (Chain::new(), Chain::new());
    let key = chain.path("validator-0.key");
    let good = fs::read_to_string(&key).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    chain.run_is_refused(USAGE, &["0644", "chmod 600"]);
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, &good[..40]).unwrap();
    chain.run_is_refused(USAGE, &["validator-0.key", "64 hex digits"]);
    fs::copy(other.path("validator-0.key"), &key).unwrap();
    chain.run_is_refused(USAGE, &["not in the committee"]);
    fs::remove_file(&key).unwrap();
    chain.run_is_refused(USAGE, &["validator-0.key", "`key_file`", "`generate`"]);
}

#[test]
fn a_secret_is_never_shown() {
    let chain = Chain::new();
    let key = chain.path("validator-0.key");
    let secret = fs::read_to_string(&key).unwrap();
    fs::write(&key, format!("{}x", secret.trim())).unwrap();
    let said = output(&["run", "--config", &chain.text("validator-0.toml")]);
    assert_eq!(said.status.code(), Some(USAGE));
    for text in [said.stdout, said.stderr] {
        assert!(!String::from_utf8_lossy(&text).contains(&secret[..8]));
    }
}

#[test]
fn the_data_directory_of_another_validator_or_chain_is_left_alone() {
    let (chain, other) = (Chain::new(), Chain::new());
    chain.edit("data_dir = \"validator-0\"", "data_dir = \"validator-1\"");
    chain.run_is_refused(USAGE, &["validator-1", "another validator", "data directory"]);
    let foreign = format!("data_dir = {:?}", other.text("validator-0"));
    chain.edit("data_dir = \"validator-1\"", &foreign);
    chain.run_is_refused(USAGE, &["another validator or chain"]);
}

#[test]
fn a_directory_of_a_newer_format_is_not_touched() {
    let chain = Chain::new();
    let format = chain.path("validator-0/store/FORMAT");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replacen("quorum-store 3\n", "quorum-store 4\n", 1)).unwrap();
    let parts = ["format 4", "reads 3", "use a matching release"];
    chain.run_is_refused(USAGE, &parts);
    chain.check_is_refused(USAGE, &parts);
}

#[test]
fn a_lost_store_is_never_taken_for_a_first_start() {
    let chain = Chain::new();
    fs::remove_dir_all(chain.path("validator-0/store")).unwrap();
    chain.run_is_refused(DAMAGED, &["no store found", "`init`", "disk is lost"]);
    chain.check_is_refused(DAMAGED, &["no store found"]);
    assert!(!chain.path("validator-0/store").exists(), "opening makes nothing");
    let chain = Chain::new();
    fs::remove_dir_all(chain.path("validator-0/execution")).unwrap();
    chain.run_is_refused(DAMAGED, &["no execution state found", "`init`"]);
}

#[test]
fn what_exists_is_never_overwritten() {
    let chain = Chain::new();
    let directory = chain.directory.to_str().unwrap();
    let before = fs::read(chain.path("validator-0.key")).unwrap();
    let parts = ["holds a chain already", "choose another directory"];
    refused(&["generate", "--validators", "2", "--dir", directory], USAGE, &parts);
    let config = chain.text("validator-0.toml");
    refused(&["init", "--config", &config], USAGE, &["already holds", "never overwritten"]);
    assert_eq!(fs::read(chain.path("validator-0.key")).unwrap(), before);
}

#[test]
fn a_damaged_control_record_or_format_ends_the_start() {
    let chain = Chain::new();
    let database = chain.path("validator-0/store/database");
    // The first segment of the journal begins with the frame that created it.
    let segment = format!("{database}/00000000", database = database.display());
    let file = OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[!byte[0]], 100).unwrap();
    chain.run_is_refused(DAMAGED, &["the store is damaged", "replace the store on purpose"]);
    chain.check_is_refused(UNSOUND, &["not sound", "keep a copy"]);

    let chain = Chain::new();
    let format = chain.path("validator-0/store/FORMAT");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replacen("author ", "author 0", 1)).unwrap();
    chain.run_is_refused(DAMAGED, &["the store is damaged: FORMAT"]);
    chain.check_is_refused(DAMAGED, &["the store is damaged: FORMAT"]);
}

#[test]
fn an_address_in_use_names_the_option_whoever_listens() {
    let chain = Chain::new();
    // Do not wait for a validator that never comes.
    chain.edit("[network]", "[network]\nlink_wait = \"0s\"");
    let address = chain.option("http_listen");
    let held = TcpListener::bind(&address).unwrap();
    chain.run_is_refused(USAGE, &[&address, "another validator running with this config?"]);
    drop(held);
    let address = chain.option("transport_listen");
    let held = UdpSocket::bind(&address).unwrap();
    chain.run_is_refused(USAGE, &[&address, "network.transport_listen"]);
    drop(held);
    let address = chain.option("ordering_listen");
    let _held = TcpListener::bind(&address).unwrap();
    chain.run_is_refused(USAGE, &[&address, "network.ordering_listen"]);
}

#[test]
fn a_second_process_on_a_directory_is_refused_and_the_first_goes_on() {
    let chain = Chain::new();
    let first = Running::start(&chain);
    chain.run_is_refused(IN_USE, &["validator-0", "in use by another process", "stop it first"]);
    chain.check_is_refused(IN_USE, &["in use by another process"]);
    assert_eq!(first.terminate(), Some(0), "a signal drains");
    let sound = output(&["check", "--data-dir", &chain.text("validator-0"), "--json"]);
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    let report: serde_json::Value = serde_json::from_slice(&sound.stdout).unwrap();
    assert_eq!(report["sound"], true);
}

#[test]
fn a_full_disk_at_start_is_told_and_mended_by_room() {
    let Some(mount) = Mount::new() else { return };
    let chain = Chain::inside(mount.path());
    mount.fill();
    chain.run_is_refused(DISK_FULL, &["disk full", "free space"]);
    let new = mount.path().join("new");
    refused(&["generate", "--dir", new.to_str().unwrap()], DISK_FULL, &["No space left"]);
    fs::remove_file(mount.path().join("filler")).unwrap();
    assert_eq!(Running::start(&chain).terminate(), Some(0));
}

#[test]
fn a_read_only_data_directory_is_a_failed_storage() {
    let Some(mount) = Mount::new() else { return };
    let chain = Chain::inside(mount.path());
    mount.read_only();
    chain.run_is_refused(STORAGE, &["Read-only file system", "check the disk"]);
    // What is on it can still be looked at.
    let sound = output(&["check", "--data-dir", &chain.text("validator-0")]);
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
}

#[test]
fn addresses_for_generate_must_fit_its_validators() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("net");
    let directory = directory.to_str().unwrap();
    let generate = ["generate", "--validators", "3", "--dir", directory];
    let two = [&generate[..], &["--listen", "127.0.0.1,127.0.0.2"]].concat();
    refused(&two, USAGE, &["2 addresses for 3 validators", "one for all, or one for each"]);
    let high = [&generate[..], &["--port", "65531"]].concat();
    refused(&high, USAGE, &["--port 65531"]);
    assert!(!Path::new(directory).exists());
}

#[test]
fn validators_of_different_chains_refuse_the_link_and_say_so() {
    for (change, reason) in
        [("nonce = \"", "of another chain"), ("batch_lifetime = \"30s\"", "of another chain")]
    {
        let chain = Chain::new();
        let genesis = fs::read_to_string(chain.path("genesis.toml")).unwrap();
        let other = match change {
            // Another nonce, or another parameter: either makes another chain of the same keys.
            "nonce = \"" => {
                let at = genesis.find(change).unwrap() + change.len();
                let digit = if genesis[at..].starts_with('0') { "1" } else { "0" };
                format!("{}{digit}{}", &genesis[..at], &genesis[at + 1..])
            }
            parameter => genesis.replacen(parameter, "batch_lifetime = \"31s\"", 1),
        };
        assert_ne!(genesis, other);
        fs::write(chain.path("other.toml"), other).unwrap();
        chain.edit("genesis = \"genesis.toml\"", "genesis = \"other.toml\"");
        fs::remove_dir_all(chain.path("validator-0")).unwrap();
        let made = output(&["init", "--never-ran", "--config", &chain.text("validator-0.toml")]);
        assert!(made.status.success(), "{made:?}");
        let validators = [Running::start_one(&chain, 0), Running::start_one(&chain, 1)];
        for index in 0..2 {
            let config =
                fs::read_to_string(chain.path(&format!("validator-{index}.toml"))).unwrap();
            let line = config.lines().find(|line| line.starts_with("http_listen")).unwrap();
            let address = line.split('"').nth(1).unwrap();
            for route in ["/status", "/ready"] {
                let started = Instant::now();
                while !get(address, route).contains(reason) {
                    assert!(started.elapsed() < PATIENCE, "{}", get(address, route));
                    thread::sleep(Duration::from_millis(50));
                }
            }
            assert!(get(address, "/ready").starts_with("HTTP/1.1 503"));
        }
        for validator in validators {
            assert_eq!(validator.terminate(), Some(0));
        }
    }
}
