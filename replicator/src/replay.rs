//! `replicator replay`: the tree that a window of the log describes, in a folder that is no node. It may be run any number of times.
//!
//! Of each path only the newest event of the window counts. What the window does not name is not touched; what it replaces or removes goes to the
//! folder's `.mirror/trash`.

use crate::{
    cli::Window,
    fetch::{Placing, fetch_blob},
};
use common::{
    bar::{self, Bar},
    blobs::NatsBlobs,
    broker::Broker,
    content,
    event::{Event, Version},
    exit::{Exit, Failure},
    limits::RateLimit,
    local_lock::LocalLock,
    log::{EventLog, JetStreamLog},
    path::{MediaPath, OWN_FOLDER},
    resolve::blocking,
    root::{Look, RenameError, Root},
    settings::{Settings, SettingsError, TransferSettings},
    startup::{connect_command, stop_on_signals},
};
use futures_util::{StreamExt, stream};
use std::{collections::BTreeMap, sync::Arc};

/// Events read at once.
const PAGE: usize = 500;

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

enum Done {
    Same,
    Placed(u64),
    Removed,
}

pub async fn run(settings: Settings, window: Window, transfer: TransferSettings) -> Result<Exit, Failure> {
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
        done = replay(&broker, &settings, root, window, transfer) => done,
        () = stop.cancelled() => Ok(Exit::NotCaughtUp),
    };
    broker.shutdown().await;
    done
}

async fn replay(
    broker: &Broker,
    settings: &Settings,
    root: Arc<Root>,
    window: Window,
    transfer: TransferSettings,
) -> Result<Exit, Failure> {
    let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
    let blobs = NatsBlobs::attach(broker.client().clone(), &settings.mirror).await?;
    let (newest, invalid) = newest_of_window(&log, &window).await?;
    let style = bar::style("{bar:24} {pos}/{len} files  {per_sec}  {eta} left");
    let bar = Bar::show("replaying", newest.len() as u64, style);
    let limit = RateLimit::new(transfer.limit.map(|size| size.bytes()));
    let (mut placed, mut bytes, mut same, mut removed, mut failed) = (0u64, 0u64, 0u64, 0u64, invalid);
    let work = newest.into_values().map(|event| {
        let (root, blobs, limit) = (Arc::clone(&root), blobs.clone(), limit.clone());
        async move { (event.path.clone(), one(root, &blobs, &limit, event).await) }
    });
    let mut results = stream::iter(work).buffer_unordered(transfer.transfers);
    while let Some((path, result)) = results.next().await {
        bar.counter().inc(1);
        match result {
            Ok(Done::Same) => same += 1,
            Ok(Done::Removed) => removed += 1,
            Ok(Done::Placed(size)) => (placed, bytes) = (placed + 1, bytes + size),
            Err(error) => {
                failed += 1;
                tracing::error!(%path, error = %common::error_chain(&error), "could not be replayed");
            }
        }
    }
    drop(bar);
    println!(
        "{placed} files placed ({bytes} bytes), {same} the same already, {removed} removed, {failed} failed"
    );
    Ok(if failed == 0 { Exit::Done } else { Exit::Failed })
}

/// The newest event of each path in a window; memory grows with the number of paths. Messages that are no events are named and counted.
async fn newest_of_window(
    log: &JetStreamLog,
    window: &Window,
) -> Result<(BTreeMap<MediaPath, Event>, u64), common::broker::BrokerError> {
    let head = log.state().await?.last;
    let to = window.to_seq.map_or(head, Version::new).min(head);
    let mut from = Version::new(window.from_seq.max(1));
    let (mut newest, mut invalid) = (BTreeMap::new(), 0);
    while from <= to {
        let page = log.read(from, PAGE).await?;
        let Some(last) = page.last() else { break };
        from = last.version.next();
        for logged in page.into_iter().filter(|logged| logged.version <= to) {
            match logged.event {
                Ok(event) => {
                    newest.insert(event.path.clone(), event);
                }
                Err(error) => {
                    invalid += 1;
                    tracing::error!(version = %logged.version, %error, "not an event");
                }
            }
        }
    }
    Ok((newest, invalid))
}

async fn one(
    root: Arc<Root>,
    blobs: &NatsBlobs,
    limit: &RateLimit,
    event: Event,
) -> Result<Done, ReplayError> {
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
