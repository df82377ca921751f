//! Files that go up.

use crate::{mirror_with, put, request, unfinished};
use e2e::{Http, Mirror, Role, content, wait_until, write};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    thread,
};

const CHUNK: usize = 256 << 10;

#[test]
fn a_script_that_only_puts_with_its_size_works_the_first_time_and_on_repeats() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    for size in [0, 1, 10_000, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK + 7] {
        let bytes = content(&size.to_string(), size);
        for created in [true, false, false] {
            let answer = http.send(&request(&bytes, ""), &[&format!("X-File-Size: {size}")], &bytes);
            assert_eq!(answer.status, 200, "{answer:?}");
            let json = answer.json();
            assert!(json["created"] == created && json["version"].is_null(), "{size}: {json}");
            assert!(json["expires"].as_str().unwrap().starts_with("20"), "{json}");
        }
    }
    assert_eq!(mirror.log().len(), 0, "what has no path is no event");
    // 2 messages for each of one chunk, 1 for the empty one, and for the large ones their chunks.
    assert_eq!(mirror.nats().bucket_state().messages, 1 + 2 * 4 + 3 + 6);
    assert_eq!(unfinished(&mirror.nodes[0]), Vec::<String>::new());
}

#[test]
fn sixteen_clients_with_the_same_file_make_one_blob_and_one_event() {
    let (mut mirror, http) = mirror_with(&["a", "b"], &[]);
    for (path, size) in [("small", 10_000), ("large", 3 * CHUNK)] {
        let bytes = content(path, size);
        let query = format!("?path={path}");
        let answers: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = (0..16).map(|_| scope.spawn(|| put(http, &bytes, &query))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
        let created = answers.iter().filter(|answer| answer.json()["created"] == true).count();
        assert_eq!(created, 1);
        let version = mirror.log_of(path)[0].version;
        assert!(answers.iter().all(|answer| answer.json()["version"] == version), "{answers:?}");
        assert_eq!(mirror.log_of(path).len(), 1);
        assert_eq!(fs::read(mirror.nodes[0].path(path)).unwrap(), bytes, "it is on the disk with the answer");
        mirror.wait_everywhere(path, &bytes);
    }
    wait_until(e2e::SOON, "chunks that came second to be taken back", || {
        mirror.nats().bucket_state().messages == 2 + 4
    });
    mirror.wait_agreed(e2e::SOON);
    assert_eq!(unfinished(&mirror.nodes[0]), Vec::<String>::new());
}

#[test]
fn with_the_answer_the_file_is_in_the_log_and_on_the_disk_and_a_repeat_writes_nothing() {
    let (mut mirror, http) = mirror_with(&["a", "b"], &[]);
    fs::create_dir(mirror.nodes[0].path("theirs")).unwrap();
    chown(mirror.nodes[0].path("theirs"), Some(1234), Some(1235)).unwrap();
    fs::set_permissions(mirror.nodes[0].path("theirs"), fs::Permissions::from_mode(0o2775)).unwrap();
    let first = content("first", 10_000);
    let path = "theirs/new folder/caf\u{e9} 100%.jpg";
    let query = "?path=theirs/new+folder/caf%C3%A9%20100%25.jpg";
    let answer = put(http, &first, query);
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({"created": true, "version": 1})));
    let file = fs::metadata(mirror.nodes[0].path(path)).unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o644, 1234, 1235));
    assert_eq!(mirror.log_of(path).len(), 1);
    mirror.wait_everywhere(path, &first);
    mirror.wait_agreed(e2e::SOON);

    let (log, messages) = (mirror.log().len(), mirror.nats().bucket_state().last_sequence);
    for _ in 0..3 {
        let answer = put(http, &first, query);
        assert_eq!(
            (answer.status, answer.json()),
            (200, serde_json::json!({"created": false, "version": 1}))
        );
    }
    assert_eq!((mirror.log().len(), mirror.nats().bucket_state().last_sequence), (log, messages));
    let again = fs::metadata(mirror.nodes[0].path(path)).unwrap();
    assert_eq!((again.ino(), again.ctime_nsec()), (file.ino(), file.ctime_nsec()), "untouched");

    // Another content replaces it; what stood there goes to the trash, and is no conflict.
    let second = content("second", 700_000);
    let answer = put(http, &second, query);
    assert_eq!(answer.json(), serde_json::json!({"created": true, "version": 2}));
    assert_eq!(fs::read(mirror.nodes[0].path(path)).unwrap(), second);
    mirror.wait_everywhere(path, &second);
    mirror.wait_agreed(e2e::SOON);
    for node in &mirror.nodes {
        assert_eq!(node.lost_conflicts(), Vec::<String>::new());
        assert_eq!(fs::read_dir(node.path(".mirror/trash")).unwrap().count(), 1);
    }
    assert_eq!(mirror.log().len(), 2, "no echo");
}

