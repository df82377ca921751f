//! Making an intent stand (rule 3), and what becomes of its temp file when that fails.
//!
//! An index commit whose sync failed may still be found after a crash, until another one has been written over it. If its temp file were gone by then, the
//! rename would look done. So the file stays until the index has taken a later intent.

use crate::node::{ApplyError, Node};
use common::{
    blobs::BlobStore,
    index::{Intent, PathState},
    log::EventLog,
    path::MediaPath,
    resolve::blocking,
    root::{Look, Root},
};
use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The folder of unfinished files.
const TEMP: &str = ".mirror/tmp";

/// Temp files of intents that could not be committed: as many as there are events in work, for each time that the index fails.
#[derive(Debug, Default)]
pub struct Leftovers(Mutex<Vec<String>>);

impl Leftovers {
    fn names(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commits an intent when its path is as it was seen; the name of its temp file is made durable first. False: the path changed, and the temp file is gone.
pub async fn intend<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    seen: &PathState,
    intent: &Intent,
) -> Result<bool, ApplyError> {
    if intent.temp_ino.is_some() {
        // It must survive a power cut: a temp name that is gone says that the rename happened.
        if let Err(error) = node.folders.sync(TEMP.into()).await {
            drop_temp(node, intent).await?;
            return Err(ApplyError::Disk(error));
        }
    }
    let earlier = mem::take(&mut *node.leftovers.names());
    let (root, at, seen, it) = (Arc::clone(&node.root), path.clone(), seen.clone(), intent.clone());
    let intended =
        node.index.write(move |tx| Ok(stands(&root, &at, &it) && tx.intend(&at, &seen, &it)?)).await;
    match intended {
        Ok(true) if earlier.is_empty() => Ok(true),
        Ok(true) => {
            let root = Arc::clone(&node.root);
            let removed = blocking(move || earlier.iter().try_for_each(|temp| root.remove_temp(temp))).await;
            if let Err(error) = removed {
                tracing::warn!(%error, "unfinished files stay until the next start");
            }
            Ok(true)
        }
        Ok(false) => {
            node.leftovers.names().extend(earlier);
            drop_temp(node, intent).await?;
            Ok(false)
        }
        Err(error) => {
            let ours = intent.temp_ino.map(|_| intent.temp.clone());
            node.leftovers.names().extend(earlier.into_iter().chain(ours));
            Err(error.into())
        }
    }
}

/// Whether the path is as it was when it was looked at.
fn stands(root: &Root, path: &MediaPath, intent: &Intent) -> bool {
    match (&intent.old, root.look(path)) {
        (Some((_, stat)), Ok(Look::File(now))) => now.stat == *stat,
        (None, Ok(Look::Absent | Look::Folder)) => true,
        _ => false,
    }
}

async fn drop_temp<L: EventLog, B: BlobStore>(node: &Node<L, B>, intent: &Intent) -> Result<(), ApplyError> {
    if intent.temp_ino.is_none() {
        return Ok(());
    }
    let (root, temp) = (Arc::clone(&node.root), intent.temp.clone());
    blocking(move || root.remove_temp(&temp)).await.map_err(ApplyError::Disk)
}
