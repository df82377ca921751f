//! A walk over the tree in the byte order of paths, which is the order of the index: the two can be compared in one pass.
//!
//! Costs one descriptor for each level, and memory for the names of the folders on the way.

use super::{BENEATH, FOLDER, FileStat, IgnoreRules, Look, Root, look_in, retry, what_is};
use crate::path::{MediaPath, OWN_FOLDER};
use rustix::{
    fs::{self, Dir, FileType, Mode},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    io,
    ops::ControlFlow,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

/// What a walk meets.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A folder, before it is read: the moment to put a watch on it.
    Folder(&'a Path),
    /// A regular file.
    File(MediaPath, FileStat),
    /// Something that is never mirrored, and why.
    Skipped(&'a Path, &'static str),
    /// What could not be read. Nothing is known about what stands below.
    Failed(&'a Path, io::Error),
}

struct Level {
    dir: OwnedFd,
    path: PathBuf,
    names: std::vec::IntoIter<(OsString, FileType)>,
}

/// Walks the folder `start` (empty: the whole root), without what the rules cover. Ends early when `visit` says so.
pub fn walk(
    root: &Root,
    start: &Path,
    rules: &IgnoreRules,
    visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    visit(Entry::Folder(start))?;
    let mut levels = match root.folder(start).and_then(|dir| Level::read(dir, start.into())) {
        Ok(level) => vec![level],
        Err(error) => return visit(Entry::Failed(start, error)),
    };
    while let Some(level) = levels.last_mut() {
        let Some((name, kind)) = level.names.next() else {
            levels.pop();
            continue;
        };
        let path = level.path.join(&name);
        if path == Path::new(OWN_FOLDER) || rules.covers(&path, kind == FileType::Directory) {
            continue;
        }
        match kind {
            FileType::RegularFile => visit_file(&level.dir, &name, &path, visit)?,
            FileType::Directory => {
                let opened = retry(|| fs::openat2(&level.dir, &name, FOLDER, Mode::empty(), BENEATH));
                match opened {
                    Ok(dir) => {
                        visit(Entry::Folder(&path))?;
                        match Level::read(dir, path.clone()) {
                            Ok(level) => levels.push(level),
                            Err(error) => visit(Entry::Failed(&path, error))?,
                        }
                    }
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {} // Replaced since; its own event tells.
                    Err(Errno::XDEV) => visit(Entry::Skipped(&path, "a mount point"))?,
                    Err(error) => visit(Entry::Failed(&path, error.into()))?,
                }
            }
            other => visit(Entry::Skipped(&path, what_is(other)))?,
        }
    }
    ControlFlow::Continue(())
}

fn visit_file(
    dir: &OwnedFd,
    name: &OsStr,
    path: &Path,
    visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match look_in(dir, name) {
        Ok(Look::File(stat)) => match MediaPath::try_from(path) {
            Ok(media) => visit(Entry::File(media, stat)),
            Err(_) => visit(Entry::Skipped(path, "a path of over 4095 bytes")),
        },
        Ok(Look::Unreachable(why) | Look::Other(why)) => visit(Entry::Skipped(path, why)),
        Ok(Look::Absent | Look::Folder) => ControlFlow::Continue(()),
        Err(error) => visit(Entry::Failed(path, error)),
    }
}

impl Level {
    fn read(dir: OwnedFd, path: PathBuf) -> io::Result<Self> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsString::from_vec(name.to_vec());
            let kind = match entry.file_type() {
                FileType::Unknown => match look_in(&dir, &name)? {
                    Look::File(_) | Look::Unreachable(_) => FileType::RegularFile,
                    Look::Folder => FileType::Directory,
                    Look::Other(_) => FileType::Symlink,
                    Look::Absent => continue,
                },
                known => known,
            };
            names.push((name, kind));
        }
        names.sort_unstable_by(|a, b| order(a).cmp(order(b)));
        Ok(Self { dir, path, names: names.into_iter() })
    }
}

/// A folder sorts as if its name ended in `/`, since that is what follows it in the paths below it.
fn order((name, kind): &(OsString, FileType)) -> impl Iterator<Item = u8> {
    let slash = (*kind == FileType::Directory).then_some(b'/');
    name.as_bytes().iter().copied().chain(slash)
}
