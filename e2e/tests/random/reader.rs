//! A reader that never stops: whatever it opens at a path that only the mirror writes is one whole content. What a user writes in place may be published
//! as it was for a moment; then the log has to say so.

use crate::{
    contents::{hash_of, identify},
    model::is_shared,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

/// A round of reading is followed by a rest of so many times its length: the rest of the machine is for who is tested.
const REST: u32 = 3;

/// Reads all roots, over and over.
pub struct Reader {
    over: Arc<AtomicBool>,
    turn: Arc<Mutex<()>>,
    read: Arc<AtomicU64>,
    moments: Arc<Mutex<Vec<(PathBuf, String)>>>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Reader {
    /// Starts to read. On each root, what stands in the node's own folder is written in place by its own users, and is left out.
    pub fn start(roots: Vec<(String, PathBuf)>) -> Self {
        let (over, turn, read) =
            (Arc::<AtomicBool>::default(), Arc::<Mutex<()>>::default(), Arc::<AtomicU64>::default());
        let moments = Arc::<Mutex<Vec<_>>>::default();
        let (ended, mine, count) = (Arc::clone(&over), Arc::clone(&turn), Arc::clone(&read));
        let seen = Arc::clone(&moments);
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                let began = Instant::now();
                let turn = mine.lock().unwrap_or_else(PoisonError::into_inner);
                for (own, root) in &roots {
                    for folder in fs::read_dir(root).into_iter().flatten().flatten() {
                        let name = folder.file_name();
                        if name != own.as_str() && name != ".mirror" {
                            read_all(root, &folder.path(), &count, &seen)?;
                        }
                    }
                }
                drop(turn);
                std::thread::sleep(began.elapsed() * REST);
            }
            Ok(())
        });
        Self { over, turn, read, moments, thread: Some(thread) }
    }

    /// Files that were no content as a whole, each with the hash of its bytes, since this was asked last.
    pub fn moments(&self) -> Vec<(PathBuf, String)> {
        std::mem::take(&mut self.moments.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Holds it while somebody else than the mirror writes.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it. Returns how many files it has read.
    ///
    /// # Panics
    /// When one was torn.
    pub fn end(mut self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("it is ended once");
        thread.join().expect("the reader does not panic").unwrap_or_else(|torn| panic!("{torn}"));
        self.read.load(Ordering::SeqCst)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_all(
    root: &Path,
    path: &Path,
    count: &AtomicU64,
    moments: &Mutex<Vec<(PathBuf, String)>>,
) -> Result<(), String> {
    // What went away meanwhile is not there.
    let Ok(kind) = fs::symlink_metadata(path) else { return Ok(()) };
    if kind.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        return entries.map(|entry| entry.path()).try_for_each(|path| read_all(root, &path, count, moments));
    }
    if let Ok(bytes) = fs::read(path) {
        if let Err(torn) = identify(path, &bytes) {
            let relative = path.strip_prefix(root).expect("a path below the root");
            if relative.to_str().is_none_or(is_shared) {
                return Err(torn);
            }
            let mut moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
            moments.push((path.into(), hash_of(&bytes)));
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
