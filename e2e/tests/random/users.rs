//! What users do on the nodes, at random: each act is done to the disk of one node, and told to the model.

use crate::{
    contents::{Id, identify},
    world::{NODES, SMALL, World},
};
use e2e::Tree;
use rand::{Rng, seq::IndexedRandom};
use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Paths that all nodes write.
const SHARED: usize = 6;
/// Contents that are written piece by piece come at this pace.
const SLOW: Duration = Duration::from_millis(4);

impl World {
    /// One act of one of them.
    pub fn act(&mut self) {
        let node = self.rng.random_range(0..NODES.len());
        match self.rng.random_range(0..100) {
            0..30 => self.write(node, false),
            30..36 => self.write(node, true),
            36..46 => self.rename(node),
            46..50 => self.rename_folder(node),
            50..55 => self.link(node),
            55..65 => self.remove(node),
            65..67 => self.remove_folder(node),
            67..92 => self.write_shared(node),
            92..98 => self.remove_shared(node),
            _ => self.poison(),
        }
    }

    /// A path in the node's own folder: an old one or a new one.
    fn own_path(&mut self, node: usize) -> String {
        let (folder, sub, file) =
            (self.rng.random_range(0..4), self.rng.random_range(0..3), self.rng.random_range(0..5));
        match sub {
            0 => format!("{}/{folder}/{file}", NODES[node]),
            sub => format!("{}/{folder}/sub{sub}/{file}", NODES[node]),
        }
    }

    /// A file that stands in the node's own folder now.
    fn own_file(&mut self, node: usize) -> Option<String> {
        let own = Tree::sizes(&self.mirror.nodes[node].path(NODES[node]));
        let names: Vec<_> = own.0.keys().collect();
        let name = names.choose(&mut self.rng)?;
        Some(format!("{}/{}", NODES[node], String::from_utf8_lossy(name)))
    }

    fn at(&self, node: usize, path: &str) -> PathBuf {
        self.mirror.nodes[node].path(path)
    }

    /// The content that stands at a path of a node.
    fn stood(&self, node: usize, path: &str) -> Option<Id> {
        let file = self.at(node, path);
        let bytes = fs::read(&file).ok()?;
        // One that was written in place may stand here as it was for a moment, when the log forgot what came after it.
        identify(&file, &bytes).ok()
    }

    fn write(&mut self, node: usize, slow: bool) {
        let path = if self.rng.random_bool(0.5) { self.own_file(node) } else { None };
        let path = path.unwrap_or_else(|| self.own_path(node));
        let (id, bytes) = self.contents.fresh();
        let (file, stood) = (self.at(node, &path), self.stood(node, &path));
        self.note(format!("{} writes {path} = {id}{}", NODES[node], if slow { " slowly" } else { "" }));
        if fs::create_dir_all(file.parent().unwrap()).is_err() || file.is_dir() {
            return; // A file stands where a folder should be, or the other way round.
        }
        if fs::metadata(&file).is_ok_and(|found| found.nlink() > 1) || self.full_disk().is_some() {
            // Writing in place would change the file's other names too, or leave a part of it where there is no room.
            if !self.write_aside(node, &file, &bytes) {
                return;
            }
        } else {
            let mut out = fs::File::create(&file).unwrap();
            let pieces = if slow { 8 } else { 1 };
            e2e::paced(SLOW, bytes.chunks(bytes.len().div_ceil(pieces)), |piece| {
                out.write_all(piece).unwrap()
            });
        }
        self.model.write(&path, id, stood);
    }

