//! Files of other users: a web server writes into folders that the replicator made.

use e2e::{Mirror, SOON, as_user, content, write};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
};

/// A user that owns nothing else on this machine.
const WEB: u32 = 61_234;

#[test]
fn a_web_user_without_our_rights_writes_into_a_folder_that_the_replicator_made() {
    let is_root = rustix::process::geteuid().is_root();
    let mut mirror = Mirror::idle(&["a", "b"]);
    let b = mirror.nodes[1].root.clone();
    fs::set_permissions(&b, fs::Permissions::from_mode(0o2775)).unwrap();
    if is_root {
        chown(&b, Some(WEB), Some(WEB)).unwrap();
        // chown clears the bit.
        fs::set_permissions(&b, fs::Permissions::from_mode(0o2775)).unwrap();
        let home = &mirror.nodes[1].home;
        fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    }
    mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
    mirror.wait_ready();
    write(&mirror.nodes[0].path("uploads/2026/cat.jpg"), b"cat");
    mirror.wait_everywhere("uploads/2026/cat.jpg", b"cat");

    let of_root = fs::metadata(&b).unwrap();
    for folder in ["uploads", "uploads/2026"] {
        let made = fs::metadata(b.join(folder)).unwrap();
        assert_eq!((made.uid(), made.gid()), (of_root.uid(), of_root.gid()), "{folder}");
        assert_eq!(made.mode() & 0o7777, 0o2775, "{folder}");
    }
    let file = fs::metadata(b.join("uploads/2026/cat.jpg")).unwrap();
    assert_eq!((file.uid(), file.gid()), (of_root.uid(), of_root.gid()));

    let script =
        "printf dog > dog.jpg && printf 'another cat' > cat.jpg && mkdir more && printf owl > more/owl.jpg";
    let shell = Path::new("/bin/sh");
    let mut web = if is_root { as_user(WEB, shell) } else { Command::new(shell) };
    web.args(["-c", script]).current_dir(b.join("uploads/2026"));
    e2e::run(SOON, web).succeeded();
    mirror.wait_everywhere("uploads/2026/dog.jpg", b"dog");
    mirror.wait_everywhere("uploads/2026/cat.jpg", b"another cat");
    mirror.wait_everywhere("uploads/2026/more/owl.jpg", b"owl");
    assert_eq!(mirror.wait_equal(SOON).0.len(), 3);
}

#[test]
fn files_get_the_owner_that_was_asked_for() {
    if !rustix::process::geteuid().is_root() {
        // Only root may give files away: an ordinary user is told so, and nothing is left at the path.
        return;
    }
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start(e2e::Role::Watcher);
    mirror.nodes[1].flags = vec!["--owner".into(), "nobody:nogroup".into()];
    mirror.nodes[1].start(e2e::Role::Replicator);
    write(&mirror.nodes[0].path("file"), &content("owned", 5_000));
    mirror.wait_everywhere("file", &content("owned", 5_000));
    let metadata = fs::metadata(mirror.nodes[1].path("file")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (65_534, 65_534));
}
