//! What the log, the blob store, an index or a root has forgotten is rebuilt from what the others remember: nothing is
//! removed because of it, and nothing old comes back.

use e2e::{
    LONG, Mirror, Node, Role, SOON, Tree, content, copy_folder, put_back, wait_for, wait_until, write,
};
use std::fs;

/// Some files on both nodes, one of them replaced and one removed, and all agreed.
fn with_history() -> Mirror {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..30 {
        write(&mirror.nodes[i % 2].path(format!("{}/{i}", i % 4)), &content(&i.to_string(), 3_000));
    }
    write(&mirror.nodes[0].path("large"), &content("large", 700_000));
    write(&mirror.nodes[0].path("replaced"), b"as it was at first");
    write(&mirror.nodes[0].path("removed"), b"removed");
    mirror.wait_everywhere("removed", b"removed");
    mirror.wait_everywhere("replaced", b"as it was at first");
    write(&mirror.nodes[1].path("replaced"), b"as it is now");
    fs::remove_file(mirror.nodes[1].path("removed")).unwrap();
    mirror.wait_nowhere("removed");
    mirror.wait_agreed(SOON);
    mirror
}

fn no_lost_conflicts(mirror: &Mirror) {
    for node in &mirror.nodes {
        assert_eq!(node.lost_conflicts(), Vec::<String>::new(), "on {}", node.name);
    }
}

/// A node that was never there before gets everything, so log and blobs are complete.
fn a_new_node_gets_everything(mirror: &mut Mirror) {
    let mut third = Node::new(mirror.dir(), "c", Some(mirror.broker.url()));
    third.start_both();
    mirror.nodes.push(third);
    mirror.wait_agreed(LONG);
}

// ---- the blob store -------------------------------------------------------------------------------------------------

/// Two blobs, of one chunk and of several, are spoilt before b has fetched them.
fn blobs_are_uploaded_again_after(spoil: impl FnOnce(&e2e::Nats)) {
    let mut mirror = Mirror::running(&["a", "b"]);
    mirror.nodes[1].stop(Role::Replicator);
    let files = [("small", content("small", 5_000)), ("large", content("large", 700_000))];
    for (path, bytes) in &files {
        write(&mirror.nodes[0].path(path), bytes);
    }
    wait_until(SOON, "two events", || mirror.log().len() == 2);
    spoil(mirror.nats());
    mirror.nodes[1].start(Role::Replicator);
    let hashes = ["small", "large"].map(|path| e2e::sha256_of(&mirror.nodes[0].path(path)).unwrap());
    wait_for(SOON, "b to ask for both blobs", || {
        let wanted = mirror.nats().wanted("b");
        if hashes.iter().all(|hash| wanted.contains(hash)) { Ok(()) } else { Err(format!("{wanted:?}")) }
    });
    for (path, bytes) in &files {
        mirror.wait_everywhere(path, bytes);
    }
    mirror.wait_agreed(SOON);
    wait_until(SOON, "b to want nothing any more", || mirror.nats().wanted("b").is_empty());
    assert_eq!(mirror.log().len(), 2, "an upload is no event");
}

#[test]
fn a_lost_blob_is_asked_for_and_uploaded_again_by_a_node_that_holds_it() {
    blobs_are_uploaded_again_after(e2e::Nats::lose_blobs);
}

#[test]
fn a_damaged_blob_is_asked_for_and_uploaded_again_by_a_node_that_holds_it() {
    blobs_are_uploaded_again_after(|nats| assert_eq!(nats.damage_blobs(), 4));
}

// ---- the log --------------------------------------------------------------------------------------------------------

/// What stood everywhere stands everywhere, the log and the store have it all, and nobody saw a conflict.
fn is_as_before(mirror: &mut Mirror, before: &Tree) {
    let after = mirror.wait_agreed(LONG);
    before.equal(&after).unwrap();
    a_new_node_gets_everything(mirror);
    no_lost_conflicts(mirror);
    // And it goes on.
    write(&mirror.nodes[0].path("later"), b"later");
    mirror.wait_everywhere("later", b"later");
    fs::remove_file(mirror.nodes[1].path("replaced")).unwrap();
    mirror.wait_nowhere("replaced");
    mirror.wait_agreed(SOON);
}

