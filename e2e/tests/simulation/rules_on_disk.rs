//! The rules whose point is a real disk: intents (3), placing (4) and the proof of an absence (8), on a root in a temporary folder.

use crate::world::path;
use common::{
    event::{EventId, Kind, Version},
    hash::ContentHash,
    index::{Generation, Index, Intent, Offer, PathState, Stat},
    resolve::{Name, Resolved, resolve},
    root::{Look, RenameError, Root, marker_stands, raise_marker},
    subject::Subjects,
};
use std::{io::Write, os::unix::fs::symlink, path::Path, sync::Arc};

const OLD: &[u8] = b"old";
const NEW: &[u8] = b"new";
const USERS: &[u8] = b"a user's";

struct Fixture {
    dir: tempfile::TempDir,
    root: Arc<Root>,
    index: Index,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        Self { dir, root, index: Index::in_memory().unwrap() }
    }

    fn write(&self, at: &str, bytes: &[u8]) -> Stat {
        std::fs::write(self.dir.path().join(at), bytes).unwrap();
        self.stat(at)
    }

    fn stat(&self, at: &str) -> Stat {
        match self.root.look(&path(at)).unwrap() {
            Look::File(file) => file.stat,
            other => panic!("{other:?}"),
        }
    }

    fn read(&self, at: impl AsRef<Path>) -> Option<Vec<u8>> {
        std::fs::read(self.dir.path().join(at)).ok()
    }

    /// A complete temp file with the new content, and the intent to place it over what stands there.
    async fn intend(&self, old: Option<Stat>, kind: Kind) -> Intent {
        let content = ContentHash::of(NEW);
        let (temp, stat) = match kind {
            Kind::Added => {
                let mut temp = self.root.create_temp(content).unwrap();
                temp.file.write_all(NEW).unwrap();
                self.root.complete_temp(&mut temp).unwrap();
                let Look::File(file) = self.root.look_temp(&temp.name).unwrap() else {
                    panic!("no temp file")
                };
                (temp.name, Some(file.stat))
            }
            Kind::Removed => (Root::temp_name(content), None),
        };
        let intent = Intent {
            kind,
            sha256: content,
            size: NEW.len() as u64,
            mtime: stat.map_or(0, |stat| stat.mtime),
            version: Version::new(7),
            replaced: Version::new(3),
            event: EventId::from_hash(content),
            old: old.map(|stat| (ContentHash::of(OLD), stat)),
            known: true,
            temp,
            temp_ino: stat.map(|stat| stat.ino),
            role: "replicator".into(),
            owner: "dead".into(),
            generation: Generation(0),
        };
        let it = intent.clone();
        let seen = PathState::default();
        assert!(self.index.write(move |tx| tx.intend(&path("f"), &seen, &it)).await.unwrap());
        intent
    }

    async fn resolve(&self, intent: &Intent) -> Resolved {
        let subjects = Subjects::new(&"media".parse().unwrap());
        resolve(&self.root, &self.index, &subjects, &path("f"), intent, Name::Unsynced).await.unwrap()
    }

    fn state(&self) -> PathState {
        self.index.path_state(&path("f")).unwrap()
    }

    /// What is in the trash: whether a lost conflict, and the bytes.
    fn trash(&self) -> Vec<(bool, Vec<u8>)> {
        let at = |id: &str| Path::new(".mirror/trash").join(id).join("f");
        let trash = self.index.trash().unwrap();
        trash.iter().map(|entry| (entry.lost, self.read(at(&entry.id)).unwrap())).collect()
    }
}

/// A crash between intent and rename, and between rename and row, with a user in between; what stands under the temp name tells them apart.
#[tokio::test]
async fn rule_03_intents() {
    let f = Fixture::new();
    let old = f.write("f", OLD);
    let intent = f.intend(Some(old), Kind::Added).await;
    let offer = Offer {
        kind: Kind::Added,
        sha256: ContentHash::of(OLD),
        size: 3,
        stat: Some(old),
        racy: false,
        replaces: Version::ZERO,
        was: None,
        generation: Generation(0),
    };
    let (seen, it) = (f.state(), offer.clone());
    assert!(
        !f.index.write(move |tx| tx.offer(&path("f"), &seen, &it)).await.unwrap(),
        "no offer while one stands"
    );
    assert_eq!(f.resolve(&intent).await, Resolved::Undone);
    assert_eq!((f.read("f"), f.state(), f.trash()), (Some(OLD.into()), PathState::default(), vec![]));
    assert!(f.root.temp_names().unwrap().is_empty());
    assert_eq!(f.resolve(&intent).await, Resolved::Elsewhere, "resolved once");

    let old = f.stat("f");
    let intent = f.intend(Some(old), Kind::Added).await;
    f.root.place_over(&intent.temp, &f.root.make_folder(&path("f")).unwrap()).unwrap();
    f.write("g", USERS);
    std::fs::rename(f.dir.path().join("g"), f.dir.path().join("f")).unwrap();
    assert_eq!(f.resolve(&intent).await, Resolved::Done, "what stands at the path says nothing");
    let row = f.state().row.unwrap();
    assert_eq!((row.version, row.content(), row.stat), (Version::new(7), Some(ContentHash::of(NEW)), None));
    assert_eq!((f.read("f"), f.trash()), (Some(USERS.into()), vec![(false, OLD.into())]));
}

