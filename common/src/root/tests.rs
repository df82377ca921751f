#![allow(clippy::unwrap_used)]
use super::*;
use crate::{hash::ContentHash, index::Index};
use std::{io::Write, ops::ControlFlow, os::unix::fs::symlink, sync::Arc};

fn tree() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

fn path(text: &str) -> MediaPath {
    text.parse().unwrap()
}

fn temp(root: &Root, content: &[u8]) -> String {
    let mut temp = root.create_temp(ContentHash::of(content)).unwrap();
    temp.file.write_all(content).unwrap();
    root.complete_temp(&mut temp).unwrap();
    temp.name
}

#[test]
fn a_root_that_cannot_be_used_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(Root::open(&dir.path().join("none")), Err(RootError::Missing(_))));
    assert!(matches!(Root::open(&file), Err(RootError::NotAFolder(_))));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_link_on_the_way_is_no_proof_of_absence_and_leads_nowhere() {
    let (dir, root) = tree();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("f"), "secret").unwrap();
    symlink(outside.path(), dir.path().join("link")).unwrap();
    assert!(matches!(root.look(&path("link/f")).unwrap(), Look::Unreachable(_)));
    assert!(matches!(root.look(&path("link/absent")).unwrap(), Look::Unreachable(_)));
    assert_eq!(root.look(&path("link")).unwrap(), Look::Other("a symbolic link"));
    assert!(root.open_file(&path("link/f")).is_err());
    assert!(matches!(root.make_folder(&path("link/new/f")), Err(RenameError::Unreachable)));
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(root.look(&path("nowhere/f")).unwrap(), Look::Absent);
}

#[test]
fn a_new_file_never_replaces_what_stands_there() {
    let (dir, root) = tree();
    let folder = root.make_folder(&path("a/b/f")).unwrap();
    assert_eq!(
        (folder.path.as_path(), folder.made_below.as_deref()),
        (Path::new("a/b"), Some(Path::new("")))
    );
    let name = temp(&root, b"new");
    std::fs::write(dir.path().join("a/b/f"), "user's").unwrap();
    assert!(matches!(root.place_new(&name, &folder), Err(RenameError::Changed)));
    assert_eq!(std::fs::read(dir.path().join("a/b/f")).unwrap(), b"user's");

    root.place_over(&name, &folder).unwrap();
    assert_eq!(std::fs::read(dir.path().join("a/b/f")).unwrap(), b"new");
    root.trash_temp(&name, "t1", &path("a/b/f")).unwrap();
    assert_eq!(std::fs::read(dir.path().join(".mirror/trash/t1/a/b/f")).unwrap(), b"user's");
    assert!(root.temp_names().unwrap().is_empty());
    root.drop_trashed("t1", &path("a/b/f")).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join(".mirror/trash")).unwrap().count(), 0);
}

#[test]
fn an_empty_folder_gives_way_to_a_file_and_a_full_one_does_not() {
    let (dir, root) = tree();
    std::fs::create_dir_all(dir.path().join("empty")).unwrap();
    std::fs::create_dir_all(dir.path().join("full/x")).unwrap();
    let name = temp(&root, b"new");
    let folder = root.make_folder(&path("full")).unwrap();
    assert!(matches!(root.place_new(&name, &folder), Err(RenameError::FolderInTheWay)));
    root.place_new(&name, &root.make_folder(&path("empty")).unwrap()).unwrap();
    assert_eq!(std::fs::read(dir.path().join("empty")).unwrap(), b"new");
    assert!(matches!(root.make_folder(&path("empty/below/f")), Err(RenameError::FileInTheWay)));
}

#[test]
fn setuid_is_never_set_and_the_mtime_is_exact() {
    let (_dir, root) = tree();
    let temp = root.create_temp(ContentHash::of(b"")).unwrap();
    let mtime = "2001-02-03T04:05:06.123456789Z".parse().unwrap();
    copy_attributes(&temp.file, 0o6755, mtime).unwrap();
    let stat = FileStat::of(&temp.file).unwrap();
    assert_eq!((stat.mode, stat.mtime), (0o755, mtime));
}

#[test]
fn a_walk_meets_files_in_the_byte_order_of_their_paths() {
    let (dir, root) = tree();
    for file in ["a/c", "a.txt", "a/b/x", "a0", "b", "skip.tmp", "c/skip/f"] {
        let file = dir.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "x").unwrap();
    }
    symlink("/etc", dir.path().join("z")).unwrap();
    let rules = IgnoreRules::new(&["skip".into()], None).unwrap();
    let (mut files, mut folders, mut skipped) = (vec![], vec![], vec![]);
    let ended = walk(&root, Path::new(""), &rules, &mut |entry| {
        match entry {
            Entry::File(path, stat) => {
                assert_eq!(stat.stat.size, 1);
                files.push(path.to_string());
            }
            Entry::Folder(path) => folders.push(path.display().to_string()),
            Entry::Skipped(path, why) => skipped.push((path.display().to_string(), why)),
            Entry::Failed(path, error) => panic!("{path:?}: {error}"),
        }
        ControlFlow::Continue(())
    });
    assert!(ended.is_continue());
    assert_eq!(files, ["a.txt", "a/b/x", "a/c", "a0", "b"]);
    assert_eq!(folders, ["", "a", "a/b", "c"]);
    assert_eq!(skipped, [("z".to_string(), "a symbolic link")]);
}

#[tokio::test]
async fn a_missing_or_swapped_marker_halts_and_a_restored_root_is_noticed() {
    let (dir, root) = tree();
    let root = Arc::new(root);
    let state = tempfile::tempdir().unwrap();
    let index = Index::open(&state.path().join("index.db")).unwrap();
    let marker = dir.path().join(".mirror/id");
    raise_marker(&root, &index).await.unwrap();
    let backup = std::fs::read(&marker).unwrap();
    raise_marker(&root, &index).await.unwrap();
    raise_marker(&root, &index).await.unwrap();
    assert!(!index.node().unwrap().restored);
    assert!(marker_stands(&root, index.node().unwrap().marker_name.as_deref()));

    std::fs::write(&marker, backup).unwrap();
    raise_marker(&root, &index).await.unwrap();
    assert!(index.node().unwrap().restored);

    std::fs::write(&marker, "0123456789abcdef 1\n").unwrap();
    assert!(matches!(raise_marker(&root, &index).await, Err(MarkerError::Swapped { .. })));
    std::fs::remove_file(&marker).unwrap();
    assert!(raise_marker(&root, &index).await.unwrap_err().halts());
    assert!(!marker_stands(&root, index.node().unwrap().marker_name.as_deref()));
}

#[tokio::test]
async fn a_root_that_was_restored_together_with_its_index_is_noticed() {
    let (dir, root) = tree();
    let root = Arc::new(root);
    let state = tempfile::tempdir().unwrap();
    let index = Index::open(&state.path().join("index.db")).unwrap();
    let (marker, copy) = (dir.path().join(".mirror/id"), dir.path().join(".mirror/copy"));
    raise_marker(&root, &index).await.unwrap();
    let other_mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&marker, other_mode).unwrap();
    raise_marker(&root, &index).await.unwrap();
    assert!(!index.node().unwrap().restored);

    // The number is the one that the index knows; the file is another one.
    std::fs::copy(&marker, &copy).unwrap();
    std::fs::rename(&copy, &marker).unwrap();
    raise_marker(&root, &index).await.unwrap();
    assert!(index.node().unwrap().restored);
}
