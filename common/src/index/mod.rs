//! The index: a node's own record, in SQLite, of what it knows of each path and how far it trusts the log.
//!
//! Watcher and replicator of a node share it as separate processes. Writes go through one thread that puts all jobs that
//! are waiting into one transaction: one sync of the disk for the group, whoever asked. A job is all or nothing, and is answered only
//! when it would survive a power cut (WAL, `synchronous=FULL`). Reads see the last commit and wait for nobody.
//!
//! Costs: two connections and one thread; page caches of 8 MiB each at most; about 150 bytes of disk a path, and as much for the
//! look-ups by content and inode.

mod care;
mod changes;
mod codec;
mod digest;
mod fetches;
mod read;
mod tx;
mod types;
mod writer;

pub use care::{Answer, HeldCount, HeldKind, Repair, Scrub, WantedBlob};
pub use changes::Change;
pub use digest::Digest;
pub use fetches::Fetch;
pub use read::{PathCursor, Reads};
pub use tx::{Commit, Tx};
pub use types::{
    Asked, Coverage, Generation, Intent, Landmark, NodeState, Offer, Parked, PathState, Row, RowState, Stage,
    Stat, Trashed,
};

use rusqlite::Connection;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// The schema this build reads and writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;
/// From each schema to the next; the first makes an index from nothing.
const MIGRATIONS: [&str; 2] = [include_str!("schema/1.sql"), include_str!("schema/2.sql")];
/// How long a writer waits for the other process's transaction, which takes 20 ms at most unless the disk stalls.
const BUSY: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// How SQLite names a database without a file.
const MEMORY: &str = ":memory:";
/// For a backup in one step.
const ALL_PAGES: std::ffi::c_int = -1;

/// Why the index could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IndexError {
    /// SQLite refused: the disk, a damaged file, or the other process holding it for over 5 s.
    #[error("the index at {0}: {1}", .path.as_deref().unwrap_or(Path::new("?")).display(), .source)]
    Sqlite {
        /// The index file, where known.
        path: Option<PathBuf>,
        /// SQLite's words.
        source: Arc<rusqlite::Error>,
    },
    /// Written by a newer build. It was not touched.
    #[error("the index at {} has schema {found}, and this build knows {SCHEMA_VERSION}: run the newer build", .path.display())]
    Newer {
        /// The index file.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// The writing thread has ended; the process is stopping.
    #[error("the index is closed")]
    Closed,
}

impl From<rusqlite::Error> for IndexError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite { path: None, source: Arc::new(source) }
    }
}

impl IndexError {
    /// The disk under the index is full: waiting for space is the cure. A file of shared memory that cannot grow, which lies there too, has a code of its own.
    pub fn is_full(&self) -> bool {
        let Self::Sqlite { source, .. } = self else { return false };
        let shared = source.sqlite_error().map(|error| error.extended_code);
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            || shared == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
    }

    fn at(self, at: &Path) -> Self {
        match self {
            Self::Sqlite { path: None, source } => Self::Sqlite { path: Some(at.into()), source },
            other => other,
        }
    }
}

/// A handle to the index of one node; cheap to clone.
#[derive(Clone)]
pub struct Index {
    path: Arc<PathBuf>,
    reader: Arc<Mutex<Connection>>,
    writer: writer::Writer,
}

impl Index {
    /// Opens the index, making it when it is not there. One of an older build is brought up to this one's schema in one transaction; one of a newer build is
    /// refused and not touched.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let open = || {
            let conn = connect(path)?;
            prepare(&conn, path)?;
            Ok(Self {
                path: Arc::new(path.into()),
                reader: Arc::new(Mutex::new(connect(path)?)),
                writer: writer::Writer::start(conn),
            })
        };
        open().map_err(|error: IndexError| error.at(path))
    }

    /// An index in memory, for simulations: the same schema, transactions and queries, without a thread, a file or a wait. Only
    /// [`rows_in_order`](Self::rows_in_order), which opens the file again, is not for it.
    pub fn in_memory() -> Result<Self, IndexError> {
        let conn = Connection::open_in_memory()?;
        prepare(&conn, Path::new(MEMORY))?;
        Ok(Self::over(conn))
    }

    /// A second index in memory that holds what this one does now, and goes its own way from then on.
    pub fn copy_to_memory(&self) -> Result<Self, IndexError> {
        let mut copy = Connection::open_in_memory()?;
        let reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        rusqlite::backup::Backup::new(&reader, &mut copy)?.step(ALL_PAGES)?;
        Ok(Self::over(copy))
    }

    fn over(conn: Connection) -> Self {
        conn.set_prepared_statement_cache_capacity(64);
        let conn = Arc::new(Mutex::new(conn));
        Self { path: Arc::new(MEMORY.into()), reader: Arc::clone(&conn), writer: writer::Writer::Here(conn) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a job in the next write transaction; answered when it is durable. An error of the job, or of the commit, leaves nothing of it behind.
    pub async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tx<'_>) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        self.writer.run(job).await.map_err(|error| error.at(&self.path))
    }
}

fn connect(path: &Path) -> Result<Connection, IndexError> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(64);
    let began = Instant::now();
    // Two processes that make the file at once are told "locked" here without the wait that was asked for.
    while let Err(error) = conn.execute_batch("PRAGMA journal_mode = WAL") {
        let busy = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy);
        if !busy || began.elapsed() > BUSY {
            return Err(error.into());
        }
        std::thread::sleep(BUSY_PAUSE);
    }
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;")?;
    Ok(conn)
}

fn prepare(conn: &Connection, path: &Path) -> Result<(), IndexError> {
    let version = |conn: &Connection| conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    let found = version(conn)?;
    if found > SCHEMA_VERSION {
        return Err(IndexError::Newer { path: path.into(), found });
    }
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    // Both processes may be here at once: the second finds the work done.
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let made = (|| {
        let found = version(conn)?;
        let mut missing = MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default());
        missing.try_for_each(|step| conn.execute_batch(step))?;
        if found == 0 {
            codec::write_node(conn, &NodeState::default())?;
        }
        conn.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        Ok(())
    })();
    conn.execute_batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    made
}

/// That of an index that has never seen a log.
impl Default for NodeState {
    fn default() -> Self {
        Self {
            generation: Generation(0),
            created: None,
            version: crate::event::Version::ZERO,
            at_version: None,
            top: None,
            beyond: Vec::new(),
            fresh: true,
            log_read: false,
            restored: false,
            no_base: Generation(0),
            marker_name: None,
            marker_number: 0,
            marker_file: None,
            marker_pending: 0,
            pending_file: None,
            digest: Digest::default(),
            files: 0,
            bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests;
