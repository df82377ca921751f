//! One play: users, faults, and agreement in between.

use crate::{
    contents::{Contents, Id, identify},
    faults::{Faults, pause},
    model::Model,
    reader::Reader,
};
use e2e::{LONG, Mirror, Role, Tree};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// The nodes.
const NODES: [&str; 3] = ["a", "b", "c"];
/// Agreements in one play.
const ROUNDS: usize = 4;
/// What users do between two of them.
const ACTS: usize = 45;
/// Paths that all nodes write.
const SHARED: usize = 6;
/// Contents that are written piece by piece come at this pace.
const SLOW: Duration = Duration::from_millis(4);

/// Everything in play.
pub struct World {
    pub mirror: Mirror,
    pub rng: SmallRng,
    pub model: Model,
    pub reader: Reader,
    contents: Contents,
    /// What the log was seen to hold at any time.
    logged: BTreeSet<Id>,
    poisoned: bool,
    trace: Vec<String>,
}

impl World {
    /// Three nodes that run.
    pub fn new(seed: u64) -> Self {
        let mirror = Mirror::running(&NODES);
        let roots = mirror.nodes.iter().map(|node| (node.name.clone(), node.root.clone())).collect();
        Self {
            mirror,
            rng: SmallRng::seed_from_u64(seed),
            model: Model::default(),
            reader: Reader::start(roots),
            contents: Contents::default(),
            logged: BTreeSet::new(),
            poisoned: false,
            trace: Vec::new(),
        }
    }

    /// Plays it to the end. Returns what it came to, for people.
    pub fn play(mut self) -> String {
        let mut faults = Faults::default();
        for _ in 0..ROUNDS {
            for _ in 0..ACTS {
                self.act();
                faults.step(&mut self);
            }
            faults.end(&mut self);
            self.agree();
            faults.between(&mut self);
        }
        self.agree();
        self.nothing_changes_after_a_restart();
        let read = std::mem::replace(&mut self.reader, Reader::start(Vec::new())).end();
        format!("{} events, {} files read, faults: {}", self.mirror.log().len(), read, faults.told())
    }

    /// Remembers what happens, for whoever looks at a failure.
    pub fn note(&mut self, what: String) {
        self.trace.push(what);
    }

    // ---- users ------------------------------------------------------------------------------------------------------

    fn act(&mut self) {
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
        Some(identify(&file, &bytes).unwrap_or_else(|torn| panic!("{torn}")))
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
        if fs::metadata(&file).is_ok_and(|found| found.nlink() > 1) {
            // Writing in place would change the file's other names too.
            self.write_aside(&file, &bytes);
        } else {
            let mut out = fs::File::create(&file).unwrap();
            let pieces = if slow { 8 } else { 1 };
            e2e::paced(SLOW, bytes.chunks(bytes.len().div_ceil(pieces)), |piece| {
                out.write_all(piece).unwrap()
            });
        }
        self.model.write(&path, id, stood);
    }

