//! What is ours below the root: `.mirror/tmp` for unfinished files, `.mirror/trash` for what was taken out of the tree.

use super::{BENEATH, FOLDER, FileStat, Look, Root, look_in, retry};
use crate::{hash::ContentHash, path::MediaPath, time::Timestamp};
use rustix::{
    fs::{self, AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

/// What the names of the watcher's temp files begin with: to the replicator, which tidies up at its start, they are not left behind.
pub const UPLOAD: &str = "upload.";

/// An unfinished file of ours in `.mirror/tmp`, mode 0600. Its name is `<sha256>.<random>`, and `.part` behind it as long as it is being written. That of an upload has
/// [`UPLOAD`] before it.
#[derive(Debug)]
pub struct TempFile {
    /// Its name in `.mirror/tmp`.
    pub name: String,
    /// The open file.
    pub file: File,
}

impl Root {
    /// A new, empty temp file for this content, with `.part` behind its name.
    pub fn create_temp(&self, content: ContentHash) -> io::Result<TempFile> {
        self.create(format!("{content}.{:016x}.part", rand::random::<u64>()))
    }

    /// The same for an upload.
    pub fn create_upload(&self, content: ContentHash) -> io::Result<TempFile> {
        self.create(format!("{UPLOAD}{content}.{:016x}.part", rand::random::<u64>()))
    }

    fn create(&self, name: String) -> io::Result<TempFile> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = fs::openat(&self.temp, &name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(TempFile { name, file: file.into() })
    }

    /// The temp file is complete: drops `.part` from its name.
    pub fn complete_temp(&self, temp: &mut TempFile) -> io::Result<()> {
        let done = temp.name.trim_end_matches(".part").to_owned();
        fs::renameat_with(&self.temp, &temp.name, &self.temp, &done, RenameFlags::NOREPLACE)?;
        temp.name = done;
        Ok(())
    }

    /// A free temp name for something that is taken out of the tree.
    pub fn temp_name(content: ContentHash) -> String {
        format!("{content}.{:016x}", rand::random::<u64>())
    }

    /// What stands under a temp name.
    pub fn look_temp(&self, name: &str) -> io::Result<Look> {
        look_in(&self.temp, OsStr::new(name))
    }

    /// Opens a temp file for reading.
    pub fn open_temp(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(fs::openat(&self.temp, name, flags, Mode::empty())?.into())
    }

    /// Opens an unfinished temp file to write on.
    pub fn reopen_temp(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(fs::openat(&self.temp, name, flags, Mode::empty())?.into())
    }

    /// Deletes a temp file; gone already is fine.
    pub fn remove_temp(&self, name: &str) -> io::Result<()> {
        match fs::unlinkat(&self.temp, name, AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The names in `.mirror/tmp`.
    pub fn temp_names(&self) -> io::Result<Vec<String>> {
        names(&self.temp)
    }

    pub(super) fn temp_dir(&self) -> &OwnedFd {
        &self.temp
    }

    pub(super) fn own_dir(&self) -> &OwnedFd {
        &self.own
    }

    /// Moves a file from `.mirror/tmp` to `.mirror/trash/<id>/<path>`, durably. Gone already is fine: it was moved before.
    pub fn trash_temp(&self, name: &str, id: &str, path: &MediaPath) -> io::Result<()> {
        let mut folders = vec![fs::openat2(&self.trash, ".", FOLDER, Mode::empty(), BENEATH)?];
        let parents = path.parent().components().map(std::path::Component::as_os_str);
        for component in std::iter::once(OsStr::new(id)).chain(parents) {
            let above = folders.last().expect("begins with one");
            match fs::mkdirat(above, component, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let next = retry(|| fs::openat2(above, component, FOLDER, Mode::empty(), BENEATH))?;
            folders.push(next);
        }
        let folder = folders.last().expect("begins with one");
        match fs::renameat_with(&self.temp, name, folder, path.name(), RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        folders.iter().rev().try_for_each(fs::fsync)?;
        Ok(())
    }

    /// Opens a trashed file for reading.
    pub fn open_trashed(&self, id: &str, path: &MediaPath) -> io::Result<(File, FileStat)> {
        let folder = retry(|| fs::openat2(&self.trash, id, FOLDER, Mode::empty(), BENEATH))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File =
            retry(|| fs::openat2(&folder, path.as_path(), flags, Mode::empty(), BENEATH))?.into();
        let stat = FileStat::of(&file)?;
        Ok((file, stat))
    }

    /// Deletes a trashed file with its folders; gone already is fine.
    pub fn drop_trashed(&self, id: &str, path: &MediaPath) -> io::Result<()> {
        let gone = |result: rustix::io::Result<()>| match result {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(io::Error::from(error)),
        };
        let folder = match retry(|| fs::openat2(&self.trash, id, FOLDER, Mode::empty(), BENEATH)) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // Its folders are ours alone (`.mirror` is 0700), so plain paths are safe here.
        gone(fs::unlinkat(&folder, path.as_path(), AtFlags::empty()))?;
        for above in path.as_path().ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            gone(fs::unlinkat(&folder, above, AtFlags::REMOVEDIR))?;
        }
        gone(fs::unlinkat(&self.trash, id, AtFlags::REMOVEDIR))
    }
}

pub(super) fn names(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(OsStr::from_bytes(name).to_string_lossy().into_owned()),
        }
    }
    Ok(names)
}

/// Sets what travels with content, before the file is renamed into the tree: permission bits (never setuid, setgid or sticky) and mtime.
pub fn copy_attributes(file: &impl std::os::fd::AsFd, mode: u32, mtime: Timestamp) -> io::Result<()> {
    fs::fchmod(file, Mode::from_raw_mode(mode & 0o777))?;
    let nanos = mtime.nanos();
    let time = Timespec {
        tv_sec: i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(0),
        tv_nsec: i64::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    };
    let now = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW };
    Ok(fs::futimens(file, &Timestamps { last_access: now, last_modification: time })?)
}
