//! Without any setting: the broker that the processes bring along.

use e2e::{LONG, Node, Role, SOON, Tree, content, running_with, wait_for, wait_until, write};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How soon another process has to take over from an owner that was killed.
const TAKE_OVER: Duration = Duration::from_secs(5);

struct Embedded {
    nodes: Vec<Node>,
    dir: TempDir,
}

impl Embedded {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("mirror-embedded-").tempdir().unwrap();
        let port = e2e::free_port().to_string();
        let nodes = ["a", "b"].map(|name| {
            let mut node = Node::new(dir.path(), name, None);
            node.environment = vec![
                ("XDG_STATE_HOME".into(), dir.path().join("xdg")),
                ("MEDIAMIRROR_EMBEDDED_PORT".into(), port.clone().into()),
            ];
            if let Some(path) = server_on_path(dir.path()) {
                node.environment.push(("PATH".into(), path));
            }
            node
        });
        Self { nodes: nodes.into(), dir }
    }

    /// The servers that run on this test's data.
    fn servers(&self) -> Vec<u32> {
        running_with("nats-server", self.dir.path().to_str().unwrap())
    }

    fn server(&self, limit: Duration) -> u32 {
        wait_for(limit, "one embedded server", || match self.servers()[..] {
            [one] => Ok(one),
            ref others => Err(format!("{} servers", others.len())),
        })
    }

    fn wait_equal(&self, files: usize) {
        wait_for(LONG, "both nodes to agree", || {
            let (a, b) = (Tree::of(&self.nodes[0].root), Tree::of(&self.nodes[1].root));
            a.equal(&b)?;
            if a.0.len() == files { Ok(()) } else { Err(format!("{} files", a.0.len())) }
        });
    }
}

/// A `PATH` on which `nats-server` is the server under test.
fn server_on_path(dir: &Path) -> Option<PathBuf> {
    let server = PathBuf::from(std::env::var_os("MEDIAMIRROR_NATS_SERVER")?);
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    if !bin.join("nats-server").exists() {
        std::os::unix::fs::symlink(fs::canonicalize(server).unwrap(), bin.join("nats-server")).unwrap();
    }
    let old = std::env::var("PATH").unwrap_or_default();
    Some(format!("{}:{old}", bin.display()).into())
}

#[test]
fn two_nodes_agree_without_any_setting_and_leave_no_server_behind() {
    let mut embedded = Embedded::new();
    embedded.nodes.iter_mut().for_each(Node::start_both);
    for i in 0..50 {
        write(&embedded.nodes[i % 2].path(format!("{}/{i}", i % 3)), &content(&i.to_string(), 5_000));
    }
    embedded.wait_equal(50);
    embedded.server(SOON);
    for node in &mut embedded.nodes {
        for role in Role::ALL {
            assert_eq!(node.stop(role).code(), Some(0));
        }
    }
    wait_until(TAKE_OVER, "the server to end with its last user", || embedded.servers().is_empty());
    // What was stored is still there after a start.
    let mut third = Node::new(embedded.dir.path(), "c", None);
    third.environment = embedded.nodes[0].environment.clone();
    third.start(Role::Replicator);
    wait_until(SOON, "the files on a third node", || Tree::sizes(&third.root).0.len() == 50);
}

#[test]
fn a_killed_owner_leaves_no_orphan_and_another_process_takes_over() {
    let mut embedded = Embedded::new();
    // The first to start is the owner.
    embedded.nodes[0].start(Role::Watcher);
    let first = embedded.server(SOON);
    embedded.nodes[0].start(Role::Replicator);
    embedded.nodes[1].start_both();
    for i in 0..20 {
        write(&embedded.nodes[1].path(format!("before/{i}")), &content(&i.to_string(), 5_000));
    }
    embedded.wait_equal(20);

    embedded.nodes[0].kill(Role::Watcher);
    let killed = Instant::now();
    wait_for(TAKE_OVER, "another server on the same data", || match embedded.servers()[..] {
        [other] if other != first => Ok(()),
        ref others => Err(format!("servers {others:?}, the first was {first}")),
    });
    write(&embedded.nodes[1].path("after"), b"after");
    wait_until(SOON, "a file after the change of owner", || embedded.nodes[0].path("after").exists());
    assert!(killed.elapsed() < TAKE_OVER * 2, "it took {:?}", killed.elapsed());
    embedded.wait_equal(21);
    assert!(!Path::new(&format!("/proc/{first}")).exists(), "the first server is an orphan");

    embedded.nodes[0].kill(Role::Replicator);
    Role::ALL.into_iter().for_each(|role| embedded.nodes[1].kill(role));
    wait_until(TAKE_OVER, "no server without an owner", || embedded.servers().is_empty());
}

#[test]
fn a_missing_server_program_is_named_with_a_way_to_get_it() {
    let mut embedded = Embedded::new();
    let empty = embedded.dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for role in Role::ALL {
        embedded.nodes[0].environment.retain(|(name, _)| name != "PATH");
        embedded.nodes[0].environment.push(("PATH".into(), empty.clone()));
        let finished = embedded.nodes[0].run(role, &["run"]);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        for word in ["nats-server", "--nats-url", "install"] {
            assert!(finished.stderr.contains(word), "{word} is missing in {finished:?}");
        }
    }
}

#[test]
fn a_port_in_use_by_another_is_said_and_not_used() {
    let mut embedded = Embedded::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    for role in Role::ALL {
        embedded.nodes[0].environment.retain(|(name, _)| name != "MEDIAMIRROR_EMBEDDED_PORT");
        embedded.nodes[0].environment.push(("MEDIAMIRROR_EMBEDDED_PORT".into(), port.clone().into()));
        let finished = embedded.nodes[0].run(role, &["run"]);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains(&port), "{finished:?}");
    }
}
