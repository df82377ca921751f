//! The background check of cold files.

use e2e::{LONG, Mirror, Node, Role, SOON, content, wait_for, wait_until, write};
use serde_json::Value;
use std::fs;

const FAST: [&str; 4] = ["--scrub-rate", "100MiB", "--scrub-every", "1s"];

fn scrub(node: &Node) -> Value {
    node.local_status(Role::Replicator)["scrub"].clone()
}

/// Two nodes with some files; on b the replicator has these flags, and no watcher runs.
fn mirror(flags: &[&str]) -> Mirror {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..20 {
        write(&mirror.nodes[0].path(format!("{}/{i}", i % 3)), &content(&i.to_string(), 3_000));
    }
    write(&mirror.nodes[0].path("large"), &content("large", 700_000));
    mirror.wait_everywhere("large", &content("large", 700_000));
    mirror.wait_agreed(SOON);
    mirror.nodes[1].stop_both();
    mirror.nodes[1].start_with(Role::Replicator, flags);
    mirror
}

#[test]
fn a_file_that_rotted_is_set_aside_and_fetched_again() {
    let mut mirror = mirror(&FAST);
    let rotten = [("1/1", content("rotten", 3_000)), ("large", content("rotten too", 700_000))];
    for (path, bytes) in &rotten {
        mirror.nodes[1].rot(path, bytes);
    }
    mirror.wait_everywhere("1/1", &content("1", 3_000));
    mirror.wait_everywhere("large", &content("large", 700_000));
    wait_until(SOON, "both to be kept", || mirror.nodes[1].lost_conflicts().len() == 2);
    let log = mirror.nodes[1].process(Role::Replicator).log();
    for (path, _) in &rotten {
        let said = log.lines().any(|line| line.contains("has rotted") && line.contains(path));
        assert!(said, "{path} is not named: {log}");
    }
    // It was no news, not even to a watcher that looks at everything.
    mirror.nodes[1].start(Role::Watcher);
    mirror.wait_ready();
    mirror.wait_agreed(SOON);
    assert_eq!(mirror.log().len(), 21);
    wait_for(SOON, "a pass without rot", || {
        let scrub = scrub(&mirror.nodes[1]);
        let clean = scrub["finished"].is_string() && scrub["rotten"] == 0;
        if clean { Ok(()) } else { Err(scrub.to_string()) }
    });
    let log = mirror.nodes[1].process(Role::Replicator).log();
    assert!(log.contains("all cold files were read again"), "{log}");
}

#[test]
fn a_file_that_was_changed_unseen_is_published() {
    let mut mirror = mirror(&["--scrub-rate", "off"]);
    // The scan of the watcher's start believes the stat.
    mirror.nodes[1].rot("1/1", &content("changed unseen", 3_000));
    mirror.nodes[1].start(Role::Watcher);
    mirror.wait_ready();
    // From now on the stat tells, and nobody looks.
    mirror.nodes[1].change_index(|tx| tx.mark(&"1/1".parse().unwrap(), |row| row.stat = None));
    mirror.nodes[1].stop(Role::Replicator);
    mirror.nodes[1].start_with(Role::Replicator, &FAST);
    mirror.wait_everywhere("1/1", &content("changed unseen", 3_000));
    mirror.wait_agreed(SOON);
    assert_eq!(mirror.log_of("1/1").len(), 2);
    assert_eq!(mirror.nodes[1].lost_conflicts(), Vec::<String>::new());
}

#[test]
fn a_pass_is_slow_and_goes_on_after_a_restart() {
    // 300 files cost 16 KiB each at least: over a minute at this rate.
    let slow = ["--scrub-rate", "64KiB", "--scrub-every", "1d"];
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..300 {
        write(&mirror.nodes[0].path(format!("{i:03}")), &content(&i.to_string(), 1_000));
    }
    mirror.nodes[0].start_both();
    wait_until(LONG, "all files in the log", || mirror.log().len() == 300);
    mirror.nodes[1].start_with(Role::Replicator, &slow);
    mirror.wait_agreed(LONG);
    let halfway = wait_for(LONG, "a first part of the pass", || {
        let scrub = scrub(&mirror.nodes[1]);
        if scrub["position"].is_string() && scrub["percent"].as_u64() > Some(0) {
            Ok(scrub)
        } else {
            Err(scrub.to_string())
        }
    });
    assert!(halfway["finished"].is_null() && halfway["percent"].as_u64() < Some(100), "{halfway}");
    mirror.nodes[1].stop(Role::Replicator);
    // What lies behind it is not looked at again; what lies ahead is.
    mirror.nodes[1].rot("000", &content("behind", 1_000));
    mirror.nodes[1].rot("299", &content("ahead", 1_000));
    mirror.nodes[1].start_with(Role::Replicator, &["--scrub-rate", "100MiB", "--scrub-every", "1d"]);
    let done = wait_for(LONG, "the end of the pass", || {
        let scrub = scrub(&mirror.nodes[1]);
        if scrub["finished"].is_string() { Ok(scrub) } else { Err(scrub.to_string()) }
    });
    assert_eq!((&done["started"], &done["rotten"]), (&Value::Null, &1.into()), "{done}");
    wait_until(SOON, "the repair", || {
        fs::read(mirror.nodes[1].path("299")).unwrap() == content("299", 1_000)
    });
    assert_eq!(fs::read(mirror.nodes[1].path("000")).unwrap(), content("behind", 1_000));
    // verify does not wait for the next pass.
    let arguments = ["verify", "--repair"];
    e2e::run(LONG, mirror.nodes[1].command(Role::Replicator, arguments)).succeeded();
    assert_eq!(fs::read(mirror.nodes[1].path("000")).unwrap(), content("0", 1_000));
}

#[test]
fn it_can_be_switched_off() {
    let mut mirror = Mirror::idle(&["a"]);
    mirror.nodes[0].start_with(Role::Replicator, &["--scrub-rate", "off", "--scrub-every", "1ms"]);
    mirror.nodes[0].start(Role::Watcher);
    mirror.wait_ready();
    for i in 0..3 {
        // A pass would have begun between two of these.
        let path = i.to_string();
        write(&mirror.nodes[0].path(&path), b"some content");
        wait_until(SOON, "the file in the log", || mirror.log_of(&path).len() == 1);
        mirror.wait_agreed(SOON);
    }
    let scrub = scrub(&mirror.nodes[0]);
    assert!(scrub["started"].is_null() && scrub["finished"].is_null(), "{scrub}");
    for flags in [["--scrub-rate", "1KiB"], ["--scrub-every", "7"]] {
        let refused = mirror.nodes[0].run(Role::Replicator, &["run", flags[0], flags[1]]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
    }
}
