//! What is read out of turn is placed by the rules, and what they keep from a path is not read there.

use common::hash::ContentHash;
use e2e::{Http, Mirror, Role, SOON, Writer, wait_for, write};
use serde_json::Value;
use std::{fs, os::unix::fs::symlink};

/// A node whose consumer delivers nothing until it is told to go on: what the log has is not here yet.
fn unheard() -> (Mirror, Writer, Http) {
    let mut mirror = Mirror::idle(&["b"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    let writer = Writer::connect(&mirror.broker.url());
    for i in 0..5 {
        write(&mirror.nodes[0].path(format!("known {i}")), format!("known {i}").as_bytes());
        writer.add(&format!("known {i}"), format!("known {i}").as_bytes());
    }
    wait_version(&mut mirror, 5);
    mirror.nats().pause_consumer("b");
    (mirror, writer, http)
}

fn record(mirror: &mut Mirror) -> Value {
    mirror.nats().record("b", Role::Replicator).unwrap()
}

fn wait_version(mirror: &mut Mirror, version: u64) {
    wait_for(SOON, &format!("version {version}"), || {
        let record = record(mirror);
        let there = record["version"] == version && record["beyond"] == Value::Array(Vec::new());
        if there { Ok(()) } else { Err(record.to_string()) }
    });
}

fn read(http: &Http, path: &str) -> (u16, String) {
    let answer = http.read(&format!("GET /api/v1/paths/{path}"), &[]);
    assert!(answer.complete);
    (answer.status, String::from_utf8_lossy(&answer.bytes).into_owned())
}

fn text(answer: &(u16, String)) -> (u16, &str) {
    (answer.0, &answer.1)
}

#[test]
fn what_comes_in_its_turn_later_finds_itself_done_and_the_version_waits_for_it() {
    let (mut mirror, writer, http) = unheard();
    writer.add("before", b"before");
    let version = writer.add("urgent", b"urgent");
    writer.add("after", b"after");
    assert_eq!(text(&read(&http, "urgent")), (200, "urgent"));
    assert_eq!(fs::read(mirror.nodes[0].path("urgent")).unwrap(), b"urgent");
    let told = wait_for(SOON, "the record to tell of it", || {
        let record = record(&mut mirror);
        if record["beyond"].as_array().unwrap().is_empty() { Err(record.to_string()) } else { Ok(record) }
    });
    assert_eq!((&told["version"], &told["beyond"]), (&5.into(), &serde_json::json!([[version, version]])));
    assert!(!mirror.nodes[0].path("before").exists());
    // A node that is killed now has lost nothing.
    mirror.nodes[0].kill(Role::Replicator);
    mirror.nodes[0].start(Role::Replicator);
    mirror.nats().resume_consumer("b");
    wait_version(&mut mirror, 8);
    let log = mirror.nodes[0].process(Role::Replicator).log();
    let placed = |path: &str| log.matches(&format!("\"message\":\"placed\",\"version\":\"{path}\"")).count();
    assert_eq!([6, 7, 8].map(|version| placed(&version.to_string())), [1, 1, 1], "{log}");
    let digest = record(&mut mirror)["digest"].clone();
    assert!(digest.is_string() && record(&mut mirror)["files"] == 8);
}

#[test]
fn what_stands_in_the_way_is_treated_as_in_its_turn() {
    let (mut mirror, writer, http) = unheard();
    let node = |mirror: &Mirror, path: &str| mirror.nodes[0].path(path);
    // A user's file that the log does not know gives way, and is kept.
    write(&node(&mirror, "foreign"), b"of a user");
    writer.add("foreign", b"of the log");
    assert_eq!(text(&read(&http, "foreign")), (200, "of the log"));
    assert_eq!(fs::read(node(&mirror, "foreign")).unwrap(), b"of the log");
    assert_eq!(mirror.nodes[0].lost_conflicts(), ["foreign"]);
    // The log's own is replaced.
    writer.add("known 1", b"newer");
    assert_eq!(text(&read(&http, "known%201")), (200, "known 1"), "what stands is read");
    // Nothing is placed over a link, or read from elsewhere because of it.
    symlink("known 0", node(&mirror, "link")).unwrap();
    writer.add("link", b"link");
    let answer = read(&http, "link");
    assert_eq!(answer.0, 503, "{answer:?}");
    assert!(answer.1.contains("a symbolic link stands at the path"), "{answer:?}");
    assert!(fs::symlink_metadata(node(&mirror, "link")).unwrap().is_symlink());
    assert_eq!(http.read(&format!("GET /api/v1/files/{}", ContentHash::of(b"link")), &[]).bytes, b"link");
    // What a user has taken away is not brought back by reading it.
    fs::remove_file(node(&mirror, "known 2")).unwrap();
    assert_eq!(read(&http, "known%202").0, 404);
    assert!(!node(&mirror, "known 2").exists());
    // Newer content of the log is.
    writer.add("known 2", b"newer");
    // That it was not there is remembered for a moment.
    wait_for(SOON, "the newer content", || match read(&http, "known%202") {
        (200, text) if text == "newer" => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    // What a user writes here is not published yet, and not what the log has.
    write(&node(&mirror, "known 3"), b"rewritten here");
    assert_eq!(read(&http, "known%203").0, 503);
    assert_eq!(fs::read(node(&mirror, "known 3")).unwrap(), b"rewritten here");
    // What was removed elsewhere is not read, unless it stands here still.
    writer.remove("known 4", b"known 4");
    assert_eq!(text(&read(&http, "known%204")), (200, "known 4"));
    writer.add("short", b"short");
    writer.remove("short", b"short");
    assert_eq!(read(&http, "short").0, 404);
    // What is no event is no file.
    mirror.nats().publish("mirror.media.poison", b"{}");
    assert_eq!(read(&http, "poison").0, 404);
    mirror.nats().resume_consumer("b");
    wait_for(SOON, "all but the link to be applied", || {
        let record = record(&mut mirror);
        let gone = !node(&mirror, "known 4").exists();
        let newer = fs::read(node(&mirror, "known 1")).unwrap() == b"newer";
        if gone && newer { Ok(()) } else { Err(record.to_string()) }
    });
}
