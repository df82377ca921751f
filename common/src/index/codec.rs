//! Rows of SQLite to values and back. Nothing is decided here.

use super::{IndexError, digest::Digest, types::*};
use crate::{
    event::{EventId, Kind, StreamCreated, Version, Was},
    hash::ContentHash,
    path::MediaPath,
    time::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row as Sql, params, types::Type};

type Read<T> = rusqlite::Result<T>;

/// SQLite's integers are signed: sequences, sizes and inodes keep their bits.
pub fn sql(number: u64) -> i64 {
    number.cast_signed()
}

/// A moment as it is stored; beyond the years 1677 to 2262 the nearest end.
pub fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.nanos()).unwrap_or(if time.nanos() < 0 { i64::MIN } else { i64::MAX })
}

pub fn unsigned(row: &Sql, column: &str) -> Read<u64> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

pub fn version(row: &Sql, column: &str) -> Read<Version> {
    Ok(Version::new(unsigned(row, column)?))
}

pub fn bad<E: std::error::Error + Send + Sync + 'static>(error: E) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, Box::new(error))
}

pub fn hash(row: &Sql, column: &str) -> Read<Option<ContentHash>> {
    Ok(row.get::<_, Option<[u8; 32]>>(column)?.map(ContentHash::from_raw))
}

pub fn some_hash(row: &Sql, column: &str) -> Read<ContentHash> {
    Ok(ContentHash::from_raw(row.get(column)?))
}

pub fn time(row: &Sql, column: &str) -> Read<Timestamp> {
    Ok(Timestamp::from_nanos(i128::from(row.get::<_, i64>(column)?)))
}

pub fn path_from(row: &Sql) -> Read<MediaPath> {
    MediaPath::new(row.get_ref("path")?.as_bytes()?).map_err(bad)
}

pub fn asked_from(row: &Sql) -> Read<Asked> {
    Ok(Asked { path: path_from(row)?, since: time(row, "since")?, finished: row.get("finished")? })
}

pub fn coverage_from(row: &Sql) -> Read<Coverage> {
    Ok(Coverage { folders: unsigned(row, "folders")?, watched: unsigned(row, "watched")? })
}

pub fn kind(row: &Sql) -> Read<Kind> {
    Ok(if row.get("removal")? { Kind::Removed } else { Kind::Added })
}

/// The stat in columns `<prefix>ino`, `<prefix>mtime`, `<prefix>ctime`.
fn stat(row: &Sql, prefix: &str, size: u64) -> Read<Option<Stat>> {
    let Some(ino) = row.get::<_, Option<i64>>(format!("{prefix}ino").as_str())? else { return Ok(None) };
    Ok(Some(Stat {
        ino: ino.cast_unsigned(),
        size,
        mtime: row.get(format!("{prefix}mtime").as_str())?,
        ctime: row.get(format!("{prefix}ctime").as_str())?,
    }))
}

/// Of all columns in the schema's order: they are read most often, and a name costs a search.
pub fn row_from(row: &Sql) -> Read<Row> {
    let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let hash = |at| Ok::<_, rusqlite::Error>(row.get::<_, Option<[u8; 32]>>(at)?.map(ContentHash::from_raw));
    let size = number(3)?;
    let stat = match row.get::<_, Option<i64>>(4)? {
        Some(ino) => Some(Stat { ino: ino.cast_unsigned(), size, mtime: row.get(5)?, ctime: row.get(6)? }),
        None => None,
    };
    Ok(Row {
        state: match row.get(1)? {
            0 => RowState::Marked,
            1 => RowState::Present,
            _ => RowState::Removed,
        },
        sha256: hash(2)?,
        size,
        stat,
        racy: row.get(7)?,
        version: Version::new(number(8)?),
        replaced: Version::new(number(9)?),
        generation: Generation(number(10)?),
        lost: hash(11)?,
        rewritten: row.get(12)?,
        ignored: hash(13)?,
    })
}

