//! `replicator doctor`: what it finds wrong, what not, and that it changes nothing.

mod web;

use e2e::{
    Finished, Http, Mirror, Node, Role, SOON, SmallDisk, as_user, content, free_port, run, wait_for, write,
};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

/// A user that owns nothing on this machine.
const STRANGER: u32 = 61_235;
/// From Debian's libfaketime; the programs take the wall clock from libc.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// What it said, by check.
struct Said {
    code: Option<i32>,
    checks: BTreeMap<String, (String, String)>,
    finished: Finished,
}

impl Said {
    fn of(finished: Finished) -> Self {
        let report = finished.json_lines().pop().unwrap_or_else(|| panic!("no report: {finished:?}"));
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let checks = report["checks"].as_array().unwrap().iter();
        let checks = checks.map(|check| {
            (text(&check["check"]), (text(&check["verdict"]), text(&check["found"]) + &text(&check["cure"])))
        });
        Self { code: finished.code, checks: checks.collect(), finished }
    }

    /// The checks that are wrong, which the exit code agrees with. That other processes of this machine use up all inotify of a user is none of them.
    fn wrong(&self) -> Vec<&str> {
        let mut wrong: Vec<&str> = self
            .checks
            .iter()
            .filter(|(_, (verdict, _))| verdict == "wrong")
            .map(|(check, _)| check.as_str())
            .collect();
        assert_eq!(self.code, Some(i32::from(!wrong.is_empty())), "{:?}", self.finished);
        wrong.retain(|check| *check != "inotify");
        wrong
    }

    fn verdict(&self, check: &str) -> &str {
        &self.checks.get(check).unwrap_or_else(|| panic!("no {check}: {:?}", self.finished)).0
    }

    /// What was found, and what cures it.
    fn text(&self, check: &str) -> &str {
        self.verdict(check);
        &self.checks[check].1
    }
}

/// However full the disk of this machine is, that is not what these tests are about.
fn command(node: &Node) -> Command {
    node.command(Role::Replicator, ["doctor", "--json", "--min-free", "0"])
}

fn doctor(node: &Node, arguments: &[&str]) -> Said {
    let mut command = command(node);
    command.args(arguments);
    Said::of(run(SOON, command))
}

/// Said past the capture of the test's output.
fn not_run(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "not run: {test}: {why}");
}

/// All files below a folder, with what would show that one was written.
fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let (path, meta) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            if meta.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path, (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()));
            }
        }
    }
    found
}

#[test]
fn a_healthy_node_has_nothing_wrong_and_is_left_as_it_was() {
    let mut mirror = Mirror::running(&["a"]);
    write(&mirror.nodes[0].path("uploads/cat.jpg"), b"cat");
    mirror.wait_agreed(SOON);
    let beside = doctor(&mirror.nodes[0], &[]);
    assert_eq!(beside.wrong(), [""; 0], "{:?}", beside.finished);
    for (check, says) in [
        ("user", "watcher"),
        ("coverage", "2 folders"),
        ("files", "1 file (3 B) in 2 folders"),
        ("index", "version 1, 1 file"),
        ("log", "MIRROR_MEDIA, "),
        ("clock", "the broker's"),
    ] {
        assert!(beside.text(check).contains(says), "{check}: {:?}", beside.finished);
    }
    assert_eq!(beside.verdict("clock"), "ok");

    mirror.nodes[0].stop_both();
    let state = |mirror: &mut Mirror| {
        let log = mirror.nats().log_state().unwrap();
        let counts = ["MIRROR_MEDIA", "OBJ_MIRROR_MEDIA_BLOBS", "KV_MIRROR_MEDIA_NODES"]
            .map(|stream| mirror.nats().messages(stream));
        (log.last_sequence, log.consumer_count, mirror.nats().bucket_consumers(), counts)
    };
    let home = mirror.nodes[0].home.clone();
    // Whoever closes the index last folds its journal into it: the same rows in other files.
    let of_index =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("index.db"));
    let seen = || files(&home).into_iter().partition::<BTreeMap<_, _>, _>(|(path, _)| of_index(path));
    let ((index, others), on_broker) = (seen(), state(&mut mirror));
    let alone = doctor(&mirror.nodes[0], &[]);
    assert_eq!(alone.wrong(), [""; 0], "{:?}", alone.finished);
    assert_eq!(alone.text("index"), "version 1, 1 file");
    let (index_now, others_now) = seen();
    assert_eq!((others_now, state(&mut mirror)), (others, on_broker));
    assert!(index_now.keys().all(|path| index.contains_key(path)), "{index_now:?}");

    let plain = mirror.nodes[0].run(Role::Replicator, &["doctor", "--min-free", "0"]).succeeded().stdout;
    assert!(plain.lines().any(|line| line == "ok     index           version 1, 1 file"), "{plain}");
    assert!(
        plain.trim_end().lines().last().unwrap().starts_with("node a of mirror media: 0 wrong, "),
        "{plain}"
    );
}

