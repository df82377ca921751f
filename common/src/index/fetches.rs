//! Large blobs that are half fetched: what a restart needs to go on instead of beginning anew. A hint only: what is fetched is hashed as a whole.

use super::{Index, IndexError, Tx, codec::*};
use crate::{blobs::Mark, hash::ContentHash, time::Timestamp};
use rusqlite::{OptionalExtension, params};

/// How far a blob is fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// The blob.
    pub sha256: ContentHash,
    /// The file's name in `.mirror/tmp`.
    pub temp: String,
    /// So many bytes at its beginning are durable.
    pub bytes: u64,
    /// Where the store goes on after them.
    pub mark: Mark,
    /// When this was kept.
    pub kept: Timestamp,
}

fn fetch_from(row: &rusqlite::Row<'_>) -> rusqlite::Result<Fetch> {
    Ok(Fetch {
        sha256: hash(row, "sha256")?.ok_or(rusqlite::Error::InvalidQuery)?,
        temp: row.get("temp")?,
        bytes: unsigned(row, "bytes")?,
        mark: Mark::from_bytes(row.get("mark")?),
        kept: time(row, "kept")?,
    })
}

impl Index {
    /// How far a blob is fetched, when it was begun.
    pub fn fetch_of(&self, content: ContentHash) -> Result<Option<Fetch>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached("SELECT * FROM fetches WHERE sha256 = ?1")?;
            Ok(query.query_row(params![content.raw()], fetch_from).optional()?)
        })
    }

    /// All that is half fetched.
    pub fn fetches(&self) -> Result<Vec<Fetch>, IndexError> {
        self.list("SELECT * FROM fetches", fetch_from)
    }
}

impl Tx<'_> {
    /// Keeps how far a blob is fetched; the bytes must be durable before.
    pub fn keep_fetch(&mut self, fetch: &Fetch) -> Result<(), IndexError> {
        let query =
            "INSERT OR REPLACE INTO fetches (sha256, temp, bytes, mark, kept) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.conn.prepare_cached(query)?.execute(params![
            fetch.sha256.raw(),
            fetch.temp,
            sql(fetch.bytes),
            fetch.mark.as_bytes(),
            nanos(fetch.kept),
        ])?;
        Ok(())
    }

    /// The blob is complete, or its file is thrown away.
    pub fn forget_fetch(&mut self, content: ContentHash) -> Result<(), IndexError> {
        self.conn.prepare_cached("DELETE FROM fetches WHERE sha256 = ?1")?.execute(params![content.raw()])?;
        Ok(())
    }
}
