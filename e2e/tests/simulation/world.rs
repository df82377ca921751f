//! The world of a trial: nodes with disks and indexes, one log, one blob store, users. Processes are futures that are polled by hand, so that
//! another process, a user or a fault may come in wherever one of them pauses, and dropping one is kill -9.

use crate::{
    disk::{Disk, File},
    process::{Process, Role},
};
use common::{
    event::{Event, Kind, Version},
    hash::ContentHash,
    index::Index,
    log::MemoryLog,
    path::MediaPath,
};
use futures_util::FutureExt;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::{
    cell::{Cell, RefCell, RefMut},
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    rc::Rc,
    task::{Context, Waker},
};

pub const NODES: usize = 2;
pub const PATHS: [&str; 2] = ["p", "q"];
/// No process had anything to say for so many steps: the mirror is quiet. Some ten rounds of each of the four.
const QUIET: u64 = 240;
/// More steps than there are between any two places of a process.
const FAR: u32 = 1000;
/// Enough for one process to answer the other.
const ROUNDS: u32 = 8;
/// Still not quiet after so many steps: something goes round in circles.
const NEVER_QUIET: u64 = 20_000;

/// An answer of the in-memory log or index, which never wait.
pub fn now<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("nothing in memory waits")
}

pub fn path(text: &str) -> MediaPath {
    text.parse().expect("a good path")
}

/// One node.
pub struct Node {
    pub disk: Disk,
    pub index: Index,
    /// Who holds the lock of the root's marker.
    pub marker: Option<Role>,
    /// Copies of disk and index, for what is restored later.
    pub copies: Vec<(Disk, Index)>,
    /// What the replicator asks the other nodes for.
    pub wanted: BTreeSet<ContentHash>,
}

impl Node {
    fn new() -> Self {
        Self {
            disk: Disk::default(),
            index: new_index(),
            marker: None,
            copies: Vec::new(),
            wanted: BTreeSet::new(),
        }
    }
}

fn new_index() -> Index {
    Index::in_memory().expect("an index in memory")
}

/// An event as it was published, and when it was offered.
#[derive(Clone)]
pub struct Published {
    pub path: MediaPath,
    pub kind: Kind,
    pub sha256: ContentHash,
    pub offered: i64,
}

/// What a user wrote.
pub struct Written {
    pub at: i64,
    pub path: MediaPath,
    pub content: ContentHash,
    pub node: usize,
}

/// What the checks need to know of what happened.
#[derive(Default)]
pub struct Past {
    /// The events of the log as it stands now.
    pub log: BTreeMap<Version, Published>,
    /// Every event there ever was.
    pub all: Vec<Published>,
    pub written: Vec<Written>,
    /// Content that a user replaced or removed: gone by his own will.
    pub dropped: BTreeSet<ContentHash>,
    /// Content that was on a disk when an older copy took its place.
    pub overwritten: BTreeSet<ContentHash>,
    /// What the log said of each path when a root was last restored.
    pub at_restore: BTreeMap<MediaPath, ContentHash>,
    /// The same bytes written again.
    pub rewritten: BTreeSet<(MediaPath, ContentHash)>,
}

pub struct World {
    pub nodes: Vec<Node>,
    pub log: MemoryLog,
    /// Counts connections: what was begun over another one may have met another log.
    pub epoch: u64,
    pub up: bool,
    pub blobs: BTreeSet<ContentHash>,
    pub past: Past,
    pub rng: SmallRng,
    /// The run of each process that lives.
    pub alive: BTreeMap<(usize, Role), u64>,
    pub failure: Option<String>,
    pub trace: Vec<String>,
    names: BTreeMap<ContentHash, String>,
    ticks: i64,
    steps: u64,
    last_note: u64,
}

impl World {
    pub fn tick(&mut self) -> i64 {
        self.ticks += 1;
        self.ticks
    }

    pub fn note(&mut self, text: String) {
        self.trace.push(text);
        self.last_note = self.steps;
    }

    /// The first failure counts.
    pub fn fail(&mut self, text: String) {
        self.note(format!("!! {text}"));
        self.failure.get_or_insert(text);
    }

    /// A content that was never there before.
    pub fn new_content(&mut self) -> ContentHash {
        let name = format!("c{}", self.names.len() + 1);
        let content = ContentHash::of(name.as_bytes());
        self.names.insert(content, name);
        content
    }

