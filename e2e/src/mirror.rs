//! A mirror under test: one broker, some nodes, and what it means that they agree.

use crate::{
    broker::Broker,
    nats::{LogLine, Nats},
    node::{Node, Role},
    tree::Tree,
    wait::{SOON, wait_for},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

/// A mirror named `media`. Fields are dropped in this order: processes, broker, files.
pub struct Mirror {
    /// The nodes, by the order they were named in.
    pub nodes: Vec<Node>,
    /// The broker.
    pub broker: Broker,
    nats: Option<Nats>,
    dir: TempDir,
}

impl Mirror {
    /// A broker and both processes on each node, all running; each process has written its record.
    pub fn running(names: &[&str]) -> Self {
        let mut mirror = Self::idle(names);
        mirror.nodes.iter_mut().for_each(Node::start_both);
        mirror.wait_ready();
        mirror
    }

    /// A running broker, and nodes of which nothing runs.
    pub fn idle(names: &[&str]) -> Self {
        let mut mirror = Self::prepared(names);
        mirror.broker.start();
        mirror
    }

    /// Nothing runs.
    pub fn prepared(names: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("mirror-e2e-").tempdir().expect("a temporary folder");
        // Tests with a second user go through it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set a mode");
        let broker = Broker::prepared(dir.path());
        let nodes = names.iter().map(|name| Node::new(dir.path(), name, Some(broker.url()))).collect();
        Self { nodes, broker, nats: None, dir }
    }

    /// One node more, of which nothing runs. Returns its place.
    pub fn add_node(&mut self, name: &str) -> usize {
        self.nodes.push(Node::new(self.dir.path(), name, Some(self.broker.url())));
        self.nodes.len() - 1
    }

    /// A folder on the file system of the roots, outside of them.
    pub fn outside(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).expect("make a folder");
        path
    }

    /// The folder of everything of this mirror.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A client of the broker, connected on first use.
    pub fn nats(&mut self) -> &Nats {
        self.nats.get_or_insert_with(|| Nats::connect(&self.broker.url()))
    }

    /// The broker is elsewhere: the client connects anew when it is used next.
    pub fn find_broker(&mut self) {
        self.nats = None;
    }

    /// Waits until each process that was started says that it is ready.
    pub fn wait_ready(&mut self) {
        self.nats();
        let Self { nodes, nats: Some(nats), .. } = self else { unreachable!("connected a line above") };
        for node in nodes {
            for role in Role::ALL.into_iter().filter(|&role| node.has(role)).collect::<Vec<_>>() {
                let what = format!("the {} of {} to be ready", role.name(), node.name);
                wait_for(SOON, &what, || {
                    assert!(node.process(role).is_running(), "it ended during the wait for {what}");
                    let record = nats.record(&node.name, role).ok_or("no record")?;
                    if record["state"] == "ready" { Ok(()) } else { Err(record.to_string()) }
                });
            }
        }
    }

    /// The whole log.
    pub fn log(&mut self) -> Vec<LogLine> {
        self.nats().log_from(1)
    }

    /// The events of one path, oldest first.
    pub fn log_of(&mut self, path: &str) -> Vec<LogLine> {
        self.log().into_iter().filter(|line| line.path() == path).collect()
    }

    /// What the log says that every node should hold.
    pub fn log_tree(&mut self) -> Tree {
        let mut tree = BTreeMap::new();
        for line in self.log() {
            let path = line.event.path.as_bytes().to_vec();
            match line.event.added {
                Some(_) => tree.insert(path, line.event.sha256.to_string()),
                None => tree.remove(&path),
            };
        }
        Tree(tree)
    }

    /// Waits until every node holds the same as every other and as the log says, and no replicator has anything left
    /// to do. Returns what they hold.
    pub fn wait_equal(&mut self, limit: Duration) -> Tree {
        let replicators: Vec<String> =
            self.nodes.iter().filter(|n| n.has(Role::Replicator)).map(|n| n.name.clone()).collect();
        wait_for(limit, "all nodes to agree with the log", || {
            self.sizes_agree()?;
            for name in &replicators {
                let info = self.nats().consumer(name).ok_or_else(|| format!("{name} has no consumer"))?;
                if info.num_pending > 0 || info.num_ack_pending > 0 {
                    return Err(format!(
                        "{name}: {} to come, {} open",
                        info.num_pending, info.num_ack_pending
                    ));
                }
            }
            self.trees_agree()
        })
    }

    /// The same after a crash: what the broker counts as open, because a process was killed that had taken it, comes again only after
    /// 30 s, and is not waited for. The digests say that it was applied.
    pub fn wait_recovered(&mut self, limit: Duration) -> Tree {
        let tree = wait_for(limit, "all nodes to agree with the log", || {
            self.sizes_agree()?;
            self.trees_agree()
        });
        self.wait_digests(limit);
        tree
    }

    /// Sizes first: hashing everything at each look would be most of the load.
    fn sizes_agree(&self) -> Result<(), String> {
        let sizes: Vec<Tree> = self.nodes.iter().map(|node| Tree::sizes(&node.root)).collect();
        sizes.windows(2).try_for_each(|two| two[0].equal(&two[1]))
    }

    fn trees_agree(&mut self) -> Result<Tree, String> {
        let (first, others) = self.nodes.split_first().expect("a node");
        let tree = Tree::of(&first.root);
        others.iter().try_for_each(|node| tree.equal(&Tree::of(&node.root)))?;
        self.log_tree().equal(&tree).map_err(|e| format!("log and nodes: {e}"))?;
        Ok(tree)
    }

    /// Waits until all is equal, every replicator is ready, and the digests that they report are the same at one version.
    pub fn wait_agreed(&mut self, limit: Duration) -> Tree {
        let tree = self.wait_equal(limit);
        self.wait_digests(limit);
        tree
    }

    /// Waits until every replicator is ready, and the digests that they report are the same at the log's last version.
    pub fn wait_digests(&mut self, limit: Duration) {
        let names: Vec<String> =
            self.nodes.iter().filter(|n| n.has(Role::Replicator)).map(|n| n.name.clone()).collect();
        wait_for(limit, "the digests of all nodes to be equal", || {
            let head = self.nats().log_state().map_or(0, |state| state.last_sequence);
            let mut digests = Vec::new();
            for name in &names {
                let record = self.nats().record(name, Role::Replicator).ok_or("no record")?;
                let settled = record["state"] == "ready" && record["version"] == head;
                if !settled || record["beyond"].as_array().is_none_or(|ranges| !ranges.is_empty()) {
                    return Err(record.to_string());
                }
                digests.push((record["digest"].to_string(), record["files"].to_string()));
            }
            let equal = digests.windows(2).all(|two| two[0] == two[1]);
            if equal { Ok(()) } else { Err(format!("{digests:?}")) }
        });
    }

    /// Waits until this file stands at the end of the path on every node.
    pub fn wait_everywhere(&mut self, path: &str, bytes: &[u8]) {
        for node in &self.nodes {
            let file = node.path(path);
            let what = format!("{path} on {}", node.name);
            wait_for(SOON, &what, || match fs::read(&file) {
                Ok(found) if found == bytes => Ok(()),
                Ok(found) => Err(format!("other content, {} bytes", found.len())),
                Err(e) => Err(e.to_string()),
            });
        }
    }

    /// The same on every node but one.
    pub fn wait_everywhere_but(&mut self, but: usize, path: &str, bytes: &[u8]) {
        let left = self.nodes.remove(but);
        self.wait_everywhere(path, bytes);
        self.nodes.insert(but, left);
    }

    /// Waits until nothing stands at the path on any node.
    pub fn wait_nowhere(&mut self, path: &str) {
        for node in &self.nodes {
            let what = format!("{path} to be gone from {}", node.name);
            let file = node.path(path);
            crate::wait::wait_until(SOON, &what, || !file.exists());
        }
    }
}
