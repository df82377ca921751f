//! What stands on the disk: ranges, conditions, what is said of it, and that it is what the index vouches for.

use common::hash::ContentHash;
use e2e::{Http, Mirror, Role, SOON, content, wait_for, wait_until, write};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

fn by_hash(bytes: &[u8]) -> String {
    format!("/api/v1/files/{}", ContentHash::of(bytes))
}

#[test]
fn a_file_is_read_by_hash_and_by_path_in_whole_and_in_part_and_says_what_it_is() {
    let mut mirror = Mirror::idle(&["a"]);
    let watcher = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    let replicator = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    let (small, large) = (content("small", 10_000), content("large", 3 << 20));
    write(&mirror.nodes[0].path("a b/bürger 100%+?.jpg"), &small);
    write(&mirror.nodes[0].path("x\"\r\nSet-Cookie: a=b;.html"), &large);
    wait_until(SOON, "both files", || mirror.log().len() == 2);
    let small_path = "/api/v1/paths/a%20b/b%C3%BCrger%20100%25+%3F.jpg".to_owned();
    let large_path = "/api/v1/paths/x%22%0D%0ASet-Cookie%3A%20a=b;.html".to_owned();
    for (http, at, bytes) in [
        (watcher, by_hash(&small), &small),
        (replicator, by_hash(&small), &small),
        (replicator, small_path.clone(), &small),
        (watcher, by_hash(&large), &large),
        (replicator, by_hash(&large), &large),
        (replicator, large_path.clone(), &large),
    ] {
        let get = format!("GET {at}");
        let whole = http.read(&get, &[]);
        assert_eq!((whole.status, whole.complete), (200, true), "{at} {:?}", whole.headers);
        assert!(whole.bytes == *bytes, "{at} has other bytes");
        let tag = format!("\"{}\"", ContentHash::of(bytes));
        assert_eq!(whole.headers["etag"], tag);
        assert_eq!(whole.headers["accept-ranges"], "bytes");
        assert_eq!(whole.headers["x-content-type-options"], "nosniff");
        assert!(whole.headers["content-security-policy"].ends_with("; sandbox"), "{:?}", whole.headers);
        assert!(!whole.headers.contains_key("set-cookie"), "{:?}", whole.headers);

        let head = http.read(&format!("HEAD {at}"), &["Range: bytes=1-2"]);
        assert_eq!((head.status, head.bytes.len()), (200, 0));
        assert_eq!(head.headers["content-length"], bytes.len().to_string());
        assert_eq!(head.headers["etag"], tag);

        let end = bytes.len() - 1;
        for (range, part) in
            [("0-0".to_owned(), 0..1), ("5000-".into(), 5000..end + 1), (format!("-{end}"), 1..end + 1)]
        {
            let answer = http.read(&get, &[&format!("Range: bytes={range}"), &format!("If-Range: {tag}")]);
            assert_eq!((answer.status, answer.complete), (206, true), "{range}");
            let said = format!("bytes {}-{}/{}", part.start, part.end - 1, bytes.len());
            assert_eq!(answer.headers["content-range"], said);
            assert!(answer.bytes == bytes[part], "{at} {range} has other bytes");
        }
        let beyond = http.read(&get, &[&format!("Range: bytes={}-", bytes.len())]);
        assert_eq!(beyond.status, 416);
        assert_eq!(beyond.headers["content-range"], format!("bytes */{}", bytes.len()));
        let other = http.read(&get, &["Range: bytes=0-0", "If-Range: \"other\""]);
        assert_eq!((other.status, other.bytes.len()), (200, bytes.len()));
        let known = http.read(&get, &[&format!("If-None-Match: {tag}")]);
        assert_eq!((known.status, known.bytes.len(), &known.headers["etag"]), (304, 0, &tag));
    }
    let said = replicator.read(&format!("GET {small_path}"), &[]).headers;
    assert_eq!(said["content-type"], "image/jpeg");
    let name = "inline; filename=\"b__rger_100___.jpg\"; filename*=UTF-8''b%C3%BCrger%20100%25%2B%3F.jpg";
    assert_eq!(said["content-disposition"], name);
    let said = replicator.read(&format!("GET {large_path}"), &[]).headers;
    assert_eq!(said["content-type"], "application/octet-stream");
    assert!(said["content-disposition"].starts_with("attachment; "), "{said:?}");

    for (request, status) in [
        ("/api/v1/paths/absent", 404),
        ("/api/v1/paths/", 404),
        ("/api/v1/paths/a/../b", 400),
        ("/api/v1/paths/%2e%2e/etc/passwd", 400),
        ("/api/v1/paths/.mirror/id", 400),
        ("/api/v1/paths/%00", 400),
        ("/api/v1/paths/a?x=1", 400),
        ("/api/v1/files/abc", 400),
        ("/api/v1/files/0000000000000000000000000000000000000000000000000000000000000000", 404),
    ] {
        assert_eq!(replicator.read(&format!("GET {request}"), &[]).status, status, "{request}");
    }

    // The broker is gone: what stands is read all the same.
    mirror.broker.kill();
    let away = replicator.read(&format!("GET {small_path}"), &[]);
    assert!((away.status, away.bytes == small) == (200, true));
    let absent = wait_for(SOON, "the process to notice", || {
        let answer = replicator.read("GET /api/v1/paths/absent", &[]);
        if answer.status == 503 { Ok(answer) } else { Err(answer.status.to_string()) }
    });
    assert!(absent.headers.contains_key("retry-after"));
}

