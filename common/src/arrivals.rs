//! Large files that are being fetched, for those who want to read them meanwhile: each reads from the temp file, at its own pace, what is there already. The
//! fetch knows nothing of them and waits for nobody, and one fetch serves all.

use crate::{hash::ContentHash, path::MediaPath, time::Timestamp};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    sync::Arc,
};
use tokio::sync::watch;

/// How far a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrived {
    /// So many bytes at its beginning are in the file. They are not checked.
    Bytes(u64),
    /// All of it, and it was seen to hash to its name. The file is durable and has the attributes it is to have.
    Whole,
    /// It was given up, or had other bytes than its name says.
    Failed,
}

/// A file on its way, for who reads it.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The path that it is fetched for.
    pub path: MediaPath,
    /// The temp file; it stays the same when it is renamed to its place.
    pub file: Arc<File>,
    /// Its length once it is whole.
    pub size: u64,
    /// Its time of change from then on, unless somebody writes to it.
    pub mtime: Timestamp,
    /// How far it is.
    pub arrived: watch::Receiver<Arrived>,
}

/// All files on their way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(watch::Sender<All>);

#[derive(Debug, Default)]
struct All {
    arriving: HashMap<ContentHash, Arrival>,
    /// Paths for which it is decided that they get the content.
    decided: BTreeMap<MediaPath, usize>,
}

/// A path is to get the content that is being fetched, until this is dropped.
pub struct Decided {
    all: Arrivals,
    path: MediaPath,
}

/// The fetching side of a file; dropped before the file is whole, it has failed.
pub struct Arriving {
    all: Arrivals,
    content: ContentHash,
    arrived: watch::Sender<Arrived>,
}

impl Arrivals {
    /// Waits until this content is on its way, and it is decided that the path gets it.
    pub async fn of(&self, path: &MediaPath, content: ContentHash) -> Arrival {
        let mut all = self.0.subscribe();
        let there = |all: &All| all.arriving.contains_key(&content) && all.decided.contains_key(path);
        let there = all.wait_for(there).await.map(|all| all.arriving[&content].clone());
        there.expect("we hold the sender")
    }

    /// All that are on their way now.
    pub fn all(&self) -> Vec<Arrival> {
        self.0.borrow().arriving.values().cloned().collect()
    }

    /// From now on the path is to get what is being fetched for it.
    pub fn decide(&self, path: &MediaPath) -> Decided {
        self.0.send_modify(|all| *all.decided.entry(path.clone()).or_default() += 1);
        Decided { all: self.clone(), path: path.clone() }
    }

    /// The first `length` bytes are in the file.
    pub fn begin(
        &self,
        (path, content): (&MediaPath, ContentHash),
        (size, mtime): (u64, Timestamp),
        file: &File,
        length: u64,
    ) -> io::Result<Arriving> {
        let (sender, arrived) = watch::channel(Arrived::Bytes(length));
        let arrival = Arrival { path: path.clone(), file: Arc::new(file.try_clone()?), size, mtime, arrived };
        self.0.send_modify(|all| _ = all.arriving.insert(content, arrival));
        Ok(Arriving { all: self.clone(), content, arrived: sender })
    }
}

impl Arriving {
    /// More of it is in the file.
    pub fn got(&self, length: u64) {
        self.arrived.send_replace(Arrived::Bytes(length));
    }

    /// All of it is, checked.
    pub fn whole(self) {
        self.arrived.send_replace(Arrived::Whole);
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.all.0.send_modify(|all| _ = all.arriving.remove(&self.content));
        self.arrived.send_if_modified(|arrived| {
            let failed = *arrived != Arrived::Whole;
            if failed {
                *arrived = Arrived::Failed;
            }
            failed
        });
    }
}

impl Drop for Decided {
    fn drop(&mut self) {
        self.all.0.send_modify(|all| {
            let left = all.decided.remove(&self.path).unwrap_or_default().saturating_sub(1);
            if left > 0 {
                all.decided.insert(self.path.clone(), left);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn who_waits_for_a_file_sees_how_far_it_is_and_how_it_ends() {
        let (arrivals, content) = (Arrivals::default(), ContentHash::of_nothing());
        let path: MediaPath = "a".parse().expect("a path");
        let file = tempfile::tempfile().expect("a file");
        let whole = (9, Timestamp::from_nanos(0));
        let now = || arrivals.of(&path, content).now_or_never();
        let first = arrivals.begin((&path, content), whole, &file, 0).expect("begun");
        assert!(now().is_none(), "it is on its way for another path");
        let decided = arrivals.decide(&path);
        let arrival = now().expect("it is on its way");
        first.got(5);
        assert_eq!(arrivals.all().len(), 1);
        assert_eq!((arrival.size, *arrival.arrived.borrow()), (9, Arrived::Bytes(5)));
        drop(first);
        assert_eq!(*arrival.arrived.borrow(), Arrived::Failed);
        assert!(now().is_none(), "it is on its way no more");
        let second = arrivals.begin((&path, content), whole, &file, 5).expect("begun");
        let arrival = now().expect("it is on its way again");
        second.whole();
        assert_eq!(*arrival.arrived.borrow(), Arrived::Whole);
        drop(decided);
        let _third = arrivals.begin((&path, content), whole, &file, 0).expect("begun");
        assert!(now().is_none(), "the path does not get it");
    }
}
