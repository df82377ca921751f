//! The broker is away: nodes go on, note what happens, and agree when it is back.

use common::{
    event::Version,
    index::{Index, Landmark},
    subject::Subjects,
};
use e2e::{LONG, Mirror, Node, Role, SOON, content, wait_for, wait_until, write};
use std::{
    fs,
    time::{Duration, Instant},
};

/// How long a process may take to end that was told to while it waits for the broker.
const ENDS: Duration = Duration::from_secs(10);

fn wait_outbox(node: &Node, what: &str, count: u64) {
    wait_for(SOON, what, || {
        let local = node.local_status(Role::Watcher);
        if local["outbox"] == count { Ok(()) } else { Err(format!("{}: {local}", node.name)) }
    });
}

/// Nothing waits any more, and it was said once that the broker was away.
fn is_over(mirror: &mut Mirror, node: usize, warnings: usize) {
    wait_outbox(&mirror.nodes[node], "an empty outbox", 0);
    let mut said = mirror.nodes[node].process(Role::Watcher).lines_at("WARN");
    said.retain(|line| line.contains("broker"));
    assert_eq!(said.len(), warnings, "{said:#?}");
}

#[test]
fn what_happens_while_the_broker_is_away_is_noted_and_sent_when_it_is_back() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..20 {
        write(&mirror.nodes[0].path(format!("folder/{i}")), &content(&i.to_string(), 2_000));
    }
    for name in ["removed", "rewritten", "same"] {
        write(&mirror.nodes[0].path(name), name.as_bytes());
    }
    mirror.wait_agreed(SOON);
    mirror.broker.kill();

    let at = |name: &str| mirror.nodes[0].path(name);
    fs::remove_file(at("removed")).unwrap();
    write(&at("rewritten"), b"other bytes");
    write(&at("same"), b"same");
    fs::rename(at("folder"), at("moved")).unwrap();
    write(&at("new/first"), b"first");
    write(&at("new/ignored.tmp"), b"no");
    // Of the moved folder both names of each file.
    wait_outbox(&mirror.nodes[0], "all of it in the outbox", 4 + 40);

    mirror.nodes[0].kill(Role::Watcher);
    write(&mirror.nodes[0].path("new/while nobody looked"), b"second");
    fs::remove_file(mirror.nodes[0].path("moved/0")).unwrap();
    mirror.nodes[0].start(Role::Watcher);
    // Of moved/0 nothing was ever published: only the note of it is left.
    wait_outbox(&mirror.nodes[0], "what the scan of the start found", 4 + 40 + 1);
    fs::remove_file(mirror.nodes[0].path("new/ignored.tmp")).unwrap();
    write(&mirror.nodes[0].path("new/third"), b"third");
    write(&mirror.nodes[1].path("of b"), b"of b");
    wait_outbox(&mirror.nodes[0], "what was noticed since", 4 + 40 + 2);

    mirror.broker.start();
    mirror.wait_everywhere("new/third", b"third");
    mirror.wait_nowhere("removed");
    mirror.wait_nowhere("folder/7");
    let tree = mirror.wait_agreed(LONG);
    assert_eq!(tree.0.len(), 19 + 2 + 3 + 1);
    mirror.wait_everywhere("rewritten", b"other bytes");
    // One for each run: lost, and not found at the start.
    is_over(&mut mirror, 0, 2);
    is_over(&mut mirror, 1, 1);
    let log = mirror.nodes[1].process(Role::Watcher).log();
    let back: Vec<&str> = log.lines().filter(|line| line.contains("the broker is back")).collect();
    assert!(back.len() == 1 && back[0].contains("away_s") && back[0].contains("waiting"), "{back:?}");
    assert_eq!(mirror.nodes[0].lost_conflicts(), Vec::<String>::new());
}

#[test]
fn the_same_bytes_written_again_meanwhile_stand_against_a_removal_from_elsewhere() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for name in ["again", "left"] {
        write(&mirror.nodes[0].path(name), name.as_bytes());
    }
    mirror.wait_agreed(SOON);
    mirror.broker.kill();
    for name in ["again", "left"] {
        fs::remove_file(mirror.nodes[1].path(name)).unwrap();
    }
    write(&mirror.nodes[0].path("again"), b"again");
    wait_outbox(&mirror.nodes[0], "the rewritten file", 1);
    wait_outbox(&mirror.nodes[1], "both removals", 2);
    mirror.broker.start();
    mirror.wait_nowhere("left");
    mirror.wait_everywhere("again", b"again");
    mirror.wait_agreed(SOON);
}

