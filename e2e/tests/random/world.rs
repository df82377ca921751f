//! One play: users, faults, and agreement in between.

use crate::{
    collector::Collector,
    contents::{Contents, Id},
    faults::{Faults, pause},
    keep_at,
    model::Model,
    reader::Reader,
};
use e2e::{LONG, Mirror, Proxy, Role, SOON, SmallDisk, Tree, wait_for, wait_until};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The nodes.
pub const NODES: [&str; 3] = ["a", "b", "c"];
/// The one that has a small disk, where one can be mounted.
pub const SMALL: usize = 2;
/// That disk: what one play writes, with its versions in the trash and the index, several times over.
const DISK: (u64, u64) = (128 << 20, 100_000);
/// With one seed in so many the blobs are kept in a folder that the nodes share.
const SHARED: u64 = 3;
/// Agreements in one play.
const ROUNDS: usize = 4;
/// What users do between two of them.
const ACTS: usize = 45;
/// Users rest after one act in so many, at most so many milliseconds: processes get to work on a part of what is done.
const REST: (u32, u64) = (3, 120);
/// Lines of the trace that a failure shows.
const SHOWN: usize = 150;

/// Everything in play.
pub struct World {
    pub mirror: Mirror,
    /// The folder that the nodes keep their blobs in, where the broker does not keep them.
    pub blobs: Option<PathBuf>,
    pub rng: SmallRng,
    pub model: Model,
    pub reader: Reader,
    collector: Option<Collector>,
    /// Between each node and the broker.
    pub links: Vec<Proxy>,
    pub contents: Contents,
    /// A message that is no event was sent since the last agreement.
    pub poisoned: bool,
    /// Folders that were renamed to this since the last agreement.
    pub moved: Vec<String>,
    /// What the log was seen to hold at any time.
    logged: BTreeSet<String>,
    trace: Vec<String>,
    began: Instant,
    seed: u64,
    /// What fills the small disk, or did.
    full: Option<PathBuf>,
    /// Dropped after the processes that stand on it.
    disk: Option<SmallDisk>,
    _disk_at: TempDir,
}

impl World {
    /// Three nodes that run.
    pub fn new(seed: u64) -> Self {
        let mut mirror = Mirror::idle(&NODES);
        let disk_at = tempfile::Builder::new().prefix("mirror-disk-").tempdir().unwrap();
        let disk = SmallDisk::mounted("the full disk of the random test", disk_at.path(), DISK.0, DISK.1);
        if disk.is_some() {
            mirror.nodes[SMALL].home = disk_at.path().into();
            mirror.nodes[SMALL].root = disk_at.path().join("media");
            fs::create_dir(&mirror.nodes[SMALL].root).unwrap();
        }
        let blobs = seed.is_multiple_of(SHARED).then(|| mirror.outside("shared blobs"));
        if let Some(folder) = &blobs {
            let flags = [
                "--blobs".to_owned(),
                format!("file://{}", folder.display().to_string().replace(' ', "%20")),
            ];
            mirror.nodes.iter_mut().for_each(|node| node.flags.extend(flags.clone()));
        }
        let links: Vec<Proxy> = NODES.iter().map(|_| Proxy::to(mirror.broker.port(), seed)).collect();
        for (node, link) in mirror.nodes.iter_mut().zip(&links) {
            node.find_broker_at(link.url());
            node.start_both();
        }
        mirror.wait_ready();
        let url = mirror.broker.url();
        let roots = mirror.nodes.iter().map(|node| (node.name.clone(), node.root.clone())).collect();
        Self {
            mirror,
            blobs,
            rng: SmallRng::seed_from_u64(seed),
            model: Model::default(),
            reader: Reader::start(roots),
            collector: Some(Collector::start(url, !seed.is_multiple_of(2))),
            links,
            contents: Contents::default(),
            moved: Vec::new(),
            logged: BTreeSet::new(),
            poisoned: false,
            trace: Vec::new(),
            began: Instant::now(),
            seed,
            full: None,
            disk,
            _disk_at: disk_at,
        }
    }

    /// Plays it to the end. Returns what it came to, for people.
    pub fn play(mut self) -> String {
        let mut faults = Faults::default();
        for _ in 0..ROUNDS {
            for _ in 0..ACTS {
                self.act();
                faults.step(&mut self);
                self.rest();
            }
            faults.end(&mut self);
            self.agree();
            faults.between(&mut self);
        }
        self.agree();
        self.nothing_changes_after_a_restart();
        let read = std::mem::replace(&mut self.reader, Reader::start(Vec::new())).end();
        let collected = self.collector.as_ref().map_or(0, Collector::gone);
        self.collector.take().into_iter().for_each(Collector::end);
        let events = self.mirror.log().len();
        format!("{events} events, {read} files read, {collected} blobs collected, faults: {}", faults.told())
    }

    /// Remembers what happens, for whoever looks at a failure.
    pub fn note(&mut self, what: String) {
        self.trace.push(format!("{:7.3} {what}", self.began.elapsed().as_secs_f64()));
    }

    fn rest(&mut self) {
        if self.rng.random_ratio(1, REST.0) {
            thread::sleep(Duration::from_millis(self.rng.random_range(1..=REST.1)));
        }
    }

    /// Fills the small disk to the last byte. `None`: there is no small disk.
    pub fn fill_disk(&mut self) -> Option<PathBuf> {
        self.full = self.disk.as_ref().map(|disk| disk.fill("ballast"));
        self.full.clone()
    }

