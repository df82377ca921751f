//! The broker's faults that the mirror's own tests leave out: it stands still, moves, and its stores are damaged or trimmed.

use e2e::{
    LONG, Mirror, Node, Role, SOON, Spoil, Tree, content, copy_folder, paced, put_back, wait_for, wait_until,
    write,
};
use std::{fs, path::PathBuf, time::Duration};

fn some_files(mirror: &Mirror, folder: &str) {
    for i in 0..20 {
        write(&mirror.nodes[i % 2].path(format!("{folder}/{i}")), &content(&format!("{folder}{i}"), 3_000));
    }
}

#[test]
fn a_broker_that_stands_still_for_seconds_is_waited_for() {
    let mut mirror = Mirror::running(&["a", "b"]);
    some_files(&mirror, "before");
    mirror.broker.process().freeze();
    // Longer than a request waits for its answer.
    paced(Duration::from_millis(600), 0..20, |i| {
        write(&mirror.nodes[i % 2].path(format!("meanwhile/{i}")), &content(&i.to_string(), 2_000));
    });
    mirror.broker.process().resume();
    assert_eq!(mirror.wait_recovered(LONG).0.len(), 40);
}

#[test]
fn a_process_that_stands_still_for_seconds_goes_on() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for (node, role) in [(0, Role::Watcher), (1, Role::Replicator)] {
        mirror.nodes[node].process(role).freeze();
        let folder = role.name();
        paced(Duration::from_millis(150), 0..20, |i| {
            write(
                &mirror.nodes[i % 2].path(format!("{folder}/{i}")),
                &content(&format!("{folder}{i}"), 2_000),
            );
        });
        mirror.nodes[node].process(role).resume();
    }
    assert_eq!(mirror.wait_recovered(LONG).0.len(), 40);
}

#[test]
fn a_broker_that_moved_to_another_port_is_found_after_a_restart() {
    let mut mirror = Mirror::running(&["a", "b"]);
    some_files(&mirror, "before");
    mirror.wait_equal(SOON);
    mirror.nodes.iter_mut().for_each(Node::stop_both);
    mirror.broker.stop();
    mirror.broker.change_port();
    mirror.broker.start();
    let url = mirror.broker.url();
    some_files(&mirror, "after");
    for node in &mut mirror.nodes {
        node.find_broker_at(url.clone());
        node.start_both();
    }
    mirror.find_broker();
    assert_eq!(mirror.wait_recovered(LONG).0.len(), 40);
    assert_eq!(mirror.log().len(), 40, "nothing is published again");
}

/// A blob of several chunks is spoilt before b has fetched it; a, which holds it, stores it anew.
fn is_stored_anew(spoil: impl FnOnce(&mut Mirror)) {
    let mut mirror = Mirror::running(&["a", "b"]);
    mirror.nodes[1].stop(Role::Replicator);
    let bytes = content("large", 700_000);
    write(&mirror.nodes[0].path("large"), &bytes);
    wait_until(SOON, "an event", || mirror.log().len() == 1);
    spoil(&mut mirror);
    mirror.nodes[1].start(Role::Replicator);
    let hash = e2e::sha256_of(&mirror.nodes[0].path("large")).unwrap();
    wait_until(SOON, "b to ask for the blob", || mirror.nats().wanted("b").contains(&hash));
    mirror.wait_everywhere("large", &bytes);
    mirror.wait_recovered(SOON);
    assert_eq!(mirror.log().len(), 1, "an upload is no event");
}

#[test]
fn a_blob_with_a_missing_chunk_is_stored_anew() {
    is_stored_anew(|mirror| assert_eq!(mirror.nats().spoil_blobs(Spoil::Missing), 1));
}

#[test]
fn a_blob_with_a_doubled_chunk_is_stored_anew() {
    is_stored_anew(|mirror| assert_eq!(mirror.nats().spoil_blobs(Spoil::Doubled), 1));
}

#[test]
fn a_blob_with_an_empty_chunk_is_stored_anew() {
    is_stored_anew(|mirror| assert_eq!(mirror.nats().spoil_blobs(Spoil::Empty), 1));
}

