//! A command is told of what changes on a node: each change at least once, in order for each path, whatever ends in between.

use e2e::{Http, Mirror, Node, Role, SOON, running_with, wait_until, write};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
};

/// a writes, and b has a command, with `$OUT` for a file of ours.
fn told_on_b(command: &str, flags: &[&str]) -> (Mirror, Http, PathBuf) {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start_both();
    let out = mirror.dir().join("told");
    mirror.nodes[1].environment.push(("OUT".into(), out.clone()));
    mirror.nodes[1].start(Role::Watcher);
    let flags: Vec<&str> = ["--on-change", command].into_iter().chain(flags.iter().copied()).collect();
    let http = Http::start(&mut mirror.nodes[1], Role::Replicator, &flags);
    mirror.wait_ready();
    (mirror, http, out)
}

fn told(out: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(out).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What was told of a path: additions with the length, removals.
fn told_of(out: &PathBuf, path: &str) -> Vec<String> {
    let of_path = told(out).into_iter().filter(|line| line["path"] == path);
    of_path.map(|line| format!("{} {}", line["type"].as_str().unwrap(), line["size"])).collect()
}

fn remove(node: &Node, path: &str) {
    fs::remove_file(node.path(path)).unwrap();
}

/// A number of seconds to sleep, which no other process of the machine has in its command line.
fn long() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{:03}", 1_000_000 + std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn a_command_is_told_what_was_placed_written_and_removed() {
    let command = r#"cat >> "$OUT"; echo "$PWD $MEDIAMIRROR_ROOT $MEDIAMIRROR_MIRROR $MEDIAMIRROR_NODE" > "$OUT.env"; echo hello"#;
    let (mut mirror, http, out) = told_on_b(command, &[]);
    write(&mirror.nodes[0].path("x/one"), b"12");
    wait_until(SOON, "the first", || told_of(&out, "x/one") == ["added 2"]);
    let event = mirror.log().remove(0);
    let first = json!({
        "type": "added", "path": "x/one", "sha256": event.event.sha256, "size": 2, "version": event.version, "generation": 1,
        "node": "b",
    });
    assert_eq!(told(&out), [first]);
    // The file is there before it is told of.
    assert_eq!(fs::read(mirror.nodes[1].path("x/one")).unwrap(), b"12");
    write(&mirror.nodes[0].path("x/one"), b"1234");
    wait_until(SOON, "the second", || told_of(&out, "x/one").len() == 2);
    remove(&mirror.nodes[0], "x/one");
    wait_until(SOON, "the removal", || told_of(&out, "x/one") == ["added 2", "added 4", "removed 4"]);
    // Also what was written here, when it is in the log.
    write(&mirror.nodes[1].path("here"), b"123");
    wait_until(SOON, "the local one", || told_of(&out, "here") == ["added 3"]);
    let root = mirror.nodes[1].root.display().to_string();
    assert_eq!(fs::read_to_string(out.with_extension("env")).unwrap(), format!("{root} {root} media b\n"));
    assert_eq!(told(&out).len(), 4);
    wait_until(SOON, "nothing to wait", || http.metrics().of("mediamirror_hook_waiting") == 0.0);
    assert!(http.metrics().of("mediamirror_hook_runs_total{result=\"done\"}") >= 4.0);
    assert!(mirror.nodes[1].process(Role::Replicator).log().contains("\nhello\n"));
}

