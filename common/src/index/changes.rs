//! What changed in the tree of this node, for a hook to be told: recorded with the row, in its transaction, and kept until the hook has heard of it.
//!
//! Costs, where it is on: about 100 bytes of disk a change until then, and one more line in a transaction that there is anyway. Where it is off: one look a transaction.

use super::{Commit, Generation, Index, IndexError, Row, RowState, Tx, codec::*};
use crate::{
    event::{Kind, Version},
    hash::ContentHash,
    path::MediaPath,
};
use rusqlite::{Connection, params};

/// What stands in `recorded` while changes are.
const CHANGES: &str = "changes";

/// A file was placed, replaced or written, or removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Changes that happened later have greater ones.
    pub id: i64,
    /// The path.
    pub path: MediaPath,
    /// Addition or removal.
    pub kind: Kind,
    /// The content added or removed.
    pub sha256: ContentHash,
    /// Its length.
    pub size: u64,
    /// The event.
    pub version: Version,
    /// The generation that it counts in.
    pub generation: Generation,
}

/// What the disk has to do with a row that is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disk {
    /// It was brought to the row.
    Moved,
    /// It is as the row says, whoever has made it so: news when the row is.
    AsRow,
    /// It stays as it was, unlike the row.
    Unlike,
}

impl Disk {
    pub(super) fn changed(self, old: Option<&Row>, row: &Row) -> bool {
        let content = |row: &Row| row.sha256.filter(|_| row.state == RowState::Present);
        match self {
            Self::Moved => true,
            Self::AsRow => old.and_then(content) != content(row),
            Self::Unlike => false,
        }
    }
}

fn change_from(row: &rusqlite::Row<'_>) -> rusqlite::Result<Change> {
    Ok(Change {
        id: row.get("id")?,
        path: path_from(row)?,
        kind: kind(row)?,
        sha256: some_hash(row, "sha256")?,
        size: unsigned(row, "size")?,
        version: version(row, "seq")?,
        generation: Generation(unsigned(row, "generation")?),
    })
}

pub(super) fn are_recorded(conn: &Connection) -> Result<bool, IndexError> {
    Ok(conn.prepare_cached("SELECT 1 FROM recorded WHERE what = ?1")?.exists([CHANGES])?)
}

impl Tx<'_> {
    pub(super) fn record_change(&mut self, commit: &Commit, size: u64) -> Result<(), IndexError> {
        if !self.records_changes {
            return Ok(());
        }
        let query = "INSERT INTO changes (path, removal, sha256, size, seq, generation) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.conn.prepare_cached(query)?.execute(params![
            commit.path.as_bytes(),
            commit.kind == Kind::Removed,
            commit.sha256.raw(),
            sql(size),
            sql(commit.version.get()),
            sql(commit.generation.0),
        ])?;
        Ok(())
    }

    /// From now on changes are recorded, or no longer: then those that nobody has heard of are forgotten.
    pub fn record_changes(&mut self, on: bool) -> Result<(), IndexError> {
        if on != self.records_changes {
            let query = match on {
                true => "INSERT INTO recorded (what) VALUES (?1)",
                false => "DELETE FROM recorded WHERE what = ?1",
            };
            self.conn.execute(query, [CHANGES])?;
            self.records_changes = on;
        }
        if !on {
            self.conn.execute("DELETE FROM changes", [])?;
        }
        Ok(())
    }

    /// A hook has heard of all changes up to this one.
    pub fn forget_changes(&mut self, last: i64) -> Result<(), IndexError> {
        self.conn.prepare_cached("DELETE FROM changes WHERE id <= ?1")?.execute([last])?;
        Ok(())
    }
}

impl Index {
    /// Whether changes are recorded.
    pub fn records_changes(&self) -> Result<bool, IndexError> {
        self.read(are_recorded)
    }

    /// The oldest changes that no hook has heard of, at most `most`, in their order.
    pub fn changes(&self, most: usize) -> Result<Vec<Change>, IndexError> {
        self.list(&format!("SELECT * FROM changes ORDER BY id LIMIT {most}"), change_from)
    }

    /// How many there are. They are counted: some milliseconds for a hundred thousand.
    pub fn changes_count(&self) -> Result<u64, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached("SELECT count(*) AS changes FROM changes")?;
            Ok(query.query_row([], |row| unsigned(row, "changes"))?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    fn commit(path: &str, version: u64, kind: Kind, content: &[u8]) -> Commit {
        let (subject, sha256) = (format!("mirror.media.{path}"), ContentHash::of(content));
        Commit {
            path: path.parse().expect("a path"),
            kind,
            sha256,
            size: content.len() as u64,
            stat: None,
            racy: false,
            version: Version::new(version),
            replaced: Version::ZERO,
            event: EventId::of(&subject, kind, sha256, Version::ZERO),
            subject,
            generation: Generation(0),
        }
    }

    async fn told(index: &Index, commits: &[(u64, Kind, &[u8], Disk)]) -> Vec<(u64, Kind)> {
        for &(version, kind, content, disk) in commits {
            let commit = commit("a", version, kind, content);
            index.write(move |tx| tx.commit_with(&commit, disk)).await.expect("committed");
        }
        let changes = index.changes(100).expect("changes");
        assert_eq!(index.changes_count().expect("a count"), changes.len() as u64);
        changes.into_iter().map(|change| (change.version.get(), change.kind)).collect()
    }

    #[tokio::test]
    async fn a_change_is_what_the_disk_or_the_content_of_a_row_has_become() {
        use Kind::{Added, Removed};
        let index = Index::in_memory().expect("an index");
        assert_eq!(told(&index, &[(1, Added, b"x", Disk::Moved)]).await, []);
        index.write(|tx| tx.record_changes(true)).await.expect("on");
        let played = told(
            &index,
            &[
                (2, Added, b"x", Disk::AsRow),
                (3, Added, b"x", Disk::Moved),
                (4, Added, b"y", Disk::AsRow),
                (5, Removed, b"y", Disk::Unlike),
                (6, Removed, b"y", Disk::AsRow),
                (7, Added, b"y", Disk::AsRow),
                (8, Removed, b"y", Disk::Moved),
                // Superseded: nothing of it happened.
                (7, Added, b"z", Disk::AsRow),
            ],
        );
        assert_eq!(played.await, [(3, Added), (4, Added), (7, Added), (8, Removed)]);
    }

    #[tokio::test]
    async fn what_was_heard_of_is_forgotten_and_all_of_it_when_nobody_listens() {
        let index = Index::in_memory().expect("an index");
        index.write(|tx| tx.record_changes(true)).await.expect("on");
        for (version, path) in [(1, "a"), (2, "b"), (3, "a")] {
            let commit = commit(path, version, Kind::Added, path.repeat(version as usize).as_bytes());
            index.write(move |tx| tx.commit(&commit)).await.expect("committed");
        }
        let first = index.changes(2).expect("changes");
        let paths: Vec<String> = first.iter().map(|change| change.path.to_string()).collect();
        assert_eq!(paths, ["a", "b"]);
        let last = first[1].id;
        index.write(move |tx| tx.forget_changes(last)).await.expect("forgotten");
        let left = index.changes(9).expect("changes");
        assert_eq!((left.len(), left[0].version, left[0].size), (1, Version::new(3), 3));
        assert!(index.records_changes().expect("a look"));
        index.write(|tx| tx.record_changes(false)).await.expect("off");
        assert_eq!(index.changes_count().expect("a count"), 0);
        assert!(!index.records_changes().expect("a look"));
    }
}
