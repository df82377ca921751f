//! Power cuts: the disk of one node, root and state on it, goes away in full flow and comes back as its journal left it.

use crate::sweep::nothing_unfinished;
use common::hash::ContentHash;
use e2e::{Cut, Disk, LONG, Mirror, Node, Role, Tree, Writer, content, wait_until, write};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
};

/// Files of one round.
const FILES: usize = 250;
/// MiB of the disk.
const SIZE: u64 = 500;

/// Node a on the machine's disk, node b on one whose power can be cut, all running.
fn on(disk: &Disk) -> Mirror {
    let mut mirror = Mirror::idle(&["a"]);
    let mut b = Node::new(&disk.path(), "b", Some(mirror.broker.url()));
    b.logs = mirror.dir().to_owned();
    mirror.nodes.push(b);
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_ready();
    mirror
}

fn power_cut(mirror: &mut Mirror, disk: &Disk, cut: Cut) {
    disk.cut(cut);
    for role in Role::ALL {
        mirror.nodes[1].kill(role);
    }
    disk.power_on();
}

fn bytes_of(round: usize, i: usize) -> Vec<u8> {
    // One in five is of several chunks.
    content(&format!("{round} {i}"), if i % 5 == 4 { 600_000 } else { 2_000 })
}

/// What the log said of each path up to a version: `None` for a removal.
fn log_up_to(mirror: &mut Mirror, version: u64) -> BTreeMap<Vec<u8>, Vec<Option<String>>> {
    let mut paths: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in mirror.log().into_iter().filter(|line| line.version <= version) {
        let says = line.event.added.map(|_| line.event.sha256.to_string());
        paths.entry(line.event.path.as_bytes().to_vec()).or_default().push(says);
    }
    paths
}

/// Promises 2 and 3, looked at before anything runs again.
fn nothing_acknowledged_is_lost(mirror: &mut Mirror, acknowledged: u64) {
    let found = Tree::of(&mirror.nodes[1].root);
    let everything = log_up_to(mirror, u64::MAX);
    for (path, hash) in &found.0 {
        let known = everything.get(path).is_some_and(|said| said.contains(&Some(hash.clone())));
        assert!(known, "{} has content {hash}, which nobody put there", path.escape_ascii());
    }
    for (path, said) in log_up_to(mirror, acknowledged) {
        // A later event may have been applied as well.
        let later = &everything[&path][said.len() - 1..];
        let stands = found.0.get(&path).cloned();
        assert!(later.contains(&stands), "{}: {stands:?} is not of {later:?}", path.escape_ascii());
    }
}

#[test]
fn a_power_cut_while_files_are_placed_loses_nothing_acknowledged() {
    let name = "a_power_cut_while_files_are_placed_loses_nothing_acknowledged";
    let Some(disk) = Disk::mounted(name, SIZE) else { return };
    let mut mirror = on(&disk);
    let writer = Writer::connect(&mirror.broker.url());
    let mut in_the_middle = 0;
    for (round, cut) in [Cut::Lost, Cut::Flushed, Cut::Lost].into_iter().enumerate() {
        let path = |i: usize| format!("{}/{i}", i % 9);
        let before = mirror.nats().log_state().unwrap().last_sequence;
        assert_eq!(mirror.nodes[1].stop(Role::Replicator).code(), Some(0));
        for i in 0..FILES {
            writer.add(&path(i), &bytes_of(round, i));
        }
        writer.add(&format!("only in round {round}"), b"x");
        // It takes some seconds, so that the cut comes in the middle.
        mirror.nodes[1].start_with(Role::Replicator, &["--download-limit", "8MiB"]);
        let floor = |mirror: &mut Mirror| {
            mirror.nats().consumer("b").map_or(0, |info| info.ack_floor.stream_sequence)
        };
        wait_until(LONG, "some files to be acknowledged", || floor(&mut mirror) > before + 10);
        power_cut(&mut mirror, &disk, cut);
        let acknowledged = floor(&mut mirror);
        in_the_middle += usize::from(acknowledged < before + FILES as u64);
        nothing_acknowledged_is_lost(&mut mirror, acknowledged);
        mirror.nodes[1].start_both();
        let tree = mirror.wait_recovered(LONG);
        assert_eq!(tree.0.len(), FILES + round + 1);
        assert_eq!(tree.get(&path(9)), Some(ContentHash::of(&bytes_of(round, 9)).to_string().as_str()));
        nothing_unfinished(&mirror.nodes[1]);
    }
    assert!(in_the_middle > 0, "every cut came when all was placed");
    mirror.nodes.iter().for_each(|node| assert_eq!(node.lost_conflicts(), Vec::<String>::new()));
}