fn start_all(mirror: &mut Mirror) {
    mirror.nodes.iter_mut().for_each(Node::start_both);
}

fn stop_all(mirror: &mut Mirror) {
    mirror.nodes.iter_mut().for_each(Node::stop_both);
}

#[test]
fn a_wiped_broker_is_filled_again_by_running_nodes() {
    let mut mirror = with_history();
    let before = Tree::of(&mirror.nodes[0].root);
    mirror.broker.stop();
    fs::remove_dir_all(mirror.broker.store()).unwrap();
    mirror.broker.start();
    is_as_before(&mut mirror, &before);
}

#[test]
fn a_broker_wiped_while_the_nodes_were_down_is_filled_again() {
    let mut mirror = with_history();
    let before = Tree::of(&mirror.nodes[0].root);
    stop_all(&mut mirror);
    mirror.broker.stop();
    fs::remove_dir_all(mirror.broker.store()).unwrap();
    mirror.broker.start();
    start_all(&mut mirror);
    is_as_before(&mut mirror, &before);
}

/// The broker gets an older copy of its own data; what came after it was: an addition, a rewrite, a removal, and the same
/// bytes again at the path of a removed file.
fn rolled_back(running: bool) {
    let mut mirror = with_history();
    let copy = mirror.dir().join("nats-copy");
    mirror.broker.stop();
    copy_folder(&mirror.broker.store(), &copy);
    mirror.broker.start();
    write(&mirror.nodes[0].path("added since"), b"added since");
    write(&mirror.nodes[1].path("large"), &content("larger", 800_000));
    fs::remove_file(mirror.nodes[0].path("0/0")).unwrap();
    write(&mirror.nodes[1].path("removed"), b"removed");
    mirror.wait_everywhere("added since", b"added since");
    mirror.wait_everywhere("removed", b"removed");
    mirror.wait_everywhere("large", &content("larger", 800_000));
    mirror.wait_nowhere("0/0");
    let before = mirror.wait_agreed(SOON);
    if !running {
        stop_all(&mut mirror);
    }
    mirror.broker.stop();
    put_back(&copy, &mirror.broker.store());
    mirror.broker.start();
    if !running {
        start_all(&mut mirror);
    }
    wait_until(LONG, "what came after the copy to be published again", || mirror.log_tree() == before);
    is_as_before(&mut mirror, &before);
}

#[test]
fn what_a_rolled_back_log_lacks_is_published_again_by_running_nodes() {
    rolled_back(true);
}

#[test]
fn what_a_log_rolled_back_while_the_nodes_were_down_lacks_is_published_again() {
    rolled_back(false);
}

// ---- a node ---------------------------------------------------------------------------------------------------------

/// What happens on b while a is down, or has what a will forget again.
fn changes_on_b(mirror: &mut Mirror) {
    let b = &mirror.nodes[1];
    fs::remove_file(b.path("0/0")).unwrap();
    write(&b.path("replaced"), b"as b has it");
    write(&b.path("new"), b"new");
    let replaced = e2e::sha256_of(&b.path("replaced")).unwrap();
    wait_for(SOON, "the changes of b in the log", || {
        let tree = mirror.log_tree();
        let there = tree.get("0/0").is_none() && tree.get("new").is_some();
        let done = there && tree.get("replaced") == Some(replaced.as_str());
        if done { Ok(()) } else { Err(format!("{tree:?}")) }
    });
}

