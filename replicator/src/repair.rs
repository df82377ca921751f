//! Bringing a path's last event to the disk once more, although the row is at it already: the disk lacks the file, or has rotten bytes. Asked for through
//! the index, by whatever has seen it: `verify --repair`, `watcher approve --revert`, the scrub.
//!
//! The rules of placing hold (intent, durable temp file, rename, row), and what a user made of the path meanwhile wins: content under another stat than the row's is
//! the watcher's business, and a newer event is applied as any other.

use crate::{
    apply::{Committing, Outcome, TRIES, apply, on_disk, place, settled},
    fetch::fetch,
    node::{ApplyError, Node},
    plan::OnDisk,
};
use common::{
    blobs::BlobStore,
    event::Event,
    index::{PathState, Row},
    log::{EventLog, Logged},
    trust::Session,
};

/// What a repair comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The content stands there.
    Whole,
    /// Nothing stands there: fetch it.
    Fetch,
    /// Other bytes under the stat that the row knows: they changed without a write. They go to the trash as a lost conflict, and the content is fetched.
    SetAside,
    /// Somebody has written there: the watcher looks at it.
    AskWatcher,
}

/// Decides by row and disk. `disk`: read now, whatever its stat.
pub fn decide(row: &Row, disk: OnDisk) -> Decision {
    match disk {
        OnDisk::Absent => Decision::Fetch,
        OnDisk::File(content, _) if row.content() == Some(content) => Decision::Whole,
        OnDisk::File(_, stat) if row.stat == Some(stat) && !row.racy => Decision::SetAside,
        OnDisk::File(..) => Decision::AskWatcher,
    }
}

/// Repairs a path by its last event. A crash at any point leaves what [`apply`] leaves, and the request in the index.
pub async fn repair<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    logged: &Logged,
    event: &Event,
) -> Result<Outcome, ApplyError> {
    for _ in 0..TRIES {
        let facts = node.facing.ask((event.path.clone(), event.sha256)).await?;
        node.check(session, facts.stage)?;
        if facts.state.intent.is_some() {
            settled(node, &event.path).await?;
            continue;
        }
        let seen = facts.state;
        let row = seen.row.as_ref().filter(|row| row.generation == session.generation);
        let Some(row) = row.filter(|row| row.version >= logged.version) else {
            return apply(node, session, logged, event).await;
        };
        let Some(attributes) = event.added.filter(|_| row.version == logged.version) else {
            return Ok(Outcome::Superseded);
        };
        if seen.offer.is_some() {
            return Err(ApplyError::Changing); // The watcher is saying what stands here.
        }
        // Without a row, so that the file is read.
        let unread = PathState::default();
        let Some(disk) = on_disk(node, &event.path, &unread, facts.look).await? else { continue };
        match decide(row, disk) {
            Decision::Whole => return Ok(Outcome::Adopted),
            Decision::AskWatcher => {
                let path = event.path.clone();
                node.index.write(move |tx| tx.ask_watcher(&path)).await?;
                return Ok(Outcome::Kept);
            }
            Decision::SetAside => {
                tracing::warn!(path = %event.path, "the file's bytes changed without a write: it is set aside and fetched again");
            }
            Decision::Fetch => {}
        }
        node.before_change().await?;
        let verified = fetch(node, event, attributes, facts.here).await?;
        let done = Committing { node, session, logged, event, seen: &seen };
        // What rotted may still be all that is left of somebody's work: it is kept as a lost conflict.
        if let Some(outcome) = place(&done, disk, false, Some(verified)).await? {
            return Ok(outcome);
        }
    }
    Err(ApplyError::Changing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::{
        event::Version,
        hash::ContentHash,
        index::{Generation, RowState, Stat},
    };

    #[test]
    fn absent_files_are_fetched_rotten_ones_set_aside_and_written_ones_left() {
        let stat = |mtime| Stat { ino: 1, size: 1, mtime, ctime: mtime };
        let hash = |text: &str| ContentHash::of(text.as_bytes());
        let row = |known: Option<i64>, racy| Row {
            state: RowState::Present,
            sha256: Some(hash("a")),
            size: 1,
            stat: known.map(stat),
            racy,
            version: Version::new(5),
            replaced: Version::ZERO,
            generation: Generation(1),
            lost: None,
            rewritten: false,
            ignored: None,
        };
        for (known, racy, disk, expected) in [
            (Some(1), false, OnDisk::Absent, Decision::Fetch),
            (None, false, OnDisk::Absent, Decision::Fetch),
            (Some(1), false, OnDisk::File(hash("a"), stat(1)), Decision::Whole),
            (Some(1), false, OnDisk::File(hash("a"), stat(2)), Decision::Whole),
            (Some(1), false, OnDisk::File(hash("b"), stat(1)), Decision::SetAside),
            (Some(1), false, OnDisk::File(hash("b"), stat(2)), Decision::AskWatcher),
            (Some(1), true, OnDisk::File(hash("b"), stat(1)), Decision::AskWatcher),
            (None, false, OnDisk::File(hash("b"), stat(1)), Decision::AskWatcher),
        ] {
            assert_eq!(decide(&row(known, racy), disk), expected, "{known:?} {racy} {disk:?}");
        }
    }
}