#[test]
fn where_nothing_has_run_nothing_is_made() {
    let mut mirror = Mirror::idle(&["a"]);
    write(&mirror.nodes[0].path("file"), b"file");
    let home = mirror.nodes[0].home.clone();
    let before = files(&home);
    let said = doctor(&mirror.nodes[0], &[]);
    assert_eq!(said.wrong(), [""; 0], "{:?}", said.finished);
    assert_eq!(said.verdict("clock"), "ok", "there is a way without a stream: {:?}", said.finished);
    assert!(said.text("root").contains("nothing has run") && said.text("index").contains("nothing has run"));
    assert_eq!(files(&home), before);
    assert!(!mirror.nodes[0].state().exists() && !mirror.nodes[0].path(".mirror").exists());
    assert!(mirror.nats().log_state().is_none());
}

#[test]
fn a_broker_that_is_away_is_one_finding_and_the_machine_is_looked_at() {
    let mirror = Mirror::prepared(&["a"]);
    let said = doctor(&mirror.nodes[0], &[]);
    assert_eq!(said.wrong(), ["broker"], "{:?}", said.finished);
    assert!(said.text("broker").contains("--nats-url") && said.verdict("kernel") == "ok");
    fs::remove_dir(&mirror.nodes[0].root).unwrap();
    let said = doctor(&mirror.nodes[0], &[]);
    assert_eq!(said.wrong(), ["broker", "root"], "{:?}", said.finished);
    assert!(said.text("root").contains("mkdir"));
    let usage = mirror.nodes[0].run(Role::Replicator, &["doctor", "--public-url", "example.org"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
    let usage = mirror.nodes[0].run(Role::Replicator, &["doctor", "--max-lag", "soon"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
}

#[test]
fn a_clock_that_differs_from_the_brokers_is_wrong() {
    if !Path::new(FAKETIME).exists() {
        not_run("a_clock_that_differs_from_the_brokers_is_wrong", "libfaketime is missing");
        return;
    }
    let mut mirror = Mirror::idle(&["a"]);
    // By the notice of a request first, and when there is a log by its info, where the server is new enough.
    for has_log in [false, true] {
        if has_log {
            mirror.nodes[0].start_both();
            mirror.wait_ready();
        }
        for (offset, says) in
            [("+10s", "10.0 s ahead of"), ("-10s", " behind the broker's"), ("+1s", " ahead of")]
        {
            let mut command = command(&mirror.nodes[0]);
            command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", offset);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            let said = Said::of(run(SOON, command));
            let expected: &[&str] = if offset == "+1s" { &[] } else { &["clock"] };
            assert_eq!(said.wrong(), expected, "{offset}: {:?}", said.finished);
            assert!(said.text("clock").contains(says), "{offset}: {:?}", said.finished);
        }
    }
}

#[test]
fn what_a_user_may_not_do_is_named() {
    let is_root = rustix::process::geteuid().is_root();
    let mut mirror = Mirror::running(&["a"]);
    write(&mirror.nodes[0].path("closed/file"), b"file");
    mirror.wait_equal(SOON);
    mirror.nodes[0].stop_both();
    let node = &mirror.nodes[0];
    let mode =
        |path: &str, mode| fs::set_permissions(node.path(path), fs::Permissions::from_mode(mode)).unwrap();
    mode("closed/file", 0);
    mode("closed", 0o555);
    let mut asked = command(node);
    if is_root {
        // A copy: the build's own folder may be closed to other users.
        let program = mirror.outside("bin").join("replicator");
        fs::copy(asked.get_program(), &program).unwrap();
        asked = as_user(STRANGER, &program);
        asked.args(command(node).get_args()).current_dir("/");
        command(node).get_envs().for_each(|(name, value)| _ = asked.env(name, value.unwrap_or_default()));
    }
    let said = Said::of(run(SOON, asked));
    mode("closed", 0o755);
    assert!(said.wrong().contains(&"files"), "{:?}", said.finished);
    assert!(said.text("files").contains("closed/file") && said.text("files").contains("setfacl"));
    if is_root {
        assert_eq!(said.wrong(), ["files", "root", "state"], "{:?}", said.finished);
        assert!(said.text("root").contains("not writable") && said.text("state").contains("sudo -u '#0'"));
    }
}

#[test]
fn a_root_on_a_disk_that_is_read_only_is_wrong() {
    let mut mirror = Mirror::idle(&["a"]);
    let at = mirror.dir().join("disk");
    let Some(disk) = SmallDisk::mounted("a_root_on_a_disk_that_is_read_only_is_wrong", &at, 64 << 20, 5_000)
    else {
        return;
    };
    mirror.nodes[0].root = disk.path("media");
    fs::create_dir(disk.path("media")).unwrap();
    mirror.nodes[0].start_both();
    mirror.wait_ready();
    mirror.nodes[0].stop_both();
    assert_eq!(doctor(&mirror.nodes[0], &[]).wrong(), [""; 0]);
    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,ro"]).arg(&at);
    run(SOON, remount).succeeded();
    let said = doctor(&mirror.nodes[0], &[]);
    assert_eq!(said.wrong(), ["files", "root", "root_system"], "{:?}", said.finished);
    assert!(said.text("root_system").contains("mount -o remount,rw "), "{:?}", said.finished);
    drop(disk);
    fs::create_dir(&mirror.nodes[0].root).unwrap();
    // What stands where the disk was is not the root, however empty and writable.
    let said = doctor(&mirror.nodes[0], &[]);
    assert_eq!(said.wrong(), ["root"], "{:?}", said.finished);
    assert!(said.text("root").contains("unmounted"), "{:?}", said.finished);
}

#[test]
fn tiny_limits_of_jetstream_are_held_against_the_tree() {
    for (limits, says) in [
        ("max_file: 1MB", "this tree may need 2.00 MiB more"),
        ("max_file: 100MB, max_streams: 2", "0 of 2 streams, 3 more are needed"),
        ("max_file: 100MB, max_streams: 3", ""),
    ] {
        let mut mirror = Mirror::prepared(&["a"]);
        write(&mirror.nodes[0].path("large"), &[0; 2 << 20]);
        mirror.broker.limit_account(limits);
        mirror.broker.start();
        let url = mirror.broker.url();
        mirror.nodes[0].find_broker_at(url);
        let said = doctor(&mirror.nodes[0], &[]);
        let expected: &[&str] = if says.is_empty() { &[] } else { &["jetstream"] };
        assert_eq!(said.wrong(), expected, "{limits}: {:?}", said.finished);
        assert!(said.text("jetstream").contains(says), "{limits}: {:?}", said.finished);
    }
}

#[test]
fn a_bucket_that_is_nearly_full_is_wrong_and_a_denied_question_is_not() {
    let mut mirror = Mirror::running(&["a"]);
    write(&mirror.nodes[0].path("file"), &content("file", 100_000));
    mirror.wait_equal(SOON);
    let stored = i64::try_from(mirror.nats().bucket_state().bytes).unwrap();
    for (limit, expected) in [(stored * 2, &[][..]), (stored + 1_000, &["blobs"])] {
        mirror.nats().limit_bucket(limit);
        let said = doctor(&mirror.nodes[0], &[]);
        assert_eq!(said.wrong(), expected, "{:?}", said.finished);
        let cured = said.text("blobs").contains("nats stream edit OBJ_MIRROR_MEDIA_BLOBS --max-bytes=-1");
        assert_eq!(cured, !expected.is_empty(), "{:?}", said.finished);
    }
    mirror.nats().limit_bucket(-1);
    mirror.broker.let_in("{user: r, password: p, permissions: {publish: {deny: [\"$JS.API.INFO\"]}}}");
    let url = mirror.broker.url_of("r");
    mirror.nodes[0].find_broker_at(url);
    let said = doctor(&mirror.nodes[0], &[]);
    assert_eq!(said.wrong(), [""; 0], "{:?}", said.finished);
    assert_eq!(said.verdict("jetstream"), "note", "{:?}", said.finished);
}

#[test]
fn a_port_is_ours_or_somebody_elses() {
    let mut mirror = Mirror::idle(&["a"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    let said = doctor(&mirror.nodes[0], &["--http", &http.0.to_string()]);
    assert_eq!(said.wrong(), [""; 0], "{:?}", said.finished);
    assert!(said.text("http").contains("held by the watcher of this node"), "{:?}", said.finished);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = doctor(&mirror.nodes[0], &["--http", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(said.wrong(), ["http"], "{:?}", said.finished);
    assert!(said.text("http").contains("ss -ltnp"), "{:?}", said.finished);
}

#[test]
fn an_embedded_broker_is_looked_at_and_not_started() {
    let dir = tempfile::Builder::new().prefix("mirror-doctor-").tempdir().unwrap();
    let port = free_port().to_string();
    let mut node = Node::new(dir.path(), "a", None);
    node.environment.push(("MEDIAMIRROR_EMBEDDED_PORT".into(), port.into()));
    if let Some(server) = std::env::var_os("MEDIAMIRROR_NATS_SERVER") {
        node.environment.push(("MEDIAMIRROR_NATS_SERVER".into(), server.into()));
    }
    let said = doctor(&node, &[]);
    assert_eq!(said.wrong(), [""; 0], "{:?}", said.finished);
    assert!(said.text("broker").contains("does not run"), "{:?}", said.finished);
    assert!(!node.home.join("xdg").exists(), "nothing was made");
    node.start(Role::Watcher);
    wait_for(SOON, "the embedded broker to be seen", || {
        let said = doctor(&node, &[]);
        let seen = said.text("broker").contains("the embedded one at 127.0.0.1");
        if seen { Ok(()) } else { Err(format!("{:?}", said.finished)) }
    });
    node.stop(Role::Watcher);
}