    /// What fills the small disk.
    pub fn full_disk(&self) -> Option<&Path> {
        self.full.as_deref().filter(|ballast| ballast.exists())
    }

    /// A full disk is waited out: no process ends because of it, nor does one refuse to start.
    pub fn all_run(&mut self, node: usize) {
        for role in Role::ALL {
            let of = &mut self.mirror.nodes[node];
            let runs = !of.has(role) || of.process(role).is_running();
            assert!(runs, "the {} of {} ended while its disk was full", role.name(), NODES[node]);
        }
    }

    // ---- agreement --------------------------------------------------------------------------------------------------

    /// Everything that the log holds now was seen there.
    pub fn remember_log(&mut self) {
        let hashes = self.mirror.log().into_iter().map(|line| line.event.sha256.to_string());
        self.logged.extend(hashes);
    }

    fn was_logged(&self, id: Id) -> bool {
        self.logged.iter().any(|hash| self.contents.with_hash(hash) == Some(id))
    }

    /// Waits until all nodes agree, and holds that against the model.
    fn agree(&mut self) {
        if std::mem::take(&mut self.poisoned) {
            // What was sent before this question is in the log before its answer.
            wait_until(SOON, "the broker's answer", || self.mirror.nats().log_state().is_some());
            let node = self.rng.random_range(0..NODES.len());
            self.write_whole_at(node, "shared/poison");
        }
        self.note("all agree".into());
        let mut tree = self.mirror.wait_recovered(LONG * 2);
        self.remember_log();
        if self.write_moments_again(&tree) {
            tree = self.mirror.wait_recovered(LONG * 2);
        }
        self.hold_against_model(&tree).unwrap_or_else(|wrong| panic!("{wrong}"));
        for node in &self.mirror.nodes {
            wait_for(SOON, "no temp files", || {
                let left: Vec<_> =
                    fs::read_dir(node.path(".mirror/tmp")).unwrap().flatten().map(|e| e.path()).collect();
                if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
            });
        }
    }

    /// Where the log forgot the last events of a path, an earlier one counts, and with it what a file was for a moment that was written in place. Its user writes it again.
    fn write_moments_again(&mut self, tree: &Tree) -> bool {
        let is_moment = |hash: &String| self.contents.with_hash(hash).is_none() && self.logged.contains(hash);
        let moments = tree.0.iter().filter(|(_, hash)| self.model.has_forgotten() && is_moment(hash));
        let paths: Vec<String> =
            moments.map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
        for path in &paths {
            let owner = NODES.iter().position(|name| path.starts_with(&format!("{name}/")));
            self.write_whole_at(owner.expect("only a node's own folder is written in place"), path);
        }
        !paths.is_empty()
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
        if let Some((path, _)) = self.reader.moments().iter().find(|(_, hash)| !self.logged.contains(hash)) {
            return Err(format!("{} held what is no content, and the log never had it", path.display()));
        }
        self.take_what_moved_along(&found);
        let elsewhere = self.model.agree(&found)?;
        let trashes: BTreeSet<Id> =
            self.mirror.nodes.iter().flat_map(|node| self.trashed(&node.root)).collect();
        match elsewhere.iter().find(|id| !self.was_logged(**id) && !trashes.contains(id)) {
            Some(lost) => Err(format!("content {lost} is lost")),
            None => Ok(()),
        }
    }

    /// Placing goes through an open folder. One that a user renames meanwhile takes along what is placed in it after the user's look at what it holds.
    fn take_what_moved_along(&mut self, found: &BTreeMap<String, Id>) {
        let moved = std::mem::take(&mut self.moved);
        let is_in =
            |path: &str, folder: &String| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        for (path, &id) in found {
            let in_moved = moved.iter().any(|folder| is_in(path, folder));
            if in_moved && !self.model.knows(path) && self.was_logged(id) {
                self.note(format!("{path} = {id} was placed while its folder was renamed"));
                self.model.write(path, id, None);
            }
        }
    }

    fn trashed(&self, root: &Path) -> BTreeSet<Id> {
        let trash = Tree::of(&root.join(".mirror/trash"));
        trash.0.values().filter_map(|hash| self.contents.with_hash(hash)).collect()
    }

    fn nothing_changes_after_a_restart(&mut self) {
        let (events, tree) = (self.mirror.log().len(), Tree::of(&self.mirror.nodes[0].root));
        self.mirror.nodes.iter_mut().for_each(e2e::Node::stop_both);
        self.mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
        self.mirror.wait_ready();
        // What a scan of the start had to say would come before this.
        self.write_whole_at(0, "shared/last");
        let mut after = self.mirror.wait_recovered(LONG);
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

impl Drop for World {
    /// After a failure: shows what happened, newest last, and keeps what there is to look at.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let from = self.trace.len().saturating_sub(SHOWN);
        self.trace[from..].iter().for_each(|line| eprintln!("  {line}"));
        let Some(keep) = keep_at(self.seed) else { return };
        fs::create_dir_all(&keep).unwrap();
        fs::write(keep.join("trace"), self.trace.join("\n")).unwrap();
        // The processes still run, so that a copy may miss a file; all of this is only for people.
        let folders = [self.mirror.dir(), &*self.mirror.nodes[SMALL].home];
        let _ = Command::new("cp").arg("-a").args(folders).arg(keep).stderr(Stdio::null()).status();
    }
}
