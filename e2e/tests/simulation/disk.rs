//! A node's disk as a map: the tree, `.mirror/tmp` and `.mirror/trash`. What takes a system call on a real one is one step here.

use common::{hash::ContentHash, index::Stat, path::MediaPath};
use std::collections::BTreeMap;

/// A file: an inode with its content. All contents have the same size, so that only hash and times tell them apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    pub content: ContentHash,
    pub stat: Stat,
}

/// The size of every file.
pub const SIZE: u64 = 1;

impl File {
    /// Made at this tick, which is its inode number too.
    pub fn new(content: ContentHash, tick: i64) -> Self {
        let stat = Stat { ino: tick.cast_unsigned(), size: SIZE, mtime: tick, ctime: tick };
        Self { content, stat }
    }

    /// Written in place.
    pub fn write(&mut self, content: ContentHash, tick: i64) {
        self.content = content;
        (self.stat.mtime, self.stat.ctime) = (tick, tick);
    }
}

/// What lies below the root of one node.
#[derive(Clone, Default)]
pub struct Disk {
    pub tree: BTreeMap<MediaPath, File>,
    /// By temp name: `<sha256>.<tick>`.
    pub temp: BTreeMap<String, File>,
    /// By the name under which it was moved there.
    pub trash: BTreeMap<String, File>,
    /// The number in the root's marker.
    pub number: u64,
}

impl Disk {
    pub fn stat(&self, path: &MediaPath) -> Option<Stat> {
        self.tree.get(path).map(|file| file.stat)
    }

    /// Exchanges a temp file with what stands at the path; a rename changes the ctime of what it moves. False: nothing stands there.
    pub fn exchange(&mut self, temp: &str, path: &MediaPath, tick: i64) -> bool {
        if !self.tree.contains_key(path) {
            return false;
        }
        let (Some(new), Some(old)) = (self.temp.remove(temp), self.tree.remove(path)) else { return false };
        self.put(path, new, tick);
        self.temp.insert(temp.into(), File { stat: Stat { ctime: tick, ..old.stat }, ..old });
        true
    }

    /// Renames a temp file to a free name. False: it is taken.
    pub fn place_new(&mut self, temp: &str, path: &MediaPath, tick: i64) -> bool {
        if self.tree.contains_key(path) {
            return false;
        }
        if let Some(new) = self.temp.remove(temp) {
            self.put(path, new, tick);
        }
        true
    }

    /// Renames what stands at the path to a temp name. False: nothing stands there.
    pub fn take_out(&mut self, temp: &str, path: &MediaPath, tick: i64) -> bool {
        let Some(old) = self.tree.remove(path) else { return false };
        self.temp.insert(temp.into(), File { stat: Stat { ctime: tick, ..old.stat }, ..old });
        true
    }

    /// A rename to this path: the ctime is new.
    pub fn put(&mut self, path: &MediaPath, file: File, tick: i64) {
        self.tree.insert(path.clone(), File { stat: Stat { ctime: tick, ..file.stat }, ..file });
    }

    /// Every content below the root.
    pub fn contents(&self) -> impl Iterator<Item = ContentHash> + '_ {
        [&self.temp, &self.trash]
            .into_iter()
            .flat_map(BTreeMap::values)
            .chain(self.tree.values())
            .map(|file| file.content)
    }
}