#[test]
fn nothing_is_read_over_links_and_no_file_that_is_not_as_the_index_has_it() {
    let mut mirror = Mirror::idle(&["a"]);
    mirror.nodes[0].start(Role::Watcher);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    let bytes = content("file", 10_000);
    for path in ["folder/file", "changed", "linked"] {
        write(&mirror.nodes[0].path(path), &[&bytes[..], path.as_bytes()].concat());
    }
    wait_until(SOON, "the files", || mirror.log().len() == 3);
    // Nobody sees what happens now.
    mirror.nodes[0].stop(Role::Watcher);
    let outside = mirror.outside("outside");
    write(&outside.join("file"), &[&bytes[..], b"folder/file"].concat());
    let folder = mirror.nodes[0].path("folder");
    fs::rename(&folder, mirror.outside("was").join("folder")).unwrap();
    symlink(&outside, &folder).unwrap();
    fs::write(mirror.nodes[0].path("changed"), b"other").unwrap();
    fs::remove_file(mirror.nodes[0].path("linked")).unwrap();
    symlink(outside.join("file"), mirror.nodes[0].path("linked")).unwrap();
    for path in ["folder/file", "changed", "linked"] {
        let answer = http.read(&format!("GET /api/v1/paths/{path}"), &[]);
        assert_eq!(answer.status, 503, "{path}: {}", String::from_utf8_lossy(&answer.bytes));
        // By its hash it is in the store.
        let whole = [&bytes[..], path.as_bytes()].concat();
        let answer = http.read(&format!("GET {}", by_hash(&whole)), &[]);
        assert!((answer.status, answer.bytes == whole) == (200, true), "{path}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_not_sent_to_its_end() {
    let mut mirror = Mirror::idle(&["a"]);
    mirror.nodes[0].start(Role::Watcher);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    let bytes = content("file", 64 << 20);
    write(&mirror.nodes[0].path("replaced"), &bytes);
    write(&mirror.nodes[0].path("written"), &[&bytes[..], b"!"].concat());
    wait_until(2 * SOON, "the files", || mirror.log().len() == 2);
    let begin = |path: &str| {
        let mut begun = http.download(&format!("GET /api/v1/paths/{path}"), &[]);
        assert_eq!(begun.status, 200);
        assert!(begun.take(1000) == bytes[..1000]);
        begun
    };
    let (replaced, written) = (begin("replaced"), begin("written"));
    let other = mirror.nodes[0].path("other.tmp");
    write(&other, b"another file");
    fs::rename(&other, mirror.nodes[0].path("replaced")).unwrap();
    fs::write(mirror.nodes[0].path("written"), content("other", bytes.len() + 1)).unwrap();
    let replaced = replaced.rest();
    assert!(replaced.complete && replaced.bytes == bytes[1000..], "what is open stays what it is");
    let written = written.rest();
    assert!(!written.complete, "half a file and half another");
    assert!(bytes[1000..].starts_with(&written.bytes), "bytes of another file");
}

#[test]
fn slow_clients_hold_up_nobody_and_are_a_bounded_number() {
    let mut mirror = Mirror::idle(&["a"]);
    mirror.nodes[0].start(Role::Watcher);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    let bytes = content("file", 32 << 20);
    write(&mirror.nodes[0].path("large"), &bytes);
    write(&mirror.nodes[0].path("small"), b"small");
    wait_until(SOON, "the files", || mirror.log().len() == 2);
    let mut slow: Vec<_> = (0..95).map(|_| http.download("GET /api/v1/paths/large", &[])).collect();
    assert!(slow.iter().all(|slow| slow.status == 200));
    let quick = http.read("GET /api/v1/paths/large", &[]);
    assert!(quick.complete && quick.bytes == bytes);
    slow.push(http.download("GET /api/v1/paths/large", &[]));
    let refused = http.read("GET /api/v1/paths/small", &[]);
    assert_eq!(refused.status, 503);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(http.get("/healthz").status, 200);
    let peak = mirror.nodes[0].process(Role::Replicator).peak_memory();
    assert!(peak < 160 << 20, "{} MiB", peak >> 20);
    let last = slow.pop().unwrap().rest();
    assert!(last.complete && last.bytes == bytes);
    wait_until(SOON, "its place", || http.read("GET /api/v1/paths/small", &[]).bytes == b"small");
    drop(slow);
}

#[test]
fn reading_needs_a_token_for_it() {
    let mut mirror = Mirror::idle(&["a"]);
    let tokens = mirror.nodes[0].home.join("tokens");
    fs::write(&tokens, "only-read-0123456789 read\nnot-read-0123456789 write,admin\n").unwrap();
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    let arguments = ["--http-token-file", tokens.to_str().unwrap()];
    let watcher = Http::start(&mut mirror.nodes[0], Role::Watcher, &arguments);
    let replicator = Http::start(&mut mirror.nodes[0], Role::Replicator, &arguments);
    mirror.wait_ready();
    write(&mirror.nodes[0].path("file"), b"file");
    wait_until(SOON, "the file", || mirror.log().len() == 1);
    let by_hash = by_hash(b"file");
    for (http, at) in [(watcher, &*by_hash), (replicator, &by_hash), (replicator, "/api/v1/paths/file")] {
        for (token, status) in [("", 401), ("not-read-0123456789", 403), ("only-read-0123456789", 200)] {
            let answer = http.read(&format!("GET {at}"), &[&format!("Authorization: Bearer {token}")]);
            assert_eq!(answer.status, status, "{at} {token}");
            assert_eq!(answer.bytes == b"file", status == 200);
        }
    }
}

#[test]
fn miss_wait_is_short() {
    let mirror = Mirror::prepared(&["a"]);
    let run = mirror.nodes[0].run(Role::Replicator, &["run", "--miss-wait", "6s"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("--miss-wait") && run.stderr.contains("5s"), "{run:?}");
}
