//! What operators and checks ask of the running processes through the index, and what those have to say in return: repairs, blobs to be stored again,
//! what is held and the answers to it, parked events to be tried now, and how far the scrub is.

use super::{Index, IndexError, codec::*, tx::Tx};
use crate::{hash::ContentHash, path::MediaPath, time::Timestamp};
use rusqlite::{OptionalExtension, Row as Sql, params};

/// What is held beyond the limit of rule 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeldKind {
    /// A removal that the watcher does not publish.
    Removal,
    /// A replacement, of content that nobody here knows, that the replicator does not make.
    Replacement,
}

/// What an operator says about what is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing yet.
    None,
    /// Go on: publish, replace.
    Approved,
    /// Take it back: what stands in the log comes back to the disk (a removal), what stands on the disk stays (a replacement).
    Reverted,
}

/// How much of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeldCount {
    /// Removals.
    pub removals: u64,
    /// Replacements.
    pub replacements: u64,
}

/// A path whose last event is to be brought to the disk once more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    /// The path.
    pub path: MediaPath,
    /// When it was asked for; it names the request.
    pub since: Timestamp,
    /// How often it was tried in vain.
    pub tries: u32,
}

/// A blob that is to be stored again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WantedBlob {
    /// Its name.
    pub content: ContentHash,
    /// Its length.
    pub size: u64,
    /// When it was asked for.
    pub since: Timestamp,
}

/// How far the scrub is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrub {
    /// The last path that the pass under way has looked at.
    pub position: Option<MediaPath>,
    /// When that pass began; `None`: none is under way.
    pub started: Option<Timestamp>,
    /// When the last whole pass ended.
    pub finished: Option<Timestamp>,
    /// Rows passed in the pass under way.
    pub files: u64,
    /// Files found rotten in it.
    pub rotten: u64,
}

impl HeldKind {
    fn code(self) -> i64 {
        match self {
            Self::Removal => 0,
            Self::Replacement => 1,
        }
    }
}

impl Answer {
    fn code(self) -> i64 {
        match self {
            Self::None => 0,
            Self::Approved => 1,
            Self::Reverted => 2,
        }
    }

    fn from(row: &Sql<'_>) -> rusqlite::Result<Self> {
        Ok(match row.get("answer")? {
            0 => Self::None,
            1 => Self::Approved,
            _ => Self::Reverted,
        })
    }
}

fn repair_from(row: &Sql<'_>) -> rusqlite::Result<Repair> {
    Ok(Repair { path: path_from(row)?, since: time(row, "since")?, tries: row.get("tries")? })
}

fn scrub_from(row: &Sql<'_>) -> rusqlite::Result<Scrub> {
    let moment = |column: &str| {
        let stored = row.get::<_, Option<i64>>(column)?;
        Ok::<_, rusqlite::Error>(stored.map(|nanos| Timestamp::from_nanos(i128::from(nanos))))
    };
    let position: Option<Vec<u8>> = row.get("position")?;
    Ok(Scrub {
        position: position.map(|bytes| MediaPath::new(&bytes)).transpose().map_err(bad)?,
        started: moment("started")?,
        finished: moment("finished")?,
        files: unsigned(row, "files")?,
        rotten: unsigned(row, "rotten")?,
    })
}

impl Index {
    /// The removals held, each with whether the operator has agreed.
    pub fn held(&self) -> Result<Vec<(MediaPath, bool)>, IndexError> {
        self.list("SELECT path, answer FROM held WHERE kind = 0 ORDER BY path", |row| {
            Ok((path_from(row)?, Answer::from(row)? == Answer::Approved))
        })
    }

