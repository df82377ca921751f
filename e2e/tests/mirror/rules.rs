//! What the operator and the node's own users may rely on: removals that are held, names, policies, conflicts, ignore
//! rules.

use e2e::{LONG, Mirror, Node, Role, SOON, Tree, content, wait_for, wait_until, write};
use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration, time::Instant};

/// Where the trash of a node has this path.
fn in_trash(root: &Path, path: &str) -> Vec<Vec<u8>> {
    let Ok(ids) = fs::read_dir(root.join(".mirror/trash")) else { return Vec::new() };
    ids.flatten().filter_map(|id| fs::read(id.path().join(path)).ok()).collect()
}

fn wait_held(mirror: &Mirror, node: usize, held: u64) {
    wait_for(SOON, &format!("{held} removals to be held"), || {
        let local = mirror.nodes[node].local_status(Role::Watcher);
        if local["held"] == held { Ok(()) } else { Err(local.to_string()) }
    });
}

fn wait_state(mirror: &mut Mirror, node: &str, role: Role, state: &str) {
    wait_for(SOON, &format!("the {} of {node} to be {state}", role.name()), || {
        let record = mirror.nats().record(node, role).ok_or("no record")?;
        if record["state"] == state { Ok(()) } else { Err(record.to_string()) }
    });
}

/// Two hundred files on both nodes.
fn two_hundred() -> Mirror {
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..200 {
        write(&mirror.nodes[0].path(format!("bulk/{i}")), &content(&i.to_string(), 500));
    }
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_equal(LONG);
    mirror.wait_ready();
    mirror
}

// ---- removals in bulk -----------------------------------------------------------------------------------------------

#[test]
fn held_removals_are_published_once_they_are_approved() {
    let mut mirror = two_hundred();
    for i in 0..150 {
        fs::remove_file(mirror.nodes[0].path(format!("bulk/{i}"))).unwrap();
    }
    wait_held(&mirror, 0, 150);
    wait_state(&mut mirror, "a", Role::Watcher, "degraded");
    write(&mirror.nodes[0].path("added"), b"added");
    mirror.wait_everywhere("added", b"added");
    assert_eq!(Tree::sizes(&mirror.nodes[1].root).0.len(), 201, "nothing is removed before it is approved");
    let said = mirror.nodes[0].run(Role::Watcher, &["approve"]).succeeded();
    assert!(said.stdout.contains("150"), "{said:?}");
    assert_eq!(mirror.wait_agreed(SOON).0.len(), 51);
    wait_held(&mirror, 0, 0);
    wait_state(&mut mirror, "a", Role::Watcher, "ready");
}

#[test]
fn held_removals_survive_a_restart() {
    let mut mirror = two_hundred();
    fs::remove_dir_all(mirror.nodes[0].path("bulk")).unwrap();
    wait_held(&mirror, 0, 200);
    mirror.nodes[0].stop(Role::Watcher);
    mirror.nodes[0].start(Role::Watcher);
    wait_state(&mut mirror, "a", Role::Watcher, "degraded");
    write(&mirror.nodes[0].path("added"), b"added");
    mirror.wait_everywhere("added", b"added");
    wait_held(&mirror, 0, 200);
    assert_eq!(Tree::sizes(&mirror.nodes[1].root).0.len(), 201);
    mirror.nodes[0].run(Role::Watcher, &["approve"]).succeeded();
    assert_eq!(mirror.wait_agreed(SOON).0.len(), 1);
}

#[test]
fn held_removals_of_files_that_come_back_are_held_no_more() {
    let mut mirror = two_hundred();
    let (bulk, away) = (mirror.nodes[0].path("bulk"), mirror.outside("away").join("bulk"));
    fs::rename(&bulk, &away).unwrap();
    wait_held(&mirror, 0, 200);
    fs::rename(&away, &bulk).unwrap();
    wait_held(&mirror, 0, 0);
    wait_state(&mut mirror, "a", Role::Watcher, "ready");
    assert_eq!(mirror.wait_agreed(SOON).0.len(), 200);
    assert_eq!(mirror.log().len(), 200);
}

// ---- the root and its marker ----------------------------------------------------------------------------------------