#[test]
fn everything_may_start_while_the_broker_is_away() {
    let mut mirror = Mirror::prepared(&["a", "b"]);
    for i in 0..1_200 {
        write(&mirror.nodes[0].path(format!("{}/{i}", i % 7)), &content(&i.to_string(), 300));
    }
    mirror.nodes.iter_mut().for_each(Node::start_both);
    wait_outbox(&mirror.nodes[0], "what stood there before", 1_200);
    write(&mirror.nodes[0].path("live"), b"live");
    write(&mirror.nodes[1].path("on b"), b"on b");
    wait_outbox(&mirror.nodes[0], "what was written since", 1_201);
    wait_outbox(&mirror.nodes[1], "what was written on b", 1);
    let local = mirror.nodes[0].local_status(Role::Watcher);
    assert_eq!((&local["files"], &local["coverage"]["folders"]), (&0.into(), &8.into()), "{local}");

    for role in Role::ALL {
        let told = Instant::now();
        assert_eq!(mirror.nodes[0].stop(role).code(), Some(0));
        assert!(told.elapsed() < ENDS, "the {} took {:?}", role.name(), told.elapsed());
    }
    mirror.nodes[0].start_both();
    let watcher = mirror.nodes[0].process(Role::Watcher);
    wait_until(SOON, "the second warning", || watcher.lines_at("WARN").len() == 2);
    mirror.broker.start();
    assert_eq!(mirror.wait_agreed(LONG).0.len(), 1_202);
    mirror.wait_ready();
    is_over(&mut mirror, 0, 2);
    is_over(&mut mirror, 1, 1);
    assert_eq!(mirror.log().len(), 1_202);
}

#[test]
fn removals_in_bulk_out_of_the_outbox_are_held_and_renames_are_not() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..700 {
        let folder = if i < 400 { "bulk" } else { "before" };
        write(&mirror.nodes[0].path(format!("{folder}/{i}")), &content(&i.to_string(), 500));
    }
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_agreed(LONG);
    mirror.wait_ready();
    mirror.broker.stop();
    fs::rename(mirror.nodes[0].path("before"), mirror.nodes[0].path("after")).unwrap();
    fs::remove_dir_all(mirror.nodes[0].path("bulk")).unwrap();
    wait_outbox(&mirror.nodes[0], "all of it in the outbox", 400 + 600);
    mirror.broker.start();
    write(&mirror.nodes[0].path("added"), b"added");
    mirror.wait_everywhere("added", b"added");
    wait_for(LONG, "the removals to be held", || {
        let local = mirror.nodes[0].local_status(Role::Watcher);
        if local["held"] == 400 && local["outbox"] == 0 { Ok(()) } else { Err(local.to_string()) }
    });
    wait_until(LONG, "the renamed folder on b", || !mirror.nodes[1].path("before/699").exists());
    let kept = e2e::Tree::sizes(&mirror.nodes[1].path("bulk")).0.len();
    assert_eq!(kept, 400, "nothing was removed on b");
    mirror.nodes[0].run(Role::Watcher, &["approve"]).succeeded();
    assert_eq!(mirror.wait_agreed(LONG).0.len(), 301);
}

#[test]
fn a_process_that_waits_for_a_broker_that_stands_still_ends_when_it_is_told_to() {
    let mut mirror = Mirror::running(&["a"]);
    mirror.broker.pause();
    write(&mirror.nodes[0].path("meanwhile"), b"meanwhile");
    let watcher = mirror.nodes[0].process(Role::Watcher);
    wait_until(SOON, "the loss to be noticed", || watcher.log().contains("lost the broker"));
    for role in Role::ALL {
        for started in [true, false] {
            if !started {
                mirror.nodes[0].start(role);
                let process = mirror.nodes[0].process(role);
                // Both write to one file.
                wait_until(SOON, "a second start", || {
                    let log = process.log();
                    let (_, second) = log.split_once("\"stopping\"").expect("the first has ended");
                    second.contains("broker cannot be reached")
                });
            }
            let told = Instant::now();
            assert_eq!(mirror.nodes[0].stop(role).code(), Some(0));
            assert!(told.elapsed() < ENDS, "the {} took {:?}", role.name(), told.elapsed());
        }
    }
    mirror.broker.resume();
    mirror.nodes[0].start_both();
    wait_until(SOON, "what was written meanwhile", || mirror.log_of("meanwhile").len() == 1);
    mirror.wait_agreed(SOON);
}

/// An event that b's broker and index both take for applied, and that never was.
#[test]
fn an_event_that_was_never_delivered_is_found_after_the_broker_was_away() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("before"), b"before");
    mirror.wait_agreed(SOON);
    mirror.nodes[1].stop_both();
    write(&mirror.nodes[0].path("lost"), b"lost");
    wait_until(SOON, "its event", || mirror.log_of("lost").len() == 1);
    let lost = mirror.log_of("lost").remove(0);
    assert_eq!(mirror.nats().acknowledge_next("b"), lost.version);
    pass_over(&mirror.nodes[1], &lost);
    // A start is not yet enough to go wrong or right: the loss of the broker is what is tested.
    mirror.nodes[1].start_both();
    mirror.broker.kill();
    mirror.broker.start();
    mirror.wait_everywhere("lost", b"lost");
    mirror.wait_agreed(SOON);
    let replicator = mirror.nodes[1].process(Role::Replicator);
    wait_until(SOON, "a line that says so", || {
        replicator.log().contains("events that this index did not know")
    });
}

/// Moves a node's version past an event.
fn pass_over(node: &Node, event: &e2e::LogLine) {
    let index = Index::open(&node.state().join("index.db")).unwrap();
    let version = Version::new(event.version);
    let subjects = Subjects::new(&"media".parse().unwrap());
    let event = event.event.identity(&subjects);
    let subject = subjects.of(&"lost".parse().unwrap());
    let write = index.write(move |tx| {
        tx.node_mut().version = version;
        tx.node_mut().at_version = Some(Landmark { version, subject, event });
        Ok(())
    });
    tokio::runtime::Runtime::new().unwrap().block_on(write).unwrap();
}