#[test]
fn a_command_that_fails_is_run_again_and_holds_nothing_up() {
    let (mut mirror, http, out) =
        told_on_b(r#"cat >> "$OUT.tried"; test -e "$OUT.go" && cat "$OUT.tried" > "$OUT""#, &[]);
    for i in 0..20 {
        write(&mirror.nodes[0].path(format!("{i}")), format!("{i}").as_bytes());
    }
    mirror.wait_agreed(SOON);
    wait_until(SOON, "three runs", || {
        http.metrics().of("mediamirror_hook_runs_total{result=\"failed\"}") >= 3.0
    });
    assert_eq!(http.metrics().of("mediamirror_hook_waiting"), 20.0);
    let log = mirror.nodes[1].process(Role::Replicator).log();
    assert_eq!(log.matches("the command of --on-change failed: exit status: 1").count(), 1, "{log}");
    fs::write(out.with_extension("go"), b"").unwrap();
    wait_until(SOON, "all to be told", || http.metrics().of("mediamirror_hook_waiting") == 0.0);
    for i in 0..20 {
        assert!(told(&out).iter().any(|line| line["path"] == format!("{i}")), "{i} was not told of");
    }
}

#[test]
fn a_command_that_hangs_is_ended_with_what_it_has_started() {
    let long = long();
    let command = format!(r#"trap '' TERM; echo >> "$OUT"; sleep {long} & sleep {long}"#);
    let (mut mirror, http, out) = told_on_b(&command, &["--on-change-timeout", "500ms"]);
    write(&mirror.nodes[0].path("x"), b"x");
    mirror.wait_agreed(SOON);
    wait_until(SOON, "it to be ended", || {
        http.metrics().of("mediamirror_hook_runs_total{result=\"timed out\"}") >= 1.0
    });
    let log = mirror.nodes[1].process(Role::Replicator).log();
    assert!(log.contains("it took longer than 0.5 s"), "{log}");
    let runs = fs::read(&out).unwrap().len();
    wait_until(SOON, "it to be run again", || fs::read(&out).unwrap().len() > runs);
    // The end of the process is the end of its command.
    assert_eq!(mirror.nodes[1].stop(Role::Replicator).code(), Some(0));
    assert_eq!(running_with("sleep", &long), [] as [u32; 0]);
}

#[test]
fn a_killed_replicator_tells_again_what_no_command_was_content_with() {
    let long = long();
    let (mut mirror, _, out) = told_on_b(&format!(r#"echo $$ > "$OUT.pid"; exec sleep {long}"#), &[]);
    write(&mirror.nodes[0].path("first"), b"1");
    wait_until(SOON, "its run", || running_with("sleep", &long).len() == 1);
    write(&mirror.nodes[0].path("second"), b"2");
    remove(&mirror.nodes[0], "first");
    mirror.wait_nowhere("first");
    mirror.wait_agreed(SOON);
    mirror.nodes[1].kill(Role::Replicator);
    wait_until(SOON, "the command to go with it", || running_with("sleep", &long).is_empty());
    write(&mirror.nodes[0].path("third"), b"3");
    mirror.nodes[1].start_with(Role::Replicator, &["--on-change", r#"cat >> "$OUT""#]);
    wait_until(SOON, "all of it", || told(&out).len() >= 4);
    assert_eq!(told_of(&out, "first"), ["added 1", "removed 1"]);
    assert_eq!(
        (told_of(&out, "second"), told_of(&out, "third")),
        (vec!["added 1".into()], vec!["added 1".into()])
    );
}

#[test]
fn a_process_without_a_command_forgets_what_another_would_have_told() {
    let (mut mirror, http, out) = told_on_b("false", &[]);
    write(&mirror.nodes[0].path("x"), b"x");
    mirror.wait_agreed(SOON);
    wait_until(SOON, "a run", || http.metrics().of("mediamirror_hook_runs_total{result=\"failed\"}") >= 1.0);
    mirror.nodes[1].stop(Role::Replicator);
    mirror.nodes[1].start(Role::Replicator);
    write(&mirror.nodes[0].path("y"), b"y");
    mirror.wait_everywhere("y", b"y");
    mirror.nodes[1].stop(Role::Replicator);
    mirror.nodes[1].start_with(Role::Replicator, &["--on-change", r#"cat >> "$OUT""#]);
    // What is placed by a process with a command, and no more than that.
    let mut next = 0..;
    wait_until(SOON, "z", || {
        write(&mirror.nodes[0].path("z"), format!("{:?}", next.next()).as_bytes());
        !told_of(&out, "z").is_empty()
    });
    assert_eq!((told_of(&out, "x").len(), told_of(&out, "y").len()), (0, 0));
}

/// Answers each request with the next status, the last for ever, and hands on what was asked.
fn cache(statuses: Vec<u16>) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, requests) = channel();
    thread::spawn(move || {
        let last = statuses.last().copied();
        let mut statuses = statuses.into_iter();
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let status = statuses.next().or(last).unwrap();
            let _ = write!(&stream, "HTTP/1.1 {status} so\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            if asked.send(line.trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    (port, requests)
}

#[test]
fn the_shipped_command_purges_a_cache() {
    let (port, requests) = cache(vec![404, 500, 200]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/hooks/purge.py");
    let (mirror, http, _) = told_on_b(&format!("{} http://127.0.0.1:{port}/media/", script.display()), &[]);
    for (i, name) in [&b"a b"[..], b"caf\xe9", b"c?d"].into_iter().enumerate() {
        write(&mirror.nodes[0].path(OsStr::from_bytes(name)), format!("{i}").as_bytes());
    }
    wait_until(SOON, "all to be purged", || {
        http.metrics().of("mediamirror_hook_runs_total{result=\"done\"}") > 0.0
            && http.metrics().of("mediamirror_hook_waiting") == 0.0
            && mirror.nodes[1].path("c?d").exists()
    });
    let asked: HashSet<String> = requests.try_iter().collect();
    let expected = ["a%20b", "caf%E9", "c%3Fd"].map(|path| format!("PURGE /media/{path} HTTP/1.1"));
    assert_eq!(asked, HashSet::from(expected));
    // The one that was refused made the run fail.
    assert_eq!(http.metrics().of("mediamirror_hook_runs_total{result=\"failed\"}"), 1.0);
}

#[test]
fn a_command_that_is_none_is_refused() {
    let mirror = Mirror::prepared(&["a"]);
    for (flags, named) in
        [(["--on-change", " "], "no command"), (["--on-change-timeout", "0s"], "no time at all")]
    {
        let refused = mirror.nodes[0].run(Role::Replicator, &[&["run"][..], &flags].concat());
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(named) && refused.stderr.contains(flags[0]), "{refused:?}");
    }
}
