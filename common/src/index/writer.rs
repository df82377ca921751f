//! The one thread that writes: everything that waits goes into one transaction.

use super::{IndexError, Tx};
use futures_util::future::BoxFuture;
use rusqlite::Connection;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// A group stops growing after this long, so that the other process gets its turn: no write transaction over 20 ms.
const GROUP: Duration = Duration::from_millis(10);
/// Jobs in one group at most; bounds what a power cut can make us do again.
const GROUP_JOBS: usize = 512;
/// Jobs waiting at most; beyond it, callers wait.
const QUEUE: usize = 1024;

/// Tells the caller, once the group's fate is known.
pub(super) type Done = Box<dyn FnOnce(Result<(), IndexError>) + Send>;
pub(super) type Job = Box<dyn FnOnce(&mut Tx<'_>) -> (Result<(), IndexError>, Done) + Send>;

#[derive(Clone)]
pub(super) enum Writer {
    /// The thread of an index on disk.
    Thread(tokio::sync::mpsc::Sender<Job>),
    /// An index in memory: each job is a group of its own, done when it is asked for.
    Here(Arc<Mutex<Connection>>),
}

impl Writer {
    pub(super) fn start(conn: Connection) -> Self {
        let (jobs, mut queue) = tokio::sync::mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new()
            .name("index".into())
            .spawn(move || {
                while let Some(first) = queue.blocking_recv() {
                    run_group(&conn, first, &mut || queue.try_recv().ok());
                }
            })
            .expect("a thread can be started at the start of the process");
        Self::Thread(jobs)
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tx<'_>) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            let (result, value) = match job(tx) {
                Ok(value) => (Ok(()), Some(value)),
                Err(error) => (Err(error), None),
            };
            let done: Done = Box::new(move |fate| {
                let _ = answer.send(fate.map(|()| value.expect("a job that succeeded has a value")));
            });
            (result, done)
        });
        self.take(job).await?;
        answered.await.map_err(|_| IndexError::Closed)?
    }

    /// The same for all kinds of jobs, so that it is compiled once.
    fn take(&self, job: Job) -> BoxFuture<'_, Result<(), IndexError>> {
        Box::pin(async move {
            match self {
                Self::Thread(jobs) => jobs.send(job).await.map_err(|_| IndexError::Closed),
                Self::Here(conn) => {
                    run_group(&conn.lock().unwrap_or_else(PoisonError::into_inner), job, &mut || None);
                    Ok(())
                }
            }
        })
    }
}

/// The other process may hold the index while its disk stalls; each try waits 5 s by itself.
fn begin(conn: &Connection) -> Result<(), rusqlite::Error> {
    for _ in 0..3 {
        match conn.execute_batch("BEGIN IMMEDIATE") {
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {}
            begun => return begun,
        }
    }
    conn.execute_batch("BEGIN IMMEDIATE")
}

fn run_group(conn: &Connection, first: Job, next: &mut dyn FnMut() -> Option<Job>) {
    let mut done: Vec<Done> = Vec::new();
    let fate = (|| -> Result<(), IndexError> {
        begin(conn)?;
        let began = Instant::now();
        let mut tx = Tx::new(conn)?;
        let mut job = Some(first);
        while let Some(run) = job {
            let before = tx.remember();
            conn.prepare_cached("SAVEPOINT job")?.execute([])?;
            let (result, tell) = run(&mut tx);
            match result {
                Ok(()) => {
                    conn.prepare_cached("RELEASE job")?.execute([])?;
                    done.push(tell);
                }
                Err(error) => {
                    tx.restore(before);
                    let undone = conn.execute_batch("ROLLBACK TO job; RELEASE job");
                    tell(Err(error));
                    undone?;
                }
            }
            let room = done.len() < GROUP_JOBS && began.elapsed() < GROUP;
            job = if room { next() } else { None };
        }
        tx.finish()?;
        conn.execute_batch("COMMIT")?;
        Ok(())
    })();
    let failure = fate.err().map(|error| {
        // Fails when SQLite has rolled back by itself, which is what is wanted.
        let _ = conn.execute_batch("ROLLBACK");
        match error {
            IndexError::Sqlite { source, .. } => source,
            other => Arc::new(rusqlite::Error::ToSqlConversionFailure(Box::new(other))),
        }
    });
    for tell in done {
        tell(match &failure {
            None => Ok(()),
            Some(source) => Err(IndexError::Sqlite { path: None, source: Arc::clone(source) }),
        });
    }
}
