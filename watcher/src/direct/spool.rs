//! A file that was received over HTTP, until it is placed: in `.mirror/tmp`, and gone from there when nobody wants it any more.

use common::{
    path::MediaPath,
    place::{self, PlaceError},
    resolve::blocking,
    root::{FileStat, Folder, Ownership, RenameError, Root, TempFile, copy_attributes},
    time::Timestamp,
};
use std::{io, sync::Arc};

/// A received file, complete, its bytes seen to hash to its name.
pub struct Spooled {
    root: Arc<Root>,
    /// Away while it is worked on.
    temp: Option<TempFile>,
    name: Name,
    inode: u64,
    size: u64,
    mtime: i64,
}

/// A name in `.mirror/tmp` that goes with its owner, unless it was given away.
pub struct Name {
    root: Arc<Root>,
    name: String,
    given_away: bool,
}

impl Name {
    /// Of a file with `.part` behind its name, or without it by now.
    pub fn of(root: Arc<Root>, temp: &TempFile) -> Self {
        Self { root, name: temp.name.trim_end_matches(".part").into(), given_away: false }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if !self.given_away {
            // What stays all the same is for the next start.
            let _ = self.root.remove_temp(&format!("{}.part", self.name));
            let _ = self.root.remove_temp(&self.name);
        }
    }
}

impl Spooled {
    /// A temp file that holds so many bytes.
    pub fn new(root: Arc<Root>, temp: TempFile, name: Name, size: u64) -> io::Result<Self> {
        let inode = FileStat::of(&temp.file)?.stat.ino;
        Ok(Self { root, temp: Some(temp), name, inode, size, mtime: 0 })
    }

    /// Its name in `.mirror/tmp` once it is finished.
    pub fn name(&self) -> &str {
        &self.name.name
    }

    /// Its length.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The mtime that was set.
    pub fn mtime(&self) -> i64 {
        self.mtime
    }

    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Makes it durable as it will stand at its path. A second time only attributes are set, and made durable.
    pub async fn finish(
        &mut self,
        path: MediaPath,
        owner: Option<Ownership>,
        mode: u32,
        mtime: Timestamp,
    ) -> Result<(), PlaceError> {
        let lost = || PlaceError::Disk(io::Error::other("an earlier try to write it was given up"));
        let (mut temp, root) = (self.temp.take().ok_or_else(lost)?, Arc::clone(&self.root));
        let (temp, stat) = blocking(move || {
            let folder = root.make_folder(&path)?;
            let stat = if temp.name.ends_with(".part") {
                place::finish(&root, &mut temp, &folder, owner, (mode, mtime)).map_err(PlaceError::Disk)?
            } else {
                copy_attributes(&temp.file, mode, mtime).map_err(PlaceError::Disk)?;
                temp.file.sync_all().map_err(PlaceError::Disk)?;
                FileStat::of(&temp.file).map_err(PlaceError::Disk)?.stat
            };
            Ok::<_, PlaceError>((temp, stat))
        })
        .await?;
        (self.temp, self.mtime) = (Some(temp), stat.mtime);
        Ok(())
    }

    /// The folder it is to stand in.
    pub async fn folder(&self, path: MediaPath) -> Result<Folder, RenameError> {
        let root = Arc::clone(&self.root);
        blocking(move || root.make_folder(&path)).await
    }

    /// Whether an intent may name it: from then on only that says what becomes of the file. A name that went while its intent stands would say that the rename happened.
    pub fn give_away(&mut self, given: bool) {
        self.name.given_away = given;
    }
}
