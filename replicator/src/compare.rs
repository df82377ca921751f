//! What of the index is not what the log says: looked for when the digest of this node is not that of the others, though all have applied the same events.
//!
//! Every row is compared with its path's last event, and every event with the index; no file is read: that the disk is what the index says is for the
//! scrub and the watcher. What differs is mended by its last event. One batched look-up for 256 rows, one read for as many events.

use crate::{check, check::PageError, node::Node};
use common::{
    blobs::BlobStore,
    event::{Kind, Version},
    index::{Generation, IndexError, Row, RowState},
    log::{EventLog, Logged},
    path::MediaPath,
    trust::{Distrust, Session},
};
use std::{collections::BTreeSet, time::Duration};
use tokio::{sync::mpsc, time::sleep};

/// Rows looked up at once.
const BATCH: usize = 256;
/// What differs is looked at again after this long: an event may have been on its way.
const SETTLED: Duration = Duration::from_secs(2);

/// How a row is to its path's last event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finding {
    /// As it should be.
    Same,
    /// The event is not applied.
    NotApplied,
    /// The row is at the event, and says something else.
    Wrong,
    /// The row is above everything that the log has of the path.
    LogLost(Version),
}

/// The last event of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Last {
    version: Version,
    kind: Kind,
    content: common::hash::ContentHash,
}

fn find(row: Option<&Row>, last: Option<Last>, generation: Generation) -> Finding {
    let row = row.filter(|row| row.generation == generation && row.state != RowState::Marked);
    match (row, last) {
        (None, None | Some(Last { kind: Kind::Removed, .. })) => Finding::Same,
        (None, Some(_)) => Finding::NotApplied,
        (Some(row), None) => Finding::LogLost(row.version),
        (Some(row), Some(last)) if row.version > last.version => Finding::LogLost(row.version),
        (Some(row), Some(last)) if row.version < last.version => Finding::NotApplied,
        (Some(row), Some(last)) => {
            let says = last.content;
            let same = match last.kind {
                Kind::Added => row.content() == Some(says),
                Kind::Removed => row.state == RowState::Removed,
            };
            if same { Finding::Same } else { Finding::Wrong }
        }
    }
}

/// Finds the paths at which index and log differ, and asks for their repair. The digest is counted anew.
pub async fn compare<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
) -> Result<Vec<MediaPath>, PageError> {
    if node.index.write(|tx| tx.recount()).await? {
        tracing::warn!("the digest of this node was not that of its own rows: it was counted anew");
    }
    let mut differing = by_row(node, session).await?;
    differing.extend(by_log(node, session).await?);
    if differing.is_empty() {
        return Ok(Vec::new());
    }
    sleep(SETTLED).await;
    let mut found = Vec::new();
    let paths: Vec<MediaPath> = differing.into_iter().collect();
    for batch in paths.chunks(BATCH) {
        found.extend(look(node, session, batch).await?);
    }
    mend(node, session, found.clone()).await?;
    Ok(found.into_iter().map(|(path, _)| path).collect())
}

async fn by_row<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
) -> Result<BTreeSet<MediaPath>, PageError> {
    let (sender, mut paths) = mpsc::channel(BATCH);
    let index = node.index.clone();
    let reading = tokio::task::spawn_blocking(move || -> Result<(), IndexError> {
        let mut rows = index.rows_in_order()?;
        while let Some((path, _)) = rows.next_row()? {
            if sender.blocking_send(path).is_err() {
                break;
            }
        }
        Ok(())
    });
    let (mut differing, mut batch) = (BTreeSet::new(), Vec::with_capacity(BATCH));
    while paths.recv_many(&mut batch, BATCH).await > 0 {
        differing.extend(look(node, session, &batch).await?.into_iter().map(|(path, _)| path));
        batch.clear();
    }
    match reading.await {
        Ok(read) => read?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
    Ok(differing)
}

/// What the log has and the index does not know of.
async fn by_log<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
) -> Result<BTreeSet<MediaPath>, PageError> {
    let head = node.log.state().await?.last;
    let (mut differing, mut from) = (BTreeSet::new(), Version::ZERO.next());
    while from <= head {
        let page = check::page(&node.log, &node.index, session.generation, from, head).await?;
        differing.extend(page.missing.into_iter().filter_map(|logged| Some(logged.event.ok()?.path)));
        from = page.next;
    }
    Ok(differing)
}

