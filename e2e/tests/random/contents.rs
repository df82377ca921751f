//! Contents that say which they are: each is written once, so every byte that is found anywhere is known.

use std::{collections::HashMap, path::Path};

/// A content, by its number.
pub type Id = u32;

/// Of a number in decimal, padded, and a line end.
const HEADER: usize = 11;
/// The length of a chunk in the blob store.
const CHUNK: usize = 256 * 1024;

/// Everything that was ever written in one play.
#[derive(Default)]
pub struct Contents {
    by_hash: HashMap<String, Id>,
    next: Id,
}

impl Contents {
    /// A content that never was.
    pub fn fresh(&mut self) -> (Id, Vec<u8>) {
        let id = self.next;
        self.next += 1;
        let bytes = bytes_of(id);
        self.by_hash.insert(hash_of(&bytes), id);
        (id, bytes)
    }

    /// Which content has this hash.
    pub fn with_hash(&self, hash: &str) -> Option<Id> {
        self.by_hash.get(hash).copied()
    }
}

/// The hash of these bytes, as the log writes it.
pub fn hash_of(bytes: &[u8]) -> String {
    common::hash::ContentHash::of(bytes).to_string()
}

fn size_of(id: Id) -> usize {
    match id % 40 {
        0 => CHUNK - 1,
        1 => CHUNK,
        2 => CHUNK + 1,
        3 => 3 * CHUNK + 77,
        n => HEADER + (n * n * 13) as usize,
    }
}

/// The bytes of a content: its number, and what no other has.
pub fn bytes_of(id: Id) -> Vec<u8> {
    let mut bytes = format!("{id:010}\n").into_bytes();
    bytes.extend(e2e::content(&format!("content {id}"), size_of(id) - HEADER));
    bytes
}

/// The content of a file's bytes.
///
/// # Errors
/// When they are no content as a whole: the file is torn.
pub fn identify(path: &Path, bytes: &[u8]) -> Result<Id, String> {
    let number = bytes.get(..HEADER - 1).and_then(|digits| std::str::from_utf8(digits).ok());
    let id: Id = number
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("{} holds {} bytes that nobody wrote", path.display(), bytes.len()))?;
    if bytes == bytes_of(id) {
        return Ok(id);
    }
    Err(format!(
        "{} holds {} of the {} bytes of content {id}, or others",
        path.display(),
        bytes.len(),
        size_of(id)
    ))
}
