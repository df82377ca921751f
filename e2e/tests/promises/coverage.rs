//! What inotify cannot tell: a full queue, a limit of watches, a folder that is closed to us, no inotify at all.

use e2e::{INSTANCES, LONG, Mirror, Node, Role, SOON, WATCHES, lift, limited, may_limit, wait_for, write};
use rustix::process::Signal;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
};

/// A user that owns nothing else on this machine.
const USER: u32 = 61_235;

/// Ten folders on a, whose watcher is under a limit; b replicates.
fn limited_mirror(limit: &str, value: u32) -> Mirror {
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..10 {
        write(&mirror.nodes[0].path(format!("{i}/before")), b"before");
    }
    let command = limited(&mirror.nodes[0].command(Role::Watcher, ["run"]), limit, value);
    mirror.nodes[0].start_as(Role::Watcher, command);
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_equal(SOON);
    mirror
}

fn coverage(node: &Node) -> (u64, u64) {
    let local = node.local_status(Role::Watcher);
    let number = |key: &str| local["coverage"][key].as_u64().unwrap_or_else(|| panic!("{local}"));
    (number("watched"), number("folders"))
}

fn wait_coverage(node: &Node, expected: (u64, u64)) {
    wait_for(SOON, &format!("{} of {} folders to be watched", expected.0, expected.1), || {
        let found = coverage(node);
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Writes, rewrites, removals and new folders are found in each of the folders.
fn everything_is_found(mirror: &mut Mirror, round: &str) {
    for i in 0..10 {
        write(&mirror.nodes[0].path(format!("{i}/{round}")), round.as_bytes());
        write(&mirror.nodes[0].path(format!("{i}/before")), round.as_bytes());
        write(&mirror.nodes[0].path(format!("{i}/new {round}/deep/file")), round.as_bytes());
    }
    for i in 0..10 {
        mirror.wait_everywhere(&format!("{i}/{round}"), round.as_bytes());
        mirror.wait_everywhere(&format!("{i}/before"), round.as_bytes());
        mirror.wait_everywhere(&format!("{i}/new {round}/deep/file"), round.as_bytes());
        fs::remove_dir_all(mirror.nodes[0].path(format!("{i}/new {round}"))).unwrap();
    }
    for i in 0..10 {
        mirror.wait_nowhere(&format!("{i}/new {round}/deep/file"));
    }
    mirror.wait_equal(SOON);
}

#[test]
fn folders_beyond_the_limit_of_watches_are_polled_until_it_is_lifted() {
    if !may_limit("folders_beyond_the_limit_of_watches_are_polled_until_it_is_lifted") {
        return;
    }
    let mut mirror = limited_mirror(WATCHES, 4);
    wait_coverage(&mirror.nodes[0], (4, 11));
    everything_is_found(&mut mirror, "polled");
    let process = mirror.nodes[0].process(Role::Watcher);
    let mut said = process.lines_at("WARN");
    said.retain(|line| line.contains("be watched"));
    assert!(said.len() == 1 && said[0].contains("sysctl -w fs.inotify.max_user_watches"), "{said:#?}");
    lift(process.id(), WATCHES, 1_000);
    wait_coverage(&mirror.nodes[0], (11, 11));
    everything_is_found(&mut mirror, "watched");
    let process = mirror.nodes[0].process(Role::Watcher);
    assert!(process.log().contains("all folders are watched"));
}

#[test]
fn without_inotify_the_whole_tree_is_polled_until_there_is_one() {
    if !may_limit("without_inotify_the_whole_tree_is_polled_until_there_is_one") {
        return;
    }
    let mut mirror = limited_mirror(INSTANCES, 0);
    wait_coverage(&mirror.nodes[0], (0, 11));
    everything_is_found(&mut mirror, "polled");
    let process = mirror.nodes[0].process(Role::Watcher);
    let mut said = process.lines_at("WARN");
    said.retain(|line| line.contains("be watched"));
    assert!(said.len() == 1 && said[0].contains("sysctl -w fs.inotify.max_user_instances"), "{said:#?}");
    lift(process.id(), INSTANCES, 10);
    wait_coverage(&mirror.nodes[0], (11, 11));
    everything_is_found(&mut mirror, "watched");
}

#[test]
fn a_folder_that_may_not_be_read_is_polled_until_it_may() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    write(&mirror.nodes[0].path("open/file"), b"open");
    write(&mirror.nodes[0].path("closed/file"), b"closed");
    let closed = mirror.nodes[0].path("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = mirror.nodes[0].command(Role::Watcher, ["run"]);
    if rustix::process::geteuid().is_root() {
        // Root may read everything. A copy: the build's own folder may be closed to other users.
        let program = mirror.outside("bin").join("watcher");
        fs::copy(Role::Watcher.program(), &program).unwrap();
        let home = &mirror.nodes[0].home;
        for path in [home.clone(), home.join("media"), closed.clone(), home.join("media/open")] {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
        let mut other = e2e::as_user(USER, &program);
        other.args(command.get_args());
        command.get_envs().for_each(|(name, value)| match value {
            Some(value) => _ = other.env(name, value),
            None => _ = other.env_remove(name),
        });
        command = other;
    }
    mirror.nodes[0].start_as(Role::Watcher, command);
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_everywhere("open/file", b"open");
    wait_coverage(&mirror.nodes[0], (2, 3));
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    mirror.wait_everywhere("closed/file", b"closed");
    wait_coverage(&mirror.nodes[0], (3, 3));
    write(&mirror.nodes[0].path("closed/later"), b"later");
    mirror.wait_everywhere("closed/later", b"later");
    mirror.wait_equal(SOON);
    let mut said = mirror.nodes[0].process(Role::Watcher).lines_at("WARN");
    said.retain(|line| line.contains("be watched"));
    assert!(said.len() == 1 && said[0].contains("ermission denied"), "{said:#?}");
}

#[test]
fn what_a_full_queue_has_swallowed_is_found() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("there and back"), b"moved");
    mirror.wait_everywhere("there and back", b"moved");
    let limit: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let (here, there) = (mirror.nodes[0].path("there and back"), mirror.nodes[0].path("there"));
    mirror.nodes[0].process(Role::Watcher).signal(Signal::STOP);
    // Each rename is two events.
    for _ in 0..limit / 4 + 1_000 {
        fs::rename(&here, &there).unwrap();
        fs::rename(&there, &here).unwrap();
    }
    for i in 0..20 {
        write(&mirror.nodes[0].path(format!("swallowed/{i}")), b"swallowed");
    }
    fs::remove_file(&here).unwrap();
    mirror.nodes[0].process(Role::Watcher).signal(Signal::CONT);
    for i in 0..20 {
        mirror.wait_everywhere(&format!("swallowed/{i}"), b"swallowed");
    }
    mirror.wait_nowhere("there and back");
    mirror.wait_equal(LONG);
    let log = mirror.nodes[0].process(Role::Watcher).log();
    assert!(log.contains("the kernel's queue of changes was full"), "it was not full");
}
