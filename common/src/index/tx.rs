//! What can be done to the index, each a step of a write transaction.

use super::{
    IndexError,
    care::HeldKind,
    changes::{Disk, are_recorded},
    codec::*,
    digest::Digest,
    types::*,
};
use crate::{
    event::{EventId, Kind, StreamCreated, Version},
    hash::ContentHash,
    path::MediaPath,
    time::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

/// A write transaction. The `node` row is held in memory until the end of the group.
pub struct Tx<'c> {
    pub(super) conn: &'c Connection,
    node: NodeState,
    stored: NodeState,
    pub(super) records_changes: bool,
}

/// A row commit: a path's event is applied here.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The path.
    pub path: MediaPath,
    /// Addition or removal.
    pub kind: Kind,
    /// The content added or removed.
    pub sha256: ContentHash,
    /// Its length.
    pub size: u64,
    /// The file's stat, when its content is known to be this.
    pub stat: Option<Stat>,
    /// See [`Row::racy`].
    pub racy: bool,
    /// The event.
    pub version: Version,
    /// What it replaced.
    pub replaced: Version,
    /// Its subject.
    pub subject: String,
    /// Its identity.
    pub event: EventId,
    /// The generation it was read or published in.
    pub generation: Generation,
}

impl<'c> Tx<'c> {
    pub(super) fn new(conn: &'c Connection) -> Result<Self, IndexError> {
        let node = read_node(conn)?;
        Ok(Self { conn, stored: node.clone(), node, records_changes: are_recorded(conn)? })
    }

    pub(super) fn remember(&self) -> NodeState {
        self.node.clone()
    }

    pub(super) fn restore(&mut self, node: NodeState) {
        self.node = node;
    }

    /// Writes the `node` row if it changed.
    pub(super) fn finish(&mut self) -> Result<(), IndexError> {
        if self.node != self.stored {
            write_node(self.conn, &self.node)?;
            self.stored = self.node.clone();
        }
        Ok(())
    }

    /// Where this node stands.
    pub fn node(&self) -> &NodeState {
        &self.node
    }

    /// Changes where this node stands.
    pub fn node_mut(&mut self) -> &mut NodeState {
        &mut self.node
    }

    /// Writes something that says nothing new: whether there is room for it is what is asked.
    pub fn probe(&mut self) -> Result<(), IndexError> {
        self.conn.execute("UPDATE node SET version = version", [])?;
        Ok(())
    }

    /// Everything about one path.
    pub fn path_state(&self, path: &MediaPath) -> Result<PathState, IndexError> {
        read_path_state(self.conn, path)
    }

    /// Commits a row: never at or below one of its generation, nor of a newer one: what the other process has committed for the same event stands. False: superseded, nothing was changed. Parked events of the path
    /// that it covers are dropped with it.
    pub fn commit(&mut self, commit: &Commit) -> Result<bool, IndexError> {
        self.commit_with(commit, Disk::AsRow)
    }

    /// As [`commit`](Self::commit), of an event whose file stays as it was, unlike what the event says.
    pub fn commit_unlike(&mut self, commit: &Commit) -> Result<bool, IndexError> {
        self.commit_with(commit, Disk::Unlike)
    }

    /// As [`commit`](Self::commit), of an event that was brought to the disk. Where the row is at that event already, it takes the file's stat.
    pub fn commit_placed(&mut self, commit: &Commit) -> Result<(), IndexError> {
        if !self.commit_with(commit, Disk::Moved)? {
            self.placed_again(commit)?;
        }
        Ok(())
    }

