//! Uploads that are answered when the file is on other nodes, too.

use crate::{mirror_with, put};
use e2e::Role;
use serde_json::json;
use std::fs;

#[test]
fn the_answer_comes_when_the_file_is_on_as_many_nodes_as_was_asked() {
    let (mut mirror, http) = mirror_with(&["a", "b", "c"], &[]);
    let answer = put(http, b"everywhere", "?path=x&wait=all");
    assert_eq!(answer.status, 200, "{answer:?}");
    for node in &mirror.nodes {
        assert_eq!(fs::read(node.path("x")).unwrap(), b"everywhere", "{}", node.name);
    }
    let answer = answer.json();
    assert_eq!((&answer["created"], &answer["version"]), (&json!(true), &json!(1)));
    assert_eq!((&answer["have"], &answer["missing"]), (&json!(["a", "b", "c"]), &json!([])));
    // A repeat waits as well.
    let answer = put(http, b"everywhere", "?path=x&wait=3").json();
    assert_eq!((&answer["created"], answer["have"].as_array().unwrap().len()), (&json!(false), 3));

    // One that is stopped does not hold it up, and is named; one that hangs does.
    mirror.nodes[2].stop(Role::Replicator);
    let answer = put(http, b"second", "?path=x&wait=all");
    assert_eq!(answer.status, 200, "{answer:?}");
    let missing = answer.json()["missing"].clone();
    assert_eq!((&missing[0]["node"], &missing[0]["reason"]), (&json!("c"), &json!("stopped")));
    mirror.nodes[1].process(Role::Replicator).freeze();
    let answer = put(http, b"third", "?path=x&wait=all&timeout=1s");
    mirror.nodes[1].process(Role::Replicator).resume();
    assert_eq!((answer.status, &*answer.headers["content-type"]), (504, "application/problem+json"));
    let answer = answer.json();
    assert!(answer["detail"].as_str().unwrap().starts_with("the upload is done"), "{answer}");
    assert_eq!(
        (&answer["created"], &answer["version"], &answer["have"]),
        (&json!(true), &json!(3), &json!(["a"]))
    );
    let missing = answer["missing"].as_array().unwrap();
    let of_b = missing.iter().find(|missing| missing["node"] == "b").unwrap();
    assert_eq!(of_b["reason"], "behind", "{answer}");
    mirror.wait_everywhere_but(2, "x", b"third");
}
