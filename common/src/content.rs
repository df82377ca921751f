//! Reading a file of the tree as it was at one moment: same device, inode, size, mtime and ctime before and after, and the bytes that go up are
//! the bytes that were hashed. Each byte is read once and hashed once. All calls block.

use crate::{
    hash::{ContentHash, Hasher},
    path::MediaPath,
    root::{FileStat, Look, Root},
    time::Timestamp,
};
use bytes::Bytes;
use std::{
    fs::File,
    io::{self, Read},
};

/// A stat taken this soon after the file's mtime may be carried by a later write as well: the kernel's clock for it moves in steps of up to 10 ms.
const RACY_NANOS: i128 = 50_000_000;
/// How much is read at once when the bytes are only hashed.
const BLOCK: usize = 256 * 1024;

/// A file read to its end while it stood still.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The hash of its bytes.
    pub hash: ContentHash,
    /// Its stat, before and after.
    pub stat: FileStat,
    /// It was written so shortly before that a later write may carry the same stat.
    pub racy: bool,
    /// The bytes, when they were asked for and are few enough.
    pub bytes: Option<Bytes>,
}

/// Why a file could not be read as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It changed, or was replaced or removed, while it was read: look again.
    #[error("the file changed while it was read")]
    Changed,
    /// Nobody takes the bytes any more.
    #[error("the reading was given up")]
    GivenUp,
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads and hashes the file at a path. Of one of at most `keep` bytes, the bytes are kept; memory is bounded by `keep`.
pub fn read(root: &Root, path: &MediaPath, keep: usize) -> Result<Reading, ReadError> {
    let (mut file, before) = open(root, path)?;
    let small = before.stat.size <= keep as u64;
    let mut block =
        vec![0; if small { usize::try_from(before.stat.size).unwrap_or(keep) + 1 } else { BLOCK }];
    let mut hasher = Hasher::new();
    let mut length = 0u64;
    loop {
        let at = if small { usize::try_from(length).unwrap_or(usize::MAX) } else { 0 };
        let Some(free) = block.get_mut(at..).filter(|free| !free.is_empty()) else {
            return Err(ReadError::Changed); // Longer than its stat said.
        };
        let n = read_some(&mut file, free)?;
        if n == 0 {
            break;
        }
        hasher.update(&free[..n]);
        root.got_on(n);
        length += n as u64;
    }
    let racy = still(root, path, &file, &before, length)?;
    let bytes = small.then(|| {
        block.truncate(usize::try_from(length).unwrap_or(0));
        Bytes::from(block)
    });
    Ok(Reading { hash: hasher.finish(), stat: before, racy, bytes })
}

/// Reads and hashes the file at a path, handing on every chunk (all of `chunk` bytes but the last) while the next is read.
pub fn stream(
    root: &Root,
    path: &MediaPath,
    chunk: usize,
    mut hand_on: impl FnMut(Bytes) -> Result<(), ReadError>,
) -> Result<Reading, ReadError> {
    let (mut file, before) = open(root, path)?;
    let mut hasher = Hasher::new();
    let mut length = 0u64;
    loop {
        let mut block = vec![0; chunk];
        let mut filled = 0;
        while filled < chunk {
            match read_some(&mut file, &mut block[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        hasher.update(&block[..filled]);
        length += filled as u64;
        if length > before.stat.size {
            return Err(ReadError::Changed);
        }
        block.truncate(filled);
        if filled > 0 {
            hand_on(block.into())?;
        }
        if filled < chunk {
            break;
        }
    }
    let racy = still(root, path, &file, &before, length)?;
    Ok(Reading { hash: hasher.finish(), stat: before, racy, bytes: None })
}

/// Hashes an open file from its start to its end; returns hash and length.
pub fn hash_open(file: &mut File) -> io::Result<(ContentHash, u64)> {
    let mut hasher = Hasher::new();
    let mut block = vec![0; BLOCK];
    let mut length = 0;
    loop {
        match read_some(file, &mut block)? {
            0 => return Ok((hasher.finish(), length)),
            n => {
                hasher.update(&block[..n]);
                length += n as u64;
            }
        }
    }
}

/// Whether a stat taken now of a file with this mtime could be carried by a later write, too.
pub fn is_racy(mtime: Timestamp) -> bool {
    Timestamp::now().nanos() - mtime.nanos() < RACY_NANOS
}

fn read_some(file: &mut File, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn open(root: &Root, path: &MediaPath) -> Result<(File, FileStat), ReadError> {
    match root.open_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ReadError::Changed),
        opened => Ok(opened?),
    }
}

fn still(
    root: &Root,
    path: &MediaPath,
    file: &File,
    before: &FileStat,
    length: u64,
) -> Result<bool, ReadError> {
    let racy = is_racy(before.mtime);
    let named = match root.look(path)? {
        Look::File(stat) => stat.stat == before.stat,
        _ => false,
    };
    if named && FileStat::of(file)?.stat == before.stat && length == before.stat.size {
        Ok(racy)
    } else {
        Err(ReadError::Changed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree(content: &[u8]) -> (tempfile::TempDir, Root, MediaPath) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), content).unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root, "f".parse().unwrap())
    }

    #[test]
    fn reading_and_streaming_give_the_same_hash_and_the_bytes() {
        for size in [0, 1, 99, 100, 101, 1000] {
            let content = vec![7; size];
            let (_dir, root, path) = tree(&content);
            let whole = read(&root, &path, 100).unwrap();
            assert_eq!(whole.hash, ContentHash::of(&content));
            assert_eq!(whole.bytes.is_some(), size <= 100);
            let mut chunks = Vec::new();
            let streamed = stream(&root, &path, 100, |chunk| {
                chunks.push(chunk);
                Ok(())
            })
            .unwrap();
            assert_eq!(streamed.hash, whole.hash);
            assert_eq!(chunks.concat(), content);
            assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.len() == 100));
        }
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_read() {
        for change in ["append", "replace", "remove"] {
            let (dir, root, path) = tree(&[1; 500]);
            let file = dir.path().join("f");
            let mut once = false;
            let result = stream(&root, &path, 100, |_| {
                if !std::mem::replace(&mut once, true) {
                    match change {
                        "append" => std::fs::write(&file, [2; 600]).unwrap(),
                        "replace" => {
                            std::fs::write(dir.path().join("g"), [1; 500]).unwrap();
                            std::fs::rename(dir.path().join("g"), &file).unwrap();
                        }
                        _ => std::fs::remove_file(&file).unwrap(),
                    }
                }
                Ok(())
            });
            assert!(matches!(result, Err(ReadError::Changed)), "{change}");
        }
    }

    #[test]
    fn a_file_just_written_is_racy_and_an_old_one_is_not() {
        let (dir, root, path) = tree(b"x");
        assert!(read(&root, &path, 100).unwrap().racy);
        let file = File::open(dir.path().join("f")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(!read(&root, &path, 100).unwrap().racy);
    }
}