pub fn read_row(conn: &Connection, path: &MediaPath) -> Result<Option<Row>, IndexError> {
    let mut statement = conn.prepare_cached("SELECT * FROM rows WHERE path = ?1")?;
    Ok(statement.query_row(params![path.as_bytes()], row_from).optional()?)
}

pub fn write_row(conn: &Connection, path: &MediaPath, row: &Row) -> Result<(), IndexError> {
    let state = match row.state {
        RowState::Marked => 0,
        RowState::Present => 1,
        RowState::Removed => 2,
    };
    conn.prepare_cached(
        "INSERT OR REPLACE INTO rows (path, state, sha256, size, ino, mtime, ctime, racy, seq, replaced, generation, lost, rewritten, ignored)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute(params![
        path.as_bytes(),
        state,
        row.sha256.as_ref().map(ContentHash::raw),
        sql(row.size),
        row.stat.map(|s| sql(s.ino)),
        row.stat.map(|s| s.mtime),
        row.stat.map(|s| s.ctime),
        row.racy,
        sql(row.version.get()),
        sql(row.replaced.get()),
        sql(row.generation.0),
        row.lost.as_ref().map(ContentHash::raw),
        row.rewritten,
        row.ignored.as_ref().map(ContentHash::raw),
    ])?;
    Ok(())
}

pub fn offer_from(row: &Sql) -> Read<Offer> {
    let size = unsigned(row, "size")?;
    let was = match row.get::<_, Option<String>>("was_created")? {
        Some(created) => Some(Was(StreamCreated(created.parse().map_err(bad)?), version(row, "was_seq")?)),
        None => None,
    };
    Ok(Offer {
        kind: kind(row)?,
        sha256: some_hash(row, "sha256")?,
        size,
        stat: stat(row, "", size)?,
        racy: row.get("racy")?,
        replaces: version(row, "replaces")?,
        was,
        generation: Generation(unsigned(row, "generation")?),
    })
}

pub fn read_offer(conn: &Connection, path: &MediaPath) -> Result<Option<Offer>, IndexError> {
    let mut statement = conn.prepare_cached("SELECT * FROM offers WHERE path = ?1")?;
    Ok(statement.query_row(params![path.as_bytes()], offer_from).optional()?)
}

pub fn write_offer(conn: &Connection, path: &MediaPath, offer: &Offer) -> Result<(), IndexError> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO offers (path, removal, sha256, size, ino, mtime, ctime, racy, replaces, was_created, was_seq, generation)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        path.as_bytes(),
        offer.kind == Kind::Removed,
        offer.sha256.raw(),
        sql(offer.size),
        offer.stat.map(|s| sql(s.ino)),
        offer.stat.map(|s| s.mtime),
        offer.stat.map(|s| s.ctime),
        offer.racy,
        sql(offer.replaces.get()),
        offer.was.as_ref().map(|was| was.0.to_string()),
        offer.was.as_ref().map(|was| sql(was.1.get())),
        sql(offer.generation.0),
    ])?;
    Ok(())
}

pub fn intent_from(row: &Sql) -> Read<Intent> {
    let old = match hash(row, "old_sha256")? {
        Some(content) => {
            let size = unsigned(row, "old_size")?;
            stat(row, "old_", size)?.map(|stat| (content, stat))
        }
        None => None,
    };
    Ok(Intent {
        kind: kind(row)?,
        sha256: some_hash(row, "sha256")?,
        size: unsigned(row, "size")?,
        mtime: row.get("mtime")?,
        version: version(row, "seq")?,
        replaced: version(row, "replaced")?,
        event: EventId::from_hash(some_hash(row, "event")?),
        old,
        known: row.get("known")?,
        temp: row.get("temp")?,
        temp_ino: row.get::<_, Option<i64>>("temp_ino")?.map(i64::cast_unsigned),
        role: row.get("role")?,
        owner: row.get("owner")?,
        generation: Generation(unsigned(row, "generation")?),
    })
}

