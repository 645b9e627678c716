//! Which parts run, and what is said of each.
//!
//! `POWER_LOSS` is `full` or `quick`; without it only the file system's own tests run, because the
//! rest takes minutes and has a command of its own. An argument selects parts by their name.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::fs::Mount;

/// When a part runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Under `cargo test` too.
    Always,
    /// In the part for every change, and in the whole.
    Quick,
    /// In the whole only.
    Full,
}

/// One part, by the name of its function.
pub struct Part {
    pub name: &'static str,
    pub level: Level,
    pub run: fn(&Context),
}

/// Names a part.
macro_rules! part {
    ($level:expr, $run:path) => {
        $crate::suite::harness::Part { name: stringify!($run), level: $level, run: $run }
    };
}
pub(crate) use part;

/// What a part works with.
pub struct Context {
    pub mount: Mount,
    pub level: Level,
    cuts: AtomicU64,
    promises: AtomicU64,
}

impl Context {
    /// One of two, by whether everything is asked for.
    pub fn full_or<T>(&self, full: T, quick: T) -> T {
        if self.level == Level::Full { full } else { quick }
    }

    /// The power was cut, and so many promises were held to afterwards.
    pub fn survived(&self, promises: u64) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        self.promised(promises);
    }

    /// So many promises were held to.
    pub fn promised(&self, promises: u64) {
        self.promises.fetch_add(promises, Ordering::Relaxed);
    }
}

/// Runs what is selected; fails if any part does, or if FUSE should work here and does not.
pub fn run(parts: &[Part]) -> ExitCode {
    let level = match std::env::var("POWER_LOSS").as_deref() {
        Ok("full") => Level::Full,
        Ok("quick") => Level::Quick,
        Ok(other) => {
            eprintln!("POWER_LOSS={other}: say full or quick");
            return ExitCode::from(2);
        }
        Err(_) => Level::Always,
    };
    let is_flag = |argument: &String| argument.starts_with('-');
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !is_flag(argument));
    let is_selected = |part: &&Part| {
        filter.map_or(part.level <= level, |filter| part.name.contains(filter.as_str()))
    };
    let selected: Vec<&Part> = parts.iter().filter(is_selected).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for part in parts {
            println!("{}: test", part.name);
        }
        return ExitCode::SUCCESS;
    }
    if !Path::new("/dev/fuse").exists() {
        println!("power loss: no /dev/fuse here, nothing was cut; run it on Linux with FUSE");
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let mount = match Mount::new() {
        Ok(mount) => mount,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && !is_root() => {
            println!("power loss: mounting needs root, nothing was cut");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            println!("power loss: /dev/fuse is here and does not work: {error}");
            return ExitCode::FAILURE;
        }
    };
    let context =
        Context { mount, level, cuts: AtomicU64::default(), promises: AtomicU64::default() };
    let failed: Vec<&str> =
        selected.iter().filter(|part| !one(part, &context)).map(|part| part.name).collect();
    let Context { cuts, promises, .. } = &context;
    println!(
        "power loss: {} parts, {} failed, {} cuts, {} promises held to after them, {:.0} s",
        selected.len(),
        failed.len(),
        cuts.load(Ordering::Relaxed),
        promises.load(Ordering::Relaxed),
        began.elapsed().as_secs_f64()
    );
    if level == Level::Always && filter.is_none() {
        println!("power loss: only the file system itself was tested; `make power-loss` cuts");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(part: &Part, context: &Context) -> bool {
    let began = Instant::now();
    let cuts = context.cuts.load(Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(|| (part.run)(context)));
    let cuts = context.cuts.load(Ordering::Relaxed) - cuts;
    let said = if cuts > 0 { format!(", {cuts} cuts") } else { String::new() };
    let seconds = began.elapsed().as_secs_f64();
    match &result {
        Ok(()) => println!("test {} ... ok ({seconds:.1} s{said})", part.name),
        Err(panic) => println!("test {} ... FAILED ({seconds:.1} s): {}", part.name, text(panic)),
    }
    result.is_ok()
}

fn text(panic: &Box<dyn Any + Send>) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.and_then(|uid| uid.split_whitespace().next()) == Some("0")
}
