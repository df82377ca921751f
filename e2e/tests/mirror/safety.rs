//! What could lose data, or stop the rest: conflicts, removals in bulk, events that cannot be applied.

use e2e::{LONG, Mirror, Role, SOON, Tree, content, wait_for, wait_until, write};
use std::{fs, os::unix::ffi::OsStrExt, path::Path};

/// Whether the trash of a node has this content under this path.
fn in_trash(root: &Path, path: &str, bytes: &[u8]) -> bool {
    let Ok(ids) = fs::read_dir(root.join(".mirror/trash")) else { return false };
    ids.flatten().any(|id| fs::read(id.path().join(path)).is_ok_and(|found| found == bytes))
}

#[test]
fn of_two_contents_at_one_path_one_wins_and_the_other_is_kept() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let contents = [b"the logo of a".as_slice(), b"the logo of b"];
    for (node, bytes) in mirror.nodes.iter().zip(contents) {
        write(&node.path("img/logo.png"), bytes);
    }
    mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
    mirror.wait_equal(SOON);
    let winner = fs::read(mirror.nodes[0].path("img/logo.png")).unwrap();
    let loser = contents.into_iter().find(|bytes| *bytes != winner).unwrap();
    let of_loser = mirror.nodes.iter().zip(contents).find(|(_, bytes)| *bytes == loser).unwrap().0;
    wait_until(SOON, "the lost content in the trash", || in_trash(&of_loser.root, "img/logo.png", loser));
}

#[test]
fn what_is_removed_or_replaced_goes_to_the_trash_of_the_others() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for name in ["removed", "replaced"] {
        write(&mirror.nodes[0].path(name), name.as_bytes());
        mirror.wait_everywhere(name, name.as_bytes());
    }
    fs::remove_file(mirror.nodes[0].path("removed")).unwrap();
    write(&mirror.nodes[0].path("replaced"), b"new");
    mirror.wait_nowhere("removed");
    mirror.wait_everywhere("replaced", b"new");
    let b = mirror.nodes[1].root.clone();
    for name in ["removed", "replaced"] {
        wait_until(SOON, "the old content in the trash", || in_trash(&b, name, name.as_bytes()));
    }
    mirror.wait_equal(SOON);
}

#[test]
fn a_removal_in_bulk_is_held_while_additions_go_on() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..300 {
        write(&mirror.nodes[0].path(format!("bulk/{i}")), &content(&i.to_string(), 500));
    }
    mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
    mirror.wait_equal(LONG);
    mirror.wait_ready();
    fs::remove_dir_all(mirror.nodes[0].path("bulk")).unwrap();
    wait_for(SOON, "the watcher of a to hold the removals", || {
        let record = mirror.nats().record("a", Role::Watcher).ok_or("no record")?;
        if record["state"] == "degraded" { Ok(()) } else { Err(record.to_string()) }
    });
    write(&mirror.nodes[0].path("added"), b"added");
    mirror.wait_everywhere("added", b"added");
    let kept = Tree::sizes(&mirror.nodes[1].root).0.len();
    assert!(kept > 200, "only {kept} files are left on b");
}

#[test]
fn an_event_that_makes_no_sense_is_set_aside_and_stops_nothing() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("before"), b"before");
    mirror.wait_everywhere("before", b"before");
    let nats = mirror.nats();
    nats.publish("mirror.media.poison", b"no event at all");
    let elsewhere = br#"{"v":1,"type":"removed","path":"../escape","sha256":"00","node":"x","replaces":0}"#;
    nats.publish("mirror.media.escape", elsewhere);
    write(&mirror.nodes[1].path("after"), b"after");
    mirror.wait_everywhere("after", b"after");
    for node in ["a", "b"] {
        wait_for(SOON, "two parked events", || {
            let record = mirror.nats().record(node, Role::Replicator).ok_or("no record")?;
            if record["parked"] == 2 { Ok(()) } else { Err(record.to_string()) }
        });
    }
}

#[test]
fn links_in_the_way_do_not_lead_out_of_the_root() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let outside = mirror.outside("outside");
    std::os::unix::fs::symlink(&outside, mirror.nodes[1].path("uploads")).unwrap();
    mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
    write(&mirror.nodes[0].path("uploads/evil"), b"evil");
    write(&mirror.nodes[0].path("good"), b"good");
    mirror.wait_everywhere("good", b"good");
    let stray: Vec<_> = fs::read_dir(&outside).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(stray.is_empty(), "{:?}", stray.iter().map(|name| name.as_bytes()).collect::<Vec<_>>());
}
