//! Rule 8: a removal needs proof, and many at once need an operator.

use crate::node::{Node, PublishError};
use common::{
    blobs::BlobStore,
    index::{HeldKind, Index, IndexError},
    log::EventLog,
    path::MediaPath,
    resolve::blocking,
    root::{Look, MarkerError, Root, marker_stands},
};
use std::sync::Arc;

/// Held removals that are looked at again at once.
const LOOKS: usize = 1024;

/// Whether a path is gone: the root is the one we know, a walk over real folders ends in "no such file", no ignore rule covers it, and
/// nobody waits for its repair.
pub async fn proven<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
) -> Result<bool, PublishError> {
    // Somebody asked for the file: that it is not there yet is no removal.
    if node.rules().covers_file(path.as_path()) || node.index.awaits_repair(path)? {
        return Ok(false);
    }
    let name = node.index.node()?.marker_name;
    let (root, at) = (Arc::clone(&node.root), path.clone());
    let look = blocking(move || {
        let ours = root.is_still_there() && marker_stands(&root, name.as_deref());
        ours.then(|| root.look(&at))
    })
    .await;
    match look {
        None => Err(MarkerError::Missing(node.root.path().join(".mirror/id")).into()),
        Some(Ok(Look::Absent | Look::Folder)) => Ok(true),
        Some(Ok(Look::File(_) | Look::Other(_) | Look::Unreachable(_))) => Ok(false),
        Some(Err(error)) => Err(PublishError::disk(path, error)),
    }
}

/// Whether the bytes of a removed path stand at another path, published: then it was a rename, and nothing is lost. What waits for its repair is not removed either.
pub fn is_rename(root: &Root, index: &Index, path: &MediaPath) -> Result<bool, IndexError> {
    let state = index.path_state(path)?;
    let Some(content) = state.row.as_ref().and_then(common::index::Row::content) else { return Ok(true) };
    if index.awaits_repair(path)? {
        return Ok(true);
    }
    let generation = index.node()?.generation;
    let elsewhere = index.paths_with(content)?;
    Ok(elsewhere.iter().any(|(other, row)| {
        other != path
            && row.generation == generation
            && matches!(root.look(other), Ok(Look::File(now)) if Some(now.stat) == row.stat)
    }))
}

/// Releases held removals of paths where a file stands again, or whose removal has come from elsewhere. Looks at [`LOOKS`] of them; `turn` remembers where to go on.
pub async fn release_held(root: &Root, index: &Index, turn: &mut usize) -> Result<(), IndexError> {
    let held = index.held()?;
    if held.is_empty() {
        return Ok(());
    }
    let from = *turn % held.len();
    *turn = from + LOOKS;
    let mut release = Vec::new();
    for (path, _) in held.into_iter().skip(from).take(LOOKS) {
        let present = index.path_state(&path)?.row.is_some_and(|row| row.content().is_some());
        if !present || matches!(root.look(&path), Ok(Look::File(_))) {
            release.push(path);
        }
    }
    if !release.is_empty() {
        index
            .write(move |tx| release.iter().try_for_each(|path| tx.release(path, HeldKind::Removal)))
            .await?;
    }
    Ok(())
}