/// Those of these paths that differ, and how.
async fn look<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    paths: &[MediaPath],
) -> Result<Vec<(MediaPath, Finding)>, PageError> {
    // The index first: an event that is applied in between is one that the log has.
    let rows: Vec<Option<Row>> =
        paths.iter().map(|path| Ok(node.index.path_state(path)?.row)).collect::<Result<_, IndexError>>()?;
    let lasts = node.log.lasts(paths).await?;
    let mut found = Vec::new();
    for ((path, row), last) in paths.iter().zip(rows).zip(lasts) {
        let poison = last.as_ref().is_some_and(|logged| logged.event.is_err());
        let finding = find(row.as_ref(), last.as_ref().and_then(last_of), session.generation);
        // A message that is no event says nothing of the path's content.
        if finding != Finding::Same && !poison {
            found.push((path.clone(), finding));
        }
    }
    Ok(found)
}

fn last_of(logged: &Logged) -> Option<Last> {
    let event = logged.event.as_ref().ok()?;
    Some(Last { version: logged.version, kind: event.kind(), content: event.sha256 })
}

async fn mend<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    found: Vec<(MediaPath, Finding)>,
) -> Result<(), IndexError> {
    let session = session.clone();
    let mended = node.index.write(move |tx| {
        if tx.node().generation != session.generation {
            return Ok(());
        }
        // Where the log lost events that the index trusts it is read again, and what it lacks is published (rules 9 and 10).
        let lost = found.iter().find_map(|(_, finding)| match finding {
            Finding::LogLost(version) => Some(*version),
            _ => None,
        });
        if let Some(version) = lost {
            return tx.begin_generation(&session.created, &Distrust::Trimmed(version).to_string());
        }
        for (path, finding) in &found {
            if *finding == Finding::Wrong {
                tx.forget_row(path)?;
            }
            tx.repair(path)?;
        }
        Ok(())
    });
    mended.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::hash::ContentHash;

    fn hash(text: &str) -> ContentHash {
        ContentHash::of(text.as_bytes())
    }

    #[test]
    fn a_row_is_compared_with_the_last_event_of_its_path() {
        let row = |state, content: &str, version, generation| {
            Some(Row {
                state,
                sha256: Some(hash(content)),
                size: 1,
                stat: None,
                racy: false,
                version: Version::new(version),
                replaced: Version::ZERO,
                generation: Generation(generation),
                lost: None,
                rewritten: false,
                ignored: None,
            })
        };
        let last = |kind, content: &str, version| {
            Some(Last { version: Version::new(version), kind, content: hash(content) })
        };
        let (present, gone, marked) = (RowState::Present, RowState::Removed, RowState::Marked);
        let (added, removed) = (Kind::Added, Kind::Removed);
        let lost = |version| Finding::LogLost(Version::new(version));
        for (row, last, expected) in [
            (None, None, Finding::Same),
            (None, last(removed, "a", 3), Finding::Same),
            (None, last(added, "a", 3), Finding::NotApplied),
            (row(marked, "a", 0, 2), None, Finding::Same),
            (row(present, "a", 5, 1), last(added, "a", 5), Finding::NotApplied),
            (row(present, "a", 5, 1), None, Finding::Same),
            (row(present, "a", 5, 2), last(added, "a", 5), Finding::Same),
            (row(gone, "a", 5, 2), last(removed, "a", 5), Finding::Same),
            (row(present, "a", 4, 2), last(added, "a", 5), Finding::NotApplied),
            (row(present, "b", 5, 2), last(added, "a", 5), Finding::Wrong),
            (row(gone, "a", 5, 2), last(added, "a", 5), Finding::Wrong),
            (row(present, "a", 5, 2), last(removed, "a", 5), Finding::Wrong),
            (row(present, "a", 5, 2), last(added, "a", 4), lost(5)),
            (row(present, "a", 5, 2), None, lost(5)),
        ] {
            assert_eq!(find(row.as_ref(), last, Generation(2)), expected, "{row:?} {last:?}");
        }
    }
}
