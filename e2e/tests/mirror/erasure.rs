//! The manual's way to erase a file for good (`docs/OPERATIONS.md`, "Legal erasure"), step by step.

use e2e::{LONG, Mirror, Node, Role, SOON, write};
use std::{fs, os::unix::ffi::OsStrExt, path::Path, process::Command};

/// What no file may have in it afterwards.
const MARK: &[u8] = b"a person's face, which has to be gone";

/// `nats object rm MIRROR_MEDIA_BLOBS HASH`, by an official client.
const REMOVE: &str = "
import asyncio, nats, sys
async def main():
    client = await nats.connect(sys.argv[1])
    bucket = await client.jetstream().object_store('MIRROR_MEDIA_BLOBS')
    for name in sys.argv[2:]:
        await bucket.delete(name)
    await client.close()
asyncio.run(main())
";

/// The manual's command, for this root and hash.
fn command_of_the_manual(root: &Path, hash: &str) -> Command {
    let manual =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md")).unwrap();
    let line =
        manual.lines().find(|line| line.trim_start().starts_with("find /srv/media/.mirror/trash")).unwrap();
    let line = line.trim().replace("HASH", hash).replace("/srv/media", root.to_str().unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    command
}

/// The files below a folder, whatever they are for, that have the mark in them.
fn marked(folder: &Path) -> Vec<String> {
    let mut command = Command::new("grep");
    command.args(["-rlaF", "--"]).arg(std::ffi::OsStr::from_bytes(MARK)).arg(folder);
    e2e::run(SOON, command).stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_file_is_erased_by_the_steps_of_the_manual() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let versions: Vec<Vec<u8>> = (0..2).map(|n| [MARK, &[n; 50_000]].concat()).collect();
    write(&mirror.nodes[0].path("uploads/other.jpg"), b"stays");
    for bytes in &versions {
        write(&mirror.nodes[0].path("uploads/cat.jpg"), bytes);
        mirror.wait_everywhere("uploads/cat.jpg", bytes);
    }
    mirror.wait_agreed(SOON);

    let history =
        mirror.nodes[0].run(Role::Replicator, &["history", "uploads/cat.jpg", "--json"]).succeeded();
    let hashes: Vec<String> =
        history.json_lines().iter().map(|line| line["sha256"].as_str().unwrap().to_owned()).collect();
    assert_eq!(hashes.len(), 2, "{history:?}");
    fs::remove_file(mirror.nodes[1].path("uploads/cat.jpg")).unwrap();
    mirror.wait_nowhere("uploads/cat.jpg");
    mirror.wait_agreed(SOON);
    mirror.nodes[0].run(Role::Replicator, &["verify", "--cluster"]).succeeded();
    assert!(!marked(&mirror.nodes[0].root).is_empty(), "the trash has it still");
    for node in &mirror.nodes {
        for hash in &hashes {
            e2e::run(SOON, command_of_the_manual(&node.root, hash)).succeeded();
        }
        assert_eq!(marked(&node.root), Vec::<String>::new());
    }
    let mut remove = Command::new(std::env::var("MEDIAMIRROR_TEST_PYTHON").unwrap_or("python3".into()));
    remove.args(["-c", REMOVE, &mirror.broker.url()]).args(&hashes);
    e2e::run(SOON, remove).succeeded();

    // Nobody brings it back, or misses it.
    mirror.nodes.iter_mut().for_each(Node::stop_both);
    mirror.nodes.iter_mut().for_each(Node::start_both);
    write(&mirror.nodes[0].path("uploads/new.jpg"), b"new");
    mirror.wait_everywhere("uploads/new.jpg", b"new");
    mirror.wait_agreed(LONG);
    mirror.nodes[0].run(Role::Replicator, &["verify", "--read-blobs"]).succeeded();
    let chunks = mirror.nats().chunks();
    assert!(hashes.iter().all(|hash| !chunks.iter().any(|chunk| chunk.contains(hash))), "{chunks:?}");

    // Out of the broker's files, and the name out of log and indexes.
    mirror.nodes.iter_mut().for_each(Node::stop_both);
    mirror.broker.stop();
    fs::remove_dir_all(mirror.broker.store()).unwrap();
    mirror.nodes.iter().for_each(|node| fs::remove_dir_all(node.state()).unwrap());
    mirror.find_broker();
    mirror.broker.start();
    mirror.nodes.iter_mut().for_each(Node::start_both);
    let tree = mirror.wait_agreed(LONG);
    assert_eq!(tree.0.len(), 2);
    assert!(mirror.log_of("uploads/cat.jpg").is_empty());
    assert_eq!(marked(mirror.dir()), Vec::<String>::new());
    assert!(mirror.nodes.iter().all(|node| node.lost_conflicts().is_empty()));
}
