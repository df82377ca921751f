//! What is not taken: it is said why, and nothing of it is left.

use crate::{left_nothing, mirror_with, put, request, unfinished};
use e2e::{Answer, Http, Mirror, Role, SOON, SmallDisk, content, wait_for, wait_until, write};
use std::{fs, fs::File, io::Write, time::Duration};

const MIB: usize = 1 << 20;

fn is(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{answer:?}");
    assert_eq!(answer.json()["status"], status);
}

/// It passes, and the answer says when to ask again.
fn passes(answer: &Answer) {
    is(answer, 503);
    assert!(answer.headers["retry-after"].parse::<u64>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
}

#[test]
fn content_that_is_not_what_was_announced_is_refused_and_leaves_nothing() {
    let (mut mirror, http) = mirror_with(&["a"], &["--max-upload", "1MiB"]);
    let name = |size| request(&content("good", size), "?path=x");
    for size in [100, 700_000] {
        let (good, bad) = (content("good", size), content("bad", size));
        let answer = http.send(&name(size), &[], &bad);
        is(&answer, 422);
        assert_eq!(answer.json()["sha256"], common::hash::ContentHash::of(&bad).to_string());
        is(&http.send(&request(&good, ""), &[], &bad), 422);
        for said in [size - 1, size + 1] {
            // The header says something else than the length of the body, and where that has none, than what comes.
            let said = format!("X-File-Size: {said}");
            is(&http.send(&name(size), &[&said], &good), 400);
            let mut sending = http.begin(&name(size), &[&said, "Transfer-Encoding: chunked"]);
            sending.send(format!("{size:x}\r\n").as_bytes());
            sending.send(&good);
            sending.send(b"\r\n0\r\n\r\n");
            is(&sending.answer(), 400);
        }
    }
    // Too large: told by its length at once, and without one when it comes.
    let large = content("large", 2 * MIB);
    for path in ["?path=x", ""] {
        let announced = http.begin(&request(&large, path), &[&format!("Content-Length: {}", large.len())]);
        let answer = announced.answer();
        is(&answer, 413);
        assert_eq!(answer.json()["limit"], MIB);
        is(&put(http, &large, path), 413);
        let mut sending = http.begin(&request(&large, path), &["Transfer-Encoding: chunked"]);
        sending.send(format!("{:x}\r\n", large.len()).as_bytes());
        sending.send(&large);
        is(&sending.answer(), 413);
    }
    left_nothing(&mut mirror);
    assert!(!mirror.nodes[0].path("x").exists());
}

#[test]
fn no_path_leads_elsewhere_and_ignored_ones_are_not_taken() {
    let (mut mirror, http) = mirror_with(&["a"], &["--ignore", "private/"]);
    let outside = mirror.outside("outside");
    std::os::unix::fs::symlink(&outside, mirror.nodes[0].path("link")).unwrap();
    for path in [
        "..%2fx",
        "../x",
        "a/..%2f..%2fx",
        "%2e%2e/x",
        "/x",
        "%2fx",
        "a//x",
        "a/",
        "",
        ".",
        "x%00",
        "x%00.jpg",
        ".mirror/x",
        ".mirror/tmp/x",
        ".mirror%2fid",
        "x.tmp",
        "a/.nfs01",
        "x~",
        "private/x",
        "a/private/x",
        "%",
        "%zz",
    ] {
        is(&put(http, b"x", &format!("?path={path}")), 400);
    }
    for path in [
        "..%2fx",
        "..",
        "a/../x",
        "a%2fx",
        "%2e%2e/x",
        "x%00",
        ".mirror/id",
        "x.tmp",
        "private/x",
        "/x",
        "%zz",
    ] {
        is(&http.ask(&format!("DELETE /api/v1/paths/{path}"), &[]), 400);
    }
    for query in ["?pfad=x", "?path=x&path=y", "?wait=all", "?path=x&wait=0", "?path=x&wait=1&timeout=1h"] {
        is(&put(http, b"x", query), 400);
    }
    for name in ["x", "..%2f..%2fx", &"A".repeat(64), &format!("{}0", "a".repeat(64))] {
        is(&http.send(&format!("PUT /api/v1/files/{name}"), &[], b"x"), 400);
    }
    // A header that would be two is none; names with line ends stay names.
    assert_eq!(http.send(&request(b"x", "?path=x"), &["X-File-Size: 1\u{b}1"], b"x").status, 400);
    for header in
        ["X-File-Size: 1, 1", "X-File-Size: 1\r\nX-File-Size: 1", "If-None-Match: \"x\"", "If-Match: *"]
    {
        is(&http.send(&request(b"x", "?path=x"), &[header], b"x"), 400);
    }
    is(&put(http, b"x", "?path=link/x"), 409);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    left_nothing(&mut mirror);
    let answer = put(http, b"x", "?path=a%0d%0aX-Bad:%20yes%0d%0a");
    assert!(answer.status == 200 && !answer.headers.contains_key("x-bad"), "{answer:?}");
    assert!(mirror.nodes[0].path("a\r\nX-Bad: yes\r\n").exists());
    let log = mirror.nodes[0].process(Role::Watcher).log();
    assert!(!log.lines().any(|line| line.starts_with("X-Bad")), "a name forges a line of the log");
    is(&http.ask("POST /api/v1/paths/x", &[]), 405);
}

#[test]
fn what_stands_in_the_way_or_is_not_published_yet_is_a_conflict() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    write(&mirror.nodes[0].path("folder/file"), b"in it");
    wait_until(SOON, "a file in the log", || mirror.log().len() == 1);
    is(&put(http, b"x", "?path=folder"), 409);
    is(&put(http, b"x", "?path=folder/file/below"), 409);
    // A writer that has not closed its file yet.
    let mut open = File::create(mirror.nodes[0].path("open")).unwrap();
    open.write_all(b"half of i").unwrap();
    is(&put(http, b"x", "?path=open"), 409);
    is(&http.ask("DELETE /api/v1/paths/open", &[]), 409);
    open.write_all(b"t").unwrap();
    drop(open);
    wait_until(SOON, "the user's file in the log", || mirror.log_of("open").len() == 1);
    assert_eq!(fs::read(mirror.nodes[0].path("open")).unwrap(), b"half of it");
    wait_until(SOON, "an upload over it", || put(http, b"x", "?path=open").status == 200);
    assert_eq!(mirror.log_of("open").len(), 2);
    assert_eq!(unfinished(&mirror.nodes[0]), Vec::<String>::new());
}

