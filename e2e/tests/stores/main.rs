//! What the blob store keeps, and for how long.
//!
//! Tests whose names begin with `full_` take minutes; `deploy/test.sh --full` runs them.
#![allow(clippy::unwrap_used)]

mod contract;
mod elsewhere;
mod export;
mod gc;
mod moving;
mod transit;

use common::hash::ContentHash;
use e2e::{Finished, Http, Node, Role};

/// Stores a blob that no path names.
fn put_without_path(http: Http, bytes: &[u8]) -> ContentHash {
    let hash = ContentHash::of(bytes);
    let answer = http.send(&format!("PUT /api/v1/files/{hash}"), &[], bytes);
    assert_eq!(answer.status, 200, "{answer:?}");
    hash
}

/// Runs a collection, and returns what it said in JSON.
fn gc(node: &Node, arguments: &[&str]) -> (Finished, serde_json::Value) {
    let finished = node.run(Role::Replicator, &[&["gc", "--json"], arguments].concat());
    let told = finished.json_lines().pop().unwrap_or_default();
    (finished, told)
}
