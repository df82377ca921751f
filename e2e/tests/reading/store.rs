//! What only the blob store has, whole and damaged: bytes that are wrong never come as a whole answer.

use common::hash::ContentHash;
use e2e::{Downloaded, Http, Mirror, Role, SOON, Spoil, Writer, content, wait_until};

const SMALL: usize = 100_000;
const LARGE: usize = 5 << 20;

/// A node with HTTP, and a small and a large file that the log has had, and the disk no more.
fn gone() -> (Mirror, Http, [Vec<u8>; 2]) {
    let mut mirror = Mirror::idle(&["b"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &["--removals", "delete"]);
    mirror.wait_ready();
    let writer = Writer::connect(&mirror.broker.url());
    let files = [content("small", SMALL), content("large", LARGE)];
    for (name, bytes) in ["small", "large"].into_iter().zip(&files) {
        writer.add(name, bytes);
        wait_until(SOON, name, || mirror.nodes[0].path(name).exists());
        writer.remove(name, bytes);
        wait_until(SOON, "its removal", || !mirror.nodes[0].path(name).exists());
    }
    (mirror, http, files)
}

fn get(http: &Http, bytes: &[u8], headers: &[&str]) -> Downloaded {
    http.read(&format!("GET /api/v1/files/{}", ContentHash::of(bytes)), headers)
}

#[test]
fn the_store_is_read_in_whole_and_in_part_and_by_both_processes() {
    let (mut mirror, replicator, files) = gone();
    let watcher = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    mirror.wait_ready();
    for http in [watcher, replicator] {
        for bytes in &files {
            let whole = get(&http, bytes, &[]);
            assert!(whole.status == 200 && whole.complete && whole.bytes == *bytes, "{}", whole.status);
            let end = bytes.len();
            for (first, last) in [(0, 0), (1000, end - 1), (SMALL / 2, SMALL / 2 + 9), (end - 1, end - 1)] {
                let part = get(&http, bytes, &[&format!("Range: bytes={first}-{last}")]);
                assert!(part.status == 206 && part.complete, "{first}-{last}: {}", part.status);
                assert!(part.bytes == bytes[first..=last], "{first}-{last}");
            }
            let head = http.read(&format!("HEAD /api/v1/files/{}", ContentHash::of(bytes)), &[]);
            assert_eq!((head.status, &head.headers["content-length"]), (200, &end.to_string()));
        }
        assert_eq!(get(&http, b"", &[]).status, 200);
        assert_eq!(get(&http, b"never there", &[]).status, 404);
    }
}

#[test]
fn blobs_with_other_bytes_are_never_sent_whole() {
    let (mut mirror, http, [small, large]) = gone();
    assert!(mirror.nats().damage_blobs() > 1);
    let answer = get(&http, &small, &[]);
    assert_eq!(answer.status, 502, "{:?}", answer.headers);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    for range in ["bytes=0-", "bytes=0-0", "bytes=1000000-1000010", "bytes=-1"] {
        let answer = get(&http, &large, &[&format!("Range: {range}")]);
        assert!(!answer.complete, "{range}: {} with {} bytes", answer.status, answer.bytes.len());
    }
}

#[test]
fn blobs_with_chunks_too_many_or_too_few_are_never_sent_whole() {
    for how in [Spoil::Missing, Spoil::Doubled, Spoil::Empty] {
        let (mut mirror, http, [_, large]) = gone();
        assert_eq!(mirror.nats().spoil_blobs(how), 1);
        let answer = get(&http, &large, &[]);
        assert!(answer.status == 502 || !answer.complete, "{}", answer.status);
    }
}

#[test]
fn a_path_whose_blob_is_damaged_or_lost_is_never_read_whole_and_is_as_soon_as_it_is_mended() {
    let mut mirror = Mirror::idle(&["b"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    mirror.wait_ready();
    let writer = Writer::connect(&mirror.broker.url());
    let files = [("small.jpg", content("small", SMALL)), ("large.mp4", content("large", LARGE))];
    mirror.nodes[0].process(Role::Replicator).freeze();
    files.iter().for_each(|(path, bytes)| _ = writer.add(path, bytes));
    assert!(mirror.nats().damage_blobs() > 1);
    mirror.nodes[0].process(Role::Replicator).resume();
    for _ in 0..3 {
        for (path, _) in &files {
            let answer = http.read(&format!("GET /api/v1/paths/{path}"), &[]);
            let whole = answer.status == 200 && answer.complete;
            assert!(!whole && answer.status != 404, "{path}: {}", answer.status);
            assert!(!mirror.nodes[0].path(path).exists());
        }
    }
    let broken = http.get("/api/v1/paths/small.jpg");
    assert_eq!(broken.status, 502, "{broken:?}");
    assert_eq!(http.read("HEAD /api/v1/paths/small.jpg", &[]).status, 502);
    mirror.nats().lose_blobs();
    assert_eq!(http.read("GET /api/v1/paths/small.jpg", &[]).status, 502);
    for (path, bytes) in &files {
        writer.add(&format!("{path} again"), bytes);
    }
    for (path, bytes) in &files {
        wait_until(SOON, path, || {
            let answer = http.read(&format!("GET /api/v1/paths/{path}"), &[]);
            answer.status == 200 && answer.complete && answer.bytes == *bytes
        });
    }
}
