//! The only renames that happen in the tree, each relative to an open folder.

use super::{BENEATH, FOLDER, FileStat, Look, Root, RootError, look_in, retry};
use crate::path::MediaPath;
use rustix::{
    fs::{self, AtFlags, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Who owns what is placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ownership {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Why a rename did not happen. The tree is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RenameError {
    /// What stands at the path is no longer what was looked at.
    #[error("the path changed while it was being placed")]
    Changed,
    /// A folder stands there, with something in it.
    #[error("a folder that is not empty stands at the path")]
    FolderInTheWay,
    /// A file stands where a folder on the way should be.
    #[error("a file stands where a folder of the path should be")]
    FileInTheWay,
    /// A link or mount point stands on the way.
    #[error("a folder of the path is a symbolic link or a mount point")]
    Unreachable,
    /// Anything else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for RenameError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOTDIR => Self::FileInTheWay,
            Errno::LOOP | Errno::XDEV => Self::Unreachable,
            error => Self::Io(error.into()),
        }
    }
}

/// The open folder of a path that is being placed.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    name: OsString,
    /// The folders that must be synced for the name to be durable: this one, and those above it up to where one was made.
    pub path: PathBuf,
    /// The first folder that existed before, when folders were made.
    pub made_below: Option<PathBuf>,
}

