//! Uploads that come to no end: the client goes, or the process.

use crate::{left_nothing, mirror_with, put, put_when_ready, request, unfinished};
use e2e::{Fault, Http, Injection, Mirror, Role, SOON, Trace, content, wait_until};
use std::fs;

const MIB: usize = 1 << 20;

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    let bytes = content("large", 4 * MIB);
    let length = format!("Content-Length: {}", bytes.len());
    for query in ["?path=x", ""] {
        let mut sending = http.begin(&request(&bytes, query), &[&length]);
        sending.send(&bytes[..2 * MIB]);
        wait_until(SOON, "half of it in the store", || mirror.nats().bucket_state().messages > 3);
        assert_eq!(unfinished(&mirror.nodes[0]).len(), query.len().min(1));
        drop(sending);
        wait_until(SOON, "half of it to be taken back", || {
            unfinished(&mirror.nodes[0]).is_empty() && mirror.nats().bucket_state().messages == 0
        });
    }
    left_nothing(&mut mirror);
    assert_eq!(put(http, &bytes, "?path=x").status, 200);
}

#[test]
fn a_slow_client_does_not_hold_up_others() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    let bytes = content("the same", 4 * MIB);
    let length = format!("Content-Length: {}", bytes.len());
    let mut slow = http.begin(&request(&bytes, "?path=x"), &[&length]);
    slow.send(&bytes[..MIB]);
    wait_until(SOON, "a part of it", || !unfinished(&mirror.nodes[0]).is_empty());
    assert_eq!(put(http, &bytes, "?path=x").json()["created"], true);
    assert_eq!(put(http, b"other", "?path=other").status, 200);
    slow.send(&bytes[MIB..]);
    assert_eq!(slow.answer().json()["created"], false);
    assert_eq!(mirror.log().len(), 2);
    wait_until(SOON, "its chunks to be taken back", || mirror.nats().bucket_state().messages == 17 + 2);
}

#[test]
fn a_killed_watcher_leaves_what_its_next_start_sweeps() {
    let mut mirror = Mirror::idle(&["a"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    mirror.wait_ready();
    let bytes = content("large", 4 * MIB);
    let mut sending = http.begin(&request(&bytes, "?path=x"), &[&format!("Content-Length: {}", bytes.len())]);
    sending.send(&bytes[..2 * MIB]);
    wait_until(SOON, "a part of it", || !unfinished(&mirror.nodes[0]).is_empty());
    mirror.nodes[0].kill(Role::Watcher);
    assert_eq!(unfinished(&mirror.nodes[0]).len(), 1);
    // The other process leaves it alone: the watcher might be at work on it.
    mirror.nodes[0].start(Role::Replicator);
    mirror.wait_ready();
    assert_eq!(unfinished(&mirror.nodes[0]).len(), 1);
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    wait_until(SOON, "it to be swept", || unfinished(&mirror.nodes[0]).is_empty());
    assert_eq!(mirror.log().len(), 0);
    assert_eq!(put_when_ready(http, &bytes, "?path=x").status, 200);
}

/// The watcher dies at the nth of such calls after it was ready; the replicator does not run.
fn dies_at(call: &str, nth: u32, replicator: bool) {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    mirror.nodes[1].start_both();
    mirror.wait_ready();
    assert_eq!(put(http, b"first", "?path=x").status, 200);
    mirror.wait_everywhere("x", b"first");
    let process = mirror.nodes[0].process(Role::Watcher).id();
    let trace = Trace::at(mirror.dir().join("trace")).only(mirror.nodes[0].path(".mirror/tmp"));
    let injection = Injection::new(call, Fault::Kill, nth);
    let strace = trace.attach(process, mirror.dir(), &[], &[injection]);
    let second = content("second", 300_000);
    let mut sending =
        http.begin(&request(&second, "?path=x"), &[&format!("Content-Length: {}", second.len())]);
    sending.send(&second);
    mirror.nodes[0].ended(Role::Watcher, SOON);
    drop((sending, strace));
    let now = fs::read(mirror.nodes[0].path("x")).unwrap();
    assert!(now == b"first" || now == second, "nothing in between");
    let published = mirror.log().len() == 2;
    if replicator {
        mirror.nodes[0].start(Role::Replicator);
    }
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    if published && replicator {
        mirror.wait_everywhere("x", &second);
    }
    // Who asks again gets what is there, or makes it.
    let answer = put_when_ready(http, &second, "?path=x");
    assert_eq!((answer.status, answer.json()["created"] == false), (200, published), "{answer:?}");
    assert_eq!(fs::read(mirror.nodes[0].path("x")).unwrap(), second);
    mirror.wait_everywhere("x", &second);
    assert_eq!(mirror.log().len(), 2);
    wait_until(SOON, "nothing unfinished", || unfinished(&mirror.nodes[0]).is_empty());
    assert!(mirror.nodes.iter().all(|node| node.lost_conflicts().is_empty()));
}

#[test]
fn a_watcher_that_dies_before_the_event_has_done_nothing() {
    // The temp file gets its final name.
    dies_at("renameat2", 1, false);
}

#[test]
fn a_watcher_that_dies_before_the_rename_is_finished_by_who_comes_next() {
    for replicator in [false, true] {
        dies_at("renameat2", 2, replicator);
    }
}
