//! Rules 3 and 4: putting a finished file into the tree, or taking one out. The intent is durable, then comes the rename, then the sync of the folder, and one
//! transaction ends the intent and commits the row. Both processes do it this way, and one finishes what the other has begun.
//!
//! An index commit whose sync failed may still be found after a crash, until another one has been written over it. If its temp file were gone by then, the
//! rename would look done. So the file stays until the index has taken a later intent.

mod left;
mod sync;

pub use left::{LeftError, left_behind, tidy_temp};
pub use sync::FolderSync;

use crate::{
    index::{Index, IndexError, Intent, PathState, Stat},
    path::MediaPath,
    resolve::{Name, ResolveError, Resolved, blocking, resolve},
    root::{FileStat, Folder, Look, Ownership, RenameError, Root, TempFile, copy_attributes},
    rounds::Rounds,
    subject::Subjects,
    time::Timestamp,
};
use std::{
    io, mem,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The folder of unfinished files.
const TEMP: &str = ".mirror/tmp";

/// Why something was not placed. The tree is as it was, or an intent stands that finishes it.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The disk.
    #[error("cannot write below the root")]
    Disk(#[source] io::Error),
    /// The rename.
    #[error(transparent)]
    Rename(#[from] RenameError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The intent stands.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// What became of a placing that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// It is done, and would survive a power cut.
    Done,
    /// The path changed before anything was intended. The temp file is as it was.
    Changed,
    /// The path changed after that, or the other process has finished it. The temp file is gone.
    Undone,
}

/// Places files below one root.
pub struct Placer {
    root: Arc<Root>,
    index: Index,
    /// Makes names durable.
    pub folders: FolderSync,
    renames: Rounds<(Intent, Folder), Result<Renamed, RenameError>>,
    /// Temp files of intents that could not be committed: as many as there are files in work, for each time that the index fails.
    leftovers: Mutex<Vec<String>>,
}

impl Placer {
    /// Ends with its last handle.
    pub fn start(root: Arc<Root>, index: Index) -> Self {
        let at = Arc::clone(&root);
        let renames = Rounds::start(move |asked: Vec<(Intent, Folder)>| {
            asked.into_iter().map(|(intent, folder)| rename(&at, &intent, folder)).collect()
        });
        let folders = FolderSync::start(Arc::clone(&root));
        Self { folders, renames, root, index, leftovers: Mutex::default() }
    }

    /// Does what an intent says, when its path is as it was seen. `folder`: of a path that something is placed at.
    pub async fn place(
        &self,
        subjects: &Subjects,
        path: &MediaPath,
        seen: &PathState,
        intent: &Intent,
        folder: Option<Folder>,
    ) -> Result<Placed, PlaceError> {
        if !self.intend(path, seen, intent).await? {
            return Ok(Placed::Changed);
        }
        let folder = match folder {
            Some(folder) => folder,
            None => self.root.existing_folder(path)?,
        };
        let (failed, name) = match self.renames.ask((intent.clone(), folder)).await {
            Ok(Renamed { folder, made_below }) => {
                self.folders.sync_new(folder, made_below).await.map_err(PlaceError::Disk)?;
                (None, Name::Synced)
            }
            Err(error) => (Some(error), Name::Unsynced),
        };
        // What stands under the temp name says whether the rename happened, whatever it answered.
        let resolved = resolve(&self.root, &self.index, subjects, path, intent, name).await?;
        match (resolved, failed) {
            (Resolved::Done, _) => Ok(Placed::Done),
            (_, Some(RenameError::Changed) | None) => Ok(Placed::Undone),
            (_, Some(error)) => Err(error.into()),
        }
    }

    /// Commits an intent when its path is as it was seen; the name of its temp file is made durable first. False: the path changed.
    async fn intend(&self, path: &MediaPath, seen: &PathState, intent: &Intent) -> Result<bool, PlaceError> {
        if intent.temp_ino.is_some() {
            // It must survive a power cut: a temp name that is gone says that the rename happened.
            if let Err(error) = self.folders.sync(TEMP.into()).await {
                let (root, temp) = (Arc::clone(&self.root), intent.temp.clone());
                blocking(move || root.remove_temp(&temp)).await.map_err(PlaceError::Disk)?;
                return Err(PlaceError::Disk(error));
            }
        }
        let earlier = mem::take(&mut *self.leftovers());
        let (root, at, seen, it) = (Arc::clone(&self.root), path.clone(), seen.clone(), intent.clone());
        let intended =
            self.index.write(move |tx| Ok(stands(&root, &at, &it) && tx.intend(&at, &seen, &it)?)).await;
        match intended {
            Ok(true) if earlier.is_empty() => Ok(true),
            Ok(true) => {
                let root = Arc::clone(&self.root);
                let removed =
                    blocking(move || earlier.iter().try_for_each(|temp| root.remove_temp(temp))).await;
                if let Err(error) = removed {
                    tracing::warn!(%error, "unfinished files stay until the next start");
                }
                Ok(true)
            }
            Ok(false) => {
                self.leftovers().extend(earlier);
                Ok(false)
            }
            Err(error) => {
                let ours = intent.temp_ino.map(|_| intent.temp.clone());
                self.leftovers().extend(earlier.into_iter().chain(ours));
                Err(error.into())
            }
        }
    }

    fn leftovers(&self) -> MutexGuard<'_, Vec<String>> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Attributes, then the sync, then the name without `.part`: a file that is durable is durable as it will stand. A sync that fails is final for this file. Blocks.
pub fn finish(
    root: &Root,
    temp: &mut TempFile,
    folder: &Folder,
    owner: Option<Ownership>,
    (mode, mtime): (u32, Timestamp),
) -> io::Result<Stat> {
    root.give(&temp.file, folder, owner)?;
    copy_attributes(&temp.file, mode, mtime)?;
    temp.file.sync_all()?;
    root.complete_temp(temp)?;
    Ok(FileStat::of(&temp.file)?.stat)
}

/// Whether the path is as it was when it was looked at.
fn stands(root: &Root, path: &MediaPath, intent: &Intent) -> bool {
    match (&intent.old, root.look(path)) {
        (Some((_, stat)), Ok(Look::File(now))) => now.stat == *stat,
        (None, Ok(Look::Absent | Look::Folder)) => true,
        _ => false,
    }
}

/// Where a name was changed: the folder, and the one above the first that was made for it.
struct Renamed {
    folder: PathBuf,
    made_below: Option<PathBuf>,
}

/// Brings an intent about. Microseconds.
fn rename(root: &Root, intent: &Intent, folder: Folder) -> Result<Renamed, RenameError> {
    match (&intent.old, intent.temp_ino) {
        (None, Some(_)) => root.place_new(&intent.temp, &folder)?,
        (Some(_), Some(_)) => root.place_over(&intent.temp, &folder)?,
        (_, None) => root.take_out(&intent.temp, &folder)?,
    }
    Ok(Renamed { folder: folder.path, made_below: folder.made_below })
}
