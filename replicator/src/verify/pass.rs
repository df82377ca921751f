//! The two passes of a whole check: over disk and index in the order of paths, and over the log in its own. What memory they need does not grow with the tree or
//! the log, but with what differs.

use super::check::{BATCH, CheckError, Checker, Differing};
use common::{
    blobs::BlobStore,
    event::Version,
    index::{Index, IndexError, Row, RowState},
    log::EventLog,
    path::MediaPath,
    root::{Entry, IgnoreRules, Root, walk},
};
use std::{collections::BTreeMap, ops::ControlFlow, path::Path, sync::Arc};
use tokio::sync::mpsc;

/// Events read at once.
const PAGE: usize = 500;

/// What a whole check found.
#[derive(Default)]
pub struct Whole {
    /// Paths of disk and index that were looked at.
    pub paths: u64,
    /// Messages of the log that are no events.
    pub poison: u64,
    pub differing: BTreeMap<MediaPath, Differing>,
}

/// Both passes.
pub async fn whole<L: EventLog, B: BlobStore>(checker: &Checker<L, B>) -> Result<Whole, CheckError> {
    let mut whole = Whole::default();
    by_path(checker, &mut whole).await?;
    by_log(checker, &mut whole).await?;
    Ok(whole)
}

async fn by_path<L: EventLog, B: BlobStore>(
    checker: &Checker<L, B>,
    whole: &mut Whole,
) -> Result<(), CheckError> {
    let (paths, mut merged) = mpsc::channel(BATCH);
    let (root, index) = (Arc::clone(&checker.root), checker.index.clone());
    let walking = tokio::task::spawn_blocking(move || merge(&root, &index, &paths));
    let files = checker.index.present_count()?;
    let mut batch = Vec::with_capacity(BATCH);
    while merged.recv_many(&mut batch, BATCH).await > 0 {
        whole.paths += batch.len() as u64;
        whole.differing.extend(checker.check(&batch).await?);
        checker.bar.counter().set_message(format!("{}/{files}", whole.paths));
        batch.clear();
    }
    match walking.await {
        Ok(walked) => Ok(walked?),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Sends every path at which a file stands or the index knows one, in order, each once.
fn merge(root: &Root, index: &Index, paths: &mpsc::Sender<MediaPath>) -> Result<(), IndexError> {
    let mut rows = index.rows_in_order()?;
    let present = |rows: &mut common::index::PathCursor| -> Result<Option<MediaPath>, IndexError> {
        while let Some((path, row)) = rows.next_row()? {
            if row.state == RowState::Present {
                return Ok(Some(path));
            }
        }
        Ok(None)
    };
    let mut next = present(&mut rows)?;
    let mut failed = None;
    // What the watcher ignores may be in the log all the same.
    let none = IgnoreRules::none();
    let _ = walk(root, Path::new(""), &none, &mut |entry| {
        let Entry::File(path, _) = entry else { return ControlFlow::Continue(()) };
        let mut merged = || -> Result<bool, IndexError> {
            while let Some(row) = next.take_if(|row| *row <= path) {
                if row < path && paths.blocking_send(row).is_err() {
                    return Ok(false);
                }
                next = present(&mut rows)?;
            }
            Ok(paths.blocking_send(path.clone()).is_ok())
        };
        match merged() {
            Ok(true) => ControlFlow::Continue(()),
            Ok(false) => ControlFlow::Break(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    while let Some(row) = next.take() {
        if paths.blocking_send(row).is_err() {
            return Ok(());
        }
        next = present(&mut rows)?;
    }
    Ok(())
}

/// What the log has and neither disk nor index knows of.
async fn by_log<L: EventLog, B: BlobStore>(
    checker: &Checker<L, B>,
    whole: &mut Whole,
) -> Result<(), CheckError> {
    let head = checker.log.state().await?.last;
    let mut from = Version::ZERO.next();
    while from <= head {
        let page = checker.log.read(from, PAGE).await?;
        let Some(last) = page.last() else { break };
        from = last.version.next();
        let generation = checker.index.node()?.generation;
        let mut unknown = Vec::new();
        for logged in page {
            let Ok(event) = &logged.event else {
                whole.poison += 1;
                continue;
            };
            let row = checker.index.path_state(&event.path)?.row;
            let known = |row: Row| row.generation == generation && row.version >= logged.version;
            if !row.is_some_and(known) && !whole.differing.contains_key(&event.path) {
                unknown.push(event.path.clone());
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        for batch in unknown.chunks(BATCH) {
            whole.differing.extend(checker.check(batch).await?);
        }
    }
    Ok(())
}
