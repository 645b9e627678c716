//! Kill, restart, sign, cut, with real processes: a validator dies between write and fsync, comes
//! back, finds its bytes in the cache, signs for them, and then the power goes.
//!
//! The barrier at the end of opening is what saves the batch. The control takes it away without a
//! switch in the product: the disk lies about every sync from the second start on. Until opening is
//! over is not enough: a group that happens to come before the signature would sync the batch too.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use fuser::Errno;
use quorum_store::engine::StopCause;
use quorum_store::store::Store as _;
use quorum_store::transport::memory::MemoryNetwork;
use quorum_store::types::Timestamp;

use super::enumeration::{empty, runtime};
use super::fs::{Fault, Kind, Power, Variant};
use super::harness::Context;
use super::script_peer::{ScriptPeer, batch};
use super::town::{PATIENCE, genesis, now, open, start, store_path, within};
use super::witness::Witness;

/// The first argument of a process that is a validator, and not this suite.
pub const CHILD: &str = "--validator-on";

/// A validator and a peer, in a process of its own: `CHILD`, the disk, the batch's expiration.
pub fn child(arguments: &[String]) {
    let (disk, expiration) = (Path::new(&arguments[0]), arguments[1].parse().unwrap());
    let batch = batch(Timestamp(expiration));
    let digest = batch.info.digest(&genesis().chain_id());
    let store = open(disk).unwrap();
    let reader = store.reader();
    runtime().block_on(async {
        let network = MemoryNetwork::new();
        let node = start(&network, store, &Witness::default()).await.unwrap();
        let mut peer = within("the link", ScriptPeer::join(&network)).await;
        let found = reader.batch(&digest).unwrap().is_some();
        println!("opened {}", if found { "with the batch" } else { "without the batch" });
        std::io::stdin().read_line(&mut String::new()).unwrap();
        peer.send(&batch);
        // The link of a validator that stops goes down a moment before or after it says so.
        let signed = tokio::select! {
            signed = peer.signature(digest) => signed,
            _ = node.stopped() => false,
        };
        if !signed {
            let cause = within("the end", node.stopped()).await;
            assert!(matches!(cause, StopCause::Storage(_)), "{cause}");
            println!("failed");
            return;
        }
        println!("signed");
        // Whoever started us kills us.
        std::io::stdin().read_line(&mut String::new()).unwrap();
    });
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(disk: &Power, expiration: Timestamp) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(CHILD)
            .arg(disk.path())
            .arg(expiration.0.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let input = child.stdin.take().unwrap();
        Self { child, input, output }
    }

    /// The next thing it says.
    fn says(&mut self) -> String {
        self.output.next().and_then(Result::ok).unwrap_or_else(|| "nothing".into())
    }

    fn go(&mut self) {
        self.input.write_all(b"go\n").unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed already, most of the time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How the first process ends between write and fsync.
#[derive(Clone, Copy, Debug)]
enum First {
    Killed,
    FsyncFailed,
}

/// True if a segment of the journal has the batch, synced or not.
fn is_written(disk: &Power, expiration: Timestamp) -> bool {
    let digest = batch(expiration).info.digest(&genesis().chain_id());
    let mut files = fs::read_dir(store_path(disk.path()).join("database")).unwrap();
    files.any(|file| {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        bytes.windows(32).any(|window| window == digest.as_bytes())
    })
}

/// True if the batch that was signed survives.
fn survives(context: &Context, first: First, with_barrier: bool, variant: Variant) -> bool {
    let disk = context.mount.insert("restart", empty(context, "restart").disk);
    let expiration = now().saturating_add(genesis().parameters.batch_lifetime());
    let mut process = Process::start(&disk, expiration);
    assert_eq!(process.says(), "opened without the batch");
    match first {
        First::Killed => {
            disk.hold_fsyncs();
            process.go();
            // Others may come before that of the batch, and with it: what asked before the batch
            // was written is not what would make it durable.
            loop {
                assert!(disk.wait_held(PATIENCE), "another fsync comes");
                let held = disk.held();
                if is_written(&disk, expiration) {
                    break;
                }
                disk.let_go_of(held);
            }
            process.child.kill().unwrap();
            disk.interrupt();
        }
        First::FsyncFailed => {
            let (kind, errno) = (Kind::Fsync, Errno::EIO);
            disk.fail(Fault { kind, errno, after: 0, lasts: false, partly: false });
            process.go();
            assert_eq!(process.says(), "failed", "no signature after a failed fsync");
        }
    }
    process.child.wait().unwrap();
    drop(process);
    disk.hold_no_more();
    if !with_barrier {
        disk.set(|disk| disk.lies = &Kind::SYNCS);
    }
    let mut process = Process::start(&disk, expiration);
    let opened = process.says();
    assert!(opened.starts_with("opened"), "{opened}");
    if let First::Killed = first {
        assert_eq!(opened, "opened with the batch", "the cache kept what was written");
    }
    process.go();
    assert_eq!(process.says(), "signed");
    disk.cut(variant);
    drop(process);
    context.survived(1);
    let Ok(mut store) = open(disk.path()) else { return false };
    if store.recover().is_err() {
        return false;
    }
    let digest = batch(expiration).info.digest(&genesis().chain_id());
    matches!(store.reader().batch(&digest), Ok(Some(_)))
}

pub fn a_batch_signed_again_after_a_kill_survives_the_cut(context: &Context) {
    for first in [First::Killed, First::FsyncFailed] {
        for variant in [Variant::Clean, Variant::NamesLost, Variant::Torn(1), Variant::Torn(2)] {
            assert!(survives(context, first, true, variant), "LOST: {first:?}, {variant:?}");
        }
    }
}

/// The control of the one above.
pub fn without_the_barrier_of_opening_the_batch_is_lost(context: &Context) {
    assert!(!survives(context, First::Killed, false, Variant::Clean), "the harness is blind");
}