    /// By a file beside the tree and one rename.
    fn write_aside(&mut self, file: &Path, bytes: &[u8]) {
        let aside = self.mirror.outside("aside").join("upload");
        fs::write(&aside, bytes).unwrap();
        fs::rename(&aside, file).unwrap();
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
            self.model.rename(&from, &to, stood);
        }
    }

    fn rename_folder(&mut self, node: usize) {
        let Some(file) = self.own_file(node) else { return };
        let from = file.rsplit_once('/').expect("a file in a folder").0.to_owned();
        let to = format!("{}/moved{}", NODES[node], self.rng.random_range(0..1_000_000));
        if from == NODES[node] {
            return;
        }
        let files = Tree::sizes(&self.at(node, &from));
        self.note(format!("{} renames the folder {from} to {to}", NODES[node]));
        if fs::rename(self.at(node, &from), self.at(node, &to)).is_ok() {
            for name in files.0.keys().map(|name| String::from_utf8_lossy(name).into_owned()) {
                self.model.rename(&format!("{from}/{name}"), &format!("{to}/{name}"), None);
            }
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
        self.write_shared_at(node, &path);
    }

    fn write_shared_at(&mut self, node: usize, path: &str) {
        let (id, bytes) = self.contents.fresh();
        let (file, stood) = (self.at(node, path), self.stood(node, path));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        self.note(format!("{} writes {path} = {id} over {stood:?}", NODES[node]));
        self.write_aside(&file, &bytes);
        self.model.write(path, id, stood);
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
        // The broker may be away just now; then there is none this time.
        self.poisoned |=
            self.mirror.nats().try_publish("mirror.media.shared.poison", b"{\"v\":1,\"type\":\"added\"}");
    }

    // ---- agreement --------------------------------------------------------------------------------------------------

    /// Everything that the log holds now was seen there.
    pub fn remember_log(&mut self) {
        let hashes: Vec<String> =
            self.mirror.log().iter().map(|line| line.event.sha256.to_string()).collect();
        self.logged.extend(hashes.iter().filter_map(|hash| self.contents.with_hash(hash)));
    }

    /// Waits until all nodes agree, and holds that against the model.
    fn agree(&mut self) {
        if std::mem::take(&mut self.poisoned) {
            let node = self.rng.random_range(0..NODES.len());
            self.write_shared_at(node, "shared/poison");
        }
        self.note("all agree".into());
        let agreed =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.mirror.wait_agreed(LONG * 2)));
        let tree = agreed.unwrap_or_else(|panic| {
            self.tell();
            std::panic::resume_unwind(panic)
        });
        let told = self.hold_against_model(&tree);
        if let Err(wrong) = told {
            self.tell();
            panic!("{wrong}");
        }
        for node in &self.mirror.nodes {
            let left: Vec<_> =
                fs::read_dir(node.path(".mirror/tmp")).unwrap().flatten().map(|e| e.path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    fn hold_against_model(&mut self, tree: &Tree) -> Result<(), String> {
        let mut found = BTreeMap::new();
        for (path, hash) in &tree.0 {
            let path = String::from_utf8_lossy(path).into_owned();
            let id =
                self.contents.with_hash(hash).ok_or_else(|| format!("{path} holds what nobody wrote"))?;
            found.insert(path, id);
        }
        self.remember_log();
        let elsewhere = self.model.agree(&found)?;
        let trashes: BTreeSet<Id> =
            self.mirror.nodes.iter().flat_map(|node| self.trashed(&node.root)).collect();
        match elsewhere.iter().find(|id| !self.logged.contains(id) && !trashes.contains(id)) {
            Some(lost) => Err(format!("content {lost} is lost")),
            None => Ok(()),
        }
    }

    fn trashed(&self, root: &Path) -> BTreeSet<Id> {
        let trash = Tree::of(&root.join(".mirror/trash"));
        trash.0.values().filter_map(|hash| self.contents.with_hash(hash)).collect()
    }

    /// Shows what happened, newest last.
    fn tell(&self) {
        let from = self.trace.len().saturating_sub(150);
        self.trace[from..].iter().for_each(|line| eprintln!("  {line}"));
    }

    fn nothing_changes_after_a_restart(&mut self) {
        let (events, tree) = (self.mirror.log().len(), Tree::of(&self.mirror.nodes[0].root));
        self.mirror.nodes.iter_mut().for_each(e2e::Node::stop_both);
        self.mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
        self.mirror.wait_ready();
        // What a scan of the start had to say would come before this.
        self.write_shared_at(0, "shared/last");
        let mut after = self.mirror.wait_agreed(LONG);
        after.0.remove(Path::new("shared/last").as_os_str().as_bytes());
        tree.equal(&after).unwrap();
        assert_eq!(self.mirror.log().len(), events + 1, "a restart is no event");
    }

    /// Stops the world for as long as it takes to look at the log and to change it.
    pub fn with_all_paused(&mut self, change: impl FnOnce(&mut Self)) {
        let mut paused = Vec::new();
        for node in &mut self.mirror.nodes {
            for role in Role::ALL {
                if node.has(role) {
                    paused.push(node.process(role).id());
                }
            }
        }
        paused.iter().for_each(|&id| pause(id, true));
        self.remember_log();
        change(self);
        paused.iter().for_each(|&id| pause(id, false));
    }
}