pub fn read_intent(conn: &Connection, path: &MediaPath) -> Result<Option<Intent>, IndexError> {
    let mut statement = conn.prepare_cached("SELECT * FROM intents WHERE path = ?1")?;
    Ok(statement.query_row(params![path.as_bytes()], intent_from).optional()?)
}

pub fn write_intent(conn: &Connection, path: &MediaPath, intent: &Intent) -> Result<(), IndexError> {
    let old = intent.old.as_ref();
    conn.prepare_cached(
        "INSERT INTO intents (path, removal, sha256, size, mtime, seq, replaced, event, old_sha256, old_size, old_ino, old_mtime,
         old_ctime, known, temp, temp_ino, role, owner, generation)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
    )?
    .execute(params![
        path.as_bytes(),
        intent.kind == Kind::Removed,
        intent.sha256.raw(),
        sql(intent.size),
        intent.mtime,
        sql(intent.version.get()),
        sql(intent.replaced.get()),
        intent.event.hash().raw(),
        old.map(|(content, _)| content.raw()),
        old.map(|(_, stat)| sql(stat.size)),
        old.map(|(_, stat)| sql(stat.ino)),
        old.map(|(_, stat)| stat.mtime),
        old.map(|(_, stat)| stat.ctime),
        intent.known,
        intent.temp,
        intent.temp_ino.map(sql),
        intent.role,
        intent.owner,
        sql(intent.generation.0),
    ])?;
    Ok(())
}

pub fn read_path_state(conn: &Connection, path: &MediaPath) -> Result<PathState, IndexError> {
    Ok(PathState {
        row: read_row(conn, path)?,
        offer: read_offer(conn, path)?,
        intent: read_intent(conn, path)?,
    })
}

pub fn parked_from(row: &Sql) -> Read<Parked> {
    let path = match row.get::<_, Option<Vec<u8>>>("path")? {
        Some(bytes) => Some(MediaPath::new(&bytes).map_err(bad)?),
        None => None,
    };
    Ok(Parked {
        subject: row.get("subject")?,
        path,
        version: version(row, "seq")?,
        stamp: time(row, "stamp")?,
        payload: row.get("payload")?,
        reason: row.get("reason")?,
        permanent: row.get("permanent")?,
        since: time(row, "since")?,
        tries: row.get("tries")?,
        next_try: time(row, "next_try")?,
    })
}

pub fn write_parked(conn: &Connection, parked: &Parked) -> Result<(), IndexError> {
    conn.prepare_cached(
        "INSERT INTO parked (subject, path, seq, stamp, payload, reason, permanent, since, tries, next_try)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT (subject) DO UPDATE SET path = ?2, seq = ?3, stamp = ?4, payload = ?5, reason = ?6, permanent = ?7, since = ?8,
         tries = ?9, next_try = ?10, asked = 0 WHERE seq <= ?3",
    )?
    .execute(params![
        parked.subject,
        parked.path.as_ref().map(MediaPath::as_bytes),
        sql(parked.version.get()),
        nanos(parked.stamp),
        parked.payload,
        parked.reason,
        parked.permanent,
        nanos(parked.since),
        parked.tries,
        nanos(parked.next_try),
    ])?;
    Ok(())
}

pub fn trash_from(row: &Sql) -> Read<Trashed> {
    let size = unsigned(row, "size")?;
    Ok(Trashed {
        id: row.get("id")?,
        path: path_from(row)?,
        sha256: hash(row, "sha256")?,
        lost: row.get("lost")?,
        stat: Stat { ino: unsigned(row, "ino")?, size, mtime: row.get("mtime")?, ctime: row.get("ctime")? },
        moved: time(row, "moved")?,
        checked: row.get("checked")?,
    })
}

pub fn write_trash(conn: &Connection, trashed: &Trashed) -> Result<(), IndexError> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO trash (id, path, sha256, size, lost, ino, mtime, ctime, moved, checked)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        trashed.id,
        trashed.path.as_bytes(),
        trashed.sha256.as_ref().map(ContentHash::raw),
        sql(trashed.stat.size),
        trashed.lost,
        sql(trashed.stat.ino),
        trashed.stat.mtime,
        trashed.stat.ctime,
        nanos(trashed.moved),
        trashed.checked,
    ])?;
    Ok(())
}

