//! Who may change something over HTTP.

use crate::{left_nothing, mirror_with, put, request};
use e2e::{Role, SOON, Sending, content, wait_until};
use std::{fs, os::unix::fs::PermissionsExt};

const MIB: usize = 1 << 20;

#[test]
fn a_token_without_the_scope_is_refused_before_the_body_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    fs::write(&tokens, "reader-0123456789 read,admin\nwriter-0123456789 write\n").unwrap();
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    let (mut mirror, http) = mirror_with(&["a"], &["--http-token-file", tokens.to_str().unwrap()]);
    let bytes = content("large", 4 * MIB);
    let length = format!("Content-Length: {}", bytes.len());
    for (token, status) in [(None, 401), (Some("other-0123456789"), 401), (Some("reader-0123456789"), 403)] {
        let token = token.map(|token| format!("Authorization: Bearer {token}"));
        let fields: Vec<&str> = [length.as_str()].into_iter().chain(token.as_deref()).collect();
        for query in ["?path=x", ""] {
            // Nothing of it is sent, and the answer is there.
            let answer = http.begin(&request(&bytes, query), &fields).answer();
            assert_eq!(answer.status, status, "{answer:?}");
        }
        let fields: Vec<&str> = token.as_deref().into_iter().collect();
        assert_eq!(http.ask("DELETE /api/v1/paths/x", &fields).status, status);
    }
    left_nothing(&mut mirror);
    let writer = "Authorization: Bearer writer-0123456789";
    assert_eq!(http.send(&request(&bytes, "?path=x"), &[writer], &bytes).status, 200);
    assert_eq!(http.ask("DELETE /api/v1/paths/x", &[writer]).status, 200);
    assert_eq!(http.ask("GET /api/v1/status", &[writer]).status, 403, "writing is not reading");
    let log = mirror.nodes[0].process(Role::Watcher).log();
    assert!(!log.contains("0123456789"), "a token in the log");
}

#[test]
fn no_web_site_uploads_or_removes_through_a_browser_on_this_machine() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    for (field, status) in [
        ("Host: evil.example", 421),
        ("Host: evil.example:7420", 421),
        ("Host: 127.0.0.1.evil.example", 421),
        ("Origin: https://evil.example", 403),
        ("Origin: null", 403),
    ] {
        let answer = http.send(&request(b"x", "?path=x"), &[field], b"x");
        assert_eq!(answer.status, status, "{field}: {answer:?}");
        let removal = http.begin("DELETE /api/v1/paths/x", &[field]);
        assert_eq!(removal.answer().status, status, "{field}");
    }
    left_nothing(&mut mirror);
    // A form can only post.
    assert_eq!(http.send(&request(b"x", "?path=x").replace("PUT", "POST"), &[], b"x").status, 405);
    let own = format!("Origin: http://{}", http.0);
    for fields in
        [&[own.as_str()][..], &["Host: localhost"], &[&format!("Host: localhost:{}", http.0.port())]]
    {
        let answer = http.send(&request(b"x", "?path=x"), fields, b"x");
        assert_eq!(answer.status, 200, "{fields:?}: {answer:?}");
    }
}

#[test]
fn so_many_uploads_at_once_and_no_more() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    let bytes = content("large", 2 * MIB);
    let begin = |n: usize| {
        let query = format!("?path={n}");
        let mut sending =
            http.begin(&request(&bytes, &query), &[&format!("Content-Length: {}", bytes.len())]);
        sending.send(&bytes[..MIB]);
        sending
    };
    let held: Vec<Sending> = (0..32).map(begin).collect();
    let tmp = mirror.nodes[0].path(".mirror/tmp");
    wait_until(SOON, "all of them begun", || fs::read_dir(&tmp).unwrap().count() == 32);
    let answer = put(http, b"x", "?path=x");
    assert_eq!((answer.status, answer.headers.contains_key("retry-after")), (503, true), "{answer:?}");
    assert_eq!(http.get("/healthz").status, 200, "others are not held up");
    drop(held);
    wait_until(SOON, "room for another", || put(http, b"x", "?path=x").status == 200);
    wait_until(SOON, "all of them swept", || fs::read_dir(&tmp).unwrap().count() == 0);
    assert_eq!(mirror.log().len(), 1);
}
