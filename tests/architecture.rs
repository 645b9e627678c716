//! The pure core stays pure: no runtime, clock, file, thread or map in random order.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fs;
use std::path::{Path, PathBuf};

/// What may not appear in code of the core, and why.
const FORBIDDEN: [(&str, &str); 14] = [
    ("tokio", "the core is synchronous"),
    ("std::thread", "the core has no threads"),
    ("thread::spawn", "the core has no threads"),
    ("SystemTime", "time is an argument"),
    ("Instant", "time is an argument"),
    ("std::fs", "the core has no files"),
    ("File::", "the core has no files"),
    ("std::net", "the core has no sockets"),
    ("HashMap", "its order differs between runs"),
    ("HashSet", "its order differs between runs"),
    ("RandomState", "its order differs between runs"),
    ("rand::", "the core draws no randomness"),
    ("Mutex", "nothing is shared in the core"),
    ("async ", "the core is synchronous"),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("tests") || path.ends_with("tests.rs") {
            // Not in the library.
        } else if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn the_core_imports_nothing_impure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut looked_at = 0;
    for folder in ["sequencer", "types"] {
        for file in sources(&root.join(folder)) {
            looked_at += 1;
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap();
                for (word, why) in FORBIDDEN {
                    assert!(
                        !code.contains(word),
                        "{}:{}: `{word}`: {why}",
                        file.display(),
                        number + 1
                    );
                }
            }
        }
    }
    assert!(looked_at > 20, "only {looked_at} files found");
}

#[test]
fn durability_tokens_are_made_in_one_small_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let gate = fs::read_to_string(root.join("store/group.rs")).unwrap();
    let lines = gate.lines().filter(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("//")
    });
    assert!(lines.count() < 75, "the gate is kept small enough to be read at a glance");
    assert_eq!(gate.matches("Durable(batch)").count(), 1);
    assert_eq!(gate.matches("map(Durable)").count(), 1);
}

/// All code of the repository, tests included.
fn code(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            code(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = String::new();
    for folder in ["src", "tests", "ordering", "validator"] {
        code(&root.join(folder), &mut all);
    }
    let chapter = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let rows = chapter.lines().filter(|line| line.starts_with('|'));
    let tests = rows.filter_map(|row| row.rsplit('|').nth(1));
    let quoted = tests.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let mut found = 0;
    for name in quoted.filter(|name| name.contains('_') && !name.contains(['/', '.'])) {
        if name == "compile_fail" {
            continue;
        }
        found += 1;
        assert!(all.contains(&format!("fn {name}(")), "{name} does not exist");
    }
    assert!(found > 20, "only {found} named");
}