    /// What an operator said about one path that is held; `None`: it is not.
    pub fn held_answer(&self, path: &MediaPath, kind: HeldKind) -> Result<Option<Answer>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached("SELECT answer FROM held WHERE path = ?1 AND kind = ?2")?;
            Ok(query.query_row(params![path.as_bytes(), kind.code()], Answer::from).optional()?)
        })
    }

    /// How much is held without an answer.
    pub fn held_count(&self) -> Result<HeldCount, IndexError> {
        Ok(HeldCount {
            removals: self.count("SELECT count(*) FROM held WHERE answer = 0 AND kind = 0")?,
            replacements: self.count("SELECT count(*) FROM held WHERE answer = 0 AND kind = 1")?,
        })
    }

    /// Up to 256 repairs that are to be tried now, oldest request first.
    pub fn repairs_due(&self, now: Timestamp) -> Result<Vec<Repair>, IndexError> {
        self.read(|conn| {
            let mut query = conn
                .prepare_cached("SELECT * FROM repairs WHERE next_try <= ?1 ORDER BY next_try LIMIT 256")?;
            let found = query.query_map(params![nanos(now)], repair_from)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
    }

    /// Whether a path waits for its repair: then its absence is no removal.
    pub fn awaits_repair(&self, path: &MediaPath) -> Result<bool, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached("SELECT 1 FROM repairs WHERE path = ?1")?;
            Ok(query.exists(params![path.as_bytes()])?)
        })
    }

    /// How many paths wait for their repair.
    pub fn repair_count(&self) -> Result<u64, IndexError> {
        self.count("SELECT count(*) FROM repairs")
    }

    /// Up to 1,000 blobs that a check found missing or damaged in the store, those asked for first.
    pub fn wanted(&self) -> Result<Vec<WantedBlob>, IndexError> {
        self.list("SELECT * FROM wanted ORDER BY since LIMIT 1000", |row| {
            Ok(WantedBlob {
                content: some_hash(row, "sha256")?,
                size: unsigned(row, "size")?,
                since: time(row, "since")?,
            })
        })
    }

    /// How far the scrub is.
    pub fn scrub(&self) -> Result<Scrub, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached("SELECT * FROM scrub WHERE id = 0")?;
            Ok(query.query_row([], scrub_from).optional()?.unwrap_or_default())
        })
    }

    /// When `verify` last found nothing that differs.
    pub fn verified(&self) -> Result<Option<Timestamp>, IndexError> {
        self.read(|conn| {
            let mut query = conn.prepare_cached("SELECT ended FROM verified WHERE id = 0")?;
            let ended: Option<i64> = query.query_row([], |row| row.get(0)).optional()?;
            Ok(ended.map(|nanos| Timestamp::from_nanos(i128::from(nanos))))
        })
    }
}