    /// By a file beside the tree and one rename. False: there was no room.
    fn write_aside(&mut self, node: usize, file: &Path, bytes: &[u8]) -> bool {
        let aside = self.mirror.nodes[node].home.join("upload");
        let written = fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, file));
        if let Err(error) = written {
            let _ = fs::remove_file(&aside);
            assert!(node == SMALL && self.full_disk().is_some(), "{} {error}", file.display());
            self.note(format!("there is no room on {}", NODES[node]));
            return false;
        }
        true
    }

    fn rename(&mut self, node: usize) {
        let (Some(from), to) = (self.own_file(node), self.own_path(node)) else { return };
        let (source, target) = (self.at(node, &from), self.at(node, &to));
        let one_file = |a: &Path, b: &Path| match (fs::metadata(a), fs::metadata(b)) {
            (Ok(a), Ok(b)) => a.ino() == b.ino(),
            _ => false,
        };
        if from == to || one_file(&source, &target) || fs::create_dir_all(target.parent().unwrap()).is_err() {
            return;
        }
        let stood = self.stood(node, &to);
        self.note(format!("{} renames {from} to {to}", NODES[node]));
        if fs::rename(source, target).is_ok() {
            self.renamed(node, &from, &to, stood);
        }
    }

    /// What was renamed says itself which content it is: in a root that was restored it may be one that the model knows nothing of any more.
    fn renamed(&mut self, node: usize, from: &str, to: &str, stood: Option<Id>) {
        if let Some(id) = self.stood(node, to) {
            self.model.rename(from, to, id, stood);
        }
    }

    fn rename_folder(&mut self, node: usize) {
        let Some(file) = self.own_file(node) else { return };
        let from = file.rsplit_once('/').expect("a file in a folder").0.to_owned();
        let to = format!("{}/moved{}", NODES[node], self.rng.random_range(0..1_000_000));
        if from == NODES[node] {
            return;
        }
        self.note(format!("{} renames the folder {from} to {to}", NODES[node]));
        if fs::rename(self.at(node, &from), self.at(node, &to)).is_ok() {
            for name in Tree::sizes(&self.at(node, &to)).0.keys().map(|name| String::from_utf8_lossy(name)) {
                self.renamed(node, &format!("{from}/{name}"), &format!("{to}/{name}"), None);
            }
            self.moved.push(to);
        }
    }

    fn link(&mut self, node: usize) {
        let (Some(from), to) = (self.own_file(node), self.own_path(node)) else { return };
        let (target, stood) = (self.at(node, &to), self.stood(node, &from));
        let made = fs::create_dir_all(target.parent().unwrap()).is_ok();
        if made && fs::hard_link(self.at(node, &from), target).is_ok() {
            self.note(format!("{} links {from} as {to}", NODES[node]));
            self.model.link(&to, stood.expect("it was linked"));
        }
    }

    fn remove(&mut self, node: usize) {
        let Some(path) = self.own_file(node) else { return };
        let stood = self.stood(node, &path);
        self.note(format!("{} removes {path}", NODES[node]));
        if fs::remove_file(self.at(node, &path)).is_ok() {
            self.model.remove(&path, stood);
        }
    }

    fn remove_folder(&mut self, node: usize) {
        let Some(file) = self.own_file(node) else { return };
        let folder = file.rsplit_once('/').expect("a file in a folder").0.to_owned();
        if folder == NODES[node] {
            return;
        }
        self.note(format!("{} removes the folder {folder}", NODES[node]));
        for name in Tree::sizes(&self.at(node, &folder)).0.keys() {
            let path = format!("{folder}/{}", String::from_utf8_lossy(name));
            let stood = self.stood(node, &path);
            if fs::remove_file(self.at(node, &path)).is_ok() {
                self.model.remove(&path, stood);
            }
        }
        let _ = fs::remove_dir_all(self.at(node, &folder));
    }

    fn write_shared(&mut self, node: usize) {
        let path = format!("shared/{}", self.rng.random_range(0..SHARED));
        self.write_whole_at(node, &path);
    }

    /// Writes a path by a file beside the tree: nobody ever sees a part of it.
    pub fn write_whole_at(&mut self, node: usize, path: &str) {
        let (id, bytes) = self.contents.fresh();
        let (file, stood) = (self.at(node, path), self.stood(node, path));
        self.note(format!("{} writes {path} = {id} over {stood:?}", NODES[node]));
        if fs::create_dir_all(file.parent().unwrap()).is_ok() && self.write_aside(node, &file, &bytes) {
            self.model.write(path, id, stood);
        }
    }

    fn remove_shared(&mut self, node: usize) {
        let path = format!("shared/{}", self.rng.random_range(0..SHARED));
        let stood = self.stood(node, &path);
        if fs::remove_file(self.at(node, &path)).is_ok() {
            self.note(format!("{} removes {path} = {stood:?}", NODES[node]));
            self.model.remove(&path, stood);
        }
    }

    fn poison(&mut self) {
        self.note("poison".into());
        // The broker may be away just now, and take it when it is back.
        self.poisoned = true;
        self.mirror.nats().send("mirror.media.shared.poison", b"{\"v\":1,\"type\":\"added\"}");
    }
}
