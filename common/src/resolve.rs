//! Rule 3: finishing an intent, whoever made it and whenever its maker died. What stands under the temp name says whether the rename happened.

use crate::{
    content,
    event::Kind,
    index::{Commit, Index, IndexError, Intent, Stat, Trashed, Tx},
    path::MediaPath,
    root::{FileStat, Look, Root, is_full},
    subject::Subjects,
    time::Timestamp,
};
use std::{io, sync::Arc};

/// Whether the names that the rename changed are durable, which they must be before the row says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name {
    /// The caller has synced the folders.
    Synced,
    /// The rename may have happened just before a crash.
    Unsynced,
}

/// What became of an intent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// The rename had happened; the row is committed at its event.
    Done,
    /// It had not: the tree is as it was, and the temp file is gone.
    Undone,
    /// Somebody else resolved it meanwhile.
    Elsewhere,
}

/// Why an intent could not be finished. It still stands.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The disk.
    #[error("cannot finish placing {path}")]
    Io {
        /// The path.
        path: MediaPath,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl ResolveError {
    /// A disk is full, the root's or the one under the index: waiting for space is the cure.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_full(source),
            Self::Index(error) => error.is_full(),
        }
    }
}

/// What the disk says about an intent.
enum Seen {
    NotRenamed,
    /// Renamed. `out`: what came out of the tree, and is under the temp name. `placed`: the stat for the row, when the file still has mtime and size as set.
    Renamed {
        out: Option<Out>,
        placed: Option<Stat>,
    },
}

struct Out {
    stat: FileStat,
    expected: bool,
}

/// What the transaction came to.
enum Settled {
    Done { trashed: Option<Trashed> },
    Undone,
    Elsewhere,
}

/// Finishes an intent: the row, the trash entry and the intent's end are one transaction; then what came out is moved to the trash. A crash in
/// between leaves it under its temp name, which is also its name in the trash: the next start moves it.
pub async fn resolve(
    root: &Arc<Root>,
    index: &Index,
    subjects: &Subjects,
    path: &MediaPath,
    intent: &Intent,
    name: Name,
) -> Result<Resolved, ResolveError> {
    let wrap = |source| ResolveError::Io { path: path.clone(), source };
    let job = (Arc::clone(root), path.clone(), intent.clone());
    // Where nothing can have come out, two names are looked up, and nothing is read or synced: the index's thread does it in passing.
    let quick = name == Name::Synced && intent.kind == Kind::Added && intent.old.is_none();
    let seen = match quick {
        true => None,
        false => {
            let (root, path, intent) = job.clone();
            Some(blocking(move || see(&root, &path, &intent, name)).await.map_err(wrap)?)
        }
    };
    let subject = subjects.of(path);
    let settled = index
        .write(move |tx| {
            let (root, path, intent) = job;
            let seen = match seen.map_or_else(|| see(&root, &path, &intent, name), Ok) {
                Ok(seen) => seen,
                Err(error) => return Ok(Err(error)),
            };
            settle(tx, path, &intent, subject, seen).map(Ok)
        })
        .await?
        .map_err(wrap)?;
    match settled {
        Settled::Elsewhere => Ok(Resolved::Elsewhere),
        Settled::Undone => {
            let (root, temp) = (Arc::clone(root), intent.temp.clone());
            blocking(move || root.remove_temp(&temp)).await.map_err(wrap)?;
            Ok(Resolved::Undone)
        }
        Settled::Done { trashed: None } => Ok(Resolved::Done),
        Settled::Done { trashed: Some(trashed) } => {
            if trashed.lost {
                tracing::warn!(%path, trash = %trashed.id, "a lost conflict was moved to the trash");
            }
            let (root, at) = (Arc::clone(root), path.clone());
            blocking(move || root.trash_temp(&trashed.id, &trashed.id, &at)).await.map_err(wrap)?;
            Ok(Resolved::Done)
        }
    }
}

/// The part of the index in it.
fn settle(
    tx: &mut Tx<'_>,
    path: MediaPath,
    intent: &Intent,
    subject: String,
    seen: Seen,
) -> Result<Settled, IndexError> {
    if !tx.drop_intent(&path, intent)? {
        return Ok(Settled::Elsewhere);
    }
    let Seen::Renamed { out, placed } = seen else { return Ok(Settled::Undone) };
    let trashed = out.map(|out| Trashed {
        id: intent.temp.clone(),
        path: path.clone(),
        sha256: intent.old.map(|(content, _)| content).filter(|_| out.expected),
        lost: !(intent.known && out.expected),
        stat: out.stat.stat,
        moved: Timestamp::now(),
        checked: false,
    });
    let commit = Commit {
        path,
        kind: intent.kind,
        sha256: intent.sha256,
        size: intent.size,
        stat: placed,
        racy: false,
        version: intent.version,
        replaced: intent.replaced,
        subject,
        event: intent.event,
        generation: intent.generation,
    };
    tx.commit_placed(&commit)?;
    // What was placed is not there any more, or went with its folder: a watcher that looked before there was a row has missed nothing.
    if commit.kind == Kind::Added && commit.stat.is_none() {
        tx.ask_watcher(&commit.path)?;
    }
    trashed.iter().try_for_each(|entry| tx.add_trash(entry))?;
    Ok(Settled::Done { trashed })
}

fn see(root: &Root, path: &MediaPath, intent: &Intent, name: Name) -> io::Result<Seen> {
    let under_temp = match root.look_temp(&intent.temp)? {
        Look::File(stat) => Some(stat),
        _ => None,
    };
    let renamed = match (intent.kind, intent.temp_ino) {
        (Kind::Added, ino) => under_temp.map(|stat| stat.stat.ino) != ino,
        (Kind::Removed, _) => under_temp.is_some(),
    };
    if !renamed {
        return Ok(Seen::NotRenamed);
    }
    if name == Name::Unsynced {
        // Every folder on the way: one of them may have been made for it.
        path.parent().ancestors().try_for_each(|folder| root.sync_folder(folder))?;
    }
    let out = match under_temp {
        Some(stat) => Some(Out { expected: is_expected(root, intent, &stat)?, stat }),
        None => None,
    };
    let placed = match root.look(path)? {
        Look::File(now) => {
            let as_set = Some(now.stat.ino) == intent.temp_ino
                && (now.stat.mtime, now.stat.size) == (intent.mtime, intent.size);
            as_set.then_some(now.stat)
        }
        _ => None,
    };
    Ok(Seen::Renamed { out, placed })
}

/// Whether what came out is what the intent had looked at. The rename itself changes the ctime, so a file written a moment ago is read again.
fn is_expected(root: &Root, intent: &Intent, out: &FileStat) -> io::Result<bool> {
    let Some((content, old)) = intent.old else { return Ok(false) };
    let same = (old.ino, old.size, old.mtime) == (out.stat.ino, out.stat.size, out.stat.mtime);
    if !same || !content::is_racy(out.mtime) {
        return Ok(same);
    }
    let (now, _) = content::hash_open(&mut root.open_temp(&intent.temp)?)?;
    Ok(now == content)
}

/// Runs disk work off the async threads.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("blocking work is never cancelled once it runs, and nobody aborts it"),
        },
    }
}
