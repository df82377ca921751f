//! Rule 8: a removal needs proof, and many at once need an operator.

use crate::node::{Node, PublishError};
use common::{
    blobs::BlobStore,
    index::{Index, IndexError},
    log::EventLog,
    path::MediaPath,
    resolve::blocking,
    root::{Look, MarkerError, Root, marker_stands},
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Removals that are never held, however small the tree.
pub const FREE: u64 = 100;
/// Beyond [`FREE`], one file in this many within [`WINDOW`].
pub const SHARE: u64 = 10;
/// The time over which removals are counted.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Held removals that are looked at again at once.
const LOOKS: usize = 1024;

/// Whether a path is gone: the root is the one we know, a walk over real folders ends in "no such file", and no ignore rule covers it.
pub async fn proven<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
) -> Result<bool, PublishError> {
    if node.rules().covers_file(path.as_path()) {
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

/// Whether the bytes of a removed path stand at another path, published: then it was a rename, and nothing is lost.
pub fn is_rename(root: &Root, index: &Index, path: &MediaPath) -> Result<bool, IndexError> {
    let state = index.path_state(path)?;
    let Some(content) = state.row.as_ref().and_then(common::index::Row::content) else { return Ok(true) };
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
        index.write(move |tx| release.iter().try_for_each(|path| tx.release_held(path))).await?;
    }
    Ok(())
}

/// Counts removals over the last minute.
#[derive(Default)]
pub struct Counter {
    published: VecDeque<(Instant, u64)>,
    held: VecDeque<(Instant, u64)>,
}

impl Counter {
    /// Counts removals that are published.
    pub fn add(&mut self, now: Instant, removals: u64) {
        self.published.push_back((now, removals));
    }

    /// Counts removals that are held: they do not make room for those that come after them.
    pub fn hold(&mut self, now: Instant, removals: u64) {
        self.held.push_back((now, removals));
    }

    /// The operator has agreed with those that were held.
    pub fn approve(&mut self) {
        self.held.clear();
    }

    /// Whether `removals` more are too many for a tree of `files`, those that are held among them.
    pub fn is_too_many(&mut self, now: Instant, removals: u64, files: u64) -> bool {
        let sum = |counted: &mut VecDeque<(Instant, u64)>| -> u64 {
            counted.retain(|(at, _)| now.duration_since(*at) <= WINDOW);
            counted.iter().map(|(_, removals)| removals).sum()
        };
        let (published, held) = (sum(&mut self.published), sum(&mut self.held));
        let (all, tree) = (published + held + removals, files + published);
        all > FREE && all.saturating_mul(SHARE) > tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_makes_no_room_for_the_rest_until_it_is_approved() {
        let (now, mut counter) = (Instant::now(), Counter::default());
        assert!(counter.is_too_many(now, 150, 200));
        counter.hold(now, 97);
        assert!(counter.is_too_many(now, 53, 200));
        counter.approve();
        assert!(!counter.is_too_many(now, 53, 200));
    }

    #[test]
    fn a_hundred_are_free_and_a_tenth_is_the_limit_within_a_minute() {
        let now = Instant::now();
        for (before, removals, files, held) in [
            (0, 100, 100, false),
            (0, 101, 1010, false),
            (0, 101, 1009, true),
            (100, 1, 900, true),
            (100, 1, 910, false),
            (0, 5000, 100_000, false),
        ] {
            let mut counter = Counter::default();
            counter.add(now, before);
            assert_eq!(counter.is_too_many(now, removals, files), held, "{before} {removals} {files}");
            assert!(!counter.is_too_many(now + WINDOW * 2, removals.min(100), files));
        }
    }
}
