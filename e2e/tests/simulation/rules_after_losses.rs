//! The rules about what a log or a node has lost: old content (7), trust (9) and generations (10).

use crate::{
    process::Role::{Replicator, Watcher},
    sim::Sim,
};

/// Steps in which a process comes to rest.
const LONG: u32 = 200;

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

/// The index is gone, and the root is from last week; then the index is gone, and a file with it.
#[test]
fn rule_07_with_a_new_index() {
    let mut sim = Sim::pair();
    sim.write(0, "p");
    (0..2).for_each(|node| sim.run_node(node));
    sim.copy_node(1);
    let newer = sim.write(0, "p");
    (0..2).for_each(|node| sim.run_node(node));
    sim.restore_root(1);
    sim.restore_index(1, false);
    sim.run_node(1);
    assert_eq!((sim.last("p"), sim.on_disk(1, "p")), (Some((2, Some(newer))), Some(newer)));
    sim.kill_node(1);
    sim.remove(1, "p");
    sim.restore_index(1, false);
    sim.run_node(1);
    assert_eq!((sim.last("p"), sim.on_disk(1, "p")), (Some((2, Some(newer))), Some(newer)));
    assert_eq!(sim.lost(1), vec![]);
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

/// The log lost an event that this node was about to apply, and another stands there now, which its consumer will not deliver.
#[test]
fn rule_09_a_consumer_ahead_of_its_log() {
    let mut sim = Sim::pair();
    let first = sim.write(1, "p");
    sim.run_to(1, Watcher, "published");
    sim.run_to(0, Replicator, "about to apply");
    (0..2).for_each(|node| sim.kill_node(node));
    sim.world().roll_back(1);
    sim.run_to(0, Replicator, "following");
    let second = sim.write(1, "q");
    sim.run_node(1);
    assert_eq!(sim.last("p").map(|(_, content)| content), Some(Some(first)));
    for _ in 0..LONG {
        sim.step(0, Replicator);
    }
    assert_eq!((sim.on_disk(0, "p"), sim.on_disk(0, "q")), (Some(first), Some(second)));
    sim.ends_well();
}

/// The log lost its oldest event, of a path that has no newer one.
#[test]
fn rule_09_a_trimmed_log() {
    let mut sim = Sim::pair();
    let content = sim.write(0, "p");
    sim.run_node(0);
    sim.write(0, "q");
    sim.run_node(0);
    sim.world().trim(1);
    assert_eq!(sim.last("p"), None);
    sim.run_node(0);
    assert_eq!(sim.last("p"), Some((3, Some(content))), "a duplicate of what is gone is published again");
    sim.run_node(1);
    assert_eq!(sim.on_disk(1, "p"), Some(content));
    sim.ends_well();
}

/// The log lost the event that this node had published last: ours stands above what it had replaced.
#[test]
fn rule_10_a_row_above_the_event_that_it_replaced() {
    let mut sim = Sim::pair();
    sim.write(0, "p");
    (0..2).for_each(|node| sim.run_node(node));
    let newer = sim.write(0, "p");
    sim.run_node(0);
    sim.world().roll_back(1);
    sim.run_node(0);
    assert_eq!((sim.last("p"), sim.on_disk(0, "p")), (Some((2, Some(newer))), Some(newer)));
    sim.run_node(1);
    assert_eq!((sim.on_disk(1, "p"), sim.lost(0), sim.lost(1)), (Some(newer), vec![], vec![]));
    sim.ends_well();
}

/// The same of a removal: without its event nothing could be published at the path any more.
#[test]
fn rule_09_a_trimmed_removal() {
    let mut sim = Sim::pair();
    sim.write(0, "p");
    sim.run_node(0);
    sim.remove(0, "p");
    sim.run_node(0);
    sim.write(0, "q");
    sim.run_node(0);
    sim.world().trim(2);
    let again = sim.write(0, "p");
    sim.run_node(0);
    assert_eq!(sim.last("p").and_then(|(_, content)| content), Some(again));
    sim.ends_well();
}
