//! What goes wrong, while users go on and between agreements. Every fault is undone before the nodes have to agree.

use crate::world::{NODES, SMALL, World};
use e2e::{Link, Role, copy_folder, put_back};
use rand::{Rng, seq::IndexedRandom};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A fault begins with one act in this many.
const RATE: f64 = 1.0 / 9.0;

/// The longest fault, in acts.
const LONGEST: u32 = 12;
/// Events that a trim leaves at most.
const KEPT: i64 = 40;

/// What has to be undone.
enum Open {
    Killed(usize, Role),
    Stopped(u32),
    BrokerDown,
    BrokerStopped,
    /// A node's connections stay, and nothing passes.
    Stuck(usize),
    /// What fills the disk of the node that has a small one.
    Full(PathBuf),
}

/// The faults of one play.
#[derive(Default)]
pub struct Faults {
    /// Each with the acts until it ends.
    open: Vec<(u32, Open)>,
    count: BTreeMap<&'static str, u32>,
    /// A copy of the broker's store, as it was at an agreement.
    store: Option<PathBuf>,
    /// A node was set back, and may not be what the log says yet: what stands there again is old only as long as the log knows it.
    set_back: bool,
    /// The store may lack blobs of events that the log has.
    lacking: bool,
    /// The log was trimmed or rolled back since all agreed. What is removed before it is trusted again stays in it, and what it names anew nobody may have
    /// any more: when their blobs are lost as well, nobody has the content.
    forgot: bool,
    /// Copies of a node's root and state, as they were together at an agreement.
    node: Option<(usize, PathBuf, PathBuf)>,
}

/// Stops a process for a while, or lets it go on.
pub fn pause(id: u32, stop: bool) {
    let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    kill_process(pid, if stop { Signal::STOP } else { Signal::CONT }).unwrap();
}

impl Faults {
    /// How often each happened.
    pub fn told(&self) -> String {
        self.count.iter().map(|(what, n)| format!("{what} {n}")).collect::<Vec<_>>().join(", ")
    }

    fn say(&mut self, world: &mut World, what: &'static str, whom: &str) {
        *self.count.entry(what).or_default() += 1;
        world.note(format!("== {what} {whom}"));
    }

    /// After each act of a user.
    pub fn step(&mut self, world: &mut World) {
        for (left, _) in &mut self.open {
            *left = left.saturating_sub(1);
        }
        while let Some(at) = self.open.iter().position(|(left, _)| *left == 0) {
            let (_, open) = self.open.swap_remove(at);
            undo(world, open);
        }
        if world.rng.random_bool(RATE) {
            self.begin(world);
        }
    }

    /// Undoes all.
    pub fn end(&mut self, world: &mut World) {
        self.open.drain(..).for_each(|(_, open)| undo(world, open));
    }

    fn broker_is_up(&self) -> bool {
        !self.open.iter().any(|(_, open)| matches!(open, Open::BrokerDown | Open::BrokerStopped))
    }

    fn may_forget(&self) -> bool {
        self.broker_is_up() && self.open.is_empty() && !self.set_back
    }

    fn is_linked(&self, node: usize) -> bool {
        !self.open.iter().any(|(_, open)| matches!(open, Open::Stuck(other) if *other == node))
    }

    fn is_whole(&self, node: usize, role: Role, world: &mut World) -> bool {
        world.mirror.nodes[node].has(role) && {
            let id = world.mirror.nodes[node].process(role).id();
            !self.open.iter().any(|(_, open)| matches!(open, Open::Stopped(other) if *other == id))
        }
    }

    fn begin(&mut self, world: &mut World) {
        let node = world.rng.random_range(0..world.mirror.nodes.len());
        let role = *Role::ALL.choose(&mut world.rng).unwrap();
        let acts = world.rng.random_range(1..LONGEST);
        let name = format!("{} of {}", role.name(), world.mirror.nodes[node].name);
        match world.rng.random_range(0..16) {
            0..4 if self.is_whole(node, role, world) => {
                self.say(world, "kill", &name);
                world.mirror.nodes[node].kill(role);
                self.open.push((acts, Open::Killed(node, role)));
            }
            4..6 if self.is_whole(node, role, world) => {
                self.say(world, "stop", &name);
                let id = world.mirror.nodes[node].process(role).id();
                pause(id, true);
                self.open.push((acts, Open::Stopped(id)));
            }
            6 | 7 if self.broker_is_up() => {
                self.say(world, "broker killed", "");
                world.mirror.broker.kill();
                self.open.push((acts, Open::BrokerDown));
            }
            8 if self.broker_is_up() => {
                self.say(world, "broker stopped", "");
                world.mirror.broker.pause();
                self.open.push((acts, Open::BrokerStopped));
            }
            9 if self.broker_is_up() && !self.forgot => {
                self.say(world, "blobs lost", "");
                match &world.blobs {
                    Some(folder) => drop(fs::remove_dir_all(folder.join("blobs"))),
                    None => world.mirror.nats().try_lose_blobs(),
                }
                self.lacking = true;
            }
            10 | 11 if self.is_linked(node) => {
                self.say(world, "cut", NODES[node]);
                world.links[node].cut();
            }
            12 if self.is_linked(node) => {
                self.say(world, "link half open", NODES[node]);
                world.links[node].set(Link::HalfOpen);
                self.open.push((acts, Open::Stuck(node)));
            }
            13 if world.full_disk().is_none() => {
                if let Some(ballast) = world.fill_disk() {
                    self.say(world, "disk full", NODES[SMALL]);
                    self.open.push((acts, Open::Full(ballast)));
                }
            }
            14 if self.may_forget() && !self.lacking => self.trim(world),
            15 if self.may_forget() => self.forget(world),
            _ => {}
        }
    }

