//! Events that no honest writer sends: each is set aside on its own node, nothing of it reaches the disk, and the next valid one is applied.

use common::hash::ContentHash;
use e2e::{LONG, Mirror, Node, Role, SOON, Tree, Writer, wait_for, write};
use std::{fs, path::Path};

const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// An addition of the word "test" with one field in another way.
fn addition(path: &str, change: (&str, &str)) -> String {
    let fields = [
        ("v", "1"),
        ("type", "\"added\""),
        ("path", path),
        ("sha256", &format!("\"{HASH}\"")),
        ("size", "4"),
        ("mtime", "\"2026-02-16T16:44:02Z\""),
        ("mode", "\"0644\""),
        ("node", "\"x\""),
        ("replaces", "0"),
        ("detected", "\"2026-02-16T16:44:02Z\""),
    ];
    let text = |(name, value): &(&str, &str)| {
        let value = if *name == change.0 { change.1 } else { value };
        format!("\"{name}\":{value}")
    };
    format!("{{{}}}", fields.iter().map(text).collect::<Vec<_>>().join(","))
}

fn wait_parked(mirror: &mut Mirror, node: &str, parked: usize) {
    wait_for(LONG, &format!("{parked} parked events on {node}"), || {
        let record = mirror.nats().record(node, Role::Replicator).ok_or("no record")?;
        if record["parked"] == parked { Ok(()) } else { Err(record.to_string()) }
    });
}

fn everything_below(folder: &Path) -> Vec<String> {
    let mut command = std::process::Command::new("find");
    command.arg(folder).args(["-not", "-path", "*/.mirror/*", "-not", "-name", "*.log"]);
    command.args(["-not", "-path", "*/state*", "-not", "-path", "*/nats/*"]);
    let mut names: Vec<String> =
        e2e::run(SOON, command).succeeded().stdout.lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn payloads_that_are_no_events_are_set_aside() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let path = |i: usize| format!("\"p{i}\"");
    let fields = [
        ("v", "2"),
        ("v", "-1"),
        ("type", "\"renamed\""),
        ("size", "-4"),
        ("size", "9223372036854775808"),
        ("size", "4e99"),
        ("size", "\"4\""),
        ("sha256", "\"9F86\""),
        ("sha256", "\"\""),
        ("sha256", "\"../../../../etc/passwd\""),
        ("mtime", "\"yesterday\""),
        ("mode", "\"rwx\""),
        ("node", "\"../x\""),
        ("replaces", "-1"),
        ("path", "7"),
    ];
    let mut sent = 0;
    for (i, change) in fields.into_iter().enumerate() {
        mirror.nats().publish(&format!("mirror.media.p{i}"), addition(&path(i), change).as_bytes());
        sent += 1;
    }
    for (i, payload) in
        [&b""[..], b"{", b"[]", b"null", b"\xff\xfe", &[b'['; 100_000]].into_iter().enumerate()
    {
        mirror.nats().publish(&format!("mirror.media.raw{i}"), payload);
        sent += 1;
    }
    write(&mirror.nodes[0].path("valid"), b"valid");
    mirror.wait_everywhere("valid", b"valid");
    for node in ["a", "b"] {
        wait_parked(&mut mirror, node, sent);
    }
    let left: Vec<_> = Tree::of(&mirror.nodes[1].root).0.into_keys().collect();
    assert_eq!(left, [b"valid".to_vec()]);
}

#[test]
fn paths_that_lead_elsewhere_are_set_aside_and_touch_nothing() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let before = everything_below(mirror.dir());
    let bad = [
        ("%2E%2E.escape", "../escape"),
        ("f.%2E%2E.%2E%2E.escape", "f/../../escape"),
        ("%2E.escape", "./escape"),
        ("escape", "/escape"),
        ("f.escape", "f//escape"),
        ("escape", "escape/"),
        ("%00escape", "\\u0000escape"),
        ("%2Emirror.id", ".mirror/id"),
        ("%2Emirror.tmp.x", ".mirror/tmp/x"),
        ("other", "escape"),
    ];
    for (subject, path) in bad {
        let payload = addition(&format!("\"{path}\""), ("v", "1"));
        mirror.nats().publish(&format!("mirror.media.{subject}"), payload.as_bytes());
    }
    // The last on a subject counts.
    let subjects: std::collections::BTreeSet<&str> = bad.iter().map(|(subject, _)| *subject).collect();
    write(&mirror.nodes[0].path("valid"), b"valid");
    mirror.wait_everywhere("valid", b"valid");
    for node in ["a", "b"] {
        wait_parked(&mut mirror, node, subjects.len());
    }
    for node in &mirror.nodes {
        fs::remove_file(node.path("valid")).unwrap();
    }
    assert_eq!(everything_below(mirror.dir()), before);
}

#[test]
fn a_size_or_hash_that_is_not_the_blobs_places_nothing_and_stops_nothing() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let writer = Writer::connect(&mirror.broker.url());
    writer.add("right", b"test");
    let wrong = ContentHash::of(b"bytes that nobody stored");
    writer.announce("longer", HASH.parse().unwrap(), 5);
    writer.announce("shorter", HASH.parse().unwrap(), 3);
    writer.announce("huge", HASH.parse().unwrap(), i64::MAX as u64);
    writer.announce("unknown", wrong, 24);
    writer.add("after", b"after");
    mirror.wait_everywhere("after", b"after");
    mirror.wait_everywhere("right", b"test");
    for node in ["a", "b"] {
        wait_parked(&mut mirror, node, 4);
    }
    for node in &mirror.nodes {
        assert_eq!(Tree::of(&node.root).0.len(), 2);
        assert_eq!(fs::read_dir(node.path(".mirror/tmp")).unwrap().count(), 0);
    }
}

/// A user that may publish events, but may store nothing.
const NO_BYTES: &str = "{user: b, password: p, permissions: {publish: {deny: [\"$O.>\"]}}}";

#[test]
fn an_event_waits_until_its_blob_is_stored() {
    let mut mirror = Mirror::prepared(&["a", "b"]);
    mirror.broker.let_in(NO_BYTES);
    mirror.broker.start();
    let (all, b) = (mirror.broker.url(), mirror.broker.url_of("b"));
    mirror.nodes[0].find_broker_at(all);
    mirror.nodes[1].find_broker_at(b);
    mirror.nodes.iter_mut().for_each(Node::start_both);
    write(&mirror.nodes[1].path("f"), b"f");
    wait_for(LONG, "b to say that it cannot store the content", || {
        let record = mirror.nats().record("b", Role::Watcher).ok_or("no record")?;
        let said =
            record["last_error"].as_str().is_some_and(|said| said.contains("cannot store the content"));
        if said { Ok(()) } else { Err(record.to_string()) }
    });
    assert_eq!(mirror.log().len(), 0);
    mirror.broker.let_in("{user: b, password: p}");
    mirror.wait_everywhere("f", b"f");
}
