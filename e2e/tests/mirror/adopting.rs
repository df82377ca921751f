//! Nodes that hold nearly the same trees already become a mirror without moving what they share.

use e2e::{Mirror, Role, SOON, content, write};
use std::{
    fs::{self, File},
    time::{Duration, SystemTime},
};

/// Two trees: a hundred files the same, one here and there alone, and three with other content, of which b has one later, one earlier, and one from the future.
fn nearly_equal() -> Mirror {
    let mirror = Mirror::idle(&["a", "b"]);
    let [a, b] = &mirror.nodes[..] else { unreachable!() };
    for i in 0..100 {
        let path = format!("same/{}/{i}", i % 7);
        for node in [a, b] {
            write(&node.path(&path), &content(&path, 5_000));
        }
    }
    write(&a.path("only/a"), b"a alone");
    write(&b.path("only/b"), b"b alone");
    let now = SystemTime::now();
    let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
    for (path, on_b) in [("later", now - hour), ("earlier", now - 3 * hour), ("from/the/future", now + day)] {
        write(&a.path(path), format!("{path}, on a").as_bytes());
        write(&b.path(path), format!("{path} on b!").as_bytes());
        File::open(a.path(path)).unwrap().set_modified(now - 2 * hour).unwrap();
        File::open(b.path(path)).unwrap().set_modified(on_b).unwrap();
    }
    mirror
}

#[test]
fn a_dry_run_names_what_differs_and_does_nothing() {
    let mut mirror = nearly_equal();
    let first = mirror.nodes[0].run(Role::Watcher, &["scan", "--dry-run"]);
    assert_eq!(first.code, Some(1), "{first:?}");
    assert!(first.stdout.contains("0 files the same, 104 only here"), "{first:?}");
    assert!(mirror.nats().log_state().is_none() && !mirror.nodes[0].state().exists(), "nothing is made");
    mirror.nodes[0].run(Role::Watcher, &["scan"]).succeeded();
    assert_eq!(mirror.nodes[0].run(Role::Watcher, &["scan", "--dry-run"]).code, Some(0));

    let (events, blobs) = (mirror.log().len(), mirror.nats().bucket_state().messages);
    let told = mirror.nodes[1].run(Role::Watcher, &["scan", "--dry-run"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    let mut lines: Vec<&str> = told.stdout.lines().collect();
    let sum = lines.pop().unwrap();
    assert_eq!(
        sum,
        "100 files the same, 1 only here, 1 only in the log, 2 newer here, 1 newer in the log, 0 could not be read"
    );
    lines.sort_unstable();
    let lines: Vec<_> =
        lines.iter().map(|line| line.split_at(26)).map(|(how, path)| (how.trim_end(), path)).collect();
    assert_eq!(
        lines,
        [
            ("differs, newer here", "from/the/future"),
            ("differs, newer here", "later"),
            ("differs, newer in the log", "earlier"),
            ("only here", "only/b"),
            ("only in the log", "only/a"),
        ]
    );
    assert_eq!((mirror.log().len(), mirror.nats().bucket_state().messages), (events, blobs));
    assert!(!mirror.nodes[1].state().exists());
    assert_eq!(fs::read(mirror.nodes[1].path("earlier")).unwrap(), b"earlier on b!");
}

#[test]
fn nodes_that_share_most_send_only_what_is_new_and_the_newest_wins_where_that_is_asked_for() {
    let mut mirror = nearly_equal();
    mirror.nodes[0].run(Role::Watcher, &["scan"]).succeeded();
    let (events, blobs) = (mirror.log().len(), mirror.nats().bucket_state().messages);
    mirror.nodes[1].run(Role::Watcher, &["scan", "--prefer", "newest"]).succeeded();
    let news: Vec<String> = mirror.log()[events..].iter().map(|line| line.path()).collect();
    assert_eq!(
        news.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(),
        ["later", "only/b"].into()
    );
    // A chunk and its meta for each of them; the hundred are not sent again.
    assert_eq!(mirror.nats().bucket_state().messages, blobs + 2 * 2);

    mirror.nodes.iter_mut().for_each(|node| node.start_both());
    let tree = mirror.wait_agreed(SOON);
    assert_eq!(tree.0.len(), 105);
    for (path, bytes) in [
        ("later", "later on b!"),
        ("earlier", "earlier, on a"),
        ("from/the/future", "from/the/future, on a"),
        ("only/a", "a alone"),
        ("only/b", "b alone"),
    ] {
        for node in &mirror.nodes {
            assert_eq!(fs::read_to_string(node.path(path)).unwrap(), bytes, "{path} on {}", node.name);
        }
    }
    // What has lost is kept, and what was replaced on purpose can be had from the log.
    let mut lost = mirror.nodes[1].lost_conflicts();
    lost.sort_unstable();
    assert_eq!(lost, ["earlier", "from/the/future"]);
    let history = mirror.nodes[0].run(Role::Replicator, &["history", "later"]).succeeded();
    assert_eq!(history.stdout.lines().filter(|line| line.contains("added")).count(), 2, "{history:?}");
}