    pub(super) fn commit_with(&mut self, commit: &Commit, disk: Disk) -> Result<bool, IndexError> {
        let old = read_row(self.conn, &commit.path)?;
        if let Some(row) = &old
            && (row.generation, row.version) >= (commit.generation, commit.version)
        {
            return Ok(false);
        }
        let row = Row {
            state: if commit.kind == Kind::Added { RowState::Present } else { RowState::Removed },
            sha256: Some(commit.sha256),
            // Of a removed path the size of what was removed stays known.
            size: match (commit.kind, &old) {
                (Kind::Removed, Some(row)) => row.size,
                _ => commit.size,
            },
            stat: commit.stat.filter(|_| commit.kind == Kind::Added),
            racy: commit.racy,
            version: commit.version,
            replaced: commit.replaced,
            generation: commit.generation,
            lost: None,
            rewritten: commit.kind == Kind::Removed && old.as_ref().is_some_and(|row| row.rewritten),
            ignored: None,
        };
        self.put_row(&commit.path, old.as_ref(), &row)?;
        if disk.changed(old.as_ref(), &row) {
            self.record_change(commit, row.size)?;
        }
        self.conn
            .prepare_cached("DELETE FROM parked WHERE subject = ?1 AND seq <= ?2")?
            .execute(params![commit.subject, sql(commit.version.get())])?;
        self.release(&commit.path, HeldKind::Replacement)?;
        if commit.generation == self.node.generation {
            self.knows(commit.version, &commit.subject, commit.event);
        }
        Ok(true)
    }

    /// The log has this event: when it has another there one day, it is not to be trusted (rule 9).
    fn knows(&mut self, version: Version, subject: &str, event: EventId) {
        if self.node.top.as_ref().is_none_or(|top| top.version < version) {
            self.node.top = Some(Landmark { version, subject: subject.to_owned(), event });
        }
    }

    /// A path's event was brought to the disk once more: its row, when it is still at that event, takes the file's stat (none: look at it again).
    pub fn placed_again(&mut self, commit: &Commit) -> Result<(), IndexError> {
        let Some(row) = read_row(self.conn, &commit.path)? else { return Ok(()) };
        let same = (row.generation, row.version, row.content())
            == (commit.generation, commit.version, Some(commit.sha256));
        if same {
            self.record_change(commit, row.size)?;
            write_row(self.conn, &commit.path, &Row { stat: commit.stat, racy: commit.racy, ..row })?;
        }
        Ok(())
    }

    /// Changes the marks of a path's row, making a row that only carries marks when there is none. One of an older generation that has lost (rule 6) is asked of
    /// `repairs`: the event that won may have been left alone before, for ours to be published over it (rule 10).
    pub fn mark(&mut self, path: &MediaPath, change: impl FnOnce(&mut Row)) -> Result<(), IndexError> {
        let old = read_row(self.conn, path)?;
        let mut row = old.clone().unwrap_or(Row {
            state: RowState::Marked,
            sha256: None,
            size: 0,
            stat: None,
            racy: false,
            version: Version::ZERO,
            replaced: Version::ZERO,
            generation: self.node.generation,
            lost: None,
            rewritten: false,
            ignored: None,
        });
        change(&mut row);
        if row.lost.is_some() && row.generation != self.node.generation {
            self.repair(path)?;
        }
        self.put_row(path, old.as_ref(), &row)
    }

    /// Forgets what is known of a path, so that its last event is applied as if nothing were: what was known contradicts the log.
    pub fn forget_row(&mut self, path: &MediaPath) -> Result<(), IndexError> {
        if let Some(row) = read_row(self.conn, path)? {
            self.count_out(path, &row);
            self.conn
                .prepare_cached("DELETE FROM rows WHERE path = ?1")?
                .execute(params![path.as_bytes()])?;
        }
        Ok(())
    }

