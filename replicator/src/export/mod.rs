//! `replicator replay --to`: a bucket is kept equal to the tree, one way: each file under its path, with its content type, and its hash in the metadata.
//!
//! Of each path only the newest event counts. What stands in the bucket and was not put there by us is replaced where a file has its path, and otherwise left alone; what the log does not
//! name is not touched. `.mirror/export.json` in the bucket says how far it is, so that the next run goes on from there; without it, or when the log is another, each path
//! is looked at once. It may be killed at any time. One at a time for a bucket.
//!
//! Costs: a look for each file, and its upload; memory for the newest event of each path that changed since the last run, some 300 bytes.

use crate::{asking::bring_back, migrate::source_of};
use common::{
    bar::{self, Bar},
    blobs::{BlobError, BlobStore, Blobs, Location, objects::ObjectTree},
    broker::Broker,
    error_chain,
    event::{Event, StreamCreated, Version},
    exit::{Exit, Failure},
    limits::RateLimit,
    log::{EventLog, JetStreamLog, Window, newest_of},
    nodes::NodeBucket,
    settings::{Settings, TransferSettings},
    startup::{Stores, blobs_of, connect_command, stop_on_signals},
};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;

/// How often the log is asked for new events.
const POLL: Duration = Duration::from_millis(500);
/// What could not be exported is tried again after this.
const RETRY: Duration = Duration::from_secs(10);
/// Large files at once, each some 40 MiB of memory.
const LARGE: usize = 4;

pub struct Asked {
    pub to: Location,
    pub follow: bool,
    /// How long nodes are waited for, from the last blob that came on.
    pub timeout: Duration,
}

/// How far the bucket is.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
struct Cursor {
    v: u64,
    stream_created: StreamCreated,
    version: Version,
}

enum Done {
    Same,
    Put(u64),
    Removed,
}

pub async fn run(settings: Settings, asked: Asked, transfer: TransferSettings) -> Result<Exit, Failure> {
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let broker = connect_command(&settings, "replicator-export").await?;
    let done = export(&broker, &settings, &asked, transfer, &stop).await;
    broker.shutdown().await;
    done
}

async fn export(
    broker: &Broker,
    settings: &Settings,
    asked: &Asked,
    transfer: TransferSettings,
    stop: &CancellationToken,
) -> Result<Exit, Failure> {
    let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
    let nodes = NodeBucket::attach(broker.client().clone(), &settings.mirror).await?;
    let blobs = blobs_of(broker, settings).await?;
    // The blobs may move as long as it runs.
    let _following = asked.follow.then(|| Stores::follow(broker, settings, None, &blobs, &nodes));
    let tree = ObjectTree::open(&asked.to, settings.environment.variables(), blobs.chunk_size());
    let tree = tree.map_err(|error| Failure::new(Exit::Usage, error))?;
    let limit = RateLimit::new(transfer.limit.map(|size| size.bytes()));
    let large = Arc::new(Semaphore::new(LARGE));
    let export = Export { tree, blobs, limit, large, at_once: transfer.transfers };
    let mut sum = Sum::default();
    let at_bucket =
        |error: BlobError| Failure::new(Exit::Failed, error).with_hint(format!("look at {}", asked.to));
    let mut cursor = export.cursor(&log).await.map_err(at_bucket)?;
    loop {
        let state = log.state().await?;
        if state.created != cursor.stream_created {
            cursor = Cursor { v: 1, stream_created: state.created.clone(), version: Version::ZERO };
        }
        let window = Window { from: cursor.version.next(), to: Some(state.last), at: None };
        let mut failed = 0;
        if cursor.version < state.last {
            let (newest, invalid) = newest_of(&log, window).await?;
            sum.invalid += invalid;
            let style = bar::style("{bar:24} {pos}/{len} files  {per_sec}  {eta} left");
            let bar = Bar::show("exporting", newest.len() as u64, style);
            let work = async {
                let (missing, some) = export.all(newest.into_values().collect(), &bar, &mut sum).await;
                let lost = bring_back(
                    &nodes,
                    missing,
                    asked.timeout,
                    |event: &Event| event.sha256,
                    async |events| {
                        let (missing, more) = export.all(events, &bar, &mut sum).await;
                        failed += more;
                        missing
                    },
                );
                let lost = lost.await?;
                for event in &lost {
                    tracing::error!(path = %event.path, sha256 = %event.sha256, "its content is not to be had");
                }
                failed += some + lost.len() as u64;
                Ok::<_, Failure>(())
            };
            tokio::select! {
                done = work => done?,
                () = stop.cancelled() => return Ok(Exit::NotCaughtUp),
            }
            if failed == 0 {
                cursor.version = state.last;
                export.keep(&cursor).await.map_err(at_bucket)?;
            }
        }
        if !asked.follow {
            sum.failed = failed;
            println!("{sum}");
            return Ok(if failed + sum.invalid == 0 { Exit::Done } else { Exit::Failed });
        }
        tokio::select! {
            () = sleep(if failed == 0 { POLL } else { RETRY }) => {}
            () = stop.cancelled() => {
                println!("{sum}");
                return Ok(Exit::Done);
            }
        }
    }
}