#[test]
fn a_node_with_a_watcher_alone_takes_uploads_too() {
    let mut mirror = Mirror::idle(&["a"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, &["--owner", "1234:1235"]);
    mirror.wait_ready();
    for (text, version) in [("one", 1), ("two", 2)] {
        assert_eq!(put(http, text.as_bytes(), "?path=a/b").json()["version"], version);
        assert_eq!(fs::read_to_string(mirror.nodes[0].path("a/b")).unwrap(), text);
    }
    let file = fs::metadata(mirror.nodes[0].path("a/b")).unwrap();
    assert_eq!((file.uid(), file.gid()), (1234, 1235));
    // A user's change afterwards is published over it, and an upload over that.
    write(&mirror.nodes[0].path("a/b"), b"by hand");
    wait_until(e2e::SOON, "the user's change in the log", || mirror.log().len() == 3);
    wait_until(e2e::SOON, "an upload over it", || put(http, b"three", "?path=a/b").status == 200);
    assert_eq!(mirror.log().len(), 4);
    mirror.nodes[0].start(Role::Replicator);
    mirror.wait_ready();
    mirror.wait_agreed(e2e::SOON);
    assert_eq!(mirror.log().len(), 4);
    assert_eq!(fs::read(mirror.nodes[0].path("a/b")).unwrap(), b"three");
}

#[test]
fn the_replicator_of_the_same_node_does_not_fetch_what_was_uploaded_here() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    let large = content("large", 8 << 20);
    let tap = mirror.nats().tap();
    for path in ["x", "y"] {
        // With the answer the replicator has done with it as well.
        assert_eq!(put(http, &large, &format!("?path={path}&wait=1")).status, 200);
    }
    assert_eq!(tap.seen().read, 0);
}

#[test]
fn only_what_is_new_is_made_where_that_is_asked() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    let once = |bytes: &[u8]| http.send(&request(bytes, "?path=x"), &["If-None-Match: *"], bytes);
    assert_eq!(once(b"first").status, 200);
    assert_eq!(once(b"second").status, 412);
    assert_eq!(once(b"first").status, 412);
    assert_eq!(fs::read(mirror.nodes[0].path("x")).unwrap(), b"first");
    assert_eq!(http.ask("DELETE /api/v1/paths/x", &[]).status, 200);
    assert_eq!(once(b"second").status, 200);
    // Of many at once one wins.
    let contents: Vec<Vec<u8>> = (0..8u8).map(|i| vec![i; 1000]).collect();
    let answers: Vec<_> = thread::scope(|scope| {
        let ask =
            |bytes: &'_ Vec<u8>| http.send(&request(bytes, "?path=y"), &["If-None-Match: *"], bytes).status;
        let clients: Vec<_> = contents.iter().map(|bytes| scope.spawn(move || ask(bytes))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|status| [200, 412].contains(status)), "{answers:?}");
    assert_eq!(mirror.log_of("y").len(), 1);
}

#[test]
fn a_body_without_a_length_is_taken_as_well() {
    let (mut mirror, http) = mirror_with(&["a"], &[]);
    let bytes = content("in pieces", 600_000);
    let mut sending = http.begin(&request(&bytes, "?path=x"), &["Transfer-Encoding: chunked"]);
    for part in bytes.chunks(100_000) {
        sending.send(format!("{:x}\r\n", part.len()).as_bytes());
        sending.send(part);
        sending.send(b"\r\n");
    }
    sending.send(b"0\r\n\r\n");
    assert_eq!(sending.answer().status, 200);
    assert_eq!(fs::read(mirror.nodes[0].path("x")).unwrap(), bytes);
    assert_eq!(mirror.log_of("x").len(), 1);
}

#[test]
#[ignore = "moves gigabytes"]
fn full_two_gibibytes_go_up_with_flat_memory() {
    let (mut mirror, http) = mirror_with(&["a", "b"], &[]);
    let part = content("part", 1 << 20);
    let parts = 2048;
    let name = {
        let mut hasher = common::hash::Hasher::new();
        (0..parts).for_each(|_| hasher.update(&part));
        hasher.finish()
    };
    let before = mirror.nodes[0].process(Role::Watcher).peak_memory();
    let length = format!("Content-Length: {}", parts * part.len());
    let began = std::time::Instant::now();
    let mut sending = http.begin(&format!("PUT /api/v1/files/{name}?path=large"), &[&length]);
    (0..parts).for_each(|_| sending.send(&part));
    // So much has to be made durable.
    let answer = sending.answer_within(e2e::LONG);
    println!("2 GiB in {:?}: {answer:?}", began.elapsed());
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut file = fs::File::open(mirror.nodes[0].path("large")).unwrap();
    assert_eq!(common::content::hash_open(&mut file).unwrap(), (name, 2 << 30));
    let grown = mirror.nodes[0].process(Role::Watcher).peak_memory().saturating_sub(before);
    println!("{} KiB more memory at most", grown >> 10);
    assert!(grown < 48 << 20, "{grown} bytes more");
    wait_until(e2e::LONG, "it on the other node", || {
        fs::metadata(mirror.nodes[1].path("large")).is_ok_and(|file| file.len() == 2 << 30)
    });
}