#[test]
fn what_another_node_published_first_is_not_replaced_unseen() {
    let (mut mirror, http) = mirror_with(&["a", "b"], &[]);
    assert_eq!(put(http, b"first", "?path=x").status, 200);
    mirror.wait_everywhere("x", b"first");
    mirror.nodes[0].stop(Role::Replicator);
    write(&mirror.nodes[1].path("x"), b"from b");
    wait_until(SOON, "the change of b in the log", || mirror.log().len() == 2);
    let answer = put(http, b"second", "?path=x");
    is(&answer, 409);
    assert_eq!(answer.json()["version"], 2);
    is(&http.ask("DELETE /api/v1/paths/x", &[]), 409);
    assert_eq!(fs::read(mirror.nodes[0].path("x")).unwrap(), b"first");
    // The same content is no conflict, and comes to the disk.
    assert_eq!(put(http, b"from b", "?path=x").json(), serde_json::json!({"created": false, "version": 2}));
    assert_eq!(fs::read(mirror.nodes[0].path("x")).unwrap(), b"from b");
    assert_eq!(put(http, b"second", "?path=x").json()["version"], 3);
    mirror.nodes[0].start(Role::Replicator);
    mirror.wait_ready();
    mirror.wait_agreed(SOON);
    assert_eq!(mirror.log().len(), 3);
    assert!(mirror.nodes.iter().all(|node| node.lost_conflicts().is_empty()));
}