/// What was done.
#[derive(Default)]
struct Sum {
    put: u64,
    bytes: u64,
    same: u64,
    removed: u64,
    failed: u64,
    invalid: u64,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { put, bytes, same, removed, failed, invalid } = self;
        let failed = failed + invalid;
        write!(
            f,
            "{put} files put ({bytes} bytes), {same} the same already, {removed} removed, {failed} failed"
        )
    }
}

struct Export {
    tree: ObjectTree,
    blobs: Blobs,
    limit: RateLimit,
    large: Arc<Semaphore>,
    at_once: usize,
}

impl Export {
    /// Where to go on.
    async fn cursor(&self, log: &JetStreamLog) -> Result<Cursor, BlobError> {
        let kept = self.tree.cursor().await?;
        let kept =
            kept.and_then(|text| serde_json::from_slice::<Cursor>(&text).ok()).filter(|kept| kept.v == 1);
        let state = log.state().await?;
        let begin = Cursor { v: 1, stream_created: state.created, version: Version::ZERO };
        // A log that ends before it was rolled back.
        Ok(kept
            .filter(|kept| kept.version <= state.last && kept.stream_created == begin.stream_created)
            .unwrap_or(begin))
    }

    async fn keep(&self, cursor: &Cursor) -> Result<(), BlobError> {
        self.tree.keep_cursor(serde_json::to_vec(cursor).expect("every field has a JSON form")).await
    }

    /// Brings the bucket to these events. Returns those whose content the store has not got, and how many failed otherwise.
    async fn all(&self, events: Vec<Event>, bar: &Bar, sum: &mut Sum) -> (Vec<Event>, u64) {
        let work = events.into_iter().map(|event| async move {
            let done = self.one(&event).await;
            (event, done)
        });
        let (mut results, mut missing, mut failed) =
            (stream::iter(work).buffer_unordered(self.at_once), Vec::new(), 0);
        while let Some((event, done)) = results.next().await {
            match done {
                Ok(Done::Same) => sum.same += 1,
                Ok(Done::Removed) => sum.removed += 1,
                Ok(Done::Put(size)) => (sum.put, sum.bytes) = (sum.put + 1, sum.bytes + size),
                Err(BlobError::Missing(_) | BlobError::Damaged { .. } | BlobError::Source(_)) => {
                    missing.push(event);
                    continue;
                }
                Err(error) => {
                    failed += 1;
                    tracing::error!(path = %event.path, error = %error_chain(&error), "could not be exported");
                }
            }
            bar.counter().inc(1);
        }
        (missing, failed)
    }

    async fn one(&self, event: &Event) -> Result<Done, BlobError> {
        let stands = self.tree.at(&event.path).await?;
        let Some(added) = event.added else {
            return match stands {
                Some(Some(_)) => self.tree.remove(&event.path).await.map(|()| Done::Removed),
                _ => Ok(Done::Same),
            };
        };
        if stands == Some(Some(event.sha256)) {
            return Ok(Done::Same);
        }
        let _lane = match added.size > self.blobs.chunk_size() as u64 {
            true => Some(self.large.acquire().await.expect("never closed")),
            false => None,
        };
        let reader = self.blobs.get_by_meta(event.sha256, added.size, &self.limit).await?;
        let (source, reading) = source_of(reader, event.sha256, self.blobs.chunk_size());
        let (read, put) = tokio::join!(reading, self.tree.put(&event.path, source));
        read?;
        put?;
        Ok(Done::Put(added.size))
    }
}
