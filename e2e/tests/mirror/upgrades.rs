//! Versions of ours that meet: what an older build has left is taken over, what a newer one writes waits for it, and an index of a newer one stays as it is.

use common::hash::ContentHash;
use e2e::{LONG, Mirror, Node, Role, SOON, Tree, content, wait_for, write};
use rusqlite::Connection;
use std::{fs, path::Path, process::Command};

/// Broker and nodes as an older build has left them; nothing runs. See `e2e/recorded/README.md`.
fn recorded() -> Mirror {
    let mirror = Mirror::prepared(&["a", "b"]);
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded/schema-1.tar.gz");
    let mut command = Command::new("tar");
    command.arg("-xzf").arg(recorded).arg("-C").arg(mirror.dir());
    e2e::run(SOON, command).succeeded();
    mirror
}

fn open(node: &Node) -> Connection {
    Connection::open(node.state().join("index.db")).unwrap()
}

fn schema(node: &Node) -> u32 {
    open(node).pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[test]
fn what_an_older_build_has_left_is_taken_over() {
    let mut mirror = recorded();
    let before = Tree::of(&mirror.nodes[0].root);
    mirror.broker.start();
    mirror.nodes.iter_mut().for_each(Node::start_both);
    // Out of the outbox of the older build.
    mirror.wait_everywhere("waiting.txt", b"from the outbox");
    mirror.wait_everywhere("uploads/2026/cat.jpg", b"second");
    let status = mirror.nodes[1].run(Role::Replicator, &["status"]).stdout;
    assert!(status.contains("lost conflict both.txt"), "{status}");
    // What could not be applied by the older one.
    fs::remove_file(mirror.nodes[1].path("clash/x.tmp")).unwrap();
    mirror.wait_everywhere("clash", b"a file");
    write(&mirror.nodes[1].path("new"), b"new");
    let tree = mirror.wait_recovered(LONG);
    assert!(
        before.0.iter().all(|file| tree.0.get(file.0) == Some(file.1)),
        "{before:?} before, {tree:?} after"
    );
    assert_eq!(tree.0.len(), before.0.len() + 2);
    assert_eq!(mirror.nodes[1].lost_conflicts().len(), 1);
    mirror.nodes.iter_mut().for_each(Node::stop_both);
    assert!(mirror.nodes.iter().all(|node| schema(node) == 2));
}

#[test]
fn what_a_newer_build_writes_is_used_where_it_is_understood_and_kept_where_not() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("f"), &content("f", 100));
    mirror.wait_everywhere("f", &content("f", 100));
    let hash = ContentHash::of(&content("f", 100));
    let event = |v: u32, path: &str| {
        format!(
            r#"{{"v":{v},"type":"added","path":"{path}","sha256":"{hash}","size":100,"mtime":"2026-01-01T00:00:00Z","mode":"0644",
                "node":"z","replaces":0,"detected":"2026-01-01T00:00:00Z","colour":{{"of":["the","future"]}}}}"#
        )
    };
    let nats = mirror.nats();
    nats.publish(
        "$KV.MIRROR_MEDIA_NODES.z.replicator",
        br#"{"v":2,"node":"z","role":"mediator","state":"dreaming"}"#,
    );
    nats.publish("mirror.media.known", event(1, "known").as_bytes());
    nats.publish("mirror.media.later", event(2, "later").as_bytes());
    mirror.wait_everywhere("known", &content("f", 100));
    for node in &mirror.nodes {
        wait_for(LONG, "what is parked", || {
            let parked = node.run(Role::Replicator, &["parked"]).stdout;
            let told = parked.contains("payload version 2; this build knows 1");
            if told && !node.path("later").exists() { Ok(()) } else { Err(parked) }
        });
        let status = node.run(Role::Replicator, &["status"]).stdout;
        assert!(status.contains("replicator"), "a record of a newer build in {status}");
    }
    // Nobody takes the event for one that may be replaced unseen; a user's file goes on top of it.
    write(&mirror.nodes[0].path("later"), b"of this build");
    mirror.wait_everywhere("later", b"of this build");
    mirror.wait_agreed(LONG);
}

#[test]
fn an_index_of_a_newer_build_is_refused_and_not_touched() {
    let mut mirror = Mirror::running(&["a"]);
    write(&mirror.nodes[0].path("f"), b"f");
    mirror.wait_equal(SOON);
    mirror.nodes[0].stop_both();
    assert_eq!(schema(&mirror.nodes[0]), 2);
    // Who closes it last puts what is in the write-ahead log into the file.
    open(&mirror.nodes[0]).pragma_update(None, "user_version", 99).unwrap();
    let path = mirror.nodes[0].state().join("index.db");
    let bytes = fs::read(&path).unwrap();
    for role in Role::ALL {
        let refused = mirror.nodes[0].run(role, &["run"]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("has schema 99"), "{refused:?}");
    }
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
