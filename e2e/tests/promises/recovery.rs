//! A replicator that was killed is at work again in moments, and goes on with large files where it stopped.

use e2e::{LONG, Mirror, Node, Role, SOON, Tree, content, sha256_of, wait_until, write};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const MIB: u64 = 1 << 20;
/// Fetched again after each kill at most: what is kept every 16 MiB, the two pages on their way, and what the disk was slower for.
const AGAIN: u64 = 24 * MIB;

/// What a node has received of unfinished files.
fn received(node: &Node) -> u64 {
    let files = fs::read_dir(node.path(".mirror/tmp")).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// A large file on a, of which b has nothing yet, and its hash.
fn sent_slowly(size: u64, rate: &str) -> (Mirror, String) {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start(Role::Watcher);
    mirror.wait_ready();
    let bytes: Vec<u8> = (0..size / MIB).flat_map(|i| content(&i.to_string(), MIB as usize)).collect();
    write(&mirror.nodes[0].path("large"), &bytes);
    wait_until(SOON, "its event", || mirror.log().len() == 1);
    mirror.nodes[1].flags = vec!["--download-limit".into(), rate.into()];
    let hash = sha256_of(&mirror.nodes[0].path("large")).unwrap();
    (mirror, hash)
}

/// The file is whole, and about so much crossed the wire for it.
fn came_once(mirror: &mut Mirror, hash: &str, before: u64, interruptions: u64) {
    let size = fs::metadata(mirror.nodes[0].path("large")).unwrap().len();
    wait_until(LONG, "the large file", || mirror.nodes[1].path("large").exists());
    assert_eq!(sha256_of(&mirror.nodes[1].path("large")).unwrap(), hash);
    let crossed = mirror.broker.traffic().out_bytes - before;
    println!("{} MiB crossed for {} MiB, interrupted {interruptions} times", crossed / MIB, size / MIB);
    assert!(crossed < size + interruptions * AGAIN + 4 * MIB, "{crossed} bytes crossed");
    mirror.wait_equal(SOON);
    assert_eq!(received(&mirror.nodes[1]), 0);
}

#[test]
fn a_large_file_goes_on_where_it_was_when_the_replicator_was_killed() {
    let (mut mirror, hash) = sent_slowly(112 * MIB, "16MiB");
    let before = mirror.broker.traffic().out_bytes;
    for kill in 1..=3 {
        mirror.nodes[1].start(Role::Replicator);
        wait_until(SOON, "more of it", || received(&mirror.nodes[1]) > kill * 24 * MIB);
        mirror.nodes[1].kill(Role::Replicator);
        assert!(!mirror.nodes[1].path("large").exists());
    }
    mirror.nodes[1].start(Role::Replicator);
    came_once(&mut mirror, &hash, before, 3);
    let log = mirror.nodes[1].process(Role::Replicator).log();
    assert_eq!(log.matches("going on with a large file").count(), 3);
}

#[test]
fn a_large_file_goes_on_after_a_stop_and_after_a_broken_connection() {
    let (mut mirror, hash) = sent_slowly(112 * MIB, "12MiB");
    mirror.nodes[1].start(Role::Replicator);
    wait_until(SOON, "some of it", || received(&mirror.nodes[1]) > 20 * MIB);
    // It is given 5 s to end, in which it goes on.
    assert_eq!(mirror.nodes[1].stop(Role::Replicator).code(), Some(0));
    let stopped_at = received(&mirror.nodes[1]);
    assert!(stopped_at >= 16 * MIB, "{stopped_at}");
    mirror.nodes[1].start(Role::Replicator);
    wait_until(SOON, "more of it", || received(&mirror.nodes[1]) > stopped_at + 4 * MIB);
    mirror.broker.kill();
    mirror.broker.start();
    // From here on the broker counts anew.
    came_once(&mut mirror, &hash, 0, 0);
    let crossed = mirror.broker.traffic().out_bytes;
    assert!(
        crossed < 112 * MIB - stopped_at + AGAIN,
        "{crossed} bytes crossed after {stopped_at} were there"
    );
    let log = mirror.nodes[1].process(Role::Replicator).log();
    assert!(log.contains("going on with a large file"));
}

#[test]
fn what_was_kept_of_a_file_and_then_spoilt_is_fetched_again() {
    let (mut mirror, hash) = sent_slowly(48 * MIB, "16MiB");
    mirror.nodes[1].start(Role::Replicator);
    wait_until(SOON, "some of it", || received(&mirror.nodes[1]) > 20 * MIB);
    mirror.nodes[1].kill(Role::Replicator);
    let part = fs::read_dir(mirror.nodes[1].path(".mirror/tmp")).unwrap().next().unwrap().unwrap().path();
    let file = fs::File::options().write(true).open(&part).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 1_000).unwrap();
    mirror.nodes[1].start(Role::Replicator);
    wait_until(LONG, "the large file", || mirror.nodes[1].path("large").exists());
    assert_eq!(sha256_of(&mirror.nodes[1].path("large")).unwrap(), hash);
    mirror.wait_equal(SOON);
    assert_eq!(received(&mirror.nodes[1]), 0);
}

