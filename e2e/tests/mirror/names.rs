//! Names are bytes, and sizes have edges.

use e2e::{Mirror, SOON, content, write};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

/// The length of a chunk of a blob, in bytes.
const CHUNK: usize = 256 * 1024;

fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "with space",
        " leading and trailing ",
        "quote'\"`$(x);&|",
        "new\nline",
        "tab\tand\rreturn",
        "...",
        "....",
        ".hidden",
        "100%",
        "%41",
        "%2E",
        "%long",
        "*",
        ">",
        "a.b.c",
        "trailing.",
        "$JS",
        "-rf",
        "back\\slash",
        "cat \u{1f408}\u{200d}\u{2b1b}.jpg",
        "e\u{301}.txt", // Combining; the next is the same to the eye.
        "\u{e9}.txt",
        "\u{202e}gpj.exe",
        "con\u{7f}trol\u{1}",
        "deeper/.mirror/not ours",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.push(vec![b'x'; 255]);
    names.push("\u{1f408}".repeat(63).into_bytes());
    names.push(b"invalid \xff\xfe\xc3".to_vec());
    names.push(b"\xff/\xfe/\x80".to_vec());
    names.push([b"folder with \xc3\x28/".to_vec(), vec![0xff; 255]].concat());
    names.push((0..100).map(|i| format!("d{i}/")).chain(["deep".into()]).collect::<String>().into_bytes());
    // Its subject would be over 1,024 bytes.
    names.push([vec![b'%'; 200], vec![b'/'], vec![b'*'; 200], b"/long".to_vec()].concat());
    // A few bytes below the longest path that the system takes, our root included.
    names.push([vec![b'l'; 250], vec![b'/']].concat().repeat(14).into_iter().chain(*b"end").collect());
    names
}

fn path_of(name: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name))
}

#[test]
fn every_name_that_the_file_system_takes_is_mirrored() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let names = odd_names();
    for (i, name) in names.iter().enumerate() {
        write(&mirror.nodes[i % 2].path(path_of(name)), &content(&i.to_string(), 100 + i));
    }
    let tree = mirror.wait_equal(SOON);
    for name in &names {
        assert!(tree.0.contains_key(name), "{}", name.escape_ascii());
    }
    assert_eq!(tree.0.len(), names.len());
    for (i, name) in names.iter().enumerate() {
        std::fs::remove_file(mirror.nodes[i % 2].path(path_of(name))).unwrap();
    }
    assert!(mirror.wait_equal(SOON).0.is_empty());
}

#[test]
fn sizes_around_a_chunk_arrive_whole() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 10 * CHUNK];
    for size in sizes {
        write(&mirror.nodes[0].path(size.to_string()), &content("sizes", size));
    }
    for size in sizes {
        mirror.wait_everywhere(&size.to_string(), &content("sizes", size));
    }
    mirror.wait_equal(SOON);
}

#[test]
fn unfinished_names_links_and_our_own_folder_are_left_alone() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let a = &mirror.nodes[0];
    for ignored in ["x.tmp", "x.part", "x.partial", "x.crdownload", ".x.swp", "x~", ".~lock", ".#x", ".nfs01"]
    {
        write(&a.path(ignored), b"not finished");
    }
    write(&a.path(".mirror/trash-of-mine"), b"ours");
    write(&a.path("target"), b"a real file");
    std::os::unix::fs::symlink("target", a.path("link")).unwrap();
    std::os::unix::fs::symlink("/etc", a.path("folder-link")).unwrap();
    mirror.wait_everywhere("target", b"a real file");
    write(&mirror.nodes[0].path("later"), b"later");
    mirror.wait_everywhere("later", b"later");
    let paths: Vec<_> = mirror.log().iter().map(e2e::LogLine::path).collect();
    assert_eq!(paths, ["target", "later"]);
}
