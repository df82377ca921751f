//! Looking at the mirror: status, log, replay, scan.

use e2e::{Mirror, Role, SOON, Tree, content, wait_until, write};
use std::{fs, process::Command};

#[test]
fn the_log_is_printed_one_json_object_a_line() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("uploads/cat.jpg"), b"cat");
    mirror.wait_everywhere("uploads/cat.jpg", b"cat");
    write(&mirror.nodes[1].path("uploads/dog.jpg"), b"dog");
    mirror.wait_everywhere("uploads/dog.jpg", b"dog");
    fs::remove_file(mirror.nodes[1].path("uploads/cat.jpg")).unwrap();
    mirror.wait_nowhere("uploads/cat.jpg");

    let node = &mirror.nodes[0];
    let lines = node.run(Role::Replicator, &["log", "--json"]).succeeded().json_lines();
    let seen: Vec<_> = lines
        .iter()
        .map(|l| (l["version"].as_u64().unwrap(), l["type"].as_str().unwrap(), l["path"].as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [(1, "added", "uploads/cat.jpg"), (2, "added", "uploads/dog.jpg"), (3, "removed", "uploads/cat.jpg")]
    );
    assert_eq!(lines[0]["sha256"], "77af778b51abd4a3c51c5ddd97204a9c3ae614ebccb75a606c3b6865aed6744e");
    assert_eq!((lines[0]["size"].as_u64(), lines[0]["node"].as_str()), (Some(3), Some("a")));
    assert_eq!(lines[2]["replaces"], 1);
    assert!(lines.iter().all(|line| line["time"].as_str().is_some_and(|t| t.ends_with('Z'))));

    let versions = |arguments: &[&str]| {
        let arguments = [&["log", "--json"], arguments].concat();
        let lines = node.run(Role::Replicator, &arguments).succeeded().json_lines();
        lines.iter().map(|line| line["version"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(versions(&["--from-seq", "2"]), [2, 3]);
    assert_eq!(versions(&["--to-seq", "2"]), [1, 2]);
    assert_eq!(versions(&["--from-seq", "2", "--to-seq", "2"]), [2]);
    assert_eq!(versions(&["--path", "uploads/cat.jpg"]), [1, 3]);
    let plain = node.run(Role::Replicator, &["log"]).succeeded().stdout;
    assert_eq!(plain.lines().filter(|line| line.contains("uploads/")).count(), 3, "{plain}");
}

#[test]
fn a_followed_log_shows_events_as_they_come() {
    let mirror = Mirror::running(&["a"]);
    let command = mirror.nodes[0].command(Role::Replicator, ["log", "--follow", "--json"]);
    let follower = e2e::Process::spawn("follower", mirror.dir(), command);
    for i in 0..3 {
        write(&mirror.nodes[0].path(i.to_string()), b"followed");
        let wanted = format!("\"path\":\"{i}\"");
        wait_until(SOON, "the event in the followed log", || follower.log().contains(&wanted));
    }
}

#[test]
fn replay_builds_the_tree_of_any_version_and_touches_nothing_else() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("kept/1"), b"first");
    mirror.wait_everywhere("kept/1", b"first");
    write(&mirror.nodes[0].path("gone"), &content("gone", 600_000));
    mirror.wait_everywhere("gone", &content("gone", 600_000));
    let early = mirror.wait_equal(SOON);
    write(&mirror.nodes[1].path("kept/1"), b"second");
    mirror.wait_everywhere("kept/1", b"second");
    fs::remove_file(mirror.nodes[0].path("gone")).unwrap();
    mirror.wait_nowhere("gone");
    let late = mirror.wait_equal(SOON);

    let (target, state) = (mirror.outside("replayed"), mirror.outside("replay-state"));
    write(&target.join("mine/not-in-the-log"), b"mine");
    let url = mirror.broker.url();
    let replay = |arguments: &[&str]| {
        let mut command = Command::new(Role::Replicator.program());
        command.arg("replay").args(arguments).arg("--root").arg(&target);
        command.args(["--mirror", "media", "--nats-url", &url]).env("XDG_STATE_HOME", &state);
        e2e::run(SOON, command).succeeded();
        let mut tree = Tree::of(&target);
        assert!(tree.0.remove(b"mine/not-in-the-log".as_slice()).is_some(), "what is not ours stays");
        tree
    };
    replay(&["--from-seq", "1", "--to-seq", "2"]).equal(&early).unwrap();
    replay(&["--from-seq", "1", "--to-seq", "2"]).equal(&early).unwrap();
    replay(&["--from-seq", "1"]).equal(&late).unwrap();
    replay(&["--from-seq", "1"]).equal(&late).unwrap();
    mirror.wait_equal(SOON).equal(&late).unwrap();
    let versions: Vec<_> = mirror.log().iter().map(|line| line.version).collect();
    assert_eq!(versions, [1, 2, 3, 4], "a replay publishes nothing");
}

#[test]
fn replay_builds_the_tree_of_a_moment_with_what_the_nodes_still_hold() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let large = content("large", 600_000);
    for (path, bytes) in
        [("kept", &b"kept"[..]), ("folder/large", &large), ("changed", b"before"), ("gone", b"gone")]
    {
        write(&mirror.nodes[0].path(path), bytes);
    }
    mirror.wait_agreed(SOON);
    wait_until(SOON, "four events", || mirror.log().len() == 4);
    let listed = mirror.nodes[0].run(Role::Replicator, &["log", "--json"]).succeeded().json_lines();
    let moment = listed[3]["time"].as_str().unwrap().to_owned();
    write(&mirror.nodes[1].path("changed"), b"after it");
    write(&mirror.nodes[1].path("later"), b"later");
    fs::remove_file(mirror.nodes[0].path("gone")).unwrap();
    mirror.wait_nowhere("gone");
    mirror.wait_everywhere("later", b"later");
    mirror.wait_everywhere("changed", b"after it");

    let replay = |mirror: &Mirror, target: &str| {
        let (target, state) = (mirror.outside(target), mirror.outside("replay-state"));
        let mut command = Command::new(Role::Replicator.program());
        command.args(["replay", "--at", &moment, "--timeout", "8s", "--mirror", "media"]);
        command.args(["--nats-url", &mirror.broker.url()]).arg("--root").arg(&target);
        let finished = {
            command.env("XDG_STATE_HOME", &state);
            e2e::run(SOON, command)
        };
        (finished, Tree::of(&target))
    };
    let names = |tree: &Tree| {
        let names = tree.0.keys().map(|path| String::from_utf8_lossy(path).into_owned());
        names.collect::<Vec<String>>()
    };
    let (whole, tree) = replay(&mirror, "whole");
    whole.succeeded();
    assert_eq!(names(&tree), ["changed", "folder/large", "gone", "kept"]);
    assert_eq!(fs::read(mirror.dir().join("whole/changed")).unwrap(), b"before");

    // What is in a tree comes back into the store; of the rest no node has the content.
    mirror.nats().lose_blobs();
    let (partial, tree) = replay(&mirror, "partial");
    assert_eq!(partial.code, Some(1), "{partial:?}");
    assert_eq!(names(&tree), ["folder/large", "kept"]);
    for path in ["changed", "gone"] {
        let named = partial.stderr.lines().any(|line| line.contains("not to be had") && line.contains(path));
        assert!(named, "{path} is not named: {partial:?}");
    }
    assert!(partial.stdout.contains("2 failed"), "{partial:?}");
    let lists = mirror.nats().keys().into_iter().filter(|key| key.starts_with("replay-"));
    assert_eq!(lists.count(), 0, "the list is taken away");
}