#[test]
fn what_was_kept_of_a_file_that_nothing_wants_any_more_is_dropped() {
    let (mut mirror, _) = sent_slowly(48 * MIB, "16MiB");
    mirror.nodes[1].start(Role::Replicator);
    wait_until(SOON, "some of it", || received(&mirror.nodes[1]) > 20 * MIB);
    mirror.nodes[1].kill(Role::Replicator);
    // A new index begins with the newest event of each path, and so does one that trusts no log yet.
    write(&mirror.nodes[0].path("large"), b"small now");
    wait_until(SOON, "its event", || mirror.log().len() == 2);
    write(&mirror.nodes[0].path("other"), b"other");
    mirror.nodes[1].flags.clear();
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_everywhere("large", b"small now");
    mirror.wait_everywhere("other", b"other");
    wait_until(SOON, "nothing to be left", || received(&mirror.nodes[1]) == 0);
}

#[test]
fn one_content_at_several_paths_is_fetched_once() {
    let (mut mirror, hash) = sent_slowly(24 * MIB, "64MiB");
    for i in 0..3 {
        fs::copy(mirror.nodes[0].path("large"), mirror.nodes[0].path(format!("copy {i}"))).unwrap();
    }
    wait_until(SOON, "their events", || mirror.log().len() == 4);
    let before = mirror.broker.traffic().out_bytes;
    mirror.nodes[1].start(Role::Replicator);
    wait_until(LONG, "the copies", || (0..3).all(|i| mirror.nodes[1].path(format!("copy {i}")).exists()));
    came_once(&mut mirror, &hash, before, 0);
}

/// Killed while files flow, with much left in `.mirror/tmp`: how long until the next file is placed.
fn placing_again(files: usize, unfinished: u64) -> Duration {
    let mut mirror = Mirror::idle(&["a", "b"]);
    // As slow as it takes for the kill to come in between.
    mirror.nodes[0].start_both();
    mirror.nodes[1].start(Role::Watcher);
    mirror.nodes[1].flags = vec!["--download-limit".into(), (files * 4_000 / 5).to_string()];
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_ready();
    for i in 0..files {
        write(&mirror.nodes[0].path(format!("{}/{i}", i % 20)), &content(&i.to_string(), 4_000));
    }
    let b = mirror.nodes[1].root.clone();
    let count = |root: &Path| Tree::sizes(root).0.len();
    wait_until(LONG, "the flow to begin", || count(&b) > files / 10);
    mirror.nodes[1].kill(Role::Replicator);
    // Complete files that no intent names: each is read, to see whether it is somebody's work.
    for i in 0..unfinished {
        let block = content(&format!("left {i}"), 8 << 20);
        write(&b.join(format!(".mirror/tmp/{:064x}.{i:016x}", i + 1)), &block);
    }
    let killed_at = count(&b);
    assert!(killed_at < files, "all was over: {killed_at}");
    mirror.nodes[1].flags.clear();
    let start = Instant::now();
    mirror.nodes[1].start(Role::Replicator);
    // The broker waits 30 s until it delivers again what was not acknowledged.
    wait_until(Duration::from_secs(20), "a newly placed file", || count(&b) > killed_at);
    let again = start.elapsed();
    assert_eq!(mirror.wait_agreed(LONG).0.len(), files);
    wait_until(LONG, "what was left to be tidied", || {
        fs::read_dir(b.join(".mirror/tmp")).unwrap().next().is_none()
    });
    assert_eq!(mirror.nodes[1].lost_conflicts().len() as u64, unfinished);
    again
}

#[test]
fn a_killed_replicator_is_placing_again_within_seconds_whatever_it_left() {
    let again = placing_again(2_500, 12);
    println!("placing again after {again:?}");
}

#[test]
#[ignore = "needs an idle machine; run by deploy/test.sh --full"]
fn full_a_killed_replicator_is_placing_again_within_two_seconds() {
    let again = placing_again(20_000, 40);
    println!("placing again after {again:?}");
    assert!(again < Duration::from_secs(2), "{again:?}");
}
