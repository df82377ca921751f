//! A reader that never rests: whatever it finds at a final path must be one whole content that somebody put there.

use crate::tree::Tree;
use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Between two looks at the whole tree.
const REST: Duration = Duration::from_millis(5);

type Known = Arc<Mutex<HashSet<(Vec<u8>, String)>>>;

/// Reads every file of a root again and again until it is dropped.
pub struct Reader {
    known: Known,
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Reader {
    /// Of a root in which only our processes write.
    pub fn of(root: &Path) -> Self {
        let (known, stop, seen) =
            (Known::default(), Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (root, contents, ended, count) =
            (root.to_owned(), Arc::clone(&known), Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::spawn(move || {
            let mut wrong = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let found = Tree::of(&root);
                let known = contents.lock().expect("no panic under the lock");
                for (path, hash) in found.0 {
                    count.fetch_add(1, Ordering::SeqCst);
                    if !known.contains(&(path.clone(), hash.clone())) {
                        wrong.push(format!("{} {hash}", path.escape_ascii()));
                    }
                }
                drop(known);
                thread::sleep(REST);
            }
            wrong
        });
        Self { known, stop, seen, thread: Some(thread) }
    }

    /// From now on this content may stand at this path.
    pub fn may_see(&self, path: &str, sha256: &str) {
        let mut known = self.known.lock().expect("no panic under the lock");
        known.insert((path.as_bytes().to_vec(), sha256.to_owned()));
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it saw anything partial or foreign, or nothing at all.
    pub fn finish(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let wrong =
            self.thread.take().expect("a running reader").join().expect("a reader that did not panic");
        assert!(wrong.is_empty(), "stood at a final path: {wrong:?}");
        assert!(self.seen.load(Ordering::SeqCst) > 0, "the reader saw no file");
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
