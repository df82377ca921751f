//! inotify watches, one for each folder. What they report are hints: the scan against the index is the truth.
//!
//! Each watch costs about 1 KiB of kernel memory and the folder's path here. Only what ends a change is asked for (close after writing,
//! renames, creations, deletions), so that readers of the files, and writers in the middle of their work, wake nobody.

use common::{path::OWN_FOLDER, root::Root};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::mpsc;

/// Something may have happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Noticed {
    /// A file was closed after writing, or renamed to here: it is finished.
    Finished(PathBuf),
    /// A name was made: a file about to be written, or a hard link that is complete.
    Created(PathBuf),
    /// A name is gone.
    Gone(PathBuf),
    /// A folder was made or moved to here.
    FolderNew(PathBuf),
    /// A folder was removed or moved away.
    FolderGone(PathBuf),
    /// The kernel's queue was full: anything may have happened.
    Overflow,
}

const MASK: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::EXCL_UNLINK)
    .union(WatchFlags::ONLYDIR);
/// Room for some 200 events with long names in one read.
const BUFFER: usize = 64 * 1024;
/// Reads that nobody has taken.
const READS: usize = 16;
/// How often the reading thread sees whether it is still wanted.
const LOOK_UP: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// The watches of one tree.
pub struct Watches {
    inotify: OwnedFd,
    folders: Mutex<Folders>,
}

#[derive(Default)]
struct Folders {
    of: HashMap<i32, PathBuf>,
    by_path: BTreeMap<Vec<u8>, i32>,
}

impl Watches {
    /// None yet.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, folders: Mutex::default() })
    }

    fn folders(&self) -> std::sync::MutexGuard<'_, Folders> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many folders are watched.
    pub fn count(&self) -> usize {
        self.folders().of.len()
    }

    /// Watches a folder. Scan it afterwards: what happened before is not told. `StorageFull` means that the limit `fs.inotify.max_user_watches` is reached.
    pub fn add(&self, root: &Root, folder: &Path) -> io::Result<()> {
        let opened = root.folder(folder)?;
        // By the handle, not the name: the folder cannot be swapped for a link in between.
        let through = format!("/proc/self/fd/{}", opened.as_raw_fd());
        let mut folders = self.folders();
        let watch = inotify::add_watch(&self.inotify, through.as_str(), MASK)?;
        if let Some(before) = folders.of.insert(watch, folder.into()) {
            folders.by_path.remove(before.as_os_str().as_bytes());
        }
        folders.by_path.insert(folder.as_os_str().as_bytes().to_vec(), watch);
        Ok(())
    }

    /// Drops the watches of a folder that went away, and of those below it.
    pub fn remove(&self, folder: &Path) {
        let mut folders = self.folders();
        let name = folder.as_os_str().as_bytes();
        let below = [name, b"/"].concat()..[name, b"0"].concat();
        let mut gone: Vec<Vec<u8>> = folders.by_path.range(below).map(|(path, _)| path.clone()).collect();
        gone.push(name.to_vec());
        for path in gone {
            if let Some(watch) = folders.by_path.remove(&path) {
                folders.of.remove(&watch);
                // Fails when the kernel has dropped it with the folder.
                let _ = inotify::remove_watch(&self.inotify, watch);
            }
        }
    }

    /// Takes what has been reported so far; empty when there is nothing.
    pub fn read(&self) -> io::Result<Vec<Noticed>> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut noticed = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes().to_vec());
                    self.notice(event.wd(), event.events(), name.as_deref(), &mut noticed);
                }
                Err(Errno::WOULDBLOCK) => return Ok(noticed),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if reader.is_buffer_empty() {
                return Ok(noticed);
            }
        }
    }

    fn notice(&self, watch: i32, what: ReadFlags, name: Option<&[u8]>, noticed: &mut Vec<Noticed>) {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            noticed.push(Noticed::Overflow);
            return;
        }
        let mut folders = self.folders();
        if what.contains(ReadFlags::IGNORED) {
            if let Some(path) = folders.of.remove(&watch) {
                folders.by_path.remove(path.as_os_str().as_bytes());
            }
            return;
        }
        let (Some(folder), Some(name)) = (folders.of.get(&watch), name) else { return };
        let path = folder.join(OsStr::from_bytes(name));
        if path == Path::new(OWN_FOLDER) {
            return;
        }
        let left = what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
        noticed.push(match (what.contains(ReadFlags::ISDIR), left) {
            (true, true) => Noticed::FolderGone(path),
            (true, false) => Noticed::FolderNew(path),
            (false, true) => Noticed::Gone(path),
            (false, false) if what.contains(ReadFlags::CREATE) => Noticed::Created(path),
            (false, false) => Noticed::Finished(path),
        });
    }
}

