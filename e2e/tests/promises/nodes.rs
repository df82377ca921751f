//! A node's own faults: its clock, its disk, its index, its end in the middle of a transfer; and that it is quiet and bounded without any.

use crate::sweep::nothing_unfinished;
use e2e::{
    Disk, LONG, Mirror, Node, Role, SOON, Tree, Writer, content, copy_folder, not_run, paced, put_back,
    wait_for, wait_until, write,
};
use std::{fs, io::Write, path::Path, time::Duration};

/// MiB of a disk that is not to be filled.
const ROOMY: u64 = 100;

// ---- clocks ---------------------------------------------------------------------------------------------------------

/// From Debian's libfaketime; the programs take the wall clock from libc.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Node b lives in another year.
fn in_another_year(test: &str, offset: &str) {
    if !Path::new(FAKETIME).exists() {
        not_run(test, "libfaketime is missing");
        return;
    }
    let mut mirror = Mirror::running(&["a", "b"]);
    for (path, bytes) in [("kept", b"kept"), ("gone", b"gone")] {
        write(&mirror.nodes[0].path(path), bytes);
        mirror.wait_everywhere(path, bytes);
    }
    write(&mirror.nodes[0].path("kept"), b"anew");
    fs::remove_file(mirror.nodes[0].path("gone")).unwrap();
    mirror.wait_nowhere("gone");
    mirror.wait_agreed(SOON);
    let trash = mirror.nodes[1].path(".mirror/trash");
    let in_trash = || fs::read_dir(&trash).unwrap().count();
    assert_eq!(in_trash(), 2);
    mirror.nodes[1].stop_both();
    mirror.nodes[1].environment.extend([
        ("LD_PRELOAD".into(), FAKETIME.into()),
        ("FAKETIME".into(), offset.into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
    ]);
    mirror.nodes[1].start_both();
    mirror.wait_ready();
    for i in 0..20 {
        write(&mirror.nodes[i % 2].path(i.to_string()), &content(&i.to_string(), 1_000));
    }
    // The last in the log wins, whatever the clocks say.
    mirror.wait_everywhere("19", &content("19", 1_000));
    write(&mirror.nodes[1].path("19"), b"by b");
    mirror.wait_everywhere("19", b"by b");
    write(&mirror.nodes[0].path("19"), b"by a");
    mirror.wait_everywhere("19", b"by a");
    assert_eq!(mirror.wait_agreed(SOON).0.len(), 21);
    let log = mirror.nodes[1].process(Role::Replicator).log();
    let year = |line: &&str| line.contains("\"timestamp\":\"2") && line.contains("placed");
    let years: std::collections::BTreeSet<&str> =
        log.lines().filter(year).map(|line| &line[14..18]).collect();
    assert_eq!(years.len(), 2, "the clock did not move: {years:?}");
    // A run that takes its trash for a year old drops one file of it, not all.
    wait_until(SOON, "the replaced content in the trash", || in_trash() >= 2);
}

#[test]
fn a_clock_a_year_ahead_decides_nothing() {
    in_another_year("a_clock_a_year_ahead_decides_nothing", "+365d");
}

#[test]
fn a_clock_a_year_behind_decides_nothing() {
    in_another_year("a_clock_a_year_behind_decides_nothing", "-365d");
}

// ---- disks ----------------------------------------------------------------------------------------------------------

/// Nodes a and b, b's root below this folder.
fn with_root_of_b(folder: &Path) -> Mirror {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[1].root = folder.join("media");
    fs::create_dir(&mirror.nodes[1].root).unwrap();
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_ready();
    mirror
}

#[test]
fn a_root_that_turns_read_only_is_waited_for() {
    let Some(disk) = Disk::mounted("a_root_that_turns_read_only_is_waited_for", ROOMY) else { return };
    let mut mirror = with_root_of_b(&disk.path());
    write(&mirror.nodes[0].path("kept"), b"before");
    mirror.wait_everywhere("kept", b"before");
    disk.turn_read_only();
    write(&mirror.nodes[0].path("new"), b"new");
    write(&mirror.nodes[0].path("kept"), b"after");
    wait_for(SOON, "b to say so", || {
        let log = mirror.nodes[1].process(Role::Replicator).log();
        if log.contains("Read-only file system") { Ok(()) } else { Err(log) }
    });
    assert_eq!(fs::read(mirror.nodes[1].path("kept")).unwrap(), b"before");
    // An error that turned it read-only lasts until it is checked.
    Role::ALL.into_iter().for_each(|role| mirror.nodes[1].kill(role));
    disk.check();
    mirror.nodes[1].start_both();
    mirror.wait_everywhere("new", b"new");
    mirror.wait_everywhere("kept", b"after");
    mirror.wait_recovered(LONG);
    nothing_unfinished(&mirror.nodes[1]);
}

#[test]
fn a_full_state_disk_is_waited_for() {
    let Some(disk) = Disk::mounted("a_full_state_disk_is_waited_for", ROOMY) else { return };
    let mut mirror = Mirror::idle(&["a"]);
    let mut b = Node::new(&disk.path(), "b", Some(mirror.broker.url()));
    // Only the state is on the small disk.
    b.root = mirror.outside("b-media");
    b.logs = mirror.dir().to_owned();
    mirror.nodes.push(b);
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_ready();
    write(&mirror.nodes[0].path("before"), b"before");
    mirror.wait_everywhere("before", b"before");
    let filler = disk.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    for piece in [1 << 16, 512] {
        while file.write_all(&vec![1; piece]).is_ok() {}
    }
    for i in 0..600 {
        write(&mirror.nodes[i % 2].path(format!("{}/{i}", i % 9)), &content(&i.to_string(), 2_000));
    }
    wait_until(LONG, "a process of b to say so, or to end", || {
        Role::ALL.into_iter().any(|role| {
            let process = mirror.nodes[1].process(role);
            !process.is_running() || process.log().contains("full")
        })
    });
    drop(file);
    fs::remove_file(&filler).unwrap();
    for role in Role::ALL {
        if !mirror.nodes[1].process(role).is_running() {
            assert_eq!(mirror.nodes[1].ended(role, SOON).code(), Some(1), "{}", role.name());
            mirror.nodes[1].start(role);
        }
    }
    assert_eq!(mirror.wait_recovered(LONG).0.len(), 601);
    nothing_unfinished(&mirror.nodes[1]);
}

// ---- the index ------------------------------------------------------------------------------------------------------

#[test]
fn a_corrupted_index_is_named_and_a_new_one_takes_what_the_log_says() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..50 {
        write(&mirror.nodes[i % 2].path(i.to_string()), &content(&i.to_string(), 1_000));
    }
    let before = mirror.wait_agreed(SOON);
    mirror.nodes[1].stop_both();
    let state = mirror.nodes[1].state();
    let length = fs::metadata(state.join("index.db")).unwrap().len();
    fs::write(state.join("index.db"), content("noise", usize::try_from(length).unwrap())).unwrap();
    // Its write-ahead log would hide the damage.
    ["index.db-wal", "index.db-shm"].iter().for_each(|name| _ = fs::remove_file(state.join(name)));
    let events = mirror.log().len();
    for role in Role::ALL {
        let said = mirror.nodes[1].run(role, &["run"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("index.db"), "{said:?}");
    }
    // What the message asks for.
    fs::remove_dir_all(mirror.nodes[1].state()).unwrap();
    mirror.nodes[1].start_both();
    mirror.wait_agreed(LONG).equal(&before).unwrap();
    assert_eq!(mirror.log().len(), events);
    assert_eq!(mirror.nodes[1].lost_conflicts(), Vec::<String>::new());
}

#[test]
fn an_index_restored_from_last_week_takes_what_the_log_says() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..30 {
        write(&mirror.nodes[i % 2].path(i.to_string()), &content(&i.to_string(), 1_000));
    }
    mirror.wait_agreed(SOON);
    mirror.nodes[1].stop_both();
    let copy = mirror.dir().join("state-copy");
    copy_folder(&mirror.nodes[1].state(), &copy);
    mirror.nodes[1].start_both();
    mirror.wait_ready();
    write(&mirror.nodes[0].path("0"), b"rewritten since by a");
    write(&mirror.nodes[1].path("1"), b"rewritten since by b");
    write(&mirror.nodes[1].path("new"), b"new since");
    fs::remove_file(mirror.nodes[0].path("2")).unwrap();
    mirror.wait_everywhere("0", b"rewritten since by a");
    mirror.wait_everywhere("1", b"rewritten since by b");
    mirror.wait_everywhere("new", b"new since");
    mirror.wait_nowhere("2");
    let before = mirror.wait_agreed(SOON);
    let events = mirror.log().len();
    mirror.nodes[1].stop_both();
    put_back(&copy, &mirror.nodes[1].state());
    mirror.nodes[1].start_both();
    mirror.wait_agreed(LONG).equal(&before).unwrap();
    write(&mirror.nodes[1].path("after"), b"after");
    mirror.wait_everywhere("after", b"after");
    mirror.wait_agreed(LONG);
    assert_eq!(mirror.log().len(), events + 1, "nothing old was published");
    assert_eq!(mirror.nodes[1].lost_conflicts(), Vec::<String>::new());
}

