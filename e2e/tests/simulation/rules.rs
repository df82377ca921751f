//! The rules, each by the order of events that it closes, step by step. Those whose point is the disk are in [`rules_on_disk`](crate::rules_on_disk).

use crate::{
    check,
    process::Role::{Replicator, Watcher},
    sim::Sim,
    world::{now, path},
};
use common::{
    event::{Attributes, Event, Kind, Version},
    hash::ContentHash,
    log::{EventLog, Logged},
    subject::Subjects,
    time::Timestamp,
};

/// Steps in which a process comes to rest.
const LONG: u32 = 200;

impl Sim {
    fn on_disk(&self, node: usize, at: &str) -> Option<ContentHash> {
        self.world().nodes[node].disk.tree.get(&path(at)).map(|file| file.content)
    }

    /// The log's last event of a path: version, and the content unless it is removed.
    fn last(&self, at: &str) -> Option<(u64, Option<ContentHash>)> {
        let log = self.world().log.clone();
        let last = now(log.last(&path(at))).unwrap()?;
        let event = last.event.unwrap();
        Some((last.version.get(), (event.kind() == Kind::Added).then_some(event.sha256)))
    }

    /// Contents kept as lost conflicts in a node's trash.
    fn lost(&self, node: usize) -> Vec<ContentHash> {
        let world = self.world();
        let node = &world.nodes[node];
        let lost = node.index.trash().unwrap().into_iter().filter(|entry| entry.lost);
        lost.filter_map(|entry| node.disk.trash.get(&entry.id).map(|file| file.content)).collect()
    }

    /// Two nodes that have both seen the (empty) log.
    fn pair() -> Self {
        let mut sim = Self::new();
        (0..2).for_each(|node| sim.run_node(node));
        sim
    }

    /// Everything settles, and all that must hold does.
    fn ends_well(mut self) {
        self.settle();
        check::all(&self);
        let failure = self.world().failure.take();
        assert_eq!(failure, None, "\n{}", self.world().trace.join("\n"));
    }
}

/// An addition is delivered again after the removal of its path was applied.
#[test]
fn rule_01_newer_only() {
    let mut sim = Sim::pair();
    sim.write(0, "p");
    sim.run_to(0, Watcher, "published");
    sim.run_to(0, Watcher, "scanned");
    sim.remove(0, "p");
    sim.run_to(0, Watcher, "published");
    sim.run_to(0, Watcher, "scanned");
    sim.run_to(1, Replicator, "recorded");
    sim.run_to(1, Replicator, "recorded");
    assert_eq!(sim.on_disk(1, "p"), None);
    sim.kill(1, Replicator); // Before it has stored how far it is.
    sim.start(1, Replicator);
    for _ in 0..LONG {
        sim.step(1, Replicator);
        assert_eq!(sim.on_disk(1, "p"), None, "it comes back");
    }
    assert_eq!(sim.world().nodes[1].index.node().unwrap().version, Version::new(2));
    let row = sim.world().nodes[1].index.path_state(&path("p")).unwrap().row.unwrap();
    assert_eq!((row.version, row.content()), (Version::new(2), None), "the row of a removed path stays");
    sim.ends_well();
}

/// The watcher dies after publishing, the user writes, and the replicator sees the watcher's own event first.
#[test]
fn rule_02_offers() {
    let mut sim = Sim::pair();
    let first = sim.write(0, "p");
    sim.run_to(0, Watcher, "published");
    sim.kill(0, Watcher);
    let second = sim.write(0, "p");
    sim.run_to(0, Replicator, "recorded");
    assert_eq!((sim.on_disk(0, "p"), sim.lost(0)), (Some(second), vec![]), "{first} was placed over it");
    sim.run_node(0);
    assert_eq!(sim.last("p"), Some((2, Some(second))));
    sim.ends_well();
}

