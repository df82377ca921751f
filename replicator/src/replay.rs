//! `replicator replay`: the tree that a window of the log describes, in a folder that is no node. It may be run any number of times.
//!
//! Of each path only the newest event of the window counts. What the window does not name is not touched; what it replaces or removes goes to the
//! folder's `.mirror/trash`. Content that the blob store has no more is asked for from the nodes, by a list of wanted blobs under a name of its own
//! (`replay-…`), which is taken away at the end; what no node brings back is named.

use crate::{
    asking::bring_back,
    cli::Window,
    fetch::{Placing, fetch_blob},
};
use common::{
    bar::{self, Bar},
    blobs::{BlobError, Blobs},
    broker::Broker,
    content, error_chain,
    event::{Event, Version},
    exit::{Exit, Failure},
    limits::RateLimit,
    local_lock::LocalLock,
    log::{self, JetStreamLog},
    nodes::NodeBucket,
    path::OWN_FOLDER,
    resolve::blocking,
    root::{Look, RenameError, Root},
    settings::{Settings, SettingsError, TransferSettings},
    startup::{blobs_of, connect_command, stop_on_signals},
    time::Timestamp,
};
use futures_util::{StreamExt, stream};
use std::{fmt, sync::Arc, time::Duration};

/// Why a path could not be replayed.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Apply(#[from] crate::node::ApplyError),
    #[error(transparent)]
    Rename(#[from] RenameError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{0} stands at the path")]
    InTheWay(&'static str),
}

impl ReplayError {
    /// The store has not got it, or not whole.
    fn is_wanted(&self) -> bool {
        use crate::node::ApplyError::{Blob, WrongContent};
        let Self::Apply(error) = self else { return false };
        matches!(error, WrongContent(_) | Blob(BlobError::Missing(_)) | Blob(BlobError::Damaged { .. }))
    }
}

enum Done {
    Same,
    Placed(u64),
    Removed,
}

/// What is to be built.
pub struct Asked {
    pub window: Window,
    /// Nothing that came later.
    pub at: Option<Timestamp>,
    /// How long nodes are waited for, from the last blob that came on.
    pub timeout: Duration,
}

pub async fn run(settings: Settings, asked: Asked, transfer: TransferSettings) -> Result<Exit, Failure> {
    let path = settings.root.clone().ok_or(SettingsError::Missing("root"))?;
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    if path.join(OWN_FOLDER).join("id").exists() {
        let text = format!("{} is a node's root: what is replayed there would be published", path.display());
        return Err(Failure::new(Exit::Failed, text).with_hint("replay into another folder"));
    }
    let root = Arc::new(Root::open(&path)?);
    let _lock = LocalLock::take(&path.join(OWN_FOLDER).join("replay.lock"))?;
    let broker = connect_command(&settings, "replicator-replay").await?;
    let done = tokio::select! {
        done = replay(&broker, &settings, root, asked, transfer) => done,
        () = stop.cancelled() => Ok(Exit::NotCaughtUp),
    };
    broker.shutdown().await;
    done
}

async fn replay(
    broker: &Broker,
    settings: &Settings,
    root: Arc<Root>,
    asked: Asked,
    transfer: TransferSettings,
) -> Result<Exit, Failure> {
    let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
    let blobs = blobs_of(broker, settings).await?;
    let window = log::Window {
        from: Version::new(asked.window.from_seq.max(1)),
        to: asked.window.to_seq.map(Version::new),
        at: asked.at,
    };
    let (newest, invalid) = log::newest_of(&log, window).await?;
    let style = bar::style("{bar:24} {pos}/{len} files  {per_sec}  {eta} left");
    let bar = Bar::show("replaying", newest.len() as u64, style);
    let limit = RateLimit::new(transfer.limit.map(|size| size.bytes()));
    let replay = Replay { root, blobs, limit, at_once: transfer.transfers, bar };
    let mut sum = Sum { failed: invalid, ..Sum::default() };
    let missing = replay.all(newest.into_values(), &mut sum).await;
    if !missing.is_empty() {
        let bucket = NodeBucket::attach(broker.client().clone(), &settings.mirror).await?;
        let again = async |missing: Vec<(Event, ReplayError)>| {
            replay.all(missing.into_iter().map(|(event, _)| event), &mut sum).await
        };
        let missing = bring_back(&bucket, missing, asked.timeout, |(event, _)| event.sha256, again).await?;
        sum.failed += missing.len() as u64;
        for (event, error) in missing {
            let error = error_chain(&error);
            tracing::error!(path = %event.path, sha256 = %event.sha256, error, "its content is not to be had any more");
        }
    }
    drop(replay);
    println!("{sum}");
    Ok(if sum.failed == 0 { Exit::Done } else { Exit::Failed })
}

/// What was done.
#[derive(Default)]
struct Sum {
    placed: u64,
    bytes: u64,
    same: u64,
    removed: u64,
    failed: u64,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { placed, bytes, same, removed, failed } = self;
        write!(
            f,
            "{placed} files placed ({bytes} bytes), {same} the same already, {removed} removed, {failed} failed"
        )
    }
}