// ---- transfers ------------------------------------------------------------------------------------------------------

#[test]
fn a_process_told_to_end_in_the_middle_of_a_transfer_ends_and_leaves_nothing_partial() {
    let bytes = content("large", 8 << 20);
    for (node, role, limit) in
        [(0, Role::Watcher, "--upload-limit"), (1, Role::Replicator, "--download-limit")]
    {
        let mut mirror = Mirror::idle(&["a", "b"]);
        for (n, both) in mirror.nodes.iter_mut().enumerate() {
            for one in Role::ALL {
                let slow: &[&str] = if (n, one) == (node, role) { &[limit, "1MiB"] } else { &[] };
                both.start_with(one, slow);
            }
        }
        mirror.wait_ready();
        let before = mirror.broker.traffic();
        write(&mirror.nodes[0].path("large"), &bytes);
        wait_until(SOON, "some of it to have passed", || {
            let now = mirror.broker.traffic();
            let passed = [now.in_bytes - before.in_bytes, now.out_bytes - before.out_bytes][node];
            passed > 2 << 20
        });
        assert_eq!(mirror.nodes[node].stop(role).code(), Some(0), "{}", role.name());
        assert!(!mirror.nodes[1].path("large").exists());
        mirror.nodes[node].start(role);
        mirror.wait_everywhere("large", &bytes);
        mirror.wait_recovered(SOON);
        mirror.nodes.iter().for_each(nothing_unfinished);
    }
}