fn files_below(folder: PathBuf, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false if entry.path().to_string_lossy().ends_with(ending) => found.push(entry.path()),
                false => {}
            }
        }
    }
    found
}

/// Flips a bit of these bytes on the broker's disk, while it is down.
fn flip_a_bit(mirror: &mut Mirror, piece: &[u8]) {
    mirror.broker.stop();
    let mut flipped = 0;
    for block in files_below(mirror.broker.store(), ".blk") {
        let mut bytes = fs::read(&block).unwrap();
        let Some(at) = bytes.windows(piece.len()).position(|window| window == piece) else { continue };
        bytes[at] ^= 1;
        fs::write(&block, bytes).unwrap();
        flipped += 1;
    }
    assert_eq!(flipped, 1, "the bytes were not found in the store");
    mirror.broker.start();
}

#[test]
fn a_blob_whose_bits_flipped_on_the_brokers_disk_is_stored_anew() {
    is_stored_anew(|mirror| flip_a_bit(mirror, &content("large", 700_000)[100_000..100_032]));
}

#[test]
fn bits_that_flipped_in_the_log_are_found_by_verify_and_made_up_for() {
    let mut mirror = Mirror::idle(&["a", "b", "c"]);
    mirror.nodes[..2].iter_mut().for_each(Node::start_both);
    let all = |node: &Node| Tree::of(&node.root).0.len() == 21;
    for i in 0..10 {
        write(&mirror.nodes[0].path(format!("before {i}")), b"before");
    }
    wait_until(SOON, "the events before", || mirror.log().len() == 10);
    write(&mirror.nodes[0].path("flipped"), b"flipped");
    wait_until(SOON, "its event", || mirror.log().len() == 11);
    for i in 0..10 {
        write(&mirror.nodes[0].path(format!("after {i}")), b"after");
    }
    wait_until(SOON, "all files on b", || all(&mirror.nodes[1]));
    // What a node trusts at its end is looked at with each connection; this is about an event in the middle.
    for node in &mirror.nodes[..2] {
        wait_until(SOON, "its index to be at the end of the log", || {
            node.local_status(Role::Replicator)["version"] == 21
        });
    }
    flip_a_bit(&mut mirror, b"\"path\":\"flipped\"");
    let verify = |mirror: &Mirror, arguments: &[&str]| {
        e2e::run(LONG, mirror.nodes[0].command(Role::Replicator, [&["verify"], arguments].concat()))
    };
    let found = verify(&mirror, &[]);
    assert!(found.code == Some(1) && found.stdout.contains("flipped: "), "{found:?}");
    verify(&mirror, &["--repair"]).succeeded();
    mirror.nodes[2].start_both();
    wait_until(LONG, "all files on a new node", || all(&mirror.nodes[2]));
    mirror.wait_recovered(LONG);
}

#[test]
fn a_deleted_consumer_is_made_again() {
    for running in [true, false] {
        let mut mirror = Mirror::running(&["a", "b"]);
        some_files(&mirror, "before");
        mirror.wait_equal(SOON);
        if !running {
            mirror.nodes[1].stop(Role::Replicator);
        }
        mirror.nats().delete_consumer("b");
        assert!(mirror.nats().consumer("b").is_none());
        some_files(&mirror, "after");
        if !running {
            mirror.nodes[1].start(Role::Replicator);
        }
        assert_eq!(mirror.wait_agreed(LONG).0.len(), 40);
        assert_eq!(mirror.log().len(), 40);
    }
}

/// The log is an older copy; what the broker knows of its consumers is not.
#[test]
fn a_consumer_ahead_of_its_log_misses_nothing() {
    let mut mirror = Mirror::running(&["a", "b"]);
    some_files(&mirror, "before");
    mirror.wait_agreed(SOON);
    mirror.broker.stop();
    let log = files_below(mirror.broker.store(), "meta.inf")
        .into_iter()
        .map(|file| file.parent().unwrap().to_owned())
        .find(|folder| folder.ends_with("streams/MIRROR_MEDIA"))
        .unwrap()
        .join("msgs");
    let copy = mirror.dir().join("log-copy");
    copy_folder(&log, &copy);
    mirror.broker.start();
    some_files(&mirror, "since");
    let before = mirror.wait_agreed(SOON);
    mirror.broker.stop();
    put_back(&copy, &log);
    mirror.broker.start();
    wait_until(LONG, "what the log lost to be published again", || mirror.log_tree() == before);
    some_files(&mirror, "after");
    assert_eq!(mirror.wait_recovered(LONG).0.len(), 60);
}