impl Root {
    /// Opens the folder of a path, making what is missing: new folders take owner, group and mode from the folder above. A file owner, group and mode
    /// cannot be given up for safety: where giving away is not permitted, the folder stays ours.
    pub fn make_folder(&self, path: &MediaPath) -> Result<Folder, RenameError> {
        let parent = path.parent();
        let name = path.name().to_owned();
        match self.folder(parent) {
            Ok(fd) => return Ok(Folder { fd, name, path: parent.into(), made_below: None }),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT) => {}
                Some(errno) => return Err(errno.into()),
                None => return Err(error.into()),
            },
        }
        let mut fd = self.folder(Path::new(""))?;
        let mut at = PathBuf::new();
        let mut made_below = None;
        for component in parent.components().map(std::path::Component::as_os_str) {
            fd = match retry(|| fs::openat2(&fd, component, FOLDER, Mode::empty(), BENEATH)) {
                Err(Errno::NOENT) => {
                    made_below.get_or_insert_with(|| at.clone());
                    make_one(&fd, component)?
                }
                opened => opened?,
            };
            at.push(component);
        }
        Ok(Folder { fd, name, path: at, made_below })
    }

    /// Opens the folder of a path that must exist.
    pub fn existing_folder(&self, path: &MediaPath) -> Result<Folder, RenameError> {
        let fd = self.folder(path.parent())?;
        Ok(Folder { fd, name: path.name().to_owned(), path: path.parent().into(), made_below: None })
    }

    /// Renames a temp file to a path at which nothing stands. An empty folder there is removed first.
    pub fn place_new(&self, temp: &str, folder: &Folder) -> Result<(), RenameError> {
        for _ in 0..2 {
            match fs::renameat_with(self.temp_dir(), temp, &folder.fd, &folder.name, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => match look_in(&folder.fd, &folder.name)? {
                    Look::Folder => match fs::unlinkat(&folder.fd, &folder.name, AtFlags::REMOVEDIR) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(Errno::NOTEMPTY | Errno::EXIST) => return Err(RenameError::FolderInTheWay),
                        Err(error) => return Err(error.into()),
                    },
                    _ => return Err(RenameError::Changed),
                },
                Err(Errno::NOENT) => return Err(RenameError::Changed), // The folder was removed meanwhile.
                Err(error) => return Err(error.into()),
            }
        }
        Err(RenameError::Changed)
    }

    /// Exchanges a temp file with the regular file at a path: afterwards the temp name holds what stood there.
    pub fn place_over(&self, temp: &str, folder: &Folder) -> Result<(), RenameError> {
        match look_in(&folder.fd, &folder.name)? {
            Look::File(_) => {}
            _ => return Err(RenameError::Changed),
        }
        match fs::renameat_with(self.temp_dir(), temp, &folder.fd, &folder.name, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(RenameError::Changed),
            Err(error) => Err(error.into()),
        }
    }

    /// Renames the file at a path to a free temp name.
    pub fn take_out(&self, temp: &str, folder: &Folder) -> Result<(), RenameError> {
        match look_in(&folder.fd, &folder.name)? {
            Look::File(_) => {}
            _ => return Err(RenameError::Changed),
        }
        match fs::renameat_with(&folder.fd, &folder.name, self.temp_dir(), temp, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(RenameError::Changed),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the names in a folder durable; the empty path is the root. A folder that is gone needs no sync: its removal is somebody else's act.
    pub fn sync_folder(&self, path: &Path) -> io::Result<()> {
        match self.folder(path) {
            Ok(fd) => Ok(fs::fsync(fd)?),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Gives a file the owner that was asked for, else its folder's. Not being permitted to is no failure.
    pub fn give(
        &self,
        file: &impl std::os::fd::AsFd,
        folder: &Folder,
        wanted: Option<Ownership>,
    ) -> io::Result<()> {
        let has = FileStat::of(file)?;
        let wanted = match wanted {
            Some(wanted) => wanted,
            None => {
                let of = fs::fstat(&folder.fd)?;
                // The group of the folder follows only where it says so, or where the owner is given away as well.
                Ownership { uid: of.st_uid, gid: of.st_gid }
            }
        };
        if (has.uid, has.gid) == (wanted.uid, wanted.gid) {
            return Ok(());
        }
        give_away(file, wanted)
    }

    pub(super) fn probe_rename(&self) -> Result<(), RootError> {
        const WHY: &str = "this file system cannot rename with RENAME_NOREPLACE and RENAME_EXCHANGE (ext4, XFS, Btrfs and tmpfs can)";
        let probe = format!("probe.{:016x}", rand::random::<u64>());
        let twin = format!("{probe}.twin");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let tried = (|| {
            fs::openat(self.temp_dir(), &probe, flags, Mode::RUSR | Mode::WUSR)?;
            fs::openat(self.temp_dir(), &twin, flags, Mode::RUSR | Mode::WUSR)?;
            let rename = |how| fs::renameat_with(self.temp_dir(), &probe, self.temp_dir(), &twin, how);
            match rename(RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                Ok(()) => return Err(Errno::INVAL),
                Err(error) => return Err(error),
            }
            rename(RenameFlags::EXCHANGE)
        })();
        for name in [&probe, &twin] {
            let _ = fs::unlinkat(self.temp_dir(), name, AtFlags::empty());
        }
        tried.map_err(|error| match error {
            Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => RootError::Unsupported(self.path.clone(), WHY),
            Errno::ACCESS | Errno::ROFS => RootError::NotWritable(self.path.clone()),
            error => RootError::Io(self.path.clone(), error.into()),
        })
    }
}

fn make_one(above: &OwnedFd, name: &OsStr) -> Result<OwnedFd, RenameError> {
    // Another placing thread may have made it a moment ago; then it has given it its owner.
    let made = match fs::mkdirat(above, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let folder = retry(|| fs::openat2(above, name, FOLDER, Mode::empty(), BENEATH))?;
    if made {
        let of = fs::fstat(above)?;
        give_away(&folder, Ownership { uid: of.st_uid, gid: of.st_gid })?;
        fs::fchmod(&folder, Mode::from_raw_mode(of.st_mode & 0o2777))?;
    }
    Ok(folder)
}

fn give_away(file: &impl std::os::fd::AsFd, to: Ownership) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
    match fs::fchown(file, Some(uid), Some(gid)) {
        Err(Errno::PERM) => match fs::fchown(file, None, Some(gid)) {
            Err(Errno::PERM) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        },
        result => Ok(result?),
    }
}