#[test]
#[ignore = "longer than the broker waits for an acknowledgement; run by deploy/test.sh --full"]
fn full_a_download_slower_than_the_acknowledgement_wait_is_fetched_once() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start_both();
    mirror.nodes[1].start(Role::Watcher);
    mirror.nodes[1].start_with(Role::Replicator, &["--download-limit", "64KiB"]);
    mirror.wait_ready();
    let bytes = content("large", 5 << 19);
    let before = mirror.broker.traffic().out_bytes;
    write(&mirror.nodes[0].path("large"), &bytes);
    wait_until(LONG, "the slow download", || mirror.nodes[1].path("large").exists());
    mirror.wait_agreed(SOON);
    let passed = mirror.broker.traffic().out_bytes - before;
    assert!(passed < 2 * bytes.len() as u64, "{passed} bytes passed for {}", bytes.len());
    assert_eq!(mirror.nats().consumer("b").unwrap().num_redelivered, 0);
}

// ---- quiet and bounded ----------------------------------------------------------------------------------------------

#[test]
fn nothing_happens_where_nothing_changes() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..100 {
        write(&mirror.nodes[i % 2].path(i.to_string()), &content(&i.to_string(), 2_000));
    }
    write(&mirror.nodes[0].path("large"), &content("large", 600_000));
    let before = mirror.wait_agreed(SOON);
    let chunks = mirror.nats().bucket_state().messages;
    // Each blob: its meta and its chunks, and nothing that no meta names.
    assert_eq!(chunks, 100 * 2 + 1 + 3);
    let temps = mirror.nodes.iter().map(|node| node.path(".mirror/tmp")).collect::<Vec<_>>();
    let tap = mirror.nats().tap();
    let at_first = tap.seen();
    paced(Duration::from_secs(1), 0..8, |_| {
        temps.iter().for_each(|temp| assert_eq!(fs::read_dir(temp).unwrap().count(), 0));
    });
    assert_eq!(tap.seen(), at_first, "blobs cross the wire");
    drop(tap);
    assert_eq!(mirror.log().len(), 101);
    assert_eq!(mirror.nats().bucket_state().messages, chunks);
    before.equal(&Tree::of(&mirror.nodes[1].root)).unwrap();
}

/// What each process may have open at once: 24 threads with files, folders on the way to them, and connections of the index.
const DESCRIPTORS: usize = 400;

#[test]
fn descriptors_stay_few_while_thousands_of_files_pass() {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..3_000 {
        write(&mirror.nodes[0].path(format!("{}/{}/{i}", i % 60, i % 7)), &content(&i.to_string(), 500));
    }
    let mut most = 0;
    wait_until(LONG, "all files", || {
        for (node, role) in [(0, Role::Watcher), (1, Role::Replicator)] {
            most = most.max(mirror.nodes[node].process(role).descriptors());
        }
        assert!(most < DESCRIPTORS, "{most} descriptors are open");
        Tree::sizes(&mirror.nodes[1].root).0.len() == 3_000
    });
    println!("{most} descriptors at most");
    let writer = Writer::connect(&mirror.broker.url());
    writer.add("after", b"after");
    mirror.wait_everywhere("after", b"after");
    mirror.wait_agreed(LONG);
    for (node, role) in [(0, Role::Watcher), (1, Role::Replicator)] {
        let idle = mirror.nodes[node].process(role).descriptors();
        assert!(idle < 100, "{idle} descriptors are open in an idle {}", role.name());
    }
}
