//! Files that are replayed, well formed and not.

use super::*;

fn file(name: &str, content: &[u8]) -> PathBuf {
    let name = format!("quorum-store-replay-{}-{name}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, content).expect("a temporary file");
    path
}

fn replay(name: &str, content: &[u8]) -> Result<Vec<Bytes>, String> {
    let path = file(name, content);
    let read = Replay::read(&path).map(|replay| std::iter::from_fn(|| replay.take()).collect());
    std::fs::remove_file(&path).expect("just written");
    read
}

#[test]
fn lines_of_hex_are_taken_once_each() {
    let found = replay("good.hex", b"0a0b\n\n  0C0D \r\n0a0b\n0e").expect("well formed");
    assert_eq!(found, [vec![0x0a, 0x0b], vec![0x0c, 0x0d], vec![0x0e]]);
}

#[test]
fn a_binary_file_holds_lengths_from_one_byte_to_the_largest() {
    let largest = vec![5; TRANSACTION_BYTES_MAX as usize];
    let mut content = vec![1, 0, 0, 0, 7, 2, 0, 0, 0, 8, 9, 1, 0, 0, 0, 7];
    content.extend(TRANSACTION_BYTES_MAX.to_le_bytes());
    content.extend(&largest);
    let found = replay("good.bin", &content).expect("well formed");
    assert_eq!(found, [vec![7], vec![8, 9], largest]);
}

#[test]
fn a_malformed_file_is_refused_with_its_place() {
    let long = "00".repeat(TRANSACTION_BYTES_MAX as usize + 1);
    let cases: [(&str, &[u8], &str); 9] = [
        ("short.bin", &[1, 0, 0], "offset 0: ends inside the length of transaction 1"),
        ("cut.bin", &[2, 0, 0, 0, 1], "offset 0: transaction 1 has an impossible length"),
        ("second.bin", &[1, 0, 0, 0, 1, 9, 0, 0, 0], "offset 5: transaction 2"),
        ("zero.bin", &[0, 0, 0, 0], "transaction 1 has an impossible length"),
        ("huge.bin", &[0, 0, 0, 255, 1], "transaction 1 has an impossible length"),
        ("empty.bin", &[], "holds no transaction"),
        ("odd.hex", b"00\n0\n", "line 2"),
        ("letters.hex", b"zz\n", "line 1"),
        ("long.hex", long.as_bytes(), "line 1: above"),
    ];
    for (name, content, words) in cases {
        let error = replay(name, content).expect_err(name);
        assert!(error.contains(words), "{name}: {error}");
    }
    assert!(Replay::read(Path::new("/nowhere/at/all")).is_err());
}

#[test]
fn what_is_remembered_of_the_past_is_bounded() {
    let mut seen = Seen::default();
    for number in 0..3 * REMEMBERED_MAX as u64 {
        assert!(seen.insert(&number.to_le_bytes()));
    }
    assert!(seen.young.len() + seen.old.len() <= 2 * REMEMBERED_MAX);
    let latest = 3 * REMEMBERED_MAX as u64 - 1;
    assert!(!seen.insert(&latest.to_le_bytes()));
}
