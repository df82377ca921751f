//! The root of a node's tree. Everything below it is reached from one directory handle, over real folders on the root's own
//! device: no symbolic link and no mount point is ever crossed (`openat2` with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`,
//! `RESOLVE_NO_XDEV`), so nothing that happens in the tree can lead an operation out of it.
//!
//! All calls block, and belong on a blocking thread.

mod ignore_rules;
mod marker;
mod own;
mod rename;
mod walk;

pub use ignore_rules::{IgnoreError, IgnoreRules, MIRRORIGNORE};
pub use marker::{MarkerClock, MarkerError, known_root, marker_stands, raise_marker};
pub use own::{TempFile, UPLOAD, copy_attributes};
pub use rename::{Folder, Ownership, RenameError};
pub use walk::{Entry, walk};

use crate::{
    index::Stat,
    path::{MediaPath, OWN_FOLDER},
    time::Timestamp,
};
use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Why a root cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// There is nothing there.
    #[error("the root {0} does not exist")]
    Missing(PathBuf),
    /// It is not a folder.
    #[error("the root {0} is not a folder")]
    NotAFolder(PathBuf),
    /// This user may not write there.
    #[error("the root {0} is not writable for this user")]
    NotWritable(PathBuf),
    /// The system cannot do what is needed to work below the root safely.
    #[error("{0}: {1}")]
    Unsupported(PathBuf, &'static str),
    /// Anything else.
    #[error("cannot open the root {0}")]
    Io(PathBuf, #[source] io::Error),
}

/// A file as it stands in the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStat {
    /// What the index keeps.
    pub stat: Stat,
    /// Permission bits, setuid and its like included.
    pub mode: u32,
    /// Number of names.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time as it travels.
    pub mtime: Timestamp,
}

/// What stands at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// A walk over real folders ended in "no such file".
    Absent,
    /// A regular file.
    File(FileStat),
    /// A folder.
    Folder,
    /// A symbolic link, device, socket or FIFO.
    Other(&'static str),
    /// The way there is not over real folders on the root's device: a link, or a mount point.
    Unreachable(&'static str),
}

/// Whether a disk had no room, of bytes, files, or a quota.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How full a file system is, for this user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disk {
    /// All of it, in bytes.
    pub size: u64,
    /// Free bytes.
    pub free: u64,
    /// Files that can still be made.
    pub files_free: u64,
    /// What a file's length is rounded up to, in bytes.
    pub block: u64,
}

/// A handle to the root; share it in an `Arc`. Costs four descriptors.
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
    own: OwnedFd,
    temp: OwnedFd,
    trash: OwnedFd,
    content: AtomicU64,
}

// Without NOFOLLOW: it would turn a link's ELOOP into ENOTDIR, which means something else to `look`. RESOLVE_NO_SYMLINKS refuses links.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