/// Another node's event reaches a path where a user has just written: his bytes are kept on an addition, and left alone on a removal.
#[test]
fn rule_05_foreign_content() {
    let mut sim = Sim::pair();
    let (theirs, ours) = (sim.write(0, "p"), sim.write(1, "p"));
    sim.run_node(0);
    sim.run_to(1, Replicator, "recorded");
    assert_eq!((sim.on_disk(1, "p"), sim.lost(1)), (Some(theirs), vec![ours]));

    sim.remove(0, "p");
    sim.run_node(0);
    assert_eq!(sim.last("p"), Some((2, None)));
    let again = sim.write(1, "p");
    sim.run_to(1, Replicator, "recorded");
    assert_eq!((sim.on_disk(1, "p"), sim.last("p")), (Some(again), Some((2, None))));
    sim.run_to(1, Watcher, "published");
    assert_eq!(sim.last("p"), Some((3, Some(again))), "an addition stands against a removal");
    sim.ends_well();
}

/// Two nodes write one path; the second finds out when it publishes, and its file goes before the winner's has come.
#[test]
fn rule_06_compare_and_set_refused() {
    let mut sim = Sim::pair();
    let base = sim.write(0, "p");
    (0..2).for_each(|node| sim.run_node(node));
    let (theirs, ours) = (sim.write(0, "p"), sim.write(1, "p"));
    sim.run_to(0, Watcher, "published");
    sim.run_to(1, Watcher, "published");
    sim.run_to(1, Watcher, "scanned");
    let row = sim.world().nodes[1].index.path_state(&path("p")).unwrap().row.unwrap();
    assert_eq!((row.content(), row.lost), (Some(base), Some(ours)));
    sim.remove(1, "p");
    (0..4).for_each(|_| sim.run_to(1, Watcher, "scanned"));
    assert_eq!(sim.last("p"), Some((2, Some(theirs))), "absence of what is lost is no removal");
    sim.ends_well();
}

/// The same, and nobody touches the loser: it is kept, and the log does not move.
#[test]
fn rule_06_the_loser_is_kept() {
    let mut sim = Sim::pair();
    let (theirs, ours) = (sim.write(0, "p"), sim.write(1, "p"));
    sim.run_to(0, Watcher, "published");
    sim.run_to(1, Watcher, "published");
    sim.settle();
    assert_eq!((sim.last("p"), sim.lost(1)), (Some((1, Some(theirs))), vec![ours]));
    sim.ends_well();
}

/// A root comes back from last week.
#[test]
fn rule_07_old_content_is_no_news() {
    let mut sim = Sim::pair();
    sim.write(0, "p");
    (0..2).for_each(|node| sim.run_node(node));
    sim.copy_node(1);
    let newer = sim.write(0, "p");
    (0..2).for_each(|node| sim.run_node(node));
    sim.restore_root(1);
    assert_ne!(sim.on_disk(1, "p"), Some(newer));
    sim.world().nodes[1].disk.number = 0; // As it was then.
    sim.run_node(1);
    assert_eq!((sim.last("p"), sim.on_disk(1, "p")), (Some((2, Some(newer))), Some(newer)));
    assert_eq!(sim.lost(1), vec![], "an old version is nobody's work");
    sim.ends_well();
}

/// The log lost its last event and has gone on since: the sequences fit, the events do not.
#[test]
fn rule_09_trust() {
    let mut sim = Sim::pair();
    sim.write(0, "p");
    sim.run_node(0);
    let forgotten = sim.write(0, "q");
    sim.run_node(0);
    assert_eq!(sim.last("q"), Some((2, Some(forgotten))));
    (0..2).for_each(|node| sim.kill_node(node));
    sim.world().roll_back(1);
    let other = sim.write(1, "p");
    sim.run_node(1);
    assert_eq!(sim.last("p").map(|(version, _)| version), Some(1), "node 1's is a conflict");
    sim.write_content(1, "p", other);
    sim.run_to(1, Watcher, "published");
    assert_eq!(sim.last("p").map(|(version, _)| version), Some(2), "the lost position is taken");
    sim.run_node(0);
    assert_eq!(sim.last("q"), Some((3, Some(forgotten))));
    sim.ends_well();
}