    pub fn name(&self, content: ContentHash) -> &str {
        self.names.get(&content).map_or("?", String::as_str)
    }

    /// Remembers a stored event, and checks that old content did not come back by itself.
    pub fn published(&mut self, version: Version, event: &Event, offered: i64) {
        let new = Published { path: event.path.clone(), kind: event.kind(), sha256: event.sha256, offered };
        let said = format!(
            "log #{version} {:?} {}={} replaces {}{}",
            new.kind,
            new.path,
            self.name(new.sha256),
            event.replaces,
            if event.was.is_some() { " was" } else { "" }
        );
        self.note(said);
        let of_path = || self.past.log.values().filter(|old| old.path == new.path);
        let last = of_path().next_back().map(|last| (last.kind, last.sha256));
        let before = of_path()
            .filter(|old| (old.kind, old.sha256) == (Kind::Added, new.sha256))
            .map(|old| old.offered)
            .max();
        let again = |since| {
            self.past.written.iter().any(|w| w.at > since && w.path == new.path && w.content == new.sha256)
        };
        if new.kind == Kind::Added
            && last != Some((Kind::Added, new.sha256))
            && before.is_some_and(|since| !again(since))
        {
            self.fail(format!("old content comes back: #{version} {}={}", new.path, self.name(new.sha256)));
        }
        self.past.log.insert(version, new.clone());
        self.past.all.push(new);
    }

    /// The log loses its last events.
    pub fn roll_back(&mut self, events: u64) {
        let last = self.past.log.keys().next_back().map_or(0, |last| last.get());
        let to = Version::new(last.saturating_sub(events));
        self.log.rollback(to);
        self.past.log.retain(|version, _| *version <= to);
        self.epoch += 1;
    }

    /// The log is deleted and made anew.
    pub fn wipe(&mut self) {
        self.log.wipe();
        self.past.log.clear();
        self.epoch += 1;
    }

    pub fn set_up(&mut self, up: bool) {
        self.up = up;
        self.log.set_away(!up);
        self.epoch += 1;
    }

    pub fn user_writes(&mut self, node: usize, at: &MediaPath, content: ContentHash) {
        let tick = self.tick();
        self.past.written.push(Written { at: tick, path: at.clone(), content, node });
    }
}

