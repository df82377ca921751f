//! `--blob-retention applied`: the store holds what is on its way, and the nodes hold the files.

use common::hash::ContentHash;
use e2e::{Http, LONG, Mirror, Node, Role, SOON, content, wait_until, write};
use std::fs;

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
fn wrong_bytes_that_were_stored_on_request_are_refused_and_asked_for_again() {
    let mut mirror = in_transit(&["a", "b"]);
    let (small, large) = (content("small", 3_000), content("large", 900_000));
    for (path, bytes) in [("small", &small), ("large", &large)] {
        write(&mirror.nodes[0].path(path), bytes);
    }
    mirror.wait_agreed(SOON);
    wait_until(LONG, "the store to be empty", || mirror.nats().chunks().is_empty());
    // Nobody answers but somebody who has something else.
    for node in &mut mirror.nodes {
        node.stop(Role::Watcher);
    }
    let name = mirror.add_node("c");
    let http = Http::start(&mut mirror.nodes[name], Role::Replicator, &[]);
    let hashes = [&small, &large].map(|bytes| ContentHash::of(bytes));
    wait_until(SOON, "both to be wanted", || {
        let wanted = mirror.nats().wanted("c");
        hashes.iter().all(|hash| wanted.contains(&hash.to_string()))
    });
    mirror.nats().store_under(hashes[0], &content("wrong", 3_000));
    mirror.nats().store_under(hashes[1], &content("wrong", 900_000));
    wait_until(LONG, "the wrong bytes to be noticed", || {
        let failures = http.metrics().0;
        failures.iter().any(|(name, count)| name.contains("wrong_content") && *count >= 2.0)
    });
    assert!(!mirror.nodes[name].path("small").exists() && !mirror.nodes[name].path("large").exists());
    mirror.nodes[0].start(Role::Watcher);
    wait_until(LONG, "the right ones", || {
        mirror.nodes[name].path("small").exists() && mirror.nodes[name].path("large").exists()
    });
    assert_eq!(fs::read(mirror.nodes[name].path("small")).unwrap(), small);
    assert_eq!(fs::read(mirror.nodes[name].path("large")).unwrap(), large);
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