#[test]
fn without_the_broker_it_is_said_when_to_ask_again() {
    let mut mirror = Mirror::prepared(&["a"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    passes(&put(http, b"x", "?path=x"));
    passes(&put(http, b"x", ""));
    passes(&http.ask("DELETE /api/v1/paths/x", &[]));
    mirror.broker.start();
    wait_until(SOON, "an upload", || put(http, b"x", "?path=x").status == 200);
    mirror.broker.stop();
    let large = content("large", 700_000);
    for query in ["?path=y", ""] {
        passes(&put(http, b"y", query));
        passes(&put(http, &large, query));
    }
    assert_eq!(unfinished(&mirror.nodes[0]), Vec::<String>::new());
    mirror.broker.start();
    mirror.find_broker();
    wait_until(SOON, "an upload", || put(http, &large, "?path=y").status == 200);
    assert_eq!(mirror.log().len(), 2);
}

#[test]
fn a_broker_that_goes_away_during_an_upload_leaves_no_half_of_it() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    let bytes = content("large", 4 * MIB);
    let mut sending = http.begin(&request(&bytes, "?path=x"), &[&format!("Content-Length: {}", bytes.len())]);
    sending.send(&bytes[..MIB]);
    wait_until(SOON, "its first chunks in the store", || mirror.nats().bucket_state().messages > 0);
    mirror.broker.kill();
    sending.send(&bytes[MIB..]);
    passes(&sending.answer());
    assert!(!mirror.nodes[0].path("x").exists());
    assert_eq!(unfinished(&mirror.nodes[0]), Vec::<String>::new());
    mirror.broker.start();
    mirror.find_broker();
    wait_until(SOON, "the same upload", || put(http, &bytes, "?path=x").status == 200);
    assert_eq!(fs::read(mirror.nodes[0].path("x")).unwrap(), bytes);
    assert_eq!(mirror.log().len(), 1);
}

#[test]
fn a_full_disk_takes_nothing_and_keeps_its_floor() {
    let test = "a_full_disk_takes_nothing_and_keeps_its_floor";
    let mut mirror = Mirror::idle(&["a"]);
    let home = mirror.nodes[0].home.join("disk");
    let Some(disk) = SmallDisk::mounted(test, &home, 24 * MIB as u64, 10_000) else { return };
    mirror.nodes[0].root = disk.path("media");
    fs::create_dir(&mirror.nodes[0].root).unwrap();
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, &["--min-free", "4MiB"]);
    mirror.wait_ready();
    // 20 MiB above the floor.
    let large = content("large", 21 * MIB);
    let answer = put(http, &large, "?path=large");
    is(&answer, 507);
    assert!(answer.json()["detail"].as_str().unwrap().contains("free above the floor"), "{answer:?}");
    let mut sending = http.begin(&request(&large, "?path=large"), &["Transfer-Encoding: chunked"]);
    sending.send(format!("{:x}\r\n", large.len()).as_bytes());
    sending.send(&large);
    is(&sending.answer(), 507);
    assert_eq!(put(http, &content("fits", 15 * MIB), "?path=fits").status, 200);
    is(&put(http, &content("does not", 6 * MIB), "?path=more"), 507);
    // Without a path it needs no room here.
    assert_eq!(put(http, &large, "").status, 200);
    let ballast = disk.fill("ballast");
    is(&put(http, b"x", "?path=x"), 507);
    assert_eq!(mirror.log().len(), 1);
    assert_eq!(unfinished(&mirror.nodes[0]), Vec::<String>::new());
    fs::remove_file(ballast).unwrap();
    wait_until(SOON, "an upload that fits", || put(http, b"x", "?path=x").status == 200);
}

#[test]
fn a_full_store_takes_nothing() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    mirror.nats().limit_bucket(100_000);
    let answer = wait_for(SOON, "the store to be full", || {
        let answer = put(http, &content("large", 300_000), "?path=x");
        if answer.status == 507 { Ok(answer) } else { Err(format!("{answer:?}")) }
    });
    is(&answer, 507);
    assert!(!mirror.nodes[0].path("x").exists() && mirror.log().is_empty());
    assert_eq!(unfinished(&mirror.nodes[0]), Vec::<String>::new());
}

#[test]
fn a_client_that_waits_to_be_told_to_go_on_is_told_no_first() {
    let (mut mirror, http) = mirror_with(&["a"], &["--max-upload", "1MiB"]);
    let length = format!("Content-Length: {}", 8 * MIB);
    let begun = std::time::Instant::now();
    let sending = http.begin(&request(b"x", "?path=x"), &[&length, "Expect: 100-continue"]);
    is(&sending.answer(), 413);
    assert!(begun.elapsed() < Duration::from_secs(5));
    left_nothing(&mut mirror);
}
