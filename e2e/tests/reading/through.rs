//! What the log has and this node not yet: fetched ahead of all else, placed, and read while it arrives.

use common::hash::ContentHash;
use e2e::{Http, Mirror, Role, SOON, Writer, content, wait_for, wait_until, write};
use serde_json::json;
use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// At this rate the backlog takes a minute.
const RATE: u64 = 1 << 20;
const BACKLOG: usize = 200;
const FILE: usize = 512 << 10;

/// A node with HTTP that has begun with a backlog which it will not come to the end of.
fn behind(arguments: &[&str]) -> (Mirror, Writer, Http) {
    let mut mirror = Mirror::idle(&["b"]);
    let rate = RATE.to_string();
    // One that is ready makes the streams.
    let limited = [&["--download-limit", &rate, "--transfers", "8"], arguments].concat();
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &limited);
    mirror.wait_ready();
    let writer = Writer::connect(&mirror.broker.url());
    for i in 0..BACKLOG {
        // Some of one chunk, some of more.
        let size = if i % 2 == 0 { FILE } else { FILE / 8 };
        writer.add(&format!("backlog/{i}"), &content(&i.to_string(), size));
    }
    wait_until(SOON, "the first of the backlog", || mirror.nodes[0].path("backlog").exists());
    (mirror, writer, http)
}

fn record_of(mirror: &mut Mirror) -> serde_json::Value {
    mirror.nats().record("b", Role::Replicator).unwrap()
}

#[test]
fn a_fresh_file_passes_the_backlog_and_the_record_tells_the_truth() {
    let (mut mirror, writer, http) = behind(&[]);
    let bytes = content("fresh", 100_000);
    let version = writer.add("uploads/fresh.jpg", &bytes);
    let began = Instant::now();
    let answer = http.read("GET /api/v1/paths/uploads/fresh.jpg", &[]);
    assert_eq!((answer.status, answer.complete), (200, true), "{}", String::from_utf8_lossy(&answer.bytes));
    assert!(answer.bytes == bytes);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(fs::read(mirror.nodes[0].path("uploads/fresh.jpg")).unwrap() == bytes, "it is not placed");
    // By the records the file is here, and the events before it are not.
    let told = http.get(&format!("/api/v1/wait?version={version}&nodes=1&timeout=5s"));
    assert_eq!((told.status, &told.json()["have"]), (200, &json!(["b"])), "{told:?}");
    let record = record_of(&mut mirror);
    assert!(record["version"].as_u64().unwrap() < BACKLOG as u64, "{record}");
    assert_eq!(record["state"], "syncing");
    let beyond = record["beyond"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(beyond, json!([version, version]));

    // A small file that is in the middle of the backlog, and one that is in work or about to be.
    for i in [BACKLOG - 7, 3] {
        let size = if i % 2 == 0 { FILE } else { FILE / 8 };
        let began = Instant::now();
        let answer = http.read(&format!("GET /api/v1/paths/backlog/{i}"), &[]);
        assert!(answer.status == 200 && answer.complete && answer.bytes == content(&i.to_string(), size));
        assert!(began.elapsed() < Duration::from_secs(10), "{i}: {:?}", began.elapsed());
    }
    let absent = http.read("GET /api/v1/paths/uploads/absent.jpg", &[]);
    assert_eq!(absent.status, 404);
    // Removed, and the node has not heard of it.
    writer.remove("uploads/fresh.jpg", &bytes);
    let again = http.read("GET /api/v1/paths/uploads/fresh.jpg", &[]);
    assert!(again.status == 200 || again.status == 404, "{}", again.status);
    writer.add("uploads/gone.jpg", b"gone");
    writer.remove("uploads/gone.jpg", b"gone");
    assert_eq!(http.read("GET /api/v1/paths/uploads/gone.jpg", &[]).status, 404);
    // After a start the version is what it was.
    let before = record_version(&mut mirror);
    mirror.nodes[0].kill(Role::Replicator);
    mirror.nodes[0].start(Role::Replicator);
    mirror.nats();
    wait_for(4 * SOON, "the whole backlog without a limit", || {
        let record = record_of(&mut mirror);
        let done = record["state"] == "ready" && record["beyond"] == json!([]);
        if done { Ok(()) } else { Err(record.to_string()) }
    });
    assert!(record_version(&mut mirror) > before);
    let tree = mirror.log_tree();
    wait_for(SOON, "the tree of the log", || e2e::Tree::of(&mirror.nodes[0].root).equal(&tree));
}

fn record_version(mirror: &mut Mirror) -> u64 {
    record_of(mirror)["version"].as_u64().unwrap()
}

#[test]
fn many_requests_for_a_large_file_are_one_fetch_and_read_it_while_it_arrives() {
    let (mut mirror, writer, http) = behind(&[]);
    let bytes = content("large", 6 << 20);
    writer.add("large.mp4", &bytes);
    let started = Instant::now();
    let read = |range: Option<(usize, usize)>| {
        let expected = range.map_or(&bytes[..], |(first, last)| &bytes[first..=last]).to_vec();
        thread::spawn(move || {
            let range = range.map(|(first, last)| format!("Range: bytes={first}-{last}"));
            let headers: Vec<&str> = range.as_deref().into_iter().collect();
            let mut answer = http.download("GET /api/v1/paths/large.mp4", &headers);
            assert_eq!(answer.status, if headers.is_empty() { 200 } else { 206 });
            let first = answer.take(1000);
            let begun = started.elapsed();
            let rest = answer.rest();
            assert!(rest.complete && [first, rest.bytes].concat() == expected);
            begun
        })
    };
    let readers: Vec<_> = (0..16).map(|_| read(None)).collect();
    let part = read(Some((1 << 20, (1 << 20) + 5000)));
    let metrics = http.metrics();
    let begun = readers.into_iter().map(|reader| reader.join().unwrap()).max().unwrap();
    part.join().unwrap();
    let all = started.elapsed();
    // 6 s at this rate, if nothing else passes; 16 fetches would take a minute and a half.
    assert!(all > Duration::from_secs(4) && all < Duration::from_secs(30), "{all:?}");
    // Chunks are asked for by 2 MiB.
    assert!(begun < all / 2, "began after {begun:?} of {all:?}");
    let fetched = http.metrics().of("mediamirror_bytes_total{direction=\"in\"}")
        - metrics.of("mediamirror_bytes_total{direction=\"in\"}");
    assert!(fetched < 2.5 * bytes.len() as f64, "{fetched} bytes were fetched");
    wait_until(SOON, "the file", || mirror.nodes[0].path("large.mp4").exists());
    assert!(record_version(&mut mirror) < BACKLOG as u64);
}

#[test]
fn a_miss_is_held_until_the_file_is_there() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start(Role::Watcher);
    let http = Http::start(&mut mirror.nodes[1], Role::Replicator, &["--miss-wait", "5s"]);
    mirror.wait_ready();
    let began = Instant::now();
    let waiting = thread::spawn(move || http.read("GET /api/v1/paths/new.jpg", &[]));
    // It waits, for the log has not got it: another request has its answer meanwhile.
    let absent = http.read("HEAD /api/v1/paths/absent", &[]);
    let waited = began.elapsed();
    assert_eq!(absent.status, 404);
    assert!(waited > Duration::from_secs(4) && waited < Duration::from_secs(10), "{waited:?}");
    let first = waiting.join().unwrap();
    assert_eq!(first.status, 404);
    let waiting = thread::spawn(move || http.read("GET /api/v1/paths/new.jpg", &[]));
    write(&mirror.nodes[0].path("new.jpg"), b"new");
    let answer = waiting.join().unwrap();
    assert_eq!((answer.status, &answer.bytes[..]), (200, &b"new"[..]));
}