#[test]
fn a_root_without_its_marker_is_not_touched() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..20 {
        write(&mirror.nodes[0].path(i.to_string()), b"some content");
    }
    mirror.wait_equal(SOON);
    mirror.nodes[0].stop_both();
    // As if the disk had not been mounted.
    let root = mirror.nodes[0].root.clone();
    fs::rename(&root, mirror.dir().join("not mounted")).unwrap();
    fs::create_dir(&root).unwrap();
    let events = mirror.log().len();
    for role in Role::ALL {
        let finished = mirror.nodes[0].run(role, &["run"]);
        assert_eq!(finished.code, Some(5), "{finished:?}");
        assert!(finished.stderr.contains("marker"), "{finished:?}");
    }
    assert_eq!(Tree::of(&root).0.len(), 0);
    assert_eq!((mirror.log().len(), Tree::of(&mirror.nodes[1].root).0.len()), (events, 20));
    // Mounted again, all is well.
    fs::remove_dir_all(&root).unwrap();
    fs::rename(mirror.dir().join("not mounted"), &root).unwrap();
    mirror.nodes[0].start_both();
    mirror.wait_ready();
    assert_eq!(mirror.wait_agreed(SOON).0.len(), 20);
    assert_eq!(mirror.log().len(), events);
}

/// The root goes away under running processes: no removal is published.
fn loses_its_root(lose: impl FnOnce(&Path)) {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..20 {
        write(&mirror.nodes[0].path(format!("{}/{i}", i % 3)), b"some content");
    }
    mirror.wait_agreed(SOON);
    let events = mirror.log().len();
    lose(&mirror.nodes[0].root);
    assert_eq!(mirror.nodes[0].ended(Role::Watcher, SOON).code(), Some(5));
    // The replicator notices with the next change at the latest.
    write(&mirror.nodes[1].path("new"), b"new");
    assert_eq!(mirror.nodes[0].ended(Role::Replicator, SOON).code(), Some(5));
    assert_eq!(Tree::of(&mirror.nodes[1].root).0.len(), 21);
    assert_eq!(Tree::of(&mirror.nodes[0].root).0.len(), 0);
    assert_eq!(mirror.log().len(), events + 1);
}

#[test]
fn a_root_emptied_under_running_processes_halts_them() {
    loses_its_root(|root| {
        for entry in fs::read_dir(root).unwrap().flatten() {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    });
}

#[test]
fn a_root_swapped_under_running_processes_halts_them() {
    loses_its_root(|root| {
        let aside = root.with_file_name("aside");
        fs::rename(root, &aside).unwrap();
        fs::create_dir(root).unwrap();
        fs::remove_dir_all(aside.join("0")).unwrap();
    });
}

// ---- names ----------------------------------------------------------------------------------------------------------

#[test]
fn a_second_machine_under_the_same_name_is_told_who_has_it() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let (elsewhere, url) = (mirror.outside("another machine"), mirror.broker.url());
    let other = Node::new(&elsewhere, "a", Some(url));
    write(&other.path("of the other"), b"never published");
    let instance = fs::read_to_string(mirror.nodes[0].state().join("instance")).unwrap();
    for role in Role::ALL {
        let finished = other.run(role, &["run"]);
        assert_eq!(finished.code, Some(5), "{finished:?}");
        assert!(finished.stderr.contains(instance.trim()), "{instance} is missing in {finished:?}");
        assert!(mirror.nodes[0].process(role).is_running());
    }
    write(&mirror.nodes[0].path("later"), b"later");
    mirror.wait_everywhere("later", b"later");
    assert_eq!(mirror.log().len(), 1);
    assert!(!other.path("later").exists());
}

#[test]
fn a_killed_node_has_its_name_again_at_once() {
    let mut mirror = Mirror::running(&["a", "b"]);
    Role::ALL.into_iter().for_each(|role| mirror.nodes[0].kill(role));
    let killed = Instant::now();
    mirror.nodes[0].start_both();
    write(&mirror.nodes[0].path("early"), b"early");
    mirror.wait_everywhere("early", b"early");
    // Another machine would have had to wait for 15 s.
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
}

// ---- what becomes of removed files ----------------------------------------------------------------------------------

#[test]
fn deleted_files_leave_the_trash_after_another_look() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start_both();
    mirror.nodes[1].start(Role::Watcher);
    mirror.nodes[1].start_with(Role::Replicator, &["--removals", "delete"]);
    write(&mirror.nodes[0].path("uploads/file"), b"file");
    mirror.wait_everywhere("uploads/file", b"file");
    mirror.wait_ready();
    fs::remove_file(mirror.nodes[0].path("uploads/file")).unwrap();
    mirror.wait_nowhere("uploads/file");
    let b = mirror.nodes[1].root.clone();
    wait_until(SOON, "the trash of b to be empty", || in_trash(&b, "uploads/file").is_empty());
    let left = Tree::of(&b.join(".mirror/trash"));
    assert!(left.0.is_empty(), "{left:?}");
    mirror.wait_agreed(SOON);
}

