//! Changes travel both ways, and the last state of a path stands on all nodes.

use e2e::{LONG, Mirror, Node, Role, SOON, content, paced, wait_until, write};
use std::{fs, thread, time::Duration};

#[test]
fn files_added_changed_and_removed_on_either_node_reach_the_other() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let (a, b) = (mirror.nodes[0].root.clone(), mirror.nodes[1].root.clone());
    for i in 0..20 {
        write(&a.join(format!("from-a/{}/{i}.jpg", i % 3)), &content(&format!("a{i}"), 1000 * i));
        write(&b.join(format!("from-b/{}/{i}.jpg", i % 3)), &content(&format!("b{i}"), 1000 * i));
    }
    assert_eq!(mirror.wait_equal(SOON).0.len(), 40);
    write(&b.join("from-a/0/0.jpg"), b"changed on b");
    fs::remove_file(a.join("from-b/1/1.jpg")).unwrap();
    mirror.wait_everywhere("from-a/0/0.jpg", b"changed on b");
    mirror.wait_nowhere("from-b/1/1.jpg");
    assert_eq!(mirror.wait_equal(SOON).0.len(), 39);
}

#[test]
fn both_nodes_write_at_once_and_agree_at_the_end() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let roots: Vec<_> = mirror.nodes.iter().map(|node| node.root.clone()).collect();
    thread::scope(|scope| {
        for (n, root) in roots.iter().enumerate() {
            scope.spawn(move || {
                paced(Duration::from_millis(4), 0..300, |i| {
                    // Every third file has a name that both nodes write.
                    let name = if i % 3 == 0 { format!("both/{i}") } else { format!("only-{n}/{i}") };
                    write(&root.join(name), &content(&format!("{n} {i}"), 2000));
                });
            });
        }
    });
    assert_eq!(mirror.wait_equal(LONG).0.len(), 500);
}

#[test]
fn a_node_may_run_only_one_of_the_two() {
    let mut mirror = Mirror::idle(&["source", "sink"]);
    mirror.nodes[0].start(Role::Watcher);
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_ready();
    write(&mirror.nodes[0].path("a/b.txt"), b"one way");
    mirror.wait_everywhere("a/b.txt", b"one way");
    // What appears on the sink is its own: nobody publishes it.
    write(&mirror.nodes[1].path("local.txt"), b"stays");
    fs::remove_file(mirror.nodes[0].path("a/b.txt")).unwrap();
    mirror.wait_nowhere("a/b.txt");
    let paths: Vec<_> = mirror.log().iter().map(e2e::LogLine::path).collect();
    assert_eq!(paths, ["a/b.txt", "a/b.txt"]);
    assert!(mirror.nodes[1].path("local.txt").exists());
}

#[test]
fn files_that_were_there_or_changed_before_the_start_are_published() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..50 {
        write(&mirror.nodes[0].path(format!("old/{}/{i}", i % 5)), &content(&i.to_string(), 3000));
    }
    mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
    assert_eq!(mirror.wait_equal(SOON).0.len(), 50);
    mirror.nodes[0].stop(Role::Watcher);
    write(&mirror.nodes[0].path("old/0/0"), b"changed while nobody watched");
    write(&mirror.nodes[0].path("new"), b"new");
    fs::remove_file(mirror.nodes[0].path("old/1/1")).unwrap();
    mirror.nodes[0].start(Role::Watcher);
    mirror.wait_everywhere("old/0/0", b"changed while nobody watched");
    mirror.wait_everywhere("new", b"new");
    mirror.wait_nowhere("old/1/1");
    assert_eq!(mirror.wait_equal(SOON).0.len(), 50);
}

#[test]
fn the_same_bytes_added_removed_and_added_again_are_there_at_the_end() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let file = mirror.nodes[0].path("again.bin");
    let bytes = content("again", 20_000);
    write(&file, &bytes);
    mirror.wait_everywhere("again.bin", &bytes);
    fs::remove_file(&file).unwrap();
    mirror.wait_nowhere("again.bin");
    write(&file, &bytes);
    mirror.wait_everywhere("again.bin", &bytes);
    let kinds: Vec<_> = mirror.log_of("again.bin").iter().map(|line| line.event.kind().as_str()).collect();
    assert_eq!(kinds, ["added", "removed", "added"]);

    // As fast as it goes: how many events that makes is open, the last state is not.
    for _ in 0..5 {
        fs::remove_file(&file).unwrap();
        write(&file, &bytes);
    }
    write(&mirror.nodes[0].path("after"), b"after");
    mirror.wait_everywhere("after", b"after");
    assert_eq!(mirror.wait_equal(SOON).0.len(), 2);
}

