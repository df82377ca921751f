//! System calls that fail in a running process: what was begun is thrown away and begun anew, the process says so, and when the fault is over
//! everything agrees.

use crate::sweep::nothing_unfinished;
use e2e::{Fault, Injection, LONG, Mirror, Process, Role, SOON, Trace, Writer, content, wait_until, write};
use std::path::PathBuf;

/// Of each thread, the first of such calls fail, and all is well after them.
const FIRST: &str = "1..2";

/// One process of node b under faults.
struct Struck {
    mirror: Mirror,
    role: Role,
    trace: Trace,
    strace: Process,
}

impl Struck {
    fn new(mut mirror: Mirror, role: Role, call: &str, error: &'static str, only: &[PathBuf]) -> Self {
        let trace =
            only.iter().fold(Trace::at(mirror.dir().join("trace")), |trace, path| trace.only(path.clone()));
        let logs = mirror.dir().to_owned();
        let process = mirror.nodes[1].process(role).id();
        let injection = Injection::new(call, Fault::Error(error), FIRST);
        let strace = trace.attach(process, &logs, &["fsync", "renameat2", "unlinkat"], &[injection]);
        Self { mirror, role, trace, strace }
    }

    /// The fault has struck and is over: all agree, what failed was said, and nothing is left of it. Returns the trace.
    fn heals(self, says: &str) -> String {
        let Self { mut mirror, role, trace, mut strace } = self;
        wait_until(LONG, "a fault to strike", || !trace.injected().is_empty());
        wait_until(LONG, "the struck process to go on or to end", || {
            let files = |mirror: &Mirror, node: usize| e2e::Tree::sizes(&mirror.nodes[node].root);
            !mirror.nodes[1].process(role).is_running() || files(&mirror, 0) == files(&mirror, 1)
        });
        if strace.is_running() {
            strace.stop();
        }
        if !mirror.nodes[1].process(role).is_running() {
            // An index that fails ends the process, as a service manager's restart does.
            assert_eq!(mirror.nodes[1].ended(role, SOON).code(), Some(1));
            mirror.nodes[1].start(role);
        }
        mirror.wait_recovered(LONG);
        let log = mirror.nodes[1].process(role).log();
        assert!(log.contains(says), "{says:?} is not in the log:\n{log}");
        nothing_unfinished(&mirror.nodes[1]);
        assert_eq!(mirror.nodes[1].lost_conflicts(), Vec::<String>::new());
        trace.text()
    }
}

/// A new file, a replaced one, one in a new folder and a removed one, placed on b under faults.
fn placed_under(call: &str, error: &'static str, says: &str) -> String {
    let mut mirror = Mirror::running(&["a", "b"]);
    let writer = Writer::connect(&mirror.broker.url());
    for path in ["replaced", "removed"] {
        writer.add(path, path.as_bytes());
        mirror.wait_everywhere(path, path.as_bytes());
    }
    let node = &mirror.nodes[1];
    let only = match call {
        "openat" => vec![node.path(".mirror/tmp")],
        _ => Vec::new(),
    };
    let struck = Struck::new(mirror, Role::Replicator, call, error, &only);
    writer.add("new", &content("new", 5_000));
    writer.add("replaced", &content("replaced", 5_000));
    writer.add("folder/in/folder", &content("large", 600_000));
    writer.remove("removed", b"removed");
    struck.heals(says)
}

/// The same as written on b by a user, published under faults.
fn published_under(call: &str, error: &'static str, says: &str) {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[1].path("replaced"), b"replaced");
    mirror.wait_everywhere("replaced", b"replaced");
    let node = &mirror.nodes[1];
    let only = match call {
        "read" => ["new", "replaced", "folder/large"].map(|path| node.path(path)).to_vec(),
        _ => Vec::new(),
    };
    let root = node.root.clone();
    let struck = Struck::new(mirror, Role::Watcher, call, error, &only);
    write(&root.join("new"), &content("new", 5_000));
    write(&root.join("replaced"), &content("replaced", 5_000));
    write(&root.join("folder/large"), &content("large", 600_000));
    struck.heals(says);
}

const EIO: &str = "Input/output error";
const ENOSPC: &str = "No space left";

#[test]
fn a_failed_sync_is_final_for_its_file_which_is_fetched_anew() {
    let trace = placed_under("fsync", "EIO", EIO);
    let failed =
        |line: &&str| line.contains("fsync(") && line.contains("(INJECTED)") && line.contains(".mirror/tmp/");
    let temp = |line: &str| {
        let name = line.split(".mirror/tmp/").nth(1).unwrap_or_default();
        name.split(['>', '"']).next().unwrap_or_default().to_owned()
    };
    let temps: Vec<String> = trace.lines().filter(failed).map(temp).collect();
    assert!(!temps.is_empty(), "no sync of a file failed:\n{trace}");
    for name in temps {
        let lines: Vec<&str> = trace.lines().filter(|line| line.contains(&name)).collect();
        let count = |call: &str| lines.iter().filter(|line| line.contains(call)).count();
        assert_eq!((count("fsync("), count("renameat2("), count("unlinkat(")), (1, 0, 1), "{lines:#?}");
    }
}

#[test]
fn a_rename_that_fails_is_tried_again() {
    placed_under("renameat2", "EIO", EIO);
}

#[test]
fn a_full_disk_at_the_creation_of_a_file_is_waited_out() {
    placed_under("openat", "ENOSPC", ENOSPC);
}

#[test]
fn a_folder_that_cannot_be_made_is_tried_again() {
    placed_under("mkdirat", "EIO", EIO);
}

#[test]
fn attributes_that_cannot_be_set_are_tried_again() {
    placed_under("utimensat", "EIO", EIO);
}

#[test]
fn an_index_that_cannot_be_written_by_a_replicator_heals() {
    placed_under("pwrite64", "EIO", "disk I/O error");
}

#[test]
fn an_index_that_is_full_heals() {
    placed_under("pwrite64", "ENOSPC", "full");
}

#[test]
fn a_file_that_cannot_be_read_is_published_later() {
    published_under("read", "EIO", EIO);
}

#[test]
fn an_index_that_cannot_be_written_by_a_watcher_heals() {
    published_under("pwrite64", "EIO", "disk I/O error");
}

#[test]
fn an_index_that_cannot_be_synced_by_a_watcher_heals() {
    published_under("fsync", "EIO", "disk I/O error");
}
