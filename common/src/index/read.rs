//! Reading the index: the last commit, without waiting for the writer.

use super::{Index, IndexError, NodeState, Offer, Parked, PathState, Row, Trashed, codec::*, types::*};
use crate::{
    event::{StreamCreated, Version},
    hash::ContentHash,
    path::MediaPath,
    time::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

impl Index {
    pub(super) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        // A panic in a query leaves the connection as usable as before.
        let conn = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        query(&conn).map_err(|error| error.at(&self.path))
    }

    /// Where this node stands.
    pub fn node(&self) -> Result<NodeState, IndexError> {
        self.read(read_node)
    }

    /// Of that, what each path's work asks for.
    pub fn stage(&self) -> Result<Stage, IndexError> {
        self.read(read_stage)
    }

    /// Everything about one path; some 20 microseconds.
    pub fn path_state(&self, path: &MediaPath) -> Result<PathState, IndexError> {
        self.at_once(|reads| reads.path_state(path))
    }

    /// Several reads of one moment. Each commit, of whichever process, empties what the reading connection has in memory: what is read together reads the pages once.
    pub fn at_once<T>(
        &self,
        reads: impl FnOnce(&Reads<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.read(|conn| {
            let moment = conn.unchecked_transaction()?;
            let found = reads(&Reads(&moment))?;
            moment.commit()?;
            Ok(found)
        })
    }

    /// The creation time of the life of the log that a generation trusted.
    pub fn created(&self, generation: Generation) -> Result<Option<StreamCreated>, IndexError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT created FROM generations WHERE id = ?1")?;
            Ok(statement.query_row(params![sql(generation.0)], created_from).optional()?)
        })
    }

    /// When the current generation began, and why.
    pub fn began(&self) -> Result<Option<(Timestamp, String)>, IndexError> {
        self.read(|conn| {
            let mut query =
                conn.prepare_cached("SELECT began, why FROM generations ORDER BY id DESC LIMIT 1")?;
            let from = |row: &rusqlite::Row<'_>| Ok((time(row, "began")?, row.get("why")?));
            Ok(query.query_row([], from).optional()?)
        })
    }

    /// Up to 8 present paths with this content, of whatever generation: places to copy from.
    pub fn paths_with(&self, content: ContentHash) -> Result<Vec<(MediaPath, Row)>, IndexError> {
        self.read(|conn| {
            let mut query =
                conn.prepare_cached("SELECT * FROM rows WHERE sha256 = ?1 AND state = 1 LIMIT 8")?;
            let found =
                query.query_map(params![content.raw()], |row| Ok((path_from(row)?, row_from(row)?)))?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// Of the rows of a generation below a version, the lowest `limit`. Reads the whole table.
    pub fn rows_before(
        &self,
        generation: Generation,
        version: Version,
        limit: usize,
    ) -> Result<Vec<(MediaPath, Version)>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached(
                "SELECT * FROM rows WHERE state IN (1, 2) AND generation = ?1 AND seq < ?2 ORDER BY seq LIMIT ?3",
            )?;
            let found = query
                .query_map(params![sql(generation.0), sql(version.get()), sql(limit as u64)], |row| {
                    Ok((path_from(row)?, row_from(row)?.version))
                })?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// Whether any path has, or had before it was removed, content of just this size; answered only for sizes over 64 KiB, which rarely agree by chance.
    pub fn knows_size(&self, size: u64) -> Result<bool, IndexError> {
        self.read(|conn| {
            let mut query =
                conn.prepare_cached("SELECT 1 FROM rows WHERE size = ?1 AND size > 65536 LIMIT 1")?;
            Ok(query.exists(params![sql(size)])?)
        })
    }

    /// Up to 8 trashed files with this content.
    pub fn trashed_with(&self, content: ContentHash) -> Result<Vec<Trashed>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached("SELECT * FROM trash WHERE sha256 = ?1 LIMIT 8")?;
            let found = query.query_map(params![content.raw()], trash_from)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// One file of the trash.
    pub fn trashed(&self, id: &str) -> Result<Option<Trashed>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached("SELECT * FROM trash WHERE id = ?1")?;
            Ok(query.query_row(params![id], trash_from).optional()?)
        })
    }

    /// Up to 512 files of the trash that were moved there before `unchecked` and not looked at again, or before `kept` and are no lost conflicts.
    pub fn trash_due(&self, unchecked: Timestamp, kept: Timestamp) -> Result<Vec<Trashed>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached(
                "SELECT * FROM trash WHERE checked = 0 AND moved <= ?1
                 UNION SELECT * FROM trash WHERE lost = 0 AND moved <= ?2 LIMIT 512",
            )?;
            let found = query.query_map(params![nanos(unchecked), nanos(kept)], trash_from)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// Up to 512 files of the trash that may be dropped for space, oldest first: moved there before `settled`, and no lost conflicts.
    pub fn trash_for_space(&self, settled: Timestamp) -> Result<Vec<Trashed>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached(
                "SELECT * FROM trash WHERE lost = 0 AND moved <= ?1 ORDER BY moved LIMIT 512",
            )?;
            let found = query.query_map(params![nanos(settled)], trash_from)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// How many bytes and files [`trash_for_space`](Self::trash_for_space) could give in all.
    pub fn trash_to_spare(&self, settled: Timestamp) -> Result<(u64, u64), IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached(
                "SELECT coalesce(sum(size), 0), count(*) FROM trash WHERE lost = 0 AND moved <= ?1",
            )?;
            let unsigned = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(i64::cast_unsigned);
            Ok(query.query_row(params![nanos(settled)], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))?)
        })
    }

    /// How many files the trash holds.
    pub fn trash_count(&self) -> Result<u64, IndexError> {
        self.count("SELECT count(*) FROM trash")
    }

    /// Everything in the trash.
    pub fn trash(&self) -> Result<Vec<Trashed>, IndexError> {
        self.list("SELECT * FROM trash ORDER BY moved", trash_from)
    }

    /// All standing offers.
    pub fn offers(&self) -> Result<Vec<(MediaPath, Offer)>, IndexError> {
        self.list("SELECT * FROM offers", |row| Ok((path_from(row)?, offer_from(row)?)))
    }

    /// All standing intents.
    pub fn intents(&self) -> Result<Vec<(MediaPath, Intent)>, IndexError> {
        self.list("SELECT * FROM intents", |row| Ok((path_from(row)?, intent_from(row)?)))
    }

    /// All parked events, oldest position first.
    pub fn parked(&self) -> Result<Vec<Parked>, IndexError> {
        self.list("SELECT * FROM parked ORDER BY seq", parked_from)
    }

    /// The first of them, at most `limit`.
    pub fn parked_first(&self, limit: usize) -> Result<Vec<Parked>, IndexError> {
        self.list(&format!("SELECT * FROM parked ORDER BY seq LIMIT {limit}"), parked_from)
    }

    /// Up to 256 parked events that are to be tried now, oldest position first: those that an operator asked for, and those whose rest is over.
    pub fn parked_due(&self, now: Timestamp) -> Result<Vec<Parked>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached(
                "SELECT * FROM parked WHERE asked = 1 OR (permanent = 0 AND next_try <= ?1) ORDER BY seq LIMIT 256",
            )?;
            let found = query.query_map(params![nanos(now)], parked_from)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// The parked event of one path.
    pub fn parked_of(&self, path: &MediaPath) -> Result<Option<Parked>, IndexError> {
        self.read(|conn| {
            let mut query =
                conn.prepare_cached("SELECT * FROM parked WHERE path = ?1 ORDER BY seq DESC LIMIT 1")?;
            Ok(query.query_row(params![path.as_bytes()], parked_from).optional()?)
        })
    }

    /// The parked event on one subject.
    pub fn parked_on(&self, subject: &str) -> Result<Option<Parked>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached("SELECT * FROM parked WHERE subject = ?1")?;
            Ok(query.query_row(params![subject], parked_from).optional()?)
        })
    }

    /// The paths that the watcher is to look at, in path order, after `after`, at most `limit`.
    pub fn outbox(&self, after: Option<&MediaPath>, limit: usize) -> Result<Vec<Asked>, IndexError> {
        let after = after.map_or(&b""[..], MediaPath::as_bytes);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(|conn| {
            let mut query =
                conn.prepare_cached("SELECT * FROM outbox WHERE path > ?1 ORDER BY path LIMIT ?2")?;
            let found = query.query_map(params![after, limit], asked_from)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// How many those are. Reads all of them.
    pub fn outbox_count(&self) -> Result<u64, IndexError> {
        self.count("SELECT count(*) FROM outbox")
    }

    /// How much of the tree the watcher watches; `None` before its first scan.
    pub fn coverage(&self) -> Result<Option<Coverage>, IndexError> {
        Ok(self.list("SELECT * FROM coverage", coverage_from)?.pop())
    }

    /// How many lost conflicts the trash holds.
    pub fn lost_conflicts(&self) -> Result<u64, IndexError> {
        self.count("SELECT count(*) FROM trash WHERE lost = 1")
    }

    /// How many offers stand.
    pub fn offer_count(&self) -> Result<u64, IndexError> {
        self.count("SELECT count(*) FROM offers")
    }

    /// How many events are parked.
    pub fn parked_count(&self) -> Result<u64, IndexError> {
        self.count("SELECT count(*) FROM parked")
    }

    /// Where the newest parked events stand in the log, newest first, at most `limit`.
    pub fn parked_at(&self, limit: usize) -> Result<Vec<Version>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached("SELECT seq FROM parked ORDER BY seq DESC LIMIT ?1")?;
            let found = query.query_map(params![sql(limit as u64)], |row| version(row, "seq"))?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// How many paths the index knows as present, of whatever generation.
    pub fn present_count(&self) -> Result<u64, IndexError> {
        self.count("SELECT count(*) FROM rows WHERE state = 1")
    }

    /// A walk over the rows in path order, on a connection of its own: it sees one moment, however long it takes.
    pub fn rows_in_order(&self) -> Result<PathCursor, IndexError> {
        PathCursor::open(&self.path).map_err(|error| error.at(&self.path))
    }

    /// The rows below a folder (all of them for the empty path), in path order, after `after`, at most `limit`.
    pub fn rows_below(
        &self,
        folder: &[u8],
        after: Option<&MediaPath>,
        limit: usize,
    ) -> Result<Vec<(MediaPath, Row)>, IndexError> {
        let (low, high) = below(folder);
        self.read(|conn| page(conn, &low, high.as_deref(), after, limit))
    }

    pub(super) fn count(&self, query: &str) -> Result<u64, IndexError> {
        self.read(|conn| {
            Ok(conn.prepare_cached(query)?.query_row([], |row| row.get::<_, i64>(0))?.cast_unsigned())
        })
    }

    pub(super) fn list<T>(
        &self,
        query: &str,
        from: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, IndexError> {
        self.read(|conn| Ok(conn.prepare_cached(query)?.query_map([], from)?.collect::<Result<_, _>>()?))
    }
}

/// The index at one moment; see [`Index::at_once`].
pub struct Reads<'c>(&'c Connection);

impl Reads<'_> {
    /// See [`Index::stage`].
    pub fn stage(&self) -> Result<Stage, IndexError> {
        read_stage(self.0)
    }

    /// See [`Index::path_state`].
    pub fn path_state(&self, path: &MediaPath) -> Result<PathState, IndexError> {
        read_path_state(self.0, path)
    }

    /// Up to 8 present paths whose file had this inode: where a renamed file was.
    pub fn paths_of_inode(&self, ino: u64) -> Result<Vec<(MediaPath, Row)>, IndexError> {
        let mut query = self.0.prepare_cached("SELECT * FROM rows WHERE ino = ?1 AND state = 1 LIMIT 8")?;
        let found = query.query_map(params![sql(ino)], |row| Ok((path_from(row)?, row_from(row)?)))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// The path's newest event that is parked for a permanent reason, if nothing newer of it is parked.
    pub fn parked_for_good(&self, path: &MediaPath) -> Result<Option<Version>, IndexError> {
        let mut query = self
            .0
            .prepare_cached("SELECT seq, permanent FROM parked WHERE path = ?1 ORDER BY seq DESC LIMIT 1")?;
        let newest = query
            .query_row(params![path.as_bytes()], |row| Ok((version(row, "seq")?, row.get("permanent")?)))
            .optional()?;
        Ok(newest.and_then(|(version, permanent)| if permanent { Some(version) } else { None }))
    }

    /// Whether a present path, or the trash, has this content.
    pub fn has_content(&self, content: ContentHash) -> Result<bool, IndexError> {
        let mut query = self.0.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM rows WHERE sha256 = ?1 AND state = 1) OR EXISTS (SELECT 1 FROM trash WHERE sha256 = ?1)",
        )?;
        Ok(query.query_row(params![content.raw()], |row| row.get(0))?)
    }
}

