//! The status page and what is there for it: it is open and holds nothing, its data needs a token, and so does its button.

use e2e::{Http, Mirror, Role, SOON, not_run, wait_for, wait_until, write};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

const READ: &str = "Authorization: Bearer only-read-0123456789";
const ADMIN: &str = "Authorization: Bearer only-admin-0123456789";
const JSON: &str = "Content-Type: application/json";

#[test]
fn the_page_is_open_and_guarded_and_what_it_shows_needs_a_token() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let tokens = mirror.dir().join("tokens");
    fs::write(&tokens, "only-read-0123456789 read\nonly-admin-0123456789 admin\n").unwrap();
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    mirror.nodes[0].start_both();
    let arguments = ["--http-token-file", tokens.to_str().unwrap()];
    let http = Http::start(&mut mirror.nodes[1], Role::Replicator, &arguments);
    mirror.wait_ready();
    let page = http.get("/");
    assert_eq!((page.status, &*page.headers["content-type"]), (200, "text/html; charset=utf-8"));
    let policy = &page.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"));
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    assert_eq!(page.headers["x-frame-options"], "DENY");
    let files: Vec<&str> = page.body.split('"').filter(|text| text.starts_with('/')).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files.into_iter().chain(["/page/api.js", "/page/plot.js"]) {
        let answer = http.get(file);
        assert_eq!(answer.status, 200, "{file}");
        assert!(answer.headers.contains_key("content-security-policy"), "{file}");
    }
    assert_eq!(http.ask("POST /", &[]).status, 405);
    let activity = |headers: &[&str]| http.ask("GET /api/v1/activity", headers);
    assert_eq!((activity(&[]).status, activity(&[ADMIN]).status), (401, 403));

    // Nothing is ever placed over a link.
    symlink("nowhere", mirror.nodes[1].path("taken")).unwrap();
    write(&mirror.nodes[0].path("taken"), b"taken");
    let parked = wait_for(2 * SOON, "a parked event", || {
        let answer = activity(&[READ]).json();
        if answer["parked_count"] == 1 { Ok(answer) } else { Err(answer.to_string()) }
    });
    let first = &parked["parked"][0];
    assert_eq!(
        (&first["path"], &first["tries"], &first["payload"]),
        (&json!("taken"), &json!(0), &json!(null))
    );
    assert!(first["reason"].as_str().unwrap().contains("symbolic link"), "{first}");
    assert_eq!((&parked["away_since"], &parked["transfers"]), (&json!(null), &json!([])));

    let retry =
        |headers: &[&str], body: &str| http.send("POST /api/v1/parked/retry", headers, body.as_bytes());
    let all = r#"{"all":true}"#;
    assert_eq!(retry(&[JSON], all).status, 401);
    assert_eq!(retry(&[JSON, READ], all).status, 403);
    assert_eq!(retry(&[ADMIN, "Content-Type: text/plain"], all).status, 415);
    assert_eq!(retry(&[ADMIN, JSON], "{}").json()["parameter"], "body");
    assert_eq!(retry(&[ADMIN, JSON], "{").status, 400);
    assert_eq!(retry(&[ADMIN, JSON], r#"{"path":"never heard of"}"#).status, 404);
    let answer = retry(&[ADMIN, JSON], r#"{"paths":["taken","other"]}"#);
    assert_eq!(answer.json(), json!({ "retried": 1, "unknown": ["other"] }), "{answer:?}");
    wait_until(SOON, "the event to be tried", || activity(&[READ]).json()["parked"][0]["tries"] == 1);
    fs::remove_file(mirror.nodes[1].path("taken")).unwrap();
    assert_eq!(retry(&[ADMIN, JSON], all).json()["retried"], 1);
    mirror.wait_everywhere("taken", b"taken");
    wait_until(SOON, "nothing to be parked", || activity(&[READ]).json()["parked_count"] == 0);
}

#[test]
fn no_web_site_asks_for_another_try_through_a_browser_on_this_machine() {
    let mut mirror = Mirror::idle(&["a"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    let retry = |headers: &[&str]| http.send("POST /api/v1/parked/retry", headers, br#"{"all":true}"#).status;
    assert_eq!(retry(&[JSON, "Host: evil.example"]), 421);
    assert_eq!(retry(&[JSON, "Origin: https://evil.example"]), 403);
    assert_eq!(retry(&["Content-Type: application/x-www-form-urlencoded"]), 415);
    assert_eq!(retry(&[JSON]), 200);
    let others = http.begin("GET /api/v1/activity", &["Host: evil.example"]).answer();
    assert_eq!(others.status, 421);
}

#[test]
#[ignore = "needs chromium and chromium-driver; run by deploy/test.sh --full"]
fn full_chromium_shows_each_state_as_it_comes_and_tries_again_at_a_click() {
    if Command::new("chromedriver").arg("--version").output().is_err() {
        not_run(
            "full_chromium_shows_each_state_as_it_comes_and_tries_again_at_a_click",
            "there is no chromedriver",
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pictures = std::env::var("MEDIAMIRROR_PICTURES").unwrap_or_else(|_| dir.path().display().to_string());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/observe/status_page.py");
    let programs = Role::Replicator.program();
    let nats = std::env::var_os("MEDIAMIRROR_NATS_SERVER").expect("the path of nats-server");
    let mut looking = Command::new("timeout");
    looking.args(["300", "python3", script]).arg(programs.parent().unwrap()).arg(nats).arg(pictures);
    let looked = looking.output().unwrap();
    assert!(looked.status.success(), "{looked:?}");
}