/// From clients to the broker, so far.
fn messages(mirror: &Mirror) -> f64 {
    mirror.broker.monitor("/varz")["in_msgs"].as_f64().unwrap()
}

#[test]
fn a_flood_of_misses_costs_the_broker_little() {
    let mut mirror = Mirror::idle(&["b"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    let before = messages(&mirror);
    let began = Instant::now();
    let ask = move |n: usize| http.read(&format!("GET /api/v1/paths/absent-{n}"), &[]).status;
    // The same again and again.
    for _ in 0..300 {
        assert_eq!(ask(0), 404);
    }
    let seconds = began.elapsed().as_secs_f64().ceil();
    let asked = messages(&mirror) - before;
    // What the process asks anyway is some ten a second.
    assert!(asked < 100.0 + 40.0 * seconds, "{asked} messages in {seconds} s");
    // Each another: beyond what a second allows it is told to come later.
    let others: Vec<_> = (0..8)
        .map(|thread| thread::spawn(move || (0..150).map(|n| ask(1 + thread * 150 + n)).collect::<Vec<_>>()))
        .collect();
    let answers: Vec<u16> = others.into_iter().flat_map(|other| other.join().unwrap()).collect();
    assert!(answers.iter().all(|status| [404, 503].contains(status)), "{answers:?}");
    // What is there is read in spite of it.
    let writer = Writer::connect(&mirror.broker.url());
    writer.add("there", b"there");
    wait_until(SOON, "the file", || http.read("GET /api/v1/paths/there", &[]).bytes == b"there");
    let by_hash = format!("GET /api/v1/files/{}", ContentHash::of(b"there"));
    assert_eq!(http.read(&by_hash, &[]).bytes, b"there");
}
