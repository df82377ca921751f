//! `replicator replay --to`: a bucket is kept equal to the tree.

use e2e::{Finished, LONG, Mirror, Node, Process, Role, S3, SOON, content, run, wait_for, wait_until, write};
use std::{collections::BTreeMap, fs, path::Path};

fn export(node: &Node, url: &str) -> Finished {
    run(LONG, node.command(Role::Replicator, ["replay", "--to", url]))
}

/// The files of a bucket, but for what an export keeps for itself.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, prefix: &str, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match entry.path().is_dir() {
                true if name == ".mirror" => {}
                true => walk(&entry.path(), &format!("{name}/"), all),
                // One that has just gone is none.
                false => all.extend(fs::read(entry.path()).ok().map(|bytes| (name, bytes))),
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(folder, "", &mut all);
    all
}

fn expected(node: &Node) -> BTreeMap<String, Vec<u8>> {
    files(&node.root)
}

fn wait_exported(node: &Node, folder: &Path) {
    wait_for(LONG, "a bucket that is equal to the tree", || {
        let (bucket, tree) = (files(folder), expected(node));
        if bucket == tree { Ok(()) } else { Err(format!("{:?} and {:?}", bucket.keys(), tree.keys())) }
    });
}

#[test]
fn a_bucket_is_brought_to_the_tree_and_kept_there() {
    let mut mirror = Mirror::running(&["a"]);
    let s3 = S3::started(mirror.dir());
    mirror.nodes[0].environment.extend(s3.environment());
    let (url, folder) = (s3.url("site"), s3.folder("site"));
    for n in 0..100 {
        write(&mirror.nodes[0].path(format!("uploads/{n}.jpg")), &content(&n.to_string(), 3_000));
    }
    write(&mirror.nodes[0].path("page.html"), b"<p>");
    write(&mirror.nodes[0].path("B\u{fc}cher & more/a+b%20c ~[1].css"), b"p {}");
    write(&mirror.nodes[0].path("large.mp4"), &content("large", 20 << 20));
    wait_until(LONG, "their events", || mirror.log().len() == 103);
    // Not ours: a file where nothing of the tree is, and one where something was.
    write(&folder.join("foreign.txt"), b"foreign");
    let done = export(&mirror.nodes[0], &url).succeeded();
    assert!(done.stdout.starts_with("103 files put"), "{done:?}");
    assert_eq!(files(&folder).remove("foreign.txt").unwrap(), b"foreign");
    fs::remove_file(folder.join("foreign.txt")).unwrap();
    wait_exported(&mirror.nodes[0], &folder);
    for (key, kind) in
        [("page.html", "text/html"), ("large.mp4", "video/mp4"), ("uploads/7.jpg", "image/jpeg")]
    {
        let (content_type, sha256) = s3.head(&format!("site/{key}"));
        assert_eq!(content_type, kind);
        assert_eq!(sha256, e2e::sha256_of(&mirror.nodes[0].path(key)).unwrap());
    }
    assert!(
        export(&mirror.nodes[0], &url).succeeded().stdout.starts_with("0 files put (0 bytes), 0 the same"),
        "goes on"
    );
    // Whoever loses how far it was looks at all of it, and finds it the same.
    fs::remove_file(folder.join(".mirror/export.json")).unwrap();
    let again = export(&mirror.nodes[0], &url).succeeded();
    assert!(again.stdout.starts_with("0 files put (0 bytes), 103 the same"), "{again:?}");

    let command = mirror.nodes[0].command(Role::Replicator, ["replay", "--follow", "--to", &url]);
    let mut following = Process::spawn("export", mirror.dir(), command);
    write(&mirror.nodes[0].path("new.txt"), b"new");
    write(&mirror.nodes[0].path("uploads/7.jpg"), b"replaced");
    fs::remove_file(mirror.nodes[0].path("uploads/8.jpg")).unwrap();
    wait_exported(&mirror.nodes[0], &folder);
    // Killed, and what came meanwhile comes with the next one.
    following.kill();
    fs::rename(mirror.nodes[0].path("uploads"), mirror.nodes[0].path("pictures")).unwrap();
    wait_until(LONG, "their events", || mirror.log().len() == 106 + 2 * 99);
    let command = mirror.nodes[0].command(Role::Replicator, ["replay", "--follow", "--to", &url]);
    following = Process::spawn("export", mirror.dir(), command);
    wait_exported(&mirror.nodes[0], &folder);
    assert!(following.is_running());
    assert!(following.stop().success());
}

#[test]
fn what_cannot_be_exported_is_said_and_the_rest_is() {
    let mut mirror = Mirror::running(&["a"]);
    let mut s3 = S3::started(mirror.dir());
    mirror.nodes[0].environment.extend(s3.environment());
    let url = s3.url("site");
    write(&mirror.nodes[0].path("good"), b"good");
    write(&mirror.nodes[0].path("bad\u{1}name"), b"bad");
    wait_until(SOON, "their events", || mirror.log().len() == 2);
    // The store has lost it; the node that holds it brings it back.
    mirror.nats().lose_blobs();
    let some = export(&mirror.nodes[0], &url);
    assert_eq!(some.code, Some(1), "{some:?}");
    assert!(
        some.stdout.starts_with("1 files put (4 bytes), 0 the same already, 0 removed, 1 failed"),
        "{some:?}"
    );
    assert!(some.stderr.contains("a key is UTF-8 without control characters"), "{some:?}");
    let folder = format!("file://{}", mirror.dir().display());
    let refused = export(&mirror.nodes[0], &folder);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("replicator replay --root"), "{refused:?}");
    s3.kill();
    let away = export(&mirror.nodes[0], &url);
    assert_eq!(away.code, Some(1), "{away:?}");
    assert!(away.stderr.contains("the blob store is away"), "{away:?}");
}