/// A process, and where it pauses.
type Running = (Pin<Box<dyn Future<Output = ()>>>, Rc<Cell<&'static str>>);

/// The world and its processes.
pub struct Sim {
    pub world: Rc<RefCell<World>>,
    procs: BTreeMap<(usize, Role), Running>,
    runs: u64,
}

impl Sim {
    pub fn new() -> Self {
        let mirror = "media".parse().expect("a good name");
        let world = World {
            nodes: (0..NODES).map(|_| Node::new()).collect(),
            log: MemoryLog::new(&mirror, None),
            epoch: 0,
            up: true,
            blobs: BTreeSet::new(),
            past: Past::default(),
            rng: SmallRng::seed_from_u64(0),
            alive: BTreeMap::new(),
            failure: None,
            trace: Vec::new(),
            names: BTreeMap::new(),
            ticks: 0,
            steps: 0,
            last_note: 0,
        };
        Self { world: Rc::new(RefCell::new(world)), procs: BTreeMap::new(), runs: 0 }
    }

    pub fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    /// Starts a process if it does not run.
    pub fn start(&mut self, node: usize, role: Role) {
        if self.procs.contains_key(&(node, role)) {
            return;
        }
        self.runs += 1;
        let process = Process::new(&self.world, node, role, self.runs);
        self.world().alive.insert((node, role), self.runs);
        let at = Rc::clone(&process.at);
        self.procs.insert((node, role), (Box::pin(process.run()), at));
    }

    /// Kill -9.
    pub fn kill(&mut self, node: usize, role: Role) {
        self.procs.remove(&(node, role));
        let mut world = self.world();
        world.alive.remove(&(node, role));
        let marker = &mut world.nodes[node].marker;
        *marker = marker.filter(|holder| *holder != role);
    }

    pub fn kill_node(&mut self, node: usize) {
        Role::ALL.into_iter().for_each(|role| self.kill(node, role));
    }

    /// One step of a process, up to its next pause. Answers where it pauses.
    pub fn step(&mut self, node: usize, role: Role) -> &'static str {
        self.world().steps += 1;
        let Some((process, at)) = self.procs.get_mut(&(node, role)) else { return "not running" };
        let ended = process.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(!ended, "a process runs for ever");
        at.get()
    }

    /// Starts a process if it does not run, and lets it run until it pauses there.
    pub fn run_to(&mut self, node: usize, role: Role, place: &str) {
        self.start(node, role);
        for _ in 0..FAR {
            if self.step(node, role) == place {
                return;
            }
        }
        panic!("n{node}'s {role:?} never comes to \"{place}\":\n{}", self.world().trace.join("\n"));
    }

    /// Both processes of a node run until each has nothing more to do.
    pub fn run_node(&mut self, node: usize) {
        for _ in 0..ROUNDS {
            self.run_to(node, Role::Watcher, "scanned");
            (0..ROUNDS).for_each(|_| self.run_to(node, Role::Replicator, "round done"));
        }
    }

    /// One step of a random process; one that died may be started instead.
    pub fn random_step(&mut self, rng: &mut SmallRng, weights: &[f64; NODES * 2], calm: bool) {
        let all: Vec<(usize, usize, Role)> = (0..NODES)
            .flat_map(|node| {
                Role::ALL.into_iter().enumerate().map(move |(n, role)| (node * 2 + n, node, role))
            })
            .collect();
        let Ok(&(_, node, role)) = all.choose_weighted(rng, |(n, ..)| weights[*n]) else { return };
        if self.procs.contains_key(&(node, role)) {
            self.step(node, role);
        } else if calm || rng.random_bool(0.15) {
            self.start(node, role);
        }
    }

    /// The faults are over: all processes run until nothing happens any more.
    pub fn settle(&mut self) {
        self.world().set_up(true);
        self.world().note("== calm".into());
        let mut rng = SmallRng::seed_from_u64(7);
        self.world().rng = SmallRng::seed_from_u64(7);
        let end = self.world().steps + NEVER_QUIET;
        loop {
            let (steps, silent) = {
                let world = self.world();
                (world.steps, world.steps - world.last_note)
            };
            if silent > QUIET {
                return;
            }
            if steps > end {
                return self.world().fail("it does not become quiet".into());
            }
            self.random_step(&mut rng, &[1.0; NODES * 2], true);
        }
    }

    /// A node's index is lost, or an older copy takes its place.
    pub fn restore_index(&mut self, node: usize, copy: bool) {
        self.kill_node(node);
        let mut world = self.world();
        let node = &mut world.nodes[node];
        match node.copies.last() {
            Some((_, index)) if copy => node.index = index.copy_to_memory().expect("a copy"),
            None if copy => {}
            _ => node.index = new_index(),
        }
    }

    /// A node's root is restored from an older copy. What was written since is overwritten by whoever restores.
    pub fn restore_root(&mut self, node: usize) {
        self.kill_node(node);
        let mut world = self.world();
        let Some(disk) = world.nodes[node].copies.last().map(|(disk, _)| disk.clone()) else { return };
        let mut said = BTreeMap::new();
        for event in world.past.log.values() {
            match event.kind {
                Kind::Added => said.insert(event.path.clone(), event.sha256),
                Kind::Removed => said.remove(&event.path),
            };
        }
        world.past.at_restore = said;
        let before: Vec<ContentHash> = world.nodes[node].disk.contents().collect();
        world.past.overwritten.extend(before);
        world.nodes[node].disk = disk;
    }

    pub fn copy_node(&mut self, node: usize) {
        let mut world = self.world();
        let node = &mut world.nodes[node];
        node.copies.push((node.disk.clone(), node.index.copy_to_memory().expect("a copy")));
    }

    /// A user writes new content under a new inode.
    pub fn write(&mut self, node: usize, at: &str) -> ContentHash {
        let content = self.world().new_content();
        self.write_content(node, at, content);
        content
    }

    pub fn write_content(&mut self, node: usize, at: &str, content: ContentHash) {
        let at = path(at);
        let mut world = self.world();
        world.user_writes(node, &at, content);
        let tick = world.tick();
        let said = format!("   {at} = {}", world.name(content));
        world.note(said);
        if let Some(old) = world.nodes[node].disk.tree.insert(at, File::new(content, tick)) {
            world.past.dropped.insert(old.content);
        }
        world.past.dropped.remove(&content);
    }
}