#[test]
fn ignored_removals_leave_the_file_and_do_not_publish_it_again() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start_both();
    mirror.nodes[1].start(Role::Watcher);
    mirror.nodes[1].start_with(Role::Replicator, &["--removals", "ignore"]);
    write(&mirror.nodes[0].path("kept"), b"kept on b");
    mirror.wait_everywhere("kept", b"kept on b");
    mirror.wait_ready();
    fs::remove_file(mirror.nodes[0].path("kept")).unwrap();
    wait_until(SOON, "the removal in the log", || mirror.log().len() == 2);
    write(&mirror.nodes[0].path("after"), b"after");
    mirror.wait_everywhere("after", b"after");
    // Neither a restart of both, nor a touch of the file, makes it news.
    mirror.nodes[1].stop_both();
    let kept = fs::File::options().write(true).open(mirror.nodes[1].path("kept")).unwrap();
    kept.set_modified(std::time::SystemTime::now()).unwrap();
    drop(kept);
    mirror.nodes[1].start(Role::Watcher);
    mirror.nodes[1].start_with(Role::Replicator, &["--removals", "ignore"]);
    mirror.wait_ready();
    write(&mirror.nodes[1].path("later"), b"later");
    mirror.wait_everywhere("later", b"later");
    assert_eq!(fs::read(mirror.nodes[1].path("kept")).unwrap(), b"kept on b");
    assert!(!mirror.nodes[0].path("kept").exists());
    let paths: Vec<_> = mirror.log().iter().map(e2e::LogLine::path).collect();
    assert_eq!(paths, ["kept", "kept", "after", "later"]);
    // Other content is news.
    write(&mirror.nodes[1].path("kept"), b"other content");
    mirror.wait_everywhere("kept", b"other content");
    mirror.wait_agreed(SOON);
}

// ---- conflicts ------------------------------------------------------------------------------------------------------

#[test]
fn a_rewrite_stands_against_a_removal_that_comes_first() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("file"), b"at first");
    mirror.wait_everywhere("file", b"at first");
    mirror.wait_agreed(SOON);
    mirror.nodes[1].stop_both();
    write(&mirror.nodes[1].path("file"), b"rewritten on b");
    fs::remove_file(mirror.nodes[0].path("file")).unwrap();
    wait_until(SOON, "the removal in the log", || mirror.log().len() == 2);
    mirror.nodes[1].start_both();
    mirror.wait_everywhere("file", b"rewritten on b");
    mirror.wait_agreed(SOON);
    assert_eq!(mirror.nodes[1].lost_conflicts(), Vec::<String>::new());
}

#[test]
fn a_rewrite_stands_against_a_removal_that_comes_later() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("file"), b"at first");
    mirror.wait_everywhere("file", b"at first");
    mirror.wait_agreed(SOON);
    mirror.nodes[0].stop_both();
    fs::remove_file(mirror.nodes[0].path("file")).unwrap();
    write(&mirror.nodes[1].path("file"), b"rewritten on b");
    wait_until(SOON, "the rewrite in the log", || mirror.log().len() == 2);
    mirror.nodes[0].start_both();
    mirror.wait_everywhere("file", b"rewritten on b");
    mirror.wait_agreed(SOON);
}

#[test]
fn a_rewrite_and_a_removal_at_the_same_time_leave_the_rewrite() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let paths: Vec<String> = (0..20).map(|i| format!("file {i}")).collect();
    for path in &paths {
        write(&mirror.nodes[0].path(path), b"at first");
        mirror.wait_everywhere(path, b"at first");
    }
    for path in &paths {
        fs::remove_file(mirror.nodes[0].path(path)).unwrap();
        write(&mirror.nodes[1].path(path), path.as_bytes());
    }
    for path in &paths {
        mirror.wait_everywhere(path, path.as_bytes());
    }
    mirror.wait_agreed(SOON);
}

#[test]
fn the_same_bytes_written_again_stand_against_a_removal() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("file"), b"the same");
    mirror.wait_everywhere("file", b"the same");
    mirror.wait_agreed(SOON);
    mirror.nodes[1].stop(Role::Replicator);
    fs::remove_file(mirror.nodes[0].path("file")).unwrap();
    let before = fs::metadata(mirror.nodes[1].path("file")).unwrap().mtime_nsec();
    write(&mirror.nodes[1].path("file"), b"the same");
    assert_ne!(fs::metadata(mirror.nodes[1].path("file")).unwrap().mtime_nsec(), before);
    wait_until(SOON, "the removal in the log", || mirror.log().len() == 2);
    mirror.nodes[1].start(Role::Replicator);
    wait_until(SOON, "it to be published over the removal", || mirror.log().len() == 3);
    mirror.wait_everywhere("file", b"the same");
    mirror.wait_agreed(SOON);
}

