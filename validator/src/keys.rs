//! The secret seed of a validator: 64 hex digits in a file that only its owner may read.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::exit::Failure;

/// The only file mode that is accepted.
const MODE: u32 = 0o600;

/// The largest key file that is read: 64 digits and some white space.
const FILE_BYTES_MAX: u64 = 256;

/// A secret seed; zeroed when dropped.
pub type Seed = Zeroizing<[u8; 32]>;

/// A new random seed.
pub fn random() -> Result<Seed, Failure> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed)
        .map_err(|error| Failure::other(format!("the system gives no random bytes: {error}")))?;
    Ok(seed)
}

/// Writes a seed to a new file of mode 0600, synced. An existing file is never overwritten.
pub fn create(path: &Path, seed: &Seed) -> Result<(), Failure> {
    let what = format!("key file {}", path.display());
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
        // The process's umask may have taken bits away.
        file.set_permissions(PermissionsExt::from_mode(MODE))?;
        let mut text = Zeroizing::new(hex::encode(seed.as_slice()));
        text.push('\n');
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| Failure::write(&what, &error))
}

/// Reads a seed, after checking that nobody else may.
pub fn read(path: &Path) -> Result<Seed, Failure> {
    let shown = path.display();
    let unreadable = |error| {
        Failure::usage(format!(
            "cannot read key file {shown}: {error}; `key_file` in the config names it, `generate` \
             makes one"
        ))
    };
    let file = File::open(path).map_err(unreadable)?;
    // Of the open file, so that what is checked is what is read.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode != MODE {
        return Err(Failure::usage(format!(
            "key file {shown} has mode {mode:04o}, it must be 0600: run `chmod 600 {shown}`, and \
             replace the key if others may have read it"
        )));
    }
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize));
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), seed.as_mut_slice()).map_err(|_| {
        Failure::usage(format!("key file {shown} must hold 64 hex digits and nothing else"))
    })?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn a_seed_survives_the_file_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let seed = random().unwrap();
        create(&path, &seed).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(*read(&path).unwrap(), *seed);
        assert_eq!(create(&path, &seed).unwrap_err().code(), 2);
        assert_ne!(*random().unwrap(), *seed);
    }

    #[test]
    fn a_key_that_others_may_touch_is_refused_and_so_is_nonsense() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert_eq!(read(&path).unwrap_err().code(), 2);
        create(&path, &random().unwrap()).unwrap();
        for mode in [0o640, 0o604, 0o644, 0o660, 0o700, 0o400] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            if mode == 0o400 || mode == 0o700 {
                assert_eq!(read(&path).unwrap_err().code(), 2, "{mode:o}");
                continue;
            }
            let failure = read(&path).unwrap_err();
            assert_eq!(failure.code(), 2);
            assert!(failure.to_string().contains("chmod 600"), "{failure}");
        }
        for text in ["", "abc", &"0".repeat(63), &"g".repeat(64), &"0".repeat(66)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert_eq!(read(&path).unwrap_err().code(), 2, "{text:?}");
        }
    }
}
