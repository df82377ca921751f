//! `replicator history` and `replicator restore`: what a path once had comes back as a new version.

use e2e::{Finished, Mirror, Node, Role, SOON, content, sha256_of, wait_until, write};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

fn hash_of(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("file"), bytes);
    sha256_of(&dir.path().join("file")).unwrap()
}

/// A path with three versions (1: first, 2: second, 3: removed) on two nodes.
fn mirror() -> Mirror {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("img/logo.png"), b"the first logo");
    mirror.wait_everywhere("img/logo.png", b"the first logo");
    write(&mirror.nodes[1].path("img/logo.png"), b"the second logo");
    fs::set_permissions(mirror.nodes[1].path("img/logo.png"), fs::Permissions::from_mode(0o640)).unwrap();
    mirror.wait_everywhere("img/logo.png", b"the second logo");
    fs::remove_file(mirror.nodes[0].path("img/logo.png")).unwrap();
    mirror.wait_nowhere("img/logo.png");
    mirror.wait_agreed(SOON);
    mirror
}

fn restore(node: &Node, arguments: &[&str]) -> Finished {
    node.run(Role::Replicator, &[&["restore", "img/logo.png"], arguments].concat())
}

#[test]
fn the_history_of_a_path_names_its_versions() {
    let mut mirror = mirror();
    let node = &mirror.nodes[0];
    let lines = node.run(Role::Replicator, &["history", "img/logo.png", "--json"]).succeeded().json_lines();
    let seen: Vec<_> = lines
        .iter()
        .map(|l| {
            (
                l["version"].as_u64().unwrap(),
                l["type"].as_str().unwrap(),
                l["size"].as_u64(),
                l["node"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [(1, "added", Some(14), "a"), (2, "added", Some(15), "b"), (3, "removed", None, "a")]);
    assert_eq!(lines[0]["sha256"], hash_of(b"the first logo"));
    assert!(lines.iter().all(|line| line["blob"] == true), "{lines:?}");
    mirror.nats().lose_blobs();
    let node = &mirror.nodes[0];
    let said = node.run(Role::Replicator, &["history", "img/logo.png"]).succeeded().stdout;
    assert_eq!(said.lines().filter(|line| line.contains("not in the blob store")).count(), 3, "{said}");
    let unknown = node.run(Role::Replicator, &["history", "never heard of"]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("never heard of"), "{unknown:?}");
}

#[test]
fn a_removed_file_comes_back_and_so_does_any_version_of_it() {
    let mut mirror = mirror();
    let said = restore(&mirror.nodes[0], &[]).succeeded();
    assert!(said.stdout.contains("version 4"), "{said:?}");
    mirror.wait_everywhere("img/logo.png", b"the second logo");
    restore(&mirror.nodes[1], &[]).succeeded();
    mirror.wait_everywhere("img/logo.png", b"the first logo");
    restore(&mirror.nodes[1], &["--version", "2"]).succeeded();
    mirror.wait_everywhere("img/logo.png", b"the second logo");
    restore(&mirror.nodes[0], &["--sha256", &hash_of(b"the first logo")]).succeeded();
    mirror.wait_everywhere("img/logo.png", b"the first logo");
    let again = restore(&mirror.nodes[0], &["--version", "1"]).succeeded();
    assert!(again.stdout.contains("already"), "{again:?}");
    mirror.wait_agreed(SOON);
    assert_eq!(mirror.log().len(), 7);
    for node in &mirror.nodes {
        assert_eq!(node.lost_conflicts(), Vec::<String>::new());
        let left = fs::read_dir(node.path(".mirror/tmp")).unwrap().count();
        assert_eq!(left, 0, "no unfinished files on {}", node.name);
    }
}

#[test]
fn a_large_file_comes_back_from_the_store_with_its_mode() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let bytes = content("large", 900_000);
    write(&mirror.nodes[0].path("large"), &bytes);
    fs::set_permissions(mirror.nodes[0].path("large"), fs::Permissions::from_mode(0o604)).unwrap();
    mirror.wait_everywhere("large", &bytes);
    write(&mirror.nodes[0].path("large"), b"small");
    mirror.wait_everywhere("large", b"small");
    mirror.wait_agreed(SOON);
    // A third node never had the old content.
    let mut third = Node::new(mirror.dir(), "c", Some(mirror.broker.url()));
    third.start_both();
    mirror.nodes.push(third);
    mirror.wait_agreed(SOON);
    mirror.nodes[2].run(Role::Replicator, &["restore", "large"]).succeeded();
    mirror.wait_everywhere("large", &bytes);
    let logged = mirror.log_of("large")[0].event.added.unwrap().mode;
    for node in &mirror.nodes {
        assert_eq!(fs::metadata(node.path("large")).unwrap().mode() & 0o777, logged);
    }
}

/// Old content is no news to an index that has never seen the path; restored content is, since somebody wants it.
#[test]
fn a_node_whose_index_is_lost_restores_a_removed_file() {
    let mut mirror = mirror();
    mirror.nodes[0].stop_both();
    fs::remove_dir_all(mirror.nodes[0].state()).unwrap();
    mirror.nodes[0].start(Role::Watcher);
    wait_until(SOON, "the watcher to have begun", || {
        mirror.nats().record("a", Role::Watcher).is_some_and(|record| record["state"] == "ready")
    });
    restore(&mirror.nodes[0], &["--version", "1"]).succeeded();
    mirror.nodes[0].start(Role::Replicator);
    mirror.wait_everywhere("img/logo.png", b"the first logo");
    mirror.wait_agreed(SOON);
}

#[test]
fn a_lost_conflict_comes_back_from_the_trash() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let contents = [b"the logo of a".as_slice(), b"the logo of b"];
    for (node, bytes) in mirror.nodes.iter().zip(contents) {
        write(&node.path("img/logo.png"), bytes);
    }
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_agreed(SOON);
    let winner = fs::read(mirror.nodes[0].path("img/logo.png")).unwrap();
    let loser = contents.into_iter().position(|bytes| bytes != winner).unwrap();
    wait_until(SOON, "the lost conflict", || mirror.nodes[loser].lost_conflicts() == ["img/logo.png"]);
    let lost = hash_of(contents[loser]);
    restore(&mirror.nodes[loser], &["--sha256", &lost]).succeeded();
    mirror.wait_everywhere("img/logo.png", contents[loser]);
    mirror.wait_agreed(SOON);
    let other = restore(&mirror.nodes[1 - loser], &["--sha256", &hash_of(b"nobody's")]);
    assert!(other.code == Some(1) && other.stderr.contains("never had the content"), "{other:?}");
}

#[test]
fn what_stands_there_unpublished_is_kept_and_a_watcher_that_is_slow_is_not_waited_for_for_ever() {
    let mut mirror = mirror();
    restore(&mirror.nodes[0], &["--version", "1"]).succeeded();
    mirror.wait_everywhere("img/logo.png", b"the first logo");
    mirror.wait_agreed(SOON);
    let watcher = Pid::from_raw(mirror.nodes[0].process(Role::Watcher).id().cast_signed()).unwrap();
    kill_process(watcher, Signal::STOP).unwrap();
    write(&mirror.nodes[0].path("img/logo.png"), b"a draft that nobody has seen");
    let late = restore(&mirror.nodes[0], &["--version", "2", "--timeout", "1s"]);
    assert_eq!(late.code, Some(4), "{late:?}");
    assert_eq!(mirror.nodes[0].lost_conflicts(), ["img/logo.png"]);
    kill_process(watcher, Signal::CONT).unwrap();
    mirror.wait_everywhere("img/logo.png", b"the second logo");
    mirror.wait_agreed(SOON);
    restore(&mirror.nodes[0], &["--sha256", &hash_of(b"a draft that nobody has seen")]).succeeded();
    mirror.wait_everywhere("img/logo.png", b"a draft that nobody has seen");
}

#[test]
fn it_tells_why_nothing_can_be_restored() {
    let mut mirror = mirror();
    let node = &mirror.nodes[0];
    for (arguments, code, said) in [
        (["restore", "never heard of", "--timeout", "1s"], 1, "no event of never heard of"),
        (["restore", "img/logo.png", "--version", "9"], 1, "version 9 is no event"),
        (["restore", "img/logo.png", "--version", "3"], 1, "version 3 removed"),
        (["restore", "img/draft.part", "--version", "1"], 1, "ignore rule"),
        (["restore", "img/logo.png", "--sha256", "00"], 2, "SHA-256"),
    ] {
        let finished = node.run(Role::Replicator, &arguments);
        assert_eq!(finished.code, Some(code), "{finished:?}");
        assert!(finished.stderr.contains(said), "{finished:?}");
    }
    mirror.nats().lose_blobs();
    let node = &mirror.nodes[1];
    fs::remove_dir_all(node.path(".mirror/trash")).unwrap();
    fs::create_dir(node.path(".mirror/trash")).unwrap();
    let gone = restore(node, &["--version", "1"]);
    assert!(
        gone.code == Some(1) && gone.stderr.contains("neither on this node nor in the blob store"),
        "{gone:?}"
    );
    mirror.nodes[1].stop(Role::Watcher);
    let idle = restore(&mirror.nodes[1], &[]);
    assert!(idle.code == Some(1) && idle.stderr.contains("watcher of this node is not running"), "{idle:?}");
    assert_eq!(mirror.log().len(), 3);
    mirror.broker.stop();
    assert_eq!(restore(&mirror.nodes[0], &[]).code, Some(3));
}