/// A user removes what was placed before it has a row: no scan would miss the file, so the watcher is asked.
#[tokio::test]
async fn rule_03_intents_of_files_that_are_gone_again() {
    let f = Fixture::new();
    let intent = f.intend(None, Kind::Added).await;
    f.root.place_new(&intent.temp, &f.root.make_folder(&path("f")).unwrap()).unwrap();
    std::fs::remove_file(f.dir.path().join("f")).unwrap();
    assert_eq!(f.resolve(&intent).await, Resolved::Done);
    let row = f.state().row.unwrap();
    assert_eq!((row.content(), row.stat), (Some(ContentHash::of(NEW)), None));
    let asked: Vec<_> = f.index.outbox(None, 9).unwrap().into_iter().map(|asked| asked.path).collect();
    assert_eq!(asked, [path("f")]);
}

/// What was taken out by a replicator that died is no user's removal; nothing taken out is none of ours.
#[tokio::test]
async fn rule_03_intents_of_removals() {
    let f = Fixture::new();
    let old = f.write("f", OLD);
    let intent = f.intend(Some(old), Kind::Removed).await;
    assert_eq!(f.resolve(&intent).await, Resolved::Undone);
    let intent = f.intend(Some(f.stat("f")), Kind::Removed).await;
    f.root.take_out(&intent.temp, &f.root.existing_folder(&path("f")).unwrap()).unwrap();
    assert_eq!(f.resolve(&intent).await, Resolved::Done);
    let row = f.state().row.unwrap();
    assert_eq!((row.version, row.content(), f.read("f")), (Version::new(7), None, None));
    assert_eq!(f.trash(), [(false, OLD.into())]);
}

/// A user writes between the last look and the rename: a new name is not taken over, and what comes out of an exchange is kept as his.
#[tokio::test]
async fn rule_04_placing() {
    let f = Fixture::new();
    let intent = f.intend(None, Kind::Added).await;
    f.write("f", USERS);
    let folder = f.root.make_folder(&path("f")).unwrap();
    assert!(matches!(f.root.place_new(&intent.temp, &folder), Err(RenameError::Changed)));
    assert_eq!(f.resolve(&intent).await, Resolved::Undone);
    assert_eq!(f.read("f"), Some(USERS.into()));

    let f = Fixture::new();
    let old = f.write("f", OLD);
    let intent = f.intend(Some(old), Kind::Added).await;
    f.write("f", USERS);
    f.root.place_over(&intent.temp, &f.root.make_folder(&path("f")).unwrap()).unwrap();
    assert_eq!(f.resolve(&intent).await, Resolved::Done);
    assert_eq!((f.read("f"), f.trash()), (Some(NEW.into()), vec![(true, USERS.into())]));
    let row = f.state().row.unwrap();
    assert_eq!((row.content(), row.stat), (Some(ContentHash::of(NEW)), Some(f.stat("f"))));
}

/// A disk that is not there, a link in the way and another root all look empty, and none of them is a removal.
#[tokio::test]
async fn rule_08_removal_needs_proof() {
    let f = Fixture::new();
    std::fs::create_dir(f.dir.path().join("folder")).unwrap();
    f.write("folder/f", OLD);
    raise_marker(&f.root, &f.index).await.unwrap();
    let known = f.index.node().unwrap().marker_name;
    assert!(marker_stands(&f.root, known.as_deref()));
    assert_eq!(f.root.look(&path("folder/g")).unwrap(), Look::Absent);

    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::rename(f.dir.path().join("folder"), elsewhere.path().join("folder")).unwrap();
    symlink(elsewhere.path(), f.dir.path().join("folder")).unwrap();
    assert!(matches!(f.root.look(&path("folder/f")).unwrap(), Look::Unreachable(_)));

    assert!(!marker_stands(&f.root, Some("another root")));
    std::fs::remove_file(f.dir.path().join(".mirror/id")).unwrap();
    assert!(!marker_stands(&f.root, known.as_deref()), "an emptied root proves nothing");
    std::fs::rename(f.dir.path(), f.dir.path().with_extension("away")).unwrap();
    std::fs::create_dir(f.dir.path()).unwrap();
    assert!(!f.root.is_still_there(), "an unmounted root proves nothing");
    std::fs::remove_dir_all(f.dir.path().with_extension("away")).unwrap();
}
