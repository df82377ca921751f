//! The official Python client reads what we wrote, and writes what we read.

use e2e::{LONG, Mirror, SOON, content, write};
use std::{fs, path::Path, process::Command};

#[test]
fn an_independent_client_reads_and_writes_the_mirror() {
    let python = std::env::var("MEDIAMIRROR_TEST_PYTHON").unwrap_or("python3".into());
    let mut mirror = Mirror::running(&["a", "b"]);
    let files: [(&str, usize); 5] = [
        ("empty", 0),
        ("a/small.jpg", 10_000),
        ("a/edge", 262_144),
        ("b c/large.bin", 700_001),
        ("d\u{e9}/*", 5),
    ];
    for (path, size) in files {
        write(&mirror.nodes[0].path(path), &content(path, size));
    }
    let odd: &std::path::Path = std::ffi::OsStr::new("x").as_ref();
    write(&mirror.nodes[1].path(odd), b"x");
    use std::os::unix::ffi::OsStrExt;
    let invalid = std::ffi::OsStr::from_bytes(b"invalid\xff.jpg");
    write(&mirror.nodes[1].path(invalid), b"invalid");
    mirror.wait_equal(SOON);
    fs::remove_file(mirror.nodes[0].path("x")).unwrap();
    mirror.wait_nowhere("x");
    let held = mirror.wait_equal(SOON);

    let uploads = mirror.outside("uploads");
    write(&uploads.join("new.bin"), &content("from python", 400_000));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/independent.py");
    let mut command = Command::new(&python);
    command.arg(script).arg(mirror.broker.url());
    // What stands on a node by now, for the client to compare the log and the blobs with.
    command.arg(&mirror.nodes[1].root).arg(uploads.join("new.bin")).arg("from python/new.bin");
    let finished = e2e::run(LONG, command).succeeded();
    assert!(finished.stdout.contains("read 6 files"), "{finished:?}");
    mirror.wait_everywhere("from python/new.bin", &content("from python", 400_000));
    assert_eq!(mirror.wait_equal(SOON).0.len(), held.0.len() + 1);
    let last = mirror.log().pop().unwrap();
    assert_eq!((last.event.node.as_str(), last.path().as_str()), ("python", "from python/new.bin"));
}
