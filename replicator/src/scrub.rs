//! The background check of cold files: each is read and hashed again now and then, slowly, in the order of paths. What rotted is set aside and fetched again; what
//! somebody changed unseen is for the watcher to publish.
//!
//! It waits while there is other work, and goes on where it was after a restart. The kernel may answer from its cache, so that only a file which nobody has read
//! lately is surely read from the disk: those are the ones that nobody would miss.

use crate::{node::Node, service::Service};
use common::{
    blobs::BlobStore,
    content::{self, ReadError},
    error_chain,
    hash::ContentHash,
    index::{Generation, IndexError, Row, Scrub, Stat},
    limits::RateLimit,
    log::EventLog,
    path::MediaPath,
    resolve::blocking,
    root::Look,
    settings::ScrubSettings,
    time::Timestamp,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Rows read at once; the position is stored after each of these.
const BATCH: usize = 64;
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// What a file costs besides its bytes, in bytes: a million tiny files are read in half an hour, not at once.
const FILE_COST: usize = 16 * 1024;
/// How often it is looked whether a pass is due.
const LOOK: Duration = Duration::from_secs(1);
/// How long one file waits for other work to end, and how often it is looked whether it has.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// After an error of the index.
const RETRY: Duration = Duration::from_secs(60);
/// A file that was changed this lately is in other hands: seconds.
const COLD_SECONDS: f64 = 10.0;

/// Begins; it ends when the handle is dropped, or with `stop`. `None`: it is off.
pub fn start<L: EventLog, B: BlobStore>(
    service: &Service<L, B>,
    settings: ScrubSettings,
    stop: &CancellationToken,
) -> Option<AbortOnDropHandle<()>> {
    let rate = RateLimit::new(Some(settings.rate?.bytes()));
    let ((node, busy), stop) = (service.beside(), stop.clone());
    let scrubber = Scrubber { node, busy, rate, every: settings.every, stop };
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            match scrubber.look().await {
                Ok(()) => sleep(LOOK).await,
                Err(error) => {
                    tracing::warn!(error = %error_chain(&error), "the check of cold files goes on later");
                    sleep(RETRY).await;
                }
            }
        }
    })))
}

/// Whether a pass begins now. A clock that was put back must not end them for ever.
fn is_due(scrub: &Scrub, now: Timestamp, every: Duration) -> bool {
    let waited = scrub.finished.map(|finished| now.seconds_since(finished));
    scrub.started.is_some() || waited.is_none_or(|waited| waited < 0.0 || waited >= every.as_secs_f64())
}

/// What is done about a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Nothing: it is no file, or in other hands.
    Pass,
    /// Read the file: it should have this content.
    Read(ContentHash),
    /// It changed, and nobody has noticed.
    AskWatcher,
}

/// Decides. `now`: the stat of what stands there, and for how many seconds it has been so. Absence is the watcher's to notice.
fn step(row: &Row, generation: Generation, now: Option<(Stat, f64)>) -> Step {
    let (Some(content), Some((stat, age))) = (row.content(), now) else { return Step::Pass };
    if row.generation != generation {
        return Step::Pass;
    }
    match row.stat == Some(stat) && !row.racy {
        true => Step::Read(content),
        false if age > COLD_SECONDS => Step::AskWatcher,
        false => Step::Pass,
    }
}

struct Scrubber<L, B> {
    node: Arc<Node<L, B>>,
    busy: Arc<AtomicBool>,
    rate: RateLimit,
    every: Duration,
    stop: CancellationToken,
}

impl<L: EventLog, B: BlobStore> Scrubber<L, B> {
    async fn look(&self) -> Result<(), IndexError> {
        let scrub = self.node.index.scrub()?;
        let now = Timestamp::now();
        // Before the log was read for the first time there is nothing to compare with.
        if !self.node.index.node()?.log_read || !is_due(&scrub, now, self.every) {
            return Ok(());
        }
        let scrub = match scrub.started {
            Some(_) => scrub,
            None => Scrub { started: Some(now), finished: scrub.finished, ..Scrub::default() },
        };
        self.pass(scrub).await
    }

    /// One pass, from where it was.
    async fn pass(&self, mut scrub: Scrub) -> Result<(), IndexError> {
        let began = Instant::now();
        loop {
            let rows = self.node.index.rows_below(b"", scrub.position.as_ref(), BATCH)?;
            let last = rows.last().map(|(path, _)| path.clone());
            for (path, row) in rows {
                scrub.files += u64::from(row.content().is_some());
                scrub.rotten += u64::from(self.is_rotten(&path, &row).await?);
            }
            if last.is_none() {
                break;
            }
            scrub.position = last;
            self.store(&scrub).await?;
        }
        (scrub.started, scrub.finished, scrub.position) = (None, Some(Timestamp::now()), None);
        self.store(&scrub).await?;
        let Scrub { files, rotten, .. } = scrub;
        tracing::info!(
            files,
            rotten,
            elapsed_s = began.elapsed().as_secs(),
            "all cold files were read again"
        );
        Ok(())
    }