    /// Counts files, bytes and digest anew from the rows. False: they were right. One pass over all rows, some seconds for a million.
    pub fn recount(&mut self) -> Result<bool, IndexError> {
        let (mut digest, mut files, mut bytes) = (Digest::default(), 0, 0);
        let mut rows = self.conn.prepare("SELECT * FROM rows")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (path, row) = (path_from(row)?, row_from(row)?);
            if let Some(content) = row.content().filter(|_| row.generation == self.node.generation) {
                digest.add(&path, content);
                (files, bytes) = (files + 1, bytes + row.size);
            }
        }
        let node = &mut self.node;
        let wrong = (node.digest, node.files, node.bytes) != (digest, files, bytes);
        (node.digest, node.files, node.bytes) = (digest, files, bytes);
        Ok(wrong)
    }

    fn count_out(&mut self, path: &MediaPath, row: &Row) {
        if let Some(content) = row.content().filter(|_| row.generation == self.node.generation) {
            self.node.digest.remove(path, content);
            self.node.files = self.node.files.saturating_sub(1);
            self.node.bytes = self.node.bytes.saturating_sub(row.size);
        }
    }

    fn put_row(&mut self, path: &MediaPath, old: Option<&Row>, row: &Row) -> Result<(), IndexError> {
        let now = self.node.generation;
        if let Some(old) = old {
            self.count_out(path, old);
        }
        if let Some(content) = row.content().filter(|_| row.generation == now) {
            self.node.digest.add(path, content);
            self.node.files += 1;
            self.node.bytes += row.size;
        }
        write_row(self.conn, path, row)
    }

    /// Offers, when nothing about the path changed since `seen`. False: it did; look again.
    pub fn offer(&mut self, path: &MediaPath, seen: &PathState, offer: &Offer) -> Result<bool, IndexError> {
        if offer.generation != self.node.generation
            || self.path_state(path)? != *seen
            || seen.intent.is_some()
        {
            return Ok(false);
        }
        write_offer(self.conn, path, offer)?;
        Ok(true)
    }

    /// Takes an offer away. False: it was no longer this one (the replicator has settled it).
    pub fn withdraw(&mut self, path: &MediaPath, offer: &Offer) -> Result<bool, IndexError> {
        if read_offer(self.conn, path)?.as_ref() != Some(offer) {
            return Ok(false);
        }
        self.conn.prepare_cached("DELETE FROM offers WHERE path = ?1")?.execute(params![path.as_bytes()])?;
        Ok(true)
    }

    /// Takes an offer away, and commits what its path's last event turned out to be: the same. False: only the first, for since it was offered another event was
    /// placed there, or is about to be. What was offered may not be on the disk any more, and the replicator brings it back with its event.
    pub fn settle(&mut self, offer: &Offer, commit: &Commit) -> Result<bool, IndexError> {
        let seen = self.path_state(&commit.path)?;
        let row = seen.row.filter(|row| row.generation == commit.generation);
        let untouched = seen.intent.is_none() && row.is_none_or(|row| row.version <= offer.replaces);
        if untouched {
            self.commit(commit)?;
        }
        self.withdraw(&commit.path, offer)?;
        Ok(untouched)
    }

    /// Intends, when nothing about the path changed since `seen`. False: it did; look again.
    pub fn intend(
        &mut self,
        path: &MediaPath,
        seen: &PathState,
        intent: &Intent,
    ) -> Result<bool, IndexError> {
        if intent.generation != self.node.generation
            || self.path_state(path)? != *seen
            || seen.intent.is_some()
        {
            return Ok(false);
        }
        write_intent(self.conn, path, intent)?;
        Ok(true)
    }

    /// Takes an intent away. False: it was no longer this one.
    pub fn drop_intent(&mut self, path: &MediaPath, intent: &Intent) -> Result<bool, IndexError> {
        if read_intent(self.conn, path)?.as_ref() != Some(intent) {
            return Ok(false);
        }
        self.conn.prepare_cached("DELETE FROM intents WHERE path = ?1")?.execute(params![path.as_bytes()])?;
        Ok(true)
    }

    /// Sets an event aside (rule 11). A path has one at most, the newest. False: the path's row is newer (rule 1), nothing was set aside.
    pub fn park(&mut self, parked: &Parked, event: EventId) -> Result<bool, IndexError> {
        let row = match &parked.path {
            Some(path) => read_row(self.conn, path)?,
            None => None,
        };
        if row.is_some_and(|row| row.generation == self.node.generation && row.version > parked.version) {
            return Ok(false);
        }
        write_parked(self.conn, parked)?;
        self.knows(parked.version, &parked.subject, event);
        Ok(true)
    }

    /// Takes a parked event away, when it is still this one.
    pub fn unpark(&mut self, subject: &str, version: Version) -> Result<(), IndexError> {
        self.conn
            .prepare_cached("DELETE FROM parked WHERE subject = ?1 AND seq = ?2")?
            .execute(params![subject, sql(version.get())])?;
        Ok(())
    }

    /// Records a file that is moved to the trash.
    pub fn add_trash(&mut self, trashed: &Trashed) -> Result<(), IndexError> {
        write_trash(self.conn, trashed)
    }

    /// Forgets a file of the trash that is gone.
    pub fn forget_trash(&mut self, id: &str) -> Result<(), IndexError> {
        self.conn.prepare_cached("DELETE FROM trash WHERE id = ?1")?.execute(params![id])?;
        Ok(())
    }

    /// Asks the watcher to look at a path, once more when it has been asked already.
    pub fn ask_watcher(&mut self, path: &MediaPath) -> Result<(), IndexError> {
        self.conn
            .prepare_cached(
                "INSERT INTO outbox (path, since, finished) VALUES (?1, ?2, 0)
                 ON CONFLICT (path) DO UPDATE SET since = max(excluded.since, since + 1)",
            )?
            .execute(params![path.as_bytes(), nanos(Timestamp::now())])?;
        Ok(())
    }

    /// Notes what ripened while the broker was away. What is noted already and says no less stays as it is, at no cost.
    pub fn note(&mut self, noted: &[Asked]) -> Result<(), IndexError> {
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO outbox (path, since, finished) VALUES (?1, ?2, ?3)
             ON CONFLICT (path) DO UPDATE SET since = max(excluded.since, since + 1), finished = 1
             WHERE excluded.finished > finished",
        )?;
        for Asked { path, since, finished } in noted {
            insert.execute(params![path.as_bytes(), nanos(*since), finished])?;
        }
        Ok(())
    }

    /// The work on these paths has come to an end. One that was noted again meanwhile stays.
    pub fn leave_outbox(&mut self, ended: &[(MediaPath, Timestamp)]) -> Result<(), IndexError> {
        let mut delete = self.conn.prepare_cached("DELETE FROM outbox WHERE path = ?1 AND since = ?2")?;
        for (path, since) in ended {
            delete.execute(params![path.as_bytes(), nanos(*since)])?;
        }
        Ok(())
    }

    /// Records how much of the tree is watched.
    pub fn set_coverage(&mut self, coverage: Coverage) -> Result<(), IndexError> {
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO coverage (id, folders, watched) VALUES (0, ?1, ?2)")?
            .execute(params![sql(coverage.folders), sql(coverage.watched)])?;
        Ok(())
    }

    /// Begins a new generation, `why` for people: another life of the log, or the same one that is no longer trusted, or a restored root. The log is read
    /// again from its start; offers and parked events are dropped; rows stay as facts about path, hash and stat; open intents stay to be finished.
    pub fn begin_generation(&mut self, created: &StreamCreated, why: &str) -> Result<(), IndexError> {
        let node = &mut self.node;
        let next = Generation(node.generation.0 + 1);
        node.no_base = if node.restored { next } else { node.no_base };
        node.restored = false;
        node.generation = next;
        node.created = Some(created.clone());
        (node.version, node.at_version, node.top) = (Version::ZERO, None, None);
        node.beyond.clear();
        (node.fresh, node.log_read) = (true, false);
        (node.digest, node.files, node.bytes) = (Digest::default(), 0, 0);
        self.conn.execute(
            "INSERT INTO generations (id, created, began, why) VALUES (?1, ?2, ?3, ?4)",
            params![sql(next.0), created.to_string(), nanos(Timestamp::now()), why],
        )?;
        self.conn.execute_batch("DELETE FROM offers; DELETE FROM parked; DELETE FROM held;")?;
        Ok(())
    }

    /// Whether a path's newest parked event has this position.
    pub fn parked(&self, subject: &str) -> Result<Option<Parked>, IndexError> {
        Ok(self
            .conn
            .prepare_cached("SELECT * FROM parked WHERE subject = ?1")?
            .query_row(params![subject], parked_from)
            .optional()?)
    }
}