#[test]
fn scan_does_one_pass_and_ends() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..30 {
        write(&mirror.nodes[0].path(format!("old/{i}")), &content(&i.to_string(), 1_000));
    }
    let finished = mirror.nodes[0].run(Role::Watcher, &["scan"]).succeeded();
    assert!(!finished.stderr.contains(['\r', '\x1b']), "a bar without a terminal: {finished:?}");
    assert_eq!(mirror.log().len(), 30);
    mirror.nodes[0].run(Role::Watcher, &["scan"]).succeeded();
    assert_eq!(mirror.log().len(), 30, "a second pass finds nothing new");
    write(&mirror.nodes[0].path("old/3"), b"changed");
    mirror.nodes[0].run(Role::Watcher, &["scan"]).succeeded();
    assert_eq!(mirror.log().len(), 31);
    mirror.nodes[1].start(Role::Replicator);
    assert_eq!(mirror.wait_equal(SOON).0.len(), 30);
}

#[test]
fn scan_shows_a_bar_on_a_terminal() {
    let mirror = Mirror::idle(&["a"]);
    for i in 0..300 {
        write(&mirror.nodes[0].path(i.to_string()), &content(&i.to_string(), 100_000));
    }
    // script(1) gives it a terminal.
    let scan = mirror.nodes[0].command(Role::Watcher, ["scan"]);
    let words = std::iter::once(scan.get_program()).chain(scan.get_args());
    let line: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &line.join(" "), "/dev/null"]).env("TERM", "xterm");
    let finished = e2e::run(SOON, command).succeeded();
    assert!(finished.stdout.contains("300") && finished.stdout.contains("MiB"), "{finished:?}");
}