    /// The broker loses its last seconds, or everything.
    fn forget(&mut self, world: &mut World) {
        let copy = self.store.clone().filter(|_| world.rng.random_bool(0.6));
        // Of what stood in a copy the new log knows nothing any more: it would be news.
        self.node = None;
        self.store.clone_from(&copy);
        (self.lacking, self.forgot) = (false, true);
        self.say(world, if copy.is_some() { "log rolled back" } else { "log wiped" }, "");
        world.with_all_paused(|world| {
            world.mirror.broker.kill();
            match copy {
                Some(copy) => {
                    put_back(&copy, &world.mirror.broker.store());
                    world.model.went_back();
                }
                None => {
                    fs::remove_dir_all(world.mirror.broker.store()).unwrap();
                    world.model.forgot();
                }
            }
            world.mirror.broker.start();
        });
    }

    /// The log loses its oldest events, those that a node is behind with among them, and those of paths that nobody has changed since.
    fn trim(&mut self, world: &mut World) {
        if world.mirror.nats().log_state().is_none() {
            return; // It was wiped a moment ago.
        }
        self.node = None;
        self.forgot = true;
        let keep = world.rng.random_range(1..KEPT);
        self.say(world, "log trimmed", &format!("to {keep}"));
        world.with_all_paused(|world| {
            world.mirror.nats().trim_log(keep);
            world.model.forgot();
            // Noticed with the next connection.
            world.links.iter().for_each(|link| _ = link.cut());
        });
    }

    /// Between two agreements: all that was written is in the log.
    pub fn between(&mut self, world: &mut World) {
        self.forgot = false;
        let any = world.rng.random_range(0..NODES.len());
        let node = match &self.node {
            Some((of, ..)) if world.rng.random_bool(0.5) => *of,
            _ => any,
        };
        world.mirror.nodes[node].stop_both();
        let distrusts = self.set_back(world, node);
        if !distrusts {
            self.keep_node(world, node);
        }
        world.mirror.nodes[node].start_both();
        self.set_back = distrusts && world.rng.random_bool(0.5);
        if self.set_back {
            // What is removed before an index that is new, or is no longer trusted, knows of the file was never there for it.
            world.model.forgot();
        } else {
            world.mirror.wait_ready();
        }
        // An event whose blob no node holds any more, and the store neither, is given up only after a day: it must not come back.
        if world.rng.random_bool(0.5) && !self.lacking {
            self.keep_store(world);
        }
    }

    /// A node that does not run loses its index, or is set back to its copy. False: neither.
    fn set_back(&mut self, world: &mut World, node: usize) -> bool {
        match (world.rng.random_range(0..6), &self.node) {
            (0, _) => {
                self.say(world, "index lost", NODES[node]);
                for name in ["index.db", "index.db-wal", "index.db-shm"] {
                    let _ = fs::remove_file(world.mirror.nodes[node].state().join(name));
                }
                true
            }
            (kind @ 1..=3, Some((of, root, state))) if *of == node => {
                let (root, state) = (root.clone(), state.clone());
                let what = ["index restored", "root restored", "root and index restored"][kind - 1];
                self.say(world, what, NODES[node]);
                let of = &world.mirror.nodes[node];
                let _held = world.reader.hold();
                if kind != 2 {
                    put_back(&state, &of.state());
                }
                if kind != 1 {
                    put_back(&root, &of.root);
                }
                true
            }
            _ => false,
        }
    }

    fn keep_node(&mut self, world: &mut World, node: usize) {
        let copies = world.mirror.outside("copies");
        let (root, state) = (copies.join("root"), copies.join("state"));
        copy_anew(&world.mirror.nodes[node].root, &root);
        copy_anew(&world.mirror.nodes[node].state(), &state);
        self.node = Some((node, root, state));
        world.note(format!("== copies of {} are kept", NODES[node]));
    }

    fn keep_store(&mut self, world: &mut World) {
        let copy = world.mirror.outside("copies").join("store");
        world.mirror.broker.stop();
        copy_anew(&world.mirror.broker.store(), &copy);
        world.mirror.broker.start();
        world.note("== a copy of the store is kept".into());
        self.store = Some(copy);
        world.model.store_copied();
    }
}

fn copy_anew(folder: &Path, copy: &Path) {
    let _ = fs::remove_dir_all(copy);
    copy_folder(folder, copy);
}

fn undo(world: &mut World, open: Open) {
    match open {
        Open::Killed(node, role) => {
            world.note(format!("== {} of {node} started", role.name()));
            world.mirror.nodes[node].start(role);
        }
        Open::Stopped(id) => {
            world.note("== goes on".into());
            pause(id, false);
        }
        Open::BrokerDown => {
            world.note("== broker started".into());
            world.mirror.broker.start();
        }
        Open::BrokerStopped => {
            world.note("== broker goes on".into());
            world.mirror.broker.resume();
        }
        Open::Stuck(node) => {
            world.note(format!("== the link of {} is good", NODES[node]));
            world.links[node].set(Link::Good);
        }
        Open::Full(ballast) => {
            world.note("== there is room".into());
            fs::remove_file(ballast).unwrap();
            world.all_run(SMALL);
        }
    }
}