/// The range of paths below a folder: from `folder/` up to, not including, `folder0` (`0` follows `/`).
fn below(folder: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    if folder.is_empty() {
        return (Vec::new(), None);
    }
    ([folder, b"/"].concat(), Some([folder, b"0"].concat()))
}

fn page(
    conn: &Connection,
    low: &[u8],
    high: Option<&[u8]>,
    after: Option<&MediaPath>,
    limit: usize,
) -> Result<Vec<(MediaPath, Row)>, IndexError> {
    let from = |row: &rusqlite::Row<'_>| Ok((path_from(row)?, row_from(row)?));
    let low = after.map_or(low, MediaPath::as_bytes);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = match high {
        Some(high) => conn
            .prepare_cached("SELECT * FROM rows WHERE path > ?1 AND path < ?2 ORDER BY path LIMIT ?3")?
            .query_map(params![low, high, limit], from)?
            .collect::<Result<_, _>>()?,
        None => conn
            .prepare_cached("SELECT * FROM rows WHERE path > ?1 ORDER BY path LIMIT ?2")?
            .query_map(params![low, limit], from)?
            .collect::<Result<_, _>>()?,
    };
    Ok(rows)
}

/// Rows in path order, read in pages of 1,024.
pub struct PathCursor {
    conn: Connection,
    folder: Vec<u8>,
    last: Option<MediaPath>,
    page: std::vec::IntoIter<(MediaPath, Row)>,
    ended: bool,
}

impl PathCursor {
    const PAGE: usize = 1024;

    fn open(path: &std::path::Path) -> Result<Self, IndexError> {
        let conn = super::connect(path)?;
        Ok(Self { conn, folder: Vec::new(), last: None, page: Vec::new().into_iter(), ended: false })
    }

    /// Only the rows below this folder.
    pub fn below(mut self, folder: &[u8]) -> Self {
        self.folder = folder.to_vec();
        self
    }

    /// The next row.
    pub fn next_row(&mut self) -> Result<Option<(MediaPath, Row)>, IndexError> {
        if self.page.len() == 0 && !self.ended {
            let (low, high) = below(&self.folder);
            let page = page(&self.conn, &low, high.as_deref(), self.last.as_ref(), Self::PAGE)?;
            self.ended = page.len() < Self::PAGE;
            self.last = page.last().map(|(path, _)| path.clone()).or(self.last.take());
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}
