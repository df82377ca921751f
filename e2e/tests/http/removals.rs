//! Files that are taken away.

use crate::{mirror_with, put};
use e2e::{Http, Mirror, Role, SOON, wait_until, write};
use serde_json::json;
use std::{fs, thread};

fn delete(http: Http, path: &str) -> (u16, serde_json::Value) {
    let answer = http.ask(&format!("DELETE /api/v1/paths/{path}"), &[]);
    (answer.status, answer.json())
}

#[test]
fn a_removed_file_is_gone_with_the_answer_and_goes_everywhere() {
    let (mut mirror, http) = mirror_with(&["a", "b"], &[]);
    assert_eq!(put(http, b"by http", "?path=a/caf%C3%A9+1").status, 200);
    write(&mirror.nodes[0].path("by hand"), b"by hand");
    mirror.wait_everywhere("by hand", b"by hand");
    mirror.wait_agreed(SOON);
    assert_eq!(delete(http, "a/caf%C3%A9%201"), (200, json!({"removed": true, "version": 3})));
    assert!(!mirror.nodes[0].path("a/caf\u{e9} 1").exists());
    assert_eq!(delete(http, "a/caf%C3%A9%201"), (200, json!({"removed": false, "version": 3})));
    assert_eq!(delete(http, "by%20hand"), (200, json!({"removed": true, "version": 4})));
    assert_eq!(delete(http, "never"), (200, json!({"removed": false, "version": null})));
    mirror.wait_nowhere("by hand");
    mirror.wait_nowhere("a/caf\u{e9} 1");
    mirror.wait_agreed(SOON);
    assert_eq!(mirror.log().len(), 4);
    for node in &mirror.nodes {
        assert_eq!(fs::read_dir(node.path(".mirror/trash")).unwrap().count(), 2);
        assert_eq!(node.lost_conflicts(), Vec::<String>::new());
    }
    // It may come back.
    assert_eq!(put(http, b"by http", "?path=a/caf%C3%A9+1").json(), json!({"created": true, "version": 5}));
    mirror.wait_everywhere("a/caf\u{e9} 1", b"by http");
}

#[test]
fn what_a_user_has_removed_already_is_published_at_once() {
    let mut mirror = Mirror::idle(&["a"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    mirror.wait_ready();
    assert_eq!(put(http, b"x", "?path=x").status, 200);
    fs::remove_file(mirror.nodes[0].path("x")).unwrap();
    assert_eq!(delete(http, "x"), (200, json!({"removed": true, "version": 2})));
    assert_eq!(delete(http, "x"), (200, json!({"removed": false, "version": 2})));
    assert_eq!(put(http, b"x", "?path=x").json()["version"], 3);
    assert_eq!(fs::read(mirror.nodes[0].path("x")).unwrap(), b"x");
}

#[test]
fn sixteen_clients_remove_a_file_once() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    assert_eq!(put(http, b"x", "?path=x").status, 200);
    let answers: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..16).map(|_| scope.spawn(|| delete(http, "x"))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(answers.iter().filter(|(_, answer)| answer["removed"] == true).count(), 1);
    mirror.wait_agreed(SOON);
    assert_eq!(mirror.log().len(), 2);
}

#[test]
fn many_removals_at_once_have_the_limit_of_a_users() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    for n in 0..130 {
        write(&mirror.nodes[0].path(format!("f/{n}")), n.to_string().as_bytes());
    }
    wait_until(SOON, "all in the log", || mirror.log().len() == 130);
    let (status, answer) =
        (0..130).map(|n| delete(http, &format!("f/{n}"))).find(|(status, _)| *status != 200).unwrap();
    assert_eq!(status, 409, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("many removals at once"), "{answer}");
    let left = fs::read_dir(mirror.nodes[0].path("f")).unwrap().count();
    assert_eq!(left, 30, "a hundred are free");
    assert_eq!(mirror.log().len(), 230);
}