#[test]
fn a_users_file_where_an_addition_arrives_is_kept_and_listed() {
    let mut mirror = Mirror::running(&["a", "b"]);
    mirror.nodes[1].stop(Role::Watcher);
    write(&mirror.nodes[1].path("uploads/logo"), b"a user's of b");
    write(&mirror.nodes[0].path("uploads/logo"), b"of a");
    mirror.wait_everywhere("uploads/logo", b"of a");
    let b = &mirror.nodes[1];
    wait_until(SOON, "the user's file in the trash", || {
        in_trash(&b.root, "uploads/logo") == [b"a user's of b"]
    });
    assert_eq!(b.lost_conflicts(), ["uploads/logo"]);
    let listed = b.local_status(Role::Replicator)["lost_conflicts"][0].clone();
    let kept = b.path(listed["trash"].as_str().unwrap());
    assert_eq!(fs::read(kept).unwrap(), b"a user's of b");
    // The watcher has nothing to say about it afterwards.
    mirror.nodes[1].start(Role::Watcher);
    mirror.wait_ready();
    mirror.wait_agreed(SOON);
    assert_eq!(mirror.log().len(), 1);
}

#[test]
fn a_full_folder_where_a_file_should_go_stops_nothing_else() {
    let mut mirror = Mirror::running(&["a", "b"]);
    mirror.nodes[1].stop(Role::Watcher);
    write(&mirror.nodes[1].path("in the way/inner"), b"inner");
    write(&mirror.nodes[0].path("in the way"), b"a file");
    wait_until(SOON, "the event", || mirror.log().len() == 1);
    let began = Instant::now();
    for i in 0..20 {
        write(&mirror.nodes[0].path(format!("{i}")), b"others");
    }
    for i in 0..20 {
        mirror.wait_everywhere(&i.to_string(), b"others");
    }
    // A second or two on an idle machine.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(fs::read(mirror.nodes[1].path("in the way/inner")).unwrap(), b"inner");
    fs::remove_dir_all(mirror.nodes[1].path("in the way")).unwrap();
    mirror.wait_everywhere("in the way", b"a file");
    mirror.wait_agreed(SOON);
}

// ---- ignore rules ---------------------------------------------------------------------------------------------------

#[test]
fn what_a_pattern_ignores_stays_where_it_is() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start_with(Role::Watcher, &["--ignore", "*.bak", "--ignore", "/cache/"]);
    mirror.nodes[0].start(Role::Replicator);
    mirror.nodes[1].start_both();
    for path in ["x.bak", "deep/er/y.bak", "cache/z", "unfinished.part", ".nfs0001"] {
        write(&mirror.nodes[0].path(path), b"ignored");
    }
    for path in ["x.jpg", "deep/cache/z"] {
        write(&mirror.nodes[0].path(path), b"mirrored");
    }
    mirror.wait_everywhere("x.jpg", b"mirrored");
    mirror.wait_everywhere("deep/cache/z", b"mirrored");
    // Ignore rules act in the watcher: what another node publishes is applied.
    write(&mirror.nodes[1].path("of b.bak"), b"of b");
    mirror.wait_everywhere("of b.bak", b"of b");
    let mut paths: Vec<_> = mirror.log().iter().map(e2e::LogLine::path).collect();
    paths.sort();
    assert_eq!(paths, ["deep/cache/z", "of b.bak", "x.jpg"]);
}

#[test]
fn a_rule_that_is_added_removes_nothing_elsewhere_and_one_that_goes_is_made_up_for() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for path in ["private/old", "private/kept", "public"] {
        write(&mirror.nodes[0].path(path), path.as_bytes());
        mirror.wait_everywhere(path, path.as_bytes());
    }
    mirror.wait_agreed(SOON);
    write(&mirror.nodes[0].path(".mirrorignore"), b"/private/\n");
    mirror.wait_everywhere(".mirrorignore", b"/private/\n");
    write(&mirror.nodes[0].path("private/new"), b"new");
    fs::remove_file(mirror.nodes[0].path("private/old")).unwrap();
    // Both would have come before what is noticed after them and takes as long: a removal.
    write(&mirror.nodes[0].path("after"), b"after");
    mirror.wait_everywhere("after", b"after");
    fs::remove_file(mirror.nodes[0].path("public")).unwrap();
    mirror.wait_nowhere("public");
    assert_eq!(fs::read(mirror.nodes[1].path("private/old")).unwrap(), b"private/old");
    assert_eq!(fs::read(mirror.nodes[1].path("private/kept")).unwrap(), b"private/kept");
    assert!(!mirror.nodes[1].path("private/new").exists());
    assert_eq!(mirror.log().len(), 6);
    // Without the rule, what it hid is published.
    fs::remove_file(mirror.nodes[0].path(".mirrorignore")).unwrap();
    mirror.wait_everywhere("private/new", b"new");
    mirror.wait_nowhere("private/old");
    mirror.wait_nowhere(".mirrorignore");
    mirror.wait_agreed(SOON);
}
