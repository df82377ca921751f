//! `replicator verify`: every kind of damage is found and named, what can be repaired is repaired by the running processes, and what is merely on its way is no
//! difference.

use e2e::{
    Finished, LONG, Mirror, Role, SOON, Tree, content, copy_folder, put_back, sha256_of, wait_for,
    wait_until, write,
};
use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Some files on both nodes, all agreed.
fn mirror() -> Mirror {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..20 {
        write(&mirror.nodes[0].path(format!("{}/{i}", i % 3)), &content(&i.to_string(), 3_000));
    }
    write(&mirror.nodes[0].path("large"), &content("large", 700_000));
    write(&mirror.nodes[0].path("empty"), b"");
    write(&mirror.nodes[0].path("removed"), b"removed");
    mirror.wait_everywhere("removed", b"removed");
    fs::remove_file(mirror.nodes[1].path("removed")).unwrap();
    mirror.wait_nowhere("removed");
    mirror.wait_agreed(SOON);
    mirror
}

fn verify(mirror: &Mirror, node: usize, arguments: &[&str]) -> Finished {
    let arguments = [&["verify"], arguments].concat();
    e2e::run(LONG, mirror.nodes[node].command(Role::Replicator, arguments))
}

/// What differs: path and the names of its differences, in order.
fn differences(finished: &Finished) -> Vec<(String, String)> {
    let line = finished.json_lines().pop().expect("one object");
    let of = |difference: &serde_json::Value| {
        let names: Vec<_> =
            difference["differences"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        (difference["path"].as_str().unwrap().to_owned(), names.join(" "))
    };
    line["differences"].as_array().unwrap().iter().map(of).collect()
}

/// Somebody who writes fifty files of a root again and again, until this is dropped.
struct Writing {
    done: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl Writing {
    fn start(root: &Path) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (root, ended) = (root.to_owned(), Arc::clone(&done));
        let writer = std::thread::spawn(move || {
            let versions = (0..).take_while(|_| !ended.load(Ordering::SeqCst));
            e2e::paced(Duration::from_millis(10), versions, |i: u32| {
                write(&root.join(format!("flow/{}", i % 50)), &content(&i.to_string(), 20_000));
            });
        });
        Self { done, writer: Some(writer) }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        self.writer.take().map(JoinHandle::join);
    }
}

fn pair(path: &str, how: &str) -> (String, String) {
    (path.into(), how.into())
}

#[test]
fn equal_nodes_are_said_to_be_equal_also_while_files_are_on_their_way() {
    let mut mirror = mirror();
    for node in 0..2 {
        let finished = verify(&mirror, node, &[]).succeeded();
        assert_eq!(finished.stdout, "22 paths checked, 0 differ\n");
        assert!(!finished.stderr.contains(['\r', '\x1b']), "a bar without a terminal: {finished:?}");
    }
    verify(&mirror, 0, &["--read-blobs"]).succeeded();
    // A message that is no event is counted, and is no difference: no content is known for its path.
    mirror.nats().publish("mirror.media.poison", b"no event at all");
    let said = verify(&mirror, 0, &[]).succeeded().stdout;
    assert!(said.contains("1 messages are no events"), "{said}");

    let writing = Writing::start(&mirror.nodes[0].root);
    for node in 0..2 {
        let finished = verify(&mirror, node, &["--json"]);
        // Files that are rewritten all the time may be seen between two of their versions at each look; nothing else may.
        let odd: Vec<_> =
            differences(&finished).into_iter().filter(|(path, _)| !path.starts_with("flow/")).collect();
        assert_eq!(odd, [], "{finished:?}");
    }
    drop(writing);
    let roots = [0, 1].map(|node| mirror.nodes[node].root.clone());
    wait_for(LONG, "both nodes to agree", || Tree::of(&roots[0]).equal(&Tree::of(&roots[1])));
    for node in 0..2 {
        verify(&mirror, node, &[]).succeeded();
    }
}

#[test]
fn damage_on_the_disk_is_named_and_repaired() {
    let mut mirror = mirror();
    mirror.nodes[1].stop(Role::Watcher);
    let b = &mirror.nodes[1];
    fs::remove_file(b.path("0/0")).unwrap();
    fs::remove_dir_all(b.path("2")).unwrap();
    b.rot("1/1", &content("rotten", 3_000));
    let twos = ["2/11", "2/14", "2/17", "2/2", "2/5", "2/8"];
    let expected: Vec<_> = [pair("0/0", "absent"), pair("1/1", "rotten")]
        .into_iter()
        .chain(twos.map(|path| pair(path, "absent")))
        .collect();
    let found = verify(&mirror, 1, &["--json"]);
    assert_eq!((found.code, differences(&found)), (Some(1), expected), "{found:?}");
    let said = verify(&mirror, 1, &[]);
    assert!(said.stdout.contains("0/0: in the log, and not on the disk\n"), "{said:?}");
    assert!(said.stdout.ends_with("22 paths checked, 8 differ\n"), "{said:?}");

    let repaired = verify(&mirror, 1, &["--repair"]).succeeded();
    assert!(repaired.stdout.contains("1/1: its bytes changed without a write\n"), "{repaired:?}");
    assert!(repaired.stderr.contains("8 paths"), "{repaired:?}");
    verify(&mirror, 1, &[]).succeeded();
    assert_eq!(mirror.nodes[1].lost_conflicts(), ["1/1"], "what rotted may be all that is left");
    mirror.nodes[1].start(Role::Watcher);
    mirror.wait_agreed(SOON);
    assert_eq!(mirror.log().len(), 24, "nothing of it was news");
}

#[test]
fn what_the_log_lacks_is_published_by_the_watcher() {
    let mut mirror = mirror();
    mirror.nodes[1].stop(Role::Watcher);
    let b = &mirror.nodes[1];
    write(&b.path("0/3"), b"written while nobody watched");
    write(&b.path("new"), b"new while nobody watched");
    write(&b.path("removed"), b"here again");
    write(&b.path("unfinished.part"), b"ignored");
    write(&b.path(".mirrorignore"), b"/mine\n");
    write(&b.path("mine"), b"ignored too");
    let expected = [
        pair(".mirrorignore", "unpublished"),
        pair("0/3", "other-content"),
        pair("new", "unpublished"),
        pair("removed", "not-removed"),
    ];
    let found = verify(&mirror, 1, &["--json", "--repair", "--timeout", "1s"]);
    assert_eq!((found.code, differences(&found)), (Some(1), expected.to_vec()), "{found:?}");
    mirror.nodes[1].start(Role::Watcher);
    verify(&mirror, 1, &["--repair"]).succeeded();
    mirror.wait_everywhere("0/3", b"written while nobody watched");
    mirror.wait_everywhere("removed", b"here again");
}

#[test]
fn blobs_that_the_store_lost_or_damaged_are_stored_again() {
    let mut mirror = mirror();
    mirror.nats().lose_blobs();
    let found = verify(&mirror, 1, &["--json"]);
    assert_eq!(found.code, Some(1), "{found:?}");
    let found = differences(&found);
    assert!(found.len() == 21 && found.iter().all(|(_, how)| how == "blob-missing"), "{found:?}");
    verify(&mirror, 1, &["--repair"]).succeeded();
    verify(&mirror, 0, &["--read-blobs"]).succeeded();
    // What is still asked for would be stored again before anybody looks.
    wait_until(SOON, "nothing to be wanted any more", || mirror.nats().wanted("b").is_empty());

    assert!(mirror.nats().damage_blobs() > 21);
    verify(&mirror, 0, &[]).succeeded();
    let found = verify(&mirror, 0, &["--json", "--read-blobs"]);
    let damaged = differences(&found);
    assert!(damaged.len() == 21 && damaged.iter().all(|(_, how)| how == "blob-damaged"), "{damaged:?}");
    // A blob is uploaded again once a minute at most, and all of them were a moment ago.
    verify(&mirror, 0, &["--repair", "--read-blobs", "--timeout", "100s"]).succeeded();
    wait_until(SOON, "nothing to be wanted any more", || mirror.nats().wanted("a").is_empty());
    assert_eq!(mirror.log().len(), 24, "an upload is no event");
}

#[test]
fn a_log_that_is_not_the_one_we_knew_is_named() {
    let mut mirror = mirror();
    let copy = mirror.dir().join("nats-copy");
    mirror.broker.stop();
    copy_folder(&mirror.broker.store(), &copy);
    mirror.broker.start();
    write(&mirror.nodes[0].path("since"), b"since");
    mirror.wait_everywhere("since", b"since");
    mirror.wait_agreed(SOON);
    mirror.nodes.iter_mut().for_each(e2e::Node::stop_both);
    mirror.broker.stop();
    put_back(&copy, &mirror.broker.store());
    mirror.broker.start();
    let said = verify(&mirror, 1, &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.contains("since: on the disk, and not in the log"), "{said:?}");
    assert!(said.stdout.contains("rolled back"), "{said:?}");
    mirror.broker.stop();
    fs::remove_dir_all(mirror.broker.store()).unwrap();
    mirror.broker.start();
    assert_eq!(verify(&mirror, 1, &[]).code, Some(1), "there is no log to compare with");
    mirror.nodes[0].start_both();
    wait_until(SOON, "a log", || mirror.log().len() == 23);
    let said = verify(&mirror, 1, &[]);
    assert!(said.stdout.contains("created anew"), "{said:?}");
    mirror.nodes[1].start_both();
    mirror.wait_agreed(LONG);
    verify(&mirror, 1, &[]).succeeded();
}

#[test]
fn a_consumer_that_is_gone_is_named() {
    let mut mirror = mirror();
    mirror.nodes[1].stop(Role::Replicator);
    mirror.nats().delete_consumer("b");
    let said = verify(&mirror, 1, &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.contains("the consumer replicator-b is gone"), "{said:?}");
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_ready();
    verify(&mirror, 1, &[]).succeeded();
}

#[test]
fn what_is_parked_or_in_the_way_is_named() {
    let mut mirror = mirror();
    std::os::unix::fs::symlink("nowhere", mirror.nodes[1].path("taken")).unwrap();
    write(&mirror.nodes[0].path("taken"), b"taken");
    mirror.wait_everywhere_but(1, "taken", b"taken");
    let found = verify(&mirror, 1, &["--json"]);
    assert_eq!((found.code, differences(&found)), (Some(1), vec![pair("taken", "in-the-way")]), "{found:?}");
    fs::remove_file(mirror.nodes[1].path("taken")).unwrap();
    verify(&mirror, 1, &["--repair"]).succeeded();
    assert_eq!(
        sha256_of(&mirror.nodes[1].path("taken")).unwrap(),
        sha256_of(&mirror.nodes[0].path("taken")).unwrap()
    );
}

#[test]
fn it_tells_why_it_cannot_look() {
    let mut mirror = mirror();
    let elsewhere = mirror.outside("elsewhere");
    let mut command = Command::new(Role::Replicator.program());
    command.args(["verify", "--nats-url", &mirror.broker.url(), "--root"]).arg(&elsewhere);
    command.arg("--state").arg(mirror.dir().join("no state"));
    let no_index = e2e::run(SOON, command);
    assert!(no_index.code == Some(1) && no_index.stderr.contains("no index"), "{no_index:?}");
    mirror.nodes[0].stop_both();
    fs::remove_file(mirror.nodes[0].path(".mirror/id")).unwrap();
    assert_eq!(verify(&mirror, 0, &[]).code, Some(5));
    mirror.broker.stop();
    assert_eq!(verify(&mirror, 1, &[]).code, Some(3));
}

#[test]
fn it_shows_a_bar_on_a_terminal() {
    let mirror = mirror();
    // script(1) gives it a terminal.
    let verify = mirror.nodes[0].command(Role::Replicator, ["verify"]);
    let words = std::iter::once(verify.get_program()).chain(verify.get_args());
    let line: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &line.join(" "), "/dev/null"]).env("TERM", "xterm");
    let finished = e2e::run(SOON, command).succeeded();
    assert!(finished.stdout.contains("files") && finished.stdout.contains("KiB"), "{finished:?}");
}