/// Reads on a thread of its own, which ends soon after the receiver is dropped. When nobody takes what is read, the kernel's queue fills, and says so.
pub fn follow(watches: Arc<Watches>) -> io::Result<mpsc::Receiver<io::Result<Vec<Noticed>>>> {
    let (sender, receiver) = mpsc::channel(READS);
    std::thread::Builder::new().name("inotify".into()).spawn(move || {
        while !sender.is_closed() {
            let mut ready = [PollFd::new(&watches.inotify, PollFlags::IN)];
            let noticed = match poll(&mut ready, Some(&LOOK_UP)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => watches.read(),
                Err(error) => Err(error.into()),
            };
            let failed = noticed.is_err();
            if sender.blocking_send(noticed).is_err() || failed {
                return;
            }
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    fn watched() -> (tempfile::TempDir, Root, Watches) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let watches = Watches::new().unwrap();
        watches.add(&root, Path::new("")).unwrap();
        (dir, root, watches)
    }

    #[test]
    fn readers_and_unfinished_writers_wake_nobody() {
        use std::io::Write;
        let (dir, _root, watches) = watched();
        let mut file = fs::File::create(dir.path().join("f")).unwrap();
        assert_eq!(watches.read().unwrap(), [Noticed::Created("f".into())]);
        file.write_all(b"x").unwrap();
        fs::read(dir.path().join("f")).unwrap();
        assert_eq!(watches.read().unwrap(), []);
        drop(file);
        assert_eq!(watches.read().unwrap(), [Noticed::Finished("f".into())]);
    }

    #[test]
    fn a_folder_that_is_renamed_reports_under_its_new_name() {
        let (dir, root, watches) = watched();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        watches.add(&root, Path::new("a")).unwrap();
        watches.add(&root, Path::new("a/b")).unwrap();
        watches.read().unwrap();
        fs::rename(dir.path().join("a"), dir.path().join("c")).unwrap();
        assert_eq!(
            watches.read().unwrap(),
            [Noticed::FolderGone("a".into()), Noticed::FolderNew("c".into())]
        );
        watches.remove(Path::new("a"));
        assert_eq!(watches.count(), 1);
        watches.add(&root, Path::new("c/b")).unwrap();
        watches.read().unwrap();
        fs::write(dir.path().join("c/b/f"), "x").unwrap();
        assert_eq!(
            watches.read().unwrap(),
            [Noticed::Created("c/b/f".into()), Noticed::Finished("c/b/f".into())]
        );
    }

    #[test]
    fn renames_deletions_and_links_are_told_apart() {
        let (dir, _root, watches) = watched();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a"), "x").unwrap();
        fs::hard_link(at("a"), at("b")).unwrap();
        fs::rename(at("a"), at("c")).unwrap();
        fs::remove_file(at("b")).unwrap();
        let expected = [
            Noticed::Created("a".into()),
            Noticed::Finished("a".into()),
            Noticed::Created("b".into()),
            Noticed::Gone("a".into()),
            Noticed::Finished("c".into()),
            Noticed::Gone("b".into()),
        ];
        assert_eq!(watches.read().unwrap(), expected);
    }
}
