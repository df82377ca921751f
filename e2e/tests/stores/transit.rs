//! `--blob-retention applied`: the store holds what is on its way, and the nodes hold the files.

use e2e::{LONG, Mirror, Node, Role, SOON, content, wait_until, write};

/// Nodes that collect all the time.
fn in_transit(names: &[&str]) -> Mirror {
    let mut mirror = Mirror::idle(names);
    mirror.nodes.iter_mut().for_each(start);
    mirror.wait_ready();
    mirror
}

fn start(node: &mut Node) {
    node.start(Role::Watcher);
    node.start_with(Role::Replicator, &["--blob-retention", "applied", "--gc-every", "1s"]);
}

#[test]
fn the_store_is_empty_when_all_have_all_and_a_node_that_comes_later_gets_it_from_the_others() {
    let mut mirror = in_transit(&["a", "b"]);
    for i in 0..40 {
        write(&mirror.nodes[i % 2].path(format!("{i}")), &content(&i.to_string(), 3_000));
    }
    write(&mirror.nodes[0].path("large"), &content("large", 900_000));
    mirror.wait_agreed(SOON);
    wait_until(LONG, "the store to be empty", || mirror.nats().chunks().is_empty());
    mirror.wait_agreed(SOON);

    let name = mirror.add_node("c");
    start(&mut mirror.nodes[name]);
    assert_eq!(mirror.wait_agreed(LONG).0.len(), 41);
    wait_until(LONG, "the store to be empty again", || mirror.nats().chunks().is_empty());
    // That the store is empty is no difference.
    mirror.nodes[2].run(Role::Replicator, &["verify"]).succeeded();
    // The same content at another path has to be stored once more.
    write(&mirror.nodes[2].path("again"), &content("7", 3_000));
    mirror.wait_everywhere("again", &content("7", 3_000));
    for node in &mut mirror.nodes {
        let log = node.process(Role::Replicator).log();
        assert!(!log.contains("\"ERROR\""), "{log}");
    }
}

#[test]
fn a_node_that_is_away_keeps_what_it_has_not_got() {
    let mut mirror = in_transit(&["a", "b", "c"]);
    write(&mirror.nodes[0].path("before"), b"before");
    mirror.wait_agreed(SOON);
    wait_until(LONG, "the store to be empty", || mirror.nats().chunks().is_empty());
    mirror.nodes[2].stop_both();
    write(&mirror.nodes[0].path("meanwhile"), b"meanwhile");
    mirror.wait_everywhere_but(2, "meanwhile", b"meanwhile");
    let collections = |mirror: &mut Mirror| mirror.nats().revision("_gc");
    let before = collections(&mut mirror);
    wait_until(LONG, "some collections", || collections(&mut mirror) > before + 6);
    assert_eq!(mirror.nats().chunks().len(), 1);
    // Forgotten, it does not count any more.
    mirror.nodes[0].run(Role::Replicator, &["node", "remove", "c"]).succeeded();
    wait_until(LONG, "the store to be empty", || mirror.nats().chunks().is_empty());
}