fn landmark(row: &Sql, version: Version, prefix: &str) -> Read<Option<Landmark>> {
    let subject: Option<String> = row.get(format!("{prefix}_subject").as_str())?;
    let event = hash(row, &format!("{prefix}_event"))?;
    Ok(subject.zip(event).map(|(subject, event)| Landmark {
        version,
        subject,
        event: EventId::from_hash(event),
    }))
}

pub fn read_node(conn: &Connection) -> Result<NodeState, IndexError> {
    let mut node = conn.prepare_cached("SELECT * FROM node WHERE id = 0")?.query_row([], |row| {
        let at = version(row, "version")?;
        let top = version(row, "top")?;
        let beyond: String = row.get("beyond")?;
        Ok(NodeState {
            generation: Generation(unsigned(row, "generation")?),
            created: None,
            version: at,
            at_version: landmark(row, at, "version")?,
            top: landmark(row, top, "top")?,
            beyond: serde_json::from_str(&beyond).map_err(bad)?,
            fresh: row.get("fresh")?,
            log_read: row.get("log_read")?,
            restored: row.get("restored")?,
            no_base: Generation(unsigned(row, "no_base")?),
            marker_name: row.get("marker_name")?,
            marker_number: unsigned(row, "marker_number")?,
            marker_file: row.get("marker_file")?,
            marker_pending: unsigned(row, "marker_pending")?,
            pending_file: row.get("pending_file")?,
            digest: Digest::from_raw(row.get("digest")?),
            files: unsigned(row, "files")?,
            bytes: unsigned(row, "bytes")?,
        })
    })?;
    node.created = conn
        .prepare_cached("SELECT created FROM generations WHERE id = ?1")?
        .query_row(params![sql(node.generation.0)], created_from)
        .optional()?;
    Ok(node)
}

pub fn read_stage(conn: &Connection) -> Result<Stage, IndexError> {
    let mut statement =
        conn.prepare_cached("SELECT generation, restored, fresh, no_base FROM node WHERE id = 0")?;
    Ok(statement.query_row([], |row| {
        let generation = |at| row.get::<_, i64>(at).map(|id| Generation(id.cast_unsigned()));
        Ok(Stage {
            generation: generation(0)?,
            restored: row.get(1)?,
            fresh: row.get(2)?,
            no_base: generation(3)?,
        })
    })?)
}

pub fn created_from(row: &Sql) -> Read<StreamCreated> {
    Ok(StreamCreated(row.get::<_, String>("created")?.parse().map_err(bad)?))
}

pub fn write_node(conn: &Connection, node: &NodeState) -> Result<(), IndexError> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO node (id, generation, version, version_subject, version_event, top, top_subject, top_event, beyond, fresh,
         log_read, restored, no_base, marker_name, marker_number, marker_file, marker_pending, pending_file, digest, files, bytes)
         VALUES (0, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
    )?
    .execute(params![
        sql(node.generation.0),
        sql(node.version.get()),
        node.at_version.as_ref().map(|l| &l.subject),
        node.at_version.as_ref().map(|l| *l.event.hash().raw()),
        sql(node.top.as_ref().map_or(0, |l| l.version.get())),
        node.top.as_ref().map(|l| &l.subject),
        node.top.as_ref().map(|l| *l.event.hash().raw()),
        serde_json::to_string(&node.beyond).expect("numbers have a JSON form"),
        node.fresh,
        node.log_read,
        node.restored,
        sql(node.no_base.0),
        node.marker_name,
        sql(node.marker_number),
        node.marker_file,
        sql(node.marker_pending),
        node.pending_file,
        node.digest.raw(),
        sql(node.files),
        sql(node.bytes),
    ])?;
    Ok(())
}