impl Tx<'_> {
    /// Holds paths until an operator answers (rule 8). One that is held keeps its answer.
    pub fn hold(&mut self, paths: &[MediaPath], kind: HeldKind) -> Result<(), IndexError> {
        let now = nanos(Timestamp::now());
        let mut insert =
            self.conn.prepare_cached("INSERT OR IGNORE INTO held (path, kind, since) VALUES (?1, ?2, ?3)")?;
        for path in paths {
            insert.execute(params![path.as_bytes(), kind.code(), now])?;
        }
        Ok(())
    }

    /// The path is not held any more: done, gone, or taken back.
    pub fn release(&mut self, path: &MediaPath, kind: HeldKind) -> Result<(), IndexError> {
        self.conn
            .prepare_cached("DELETE FROM held WHERE path = ?1 AND kind = ?2")?
            .execute(params![path.as_bytes(), kind.code()])?;
        Ok(())
    }

    /// The operator agrees with all that is held. Returns how much that is. Parked replacements are tried at once.
    pub fn approve_held(&mut self) -> Result<HeldCount, IndexError> {
        self.answer(Answer::Approved)
    }

    /// The operator takes back all that is held: removals are not published and their files are fetched again, replacements are not made. Returns how much that is.
    pub fn revert_held(&mut self) -> Result<HeldCount, IndexError> {
        let count = self.answer(Answer::Reverted)?;
        self.conn.execute(
            "INSERT OR REPLACE INTO repairs (path, since, tries, next_try) SELECT path, ?1, 0, ?1 FROM held WHERE kind = 0",
            params![nanos(Timestamp::now())],
        )?;
        self.conn.execute("DELETE FROM held WHERE kind = 0", [])?;
        Ok(count)
    }

    fn answer(&mut self, answer: Answer) -> Result<HeldCount, IndexError> {
        let mut update = self.conn.prepare_cached("UPDATE held SET answer = ?1 WHERE kind = ?2")?;
        let mut of = |kind: HeldKind| update.execute(params![answer.code(), kind.code()]);
        let count = HeldCount {
            removals: of(HeldKind::Removal)? as u64,
            replacements: of(HeldKind::Replacement)? as u64,
        };
        self.conn.execute(
            "UPDATE parked SET asked = 1 WHERE path IN (SELECT path FROM held WHERE kind = 1)",
            [],
        )?;
        Ok(count)
    }

    /// Wants parked events tried now: those of one path, or all. Returns how many there are.
    pub fn retry_parked(&mut self, path: Option<&MediaPath>) -> Result<u64, IndexError> {
        let changed = match path {
            Some(path) => {
                self.conn.execute("UPDATE parked SET asked = 1 WHERE path = ?1", params![path.as_bytes()])?
            }
            None => self.conn.execute("UPDATE parked SET asked = 1", [])?,
        };
        Ok(changed as u64)
    }

    /// Asks the replicator to bring a path's last event to the disk once more.
    pub fn repair(&mut self, path: &MediaPath) -> Result<(), IndexError> {
        self.conn
            .prepare_cached(
                "INSERT OR IGNORE INTO repairs (path, since, tries, next_try) VALUES (?1, ?2, 0, ?2)",
            )?
            .execute(params![path.as_bytes(), nanos(Timestamp::now())])?;
        Ok(())
    }

    /// A repair has ended.
    pub fn end_repair(&mut self, path: &MediaPath, since: Timestamp) -> Result<(), IndexError> {
        self.conn
            .prepare_cached("DELETE FROM repairs WHERE path = ?1 AND since = ?2")?
            .execute(params![path.as_bytes(), nanos(since)])?;
        Ok(())
    }

    /// A repair failed, and rests.
    pub fn rest_repair(&mut self, path: &MediaPath, next_try: Timestamp) -> Result<(), IndexError> {
        self.conn
            .prepare_cached("UPDATE repairs SET tries = tries + 1, next_try = ?2 WHERE path = ?1")?
            .execute(params![path.as_bytes(), nanos(next_try)])?;
        Ok(())
    }

    /// Asks the watchers for a blob.
    pub fn want(&mut self, content: ContentHash, size: u64) -> Result<(), IndexError> {
        self.conn
            .prepare_cached("INSERT OR IGNORE INTO wanted (sha256, size, since) VALUES (?1, ?2, ?3)")?
            .execute(params![content.raw(), sql(size), nanos(Timestamp::now())])?;
        Ok(())
    }

    /// A blob is whole in the store, or nobody's business any more.
    pub fn want_no_more(&mut self, content: ContentHash) -> Result<(), IndexError> {
        self.conn.prepare_cached("DELETE FROM wanted WHERE sha256 = ?1")?.execute(params![content.raw()])?;
        Ok(())
    }

    /// `verify` has found nothing that differs.
    pub fn set_verified(&mut self, ended: Timestamp) -> Result<(), IndexError> {
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO verified (id, ended) VALUES (0, ?1)")?
            .execute([nanos(ended)])?;
        Ok(())
    }

    /// Stores how far the scrub is.
    pub fn set_scrub(&mut self, scrub: &Scrub) -> Result<(), IndexError> {
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO scrub (id, position, started, finished, files, rotten) VALUES (0, ?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                scrub.position.as_ref().map(MediaPath::as_bytes),
                scrub.started.map(nanos),
                scrub.finished.map(nanos),
                sql(scrub.files),
                sql(scrub.rotten),
            ])?;
        Ok(())
    }
}