/// Node a agrees with the log, to which it had nothing to add.
fn the_log_won(mirror: &mut Mirror, events: usize) {
    mirror.wait_agreed(LONG);
    mirror.wait_ready();
    assert!(!mirror.nodes[0].path("0/0").exists());
    write(&mirror.nodes[0].path("marker"), b"what comes after everything that a scan has found");
    mirror.wait_everywhere("marker", b"what comes after everything that a scan has found");
    mirror.wait_agreed(SOON);
    let log = mirror.log();
    assert_eq!(log.len(), events + 1, "{:#?}", &log[events..]);
    no_lost_conflicts(mirror);
}

#[test]
fn a_node_whose_index_is_lost_takes_what_the_log_says() {
    let mut mirror = with_history();
    mirror.nodes[0].stop_both();
    changes_on_b(&mut mirror);
    let events = mirror.log().len();
    fs::remove_dir_all(mirror.nodes[0].state()).unwrap();
    mirror.nodes[0].start_both();
    the_log_won(&mut mirror, events);
}

#[test]
fn new_files_of_a_node_whose_index_is_lost_are_published() {
    let mut mirror = with_history();
    mirror.nodes[0].stop_both();
    fs::remove_dir_all(mirror.nodes[0].state()).unwrap();
    write(&mirror.nodes[0].path("new of a"), b"new of a");
    write(&mirror.nodes[0].path("removed"), b"another one at the path of a removed file");
    mirror.nodes[0].start_both();
    mirror.wait_everywhere("new of a", b"new of a");
    mirror.wait_everywhere("removed", b"another one at the path of a removed file");
    mirror.wait_agreed(SOON);
    no_lost_conflicts(&mirror);
}

#[test]
fn a_root_restored_from_an_older_copy_takes_what_the_log_says() {
    let mut mirror = with_history();
    mirror.nodes[0].stop_both();
    let copy = mirror.dir().join("root-copy");
    copy_folder(&mirror.nodes[0].root, &copy);
    mirror.nodes[0].start_both();
    mirror.wait_ready();
    write(&mirror.nodes[0].path("large"), &content("rewritten by a", 600_000));
    changes_on_b(&mut mirror);
    mirror.wait_agreed(SOON);
    let events = mirror.log().len();
    mirror.nodes[0].stop_both();
    put_back(&copy, &mirror.nodes[0].root);
    mirror.nodes[0].start_both();
    the_log_won(&mut mirror, events);
}

#[test]
fn what_a_restored_root_has_under_a_message_that_is_no_event_is_no_news() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("p"), b"old");
    mirror.wait_everywhere("p", b"old");
    mirror.nodes[1].stop_both();
    let copy = mirror.dir().join("root-copy");
    copy_folder(&mirror.nodes[1].root, &copy);
    mirror.nodes[1].start_both();
    mirror.wait_ready();
    write(&mirror.nodes[0].path("p"), b"new");
    mirror.wait_everywhere("p", b"new");
    mirror.nats().publish("mirror.media.p", b"no event at all");
    let head = mirror.nats().log_state().unwrap().last_sequence;
    let at_head = |mirror: &Mirror| mirror.nodes[1].local_status(Role::Replicator)["version"] == head;
    wait_until(SOON, "b to be past it", || at_head(&mirror));
    mirror.nodes[1].stop_both();
    put_back(&copy, &mirror.nodes[1].root);
    mirror.nodes[1].start(Role::Replicator);
    wait_until(SOON, "b to have read the log again", || {
        at_head(&mirror) && mirror.nodes[1].process(Role::Replicator).log().contains("restored")
    });
    let scanned = mirror.nodes[1].run(Role::Watcher, &["scan"]);
    assert!(scanned.stdout.contains(" 0 published"), "{scanned:?}");
    assert_eq!(mirror.nats().log_state().unwrap().last_sequence, head);
    assert_eq!(fs::read(mirror.nodes[0].path("p")).unwrap(), b"new");
    mirror.nodes[1].start(Role::Watcher);
    write(&mirror.nodes[0].path("p"), b"newer");
    mirror.wait_everywhere("p", b"newer");
}