#[test]
fn status_says_what_each_process_does() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("file"), b"twelve bytes");
    mirror.wait_everywhere("file", b"twelve bytes");
    mirror.wait_equal(SOON);
    for role in Role::ALL {
        let what = format!("a status of the {} with version 1", role.name());
        e2e::wait_for(SOON, &what, || {
            let status = mirror.nodes[0].run(role, &["status", "--json"]);
            let record: serde_json::Value =
                serde_json::from_str(&status.stdout).map_err(|e| e.to_string())?;
            let text = record.to_string();
            assert!(text.contains("\"ready\"") || status.code != Some(0), "{status:?}");
            let known = status.code == Some(0) && text.contains("\"version\":1");
            if known { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }
    // Both nodes hold the same at the same version, and say so by the same digest.
    let digests = e2e::wait_for(SOON, "records at version 1", || {
        let mut digests = Vec::new();
        for node in ["a", "b"] {
            let record = mirror.nats().record(node, Role::Replicator).ok_or("no record")?;
            if record["version"] != 1 || record["state"] != "ready" {
                return Err(record.to_string());
            }
            assert_eq!(record["files"], 1);
            assert_eq!(record["bytes"], 12);
            digests.push(record["digest"].clone());
        }
        Ok(digests)
    });
    assert_eq!(digests[0], digests[1]);
    mirror.broker.stop();
    assert_eq!(mirror.nodes[0].run(Role::Replicator, &["status"]).code, Some(3));
}

#[test]
fn a_node_that_is_gone_for_good_is_forgotten_and_one_that_lives_is_not() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("file"), b"file");
    mirror.wait_everywhere("file", b"file");
    let remove =
        |mirror: &Mirror, name: &str| mirror.nodes[0].run(Role::Replicator, &["node", "remove", name]);
    let refused = remove(&mirror, "b");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("stop its watcher"), "{refused:?}");
    mirror.nodes[1].stop_both();
    assert_eq!(mirror.nodes[0].run(Role::Replicator, &["status"]).code, Some(1), "a node has stopped");
    remove(&mirror, "b").succeeded();
    assert!(mirror.nats().consumer("b").is_none() && mirror.nats().consumer("a").is_some());
    for role in Role::ALL {
        assert!(mirror.nats().record("b", role).is_none() && mirror.nats().record("a", role).is_some());
    }
    let status = mirror.nodes[0].run(Role::Replicator, &["status"]).succeeded().stdout;
    assert!(!status.lines().any(|line| line.starts_with("b ")), "{status}");
    assert_eq!(remove(&mirror, "b").code, Some(1), "there is none any more");
    // It comes back, and is a node again.
    mirror.nodes[1].start_both();
    mirror.wait_ready();
    write(&mirror.nodes[1].path("again"), b"again");
    mirror.wait_everywhere("again", b"again");
}

#[test]
fn a_watched_status_says_what_changes_and_ends_with_what_it_saw_last() {
    let mut mirror = Mirror::running(&["a"]);
    let command = mirror.nodes[0].command(Role::Replicator, ["status", "--watch", "--json"]);
    let mut watching = e2e::Process::spawn("watching", mirror.dir(), command);
    let last = |watching: &e2e::Process| {
        let log = watching.log();
        let line =
            log.lines().rfind(|line| line.starts_with('{') && line.contains("\"nodes\"")).map(str::to_owned);
        line.and_then(|line| serde_json::from_str::<serde_json::Value>(&line).ok()).unwrap_or_default()
    };
    wait_until(SOON, "a first look", || last(&watching)["head"] == 0);
    write(&mirror.nodes[0].path("file"), b"file");
    wait_until(SOON, "the new event", || last(&watching)["head"] == 1);
    mirror.broker.kill();
    wait_until(SOON, "the broker's absence", || {
        let last = last(&watching);
        last["head"].is_null() && last["local"]["files"] == 1
    });
    watching.signal(rustix::process::Signal::TERM);
    assert_eq!(watching.wait(SOON).code(), Some(3));
}

#[test]
fn an_operator_makes_what_nodes_need_that_may_make_nothing() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let provision = |mirror: &Mirror| {
        mirror.nodes[0].run(Role::Replicator, &["provision", "--nodes", "a,b"]).succeeded().stdout
    };
    let made = provision(&mirror);
    assert!(made.contains("node a: its consumer is made\nnode b: its consumer is made\n"), "{made}");
    assert!(made.contains("mirror media: log, node records, and blobs in nats"), "{made}");
    assert!(provision(&mirror).contains("node b: its consumer is there"), "again, and nothing is changed");
    // Whoever would make anything is refused.
    mirror.broker.let_in(
        "{user: node, password: p, permissions: { publish: { deny: [\"$JS.API.STREAM.CREATE.>\", \"$JS.API.CONSUMER.CREATE.>\", \"$JS.API.CONSUMER.DURABLE.>\"] } } }",
    );
    let url = mirror.broker.url_of("node");
    mirror.nodes.iter_mut().for_each(|node| node.find_broker_at(url.clone()));
    mirror.find_broker();
    mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
    mirror.wait_ready();
    write(&mirror.nodes[0].path("x"), b"x");
    mirror.wait_everywhere("x", b"x");
    let nonsense = mirror.nodes[0].run(Role::Replicator, &["provision", "--nodes", "a b"]);
    assert_eq!(nonsense.code, Some(2), "{nonsense:?}");
}
