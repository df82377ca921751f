//! What programs do over HTTP, against real processes: files go up, and away, and nothing is taken that should not be.
//!
//! Tests whose names begin with `full_` take minutes; `deploy/test.sh --full` runs them.
#![allow(clippy::unwrap_used)]

mod broken_off;
mod described;
mod refusals;
mod removals;
mod security;
mod uploads;
mod waiting;

use common::hash::ContentHash;
use e2e::{Answer, Http, Mirror, Node, Role, SOON, wait_for};
use std::fs;

/// A mirror with both processes on each node; the watcher of the first has HTTP.
fn mirror_with(names: &[&str], arguments: &[&str]) -> (Mirror, Http) {
    let mut mirror = Mirror::idle(names);
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, arguments);
    mirror.nodes[0].start(Role::Replicator);
    mirror.nodes[1..].iter_mut().for_each(Node::start_both);
    mirror.wait_ready();
    (mirror, http)
}

/// The request that puts these bytes.
fn request(bytes: &[u8], query: &str) -> String {
    format!("PUT /api/v1/files/{}{query}", ContentHash::of(bytes))
}

fn put(http: Http, bytes: &[u8], query: &str) -> Answer {
    http.send(&request(bytes, query), &[], bytes)
}

/// The same once the watcher can: after a start the record of the run before may say that it is ready.
fn put_when_ready(http: Http, bytes: &[u8], query: &str) -> Answer {
    wait_for(SOON, "the watcher to take uploads", || {
        let answer = put(http, bytes, query);
        if answer.status == 503 { Err(format!("{answer:?}")) } else { Ok(answer) }
    })
}

/// Names in `.mirror/tmp`.
fn unfinished(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.path(".mirror/tmp")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Nothing is left that a reader of the node, of the log or of the store could find.
fn left_nothing(mirror: &mut Mirror) {
    assert_eq!(unfinished(&mirror.nodes[0]), Vec::<String>::new());
    assert_eq!(mirror.log().len(), 0);
    assert_eq!(mirror.nats().bucket_state().messages, 0);
}
