//! Whole folders at once: copied in, moved in, renamed.

use common::index::Index;
use e2e::{LONG, Link, Mirror, Proxy, Tree, content, wait_until, write};
use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// 2,000 files in five levels of folders.
fn grow(root: &Path) {
    for i in 0..2_000usize {
        let (a, b, c, d) = (i % 2, i / 2 % 3, i / 6 % 4, i / 24 % 5);
        let path = format!("tree/{a}/{b}/{c}/{d}/{i}.jpg");
        write(&root.join(path), &content(&i.to_string(), 1 + i * 7 % 9_000));
    }
}

/// Watches `root` while `action` runs and until `done` returns: whatever stands there is as long as it has to be.
fn none_torn<T>(root: &Path, wanted: &Tree, action: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looker = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                for (path, size) in Tree::sizes(root).0 {
                    let name = path.escape_ascii().to_string();
                    assert_eq!(wanted.0.get(&path), Some(&size), "{name} is torn");
                }
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action));
        over.store(true, Ordering::SeqCst);
        looker.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn arrives_whole(how: &[&str]) {
    let mut mirror = Mirror::running(&["a", "b"]);
    let source = mirror.outside("source");
    grow(&source);
    let (sizes, wanted) = (Tree::sizes(&source), Tree::of(&source));
    let (from, to, other) = (source.join("tree"), mirror.nodes[0].root.clone(), mirror.nodes[1].root.clone());
    let found = none_torn(&other, &sizes, || {
        assert!(Command::new(how[0]).args(&how[1..]).arg(&from).arg(&to).status().unwrap().success());
        mirror.wait_equal(LONG)
    });
    found.equal(&wanted).unwrap();
    assert_eq!(mirror.log().len(), 2_000, "each file is published once");
}

#[test]
fn a_tree_copied_in_while_live_arrives_whole() {
    arrives_whole(&["cp", "-a"]);
}

#[test]
fn a_tree_moved_in_while_live_arrives_whole() {
    arrives_whole(&["mv"]);
}

#[test]
fn a_folder_of_5000_files_is_renamed_without_transfer_and_without_being_held() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..5_000 {
        write(&mirror.nodes[0].path(format!("before/{i}")), &content(&i.to_string(), 500));
    }
    mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
    assert_eq!(mirror.wait_equal(LONG).0.len(), 5_000);
    mirror.wait_ready();
    let before = mirror.nats().bucket_state();
    let nats = e2e::Nats::connect(&mirror.broker.url());
    let tap = nats.tap();
    fs::rename(mirror.nodes[0].path("before"), mirror.nodes[0].path("after")).unwrap();
    let tree = mirror.wait_equal(LONG);
    assert_eq!(tree.0.len(), 5_000);
    assert!(tree.0.keys().all(|path| path.starts_with(b"after/")));
    assert_eq!((tap.seen().stored, tap.seen().read), (0, 0), "no bytes are transferred");
    let after = mirror.nats().bucket_state();
    assert_eq!(after.messages, before.messages);
    mirror.wait_ready(); // A watcher that holds removals back is degraded.
}

/// When the folder goes the event is in the log, and there is no row of it yet that could be missed: the acknowledgement is on its way.
#[test]
fn a_folder_that_is_renamed_while_a_file_in_it_is_being_published_leaves_nothing_behind() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let link = Proxy::to(mirror.broker.port(), 1);
    mirror.nodes[0].find_broker_at(link.url());
    mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
    mirror.wait_ready();
    let (before, after) = (mirror.nodes[0].path("before"), mirror.nodes[0].path("after"));
    write(&before.join("first"), b"first");
    mirror.wait_everywhere("before/first", b"first");
    link.set(Link::Slow(600));
    write(&before.join("f"), b"f");
    wait_until(LONG, "the event", || !mirror.log_of("before/f").is_empty());
    fs::rename(before, after).unwrap();
    let index = Index::open(&mirror.nodes[0].state().join("index.db")).unwrap();
    let path = "before/f".parse().unwrap();
    assert_eq!(index.path_state(&path).unwrap().row, None, "the acknowledgement came too soon");
    mirror.wait_everywhere("after/f", b"f");
    link.set(Link::Good);
    mirror.wait_nowhere("before/f");
    mirror.wait_equal(LONG);
}

#[test]
fn content_that_a_node_has_is_copied_there_and_not_fetched() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let bytes = content("large", 3_000_000);
    write(&mirror.nodes[0].path("original"), &bytes);
    mirror.wait_everywhere("original", &bytes);
    let nats = e2e::Nats::connect(&mirror.broker.url());
    let tap = nats.tap();
    fs::copy(mirror.nodes[0].path("original"), mirror.nodes[0].path("copy")).unwrap();
    mirror.wait_everywhere("copy", &bytes);
    // What was removed a moment ago is still in the trash.
    for name in ["original", "copy"] {
        fs::remove_file(mirror.nodes[0].path(name)).unwrap();
        mirror.wait_nowhere(name);
    }
    mirror.wait_equal(LONG);
    write(&mirror.nodes[0].path("back"), &bytes);
    mirror.wait_everywhere("back", &bytes);
    assert_eq!((tap.seen().stored, tap.seen().read), (0, 0));
}

#[test]
fn content_that_already_stands_at_the_path_is_adopted() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..200 {
        for node in &mirror.nodes {
            write(&node.path(format!("same/{i}")), &content(&i.to_string(), 5_000));
        }
    }
    mirror.nodes[0].start_both();
    mirror.wait_ready();
    e2e::wait_until(LONG, "all files in the log", || mirror.log().len() == 200);
    let nats = e2e::Nats::connect(&mirror.broker.url());
    let tap = nats.tap();
    mirror.nodes[1].start_both();
    assert_eq!(mirror.wait_equal(LONG).0.len(), 200);
    assert_eq!((tap.seen().stored, tap.seen().read), (0, 0));
    assert_eq!(mirror.log().len(), 200, "what arrives makes no echo");
}