struct Replay {
    root: Arc<Root>,
    blobs: Blobs,
    limit: RateLimit,
    at_once: usize,
    bar: Bar,
}

impl Replay {
    /// Brings the folder to these events. Those whose content the store has not got are returned.
    async fn all(&self, events: impl IntoIterator<Item = Event>, sum: &mut Sum) -> Vec<(Event, ReplayError)> {
        let work = events.into_iter().map(|event| {
            let (root, blobs, limit) = (Arc::clone(&self.root), self.blobs.clone(), self.limit.clone());
            async move { (event.clone(), one(root, &blobs, &limit, event).await) }
        });
        let (mut results, mut missing) = (stream::iter(work).buffer_unordered(self.at_once), Vec::new());
        while let Some((event, result)) = results.next().await {
            match result {
                Ok(Done::Same) => sum.same += 1,
                Ok(Done::Removed) => sum.removed += 1,
                Ok(Done::Placed(size)) => (sum.placed, sum.bytes) = (sum.placed + 1, sum.bytes + size),
                Err(error) if error.is_wanted() => {
                    missing.push((event, error));
                    continue;
                }
                Err(error) => {
                    sum.failed += 1;
                    tracing::error!(path = %event.path, error = %error_chain(&error), "could not be replayed");
                }
            }
            self.bar.counter().inc(1);
        }
        missing
    }
}

async fn one(root: Arc<Root>, blobs: &Blobs, limit: &RateLimit, event: Event) -> Result<Done, ReplayError> {
    let found = {
        let (root, path, content) = (Arc::clone(&root), event.path.clone(), event.sha256);
        blocking(move || match root.look(&path)? {
            Look::Absent | Look::Folder => Ok(None),
            Look::File(_) => match content::read(&root, &path, 0) {
                Ok(reading) => Ok(Some(reading.hash == content)),
                Err(content::ReadError::Io(error)) => Err(error.into()),
                Err(_) => Ok(Some(false)),
            },
            Look::Other(what) => Err(ReplayError::InTheWay(what)),
            Look::Unreachable(why) => Err(ReplayError::InTheWay(why)),
        })
        .await?
    };
    let Some(attributes) = event.added else {
        // Only what the event names is taken out.
        if found != Some(true) {
            return Ok(Done::Same);
        }
        return blocking(move || {
            let folder = root.existing_folder(&event.path)?;
            let temp = Root::temp_name(event.sha256);
            root.take_out(&temp, &folder)?;
            root.trash_temp(&temp, &temp, &event.path)?;
            root.sync_folder(&folder.path)?;
            Ok(Done::Removed)
        })
        .await;
    };
    if found == Some(true) {
        return Ok(Done::Same);
    }
    let placing = Placing {
        root: Arc::clone(&root),
        path: event.path.clone(),
        content: event.sha256,
        attributes,
        owner: None,
        room: None,
        arrivals: None,
    };
    let verified = fetch_blob(blobs, limit, &placing, None).await?;
    blocking(move || {
        match found {
            None => root.place_new(&verified.temp, &verified.folder)?,
            Some(_) => {
                root.place_over(&verified.temp, &verified.folder)?;
                root.trash_temp(&verified.temp, &verified.temp, &event.path)?;
            }
        }
        root.sync_folder(&verified.folder.path)?;
        Ok(Done::Placed(verified.size))
    })
    .await
}
