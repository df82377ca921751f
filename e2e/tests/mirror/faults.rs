//! Each process stopped, and killed, while files flow: the nodes agree afterwards, and nothing is lost.

use e2e::{LONG, Mirror, Node, Role, SOON, content, paced, wait_until, write};
use std::{fs, path::Path, thread, time::Duration};

/// Files that each node's writer makes.
const FILES: usize = 400;

/// Writes, rewrites and removes for about three seconds.
fn busy(root: &Path, who: &str) {
    paced(Duration::from_millis(8), 0..FILES, |i| {
        write(&root.join(format!("{who}/{}/{i}", i % 7)), &content(&format!("{who}{i}"), 200 * (i % 50)));
        if i % 10 == 9 {
            fs::remove_file(root.join(format!("{who}/{}/{}", (i - 5) % 7, i - 5))).unwrap();
            write(&root.join(format!("{who}/{}/{}", (i - 3) % 7, i - 3)), b"rewritten");
        }
    });
}

/// Lets `fault` happen twice while both nodes write.
fn agrees_after(fault: impl Fn(&mut Mirror)) {
    let mut mirror = Mirror::running(&["a", "b"]);
    let roots: Vec<_> = mirror.nodes.iter().map(|node| node.root.clone()).collect();
    thread::scope(|scope| {
        for (root, who) in roots.iter().zip(["x", "y"]) {
            scope.spawn(move || busy(root, who));
        }
        for (n, arrived) in [FILES / 8, FILES / 2].into_iter().enumerate() {
            let other = roots[1].join("x");
            wait_until(LONG, &format!("files to flow before fault {n}"), || count(&other) >= arrived);
            fault(&mut mirror);
        }
    });
    let tree = mirror.wait_equal(LONG);
    assert_eq!(tree.0.len(), 2 * (FILES - FILES / 10));
    for who in ["x", "y"] {
        assert_eq!(
            tree.get(&format!("{who}/1/1")),
            Some(sha256_hex(&content(&format!("{who}1"), 200)).as_str())
        );
    }
    mirror.wait_ready();
}

fn sha256_hex(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    e2e::sha256_of(file.path()).unwrap()
}

fn count(folder: &Path) -> usize {
    e2e::Tree::sizes(folder).0.len()
}

fn restarted(node: &mut Node, role: Role) {
    assert_eq!(node.stop(role).code(), Some(0));
    node.start(role);
    // Before it speaks it has no say in how SIGTERM ends it.
    let process = node.process(role);
    wait_until(LONG, "the first line of a log", || !process.log().is_empty());
}

fn killed(node: &mut Node, role: Role) {
    node.kill(role);
    node.start(role);
}

#[test]
fn a_watcher_restarted_while_files_flow_loses_nothing() {
    agrees_after(|mirror| restarted(&mut mirror.nodes[0], Role::Watcher));
}

#[test]
fn a_replicator_restarted_while_files_flow_loses_nothing() {
    agrees_after(|mirror| restarted(&mut mirror.nodes[1], Role::Replicator));
}

#[test]
fn a_broker_restarted_while_files_flow_loses_nothing() {
    agrees_after(|mirror| {
        mirror.broker.stop();
        mirror.broker.start();
    });
}

#[test]
fn a_watcher_killed_while_files_flow_loses_nothing() {
    agrees_after(|mirror| killed(&mut mirror.nodes[0], Role::Watcher));
}

#[test]
fn a_replicator_killed_while_files_flow_loses_nothing() {
    agrees_after(|mirror| killed(&mut mirror.nodes[1], Role::Replicator));
}

#[test]
fn a_broker_killed_while_files_flow_loses_nothing() {
    agrees_after(|mirror| {
        mirror.broker.kill();
        mirror.broker.start();
    });
}

#[test]
fn everything_killed_at_once_agrees_after_a_start() {
    agrees_after(|mirror| {
        mirror.broker.kill();
        for node in &mut mirror.nodes {
            Role::ALL.into_iter().for_each(|role| node.kill(role));
        }
        mirror.broker.start();
        mirror.nodes.iter_mut().for_each(Node::start_both);
    });
}

#[test]
fn files_written_while_the_broker_is_away_arrive_when_it_is_back() {
    let mut mirror = Mirror::running(&["a", "b"]);
    mirror.broker.stop();
    for i in 0..100 {
        write(&mirror.nodes[i % 2].path(format!("away/{i}")), &content(&i.to_string(), 2_000));
    }
    mirror.broker.start();
    assert_eq!(mirror.wait_equal(SOON * 2).0.len(), 100);
}