/// A writer that knows what a power cut does.
fn write_durably(path: &Path, bytes: &[u8]) {
    write(path, bytes);
    File::open(path).unwrap().sync_all().unwrap();
    path.ancestors().skip(1).take(2).for_each(|folder| File::open(folder).unwrap().sync_all().unwrap());
}

#[test]
fn a_power_cut_while_files_are_published_loses_none() {
    let Some(disk) = Disk::mounted("a_power_cut_while_files_are_published_loses_none", SIZE) else { return };
    let mut mirror = on(&disk);
    for (round, cut) in [Cut::Lost, Cut::Flushed, Cut::Lost].into_iter().enumerate() {
        let before = mirror.nats().log_state().unwrap().last_sequence;
        let path = |i: usize| format!("{}/{i}", i % 9);
        for i in 0..FILES {
            write_durably(&mirror.nodes[1].path(path(i)), &bytes_of(round, i));
        }
        wait_until(LONG, "some events", || {
            mirror.nats().log_state().unwrap().last_sequence >= before + FILES as u64 / 4
        });
        power_cut(&mut mirror, &disk, cut);
        mirror.nodes[1].start_both();
        for i in 0..FILES {
            mirror.wait_everywhere(&path(i), &bytes_of(round, i));
        }
        assert_eq!(mirror.wait_recovered(LONG).0.len(), FILES);
        mirror.nodes.iter().for_each(nothing_unfinished);
    }
    mirror.nodes.iter().for_each(|node| assert_eq!(node.lost_conflicts(), Vec::<String>::new()));
    // What a power cut spoilt of it would be a removal.
    let removed = mirror.log().into_iter().filter(|line| line.event.added.is_none()).count();
    assert_eq!(removed, 0);
}

#[test]
fn a_power_cut_while_the_broker_is_away_loses_nothing_of_the_outbox() {
    let name = "a_power_cut_while_the_broker_is_away_loses_nothing_of_the_outbox";
    let Some(disk) = Disk::mounted(name, SIZE) else { return };
    let mut mirror = on(&disk);
    for cut in [Cut::Lost, Cut::Flushed] {
        let round = cut as usize;
        let path = |name: &str| format!("{round}/{name}");
        for name in ["rewritten", "removed"] {
            write_durably(&mirror.nodes[1].path(path(name)), b"before");
            mirror.wait_everywhere(&path(name), b"before");
        }
        mirror.wait_agreed(LONG);
        mirror.broker.stop();
        for i in 0..FILES {
            write_durably(&mirror.nodes[1].path(path(&i.to_string())), &bytes_of(round, i));
        }
        write_durably(&mirror.nodes[1].path(path("rewritten")), b"while the broker was away");
        fs::remove_file(mirror.nodes[1].path(path("removed"))).unwrap();
        File::open(mirror.nodes[1].path(round.to_string())).unwrap().sync_all().unwrap();
        wait_until(LONG, "most of it in the outbox", || {
            mirror.nodes[1].local_status(Role::Watcher)["outbox"].as_u64() > Some(FILES as u64 / 2)
        });
        power_cut(&mut mirror, &disk, cut);
        mirror.nodes[1].start_both();
        mirror.broker.start();
        for i in 0..FILES {
            mirror.wait_everywhere(&path(&i.to_string()), &bytes_of(round, i));
        }
        mirror.wait_everywhere(&path("rewritten"), b"while the broker was away");
        mirror.wait_nowhere(&path("removed"));
        mirror.wait_recovered(LONG);
    }
    mirror.nodes.iter().for_each(|node| assert_eq!(node.lost_conflicts(), Vec::<String>::new()));
}