    async fn store(&self, scrub: &Scrub) -> Result<(), IndexError> {
        let scrub = scrub.clone();
        self.node.index.write(move |tx| tx.set_scrub(&scrub)).await
    }

    /// Looks at one file. True: it is rotten, and its repair is asked for.
    async fn is_rotten(&self, path: &MediaPath, row: &Row) -> Result<bool, IndexError> {
        let waited = Instant::now();
        while self.busy.load(Ordering::Relaxed) && waited.elapsed() < PATIENCE {
            sleep(PAUSE).await;
        }
        let (root, at) = (Arc::clone(&self.node.root), path.clone());
        let stat = match blocking(move || root.look(&at)).await {
            Ok(Look::File(now)) => Some(now.stat),
            _ => None,
        };
        let age = |stat: Stat| {
            Timestamp::now().seconds_since(Timestamp::from_nanos(i128::from(stat.ctime.max(stat.mtime))))
        };
        match step(row, self.node.index.node()?.generation, stat.map(|stat| (stat, age(stat)))) {
            Step::Pass => Ok(false),
            Step::AskWatcher => {
                let path = path.clone();
                self.node.index.write(move |tx| tx.ask_watcher(&path)).await?;
                Ok(false)
            }
            Step::Read(content) => match self.read(path).await {
                Ok((found, read)) if found != content && Some(read) == stat => {
                    tracing::warn!(%path, expected = %content, %found, "the file has rotted: other bytes than were written");
                    let path = path.clone();
                    self.node.index.write(move |tx| tx.repair(&path)).await?;
                    Ok(true)
                }
                Err(ReadError::Io(error)) => {
                    tracing::warn!(%path, %error, "the file cannot be read");
                    Ok(false)
                }
                Ok(_) | Err(ReadError::Changed | ReadError::GivenUp) => Ok(false),
            },
        }
    }

    async fn read(&self, path: &MediaPath) -> Result<(ContentHash, Stat), ReadError> {
        self.rate.take(FILE_COST).await;
        let (root, at, rate, stop) =
            (Arc::clone(&self.node.root), path.clone(), self.rate.clone(), self.stop.clone());
        let runtime = tokio::runtime::Handle::current();
        let reading = blocking(move || {
            content::stream(&root, &at, CHUNK, |chunk| {
                if stop.is_cancelled() {
                    return Err(ReadError::GivenUp);
                }
                runtime.block_on(rate.take(chunk.len()));
                Ok(())
            })
        });
        let reading = reading.await?;
        Ok((reading.hash, reading.stat.stat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::{event::Version, index::RowState};

    #[test]
    fn a_pass_begins_when_it_is_due_and_goes_on_when_it_was_begun() {
        let at = |seconds: i128| Timestamp::from_nanos(seconds * 1_000_000_000);
        let hour = Duration::from_secs(3600);
        for (started, finished, now, due) in [
            (None, None, 0, true),
            (None, Some(1000), 1001, false),
            (None, Some(1000), 4599, false),
            (None, Some(1000), 4600, true),
            (None, Some(1000), 999, true),
            (Some(1), Some(1000), 1001, true),
        ] {
            let scrub = Scrub { started: started.map(at), finished: finished.map(at), ..Scrub::default() };
            assert_eq!(is_due(&scrub, at(now), hour), due, "{started:?} {finished:?} {now}");
        }
    }

    #[test]
    fn cold_files_are_read_and_changed_ones_are_the_watchers() {
        let content = ContentHash::of(b"a");
        let stat = |mtime| Stat { ino: 1, size: 1, mtime, ctime: mtime };
        let row = Row {
            state: RowState::Present,
            sha256: Some(content),
            size: 1,
            stat: Some(stat(1)),
            racy: false,
            version: Version::new(5),
            replaced: Version::ZERO,
            generation: Generation(1),
            lost: None,
            rewritten: false,
            ignored: None,
        };
        let removed = Row { state: RowState::Removed, ..row.clone() };
        let racy = Row { racy: true, ..row.clone() };
        let older = Row { generation: Generation(0), ..row.clone() };
        let unknown = Row { stat: None, ..row.clone() };
        for (row, now, expected) in [
            (&row, Some((stat(1), 99.0)), Step::Read(content)),
            (&row, Some((stat(1), 0.1)), Step::Read(content)),
            (&row, Some((stat(2), 99.0)), Step::AskWatcher),
            (&row, Some((stat(2), 0.1)), Step::Pass),
            (&row, None, Step::Pass),
            (&racy, Some((stat(1), 99.0)), Step::AskWatcher),
            (&unknown, Some((stat(1), 99.0)), Step::AskWatcher),
            (&older, Some((stat(1), 99.0)), Step::Pass),
            (&removed, Some((stat(1), 99.0)), Step::Pass),
        ] {
            assert_eq!(step(row, Generation(1), now), expected, "{row:?} {now:?}");
        }
    }
}
