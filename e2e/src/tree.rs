//! What stands in a root, as bytes and hashes that owe nothing to the code under test.

use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt, fs,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Differences that are shown.
const SHOWN: usize = 8;

/// Paths (bytes, relative) with what is known of each: a size or a hash.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tree(pub BTreeMap<Vec<u8>, String>);

impl Tree {
    /// Every regular file below `root` with its SHA-256, `.mirror` left out.
    pub fn of(root: &Path) -> Self {
        Self::with(root, sha256_of)
    }

    /// Every regular file below `root` with its size: cheap to ask often.
    pub fn sizes(root: &Path) -> Self {
        Self::with(root, |path| Ok(fs::symlink_metadata(path)?.len().to_string()))
    }

    fn with(root: &Path, fact: impl Fn(&Path) -> io::Result<String>) -> Self {
        let mut files = BTreeMap::new();
        let mut folders: Vec<PathBuf> = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            // A folder or file that went away meanwhile is simply not there.
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let (path, kind) = (entry.path(), entry.file_type());
                let Ok(kind) = kind else { continue };
                if kind.is_dir() && path != root.join(".mirror") {
                    folders.push(path);
                } else if kind.is_file()
                    && let Ok(fact) = fact(&path)
                {
                    let relative = path.strip_prefix(root).expect("a path below the root");
                    files.insert(relative.as_os_str().as_bytes().to_vec(), fact);
                }
            }
        }
        Self(files)
    }

    /// The same, when both are equal.
    ///
    /// # Errors
    /// The first differences, for people.
    pub fn equal(&self, other: &Self) -> Result<(), String> {
        if self == other {
            return Ok(());
        }
        let differing = self.0.keys().chain(other.0.keys().filter(|k| !self.0.contains_key(*k)));
        let shown: Vec<_> = differing
            .filter(|path| self.0.get(*path) != other.0.get(*path))
            .take(SHOWN)
            .map(|path| {
                let name = path.escape_ascii().to_string();
                format!("{name}: {:?} and {:?}", self.0.get(path), other.0.get(path))
            })
            .collect();
        Err(format!("{} and {} files; {}", self.0.len(), other.0.len(), shown.join("; ")))
    }

    /// What is known of a path.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path.as_bytes()).map(String::as_str)
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(k, v)| (k.escape_ascii().to_string(), v))).finish()
    }
}

/// The SHA-256 of a file in hex, read piece by piece.
///
/// # Errors
/// Those of reading it.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..read]);
    }
}

/// `size` bytes that no other `seed` gives.
pub fn content(seed: &str, size: usize) -> Vec<u8> {
    let mut state =
        Sha256::digest(seed.as_bytes()).iter().fold(1u64, |a, &b| a.rotate_left(8) ^ u64::from(b));
    let mut next = || {
        // xorshift64*: fast, and good enough to be incompressible and distinct.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..size.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(size);
    bytes
}

/// Writes a file, its folders included.
pub fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a file in a folder")).expect("make folders");
    fs::write(path, bytes).unwrap_or_else(|e| panic!("write {path:?}: {e}"));
}

/// Copies a folder with everything in it, times and modes included, as a backup does. `to` must not exist.
pub fn copy_folder(from: &Path, to: &Path) {
    let mut command = std::process::Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    crate::process::run(crate::wait::SOON, command).succeeded();
}

/// Puts a copy of a folder back in its place.
pub fn put_back(copy: &Path, folder: &Path) {
    fs::remove_dir_all(folder).expect("remove a folder");
    copy_folder(copy, folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_its_files_without_ours() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(&dir.path().join("a/empty"), b"");
        write(&dir.path().join(".mirror/id"), b"ours");
        write(&dir.path().join("a/.mirror/theirs"), b"x");
        let tree = Tree::of(dir.path());
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(tree.get("a/empty"), Some(empty));
        assert_eq!(tree.0.len(), 2);
        write(&dir.path().join("a/empty"), b"1");
        let difference = tree.equal(&Tree::of(dir.path())).expect_err("a difference");
        assert!(difference.contains("a/empty"), "{difference}");
    }

    #[test]
    fn content_has_its_length_and_differs_by_seed() {
        for size in [0, 1, 7, 8, 9, 1000] {
            assert_eq!(content("a", size).len(), size);
        }
        assert_ne!(content("a", 100), content("b", 100));
    }
}