#[test]
fn events_trimmed_while_a_node_was_away_are_made_up_for() {
    let mut mirror = Mirror::running(&["a", "b"]);
    some_files(&mirror, "before");
    mirror.wait_agreed(SOON);
    mirror.nodes[1].stop_both();
    for i in 0..30 {
        write(&mirror.nodes[0].path(format!("away/{i}")), &content(&format!("away{i}"), 1_000));
    }
    wait_until(SOON, "the events of a", || mirror.nats().log_state().unwrap().last_sequence == 50);
    mirror.nats().trim_log(5);
    assert_eq!(mirror.nats().log_state().unwrap().messages, 5);
    // A node looks at the log when it connects; and the broker forgets what it took for duplicates, as it does after two minutes.
    mirror.broker.stop();
    mirror.broker.start();
    mirror.nodes[1].start_both();
    write(&mirror.nodes[0].path("after"), b"after");
    wait_until(LONG, "what was trimmed to be in the log again", || mirror.log_tree().0.len() == 51);
    assert_eq!(mirror.wait_agreed(LONG).0.len(), 51);
    for node in &mirror.nodes {
        assert_eq!(node.lost_conflicts(), Vec::<String>::new());
    }
}

/// What a replicator may not do without, forbidden.
const NARROW: &str = "{user: b, password: p, permissions: {publish: {deny: [\"$JS.API.DIRECT.GET.>\"]}}}";
/// Everything allowed.
const WIDE: &str = "{user: b, password: p}";

fn b_says(mirror: &mut Mirror, words: &[&str]) {
    wait_for(LONG, &format!("b to say one of {words:?}"), || {
        let log = mirror.nodes[1].process(Role::Replicator).log().to_lowercase();
        if words.iter().any(|word| log.contains(word)) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn credentials_that_are_too_narrow_are_named_and_heal_when_they_are_widened() {
    let mut mirror = Mirror::prepared(&["a", "b"]);
    mirror.broker.let_in(NARROW);
    mirror.broker.start();
    let (all, b) = (mirror.broker.url(), mirror.broker.url_of("b"));
    mirror.nodes[0].find_broker_at(all);
    mirror.nodes[1].find_broker_at(b);
    mirror.nodes.iter_mut().for_each(Node::start_both);
    write(&mirror.nodes[0].path("f"), b"f");
    b_says(&mut mirror, &["denies us a subject"]);
    assert!(!mirror.nodes[1].path("f").exists());
    mirror.broker.let_in(WIDE);
    mirror.wait_everywhere("f", b"f");
    mirror.wait_recovered(LONG);
}

#[test]
fn credentials_that_are_revoked_are_named_and_lose_nothing() {
    let mut mirror = Mirror::prepared(&["a", "b"]);
    mirror.broker.let_in(WIDE);
    mirror.broker.start();
    let (all, b) = (mirror.broker.url(), mirror.broker.url_of("b"));
    mirror.nodes[0].find_broker_at(all);
    mirror.nodes[1].find_broker_at(b);
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_ready();
    some_files(&mirror, "before");
    mirror.wait_equal(SOON);
    mirror.broker.let_in("");
    some_files(&mirror, "revoked");
    b_says(&mut mirror, &["authorization", "credentials", "refused"]);
    mirror.broker.let_in(WIDE);
    for role in Role::ALL {
        // Who is told that its credentials are no good may end, and is started again.
        if !mirror.nodes[1].process(role).is_running() {
            assert_ne!(mirror.nodes[1].ended(role, SOON).code(), Some(0));
            mirror.nodes[1].start(role);
        }
    }
    assert_eq!(mirror.wait_recovered(LONG).0.len(), 40);
}