/// The log is made anew, and the node that is behind publishes first.
#[test]
fn rule_10_generations() {
    let mut sim = Sim::pair();
    sim.write(0, "p");
    (0..2).for_each(|node| sim.run_node(node));
    let newer = sim.write(0, "p");
    sim.kill_node(1);
    sim.run_node(0);
    sim.kill_node(0);
    sim.world().wipe();
    sim.run_node(1);
    assert_ne!(sim.last("p").unwrap().1, Some(newer), "node 1 knows only the older one");
    sim.run_node(0);
    assert_eq!(sim.last("p"), Some((2, Some(newer))));
    sim.settle();
    assert_eq!((sim.lost(0), sim.lost(1)), (vec![], vec![]), "an ordinary replacement");
    sim.ends_well();
}

/// An event whose blob is gone is set aside; the next of another path is applied, and a newer one of its own path ends it.
#[test]
fn rule_11_never_stuck() {
    let mut sim = Sim::pair();
    let gone = sim.write(0, "p");
    sim.run_to(0, Watcher, "published");
    sim.run_to(0, Watcher, "scanned");
    let other = sim.write(0, "q");
    sim.run_to(0, Watcher, "published");
    sim.kill_node(0);
    sim.world().blobs.remove(&gone);
    let parked = |sim: &Sim| sim.world().nodes[1].index.parked().unwrap().len();
    (0..2).for_each(|_| sim.run_to(1, Replicator, "recorded"));
    assert_eq!((sim.on_disk(1, "q"), parked(&sim)), (Some(other), 1));
    assert!(sim.world().nodes[1].wanted.contains(&gone), "the other nodes are asked for it");
    sim.kill(1, Replicator);
    (0..4).for_each(|_| sim.run_to(1, Replicator, "recorded"));
    assert!(sim.world().nodes[1].wanted.contains(&gone), "and again after a restart");
    let newer = sim.write(0, "p");
    sim.run_node(0);
    sim.run_node(1);
    assert_eq!((sim.on_disk(1, "p"), parked(&sim)), (Some(newer), 0));
    sim.ends_well();
}

/// A new node never sees what was replaced before it came.
#[test]
fn rule_12_starting() {
    let mut sim = Sim::new();
    sim.run_node(0);
    let mut newest = None;
    for _ in 0..3 {
        newest = Some(sim.write(0, "p"));
        sim.run_node(0);
    }
    assert_eq!(sim.last("p"), Some((3, newest)));
    sim.start(1, Replicator);
    for _ in 0..LONG {
        sim.step(1, Replicator);
        let here = sim.on_disk(1, "p");
        assert!(here.is_none() || here == newest, "an older version was placed");
    }
    assert_eq!(sim.on_disk(1, "p"), newest);
    sim.ends_well();
}

/// A clock a year ahead neither wins nor shows.
#[test]
fn rule_13_time() {
    let mut sim = Sim::pair();
    let (theirs, ours) = (sim.write(0, "p"), sim.write(1, "p"));
    sim.world().nodes[1].disk.tree.get_mut(&path("p")).unwrap().stat.mtime += 365 * 86_400 * 1_000_000_000;
    sim.run_to(0, Watcher, "published");
    sim.run_node(1);
    assert_eq!((sim.last("p"), sim.lost(1)), (Some((1, Some(theirs))), vec![ours]));
    sim.ends_well();

    let (stored, ahead) = (Timestamp::from_nanos(1_000_000_000), Timestamp::from_nanos(9_000_000_000));
    let event = Event {
        path: path("p"),
        sha256: theirs,
        added: Some(Attributes { size: 1, mtime: ahead, mode: 0o644 }),
        node: "n".parse().unwrap(),
        replaces: Version::ZERO,
        detected: ahead,
        was: None,
    };
    let subjects = Subjects::new(&"media".parse().unwrap());
    let subject = subjects.of(&event.path);
    let logged = Logged::new(&subjects, Version::new(1), stored, subject, event.encode().into());
    assert_eq!(logged.event.unwrap().detected, stored);
}