impl Root {
    /// Opens a root, making `.mirror` with its folders when they are missing.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let wrap = |error: Errno| match error {
            Errno::NOENT => RootError::Missing(path.into()),
            Errno::NOTDIR => RootError::NotAFolder(path.into()),
            Errno::ACCESS | Errno::ROFS | Errno::PERM => RootError::NotWritable(path.into()),
            Errno::NOSYS => {
                RootError::Unsupported(path.into(), "openat2 is missing: a kernel from 5.6 on is needed")
            }
            error => RootError::Io(path.into(), error.into()),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = fs::open(path, flags, Mode::empty()).map_err(wrap)?;
        fs::accessat(&dir, ".", fs::Access::WRITE_OK | fs::Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(wrap)?;
        let own = own_folder(&dir, OWN_FOLDER).map_err(wrap)?;
        let temp = own_folder(&own, "tmp").map_err(wrap)?;
        let trash = own_folder(&own, "trash").map_err(wrap)?;
        let root = Self { dir, path: path.into(), own, temp, trash, content: AtomicU64::new(0) };
        root.probe_rename()?;
        Ok(root)
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what stands at the root's path is still the folder that was opened, `.mirror` with it. When it is not, nothing seen through this handle proves anything.
    pub fn is_still_there(&self) -> bool {
        let same = || -> rustix::io::Result<bool> {
            let (opened, now) = (fs::fstat(&self.dir)?, fs::stat(&self.path)?);
            // A folder that was removed has no names left.
            let emptied = fs::fstat(&self.own)?.st_nlink == 0;
            Ok((opened.st_dev, opened.st_ino) == (now.st_dev, now.st_ino) && !emptied)
        };
        same().unwrap_or(false)
    }

    /// Content of this node was read on behalf of an event or a path: a large file takes its time, and does not stand still.
    pub fn got_on(&self, bytes: usize) {
        self.content.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many bytes that were so far.
    pub fn gone_on(&self) -> u64 {
        self.content.load(Ordering::Relaxed)
    }

    /// Free bytes for this user on the root's file system.
    pub fn disk_free(&self) -> io::Result<u64> {
        Ok(self.disk()?.free)
    }

    /// How full the root's file system is.
    pub fn disk(&self) -> io::Result<Disk> {
        let stat = fs::fstatvfs(&self.dir)?;
        Ok(Disk {
            size: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            // Those that make them as they are needed count none.
            files_free: if stat.f_files == 0 { u64::MAX } else { stat.f_favail },
            block: stat.f_frsize.max(1),
        })
    }

    /// Opens a folder below the root; the empty path is the root itself.
    pub fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Ok(retry(|| fs::openat2(&self.dir, path, FOLDER, Mode::empty(), BENEATH))?)
    }

    /// What stands at a path now. An error means that nobody can tell (permission, input/output).
    pub fn look(&self, path: &MediaPath) -> io::Result<Look> {
        match self.folder(path.parent()) {
            Ok(folder) => look_in(&folder, path.name()),
            Err(error) => match Errno::from_io_error(&error) {
                // A regular file where a folder was: what stood below it is gone.
                Some(Errno::NOENT | Errno::NOTDIR) => Ok(Look::Absent),
                Some(Errno::LOOP) => Ok(Look::Unreachable("a folder on the way is a symbolic link")),
                Some(Errno::XDEV) => Ok(Look::Unreachable("a folder on the way is a mount point")),
                _ => Err(error),
            },
        }
    }

    /// Opens a regular file for reading. It never blocks, not even on a FIFO that took the file's place.
    pub fn open_file(&self, path: &MediaPath) -> io::Result<(File, FileStat)> {
        let folder = self.folder(path.parent())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = retry(|| fs::openat2(&folder, path.name(), flags, Mode::empty(), BENEATH))?;
        let stat = fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        Ok((file.into(), FileStat::from_raw(&stat)))
    }
}

/// `openat2` may ask for another try when the tree changes at that moment (EAGAIN); it is bounded, since renames elsewhere could go on for ever.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..64 {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    call()
}

fn look_in(folder: &OwnedFd, name: &std::ffi::OsStr) -> io::Result<Look> {
    let stat = match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Look::Absent),
        Err(error) => return Err(error.into()),
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            // A file may be a mount point, too.
            if fs::fstat(folder)?.st_dev == stat.st_dev {
                Look::File(FileStat::from_raw(&stat))
            } else {
                Look::Unreachable("the file is a mount point")
            }
        }
        FileType::Directory => Look::Folder,
        other => Look::Other(what_is(other)),
    })
}

fn what_is(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        _ => "a device",
    }
}

fn own_folder(at: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    match fs::mkdirat(at, name, Mode::RWXU) {
        Ok(()) => fs::fsync(at)?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    retry(|| fs::openat2(at, name, FOLDER, Mode::empty(), BENEATH))
}

impl FileStat {
    fn from_raw(raw: &fs::Stat) -> Self {
        let nanos = |seconds: i64, nanos: i128| i128::from(seconds) * 1_000_000_000 + nanos;
        let small = |nanos: i128| i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX });
        #[allow(clippy::useless_conversion)] // Their types differ between architectures.
        let (mtime, ctime) = (
            nanos(raw.st_mtime.into(), i128::from(raw.st_mtime_nsec)),
            nanos(raw.st_ctime.into(), i128::from(raw.st_ctime_nsec)),
        );
        Self {
            stat: Stat {
                ino: raw.st_ino,
                size: u64::try_from(raw.st_size).unwrap_or(0),
                mtime: small(mtime),
                ctime: small(ctime),
            },
            mode: raw.st_mode & 0o7777,
            #[allow(clippy::useless_conversion)]
            links: raw.st_nlink.into(),
            uid: raw.st_uid,
            gid: raw.st_gid,
            mtime: Timestamp::from_nanos(mtime),
        }
    }

    /// Of an open file.
    pub fn of(file: &impl std::os::fd::AsFd) -> io::Result<Self> {
        Ok(Self::from_raw(&fs::fstat(file)?))
    }
}

#[cfg(test)]
mod tests;
