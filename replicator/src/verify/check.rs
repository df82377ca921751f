//! Looking at paths: what the log, the index, the disk and the store say of each, in batches.

use super::facts::{Blob, Difference, Facts, Found, Last, judge};
use crate::{plan::OnDisk, restock};
use common::{
    bar::Bar,
    blobs::{BlobError, BlobStore},
    broker::BrokerError,
    content::{self, ReadError},
    error_chain,
    event::Version,
    hash::ContentHash,
    index::{Generation, HeldKind, Index, IndexError},
    limits::RateLimit,
    log::{EventLog, Logged},
    path::MediaPath,
    resolve::blocking,
    root::{IgnoreRules, Look, Root},
    trust::TrustError,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use std::sync::Arc;

/// Paths asked for at once.
pub const BATCH: usize = 256;
/// Files that are read at the same time.
const READERS: usize = 4;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("cannot look at the blobs")]
    Blob(#[source] BlobError),
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl From<TrustError> for CheckError {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Broker(error) => Self::Broker(error),
            TrustError::Index(error) => Self::Index(error),
        }
    }
}

/// Where to look.
pub struct Checker<L, B> {
    pub root: Arc<Root>,
    pub index: Index,
    pub log: L,
    pub blobs: B,
    pub rules: IgnoreRules,
    /// Read the blobs, rather than ask whether they are there.
    pub read_blobs: bool,
    /// The store keeps only what is on its way: what it has not got is on the nodes.
    pub in_transit: bool,
    pub bar: Bar,
}

/// A path that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Differing {
    /// How.
    pub differences: Vec<Difference>,
    /// The content that the log has there, and its length.
    pub content: Option<(ContentHash, u64)>,
    /// When what stands there was changed last, nanoseconds since 1970.
    pub changed: Option<i64>,
    /// Somebody is at work on it: an offer or an intent stands, or a request.
    pub in_work: bool,
    /// The index trusts an event of the path there, and the log has none so new: it lost it, which no process notices by itself where it is in the middle.
    pub gone: Option<(Generation, Version)>,
}

impl<L: EventLog, B: BlobStore> Checker<L, B> {
    /// Those of these paths that differ. Reads every file of them, each once.
    pub async fn check(&self, paths: &[MediaPath]) -> Result<Vec<(MediaPath, Differing)>, CheckError> {
        let lasts = self.log.lasts(paths).await?;
        let blobs = self.blobs(&lasts).await?;
        let looks = paths.iter().cloned().zip(lasts).zip(blobs).map(|((path, last), blob)| async move {
            let differing = self.look(&path, last.as_ref(), blob).await?;
            Ok::<_, CheckError>(differing.map(|differing| (path, differing)))
        });
        let found: Vec<_> = stream::iter(looks).buffered(READERS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn blobs(&self, lasts: &[Option<Logged>]) -> Result<Vec<Blob>, CheckError> {
        // No bytes need no blob.
        let contents: Vec<Option<(ContentHash, u64)>> =
            lasts.iter().map(|last| content_of(last.as_ref()).filter(|(_, size)| *size > 0)).collect();
        let hashes: Vec<ContentHash> = contents.iter().flatten().map(|(content, _)| *content).collect();
        let mut there = self.blobs.contains(&hashes).await.map_err(CheckError::Blob)?.into_iter();
        let mut found = Vec::with_capacity(lasts.len());
        for content in contents {
            found.push(match content {
                None => Blob::Whole,
                Some((content, size)) => match there.next().unwrap_or(false) {
                    false if self.in_transit => Blob::Whole,
                    false => Blob::Missing,
                    true if self.read_blobs && !self.is_whole(content, size).await? => Blob::Damaged,
                    true => Blob::Whole,
                },
            });
        }
        Ok(found)
    }

    async fn is_whole(&self, content: ContentHash, size: u64) -> Result<bool, CheckError> {
        restock::is_whole(&self.blobs, content, size, &RateLimit::default()).await.map_err(CheckError::Blob)
    }

    async fn look(
        &self,
        path: &MediaPath,
        last: Option<&Logged>,
        blob: Blob,
    ) -> Result<Option<Differing>, CheckError> {
        let (root, at, bar) = (Arc::clone(&self.root), path.clone(), self.bar.counter().clone());
        let (found, changed) = blocking(move || read(&root, &at, &bar)).await;
        let state = self.index.path_state(path)?;
        let repairing = self.index.awaits_repair(path)?;
        let generation = self.index.node()?.generation;
        let newest = last.map_or(Version::ZERO, |last| last.version);
        let gone = state.row.as_ref().filter(|row| row.generation == generation && row.version > newest);
        let gone = gone.map(|row| (generation, row.version));
        let facts = Facts {
            last: last_of(last),
            found,
            blob,
            row: state.row,
            generation,
            parked: self.index.parked_of(path)?.map(|parked| parked.reason),
            held: self.index.held_answer(path, HeldKind::Removal)?.is_some(),
            ignored: self.rules.covers_file(path.as_path()),
        };
        let differences = judge(&facts);
        Ok((!differences.is_empty()).then(|| Differing {
            differences,
            content: content_of(last),
            changed,
            in_work: state.offer.is_some() || state.intent.is_some() || repairing,
            gone,
        }))
    }
}

fn last_of(last: Option<&Logged>) -> Last {
    match last {
        None => Last::Nothing,
        Some(last) => match &last.event {
            Ok(event) => Last::Event { kind: event.kind(), content: event.sha256, version: last.version },
            Err(_) => Last::Poison,
        },
    }
}

fn content_of(last: Option<&Logged>) -> Option<(ContentHash, u64)> {
    let event = last?.event.as_ref().ok()?;
    Some((event.sha256, event.added?.size))
}

/// What stands at the path, read to its end whatever its stat says; and when it was changed.
fn read(root: &Root, path: &MediaPath, bar: &ProgressBar) -> (Found, Option<i64>) {
    let unreadable = |error: std::io::Error| (Found::Unreadable(error_chain(&error)), None);
    match root.look(path) {
        Ok(Look::Absent | Look::Folder) => (Found::Disk(OnDisk::Absent), None),
        Ok(Look::Other(what) | Look::Unreachable(what)) => (Found::InTheWay(what), None),
        Ok(Look::File(stat)) => {
            let read = content::read(root, path, 0);
            bar.inc(stat.stat.size);
            match read {
                Ok(reading) => {
                    let stat = reading.stat.stat;
                    (Found::Disk(OnDisk::File(reading.hash, stat)), Some(stat.ctime))
                }
                Err(ReadError::Changed | ReadError::GivenUp) => (Found::Changing, None),
                Err(ReadError::Io(error)) => unreadable(error),
            }
        }
        Err(error) => unreadable(error),
    }
}
