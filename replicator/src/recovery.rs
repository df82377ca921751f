//! What an earlier run has begun is finished before anything else, all of it together: the folders are synced once each, the rows share their commits. Files are being
//! placed again within moments of a crash.

use crate::node::{ApplyError, Node};
use common::{blobs::BlobStore, error_chain, index::Intent, log::EventLog, path::MediaPath, resolve::Name};
use futures_util::{StreamExt, stream};
use std::{collections::HashSet, path::PathBuf};

/// Intents finished, and folders synced, at once. One run leaves `--transfers` of them at most.
const AT_ONCE: usize = 64;

/// Finishes the intents whose maker has died. One that cannot be finished keeps its own path waiting, and no other.
pub async fn resolve_abandoned<L: EventLog, B: BlobStore>(node: &Node<L, B>) -> Result<(), ApplyError> {
    let mut abandoned = Vec::new();
    for (path, intent) in node.index.intents()? {
        if node.is_abandoned(&intent)? {
            abandoned.push((path, intent));
        }
    }
    // Whoever would have renamed something is dead: these syncs come after all of it.
    let synced = sync_folders(node, &abandoned).await;
    let resolving = abandoned.iter().map(async |(path, intent)| {
        let all = path.parent().ancestors().all(|folder| synced.contains(folder));
        let name = if all { Name::Synced } else { Name::Unsynced };
        if let Err(error) = node.finish_abandoned(path, intent, name).await {
            tracing::warn!(%path, error = %error_chain(&error), "an intent cannot be finished yet");
        }
    });
    stream::iter(resolving).buffer_unordered(AT_ONCE).collect::<()>().await;
    Ok(())
}

/// The folders of these paths, up to the root, that are durable now. Some may not be there yet.
async fn sync_folders<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    intents: &[(MediaPath, Intent)],
) -> HashSet<PathBuf> {
    let folders: HashSet<PathBuf> =
        intents.iter().flat_map(|(path, _)| path.parent().ancestors().map(PathBuf::from)).collect();
    let syncs = folders
        .into_iter()
        .map(async |folder| node.placer.folders.sync(folder.clone()).await.ok().map(|()| folder));
    stream::iter(syncs).buffer_unordered(AT_ONCE).filter_map(async |synced| synced).collect().await
}