#[test]
fn the_last_of_five_rewrites_within_100_ms_stands_on_all_nodes() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for round in 0..5 {
        let path = format!("rewritten-{round}");
        let file = mirror.nodes[round % 2].path(&path);
        paced(Duration::from_millis(20), 0..5, |i| {
            write(&file, &content(&format!("{round} {i}"), 50_000 + i));
        });
        mirror.wait_everywhere(&path, &content(&format!("{round} 4"), 50_004));
    }
    mirror.wait_equal(SOON);
}

#[test]
fn a_file_written_and_removed_within_50_ms_stays_away() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for round in 0..5 {
        let file = mirror.nodes[0].path(format!("short-{round}"));
        // The life of the file goes from nothing to 40 ms, to meet each stage of the way.
        paced(Duration::from_millis(round * 10), 0..2, |step| {
            if step == 0 { write(&file, b"short") } else { fs::remove_file(&file).unwrap() }
        });
    }
    write(&mirror.nodes[0].path("after"), b"after");
    mirror.wait_everywhere("after", b"after");
    assert_eq!(mirror.wait_equal(SOON).0.len(), 1);
}

#[test]
fn two_mirrors_share_a_broker_and_nothing_else() {
    let mut mirror = Mirror::idle(&["a", "b", "other"]);
    mirror.nodes[2].mirror = "another-mirror".into();
    mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
    write(&mirror.nodes[0].path("here"), b"here");
    write(&mirror.nodes[2].path("there"), b"there");
    wait_until(SOON, "one event in each log", || {
        ["MIRROR_MEDIA", "MIRROR_ANOTHER-MIRROR"].iter().all(|log| mirror.nats().messages(log) == 1)
    });
    wait_until(SOON, "the file on its own mirror", || mirror.nodes[1].path("here").exists());
    assert!(!mirror.nodes[2].path("here").exists());
    assert!(!mirror.nodes[0].path("there").exists());
}

#[test]
fn what_is_written_now_arrives_before_the_backlog() {
    const BACKLOG: usize = 1500;
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..BACKLOG {
        write(&mirror.nodes[0].path(format!("backlog/{i}")), &content(&format!("{i}"), 4000));
    }
    mirror.nodes[0].start(Role::Watcher);
    wait_until(LONG, "the backlog in the log", || mirror.log().len() == BACKLOG);
    // All of it takes longer than anything here waits.
    mirror.nodes[1].start_with(Role::Replicator, &["--download-limit", "64KiB", "--transfers", "8"]);
    wait_until(SOON, "the first of it", || mirror.nodes[1].path("backlog").exists());
    let log = |node: &mut Node| node.process(Role::Replicator).log();
    wait_until(SOON, "hints", || log(&mut mirror.nodes[1]).contains("published now is applied first"));
    for i in 0..3 {
        let (path, bytes) = (format!("uploads/{i}"), content(&format!("fresh {i}"), 5000));
        write(&mirror.nodes[0].path(&path), &bytes);
        wait_until(SOON, &path, || fs::read(mirror.nodes[1].path(&path)).is_ok_and(|read| read == bytes));
    }
    fs::remove_file(mirror.nodes[0].path("uploads/0")).unwrap();
    wait_until(SOON, "the removal", || !mirror.nodes[1].path("uploads/0").exists());
    // The record tells both.
    let expected = |record: &serde_json::Value| {
        let version = record["version"].as_u64().unwrap();
        let beyond = record["beyond"].as_array().unwrap();
        let last = beyond.last().and_then(|range| range[1].as_u64());
        version < BACKLOG as u64 && last == Some(BACKLOG as u64 + 4)
    };
    wait_until(SOON, "a record that says so", || {
        mirror.nats().record("b", Role::Replicator).is_some_and(|record| expected(&record))
    });
    // And the backlog is worked off.
    mirror.nodes[1].kill(Role::Replicator);
    mirror.nodes[1].start(Role::Replicator);
    assert_eq!(mirror.wait_equal(LONG).0.len(), BACKLOG + 2);
}
