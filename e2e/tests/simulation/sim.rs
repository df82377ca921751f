//! The processes of a trial: futures that are polled by hand, so that another process, a user or a fault may come in wherever one of them pauses. Dropping
//! one is kill -9.

use crate::{
    disk::File,
    process::{Process, Role},
    world::{NODES, World, new_index, path},
};
use common::{event::Kind, hash::ContentHash};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::{
    cell::{Cell, RefCell, RefMut},
    collections::BTreeMap,
    pin::Pin,
    rc::Rc,
    task::{Context, Waker},
};

/// No process had anything to say for so many steps: the mirror is quiet. Some ten rounds of each of the four.
const QUIET: u64 = 240;
/// More steps than there are between any two places of a process.
const FAR: u32 = 1000;
/// Enough for one process to answer the other.
const ROUNDS: u32 = 8;
/// Still not quiet after so many steps: something goes round in circles.
const NEVER_QUIET: u64 = 20_000;

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
        let world = World::new();
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
        for node in 0..NODES {
            self.answer_held(node, true);
        }
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
